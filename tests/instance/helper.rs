//! The actions of the helper program. Each action prints its result.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigHandler, Signal};
use rei::runtime::spawn::{Gate, SpawnSpec, Spawned, spawn};
use rei::runtime::table::InstanceTable;

use crate::confinement::hostile;
use crate::lab::until;

pub fn act() {
    let Ok(act) = std::env::var("REI_TEST_ACT") else { return };
    match act.as_str() {
        "notify" => notify(),
        "start_instances_for_ever" => start_instances_for_ever(),
        "supervise_one" => supervise_one(),
        "serve_one" => serve_one(),
        "wait_at_a_gate" => wait_at_a_gate(),
        "hostile" => hostile(),
        _ => panic!("no such act: {act}"),
    }
    std::process::exit(0);
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

fn notify() {
    let socket = UnixDatagram::unbound().unwrap();
    for message in ["READY=1\nSTATUS=serving", "WATCHDOG=1", &format!("STATUS={}", "x".repeat(5000)), "nonsense"] {
        socket.send_to(message.as_bytes(), variable("NOTIFY_SOCKET")).unwrap();
    }
    // If the sender has exited before its message is read, the supervisor cannot tell it from a stranger.
    std::thread::sleep(std::time::Duration::from_secs(1000));
}

/// Starts an instance as the supervisor does: another thread does the work that comes first, and then opens the gate.
fn start(id: &str, program: &str, args: &[&str], table: &InstanceTable) -> Spawned {
    let gate = Gate::default();
    std::thread::scope(|scope| {
        scope.spawn(|| gate.decide(true));
        start_behind(&gate, id, program, args, table)
    })
}

fn start_behind(gate: &Gate, id: &str, program: &str, args: &[&str], table: &InstanceTable) -> Spawned {
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let spawned = spawn(&SpawnSpec {
        id,
        program: Path::new(program),
        args: &args,
        env: &crate::lab::path_variable(),
        dir: None,
        fds: &[],
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        sandbox: None,
        cgroup: None,
        notify: None,
        pid_cell: Some(table.reserve(id).unwrap()),
        gate: Some(gate),
    })
    .unwrap();
    table.started(id, spawned.start_ticks);
    spawned
}

fn start_instances_for_ever() {
    let table = InstanceTable::open(&PathBuf::from(variable("REI_TEST_TABLE"))).unwrap();
    for n in 0.. {
        let id = format!("{}{n}", variable("REI_TEST_PREFIX"));
        let spawned = start(&id, "/bin/sleep", &["1000"], &table);
        if n == 0 {
            std::fs::write(variable("REI_TEST_READY"), "").unwrap();
        }
        rei::runtime::pidfd::signal(&spawned.pidfd, nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(spawned.pid.cast_signed()), None).unwrap();
        table.clear(&id);
    }
}

fn wait_at_a_gate() {
    let table = InstanceTable::open(&PathBuf::from(variable("REI_TEST_TABLE"))).unwrap();
    start_behind(&Gate::default(), &variable("REI_TEST_PREFIX"), "/bin/touch", &[&variable("REI_TEST_MARK")], &table);
}

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn ask(_: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// A graceful server behind a shell: it finishes its request only after it got `REI_TEST_SIGNAL` and the shell in front of it has
/// exited.
fn serve_one() {
    let signal: Signal = variable("REI_TEST_SIGNAL").parse().unwrap();
    // SAFETY: the handler only stores into an atomic.
    unsafe { nix::sys::signal::signal(signal, SigHandler::Handler(ask)) }.unwrap();
    let shell = nix::unistd::getppid();
    let listener = UnixListener::bind(variable("REI_TEST_SOCKET")).unwrap();
    let (mut client, _) = listener.accept().unwrap();
    io::BufReader::new(client.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
    client.write_all(b"begun\n").unwrap();
    until("the end of the shell", || (ASKED.load(Ordering::Relaxed) && nix::unistd::getppid() != shell).then_some(()));
    // The rest of the request takes longer than killing a tree.
    std::thread::sleep(std::time::Duration::from_millis(500));
    client.write_all(b"answered\n").unwrap();
}

fn supervise_one() {
    let path = PathBuf::from(variable("REI_TEST_TABLE"));
    let (table, ready) = (InstanceTable::open(&path).unwrap(), path.with_extension("ready"));
    let script = format!("trap 'exit 3' USR1; touch {}; while :; do sleep 0.01; done", ready.display());
    let spawned = start(&format!("{}one", variable("REI_TEST_PREFIX")), "/bin/sh", &["-c", &script], &table);
    until("the trap", || ready.exists().then_some(()));
    println!("\ninstance {}", spawned.pid);
    let _ = io::stdin().lock().read_line(&mut String::new());
    rei::runtime::pidfd::signal(&spawned.pidfd, nix::sys::signal::Signal::SIGUSR1).unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(spawned.pid.cast_signed()), None).unwrap();
}
