//! Who works with the mirror, and who waits until they have done.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, RwLock};

/// Who works with the mirror's objects, and who packs them.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Readers need objects; the writer packs them and drops those that nothing keeps.
    pub lock: RwLock<()>,
    /// A task needs objects now: the task that packs gives way.
    pub wanted: Notify,
    /// Directories beside the mirror that are in use.
    scratch: Arc<Mutex<BTreeSet<String>>>,
}

impl Turns {
    /// Keeps a directory beside the mirror from being swept away.
    pub fn use_scratch(&self, name: &str) -> InUse {
        let all = self.scratch.clone();
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        InUse { all, name: name.to_owned() }
    }

    /// Whether the directory of this name is in use.
    pub fn uses_scratch(&self, name: &OsStr) -> bool {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.iter().any(|used| *name == **used)
    }
}

/// As long as it lives, a directory beside the mirror is not swept away.
#[derive(Debug)]
pub(super) struct InUse {
    all: Arc<Mutex<BTreeSet<String>>>,
    name: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
