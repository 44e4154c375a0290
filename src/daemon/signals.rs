//! The signals that the supervisor receives, and its messages to the service manager.

use tokio::signal::unix::{SignalKind, signal};

use crate::runtime::notify::notify_systemd;

/// The meaning of a signal to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: the runtime ends, then the supervisor.
    Terminate,
    /// SIGUSR2: only the supervisor ends. The next supervisor takes the runtime over.
    Leave,
    /// SIGHUP: rei.toml is read again.
    Reload,
    /// SIGCHLD: a child has ended.
    Child,
}

/// The handlers of the signals, and whether a service manager started this process.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    usr2: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
    manager: bool,
}

impl Signals {
    /// Sets the handlers. Signals are received from now on.
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

    /// Waits for the next signal. May be cancelled.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Terminate,
            _ = self.int.recv() => Signal::Terminate,
            _ = self.usr2.recv() => Signal::Leave,
            _ = self.hup.recv() => Signal::Reload,
            _ = self.child.recv() => Signal::Child,
        }
    }

    /// Sends a message to the service manager, if there is one.
    pub fn notify(&self, message: &str) {
        if self.manager
            && let Err(error) = notify_systemd(message)
        {
            tracing::warn!(%error, "the service manager does not accept notifications");
        }
    }

    /// Tells the service manager that the loop still runs.
    pub fn feed_watchdog(&self) {
        self.notify("WATCHDOG=1");
    }

    /// Sends a status line to the service manager.
    pub fn status(&self, line: &str) {
        self.notify(&format!("STATUS={line}"));
    }
}
