//! `io.openexec.Access`: how a caller proves that it descends from no instance and no agent.
//!
//! The supervisor's sockets serve it beside their own interface. A caller needs it only if nothing else shows its
//! descent: see [`super::access`]. The caller reads the secret from its file and sends it on the same connection.

/// The name of the interface.
pub const NAME: &str = "io.openexec.Access";

/// The interface definition file.
pub const DEFINITION: &str = include_str!("../../interface/io.openexec.Access.varlink");

/// The errors of the interface.
#[derive(Clone, Debug, PartialEq, Eq, zlink::ReplyError, zlink::introspect::ReplyError)]
#[zlink(interface = "io.openexec.Access")]
pub enum AccessError {
    /// The call was not made: the caller must call Prove first, on this connection, and then call again.
    ProofNeeded {
        /// Why, for a person.
        reason: String,
        /// The file that has the secret; it is beside the socket.
        secret_file: String,
    },
    /// The caller may not call, whatever it proves. The connection ends.
    NotAllowed {
        /// Why, for a person.
        reason: String,
    },
}

/// Inputs and replies of the methods.
pub mod call {
    super::super::method::methods! { "io.openexec.Access";
        /// Whether the caller may call, or has to call Prove first.
        Standing() -> StandingReply(proven: bool);

        /// Proves that the caller descends from no instance: `secret` is what is in the file that ProofNeeded names. Holds for
        /// this connection. Errors: NotAllowed.
        Prove(secret: String) -> ProveReply();
    }
}

/// The types that the interface's definition names, in its order.
#[cfg(test)]
pub(super) fn definition() -> zlink::idl::Interface<'static> {
    super::idl::interface(
        NAME,
        &[
            "How a caller of rei proves that it descends from no instance and no agent, on each of the supervisor's sockets.",
            "",
            "Each instance and each agent has given up new privileges (no_new_privs), and so have its descendants, for good. A",
            "caller that has not need prove nothing. A caller that has, in a container or a hardened unit, gets ProofNeeded for every",
            "call of another interface until it has called Prove.",
        ],
        call::methods(),
        Vec::new(),
        <AccessError as zlink::introspect::ReplyError>::VARIANTS,
    )
}
