//! The builder as a program: reads its job, runs the check and writes the verdict.

use std::process::ExitCode;
use std::time::Instant;

use super::error::Infrastructure;
use super::job::Job;
use super::{judge, tree};
use crate::golden;
use crate::time::millis;
use crate::validation::verdict::{FILE, QUALIFIED, SCHEMA, VerdictFile};

/// Runs one check as the builder of its derivation, which passes all in attributes: `out`, `spec` and the inputs of the
/// check. Exits with 0 and writes `$out/verdict.json`; exits with 1 if the check could not be run.
pub fn builder_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rei: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Infrastructure> {
    let begun = Instant::now();
    let pid = std::process::id().cast_signed();
    if pid != 1 {
        return Err(Infrastructure::NoSandbox { pid });
    }
    nix::sys::prctl::set_dumpable(false).map_err(|errno| Infrastructure::system("become undumpable")(errno.into()))?;
    let job = Job::from_environment(begun)?;
    // One thread: the child between fork and exec relies on it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Infrastructure::system("start the runtime"))?;
    let outcome = runtime.block_on(judge::judge(&job))?;
    tree::end_all_others();
    let file = VerdictFile {
        schema: SCHEMA.into(),
        check: job.spec.check.clone(),
        verdict: outcome.verdict,
        summary: outcome.summary,
        details: outcome.details,
        duration_ms: millis(begun.elapsed()),
        figures: outcome.figures,
    };
    let text =
        serde_json::to_vec_pretty(&file).map_err(|error| Infrastructure::system("write the verdict")(error.into()))?;
    std::fs::create_dir(&job.out).map_err(Infrastructure::system("make the output"))?;
    if let Some(run) = outcome.run {
        golden::write(&job.out.join(QUALIFIED), run).map_err(Infrastructure::Golden)?;
    }
    std::fs::write(job.out.join(FILE), text).map_err(Infrastructure::system("write the verdict"))
}
