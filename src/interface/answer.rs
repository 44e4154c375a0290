//! What a service is to the server: an interface that answers calls.

use std::future::Future;

use serde::Serialize;
use serde_json::Value;
use zlink::varlink_service;

use super::access::Caller;
use super::method::{BadCall, Method};
use super::types::MESSAGE_BYTES_MAX;
use super::wire::{WireError, Writer, encode};

/// An interface of Varlink, its definition and its errors.
pub trait Interface {
    /// Its name in reverse-domain notation.
    const NAME: &'static str;
    /// The text of its definition file.
    const DEFINITION: &'static str;
    /// Its errors, written as whole Varlink error replies.
    type Error: Serialize + Send + Sync;

    /// The error for a caller that may not call.
    fn not_allowed(reason: String) -> Self::Error;
    /// The error for a caller whose connection is closed, or that has to call again later.
    fn busy(reason: String) -> Self::Error;
    /// The error in place of a reply that is larger than `limit_bytes`.
    fn too_large(limit_bytes: u64) -> Self::Error;
}

/// A service that answers the calls of one interface.
pub trait Answer: Interface + Send + Sync + 'static {
    /// Answers one call. `method` is the name without its interface. Dropped when the caller goes away.
    fn answer(
        &self,
        caller: &Caller,
        method: &str,
        parameters: Value,
        to: &mut ReplyTo,
    ) -> impl Future<Output = Result<(), WireError>> + Send;
}

/// Sends the replies to one call.
#[derive(Debug)]
pub struct ReplyTo {
    writer: Writer,
    method: String,
    more: bool,
    oneway: bool,
}

impl ReplyTo {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, method: String::new(), more: false, oneway: false }
    }

    pub(super) fn begin(&mut self, method: String, more: bool, oneway: bool) {
        // A stream that no caller receives would never end.
        (self.method, self.more, self.oneway) = (method, more && !oneway, oneway);
    }

    /// Whether a message was begun and not finished. Then no other message can follow on this connection.
    pub(super) fn is_broken_off(&self) -> bool {
        self.writer.is_broken_off()
    }

    /// Whether the caller asked for more than one reply.
    pub(super) fn more(&self) -> bool {
        self.more
    }

    /// The one reply to a call of `M`, or its error.
    pub(super) async fn finish<I: Interface, M: Method>(
        &mut self,
        result: Result<M::Reply, I::Error>,
    ) -> Result<(), WireError> {
        match result {
            Ok(reply) => self.reply::<I>(&reply, false).await,
            Err(error) => self.error(&error).await,
        }
    }

    /// One of many replies to a call of `M`.
    pub(super) async fn next<I: Interface, M: Method>(&mut self, reply: &M::Reply) -> Result<(), WireError> {
        self.reply::<I>(reply, true).await
    }

    async fn reply<I: Interface>(&mut self, parameters: &impl Serialize, continues: bool) -> Result<(), WireError> {
        let reply = zlink::Reply::new(Some(parameters)).set_continues(continues.then_some(true));
        match encode(&reply) {
            Err(WireError::TooLarge { .. }) => self.error(&I::too_large(MESSAGE_BYTES_MAX as u64)).await,
            encoded => self.send(&encoded?).await,
        }
    }

    /// A reply outside of the interface, which cannot be too large.
    pub(super) async fn plain(&mut self, parameters: &impl Serialize) -> Result<(), WireError> {
        self.send(&encode(&zlink::Reply::new(Some(parameters)))?).await
    }

    /// An error reply.
    pub(super) async fn error(&mut self, error: &impl Serialize) -> Result<(), WireError> {
        self.send(&encode(error)?).await
    }

    /// The error reply for a call that is not one of the interface.
    pub(super) async fn bad_call(&mut self, bad: BadCall) -> Result<(), WireError> {
        let error = match bad {
            BadCall::Method => varlink_service::Error::MethodNotFound { method: self.method.clone().into() },
            BadCall::Parameter(parameter) => varlink_service::Error::InvalidParameter { parameter: parameter.into() },
        };
        self.error(&error).await
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), WireError> {
        if self.oneway { Ok(()) } else { self.writer.send(message).await }
    }
}
