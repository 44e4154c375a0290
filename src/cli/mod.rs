//! The command line: one file a command.
//!
//! | file | holds |
//! |---|---|
//! | `args` | the whole command line as clap types, and which function a command is |
//! | `ui` | the one way to say something: results on standard output, the rest on standard error |
//! | `terminal` | what of a text may not reach a terminal as it is |
//! | `journald` | the same where systemd's journal reads it |
//! | `error`, `exit_code` | why a command failed, and the number that it ends with |
//! | `connect` | how a command reaches the supervisor, and the memory of one that does not run |
//! | `view` | what a person sees: pages made of the interface's objects |
//! | `init`, `check`, `journal`, … | a command: its arguments, their documentation, what it does |
//!
//! Commands that need the supervisor talk to it through its sockets alone.

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
mod terminal;
pub mod ui;
mod view;

pub use args::{Cli, main};
pub use error::{CommandError, Kind};
pub use progress::Progress;
pub use ui::{Role, Ui};
