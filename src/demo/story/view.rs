//! Act 5: the operator's view.

use std::path::Path;

use super::acts::Story;
use crate::demo::error::Error;

impl Story<'_, '_> {
    pub(super) async fn the_operators_view(&mut self) -> Result<(), Error> {
        self.narrator.head("5 · The operator's view")?;
        let rei = self.play.rei.clone();
        let profile = self.stage.profile().display().to_string();
        self.show(&rei, "rei", &["status"]).await?;
        self.show(&rei, "rei", &["history"]).await?;
        self.show(Path::new("nix-env"), "nix-env", &["--list-generations", "--profile", &profile]).await?;
        let verified = self.show(&rei, "rei", &["journal", "verify"]).await?;
        let journal = verified.lines().next().unwrap_or_default();
        self.fact("journal", journal.split_once(" is ").map_or(journal, |(_, is)| is).to_owned());
        let total = self.load.tally();
        let lost = total.lost().saturating_sub(self.died);
        self.fact(
            "requests in all",
            format!("{}; {} died in the crashes, {lost} lost otherwise", total.total(), self.died),
        );
        if lost > 0 {
            return Err(Error::unexpected(format!("requests were lost without a known cause: {total}")));
        }
        Ok(())
    }

    /// Runs a command and prints its output.
    async fn show(&mut self, program: &Path, name: &str, args: &[&str]) -> Result<String, Error> {
        self.narrator.typed(&format!("{name} {}", args.join(" ")))?;
        let output = self.stage.type_command(program, args).await?;
        let printed = [output.stdout_text(), output.stderr_text()].concat();
        self.narrator.printed(&printed)?;
        Ok(printed.trim().to_owned())
    }
}
