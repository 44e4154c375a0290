//! The answers, by what they look at.

pub(super) mod build;
pub(super) mod file;
pub(super) mod kernel;
pub(super) mod machine;
pub(super) mod source;
