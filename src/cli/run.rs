//! `rei run`.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::args::{Global, runtime};
use super::error::{CommandError, Kind};
use super::journald::{self, Lines};
use super::ui::Ui;
use crate::daemon::supervise;
use crate::service::End;

/// `rei run`: supervise the runtime in the foreground; SIGHUP makes it read the file again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to log: error, warn, info, debug or trace, or a list such as info,rei::nix=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// The file that describes the runtime; the same as --config
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Supervises until it gets a request to stop. At a request to replace its program, it executes the new program in place.
///
/// # Errors
/// If the filter is not valid, the program cannot be found or replaced, or there is nothing to supervise.
pub fn run(args: &Args, global: &Global, ui: &Ui) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| {
        let message = format!("`{}` is not a log filter", args.log);
        CommandError::new(Kind::Usage, message).because(error).hint("--log info, or --log info,rei::nix=debug")
    })?;
    log(filter, ui);
    let exe = program()?;
    let config = args.file.as_ref().unwrap_or(&global.config);
    match runtime()?.block_on(supervise(config, &exe, || ()))? {
        End::Reexec => {
            use std::os::unix::process::CommandExt;
            let error = std::process::Command::new(&exe).args(std::env::args_os().skip(1)).exec();
            Err(CommandError::new(Kind::Failed, format!("cannot execute {}", exe.display())).because(error))
        }
        End::Asked | End::Left | End::GaveUp { .. } => Ok(()),
    }
}

/// Starts the log on standard error.
fn log(filter: EnvFilter, ui: &Ui) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ui.log_color());
    let log = log.fmt_fields(journald::fields());
    let begun = if journald::reads_stderr() {
        tracing::subscriber::set_global_default(log.event_format(Lines::new()).finish())
    } else {
        tracing::subscriber::set_global_default(log.finish())
    };
    // This fails only if the process already has a log, which then also shows these messages.
    drop(begun);
}

/// The program that `rei reexec` executes: the file at the path by which this process was started, because an upgrade puts the new
/// program there. If the process was started by a bare name, it is the file of this process.
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
    fn an_invalid_filter_is_reported_before_the_supervisor_starts() {
        let ui = Ui::to(Box::new(Vec::new()), Box::new(Vec::new()), false, false);
        let global = Global { config: "rei.toml".into(), quiet: false, color: Color::Never };
        let args = Args { log: "a=b=c".into(), file: None };
        assert_eq!(run(&args, &global, &ui).unwrap_err().kind, Kind::Usage);
    }
}
