//! `rei check` and `rei run` on the same input: the same verdict and the same remedy.

use std::process::Command;

use serde_json::Value;

use crate::common::git::git;
use crate::common::process;
use crate::lab::{FLAKE, Lab, system};

/// What `rei check` says of one question.
#[derive(Debug)]
pub struct Answer {
    pub level: String,
    pub line: String,
    pub hint: String,
}

/// All answers of `rei check`, by a command of one's own.
pub fn check_by(lab: &Lab, mut command: Command, more: &[&str]) -> Vec<(String, Answer)> {
    command.args(["check", "--json"]).args(more).arg("--config").arg(lab.path("rei.toml"));
    let output = command.output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    println!("{page:#}");
    let word = |answer: &Value, key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let answers = page["answers"].as_array().unwrap().iter();
    let named = answers.map(|it| {
        let answer = Answer { level: word(it, "level"), line: word(it, "line"), hint: word(it, "hint") };
        (word(it, "name"), answer)
    });
    named.collect()
}

/// The answers to one question.
pub fn about(answers: Vec<(String, Answer)>, name: &str) -> Vec<Answer> {
    answers.into_iter().filter(|(found, _)| found == name).map(|(_, answer)| answer).collect()
}

/// `rei check` fails at this question alone, and `rei run` refuses with the same next step.
pub fn both_refuse(lab: &Lab, question: &str, more: &[&str], words: &[&str]) {
    let failed = check_by(lab, lab.rei(), more).into_iter().filter(|(_, answer)| answer.level == "fail");
    let failed: Vec<_> = failed.collect();
    assert!(failed.len() == 1 && failed[0].0 == question, "{question} alone fails: {failed:?}");
    let answer = &failed[0].1;
    let output = lab.refused();
    for word in words {
        assert!(answer.line.contains(word), "{word:?} is not in {answer:?}");
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    assert!(!answer.hint.is_empty() && output.contains(&answer.hint), "{:?} is not in:\n{output}", answer.hint);
    lab.nothing_is_left();
}

/// `rei check` finds nothing to put right, and `rei run` serves. Gives what `rei check` and the log said.
fn both_agree(lab: &Lab, command: impl Fn() -> Command) -> (Vec<(String, Answer)>, String) {
    let answers = check_by(lab, command(), &[]);
    let failed: Vec<_> = answers.iter().filter(|(_, answer)| answer.level == "fail").collect();
    assert!(failed.is_empty(), "{failed:?}");
    let mut supervisor = lab.run_by(command());
    supervisor.until("the first version to serve", |it| it.status().is_some_and(|it| it.active.is_some()));
    let output = supervisor.output();
    assert_eq!(supervisor.stop(), Some(0));
    (answers, output)
}

/// The lab's repository becomes a clone of what it was.
fn clone_with(lab: &Lab, args: &[&str]) {
    let (repo, origin) = (lab.path("repo"), lab.path("origin"));
    std::fs::rename(&repo, &origin).unwrap();
    let url = format!("file://{}", origin.display());
    git(&origin, &[&["clone", "--quiet"], args, &[&url, repo.to_str().unwrap()]].concat());
}

/// git refuses a repository of another user until its configuration names it; rei's own copy of it does.
#[test]
fn a_repository_of_another_user() {
    let Some(lab) = Lab::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a repository away");
        return;
    }
    let status = Command::new("chown").args(["--recursive", "65534:65534"]).arg(lab.path("repo")).status().unwrap();
    assert!(status.success());
    let (answers, _) = both_agree(&lab, || lab.rei());
    assert!(about(answers, "source")[0].line.contains("has flake.nix on main"));
}

#[test]
fn a_repository_with_sha256_objects() {
    let Some(lab) = Lab::new() else { return };
    std::fs::remove_dir_all(lab.path("repo/.git")).unwrap();
    git(&lab.path("repo"), &["init", "--quiet", "--initial-branch=main", "--object-format=sha256"]);
    lab.commit_tree("again");
    both_refuse(&lab, "source", &[], &["SHA-256"]);
}

#[test]
fn a_shallow_clone() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("well 1");
    clone_with(&lab, &["--depth", "1"]);
    let (answers, log) = both_agree(&lab, || lab.rei());
    let answers = about(answers, "source");
    let [_, shallow] = &answers[..] else { panic!("{answers:?}") };
    let remedy = format!("git -C {} fetch --unshallow", lab.path("repo").display());
    assert_eq!((shallow.level.as_str(), shallow.hint.as_str()), ("warn", remedy.as_str()));
    assert!(shallow.line.contains("shallow clone") && log.contains(&shallow.line) && log.contains(&remedy), "{log}");
}

#[test]
fn a_package_that_does_not_evaluate() {
    let Some(lab) = Lab::new() else { return };
    lab.write("flake.nix", "{ outputs = { self }: { packages = nonsense; }; }");
    let rev = lab.commit_tree("nonsense");
    both_refuse(&lab, "package", &[], &["undefined variable 'nonsense'", &rev[..12]]);
}

#[test]
fn a_package_that_does_not_build() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("does not build");
    // What only a build can tell is not claimed without one.
    let unbuilt = about(check_by(&lab, lab.rei(), &[]), "program");
    assert!(unbuilt[0].level == "ok" && unbuilt[0].line.contains("rei check --build"), "{unbuilt:?}");
    both_refuse(&lab, "program", &["--build"], &["a semicolon is missing"]);
}

