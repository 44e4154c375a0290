//! Act 5: what an operator sees.

use std::path::Path;

use super::{Error, Story};

impl Story<'_, '_> {
    pub(super) async fn the_operators_view(&mut self) -> Result<(), Error> {
        self.teller.head("5 · The operator's view")?;
        let rei = self.play.rei.clone();
        let profile = self.stage.profile().display().to_string();
        self.show(&rei, "rei", &["status"]).await?;
        self.show(&rei, "rei", &["history"]).await?;
        self.show(Path::new("nix-env"), "nix-env", &["--list-generations", "--profile", &profile]).await?;
        let verified = self.show(&rei, "rei", &["journal", "verify"]).await?;
        let total = self.load.tally();
        self.fact("requests in all", total.to_string());
        self.fact("journal", verified.lines().last().unwrap_or_default().to_owned());
        Ok(())
    }

    /// Types a command and shows what it prints.
    async fn show(&mut self, program: &Path, name: &str, args: &[&str]) -> Result<String, Error> {
        self.teller.typed(&format!("{name} {}", args.join(" ")))?;
        let output = self.stage.type_command(program, args).await?;
        let printed = [output.stdout_text(), output.stderr_text()].concat();
        self.teller.printed(&printed)?;
        Ok(printed.trim().to_owned())
    }
}
