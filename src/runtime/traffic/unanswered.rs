//! Users' connections that a version leaves without an answer.

use std::io;

use super::diag;
pub use super::diag::Unanswered;
use super::listeners::Traffic;
use super::slot::{Role, Slot};
use crate::config::types::ListenAddress;

impl Traffic {
    /// The connections of a slot whose client has sent something and has got no byte, in the queue or accepted. TCP only.
    /// Like [`Traffic::handshakes`], it reads the connections of the whole machine.
    ///
    /// # Errors
    /// If the system query fails.
    pub fn unanswered(&self, slot: Slot) -> io::Result<Vec<Unanswered>> {
        let mut all = Vec::new();
        for listen in self.addresses() {
            if let ListenAddress::Tcp(address) = listen.address {
                all.extend(diag::unanswered(address, Role::Slot(slot))?);
            }
        }
        Ok(all)
    }
}