#[test]
fn a_package_without_the_program() {
    let Some(lab) = Lab::new() else { return };
    lab.reword("bin/unruly", "bin/absent");
    both_refuse(&lab, "program", &["--build"], &["bin/absent", "No such file"]);
}

#[test]
fn a_flake_that_is_not_committed() {
    let Some(lab) = Lab::new() else { return };
    lab.git(&["rm", "--quiet", "--cached", "flake.nix"]);
    lab.git(&["commit", "--quiet", "--message", "gone"]);
    both_refuse(&lab, "source", &[], &["has no flake.nix"]);
}

/// The program is in the output that Nix would install, which is not the first.
#[test]
fn a_package_of_several_outputs() {
    let Some(lab) = Lab::new() else { return };
    let packages = r#"packages.SYSTEM.default = make { name = "service"; behaviour = builtins.readFile ./behaviour;
        outputs = [ "dev" "out" ]; } // { meta.outputsToInstall = [ "out" ]; };"#;
    let one = r#"packages.SYSTEM.default = make { name = "service"; behaviour = builtins.readFile ./behaviour; };"#;
    assert!(FLAKE.contains(one));
    lab.write("flake.nix", &FLAKE.replace(one, packages).replace("SYSTEM", &system()));
    lab.commit_tree("two outputs");
    let (answers, _) = both_agree(&lab, || lab.rei());
    assert!(!about(answers, "package")[0].line.ends_with("-dev"));
    // It is built by now.
    let program = about(check_by(&lab, lab.rei(), &[]), "program");
    assert_eq!(program[0].line, "the package has bin/unruly");
}

/// `rei` with this hard limit of descriptors.
fn limited(lab: &Lab, descriptors: u64) -> Command {
    let mut command = Command::new("/bin/sh");
    lab.environment(&mut command);
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]).arg(lab.rei().get_program());
    command
}

#[test]
fn a_limit_of_descriptors_below_that_of_the_instances() {
    let Some(lab) = Lab::new() else { return };
    let (answers, log) = both_agree(&lab, || limited(&lab, 4096));
    let lacks = about(answers, "isolation");
    let lacks = lacks.iter().find(|answer| answer.line.contains("RLIMIT_NOFILE")).unwrap();
    assert!(lacks.level == "warn" && lacks.hint.contains("isolation.fds = 4096"), "{lacks:?}");
    assert!(log.contains("the supervisor's own limit is 4096") && log.contains(&lacks.hint), "{log}");
}

#[test]
fn a_limit_of_descriptors_below_that_of_rei() {
    let Some(lab) = Lab::new() else { return };
    let refused = about(check_by(&lab, limited(&lab, 64), &[]), "descriptors");
    assert_eq!(refused[0].level, "fail");
    let mut supervisor = lab.run_by(limited(&lab, 64));
    assert_ne!(supervisor.wait(), Some(0));
    let output = supervisor.output();
    assert!(output.contains(&refused[0].line) && output.contains(&refused[0].hint), "{output}");
    lab.nothing_is_left();
}

/// Instances have a user of their own, who must be able to pass to their directories.
#[test]
fn a_state_directory_that_instances_cannot_reach() {
    use std::os::unix::fs::PermissionsExt;
    let Some(lab) = Lab::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: instances have a user of their own only if rei is root");
        return;
    }
    std::fs::set_permissions(lab.path("."), std::fs::Permissions::from_mode(0o700)).unwrap();
    let failed = about(check_by(&lab, lab.rei(), &[]), "state");
    assert!(failed[0].level == "fail" && failed[0].line.contains("cannot pass through"), "{failed:?}");
    assert!(lab.refused().contains("must be able to enter the directory"));
    lab.nothing_is_left();
}

/// What only agents need refuses no start, and both tell it.
#[test]
fn an_agent_that_is_not_there() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("[agents.fixer]\ncommand = [\"/nonexistent/agent\"]\n");
    let failed = about(check_by(&lab, lab.rei(), &[]), "programs");
    assert_eq!(failed[0].level, "fail");
    let mut supervisor = lab.serving();
    let output = supervisor.output();
    assert!(output.contains(&failed[0].line) && output.contains(&failed[0].hint), "{output}");
    assert_eq!(supervisor.stop(), Some(0));
}

/// A file that is half written is no reload, and a good one is taken when an operator says so.
#[test]
fn a_file_that_changes_while_rei_runs_is_told_and_not_taken() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let good = std::fs::read_to_string(lab.path("rei.toml")).unwrap();
    std::fs::write(lab.path("rei.toml"), &good[..good.len() / 2]).unwrap();
    supervisor.says("has changed and cannot be used");
    std::fs::write(lab.path("new"), good.replace("observe = \"2s\"", "observe = \"3s\"")).unwrap();
    std::fs::rename(lab.path("new"), lab.path("rei.toml")).unwrap();
    let line = supervisor.says("has changed and can be used (promotion.observe)");
    assert!(line.contains(&format!("kill -HUP {}", supervisor.pid())), "{line}");
    assert!(!supervisor.output().contains("rei.toml was read again"));
    process::send(supervisor.pid(), nix::sys::signal::Signal::SIGHUP);
    supervisor.says("rei.toml was read again");
    assert_eq!(supervisor.stop(), Some(0));
}
