//! Traffic on the real kernel: each test shows one fact of the kernel on which the design depends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rei::config::types::{Listen, ListenAddress};
use rei::runtime::keeper::NoStore;
use rei::runtime::traffic::{OpenError, Routing, Setup, Slot, Tampering, Traffic};

use crate::support::*;

#[test]
fn a_slot_inherits_its_sockets_in_the_order_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let listens = [tcp("http"), unix("admin", &dir.path().join("admin.sock")), udp("dns")];
    let setup = Setup { listens: &listens, interface: Some(dir.path()) };
    let traffic = Traffic::open(setup, Routing::All(Slot::A), &mut NoStore).unwrap();
    for slot in Slot::ALL {
        let fds = traffic.slot_fds(slot);
        assert_eq!(fds.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["http", "admin", "dns", "rei"]);
        for (_, fd) in fds {
            assert!(flags(&fd, libc::F_GETFD) & libc::FD_CLOEXEC != 0);
            assert!(flags(&fd, libc::F_GETFL) & libc::O_NONBLOCK == 0, "blocking, as with socket activation");
        }
    }
    let bound = traffic.addresses();
    assert!(matches!(bound[0].address, ListenAddress::Tcp(at) if at.port() != 0));
    // Each slot has its own socket for the Interface.
    let client = UnixStream::connect(traffic.interface_path(Slot::B).unwrap()).unwrap();
    let rei = UnixListener::from(copy(&traffic, Slot::B, "rei"));
    let (mut served, _) = rei.accept().unwrap();
    served.write_all(b"b").unwrap();
    let mut byte = [0];
    (&client).read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

#[test]
fn all_means_all_and_the_guard_gets_nothing() {
    let runtime = runtime();
    let _guard = runtime.enter();
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"] {
        let listens = [tcp_at("http", address)];
        let mut traffic = match Traffic::open(setup(&listens), Routing::All(Slot::B), &mut NoStore) {
            Err(OpenError::NoSuchAddress { .. } | OpenError::System { .. }) if address.starts_with('[') => {
                eprintln!("skipped: this machine has no IP version 6");
                continue;
            }
            result => result.unwrap(),
        };
        let alarm = traffic.alarm().unwrap();
        let mut clients = Vec::new();
        for round in 0..4 {
            let slot = if round % 2 == 0 { Slot::B } else { Slot::A };
            let before = traffic.backlog(slot).unwrap();
            let routed = traffic.route(Routing::All(slot)).unwrap();
            assert_eq!(routed.unshared, Vec::<String>::new());
            clients.extend((0..100).map(|_| TcpStream::connect(local(&traffic)).unwrap()));
            if address == "[::]:0" {
                let v4 = SocketAddr::from(([127, 0, 0, 1], local(&traffic).port()));
                clients.extend((0..100).map(|_| TcpStream::connect(v4).unwrap()));
            }
            let got = traffic.backlog(slot).unwrap() - before;
            assert_eq!(got, if address == "[::]:0" { 200 } else { 100 }, "{address}, {slot}");
        }
        assert_eq!(alarm.try_next().unwrap(), None);
    }
}

#[test]
fn both_ip_versions_may_have_a_listener_of_one_port() {
    // A port that is free in both versions; the test ends if another process takes it in between.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listens = [tcp_at("six", &format!("[::]:{free}")), tcp_at("four", &format!("0.0.0.0:{free}"))];
    let traffic = match Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore) {
        Err(OpenError::NoSuchAddress { .. } | OpenError::System { .. }) => {
            return eprintln!("skipped: this machine has no IP version 6");
        }
        result => result.unwrap(),
    };
    for (name, at) in [("six", format!("[::1]:{free}")), ("four", format!("127.0.0.1:{free}"))] {
        let _client = TcpStream::connect(at).unwrap();
        TcpListener::from(copy(&traffic, Slot::A, name)).accept().unwrap();
    }
}

