//! The runtime of the tests of live traffic: a small HTTP shop. A file in its own store path sets what is wrong with it.
//! Its health page always answers well: what is wrong can be seen only in the requests of users.
//!
//! | called as | does |
//! |---|---|
//! | `shop make` | writes `$out`, as a builder |
//! | `shop` | serves on the inherited socket |
//!
//! The file `behaviour` has a version and words: `2 fail=0.3 route=/orders`. See [`Behaviour`] for the words. With
//! `SHOP_LOG=json` or `combined` it prints an access log; `/metrics` always shows its counters.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The upper edges of the histogram of `/metrics`, in milliseconds.
const EDGES_MS: [u64; 9] = [1, 5, 10, 25, 50, 100, 250, 500, 1_000];
/// The longest body that a client may send, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The length of a large answer, in bytes.
const LARGE_BYTES: usize = 4 << 20;
/// The length of a stall, and the pause from one to the next.
const STALL: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(3));

static SHOP: OnceLock<Shop> = OnceLock::new();

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("make") => make(),
        _ => serve(),
    }
}

fn attribute(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Makes a version: a link to this program, and what is wrong with it.
fn make() -> ExitCode {
    let out = PathBuf::from(attribute("out"));
    std::fs::create_dir_all(out.join("bin")).expect("an output");
    std::os::unix::fs::symlink(attribute("program"), out.join("bin/shop")).expect("a link");
    std::fs::write(out.join("behaviour"), attribute("behaviour")).expect("a file");
    ExitCode::SUCCESS
}

/// What is wrong with this version. Every word is `name=value`.
#[derive(Clone, Debug)]
struct Behaviour {
    version: String,
    words: BTreeMap<String, String>,
}

impl Behaviour {
    fn read(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let version = words.next().unwrap_or_default().to_owned();
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, "1"));
            (name.to_owned(), value.to_owned())
        };
        Self { version, words: words.map(pair).collect() }
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.word(name).and_then(|value| value.parse().ok())
    }

    /// Whether the fault concerns this request: `route`, `method`, `query`, `nth` (of its connection), `body` (more bytes
    /// than that), `after` (requests of the process), `after_ms` and `until_ms` (of the process's life).
    fn concerns(&self, request: &Request, served: u64, alive_ms: u128) -> bool {
        let at_least = |name: &str, value: f64| self.number(name).is_none_or(|limit| value >= limit);
        self.word("route").is_none_or(|route| request.path.starts_with(route))
            && self.word("method").is_none_or(|method| request.method == method)
            && self.word("query").is_none_or(|query| request.query.contains(query))
            && at_least("nth", request.nth as f64)
            && at_least("body", request.body as f64)
            && at_least("after", served as f64)
            && at_least("after_ms", alive_ms as f64)
            && self.number("until_ms").is_none_or(|limit| (alive_ms as f64) < limit)
    }
}

struct Shop {
    behaviour: Behaviour,
    began: Instant,
    served: AtomicU64,
    log: String,
    counters: Mutex<Counters>,
    lost: Mutex<Vec<Vec<u8>>>,
    kept: Mutex<Vec<std::fs::File>>,
}

