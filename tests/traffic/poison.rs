//! The options that an instance sets on its sockets do not affect the next instance, and no connection is lost by the cleanup.

use std::collections::BTreeMap;
use std::io::Read;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rei::config::types::ListenAddress;
use rei::runtime::traffic::{Routing, Setup, Slot, Traffic};

use crate::support::*;

/// Options that a candidate may set on inherited sockets: level, option, value. Each of them harms the next instance.
const POISON: &[(i32, i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_MINTTL, 255),
    (libc::IPPROTO_IP, libc::IP_TTL, 1),
    (libc::IPPROTO_IP, libc::IP_TOS, 0x10),
    (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0x10),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 100),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 100),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 1),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
    (libc::IPPROTO_UDP, UDP_GRO, 1),
    (libc::SOL_SOCKET, libc::SO_RCVBUF, 2304),
    (libc::SOL_SOCKET, libc::SO_SNDBUF, 4608),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1 << 20),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE, 1),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1),
    (libc::SOL_SOCKET, libc::SO_PRIORITY, 6),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT, 0),
    (libc::SOL_SOCKET, libc::SO_PASSCRED, 1),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE, 1),
    (libc::SOL_SOCKET, libc::SO_BROADCAST, 1),
];

const IPV6_MINHOPCOUNT: i32 = 73;
const UDP_GRO: i32 = 104;
const UDP_ENCAP: i32 = 100;

/// Options that cannot be set: they describe the socket itself, or the last packet.
const FACTS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_ERROR),
    (libc::SOL_SOCKET, libc::SO_COOKIE),
    (libc::SOL_SOCKET, libc::SO_MEMINFO),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::SOL_SOCKET, libc::SO_PEERCRED),
];

fn set_bytes(fd: &impl AsRawFd, level: i32, option: i32, value: &[u8]) -> bool {
    // SAFETY: the pointer and the length describe `value`.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as u32) == 0 }
}

/// Sets all options of the list that the socket supports; returns their number.
fn poison(fd: &OwnedFd) -> usize {
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 1 };
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: both types are integers without padding.
    let bytes = |at: *const u8, length| unsafe { std::slice::from_raw_parts(at, length) }.to_vec();
    let timeout = bytes((&raw const timeout).cast(), size_of::<libc::timeval>());
    let linger = bytes((&raw const linger).cast(), size_of::<libc::linger>());
    let others = [(libc::SO_RCVTIMEO, &timeout), (libc::SO_SNDTIMEO, &timeout), (libc::SO_LINGER, &linger)];
    let set = others.into_iter().filter(|(option, value)| set_bytes(fd, libc::SOL_SOCKET, *option, value)).count()
        + POISON.iter().filter(|(level, option, value)| set_bytes(fd, *level, *option, &value.to_ne_bytes())).count();
    // SAFETY: the call takes integers, and the descriptor is open. It fails for sockets that do not listen.
    unsafe {
        libc::listen(fd.as_raw_fd(), 0);
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC);
    }
    set
}

/// Every option of a socket that the kernel returns.
fn options(fd: &OwnedFd) -> BTreeMap<(i32, i32), Vec<u8>> {
    let all = [(libc::SOL_SOCKET, 83), (libc::IPPROTO_IP, 51), (libc::IPPROTO_IPV6, 63), (libc::IPPROTO_UDP, 104)];
    let numbers = all.into_iter().flat_map(|(level, last)| (1..=last).map(move |option| (level, option)));
    let tcp = [1, 2, 4, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 23, 25].map(|option| (libc::IPPROTO_TCP, option));
    let known = |(level, option): &(i32, i32)| {
        // Skip the options that make a descriptor, or that read their buffer.
        let acts = [(libc::SOL_SOCKET, 26), (libc::SOL_SOCKET, 77), (libc::IPPROTO_IP, 41), (libc::IPPROTO_IP, 48)];
        !FACTS.contains(&(*level, *option))
            && !acts.contains(&(*level, *option))
            && (*level, *option) != (libc::IPPROTO_IPV6, 32)
    };
    let read = |(level, option): (i32, i32)| {
        let (mut value, mut length) = ([0_u8; 256], 256);
        // SAFETY: the kernel writes at most `length` bytes to `value`.
        let result =
            unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
        (result == 0).then(|| ((level, option), value[..length as usize].to_vec()))
    };
    let more = [(libc::IPPROTO_IPV6, 66), (libc::IPPROTO_IPV6, 67), (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)];
    numbers.chain(tcp).chain(more).filter(known).filter_map(read).collect()
}

