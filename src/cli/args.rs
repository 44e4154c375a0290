//! The whole command line, and the function of each command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::error::CommandError;
use super::ui::{Color, Environment, Ui};
use super::{
    approve, builder, check, demo, evolve, exit_code, golden, history, init, journal, keeper, lift, logger, pause,
    reexec, reject, resume, rollback, run, show, status, stop, tap,
};
use crate::nix::{PROBE_ARGUMENT, probe_builder_main};
use crate::validation::builder_main;

/// The runtime's file if the command line names no other.
pub(super) const CONFIG: &str = "rei.toml";

/// Keeps one service alive, repairs and upgrades it; each version is a Nix store path.
#[derive(Debug, Parser)]
#[command(name = "rei", version, after_help = after_help(), disable_help_subcommand = true)]
pub struct Cli {
    /// The arguments of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// The file that describes the runtime
    #[arg(short, long, value_name = "FILE", default_value = CONFIG, global = true)]
    pub config: PathBuf,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colour: auto, always or never; rei obeys NO_COLOR, CLICOLOR and CLICOLOR_FORCE
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true, hide_possible_values = true)]
    pub color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented rei.toml for the flake in a directory
    Init(init::Args),
    /// Check the file and the machine; each line is ok, or says what to do
    Check(check::Args),
    /// Supervise the runtime in the foreground; SIGHUP makes it read the file again
    Run(run::Args),
    /// Show what is running, its health, and what the current evolution waits for
    Status(status::Args),
    /// List evolutions and maintenance records, newest first
    History(history::Args),
    /// Show one object with its evidence: an evolution, incident, candidate, report; or the quarantine
    Show(show::Args),
    /// Request an evolution: to a new commit, or by a blueprint
    Evolve(evolve::Args),
    /// Approve a waiting evolution; `rei status` shows its id
    Approve(approve::Args),
    /// Reject an evolution, or close an incident
    Reject(reject::Args),
    /// Roll back to Previous, or to a generation, at once
    Rollback(rollback::Args),
    /// Start no evolution until `rei resume`
    Pause(pause::Args),
    /// Start evolutions again
    Resume(resume::Args),
    /// Release content from quarantine
    Lift(lift::Args),
    /// Replace the supervisor's program in place by the installed one
    Reexec(reexec::Args),
    /// Stop the runtime, then the supervisor
    Stop(stop::Args),
    /// List, show, review, qualify, replay and import golden runs: recorded exchanges with known-good answers
    #[command(subcommand)]
    Golden(golden::Command),
    /// Verify and print the journal, or decide which version is Active if records are lost
    #[command(subcommand)]
    Journal(journal::Command),
    /// Watch how a service breaks, is repaired and is upgraded: a story in five acts, in two minutes
    Demo(demo::Args),
    /// Hold the listeners while no supervisor runs
    #[command(hide = true)]
    Keeper(keeper::Args),
    /// Read the output of instances
    #[command(hide = true)]
    Logger(logger::Args),
    /// Relay a share of the connections
    #[command(hide = true)]
    Tap(tap::Args),
    /// Run one check inside a Nix sandbox
    #[command(hide = true)]
    Builder(builder::Args),
    /// Check if this process is in a Nix sandbox
    #[command(hide = true, name = PROBE_ARGUMENT)]
    BuilderProbe(builder::Args),
}

/// Runs the command that `arguments` name and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // If the help cannot be printed, an error message cannot be printed either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit_code::USAGE } else { exit_code::SUCCESS });
        }
    };
    let mut ui = Ui::new(cli.global.color, cli.global.quiet, &Environment::read());
    match dispatch(&cli, &mut ui) {
        Ok(code) => code,
        Err(error) => {
            ui.failure(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn dispatch(cli: &Cli, ui: &mut Ui) -> Result<ExitCode, CommandError> {
    let done = match &cli.command {
        Command::Init(args) => init::run(args, &cli.global, ui),
        Command::Check(args) => check::run(args, &cli.global, ui),
        Command::Run(args) => run::run(args, &cli.global, ui),
        Command::Status(args) => status::run(args, &cli.global, ui),
        Command::History(args) => history::run(args, &cli.global, ui),
        Command::Show(args) => show::run(args, &cli.global, ui),
        Command::Evolve(args) => evolve::run(args, &cli.global, ui),
        Command::Approve(args) => approve::run(args, &cli.global, ui),
        Command::Reject(args) => reject::run(args, &cli.global, ui),
        Command::Rollback(args) => rollback::run(args, &cli.global, ui),
        Command::Pause(args) => pause::run(args, &cli.global, ui),
        Command::Resume(args) => resume::run(args, &cli.global, ui),
        Command::Lift(args) => lift::run(args, &cli.global, ui),
        Command::Reexec(args) => reexec::run(args, &cli.global, ui),
        Command::Stop(args) => stop::run(args, &cli.global, ui),
        Command::Golden(command) => golden::run(command, &cli.global, ui),
        Command::Journal(command) => journal::run(command, &cli.global, ui),
        Command::Demo(args) => demo::run(args, ui),
        Command::Keeper(args) => return Ok(keeper::run(args)),
        Command::Logger(args) => return Ok(logger::run(args)),
        Command::Tap(args) => return Ok(tap::run(args)),
        Command::Builder(_) => return Ok(builder_main()),
        Command::BuilderProbe(_) => return Ok(probe_builder_main()),
    };
    done.map(|()| ExitCode::from(exit_code::SUCCESS))
}

/// The first commands for a new user.
const BEGIN: &str = "\
Begin with:
  rei demo                          to see rei work; it needs no file
  rei init, rei check, rei run      in the directory of a flake, to run its service";

fn after_help() -> String {
    let lines: Vec<String> = exit_code::TABLE.iter().map(|(code, meaning)| format!("  {code:2}  {meaning}")).collect();
    format!("{BEGIN}\n\nExit codes:\n{}", lines.join("\n"))
}

/// A runtime for commands that run other programs or talk to a socket.
///
/// # Errors
/// If the kernel gives no event queue.
pub fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| {
        CommandError::new(super::Kind::Failed, "cannot start the event loop of this command").because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::fmt::Write;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_of_all_commands() {
        fn write(command: &mut clap::Command, name: &str, page: &mut String) {
            let _ = writeln!(page, "# {name}\n\n{}", command.render_help());
            let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
            for sub in names {
                if let Some(command) = command.find_subcommand_mut(&sub) {
                    write(command, &format!("{name} {sub}"), page);
                }
            }
        }
        let mut page = String::new();
        let mut command = Cli::command().term_width(100);
        command.build();
        write(&mut command, "rei", &mut page);
        let page: Vec<&str> = page.lines().map(str::trim_end).collect();
        insta::assert_snapshot!("reference", page.join("\n"));
    }
}
