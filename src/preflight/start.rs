//! What `rei run` does with the answers.

use super::answer::{Answer, Level};
use super::context::Context;
use super::means::Means;
use super::question::{AtStart, Need, Question};
use super::table::{of_the_file, of_the_machine};

/// Why a start with nothing to serve is refused.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct Refused {
    /// The question, in one word.
    pub question: &'static str,
    /// What was found.
    pub line: String,
    /// The operator's next step.
    pub hint: Option<String>,
}

/// Asks all questions of a start with nothing to serve, and logs each other problem.
///
/// # Errors
/// The first `fail` that `Need::Start` concerns.
pub async fn before_the_first_version<M: Means>(means: M) -> Result<(), Refused> {
    let context = Context::new(means);
    for question in questions(&[AtStart::Always, AtStart::ToInstall]) {
        for answer in (question.ask)(&context).await {
            if answer.level == Level::Fail && question.need == Need::Start {
                return Err(Refused { question: question.name, line: answer.line, hint: answer.hint });
            }
            log(question.name, question.need, &answer);
        }
    }
    Ok(())
}

/// Asks all questions of a start with something to serve, and logs each problem. Active continues to serve.
pub async fn beside_active<M: Means>(means: M) {
    let context = Context::new(means);
    for question in questions(&[AtStart::Always]) {
        for answer in (question.ask)(&context).await {
            log(question.name, question.need, &answer);
        }
    }
}

fn questions<M: Means>(when: &'static [AtStart]) -> impl Iterator<Item = Question<M>> {
    let all = of_the_file().into_iter().chain(of_the_machine());
    all.filter(move |question| when.contains(&question.at_start))
}

/// Logs an answer, unless it is `ok`.
fn log(question: &'static str, need: Need, answer: &Answer) {
    let line = match &answer.hint {
        Some(hint) => format!("{}; hint: {hint}", answer.line),
        None => answer.line.clone(),
    };
    match (answer.level, need) {
        (Level::Ok, _) => {}
        (Level::Fail, Need::Start | Need::Candidates) => {
            tracing::error!(question, "no candidate can be made or judged now, Active continues to serve: {line}");
        }
        (Level::Fail, Need::Agents) => {
            tracing::error!(
                question,
                "some agents or commands of rei.toml cannot run, Active continues to serve: {line}"
            )
        }
        (Level::Fail, Need::Protection) | (Level::Warn, _) => tracing::warn!(question, "{line}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Config;
    use crate::nix::{Nix, Refusal};
    use crate::source::Mirror;

    /// The means of a caller without a file, on a machine without Nix.
    pub struct Nothing;

    impl Means for Nothing {
        fn config(&self) -> Option<&Config> {
            None
        }

        fn file(&self) -> &Path {
            Path::new("/nonexistent/rei.toml")
        }

        fn mirror(&self) -> Option<&Mirror> {
            None
        }

        async fn nix(&self) -> crate::nix::Result<&Nix> {
            Err(no_nix())
        }

        async fn builder(&self) -> Result<&Path, Refusal> {
            Err(Refusal::Nix(no_nix()))
        }

        fn scratch(&self) -> PathBuf {
            PathBuf::from("/nonexistent")
        }

        fn may_build(&self) -> bool {
            false
        }
    }

    fn no_nix() -> crate::nix::Error {
        crate::nix::Error::Missing { program: "nix-store", source: which::Error::CannotFindBinaryPath }
    }

    #[tokio::test]
    async fn a_start_with_nothing_to_serve_is_refused_with_the_next_step_and_one_with_something_goes_on() {
        let refused = before_the_first_version(Nothing).await.unwrap_err();
        assert_eq!((refused.question, refused.hint.is_some()), ("nix", true), "{refused}");
        beside_active(Nothing).await;
    }
}
