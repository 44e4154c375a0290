//! The ends of instances: an exit, SIGTERM, SIGKILL; the whole process tree always ends with the instance.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rei::config::StopMode;
use rei::process;
use rei::runtime::instance::{EndedBy, Instance, StopBy};
use rei::runtime::logs::{self, Logger, Memory};
use rei::runtime::usage::UsageMeter;

use crate::lab::{HELPER_ARGS, LONG, Lab, NONE, Start, path_variable, until};

/// Starts daemons of every kind: in the process group, in their own session, orphaned, and with an empty environment.
const DAEMONS: &str = "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000 & wait' &) ; \
                       (setsid env -i sleep 1000 &) ; touch ready; sleep 1000";

async fn tree_ends_whole(lab: &Lab) {
    let script = format!("cd {}; {DAEMONS}", lab.dir.path().display());
    let mut instance = lab.shell("daemons", &script);
    until("all daemons", || (lab.path("ready").exists() && lab.alive().len() >= 6).then_some(()));
    // The daemon without environment is known only as an orphan of this process.
    let own = std::process::id();
    let nameless = until("the daemon without environment", || {
        process::all().into_iter().find(|stat| {
            stat.parent == own
                && stat.pid != instance.pid()
                && process::tag(stat.pid) == process::Tag::None
                && stat.session == stat.pid
        })
    });
    let ended = instance.end().await;
    assert_eq!((ended.by, ended.exit.signal), (EndedBy::Kill, Some(libc::SIGKILL)));
    assert!(ended.tree.leftovers >= 6 && ended.tree.survivors == 0, "{ended:?}");
    assert_eq!(lab.alive(), NONE);
    assert!(
        process::stat(nameless.pid).is_none_or(|stat| stat.start_ticks != nameless.start_ticks || stat.is_zombie())
    );
    until("all orphans to be reaped", || {
        lab.trees.reap_orphans();
        let left = process::children(own).unwrap_or_default();
        left.into_iter().filter_map(process::stat).all(|stat| !stat.is_zombie()).then_some(())
    });
}

#[tokio::test]
async fn a_tree_ends_whole_by_scan() {
    tree_ends_whole(&Lab::new()).await;
}

#[tokio::test]
async fn a_tree_ends_whole_by_cgroup() {
    let Some(lab) = Lab::with_cgroup() else { return };
    tree_ends_whole(&lab).await;
}

#[tokio::test]
async fn nothing_forks_away_from_a_cgroup() {
    let Some(lab) = Lab::with_cgroup() else { return };
    let hopper = lab.path("hopper");
    std::fs::write(&hopper, "#!/bin/sh\n\"$0\" & exit 0\n").unwrap();
    std::fs::set_permissions(&hopper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut instance = lab.shell("hopper", &format!("{} & sleep 1000", hopper.display()));
    until("the first hop", || (instance.tree().members().len() >= 2).then_some(()));
    let ended = instance.end().await;
    assert_eq!((ended.tree.survivors, lab.alive()), (0, NONE.to_vec()));
}

#[tokio::test]
async fn one_tree_ends_and_the_other_continues() {
    let lab = Lab::new();
    let mut one = lab.shell("one", "(setsid sleep 1000 &); sleep 1000");
    let mut other = lab.shell("other", "(setsid sleep 1000 &); sleep 1000");
    until("both trees", || (lab.alive().len() == 6 || lab.alive().len() == 4).then_some(()));
    one.end().await;
    let mut alive = lab.alive();
    alive.retain(|pid| process::tag(*pid) == process::Tag::Instance(lab.id("one")));
    assert_eq!(alive, NONE);
    assert!(process::stat(other.pid()).is_some_and(|stat| !stat.is_zombie()));
    assert_eq!(other.end().await.by, EndedBy::Kill);
    assert_eq!(lab.alive(), NONE);
}

#[tokio::test]
async fn an_instance_that_obeys_sigterm_gets_no_sigkill() {
    let lab = Lab::new();
    let ready = lab.path("ready");
    let mut instance =
        lab.shell("willing", &format!("trap 'exit 7' TERM; touch {}; while :; do sleep 0.01; done", ready.display()));
    until("the trap", || ready.exists().then_some(()));
    let ended = instance.stop(StopBy::default(), LONG).await;
    assert_eq!((ended.by, ended.exit.to_string()), (EndedBy::Term, "exit code 7".into()));
}

#[tokio::test]
async fn an_instance_that_ignores_sigterm_is_killed_at_the_deadline() {
    let lab = Lab::new();
    let ready = lab.path("ready");
    let mut instance =
        lab.shell("unwilling", &format!("trap '' TERM; touch {}; sleep 1000; sleep 1000", ready.display()));
    until("the trap", || ready.exists().then_some(()));
    let ended = instance.stop(StopBy::default(), Duration::from_millis(50)).await;
    assert_eq!((ended.by, ended.exit.to_string()), (EndedBy::Kill, "signal 9 (SIGKILL)".into()));
    assert_eq!(lab.alive(), NONE);
}

/// A service behind a shell without exec, as with `npm start`; it has a request in progress. At `signal` it stops gracefully.
fn behind_a_shell(lab: &Lab, name: &str, signal: Signal) -> (Instance, UnixStream) {
    let socket = lab.path(name);
    let mut env = path_variable();
    env.push(("REI_TEST_ACT".into(), "serve_one".into()));
    env.push(("REI_TEST_SIGNAL".into(), signal.as_str().into()));
    env.push(("REI_TEST_SOCKET".into(), socket.clone().into()));
    let script = format!("{} {}; echo done", lab.helper().display(), HELPER_ARGS.join(" "));
    let instance = lab.start(name, Path::new("/bin/sh"), &["-c", &script], &Start { env, ..Start::default() });
    let mut client = until("the service", || UnixStream::connect(&socket).ok());
    client.write_all(b"request\n").unwrap();
    let mut begun = [0; 6];
    client.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"begun\n");
    (instance, client)
}

