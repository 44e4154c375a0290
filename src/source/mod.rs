//! The runtime's git repository.
