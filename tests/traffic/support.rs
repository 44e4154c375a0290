//! Code that the tests of traffic and keeper share.

use std::io::{self, Write};
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use rei::config::types::{Listen, ListenAddress};
use rei::runtime::keeper::{FdStore, StoreError};
use rei::runtime::traffic::{NextVersion, Setup, Slot, Traffic};

pub const SO_DETACH_REUSEPORT_BPF: i32 = 68;

/// The time limit of a wait for a fact, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between clone and exec, a child of any test has copies of all sockets of this process. So tests that close a socket and check
/// the kernel's reaction must not run at the same time as tests that start a child.
static CHILDREN: RwLock<()> = RwLock::new(());

/// Held while a child starts.
pub fn starting() -> RwLockReadGuard<'static, ()> {
    CHILDREN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held while sockets are closed: no child has a copy.
pub fn losing() -> RwLockWriteGuard<'static, ()> {
    CHILDREN.write().unwrap_or_else(PoisonError::into_inner)
}

/// A store in memory.
#[derive(Default)]
pub struct Shelf(pub Vec<(String, OwnedFd)>);

impl Shelf {
    pub fn names(&self) -> Vec<String> {
        sorted(self.0.iter().map(|(name, _)| name.clone()).collect())
    }

    pub fn fetch(&mut self) -> Vec<(String, OwnedFd)> {
        self.fetch_all().unwrap()
    }
}

impl FdStore for Shelf {
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        self.remove(name)?;
        self.0.push((name.to_owned(), fd.try_clone_to_owned()?));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.0.retain(|(known, _)| known != name);
        Ok(())
    }

    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        self.0.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?))).collect()
    }
}

pub fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

pub fn tcp(name: &str) -> Listen {
    tcp_at(name, "127.0.0.1:0")
}

pub fn tcp_at(name: &str, address: &str) -> Listen {
    Listen { name: name.into(), address: ListenAddress::Tcp(address.parse().unwrap()) }
}

pub fn udp(name: &str) -> Listen {
    Listen { name: name.into(), address: ListenAddress::Udp("127.0.0.1:0".parse().unwrap()) }
}

pub fn unix(name: &str, path: &Path) -> Listen {
    Listen { name: name.into(), address: ListenAddress::Unix(path.into()) }
}

pub fn setup(listens: &[Listen]) -> Setup<'_> {
    Setup { listens, interface: None }
}

pub fn has_v6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// The address of the first listener on this machine.
pub fn local(traffic: &Traffic) -> SocketAddr {
    match traffic.addresses()[0].address {
        ListenAddress::Tcp(at) | ListenAddress::Udp(at) if at.ip().is_unspecified() => {
            SocketAddr::new(if at.is_ipv6() { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() }, at.port())
        }
        ListenAddress::Tcp(at) | ListenAddress::Udp(at) => at,
        ListenAddress::Unix(_) => panic!("the first listener is a unix socket"),
    }
}

/// A copy of a slot's socket, as an instance inherits it.
pub fn copy(traffic: &Traffic, slot: Slot, name: &str) -> OwnedFd {
    let fds = traffic.slot_fds(slot);
    fds.iter().find(|(known, _)| known == name).unwrap().1.try_clone_to_owned().unwrap()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub fn flags(fd: &impl AsFd, what: i32) -> i32 {
    // SAFETY: the call only reads flags of an open descriptor.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), what) }
}

fn set(fd: &impl AsRawFd, level: i32, option: i32, value: *const libc::c_void, length: usize) -> io::Result<()> {
    // SAFETY: the callers give a pointer to that many bytes.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, length as u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn set_int(fd: &impl AsRawFd, option: i32, value: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, option, (&raw const value).cast(), size_of::<i32>())
}

pub fn set_tcp_int(fd: &impl AsRawFd, option: i32, value: i32) {
    set(fd, libc::IPPROTO_TCP, option, (&raw const value).cast(), size_of::<i32>()).unwrap();
}

/// Attaches the program `ret index` to the group.
pub fn attach_ret(fd: &impl AsRawFd, index: u32) -> io::Result<()> {
    let mut program = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: index }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    set(
        fd,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        (&raw const program).cast(),
        size_of::<libc::sock_fprog>(),
    )
}

pub fn shut_down(fd: &impl AsRawFd) {
    // SAFETY: the call takes two integers, and the descriptor is open.
    assert_eq!(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) }, 0);
}

pub fn listen_again(fd: &impl AsRawFd) {
    // SAFETY: the call takes two integers, and the descriptor is open.
    assert_eq!(unsafe { libc::listen(fd.as_raw_fd(), 100) }, 0);
}

/// A connection that leaves no trace when it is dropped, so that thousands do not use up the ports.
pub fn connect_brief(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(server).expect("no client is refused");
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(&client, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size_of::<libc::linger>()).unwrap();
    client
}

/// Answers every connection with one byte until `stop` is set and no connection waits.
pub fn serve(listener: &TcpListener, byte: u8, stop: &AtomicBool) {
    loop {
        match listener.accept() {
            // An error means that the client has already gone.
            Ok((mut client, _)) => drop(client.write_all(&[byte])),
            Err(_) if stop.load(Ordering::Relaxed) => return,
            Err(_) => thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// Waits for a fact.
pub fn wait_for(mut fact: impl FnMut() -> bool, mut meanwhile: impl FnMut()) {
    let deadline = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < deadline, "the fact did not happen in time");
        meanwhile();
        thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a slot ready for an instance of another version.
pub fn prepare(traffic: &mut Traffic, slot: Slot, store: &mut dyn FdStore) {
    traffic.prepare(slot, NextVersion::Other, store).unwrap();
}

/// A store that simulates the death of its supervisor after a number of messages.
pub struct Ending<'a> {
    pub shelf: &'a mut Shelf,
    pub left: usize,
}

impl Ending<'_> {
    fn message(&mut self) -> Result<(), StoreError> {
        self.left = self.left.checked_sub(1).ok_or(StoreError::InvalidAnswer)?;
        Ok(())
    }
}

impl FdStore for Ending<'_> {
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError> {
        self.message()?;
        self.shelf.store(name, fd)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.message()?;
        self.shelf.remove(name)
    }

    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        self.shelf.fetch_all()
    }
}
