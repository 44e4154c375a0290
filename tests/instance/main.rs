//! Instances with real processes: what they inherit, what they may not do, how they end and are found again.

mod adoption;
mod confinement;
mod ending;
mod helper;
mod lab;
mod spawning;
mod talking;

/// Not a test by itself: the program that the tests start in instances. It does what `REI_TEST_ACT` says.
#[test]
fn helper_program() {
    helper::act();
}
