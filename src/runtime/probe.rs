//! Probes: check whether an instance answers. Each probe of `[health]` has its own interval and is limited in time and
//! size.
//!
//! Both slots share one address, so a probe cannot simply connect: it would reach the instance that gets the traffic.
//! [`Dial`] connects to the instance of one slot; the traffic module implements it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::fetch::{self, Stream};
use crate::command::Command;
use crate::config::{CommandProbe, Health, HttpProbe, TcpProbe};
use crate::report::chain;
use crate::time::{Timestamp, millis};

/// Maximum size of a probe's response body, in bytes; a health page is small.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Maximum length of a result's `detail` text, in bytes.
pub const DETAIL_BYTES_MAX: usize = 200;

/// The first pause between probes of an instance that has not answered yet. The pause grows up to the probe's interval.
/// So readiness is detected within milliseconds instead of one interval later.
const START_PAUSE: Duration = Duration::from_millis(5);

/// Connects to the instance of one slot, whether it has traffic or not.
pub trait Dial: Send + Sync + 'static {
    /// Connects to the listener of this name in slot `slot`.
    ///
    /// # Errors
    /// If no process accepts the connection.
    fn dial(&self, listener: &str, slot: usize) -> impl Future<Output = io::Result<Box<dyn Stream>>> + Send;
}

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// `http`, `tcp` or `command`.
    pub probe: &'static str,
    /// When the probe started.
    pub at: Timestamp,
    /// True if the answer was as required.
    pub ok: bool,
    /// True if there was no answer before the timeout.
    pub timed_out: bool,
    /// Time from the start to the answer, or to the failure, in microseconds.
    pub latency_us: u64,
    /// A text about the answer, for the operator.
    pub detail: String,
}

/// The instance to probe.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its slot: 0 or 1.
    pub slot: usize,
    /// The pid of its main process.
    pub pid: u32,
    /// The store path of its version.
    pub store_path: String,
}

/// Asks an instance if it serves: one variant for each kind of probe in rei.toml.
#[derive(Clone, Debug, PartialEq)]
pub enum Prober {
    /// `GET path` must return status 2xx or 3xx.
    Http(HttpProbe),
    /// A TCP connection must be accepted.
    Tcp(TcpProbe),
    /// A command must exit with 0.
    Command(CommandProbe),
}

/// The running probes of one instance. They stop when this is dropped.
pub struct Probes {
    _tasks: JoinSet<()>,
}

impl Probes {
    /// Starts the active probes of `[health]` (http, tcp and command; the other sources, `notify` and `interface`,
    /// report by themselves). Results are sent to `to`; while the channel is full, the probe waits and sends no
    /// requests.
    pub fn start(health: &Health, target: &Target, dial: &Arc<impl Dial>, to: &mpsc::Sender<ProbeResult>) -> Self {
        let mut tasks = JoinSet::new();
        for probe in Prober::all_of(health) {
            tasks.spawn(repeat(probe, target.clone(), dial.clone(), to.clone()));
        }
        Self { _tasks: tasks }
    }
}

async fn repeat(probe: Prober, target: Target, dial: Arc<impl Dial>, to: mpsc::Sender<ProbeResult>) {
    let mut start_pause = START_PAUSE;
    let mut has_answered = false;
    loop {
        let asked = Instant::now();
        let result = probe.ask(&target, &*dial).await;
        has_answered |= result.ok;
        if to.send(result).await.is_err() {
            return;
        }
        let pause = if has_answered { probe.interval() } else { start_pause.min(probe.interval()) };
        start_pause = (start_pause * 2).min(probe.interval());
        // The interval counts from start to start, so that slow answers do not reduce the number of samples.
        sleep(pause.saturating_sub(asked.elapsed()).max(START_PAUSE)).await;
    }
}

impl Prober {
    /// The active probes of `[health]`.
    pub fn all_of(health: &Health) -> Vec<Self> {
        let http = health.http.clone().map(Self::Http);
        let tcp = health.tcp.clone().map(Self::Tcp);
        let command = health.command.clone().map(Self::Command);
        http.into_iter().chain(tcp).chain(command).collect()
    }

    /// The name in results.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Command(_) => "command",
        }
    }

    fn interval(&self) -> Duration {
        match self {
            Self::Http(probe) => probe.interval,
            Self::Tcp(probe) => probe.interval,
            Self::Command(probe) => probe.interval,
        }
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::Http(probe) => probe.timeout,
            Self::Tcp(probe) => probe.timeout,
            Self::Command(probe) => probe.timeout,
        }
    }

    /// Runs the probe once.
    pub async fn ask(&self, target: &Target, dial: &impl Dial) -> ProbeResult {
        let (at, asked) = (now(), Instant::now());
        let answer = async {
            match self {
                Self::Http(probe) => ask_http(probe, target, dial).await,
                Self::Tcp(probe) => dial
                    .dial(&probe.listen, target.slot)
                    .await
                    .map(|_| "accepted".to_owned())
                    .map_err(|error| error.to_string()),
                Self::Command(probe) => ask_command(probe, target).await,
            }
        };
        let answer = timeout(self.timeout(), answer).await;
        let timed_out = answer.is_err();
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout())));
        ProbeResult {
            probe: self.name(),
            at,
            ok: answer.is_ok(),
            timed_out,
            latency_us: u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX),
            detail: cut(&answer.unwrap_or_else(|why| why)),
        }
    }
}

