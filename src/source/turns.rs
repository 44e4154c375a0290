//! Coordinates the jobs that use the mirror's objects with the job that packs them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, RwLock};

/// The locks between jobs that use the mirror's objects and the job that packs them.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Readers need objects; the writer packs them and drops those that nothing keeps.
    pub lock: RwLock<()>,
    /// A job needs objects now: the packing stops.
    pub requested: Notify,
    /// Directories beside the mirror that a job uses.
    scratch: Arc<Mutex<BTreeSet<String>>>,
}

impl Turns {
    /// Protects a directory beside the mirror from [`Mirror::sweep`](super::mirror::Mirror::sweep).
    pub fn use_scratch(&self, name: &str) -> InUse {
        let all = self.scratch.clone();
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        InUse { all, name: name.to_owned() }
    }

    /// True if a job uses the directory with this name.
    pub fn uses_scratch(&self, name: &OsStr) -> bool {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.iter().any(|used| *name == **used)
    }
}

/// While this value exists, a directory beside the mirror is not removed by the sweep.
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
