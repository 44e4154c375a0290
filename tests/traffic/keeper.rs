//! The keeper as a process: it outlives its starter, gives back the stored descriptors, and exits when it is not needed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use rei::runtime::keeper::{
    FDS_MAX, FdStore, IDLE_MAX, INSTANCE_PREFIX, Keeper, StoreError, SystemdStore, keeper_main,
};
use rei::runtime::logs;
use rei::runtime::traffic::{Adoption, Routing, Slot, Traffic};

use crate::support::*;

const ROLE: &str = "REI_TEST_ROLE";
const SOCKET: &str = "REI_TEST_SOCKET";
const ALONE_MS: &str = "REI_TEST_ALONE_MS";

/// Not a test by itself: a test starts this program again, as a keeper or as a supervisor that the test kills.
#[test]
fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var(SOCKET).unwrap());
    if role == "keeper" {
        let alone = std::env::var(ALONE_MS).map_or(IDLE_MAX, |ms| Duration::from_millis(ms.parse().unwrap()));
        let code = keeper_main(&path, alone);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    let mut keeper = Keeper::start_with_or_connect(&path, again("keeper", &path)).unwrap();
    let listens = [tcp("http")];
    let traffic = Traffic::open(setup(&listens), Routing::All(Slot::B), &mut keeper).unwrap();
    println!("\nlistens {}", local(&traffic));
    // Waits until it is killed.
    loop {
        thread::park();
    }
}

fn again(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "keeper::other_process", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(SOCKET, path);
    command
}

/// A keeper that stops with the test.
struct KeeperOfTest {
    dir: tempfile::TempDir,
    keeper: Option<Keeper>,
}

impl KeeperOfTest {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keeper.sock");
        let mut command = again("keeper", &path);
        change(&mut command);
        let _starting = starting();
        let keeper = Keeper::start_with_or_connect(&path, command).unwrap();
        Self { dir, keeper: Some(keeper) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("keeper.sock")
    }

    fn keeper(&mut self) -> &mut Keeper {
        self.keeper.as_mut().unwrap()
    }
}

impl Drop for KeeperOfTest {
    fn drop(&mut self) {
        if let Ok(keeper) = Keeper::connect(&self.path()) {
            keeper.quit().unwrap();
        }
    }
}

#[test]
fn a_killed_supervisor_loses_no_listener_and_no_queue() {
    let kept = KeeperOfTest::start();
    let mut supervisor = start(again("supervisor", &kept.path()).stdout(Stdio::piped()));
    let server = announced(&mut supervisor);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server).unwrap()).collect();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    // No instance serves, and still no client is refused.
    clients.extend((0..20).map(|_| TcpStream::connect(server).unwrap()));

    let begin = Instant::now();
    let mut keeper = Keeper::connect(&kept.path()).unwrap();
    let mut all = keeper.fetch_all().unwrap();
    println!("connected, and fetched {} descriptors, in {:?}", all.len(), begin.elapsed());
    let listens = [tcp("http")];
    let (traffic, adoption) = Traffic::adopt(setup(&listens), Routing::All(Slot::B), &mut all, &mut keeper).unwrap();
    println!("adopted in {:?}", begin.elapsed());
    assert_eq!(adoption, Adoption::default());
    assert_eq!((local(&traffic), traffic.backlog(Slot::B).unwrap()), (server, 40));
    let instance = TcpListener::from(copy(&traffic, Slot::B, "http"));
    for client in &mut clients {
        let (mut served, from) = instance.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        served.write_all(b"x").unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
    }
    for label in traffic.labels().unwrap() {
        keeper.remove(&label).unwrap();
    }
    assert!(keeper.fetch_all().unwrap().is_empty());
    drop((traffic, instance));
    let _losing = losing();
    assert!(TcpStream::connect(server).is_err(), "no socket listens any more");
}

#[test]
fn the_keeper_survives_its_starter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keeper.sock");
    // Here the supervisor itself starts the keeper.
    let mut supervisor = start(again("supervisor", &path).stdout(Stdio::piped()));
    let server = announced(&mut supervisor);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let mut keeper = Keeper::connect(&path).unwrap();
    let names: Vec<String> = keeper.fetch_all().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    TcpStream::connect(server).unwrap();
    keeper.quit().unwrap();
    assert!(Keeper::connect(&path).is_err());
    wait_for(|| !path.exists(), || {});
}

