//! All output of commands: results on standard output; status, hints, warnings and errors on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::CommandError;
use super::journald::{self, Priority};
use super::progress::Progress;
use super::terminal;
use crate::interface::types::SCHEMA;

/// The default width of pages, in columns.
const WIDTH: u16 = 120;
/// The smallest width that is used, in columns.
const WIDTH_MIN: u16 = 20;

/// The role of a text; it decides the style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `ok`.
    Good,
    /// `warn`, `warning:`.
    Warning,
    /// `fail`, `error:`.
    Bad,
    /// `hint:`.
    Hint,
    /// The head of a table.
    Heading,
    /// Less important text.
    Faint,
}

impl Role {
    /// The style, as SGR parameters. Only this function names colours.
    const fn look(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Warning => "1;33",
            Self::Bad => "1;31",
            Self::Hint => "36",
            Self::Heading => "1",
            Self::Faint => "2",
        }
    }
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal unless NO_COLOR is set; elsewhere only if CLICOLOR_FORCE is set.
    #[default]
    Auto,
    /// On every output.
    Always,
    /// On no output.
    Never,
}

/// The environment variables for output; they are read once, at the start.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// NO_COLOR is set and not empty, or TERM is `dumb`.
    pub no_color: bool,
    /// CLICOLOR is 0.
    pub clicolor_off: bool,
    /// CLICOLOR_FORCE is set and not 0.
    pub clicolor_force: bool,
    /// The value of COLUMNS.
    pub columns: Option<u16>,
}

impl Environment {
    /// The environment of this process.
    pub fn read() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            no_color: set("NO_COLOR").is_some() || set("TERM").is_some_and(|term| term == "dumb"),
            clicolor_off: set("CLICOLOR").is_some_and(|value| value == "0"),
            clicolor_force: set("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            columns: set("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok()),
        }
    }

    fn color(&self, wish: Color, terminal: bool) -> bool {
        match wish {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !self.no_color && (self.clicolor_force || (terminal && !self.clicolor_off)),
        }
    }
}

/// Adds colour to words of a page, or leaves them plain.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// Whether there is colour.
    pub color: bool,
}

impl Paint {
    /// The text in the style of its role; [`Ui`] turns the style into colour when it writes the text.
    pub fn paint(self, role: Role, text: &str) -> String {
        if self.color { terminal::look(role.look(), text) } else { text.to_owned() }
    }
}

/// One of the two streams.
struct Stream {
    sink: Box<dyn Write>,
    color: bool,
    terminal: bool,
}

impl Stream {
    fn paint(&self, role: Role, text: &str) -> String {
        Paint { color: self.color }.paint(role, text)
    }
}

/// The output of a command.
pub struct Ui {
    out: Stream,
    err: Stream,
    /// Whether systemd's journal reads standard error.
    journald: bool,
    quiet: bool,
    width: u16,
}

