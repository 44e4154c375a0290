//! The shadow of a candidate: what users ask Active is asked once more of Active and of the candidate, beside the loop.
//!
//! No user waits for it. The queue, the number of requests at a time, every answer and every wait are bounded. rei's requests
//! have the user's own headers, and reach the instance of their slot as probes do, so no tap sees them. Metrics and log
//! count them as requests of users; [`Shadow::take_out_own`] takes them out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::sync::{AbortOnDrop, lock};
use crate::config;
use crate::golden::{Asked, Captured, EXCHANGES_FEW, ROUNDS_ENOUGH, Reply, Round, ShadowTrial};
use crate::health::Analysis;
use crate::http::{self, Address, Extent, Request};
use crate::interface::types::Verdict;
use crate::lifecycle::Slot;
use crate::live::{Class, Own, ROUTES_MAX, Recent, Route, Sample, Source};
use crate::redact::Secrets;
use crate::runtime::probe::Dial;
use crate::tap::Capture;
use crate::time::millis;

/// The largest body that is compared, in bytes. The answer of a user that is larger is not captured, and a larger answer of
/// the candidate is a difference.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Exchanges a second that are captured, at most. Each is asked once of both versions, so this bounds what the shadow costs
/// whatever the load is.
const PER_SECOND_MAX: u32 = 20;
/// Exchanges that wait to be asked. More are not taken: those that wait are as good.
const QUEUE_MAX: usize = 64;
/// The bodies of exchanges that wait, in bytes.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Exchanges that are asked at a time: a service with two processors still has one for its users.
const WORKERS: usize = 2;
/// The first requests of a route are asked in any case, so that a rare route is asked too.
const FIRST_OF_ROUTE: u64 = 3;
/// After the first rounds there is a pause before both are asked again. It is longer than a second, so that a clock in an
/// answer shows itself. Later rounds only show that the difference is no chance.
const PAUSES: usize = 2;
const ROUND_PAUSE: Duration = Duration::from_millis(1_100);
/// An answer may take this many times as long as the user's, but at least and at most so long: durations are not judged here.
const PATIENCE: u32 = 10;
const TIMEOUT_MIN: Duration = Duration::from_secs(2);
const TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// A source counts a request within this time. Later, what it did not count is forgotten.
const OWED_MAX: Duration = Duration::from_secs(15);
/// The shadow that is under way, and what rei asked in the last one.
#[derive(Default)]
pub struct ShadowWatch {
    current: Option<Shadow>,
    own: Arc<Mutex<OwnRequests>>,
    ended: Option<Instant>,
}

/// rei's own requests by slot and source.
#[derive(Debug, Default)]
struct OwnRequests([[Own; 2]; 2]);

/// The sources that cannot tell rei's requests from those of users.
const COUNTING: [Source; 2] = [Source::Metrics, Source::Log];

impl OwnRequests {
    fn add(&mut self, slot: Slot, route: &Route, class: Class) {
        for own in &mut self.0[slot.index()] {
            own.add(route.clone(), class);
        }
    }

    fn take_out_of(&mut self, slot: Slot, source: Source, sample: &mut Sample) {
        if let Some(index) = COUNTING.iter().position(|counting| *counting == source) {
            self.0[slot.index()][index].take_out_of(sample);
        }
    }
}

/// The shadow of one candidate.
pub struct Shadow {
    candidate: Slot,
    plan: Plan,
    /// The exchanges that are to be expected.
    expected: f64,
    queue: mpsc::Sender<Captured>,
    shared: Arc<Shared>,
    /// What was taken, by route.
    taken: BTreeMap<Route, u64>,
    seed: u64,
    _workers: Vec<AbortOnDrop<()>>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    share: f64,
    for_ms: u64,
    routes: Vec<Route>,
    except: Vec<Route>,
}