/// Reads the rest of the answer.
fn rest(mut client: UnixStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

async fn request_is_answered(lab: &Lab) {
    let (mut instance, client) = behind_a_shell(lab, "shell", Signal::SIGTERM);
    let ended = instance.stop(StopBy::default(), LONG).await;
    assert_eq!((ended.by, rest(client).as_str()), (EndedBy::Term, "answered\n"));
    assert_eq!(lab.alive(), NONE);
}

#[tokio::test]
async fn a_service_behind_a_shell_finishes_its_requests() {
    request_is_answered(&Lab::new()).await;
}

#[tokio::test]
async fn a_service_behind_a_shell_finishes_its_requests_in_a_cgroup() {
    let Some(lab) = Lab::with_cgroup() else { return };
    request_is_answered(&lab).await;
}

#[tokio::test]
async fn the_stop_signal_is_the_services_own() {
    let lab = Lab::new();
    let quit = StopBy { signal: Signal::SIGQUIT, ..StopBy::default() };
    let (mut instance, client) = behind_a_shell(&lab, "quit", Signal::SIGQUIT);
    let ended = instance.stop(quit, LONG).await;
    assert_eq!((ended.by, ended.exit.signal), (EndedBy::Term, Some(libc::SIGQUIT)), "the shell's");
    assert_eq!(rest(client), "answered\n");
    // For this service SIGTERM is a fast stop.
    let (mut instance, client) = behind_a_shell(&lab, "term", Signal::SIGQUIT);
    assert_eq!(instance.stop(StopBy::default(), LONG).await.by, EndedBy::Term);
    assert_eq!(rest(client), "");
}

#[tokio::test]
async fn mixed_signals_only_the_main_process_and_kills_the_rest_after_it() {
    let lab = Lab::new();
    let (mut instance, client) = behind_a_shell(&lab, "mixed", Signal::SIGTERM);
    let ended = instance.stop(StopBy { mode: StopMode::Mixed, ..StopBy::default() }, LONG).await;
    assert_eq!((ended.by, ended.tree.leftovers, rest(client).as_str()), (EndedBy::Term, 1, ""));
    assert_eq!(lab.alive(), NONE);
}

#[tokio::test]
async fn a_process_in_another_session_and_without_parent_gets_the_stop_signal_too() {
    for lab in [Some(Lab::new())].into_iter().chain(std::iter::once_with(Lab::with_cgroup)).flatten() {
        let script = format!(
            "cd {}; (setsid sh -c 'trap \"touch asked; exit\" TERM; touch ready; while :; do sleep 0.01; done' &); sleep 1000",
            lab.dir.path().display()
        );
        let mut instance = lab.shell("daemon", &script);
        until("the daemon", || lab.path("ready").exists().then_some(()));
        let ended = instance.stop(StopBy::default(), LONG).await;
        assert_eq!((ended.by, lab.path("asked").exists(), lab.alive()), (EndedBy::Term, true, NONE.to_vec()));
    }
}

#[tokio::test]
async fn a_service_behind_a_shell_that_does_not_stop_is_killed_at_the_deadline() {
    for lab in [Some(Lab::new())].into_iter().chain(std::iter::once_with(Lab::with_cgroup)).flatten() {
        let ready = lab.path("ready");
        let script = format!("sh -c \"trap '' TERM; touch {}; sleep 1000; sleep 1000\"; echo done", ready.display());
        let mut instance = lab.shell("stubborn", &script);
        until("the trap", || ready.exists().then_some(()));
        let ended = instance.stop(StopBy::default(), Duration::from_millis(50)).await;
        assert_eq!((ended.by, ended.exit.signal), (EndedBy::Kill, Some(libc::SIGTERM)), "the shell's");
        assert!(ended.tree.leftovers >= 1, "{ended:?}");
        assert_eq!(lab.alive(), NONE);
    }
}

#[tokio::test]
async fn a_service_whose_main_process_forks_and_exits_has_ended() {
    let lab = Lab::new();
    let mut instance = lab.shell("forker", "sleep 1000 & exit 3");
    let exit = tokio::time::timeout(LONG, instance.wait()).await.unwrap();
    assert_eq!(exit.to_string(), "exit code 3");
    let ended = instance.end().await;
    assert_eq!((ended.by, ended.exit, ended.tree.leftovers), (EndedBy::Itself, exit, 1));
    assert_eq!(lab.alive(), NONE);
}

#[tokio::test]
async fn a_crash_reports_its_signal() {
    let lab = Lab::new();
    let mut instance = lab.shell("crash", "kill -SEGV $$");
    assert_eq!(tokio::time::timeout(LONG, instance.wait()).await.unwrap().signal, Some(libc::SIGSEGV));
    assert_eq!(instance.stop(StopBy::default(), LONG).await.by, EndedBy::Itself);
}

#[tokio::test]
async fn usage_counts_the_tree() {
    for lab in [Some(Lab::new())].into_iter().chain(std::iter::once_with(Lab::with_cgroup)).flatten() {
        let mut instance = lab.shell("usage", "sleep 1000 & sleep 1000 & wait");
        until("three processes", || {
            let usage = UsageMeter::default().read(&instance);
            let whole = usage.processes == Some(3) && usage.rss_bytes > Some(100_000) && usage.fds >= Some(9);
            (whole && usage.pid == Some(instance.pid()) && usage.uptime_ms.is_some() && usage.cpu_ms.is_some())
                .then_some(())
        });
        instance.end().await;
        assert_eq!(UsageMeter::default().read(&instance).processes, Some(0));
    }
}

#[tokio::test]
async fn a_flood_fills_neither_disk_nor_memory_and_does_not_stop_the_service() {
    let lab = Lab::new();
    let (read, write) = logs::pipe().unwrap();
    let (ours, theirs) = Logger::connection().unwrap();
    let dir = lab.dir.path().to_owned();
    let thread = std::thread::spawn(move || logs::serve(theirs, &dir).unwrap());
    let logger = Logger::of(ours);
    let log = logger.read("flood", &read, Memory::new().unwrap(), &lab.path("log"), 1 << 20);
    let start = Start { env: path_variable(), output: Some(write.as_fd()), ..Start::default() };
    let script = "yes flood | head -c 60000000; echo; echo the end";
    let mut instance = lab.start("flood", Path::new("/bin/sh"), &["-c", script], &start);
    drop(start);
    drop(write);
    assert!(tokio::time::timeout(LONG, instance.wait()).await.unwrap().success());
    instance.end().await;
    until("the last output", || log.is_finished().then_some(()));
    drop(logger);
    thread.join().unwrap();
    let stats = log.stats();
    let size = |name| std::fs::metadata(lab.path(name)).unwrap().len();
    assert_eq!(stats.read_bytes, 60_000_000 + 9);
    assert!(stats.dropped_bytes > 0, "{stats:?}");
    assert!(size("log") + size("log.1") <= 1 << 20);
}
