//! Problems that make a start impossible: each causes one error, and nothing changes.

use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::process;
use crate::lab::{FLAKE, Lab, eventually, system};

/// `rei run` must fail with all these words, and say what to do next.
fn refuses(lab: &Lab, words: &[&str]) -> String {
    refuses_by(lab, lab.rei(), words)
}

fn refuses_by(lab: &Lab, command: Command, words: &[&str]) -> String {
    let mut supervisor = lab.run_by(command);
    let code = supervisor.wait();
    let output = supervisor.output();
    println!("{output}");
    assert_ne!(code, Some(0), "{output}");
    for word in words {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    assert_eq!(output.lines().filter(|line| line.starts_with("error: ")).count(), 1, "one error:\n{output}");
    assert_eq!(output.matches("hint: ").count(), 1, "one next step:\n{output}");
    assert!(!output.contains("panicked"), "{output}");
    assert!(lab.ask("/").is_err(), "something serves");
    lab.nothing_is_left();
    output
}

#[test]
fn a_first_version_that_does_not_evaluate() {
    let Some(lab) = Lab::new() else { return };
    lab.write("flake.nix", "{ outputs = { self }: { packages = nonsense; }; }");
    let rev = lab.commit_tree("nonsense");
    refuses(&lab, &["undefined variable 'nonsense'", "flake.nix:1:", &rev[..12]]);
}

#[test]
fn a_first_version_that_does_not_build() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("does not build");
    refuses(&lab, &["service", "a semicolon is missing", "nix-store --read-log /"]);
}

#[test]
fn a_package_that_the_flake_does_not_have() {
    let Some(lab) = Lab::new() else { return };
    lab.write("flake.nix", &FLAKE.replace("SYSTEM.default", "SYSTEM.other").replace("SYSTEM", &system()));
    lab.commit_tree("other");
    refuses(&lab, &["no package default", "it has: other", "runtime.package = \"other\""]);
}

#[test]
fn a_command_that_the_first_version_does_not_have() {
    let Some(lab) = Lab::new() else { return };
    lab.reword("bin/unruly", "bin/absent");
    refuses(&lab, &["bin/absent", "runtime.command", "ls /"]);
}

#[test]
fn a_first_version_that_never_becomes_ready() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("never_ready 1");
    lab.configure_with("start_timeout = \"3s\"\n", "");
    refuses(&lab, &["did not serve in time", "503", "runtime.start_timeout", "a.log"]);
}

#[test]
fn a_first_version_that_exits_at_once() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("exits 1");
    refuses(&lab, &["does not stay up", "exit code 3", "a.log"]);
}

#[test]
fn a_first_version_that_forks_and_exits() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("forks 1");
    refuses(&lab, &["does not stay up", "foreground"]);
}

#[test]
fn a_port_that_is_in_use() {
    let Some(lab) = Lab::new() else { return };
    let taken = TcpListener::bind(lab.address()).unwrap();
    let mut supervisor = lab.run();
    assert_ne!(supervisor.wait(), Some(0));
    let output = supervisor.output();
    println!("{output}");
    for word in [&lab.address().to_string(), "hint: ", "ss -"] {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    drop(taken);
    lab.nothing_is_left();
}

/// If an instance of an earlier supervisor runs, a failed start takes nothing from it.
#[test]
fn a_failed_start_does_not_touch_a_running_service() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    process::send(supervisor.pid(), Signal::SIGKILL);
    supervisor.wait();
    let before = (process::of_service(&lab.path("state")), process::keeper(&lab.path("state")));
    assert_eq!((before.0.len(), before.1.is_some()), (1, true));
    // The path of the control socket is a file that is not a socket.
    let control = lab.path("state/control.sock");
    let _ = std::fs::remove_file(&control);
    std::fs::create_dir(&control).unwrap();
    let mut failing = lab.run();
    assert_ne!(failing.wait(), Some(0));
    println!("{}", failing.output());
    assert_eq!((process::of_service(&lab.path("state")), process::keeper(&lab.path("state"))), before);
    std::fs::remove_dir(&control).unwrap();
    let mut next = lab.serving();
    assert_eq!((process::of_service(&lab.path("state")), process::keeper(&lab.path("state"))), before);
    load.none_lost();
    assert_eq!(next.stop(), Some(0));
    lab.nothing_is_left();
}

