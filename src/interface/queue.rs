//! Calls for an owner that handles one input at a time. A call waits in the owner's queue, and its caller waits for the
//! answer.

use std::fmt;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::access::{Caller, Descent};

/// Why a call got no answer from its owner.
pub(super) const NOT_NOW: &str = "the supervisor is starting or stopping";

/// A call in a queue. `H` is the trait of its handler.
pub struct Queued<H: ?Sized> {
    method: &'static str,
    act: Box<dyn FnOnce(&mut H) + Send>,
}

impl<H: ?Sized> Queued<H> {
    /// Calls the handler's function for this call.
    pub fn handle(self, handler: &mut H) {
        (self.act)(handler);
    }
}

impl<H: ?Sized> fmt::Debug for Queued<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queued").field(&self.method).finish()
    }
}

/// Takes the answer to one call. If it is dropped, the caller is told to call again later.
#[derive(Debug)]
pub struct Reply<T, E>(oneshot::Sender<Result<T, E>>);

impl<T, E> Reply<T, E> {
    /// Answers the call. If the caller has disconnected, the answer is dropped.
    pub fn send(self, answer: Result<T, E>) {
        let _ = self.0.send(answer);
    }

    /// Whether the caller still waits.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }
}

/// The side of the callers: an implementation of an interface that puts each call into the queue of its owner.
#[derive(Clone, Debug)]
pub struct CallQueue<I>(pub mpsc::Sender<I>);

impl<I> CallQueue<I> {
    /// Puts a call into the queue and waits for the answer. `None` if the owner has none within this bound, or is gone.
    pub(super) async fn ask<H: ?Sized, T: Send + 'static, E: Send + 'static>(
        &self,
        method: &'static str,
        within: Duration,
        act: impl FnOnce(&mut H, Reply<T, E>) + Send + 'static,
    ) -> Option<Result<T, E>>
    where
        I: From<Queued<H>>,
    {
        let (reply, answer) = oneshot::channel();
        let call = Queued { method, act: Box::new(move |handler: &mut H| act(handler, Reply(reply))) };
        self.0.send(call.into()).await.ok()?;
        tokio::time::timeout(within, answer).await.ok()?.ok()
    }
}

/// Checks that the caller of an act is an operator. The server already refuses all other callers; this is a second
/// check.
///
/// # Errors
/// Why the caller may not act, for a person.
pub(super) fn operators_only(caller: &Caller) -> Result<(), String> {
    match caller.descent {
        Descent::Operator => Ok(()),
        Descent::Unproven => Err(format!("process {} does not belong to an operator", caller.pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::operations::{Operations, OperationsError, OperationsHandler};

    struct Input(#[expect(dead_code, reason = "no handler takes it")] Queued<dyn OperationsHandler>);

    impl From<Queued<dyn OperationsHandler>> for Input {
        fn from(call: Queued<dyn OperationsHandler>) -> Self {
            Self(call)
        }
    }

    #[tokio::test]
    async fn an_act_needs_an_operator_and_every_answer_an_owner() {
        let (inputs, mut received) = mpsc::channel::<Input>(1);
        let queue = CallQueue(inputs);
        let mut caller = Caller { pid: 7, uid: 0, gid: 0, descent: Descent::Unproven };
        let refused = queue.pause(&caller).await;
        assert!(matches!(refused, Err(OperationsError::NotAllowed { .. })), "{refused:?}");
        assert!(received.try_recv().is_err(), "the handler never sees it");

        caller.descent = Descent::Operator;
        drop(received);
        let unanswered = queue.pause(&caller).await;
        assert!(matches!(unanswered, Err(OperationsError::Busy { .. })), "{unanswered:?}");
    }
}
