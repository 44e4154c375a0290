//! New processes: what they inherit, the errors of a failed start, and that no process is lost.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rei::process::{self, Tag};
use rei::runtime::isolation::Sandbox;
use rei::runtime::spawn::{Gate, SpawnError, Step};
use rei::runtime::table::InstanceTable;
use rei::runtime::tree::TreeLimits;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::lab::{HELPER_ARGS, Lab, Start, path_variable, until};

#[tokio::test]
async fn a_process_has_only_what_the_supervisor_gives_it() {
    let lab = Lab::new();
    let (http, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut env = path_variable();
    env.extend([("GREETING".into(), "hello world".into()), ("LISTEN_FDS".into(), "99".into())]);
    let start = Start {
        env,
        fds: vec![("http".into(), http.as_fd()), ("admin".into(), admin.as_fd())],
        notify: Some((Path::new("/run/rei/x.notify"), Some(Duration::from_secs(3)))),
        dir: Some(Path::new("/usr")),
        ..Start::default()
    };
    // Every Rust program ignores SIGPIPE, so the supervisor does too; a service must not inherit that.
    let script = "echo pid=$$; env; echo cwd=$(pwd); umask; cd /proc/$$/fd; echo fds; ls; echo end; \
                  for n in 3 4; do echo $n=$(readlink $n); done; echo stdin=$(readlink 0); \
                  grep -E '^(SigBlk|SigIgn|NoNewPrivs|NSsid):' /proc/self/status";
    let text = lab.output("a", Path::new("/bin/sh"), &["-c", script], start).await;
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(['=', ':']));
        found.unwrap_or_else(|| panic!("{name} is not in:\n{text}")).trim().to_owned()
    };
    let pid = value("pid");
    assert_eq!(value("LISTEN_PID"), pid);
    assert_eq!((value("LISTEN_FDS"), value("LISTEN_FDNAMES")), ("2".into(), "http:admin".into()));
    assert_eq!(value("REI_INSTANCE"), lab.id("a"));
    assert_eq!((value("NOTIFY_SOCKET"), value("WATCHDOG_USEC")), ("/run/rei/x.notify".into(), "3000000".into()));
    assert_eq!(
        (value("GREETING"), value("cwd"), value("stdin")),
        ("hello world".into(), "/usr".into(), "/dev/null".into())
    );
    assert!(text.contains("fds\n0\n1\n2\n3\n4\nend\n"), "{text}");
    for (n, listener) in [("3", &http), ("4", &admin)] {
        let inode = nix::sys::stat::fstat(listener).unwrap().st_ino;
        assert_eq!(value(n), format!("socket:[{inode}]"));
    }
    assert_eq!((value("SigBlk"), value("SigIgn")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!((value("NoNewPrivs"), value("NSsid")), ("1".into(), pid));
    assert!(text.lines().any(|line| line == "0022"), "{text}");
}

#[test]
fn a_failed_start_is_an_exact_error_and_leaves_no_process() {
    let lab = Lab::new();
    let file = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(lab.path(name), text).unwrap();
        std::fs::set_permissions(lab.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        lab.path(name)
    };
    let cases = [
        (lab.path("absent"), None, Step::Exec, libc::ENOENT, "names a program that the package does not have"),
        (file("plain", "#!/bin/sh\n", 0o644), None, Step::Exec, libc::EACCES, "the file must be executable"),
        (file("noise", "\u{1}\u{2}\u{3}", 0o755), None, Step::Exec, libc::ENOEXEC, "#!/bin/sh"),
        (
            file("orphan", "#!/no/such/interpreter\n", 0o755),
            None,
            Step::Exec,
            libc::ENOENT,
            "its interpreter does not exist",
        ),
        ("/bin/true".into(), Some(Path::new("/no/such/dir")), Step::Directory, libc::ENOENT, "enter the directory"),
    ];
    for (program, dir, step, errno, hint) in cases {
        let error = lab.spawn("x", &program, &[], &Start { dir, ..Start::default() }, None).unwrap_err();
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        // The error names the interpreter if that could not be executed.
        let of = if program.ends_with("orphan") { " of its interpreter /no/such/interpreter" } else { "" };
        assert_eq!(error.to_string(), format!("cannot start {}: {step}{of} failed", program.display()));
        let SpawnError::Child { step: failed, source, .. } = error else { panic!("{error:?}") };
        assert_eq!((failed, source.raw_os_error()), (step, Some(errno)), "{}", program.display());
    }
    let nul = lab.spawn("x", Path::new("/bin/true"), &["a\0b"], &Start::default(), None).unwrap_err();
    assert_eq!(nul.to_string(), "an argument of /bin/true contains a NUL byte");
    assert_eq!(lab.trees.reap_orphans(), 0);
}

/// A script in a sandbox that has only the script: its interpreter is named, and what would allow it does allow it.
#[tokio::test]
async fn an_interpreter_that_the_sandbox_forbids_is_named_and_can_be_allowed() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let bare = Sandbox::builder().essentials().build().unwrap();
    if bare.may_execute(Path::new("/usr")) {
        println!("SKIPPED: no Landlock");
        return;
    }
    let script = |line: &str| {
        std::fs::write(lab.path("script"), format!("{line}\necho it ran\n")).unwrap();
        std::fs::set_permissions(lab.path("script"), std::fs::Permissions::from_mode(0o755)).unwrap();
        lab.path("script")
    };
    let sandbox = |execute: &[String]| {
        let builder = Sandbox::builder().essentials().execute(lab.dir.path());
        execute.iter().fold(builder, |builder, path| builder.execute(path)).build().unwrap()
    };
    for (line, interpreter) in [("#!/bin/sh", "/bin/sh"), ("#! /usr/bin/env sh", "/usr/bin/env")] {
        let program = script(line);
        let refused = sandbox(&[]);
        let start = |sandbox| Start { env: path_variable(), sandbox: Some(sandbox), ..Start::default() };
        let error = lab.spawn("x", &program, &[], &start(&refused), None).unwrap_err();
        let SpawnError::Child { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.raw_os_error(), Some(libc::EACCES));
        assert!(error.to_string().contains(&format!("exec of its interpreter {interpreter} failed")), "{error}");
        let hint = error.hint().unwrap();
        let (_, offered) = hint.split_once("isolation.execute = [").unwrap_or_else(|| panic!("{hint}"));
        let offered: Vec<String> = serde_json::from_str(&format!("[{}]", offered.split_once(']').unwrap().0)).unwrap();
        let allowed = sandbox(&offered);
        let text = lab.output("allowed", &program, &[], start(&allowed)).await;
        assert_eq!(text, "it ran\n", "{offered:?}");
    }
    // The loader of an ELF program, and one that does not exist. The program is that of the shell with another loader.
    let mut shell = std::fs::read("/bin/sh").unwrap();
    let loader = rei::executable::interpreters(Path::new("/bin/sh"), "".as_ref()).into_iter().next();
    let Some(loader) = loader.map(|it| it.path.display().to_string()) else { return };
    let program = lab.path("elf");
    for (path, hint) in [(loader.clone(), "isolation.execute"), ("/absent/ld".to_owned(), "its loader does not exist")]
    {
        let at = shell.windows(loader.len()).position(|bytes| bytes == loader.as_bytes()).unwrap();
        let mut name = path.clone().into_bytes();
        name.resize(loader.len(), 0);
        shell.splice(at..at + loader.len(), name);
        std::fs::write(&program, &shell).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let refused = sandbox(&[]);
        let start = Start { env: path_variable(), sandbox: Some(&refused), ..Start::default() };
        let error = lab.spawn("x", &program, &[], &start, None).unwrap_err();
        assert!(error.to_string().contains(&format!("exec of its loader {path} failed")), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
}

/// A supervisor starts and stops instances as fast as it can, and is killed at a random instruction. Every process that lives then
/// must be in its table.
#[test]
fn a_supervisor_killed_while_it_starts_instances_leaves_none_unrecorded() {
    const ROUNDS: u32 = 60;
    let lab = Lab::new();
    let (table, mut caught) = (lab.path("instances"), 0);
    for round in 0..ROUNDS {
        let ready = lab.path(&format!("ready-{round}"));
        let mut supervisor = Command::new(std::env::current_exe().unwrap())
            .args(HELPER_ARGS)
            .env("REI_TEST_ACT", "start_instances_for_ever")
            .env("REI_TEST_TABLE", &table)
            .env("REI_TEST_READY", &ready)
            .env("REI_TEST_PREFIX", lab.id(&format!("{round}-")))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the supervisor's first instance", || ready.exists().then_some(()));
        // The kills are spread over a few cycles of about a millisecond, in steps that do not divide a cycle.
        std::thread::sleep(Duration::from_micros(u64::from(round) * 137));
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        let table = InstanceTable::open(&table).unwrap();
        let entries = table.entries();
        // The lock is released a moment before the new program's environment can be read.
        for entry in &entries {
            let named = |pid| process::tag(pid) == Tag::Instance(entry.id.clone());
            let gone = |pid| process::stat(pid).is_none_or(|stat| stat.is_zombie());
            until("the program", || entry.pid.is_none_or(|pid| gone(pid) || named(pid)).then_some(()));
        }
        for pid in lab.alive() {
            caught += 1;
            assert!(entries.iter().any(|entry| entry.pid == Some(pid)), "{pid} is in no entry of {entries:?}");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
        until("the instances' end", || lab.alive().is_empty().then_some(()));
        entries.iter().for_each(|entry| table.clear(&entry.id));
    }
    lab.trees.reap_orphans();
    assert!(caught > 0, "no round left an instance, so nothing was shown");
    println!("{caught} instances outlived {ROUNDS} supervisors, all recorded");
}

/// Makes a system call fail in the calling thread.
fn without(call: libc::c_long, errno: libc::c_int) {
    let rules = [(call, Vec::new())].into_iter().collect();
    let (pass, refuse) = (SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()));
    let filter = SeccompFilter::new(rules, pass, refuse, std::env::consts::ARCH.try_into().unwrap()).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn a_process_is_also_made_if_clone3_is_refused() {
    let lab = Lab::new();
    let tree = lab.trees.create(&lab.id("a"), TreeLimits::default()).unwrap();
    let output = std::fs::File::create(lab.path("output")).unwrap();
    let start = Start { env: path_variable(), output: Some(output.as_fd()), ..Start::default() };
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            // systemd's `RestrictNamespaces=` and Docker do this.
            without(libc::SYS_clone3, libc::ENOSYS);
            let script = ["-c", "echo pid=$$ listen=$LISTEN_PID; cat /proc/self/cgroup"];
            lab.spawn("a", Path::new("/bin/sh"), &script, &start, Some(&tree)).unwrap()
        });
        let spawned = made.join().unwrap();
        let text = until("its end", || {
            let text = std::fs::read_to_string(lab.path("output")).unwrap();
            text.contains("0::").then_some(text)
        });
        assert!(text.contains(&format!("pid={}", spawned.pid)), "{text}");
        let inside = text.lines().any(|line| line.ends_with(&format!("/rei-{}", lab.id("a"))));
        assert_eq!(inside, tree.cgroup().is_some(), "{text}");
    });
}