/// All kinds of listeners that this machine has.
fn all_kinds(dir: &std::path::Path) -> Vec<rei::config::types::Listen> {
    let mut listens = vec![tcp("http"), udp("dns"), unix("admin", &dir.join("admin.sock"))];
    if has_v6() {
        listens.push(tcp_at("six", "[::1]:0"));
        listens.push(rei::config::types::Listen {
            name: "six-dns".into(),
            address: ListenAddress::Udp("[::1]:0".parse().unwrap()),
        });
    }
    listens
}

/// Once in a slot without traffic, and once in a slot with all traffic, which must keep its queue.
#[test]
fn options_of_an_instance_on_its_sockets_do_not_reach_the_next() {
    for (traffic_to, slot) in [(Slot::A, Slot::B), (Slot::B, Slot::A), (Slot::A, Slot::A)] {
        let dir = tempfile::tempdir().unwrap();
        let listens = all_kinds(dir.path());
        let with = Setup { interface: Some(dir.path()), ..setup(&listens) };
        let mut shelf = Shelf::default();
        let mut traffic = Traffic::open(with, Routing::All(traffic_to), &mut shelf).unwrap();
        prepare(&mut traffic, slot, &mut shelf);
        let of = |traffic: &Traffic| -> Vec<_> {
            let fds = traffic.slot_fds(slot);
            fds.iter().map(|(name, fd)| (name.clone(), options(&fd.try_clone_to_owned().unwrap()))).collect()
        };
        let before = of(&traffic);
        assert!(before[0].1.len() > 60, "options are really read: {}", before[0].1.len());
        let waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
        for (name, fd) in traffic.slot_fds(slot) {
            let set = poison(&fd.try_clone_to_owned().unwrap());
            assert!(set > 8, "{name}: {set} options can be set");
        }
        prepare(&mut traffic, slot, &mut shelf);
        for ((name, was), (_, is)) in before.into_iter().zip(of(&traffic)) {
            let differs: Vec<_> = was.iter().filter(|(option, value)| is.get(option) != Some(value)).collect();
            let now: Vec<_> = differs.iter().map(|(option, _)| is.get(option)).collect();
            assert!(differs.is_empty(), "traffic to {traffic_to}, slot {slot}, {name}: {differs:?} are {now:?}");
        }
        for (name, fd) in traffic.slot_fds(slot) {
            let flags = flags(&fd, libc::F_GETFL);
            assert!(flags & (libc::O_NONBLOCK | libc::O_ASYNC) == 0, "{name}: {flags:#x}");
        }
        assert_eq!(traffic.backlog(traffic_to).unwrap(), waiting.len() as u64, "the queue is kept");
        assert_eq!(shelf.names(), sorted(traffic.labels().unwrap()), "the store has the same sockets");
        let _ = traffic.route(Routing::All(slot)).unwrap();
        let before = traffic.backlog(slot).unwrap();
        let _clients: Vec<_> = (0..50).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
        assert_eq!(traffic.backlog(slot).unwrap(), before + 50, "every client is in the queue, with any TTL");
    }
}

/// This also covers options that cannot be read or undone: a slot without traffic gets new sockets.
#[test]
fn a_slot_without_traffic_gets_new_sockets() {
    let listens = [tcp("http"), udp("dns")];
    let mut shelf = Shelf::default();
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
    prepare(&mut traffic, Slot::B, &mut shelf);
    let before = traffic.labels().unwrap();
    assert!(set_bytes(&copy(&traffic, Slot::B, "dns"), libc::IPPROTO_UDP, UDP_ENCAP, &2_i32.to_ne_bytes()));
    // A process that an instance left behind still has the old socket.
    let http_left = copy(&traffic, Slot::B, "http");
    prepare(&mut traffic, Slot::B, &mut shelf);
    let after = traffic.labels().unwrap();
    for name in ["http", "dns"] {
        let label = |all: &[String]| all.iter().find(|label| label.contains(&format!("/{name}/b/"))).unwrap().clone();
        assert_ne!(label(&before), label(&after), "{name}: another socket");
    }
    // SAFETY: the kernel writes one integer to the pointer.
    let listening = unsafe {
        let (mut value, mut length) = (0_i32, 4);
        libc::getsockopt(
            http_left.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut value).cast(),
            &raw mut length,
        );
        value
    };
    assert_eq!(listening, 0, "the old socket gets no connection");
    let _ = traffic.route(Routing::All(Slot::B)).unwrap();
    let _clients: Vec<_> = (0..50).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
    assert_eq!(traffic.backlog(Slot::B).unwrap(), 50);
}

