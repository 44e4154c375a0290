//! Every question.

use std::future::ready;

use super::ask::{build, file, kernel, machine, source};
use super::means::Means;
use super::question::{AtStart, Need, Question};

/// The questions about the file and what it names beside itself. They ask the machine nothing, so a build can ask them.
pub fn of_the_file<M: Means>() -> Vec<Question<M>> {
    use AtStart::{Always, Itself, Never};
    use Need::{Candidates, Protection, Start};
    vec![
        // A start reads the file and its blueprints together, and refuses with all mistakes of both.
        Question {
            name: "blueprints",
            need: Start,
            at_start: Itself,
            ask: |it| Box::pin(ready(file::blueprints(it.config()))),
        },
        Question {
            name: "golden",
            need: Candidates,
            at_start: Always,
            ask: |it| {
                // Golden runs can be large, and a supervisor that serves does not wait for the disk.
                let config = it.config().cloned();
                Box::pin(async {
                    let asked = tokio::task::spawn_blocking(move || file::golden(config.as_ref()));
                    asked.await.unwrap_or_default()
                })
            },
        },
        // What has no source of users' requests is judged by probes; a start needs none.
        Question {
            name: "requests",
            need: Candidates,
            at_start: Never,
            ask: |it| Box::pin(ready(file::requests(it.config()))),
        },
        Question {
            name: "secrets",
            need: Protection,
            at_start: Always,
            ask: |it| Box::pin(ready(file::secrets(it.config(), it.means.file()))),
        },
        Question { name: "tap", need: Protection, at_start: Never, ask: |it| Box::pin(ready(file::tap(it.config()))) },
    ]
}

/// The questions about the machine and the repository, in the order in which they are asked. If a question
/// depends on the answer to another one, it comes after that one.
pub fn of_the_machine<M: Means>() -> Vec<Question<M>> {
    use AtStart::{Always, Itself, Never, ToInstall};
    use Need::{Agents, Candidates, Protection, Start};
    vec![
        Question { name: "git", need: Start, at_start: ToInstall, ask: |_| Box::pin(source::git()) },
        Question { name: "source", need: Start, at_start: ToInstall, ask: |it| Box::pin(source::source(it)) },
        Question { name: "nix", need: Start, at_start: Always, ask: |it| Box::pin(build::nix(it)) },
        Question { name: "sandbox", need: Start, at_start: Always, ask: |it| Box::pin(build::sandbox(it)) },
        // The installation evaluates and builds the package.
        Question { name: "package", need: Start, at_start: Itself, ask: |it| Box::pin(build::package(it)) },
        // The first instance runs it.
        Question { name: "program", need: Start, at_start: Itself, ask: |it| Box::pin(build::program(it)) },
        Question {
            name: "programs",
            need: Agents,
            at_start: Always,
            ask: |it| Box::pin(ready(machine::programs(it.config()))),
        },
        // The start makes its directories, takes its journal and opens the listeners.
        Question {
            name: "state",
            need: Start,
            at_start: Itself,
            ask: |it| Box::pin(ready(machine::state(it.config()))),
        },
        Question {
            name: "listen",
            need: Start,
            at_start: Itself,
            ask: |it| Box::pin(ready(machine::listen(it.config()))),
        },
        Question {
            name: "descriptors",
            need: Start,
            at_start: Always,
            ask: |it| Box::pin(ready(machine::descriptors(it.config()))),
        },
        Question { name: "switch", need: Start, at_start: Itself, ask: |_| Box::pin(ready(kernel::switch())) },
        Question { name: "pidfd", need: Start, at_start: Itself, ask: |_| Box::pin(ready(kernel::pidfds())) },
        // The first instance gets its user and its isolation.
        Question { name: "user", need: Start, at_start: Itself, ask: |it| Box::pin(ready(machine::user(it.config()))) },
        Question {
            name: "isolation",
            need: Protection,
            at_start: Itself,
            ask: |it| Box::pin(ready(machine::isolation(it.config(), &it.means.scratch()))),
        },
        // The builder of each check uses the namespaces that it can get.
        Question {
            name: "namespaces",
            need: Candidates,
            at_start: Never,
            ask: |_| Box::pin(ready(machine::namespaces())),
        },
        Question { name: "cgroup", need: Protection, at_start: Never, ask: |_| Box::pin(ready(machine::cgroup())) },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::start::tests::Nothing;
    use super::*;

    /// What the first version needs is found out at a start: asked, or told by the very act. Nothing is for `rei check`
    /// alone that `rei run` could fail for.
    #[test]
    fn whatever_a_start_needs_a_start_asks() {
        let all: Vec<Question<Nothing>> = of_the_file().into_iter().chain(of_the_machine()).collect();
        for question in &all {
            assert!(question.need != Need::Start || question.at_start != AtStart::Never, "{}", question.name);
        }
        let mut names: Vec<&str> = all.iter().map(|question| question.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "one name for two questions");
    }
}
