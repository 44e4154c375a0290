//! What makes a start impossible: one error, and nothing is changed.

use crate::lab::{FLAKE, Lab, system};

/// `rei run` refuses with all these words, and says what to do next.
fn refuses(lab: &Lab, words: &[&str]) -> String {
    let output = lab.refused();
    println!("{output}");
    for word in words {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    assert!(output.contains("hint: "), "no next step in:\n{output}");
    assert!(!output.contains("panicked"), "{output}");
    output
}

#[test]
fn a_first_version_that_does_not_evaluate() {
    let Some(lab) = Lab::new() else { return };
    lab.write("flake.nix", "{ outputs = { self }: { packages = nonsense; }; }");
    lab.commit_tree("nonsense");
    refuses(&lab, &["undefined variable", "nonsense"]);
}

#[test]
fn a_first_version_that_does_not_build() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("does not build");
    refuses(&lab, &["a semicolon is missing"]);
}

#[test]
fn a_package_that_the_flake_does_not_have() {
    let Some(lab) = Lab::new() else { return };
    lab.write("flake.nix", &FLAKE.replace("SYSTEM.default", "SYSTEM.other").replace("SYSTEM", &system()));
    lab.commit_tree("other");
    refuses(&lab, &["default"]);
}

#[test]
fn a_command_that_the_first_version_does_not_have() {
    let Some(lab) = Lab::new() else { return };
    lab.reword("bin/unruly", "bin/absent");
    refuses(&lab, &["bin/absent"]);
}
