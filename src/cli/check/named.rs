//! What the file names beside itself: blueprints and golden runs. It is the operator's and read without asking the machine
//! anything, so that a build can look at it, too.

use super::{Context, Finding};
use crate::blueprint::library::Library;
use crate::config::Config;
use crate::golden;
use crate::report::chain;

/// Can the blueprints be used that are named, with the agents and commands that there are?
pub(super) fn blueprints(context: &Context<'_>) -> Option<Finding> {
    let config = context.config?;
    let library = Library::new(config.blueprints.directory.clone());
    Some(match library.unusable(config).first() {
        Some(error) => {
            let hint = error.hint().unwrap_or_else(|| "correct it, or name another in the file".to_owned());
            Finding::fail(chain(error).replace('\n', "; "), hint)
        }
        None => {
            let wanted = &config.blueprints;
            let mut names: Vec<&String> = wanted.incident.iter().chain(wanted.by_class.values()).collect();
            names.push(&wanted.upgrade);
            names.sort();
            names.dedup();
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            Finding::ok(names.join(", "))
        }
    })
}

/// Can every golden run be read to its end, and has it a listener to ask?
pub(super) fn golden(context: &Context<'_>) -> Option<Finding> {
    let config = context.config?;
    if config.validation.golden.is_empty() {
        return None;
    }
    Some(match golden_runs(config) {
        Ok(runs) if runs.is_empty() => {
            Finding::warn("no golden run in `validation.golden`", "make one: rei golden import FILE")
        }
        Ok(runs) => Finding::ok(runs.join(", ")),
        Err(finding) => finding,
    })
}

/// The names of the runs.
fn golden_runs(config: &Config) -> Result<Vec<String>, Finding> {
    let wrong = |error: golden::Error| {
        let hint = error.hint().unwrap_or_else(|| "record it again: rei golden import FILE".to_owned());
        Finding::fail(chain(&error).replace('\n', "; "), hint)
    };
    let mut names = Vec::new();
    for run in golden::list(&config.validation.golden).map_err(wrong)? {
        golden::verify(&run.path).map_err(wrong)?;
        let header = run.header;
        if !config.runtime.listen.iter().any(|listen| listen.name == header.listener) {
            let line =
                format!("the golden run {} asks the listener `{}`, which is not there", header.name, header.listener);
            return Err(Finding::fail(line, "name one of `runtime.listen` in its first line"));
        }
        names.push(header.name);
    }
    Ok(names)
}
