//! Evidence files: written once and atomically, with their digests.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest;
use crate::interface::types::{Evidence, EvolutionContext};

/// The folder of one incident, below the state directory.
#[derive(Debug)]
pub(super) struct Folder {
    state: PathBuf,
    relative: PathBuf,
    /// The files that were written.
    pub written: Vec<Evidence>,
    /// What could not be written, by name and reason.
    pub missing: Vec<String>,
}

impl Folder {
    /// Opens the folder `relative` in the state directory. Creates it if it does not exist, accessible only to rei's
    /// user.
    pub fn make(state: &Path, relative: PathBuf) -> Self {
        let mut folder = Self { state: state.to_owned(), relative, written: Vec::new(), missing: Vec::new() };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.path());
        if let Err(error) = made {
            folder.missing.push(format!("folder: {error}"));
        }
        folder
    }

    pub fn path(&self) -> PathBuf {
        self.state.join(&self.relative)
    }

    /// Writes one file, syncs it before it gets its name, and lists it in `written`. A failure is listed in `missing`.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Option<Evidence> {
        match replace(&self.path(), name, bytes) {
            Ok(()) => {
                let evidence = Evidence {
                    path: self.relative.join(name).to_string_lossy().into_owned(),
                    sha256: digest::sha256(bytes),
                    bytes: bytes.len() as u64,
                };
                self.written.push(evidence.clone());
                Some(evidence)
            }
            Err(error) => {
                self.missing.push(format!("{name}: {error}"));
                None
            }
        }
    }
}

fn replace(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let (temporary, path) = (folder.join(format!(".{name}.new")), folder.join(name));
    // The rest of an interrupted collection; no process uses it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)
    })();
    if written.is_err() {
        // Half a file on a full disk is useless. The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// JSON with sorted keys and without spaces: equal values have the same text, independent of the program that wrote
/// them.
pub fn canonical_json(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
    sorted(value).to_string()
}

/// `sha256:` and the digest of a context as canonical JSON, with its own `digest` empty. Empty if the context cannot be
/// written as JSON, which cannot happen for a value that came from JSON.
pub fn digest_of(context: &EvolutionContext) -> String {
    let bare = EvolutionContext { digest: String::new(), ..context.clone() };
    match serde_json::to_value(&bare) {
        Ok(value) => format!("sha256:{}", digest::sha256(canonical_json(&value))),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_text() {
        let (a, b): (Value, Value) = (
            serde_json::from_str(r#"{"b": [1, {"d": null, "c": "é"}], "a": 1.5}"#).unwrap(),
            serde_json::from_str(r#"{"a":1.5,"b":[1,{"c":"é","d":null}]}"#).unwrap(),
        );
        assert_eq!(canonical_json(&a), r#"{"a":1.5,"b":[1,{"c":"é","d":null}]}"#);
        assert_eq!(canonical_json(&a), canonical_json(&b));
    }

    #[test]
    fn a_file_is_private_whole_and_listed() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let mut folder = Folder::make(state.path(), "incidents/inc_0001".into());
        let evidence = folder.write("log.txt", b"abc").unwrap();
        assert_eq!(evidence.path, "incidents/inc_0001/log.txt");
        assert_eq!(evidence.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let path = state.path().join(&evidence.path);
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        folder.write("log.txt", b"abcd").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_listed() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("incidents"), "a file in the way").unwrap();
        let mut folder = Folder::make(state.path(), "incidents/inc_0001".into());
        assert_eq!(folder.write("log.txt", b"abc"), None);
        assert_eq!(folder.missing.len(), 2);
        assert!(folder.missing[1].starts_with("log.txt: "), "{:?}", folder.missing);
    }
}