#[test]
fn a_share_of_connections_is_as_configured() {
    let listens = [tcp("http")];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let runtime = runtime();
    let _guard = runtime.enter();
    let alarm = traffic.alarm().unwrap();
    let acceptors = Slot::ALL.map(|slot| TcpListener::from(copy(&traffic, slot, "http")));
    for acceptor in &acceptors {
        acceptor.set_nonblocking(true).unwrap();
    }
    for (to, share) in [(Slot::B, 0.05), (Slot::A, 0.05), (Slot::B, 0.5)] {
        let _ = traffic.route(Routing::Share { to, share }).unwrap();
        let (mut got, n) = ([0_u32; 2], 6000);
        for _ in 0..n {
            let client = connect_brief(local(&traffic));
            let slot = (0..2).find(|&slot| acceptors[slot].accept().is_ok()).expect("a slot has it");
            got[slot] += 1;
            drop(client);
        }
        let count = f64::from(got[usize::from(to == Slot::B)]);
        let (mean, deviation) = (f64::from(n) * share, (f64::from(n) * share * (1.0 - share)).sqrt());
        // Six standard deviations: a false failure once in five hundred million runs.
        assert!((count - mean).abs() < 6.0 * deviation, "{count} of {n} for a share of {share}");
        assert_eq!(got.iter().sum::<u32>(), n as u32);
    }
    assert_eq!(alarm.try_next().unwrap(), None, "the guard was never chosen");
}

#[test]
fn no_connection_is_lost_while_traffic_switches() {
    const CLIENTS: usize = 3;
    const SWITCHES: usize = 3000;
    let listens = [tcp("http")];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let server = local(&traffic);
    let runtime = runtime();
    let _guard = runtime.enter();
    let alarm = traffic.alarm().unwrap();
    // The servers continue until the last client has gone.
    let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let acceptors: Vec<_> = Slot::ALL
        .map(|slot| {
            let listener = TcpListener::from(copy(&traffic, slot, "http"));
            listener.set_nonblocking(true).unwrap();
            let over = over.clone();
            thread::spawn(move || serve(&listener, if slot == Slot::A { b'a' } else { b'b' }, &over))
        })
        .into();
    let served = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = connect_brief(server);
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut byte = [0];
                    client.read_exact(&mut byte).expect("every connection is served");
                    served[usize::from(byte == *b"b")].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for n in 0..SWITCHES {
        let to = if n % 2 == 0 { Slot::B } else { Slot::A };
        let routing = if n % 5 == 0 { Routing::Share { to, share: 0.3 } } else { Routing::All(to) };
        let _ = traffic.route(routing).unwrap();
        if n % 10 == 0 {
            thread::yield_now();
        }
    }
    // Wait for the fact that both slots have served, not for a time.
    wait_for(
        || served.iter().all(|count| count.load(Ordering::Relaxed) > 0),
        || {
            let _ = traffic.route(Routing::Share { to: Slot::B, share: 0.5 }).unwrap();
        },
    );
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    over.store(true, Ordering::Relaxed);
    acceptors.into_iter().for_each(|acceptor| acceptor.join().unwrap());
    assert_eq!(alarm.try_next().unwrap(), None, "the guard was never chosen");
}

