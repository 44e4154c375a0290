//! The pipes of the instances' logs, and the memory of each pipe. The descriptor store also keeps the read ends and the
//! memories. So an instance can print while the supervisor restarts, and rei counts the bytes that are dropped
//! meanwhile. One spare pipe is created in advance, so that the successor of a crashed instance does not wait for the
//! store.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::runtime::logs::{self, MEMORY_SUFFIX, Memory, PIPE_PREFIX};
use crate::service::fdstore::{SharedStore, StoredFds, keep, keep_copy};

/// The name of the spare pipe in the store.
pub const NEXT: &str = "log/next";

/// The name of an instance's pipe.
pub fn name(id: &str) -> String {
    format!("{PIPE_PREFIX}{id}")
}

/// The name of the memory of the pipe with this name.
pub fn memory_name(pipe: &str) -> String {
    format!("{pipe}{MEMORY_SUFFIX}")
}

/// A pipe for a new instance.
pub struct LogPipe {
    /// The end that the logger reads.
    pub read: OwnedFd,
    /// The end that the instance writes to.
    pub write: OwnedFd,
    /// The memory of the pipe, for the logger.
    pub memory: Memory,
    /// Copies of the descriptors that the store keeps for it.
    kept: StoredFds,
}

/// Creates a pipe and stores it under `name`.
fn make(store: &SharedStore, name: String) -> Result<LogPipe, String> {
    let (read, write) = logs::pipe().map_err(|error| format!("cannot make a log pipe: {error}"))?;
    let memory = Memory::new().map_err(|error| format!("cannot make the memory of a log: {error}"))?;
    let mut kept = StoredFds::new();
    keep_both(store, name, read.as_fd(), &memory, &mut kept);
    Ok(LogPipe { read, write, memory, kept })
}

/// Stores the memory first: if the store has a pipe under a name, it also has the pipe's memory.
fn keep_both(store: &SharedStore, name: String, pipe: BorrowedFd<'_>, memory: &Memory, kept: &mut StoredFds) {
    keep(store, memory_name(&name), memory.as_fd(), kept);
    keep(store, name, pipe, kept);
}

/// The spare pipe.
#[derive(Default)]
pub struct SparePipe(Option<LogPipe>);

impl SparePipe {
    /// Creates the spare pipe if there is none.
    pub fn prepare(&mut self, store: &SharedStore) {
        if self.0.is_none() {
            // Without a spare pipe the next start creates its own pipe, and reports an error if that fails.
            self.0 = make(store, NEXT.to_owned()).ok();
        }
    }

    /// A pipe for an instance.
    ///
    /// # Errors
    /// If no pipe can be created; the error is one line.
    pub fn take(&mut self, id: &str, store: &SharedStore) -> Result<LogPipe, String> {
        self.0.take().map_or_else(|| make(store, name(id)), Ok)
    }

    /// The descriptors that must be put into a new store.
    pub fn kept(&self) -> &[(String, OwnedFd)] {
        self.0.as_ref().map_or(&[], |pipe| &pipe.kept)
    }
}

impl LogPipe {
    /// Stores the pipe under the name of its instance, which runs now. Then the name [`NEXT`] is free for another pipe.
    pub fn belongs_to(self, id: &str, store: &SharedStore) -> StoredFds {
        let mut kept = self.kept;
        if kept.iter().any(|(kept, _)| kept == NEXT) {
            kept.clear();
            keep_both(store, name(id), self.read.as_fd(), &self.memory, &mut kept);
        }
        kept
    }
}

