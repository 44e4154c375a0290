//! A hostile instance tries everything that is forbidden, and everything that must be allowed.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use rei::config::Isolation;
use rei::runtime::isolation::{InstancePaths, Sandbox, User};
use rei::runtime::table::InstanceTable;

use crate::lab::{Lab, Start, is_root};

const ALLOWED: i32 = 0;

/// The errno of each attempt by its name; [`ALLOWED`] if the attempt worked.
fn results(text: &str) -> BTreeMap<String, i32> {
    let line = |line: &str| {
        let (name, errno) = line.strip_prefix("tried ")?.split_once('=')?;
        Some((name.to_owned(), errno.parse().ok()?))
    };
    // The test harness writes its own text before the first line.
    text.lines().filter_map(|text| line(&text[text.find("tried ")?..])).collect()
}

fn isolation(lab: &Lab) -> Isolation {
    std::fs::write(lab.path("readable"), "x").unwrap();
    std::fs::write(lab.path("secret"), "x").unwrap();
    Isolation {
        read: vec![lab.path("readable")],
        execute: Vec::new(),
        write: Vec::new(),
        user: None,
        memory_bytes: Some(1 << 30),
        processes: 64,
        fds: 200,
        connect: None,
        enabled: true,
    }
}

struct World {
    listener: TcpListener,
    allowed: TcpListener,
    forbidden: TcpListener,
    _abstract_socket: UnixListener,
    _control: UnixListener,
    env: Vec<(OsString, OsString)>,
}

