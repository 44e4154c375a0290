//! The tap's process in front of real sockets: what it relays, what it counts, and what happens when it is killed, hangs or has
//! no descriptors.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rei::golden::Captured;
use rei::live::{Class, Route, Sample};
use rei::runtime::traffic::{Holder, Routing, Slot, Taps, Traffic, recover_from_instances};
use rei::tap::{Gauges, Report, TapLink, find};

use crate::support::*;

pub const ALL: Taps = Taps { a: 1.0, b: 1.0 };

/// A listener with two slots and a tap.
pub struct Site {
    pub traffic: Traffic,
    pub at: SocketAddr,
    tap: Option<RunningTap>,
    dir: tempfile::TempDir,
}

/// A process of the tap, with what it has said.
pub struct RunningTap {
    pub link: TapLink,
    pub pid: i32,
    pub gauges: Gauges,
    pub samples: [Sample; 2],
    beats: u32,
    /// The exchanges that it copied.
    pub captured: Vec<(Slot, Captured)>,
}

impl RunningTap {
    fn start(dir: &Path, traffic: &Traffic) -> Self {
        let _starting = starting();
        let (link, pid) = TapLink::start(Path::new(env!("CARGO_BIN_EXE_rei")), dir).unwrap();
        link.serve(traffic).unwrap();
        let (gauges, samples) = (Gauges::default(), Default::default());
        let (pid, captured) = (pid.try_into().unwrap(), Vec::new());
        let mut tap = Self { link, pid, gauges, samples, beats: 0, captured };
        tap.until(|tap| tap.beats > 0);
        tap
    }

    fn read(&mut self) {
        while let Ok(Some(report)) = self.link.report() {
            match report {
                Report::Sample { slot, sample } => self.samples[usize::from(slot == Slot::B)].merge(&sample),
                Report::Captured { slot, captured } => self.captured.push((slot, captured)),
                Report::Beat(gauges) => (self.gauges, self.beats) = (gauges, self.beats + 1),
            }
        }
    }

    pub fn until(&mut self, fact: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !fact(self) {
            assert!(Instant::now() < deadline, "not in time: {:?} {:?}", self.gauges, self.samples);
            thread::sleep(Duration::from_millis(5));
            self.read();
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    fn wait(&self) {
        wait_for(|| self.link.is_gone(), || {});
        let _ = nix::sys::wait::waitpid(Pid::from_raw(self.pid), None);
    }
}

impl Drop for RunningTap {
    fn drop(&mut self) {
        self.link.end();
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(Pid::from_raw(self.pid), None);
    }
}

impl Site {
    pub fn new(shares: Taps) -> Self {
        let listens = [tcp("http")];
        let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut Shelf::default()).unwrap();
        let (at, dir) = (local(&traffic), tempfile::tempdir().unwrap());
        let tap = Some(RunningTap::start(dir.path(), &traffic));
        traffic.tap(shares, |_| true).unwrap();
        Self { traffic, at, tap, dir }
    }

    pub fn tap(&mut self) -> &mut RunningTap {
        self.tap.as_mut().unwrap()
    }

    fn listener(&self, slot: Slot) -> TcpListener {
        TcpListener::from(copy(&self.traffic, slot, "http"))
    }

    /// An instance that answers each connection by this function, in a thread.
    pub fn instance(&self, slot: Slot, answer: fn(TcpStream)) -> thread::JoinHandle<()> {
        let listener = self.listener(slot);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                thread::spawn(move || answer(client));
            }
        })
    }
}

/// Answers HTTP with what the path says: `/200`, `/500`, `/close`, `/reset`, `/never`.
fn http(mut client: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while client.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned();
        match text.split(' ').nth(1).unwrap() {
            "/close" => return,
            "/reset" => return reset(client),
            "/never" => drop(client.read(&mut byte)),
            path => {
                let status = path.trim_start_matches('/');
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                let _ = client.write_all(answer.as_bytes());
            }
        }
    }
}

fn reset(client: TcpStream) {
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
        .unwrap();
}

/// Sends back what it gets.
fn echo(mut client: TcpStream) {
    let mut buffer = [0; 65_536];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if client.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}

fn get(client: &mut TcpStream, path: &str) -> std::io::Result<String> {
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())?;
    let mut answer = vec![0; 256];
    client.read(&mut answer).map(|count| String::from_utf8_lossy(&answer[..count]).into_owned())
}

fn within_binomial(seen: u64, of: f64, share: f64) -> bool {
    (seen as f64 - of * share).abs() <= 5.0 * (of * share * (1.0 - share)).sqrt().max(1.0)
}

