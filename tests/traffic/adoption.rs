//! The next supervisor takes the listeners over, whatever was lost and whatever an instance did in between.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rei::config::types::{Listen, ListenAddress};
use rei::runtime::keeper::NoStore;
use rei::runtime::traffic::{Adoption, Holder, OpenError, Routing, Setup, Slot, Traffic, recover_from_instances};

use crate::support::*;

/// Tries every combination of lost sockets, with Active in either slot.
#[test]
fn adoption_finds_the_members_whatever_was_lost() {
    let _losing = losing();
    let losses: [&[&str]; 7] = [&[], &["a"], &["b"], &["k"], &["a", "b"], &["a", "k"], &["b", "k"]];
    for (active, lost) in [Slot::A, Slot::B].into_iter().flat_map(|active| losses.map(|lost| (active, lost))) {
        for listens in [[tcp("l")], [udp("l")], [tcp_at("l", "[::]:0")]] {
            if !has_v6() && listens[0].address.to_string().contains("[::]") {
                eprintln!("skipped: this machine has no IP version 6");
                continue;
            }
            let mut shelf = Shelf::default();
            let traffic = Traffic::open(setup(&listens), Routing::All(active), &mut shelf).unwrap();
            let before = traffic.addresses();
            drop(traffic);
            shelf.0.retain(|(name, _)| !lost.iter().any(|role| name.contains(&format!("/{role}/"))));
            let what = format!("{:?}, active {active}, lost {lost:?}", listens[0].address);
            let (mut traffic, adoption) = adopt(&listens, Routing::All(active), &mut shelf);
            assert_eq!(traffic.addresses(), before, "{what}");
            assert_eq!(sorted(adoption.lost.clone()), lost.iter().map(|role| format!("l/{role}")).collect::<Vec<_>>());
            assert!(
                !adoption.moved,
                "{what}: the kernel's renumbering after a loss is known, so no socket counts as moved"
            );
            assert_eq!(shelf.names(), sorted(traffic.labels().unwrap()), "{what}");
            for slot in [active, active.other(), active] {
                let _ = traffic.route(Routing::All(slot)).unwrap();
                assert!(goes_to(&traffic, slot), "{what}: {slot}");
            }
            // Once more, from the state that this supervisor has left.
            drop(traffic);
            let (mut traffic, adoption) = adopt(&listens, Routing::All(active), &mut shelf);
            assert_eq!(adoption, Adoption::default(), "{what}");
            for slot in Slot::ALL {
                let _ = traffic.route(Routing::All(slot)).unwrap();
                assert!(goes_to(&traffic, slot), "{what}: {slot}, second adoption");
            }
        }
    }
}

#[test]
fn adoption_keeps_queues_and_does_not_reroute_clients() {
    let _losing = losing();
    let listens = [tcp("http")];
    let mut shelf = Shelf::default();
    let routing = Routing::All(Slot::B);
    let traffic = Traffic::open(setup(&listens), routing, &mut shelf).unwrap();
    let server = local(&traffic);
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(server).unwrap()).collect();
    drop(traffic);
    // The guard is lost, and new clients connect all the time while the next supervisor searches the group.
    shelf.0.retain(|(name, _)| !name.contains("/k/"));
    let stop = Arc::new(AtomicBool::new(false));
    let coming = {
        let stop = stop.clone();
        thread::spawn(move || {
            let mut clients = Vec::new();
            while !stop.load(Ordering::Relaxed) && clients.len() < 2000 {
                clients.push(TcpStream::connect(server).unwrap());
            }
            clients
        })
    };
    let (traffic, adoption) = adopt(&listens, routing, &mut shelf);
    stop.store(true, Ordering::Relaxed);
    let more = coming.join().unwrap();
    assert_eq!(adoption.lost, ["http/k"]);
    // The search itself connects to each member and leaves closed connections in the queues.
    let probes = traffic.backlog(Slot::A).unwrap();
    assert!(probes <= 3, "{probes} in the queue of the slot without traffic");
    assert!(traffic.backlog(Slot::B).unwrap() >= (clients.len() + more.len()) as u64);
}

