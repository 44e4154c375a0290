//! The runtime's server: HTTP/1.1 on the sockets that it inherits, health and context on the socket named `rei`.
//!
//! Worker threads accept from the same sockets. On SIGTERM they accept the connections that still wait, answer the requests in
//! progress, send `connection: close` on open connections, and stop. A bug in the script is a panic with the script's stack, and
//! ends the process: then a supervisor must restart it.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::record::Record;
use super::script::{self, Answer, Fault, Request, Script};
use crate::interface::runtime::{self, LISTEN_FDS_START, SOCKET_NAME};

/// Worker threads: enough that one slow request does not delay all others, and few enough to use little of the machine.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=4;
/// The largest body of a request, in bytes; scripts do not read it.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How long an open connection may send one more request after SIGTERM. The answer has `connection: close`, so a client that has
/// just sent a request still gets its answer.
const LINGER: Duration = Duration::from_secs(1);
/// The longest time that a connection stays open after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The pause after an `accept` that failed, for example because no descriptor is free, so that the loop does not use a whole processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Why the runtime cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The script cannot be used.
    #[error(transparent)]
    Script(#[from] script::Error),
    /// There is no socket to listen on.
    #[error("no listening socket was inherited, and no address was given")]
    NoSocket,
    /// A socket cannot be used.
    #[error("cannot listen on {what}")]
    Listen {
        /// The name or address of the socket.
        what: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread, event queue or signal handler.
    #[error("cannot start the workers")]
    Start(#[source] io::Error),
}

impl Error {
    /// The next step for the user who started the runtime.
    pub fn hint(&self) -> Option<String> {
        matches!(self, Self::NoSocket)
            .then(|| "give an address: rei-demo-runtime serve FILE --listen 127.0.0.1:8080".into())
    }
}

/// A socket to accept from, on this machine's loopback or a path.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }

    /// Takes over an inherited descriptor.
    fn adopt(fd: OwnedFd) -> io::Result<Self> {
        use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
        use std::os::fd::AsRawFd;
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let listener = match address.family() {
            Some(AddressFamily::Unix) => Self::Unix(UnixListener::from(fd)),
            _ => Self::Tcp(TcpListener::from(fd)),
        };
        match &listener {
            Self::Tcp(listener) => listener.set_nonblocking(true)?,
            Self::Unix(listener) => listener.set_nonblocking(true)?,
        }
        Ok(listener)
    }
}

/// A socket that one worker accepts from.
enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection of any kind of socket.
type Stream = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Acceptor {
    fn of(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => Self::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Self::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves the script in `file` until SIGTERM, on the inherited sockets or on `listen`.
///
/// # Errors
/// If it cannot start to serve.
pub fn serve(file: &Path, listen: Option<SocketAddr>) -> Result<(), Error> {
    let script = Script::parse(&name_of(file), &script::read(file)?)?;
    let listeners = match listen {
        None => inherited()?,
        Some(address) => {
            let failed = |source| Error::Listen { what: address.to_string(), source };
            let listener = TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            vec![Listener::Tcp(listener)]
        }
    };
    if listeners.is_empty() {
        return Err(Error::NoSocket);
    }
    let record = Arc::new(Record::default());
    panic_with_the_scripts_stack();
    let reported = Arc::clone(&record);
    let about = serde_json::json!({ "interpreter": concat!("rei-demo-runtime ", env!("CARGO_PKG_VERSION")) });
    // Without a supervisor no caller uses this.
    let _serving = runtime::spawn((move || reported.health(), move |_: &_| about.clone()));
    let (stop, stopped) = watch::channel(false);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut workers = Vec::new();
    for index in 1..=cores.clamp(*WORKERS.start(), *WORKERS.end()) {
        let listeners: Result<Vec<_>, _> = listeners.iter().map(Listener::try_clone).collect();
        let worker = Worker { script: script.clone(), record: Arc::clone(&record), stopped: stopped.clone() };
        let (listeners, reactor) = (listeners.map_err(Error::Start)?, reactor()?);
        let work = move || reactor.block_on(worker.run(listeners));
        workers.push(std::thread::Builder::new().name(format!("http-{index}")).spawn(work).map_err(Error::Start)?);
    }
    drop(listeners);
    reactor()?.block_on(stop_signal()).map_err(Error::Start)?;
    let _ = stop.send(true);
    for worker in workers {
        // An error is impossible: a panic of a worker ends the process.
        let _ = worker.join();
    }
    Ok(())
}

/// The script's path inside its package, as in the source tree: `bin/greeter`.
fn name_of(file: &Path) -> String {
    let names: Vec<_> = file.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
    names.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn reactor() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)
}

async fn stop_signal() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Every inherited socket except the one of the Interface.
fn inherited() -> Result<Vec<Listener>, Error> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or(0);
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut listeners = Vec::new();
    for fd in (0..count).map(|index| LISTEN_FDS_START + index) {
        let name = names.next().unwrap_or("unknown").to_owned();
        if name == SOCKET_NAME {
            continue;
        }
        // SAFETY: the variables are for this process and say that it owns the descriptor. No other code takes it:
        // `interface::runtime` takes only the descriptor that is skipped above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        listeners.push(Listener::adopt(fd).map_err(|source| Error::Listen { what: name, source })?);
    }
    Ok(listeners)
}

/// Sets a panic hook: if the panic comes from the script, it prints the script's stack. Every panic ends the process.
fn panic_with_the_scripts_stack() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        match panic.payload().downcast_ref::<Crash>() {
            // One write, so that no other line comes in between.
            Some(crash) => {
                let _ = io::stderr().write_all(crash.to_string().as_bytes());
            }
            None => otherwise(panic),
        }
        std::process::exit(101);
    }));
}

