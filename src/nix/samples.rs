//! What each Nix version printed, word for word, for the tests of the parsers.
//!
//! Taken with Nix 2.8.0, 2.26.3 and 2.34.8 from one flake whose attributes fail in every way that its name says.

/// The versions, in the order in which [`samples`] gives their outputs.
pub(super) const VERSIONS: [&str; 3] = ["2.8", "2.26", "2.34"];

/// The sample of this name from each of [`VERSIONS`].
macro_rules! samples {
    ($name:literal) => {
        [
            include_str!(concat!("samples/2.8/", $name)),
            include_str!(concat!("samples/2.26/", $name)),
            include_str!(concat!("samples/2.34/", $name)),
        ]
    };
}

pub(super) use samples;
