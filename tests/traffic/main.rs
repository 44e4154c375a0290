//! The traffic of a runtime and the keeper of its descriptors, on the real kernel.

mod adoption;
mod captures;
mod keeper;
mod listeners;
mod poison;
mod support;
mod tap;
