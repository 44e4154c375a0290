//! The server of one socket: one task for each connection, and a bound on everything.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zlink::varlink_service;

use super::access::{Access, Caller, Descent};
use super::answer::{Answer, ReplyTo};
use super::crowd::{Crowd, GUEST_CONNECTIONS_MAX, Place, STREAMS_MAX, Whose};
use super::proof::{self, AccessError};
use super::socket::Socket;
use super::wire::{Reader, WireError, Writer};

/// Maximum number of callers at a time that get an error because they are refused or have to free their place. More are
/// disconnected without an error, so that they take no place from other callers.
const PARTING_MAX: usize = 4;
/// The bound from connecting to the whole first call: a caller connects to call.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The bound from one answer to the next whole call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The bound from refusal to the call that gets the error, and of the last error of a stream that is closed.
const PARTING_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after a connection could not be accepted because descriptors or memory were missing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const SERVICE_INTERFACE: &str = "org.varlink.service";

/// The part of a call that every interface has in common.
#[derive(Debug, Deserialize)]
struct RawCall {
    method: String,
    #[serde(default)]
    parameters: Value,
}

/// Serves until the future is dropped, which ends all connections.
pub(super) async fn serve<A: Answer>(socket: Socket, service: Arc<A>, access: Access) {
    let crowd = Crowd::default();
    let parting = Arc::new(Semaphore::new(PARTING_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            crowd.wait_for_place().await;
            socket.listener().accept().await
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, interface = A::NAME, "a connection's task failed");
                }
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, interface = A::NAME, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let refused = match access.check(&stream) {
            Ok(caller) => match crowd.enter(whose(&caller, &access)) {
                Some(place) => {
                    let (service, access, parting) = (Arc::clone(&service), access.clone(), Arc::clone(&parting));
                    connections.spawn(async move {
                        let pid = caller.pid;
                        if let Err(error) = converse(stream, caller, &access, &*service, place, &parting).await {
                            tracing::debug!(pid, interface = A::NAME, ?error, "dropped a connection");
                        }
                    });
                    continue;
                }
                None => A::busy(format!("{GUEST_CONNECTIONS_MAX} calls of this user are under way")),
            },
            Err(refusal) => {
                // The owner got the refusal and logs it once; a caller that tries again and again must not fill the log.
                tracing::debug!(interface = A::NAME, "refused a caller: {refusal}");
                A::not_allowed(refusal.to_string())
            }
        };
        if let Ok(turn) = Arc::clone(&parting).try_acquire_owned() {
            connections.spawn(async move {
                // It is refused whether or not it gets the error.
                let _ = timeout(PARTING_TIMEOUT, refuse(stream, &refused)).await;
                drop(turn);
            });
        }
    }
}

/// Whose places a caller takes.
fn whose(caller: &Caller, access: &Access) -> Whose {
    match caller.descent {
        Descent::Unproven => Whose::Unproven,
        Descent::Operator if access.is_owner(caller) => Whose::Owner,
        Descent::Operator => Whose::Guest(caller.uid),
    }
}

/// Answers one connection's calls in their order.
async fn converse<A: Answer>(
    stream: UnixStream,
    mut caller: Caller,
    access: &Access,
    service: &A,
    mut place: Place,
    parting: &Semaphore,
) -> Result<(), WireError> {
    let (reading, writing) = stream.into_split();
    let (mut reader, mut to) = (Reader::new(reading), ReplyTo::new(Writer::new(writing)));
    let mut patience = HANDSHAKE_TIMEOUT;
    loop {
        let message = tokio::select! {
            message = timeout(patience, reader.message()) => message,
            () = place.left() => return Ok(()),
        };
        let Ok(message) = message else { return Ok(()) };
        let Some(message) = message? else { return Ok(()) };
        // Varlink has no error for a message that is not a call, so the connection ends.
        let call: zlink::Call<RawCall> = serde_json::from_slice(&message).map_err(WireError::Json)?;
        drop(message);
        let RawCall { method, parameters } = call.method();
        to.begin(method.clone(), call.more(), call.oneway());
        place.calls(to.more());
        let parameters = if parameters.is_null() { Value::Object(Default::default()) } else { parameters.clone() };
        if let Some((proof::NAME, name)) = method.rsplit_once('.').filter(|_| access.may_ask_for_proof()) {
            match prove(caller, access, name, parameters, &mut to).await? {
                Some(proven) => caller = proven,
                None => return Ok(()),
            }
            place.belongs_to(whose(&caller, access));
        } else {
            let answer = answer(service, &caller, access, method, parameters, &mut to);
            let goes = tokio::select! {
                biased;
                answered = answer => answered.map(|()| false)?,
                () = reader.gone() => return Ok(()),
                () = place.left() => true,
            };
            if goes {
                drop(place);
                return part::<A>(&mut to, parting).await;
            }
        }
        place.waits();
        if caller.descent == Descent::Operator {
            patience = IDLE_TIMEOUT;
        }
    }
}

