//! Helpers for tasks: locks, and tasks that end with their owner.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock that no task holds for long. If a task panicked while it held the lock, the guarded value is still
/// used.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that ends with its owner.
pub struct AbortOnDrop<T>(pub tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