#[derive(Default)]
struct Counters {
    requests: BTreeMap<(String, &'static str, u16), u64>,
    durations: BTreeMap<(String, &'static str), ([u64; EDGES_MS.len() + 1], f64)>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    body: usize,
    nth: u64,
    close: bool,
}

fn serve() -> ExitCode {
    let program = std::env::args().next().map(PathBuf::from).unwrap_or_default();
    let behaviour = program.ancestors().nth(2).map(|root| root.join("behaviour")).unwrap_or_default();
    let behaviour = Behaviour::read(&std::fs::read_to_string(behaviour).unwrap_or_default());
    let (descriptors, megabytes) = (behaviour.number("descriptors"), behaviour.number("memory_mb"));
    SHOP.get_or_init(|| Shop {
        behaviour,
        began: Instant::now(),
        served: AtomicU64::new(0),
        log: attribute("SHOP_LOG"),
        counters: Mutex::default(),
        lost: Mutex::default(),
        kept: Mutex::default(),
    });
    let shop = SHOP.get().expect("it was made just now");
    if !shop.log.is_empty() {
        println!("version {}", shop.behaviour.version);
    }
    for _ in 0..descriptors.unwrap_or(0.0) as u64 {
        shop.kept.lock().unwrap().extend(std::fs::File::open("/dev/null"));
    }
    // A cache that fills in the first seconds.
    if let Some(megabytes) = megabytes {
        std::thread::spawn(move || {
            for _ in 0..megabytes as u64 {
                shop.lost.lock().unwrap().push(vec![1; 1 << 20]);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }
    if shop.behaviour.word("lines") == Some("hostile") {
        hostile_lines();
    }
    // SAFETY: by the convention of socket activation, descriptor 3 is a listener of this process alone.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    loop {
        let Ok((stream, _)) = listener.accept() else { return ExitCode::FAILURE };
        std::thread::spawn(move || {
            let _ = connection(shop, stream);
        });
    }
}

fn connection(shop: &Shop, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut nth, mut reset) = (0, false);
    while let Some(mut request) = read(&mut reader)? {
        nth += 1;
        request.nth = nth;
        let ending = answer(shop, &request, &stream)?;
        reset = ending == Ending::Reset;
        if ending != Ending::Kept || request.close {
            break;
        }
    }
    if reset { Ok(()) } else { stream.shutdown(Shutdown::Both) }
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.by_ref().take(8 << 10).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let (mut body, mut close) = (0, false);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(8 << 10).read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => body = value.trim().parse().unwrap_or(0).min(BODY_BYTES_MAX),
            "connection" => close = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    std::io::copy(&mut reader.by_ref().take(body as u64), &mut std::io::sink())?;
    Ok(Some(Request { method, path, query, body, nth: 0, close }))
}

/// What follows an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Kept,
    Closed,
    Reset,
}

fn answer(shop: &Shop, request: &Request, mut stream: &TcpStream) -> std::io::Result<Ending> {
    let begun = Instant::now();
    match request.path.as_str() {
        "/healthz" => return write(stream, request, 200, "", "well"),
        "/metrics" if shop.behaviour.word("pages") == Some("hostile") => return hostile_page(shop, request, stream),
        "/metrics" => return write(stream, request, 200, "", &metrics(shop)),
        "/large" => return write(stream, request, 200, "", &"x".repeat(LARGE_BYTES)),
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                stream.write_all(b"10\r\n0123456789abcdef\r\n")?;
            }
        }
        _ => {}
    }
    let served = shop.served.fetch_add(1, Ordering::Relaxed);
    let it = &shop.behaviour;
    let concerned = it.concerns(request, served, shop.began.elapsed().as_millis());
    let number = |name: &str| it.number(name).filter(|_| concerned);
    let drawn = |name: &str| number(name).is_some_and(|ratio| random() < ratio);
    std::thread::sleep(Duration::from_micros(
        (it.number("base_us").unwrap_or(2_000.0) * (0.8 + 0.4 * random())) as u64,
    ));
    if let Some(ms) = number("slow_ms").filter(|_| number("slow").is_none_or(|ratio| random() < ratio)) {
        std::thread::sleep(Duration::from_millis(ms as u64));
    }
    if it.word("stalls").is_some() {
        let at = shop.began.elapsed().as_millis() % STALL.1.as_millis();
        std::thread::sleep(STALL.0.saturating_sub(Duration::from_millis(at as u64)));
    }
    if let Some(bytes) = number("leak") {
        shop.lost.lock().unwrap().push(vec![1; bytes as usize]);
    }
    if number("leak_fd").is_some() {
        shop.kept.lock().unwrap().push(std::fs::File::open("/dev/null")?);
    }
    if drawn("hang") {
        std::thread::sleep(Duration::from_secs(3_600));
    }
    if drawn("reset") {
        reset_at_close(stream)?;
        return Ok(Ending::Reset);
    }
    if drawn("complains") && shop.log == "json" {
        let (ms, number) = (begun.elapsed().as_micros(), served);
        let secret = "password=corRectHorse";
        let message = format!("no connection of pool {number} after {ms} us, {secret}");
        let _ = writeln!(std::io::stdout(), r#"{{"level":"error","msg":"{message}"}}"#);
    }
    let missing = request.path.starts_with("/missing");
    let (status, head) = match () {
        () if drawn("fail") => (number("status").map_or(500, |status| status as u16), ""),
        () if drawn("redirect") => (302, "Location: /login\r\n"),
        () if drawn("refuse") => (401, ""),
        () if missing => (404, ""),
        () => (200, ""),
    };
    if drawn("endless") {
        return endless(stream, "HTTP/1.1 200 X\r\nContent-Type: text/plain\r\n\r\n", "more and more\n");
    }
    if drawn("flood") {
        return endless(stream, "HTTP/1.1 200 X\r\n", "X-Flood: more and more\r\n");
    }
    let body = match it.word("stamp").filter(|_| request.path != "/") {
        _ if drawn("empty") => String::new(),
        // As services answer: an id of the request, a clock, and what is asked for.
        Some(_) => format!(
            "{{\"path\":\"{}\",\"price\":{},\"request\":\"{:x}\",\"now\":{}}}",
            request.path,
            number("price").unwrap_or(10.0),
            (random() * 1e15) as u64,
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
        ),
        None => format!("{} of {}", request.path, it.version),
    };
    note(shop, request, status, begun.elapsed());
    if drawn("truncate") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")?;
        return Ok(Ending::Closed);
    }
    write(stream, request, status, head, &body)
}

/// Prints lines that no reader should trust.
fn hostile_lines() {
    let mut stdout = std::io::stdout().lock();
    let long = vec![b'x'; 10 << 20];
    let lines: [&[u8]; 6] = [
        &long,
        b"{\"status\":200,\"duration_ms\":NaN}",
        b"{\"status\":",
        b"\xff\xfe\x00\x1b[2J",
        b"{\"status\":99999999999999999999,\"duration_ms\":-1}",
        b"{\"status\":200,\"duration_ms\":1e308}",
    ];
    for line in lines {
        let _ = stdout.write_all(line).and_then(|()| stdout.write_all(b"\n"));
    }
}