/// A keeper that is no longer needed: its supervisor was killed before there was a version.
#[test]
fn an_unneeded_keeper_stops_at_a_signal_and_at_rei_stop() {
    let Some(lab) = Lab::new() else { return };
    // The first version is slow to start, so that there is no version yet.
    lab.commit("slow_start 1");
    for way in ["signal", "rei stop"] {
        let mut supervisor = lab.run();
        supervisor.until("a keeper with listeners", |_| {
            process::keeper(&lab.path("state")).is_some() && !process::of_service(&lab.path("state")).is_empty()
        });
        // The keeper stays as long as its supervisor is there.
        let keeper = process::keeper(&lab.path("state")).unwrap();
        process::send(keeper, Signal::SIGTERM);
        process::send(supervisor.pid(), Signal::SIGKILL);
        supervisor.wait();
        for instance in process::of_service(&lab.path("state")) {
            process::send(instance.pid, Signal::SIGKILL);
        }
        assert_eq!(process::keeper(&lab.path("state")), Some(keeper), "its supervisor needed it");
        let mut said = String::new();
        let ends = || {
            // The killed instance must have exited first; before that the keeper answers that it is needed.
            if way == "signal" {
                process::send(keeper, Signal::SIGTERM);
                return process::keeper(&lab.path("state")).is_none();
            }
            let mut stop = lab.rei();
            stop.args(["--config".as_ref(), lab.path("rei.toml").as_os_str(), "stop".as_ref()]);
            let output = stop.output().unwrap();
            said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            output.status.success()
        };
        eventually(ends, || "the keeper does not stop".to_owned());
        println!("{said}");
        assert_eq!(said.contains("the keeper that held its listening sockets"), way == "rei stop", "{said}");
        lab.nothing_is_left();
    }
}

#[test]
fn a_source_that_is_not_a_repository() {
    let Some(lab) = Lab::new() else { return };
    std::fs::remove_dir_all(lab.path("repo/.git")).unwrap();
    refuses(&lab, &["/repo", "repository", "runtime.source"]);
}

#[test]
fn a_source_that_does_not_exist() {
    let Some(lab) = Lab::new() else { return };
    lab.reword("/repo\"", "/nowhere\"");
    refuses(&lab, &["/nowhere", "runtime.source"]);
}

#[test]
fn a_ref_that_does_not_exist() {
    let Some(lab) = Lab::new() else { return };
    lab.configure_with("ref = \"release\"\n", "");
    refuses(&lab, &["release", "main", "runtime.ref"]);
}

#[test]
fn a_machine_without_nix() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.rei();
    let git = lab.path("tools");
    std::fs::create_dir(&git).unwrap();
    std::os::unix::fs::symlink(which::which("git").unwrap(), git.join("git")).unwrap();
    command.env("PATH", &git).env("REI_NIX_PATH", "");
    // rei also searches the usual places, so these are hidden.
    if ["/usr/bin/nix-store", "/usr/local/bin/nix-store", "/nix/var/nix/profiles/default/bin/nix-store"]
        .iter()
        .any(|path| std::path::Path::new(path).exists())
    {
        let mut hidden = Command::new("unshare");
        lab.environment(&mut hidden);
        // In a user namespace a plain user may mount, too.
        hidden.args(["--user", "--map-root-user", "--mount", "--", "/bin/sh", "-c"]);
        hidden.arg("for p in /usr/bin/nix-store /usr/local/bin/nix-store /nix/var/nix/profiles/default/bin/nix-store; do test ! -e $p || mount --bind /dev/null $p || exit 9; done; exec \"$0\" \"$@\"");
        hidden.arg(lab.rei().get_program());
        refuses_by(&lab, hidden, &["nix-store", "PATH", "install"]);
        return;
    }
    refuses_by(&lab, command, &["nix-store", "PATH", "install"]);
}

#[test]
fn a_daemon_that_cannot_be_reached() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.rei();
    command.env("NIX_REMOTE", "daemon").env("NIX_DAEMON_SOCKET_PATH", lab.path("no-daemon"));
    refuses_by(&lab, command, &["daemon", "no-daemon", "systemctl start nix-daemon"]);
}

