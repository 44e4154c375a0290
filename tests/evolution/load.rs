//! Clients of the service: new connections and kept ones. Every request is counted, and every failure has its time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::lab::Address;

/// The time limit of one request: a switch, restart or recovery must not delay a client longer.
const REQUEST: Duration = Duration::from_secs(20);
/// The pause of a client between two requests: a few hundred requests a second in total, so that builds still make progress.
const PAUSE: Duration = Duration::from_millis(8);
/// The number of clients with a new connection for each request, and of clients that keep their connection.
const FRESH: usize = 3;
const KEPT: usize = 2;

/// An answered request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The start of its connection, in milliseconds since the epoch.
    pub connected_ms: u64,
    /// The time of the answer.
    pub answered_ms: u64,
    /// Whether it was the first request of its connection: then the routing chose the version.
    pub first: bool,
    /// The answering version.
    pub version: String,
}

/// The results of all requests.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: Vec<Answer>,
    /// The failures, with their times.
    pub failures: Vec<(u64, String)>,
}

/// Load on a service until it is dropped or finished.
pub struct Load {
    end: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

struct Connection {
    stream: Box<dyn Stream>,
    connected_ms: u64,
    asked: u64,
}

impl Connection {
    fn open(address: &Address) -> io::Result<Self> {
        let connected_ms = now_ms();
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, REQUEST)?;
                stream.set_read_timeout(Some(REQUEST))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(REQUEST))?;
                Box::new(stream)
            }
        };
        Ok(Self { stream, connected_ms, asked: 0 })
    }

    /// Sends one request; returns the body, and whether the connection stays open.
    fn ask(&mut self, path: &str, keep: bool) -> io::Result<(String, bool)> {
        self.asked += 1;
        let connection = if keep { "keep-alive" } else { "close" };
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let (mut text, mut chunk) = (Vec::new(), [0_u8; 4096]);
        loop {
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                let at = text.len();
                return Err(io::Error::other(format!("the connection ended after {at} bytes of an answer")));
            }
            text.extend_from_slice(&chunk[..n]);
            let whole = String::from_utf8_lossy(&text);
            let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let length = length.ok_or_else(|| io::Error::other(format!("no length in {head:?}")))?;
            if body.len() < length {
                continue;
            }
            if !head.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(head.to_owned()));
            }
            return Ok((body.to_owned(), head.contains("connection: keep-alive")));
        }
    }
}

/// Sends one request on a new connection; returns the body.
pub fn ask(address: &Address, path: &str) -> io::Result<String> {
    Connection::open(address)?.ask(path, false).map(|(body, _)| body)
}

impl Load {
    /// Starts the load.
    pub fn on(address: &Address) -> Self {
        let (end, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let client = |keep: bool| {
            let (address, end, tally) = (address.clone(), end.clone(), tally.clone());
            std::thread::spawn(move || {
                let mut connection = None;
                while !end.load(Ordering::Relaxed) {
                    request(&address, &mut connection, keep, &tally);
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let threads = (0..FRESH).map(|_| client(false)).chain((0..KEPT).map(|_| client(true))).collect();
        Self { end, tally, threads }
    }

    /// The number of answers so far.
    pub fn count(&self) -> usize {
        self.tally.lock().unwrap().answers.len()
    }

    /// Waits for that many more answers.
    pub fn wait_for_more(&self, more: usize) {
        let (wanted, since) = (self.count() + more, std::time::Instant::now());
        while self.count() < wanted {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "the load makes no progress: {:?}",
                self.tally.lock().unwrap().failures.last()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Stops the load; returns the results of all requests.
    pub fn finish(mut self) -> Tally {
        self.stop();
        std::mem::take(&mut self.tally.lock().unwrap())
    }

    /// Stops the load. Every request must have an answer, and there must be at least one.
    pub fn none_lost(self) -> Tally {
        let tally = self.finish();
        tally.assert_none_lost();
        tally
    }

    fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic in a client");
        }
    }
}

fn request(address: &Address, connection: &mut Option<Connection>, keep: bool, tally: &Mutex<Tally>) {
    let asked = match connection.take() {
        Some(open) => Ok(open),
        None => Connection::open(address).map_err(|error| format!("connecting: {error}")),
    };
    let answered = asked.and_then(|mut open| {
        let answer = open.ask("/", keep);
        let (body, stays) = answer.map_err(|error| format!("request {} of a connection: {error}", open.asked))?;
        let version = body.strip_prefix("hello from ").and_then(|rest| rest.split_once(" of "));
        let (_, version) = version.ok_or_else(|| format!("a wrong answer: {body:?}"))?;
        let answer = Answer {
            connected_ms: open.connected_ms,
            answered_ms: now_ms(),
            first: open.asked == 1,
            version: version.to_owned(),
        };
        *connection = (keep && stays).then_some(open);
        Ok(answer)
    });
    let mut tally = tally.lock().unwrap();
    match answered {
        Ok(answer) => tally.answers.push(answer),
        Err(what) => tally.failures.push((now_ms(), what)),
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Tally {
    pub fn assert_none_lost(&self) {
        let (failed, all) = (self.failures.len(), self.failures.len() + self.answers.len());
        assert!(failed == 0, "{failed} of {all} requests failed: {:#?}", &self.failures[..failed.min(10)]);
        assert!(!self.answers.is_empty(), "there was no load");
    }

    /// The number of answers by version.
    pub fn versions(&self) -> BTreeMap<&str, usize> {
        let mut versions = BTreeMap::new();
        for answer in &self.answers {
            *versions.entry(answer.version.as_str()).or_default() += 1;
        }
        versions
    }

    /// The longest wait for an answer to the first request of a connection, in milliseconds.
    pub fn longest_ms(&self) -> u64 {
        self.answers.iter().filter(|it| it.first).map(|it| it.answered_ms - it.connected_ms).max().unwrap_or(0)
    }
}