/// Clients connect without a pause, while the other slot is poisoned and prepared again and again and the slots switch.
#[test]
fn no_connection_is_lost_while_sockets_are_replaced() {
    let listens = [tcp("http")];
    let mut shelf = Shelf::default();
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
    let server: SocketAddr = local(&traffic);
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut alarm = traffic.alarm().unwrap();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = connect_brief(server);
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut byte = [0];
                    client.read_exact(&mut byte).expect("every connection is served");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let instance = |traffic: &Traffic, slot: Slot| {
        let listener = TcpListener::from(copy(traffic, slot, "http"));
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = stop.clone();
            thread::spawn(move || serve(&listener, b'x', &stop))
        };
        move || {
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
    };
    prepare(&mut traffic, Slot::A, &mut shelf);
    let (mut active, mut slot, mut renewed) = (instance(&traffic, Slot::A), Slot::A, 0);
    for _ in 0..100 {
        let before = traffic.labels().unwrap();
        prepare(&mut traffic, slot.other(), &mut shelf);
        renewed += u32::from(before != traffic.labels().unwrap());
        if traffic.alarm_is_stale(&alarm) {
            alarm = traffic.alarm().unwrap();
        }
        assert_eq!(alarm.try_next().unwrap(), None, "no process tampers");
        let next = instance(&traffic, slot.other());
        let _ = traffic.route(Routing::All(slot.other())).unwrap();
        let so_far = served.load(Ordering::Relaxed);
        wait_for(|| served.load(Ordering::Relaxed) > so_far, || {});
        // The former Active empties its queue and exits.
        wait_for(|| traffic.is_drained(slot).unwrap(), || {});
        active();
        (active, slot) = (next, slot.other());
        poison(&copy(&traffic, slot.other(), "http"));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    active();
    assert!(renewed > 50, "{renewed} of 100 times the slot got new sockets");
    println!("{} connections", served.load(Ordering::Relaxed));
}

/// The supervisor is killed at each message to its store: the next supervisor finds a complete group.
#[test]
fn a_supervisor_killed_while_it_replaces_sockets_leaves_a_group_that_can_be_adopted() {
    let _losing = losing();
    let mut calls = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let listens = [tcp("http"), udp("dns"), unix("admin", &dir.path().join("s"))];
        let mut shelf = Shelf::default();
        let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
        prepare(&mut traffic, Slot::B, &mut shelf);
        let mut ending = Ending { shelf: &mut shelf, left: calls };
        let ended = traffic.prepare(Slot::B, rei::runtime::traffic::NextVersion::Other, &mut ending).is_err();
        let waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
        drop(traffic);
        let mut all = shelf.fetch();
        let (mut traffic, adoption) =
            Traffic::adopt(setup(&listens), Routing::All(Slot::A), &mut all, &mut shelf).unwrap();
        drop(all);
        assert!(!adoption.moved, "after {calls} calls: {adoption:?}");
        // The search connects to each member and closes the connection at once.
        let kept = traffic.backlog(Slot::A).unwrap();
        assert!((5..=8).contains(&kept), "{kept} in the queue after {calls} calls");
        drop(waiting);
        assert_eq!(shelf.names(), sorted(traffic.labels().unwrap()), "after {calls} calls");
        for slot in [Slot::B, Slot::A] {
            let _ = traffic.route(Routing::All(slot)).unwrap();
            let before = traffic.backlog(slot).unwrap();
            let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
            assert_eq!(traffic.backlog(slot).unwrap(), before + 20, "slot {slot}, after {calls} calls");
        }
        if !ended {
            break;
        }
        calls += 1;
    }
    assert!(calls > 8, "{calls} calls");
}
