//! Finds blueprints in the operator's directory, then among those that ship with rei; never in a candidate's tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::fields::is_name;
use super::job::missing;
use super::parse::{Problems, parse};
use super::schema::Blueprint;
use super::yaml::BYTES_MAX;
use crate::config::Config;

/// The blueprints that ship with rei, by name.
const BUILT_IN: [(&str, &str); 2] =
    [("repair", include_str!("builtin/repair.yaml")), ("upgrade", include_str!("builtin/upgrade.yaml"))];

/// The blueprints that can be used.
#[derive(Clone, Debug)]
pub struct Library {
    directory: Option<PathBuf>,
}

/// Where a blueprint was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file of the operator.
    File(PathBuf),
    /// In rei itself.
    BuiltIn,
}

/// Why a blueprint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no blueprint with this name.
    #[error("there is no blueprint {name:?}")]
    Unknown {
        /// The name.
        name: String,
        /// The names of all blueprints.
        known: Vec<String>,
    },
    /// Its file cannot be read.
    #[error("cannot read the blueprint {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// It has errors.
    #[error("the blueprint {origin} cannot be used")]
    Wrong {
        /// Its file, or its name.
        origin: String,
        /// Its errors, each with line, column and hint.
        #[source]
        problems: Problems,
    },
}

impl Error {
    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known, .. } => Some(format!("blueprints: {}", known.join(", "))),
            Self::Read { .. } => None,
            Self::Wrong { problems, .. } => problems.0.first().map(|problem| problem.hint.clone()),
        }
    }
}

impl Library {
    /// A library of the operator's directory, if there is one, and of the blueprints that ship with rei.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Finds and checks a blueprint.
    ///
    /// # Errors
    /// If there is none, its file cannot be read, or it has errors.
    pub fn find(&self, name: &str) -> Result<(Blueprint, Origin), Error> {
        if let Some(path) = self.file(name) {
            let text = read(&path)?;
            let origin = path.display().to_string();
            let blueprint = parse(&text).map_err(|problems| Error::Wrong { origin, problems })?;
            return Ok((blueprint, Origin::File(path)));
        }
        let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            return Err(Error::Unknown { name: name.to_owned(), known: self.names() });
        };
        let blueprint = parse(text).map_err(|problems| Error::Wrong { origin: name.to_owned(), problems })?;
        Ok((blueprint, Origin::BuiltIn))
    }

    /// All errors of the blueprints that a configuration uses: they do not exist, are wrong, or use agents or commands
    /// that the configuration does not have.
    pub fn unusable(&self, config: &Config) -> Vec<Error> {
        let wanted = &config.blueprints;
        let names = wanted.incident.iter().chain(wanted.by_class.values()).chain([&wanted.upgrade]);
        let names: BTreeSet<&String> = names.collect();
        let wrong = names.into_iter().filter_map(|name| match self.find(name) {
            Err(error) => Some(error),
            Ok((blueprint, origin)) => {
                let problems = missing(&blueprint, &config.agents, &config.commands);
                let origin = match origin {
                    Origin::File(path) => path.display().to_string(),
                    Origin::BuiltIn => format!("{name} that ships with rei"),
                };
                Some(Error::Wrong { origin, problems: Problems(problems.clone()) }).filter(|_| !problems.is_empty())
            }
        });
        wrong.collect()
    }

    /// All names for which [`Library::find`] finds a blueprint, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
        let entries = self.directory.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
            names.extend(path.file_stem().filter(|_| yaml).and_then(|stem| stem.to_str()).map(str::to_owned));
        }
        names.retain(|name| is_name(name));
        names.sort();
        names.dedup();
        names
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        let dir = self.directory.as_ref().filter(|_| is_name(name))?;
        ["yaml", "yml"].iter().map(|end| dir.join(format!("{name}.{end}"))).find(|path| path.is_file())
    }
}

fn read(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let mut text = String::new();
    // Read one byte more than the maximum, so that the parser reports a file that is too long.
    let read = std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text));
    read.map(|_| text).map_err(|source| Error::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_blueprints_are_valid() {
        let library = Library::new(None);
        assert_eq!(library.names(), ["repair", "upgrade"]);
        for name in library.names() {
            let (blueprint, origin) = library.find(&name).unwrap();
            assert_eq!((blueprint.name.as_str(), origin), (name.as_str(), Origin::BuiltIn));
        }
    }

    #[test]
    fn the_operators_file_comes_first_and_names_are_no_paths() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::new(Some(dir.path().join("blueprints")));
        assert!(library.find("upgrade").is_ok(), "a missing directory counts as empty");
        std::fs::create_dir(dir.path().join("blueprints")).unwrap();
        let text = "version: 1\nname: upgrade\nstages: [{id: a, type: deterministic, action: checkout}]\n";
        std::fs::write(dir.path().join("blueprints/upgrade.yaml"), text).unwrap();
        std::fs::write(dir.path().join("secret.yaml"), text).unwrap();
        let (blueprint, origin) = library.find("upgrade").unwrap();
        assert_eq!(blueprint.stages.len(), 1);
        assert!(matches!(origin, Origin::File(_)));
        let error = library.find("../secret").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("blueprints: repair, upgrade"));
        std::fs::write(dir.path().join("blueprints/bad.yml"), "version: 2\n").unwrap();
        assert!(matches!(library.find("bad"), Err(Error::Wrong { .. })));
    }
}
