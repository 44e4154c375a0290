//! A gate between the preparation of a process and its exec. So the process can be prepared while a record that must be
//! on disk before exec is still being written.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

const CLOSED: u32 = 0;
const OPEN: u32 = 1;
const REFUSED: u32 = 2;

/// The gate of one process. It is closed at first and is decided once.
///
/// The child shares the supervisor's memory until exec, so both use the same futex (a process-private one).
#[derive(Debug, Default)]
pub struct Gate(AtomicU32);

impl Gate {
    /// Lets the process run its program, or makes it exit. May be called from any thread.
    pub fn decide(&self, open: bool) {
        self.0.store(if open { OPEN } else { REFUSED }, Ordering::Release);
        // SAFETY: the kernel only uses the address to find waiters; `self.0` is valid for the whole call. Waking no
        // waiter is no error.
        unsafe { libc::syscall(libc::SYS_futex, &raw const self.0, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    }

    /// Waits for the decision; returns true if the program may run. Uses only raw system calls, because the child calls
    /// it.
    pub(super) fn wait_until_decided(&self) -> bool {
        loop {
            match self.0.load(Ordering::Acquire) {
                CLOSED => {}
                decided => return decided == OPEN,
            }
            let (wait, forever) = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, std::ptr::null::<libc::timespec>());
            // FUTEX_WAIT returns at once if the word has changed, and may also return early without a reason; so loop.
            // SAFETY: the word is valid for the whole wait, because the supervisor's thread sleeps until exec. The null
            // timeout means to wait for ever.
            unsafe { libc::syscall(libc::SYS_futex, &raw const self.0, wait, CLOSED, forever) };
        }
    }
}

/// A gate, and the process that may open it.
#[derive(Clone, Copy)]
pub(super) struct GateWait<'a> {
    pub gate: &'a Gate,
    /// The pid of the supervisor.
    pub parent: c_int,
}
