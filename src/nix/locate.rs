//! Finds Nix on this machine and prepares calls: programs, version, environment, and the options of every call.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::error::{Error, Result};
use super::version::{LEAST_VERSION, Version};
use crate::command::{Command, Output};

/// Timeout of a query that Nix answers from its database. It is thousands of times what a query takes, so that a
/// garbage collection or a slow disk causes no error.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Time between SIGTERM and SIGKILL of a Nix program. It must kill its builders, which are in their own sessions and
/// would otherwise continue without it.
const GRACE: Duration = Duration::from_secs(20);

/// Directories where Nix is found if PATH does not have them, as in a systemd unit.
const USUAL_PLACES: &str = "/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin";

/// The variables of rei's environment that are passed to Nix: the place of the store, network settings, and
/// credentials. With any others, an evaluation could depend on who started the supervisor.
const INHERITED: &[&str] = &[
    "PATH",
    "TMPDIR",
    "USER",
    "LOGNAME",
    "NIX_REMOTE",
    "NIX_STORE_DIR",
    "NIX_STATE_DIR",
    "NIX_LOG_DIR",
    "NIX_CONF_DIR",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Options of every call. The sandbox is on, without fallback. No remote builders: rei has not checked their sandbox.
const OPTIONS: &[(&str, &str)] = &[("sandbox", "true"), ("sandbox-fallback", "false"), ("builders", "")];

/// The Nix of this machine: its programs, its store, and its settings.
#[derive(Clone, Debug)]
pub struct Nix {
    store_program: PathBuf,
    instantiate_program: PathBuf,
    env: Vec<(OsString, OsString)>,
    home: PathBuf,
    version: Version,
    system: String,
    store_dir: PathBuf,
    import_from_derivation: bool,
}

#[derive(Deserialize)]
struct Facts {
    system: String,
    store: PathBuf,
}

impl Nix {
    /// Finds Nix, and asks for its version and system.
    ///
    /// Creates `home` if it does not exist. Nix keeps its caches there and does not use the user's own home.
    ///
    /// # Errors
    /// If Nix is not installed or too old, its store or daemon cannot be reached, or `home` cannot be created.
    pub async fn locate(home: &Path) -> Result<Self> {
        Self::locate_in(home, std::env::vars_os()).await
    }

    /// Like [`Nix::locate`], with another environment than that of this process.
    ///
    /// # Errors
    /// As for [`Nix::locate`].
    pub async fn locate_in(home: &Path, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self> {
        let vars: Vec<_> = vars.into_iter().collect();
        let path = search_path(&vars);
        let find = |program: &'static str| {
            which::which_in(program, Some(&path), "/").map_err(|source| Error::Missing { program, source })
        };
        let (store_program, instantiate_program) = (find("nix-store")?, find("nix-instantiate")?);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|source| Error::File {
            act: "make the directory",
            path: home.to_owned(),
            source,
        })?;
        let mut nix = Self {
            store_program,
            instantiate_program,
            env: environment(home, &path, &vars),
            home: home.to_owned(),
            version: LEAST_VERSION,
            system: String::new(),
            store_dir: PathBuf::new(),
            import_from_derivation: false,
        };
        let output = nix.run("asking for its version", &nix.bare(&nix.store_program).arg("--version")).await?;
        let printed = output.stdout_text();
        nix.version = Version::parse(&printed).ok_or_else(|| Error::unreadable("its version", &printed))?;
        if nix.version < LEAST_VERSION {
            return Err(Error::Old { found: nix.version });
        }
        let ask = nix.bare(&nix.instantiate_program).args(["--eval", "--strict", "--json", "--expr"]);
        let ask = ask.arg("{ system = builtins.currentSystem; store = builtins.storeDir; }");
        let printed = nix.run("asking for its system", &ask).await?.stdout_text();
        let facts: Facts = serde_json::from_str(&printed).map_err(|_| Error::unreadable("its system", &printed))?;
        (nix.system, nix.store_dir) = (facts.system, facts.store);
        // These calls do not open the store, so query it: a path that cannot exist is a query that every store can
        // answer.
        let absent = nix.store_dir.join("00000000000000000000000000000000-none");
        nix.invalid([&absent]).await?;
        if !nix.store_dir.is_dir() {
            return Err(Error::NoStore { store: nix.store_dir });
        }
        Ok(nix)
    }

    /// Allows or forbids import from derivation: builds during an evaluation.
    #[must_use]
    pub fn allow_import_from_derivation(mut self, allow: bool) -> Self {
        self.import_from_derivation = allow;
        self
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The system that it builds for, such as `x86_64-linux`.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The directory of its store, usually `/nix/store`.
    pub fn store_dir(&self) -> &Path {
        &self.store_dir
    }

    /// The home directory with its caches for rei.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// True if builds probably go through the daemon. Nix uses it if it may not write to the store itself.
    pub(super) fn may_use_daemon(&self) -> bool {
        match value(&self.env, "NIX_REMOTE") {
            Some(remote) if !remote.is_empty() && remote != "auto" => remote == "daemon",
            _ => !nix::unistd::geteuid().is_root() && value(&self.env, "NIX_STORE_DIR").is_none(),
        }
    }

    /// True if import from derivation is allowed.
    pub(super) fn may_import_from_derivation(&self) -> bool {
        self.import_from_derivation
    }

    /// Checks that `path` is a path in the store, so that it can be used as an argument.
    pub(super) fn require_store_path(&self, path: &Path) -> Result<()> {
        use std::path::Component;
        let below = path.strip_prefix(&self.store_dir).ok().map(Path::components);
        let plain = |component| matches!(component, Component::Normal(_));
        if below.is_some_and(|mut below| below.next().is_some_and(plain) && below.all(plain)) {
            return Ok(());
        }
        Err(Error::NotInStore { path: path.to_owned(), store: self.store_dir.clone() })
    }

    /// A call of `nix-store`.
    pub(super) fn store(&self) -> Command {
        self.call(&self.store_program)
    }

    /// A call of `nix-instantiate`.
    pub(super) fn instantiate(&self) -> Command {
        self.call(&self.instantiate_program)
    }

    fn call(&self, program: &Path) -> Command {
        OPTIONS.iter().fold(self.bare(program), |call, (name, value)| call.args(["--option", name, value]))
    }

    fn bare(&self, program: &Path) -> Command {
        let call = Command::new(program, QUERY_TIMEOUT).env_clear().terminate_first(GRACE).dir(&self.home);
        self.env.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// Runs a call; `what` is its purpose, for error messages.
    pub(super) async fn run(&self, what: &str, call: &Command) -> Result<Output> {
        let output = call.run().await.map_err(|source| Error::Run { what: what.to_owned(), source })?;
        if output.success() { Ok(output) } else { Err(Error::from_nix(what, &output.stderr_text())) }
    }
}

/// The value of a variable.
fn value<'a>(vars: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
}

/// PATH, with the usual directories of Nix at its end.
fn search_path(vars: &[(OsString, OsString)]) -> OsString {
    let mut path = value(vars, "PATH").unwrap_or_default().to_owned();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(USUAL_PLACES);
    path
}

/// The environment of every call: a few inherited variables, a home of rei's own, and a fixed locale.
fn environment(home: &Path, path: &OsStr, vars: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vars
        .iter()
        .filter(|(name, _)| INHERITED.iter().any(|inherited| name == inherited) && name != "PATH")
        .cloned()
        .collect();
    // Nix looks for the user's own configuration (with tokens for private repositories) below HOME, which is changed
    // here.
    let user_files = value(vars, "NIX_USER_CONF_FILES").map(OsStr::to_owned).or_else(|| {
        let config = value(vars, "XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let config = config.or_else(|| value(vars, "HOME").map(|home| Path::new(home).join(".config")));
        config.map(|dir| dir.join("nix/nix.conf").into_os_string())
    });
    env.extend(user_files.map(|files| ("NIX_USER_CONF_FILES".into(), files)));
    env.push(("PATH".into(), path.to_owned()));
    env.push(("HOME".into(), home.into()));
    for (name, below) in [
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
    ] {
        env.push((name.into(), home.join(below).into()));
    }
    env.push(("LC_ALL".into(), "C.UTF-8".into()));
    // No person can answer a prompt.
    env.push(("GIT_TERMINAL_PROMPT".into(), "0".into()));
    // Nix keeps a clone of each input that is a git repository. By default git does not sync its objects to disk, so
    // after a power failure one may be empty, and no commit could be evaluated any more.
    for (name, setting) in
        [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "core.fsync"), ("GIT_CONFIG_VALUE_0", "committed")]
    {
        env.push((name.into(), setting.into()));
    }
    if value(vars, "GIT_SSH_COMMAND").is_none() {
        env.push(("GIT_SSH_COMMAND".into(), "ssh -o BatchMode=yes".into()));
    }
    env.push(("NIX_CONFIG".into(), "extra-experimental-features = nix-command flakes".into()));
    env
}

#[cfg(test)]
impl Nix {
    /// A Nix that is never run, for tests of arguments.
    pub(super) fn example() -> Self {
        Self {
            store_program: "nix-store".into(),
            instantiate_program: "nix-instantiate".into(),
            env: Vec::new(),
            home: "/state/nix".into(),
            version: LEAST_VERSION,
            system: "x86_64-linux".into(),
            store_dir: "/nix/store".into(),
            import_from_derivation: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_variables_are_inherited_and_the_home_is_reis_own() {
        let vars: Vec<(OsString, OsString)> = [
            ("HOME", "/home/user"),
            ("SECRET", "x"),
            ("NIX_PATH", "nixpkgs=/x"),
            ("NIX_CONFIG", "sandbox = false"),
            ("NIX_REMOTE", "daemon"),
            ("PATH", "/a"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let env = environment(Path::new("/state/nix"), &search_path(&vars), &vars);
        let of = |name: &str| value(&env, name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(of("HOME").unwrap(), "/state/nix");
        assert_eq!(of("XDG_CACHE_HOME").unwrap(), "/state/nix/.cache");
        assert_eq!(of("NIX_REMOTE").unwrap(), "daemon");
        assert_eq!(of("NIX_USER_CONF_FILES").unwrap(), "/home/user/.config/nix/nix.conf");
        assert_eq!(of("NIX_CONFIG").unwrap(), "extra-experimental-features = nix-command flakes");
        assert_eq!(of("GIT_CONFIG_KEY_0").unwrap(), "core.fsync");
        assert!(of("PATH").unwrap().starts_with("/a:/nix/var"));
        assert_eq!((of("SECRET"), of("NIX_PATH")), (None, None));
    }

    #[test]
    fn every_call_forces_the_sandbox() {
        let forced = "--option sandbox true --option sandbox-fallback false --option builders ";
        let nix = Nix::example();
        assert_eq!(nix.store().argv().join(" "), format!("nix-store {forced}"));
        assert_eq!(nix.instantiate().argv().join(" "), format!("nix-instantiate {forced}"));
    }

    #[test]
    fn only_store_paths_are_allowed_as_arguments() {
        let nix = Nix::example();
        for path in ["/nix/store", "/nix/storex", "--gc", "", "/etc", "/nix/store/../../etc"] {
            assert!(nix.require_store_path(Path::new(path)).is_err(), "{path}");
        }
        assert!(nix.require_store_path(Path::new("/nix/store/x-y")).is_ok());
    }

    #[tokio::test]
    async fn without_nix_the_error_says_how_to_get_it() {
        // The usual directories are searched too, so this needs a machine without Nix there.
        if which::which_in("nix-store", Some(USUAL_PLACES), "/").is_ok() {
            let error = Error::Missing { program: "nix-store", source: which::Error::CannotFindBinaryPath };
            assert!(error.hint().unwrap().contains("apt-get install nix-bin"));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let error = Nix::locate_in(dir.path(), [("PATH".into(), dir.path().into())]).await.unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }
}
