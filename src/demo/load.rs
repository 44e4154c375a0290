//! A steady load from outside: new connections at a fixed rate, and a few connections that stay open. It counts every request.
//!
//! It runs on its own thread, so that the work of the story does not change the figures.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::tally::{RequestOutcome, Tally};

/// New connections per second.
pub const CONNECTIONS_PER_SECOND: u32 = 120;
/// Connections that stay open.
pub const KEPT_OPEN: usize = 4;

/// The pause between two requests on a connection that stays open.
const KEPT_OPEN_PAUSE: Duration = Duration::from_millis(50);
/// The time limit of one answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Requests in progress at once. Beyond this number the load waits, as real clients would, and the machine stays usable.
const IN_PROGRESS_MAX: usize = 32;
/// The number of styles that the greeter has.
const STYLES: u64 = 3;

/// The load; it stops when it is dropped.
pub struct Load {
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Starts to send requests to the greeter on `address`.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn start(address: SocketAddr) -> std::io::Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stop, stopped) = oneshot::channel();
        let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client { address, tally: Arc::clone(&tally) };
        let work = move || {
            reactor.block_on(async {
                tokio::select! {
                    () = client.run() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(work)?;
        Ok(Self { address, tally, stop: Some(stop), thread: Some(thread) })
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends one more request on a new connection, without counting it.
    pub async fn ask(&self, target: &str) -> (RequestOutcome, Duration) {
        let begun = Instant::now();
        let asked = tokio::time::timeout(ANSWER_MAX, ask_once(self.address, target));
        (asked.await.unwrap_or(RequestOutcome::Late), begun.elapsed())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has already ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
}

impl Client {
    async fn run(self) {
        let mut tasks = JoinSet::new();
        for index in 0..KEPT_OPEN {
            tasks.spawn(self.clone().keep_open(index));
        }
        let places = Arc::new(Semaphore::new(IN_PROGRESS_MAX));
        let mut pace = tokio::time::interval(Duration::from_secs(1) / CONNECTIONS_PER_SECOND);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for guest in 0_u64.. {
            pace.tick().await;
            while tasks.try_join_next().is_some() {}
            // If too many requests are in progress, this one is not sent.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.with_tally(|tally| tally.held_back += 1);
                continue;
            };
            let client = self.clone();
            tasks.spawn(async move {
                let begun = Instant::now();
                let target = format!("/greet?name=guest-{guest}&style={}", guest % STYLES);
                let asked = tokio::time::timeout(ANSWER_MAX, ask_once(client.address, &target)).await;
                client.count(asked.unwrap_or(RequestOutcome::Late), begun);
                drop(place);
            });
        }
    }

    fn with_tally(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self, outcome: RequestOutcome, begun: Instant) {
        self.with_tally(|tally| tally.count(outcome, begun.elapsed()));
    }

    /// Sends one request after the other on one connection. If the server closes the connection between two requests,
    /// opens another connection.
    async fn keep_open(self, index: usize) {
        let target = format!("/farewell?name=regular-{index}");
        let mut open: Option<SendRequest<Empty<Bytes>>> = None;
        loop {
            tokio::time::sleep(KEPT_OPEN_PAUSE).await;
            let begun = Instant::now();
            let sender = match open.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => match connect(self.address).await {
                    Ok(sender) => sender,
                    Err(outcome) => {
                        self.count(outcome, begun);
                        continue;
                    }
                },
            };
            match tokio::time::timeout(ANSWER_MAX, exchange(sender, self.address, &target)).await {
                Ok(Exchange::Done(outcome, sender)) => {
                    self.count(outcome, begun);
                    open = sender;
                }
                // The connection was closed before the request was sent, so no request was lost.
                Ok(Exchange::NotSent) => {}
                Err(_) => self.count(RequestOutcome::Late, begun),
            }
        }
    }
}

enum Exchange {
    /// The outcome, and the connection if it can be used again.
    Done(RequestOutcome, Option<SendRequest<Empty<Bytes>>>),
    /// The connection was closed before anything was sent.
    NotSent,
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, RequestOutcome> {
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => RequestOutcome::Refused,
        _ => RequestOutcome::Broken,
    })?;
    // A request is one small packet that must be sent at once. An error does not matter.
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| RequestOutcome::Broken)?;
    // The task ends with the connection. The waiter for an answer sees the error of the connection.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn exchange(mut sender: SendRequest<Empty<Bytes>>, address: SocketAddr, target: &str) -> Exchange {
    let request = hyper::Request::builder().uri(target).header("host", address.to_string()).body(Empty::new());
    let Ok(request) = request else { return Exchange::Done(RequestOutcome::Failed, None) };
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if error.is_canceled() => return Exchange::NotSent,
        Err(_) => return Exchange::Done(RequestOutcome::Broken, None),
    };
    let (status, closes) = (response.status(), response.headers().get("connection").is_some_and(|it| it == "close"));
    match response.into_body().collect().await {
        Err(_) => Exchange::Done(RequestOutcome::Broken, None),
        Ok(_) if !status.is_success() => Exchange::Done(RequestOutcome::Failed, None),
        Ok(_) => {
            // The connection can be used again after its task has seen the end of the answer.
            let open = !closes && sender.ready().await.is_ok();
            Exchange::Done(RequestOutcome::Ok, open.then_some(sender))
        }
    }
}