#[test]
fn the_tap_gets_its_share_of_each_slot_and_no_connection_is_lost() {
    const CLIENTS: u64 = 2_000;
    let mut site = Site::new(Taps { a: 0.2, b: 0.5 });
    let _ = [Slot::A, Slot::B].map(|slot| site.instance(slot, http));
    let _ = site.traffic.route(Routing::Share { to: Slot::B, share: 0.25 }).unwrap();
    for _ in 0..CLIENTS {
        let mut client = connect_brief(site.at);
        assert!(get(&mut client, "/200").unwrap().contains("200"));
    }
    let is_counted = |tap: &RunningTap| {
        tap.gauges.accepted > 0
            && tap.gauges.open == 0
            && tap.samples.iter().map(|sample| sample.total().total()).sum::<u64>() == tap.gauges.accepted
    };
    site.tap().until(is_counted);
    let [a, b] = [0, 1].map(|slot| site.tap().samples[slot].total().of(Class::Success));
    assert!(within_binomial(a, CLIENTS as f64, 0.75 * 0.2), "slot a: {a}");
    assert!(within_binomial(b, CLIENTS as f64, 0.25 * 0.5), "slot b: {b}");
}

#[test]
fn what_users_get_is_counted_by_route_and_class() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, http);
    let mut kept = TcpStream::connect(site.at).unwrap();
    for path in ["/200", "/200", "/404", "/500"] {
        assert!(get(&mut kept, path).unwrap().contains(&path[1..]));
    }
    for path in ["/close", "/reset"] {
        let answer = get(&mut TcpStream::connect(site.at).unwrap(), path);
        match path {
            "/close" => assert_eq!(answer.unwrap(), ""),
            _ => assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset, "a reset is passed on as one"),
        }
    }
    site.tap().until(|tap| tap.samples[0].total().total() == 6);
    let total = site.tap().samples[0].total();
    let classes = [Class::Success, Class::ClientError, Class::ServerError, Class::Aborted].map(|class| total.of(class));
    assert_eq!(classes, [2, 1, 1, 2]);
    assert_eq!(site.tap().samples[0].get(&Route::of_request("GET", "/close")).unwrap().of(Class::Aborted), 1);
    assert_eq!(
        total.bytes_in,
        ["/200", "/200", "/404", "/500", "/close", "/reset"].map(|path| 26 + path.len() as u64).iter().sum::<u64>()
    );
}

#[test]
fn bytes_half_close_and_resets_pass_unchanged() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, echo);
    // More than all buffers hold, from a client that reads only after it has written for a while.
    let mut client = TcpStream::connect(site.at).unwrap();
    let sent: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let writer = {
        let (mut client, sent) = (client.try_clone().unwrap(), sent.clone());
        thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        })
    };
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    // The client's reset reaches the instance.
    drop((client, received));
    let mut other = Site::new(ALL);
    let listener = other.listener(Slot::A);
    let client = TcpStream::connect(other.at).unwrap();
    let (mut instance, _) = listener.accept().unwrap();
    reset(client);
    assert_eq!(instance.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // A connection of something else than HTTP is counted as a connection.
    site.tap().until(|tap| tap.samples[0].connections.ended == 1);
    assert_eq!(site.tap().samples[0].connections.reset, 0);
    other.tap().until(|tap| tap.gauges.open == 0);
}

#[test]
fn a_killed_tap_loses_only_what_it_carries_and_the_next_one_serves_its_queue() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, http);
    let mut carried = TcpStream::connect(site.at).unwrap();
    assert!(get(&mut carried, "/200").unwrap().contains("200"));
    site.tap().signal(Signal::SIGKILL);
    site.tap().wait();
    assert!(get(&mut carried, "/200").map_or(true, |answer| answer.is_empty()), "its connection ended with it");
    // These come before the supervisor knows.
    let waiting: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(site.at).unwrap()).collect();
    assert_eq!(site.traffic.tap_backlog().unwrap(), 50);
    assert_eq!(site.traffic.backlog(Slot::A).unwrap(), 50, "the slot is not empty: they come to it");
    site.traffic.tap(Taps::NONE, |_| true).unwrap();
    let mut direct = TcpStream::connect(site.at).unwrap();
    assert!(get(&mut direct, "/200").unwrap().contains("200"), "without a tap, connections go to the slot");
    site.tap = None;
    site.tap = Some(RunningTap::start(site.dir.path(), &site.traffic));
    for mut client in waiting {
        assert!(get(&mut client, "/200").unwrap().contains("200"));
    }
}

