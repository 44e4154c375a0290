//! Golden runs: recorded exchanges with known-good answers.
