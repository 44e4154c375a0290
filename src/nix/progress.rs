//! Parses the progress of builds from `--log-format internal-json`: for each line at most one event. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::error::{bounded, strip_colours};

/// Maximum number of builds that are tracked at a time. Others are built, but their lines are not shown.
const BUILDS_MAX: usize = 4096;

/// Maximum length of a line of a builder's output, in bytes.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Maximum number of stored errors; they explain failed builds.
const ERRORS_MAX: usize = 256;

// Activity and result types of Nix's internal protocol, the same from 2.8 to 2.34.
const ACTIVITY_BUILDS: u64 = 104;
const ACTIVITY_BUILD: u64 = 105;
const RESULT_LOG_LINE: u64 = 101;
const RESULT_PHASE: u64 = 104;
const RESULT_PROGRESS: u64 = 105;
/// The level of an error. Higher levels are only information.
const LEVEL_ERROR: u64 = 0;

/// An event during a realisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A build has started.
    Started {
        /// The derivation.
        drv: PathBuf,
    },
    /// A builder has printed a line.
    Line {
        /// The derivation.
        drv: PathBuf,
        /// The line, at most 4 KiB.
        line: String,
    },
    /// A builder has started a phase.
    Phase {
        /// The derivation.
        drv: PathBuf,
        /// The name of the phase.
        phase: String,
    },
    /// A build has ended. Only the store knows whether it succeeded.
    Ended {
        /// The derivation.
        drv: PathBuf,
    },
    /// The overall progress. `expected` may be too high, because Nix counts planned builds.
    Counts {
        /// Number of builds that have succeeded.
        done: u64,
        /// Total number of builds.
        expected: u64,
        /// Number of running builds.
        running: u64,
        /// Number of builds that have failed.
        failed: u64,
    },
}

/// Parses the lines of one realisation.
#[derive(Debug, Default)]
pub struct Parser {
    builds: BTreeMap<u64, PathBuf>,
    whole: Option<u64>,
    counts: Option<Progress>,
    messages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum Message {
    Start {
        id: u64,
        #[serde(rename = "type")]
        kind: u64,
        #[serde(default)]
        fields: Vec<Value>,
    },
    Result {
        id: u64,
        #[serde(rename = "type")]
        kind: u64,
        #[serde(default)]
        fields: Vec<Value>,
    },
    Stop {
        id: u64,
    },
    Msg {
        level: u64,
        #[serde(default)]
        msg: String,
    },
}

impl Parser {
    /// Parses one line of standard error. A line that is no message, or an unknown one, gives no event.
    pub fn line(&mut self, line: &str) -> Option<Progress> {
        let Some(json) = line.strip_prefix("@nix ") else {
            self.keep(line);
            return None;
        };
        match serde_json::from_str(json).ok()? {
            Message::Start { id, kind: ACTIVITY_BUILD, fields } => {
                let drv = PathBuf::from(fields.first()?.as_str()?);
                if self.builds.len() < BUILDS_MAX {
                    self.builds.insert(id, drv.clone());
                }
                Some(Progress::Started { drv })
            }
            Message::Start { id, kind: ACTIVITY_BUILDS, .. } => {
                self.whole = Some(id);
                None
            }
            Message::Start { .. } => None,
            Message::Result { id, kind: RESULT_PROGRESS, fields } if self.whole == Some(id) => self.counts(&fields),
            Message::Result { id, kind, fields } => {
                let (drv, text) = (self.builds.get(&id)?.clone(), fields.first()?.as_str()?);
                let text = bounded(text, LINE_BYTES_MAX).to_owned();
                match kind {
                    RESULT_LOG_LINE => Some(Progress::Line { drv, line: text }),
                    RESULT_PHASE => Some(Progress::Phase { drv, phase: text }),
                    _ => None,
                }
            }
            Message::Stop { id } => self.builds.remove(&id).map(|drv| Progress::Ended { drv }),
            Message::Msg { level: LEVEL_ERROR, msg } => {
                self.keep(&strip_colours(&msg));
                None
            }
            Message::Msg { .. } => None,
        }
    }

    /// The errors that Nix has printed, oldest first, without repetitions.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    fn keep(&mut self, message: &str) {
        let message = bounded(message.trim(), LINE_BYTES_MAX);
        if !message.is_empty() && self.messages.len() < ERRORS_MAX && !self.messages.iter().any(|kept| kept == message)
        {
            self.messages.push(message.to_owned());
        }
    }

