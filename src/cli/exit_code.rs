//! The exit codes of commands. They are a promise: they stay the same, because scripts depend on them.

/// The command succeeded.
pub const SUCCESS: u8 = 0;
/// The command failed; the message says why.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// rei.toml is wrong or cannot be read.
pub const CONFIG: u8 = 3;
/// No supervisor answers.
pub const NOT_RUNNING: u8 = 4;
/// The supervisor refuses the request, because of the caller, the phase, the budget or the quarantine.
pub const REFUSED: u8 = 5;
/// `check` or `golden replay` found a problem.
pub const FINDINGS: u8 = 6;
/// The journal is damaged.
pub const DAMAGED: u8 = 7;
/// Another supervisor uses the state directory.
pub const BUSY: u8 = 8;
/// The wait timed out.
pub const TIMED_OUT: u8 = 9;
/// `evolve --wait`: the candidate was rejected.
pub const REJECTED: u8 = 10;
/// `evolve --wait`: Previous was restored.
pub const ROLLED_BACK: u8 = 11;
/// A bug in rei itself.
pub const INTERNAL: u8 = 70;

/// The table for `rei help` and the documentation.
pub const TABLE: [(u8, &str); 13] = [
    (SUCCESS, "the command succeeded"),
    (FAILED, "the command failed; the message says why"),
    (USAGE, "the command line is wrong"),
    (CONFIG, "rei.toml is wrong or cannot be read"),
    (NOT_RUNNING, "no supervisor answers"),
    (REFUSED, "the supervisor refuses"),
    (FINDINGS, "`check` or `golden replay` found a problem"),
    (DAMAGED, "the journal is damaged"),
    (BUSY, "another supervisor uses the state directory"),
    (TIMED_OUT, "the wait timed out"),
    (REJECTED, "`evolve --wait`: the candidate was rejected"),
    (ROLLED_BACK, "`evolve --wait`: Previous was restored"),
    (INTERNAL, "a bug in rei itself"),
];
