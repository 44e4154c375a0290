//! What `rei run` does with the answers.

use super::answer::{Answer, Level};
use super::context::Context;
use super::means::Means;
use super::question::{AtStart, Need, Question};
use super::table::{of_the_file, of_the_machine};

/// Why `rei run` refuses to start if no version can serve.
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

/// Asks all questions of a start without a version to serve, and logs what else could be better.
///
/// # Errors
/// With the first answer that means that no version can serve.
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

/// Asks all questions of a start with a version to serve, and logs what is missing. Active continues to serve, whatever
/// the answers are.
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

/// Logs the answer, unless it is good.
fn log(question: &'static str, need: Need, answer: &Answer) {
    let line = match &answer.hint {
        Some(hint) => format!("{}; hint: {hint}", answer.line),
        None => answer.line.clone(),
    };
    match (answer.level, need) {
        (Level::Ok, _) => {}
        (Level::Fail, Need::Start | Need::Candidates) => {
            tracing::error!(question, "no candidate can be made or judged now; Active continues to serve: {line}");
        }
        (Level::Fail, Need::Agents) => {
            tracing::error!(question, "some agents, commands or probes cannot run; Active continues to serve: {line}");
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

    /// The means without a configuration, on a machine without Nix.
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
    async fn a_start_without_a_version_is_refused_with_the_next_step_and_one_with_a_version_continues() {
        let refused = before_the_first_version(Nothing).await.unwrap_err();
        assert_eq!((refused.question, refused.hint.is_some()), ("nix", true), "{refused}");
        beside_active(Nothing).await;
    }
}