#[test]
fn an_instance_cannot_steer_the_group() {
    let listens = [tcp("http"), udp("dns")];
    let traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    for name in ["http", "dns"] {
        let inherited = copy(&traffic, Slot::B, name);
        let error = attach_ret(&inherited, 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{name}");
        let unlock = set_int(&inherited, libc::SO_LOCK_FILTER, 0).unwrap_err();
        assert_eq!(unlock.raw_os_error(), Some(libc::EPERM), "{name}");
    }
}

#[test]
fn tampering_raises_the_alarm_takes_nothing_from_the_other_slot_and_is_repaired() {
    let runtime = runtime();
    for (active, tamperer) in [(Slot::A, Slot::B), (Slot::B, Slot::A)] {
        runtime.block_on(async {
            let listens = [tcp("http")];
            let mut traffic = Traffic::open(setup(&listens), Routing::All(active), &mut NoStore).unwrap();
            let alarm = traffic.alarm().unwrap();
            let inherited = copy(&traffic, tamperer, "http");
            shut_down(&inherited);
            listen_again(&inherited);
            let clients: Vec<_> = (0..50).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
            assert_eq!(traffic.backlog(active).unwrap(), 50, "{active} keeps all its connections");
            // The hang-up exists only between the two calls, so a poll may miss it. A repeated shutdown is always seen.
            shut_down(&inherited);
            let tampering = alarm.next().await.unwrap();
            assert_eq!(tampering, Tampering::ShutDown { listener: "http".into(), slot: tamperer });
            traffic.repair(&mut NoStore).unwrap();
            let alarm = traffic.alarm().unwrap();
            // The search connects to each member and closes the connection at once.
            let kept = traffic.backlog(active).unwrap();
            assert!((50..=53).contains(&kept), "repair loses nothing of {active}: {kept}");
            let _ = traffic.route(Routing::All(tamperer)).unwrap();
            let before = traffic.backlog(tamperer).unwrap();
            let more: Vec<_> = (0..50).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
            assert_eq!(traffic.backlog(tamperer).unwrap() - before, 50);
            assert_eq!(alarm.try_next().unwrap(), None);
            drop((clients, more));
        });
    }
}

#[test]
fn an_active_that_renumbers_the_group_raises_the_alarm() {
    let runtime = runtime();
    runtime.block_on(async {
        let listens = [tcp("http")];
        let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
        let alarm = traffic.alarm().unwrap();
        let inherited = copy(&traffic, Slot::A, "http");
        shut_down(&inherited);
        listen_again(&inherited);
        let _client = TcpStream::connect(local(&traffic)).unwrap();
        assert_eq!(traffic.backlog(Slot::B).unwrap(), 0, "the candidate gets no connection by that");
        assert_eq!(alarm.next().await.unwrap(), Tampering::GuardChosen { listener: "http".into() });
        traffic.repair(&mut NoStore).unwrap();
        let _served = TcpStream::connect(local(&traffic)).unwrap();
        assert_eq!(backlog_growth(&traffic, Slot::A), 1);
    });
}

#[test]
fn the_supervisor_reaches_the_slot_of_its_choice_at_any_address() {
    use rei::runtime::probe::Dial;
    let runtime = runtime();
    for address in ["127.0.0.1:0", "127.77.1.9:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let listens = [tcp_at("http", address)];
        let traffic = match Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore) {
            Err(OpenError::NoSuchAddress { .. } | OpenError::System { .. }) if address.starts_with('[') => {
                eprintln!("skipped: this machine has no IP version 6");
                continue;
            }
            result => result.unwrap(),
        };
        let traffic = Arc::new(std::sync::Mutex::new(traffic));
        for (number, slot) in Slot::ALL.into_iter().enumerate() {
            let backlog = || traffic.lock().unwrap().backlog(slot).unwrap();
            let before = backlog();
            let dial = rei::runtime::traffic::SlotDial::new(traffic.clone());
            let _client = runtime.block_on(dial.dial("http", number)).unwrap();
            assert_eq!(backlog(), before + 1, "{address}, slot {slot}");
        }
    }
}

#[test]
fn a_detached_program_raises_the_alarm() {
    let runtime = runtime();
    runtime.block_on(async {
        let listens = [tcp("http")];
        let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
        let alarm = traffic.alarm().unwrap();
        set_int(&copy(&traffic, Slot::B, "http"), SO_DETACH_REUSEPORT_BPF, 0).expect("the lock does not stop this");
        let mut clients = Vec::new();
        let tampering = loop {
            clients.push(TcpStream::connect(local(&traffic)).unwrap());
            assert!(clients.len() < 1000, "the kernel chooses by hash, so a third reaches the guard");
            if let Some(tampering) = alarm.try_next().unwrap() {
                break tampering;
            }
        };
        assert_eq!(tampering, Tampering::GuardChosen { listener: "http".into() });
        traffic.repair(&mut NoStore).unwrap();
        let before = traffic.backlog(Slot::A).unwrap();
        clients.extend((0..50).map(|_| TcpStream::connect(local(&traffic)).unwrap()));
        assert_eq!(traffic.backlog(Slot::A).unwrap() - before, 50);
    });
}

#[test]
fn changes_of_an_instance_to_the_shared_socket_are_undone_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let listens = [tcp("http"), unix("admin", &dir.path().join("s"))];
    let setup = Setup { interface: Some(dir.path()), ..setup(&listens) };
    let mut traffic = Traffic::open(setup, Routing::All(Slot::A), &mut NoStore).unwrap();
    for (name, fd) in traffic.slot_fds(Slot::A) {
        TcpListener::from(fd.try_clone_to_owned().unwrap()).set_nonblocking(true).unwrap();
        // SAFETY: the call takes two integers, and the descriptor is open.
        assert_eq!(unsafe { libc::listen(fd.as_raw_fd(), 0) }, 0, "{name}");
    }
    shut_down(&copy(&traffic, Slot::A, "rei"));
    prepare(&mut traffic, Slot::A, &mut NoStore);
    for (name, fd) in traffic.slot_fds(Slot::A) {
        assert!(flags(&fd, libc::F_GETFL) & libc::O_NONBLOCK == 0, "{name}");
    }
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(local(&traffic)).unwrap()).collect();
    assert_eq!(traffic.backlog(Slot::A).unwrap(), 100, "the queue has its length again");
    UnixStream::connect(traffic.interface_path(Slot::A).unwrap()).unwrap();
    drop(clients);
}

