//! The time of an evolution minus the time in which Nix ran.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime};

use super::report::{Report, ms};
use super::rig::{Rei, Repo, Result, child, free_port, run};

const CHAPTER: &str = "evolution";
/// Evolutions, each of a commit that was never built.
const EVOLUTIONS: usize = 7;
/// The programs of Nix that rei calls.
const PROGRAMS: [&str; 2] = ["nix-store", "nix-instantiate"];
const OVERHEAD_MS_MAX: f64 = 1000.0;

pub fn measure(report: &mut Report, dir: &Path, _target: &Path) -> Result<()> {
    println!("evolution: {EVOLUTIONS} commits that were never built, from the request to promoted");
    // The versions are new, so that no earlier run has built them.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    let (repo, _) = Repo::begin(dir.join("repo"), &format!("{now}"))?;
    let wrapped = dir.join("wrapped");
    let path = wrap(&wrapped)?;
    let port = free_port()?;
    let toml = format!(
        "[runtime]\nname = \"bench-evolution\"\nsource = \"{}\"\ncommand = [\"bin/child\", \"serve\"]\n\
         listen = [\"http=127.0.0.1:{port}\"]\npoll = \"1h\"\n[health]\nhttp = {{ path = \"/\", interval = \"50ms\" }}\n\
         [promotion]\ncanary = []\nobserve = \"50ms\"\n[evolution]\nbudget = {{ per_incident = 1000, per_hour = 100000 }}\n",
        repo.path().display()
    );
    let mut rei = Rei::start(dir.join("rei"), &toml, &[("PATH", &path)])?;
    let (unfollowed, _) = Repo::begin(dir.join("unfollowed"), "v1")?;
    let (mut whole, mut nixs, mut over, mut plain) = (vec![], vec![], vec![], vec![]);
    for n in 0..EVOLUTIONS {
        let rev = repo.commit(&format!("{now} rei {n}"))?;
        let before = intervals(&wrapped)?.len();
        let begun = Instant::now();
        // rei follows the branch, too: if its poll was faster, the evolution has already started.
        if let Err(error) = rei.evolve(&rev)
            && !error.to_string().contains("WrongPhase")
        {
            return Err(error);
        }
        rei.wait(|status| status["phase"] == "observing")?;
        let took = ms(begun.elapsed());
        let nix = union_ms(intervals(&wrapped)?.split_off(before));
        whole.push(took);
        nixs.push(nix);
        over.push(took - nix);
        rei.wait(|status| status["phase"] == "steady")?;
        let rev = unfollowed.commit(&format!("{now} plain {n}"))?;
        plain.push(plain_build(unfollowed.path(), &rev)?);
    }
    report.row(CHAPTER, "request to promoted", "ms", whole);
    report.row(CHAPTER, "of that, a program of Nix ran", "ms", nixs);
    report.row(CHAPTER, "`nix build` of package and check of such a commit", "ms", plain);
    let over = report.row(CHAPTER, "rei's own time", "ms", over).ok_or("no value was measured")?;
    let met = over <= OVERHEAD_MS_MAX;
    report.goal(CHAPTER, "rei's own time, p50", "at most 1000 ms", format!("{over:.0} ms"), met);
    Ok(())
}

/// Makes a directory of wrappers that run Nix programs and write down when; returns a search path that starts with it.
fn wrap(dir: &Path) -> Result<String> {
    std::fs::create_dir_all(dir.join("real"))?;
    for program in PROGRAMS {
        symlink(which::which(program)?, dir.join("real").join(program))?;
        // A copy, not a link: the wrapper finds the directory by its own path.
        std::fs::copy(child(), dir.join(program))?;
    }
    Ok(format!("{}:{}", dir.display(), std::env::var("PATH")?))
}

/// The times in which Nix programs ran: start and end in nanoseconds.
fn intervals(dir: &Path) -> Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(dir.join("times"))?;
    let times = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    Ok(times.collect())
}

/// The time in which at least one of them ran.
fn union_ms(mut intervals: Vec<(u64, u64)>) -> f64 {
    intervals.sort_unstable();
    let (mut covered, mut until) = (0, 0);
    for (begin, end) in intervals {
        covered += end.saturating_sub(begin.max(until));
        until = until.max(end);
    }
    covered as f64 / 1e6
}

/// Builds the same with the command that a person would type.
fn plain_build(repo: &Path, rev: &str) -> Result<f64> {
    let flake = format!("git+file://{}?rev={rev}", repo.display());
    let system = format!("{}-linux", std::env::consts::ARCH);
    let begun = Instant::now();
    run(Command::new("nix")
        .args(["--extra-experimental-features", "nix-command flakes", "build", "--no-link"])
        .arg(format!("{flake}#packages.{system}.default"))
        .arg(format!("{flake}#checks.{system}.one")))?;
    Ok(ms(begun.elapsed()))
}
