//! The signals that the supervisor gets, and the service manager that it talks to.

use tokio::signal::unix::{SignalKind, signal};

use crate::runtime::notify::notify_systemd;

/// What the operating system asks of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: the runtime ends, then the supervisor.
    Terminate,
    /// SIGUSR2: the supervisor alone ends. The next one takes the runtime over.
    Leave,
    /// SIGHUP.
    Reload,
    /// SIGCHLD.
    Child,
}

/// The signals that the loop listens to, and the service manager that it talks to.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    usr2: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
    manager: bool,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When a handler cannot be set.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr2: signal(SignalKind::user_defined2())?,
            hup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
            manager: std::env::var_os("NOTIFY_SOCKET").is_some(),
        })
    }

    /// The next one. May be cancelled.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Terminate,
            _ = self.int.recv() => Signal::Terminate,
            _ = self.usr2.recv() => Signal::Leave,
            _ = self.hup.recv() => Signal::Reload,
            _ = self.child.recv() => Signal::Child,
        }
    }

    /// Tells the service manager, if there is one.
    pub fn notify(&self, message: &str) {
        if self.manager
            && let Err(error) = notify_systemd(message)
        {
            tracing::warn!(%error, "the service manager does not take notifications");
        }
    }

    /// Tells the service manager that the loop goes round.
    pub fn feed_watchdog(&self) {
        self.notify("WATCHDOG=1");
    }

    /// Tells the service manager what is going on.
    pub fn status(&self, line: &str) {
        self.notify(&format!("STATUS={line}"));
    }
}
