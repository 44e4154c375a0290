//! What a process waits at between its preparation and its program: so that it can be made ready while something else
//! that must come first, a record on disk, is still under way.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

const CLOSED: u32 = 0;
const OPEN: u32 = 1;
const REFUSED: u32 = 2;

/// A gate between a process and its program. Closed at first; it is decided once.
///
/// The child shares the supervisor's memory until it runs its program, so a futex of one process serves both.
#[derive(Debug, Default)]
pub struct Gate(AtomicU32);

impl Gate {
    /// Lets the process run its program, or has it end without. From any thread.
    pub fn decide(&self, open: bool) {
        self.0.store(if open { OPEN } else { REFUSED }, Ordering::Release);
        // SAFETY: the word is ours, and waking nobody is no error.
        unsafe { libc::syscall(libc::SYS_futex, &raw const self.0, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    }

    /// Waits for the decision; `false` when the program must not run. Raw system calls only: for the child.
    pub(super) fn is_passed(&self) -> bool {
        loop {
            match self.0.load(Ordering::Acquire) {
                CLOSED => {}
                decided => return decided == OPEN,
            }
            let (wait, forever) = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, std::ptr::null::<libc::timespec>());
            // Returns at once when the word has changed meanwhile, and early for no reason at times.
            // SAFETY: the word is ours and outlives the wait.
            unsafe { libc::syscall(libc::SYS_futex, &raw const self.0, wait, CLOSED, forever) };
        }
    }
}

/// The gate of a child, and whose word it waits for.
#[derive(Clone, Copy)]
pub(super) struct Behind<'a> {
    pub gate: &'a Gate,
    /// The supervisor.
    pub parent: c_int,
}
