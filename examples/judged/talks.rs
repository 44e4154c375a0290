//! The parts of HTTP that need more than one read, WebSockets, and lines: a service that serves its connections beside each
//! other. Behaviours that begin with `parts` speak HTTP, those that begin with `lines` speak lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// The size of large bodies, in bytes.
const LARGE_BYTES: usize = 8 << 20;
/// Where a version that corrupts a body changes one byte.
const CORRUPT_AT: usize = 5 << 20;

/// The content of a large body.
fn large() -> Vec<u8> {
    (0..LARGE_BYTES)
        .map(|at| if at % 80 == 79 { b'\n' } else { b'a' + u8::try_from((at / 7 + at / 4096) % 26).unwrap() })
        .collect()
}

fn nanos() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Serves one connection.
pub fn serve(stream: TcpStream, behaviour: &str) {
    let mut first = [0; 7];
    // A client that sends nothing is a probe.
    let n = stream.peek(&mut first).unwrap_or(0);
    // The client may go at any time; then the next one is served.
    if &first[..n] == b"GET /ws" {
        drop(socket(stream, behaviour));
    } else {
        drop(http(stream, behaviour));
    }
}

/// A request: path, whether it came in chunks, and body.
fn request(reader: &mut BufReader<TcpStream>, behaviour: &str) -> std::io::Result<Option<(String, bool, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    for number in 0.. {
        if !chunked {
            break;
        }
        line.clear();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        if size == 0 {
            break;
        }
        if number == 0 || behaviour != "parts_first_chunk" {
            body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(Some((path, chunked, body)))
}

fn http(stream: TcpStream, behaviour: &str) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some((path, chunked, mut body)) = request(&mut reader, behaviour)? {
        let answer = match path.as_str() {
            "/healthz" => b"yes".to_vec(),
            "/upload" => {
                if behaviour == "parts_corrupt_upload" && body.len() > CORRUPT_AT {
                    body[CORRUPT_AT] ^= 1;
                }
                let digest: Vec<String> = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{} bytes {}", body.len(), digest.concat()).into_bytes()
            }
            "/download" => {
                let mut bytes = large();
                if behaviour == "parts_corrupt_download" {
                    bytes[CORRUPT_AT] ^= 1;
                }
                bytes
            }
            "/echo" => format!("chunked: {chunked}, {}", String::from_utf8_lossy(&body)).into_bytes(),
            "/chunks" => {
                chunks(&mut out, behaviour)?;
                continue;
            }
            _ => b"nothing".to_vec(),
        };
        let head = format!("HTTP/1.1 200 X\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", answer.len());
        out.write_all(head.as_bytes())?;
        out.write_all(&answer)?;
    }
    Ok(())
}

/// One content in several framings.
fn chunks(out: &mut TcpStream, behaviour: &str) -> std::io::Result<()> {
    let text = "one, two, three, four";
    let head = "HTTP/1.1 200 X\r\ncontent-type: text/plain\r\n";
    match behaviour {
        "parts_whole" => write!(out, "{head}content-length: {}\r\n\r\n{text}", text.len()),
        "parts_cut" => write!(out, "{head}transfer-encoding: chunked\r\n\r\n5\r\none, \r\n0\r\n\r\n"),
        _ => {
            // Each piece is sent alone, and each answer has other trailers.
            write!(out, "{head}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5;a=b\r\none, \r\n")?;
            out.flush()?;
            write!(out, "1\r\nt\r\nF\r\nwo, three, four\r\n0\r\nx-sum: {}\r\n\r\n", nanos())
        }
    }
}

/// A WebSocket: counts up, sends binary messages back in reverse, and answers `burst` with three messages.
fn socket(stream: TcpStream, behaviour: &str) -> Result<(), Box<dyn std::error::Error>> {
    use tungstenite::Message;
    if behaviour == "parts_refuses" {
        let mut stream = stream;
        let _head = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")?;
        return Ok(());
    }
    let mut socket = tungstenite::accept(stream)?;
    loop {
        match socket.read()? {
            Message::Text(text) if text.as_str() == "burst" => {
                socket.send(Message::Ping(b"are you there".to_vec().into()))?;
                for word in ["a", "b", "c"] {
                    socket.send(Message::text(word))?;
                }
            }
            Message::Text(_) if behaviour == "parts_silent" => {}
            Message::Text(_) if behaviour == "parts_gone" => socket.close(None)?,
            Message::Text(_) if behaviour == "parts_huge" => {
                // A binary frame that announces 1 GiB.
                socket.get_mut().write_all(&[0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0])?;
            }
            Message::Text(text) => {
                let asked: serde_json::Value = serde_json::from_str(&text)?;
                let more = if behaviour == "parts_miscounts" { 2 } else { 1 };
                let number = asked["n"].as_u64().unwrap_or(0) + more;
                socket.send(Message::text(format!("{{\"n\":{number},\"at\":{}}}", nanos() / 1_000_000)))?;
            }
            Message::Binary(bytes) => {
                let bytes: Vec<u8> = bytes.iter().rev().copied().collect();
                socket.send(Message::binary(bytes))?;
            }
            Message::Close(_) => return Ok(()),
            _ => {}
        }
    }
}

/// A store of values that is asked line by line.
pub fn lines(stream: TcpStream, behaviour: &str) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    out.write_all(b"220 ready\r\n")?;
    let mut kept = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        // LF alone is no end of a line in this protocol; the reader has taken it away.
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] if behaviour == "lines_endless" => loop {
                out.write_all(&[b'x'; 4096])?;
            },
            ["PING"] if behaviour == "lines_silent" => {}
            ["PING"] if behaviour == "lines_wrong" => out.write_all(b"+PANG\r\n")?,
            ["PING"] => out.write_all(b"+PONG\r\n")?,
            ["SET", value] => {
                (*value).clone_into(&mut kept);
                out.write_all(b"+OK\r\n")?;
            }
            ["GET"] => write!(out, "${}\r\n{kept}\r\n", kept.len())?,
            ["TIME"] => write!(out, ":{}\r\n", nanos() / 1_000_000)?,
            ["QUIT"] => return Ok(()),
            _ => out.write_all(b"-ERR\r\n")?,
        }
    }
    Ok(())
}
