//! Real Nix in tests: without root, without `/nix`, without nixpkgs and without a network.
//!
//! [`Store::relocated`] is a whole store in a temporary directory, with its own database, configuration, profiles and
//! garbage collector. The machine's own Nix is not touched, and the store is removed when the value is dropped. Builds in it are
//! sandboxed. Its `sandbox-paths` show the machine's shell and tools to builders, so that a build is a few lines of shell; only
//! tests have this, not the flakes of users. [`Store::open`] is the same, or the machine's store if the tests must share it.
//!
//! [`Flake::new`] is a real git repository with a flake. Each file `packages/NAME.sh` and `checks/NAME.sh` in it is a
//! derivation, built by that script with `$out` and `$src` (the committed tree).
//!
//! ```ignore
//! let Some(store) = Store::open().await else { return };
//! let flake = Flake::new();
//! flake.write("packages/default.sh", "mkdir -p $out/bin; cp $src/app $out/bin/app");
//! let rev = flake.commit("one");
//! let built = store.nix.evaluate_package(&flake.at(&store.nix, &rev).await, "default", None).await.unwrap();
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use rei::nix::{FlakeRef, Nix};
use rei::source::Mirror;
use tempfile::TempDir;

use super::{git, store};

/// The paths of the machine that builders see, if they exist.
const SANDBOX_PATHS: [&str; 5] = ["/bin", "/lib", "/lib32", "/lib64", "/usr"];

/// Every `packages/NAME.sh` and `checks/NAME.sh` as a derivation.
const FLAKE: &str = r#"{
  outputs = { self }: let
    scripts = dir: system: let
      files = if builtins.pathExists (self + "/${dir}") then builtins.readDir (self + "/${dir}") else { };
      named = file: builtins.substring 0 (builtins.stringLength file - 3) file;
    in builtins.listToAttrs (map (file: {
      name = named file;
      value = derivation {
        name = named file;
        inherit system;
        builder = "/bin/sh";
        args = [ "-eu" (self + "/${dir}/${file}") ];
        PATH = "/bin:/usr/bin";
        src = self;
      };
    }) (builtins.attrNames files));
    systems = f: builtins.listToAttrs (map (name: { inherit name; value = f name; })
      [ "x86_64-linux" "aarch64-linux" ]);
  in {
    packages = systems (scripts "packages");
    checks = systems (scripts "checks");
  };
}
"#;

/// A Nix store for a test.
pub struct Store {
    /// The Nix that uses this store.
    pub nix: Nix,
    /// The environment variables with which a Nix program uses this store, and PATH.
    pub env: Vec<(OsString, OsString)>,
    dir: TempDir,
}

impl Store {
    /// The store of the tests; if there is no Nix, prints the reason and returns `None`.
    pub async fn open() -> Option<Self> {
        Self::with(store::environment, "").await
    }

    /// Like [`Store::open`], but builders see no path of the machine.
    pub async fn bare() -> Option<Self> {
        Self::with(store::environment, "sandbox-paths =").await
    }

    /// A new, empty store: for tests that damage it, or that choose their Nix.
    pub async fn relocated() -> Option<Self> {
        Self::with(store::own, "").await
    }

    async fn with(environment: fn(&Path, &str) -> Vec<(OsString, OsString)>, lines: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let shown: Vec<_> = SANDBOX_PATHS.into_iter().filter(|path| Path::new(path).exists()).collect();
        let lines = format!("sandbox-paths = {}\nrequire-sigs = false\n{lines}", shown.join(" "));
        let env = environment(dir.path(), &lines);
        match Nix::locate_in(&dir.path().join("nix-home"), env.clone()).await {
            Ok(nix) => Some(Self { nix, env, dir }),
            Err(error @ rei::nix::Error::Missing { .. }) => {
                eprintln!("SKIPPED: {error}; {}", error.hint().unwrap_or_default());
                None
            }
            Err(error) => panic!("the store does not work: {error:?}"),
        }
    }

    /// A path in a directory of the test, which is removed with the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A Nix program that uses this store, as an operator would type it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs such a program, which must succeed; returns its output.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        store::make_writable(self.dir.path());
    }
}

/// A git repository with a flake.
pub struct Flake {
    dir: TempDir,
    mirror: TempDir,
}

impl Flake {
    /// A repository without a commit, with a flake.nix.
    pub fn new() -> Self {
        let flake = Self { dir: tempfile::tempdir().unwrap(), mirror: tempfile::tempdir().unwrap() };
        git::init(flake.dir());
        flake.write("flake.nix", FLAKE);
        flake
    }

    /// The directory of the repository.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file of the tree.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits the whole tree; returns the commit.
    pub fn commit(&self, message: &str) -> String {
        git::commit(self.dir(), message)
    }

    /// The flake at a commit, whose files are added to the store in the same way as the supervisor does it.
    pub async fn at(&self, nix: &Nix, rev: &str) -> FlakeRef {
        let mirror = Mirror::open(self.mirror.path(), self.dir.path().to_str().unwrap(), "main").await.unwrap();
        let commit = mirror.resolve(rev).await.unwrap();
        let (described, exported) = (mirror.describe(&commit).await.unwrap(), mirror.export(&commit).await.unwrap());
        let path = nix.add(&exported.dir()).await.unwrap();
        exported.remove().await.unwrap();
        let flake = FlakeRef::tree(&path, &nix.nar_hash(&path).await.unwrap()).unwrap();
        flake.of_commit(rev, described.count, described.committed_at).unwrap()
    }

    /// Runs git in the repository, without the user's configuration.
    pub fn git(&self, args: &[&str]) -> String {
        git::git(self.dir.path(), args)
    }
}
