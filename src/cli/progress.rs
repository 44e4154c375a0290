//! How far something long is.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ui::Ui;

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_millis(250);
/// Between two turns of the bar's sign of life.
const TICK: Duration = Duration::from_millis(100);

/// A bar, or lines; gone when it is dropped, also when the command fails.
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

    /// Begins a stage, or says that it still goes on.
    pub fn stage(&mut self, stage: &str) {
        // The bar writes by itself.
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

    /// Says how many of how many parts of the stage are done.
    pub fn count(&mut self, done: u64, of: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(of);
            bar.set_position(done);
        }
        self.show();
    }

    /// Brings the bar on the terminal once it has taken long enough.
    fn show(&self) {
        let Some(bar) = self.bar.as_ref().filter(|bar| bar.is_hidden() && self.begun.elapsed() >= PATIENCE) else {
            return;
        };
        // A template that indicatif does not take leaves its own, which is a bar as well.
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
