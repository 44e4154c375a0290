//! The requests of users that an instance serves: read from its metrics, and from what the logger counted of its access
//! log. The samples go to the event loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{sleep, timeout};

use super::sender::EventSender;
use crate::config::MetricsSource;
use crate::health::Signal;
use crate::live::metrics::{Own, PAGE_BYTES_MAX, Rules, Scrape};
use crate::live::{Sample, Source, TEMPLATES_MAX, Templates};
use crate::redact::{Redactor, Secrets};
use crate::runtime::fetch::{self, Answer};
use crate::runtime::logs::Log;
use crate::runtime::probe::Dial;
use crate::service::input::InstanceEvent;
use crate::time::{Timestamp, millis};

/// The pause between two looks at what the logger counted.
pub const COUNTS_PAUSE: Duration = Duration::from_millis(500);
/// What rei asks for: text first, because every library has it.
const ACCEPT: &str = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5, */*;q=0.1";
/// Pages up to this size, in bytes, are read in the event loop: that takes less than a millisecond.
const SMALL_BYTES: usize = 64 << 10;
/// The pause after a page is at least this many times as long as it took to read it, so that a large page uses a tenth
/// of a processor at most.
const REST: u32 = 9;

/// Reads the metrics of an instance, as long as it runs. `probes` is the number of rei's own requests by the HTTP probe.
pub async fn send_metrics(
    source: MetricsSource,
    rules: Rules,
    dial: Arc<impl Dial>,
    probes: Arc<AtomicU64>,
    sender: EventSender,
) {
    let (mut scrape, mut own, mut told) = (Scrape::new(rules), Own::default(), String::new());
    loop {
        let asked = Instant::now();
        let page = timeout(source.timeout, page(&source, &*dial, sender.slot.index())).await;
        let page = page.unwrap_or_else(|_| Err(format!("no answer within {:?}", source.timeout)));
        let read = Instant::now();
        match page {
            Ok(page) => {
                own.probes = probes.swap(0, Ordering::Relaxed);
                let Some((next, sample)) = taken(scrape, page, own).await else { return };
                scrape = next;
                // This request for the page is counted on the next one.
                own = Own { scrapes: 1, probes: 0 };
                if let Some(sample) = sample.filter(|sample| !sample.is_empty()) {
                    sender.send(InstanceEvent::Signal(Signal::Traffic(Source::Metrics, Box::new(sample)))).await;
                }
            }
            Err(why) => {
                own.scrapes += 1;
                scrape.failed(&why);
            }
        }
        if scrape.found() != told {
            scrape.found().clone_into(&mut told);
            sender.send(InstanceEvent::Found(Source::Metrics, told.clone())).await;
        }
        sleep(source.interval.saturating_sub(asked.elapsed()).max(read.elapsed() * REST)).await;
    }
}

/// The page, as the instance of a slot answers.
async fn page(source: &MetricsSource, dial: &impl Dial, slot: usize) -> Result<Answer, String> {
    let stream = dial.dial(&source.listen, slot).await.map_err(|error| format!("cannot connect: {error}"))?;
    let answer = fetch::get(stream, &source.path, ACCEPT, PAGE_BYTES_MAX).await?;
    if answer.status.is_success() { Ok(answer) } else { Err(format!("{} answers {}", source.path, answer.status)) }
}

/// Reads a page; a large one beside the event loop. `None` if the supervisor ends.
async fn taken(mut scrape: Scrape, page: Answer, own: Own) -> Option<(Scrape, Option<Sample>)> {
    let is_small = page.body.len() <= SMALL_BYTES;
    let take = move || {
        let sample = scrape.take(&page.body, page.is_cut, now(), own);
        (scrape, sample)
    };
    if is_small { Some(take()) } else { tokio::task::spawn_blocking(take).await.ok() }
}

fn now() -> Timestamp {
    Timestamp::from_unix_ms(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// Messages whose redaction is remembered, so that each is redacted once.
const CLEANED_MAX: usize = 4 * TEMPLATES_MAX;

/// What the access log of an instance had so far.
#[derive(Debug)]
pub struct AccessLog {
    secrets: Secrets,
    /// Messages of errors with their redacted form.
    cleaned: BTreeMap<String, String>,
    requests: bool,
    durations: bool,
    unread: bool,
    told: String,
}

impl AccessLog {
    /// Nothing was read yet. `secrets` are taken out of what the instance says.
    pub fn new(secrets: Secrets) -> Self {
        let (cleaned, told) = (BTreeMap::new(), String::new());
        Self { secrets, cleaned, requests: false, durations: false, unread: false, told }
    }

    /// The messages without secrets: they are stored and shown.
    fn clean(&mut self, errors: &Templates) -> Templates {
        let mut redactor = None;
        if self.cleaned.len() + TEMPLATES_MAX > CLEANED_MAX {
            self.cleaned.clear();
        }
        errors.cleaned(|message| {
            let known = self.cleaned.entry(message.to_owned());
            let secrets = &self.secrets;
            known.or_insert_with(|| redactor.get_or_insert_with(|| Redactor::knowing(secrets)).text(message)).clone()
        })
    }

    /// Sends what the logger counted since the last call.
    pub async fn send(&mut self, log: &Log, sender: &EventSender) {
        if let Some(mut sample) = log.take_counts() {
            sample.errors = self.clean(&sample.errors);
            let total = sample.total();
            self.requests |= total.total() > 0;
            self.durations |= !total.latencies.is_empty();
            self.unread |= sample.unread > 0;
            sender.send(InstanceEvent::Signal(Signal::Traffic(Source::Log, Box::new(sample)))).await;
        }
        let found = self.found();
        if log.is_counted() && found != self.told {
            self.told.clone_from(&found);
            sender.send(InstanceEvent::Found(Source::Log, found)).await;
        }
    }

    /// What was found and what was not, in one line for a person.
    fn found(&self) -> String {
        let requests = match (self.requests, self.unread) {
            (true, false) => "requests by the lines of the log",
            (true, true) => "requests by the lines of the log, of which some do not fit",
            (false, true) => "no requests: no line of the log fits",
            (false, false) => "no requests: no line was read yet",
        };
        let durations = match (self.requests, self.durations) {
            (_, true) => "; latency",
            (true, false) => "; no latency",
            (false, false) => "",
        };
        format!("{requests}{durations}")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::lifecycle::Slot;
    use crate::runtime::fetch::Stream;
    use crate::service::input::Input;

    struct Plain(std::net::SocketAddr);

    impl Dial for Plain {
        async fn dial(&self, _: &str, _: usize) -> io::Result<Box<dyn Stream>> {
            Ok(Box::new(TcpStream::connect(self.0).await?))
        }
    }

    /// Serves what `page` gives for the n-th request, and writes it until the client has enough.
    async fn served(page: impl Fn(u64) -> String + Send + 'static) -> Arc<Plain> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for n in 0.. {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let text = page(n);
                while stream.write_all(text.as_bytes()).await.is_ok() && text.ends_with("more\n") {}
            }
        });
        Arc::new(Plain(address))
    }

    fn started(dial: Arc<Plain>, timeout: Duration) -> (tokio::task::JoinHandle<()>, mpsc::Receiver<Input>) {
        let (inputs, received) = mpsc::channel(64);
        let sender = EventSender { slot: Slot::A, id: "1".into(), inputs };
        let source = MetricsSource {
            listen: "http".into(),
            path: "/metrics".into(),
            interval: Duration::from_millis(10),
            timeout,
            requests: None,
            failed: None,
            latency: None,
        };
        let rules = Rules { own_paths: vec!["/metrics".into()], ..Rules::default() };
        (tokio::spawn(send_metrics(source, rules, dial, Arc::default(), sender)), received)
    }

    #[tokio::test]
    async fn what_a_page_adds_is_sent_and_what_was_found_is_told_once() {
        let line =
            |path: &str, code: u16, n: u64| format!("http_requests_total{{path=\"{path}\",code=\"{code}\"}} {n}\n");
        let dial =
            served(move |n| [line("/a", 200, 10 * n), line("/a", 500, n), line("/metrics", 200, n)].concat()).await;
        let (task, mut received) = started(dial, Duration::from_secs(30));
        let (mut total, mut told) = (Sample::default(), Vec::new());
        while total.total().total() < 33 {
            match received.recv().await.unwrap() {
                Input::Instance { event: InstanceEvent::Signal(Signal::Traffic(Source::Metrics, sample)), .. } => {
                    total.merge(&sample)
                }
                Input::Instance { event: InstanceEvent::Found(Source::Metrics, text), .. } => told.push(text),
                other => panic!("{other:?}"),
            }
        }
        task.abort();
        assert_eq!((total.total().failed() * 11, total.routes().count()), (total.total().total(), 1));
        assert_eq!(told, ["requests by http_requests{code}; no latency"]);
    }

    #[tokio::test]
    async fn a_page_without_end_is_cut_or_given_up() {
        let next = async |received: &mut mpsc::Receiver<Input>| match received.recv().await.unwrap() {
            Input::Instance { event: InstanceEvent::Found(_, text), .. } => text,
            other => panic!("{other:?}"),
        };
        // It never stops sending.
        let line = "http_requests_total{code=\"200\"} 1\n# more\n".repeat(1_000);
        let (task, mut received) = started(served(move |_| line.clone()).await, Duration::from_secs(60));
        let found = next(&mut received).await;
        assert!(found.contains("too large"), "{found}");
        task.abort();
        // It never begins.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = Arc::new(Plain(silent.local_addr().unwrap()));
        let (task, mut received) = started(dial, Duration::from_millis(20));
        assert_eq!(next(&mut received).await, "cannot be read: no answer within 20ms");
        task.abort();
    }
}