/// Answers the first requests for metrics with pages that no reader should trust, and later ones with the right page.
fn hostile_page(shop: &Shop, request: &Request, mut stream: &TcpStream) -> std::io::Result<Ending> {
    static PAGES: AtomicU64 = AtomicU64::new(0);
    let number = PAGES.fetch_add(1, Ordering::Relaxed);
    let counter = |value: &str| format!("http_requests_total{{code=\"200\"}} {value}\n");
    let page = match number {
        // Without an end.
        0 => {
            stream.write_all(b"HTTP/1.1 200 X\r\n\r\n")?;
            let line = counter("1").repeat(1_000);
            loop {
                stream.write_all(line.as_bytes())?;
            }
        }
        // 100 MB.
        1 => counter("1").repeat((100 << 20) / counter("1").len()),
        // A million series.
        2 => (0..1_000_000).map(|n| format!("http_requests_total{{code=\"200\",path=\"/{n}\"}} 1\n")).collect(),
        3 => counter("NaN") + &counter("-5") + &counter("1e400"),
        // Counters that go back.
        4..=9 => counter(&(1_000_000 / number).to_string()),
        _ => metrics(shop),
    };
    write(stream, request, 200, "", &page)
}

/// Sends the begin of an answer, and then the same text until the client has gone.
fn endless(mut stream: &TcpStream, begin: &str, more: &str) -> std::io::Result<Ending> {
    stream.write_all(begin.as_bytes())?;
    let more = more.repeat(100);
    loop {
        stream.write_all(more.as_bytes())?;
    }
}

/// Makes the end of the connection a reset.
fn reset_at_close(stream: &TcpStream) -> std::io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?;
    Ok(())
}

fn write(mut stream: &TcpStream, request: &Request, status: u16, head: &str, body: &str) -> std::io::Result<Ending> {
    let version = SHOP.get().map(|shop| shop.behaviour.version.as_str()).unwrap_or_default();
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
    let close = if request.close { "Connection: close\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nX-Version: {version}\r\nContent-Length: {}\r\n{close}{head}\r\n{}",
        body.len(),
        if request.method == "HEAD" { "" } else { body }
    );
    stream.write_all(text.as_bytes())?;
    Ok(Ending::Kept)
}

/// The name of a request's route in the metrics.
fn route(path: &str) -> &'static str {
    ["/orders", "/items", "/cart", "/missing"].into_iter().find(|route| path.starts_with(route)).unwrap_or("/")
}

fn note(shop: &Shop, request: &Request, status: u16, took: Duration) {
    let ms = took.as_secs_f64() * 1_000.0;
    {
        let mut counters = shop.counters.lock().unwrap();
        *counters.requests.entry((request.method.clone(), route(&request.path), status)).or_default() += 1;
        let (buckets, sum) = counters.durations.entry((request.method.clone(), route(&request.path))).or_default();
        let bucket = EDGES_MS.iter().position(|edge| ms <= *edge as f64).unwrap_or(EDGES_MS.len());
        buckets[bucket] += 1;
        *sum += ms / 1_000.0;
    }
    let (method, path) = (&request.method, &request.path);
    let line = match shop.log.as_str() {
        "json" => {
            let level = if status >= 500 { "error" } else { "info" };
            format!(
                r#"{{"level":"{level}","method":"{method}","path":"{path}","status":{status},"duration_ms":{ms:.3}}}"#
            )
        }
        "combined" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            format!("127.0.0.1 - - [{now}] \"{method} {path} HTTP/1.1\" {status} 10 \"-\" \"load\" {:.6}", ms / 1_000.0)
        }
        _ => return,
    };
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn metrics(shop: &Shop) -> String {
    let counters = shop.counters.lock().unwrap();
    let mut page = String::from("# TYPE http_requests_total counter\n");
    for ((method, route, code), count) in &counters.requests {
        let _ = writeln!(page, "http_requests_total{{method=\"{method}\",route=\"{route}\",code=\"{code}\"}} {count}");
    }
    page.push_str("# TYPE http_request_duration_seconds histogram\n");
    for ((method, route), (buckets, sum)) in &counters.durations {
        let (labels, mut total) = (format!("method=\"{method}\",route=\"{route}\""), 0);
        let edges = EDGES_MS.iter().map(|ms| (*ms as f64 / 1_000.0).to_string()).chain(["+Inf".to_owned()]);
        for (edge, count) in edges.zip(buckets) {
            total += count;
            let _ = writeln!(page, "http_request_duration_seconds_bucket{{{labels},le=\"{edge}\"}} {total}");
        }
        let _ = writeln!(page, "http_request_duration_seconds_sum{{{labels}}} {sum}");
        let _ = writeln!(page, "http_request_duration_seconds_count{{{labels}}} {total}");
    }
    page
}

/// A random number from 0 to 1 (xorshift64*, Vigna 2016).
fn random() -> f64 {
    static STATE: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
    let next = |mut x: u64| {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        Some(x)
    };
    let state = STATE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
}
