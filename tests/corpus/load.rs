//! The clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::case::Load;

/// Client threads, and the pause between two requests of each: 160 requests a second together.
const CLIENTS: u64 = 8;
const PAUSE: Duration = Duration::from_millis(50);
/// Requests on a connection that is kept.
const KEPT: u64 = 4;
/// How long a client waits for an answer, and an impatient one.
const ANSWER: Duration = Duration::from_secs(5);
const IMPATIENT: Duration = Duration::from_millis(1);
/// Threads that take the processors of a busy machine.
const BUSY: usize = 2;

/// Sends requests until it is dropped.
pub struct Clients {
    end: Arc<AtomicBool>,
    load: Arc<Mutex<Load>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts the clients.
    pub fn start(address: SocketAddr) -> Self {
        let (end, load) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Load::Steady)));
        let client = |number| {
            let (end, load) = (end.clone(), load.clone());
            std::thread::spawn(move || Client { address, number, asked: 0 }.run(&end, &load))
        };
        let mut threads: Vec<_> = (0..CLIENTS).map(client).collect();
        threads.extend((0..BUSY).map(|_| {
            let (end, load) = (end.clone(), load.clone());
            std::thread::spawn(move || take_processor(&end, &load))
        }));
        Self { end, load, threads }
    }

    /// Changes what the clients do.
    pub fn change(&self, load: Load) {
        *self.load.lock().unwrap() = load;
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Works while the machine is to be busy.
fn take_processor(end: &AtomicBool, load: &Mutex<Load>) {
    static WORK: AtomicU64 = AtomicU64::new(0);
    while !end.load(Ordering::Relaxed) {
        if *load.lock().unwrap() == Load::BusyMachine {
            for _ in 0..1_000_000 {
                WORK.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Client {
    address: SocketAddr,
    number: u64,
    asked: u64,
}

impl Client {
    fn run(mut self, end: &AtomicBool, load: &Mutex<Load>) {
        let mut kept: Option<(TcpStream, u64)> = None;
        while !end.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let load = *load.lock().unwrap();
            self.asked += 1;
            let few = load == Load::FewConnections;
            let keeps = few || self.number.is_multiple_of(2);
            let (stream, used) = match kept.take() {
                Some((stream, used)) if keeps && (few || used < KEPT) => (stream, used),
                _ => match TcpStream::connect(self.address) {
                    Ok(stream) => (stream, 0),
                    Err(_) => continue,
                },
            };
            let impatient = load == Load::Impatient && self.asked.is_multiple_of(5);
            if self.ask(&stream, load, !keeps, impatient).is_ok() && keeps {
                kept = Some((stream, used + 1));
            }
            let pause = match load {
                Load::Rising => PAUSE / 2,
                Load::Bursts if begun.elapsed().as_millis() % 2_000 < 1_000 => PAUSE * 2,
                _ => PAUSE,
            };
            std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        }
    }

    fn ask(&self, mut stream: &TcpStream, load: Load, close: bool, impatient: bool) -> std::io::Result<()> {
        stream.set_read_timeout(Some(if impatient { IMPATIENT } else { ANSWER }))?;
        let number = self.asked * CLIENTS + self.number;
        // Of twenty requests; the other mix has the same routes in other shares.
        let share = [number % 20, (number % 20 + 9) % 20][usize::from(load == Load::OtherMix)];
        let (method, target, body) = match share {
            0..=4 => ("GET", "/".to_owned(), 0),
            5..=10 => ("GET", format!("/orders/{number}"), 0),
            11..=12 => ("HEAD", format!("/items/{number}"), 0),
            13..=14 => ("GET", format!("/items?page={number}"), 0),
            15..=16 => ("POST", "/cart".to_owned(), 100),
            17..=18 => ("POST", "/cart".to_owned(), 8 << 10),
            _ => ("GET", format!("/missing/{number}"), 0),
        };
        let close = if close { "Connection: close\r\n" } else { "" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: shop\r\n{close}Content-Length: {body}\r\n\r\n");
        let mut request = head.into_bytes();
        request.resize(request.len() + body, b'x');
        stream.write_all(&request)?;
        read(stream, method == "HEAD")
    }
}

/// Reads one answer.
fn read(mut stream: &TcpStream, is_head: bool) -> std::io::Result<()> {
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        if let Some(at) = text.windows(4).position(|it| it == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&text[..at]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if is_head || text.len() >= at + 4 + length.unwrap_or(0_usize) {
                return Ok(());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
}
