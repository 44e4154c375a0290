//! The output for systemd's journal: a priority before each line, as in sd-daemon(3), and one line for each message, so that
//! `journalctl -p err` shows every error completely.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::terminal;

/// The priority of a line: the numbers of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// An error.
    Error = 3,
    /// A warning.
    Warning = 4,
    /// A normal message.
    Info = 6,
    /// Details for debugging.
    Debug = 7,
}

impl From<&Level> for Priority {
    fn from(level: &Level) -> Self {
        match *level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Whether the journal reads standard error. systemd names the stream that it has made; standard error may be another stream.
pub fn reads_stderr() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let own = std::fs::metadata("/proc/self/fd/2").map(|about| format!("{}:{}", about.dev(), about.ino()));
    own.is_ok_and(|own| own == named)
}

/// The lines of a text, each with its priority.
pub fn prefixed(priority: Priority, text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("<{}>{line}", priority as u8)).collect();
    lines.join("\n")
}

/// The fields of the log, escaped for a terminal: their values also come from builders, agents and instances.
pub fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|writer, field, value| {
        let shown = terminal::text(&format!("{value:?}"));
        match (field.name(), writer.has_ansi_escapes()) {
            ("message", _) => write!(writer, "{shown}"),
            (name, true) => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{shown}"),
            (name, false) => write!(writer, "{name}={shown}"),
        }
    })
    .delimited(" ")
}

/// Events of the supervisor's log, one line each. The journal adds the time, and the level becomes the priority.
pub struct Lines(Format<Full, ()>);

impl Lines {
    /// A format with the default fields.
    pub fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    FormattedFields<N>: 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let priority = Priority::from(event.metadata().level()) as u8;
        let line: Vec<&str> = line.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect();
        writeln!(to, "<{priority}>{}", line.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_with_its_priority() {
        let page = Page::default();
        let to = page.clone();
        let log = tracing_subscriber::fmt().with_writer(move || to.clone()).event_format(Lines::new()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::error!(code = 1, "two mistakes:\n  one\n  another");
            tracing::warn!("late");
            tracing::info!("promoted");
        });
        let said = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let target = module_path!();
        assert_eq!(
            said,
            format!("<3>{target}: two mistakes:; one; another code=1\n<4>{target}: late\n<6>{target}: promoted\n")
        );
    }

    #[test]
    fn text_from_others_is_escaped_in_the_log() {
        let page = Page::default();
        let to = page.clone();
        let log =
            tracing_subscriber::fmt().with_writer(move || to.clone()).with_ansi(true).fmt_fields(fields()).finish();
        tracing::subscriber::with_default(log, || {
            let evil = "a\u{202e}b\u{9b}2J\u{1b}[31mc\u{7}";
            tracing::warn!(why = evil, shown = %evil, "it said {evil}");
        });
        let said = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let text = "a\\u{202e}b\\u{9b}2Jc\\u{7}";
        assert!(said.contains(&format!("it said {text}")) && said.matches(text).count() == 2, "{said}");
        let own = |c: char| c != '\u{1b}' && c != '\n' && terminal::is_dangerous(c);
        assert!(!said.contains(own) && !said.contains("\u{1b}[31m"), "{said:?}");
    }

    #[test]
    fn every_line_of_an_error_has_its_priority() {
        assert_eq!(prefixed(Priority::Error, "error: a\ncaused by: b"), "<3>error: a\n<3>caused by: b");
    }
}