async fn ask_http(probe: &HttpProbe, target: &Target, dial: &impl Dial) -> Result<String, String> {
    let stream = dial.dial(&probe.listen, target.slot).await.map_err(|error| format!("cannot connect: {error}"))?;
    let answer = fetch::get(stream, &probe.path, "*/*", BODY_BYTES_MAX).await?;
    if answer.status.is_success() || answer.status.is_redirection() {
        return Ok(answer.status.to_string());
    }
    let text = String::from_utf8_lossy(&answer.body);
    Err(format!("{}: {}", answer.status, text.lines().next().unwrap_or_default()))
}

async fn ask_command(probe: &CommandProbe, target: &Target) -> Result<String, String> {
    let Some((program, args)) = probe.command.split_first() else { return Err("no command".into()) };
    let output = Command::new(program, probe.timeout)
        .args(args)
        .env("REI_SLOT_PID", target.pid.to_string())
        .env("REI_STORE_PATH", &target.store_path)
        .output_bytes_max(BODY_BYTES_MAX)
        // The command may run a program of the version that it probes.
        .no_new_privileges()
        .run()
        .await
        .map_err(|error| chain(&error))?;
    let last = |text: String| text.trim_end().lines().last().unwrap_or_default().to_owned();
    match (output.code, output.signal) {
        (Some(0), _) => Ok(last(output.stdout_text())),
        (Some(code), _) => Err(format!("exit code {code}: {}", last(output.stderr_text()))),
        (None, signal) => Err(format!("signal {}", signal.unwrap_or_default())),
    }
}

fn cut(text: &str) -> String {
    text.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= DETAIL_BYTES_MAX).then_some(c)
        })
        .collect()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(millis(since))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Slot n is the address with index n.
    struct Plain(Vec<SocketAddr>);

    impl Dial for Plain {
        async fn dial(&self, _: &str, slot: usize) -> io::Result<Box<dyn Stream>> {
            Ok(Box::new(TcpStream::connect(self.0[slot]).await?))
        }
    }

    /// Answers each connection with the given bytes, and closes it.
    async fn server(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(&answer).await;
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        address
    }

    fn http() -> Prober {
        Prober::Http(HttpProbe {
            listen: "http".into(),
            path: "/healthz".into(),
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(500),
        })
    }

    fn target(slot: usize) -> Target {
        Target { slot, pid: 42, store_path: "/nix/store/x".into() }
    }

    #[tokio::test]
    async fn an_http_answer_is_judged_by_its_status() {
        let big = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        let cases: Vec<(Vec<u8>, bool, &str)> = vec![
            (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), true, "204 No Content"),
            (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(), true, "302 Found"),
            (b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nbusy".to_vec(), false, "503 Service Unavailable: busy"),
            (big, true, "200 OK"),
            (b"SSH-2.0-OpenSSH\r\n".to_vec(), false, "no HTTP answer: invalid HTTP version parsed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx".to_vec(), false, "200 OK, but the body is incomplete"),
            (Vec::new(), false, "no answer within 500ms"),
        ];
        let dial = Plain(futures(cases.iter().map(|(answer, ..)| server(answer.clone()))).await);
        for (slot, (_, ok, detail)) in cases.iter().enumerate() {
            let result = http().ask(&target(slot), &dial).await;
            assert_eq!(result.ok, *ok, "{result:?}");
            assert!(result.detail.starts_with(detail), "{result:?}");
            assert!(result.latency_us > 0 && result.at.as_unix_ms() > 1_600_000_000_000);
        }
    }

    async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let mut done = Vec::new();
        for one in all {
            done.push(one.await);
        }
        done
    }

    #[tokio::test]
    async fn an_accepted_connection_is_enough_for_tcp() {
        let open = server(Vec::new()).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let dial = Plain(vec![open, closed]);
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_secs(5));
        let probe = Prober::Tcp(TcpProbe { listen: "x".into(), interval, timeout });
        assert!(probe.ask(&target(0), &dial).await.ok);
        let refused = probe.ask(&target(1), &dial).await;
        assert!(!refused.ok && refused.detail.contains("refused"), "{refused:?}");
    }

    #[tokio::test]
    async fn a_command_is_judged_by_its_exit_and_knows_the_instance() {
        let ask = async |script: &str, timeout| {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            let probe = Prober::Command(CommandProbe { command, interval: timeout, timeout });
            let result = probe.ask(&target(0), &Plain(Vec::new())).await;
            (result.ok, result.detail)
        };
        let long = Duration::from_secs(10);
        assert_eq!(ask("echo $REI_SLOT_PID $REI_STORE_PATH", long).await, (true, "42 /nix/store/x".into()));
        assert_eq!(ask("echo no >&2; exit 3", long).await, (false, "exit code 3: no".into()));
        assert_eq!(ask("kill -9 $$", long).await, (false, "signal 9".into()));
        assert!(!ask("sleep 60", Duration::from_millis(50)).await.0);
    }

    #[tokio::test]
    async fn probes_start_with_short_pauses_and_run_until_dropped() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let dial = Arc::new(Plain(vec![closed, server(answer).await]));
        let Prober::Http(probe) = http() else { unreachable!() };
        let health =
            Health { http: Some(HttpProbe { interval: Duration::from_secs(3600), ..probe }), ..Health::default() };
        let (to, mut results) = mpsc::channel(4);
        // The interval is one hour, so a second result can only come from the short pauses at the start.
        let probes = Probes::start(&health, &target(0), &dial, &to);
        for _ in 0..3 {
            assert!(!results.recv().await.unwrap().ok);
        }
        drop(probes);
        let _probes = Probes::start(&health, &target(1), &dial, &to);
        drop(to);
        while !results.recv().await.unwrap().ok {}
    }
}
