//! Garbage collector roots: links in rei's state directory that Nix knows.
//!
//! A root is a link in one of rei's directories. Nix finds it through `gcroots/auto`, and forgets it when the link is
//! gone. So removing a root only means removing one file; Nix is not needed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::{Error, Problem, Result};
use super::evaluate::quoted;
use super::locate::Nix;

/// The roots in one directory, by name.
#[derive(Clone, Debug)]
pub struct Roots {
    dir: PathBuf,
}

impl Roots {
    /// Opens the directory of the roots. Creates it if it does not exist.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|source| Error::File {
            act: "make the directory",
            path: dir.to_owned(),
            source,
        })?;
        let dir = dir.canonicalize().map_err(|source| Error::File { act: "find", path: dir.to_owned(), source })?;
        Ok(Self { dir })
    }

    /// The path of the root with this name, for calls that create roots themselves.
    ///
    /// # Errors
    /// If the name is not a valid file name.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        require_name(name, "root")?;
        Ok(self.dir.join(name))
    }

    /// Protects a valid store path or derivation, with everything that it needs, until the root is removed. Replaces an
    /// existing root with this name.
    ///
    /// # Errors
    /// If the path is not in the store.
    pub async fn add(&self, nix: &Nix, name: &str, path: &Path) -> Result<()> {
        let link = self.path(name)?;
        if path.extension().is_some_and(|extension| extension == "drv") {
            nix.root_drvs(&[path.to_owned()], &link).await
        } else {
            nix.root_paths(&[path.to_owned()], &link).await
        }
    }

    /// Removes a root, and the numbered roots that were created with it. It is no error if there is none.
    ///
    /// # Errors
    /// If the directory cannot be changed.
    pub fn remove(&self, name: &str) -> Result<()> {
        require_name(name, "root")?;
        for root in self.list()?.into_keys().filter(|root| is_of(root, name)) {
            let path = self.dir.join(root);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(Error::File { act: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All roots and their targets.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<BTreeMap<String, PathBuf>> {
        let unreadable = |source| Error::File { act: "read", path: self.dir.clone(), source };
        let mut roots = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // An entry that is no link, or that has just disappeared, is no root.
            if let (Ok(name), Ok(target)) = (entry.file_name().into_string(), std::fs::read_link(entry.path())) {
                roots.insert(name, target);
            }
        }
        Ok(roots)
    }
}

impl Nix {
    /// Creates roots for derivations at `link`, `link-2`, … in their order.
    pub(super) async fn root_drvs(&self, drvs: &[PathBuf], link: &Path) -> Result<()> {
        // `nix-store --realise` would build them. Importing a derivation only makes it the result of the instantiation.
        let imports = drvs.iter().map(|drv| {
            self.require_store_path(drv)?;
            Ok(format!("(import {})", quoted(drv.display())))
        });
        let imports = imports.collect::<Result<Vec<_>>>()?.join(" ");
        let call = self.instantiate().arg("--add-root").arg(link).args(["--expr", &format!("[ {imports} ]")]);
        let what = format!("adding roots for derivations at {}", link.display());
        let rooted = self.run(&what, &call.args(["--option", "pure-eval", "false"])).await.map(drop);
        match rooted {
            // Each version of Nix has another message if a file to import is gone, so check the paths.
            Err(Error::Failed { what, message, full, .. }) if !self.invalid(drvs).await?.is_empty() => {
                Err(Error::Failed { what, problem: Problem::Gone, message, full })
            }
            other => other,
        }
    }

    /// Creates roots for valid paths at `link`, `link-2`, … in their order.
    pub(super) async fn root_paths(&self, paths: &[PathBuf], link: &Path) -> Result<()> {
        paths.iter().try_for_each(|path| self.require_store_path(path))?;
        let call = self.store().arg("--realise").args(paths).arg("--add-root").arg(link);
        let what = format!("adding roots for store paths at {}", link.display());
        self.run(&what, &call).await.map(drop)
    }
}

/// True if `root` is `name`, or `name-2` and so on.
fn is_of(root: &str, name: &str) -> bool {
    let Some(rest) = root.strip_prefix(name) else { return false };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u64>().is_ok_and(|number| number > 1))
}

/// Checks a name that becomes a file name: not hidden, and in no other directory.
pub(super) fn require_name(name: &str, what: &'static str) -> Result<()> {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with(['.', '-']) && name.chars().all(fit) {
        return Ok(());
    }
    Err(Error::BadName { name: name.to_owned(), what })
}

/// Maximum length of a name, in bytes: the 255 of a file name, minus what Nix appends.
const NAME_BYTES_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_roots_belong_to_the_first() {
        assert!(is_of("a", "a") && is_of("a-2", "a") && is_of("a-17", "a"));
        assert!(!is_of("a-1", "a") && !is_of("ab", "a") && !is_of("a-x", "a") && !is_of("a", "a-2"));
    }

    #[test]
    fn names_of_files_outside_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", ".hidden", "-flag", "a b", "a\n", &"x".repeat(300)] {
            assert!(require_name(name, "root").is_err(), "{name:?}");
        }
        assert!(require_name("cand_0001.drv", "root").is_ok());
    }

    #[test]
    fn a_missing_root_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::open(&dir.path().join("roots")).unwrap();
        std::os::unix::fs::symlink("/nix/store/gone", roots.path("a").unwrap()).unwrap();
        std::fs::write(roots.path("file").unwrap(), "").unwrap();
        assert_eq!(roots.list().unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        roots.remove("a").unwrap();
        roots.remove("a").unwrap();
        assert!(roots.list().unwrap().is_empty());
    }
}
