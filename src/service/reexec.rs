//! `rei reexec`: another program in the same process. Its children stay its children, its listeners stay with the
//! descriptor store and the instances, and the new program takes over as after a crash; only that nothing has crashed.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::shell::Shell;
use super::sync::lock;
use crate::lifecycle::{Event, RunState, Running, Slot};
use crate::runtime::keeper::handed;

/// Time for the answer to who asked, and for work to be ended: both wait for the loop alone.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// What would end the process while it has no handlers: it waits until the new program has some.
const HELD: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

fn held() -> SigSet {
    HELD.into_iter().collect()
}

/// Lets through what came while there were no handlers. To be called when there are.
///
/// # Errors
/// Never with a set of real signals.
pub fn release_signals() -> std::io::Result<()> {
    Ok(held().thread_unblock()?)
}

impl Shell {
    /// Replaces the program. Returns only when that failed, and then everything goes on as before, with work begun anew.
    pub(super) async fn reexec(&mut self) {
        self.end_work().await;
        // The new program takes what it finds for what it was given.
        self.mend();
        let handed = lock(&self.store).across_exec();
        let Err(why) = self.exec(&handed);
        tracing::error!(%why, exe = %self.exe.display(), "cannot become the new program; the old one goes on");
        // Taken over from itself: what was aborted is asked for again.
        let running = Slot::ALL.map(|slot| self.running(slot));
        self.pending.push_back(Event::Recovered { running, rebooted: false });
    }

    /// Before another supervisor begins: nothing is under way any more, the store has what lives and no more, and the state
    /// is stored. The next program may be of another version, which decides otherwise: it replays nothing of this one.
    pub(super) async fn end_work(&mut self) {
        for (_, handle) in self.working.drain(..) {
            handle.abort();
        }
        tokio::time::sleep(LAST_WORDS).await;
        self.occupants.let_go(&self.store);
        self.snapshot();
    }

    fn exec(&self, handed: &[(String, OwnedFd)]) -> Result<Infallible, std::io::Error> {
        let text = |word: OsString| CString::new(word.into_vec()).map_err(std::io::Error::other);
        let program = text(self.exe.clone().into())?;
        let args = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
        let ours = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", handed::VARIABLE];
        let mut variables: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| !ours.iter().any(|known| name == known)).collect();
        if !handed.is_empty() {
            variables.push(handed::announce(handed)?);
        }
        let variables = variables.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        });
        let variables = variables.collect::<Result<Vec<_>, _>>()?;
        held().thread_block()?;
        let Err(errno) = nix::unistd::execve(&program, &args, &variables);
        release_signals()?;
        Err(errno.into())
    }

    fn running(&self, slot: Slot) -> Option<Running> {
        let state = self.core.slot(slot);
        let (version, _) = (state.version.clone()?, self.occupants.get(slot)?);
        let ready = matches!(state.run, RunState::Ready | RunState::Stopping);
        Some(Running { store_path: version.store_path, ready })
    }
}