impl Ui {
    /// The streams of this process.
    pub fn new(color: Color, quiet: bool, environment: &Environment) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_terminal, err_terminal) = (out.is_terminal(), err.is_terminal());
        let stream = |sink, terminal| Stream { sink, color: environment.color(color, terminal), terminal };
        let width = environment.columns.or_else(|| out_terminal.then(terminal_width).flatten());
        Self {
            out: stream(Box::new(out), out_terminal),
            err: stream(Box::new(err), err_terminal),
            journald: journald::reads_stderr(),
            quiet,
            width: width.unwrap_or(WIDTH).max(WIDTH_MIN),
        }
    }

    /// Other streams that are not terminals, for tests and stored pages.
    pub fn to(out: Box<dyn Write>, err: Box<dyn Write>, color: bool, quiet: bool) -> Self {
        let stream = |sink| Stream { sink, color, terminal: false };
        Self { out: stream(out), err: stream(err), journald: false, quiet, width: WIDTH }
    }

    /// Prints a part of the result.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn result(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out.sink, "{}", terminal::shown(text))
    }

    /// Prints the result as JSON: one object with the version of its format. docs/cli.md documents all objects.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string_pretty(&versioned(value)?)?;
        writeln!(self.out.sink, "{}", terminal::json(&json))
    }

    /// The same on one line, for streams, flushed at once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(&versioned(value)?)?;
        writeln!(self.out.sink, "{}", terminal::json(&json))?;
        self.out.sink.flush()
    }

    /// Prints a table.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let page = super::table::aligned(head, rows, self.width);
        let (first, rest) = page.split_once('\n').unwrap_or((&page, ""));
        let first = self.out.paint(Role::Heading, first);
        self.result(&if rest.is_empty() { first } else { format!("{first}\n{rest}") })
    }

    /// A writer for lines of JSON: byte for byte, or escaped if the output is a terminal.
    pub fn json_lines(&mut self) -> Box<dyn Write + '_> {
        match self.out.terminal {
            true => Box::new(terminal::JsonLines::new(&mut self.out.sink)),
            false => Box::new(&mut self.out.sink),
        }
    }

    /// Sends one of rei's own control sequences to the terminal.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn control(&mut self, sequence: &'static str) -> io::Result<()> {
        write!(self.out.sink, "{sequence}")?;
        self.out.sink.flush()
    }

    /// Draws a page over the earlier one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn draw(&mut self, page: &str) -> io::Result<()> {
        // Each line is cleared after its end and not before it is written, so that the page does not flicker.
        let page = terminal::shown(page).replace('\n', "\x1b[K\r\n");
        write!(self.out.sink, "\x1b[H{page}\x1b[K\x1b[J")?;
        self.out.sink.flush()
    }

    /// Prints what the command is doing. Silent with `--quiet`.
    pub fn status(&mut self, text: &str) {
        if !self.quiet {
            self.say(Priority::Info, text);
        }
    }

    /// Prints a possible next step. Silent with `--quiet`.
    pub fn hint(&mut self, text: &str) {
        if !self.quiet {
            let label = self.err.paint(Role::Hint, "hint:");
            self.say(Priority::Info, &format!("{label} {text}"));
        }
    }

    /// Prints a warning, also with `--quiet`.
    pub fn warning(&mut self, text: &str) {
        let label = self.err.paint(Role::Warning, "warning:");
        self.say(Priority::Warning, &format!("{label} {text}"));
    }

    /// Prints why the command failed, with causes and next steps.
    pub fn failure(&mut self, error: &CommandError) {
        if error.kind == super::Kind::BrokenPipe {
            return;
        }
        if let Some(page) = &error.page {
            let page: Vec<String> = page.trim_end().lines().map(|line| self.labelled(line)).collect();
            self.say(Priority::Error, &format!("{}\n", page.join("\n")));
        }
        let label = self.err.paint(Role::Bad, "error:");
        self.say(Priority::Error, &format!("{label} {error}"));
        for cause in error.causes() {
            self.say(Priority::Error, &format!("caused by: {cause}"));
        }
        for hint in &error.hints {
            let label = self.err.paint(Role::Hint, "hint:");
            self.say(Priority::Error, &format!("{label} {hint}"));
        }
    }

    /// A line whose first word, if it is a label, has the style of that label.
    fn labelled(&self, line: &str) -> String {
        for (label, role) in [("error:", Role::Bad), ("hint:", Role::Hint)] {
            if let Some(rest) = line.strip_prefix(label) {
                return format!("{}{rest}", self.err.paint(role, label));
            }
        }
        line.to_owned()
    }

    /// A word of a result in the style of its role.
    pub fn paint(&self, role: Role, text: &str) -> String {
        self.out.paint(role, text)
    }

    /// Adds colour to words of a page on standard output.
    pub fn painter(&self) -> Paint {
        Paint { color: self.out.color }
    }

    /// Whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.out.terminal
    }

    /// Whether standard error shows colour, for the log there.
    pub fn log_color(&self) -> bool {
        self.err.color
    }

    /// Shows the progress of a long action: a bar on a terminal, after a while; elsewhere a line for each stage.
    pub fn progress(&mut self) -> Progress<'_> {
        let bar = self.err.terminal && !self.quiet;
        Progress::new(self, bar)
    }

    /// The width of a page, in columns.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Writes to standard error. An error of the write is ignored, because it could only be reported there.
    fn say(&mut self, priority: Priority, text: &str) {
        let text = terminal::shown(text);
        let _ = match self.journald {
            true => writeln!(self.err.sink, "{}", journald::prefixed(priority, &text)),
            false => writeln!(self.err.sink, "{text}"),
        };
    }
}

/// An object with `schema` as its first field, like the objects of the interface.
fn versioned(value: &impl Serialize) -> io::Result<Value> {
    let Value::Object(fields) = serde_json::to_value(value)? else {
        return Err(io::Error::other("a JSON result must be an object"));
    };
    let mut whole = Map::from_iter([("schema".to_owned(), SCHEMA.into())]);
    whole.extend(fields);
    Ok(Value::Object(whole))
}