impl Plan {
    /// The plan of a configuration.
    pub fn of(shadow: &config::Shadow) -> Self {
        let route = |text: &String| {
            let (method, path) = text.split_once(' ').unwrap_or(("", text));
            Route::of_request(method, path)
        };
        Self {
            share: shadow.share,
            for_ms: millis(shadow.r#for),
            routes: shadow.routes.iter().map(route).collect(),
            except: shadow.except.iter().map(route).collect(),
        }
    }

    /// Whether the requests of a route may be asked once more.
    fn allows(&self, route: &Route) -> bool {
        let method = route.name().split(' ').next().unwrap_or_default();
        (matches!(method, "GET" | "HEAD") || self.routes.contains(route)) && !self.except.contains(route)
    }

    /// The methods of the exchanges that are captured.
    fn methods(&self) -> Vec<String> {
        let others = self.routes.iter().filter_map(|route| route.name().split(' ').next());
        let mut methods: Vec<String> = ["GET", "HEAD"].into_iter().chain(others).map(str::to_owned).collect();
        methods.sort();
        methods.dedup();
        methods
    }

    /// How many exchanges are to be expected, if users asked this before.
    fn expected(&self, before: &Recent) -> f64 {
        let one = |count: u64| {
            let all = count as f64 * self.for_ms as f64 / before.span_ms.max(self.for_ms).max(1) as f64;
            (all * self.share).max(all.min(FIRST_OF_ROUTE as f64))
        };
        before.sample.routes().filter(|(route, _)| self.allows(route)).map(|(_, counts)| one(counts.total())).sum()
    }
}

/// What the comparison says so far.
#[derive(Debug, Default)]
struct Seen {
    compared: u64,
    summary: String,
    failure: Option<String>,
}

/// What the loop and the workers share.
struct Shared {
    /// Only the workers lock it, as a comparison takes a while.
    trial: Mutex<ShadowTrial>,
    seen: Mutex<Seen>,
    own: Arc<Mutex<OwnRequests>>,
    candidate: Slot,
    /// Exchanges that wait or are asked, and the bytes of those that wait.
    pending: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Exchanges that were begun.
    exchanges: AtomicUsize,
    /// Whether no more exchanges are taken.
    is_closed: AtomicBool,
}

impl ShadowWatch {
    /// Begins the shadow of the candidate in a slot. `before` is what the tap saw of Active's users. Returns
    /// what the tap is to copy of them.
    pub fn begin(
        &mut self,
        candidate: Slot,
        plan: &config::Shadow,
        before: &Recent,
        dial: impl Dial + Clone,
        secrets: Secrets,
    ) -> Capture {
        *lock(&self.own) = OwnRequests::default();
        self.ended = None;
        let plan = Plan::of(plan);
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let trial = ShadowTrial::new(secrets);
        let seen = Seen { summary: trial.summary(), ..Seen::default() };
        let shared = Arc::new(Shared {
            trial: Mutex::new(trial),
            seen: Mutex::new(seen),
            own: Arc::clone(&self.own),
            candidate,
            pending: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        });
        let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
        let worker = |_| AbortOnDrop(tokio::spawn(work(Arc::clone(&shared), Arc::clone(&jobs), dial.clone())));
        let workers = (0..WORKERS).map(worker).collect();
        let expected = plan.expected(before);
        let order = Capture {
            per_second: PER_SECOND_MAX,
            methods: Some(plan.methods()),
            body_bytes_max: BODY_BYTES_MAX,
            events_max: 0,
        };
        self.current = Some(Shadow {
            candidate,
            plan,
            expected,
            queue,
            shared,
            taken: BTreeMap::new(),
            seed: 1,
            _workers: workers,
        });
        order
    }

    /// Ends the shadow. Requests that are under way are given up.
    pub fn end(&mut self) {
        if self.current.take().is_some() {
            self.ended = Some(Instant::now());
        }
    }

    /// What was compared so far, for a person.
    pub fn summary(&self) -> Option<String> {
        self.current.as_ref().map(|shadow| lock(&shadow.shared.seen).summary.clone())
    }

    /// Whether a candidate is asked.
    pub fn is_under_way(&self) -> bool {
        self.current.is_some()
    }

    /// The shadow that is under way.
    pub fn current(&mut self) -> Option<&mut Shadow> {
        self.current.as_mut()
    }

