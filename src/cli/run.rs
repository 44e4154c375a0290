//! `rei run`.

use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::ui::Ui;

/// `rei run`: supervise the runtime in the foreground; SIGHUP re-reads the file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to log: error, warn, info, debug or trace, or a list as in info,rei::nix=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Begins the log, then runs `supervise` with the file and the program that keepers and builders are started from.
///
/// # Errors
/// When the filter is none, the program cannot be found, or `supervise` fails.
pub fn run<T>(
    args: &Args,
    global: &Global,
    ui: &Ui,
    supervise: impl AsyncFnOnce(&Path, &Path) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        let message = format!("`{}` is no filter of the log", args.log);
        CommandError::new(Kind::Usage, message).because(error).hint("--log info, or --log info,rei::nix=debug")
    })?;
    log(filter, ui);
    let exe = program()?;
    runtime()?.block_on(supervise(&global.config, &exe))
}

/// The log goes to standard error. Where a service manager reads it, the manager knows the time.
fn log(filter: EnvFilter, ui: &Ui) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ui.log_color());
    let begun = if std::env::var_os("JOURNAL_STREAM").is_some() {
        tracing::subscriber::set_global_default(log.without_time().finish())
    } else {
        tracing::subscriber::set_global_default(log.finish())
    };
    // Only where somebody else in this process logs already, who then shows ours too.
    drop(begun);
}

fn program() -> Result<PathBuf, CommandError> {
    std::env::current_exe()
        .map_err(|error| CommandError::new(Kind::Failed, "cannot find rei's own program").because(error))
}

#[cfg(test)]
mod tests {
    use super::super::ui::Color;
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_told_before_anything_begins() {
        let ui = Ui::to(Box::new(Vec::new()), Box::new(Vec::new()), false, false);
        let global = Global { config: "rei.toml".into(), quiet: false, color: Color::Never };
        let begin = |log: &str| {
            run(&Args { log: log.to_owned() }, &global, &ui, async |config, exe| {
                assert!(exe.is_absolute());
                Ok(config.to_owned())
            })
        };
        assert_eq!(begin("a=b=c").unwrap_err().kind, Kind::Usage);
        assert_eq!(begin("info,rei::nix=debug").unwrap(), PathBuf::from("rei.toml"));
    }
}