    fn counts(&mut self, fields: &[Value]) -> Option<Progress> {
        let field = |n: usize| fields.get(n).and_then(Value::as_u64);
        let (done, failed) = (field(0)?, field(3)?);
        let counts = Progress::Counts { done, expected: field(1)?, running: field(2)?, failed };
        // Nix repeats the same counts.
        if self.counts.as_ref() == Some(&counts) {
            return None;
        }
        self.counts = Some(counts.clone());
        Some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VERSIONS, samples};
    use super::*;

    fn all(text: &str) -> (Vec<Progress>, Parser) {
        let mut parser = Parser::default();
        let events = text.lines().filter_map(|line| parser.line(line)).collect();
        (events, parser)
    }

    #[test]
    fn a_build_is_tracked_in_all_versions() {
        for (version, text) in VERSIONS.iter().zip(samples!("build-good2")) {
            let (events, parser) = all(text);
            let drv = PathBuf::from("/nix/store/r4r044gnxcybgl588gdx3kczvlf4ndf1-good2.drv");
            let shown: Vec<_> = events.iter().filter(|event| !matches!(event, Progress::Counts { .. })).collect();
            let line = |line: &str| Progress::Line { drv: drv.clone(), line: line.to_owned() };
            let expected = [
                Progress::Started { drv: drv.clone() },
                line("one"),
                line("two"),
                Progress::Ended { drv: drv.clone() },
            ];
            assert_eq!(shown, expected.iter().collect::<Vec<_>>(), "{version}");
            let last = events.iter().rfind(|event| matches!(event, Progress::Counts { .. }));
            assert!(
                matches!(last, Some(Progress::Counts { done: 1, running: 0, failed: 0, .. })),
                "{version} {last:?}"
            );
            assert!(parser.messages().is_empty() && parser.builds.is_empty(), "{version}");
        }
    }

    #[test]
    fn errors_are_stored_once_without_colours() {
        for (version, text) in VERSIONS.iter().zip(samples!("build-fail")) {
            let (_, parser) = all(&format!("{text}{text}"));
            assert_eq!(parser.messages().len(), 1, "{version} {:?}", parser.messages());
            assert!(parser.messages()[0].contains("fail.drv'"), "{version} {:?}", parser.messages());
        }
    }

    #[test]
    fn garbage_is_no_event() {
        for text in samples!("build-garbage") {
            let (events, _) = all(text);
            assert!(events.iter().any(|event| matches!(event, Progress::Line { line, .. } if line == "a\u{fffd}b")));
        }
        let mut parser = Parser::default();
        for line in [
            "",
            "@nix ",
            "@nix {",
            "@nix {}",
            "@nix []",
            r#"@nix {"action":"start"}"#,
            r#"@nix {"action":"start","id":-1,"type":105,"fields":["x"]}"#,
            r#"@nix {"action":"start","id":1,"type":105,"fields":[7]}"#,
            r#"@nix {"action":"start","id":1,"type":105}"#,
            r#"@nix {"action":"result","id":9,"type":101,"fields":["no such build"]}"#,
            r#"@nix {"action":"result","id":9,"type":105,"fields":[]}"#,
            r#"@nix {"action":"stop","id":9}"#,
            r#"@nix {"action":"dance","id":9}"#,
        ] {
            assert_eq!(parser.line(line), None, "{line}");
        }
    }

    #[test]
    fn stored_builds_and_errors_are_limited() {
        let mut parser = Parser::default();
        for id in 0..2 * BUILDS_MAX {
            parser.line(&format!(r#"@nix {{"action":"start","id":{id},"type":105,"fields":["/x-{id}.drv"]}}"#));
            parser.line(&format!(r#"@nix {{"action":"msg","level":0,"msg":"error {id}"}}"#));
        }
        assert_eq!((parser.builds.len(), parser.messages.len()), (BUILDS_MAX, ERRORS_MAX));
        let long =
            format!(r#"@nix {{"action":"result","id":0,"type":101,"fields":["{}"]}}"#, "ü".repeat(LINE_BYTES_MAX));
        assert!(matches!(parser.line(&long), Some(Progress::Line { line, .. }) if line.len() <= LINE_BYTES_MAX));
    }
}
