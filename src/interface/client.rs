//! The callers' side of both interfaces: bounded in size and time, with one typed error for each fault of a peer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::evolution::{self, EvolutionError};
use super::method::Method;
use super::operations::{MonitorEvent, OperationsError, call};
use super::proof::{self, AccessError};
use super::secret::Secret;
use super::table::client;
use super::types::{EvolutionId, RuntimeHealthReport};
use super::wire::{Reader, WireError, Writer, encode};
use crate::time::millis;

/// The bound of connecting: the other side is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time that an answer needs from the supervisor to its caller, beside the bound of the answer itself.
const DELIVERY: Duration = Duration::from_secs(5);
/// The bound of a call about the caller itself, which the supervisor's server answers from memory.
const PROOF_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum length of a quoted part of an invalid reply, in characters.
const QUOTE_CHARS: usize = 120;

/// Why a call gave no reply. `E` are the errors of the interface.
#[derive(Debug, thiserror::Error)]
pub enum ClientError<E> {
    /// No process listens.
    #[error("no process answers on {path}")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The socket exists and cannot be reached.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The other side answered with an error of the interface.
    #[error(transparent)]
    Answered(E),
    /// The supervisor cannot distinguish this process from a process of an instance, and this process cannot read the
    /// secret that would prove the difference.
    #[error("the supervisor takes this process for one of an instance, and {path} cannot be read")]
    Unproven {
        /// The secret's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The supervisor did not take the proof.
    #[error("not allowed: {reason}")]
    NotProven {
        /// Why, for a person.
        reason: String,
    },
    /// The other side does not know the method, the parameter or the interface. Perhaps it is another version of rei.
    #[error("{method} is not served: {error}")]
    NotServed {
        /// The method.
        method: &'static str,
        /// The error's name and parameters.
        error: String,
    },
    /// The message is not a valid reply.
    #[error("{method} was answered with garbage: {detail}")]
    Garbage {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The reply is larger than the bound; the rest of it was not read.
    #[error("the reply to {method} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The method.
        method: &'static str,
        /// The bound, in bytes.
        limit_bytes: u64,
    },
    /// No reply came in time.
    #[error("{method} was not answered within {after:?}")]
    Timeout {
        /// The method.
        method: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The connection ended before the reply.
    #[error("the connection ended before {method} was answered")]
    Closed {
        /// The method.
        method: &'static str,
    },
    /// The connection failed.
    #[error("the connection failed at {method}")]
    Wire {
        /// The method.
        method: &'static str,
        /// How.
        #[source]
        source: WireError,
    },
}

impl ClientError<OperationsError> {
    /// The next step of an operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning { .. } => Some("start the supervisor: `rei run`".into()),
            Self::Connect { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("call as the user who runs the supervisor, one of the group `state.operators`, or root".into())
            }
            Self::Unproven { .. } => Some(
                "call from a process without no_new_privs (`grep NoNewPrivs /proc/self/status` says 0), or as a user who may \
                 read that file"
                    .into(),
            ),
            Self::NotProven { .. } => Some("call again: the secret changes when the supervisor is started".into()),
            Self::NotServed { .. } => Some("the supervisor is of another version: `rei status` says which".into()),
            Self::Answered(error) => error.hint(),
            _ => None,
        }
    }
}

/// One call, on its own connection.
#[derive(Debug)]
struct Conversation {
    reader: Reader,
    writer: Writer,
}

