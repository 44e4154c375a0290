//! What Nix passed to the builder.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Infrastructure;
use crate::validation::checks::{CheckSpec, InputName, SCHEMA};

/// The largest list of a closure that is read, in bytes: 100,000 store paths with their references.
const CLOSURE_BYTES_MAX: u64 = 64 << 20;

/// A version that is started: its store path and all that it may read.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Its store path.
    pub store_path: PathBuf,
    /// Its closure, itself included.
    pub closure: Vec<PathBuf>,
    /// The files that it finds in its state directory.
    pub state: Option<PathBuf>,
}

/// One check.
#[derive(Debug)]
pub(crate) struct Job {
    /// What is asked.
    pub spec: CheckSpec,
    /// The versions that the check starts.
    pub versions: BTreeMap<InputName, Subject>,
    /// The files that the check reads.
    pub files: BTreeMap<InputName, PathBuf>,
    /// The output, not there yet.
    pub out: PathBuf,
    /// The build's own directory.
    pub top: PathBuf,
    /// When the check's own bound is reached.
    pub deadline: Instant,
}

/// An attribute that is set and not empty.
fn attribute(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn required(name: &'static str) -> Result<String, Infrastructure> {
    attribute(name).ok_or(Infrastructure::Attribute { name, reason: "it is missing".into() })
}

fn needed<T>(inputs: &BTreeMap<InputName, T>, name: InputName) -> Result<&T, Infrastructure> {
    inputs.get(&name).ok_or(Infrastructure::Attribute { name: name.word(), reason: "it is missing".into() })
}

impl Job {
    /// Reads the attributes.
    pub(crate) fn from_environment(begun: Instant) -> Result<Self, Infrastructure> {
        let wrong = |reason| Infrastructure::Attribute { name: "spec", reason };
        let spec: CheckSpec = serde_json::from_str(&required("spec")?).map_err(|error| wrong(error.to_string()))?;
        if spec.schema != SCHEMA {
            return Err(wrong(format!("version {:?}, and this rei knows {SCHEMA}", spec.schema)));
        }
        let top = PathBuf::from(required("NIX_BUILD_TOP")?);
        let (mut versions, mut files) = (BTreeMap::new(), BTreeMap::new());
        for name in InputName::ALL {
            let Some(path) = attribute(name.word()).map(PathBuf::from) else { continue };
            if name.is_version() {
                let closure = read_closure(&top.join(format!("closure-{}", name.word())))?;
                versions.insert(name, Subject { store_path: path, closure, state: None });
            } else {
                files.insert(name, path);
            }
        }
        for subject in versions.values_mut() {
            // Even if a version refers to a file of the check, it does not read it here.
            subject.closure.retain(|path| files.values().all(|file| file != path));
            subject.state = files.get(&InputName::State).cloned();
        }
        let deadline = begun + Duration::from_millis(spec.timeout_ms);
        Ok(Self { spec, versions, files, out: required("out")?.into(), top, deadline })
    }

    /// A version that the check needs.
    pub(crate) fn version(&self, name: InputName) -> Result<&Subject, Infrastructure> {
        needed(&self.versions, name)
    }

    /// A file that the check needs.
    pub(crate) fn file(&self, name: InputName) -> Result<&Path, Infrastructure> {
        needed(&self.files, name).map(PathBuf::as_path)
    }
}

fn read_closure(path: &Path) -> Result<Vec<PathBuf>, Infrastructure> {
    let file = std::fs::File::open(path).map_err(Infrastructure::system("open the list of a closure"))?;
    let mut text = String::new();
    let read = file.take(CLOSURE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(Infrastructure::system("read the list of a closure"))?;
    parse_closure(&text).ok_or_else(|| Infrastructure::Attribute {
        name: "exportReferencesGraph",
        reason: "the list of a closure is not as Nix writes it".into(),
    })
}

/// The paths of a list that `exportReferencesGraph` made: path, deriver, number of references, references, and again.
fn parse_closure(text: &str) -> Option<Vec<PathBuf>> {
    let mut lines = text.lines();
    let mut paths = Vec::new();
    while let Some(path) = lines.next() {
        let _deriver = lines.next()?;
        let references: usize = lines.next()?.parse().ok()?;
        for _ in 0..references {
            lines.next()?;
        }
        paths.push(PathBuf::from(path));
    }
    Some(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_is_read_as_nix_writes_it() {
        let text = "/nix/store/a-x\n\n2\n/nix/store/a-x\n/nix/store/b-y\n/nix/store/b-y\n/nix/store/b-y.drv\n0\n";
        assert_eq!(parse_closure(text).unwrap(), [Path::new("/nix/store/a-x"), Path::new("/nix/store/b-y")]);
        assert_eq!(parse_closure("/nix/store/a-x\n\n2\n/nix/store/a-x\n"), None);
        assert_eq!(parse_closure("/nix/store/a-x\n\nmany\n"), None);
    }
}
