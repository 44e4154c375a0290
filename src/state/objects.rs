//! Objects of the Interface as files of the state directory: contexts, candidates, reports, and incidents with their
//! evidence. `rei show` reads them.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::paths::Paths;

/// The largest object that is read, in bytes. One message of the interface can hold this much.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// The object with this id; `None` if no file holds a readable object of this type.
pub fn read<T: DeserializeOwned>(paths: &Paths, id: &str) -> Option<T> {
    // An id is a name and never a path, so a caller cannot read other files.
    let is_name = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !is_name {
        return None;
    }
    read_bounded(&paths.object(id)).ok().and_then(|text| serde_json::from_slice(&text).ok())
}

/// The bytes of a stored object.
///
/// # Errors
/// As for reading a file; `FileTooLarge` if the file is larger than 1 MiB.
pub fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(OBJECT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > OBJECT_BYTES_MAX { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Stores an object, completely or not at all. A failure is logged, and changes no decision.
pub async fn keep(paths: &Paths, id: &str, object: &impl Serialize) {
    keep_at(paths.object(id), object).await;
}

/// Stores an object like [`keep`], at a given path.
pub async fn keep_at(path: PathBuf, object: &impl Serialize) {
    let bytes = serde_json::to_vec_pretty(object);
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, bytes?)?;
        std::fs::rename(&fresh, &path)
    });
    let written = written.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    if let Err(error) = written {
        tracing::warn!(%error, path = shown, "cannot store an object, which `rei show` will lack");
    }
}