/// The program in force names an index that a joining socket may get.
#[test]
fn the_only_remaining_member_keeps_all_clients_while_others_join() {
    let _losing = losing();
    for active in Slot::ALL {
        let listens = [tcp("http")];
        let mut shelf = Shelf::default();
        // The other member joined first, so the remaining one has moved.
        let mut traffic = Traffic::open(setup(&listens), Routing::All(active.other()), &mut shelf).unwrap();
        let _ = traffic.route(Routing::All(active)).unwrap();
        let server = local(&traffic);
        drop(traffic);
        shelf.0.retain(|(name, _)| name.contains(&format!("/{active}/")));
        let stop = Arc::new(AtomicBool::new(false));
        let coming: Vec<_> = (0..2)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || {
                    let mut clients = Vec::new();
                    while !stop.load(Ordering::Relaxed) && clients.len() < 1500 {
                        clients.push(TcpStream::connect(server).unwrap());
                    }
                    clients
                })
            })
            .collect();
        let mut before = 0;
        // Starts after the first clients have connected.
        let queue = TcpListener::from(shelf.0[0].1.try_clone().unwrap());
        queue.set_nonblocking(true).unwrap();
        wait_for(
            || {
                before += u64::from(queue.accept().is_ok());
                before > 20
            },
            || {},
        );
        let (traffic, adoption) = adopt(&listens, Routing::All(active), &mut shelf);
        stop.store(true, Ordering::Relaxed);
        let clients: usize = coming.into_iter().map(|thread| thread.join().unwrap().len()).sum();
        assert_eq!(adoption.lost.len(), 4, "the other slot, both taps and the guard");
        let others = traffic.backlog(active.other()).unwrap();
        // The search itself connects to each member.
        assert!(others <= 3, "active {active}: {others} of {clients} clients are in a queue that no instance serves");
        assert!(traffic.backlog(active).unwrap() + before >= clients as u64, "active {active}");
    }
}

