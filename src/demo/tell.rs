//! How the story is told: one line a fact, with the time since the beginning.

use std::io;
use std::time::Instant;

/// What a part of a line is, which decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The head of an act.
    Heading,
    /// Of less weight.
    Faint,
    /// The mark of what went as it should.
    Good,
    /// The mark of what is bad.
    Bad,
    /// What an operator types.
    Typed,
}

/// Where the story is written.
pub trait Page {
    /// Writes one line, or several.
    ///
    /// # Errors
    /// When it cannot be written.
    fn line(&mut self, text: &str) -> io::Result<()>;

    /// A part of a line in its look.
    fn paint(&self, part: Part, text: &str) -> String;
}

/// Columns of a rule across the page.
const RULE: usize = 78;

/// Tells the story on a terminal or in a log, line by line.
pub struct Teller<'p> {
    page: &'p mut dyn Page,
    begun: Instant,
}

impl<'p> Teller<'p> {
    /// Begins now.
    pub fn new(page: &'p mut dyn Page) -> Self {
        Self { page, begun: Instant::now() }
    }

    fn paint(&self, part: Part, text: &str) -> String {
        self.page.paint(part, text)
    }

    /// The head of an act, or of the whole.
    ///
    /// # Errors
    /// When the output cannot be written; so with every other method.
    pub fn head(&mut self, title: &str) -> io::Result<()> {
        let rule = "─".repeat(RULE.saturating_sub(title.chars().count() + 1));
        let line = format!("\n{} {}", self.paint(Part::Heading, title), self.paint(Part::Faint, &rule));
        self.page.line(&line)
    }

    /// A paragraph without a time.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.page.line(text)
    }

    /// Something that happened.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.line(' ', Part::Faint, text)
    }

    /// Something that went as it should.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn good(&mut self, text: &str) -> io::Result<()> {
        self.line('✓', Part::Good, text)
    }

    /// Something bad, which the story needs.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn bad(&mut self, text: &str) -> io::Result<()> {
        self.line('✗', Part::Bad, text)
    }

    /// What belongs to the line above: source, output.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn quote(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            let line = self.paint(Part::Faint, &format!("{:13}{line}", "")).trim_end().to_owned();
            self.page.line(&line)?;
        }
        Ok(())
    }

    /// What an operator types.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn typed(&mut self, command: &str) -> io::Result<()> {
        let line = format!("\n{}", self.paint(Part::Typed, &format!("  $ {command}")));
        self.page.line(&line)
    }

    /// What it printed.
    ///
    /// # Errors
    /// As [`Teller::head`].
    pub fn printed(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            self.page.line(format!("  {line}").trim_end())?;
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
            let line = format!("  {}{pad}   {value}", self.paint(Part::Faint, name));
            self.page.line(&line)?;
        }
        Ok(())
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn line(&mut self, mark: char, part: Part, text: &str) -> io::Result<()> {
        let time = self.paint(Part::Faint, &format!("{:7.1} s", self.seconds()));
        let mark = self.paint(part, &mark.to_string());
        self.page.line(&format!("{time}  {mark} {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Text(String);

    impl Page for Text {
        fn line(&mut self, text: &str) -> io::Result<()> {
            self.0.push_str(text);
            self.0.push('\n');
            Ok(())
        }

        fn paint(&self, _: Part, text: &str) -> String {
            text.to_owned()
        }
    }

    #[test]
    fn a_plain_story_is_aligned_and_has_no_blanks_at_line_ends() {
        let mut page = Text::default();
        let mut teller = Teller::new(&mut page);
        teller.head("1 · One").unwrap();
        teller.good("it works").unwrap();
        teller.quote("fn a() {\n\n}").unwrap();
        teller.facts(&[("short".into(), "1".into()), ("much longer".into(), "2".into())]).unwrap();
        let text = page.0;
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("  short         1\n  much longer   2\n"), "{text}");
    }
}