#[test]
fn names_are_kept_replaced_and_forgotten() {
    let mut kept = KeeperOfTest::start();
    let files: Vec<tempfile::NamedTempFile> = (0..3).map(|_| tempfile::NamedTempFile::new().unwrap()).collect();
    let keeper = kept.keeper();
    for (name, file) in ["log/a", "log/b", "notify"].iter().zip(&files) {
        keeper.store(name, file.as_fd()).unwrap();
    }
    keeper.store("log/a", files[2].as_fd()).unwrap();
    keeper.remove("log/b").unwrap();
    keeper.remove("never-there").unwrap();
    let all = keeper.fetch_all().unwrap();
    let found: Vec<_> = all.iter().map(|(name, fd)| (name.as_str(), inode(fd))).collect();
    assert_eq!(found, [("log/a", inode(files[2].as_file())), ("notify", inode(files[2].as_file()))]);
    for bad in ["", "a b", "a:b", "ä", "a\nb", &"x".repeat(256)] {
        assert!(matches!(keeper.store(bad, files[0].as_fd()), Err(StoreError::BadName { .. })), "{bad:?}");
    }
}

#[test]
fn the_keeper_has_a_bound() {
    let mut kept = KeeperOfTest::start();
    let null = fs::File::open("/dev/null").unwrap();
    let keeper = kept.keeper();
    for n in 0..FDS_MAX {
        // The longest names, so that the answer is the largest that there can be.
        keeper.store(&format!("{n:0>255}"), null.as_fd()).unwrap();
    }
    let refused = keeper.store("one-more", null.as_fd()).unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    keeper.store(&format!("{:0>255}", 0), null.as_fd()).expect("replacing an entry does not grow the store");
    assert_eq!(keeper.fetch_all().unwrap().len(), FDS_MAX);
}

#[test]
fn two_supervisors_at_once_get_one_keeper() {
    let kept = KeeperOfTest::start_with(|_| {});
    kept_quit(&kept);
    let path = kept.path();
    let starters: Vec<_> = (0..4)
        .map(|n| {
            let path = path.clone();
            thread::spawn(move || {
                let _starting = starting();
                let mut keeper = Keeper::start_with_or_connect(&path, again("keeper", &path)).unwrap();
                let null = fs::File::open("/dev/null").unwrap();
                keeper.store(&format!("from/{n}"), null.as_fd()).unwrap();
            })
        })
        .collect();
    starters.into_iter().for_each(|starter| starter.join().unwrap());
    let all = Keeper::connect(&path).unwrap().fetch_all().unwrap();
    assert_eq!(sorted(all.into_iter().map(|(name, _)| name).collect()), ["from/0", "from/1", "from/2", "from/3"]);
}

#[test]
fn the_keeper_is_a_separate_process() {
    let stray = fs::File::open("/dev/null").unwrap();
    // A descriptor that leaks from the starter into the keeper.
    nix::fcntl::fcntl(&stray, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let mut kept = KeeperOfTest::start();
    let pid = kept.keeper().pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!((session, terminal), (pid.to_string().as_str(), "0"), "its own session, no terminal");
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(Pid::from_raw(pid), signal).unwrap();
    }
    kept.keeper().ping().unwrap();
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(fds) => {
            let targets: Vec<String> =
                fds.flatten().filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect();
            let own = |target: &String| target.starts_with("socket:") || target.ends_with("keeper.sock.lock");
            // Three standard streams and the file that they were opened from.
            let null = targets.iter().filter(|target| *target == "/dev/null").count();
            assert!(null <= 4 && targets.iter().all(|target| own(target) || target == "/dev/null"), "{targets:?}");
        }
        Err(error) if !nix::unistd::geteuid().is_root() => {
            // An error is expected: the process is not dumpable.
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
        Err(error) => panic!("{error}"),
    }
    let owner = fs::metadata(format!("/proc/{pid}/environ")).map(|file| std::os::unix::fs::MetadataExt::uid(&file));
    assert_eq!(owner.unwrap_or(0), 0, "not dumpable: its files in /proc are root's");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    println!(
        "{}",
        status
            .lines()
            .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(", ")
    );
}

#[test]
fn a_keeper_that_is_not_needed_exits() {
    let mut kept = KeeperOfTest::start_with(|command| {
        command.env(ALONE_MS, "50");
    });
    let mut instance = start(Command::new("sleep").arg("1000"));
    let pidfd = pidfd(&instance);
    kept.keeper().store(&format!("{INSTANCE_PREFIX}1"), pidfd.as_fd()).unwrap();
    let path = kept.path();
    kept.keeper = None;
    // Its time limit is long over, but an instance lives.
    thread::sleep(Duration::from_millis(200));
    let all = Keeper::connect(&path).unwrap().fetch_all().unwrap();
    assert_eq!(all.len(), 1, "the keeper is still there, with the pidfd of the instance for the next supervisor");
    drop(all);
    instance.kill().unwrap();
    instance.wait().unwrap();
    wait_for(|| !path.exists(), || {});
}

