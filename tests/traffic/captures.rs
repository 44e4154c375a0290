//! Exchanges that the tap copies for the supervisor, in front of real sockets: they are whole, they are bounded, and no relay
//! depends on them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rei::golden::Captured;
use rei::runtime::traffic::Slot;
use rei::tap::{Capture, Orders};

use crate::tap::{ALL, RunningTap, Site};

/// A body that needs a memory file to be sent.
const LARGE: usize = 700_000;
/// The pause between two repetitions of an order: a supervisor repeats it each second.
const REPEATED: Duration = Duration::from_secs(1);
/// A body beyond the bound.
const HUGE: usize = 1_500_000;

fn everything() -> Capture {
    Capture { per_second: 10_000, methods: None, body_bytes_max: 1 << 20, events_max: 2 }
}

/// Bytes that are no text.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in body.chunks(7_001) {
        text.extend_from_slice(format!("{:x};name=value\r\n", chunk.len()).as_bytes());
        text.extend_from_slice(chunk);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"0\r\n\r\n");
    text
}

/// The whole answer to a request for a path.
fn answer(method: &str, path: &str) -> Vec<u8> {
    let with_length = |body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nSet-Cookie: a=b\r\n\r\n", body.len());
        [head.as_bytes(), if method == "HEAD" { b"" } else { body }].concat()
    };
    match path {
        "/chunked" => {
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(&noise(20_000)).as_slice()].concat()
        }
        "/to-the-end" => [b"HTTP/1.0 200 OK\r\n\r\n", noise(5_000).as_slice()].concat(),
        "/events" => {
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2\n\ndata: 3\n\n".to_vec()
        }
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n".to_vec(),
        "/hint" => [b"HTTP/1.1 103 Early Hints\r\n\r\n", with_length(b"hinted").as_slice()].concat(),
        "/upgrade" => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nother bytes".to_vec(),
        "/large" => with_length(&noise(LARGE)),
        "/huge" => with_length(&noise(HUGE)),
        _ => with_length(path.as_bytes()),
    }
}

