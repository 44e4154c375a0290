//! The command line: one file for each command.
//!
//! | file | holds |
//! |---|---|
//! | `args` | the whole command line as clap types, and the function of each command |
//! | `ui` | all output: results on standard output, everything else on standard error |
//! | `terminal` | escapes text for a terminal |
//! | `journald` | formats messages for systemd's journal |
//! | `error`, `exit_code` | why a command failed, and its exit code |
//! | `connect` | the connection to the supervisor, and the journal if no supervisor runs |
//! | `view` | pages for people, made from the interface's objects |
//! | `init`, `check`, `journal`, … | one command: its arguments, their documentation, and its function |
//!
//! Commands that need the supervisor talk to it only through its sockets.

pub mod approve;
pub mod args;
pub mod builder;
pub mod check;
mod connect;
pub mod demo;
pub mod error;
pub mod evolve;
pub mod exit_code;
pub mod golden;
pub mod golden_import;
pub mod history;
pub mod init;
pub mod journal;
mod journald;
pub mod keeper;
pub mod lift;
pub mod logger;
pub mod pause;
mod progress;
pub mod reexec;
pub mod reject;
pub mod resume;
pub mod rollback;
pub mod run;
pub mod show;
pub mod status;
pub mod stop;
mod table;
pub mod tap;
mod terminal;
pub mod ui;
mod view;

pub use args::{Cli, main};
pub use error::{CommandError, Kind};
pub use progress::Progress;
pub use ui::{Role, Ui};