    /// Takes rei's own requests out of what a source counted as requests of users.
    pub fn take_out_own(&mut self, slot: Slot, source: Source, sample: &mut Sample) {
        if self.ended.is_some_and(|ended| ended.elapsed() > OWED_MAX) {
            *lock(&self.own) = OwnRequests::default();
            self.ended = None;
        }
        if self.current.is_some() || self.ended.is_some() {
            lock(&self.own).take_out_of(slot, source, sample);
        }
    }
}

impl Shadow {
    /// Offers an exchange of a user. `seen` is the part of all exchanges that is offered. It is dropped if it may not be asked
    /// again, if others are enough, or if too many wait.
    pub fn offer(&mut self, slot: Slot, exchange: Captured, seen: f64) {
        let route = Route::of_request(&exchange.request.method, &exchange.request.path);
        let is_active = slot == self.candidate.other();
        if !is_active || !self.plan.allows(&route) || !is_repeatable(&exchange) || !self.chooses(&route, seen) {
            return;
        }
        let bytes = exchange.bytes();
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if self.shared.is_closed.load(Ordering::Relaxed) || waiting + bytes > QUEUE_BYTES_MAX {
            return;
        }
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.queue.try_send(exchange).is_err() {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        if self.taken.contains_key(&route) || self.taken.len() < ROUTES_MAX {
            *self.taken.entry(route).or_default() += 1;
        }
    }

    /// Whether an exchange is one of the sample.
    fn chooses(&mut self, route: &Route, seen: f64) -> bool {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let drawn = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        let taken = self.taken.get(route).copied();
        let is_first = taken.map_or(self.taken.len() < ROUTES_MAX, |taken| taken < FIRST_OF_ROUTE);
        is_first || drawn * seen.clamp(f64::MIN_POSITIVE, 1.0) < self.plan.share
    }

    /// Why the candidate is degraded, if it is.
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared.seen).failure.clone()
    }

    /// The judgement, when the time of the shadow is over.
    pub fn judge(&self) -> Analysis {
        let (compared, summary, failure) = {
            let seen = lock(&self.shared.seen);
            (seen.compared, seen.summary.clone(), seen.failure.clone())
        };
        if let Some(failure) = failure {
            return Analysis { verdict: Verdict::Fail, reasons: vec![failure], waits_for: None };
        }
        let pending = self.shared.pending.load(Ordering::Relaxed) as u64;
        let (is_quiet, enough) = (self.expected < EXCHANGES_FEW as f64, ShadowTrial::enough(self.expected));
        if is_quiet || compared + pending >= enough {
            // Others are not needed. Those that are asked now may show a difference.
            self.shared.is_closed.store(true, Ordering::Relaxed);
        }
        if pending > 0 && (is_quiet || compared + pending >= enough) {
            let waits_for = Some(format!("the answers of both versions to {pending} more exchanges"));
            return Analysis { verdict: Verdict::Inconclusive, reasons: vec![summary], waits_for };
        }
        if compared >= enough {
            return Analysis { verdict: Verdict::Pass, reasons: vec![summary], waits_for: None };
        }
        if is_quiet {
            let reason =
                format!("{summary}: users ask too little that may be asked once more, so the shadow says little");
            return Analysis { verdict: Verdict::Pass, reasons: vec![reason], waits_for: None };
        }
        let waits_for = Some(format!("{} more exchanges of users to ask once more", enough - compared));
        Analysis { verdict: Verdict::Inconclusive, reasons: vec![summary], waits_for }
    }
}

/// Whether the request of an exchange can be asked again so that the answers can be compared.
fn is_repeatable(exchange: &Captured) -> bool {
    // "Not modified" says what the client has; a switch of protocols and a stream of events have no end.
    let is_whole = exchange.events.is_none() && !matches!(exchange.response.status, 100..=199 | 304);
    let is_small = exchange.response.body.len() <= BODY_BYTES_MAX && exchange.request.body.len() <= BODY_BYTES_MAX;
    let is_upgrade = exchange.request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
    is_whole && is_small && !is_upgrade
}

