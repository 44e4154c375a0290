//! Checks whether descriptors are ready. The system's `poll` fails with EINTR when a signal arrives, even with a
//! timeout of zero. That says nothing about the descriptors, so it is never returned here.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// True if one of these events is ready now, or a hang-up or an error, which are always reported.
///
/// # Errors
/// If the system has no memory for the call.
pub fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> nix::Result<bool> {
    wait(&mut [PollFd::new(fd, events)], Duration::ZERO).map(|ready| ready > 0)
}

/// Waits until a descriptor is ready. Returns how many are; 0 after a timeout.
///
/// # Errors
/// If the system has no memory for the call.
pub fn wait(fds: &mut [PollFd<'_>], timeout: Duration) -> nix::Result<usize> {
    let begun = Instant::now();
    loop {
        let left = timeout.saturating_sub(begun.elapsed());
        // In whole milliseconds, rounded up; at most 24 days.
        let left = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(fds, left) {
            Err(Errno::EINTR) => {}
            result => return result.map(|ready| usize::try_from(ready).unwrap_or(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;

    extern "C" fn heard(_: i32) {}

    #[test]
    fn a_signal_does_not_end_the_wait() {
        let action = SigAction::new(SigHandler::Handler(heard), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, and no other test uses this signal.
        unsafe { sigaction(Signal::SIGWINCH, &action) }.unwrap();
        let (reading, writing) = nix::unistd::pipe().unwrap();
        // SAFETY: pthread_self takes no arguments and cannot fail.
        let here = unsafe { libc::pthread_self() };
        let (done, mut interrupted) = (AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: `here` is alive, because its thread waits for the end of this one.
                    unsafe { libc::pthread_kill(here, libc::SIGWINCH) };
                }
            });
            // It waits, so that a signal arrives during the call on a busy machine, too.
            let asked = || poll(&mut [PollFd::new(reading.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1000u16));
            let since = Instant::now();
            while interrupted < 100 {
                interrupted += u32::from(asked() == Err(Errno::EINTR));
                let ready = is_ready(reading.as_fd(), PollFlags::POLLIN);
                if ready != Ok(false) || since.elapsed() > Duration::from_secs(60) {
                    done.store(true, Ordering::Relaxed);
                    panic!("{ready:?}, after {interrupted} interruptions");
                }
            }
            nix::unistd::write(&writing, b"x").unwrap();
            let ready = is_ready(reading.as_fd(), PollFlags::POLLIN);
            done.store(true, Ordering::Relaxed);
            assert_eq!(ready, Ok(true));
        });
    }
}
