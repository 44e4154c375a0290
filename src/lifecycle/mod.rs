//! The decision core. Pure.