/// A server that reads each request to its end and gives [`answer`].
fn serve(mut client: TcpStream) {
    let mut read = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            match client.read(&mut buffer) {
                Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        if head.contains("100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map(|n| n.parse().unwrap());
        let end = loop {
            let end = match length {
                Some(length) => (read.len() >= length).then_some(length),
                None if head.contains("Transfer-Encoding") => {
                    read.windows(5).position(|five| five == b"0\r\n\r\n").map(|at| at + 5)
                }
                None => Some(0),
            };
            if let Some(end) = end {
                break end;
            }
            match client.read(&mut buffer) {
                Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        };
        read.drain(..end);
        if path == "/endless" {
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while client.write_all(b"10000\r\n").and_then(|()| client.write_all(&[b'x'; 65_536])).is_ok()
                && client.write_all(b"\r\n").is_ok()
            {}
            return;
        }
        if client.write_all(&answer(method, path)).is_err() || path == "/to-the-end" || path == "/upgrade" {
            return;
        }
    }
}

/// Sends bytes, and checks that exactly these answers come.
fn say(client: &mut TcpStream, request: &[u8], wanted: &[u8]) {
    client.write_all(request).unwrap();
    let mut got = vec![0; wanted.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == wanted, "{}", got.escape_ascii());
}

fn get(at: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(at).unwrap();
    say(&mut client, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes(), &answer("GET", path));
    client
}

fn paths(tap: &RunningTap) -> Vec<&str> {
    tap.captured.iter().map(|(_, captured)| captured.request.path.as_str()).collect()
}

/// The memory of the tap's process, in bytes.
fn memory(tap: &RunningTap) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", tap.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// An order that is repeated as a supervisor repeats it, because the tap forgets it after some seconds. Dropped, it ends.
struct Ordered(Option<(Sender<()>, JoinHandle<()>)>);

impl Drop for Ordered {
    fn drop(&mut self) {
        let (end, thread) = self.0.take().unwrap();
        drop(end);
        let _ = thread.join();
    }
}

/// Gives the order, and waits until the tap follows it.
fn order(site: &mut Site, a: Capture) -> Ordered {
    let at = site.at;
    let link = site.tap().link.clone();
    let (end, ended) = channel();
    let thread = std::thread::spawn(move || {
        let orders = Orders { a: Some(a), b: None };
        while link.order(&orders).is_ok() && ended.recv_timeout(REPEATED) == Err(RecvTimeoutError::Timeout) {}
    });
    site.tap().until(|tap| {
        get(at, "/probe");
        paths(tap).contains(&"/probe")
    });
    Ordered(Some((end, thread)))
}

/// The copies that are no probes, in the order of their connections.
fn copies(site: &mut Site, count: usize) -> Vec<Captured> {
    let no_probe = |captured: &Captured| captured.request.path != "/probe";
    site.tap().until(|tap| tap.captured.iter().filter(|(_, it)| no_probe(it)).count() >= count);
    let all = std::mem::take(&mut site.tap().captured).into_iter();
    let mut all: Vec<Captured> = all.map(|(_, captured)| captured).filter(no_probe).collect();
    all.sort_by_key(|it| (it.connection, it.index));
    all
}

#[test]
fn whole_exchanges_arrive_as_they_were() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, serve);
    get(site.at, "/before-the-order");
    let _ordered = order(&mut site, everything());
    // Four at once, then one whose body waits for a permission, then one that is another protocol.
    let mut kept = get(site.at, "/first");
    let pipelined = [("GET", "/large"), ("HEAD", "/x"), ("GET", "/204"), ("GET", "/304"), ("GET", "/hint")];
    let asked: Vec<String> =
        pipelined.iter().map(|(method, path)| format!("{method} {path} HTTP/1.1\r\nCookie: c=d\r\n\r\n")).collect();
    let answered: Vec<Vec<u8>> = pipelined.iter().map(|(method, path)| answer(method, path)).collect();
    say(&mut kept, asked.concat().as_bytes(), &answered.concat());
    let posted = noise(30_000);
    say(
        &mut kept,
        b"POST /posted?x=%20y HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    );
    say(&mut kept, &chunked(&posted), &answer("POST", "/posted?x=%20y"));
    say(&mut kept, b"GET /upgrade HTTP/1.1\r\nUpgrade: x\r\n\r\n", &answer("GET", "/upgrade"));
    get(site.at, "/chunked");
    // This answer ends with its connection. A client that leaves first cuts it short.
    let mut to_the_end = get(site.at, "/to-the-end");
    assert_eq!(to_the_end.read(&mut [0]).unwrap(), 0, "the service closes the connection");
    drop(to_the_end);
    get(site.at, "/events");
    let all = copies(&mut site, 10);
    let found: Vec<(u64, &str, &str, u16, Option<usize>)> = all
        .iter()
        .map(|it| (it.index, it.request.method.as_str(), it.request.path.as_str(), it.response.status, it.events))
        .collect();
    assert_eq!(
        found,
        [
            (0, "GET", "/first", 200, None),
            (1, "GET", "/large", 200, None),
            (2, "HEAD", "/x", 200, None),
            (3, "GET", "/204", 204, None),
            (4, "GET", "/304", 304, None),
            (5, "GET", "/hint", 200, None),
            (6, "POST", "/posted?x=%20y", 200, None),
            (0, "GET", "/chunked", 200, None),
            (0, "GET", "/to-the-end", 200, None),
            (0, "GET", "/events", 200, Some(2)),
        ]
    );
    let bodies: Vec<&[u8]> = all.iter().map(|it| it.response.body.as_slice()).collect();
    let (large, chunks, end) = (noise(LARGE), noise(20_000), noise(5_000));
    let wanted: [&[u8]; 10] =
        [b"/first", &large, b"", b"", b"", b"hinted", b"/posted?x=%20y", &chunks, &end, b"data: 1\n\ndata: 2\n\n"];
    assert!(bodies == wanted, "{:?}", bodies.iter().map(|body| body.len()).collect::<Vec<_>>());
    assert!(all[6].request.body == posted);
    assert_eq!(all[1].request.headers, [("cookie".to_owned(), "c=d".to_owned())]);
    assert_eq!(all[0].response.headers[1], ("set-cookie".to_owned(), "a=b".to_owned()));
    assert!(all[..7].iter().all(|it| it.connection == all[0].connection));
    assert!(all[6..].windows(2).all(|pair| pair[0].connection < pair[1].connection && pair[0].at <= pair[1].at));
    site.tap().until(|tap| tap.gauges.copies.streams == 1);
}

#[test]
fn what_no_order_asks_for_is_not_copied() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, serve);
    let first = order(&mut site, Capture { methods: Some(vec!["GET".to_owned()]), ..everything() });
    let mut client = get(site.at, "/got");
    say(
        &mut client,
        b"DELETE /gone HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\n/gone",
    );
    say(&mut client, b"GET /last HTTP/1.1\r\n\r\n", &answer("GET", "/last"));
    let found = copies(&mut site, 2);
    assert_eq!(found.iter().map(|it| it.request.path.as_str()).collect::<Vec<_>>(), ["/got", "/last"]);
    // Few of many.
    drop(first);
    let _ordered = order(&mut site, Capture { per_second: 1, ..everything() });
    let at = site.at;
    let many = |tap: &RunningTap| paths(tap).iter().filter(|path| **path == "/many").count();
    site.tap().until(|tap| {
        (0..20).for_each(|_| drop(get(at, "/many")));
        many(tap) > 1
    });
    let sent = site.tap().samples[0].total().total();
    assert!(many(site.tap()) as u64 * 4 < sent, "{} of {sent}", many(site.tap()));
}

