//! Objects of the Interface as files of the state directory: contexts, candidates, reports, and incidents with their
//! evidence. `rei show` reads them.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::paths::Paths;

/// The largest object that is read, in bytes: what fits one message of the interface.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// The object with this id; `None` where there is none that can be read as such.
pub fn read<T: DeserializeOwned>(paths: &Paths, id: &str) -> Option<T> {
    // An id is a name, never a path.
    let is_name = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !is_name {
        return None;
    }
    read_bounded(&paths.object(id)).ok().and_then(|text| serde_json::from_slice(&text).ok())
}

/// The bytes of a stored object.
///
/// # Errors
/// As reading a file; `FileTooLarge` for more than 1 MiB.
pub fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(OBJECT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > OBJECT_BYTES_MAX { Err(ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Keeps an object, whole or not at all. A failure to write evidence changes nothing but is told.
pub async fn keep(paths: &Paths, id: &str, object: &impl Serialize) {
    keep_at(paths.object(id), object).await;
}

/// The same, at a path of its own.
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
        tracing::warn!(%error, path = shown, "cannot keep what is shown and found again later");
    }
}