#[test]
fn a_tap_that_hangs_is_killed_and_one_that_works_leaves_after_its_last_relay() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, http);
    let mut kept = TcpStream::connect(site.at).unwrap();
    assert!(get(&mut kept, "/200").unwrap().contains("200"));
    let old = site.tap.take().unwrap();
    let found = find(site.dir.path());
    assert_eq!(found.iter().map(|tap| tap.pid).collect::<Vec<_>>(), [old.pid.cast_unsigned()]);
    found[0].release();
    assert!(find(site.dir.path()).is_empty(), "it accepts no connection any more");
    let mut waits = TcpStream::connect(site.at).unwrap();
    site.tap = Some(RunningTap::start(site.dir.path(), &site.traffic));
    assert!(get(&mut waits, "/200").unwrap().contains("200"), "the next one serves the queue");
    assert!(get(&mut kept, "/404").unwrap().contains("404"), "the old one relays what it has");
    drop(kept);
    old.wait();
    // One that is stopped does not release anything.
    site.tap().signal(Signal::SIGSTOP);
    let mut stuck = TcpStream::connect(site.at).unwrap();
    for tap in find(site.dir.path()) {
        tap.release();
    }
    site.tap().wait();
    site.tap = Some(RunningTap::start(site.dir.path(), &site.traffic));
    assert!(get(&mut stuck, "/200").unwrap().contains("200"));
}

#[test]
fn without_descriptors_the_tap_takes_no_client_that_it_cannot_relay() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, http);
    let few = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
    // SAFETY: the pointer is to a valid value, and no old value is asked for.
    let set = unsafe { libc::prlimit(site.tap().pid, libc::RLIMIT_NOFILE, &raw const few, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let clients: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(site.at).unwrap()).collect();
    site.tap().until(|tap| tap.gauges.is_full);
    assert!(site.tap().gauges.open < 20 && site.traffic.tap_backlog().unwrap() > 0);
    // As the others leave, each gets its turn.
    for mut client in clients {
        assert!(get(&mut client, "/200").unwrap().contains("200"));
    }
    site.tap().until(|tap| !tap.gauges.is_full && tap.gauges.accepted == 60 && tap.gauges.open == 0);
    assert_eq!(site.tap().gauges.unreached, 0);
}

#[test]
fn hostile_clients_cost_nothing_and_disturb_no_one() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, http);
    // One byte at a time; a head without end; half-closed at once; smuggled; nothing at all.
    let mut slow = TcpStream::connect(site.at).unwrap();
    for byte in b"GET /200 HTTP/1.1\r\n\r\n" {
        slow.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut endless = TcpStream::connect(site.at).unwrap();
    endless.write_all(b"GET /200 HTTP/1.1\r\n").unwrap();
    for _ in 0..2_000 {
        endless.write_all(&[b'x'; 100]).unwrap();
    }
    let half = TcpStream::connect(site.at).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut smuggler = TcpStream::connect(site.at).unwrap();
    smuggler.write_all(b"POST /200 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let _silent = TcpStream::connect(site.at).unwrap();
    let mut honest = TcpStream::connect(site.at).unwrap();
    assert!(get(&mut honest, "/200").unwrap().contains("200"));
    drop((slow, endless, half, smuggler, honest));
    site.tap().until(|tap| tap.samples[0].total().total() == 2 && tap.samples[0].connections.ended == 2);
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.tap().pid)).unwrap();
    let resident = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    println!("memory of the tap itself: {resident}");
}