/// Asks one exchange after the other, until the shadow ends.
async fn work(shared: Arc<Shared>, jobs: Arc<tokio::sync::Mutex<mpsc::Receiver<Captured>>>, dial: impl Dial) {
    loop {
        let Some(exchange) = jobs.lock().await.recv().await else { return };
        shared.waiting_bytes.fetch_sub(exchange.bytes(), Ordering::Relaxed);
        shared.ask(exchange, &dial).await;
        shared.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Asks both versions, and again as long as the candidate's answers differ from all of Active's.
    async fn ask(self: &Arc<Self>, exchange: Captured, dial: &impl Dial) {
        let request = repeated(&exchange.request);
        let timeout = (exchange.duration * PATIENCE).clamp(TIMEOUT_MIN, TIMEOUT_MAX);
        let listener = exchange.listener.clone();
        let mut asked = Asked::new(exchange);
        // The first to be asked alternates, in the rounds of an exchange too.
        let begins = self.exchanges.fetch_add(1, Ordering::Relaxed);
        while asked.rounds < ROUNDS_ENOUGH {
            let begun = Instant::now();
            let is_actives = (begins + asked.rounds).is_multiple_of(2);
            let first = if is_actives { self.candidate.other() } else { self.candidate };
            let replies = [
                self.send(dial, &listener, first, &request, timeout).await,
                self.send(dial, &listener, first.other(), &request, timeout).await,
            ];
            let [active, candidate] = if is_actives {
                replies
            } else {
                let [candidate, active] = replies;
                [active, candidate]
            };
            asked.push(Round { active, candidate });
            let shared = Arc::clone(self);
            // Large bodies take longer than the loop may wait. A panic is already logged, and the exchange says nothing then.
            let compared = tokio::task::spawn_blocking(move || {
                let again = shared.compare(&mut asked);
                (asked, again)
            });
            let Ok((compared, true)) = compared.await else { return };
            asked = compared;
            if asked.rounds <= PAUSES {
                tokio::time::sleep(ROUND_PAUSE.saturating_sub(begun.elapsed())).await;
            }
        }
    }

    /// Compares the answers of the last round. Returns whether both are to be asked again.
    fn compare(&self, asked: &mut Asked) -> bool {
        let mut trial = lock(&self.trial);
        let again = trial.add(asked);
        let failure = trial.failure().map(str::to_owned);
        *lock(&self.seen) = Seen { compared: trial.compared(), summary: trial.summary(), failure };
        again
    }

    /// Asks the instance of a slot once.
    async fn send(&self, dial: &impl Dial, listener: &str, slot: Slot, request: &Request, timeout: Duration) -> Reply {
        let reply = send(dial, listener, slot, request, timeout).await;
        if let Reply::Answer(response) = &reply
            && let Some(class) = Class::of_status(response.status)
        {
            lock(&self.own).add(slot, &Route::of_request(&request.method, &request.path), class);
        }
        reply
    }
}

/// The request as it is asked again. The headers of the user's connection were taken out when the copy became plain.
fn repeated(request: &Request) -> Request {
    let is_repeated = |(name, _): &&(String, String)| !name.eq_ignore_ascii_case("transfer-encoding");
    Request { headers: request.headers.iter().filter(is_repeated).cloned().collect(), ..request.clone() }
}

/// Asks the instance of a slot once.
async fn send(dial: &impl Dial, listener: &str, slot: Slot, request: &Request, timeout: Duration) -> Reply {
    let exchange = async {
        let stream = dial.dial(listener, slot.index()).await.map_err(|error| format!("cannot connect: {error}"))?;
        // Only names a host if the request does not.
        let address = Address::Unix(std::path::PathBuf::new());
        http::send_on(stream, &address, request, Extent::whole(BODY_BYTES_MAX)).await.map_err(|error| match error {
            http::Error::TooLarge { max, .. } => format!("a body of more than {max} bytes"),
            http::Error::Exchange { source, .. } => source.to_string(),
            // The others name the request, which may have secrets.
            _ => "the request cannot be sent".to_owned(),
        })
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(response)) => Reply::Answer(response),
        Ok(Err(why)) => Reply::Nothing(why),
        Err(_) => Reply::Nothing(format!("none within {} s", timeout.as_secs())),
    }
}
