//! The figures of rei, measured side by side in one run. `make bench` runs it; see benches/README.md.
//!
//! Arguments name chapters (`crash`, `rollback`, `steady`, `evolution`, `logger`); without any, all of them are measured.

mod evolution;
mod logger;
mod peers;
mod report;
mod restart;
mod rig;
mod steady;
mod switches;

use std::path::Path;
use std::process::ExitCode;

use report::Report;
use rig::Result;

type Chapter = fn(&mut Report, &Path, &Path) -> Result<()>;

const CHAPTERS: &[(&str, Chapter)] = &[
    ("crash", restart::measure),
    ("rollback", switches::measure),
    ("steady", steady::measure),
    ("evolution", evolution::measure),
    ("logger", logger::measure),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs this program too, without `--bench`.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("to measure, run `make bench`");
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| args.iter().all(|arg| arg.starts_with('-')) || args.iter().any(|arg| arg == name);
    match measure(wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Turns binary caches off for every measured Nix, rei's and the plain one. If no cache can be reached, each call of Nix tries for
/// seconds; if one can be reached, the time of its answers is no property of rei.
fn use_no_substituters(conf: &Path) -> Result<()> {
    std::fs::write(conf.join("nix.conf"), "!include /etc/nix/nix.conf\nsubstituters =\n")?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NIX_CONF_DIR", conf) };
    Ok(())
}

/// Measures chapter by chapter; returns whether all chapters could be measured.
fn measure(wanted: impl Fn(&str) -> bool) -> Result<bool> {
    let target = Path::new(env!("CARGO_BIN_EXE_rei")).ancestors().find(|dir| dir.ends_with("target"));
    let target = target.ok_or("the program is not below target")?;
    let conf = tempfile::tempdir()?;
    use_no_substituters(conf.path())?;
    let mut report = Report::new();
    let mut whole = true;
    for (name, chapter) in CHAPTERS.iter().filter(|(name, _)| wanted(name)) {
        let dir = tempfile::Builder::new().prefix("rei-bench-").tempdir()?;
        // Instances run as their own users and must be able to enter the directory.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        if let Err(error) = chapter(&mut report, dir.path(), target) {
            whole = false;
            report.note(format!("the chapter {name} failed: {error}"));
        }
    }
    report.finish(&target.join("bench.json"))?;
    Ok(whole)
}