#[test]
fn large_and_endless_bodies_are_given_up_and_need_no_memory() {
    let mut site = Site::new(ALL);
    site.instance(Slot::A, serve);
    let _ordered = order(&mut site, everything());
    let before = memory(site.tap());
    get(site.at, "/huge");
    let mut endless = TcpStream::connect(site.at).unwrap();
    endless.write_all(b"GET /endless HTTP/1.1\r\n\r\n").unwrap();
    let mut left = 64 << 20;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        left -= endless.read(&mut buffer).unwrap().min(left);
    }
    site.tap().until(|tap| tap.gauges.copies.too_large == 2);
    // Together they need more than all copies may.
    let mut waiting: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(site.at).unwrap()).collect();
    for client in &mut waiting {
        client.write_all(b"POST /together HTTP/1.1\r\nContent-Length: 900000\r\n\r\n").unwrap();
        client.write_all(&[b'x'; 899_999]).unwrap();
    }
    site.tap().until(|tap| tap.gauges.copies.full >= 20);
    let most = memory(site.tap());
    for client in &mut waiting {
        say(client, b"x", &answer("POST", "/together"));
    }
    drop((waiting, endless));
    site.tap().until(|tap| tap.gauges.open == 0);
    let whole = copies(&mut site, 1);
    assert!(whole.iter().all(|it| it.request.body == [b'x'; 900_000]));
    // The bound of all copies is 16 MiB; a vector that grows can have twice its content.
    assert!(most < before + (48 << 20), "{before} bytes, then {most}");
    println!("memory of the tap: {before} bytes, with 16 MiB of copies {most}");
}

#[test]
fn a_supervisor_that_reads_nothing_disturbs_no_relay() {
    const CLIENTS: u64 = 60;
    let mut site = Site::new(ALL);
    site.instance(Slot::A, serve);
    let _ordered = order(&mut site, everything());
    let before = memory(site.tap());
    for _ in 0..CLIENTS {
        get(site.at, "/large");
        get(site.at, "/small");
    }
    let most = memory(site.tap());
    assert!(most < before + (48 << 20), "{before} bytes, then {most}");
    // What had a place arrives now; the rest is counted.
    let is_small = |tap: &RunningTap| paths(tap).iter().filter(|path| **path == "/small").count() as u64;
    let is_large = |tap: &RunningTap| paths(tap).iter().filter(|path| **path == "/large").count() as u64;
    site.tap().until(|tap| {
        let copies = tap.gauges.copies;
        is_small(tap) + is_large(tap) + copies.full + copies.not_taken == 2 * CLIENTS
    });
    assert!(is_large(site.tap()) > 10 && site.tap().gauges.copies.full > 10, "{:?}", site.tap().gauges);
}
