//! The event loop that carries out what the lifecycle decides.

pub mod chronicle;
pub mod paths;
pub mod record;