#[test]
fn a_machine_without_user_namespaces() {
    // A daemon builds in its own namespace, which has user namespaces.
    let Some(mut lab) = Lab::new() else { return };
    lab.take_own_store();
    let mut command = Command::new("unshare");
    lab.environment(&mut command);
    // Not as root: a newer Nix would first drop groups, which is forbidden in such a namespace.
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--keep-caps", "--", "/bin/sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_user_namespaces || exit 9; exec \"$0\" \"$@\"");
    command.arg(lab.rei().get_program());
    refuses_by(&lab, command, &["sandbox", "user namespaces", "max_user_namespaces"]);
}

#[test]
fn all_mistakes_of_a_rei_toml_are_reported_at_once() {
    let Some(lab) = Lab::new() else { return };
    lab.reword("poll = \"1s\"", "pol = \"1s\"\nstrategy = \"overlapp\"\nstandby = 5");
    lab.reword("share = 0.5", "share = 1.5");
    let mut supervisor = lab.run();
    assert_ne!(supervisor.wait(), Some(0));
    let output = supervisor.output();
    println!("{output}");
    for word in ["`pol`", "`poll`", "strategy", "standby", "share", "rei.toml:6:", "4 mistakes"] {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    assert!(!lab.path("state").exists(), "no directory is made before the file is valid");
}

#[test]
fn two_supervisors_on_one_state_directory() {
    let Some(lab) = Lab::new() else { return };
    let mut first = lab.serving();
    let load = lab.load();
    let mut second = lab.run();
    assert_ne!(second.wait(), Some(0));
    let output = second.output();
    println!("{output}");
    for word in ["another rei", &first.pid().to_string(), "rei status", "hint: "] {
        assert!(output.contains(word), "{word:?} is not in:\n{output}");
    }
    load.none_lost();
    assert!(first.is_running());
    let rev = lab.commit("well 2");
    assert!(first.verdict_on(&rev).summary.contains("upgrade"));
    assert_eq!(first.stop(), Some(0));
}

/// Stops a supervisor and damages its journal: the next supervisor must refuse to start and must not change the journal.
fn damaged(damage: impl FnOnce(&mut Vec<u8>), words: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    assert_eq!(supervisor.stop(), Some(0));
    // Without snapshots the supervisor reads the whole journal.
    let _ = std::fs::remove_dir_all(lab.path("state/journal/snapshots"));
    let segment = std::fs::read_dir(lab.path("state/journal")).unwrap().flatten().map(|entry| entry.path());
    let segment = segment.filter(|path| path.extension().is_some_and(|it| it == "jsonl")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    damage(&mut bytes);
    std::fs::write(&segment, &bytes).unwrap();
    let output = refuses(&lab, words);
    assert!(output.contains(segment.to_str().unwrap()), "{output}");
    assert!(std::fs::read(&segment).unwrap().starts_with(&bytes), "the journal was changed");
}

#[test]
fn a_journal_with_a_flipped_bit() {
    damaged(|bytes| bytes[600] ^= 1, &["the journal is damaged", "line 2", "rei journal verify"]);
}

#[test]
fn a_journal_with_lost_lines() {
    let cut = |bytes: &mut Vec<u8>| {
        let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        bytes.drain(ends[1] + 1..=ends[2]);
    };
    damaged(cut, &["the journal is damaged", "line 3", "rei journal verify"]);
}

#[test]
fn a_journal_of_a_newer_format() {
    let newer = |bytes: &mut Vec<u8>| {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let header = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let ours = format!("\"{}.{}\"", rei::journal::FORMAT_MAJOR, rei::journal::FORMAT_MINOR);
        let newer = header.replacen(&ours, "\"7.0\"", 1);
        assert_ne!(header, newer);
        bytes.splice(..end, newer.into_bytes());
    };
    damaged(newer, &["7.0", "newer rei"]);
}

#[test]
fn a_journal_with_an_incomplete_last_line_is_continued() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(supervisor.pid()).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    );
    supervisor.wait();
    let segment = std::fs::read_dir(lab.path("state/journal")).unwrap().flatten().map(|entry| entry.path());
    let segment = segment.filter(|path| path.extension().is_some_and(|it| it == "jsonl")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend_from_slice(b"{\"seq\":99,\"at\":\"2026-");
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(lab.ask("/"), Ok("1".to_owned()), "the instance outlives its supervisor");
    let mut next = lab.serving();
    println!("{}", next.output());
    assert!(next.output().contains("incomplete after a crash"), "{}", next.output());
    assert_eq!(next.stop(), Some(0));
}