#[test]
fn a_slot_is_drained_when_no_queue_and_no_handshake_is_left() {
    let listens = [tcp("http")];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let listener = TcpListener::from(copy(&traffic, Slot::A, "http"));
    // On the server side the handshake stays incomplete until the client has sent data.
    set_tcp_int(&listener, libc::TCP_DEFER_ACCEPT, 30);
    let mut slow = TcpStream::connect(local(&traffic)).unwrap();
    assert_eq!(traffic.backlog(Slot::A).unwrap(), 0);
    assert_eq!(traffic.handshakes().unwrap(), 1);
    assert!(!traffic.is_drained(Slot::A).unwrap(), "new connections go to it");
    let _ = traffic.route(Routing::All(Slot::B)).unwrap();
    assert!(!traffic.is_drained(Slot::A).unwrap(), "a handshake is in progress");
    slow.write_all(b"x").unwrap();
    assert_eq!(traffic.backlog(Slot::A).unwrap(), 1, "it stays with the slot that got its first packet");
    assert!(!traffic.is_drained(Slot::A).unwrap(), "a connection waits");
    drop(listener.accept().unwrap());
    assert!(traffic.is_drained(Slot::A).unwrap());
    assert!(!traffic.is_drained(Slot::B).unwrap());
}

#[test]
fn a_new_handshake_elsewhere_does_not_hold_a_drained_slot() {
    let listens = [tcp("http")];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::B), &mut NoStore).unwrap();
    let other = copy(&traffic, Slot::B, "http");
    assert!(traffic.is_drained(Slot::A).unwrap(), "no handshake was in progress at the first check");
    set_tcp_int(&other, libc::TCP_DEFER_ACCEPT, 30);
    let _slow = TcpStream::connect(local(&traffic)).unwrap();
    assert_eq!(traffic.handshakes().unwrap(), 1);
    assert!(traffic.is_drained(Slot::A).unwrap(), "a handshake that starts after the check cannot belong to this slot");
}

#[test]
fn udp_goes_to_the_routed_slot() {
    let listens = [udp("dns")];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for slot in [Slot::A, Slot::B, Slot::A] {
        let _ = traffic.route(Routing::All(slot)).unwrap();
        for n in 0..20_u8 {
            client.send_to(&[n], local(&traffic)).unwrap();
        }
        assert_eq!((traffic.backlog(slot).unwrap(), traffic.backlog(slot.other()).unwrap()), (1, 0));
        let server = UdpSocket::from(copy(&traffic, slot, "dns"));
        for n in 0..20_u8 {
            let mut byte = [0];
            server.recv(&mut byte).unwrap();
            assert_eq!(byte, [n]);
        }
    }
}