/// Sends the last error of a stream.
async fn part<A: Answer>(to: &mut ReplyTo, parting: &Semaphore) -> Result<(), WireError> {
    let Ok(_turn) = parting.try_acquire() else { return Ok(()) };
    if to.is_broken_off() {
        return Ok(());
    }
    let reason = format!("there are more than {STREAMS_MAX} streams, and this was the oldest of them");
    // It ends whether or not it gets the error.
    timeout(PARTING_TIMEOUT, to.error(&A::busy(reason))).await.unwrap_or(Ok(()))
}

async fn answer<A: Answer>(
    service: &A,
    caller: &Caller,
    access: &Access,
    method: &str,
    parameters: Value,
    to: &mut ReplyTo,
) -> Result<(), WireError> {
    match (method.rsplit_once('.'), caller.descent) {
        (Some((SERVICE_INTERFACE, name)), _) => about::<A>(access, name, &parameters, to).await,
        (_, Descent::Unproven) => to.error(&proof_needed(caller, access)).await,
        (Some((interface, name)), Descent::Operator) if interface == A::NAME => {
            service.answer(caller, name, parameters, to).await
        }
        (Some((interface, _)), Descent::Operator) => {
            to.error(&varlink_service::Error::InterfaceNotFound { interface: interface.into() }).await
        }
        (None, Descent::Operator) => to.error(&varlink_service::Error::MethodNotFound { method: method.into() }).await,
    }
}

/// The error for a caller that could be a descendant of an instance.
fn proof_needed(caller: &Caller, access: &Access) -> AccessError {
    let reason = format!("process {} has no_new_privs, as each process of an instance has", caller.pid);
    let file = access.secret_file().unwrap_or_default();
    AccessError::ProofNeeded { reason, secret_file: file.display().to_string() }
}

/// `io.openexec.Access`: the caller as it stands now; `None` if it was refused, which ends the connection.
async fn prove(
    caller: Caller,
    access: &Access,
    name: &str,
    parameters: Value,
    to: &mut ReplyTo,
) -> Result<Option<Caller>, WireError> {
    let given = match proof::call::Call::read(name, parameters) {
        Ok(proof::call::Call::Standing(_)) => {
            let proven = caller.descent == Descent::Operator;
            return to.plain(&proof::call::StandingReply { proven }).await.map(|()| Some(caller));
        }
        Ok(proof::call::Call::Prove(call)) => call.secret,
        Err(bad) => return to.bad_call(bad).await.map(|()| Some(caller)),
    };
    match access.check_secret(caller, &given) {
        Ok(proven) => to.plain(&proof::call::ProveReply {}).await.map(|()| Some(proven)),
        Err(refusal) => to.error(&AccessError::NotAllowed { reason: refusal.to_string() }).await.map(|()| None),
    }
}

/// `org.varlink.service`: what this service is.
async fn about<A: Answer>(access: &Access, name: &str, parameters: &Value, to: &mut ReplyTo) -> Result<(), WireError> {
    match name {
        "GetInfo" => {
            let own = [SERVICE_INTERFACE, A::NAME];
            let interfaces = own.into_iter().chain(access.may_ask_for_proof().then_some(proof::NAME));
            let info = varlink_service::Info::new("OpenExec", "rei", env!("CARGO_PKG_VERSION"), "", interfaces);
            match info {
                Ok(info) => to.plain(&info).await,
                Err(_) => to.error(&varlink_service::Error::InterfaceNotFound { interface: A::NAME.into() }).await,
            }
        }
        "GetInterfaceDescription" => match parameters["interface"].as_str() {
            Some(SERVICE_INTERFACE) => {
                to.plain(&varlink_service::InterfaceDescription::from(varlink_service::DESCRIPTION)).await
            }
            Some(interface) if interface == A::NAME => {
                to.plain(&serde_json::json!({ "description": A::DEFINITION })).await
            }
            Some(proof::NAME) if access.may_ask_for_proof() => {
                to.plain(&serde_json::json!({ "description": proof::DEFINITION })).await
            }
            Some(interface) => {
                to.error(&varlink_service::Error::InterfaceNotFound { interface: interface.into() }).await
            }
            None => to.error(&varlink_service::Error::InvalidParameter { parameter: "interface".into() }).await,
        },
        _ => to.bad_call(super::method::BadCall::Method).await,
    }
}

/// Answers the first call with the refusal; an answer before it would be lost on most clients.
async fn refuse(stream: UnixStream, error: &(impl serde::Serialize + Sync)) -> Result<(), WireError> {
    let (reading, writing) = stream.into_split();
    if Reader::new(reading).message().await?.is_some() {
        ReplyTo::new(Writer::new(writing)).error(error).await?;
    }
    Ok(())
}
