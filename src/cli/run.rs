//! `rei run`.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::journald::{self, Lines};
use super::ui::Ui;
use crate::service::{End, supervise};

/// `rei run`: supervise the runtime in the foreground; SIGHUP re-reads the file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to log: error, warn, info, debug or trace, or a list as in info,rei::nix=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// The file that describes the runtime; the same as --config
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Supervises until it is asked to end. Asked to replace its program, it becomes the new one in place.
///
/// # Errors
/// When the filter is none, the program cannot be found or replaced, or there is nothing to supervise.
pub fn run(args: &Args, global: &Global, ui: &Ui) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        let message = format!("`{}` is no filter of the log", args.log);
        CommandError::new(Kind::Usage, message).because(error).hint("--log info, or --log info,rei::nix=debug")
    })?;
    log(filter, ui);
    let exe = program()?;
    let config = args.file.as_ref().unwrap_or(&global.config);
    match runtime()?.block_on(supervise(config, &exe, || ()))? {
        End::Reexec => {
            use std::os::unix::process::CommandExt;
            let error = std::process::Command::new(&exe).args(std::env::args_os().skip(1)).exec();
            Err(CommandError::new(Kind::Failed, format!("cannot become {}", exe.display())).because(error))
        }
        End::Asked | End::Left | End::GaveUp { .. } => Ok(()),
    }
}

/// The log goes to standard error.
fn log(filter: EnvFilter, ui: &Ui) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ui.log_color());
    let log = log.fmt_fields(journald::fields());
    let begun = if journald::reads_stderr() {
        tracing::subscriber::set_global_default(log.event_format(Lines::new()).finish())
    } else {
        tracing::subscriber::set_global_default(log.finish())
    };
    // Only where somebody else in this process logs already, who then shows ours too.
    drop(begun);
}

/// The program that follows this one at `rei reexec`: what stands at the path by which this one was started, so that an
/// upgrade can put another there. Only where it was started by its name alone, it is this very file.
fn program() -> Result<PathBuf, CommandError> {
    let started_as = std::env::args_os().next().map(PathBuf::from);
    if let Some(path) = started_as.filter(|path| path.is_absolute()) {
        return Ok(path);
    }
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
        let args = Args { log: "a=b=c".into(), file: None };
        assert_eq!(run(&args, &global, &ui).unwrap_err().kind, Kind::Usage);
    }
}