#[test]
fn the_keeper_reads_the_output_of_an_instance_if_no_other_process_does() {
    let mut kept = KeeperOfTest::start();
    let mut instance = start(Command::new("sleep").arg("1000"));
    let (read, write) = logs::pipe().unwrap();
    let memory = logs::Memory::new().unwrap();
    let pipe = format!("{}1", logs::PIPE_PREFIX);
    let keeper = kept.keeper();
    keeper.store(&format!("{INSTANCE_PREFIX}1"), pidfd(&instance).as_fd()).unwrap();
    keeper.store(&format!("{pipe}{}", logs::MEMORY_SUFFIX), memory.as_fd()).unwrap();
    keeper.store(&pipe, read.as_fd()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let logger = |pipe: &OwnedFd| {
        let (ours, theirs) = logs::Logger::connection().unwrap();
        let of_thread = dir.path().to_owned();
        let thread = thread::spawn(move || logs::serve(theirs, &of_thread).unwrap());
        let logger = logs::Logger::of(ours);
        let log = logger.read("1", pipe, memory.share().unwrap(), &dir.path().join("log"), 64 << 20);
        (logger, log, thread)
    };
    // The supervisor is gone, and no logger runs.
    kept.keeper = None;
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let mut write = fs::File::from(write);
    let printed = 50_000;
    let printing = thread::spawn(move || {
        (0..printed).for_each(|_| write.write_all(&line).unwrap());
        write
    });
    wait_for(|| printing.is_finished(), || {});
    let mut write = printing.join().unwrap();
    // Every byte is in the pipe or counted, and the pipe is so empty that the keeper leaves the rest to a logger. The
    // module of the memory says where the keeper's counter is.
    let counter = fs::File::from(memory.as_fd().try_clone_to_owned().unwrap());
    wait_for(
        || {
            let (mut counted, mut unread) = ([0; 8], 0);
            counter.read_exact_at(&mut counted, 72).unwrap();
            // SAFETY: the pointer is to an integer that lives through the call.
            assert_eq!(unsafe { libc::ioctl(read.as_raw_fd(), libc::FIONREAD, &raw mut unread) }, 0);
            let unread = u64::try_from(unread).unwrap();
            u64::from_le_bytes(counted) + unread == printed * 100 && unread < logs::PIPE_BYTES as u64 / 4
        },
        || {},
    );
    let (logger, log, thread) = logger(&read);
    write.write_all(b"the end\n").unwrap();
    wait_for(|| log.recent().ends_with(b"the end\n"), || {});
    // Every byte is in the log or counted as dropped, and the log says where bytes are missing.
    drop((write, logger));
    thread.join().unwrap();
    let (text, stats) = (fs::read_to_string(dir.path().join("log")).unwrap(), log.stats());
    assert!(stats.dropped_bytes > 3_000_000, "{stats:?}");
    let note = format!("\n[rei: {} bytes dropped here: the logger did not read them]\n", stats.dropped_bytes);
    assert!(text.starts_with(&note), "{:?}", text.get(..200));
    assert_eq!((text.len() - note.len()) as u64 + stats.dropped_bytes, printed * 100 + 8);
    instance.kill().unwrap();
    instance.wait().unwrap();
}

#[test]
fn a_keeper_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/directory/keeper.sock");
    let _starting = starting();
    let error = Keeper::start_with_or_connect(&path, again("keeper", &path)).unwrap_err();
    assert!(matches!(&error, StoreError::NotStarted { why, .. } if why.contains("No such file")), "{error}");
    let missing = Keeper::start_or_connect(&dir.path().join("k"), Path::new("/nonexistent/rei")).unwrap_err();
    assert!(matches!(missing, StoreError::NotStarted { .. }), "{missing}");
    let long = dir.path().join("x".repeat(200));
    let error = Keeper::start_or_connect(&long, Path::new("/nonexistent/rei")).unwrap_err();
    assert!(error.hint().unwrap().contains("too long"), "{error}");
}

