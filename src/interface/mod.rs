//! The Runtime Evolution Interface: its types, its trait, its Varlink service and client.

pub mod types;