/// A fault, and the request that met it.
struct Crash {
    fault: Fault,
    method: String,
    target: String,
}

impl std::fmt::Display for Crash {
    /// The request as a line that rei replays, then the usual text of a Rust panic, but with the frames of the script.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let place = self.fault.frames.first().map(ToString::to_string).unwrap_or_default();
        let request = serde_json::json!({ "request": { "method": self.method, "path": self.target } });
        writeln!(f, "rei-exchange: {request}")?;
        writeln!(f, "thread '{name}' panicked at {place}:\n{}\nstack backtrace:", self.fault.message)?;
        for (index, frame) in self.fault.frames.iter().enumerate() {
            writeln!(f, "{index:4}: {}\n             at {frame}", frame.function)?;
        }
        Ok(())
    }
}

/// The state of one worker thread.
#[derive(Clone)]
struct Worker {
    script: Script,
    record: Arc<Record>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn run(self, listeners: Vec<Listener>) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(self.clone().accept(listener));
        }
        while accepting.join_next().await.is_some() {}
    }

    /// Accepts until SIGTERM, then accepts the connections that already wait; ends with the last of these connections.
    async fn accept(mut self, listener: Listener) {
        let mut connections = JoinSet::new();
        let acceptor = match Acceptor::of(listener) {
            Ok(acceptor) => acceptor,
            Err(error) => return eprintln!("cannot accept connections: {error}"),
        };
        loop {
            let accepted = tokio::select! {
                accepted = acceptor.accept() => accepted,
                _ = self.stopped.wait_for(|stop| *stop) => break,
            };
            match accepted {
                Ok(stream) => drop(connections.spawn(self.clone().connection(stream))),
                // The client has already gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBADF)) => {
                    eprintln!("the listening socket was shut down: {error}");
                    break;
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
            while connections.try_join_next().is_some() {}
        }
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::ZERO, acceptor.accept()).await {
            connections.spawn(self.clone().connection(stream));
        }
        while connections.join_next().await.is_some() {}
    }

    /// Answers the requests of one connection.
    async fn connection(self, stream: Stream) {
        let mut stopped = self.stopped.clone();
        let service = service_fn(|request| self.answer(request));
        let connection =
            hyper::server::conn::http1::Builder::new().max_headers(100).serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // An error means that the client has gone.
            _ended = &mut connection => return,
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        let finish = async {
            if tokio::time::timeout(LINGER, &mut connection).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ended = connection.as_mut().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_MAX, finish).await;
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        let begun = Instant::now();
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let method = request.method().as_str().to_owned();
        let read = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
        let answer = match read {
            Ok(_) => self.script.handle(&Request::new(&method, &target)).unwrap_or_else(|fault| {
                std::panic::panic_any(Crash { fault, method: method.clone(), target: target.clone() })
            }),
            Err(_) => Answer { status: 413, headers: Default::default(), body: "the body is too large".into() },
        };
        self.record.request(begun.elapsed(), answer.status);
        let mut response =
            hyper::Response::builder().status(answer.status).header("content-type", "text/plain; charset=utf-8");
        for (name, value) in &answer.headers {
            response = response.header(name, value);
        }
        if *self.stopped.borrow() {
            response = response.header("connection", "close");
        }
        let body = Full::new(Bytes::from(answer.body));
        // The script can return a header with an invalid name.
        Ok(response.body(body).unwrap_or_else(|error| {
            let mut plain = hyper::Response::new(Full::new(Bytes::from(error.to_string())));
            *plain.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            plain
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Frame;
    use super::*;

    #[test]
    fn the_diagnosis_reads_a_crash() {
        let frame = |function: &str, line| Frame { function: function.into(), file: "bin/x".into(), line, column: 5 };
        let fault = Fault { message: "Array index 3".into(), frames: vec![frame("inner", 9), frame("handle", 2)] };
        let text = Crash { fault, method: "GET".into(), target: "/x?y".into() }.to_string();
        let traces = crate::diagnosis::traces::parse(text.as_bytes());
        assert_eq!(traces.len(), 1, "{text}");
        assert_eq!((traces[0].language.as_str(), traces[0].reason.as_str()), ("rust", "Array index 3"));
        let exchanges = crate::diagnosis::exchanges_of(text.as_bytes());
        assert_eq!(exchanges.iter().map(|it| it.request.path.as_str()).collect::<Vec<_>>(), ["/x?y"]);
        assert_eq!(traces[0].frames, ["inner (bin/x:9:5)", "handle (bin/x:2:5)"]);
    }

    #[test]
    fn a_script_is_named_as_in_its_tree() {
        assert_eq!(name_of(Path::new("/nix/store/x-greeter/bin/greeter")), "bin/greeter");
    }
}
