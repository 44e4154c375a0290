//! How the story is told: one line a fact, with the time since the beginning.

use std::io;
use std::time::Instant;

use crate::cli::{Role, Ui};

/// Columns of a rule across the page.
const RULE: usize = 78;

/// Tells the story on a terminal or in a log, line by line.
pub struct Teller<'u> {
    ui: &'u mut Ui,
    plain: bool,
    begun: Instant,
}

impl<'u> Teller<'u> {
    /// Begins now; `plain` uses no colour whatever the terminal.
    pub fn new(ui: &'u mut Ui, plain: bool) -> Self {
        Self { ui, plain, begun: Instant::now() }
    }

    fn paint(&self, role: Role, text: &str) -> String {
        if self.plain { text.to_owned() } else { self.ui.paint(role, text) }
    }

    /// The head of an act, or of the whole.
    ///
    /// # Errors
    /// When the output cannot be written; so with every other method.
    pub fn head(&mut self, title: &str) -> io::Result<()> {
        let rule = "─".repeat(RULE.saturating_sub(title.chars().count() + 1));
        let line = format!("\n{} {}", self.paint(Role::Heading, title), self.paint(Role::Faint, &rule));
        self.ui.result(&line)
    }

    /// A paragraph without a time.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.ui.result(text)
    }

    /// Something that happened.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.line(' ', Role::Faint, text)
    }

    /// Something that went as it should.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn good(&mut self, text: &str) -> io::Result<()> {
        self.line('✓', Role::Good, text)
    }

    /// Something bad, which the story needs.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn bad(&mut self, text: &str) -> io::Result<()> {
        self.line('✗', Role::Bad, text)
    }

    /// What belongs to the line above: source, output.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn quote(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            let line = self.paint(Role::Faint, &format!("{:13}{line}", "")).trim_end().to_owned();
            self.ui.result(&line)?;
        }
        Ok(())
    }

    /// What an operator types.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn typed(&mut self, command: &str) -> io::Result<()> {
        let line = format!("\n{}", self.paint(Role::Hint, &format!("  $ {command}")));
        self.ui.result(&line)
    }

    /// What it printed.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn printed(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            self.ui.result(format!("  {line}").trim_end())?;
        }
        Ok(())
    }

    /// Facts by name, aligned.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn facts(&mut self, facts: &[(String, String)]) -> io::Result<()> {
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            let pad = " ".repeat(width - name.chars().count());
            let line = format!("  {}{pad}   {value}", self.paint(Role::Faint, name));
            self.ui.result(&line)?;
        }
        Ok(())
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn line(&mut self, mark: char, role: Role, text: &str) -> io::Result<()> {
        let time = self.paint(Role::Faint, &format!("{:7.1} s", self.seconds()));
        let mark = self.paint(role, &mark.to_string());
        self.ui.result(&format!("{time}  {mark} {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Page(Rc<RefCell<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_plain_story_has_no_colour_and_no_blanks_at_line_ends() {
        let page = Page::default();
        let mut ui = Ui::to(Box::new(page.clone()), Box::new(io::sink()), true, false);
        let mut teller = Teller::new(&mut ui, true);
        teller.head("1 · One").unwrap();
        teller.good("it works").unwrap();
        teller.quote("fn a() {\n\n}").unwrap();
        teller.facts(&[("short".into(), "1".into()), ("much longer".into(), "2".into())]).unwrap();
        let text = String::from_utf8(page.0.borrow().clone()).unwrap();
        assert!(!text.contains('\x1b') && text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("  short         1\n  much longer   2\n"), "{text}");
    }
}
