//! Arguments to commands, nothing else.

fn main() {}