#[test]
fn unix_sockets_are_exchanged_and_lose_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listens = [unix("s", &path)];
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let acceptors: Vec<_> = Slot::ALL
        .map(|slot| {
            let listener = UnixListener::from(copy(&traffic, slot, "s"));
            listener.set_nonblocking(true).unwrap();
            let over = over.clone();
            thread::spawn(move || {
                loop {
                    match listener.accept() {
                        Ok((mut client, _)) => client.write_all(if slot == Slot::A { b"a" } else { b"b" }).unwrap(),
                        Err(_) if over.load(Ordering::Relaxed) => return,
                        Err(_) => thread::yield_now(),
                    }
                }
            })
        })
        .into();
    let served = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let client = {
        let (stop, path, served) = (stop.clone(), path.clone(), served.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut byte = [0];
                let mut client = UnixStream::connect(&path).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.read_exact(&mut byte).unwrap();
                served[usize::from(byte == *b"b")].fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for n in 0..2000 {
        let _ = traffic.route(Routing::All(if n % 2 == 0 { Slot::B } else { Slot::A })).unwrap();
    }
    let mut n = 0;
    wait_for(
        || served.iter().all(|count| count.load(Ordering::Relaxed) > 0),
        || {
            n += 1;
            let _ = traffic.route(Routing::All(if n % 2 == 0 { Slot::B } else { Slot::A })).unwrap();
        },
    );
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
    over.store(true, Ordering::Relaxed);
    acceptors.into_iter().for_each(|acceptor| acceptor.join().unwrap());

    let routed = traffic.route(Routing::Share { to: Slot::B, share: 0.9 }).unwrap();
    assert_eq!(routed.unshared, ["s"], "the result says that a share is impossible");
    let _client = UnixStream::connect(&path).unwrap();
    assert_eq!((traffic.backlog(Slot::A).unwrap(), traffic.backlog(Slot::B).unwrap()), (1, 0));
    assert!(traffic.is_drained(Slot::B).unwrap() && !traffic.is_drained(Slot::A).unwrap());
    traffic.unlink();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file is left");
}

#[test]
fn a_unix_socket_that_was_shut_down_is_reported_and_replaced() {
    let runtime = runtime();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listens = [unix("s", &path)];
        let mut shelf = Shelf::default();
        let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
        let alarm = traffic.alarm().unwrap();
        shut_down(&copy(&traffic, Slot::A, "s"));
        assert_eq!(alarm.next().await.unwrap(), Tampering::ShutDown { listener: "s".into(), slot: Slot::A });
        traffic.repair(&mut shelf).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(traffic.backlog(Slot::A).unwrap(), 1);
        assert_eq!(shelf.names(), sorted(traffic.labels().unwrap()));
    });
}

#[test]
fn each_listener_that_cannot_be_opened_has_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let open = |listens: &[Listen]| Traffic::open(setup(listens), Routing::All(Slot::A), &mut NoStore).err().unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = open(&[tcp_at("http", &taken.local_addr().unwrap().to_string())]);
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.hint().unwrap().contains("ss -ltnp"));

    // The kernel would let two supervisors of one user share a port; rei refuses that.
    let listens = [tcp("http"), udp("dns")];
    let other = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    for listen in other.addresses() {
        let error = open(&[listen]);
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    let path = dir.path().join("live.sock");
    let live = UnixListener::bind(&path).unwrap();
    assert!(matches!(open(&[unix("s", &path)]), OpenError::InUse { .. }));
    assert!(path.exists());
    drop(live);
    let stale = Traffic::open(setup(&[unix("s", &path)]), Routing::All(Slot::A), &mut NoStore);
    assert!(stale.is_ok(), "a socket file without a listener is replaced");

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(open(&[unix("s", &file)]), OpenError::NotASocket { .. }));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let long = dir.path().join("x".repeat(100));
    assert!(matches!(open(&[unix("s", &long)]), OpenError::PathTooLong { max: 107, .. }));
    let nowhere = dir.path().join("no/such/directory/s");
    assert!(matches!(open(&[unix("s", &nowhere)]), OpenError::NoSuchAddress { .. }));
    assert!(matches!(open(&[tcp_at("http", "192.0.2.1:80")]), OpenError::NoSuchAddress { .. }));
    assert!(matches!(open(&[tcp("rei")]), OpenError::NameTaken { .. }));
    assert!(matches!(open(&[tcp("a"), tcp("a")]), OpenError::NameTaken { .. }));
    assert!(matches!(open(&[tcp("a:b")]), OpenError::BadName { .. }));
    let twice = [unix("a", &path), unix("b", &path)];
    assert!(matches!(open(&twice), OpenError::SameAddress { .. }));
    let within = [tcp_at("a", "127.0.0.1:65000"), tcp_at("b", "0.0.0.0:65000")];
    assert!(matches!(open(&within), OpenError::SameAddress { .. }));

    let first = dir.path().join("first.sock");
    let _ = open(&[unix("first", &first), tcp_at("http", &taken.local_addr().unwrap().to_string())]);
    assert!(!first.exists(), "all or nothing");
}

/// The number of connections by which a slot's queue grows.
fn backlog_growth(traffic: &Traffic, slot: Slot) -> u64 {
    let before = traffic.backlog(slot).unwrap();
    let _client = TcpStream::connect(local(traffic)).unwrap();
    traffic.backlog(slot).unwrap() - before
}