#[test]
fn adoption_finds_members_in_use_and_moved_members() {
    let _losing = losing();
    for active in Slot::ALL {
        let listens = [tcp("http")];
        let mut shelf = Shelf::default();
        let mut traffic = Traffic::open(setup(&listens), Routing::All(active.other()), &mut shelf).unwrap();
        let _ = traffic.route(Routing::All(active)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let instances: Vec<_> = Slot::ALL
            .map(|slot| {
                let listener = TcpListener::from(copy(&traffic, slot, "http"));
                listener.set_nonblocking(true).unwrap();
                let stop = stop.clone();
                thread::spawn(move || serve(&listener, if slot == Slot::A { b'a' } else { b'b' }, &stop))
            })
            .into();
        let server = local(&traffic);
        let tamperer = copy(&traffic, active.other(), "http");
        drop(traffic);
        // No supervisor watches and the guard is lost, so nothing shows that the group is renumbered.
        shelf.0.retain(|(name, _)| !name.contains("/k/"));
        shut_down(&tamperer);
        listen_again(&tamperer);
        let (mut traffic, adoption) = adopt(&listens, Routing::All(active), &mut shelf);
        assert!(adoption.moved, "the first member of the group moved to its end");
        for slot in [active, active.other()] {
            let _ = traffic.route(Routing::All(slot)).unwrap();
            for _ in 0..50 {
                let mut byte = [0];
                TcpStream::connect(server).unwrap().read_exact(&mut byte).unwrap();
                assert_eq!(byte, if slot == Slot::A { *b"a" } else { *b"b" }, "active {active}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        instances.into_iter().for_each(|instance| instance.join().unwrap());
    }
}

#[test]
fn adoption_moves_a_displaced_guard_back_to_the_end() {
    let _losing = losing();
    for active in Slot::ALL {
        let listens = [tcp("http")];
        let mut shelf = Shelf::default();
        let traffic = Traffic::open(setup(&listens), Routing::All(active), &mut shelf).unwrap();
        let tamperer = copy(&traffic, active.other(), "http");
        drop(traffic);
        shut_down(&tamperer);
        listen_again(&tamperer);
        let (mut traffic, _) = adopt(&listens, Routing::All(active), &mut shelf);
        for slot in [active, active.other()] {
            let _ = traffic.route(Routing::All(slot)).unwrap();
            assert!(goes_to(&traffic, slot), "active {active}, {slot}");
        }
        // The guard is last again, so the same manipulation raises the alarm.
        let _ = traffic.route(Routing::All(active)).unwrap();
        shut_down(&tamperer);
        listen_again(&tamperer);
        assert!(goes_to(&traffic, active));
    }
}

#[test]
fn adoption_follows_a_changed_rei_toml() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, gone) = (dir.path().join("kept.sock"), dir.path().join("gone.sock"));
    let mut shelf = Shelf::default();
    let before = [unix("kept", &kept), unix("gone", &gone), tcp("http")];
    let traffic = Traffic::open(setup(&before), Routing::All(Slot::B), &mut shelf).unwrap();
    let _waiting = UnixStream::connect(&kept).unwrap();
    let http = Listen { name: "web".into(), address: traffic.addresses()[2].address.clone() };
    drop(traffic);
    shelf.0.push(("log/a".into(), std::fs::File::open("/dev/null").unwrap().into()));
    let after = [http, unix("kept", &kept)];
    let mut all = shelf.fetch();
    let (traffic, adoption) = Traffic::adopt(setup(&after), Routing::All(Slot::B), &mut all, &mut shelf).unwrap();
    assert_eq!(
        all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["log/a"],
        "sockets of others are not touched"
    );
    assert_eq!((adoption.lost.len(), adoption.dropped.len()), (0, 2), "{adoption:?}");
    assert_eq!(traffic.backlog(Slot::B).unwrap(), 1, "the queue of the unix socket is kept");
    let mut names = traffic.labels().unwrap();
    names.push("log/a".into());
    assert_eq!(shelf.names(), sorted(names), "the store has the same renamed and dropped sockets");
}

#[test]
fn unix_sockets_are_adopted_with_the_path_where_it_was() {
    for (active, lost) in
        [(Slot::A, ""), (Slot::B, ""), (Slot::A, "/b/"), (Slot::B, "/b/"), (Slot::A, "/a/"), (Slot::B, "/a/")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listens = [unix("s", &path)];
        let setup = Setup { interface: Some(dir.path()), ..setup(&listens) };
        let mut shelf = Shelf::default();
        let mut traffic = Traffic::open(setup, Routing::All(Slot::A), &mut shelf).unwrap();
        let _ = traffic.route(Routing::All(active)).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        drop(traffic);
        shelf.0.retain(|(name, _)| lost.is_empty() || !name.contains(lost));
        let mut all = shelf.fetch();
        let (mut traffic, adoption) = Traffic::adopt(setup, Routing::All(active), &mut all, &mut shelf).unwrap();
        assert_eq!(adoption.lost.len(), if lost.is_empty() { 0 } else { 2 }, "{adoption:?}");
        let survived = lost != format!("/{active}/");
        assert_eq!(traffic.backlog(active).unwrap(), u64::from(survived), "active {active}, lost {lost}");
        for slot in [active, active.other(), active] {
            let _ = traffic.route(Routing::All(slot)).unwrap();
            let before = traffic.backlog(slot).unwrap();
            let _client = UnixStream::connect(&path).unwrap();
            assert_eq!(traffic.backlog(slot).unwrap(), before + 1, "active {active}, lost {lost}, {slot}");
        }
        for slot in Slot::ALL {
            UnixStream::connect(traffic.interface_path(slot).unwrap()).unwrap();
        }
    }
}

#[test]
fn strangers_in_the_group_are_refused() {
    let _losing = losing();
    let listens = [tcp("http")];
    let mut shelf = Shelf::default();
    let traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
    let listens = [Listen { name: "http".into(), address: traffic.addresses()[0].address.clone() }];
    // Members that only an old instance holds, because the store lost their names.
    let _strangers = Slot::ALL.map(|slot| copy(&traffic, slot, "http"));
    drop(traffic);
    shelf.0.retain(|(name, _)| name.contains("/k/"));
    let mut all = shelf.fetch();
    let error = Traffic::adopt(setup(&listens), Routing::All(Slot::A), &mut all, &mut shelf).err().unwrap();
    assert!(matches!(error, OpenError::Strangers { .. }), "{error}");
    assert!(error.hint().unwrap().contains("ss -lntup"));
}

#[test]
fn listeners_come_back_from_a_running_instance() {
    let listens = [tcp("http")];
    let traffic = Traffic::open(setup(&listens), Routing::All(Slot::B), &mut NoStore).unwrap();
    let server = local(&traffic);
    let starting = starting();
    let mut instances: Vec<_> = Slot::ALL
        .map(|slot| Command::new("sleep").arg("1000").stdin(copy(&traffic, slot, "http")).spawn().unwrap())
        .into();
    let _client = TcpStream::connect(server).unwrap();
    drop(starting);
    let _losing = losing();
    drop(traffic);
    let holder = |pid, slot| Holder { pid, start_ticks: None, slot: Some(slot) };
    let mut holders: Vec<Holder> =
        instances.iter().zip(Slot::ALL).map(|(child, slot)| holder(child.id(), slot)).collect();
    holders.push(holder(i32::MAX as u32, Slot::A));
    // A child before its exec still has more descriptors, but it has the ones that this test needs.
    let mut back = Vec::new();
    let refused = recover_from_instances(setup(&listens), &holders, &mut back);
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(back.len(), 2, "both slots, not the guard");
    let (mut traffic, adoption) =
        Traffic::adopt(setup(&listens), Routing::All(Slot::B), &mut back, &mut NoStore).unwrap();
    assert_eq!(sorted(adoption.lost), ["http/k", "http/ta", "http/tb"], "no instance has these");
    assert_eq!(local(&traffic), server);
    assert!(traffic.backlog(Slot::B).unwrap() >= 1);
    for slot in Slot::ALL {
        let _ = traffic.route(Routing::All(slot)).unwrap();
        assert!(goes_to(&traffic, slot));
    }
    for instance in &mut instances {
        instance.kill().unwrap();
        instance.wait().unwrap();
    }
}

fn adopt(listens: &[Listen], routing: Routing, shelf: &mut Shelf) -> (Traffic, Adoption) {
    let mut all = shelf.fetch();
    // The new supervisor holds the fetched descriptors; the store keeps its copies.
    Traffic::adopt(setup(listens), routing, &mut all, shelf).unwrap()
}

/// Whether all new traffic goes to this slot; removes its own test traffic from the queue again.
fn goes_to(traffic: &Traffic, slot: Slot) -> bool {
    let listen = &traffic.addresses()[0];
    if matches!(listen.address, ListenAddress::Udp(_)) {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for slot in Slot::ALL {
            drain_udp(&copy(traffic, slot, &listen.name));
        }
        (0..20).for_each(|_| assert_eq!(client.send_to(b"x", local(traffic)).unwrap(), 1));
        return drain_udp(&copy(traffic, slot, &listen.name)) == 20;
    }
    let before = traffic.backlog(slot).unwrap();
    let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(local(traffic)).unwrap()).collect();
    traffic.backlog(slot).unwrap() - before == clients.len() as u64
}

fn drain_udp(fd: &OwnedFd) -> usize {
    let socket = UdpSocket::from(fd.try_clone().unwrap());
    socket.set_nonblocking(true).unwrap();
    let n = std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count();
    socket.set_nonblocking(false).unwrap();
    n
}

const HOLDER: &str = "REI_TEST_HOLDER";
const ADDRESS: &str = "REI_TEST_ADDRESS";

/// Not a test by itself: this program again, as another user that may not inspect the given process.
#[test]
fn another_user() {
    let (Ok(pid), Ok(address)) = (std::env::var(HOLDER), std::env::var(ADDRESS)) else { return };
    let holder = Holder { pid: pid.parse().unwrap(), start_ticks: None, slot: Some(Slot::A) };
    let mut kept = Vec::new();
    let refused = recover_from_instances(setup(&[tcp_at("http", &address)]), &[holder], &mut kept);
    assert!(kept.is_empty());
    assert_eq!(refused.len(), 1, "the error names the process with the sockets");
    assert_eq!((refused[0].holder, refused[0].why.kind()), (holder, std::io::ErrorKind::PermissionDenied));
}

#[test]
fn an_instance_that_may_not_be_inspected_is_named() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can be another user");
    }
    let listens = [tcp("http")];
    let traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut NoStore).unwrap();
    let _starting = starting();
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "adoption::another_user", "--test-threads=1"]).uid(65534).gid(65534);
    other.env(HOLDER, std::process::id().to_string()).env(ADDRESS, local(&traffic).to_string());
    match other.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: other users cannot run {:?}", other.get_program());
        }
        output => {
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
    }
}
