//! The command line of `rei-demo-runtime`.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use super::{agent, script, serve};

/// A small HTTP runtime that interprets source code: the service of `rei demo`.
#[derive(Debug, Parser)]
#[command(name = "rei-demo-runtime", version)]
pub enum Program {
    /// Answer HTTP requests with a script; the first line of a packaged script calls this
    Serve {
        /// The script
        file: PathBuf,
        /// The address to listen on if no socket is inherited
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Install a script as a program into $out; Nix calls this as the builder of a package
    Package {
        /// The script
        file: PathBuf,
        /// Its path below $out
        to: PathBuf,
    },
    /// Run the functions of a script that start with `test_`; Nix calls this as the builder of a check
    Test {
        /// The service's script
        service: PathBuf,
        /// The script with the tests
        tests: PathBuf,
    },
    /// Repair the tree in the current directory, in place of an AI coding agent
    Repair {
        /// The context of the incident; without it, the file that REI_CONTEXT names
        context: Option<PathBuf>,
    },
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let done = match Program::parse() {
        Program::Serve { file, listen } => serve::serve(&file, listen).map_err(|error| {
            let hint = error.hint();
            described(&error, hint)
        }),
        Program::Package { file, to } => package(&file, &to),
        Program::Test { service, tests } => test(&service, &tests),
        Program::Repair { context } => {
            let named = context.or_else(|| std::env::var_os("REI_CONTEXT").map(PathBuf::from));
            let done = match named {
                Some(context) => agent::run(&context, Path::new(".")).map_err(|error| described(&error, None)),
                None => Err("no context is given: name a file, or set REI_CONTEXT".to_owned()),
            };
            done.map(|summary| println!("{summary}"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, with its hint.
fn described(error: &dyn std::error::Error, hint: Option<String>) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error}{causes}{hint}")
}

fn out() -> Result<PathBuf, String> {
    std::env::var_os("out")
        .map(PathBuf::from)
        .ok_or_else(|| "$out is not set: only Nix may call this, as a builder".into())
}

/// Installs a script as a program, with this interpreter in its first line.
fn package(file: &Path, to: &Path) -> Result<(), String> {
    let text = script::read(file).map_err(|error| described(&error, None))?;
    script::Script::parse(&to.display().to_string(), &text).map_err(|error| described(&error, None))?;
    let interpreter = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    // The first line names the interpreter. It is replaced, so that every other line keeps its number.
    let body = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    let target = out()?.join(to);
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", target.display());
    if let Some(dir) = target.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    std::fs::write(&target, format!("#!{} serve\n{body}", interpreter.display())).map_err(failed)?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// The name of a file without the hash of its store path.
fn name_in_store(file: &Path) -> String {
    const HASH: usize = 33;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.as_bytes().get(HASH - 1) == Some(&b'-') { name[HASH..].to_owned() } else { name }
}

/// Runs every test; the output exists if and only if all of them pass.
fn test(service: &Path, tests: &Path) -> Result<(), String> {
    let read = |file: &Path| script::read(file).map_err(|error| described(&error, None));
    let (service_text, test_text) = (read(service)?, read(tests)?);
    let (service, name) = (name_in_store(service), name_in_store(tests));
    let load = || script::test_script((&service, &service_text), (&name, &test_text)).map_err(|e| described(&e, None));
    let names = load()?.functions("test_");
    let mut failed = 0;
    for function in &names {
        match load()?.run(function) {
            Ok(()) => println!("ok    {function}"),
            Err(fault) => {
                failed += 1;
                let place = fault.frames.first().map(ToString::to_string).unwrap_or_default();
                println!("FAIL  {function}: {fault} at {place}");
            }
        }
    }
    println!("{} tests, {failed} failed", names.len());
    match (names.len(), failed) {
        (0, _) => Err(format!("{name} has no test")),
        (_, 0) => std::fs::write(out()?, "").map_err(|error| format!("cannot write $out: {error}")),
        (_, failed) => Err(format!("{failed} tests failed")),
    }
}