#[test]
fn a_filter_around_the_supervisor_that_refuses_the_sandbox_calls_is_named() {
    let lab = Lab::new();
    let sandbox = Sandbox::builder().system().build().unwrap();
    let start = Start { sandbox: Some(&sandbox), ..Start::default() };
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            // The `SystemCallFilter=@system-service` of systemd 252 does this.
            without(libc::SYS_seccomp, libc::EPERM);
            lab.spawn("a", Path::new("/bin/true"), &[], &start, None).unwrap_err()
        });
        let error = made.join().unwrap();
        assert!(matches!(&error, SpawnError::Child { step: Step::Seccomp, .. }), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("the unit's SystemCallFilter") && hint.contains("allow the system calls seccomp"),
            "{hint}"
        );
    });
}

/// The process that waits at its gate between clone and exec: the only child of the process `of`.
fn child_at_its_gate(of: u32) -> u32 {
    until("a child at its gate", || {
        let tasks = std::fs::read_dir(format!("/proc/{of}/task")).ok()?.flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let child = children.filter_map(|pids| pids.trim().parse().ok()).next()?;
        (process::stat(child)?.state == 'S').then_some(child)
    })
}

#[test]
fn a_program_runs_after_its_gate_opens_and_never_if_the_gate_is_refused() {
    for open in [true, false] {
        let (lab, gate) = (Lab::new(), Gate::default());
        let (mark, cells) = (lab.path("mark"), InstanceTable::open(&lab.path("instances")).unwrap());
        let cell = cells.reserve("a").unwrap();
        let start = Start { gate: Some(&gate), cell: Some(cell), ..Start::default() };
        let spawned = std::thread::scope(|scope| {
            let made = scope.spawn(|| lab.spawn("a", Path::new("/bin/touch"), &[mark.to_str().unwrap()], &start, None));
            let waiting = until("its pid in the table", || cells.entries()[0].pid);
            until("its sleep", || (process::stat(waiting)?.state == 'S').then_some(()));
            assert!(!mark.exists() && !made.is_finished(), "it passed a closed gate");
            gate.decide(open);
            made.join().unwrap()
        });
        match spawned {
            Ok(spawned) => {
                assert!(open);
                nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(spawned.pid.cast_signed()), None).unwrap();
            }
            Err(SpawnError::Child { step: Step::Gate, source, .. }) => {
                assert_eq!((open, source.raw_os_error()), (false, Some(libc::ECANCELED)));
            }
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!((mark.exists(), lab.trees.reap_orphans()), (open, 0));
    }
}

#[test]
fn a_process_at_its_gate_ends_with_its_supervisor_and_its_program_never_runs() {
    let lab = Lab::new();
    let (table, mark) = (lab.path("instances"), lab.path("mark"));
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(HELPER_ARGS)
        .env("REI_TEST_ACT", "wait_at_a_gate")
        .env("REI_TEST_TABLE", &table)
        .env("REI_TEST_MARK", &mark)
        .env("REI_TEST_PREFIX", lab.id("a"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = child_at_its_gate(supervisor.id());
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    until("its end", || process::stat(child).is_none_or(|stat| stat.is_zombie()).then_some(()));
    // Its lock is free, and the entry still has its pid.
    let table = InstanceTable::open(&table).unwrap();
    assert_eq!(table.entries()[0].pid, Some(child));
    assert!(!mark.exists());
    lab.trees.reap_orphans();
}
