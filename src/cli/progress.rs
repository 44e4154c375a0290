//! The progress of a long action.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ui::Ui;

/// A shorter action needs no bar.
const PATIENCE: Duration = Duration::from_millis(250);
/// The time between two frames of the bar's spinner.
const TICK: Duration = Duration::from_millis(100);

/// A bar, or lines. It disappears when it is dropped, also if the command fails.
pub struct Progress<'u> {
    ui: &'u mut Ui,
    bar: Option<ProgressBar>,
    stage: String,
    begun: Instant,
}

impl<'u> Progress<'u> {
    pub(super) fn new(ui: &'u mut Ui, terminal: bool) -> Self {
        let bar = terminal.then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
        Self { ui, bar, stage: String::new(), begun: Instant::now() }
    }

    /// Starts a stage, or shows that the stage continues.
    pub fn stage(&mut self, stage: &str) {
        // The bar writes to the terminal itself, so the text is escaped here.
        let stage = &*super::terminal::line(stage);
        let is_new = self.stage != stage;
        if is_new {
            stage.clone_into(&mut self.stage);
        }
        match &self.bar {
            Some(bar) => bar.set_message(self.stage.clone()),
            None if is_new => self.ui.status(stage),
            None => {}
        }
        self.show();
    }

    /// Shows how many parts of the stage are done.
    pub fn count(&mut self, done: u64, of: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(of);
            bar.set_position(done);
        }
        self.show();
    }

    /// Shows the bar once the action has taken long enough.
    fn show(&self) {
        let Some(bar) = self.bar.as_ref().filter(|bar| bar.is_hidden() && self.begun.elapsed() >= PATIENCE) else {
            return;
        };
        // If indicatif refuses the template, it keeps its default bar.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.enable_steady_tick(TICK);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