/// The width of the terminal on standard output, in columns.
fn terminal_width() -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is valid and exclusive for the call.
    let done = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_col > 0).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use serde_json::json;

    use super::super::Kind;
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Rc<RefCell<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(color: bool, quiet: bool, act: impl FnOnce(&mut Ui)) -> (String, String) {
        let (out, err) = (Page::default(), Page::default());
        act(&mut Ui::to(Box::new(out.clone()), Box::new(err.clone()), color, quiet));
        (out.text(), err.text())
    }

    fn everything(ui: &mut Ui) {
        ui.result("result").unwrap();
        ui.status("status");
        ui.hint("hint");
        ui.warning("warning");
        let mut progress = ui.progress();
        progress.stage("building");
        progress.count(1, 3);
        progress.stage("building");
        progress.stage("checking");
        drop(progress);
        let error = CommandError::new(Kind::Failed, "cannot do it").because(io::Error::other("why")).hint("next");
        ui.failure(&error);
    }

    #[test]
    fn each_message_goes_to_its_stream() {
        let (out, err) = said(false, false, everything);
        assert_eq!(out, "result\n");
        insta::assert_snapshot!(err, @r"
        status
        hint: hint
        warning: warning
        building
        checking
        error: cannot do it
        caused by: why
        hint: next
        ");
    }

    #[test]
    fn quiet_keeps_results_warnings_and_errors() {
        let (out, err) = said(false, true, everything);
        assert_eq!(out, "result\n");
        assert_eq!(err, "warning: warning\nerror: cannot do it\ncaused by: why\nhint: next\n");
    }

    #[test]
    fn colour_follows_the_role() {
        let (_, err) = said(true, false, |ui| ui.warning("x"));
        assert_eq!(err, "\x1b[1;33mwarning:\x1b[0m x\n");
    }

    #[test]
    fn colour_follows_the_option_and_the_environment() {
        let plain = Environment::default();
        let no_color = Environment { no_color: true, clicolor_force: true, ..plain.clone() };
        let off = Environment { clicolor_off: true, ..plain.clone() };
        let force = Environment { clicolor_force: true, ..plain.clone() };
        for (environment, wish, terminal, colored) in [
            (&plain, Color::Auto, true, true),
            (&plain, Color::Auto, false, false),
            (&no_color, Color::Auto, true, false),
            (&no_color, Color::Always, false, true),
            (&off, Color::Auto, true, false),
            (&force, Color::Auto, false, true),
            (&force, Color::Never, true, false),
        ] {
            assert_eq!(environment.color(wish, terminal), colored, "{environment:?} {wish:?} {terminal}");
        }
    }

    #[test]
    fn text_from_others_is_escaped_in_every_output() {
        let evil = "a\u{202e}b\u{9b}2J\u{1b}[31mc\u{7}";
        let shown = "a\\u{202e}b\\u{9b}2Jc\\u{7}";
        for color in [false, true] {
            let (out, err) = said(color, false, |ui| {
                ui.result(evil).unwrap();
                ui.result(&ui.paint(Role::Good, evil)).unwrap();
                ui.table(&["a"], vec![vec![evil.to_owned()]]).unwrap();
                ui.draw(evil).unwrap();
                ui.json(&json!({ "a": evil })).unwrap();
                ui.json_line(&json!({ "a": evil })).unwrap();
                ui.status(evil);
                ui.hint(evil);
                ui.warning(evil);
                ui.progress().stage(evil);
                let mut error = CommandError::new(Kind::Failed, evil).because(io::Error::other(evil)).hint(evil);
                error.page = Some(format!("error: {evil}\n"));
                ui.failure(&error);
            });
            assert_eq!((out.matches(shown).count(), err.matches(shown).count()), (4, 8), "{out}{err}");
            assert_eq!(out.matches(r#""a": "a\u202eb\u009b2J\u001b[31mc\u0007""#).count(), 1, "{out}");
            let own = ["\u{1b}[32m", "\u{1b}[0m", "\u{1b}[1m", "\u{1b}[H", "\u{1b}[K", "\u{1b}[J"];
            let all = own.iter().chain(&["\u{1b}[1;31m", "\u{1b}[1;33m", "\u{1b}[36m"]);
            let rest = all.fold(format!("{out}{err}"), |text, own| text.replace(own, ""));
            assert!(!rest.contains(|c: char| c != '\n' && terminal::is_dangerous(c)), "{rest:?}");
        }
    }

    #[test]
    fn json_has_its_version_first() {
        let (out, _) = said(false, false, |ui| {
            ui.json_line(&json!({ "a": 1 })).unwrap();
            ui.json_line(&json!({ "schema": "rei/v0.1", "a": 1 })).unwrap();
            assert!(ui.json(&[1, 2]).is_err(), "a list cannot have a version");
        });
        assert_eq!(out, "{\"schema\":\"rei/v0.1\",\"a\":1}\n".repeat(2));
    }

    #[test]
    fn tables_are_aligned() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let (out, _) =
            said(false, false, |ui| ui.table(&["id", "what"], vec![row("evo_0001", "x"), row("b", "yy")]).unwrap());
        assert_eq!(out, "id        what\nevo_0001  x\nb         yy\n");
    }

    #[test]
    fn a_page_in_an_error_comes_first() {
        let mut error = CommandError::new(Kind::Config, "1 mistake");
        error.page = Some("error: unknown key\nhint: other\n".to_owned());
        let (_, err) = said(false, false, |ui| ui.failure(&error));
        assert_eq!(err, "error: unknown key\nhint: other\n\nerror: 1 mistake\n");
    }
}