#[test]
fn the_socket_of_a_killed_keeper_is_taken_over() {
    let mut kept = KeeperOfTest::start();
    let null = fs::File::open("/dev/null").unwrap();
    kept.keeper().store("x", null.as_fd()).unwrap();
    kill(Pid::from_raw(kept.keeper().pid()), Signal::SIGKILL).unwrap();
    wait_for(|| kept.keeper().ping().is_err(), || {});
    let path = kept.path();
    assert!(path.exists(), "the socket file still exists");
    let _starting = starting();
    let mut next = Keeper::start_with_or_connect(&path, again("keeper", &path)).unwrap();
    assert!(next.fetch_all().unwrap().is_empty());
}

#[test]
fn a_client_that_sends_garbage_is_refused_and_disturbs_no_other() {
    let mut kept = KeeperOfTest::start();
    let null = fs::File::open("/dev/null").unwrap();
    kept.keeper().store("x", null.as_fd()).unwrap();
    for packet in [&b"?"[..], b"S", b"Sname", b"R\xff\xfe", &[b'S'; 60_000]] {
        let rude = Keeper::connect(&kept.path()).unwrap();
        nix::sys::socket::send(rude.as_fd().as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        let mut answer = [0; 100];
        let n = nix::sys::socket::recv(rude.as_fd().as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap_or(0);
        assert!(n == 0 || answer[0] == b'e', "{:?}", &answer[..n]);
    }
    assert_eq!(kept.keeper().fetch_all().unwrap().len(), 1);
}

#[test]
fn a_client_without_the_key_gets_no_answer() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
    let mut kept = KeeperOfTest::start();
    let null = fs::File::open("/dev/null").unwrap();
    kept.keeper().store("x", null.as_fd()).unwrap();
    for packet in ["F", "Q", "P", "H", "Hwrong"] {
        let stranger = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(stranger.as_raw_fd(), &UnixAddr::new(&kept.path()).unwrap()).unwrap();
        send(stranger.as_raw_fd(), packet.as_bytes(), MsgFlags::empty()).unwrap();
        let answer = recv(stranger.as_raw_fd(), &mut [0; 100], MsgFlags::empty());
        assert!(matches!(answer, Ok(0) | Err(nix::errno::Errno::ECONNRESET)), "{packet}: {answer:?}");
    }
    let lock = fs::metadata(kept.dir.path().join("keeper.sock.lock")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&lock.permissions()) & 0o777, 0o600);
    assert_eq!(kept.keeper().fetch_all().unwrap().len(), 1);
}

#[test]
fn systemd_gets_messages_of_its_own_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let mut store =
        SystemdStore::new(path.to_str().unwrap().into(), vec![("log/a".into(), null.try_clone().unwrap().into())], 16);
    let given: Vec<String> = store.fetch_all().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(given, ["log/a"]);
    assert!(store.fetch_all().unwrap().is_empty(), "inherited descriptors are returned only once");
    store.store("traffic/http/a/0/1f", null.as_fd()).unwrap();
    let mut received = Vec::new();
    for _ in 0..2 {
        let mut text = [0; 200];
        let mut control = nix::cmsg_space!([i32; 4]);
        let mut bytes = [std::io::IoSliceMut::new(&mut text)];
        let message = recvmsg::<()>(systemd.as_raw_fd(), &mut bytes, Some(&mut control), MsgFlags::empty()).unwrap();
        let mut fds = Vec::new();
        for part in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just made these descriptors, and no other code knows them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let n = message.bytes;
        received.push((String::from_utf8_lossy(&text[..n]).into_owned(), fds.len()));
    }
    assert_eq!(
        received,
        [
            ("FDSTOREREMOVE=1\nFDNAME=traffic/http/a/0/1f".to_owned(), 0),
            ("FDSTORE=1\nFDNAME=traffic/http/a/0/1f\nFDPOLL=0".to_owned(), 1)
        ]
    );
}

fn start(command: &mut Command) -> Child {
    let _starting = starting();
    command.spawn().unwrap()
}

fn kept_quit(kept: &KeeperOfTest) {
    Keeper::connect(&kept.path()).unwrap().quit().unwrap();
    wait_for(|| !kept.path().exists(), || {});
}

fn announced(supervisor: &mut Child) -> SocketAddr {
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("listens ")).expect("it listens");
    line["listens ".len()..].parse().unwrap()
}

fn inode(fd: &impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

fn pidfd(child: &Child) -> OwnedFd {
    // SAFETY: takes two integers, and returns a descriptor that no other code knows.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd as i32)
    }
}
