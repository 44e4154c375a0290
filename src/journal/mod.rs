//! The append-only record from which every state can be rebuilt.