async fn ask_once(address: SocketAddr, target: &str) -> RequestOutcome {
    match connect(address).await {
        Err(outcome) => outcome,
        Ok(sender) => match exchange(sender, address, target).await {
            Exchange::Done(outcome, _) => outcome,
            Exchange::NotSent => RequestOutcome::Broken,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that calls `act` with each connection and its number.
    fn serve(act: impl Fn(usize, &mut std::net::TcpStream) + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let act = Arc::new(act);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (mut stream, act) = (stream.unwrap(), Arc::clone(&act));
                std::thread::spawn(move || act(number, &mut stream));
            }
        });
        address
    }

    /// Answers a request with these bytes; `None` if there is no request or the client has gone.
    fn answer(stream: &mut std::net::TcpStream, text: &[u8]) -> Option<()> {
        stream.read(&mut [0; 1024]).ok().filter(|n| *n > 0)?;
        stream.write_all(text).ok()
    }

    fn until(load: &Load, what: impl Fn(&Tally) -> bool) -> Tally {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let tally = load.tally();
            if what(&tally) {
                return tally;
            }
            assert!(Instant::now() < deadline, "{tally}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn good_answers_count_as_ok_on_new_and_kept_connections() {
        let address = serve(|_, stream| while answer(stream, GOOD).is_some() {});
        let load = Load::start(address).unwrap();
        let tally = until(&load, |tally| tally.total() > 60);
        assert_eq!(tally.lost(), 0, "{tally}");
    }

    #[test]
    fn a_kept_connection_that_is_closed_between_requests_loses_none() {
        let closes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        let address = serve(move |_, stream| {
            answer(stream, closes);
        });
        let load = Load::start(address).unwrap();
        let tally = until(&load, |tally| tally.total() > 60);
        assert_eq!(tally.lost(), 0, "{tally}");
    }

    #[test]
    fn each_way_to_lose_a_request_is_counted() {
        let address = serve(|number, stream| {
            let text: &[u8] = match number % 3 {
                0 => b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
                1 => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
                _ => b"",
            };
            answer(stream, text);
        });
        let load = Load::start(address).unwrap();
        let tally = until(&load, |tally| tally.of(RequestOutcome::Failed) > 3 && tally.of(RequestOutcome::Broken) > 6);
        assert_eq!(tally.of(RequestOutcome::Ok), 0);
        drop(load);

        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = Load::start(gone).unwrap();
        let tally = until(&load, |tally| tally.of(RequestOutcome::Refused) > 10);
        assert_eq!(tally.total(), tally.of(RequestOutcome::Refused));
    }
}
