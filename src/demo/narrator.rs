//! Prints the story: one line for each fact, with the time since the start.

use std::io;
use std::time::Instant;

/// The kind of a part of a line; it decides the style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The head of an act.
    Heading,
    /// Less important text.
    Faint,
    /// The mark of a good fact.
    Good,
    /// The mark of a bad fact.
    Bad,
    /// A command that an operator types.
    Typed,
}

/// The output of the story.
pub trait Page {
    /// Writes one line, or several.
    ///
    /// # Errors
    /// If it cannot be written.
    fn line(&mut self, text: &str) -> io::Result<()>;

    /// A part of a line in its style.
    fn paint(&self, part: Part, text: &str) -> String;
}

/// The width of a horizontal line, in columns.
const RULE: usize = 78;

/// Prints the story on a terminal or in a log, line by line.
pub struct Narrator<'p> {
    page: &'p mut dyn Page,
    begun: Instant,
}

impl<'p> Narrator<'p> {
    /// A narrator whose times start now.
    pub fn new(page: &'p mut dyn Page) -> Self {
        Self { page, begun: Instant::now() }
    }

    fn paint(&self, part: Part, text: &str) -> String {
        self.page.paint(part, text)
    }

    /// Prints the title of an act, or of the whole story.
    ///
    /// # Errors
    /// If the output cannot be written; the same holds for every other method.
    pub fn head(&mut self, title: &str) -> io::Result<()> {
        let rule = "─".repeat(RULE.saturating_sub(title.chars().count() + 1));
        let line = format!("\n{} {}", self.paint(Part::Heading, title), self.paint(Part::Faint, &rule));
        self.page.line(&line)
    }

    /// Prints a paragraph without a time.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.page.line(text)
    }

    /// Prints a neutral fact.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.line(' ', Part::Faint, text)
    }

    /// Prints a good fact.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn good(&mut self, text: &str) -> io::Result<()> {
        self.line('✓', Part::Good, text)
    }

    /// Prints a bad fact, which the story expects.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn bad(&mut self, text: &str) -> io::Result<()> {
        self.line('✗', Part::Bad, text)
    }

    /// Prints details of the line above: source or output.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn quote(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            let line = self.paint(Part::Faint, &format!("{:13}{line}", "")).trim_end().to_owned();
            self.page.line(&line)?;
        }
        Ok(())
    }

    /// Prints a command that an operator types.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn typed(&mut self, command: &str) -> io::Result<()> {
        let line = format!("\n{}", self.paint(Part::Typed, &format!("  $ {command}")));
        self.page.line(&line)
    }

    /// Prints the output of a command.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn printed(&mut self, text: &str) -> io::Result<()> {
        for line in text.trim_end().lines() {
            self.page.line(format!("  {line}").trim_end())?;
        }
        Ok(())
    }

    /// Prints named facts, aligned.
    ///
    /// # Errors
    /// See [`Narrator::head`].
    pub fn facts(&mut self, facts: &[(String, String)]) -> io::Result<()> {
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            let pad = " ".repeat(width - name.chars().count());
            let line = format!("  {}{pad}   {value}", self.paint(Part::Faint, name));
            self.page.line(&line)?;
        }
        Ok(())
    }

    /// The seconds since the start.
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
        let mut narrator = Narrator::new(&mut page);
        narrator.head("1 · One").unwrap();
        narrator.good("it works").unwrap();
        narrator.quote("fn a() {\n\n}").unwrap();
        narrator.facts(&[("short".into(), "1".into()), ("much longer".into(), "2".into())]).unwrap();
        let text = page.0;
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("  short         1\n  much longer   2\n"), "{text}");
    }
}
