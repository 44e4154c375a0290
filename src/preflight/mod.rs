//! What rei needs of the machine, the file and the repository: one list of questions for `rei check` and `rei run`.
//!
//! `rei check` prints every answer. `rei run` asks the same questions at its start and acts on the answers: with nothing
//! to serve, a missing prerequisite ends the start; otherwise rei logs it, and Active continues to serve.
//!
//! | file | its one job |
//! |---|---|
//! | `question.rs`, `answer.rs` | what a question and an answer are |
//! | `table.rs` | every question: its name, its `Need`, what `rei run` does with it |
//! | `means.rs` | what a question is answered with; the supervisor has its own, `rei check` makes some |
//! | `context.rs` | what several questions need and is found once: the commit, the package |
//! | `start.rs` | what `rei run` does with the answers |
//! | `files.rs` | rei.toml, blueprints and golden runs, followed while rei runs |
//! | `package.rs` | the next step if the package does not evaluate or build, and its program |
//! | `ask/file.rs` | blueprints, golden runs, the modes of files with secrets |
//! | `ask/source.rs` | git and the repository |
//! | `ask/build.rs` | Nix, its sandbox, the package and its program |
//! | `ask/machine.rs` | programs, directories, addresses, users, control groups, limits |
//! | `ask/kernel.rs` | what is tried: the switch of connections, process descriptors |

mod answer;
mod ask;
mod context;
mod files;
mod means;
mod package;
mod question;
mod start;
mod table;

pub use answer::{Answer, Level};
pub use context::Context;
pub use files::follow_files;
pub use means::Means;
pub use package::{build_hint, evaluation_hint};
pub use question::{AtStart, Need, Question};
pub use start::{Refused, before_the_first_version, beside_active};
pub use table::{of_the_file, of_the_machine};
