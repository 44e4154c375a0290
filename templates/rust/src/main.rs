//! A small service to try rei with: it greets.
//!
//! It serves on the socket that it inherits (LISTEN_FDS, as under systemd). Without one it serves on a port: greeter 8080

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::time::Duration;

use greeter::answer;

/// Descriptors 0, 1 and 2 are input, output and errors.
const FIRST_INHERITED: i32 = 3;
/// The longest request that is read, in bytes.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long the service waits for a client.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket from the supervisor, or a new one.
fn listen() -> std::io::Result<TcpListener> {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("LISTEN_PID", &std::process::id().to_string()) && is("LISTEN_FDS", "1") {
        // SAFETY: LISTEN_FDS says that this descriptor is a socket for this process, and no other code here uses it.
        return Ok(unsafe { TcpListener::from_raw_fd(FIRST_INHERITED) });
    }
    let port = std::env::args().nth(1).unwrap_or_else(|| "8080".to_owned());
    TcpListener::bind(format!("127.0.0.1:{port}"))
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(REQUEST_BYTES_MAX)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // Read the rest of the head, to its empty line: closing a socket with unread bytes resets the connection.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (status, text) = answer(request.split(' ').nth(1).unwrap_or_default());
    let body = format!("{text}\n");
    let head = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        if status == 200 { "OK" } else { "Not Found" },
        body.len()
    );
    (&stream).write_all((head + &body).as_bytes())
}

fn main() -> std::io::Result<()> {
    for stream in listen()?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("a client is gone: {error}");
            }
        });
    }
    Ok(())
}
