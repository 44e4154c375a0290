//! The programs of `examples/` that tests run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An example, built. Where there is no cargo, whoever brought this test brought its examples.
pub fn example(name: &str) -> PathBuf {
    let cargo = Path::new(env!("CARGO"));
    if cargo.exists() {
        let build = Command::new(cargo).args(["build", "--quiet", "--example", name]).status().unwrap();
        assert!(build.success(), "cargo build --example {name}");
    }
    let rei = Path::new(env!("CARGO_BIN_EXE_rei"));
    rei.parent().expect("a target directory").join("examples").join(name)
}