/// Finds the pipe of an instance, and its memory, among the descriptors of the store. The pipe has the name of the
/// instance. If the supervisor ended right after it started the instance, the pipe is still named [`NEXT`]; then it is
/// stored under the name of the instance. A pipe without a memory gets an empty one.
pub fn kept(id: &str, from: &mut StoredFds, store: &SharedStore) -> Option<(OwnedFd, Memory, StoredFds)> {
    let mut take = |name: &str| Some(from.swap_remove(from.iter().position(|(kept, _)| kept == name)?).1);
    let (own, mut kept) = (name(id), StoredFds::new());
    if let Some(read) = take(&own) {
        keep_copy(own.clone(), read.as_fd(), &mut kept);
        if let Some(memory) = take(&memory_name(&own)) {
            keep_copy(memory_name(&own), memory.as_fd(), &mut kept);
            return Some((read, Memory::of(memory), kept));
        }
        let memory = Memory::new().ok()?;
        keep(store, memory_name(&own), memory.as_fd(), &mut kept);
        return Some((read, memory, kept));
    }
    let read = take(NEXT)?;
    let memory = take(&memory_name(NEXT)).map(|memory| Ok(Memory::of(memory))).unwrap_or_else(Memory::new).ok()?;
    keep_both(store, own, read.as_fd(), &memory, &mut kept);
    Some((read, memory, kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::keeper::{FdStore, StoreError};
    use crate::service::sync::lock;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

    impl Memory {
        fn store(&self) -> SharedStore {
            Arc::new(Mutex::new(Box::new(self.clone())))
        }

        fn all(&self) -> StoredFds {
            std::mem::take(&mut *lock(&self.0)).into_iter().collect()
        }
    }

    impl FdStore for Memory {
        fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
            lock(&self.0).insert(name.to_owned(), fd.try_clone_to_owned()?);
            Ok(())
        }

        fn remove(&mut self, name: &str) -> Result<(), StoreError> {
            lock(&self.0).remove(name);
            Ok(())
        }

        fn fetch_all(&mut self) -> Result<StoredFds, StoreError> {
            Ok(self.all())
        }
    }

    /// The next supervisor can read the output of an instance, at whatever step the first supervisor ended.
    #[test]
    fn a_log_outlives_the_supervisor_at_every_step() {
        for (prepared, named) in [(false, false), (true, false), (true, true)] {
            let memory = Memory::default();
            let store = memory.store();
            let mut spare = SparePipe::default();
            if prepared {
                spare.prepare(&store);
            }
            let pipe = spare.take("7-a", &store).unwrap();
            File::from(pipe.write.try_clone().unwrap()).write_all(b"last output").unwrap();
            // The supervisor ends.
            if named {
                drop(pipe.belongs_to("7-a", &store));
            } else {
                drop(pipe);
            }
            let mut text = String::new();
            let (read, _, kept) = kept("7-a", &mut memory.all(), &store).unwrap();
            File::from(read).read_to_string(&mut text).unwrap();
            let mut names: Vec<&str> = kept.iter().map(|(name, _)| &**name).collect();
            names.sort_unstable();
            assert_eq!(text, "last output", "prepared: {prepared}, named: {named}");
            assert_eq!(names, ["log/7-a", "log/7-a/memory"]);
            // A pipe that was found as NEXT has the name of its instance now.
            assert_eq!(lock(&memory.0).contains_key("log/7-a"), prepared && !named);
            assert_eq!(lock(&memory.0).contains_key("log/7-a/memory"), prepared && !named);
        }
    }

    #[test]
    fn an_instance_gets_its_own_pipe_before_the_spare_one() {
        let memory = Memory::default();
        let store = memory.store();
        let mut spare = SparePipe::default();
        spare.prepare(&store);
        let first = spare.take("1-a", &store).unwrap();
        let mut write = File::from(first.write.try_clone().unwrap());
        drop(first.belongs_to("1-a", &store));
        spare.prepare(&store);
        write.write_all(b"first").unwrap();
        drop(write);
        let (mut stored, mut text) = (memory.all(), String::new());
        File::from(kept("1-a", &mut stored, &store).unwrap().0).read_to_string(&mut text).unwrap();
        let mut names: Vec<&str> = stored.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        assert_eq!((text.as_str(), names), ("first", vec![NEXT, "log/next/memory"]));
    }
}
