//! `rei init`: a commented rei.toml for the flake in a directory, and a systemd unit for it.

mod unit;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{CONFIG, Global, runtime};
use super::error::{CommandError, Kind};
use super::ui::Ui;
use crate::command::Command;
use crate::config::template::{self, Answers};

/// The time limit of one git command in a local repository.
const GIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of Nix to list the packages of a flake: it may have to fetch the flake's inputs.
const NIX_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest name that rei makes from a directory's name.
const NAME_BYTES_MAX: usize = 64;

/// `rei init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory with the flake
    #[arg(value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Also write a systemd unit for the existing or the new rei.toml, and print how to install it
    #[arg(long)]
    systemd: bool,
}

/// The git repository of a directory.
struct Repository {
    top: PathBuf,
    branch: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If there is no flake, a rei.toml already exists, or it cannot be written.
pub fn run(args: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    if global.config != Path::new(CONFIG) {
        // Relative paths in the file start at the file's own directory, so it belongs beside the flake.
        let elsewhere = CommandError::new(Kind::Usage, format!("{CONFIG} can only be written beside the flake"));
        return Err(elsewhere.hint("name the directory instead of a file: `rei init DIR`"));
    }
    let shown = &args.directory;
    let failed = |what: String| CommandError::new(Kind::Failed, what);
    let directory = shown.canonicalize().map_err(|error| {
        failed(format!("cannot enter {}", shown.display())).because(error).hint("name the directory of a flake")
    })?;
    let here = shown.as_path() == Path::new(".");
    let file = if here { PathBuf::from(CONFIG) } else { shown.join(CONFIG) };
    if file.symlink_metadata().is_ok() {
        if args.systemd {
            return unit::write(&file, ui);
        }
        let error = failed(format!("{} already exists", file.display()));
        return Err(error.hint(format!("`{}` checks it", check(&file))));
    }
    if !directory.join("flake.nix").is_file() {
        let error = failed(format!("{} has no flake.nix", shown.display()));
        return Err(error.hint("name the directory of a flake: `rei init DIR`; or make one: `nix flake init`"));
    }
    let runtime = runtime()?;
    let repository = runtime.block_on(repository(&directory));
    let packages = runtime.block_on(packages(&directory, repository.as_ref()));
    let mut answers = runtime.block_on(answers(&directory, repository.as_ref(), &packages));
    answers.systemd = args.systemd;
    // create_new also refuses a file that another process has made in the meantime.
    let created = std::fs::OpenOptions::new().write(true).create_new(true).open(&file);
    let written = created.and_then(|mut new| new.write_all(template::fill(&answers).as_bytes()));
    written.map_err(|error| failed(format!("cannot write {}", file.display())).because(error))?;
    report(&file, &answers, repository.as_ref(), &packages, ui);
    if args.systemd { unit::write(&file, ui) } else { Ok(()) }
}

fn report(file: &Path, answers: &Answers, repository: Option<&Repository>, packages: &[String], ui: &mut Ui) {
    ui.status(&format!("wrote {} for the runtime `{}`", file.display(), answers.name));
    if repository.is_none() {
        ui.warning("this is not a git repository yet, but rei builds commits: git init && git add -A && git commit");
    }
    if answers.package.is_none() && !packages.is_empty() && !packages.iter().any(|name| name == "default") {
        let names = packages.join(", ");
        ui.warning(&format!("the flake has no package `default`: set `runtime.package` to one of {names}"));
    }
    ui.hint(&format!("check `command` and `listen` in the file, then run `{}`", check(file)));
}

/// The command that checks this file.
fn check(file: &Path) -> String {
    if file == Path::new(CONFIG) { "rei check".to_owned() } else { format!("rei check --config {}", file.display()) }
}

async fn answers(directory: &Path, repository: Option<&Repository>, packages: &[String]) -> Answers {
    let has_default = packages.iter().any(|name| name == "default");
    let package = packages.first().filter(|_| packages.len() == 1 && !has_default).cloned();
    let name = name_of(repository.map_or(directory, |repository| &repository.top));
    let chosen = package.as_deref().or(has_default.then_some("default"));
    let program = match chosen {
        Some(package) => main_program(directory, repository, package).await,
        None => None,
    };
    let inner = repository.and_then(|repository| directory.strip_prefix(&repository.top).ok());
    let inner = inner.filter(|inner| !inner.as_os_str().is_empty());
    let up = inner.map(|inner| vec![".."; inner.components().count()].join("/"));
    Answers {
        command: format!("bin/{}", program.unwrap_or_else(|| name.clone())),
        source: up.unwrap_or_else(|| ".".to_owned()),
        r#ref: repository.and_then(|repository| repository.branch.clone()),
        dir: inner.map(|inner| inner.to_string_lossy().into_owned()),
        package,
        name,
        systemd: false,
    }
}

/// Makes a name for the runtime from the name of its directory.
fn name_of(directory: &Path) -> String {
    let last = directory.file_name().unwrap_or_default().to_string_lossy();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = last.chars().map(fits).take(NAME_BYTES_MAX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "runtime".to_owned() } else { name.to_owned() }
}

/// The git repository of the directory; `None` if there is no git or no repository.
async fn repository(directory: &Path) -> Option<Repository> {
    let git = |args: &[&str]| Command::new("git", GIT_TIMEOUT).arg("-C").arg(directory).args(args);
    let line = |output: crate::command::Output| output.success().then(|| output.stdout_text().trim_end().to_owned());
    let top = line(git(&["rev-parse", "--show-toplevel"]).run().await.ok()?)?;
    let branch = git(&["symbolic-ref", "--quiet", "--short", "HEAD"]).run().await.ok().and_then(line);
    Some(Repository { top: PathBuf::from(top).canonicalize().ok()?, branch })
}

/// The reference of the committed flake, in a form for which Nix needs no registry.
fn flake(directory: &Path, repository: Option<&Repository>) -> String {
    let Some(repository) = repository else { return format!("path:{}", encoded(directory)) };
    let inner = directory.strip_prefix(&repository.top).ok().filter(|inner| !inner.as_os_str().is_empty());
    let inner = inner.map(|inner| format!("dir={}", encoded(inner)));
    // If the reference names no branch, Nix 2.8 uses `master`.
    let branch = repository.branch.as_ref().map(|branch| format!("ref={}", encoded(Path::new(branch))));
    let query: Vec<String> = inner.into_iter().chain(branch).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("git+file://{}{mark}{}", encoded(&repository.top), query.join("&"))
}

/// The path in the encoding of a URL.
fn encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.map(|byte| if keep(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn nix_eval(flake: &str, attribute: &str, function: &str) -> Command {
    Command::new("nix", NIX_TIMEOUT)
        .args(["--extra-experimental-features", "nix-command flakes", "eval", "--json", "--no-write-lock-file"])
        .args(["--option", "allow-import-from-derivation", "false", "--apply", function])
        .arg(format!("{flake}#packages.{}-linux{attribute}", std::env::consts::ARCH))
}

/// The names of the flake's packages; none if Nix is missing or cannot evaluate the flake.
async fn packages(directory: &Path, repository: Option<&Repository>) -> Vec<String> {
    let output = nix_eval(&flake(directory, repository), "", "builtins.attrNames").run().await;
    let names = output.ok().filter(crate::command::Output::success);
    names.and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
}

/// The main program of a package, if the package names one.
async fn main_program(directory: &Path, repository: Option<&Repository>, package: &str) -> Option<String> {
    let attribute = format!(".\"{package}\"");
    let function = "p: p.meta.mainProgram or p.pname or null";
    let output = nix_eval(&flake(directory, repository), &attribute, function).run().await.ok()?;
    let program: Option<String> = serde_json::from_slice(&output.stdout).ok()?;
    program.filter(|_| output.success()).filter(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_a_name() {
        for (directory, name) in
            [("/srv/greeter", "greeter"), ("/srv/My Service.d", "My-Service-d"), ("/", "runtime"), ("/é", "runtime")]
        {
            assert_eq!(name_of(Path::new(directory)), name);
        }
    }

    #[test]
    fn a_flake_is_named_in_full() {
        let directory = Path::new("/srv/a b/nix");
        assert_eq!(flake(directory, None), "path:/srv/a%20b/nix");
        let repository = Repository { top: "/srv/a b".into(), branch: None };
        assert_eq!(flake(directory, Some(&repository)), "git+file:///srv/a%20b?dir=nix");
        assert_eq!(flake(&repository.top, Some(&repository)), "git+file:///srv/a%20b");
        let branch = Repository { branch: Some("x/y".to_owned()), ..repository };
        assert_eq!(flake(directory, Some(&branch)), "git+file:///srv/a%20b?dir=nix&ref=x/y");
    }
}
