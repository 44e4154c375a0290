//! Instances with real processes: what they inherit, what is forbidden, how they end, and how they are adopted.

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
