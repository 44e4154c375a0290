//! What tasks share: locks, and tasks that end with their owner.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock that nobody holds for long. A panic elsewhere does not make what it guards useless.
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
