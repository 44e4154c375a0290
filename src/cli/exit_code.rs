//! The numbers that commands end with. They are a promise: scripts decide by them.

/// It is done, or all is well.
pub const SUCCESS: u8 = 0;
/// It could not be done; the message says why.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// rei.toml is wrong or cannot be read.
pub const CONFIG: u8 = 3;
/// No supervisor answers.
pub const NOT_RUNNING: u8 = 4;
/// The supervisor refuses: the caller, the phase, the budget or the quarantine does not allow it.
pub const REFUSED: u8 = 5;
/// `check` or `golden replay` found something that must be put right.
pub const FINDINGS: u8 = 6;
/// The journal is damaged.
pub const DAMAGED: u8 = 7;
/// Another supervisor has the state directory.
pub const BUSY: u8 = 8;
/// What was waited for did not come in time.
pub const TIMED_OUT: u8 = 9;
/// The evolution that was waited for ended with the candidate rejected.
pub const REJECTED: u8 = 10;
/// The evolution that was waited for ended with Previous restored.
pub const ROLLED_BACK: u8 = 11;
/// A mistake in rei itself.
pub const INTERNAL: u8 = 70;

/// The table for `rei help` and the documentation.
pub const TABLE: [(u8, &str); 13] = [
    (SUCCESS, "it is done, or all is well"),
    (FAILED, "it could not be done; the message says why"),
    (USAGE, "the command line is wrong"),
    (CONFIG, "rei.toml is wrong or cannot be read"),
    (NOT_RUNNING, "no supervisor answers"),
    (REFUSED, "the supervisor refuses"),
    (FINDINGS, "`check` or `golden replay` found something to put right"),
    (DAMAGED, "the journal is damaged"),
    (BUSY, "another supervisor has the state directory"),
    (TIMED_OUT, "what was waited for did not come in time"),
    (REJECTED, "`evolve --wait`: the candidate was rejected"),
    (ROLLED_BACK, "`evolve --wait`: Previous was restored"),
    (INTERNAL, "a mistake in rei itself"),
];
