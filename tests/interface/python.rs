//! A program in another language, with a Varlink library that knows only rei's definition files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rei::command::Command;
use rei::interface::access::Access;
use rei::interface::operations::MonitorEvent;

use crate::fakes::{evolution, operations, skip, until};
use crate::shapes;

/// The time limit to make the environment: a download of 30 kB.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The time limit of the program.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// A Python with the package `varlink`; if there is none, prints the reason and returns `None`.
async fn python(directory: &Path) -> Option<PathBuf> {
    let environment = directory.join("venv");
    let program = environment.join("bin/python");
    let make = Command::new("python3", INSTALL_TIMEOUT).args(["-m", "venv"]).arg(&environment);
    let install = Command::new(&program, INSTALL_TIMEOUT).args(["-m", "pip", "install", "--quiet", "--retries", "0"]);
    for command in [make, install.arg("varlink")] {
        match command.run().await {
            Ok(output) if output.success() => {}
            Ok(output) => {
                skip(&format!("no Python with the package varlink here: {}", output.stderr_text().trim()));
                return None;
            }
            Err(error) => {
                skip(&format!("no Python with the package varlink here: {error}"));
                return None;
            }
        }
    }
    Some(program)
}

#[tokio::test]
async fn a_python_program_calls_both_interfaces() {
    let directory = tempfile::tempdir().unwrap();
    let Some(python) = python(directory.path()).await else { return };
    let (control, automation) = (operations(Access::own_user()), evolution());
    let events = {
        let owner = control.owner.clone();
        tokio::spawn(async move {
            until("Python listens", || owner.events.receiver_count() == 1).await;
            for seq in 1..=3 {
                owner.events.send(MonitorEvent { seq, ..shapes::monitor_event() }).unwrap();
            }
        })
    };
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interface/caller.py");
    let run = Command::new(python, PROGRAM_TIMEOUT).arg(program).arg(&control.path).arg(&automation.path);
    let output = run.run().await.unwrap();
    assert!(output.success(), "{}{}", output.stdout_text(), output.stderr_text());
    assert_eq!(output.stdout_text().trim(), "all calls done");
    events.await.unwrap();
    let calls = ["status", "monitor", "rollback Some(40)", "show rec_0001"];
    assert_eq!(control.owner.calls(), calls);
}
