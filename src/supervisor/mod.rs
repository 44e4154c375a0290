//! The event loop that carries out what the lifecycle decides.
