//! For runtime authors: serve health and context to the supervisor, on the socket that it hands down.
//!
//! ```no_run
//! use rei::interface::runtime::{self, Runtime};
//! use rei::interface::types::{HealthStatus, RuntimeHealthReport};
//!
//! struct Greeter;
//!
//! impl Runtime for Greeter {
//!     fn health(&self) -> RuntimeHealthReport {
//!         RuntimeHealthReport { status: HealthStatus::Ok, ready: Some(true), ..Default::default() }
//!     }
//! }
//!
//! // Beside the program's own work; without a supervisor nothing happens.
//! let _serving = runtime::spawn(Greeter);
//! ```

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::access::Access;
use super::evolution::{EvolutionError, RuntimeEvolution, serve_evolution};
use super::socket::Socket;
use super::types::{CandidateRuntime, EvolutionContext, IncidentId, RuntimeHealthReport, SCHEMA, ValidationReport};
use crate::time::{Timestamp, millis};

/// The name of the socket in `LISTEN_FDNAMES`.
pub const SOCKET_NAME: &str = "rei";

/// The first inherited descriptor of socket activation: the standard three come before it.
pub const LISTEN_FDS_START: RawFd = 3;

/// What a runtime says about itself. Both are called on the thread that serves: they must not block it.
pub trait Runtime: Send + Sync + 'static {
    /// The health now. `schema`, `seq`, `observed_at` and `provider` are filled in if they are left at their default.
    fn health(&self) -> RuntimeHealthReport;

    /// What may help to understand the incident; `null` for nothing. It must hold no secrets.
    fn context(&self, incident: &IncidentId) -> Value {
        let _ = incident;
        Value::Null
    }
}

/// A pair of closures is a runtime.
impl<H, C> Runtime for (H, C)
where
    H: Fn() -> RuntimeHealthReport + Send + Sync + 'static,
    C: Fn(&IncidentId) -> Value + Send + Sync + 'static,
{
    fn health(&self) -> RuntimeHealthReport {
        (self.0)()
    }

    fn context(&self, incident: &IncidentId) -> Value {
        (self.1)(incident)
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No socket named `rei` was handed down: no supervisor is there, or its rei.toml has no `health.interface`.
    #[error("no socket named {SOCKET_NAME} was inherited")]
    NotInherited,
    /// What was handed down is no listening Unix socket, or no thread could be started.
    #[error("cannot serve on the inherited socket")]
    Socket(#[source] std::io::Error),
}

/// Serves on the inherited socket, on a tokio runtime of the caller's, until the future is dropped.
///
/// # Errors
/// As [`RuntimeError`] says. The socket can be taken only once in a process.
pub async fn serve(runtime: impl Runtime) -> Result<(), RuntimeError> {
    let socket = Socket::adopt(inherited()?, None).map_err(RuntimeError::Socket)?;
    serve_on(socket, runtime).await;
    Ok(())
}

/// Serves on a thread of its own, for programs without tokio.
///
/// # Errors
/// As [`RuntimeError`] says.
pub fn spawn(runtime: impl Runtime) -> Result<std::thread::JoinHandle<()>, RuntimeError> {
    let listener = inherited()?;
    let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RuntimeError::Socket)?;
    let socket = {
        let _context = reactor.enter();
        Socket::adopt(listener, None).map_err(RuntimeError::Socket)?
    };
    let serve = move || reactor.block_on(serve_on(socket, runtime));
    std::thread::Builder::new().name("rei".into()).spawn(serve).map_err(RuntimeError::Socket)
}

/// Serves on any socket until the future is dropped.
pub async fn serve_on(socket: Socket, runtime: impl Runtime) {
    // The supervisor made the socket and decides who reaches it.
    serve_evolution(socket, Arc::new(Native { runtime, reports: AtomicU64::new(0) }), Access::anyone()).await;
}

fn inherited() -> Result<OwnedFd, RuntimeError> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let fd =
        position(std::process::id(), &variable("LISTEN_PID"), &variable("LISTEN_FDS"), &variable("LISTEN_FDNAMES"))
            .ok_or(RuntimeError::NotInherited)?;
    // A copy that is closed on execution; the inherited one stays, and with it the promise of the environment.
    // SAFETY: fcntl duplicates whatever the number names, or fails, and touches no memory of ours.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, LISTEN_FDS_START) };
    if copy < 0 {
        return Err(RuntimeError::Socket(std::io::Error::last_os_error()));
    }
    // SAFETY: the copy is new, and no other code owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Which descriptor has the name, if these variables are meant for this process.
fn position(own_pid: u32, pid: &str, count: &str, names: &str) -> Option<RawFd> {
    let count: usize = count.parse().ok().filter(|_| pid.parse() == Ok(own_pid))?;
    let index = names.split(':').take(count).position(|name| name == SOCKET_NAME)?;
    Some(LISTEN_FDS_START + RawFd::try_from(index).ok()?)
}

/// A runtime as a server of the interface: it can be asked, and can do nothing.
struct Native<R> {
    runtime: R,
    reports: AtomicU64,
}

impl<R: Runtime> RuntimeEvolution for Native<R> {
    async fn report_runtime_health(&self) -> Result<RuntimeHealthReport, EvolutionError> {
        let mut report = self.runtime.health();
        let seq = self.reports.fetch_add(1, Ordering::Relaxed) + 1;
        if report.schema.is_empty() {
            report.schema = SCHEMA.into();
        }
        if report.provider.is_empty() {
            report.provider = "native".into();
        }
        if report.seq == 0 {
            report.seq = seq;
        }
        if report.observed_at == Timestamp::default() {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            report.observed_at = Timestamp::from_unix_ms(millis(since_epoch));
        }
        Ok(report)
    }

    async fn collect_evolution_context(&self, incident_id: IncidentId) -> Result<EvolutionContext, EvolutionError> {
        let context = self.runtime.context(&incident_id);
        Ok(EvolutionContext {
            schema: SCHEMA.into(),
            incident_id: Some(incident_id),
            collected_by: "runtime".into(),
            complete: true,
            runtime_context: Some(context).filter(|context| !context.is_null()),
            ..Default::default()
        })
    }

    async fn build_candidate_runtime(&self, _: EvolutionContext) -> Result<CandidateRuntime, EvolutionError> {
        Err(EvolutionError::NotAvailable { reason: "a runtime builds nothing; ask the supervisor".into() })
    }

    async fn validate_candidate(&self, _: CandidateRuntime) -> Result<ValidationReport, EvolutionError> {
        Err(EvolutionError::NotAvailable { reason: "a runtime judges nothing; ask the supervisor".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_by_its_name_and_only_if_it_is_meant_for_us() {
        assert_eq!(position(7, "7", "2", "http:rei"), Some(4));
        assert_eq!(position(7, "8", "2", "http:rei"), None, "for another process");
        assert_eq!(position(7, "7", "1", "http:rei"), None, "beyond the count");
        assert_eq!(position(7, "7", "2", "http:admin"), None);
        assert_eq!(position(7, "", "", ""), None);
    }
}