impl Conversation {
    async fn connect<E>(path: &Path) -> Result<Self, ClientError<E>> {
        let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(stream) => Ok(Self::over(stream)),
            Err(source) => {
                use std::io::ErrorKind::{ConnectionRefused, NotFound};
                let path = path.to_owned();
                Err(match source.kind() {
                    ConnectionRefused | NotFound => ClientError::NotRunning { path, source },
                    _ => ClientError::Connect { path, source },
                })
            }
        }
    }

    /// A conversation with the supervisor. If this process could be a process of an instance, it proves to the
    /// supervisor that it is none. It sends the secret to no other process.
    async fn with_supervisor<E: DeserializeOwned>(path: &Path) -> Result<Self, ClientError<E>> {
        let mut conversation = Self::connect(path).await?;
        let method = proof::call::Standing::NAME;
        conversation.send(&proof::call::Standing {}, false).await?;
        let message = conversation.message(method, PROOF_TIMEOUT).await?;
        match read_reply::<proof::call::StandingReply, E>(method, &message) {
            Ok((proof::call::StandingReply { proven: false }, _)) => conversation.prove(path).await?,
            // There is nothing to prove, or an older supervisor does not know this call. The real call shows which.
            Ok(_) | Err(ClientError::NotServed { .. }) => {}
            Err(refused) => return Err(refused),
        }
        Ok(conversation)
    }

    async fn prove<E>(&mut self, socket: &Path) -> Result<(), ClientError<E>> {
        let path = Secret::file_beside(socket);
        let secret = Secret::read(&path).map_err(|source| ClientError::Unproven { path, source })?;
        let method = proof::call::Prove::NAME;
        self.send(&proof::call::Prove { secret }, false).await?;
        let message = self.message(method, PROOF_TIMEOUT).await?;
        match read_reply::<proof::call::ProveReply, AccessError>(method, &message) {
            Ok(_) => Ok(()),
            Err(ClientError::Answered(
                AccessError::NotAllowed { reason } | AccessError::ProofNeeded { reason, .. },
            )) => Err(ClientError::NotProven { reason }),
            Err(_) => Err(ClientError::Garbage { method, detail: quote(&message) }),
        }
    }

    fn over(stream: UnixStream) -> Self {
        let (reading, writing) = stream.into_split();
        Self { reader: Reader::new(reading), writer: Writer::new(writing) }
    }

    async fn send<M: Method, E>(&mut self, call: &M, more: bool) -> Result<(), ClientError<E>> {
        #[derive(Debug, Serialize)]
        struct RawCall<'a, M> {
            method: &'static str,
            parameters: &'a M,
        }
        let call = zlink::Call::new(RawCall { method: M::NAME, parameters: call }).set_more(more);
        let message = encode(&call).map_err(|source| ClientError::Wire { method: M::NAME, source })?;
        match self.writer.send(&message).await {
            // A peer that refuses may have closed its side already; its answer can still be read.
            Err(WireError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(|source| ClientError::Wire { method: M::NAME, source }),
        }
    }

    /// The next reply and whether more follow; `after` is how long to wait for it.
    async fn receive<M: Method, E: DeserializeOwned>(
        &mut self,
        after: Duration,
    ) -> Result<(M::Reply, bool), ClientError<E>> {
        read_reply(M::NAME, &self.message(M::NAME, after).await?)
    }

    async fn message<E>(&mut self, method: &'static str, after: Duration) -> Result<Vec<u8>, ClientError<E>> {
        match timeout(after, self.reader.message()).await {
            Err(_) => Err(ClientError::Timeout { method, after }),
            Ok(Err(WireError::TooLarge { limit })) => Err(ClientError::TooLarge { method, limit_bytes: limit as u64 }),
            Ok(Err(WireError::Ended { bytes })) => {
                let detail = format!("the connection ended after {bytes} bytes of a message");
                Err(ClientError::Garbage { method, detail })
            }
            Ok(Err(source)) => Err(ClientError::Wire { method, source }),
            Ok(Ok(None)) => Err(ClientError::Closed { method }),
            Ok(Ok(Some(message))) => Ok(message),
        }
    }

    async fn call<M: Method, E: DeserializeOwned>(
        mut self,
        call: &M,
        after: Duration,
    ) -> Result<M::Reply, ClientError<E>> {
        self.send(call, false).await?;
        self.receive::<M, E>(after).await.map(|(reply, _)| reply)
    }
}

/// Distinguishes replies, errors and invalid messages.
fn read_reply<R: DeserializeOwned, E: DeserializeOwned>(
    method: &'static str,
    message: &[u8],
) -> Result<(R, bool), ClientError<E>> {
    let garbage = |detail: String| ClientError::Garbage { method, detail };
    let reply: Value =
        serde_json::from_slice(message).map_err(|error| garbage(format!("{error} in {}", quote(message))))?;
    if let Some(name) = reply.get("error").and_then(Value::as_str) {
        if let Ok(error) = E::deserialize(&reply) {
            return Err(ClientError::Answered(error));
        }
        let parameters = reply.get("parameters").map(Value::to_string).unwrap_or_default();
        let error = quote(format!("{name} {parameters}").trim_end().as_bytes());
        return Err(ClientError::NotServed { method, error });
    }
    let Value::Object(mut reply) = reply else { return Err(garbage(format!("no object: {}", quote(message)))) };
    let continues = reply.get("continues").and_then(Value::as_bool).unwrap_or(false);
    let parameters = reply.remove("parameters").unwrap_or_else(|| Value::Object(Default::default()));
    let parameters = serde_json::from_value(parameters).map_err(|error| garbage(error.to_string()))?;
    Ok((parameters, continues))
}

/// The beginning of an invalid message, safe to print.
fn quote(message: &[u8]) -> String {
    let head = &message[..message.len().min(4 * QUOTE_CHARS)];
    let text: String = String::from_utf8_lossy(head).chars().take(QUOTE_CHARS).collect();
    text.escape_debug().to_string()
}

/// Replies to one call with `more`.
#[derive(Debug)]
struct Stream {
    conversation: Conversation,
    ended: bool,
}

impl Stream {
    async fn next<M: Method, E: DeserializeOwned>(
        &mut self,
        after: Duration,
    ) -> Option<Result<M::Reply, ClientError<E>>> {
        if self.ended {
            return None;
        }
        let next = self.conversation.receive::<M, E>(after).await;
        self.ended = !matches!(next, Ok((_, true)) | Err(ClientError::Timeout { .. }));
        Some(next.map(|(reply, _)| reply))
    }
}