/// Makes the things that an instance could reach: ports, sockets, files, this process.
fn world(lab: &Lab) -> World {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, allowed, forbidden) = (listen(), listen(), listen());
    let abstract_name = lab.id("abstract");
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    std::fs::create_dir(lab.path("control")).unwrap();
    std::fs::set_permissions(lab.path("control"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let control = UnixListener::bind(lab.path("control/control.sock")).unwrap();
    let env = [
        ("LAB", lab.dir.path().to_str().unwrap().to_owned()),
        ("SUPERVISOR", std::process::id().to_string()),
        ("ABSTRACT", abstract_name),
        ("ALLOWED_PORT", allowed.local_addr().unwrap().port().to_string()),
        ("FORBIDDEN_PORT", forbidden.local_addr().unwrap().port().to_string()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let _abstract_socket = UnixListener::bind_addr(&address).unwrap();
    World { listener, allowed, forbidden, _abstract_socket, _control: control, env }
}

async fn try_everything(lab: &Lab, config: &Isolation, world: &World) -> (BTreeMap<String, i32>, Sandbox) {
    let helper = lab.helper();
    let paths = InstancePaths {
        user: "hostile",
        closure: &[&helper],
        state: &lab.path("state"),
        temporary: &lab.path("tmp"),
        memory_by_cgroup: false,
        processes_by_cgroup: false,
    };
    let sandbox = Sandbox::instance(config, &paths).unwrap();
    let start = Start {
        env: world.env.clone(),
        fds: vec![("http".into(), world.listener.as_fd())],
        sandbox: Some(&sandbox),
        ..Start::default()
    };
    let text = lab.act("hostile", start).await;
    let results = results(&text);
    assert!(results.contains_key("end"), "the hostile instance did not finish:\n{text}");
    (results, sandbox)
}

#[tokio::test]
async fn a_hostile_instance_is_refused() {
    let lab = Lab::new();
    let world = world(&lab);
    let (results, sandbox) = try_everything(&lab, &isolation(&lab), &world).await;
    let abi_lacks = |word: &str| sandbox.missing().iter().any(|line| line.contains(word));
    println!("missing here: {:?}", sandbox.missing());
    if abi_lacks("Landlock: ") {
        println!("SKIPPED: no Landlock");
        return;
    }
    let expect = |name: &str, errno: i32| {
        let got = results.get(name).unwrap_or_else(|| panic!("{name} was not tried: {results:?}"));
        assert_eq!(*got, errno, "{name}: {}", io::Error::from_raw_os_error(*got));
    };
    for name in
        ["read own program", "write state", "write temporary", "read configured", "null device", "socket", "fork"]
    {
        expect(name, ALLOWED);
    }
    for name in
        ["write outside", "read secret", "execute outside", "read supervisor's environ", "read own /proc", "list /"]
    {
        expect(name, libc::EACCES);
    }
    for name in [
        "attach reuseport program",
        "detach reuseport program",
        "attach extended program",
        "bind to a device",
        "demand a TTL",
        "demand a signature",
        "io_uring_setup",
        "unshare user namespace",
        "clone user namespace",
        "ptrace supervisor",
        "read supervisor's memory",
        "limit supervisor",
        "renice supervisor",
        "renice user",
        "slow supervisor's disk",
        "slow user's disk",
        "bpf",
        "keyctl",
        "mount",
        "userfaultfd",
    ] {
        expect(name, libc::EPERM);
    }
    for name in ["keep alive", "send at once", "linger"] {
        expect(name, ALLOWED);
    }
    expect("clone3", libc::ENOSYS);
    #[cfg(target_arch = "x86_64")]
    expect("x32", libc::ENOSYS);
    if !abi_lacks("signals") {
        expect("signal supervisor", libc::EPERM);
        expect("connect abstract", libc::EPERM);
    }
    assert_eq!((results["descriptors"], results["core"]), (200, 0));
    if is_root() {
        let user = User::derived("hostile");
        assert_eq!(results["uid"], user.uid.cast_signed());
        expect("become root", libc::EPERM);
        expect("connect control", libc::EACCES);
        expect("chmod supervisor's file", libc::EPERM);
        assert_eq!(results["processes"], 64);
    }
}

#[tokio::test]
async fn restricted_connections_cannot_be_bypassed() {
    let lab = Lab::new();
    let world = world(&lab);
    let connect = Some(vec![world.allowed.local_addr().unwrap().port()]);
    let (results, sandbox) = try_everything(&lab, &Isolation { connect, ..isolation(&lab) }, &world).await;
    if sandbox.missing().iter().any(|line| line.contains("TCP by port") || line.contains("Landlock: ")) {
        println!("SKIPPED: {:?}", sandbox.missing());
        return;
    }
    assert_eq!((results["connect allowed"], results["connect forbidden"]), (ALLOWED, libc::EACCES));
    for name in ["fast open", "multipath", "sctp", "smc"] {
        assert_eq!(results[name], libc::EPERM, "{name}");
    }
    drop(world.forbidden);
}

#[tokio::test]
async fn without_isolation_the_same_attempts_succeed() {
    // Otherwise the refusals above would prove nothing.
    let lab = Lab::new();
    let world = world(&lab);
    let (results, sandbox) = try_everything(&lab, &Isolation { enabled: false, ..isolation(&lab) }, &world).await;
    assert!(sandbox.missing().iter().any(|line| line.contains("isolation.enabled is false")));
    for name in [
        "read own /proc",
        "execute outside",
        "connect abstract",
        "connect forbidden",
        "detach reuseport program",
        "demand a TTL",
    ] {
        assert_eq!(results[name], ALLOWED, "{name}");
    }
    assert_ne!((results["clone3"], results["fast open"]), (libc::ENOSYS, libc::EPERM));
}

#[tokio::test]
async fn many_listeners_do_not_replace_the_descriptors_of_the_rules() {
    // In the instance the listeners get the same descriptor numbers that the rules and the lock of the table have in the supervisor.
    const LISTENERS: usize = 200;
    let lab = Lab::new();
    let table = InstanceTable::open(&lab.path("instances")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = Sandbox::builder().system().write(lab.dir.path()).build().unwrap();
    let fds = (0..LISTENERS).map(|n| (format!("l{n}"), listener.as_fd())).collect();
    let cell = Some(table.reserve("crowd").unwrap());
    let start = Start { fds, cell, sandbox: Some(&sandbox), env: crate::lab::path_variable(), ..Start::default() };
    let text = lab
        .output(
            "crowd",
            Path::new("/bin/sh"),
            &["-c", "echo $LISTEN_FDS; ls / >/dev/null 2>&1 || echo confined"],
            start,
        )
        .await;
    let confined = if sandbox.missing().iter().any(|line| line.contains("Landlock: ")) { "" } else { "confined\n" };
    assert_eq!(text, format!("{LISTENERS}\n{confined}"));
}

#[tokio::test]
async fn a_stage_sees_the_system_and_writes_one_directory() {
    let lab = Lab::new();
    for dir in ["work", "elsewhere"] {
        std::fs::create_dir(lab.path(dir)).unwrap();
    }
    let sandbox = Sandbox::builder()
        .system()
        .write(lab.path("work"))
        .network(false)
        .memory_bytes(1 << 30)
        .fds(64)
        .build()
        .unwrap();
    let start = Start { sandbox: Some(&sandbox), env: crate::lab::path_variable(), ..Start::default() };
    let script = format!(
        "cd {}; ls /usr > work/list && echo wrote; cat /etc/hosts > /dev/null && echo read; \
         echo x 2>/dev/null > elsewhere/x || echo refused; cat /etc/shadow 2>/dev/null || echo hidden; ulimit -n",
        lab.dir.path().display()
    );
    let text = lab.output("stage", Path::new("/bin/sh"), &["-c", &script], start).await;
    if sandbox.missing().iter().any(|line| line.contains("Landlock: ")) {
        println!("SKIPPED: no Landlock");
        return;
    }
    assert_eq!(text, "wrote\nread\nrefused\nhidden\n64\n");
    assert!(!lab.path("elsewhere/x").exists());
}

#[test]
fn a_missing_path_of_the_sandbox_is_named() {
    let error = Sandbox::builder().read("/no/such/path").build().unwrap_err();
    assert_eq!(error.to_string(), "cannot open /no/such/path for the sandbox");
    let lab = Lab::new();
    let paths = InstancePaths {
        user: "x",
        closure: &[],
        state: &lab.path("state"),
        temporary: &lab.path("tmp"),
        memory_by_cgroup: true,
        processes_by_cgroup: true,
    };
    if is_root() {
        let config = Isolation { user: Some("no-such-user-here".into()), ..isolation(&lab) };
        assert!(Sandbox::instance(&config, &paths).unwrap_err().hint().unwrap().contains("useradd"));
    }
}

fn report(name: &str, result: io::Result<()>) {
    let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| ALLOWED);
    println!("tried {name}={errno}");
}

fn raw(call: libc::c_long, args: [u64; 6]) -> io::Result<()> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the callers pass addresses of live values, or numbers that the kernel refuses.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option(fd: i32, option: i32, value: &[u8]) -> io::Result<()> {
    set_option_of(fd, libc::SOL_SOCKET, option, value)
}

fn set_option_of(fd: i32, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let address = value.as_ptr() as u64;
    raw(libc::SYS_setsockopt, [fd as u64, level as u64, option as u64, address, value.len() as u64, 0])
}

/// Makes every attempt and prints each on a line with its errno.
pub fn hostile() {
    let lab = std::path::PathBuf::from(std::env::var("LAB").unwrap());
    files(&lab);
    calls();
    let supervisor: u64 = std::env::var("SUPERVISOR").unwrap().parse().unwrap();
    others(&lab, supervisor);
    connections();
    let limit = |what| nix::sys::resource::getrlimit(what).unwrap().1.to_string();
    println!("tried descriptors={}", limit(nix::sys::resource::Resource::RLIMIT_NOFILE));
    println!("tried core={}", limit(nix::sys::resource::Resource::RLIMIT_CORE));
    println!("tried processes={}", limit(nix::sys::resource::Resource::RLIMIT_NPROC));
    println!("tried uid={}", nix::unistd::getuid());
    println!("tried end=0");
}

fn files(lab: &Path) {
    use std::fs::{File, read, read_dir, write};
    report("read own program", File::open(lab.join("helper")).map(drop));
    report("write state", write(lab.join("state/file"), "x"));
    report("write temporary", write(lab.join("tmp/file"), "x"));
    report("read configured", read(lab.join("readable")).map(drop));
    report("null device", write("/dev/null", "x"));
    report("write outside", write(lab.join("outside"), "x"));
    report("read secret", read(lab.join("secret")).map(drop));
    report("execute outside", std::process::Command::new("/bin/true").status().map(drop));
    report("read own /proc", read("/proc/self/status").map(drop));
    report("list /", read_dir("/").map(drop));
    report(
        "chmod supervisor's file",
        std::fs::set_permissions(lab.join("secret"), std::fs::Permissions::from_mode(0o666)),
    );
}

fn calls() {
    let program = [0x6_u64, 0];
    let attached = [1_u64, program.as_ptr() as u64];
    let bytes: Vec<u8> = attached.iter().flat_map(|word| word.to_ne_bytes()).collect();
    report("attach reuseport program", set_option(3, 51, &bytes));
    report("attach extended program", set_option(3, 52, &3_i32.to_ne_bytes()));
    // If the filter allows this on a listener without a group, the kernel finds no program to detach.
    report("detach reuseport program", allow(set_option(3, 68, &0_i32.to_ne_bytes()), libc::EINVAL));
    report("bind to a device", set_option(3, libc::SO_BINDTODEVICE, b"lo"));
    report("demand a TTL", set_option_of(3, libc::IPPROTO_IP, libc::IP_MINTTL, &1_i32.to_ne_bytes()));
    report("demand a signature", set_option_of(3, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &[0; 216]));
    // Options that services set on their connections, and some services on their listeners.
    report("keep alive", set_option(3, libc::SO_KEEPALIVE, &0_i32.to_ne_bytes()));
    report("send at once", set_option_of(3, libc::IPPROTO_TCP, libc::TCP_NODELAY, &0_i32.to_ne_bytes()));
    report("linger", set_option(3, libc::SO_LINGER, &[0; 8]));
    let params = [0_u64; 16];
    report("io_uring_setup", raw(libc::SYS_io_uring_setup, [4, params.as_ptr() as u64, 0, 0, 0, 0]));
    report("unshare user namespace", raw(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]));
    report("clone user namespace", child_by_clone((libc::CLONE_NEWUSER | libc::SIGCHLD) as u64));
    report("fork", child_by_clone(libc::SIGCHLD as u64));
    report("clone3", raw(libc::SYS_clone3, [0, 0, 0, 0, 0, 0]));
    #[cfg(target_arch = "x86_64")]
    report("x32", raw(0x4000_0000 | libc::SYS_getpid, [0; 6]));
    report("bpf", raw(libc::SYS_bpf, [0; 6]));
    report("keyctl", raw(libc::SYS_keyctl, [0; 6]));
    report("mount", raw(libc::SYS_mount, [0; 6]));
    report("userfaultfd", raw(libc::SYS_userfaultfd, [0; 6]));
    report("become root", raw(libc::SYS_setuid, [0; 6]));
}

fn allow(result: io::Result<()>, errno: i32) -> io::Result<()> {
    result.or_else(|error| if error.raw_os_error() == Some(errno) { Ok(()) } else { Err(error) })
}

fn child_by_clone(flags: u64) -> io::Result<()> {
    // SAFETY: like fork(2); the child exits at once.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        pid if pid < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn others(lab: &Path, supervisor: u64) {
    report("read supervisor's environ", std::fs::read(format!("/proc/{supervisor}/environ")).map(drop));
    report("signal supervisor", raw(libc::SYS_kill, [supervisor, 0, 0, 0, 0, 0]));
    report("ptrace supervisor", raw(libc::SYS_ptrace, [u64::from(libc::PTRACE_SEIZE), supervisor, 0, 0, 0, 0]));
    report("read supervisor's memory", raw(libc::SYS_process_vm_readv, [supervisor, 0, 0, 0, 0, 0]));
    let limit = [100_u64, 100];
    report(
        "limit supervisor",
        raw(libc::SYS_prlimit64, [supervisor, libc::RLIMIT_NOFILE as u64, limit.as_ptr() as u64, 0, 0, 0]),
    );
    let idle = 3 << 13;
    // Without isolation these attempts succeed, so they must do no harm: they set the values that the processes already have.
    report("renice user", raw(libc::SYS_setpriority, [libc::PRIO_USER as u64, 0, 0, 0, 0, 0]));
    report("slow supervisor's disk", raw(libc::SYS_ioprio_set, [1, supervisor, idle, 0, 0, 0]));
    report("slow user's disk", raw(libc::SYS_ioprio_set, [3, 0, 0, 0, 0, 0]));
    report("slow own disk", raw(libc::SYS_ioprio_set, [1, 0, idle, 0, 0, 0]));
    report("renice supervisor", raw(libc::SYS_setpriority, [libc::PRIO_PROCESS as u64, supervisor, 19, 0, 0, 0]));
    let name = std::env::var("ABSTRACT").unwrap();
    report("connect abstract", UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).map(drop));
    report("connect control", UnixStream::connect(lab.join("control/control.sock")).map(drop));
}

fn connections() {
    let port = |name: &str| std::env::var(name).unwrap().parse::<u16>().unwrap();
    report("socket", TcpListener::bind("127.0.0.1:0").map(drop));
    report("connect allowed", TcpStream::connect(("127.0.0.1", port("ALLOWED_PORT"))).map(drop));
    report("connect forbidden", TcpStream::connect(("127.0.0.1", port("FORBIDDEN_PORT"))).map(drop));
    let socket =
        |family: i32, kind: i32, protocol: u64| raw(libc::SYS_socket, [family as u64, kind as u64, protocol, 0, 0, 0]);
    report("multipath", socket(libc::AF_INET, libc::SOCK_STREAM, 262));
    report("sctp", socket(libc::AF_INET, libc::SOCK_SEQPACKET, 0));
    report("smc", socket(43, libc::SOCK_STREAM, 0));
    // SAFETY: the call takes only integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    let mut address = [0_u8; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port("FORBIDDEN_PORT").to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let (data, to) = (CString::new("x").unwrap(), address.as_ptr() as u64);
    report("fast open", raw(libc::SYS_sendto, [fd as u64, data.as_ptr() as u64, 1, libc::MSG_FASTOPEN as u64, to, 16]));
}
