//! Tests programs that try to escape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// A state directory with a workspace, a secret beside it, and a directory outside.
struct World {
    state: tempfile::TempDir,
    outside: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { state: tempfile::tempdir().unwrap(), outside: tempfile::tempdir().unwrap() };
        for dir in ["runs/1/tree", "runs/1/home", "runs/1/given", "mirror"] {
            std::fs::create_dir_all(world.state.path().join(dir)).unwrap();
        }
        std::fs::write(world.path("mirror/secret"), "the fix").unwrap();
        std::fs::write(world.path("runs/1/given/context.json"), "{}").unwrap();
        std::fs::write(world.path("runs/1/tree/file"), "old").unwrap();
        for dir in ["runs/1/tree", "runs/1/home"] {
            give_to_agent(&world.path(dir)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    fn sh(&self, script: &str) -> Confined {
        Confined {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: BTreeMap::from([
                ("PATH".into(), PATH.into()),
                ("STATE".into(), self.state.path().into()),
                ("OUTSIDE".into(), self.outside.path().into()),
                ("PARENT".into(), std::process::id().to_string().into()),
            ]),
            dir: self.path("runs/1/tree"),
            write: vec![self.path("runs/1/tree"), self.path("runs/1/home")],
            read: vec![self.path("runs/1/given")],
            hide: self.state.path().to_owned(),
            network: false,
            memory_bytes: 1 << 30,
            timeout: Duration::from_secs(30),
            output_bytes: 64 << 10,
            stdin: Vec::new(),
            secrets: crate::redact::Secrets::default(),
        }
    }

    async fn out(&self, script: &str) -> (Result<i32, Stopped>, String) {
        let ended = self.sh(script).run().await.unwrap();
        let text = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
        (ended.code, text)
    }
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Pids of live processes with this word in their command line.
fn running(word: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|arg| arg == word) && alive(*pid)
    };
    pids.filter(has).collect()
}

/// Waits until no process has this word in its command line.
async fn wait_until_gone(word: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !running(word).is_empty() {
        assert!(Instant::now() < deadline, "{word} still runs as {:?}", running(word));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn works_in_its_workspace() {
    let world = World::new();
    let mut sh = world.sh(
        "cat; cat file ../given/context.json; echo new > file; mkdir -p d/e; echo x > ../home/y; mv file d; exit 7",
    );
    sh.stdin = b"goal;".to_vec();
    let ended = sh.run().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "goal;old{}", "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.code, Ok(7));
    assert_eq!(std::fs::read_to_string(world.path("runs/1/tree/d/file")).unwrap(), "new\n");
    assert!(world.path("runs/1/home/y").exists());
    assert!(ended.fences.landlock);
    eprintln!("fences here: {:?}", ended.fences);
    if let Some(user) = agent_user() {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(world.path("runs/1/tree/d/file").metadata().unwrap().uid(), user);
    }
}

#[tokio::test]
async fn writes_nowhere_else() {
    let world = World::new();
    for target in [
        "$OUTSIDE/x",
        "$STATE/x",
        "$STATE/mirror/x",
        "/tmp/rei-escape",
        "/etc/rei-escape",
        "../x",
        "../given/x",
        "/dev/shm/rei-escape",
    ] {
        let (code, text) = world.out(&format!("echo x > {target}")).await;
        assert_ne!(code, Ok(0), "wrote {target}: {text}");
    }
    let (_, text) = world
        .out("ln -s $OUTSIDE out; echo x > out/y; ln -s /etc/passwd p; echo x >> p; chmod 4755 /bin/sh; echo end")
        .await;
    assert!(text.contains("end"));
    assert_eq!(std::fs::read_dir(world.outside.path()).unwrap().count(), 0);
    for escape in ["/tmp/rei-escape", "/etc/rei-escape", "/dev/shm/rei-escape"] {
        assert!(!Path::new(escape).exists());
    }
    assert!(!world.path("x").exists() && !world.path("mirror/x").exists() && !world.path("runs/1/x").exists());
}

#[tokio::test]
async fn reads_no_secret() {
    let world = World::new();
    std::fs::write(world.outside.path().join("secret"), "the fix").unwrap();
    let script = "cat $STATE/mirror/secret $OUTSIDE/secret /proc/$PARENT/environ /proc/1/environ /proc/1/mem; ls $STATE; echo end";
    let (_, text) = world.out(script).await;
    assert!(!text.contains("the fix") && !text.contains("mirror\n") && text.contains("end"), "{text}");
    let (_, text) = world.out("cat /etc/shadow /root/.profile /proc/kcore | head -c 100; echo end").await;
    assert!(!text.contains("root:") || !nix::unistd::geteuid().is_root(), "{text}");
}

#[tokio::test]
async fn gains_no_privilege() {
    let world = World::new();
    let (_, text) =
        world.out("grep -E '^(NoNewPrivs|CapEff|CapPrm|Groups):' /proc/self/status; id -u; nice; ulimit -c").await;
    if text.contains("NoNewPrivs") {
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
        for line in text.lines().filter(|line| line.starts_with("Cap")) {
            assert!(line.ends_with("\t0000000000000000"), "{text}");
        }
    } else {
        eprintln!("no /proc in this fence: capabilities are not checked");
    }
    let (_, text) = world.out("kill -9 $PARENT && echo killed; kill -9 -1; echo end").await;
    assert!(!text.contains("killed"), "{text}");
    let (_, text) = world.out("unshare -m true && echo unshared; mount -t tmpfs x . && echo mounted; mknod n c 1 1 && echo made; echo end").await;
    assert!(!text.contains("mounted") && !text.contains("made") && text.contains("end"), "{text}");
    let (_, text) = world.out("unshare -U echo namespace; echo end").await;
    assert!(!text.contains("namespace\n") && text.contains("end"), "a user namespace gives all capabilities: {text}");
}

#[tokio::test]
async fn no_process_outlives_it() {
    let world = World::new();
    let plain = world.sh("sleep 86411 & sleep 86412 > /dev/null 2>&1 & setsid sleep 86413 & (setsid sh -c 'sleep 86414 &' &) & echo started");
    let ended = plain.run().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "started\n");
    wait_until_gone("86411").await;
    wait_until_gone("86412").await;
    wait_until_gone("86413").await;
    wait_until_gone("86414").await;
}

#[tokio::test]
async fn is_killed_at_its_timeout_or_when_its_caller_goes() {
    let world = World::new();
    let mut late = world.sh("trap '' TERM; echo begun; setsid sleep 86421 & sleep 86422; echo end");
    late.timeout = Duration::from_millis(300);
    let ended = late.run().await.unwrap();
    assert_eq!(
        (ended.code, String::from_utf8_lossy(&ended.stdout).as_ref()),
        (Err(Stopped::Late(late.timeout)), "begun\n")
    );
    wait_until_gone("86422").await;
    let sleeper = world.sh("echo > here; setsid sleep 86423 & sleep 86424");
    let here = world.path("runs/1/tree/here");
    let there = async {
        while !here.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = sleeper.run() => panic!("{ended:?}"),
        () = there => {}
    }
    wait_until_gone("86424").await;
    wait_until_gone("86421").await;
    wait_until_gone("86423").await;
}

/// Set in the process that plays a rei that is killed.
const IN_KILLED_PROCESS: &str = "REI_TEST_VICTIM";

#[tokio::test]
async fn is_killed_when_rei_is_killed() {
    if std::env::var_os(IN_KILLED_PROCESS).is_some() {
        let world = World::new();
        let ended = world.sh("sleep 86431 & sleep 86432").run().await;
        panic!("not killed: {ended:?}");
    }
    let itself = std::env::current_exe().unwrap();
    let name = "blueprint::confine::tests::is_killed_when_rei_is_killed";
    let mut command = std::process::Command::new(itself);
    command.args(["--exact", name]).env(IN_KILLED_PROCESS, "1").stdout(Stdio::null()).stderr(Stdio::null());
    let mut rei = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while running("86431").is_empty() || running("86432").is_empty() {
        assert!(Instant::now() < deadline, "the agent did not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rei.kill().unwrap();
    rei.wait().unwrap();
    wait_until_gone("86431").await;
    wait_until_gone("86432").await;
}

#[tokio::test]
async fn large_output_is_truncated_and_its_end_is_kept() {
    let world = World::new();
    let mut flood = world.sh("yes flood | head -c 20000000; echo the answer; yes | head -c 1000000 1>&2");
    flood.output_bytes = 1000;
    let ended = flood.run().await.unwrap();
    assert!(ended.truncated && ended.stdout.len() <= 1000);
    assert!(String::from_utf8_lossy(&ended.stdout).ends_with("the answer\n"));
    let mut deaf = world.sh("exec <&-; exit 3");
    deaf.stdin = vec![b'x'; 1 << 20];
    assert_eq!(deaf.run().await.unwrap().code, Ok(3), "input that is not read is dropped");
    let closed = world.sh("exec >&- 2>&- <&-; sleep 0.2; exit 4").run().await.unwrap();
    assert_eq!(closed.code, Ok(4), "a program with closed output still runs");
}

#[tokio::test]
async fn the_network_is_off_unless_it_is_allowed() {
    let world = World::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let python = |script: &str| format!("exec 2>&1; /usr/bin/env python3 -c '{script}'");
    if !world.out(&python("print(\"here\")")).await.1.contains("here") {
        eprintln!("skipped: no python3 that the agent's user can run");
        return;
    }
    let connect = format!("import socket; socket.create_connection((\"127.0.0.1\", {port}), 5); print(\"connected\")");
    let mut sh = world.sh(&python(&connect));
    let text = String::from_utf8_lossy(&sh.run().await.unwrap().stdout).into_owned();
    assert!(!text.contains("connected"), "{text}");
    sh.network = true;
    let text = String::from_utf8_lossy(&sh.run().await.unwrap().stdout).into_owned();
    assert!(text.contains("connected"), "{text}");
}

#[tokio::test]
async fn cannot_join_the_services_listeners() {
    use nix::sys::socket::*;
    let world = World::new();
    let group = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&group, sockopt::ReusePort, &true).unwrap();
    use std::os::fd::AsRawFd;
    bind(group.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(group.as_raw_fd()).unwrap().port();
    listen(&group, Backlog::new(8).unwrap()).unwrap();
    let join = format!(
        "exec 2>&1; /usr/bin/env python3 -c 'import socket as s; x = s.socket(); print(\"here\"); \
         x.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, 1); x.bind((\"127.0.0.1\", {port})); x.listen(); print(\"joined\")'"
    );
    let mut sh = world.sh(&join);
    sh.network = true;
    let text = String::from_utf8_lossy(&sh.run().await.unwrap().stdout).into_owned();
    if !text.contains("here") {
        eprintln!("skipped: no python3 that the agent's user can run");
        return;
    }
    assert!(!text.contains("joined"), "{text}");
    let refused = if agent_user().is_some() { "Address already in use" } else { "Operation not permitted" };
    assert!(text.contains(refused), "{text}");
}

#[tokio::test]
async fn memory_limits_and_signals_are_reported() {
    let world = World::new();
    // In one allocation: otherwise the check of all processes together could trigger first.
    let mut sh = world.sh("dd if=/dev/zero bs=200000000 count=1 | wc -c; kill -SEGV $$");
    sh.memory_bytes = 64 << 20;
    let ended = sh.run().await.unwrap();
    assert_eq!(ended.code, Ok(128 + libc::SIGSEGV));
    assert_eq!(ended.failure().as_deref(), Some("exited with 139 (SIGSEGV)"));
    assert!(!String::from_utf8_lossy(&ended.stdout).contains("200000000"), "dd could allocate it all");
}

#[tokio::test]
async fn many_processes_together_have_the_memory_limit_of_one() {
    let world = World::new();
    // Eight processes that hold 12 MB each and wait: none exceeds the limit of a single process.
    let hold = |seconds: &str| format!("(head -c 12000000 /dev/zero; sleep {seconds}) | tail -c 12000000 > /dev/null");
    let mut sh = world.sh(&format!("for i in 1 2 3 4 5 6 7 8; do {} & done; wait", hold("86441")));
    sh.memory_bytes = 64 << 20;
    let ended = sh.run().await.unwrap();
    let Err(Stopped::Excess(Excess::Memory { bytes, bound })) = ended.code else { panic!("{ended:?}") };
    assert!(bytes > bound && bound == 64 << 20);
    assert!(ended.failure().unwrap().contains("more than its limit of 64 MiB"));
    wait_until_gone("86441").await;
    let mut few = world.sh(&hold("0.5"));
    few.memory_bytes = 64 << 20;
    assert_eq!(few.run().await.unwrap().code, Ok(0));
}

#[tokio::test]
async fn is_killed_before_the_disk_is_full() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let world = World::new();
    let disk = world.path("runs/1/tree");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "agent"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no disk can be mounted here");
        return;
    }
    give_to_agent(&disk).unwrap();
    let script =
        "i=0; while [ $i -lt 56 ]; do head -c 1048576 /dev/zero > f$i; i=$((i+1)); done; echo end; sleep 86451";
    let ended = world.sh(script).run().await.unwrap();
    let left = nix::sys::statvfs::statvfs(&disk).unwrap().blocks_available();
    assert!(std::process::Command::new("umount").arg(&disk).status().unwrap().success());
    let Err(Stopped::Excess(Excess::Disk { bound, .. })) = ended.code else { panic!("{ended:?}") };
    assert_eq!(bound, 32 << 20, "half of what was free");
    assert!(left > 0 && ended.failure().unwrap().contains("ran while only"));
}

#[tokio::test]
async fn missing_programs_and_programs_in_the_workspace_are_refused() {
    let world = World::new();
    let mut sh = world.sh("true");
    sh.program = "no-such-agent".into();
    assert!(matches!(sh.run().await, Err(Error::NoProgram { .. })));
    sh.program = world.path("runs/1/tree/agent");
    std::fs::write(&sh.program, "#!/bin/sh\ntrue\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&sh.program, mode).unwrap();
    assert!(matches!(sh.run().await, Err(Error::OwnProgram { .. })));
}