/// An operator's client of the supervisor. Each call has its own connection, so no connection becomes stale.
#[derive(Clone, Debug)]
pub struct OperationsClient {
    path: PathBuf,
}

/// The error of an operator's call.
pub type Operation<T> = Result<T, ClientError<OperationsError>>;

impl OperationsClient {
    /// Checks that a supervisor listens on `path`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], with a hint, or [`ClientError::Connect`].
    pub async fn connect(path: impl Into<PathBuf>) -> Operation<Self> {
        let client = Self { path: path.into() };
        Conversation::connect::<OperationsError>(&client.path).await?;
        Ok(client)
    }

    /// `within` is the bound that the supervisor has for its answer.
    async fn call<M: Method>(&self, call: M, within: Duration) -> Operation<M::Reply> {
        Conversation::with_supervisor(&self.path).await?.call(&call, within.saturating_add(DELIVERY)).await
    }

    /// Everything that happens from now on.
    ///
    /// # Errors
    /// If the supervisor cannot be reached; its refusal is the first item.
    pub async fn monitor(&self) -> Operation<Events> {
        let mut conversation = Conversation::with_supervisor(&self.path).await?;
        conversation.send(&call::Monitor {}, true).await?;
        Ok(Events(Stream { conversation, ended: false }))
    }
}

/// The functions of the table, one for each operation.
mod operations_functions {
    use super::super::operations::{
        ANSWER, GoldenQualified, GoldenRecording, HistoryEntry, QUALIFY, QuarantineEntry, RECALL, TrafficStatus, call,
        operations,
    };
    use super::*;

    impl OperationsClient {
        operations!(client);
    }
}

/// Events of `Monitor`.
#[derive(Debug)]
pub struct Events(Stream);

impl Events {
    /// The next event, however long it takes; `None` after the last item, which is an error. Cancel safe.
    pub async fn next(&mut self) -> Option<Operation<MonitorEvent>> {
        let next = self.0.next::<call::Monitor, OperationsError>(Duration::MAX).await?;
        Some(next.map(|reply| reply.event))
    }
}

/// A client of `io.openexec.RuntimeEvolution`: of the supervisor to a runtime, and of automation to the supervisor.
#[derive(Clone, Debug)]
pub struct EvolutionClient {
    path: PathBuf,
    patience: Duration,
    of_supervisor: bool,
}

/// The error of a call of the Runtime Evolution Interface.
pub type Evolution<T> = Result<T, ClientError<EvolutionError>>;

impl EvolutionClient {
    /// The runtime that listens on `path`. Each call waits this long for its reply. Nothing is sent yet.
    pub fn new(path: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { path: path.into(), patience, of_supervisor: false }
    }

    /// The supervisor that listens on `path`, which may ask for a proof. Each call waits this long for its reply; a build
    /// or a validation needs minutes. Nothing is sent yet.
    pub fn of_supervisor(path: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { path: path.into(), patience, of_supervisor: true }
    }

    async fn connect(&self) -> Evolution<Conversation> {
        if self.of_supervisor {
            Conversation::with_supervisor(&self.path).await
        } else {
            Conversation::connect(&self.path).await
        }
    }

    /// The services have no bound of their own for these answers, so only the caller's patience counts.
    async fn call<M: Method>(&self, call: M, _its_own: Duration) -> Evolution<M::Reply> {
        self.connect().await?.call(&call, self.patience).await
    }

    /// A health report every `interval`; the first at once.
    ///
    /// # Errors
    /// If the other side cannot be reached.
    pub async fn stream_runtime_health(&self, interval: Duration) -> Evolution<HealthReports> {
        let mut conversation = self.connect().await?;
        let interval_ms = Some(millis(interval));
        conversation.send(&evolution::call::ReportRuntimeHealth { interval_ms }, true).await?;
        Ok(HealthReports(Stream { conversation, ended: false }))
    }
}

/// The functions of the table, one for each call.
mod evolution_functions {
    use super::super::evolution::{ITS_OWN, call, evolution};
    use super::super::types::{CandidateRuntime, EvolutionContext, IncidentId, ValidationReport};
    use super::*;

    impl EvolutionClient {
        evolution!(client);
    }
}

/// Reports of `ReportRuntimeHealth` with `more`.
#[derive(Debug)]
pub struct HealthReports(Stream);

impl HealthReports {
    /// The next report. Nothing within `silence` is [`ClientError::Timeout`], after which the stream can still be asked;
    /// after any other error it is over and gives `None`. Cancel safe.
    pub async fn next(&mut self, silence: Duration) -> Option<Evolution<RuntimeHealthReport>> {
        let next = self.0.next::<evolution::call::ReportRuntimeHealth, EvolutionError>(silence).await?;
        Some(next.map(|reply| reply.report))
    }
}