#[test]
fn tapped_connections_outlive_the_supervisor_and_the_next_one_finds_the_tap() {
    let _losing = losing();
    let listens = [tcp("http")];
    let mut shelf = Shelf::default();
    let mut traffic = Traffic::open(setup(&listens), Routing::All(Slot::A), &mut shelf).unwrap();
    let (at, dir) = (local(&traffic), tempfile::tempdir().unwrap());
    let (link, pid) = TapLink::start(Path::new(env!("CARGO_BIN_EXE_rei")), dir.path()).unwrap();
    link.serve(&traffic).unwrap();
    traffic.tap(ALL, |_| true).unwrap();
    let instance = TcpListener::from(copy(&traffic, Slot::A, "http"));
    thread::spawn(move || {
        while let Ok((client, _)) = instance.accept() {
            thread::spawn(move || http(client));
        }
    });
    let mut kept = TcpStream::connect(at).unwrap();
    assert!(get(&mut kept, "/200").unwrap().contains("200"));
    // The supervisor dies: its copies close. The store has the others.
    let stored = link.copy().unwrap();
    drop((link, traffic));
    assert!(get(&mut kept, "/200").unwrap().contains("200"));
    assert!(get(&mut TcpStream::connect(at).unwrap(), "/200").unwrap().contains("200"));
    let (mut traffic, adoption) =
        Traffic::adopt(setup(&listens), Routing::All(Slot::A), &mut shelf.fetch(), &mut shelf).unwrap();
    assert_eq!(adoption, Default::default());
    let link = TapLink::of(stored);
    let mut tap = RunningTap {
        link,
        pid: pid.try_into().unwrap(),
        gauges: Gauges::default(),
        samples: Default::default(),
        beats: 0,
        captured: Vec::new(),
    };
    tap.link.serve(&traffic).unwrap();
    traffic.tap(ALL, |_| true).unwrap();
    assert!(get(&mut TcpStream::connect(at).unwrap(), "/404").unwrap().contains("404"));
    assert!(get(&mut kept, "/200").unwrap().contains("200"));
    tap.until(|tap| tap.samples[0].total().total() == 5);
    // Supervisor and store die: only the instance and the tap have the sockets, and the tap continues.
    drop((traffic, tap.link.clone()));
    shelf.0.clear();
    let lost = std::mem::replace(&mut tap.link, TapLink::of(TapLink::connection().unwrap().0));
    drop(lost);
    assert!(get(&mut TcpStream::connect(at).unwrap(), "/200").unwrap().contains("200"), "the tap serves alone");
    let taps = find(dir.path());
    let tcp_at = [tcp_at("http", &at.to_string())];
    let holders = [
        Holder { pid: std::process::id(), start_ticks: None, slot: Some(Slot::A) },
        Holder { pid: taps[0].pid, start_ticks: None, slot: None },
    ];
    let mut kept_fds = Vec::new();
    let refused = recover_from_instances(setup(&tcp_at), &holders[..1], &mut kept_fds);
    assert!(refused.is_empty() && kept_fds.len() == 1, "{refused:?}");
    let refused = recover_from_instances(setup(&tcp_at), &holders[1..], &mut kept_fds);
    assert!(refused.is_empty() && kept_fds.len() == 4, "root may copy the tap's sockets: {refused:?}");
    taps[0].release();
    let (traffic, adoption) = Traffic::adopt(setup(&tcp_at), Routing::All(Slot::A), &mut kept_fds, &mut shelf).unwrap();
    assert_eq!(adoption.lost, ["http/k"], "the tap holds also the sockets of slots without an instance");
    assert!(get(&mut kept, "/200").unwrap().contains("200"), "the old tap relays what it has");
    assert!(get(&mut TcpStream::connect(at).unwrap(), "/200").unwrap().contains("200"));
    drop(traffic);
}

/// A supervisor without taps has left a group of three.
#[test]
fn the_group_of_an_older_supervisor_is_completed() {
    let _losing = losing();
    for active in Slot::ALL {
        let listens = [tcp("http")];
        let mut shelf = Shelf::default();
        let traffic = Traffic::open(setup(&listens), Routing::All(active), &mut shelf).unwrap();
        let server = local(&traffic);
        drop(traffic);
        shelf.0.retain(|(name, _)| !name.contains("/ta/") && !name.contains("/tb/"));
        for (name, _) in &mut shelf.0 {
            *name = name.replace("/k/4/", "/k/2/");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let coming = {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut clients = Vec::new();
                while !stop.load(Ordering::Relaxed) && clients.len() < 1_000 {
                    clients.push(TcpStream::connect(server).unwrap());
                }
                clients
            })
        };
        let (mut traffic, adoption) =
            Traffic::adopt(setup(&listens), Routing::All(active), &mut shelf.fetch(), &mut shelf).unwrap();
        stop.store(true, Ordering::Relaxed);
        let clients = coming.join().unwrap();
        assert!(adoption.lost.is_empty() && !adoption.moved, "{adoption:?}");
        assert!(traffic.backlog(active).unwrap() >= clients.len() as u64, "every client is where it was");
        assert_eq!(traffic.tap_listeners().len(), 2);
        let before = traffic.tap_backlog().unwrap();
        traffic.tap(ALL, |_| true).unwrap();
        let _tapped = TcpStream::connect(server).unwrap();
        assert_eq!(traffic.tap_backlog().unwrap(), before + 1);
        assert_eq!(shelf.names(), sorted(traffic.labels().unwrap()));
    }
}

/// The delay that the tap adds to a request on a kept connection, and to a connection with one request. It is printed.
#[test]
fn the_added_delay_is_measured() {
    let mut site = Site::new(Taps::NONE);
    site.instance(Slot::A, http);
    let mut measured = Vec::new();
    for shares in [Taps::NONE, ALL] {
        site.traffic.tap(shares, |_| true).unwrap();
        let begun = Instant::now();
        for _ in 0..300 {
            assert!(get(&mut connect_brief(site.at), "/200").unwrap().contains("200"));
        }
        let connection = begun.elapsed() / 300;
        let mut kept = TcpStream::connect(site.at).unwrap();
        let begun = Instant::now();
        for _ in 0..1_000 {
            assert!(get(&mut kept, "/200").unwrap().contains("200"));
        }
        measured.push((connection, begun.elapsed() / 1_000));
    }
    println!("a connection with a request, a request: direct {:?}, through the tap {:?}", measured[0], measured[1]);
    site.tap().until(|tap| tap.samples[0].total().total() == 1_300);
}
