//! Control, boot, golden and reproduction.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Infrastructure;
use super::instance::Instance;
use super::job::{Job, Subject};
use super::ready::ready;
use crate::golden::{self, Answer, Divergence, Exchange, Facets, GoldenRun, Noise, Normalisers};
use crate::interface::types::Verdict;
use crate::time::millis;
use crate::validation::checks::{Kind, TRIES};

/// How often Active is started again in one run: its own crashes must not hide the noise of what follows.
const ACTIVE_RESTARTS_MAX: u64 = 3;

/// Divergent exchanges after which a candidate is not asked further: a report names the first, and a candidate that
/// answers nothing must not use up the time of the check.
const DIVERGENT_MAX: usize = 5;

/// How long an answer may still come from a process that has ended: what it wrote before is on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long after the last answer the instance must still run: a crash may come after the answer, and so may the end of
/// a process that has left a child to serve.
const AFTERMATH: Duration = Duration::from_millis(300);

/// What a check found.
#[derive(Debug)]
pub(crate) struct Word {
    pub verdict: Verdict,
    pub summary: String,
    pub details: Vec<String>,
    pub figures: BTreeMap<String, u64>,
}

impl Word {
    fn new(verdict: Verdict, summary: impl Into<String>) -> Self {
        Self { verdict, summary: summary.into(), details: Vec::new(), figures: BTreeMap::new() }
    }

    fn details(mut self, details: Vec<String>) -> Self {
        self.details.extend(details);
        self
    }

    fn figure(mut self, name: &str, value: u64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }
}

/// Does what the job asks.
pub(crate) async fn judge(job: &Job) -> Result<Word, Infrastructure> {
    no_network()?;
    match job.spec.kind {
        Kind::Control => Ok(Word::new(Verdict::Pass, "a sandboxed build works on this machine")),
        Kind::Boot => boot(job).await,
        Kind::Golden => replay_golden(job).await,
        Kind::Reproduction => reproduce(job).await,
    }
}

/// Refuses a place from which an address of the world is reachable. Nothing is sent: UDP connects by routing alone.
fn no_network() -> Result<(), Infrastructure> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(Infrastructure::system("open a socket"))?;
    match socket.connect("192.0.2.1:9") {
        Ok(()) => Err(Infrastructure::Network),
        Err(_) => Ok(()),
    }
}

fn needed<'a, T>(value: &'a Option<T>, name: &'static str) -> Result<&'a T, Infrastructure> {
    value.as_ref().ok_or(Infrastructure::Attribute { name, reason: "it is missing".into() })
}

async fn boot(job: &Job) -> Result<Word, Infrastructure> {
    let spec = &job.spec.instance;
    let mut instance = match Instance::start(spec, needed(&job.candidate, "candidate")?, &job.top)? {
        Ok(instance) => instance,
        Err(reason) => return Ok(Word::new(Verdict::Fail, format!("it does not start: {reason}"))),
    };
    let took = match ready(&mut instance, spec).await {
        Ok(took) => took,
        Err(reason) => return Ok(Word::new(Verdict::Fail, reason).details(instance.tail().await)),
    };
    if let Ok(how) = tokio::time::timeout(AFTERMATH, instance.end()).await {
        let word = Word::new(Verdict::Fail, format!("ready after {} ms, it {how}", millis(took)));
        return Ok(word.details(instance.tail().await).figure("ready_ms", millis(took)));
    }
    let signal = instance.stop_signal();
    let word = match instance.stop().await {
        None => Word::new(Verdict::Fail, format!("it did not stop within {} ms of {signal}", spec.stop_timeout_ms)),
        Some((how, _)) if how.contains("by signal") && !how.contains(signal.as_str()) => {
            Word::new(Verdict::Fail, format!("asked to finish, it {how}"))
        }
        Some((how, stopped)) => {
            let summary = format!("ready after {} ms; on {signal} it {how} after {} ms", millis(took), millis(stopped));
            Word::new(Verdict::Pass, summary).figure("stop_ms", millis(stopped))
        }
    };
    let details = if word.verdict == Verdict::Pass { Vec::new() } else { instance.tail().await };
    Ok(word.details(details).figure("ready_ms", millis(took)))
}

/// What one start of a version answered to a run.
struct Round {
    /// One for each exchange that was asked.
    answers: Vec<Answer>,
    /// Why the rest was not asked.
    cut: Option<String>,
    /// How often its process ended by itself.
    deaths: Vec<String>,
    /// The end of what it printed.
    tail: Vec<String>,
}

/// What a round may cost.
struct Bounds<'a> {
    job: &'a Job,
    restarts_max: u64,
    /// How long it must still run after its last answer.
    aftermath: Duration,
    /// Says of an answer whether it is bad; a round with too many of those is cut.
    bad: &'a dyn Fn(usize, &Answer) -> bool,
}

/// Starts a version and asks it the exchanges in order.
async fn round(subject: &Subject, run: &GoldenRun, bounds: &Bounds<'_>) -> Result<Round, Infrastructure> {
    let spec = &bounds.job.spec;
    let mut told = Round { answers: Vec::new(), cut: None, deaths: Vec::new(), tail: Vec::new() };
    let mut bad = 0;
    'start: loop {
        let mut instance = match Instance::start(&spec.instance, subject, &bounds.job.top)? {
            Ok(instance) => instance,
            Err(reason) => {
                told.cut = Some(format!("it does not start: {reason}"));
                return Ok(told);
            }
        };
        if let Err(reason) = ready(&mut instance, &spec.instance).await {
            (told.cut, told.tail) = (Some(reason), instance.tail().await);
            return Ok(told);
        }
        while let Some(exchange) = run.exchanges.get(told.answers.len()) {
            if Instant::now() >= bounds.job.deadline {
                told.cut = Some(format!("it did not finish the run within {} ms", spec.timeout_ms));
                return Ok(told);
            }
            let answer = ask(&mut instance, exchange, &run.header.listener, spec.request_timeout_ms).await;
            bad += usize::from((bounds.bad)(told.answers.len(), &answer));
            told.answers.push(answer);
            if let Some(how) = instance.ended().map(str::to_owned) {
                told.tail = instance.tail().await;
                told.deaths.push(how.clone());
                if told.deaths.len() as u64 > bounds.restarts_max {
                    told.cut = Some(format!("it {how}"));
                    return Ok(told);
                }
                continue 'start;
            }
            if bad == DIVERGENT_MAX {
                told.cut = Some(format!("after {DIVERGENT_MAX} bad answers it was asked no more"));
                break;
            }
        }
        if told.cut.is_none()
            && let Ok(how) = tokio::time::timeout(bounds.aftermath, instance.end()).await
        {
            told.cut = Some(format!("it {how}"));
        }
        told.tail = instance.tail().await;
        return Ok(told);
    }
}

/// One answer; where the process ends first, its end is the answer.
async fn ask(instance: &mut Instance, exchange: &Exchange, listener: &str, timeout_ms: u64) -> Answer {
    let begun = Instant::now();
    let Some(address) = instance.listener(listener).and_then(|listener| listener.address.clone()) else {
        let response = Err(format!("there is no listener {listener:?} to ask"));
        return Answer { response, took: begun.elapsed() };
    };
    let answer = golden::replay(&address, exchange, Duration::from_millis(timeout_ms));
    tokio::pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => Some(answer),
        _how = instance.end() => tokio::time::timeout(LAST_WORDS, answer).await.ok(),
    };
    match answer {
        Some(answer) if answer.response.is_ok() => answer,
        // A broken connection is seen before the end of the process that broke it; the end tells more.
        other => match (tokio::time::timeout(LAST_WORDS, instance.end()).await, other) {
            (Err(_), Some(answer)) => answer,
            (Ok(how), _) => {
                Answer { response: Err(format!("its process {how} before it answered")), took: begun.elapsed() }
            }
            (Err(_), None) => Answer { response: Err("it gave no answer".into()), took: begun.elapsed() },
        },
    }
}

fn read_run(path: &Path) -> Result<(GoldenRun, Normalisers), Infrastructure> {
    let run = golden::read(path).map_err(Infrastructure::Golden)?;
    let compiled = Normalisers::compile(&run.header.normalisers);
    let rules = compiled.map_err(|reason| Infrastructure::Attribute { name: "golden", reason })?;
    Ok((run, rules))
}

/// How an answer differs from what is good; empty where it does not.
fn divergences(exchange: &Exchange, answer: &Answer, noise: &Noise, rules: &Normalisers) -> Vec<Divergence> {
    let no = |at: &str, recorded: Option<String>, answered: &str| {
        vec![Divergence { at: at.to_owned(), recorded, answered: Some(answered.to_owned()) }]
    };
    match (&exchange.response, &answer.response) {
        (_, Err(reason)) => no("answer", Some("an answer".into()), reason),
        (None, Ok(response)) if response.status >= 500 => {
            no("status", Some("below 500".into()), &response.status.to_string())
        }
        (None, Ok(_)) => Vec::new(),
        (Some(expected), Ok(response)) => {
            let (expected, given) = (Facets::of_expected(expected, rules), Facets::of_response(response, rules));
            golden::compare(&expected, &given, noise, rules)
        }
    }
}

fn name(run: &GoldenRun, index: usize) -> String {
    let asked =
        run.exchanges.get(index).map(|exchange| format!("{} {}", exchange.request.method, exchange.request.path));
    format!("exchange {} of {}, {}", index + 1, run.exchanges.len(), asked.unwrap_or_default())
}

async fn replay_golden(job: &Job) -> Result<Word, Infrastructure> {
    let (run, rules) = read_run(needed(&job.golden, "golden")?)?;
    let (candidate, active) = (needed(&job.candidate, "candidate")?, needed(&job.active, "active")?);
    let (noises, remarks) = listen_for_noise(job, active, &run, &rules).await?;
    let silent = Noise::none();
    let noise = |index: usize| noises.get(index).unwrap_or(&silent);
    let differs = |index: usize, answer: &Answer| match run.exchanges.get(index) {
        Some(exchange) => divergences(exchange, answer, noise(index), &rules),
        None => Vec::new(),
    };
    let bad = |index: usize, answer: &Answer| !differs(index, answer).is_empty();
    let told = round(candidate, &run, &Bounds { job, restarts_max: 0, aftermath: AFTERMATH, bad: &bad }).await?;
    let mut details = Vec::new();
    let mut first = None;
    for (index, answer) in told.answers.iter().enumerate() {
        let found = differs(index, answer);
        let Some(divergence) = found.first() else { continue };
        if first.is_none() {
            first = Some(format!("{}: {divergence}", name(&run, index)));
            if let (Some(Exchange { response: Some(good), .. }), Ok(given)) =
                (run.exchanges.get(index), &answer.response)
            {
                let (good, given) = (Facets::of_expected(good, &rules), Facets::of_response(given, &rules));
                details.extend(golden::diff(&good, &given, noise(index), &rules));
            }
        }
        details.extend(found.iter().take(DIVERGENT_MAX).map(|one| format!("{}: {one}", name(&run, index))));
    }
    let all = run.exchanges.len();
    let word = match (first, told.cut) {
        (Some(first), _) => Word::new(Verdict::Fail, first).details(details).details(remarks).details(told.tail),
        // A process that ends after its last good answer has not served the run.
        (None, Some(cut)) => {
            let summary = format!("after {} of {all} exchanges: {cut}", told.answers.len());
            Word::new(Verdict::Fail, summary).details(remarks).details(told.tail)
        }
        (None, None) if all == 0 => Word::new(Verdict::Inconclusive, "the run holds no exchanges"),
        (None, None) => {
            Word::new(Verdict::Pass, format!("{all} of {all} exchanges are answered as recorded")).details(remarks)
        }
    };
    Ok(word.figure("exchanges", all as u64).figure("answered", told.answers.len() as u64))
}

/// Two runs of Active: what differs between them, exchange by exchange, and what a person should know about them.
async fn listen_for_noise(
    job: &Job,
    active: &Subject,
    run: &GoldenRun,
    rules: &Normalisers,
) -> Result<(Vec<Noise>, Vec<String>), Infrastructure> {
    let bounds = Bounds { job, restarts_max: ACTIVE_RESTARTS_MAX, aftermath: Duration::ZERO, bad: &|_, _| false };
    let (one, two) = (round(active, run, &bounds).await?, round(active, run, &bounds).await?);
    if Instant::now() >= job.deadline {
        return Err(Infrastructure::ActiveTooSlow);
    }
    let mut remarks = Vec::new();
    if let Some(cut) = one.cut.as_ref().or(two.cut.as_ref()) {
        remarks.push(format!("Active: {cut}; where it gave no two answers, nothing was taken as noise"));
    }
    let mut noises = Vec::new();
    for (index, exchange) in run.exchanges.iter().enumerate() {
        let answer = |told: &Round| told.answers.get(index).and_then(|answer| answer.response.clone().ok());
        let (Some(first), Some(second)) = (answer(&one), answer(&two)) else {
            noises.push(Noise::none());
            continue;
        };
        let (first, second) = (Facets::of_response(&first, rules), Facets::of_response(&second, rules));
        let noise = Noise::between(first.clone(), second);
        if let Some(expected) = &exchange.response {
            let found = golden::compare(&Facets::of_expected(expected, rules), &first, &noise, rules);
            if let Some(found) = found.first() {
                remarks.push(format!("{}: Active itself does not answer as recorded: {found}", name(run, index)));
            }
        }
        noises.push(noise);
    }
    Ok((noises, remarks))
}

/// Whether one try of an incident's exchanges failed, and how.
async fn fails(
    job: &Job,
    subject: &Subject,
    run: &GoldenRun,
    rules: &Normalisers,
) -> Result<Option<String>, Infrastructure> {
    let silent = Noise::none();
    let differs = |index: usize, answer: &Answer| match run.exchanges.get(index) {
        Some(exchange) => divergences(exchange, answer, &silent, rules),
        None => Vec::new(),
    };
    let bad = |index: usize, answer: &Answer| !differs(index, answer).is_empty();
    let told = round(subject, run, &Bounds { job, restarts_max: 0, aftermath: AFTERMATH, bad: &bad }).await?;
    for (index, answer) in told.answers.iter().enumerate() {
        if let Some(found) = differs(index, answer).first() {
            return Ok(Some(format!("{}: {found}", name(run, index))));
        }
    }
    Ok(told.cut)
}

async fn reproduce(job: &Job) -> Result<Word, Infrastructure> {
    let (run, rules) = read_run(needed(&job.golden, "golden")?)?;
    let active = needed(&job.active, "active")?;
    if run.exchanges.is_empty() {
        return Ok(Word::new(Verdict::Inconclusive, "no exchanges were recorded before the incident"));
    }
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        seen.extend(fails(job, active, &run, &rules).await?);
    }
    let failures = seen.len() as u64;
    let counted = |word: Word| word.figure("tries", TRIES).figure("failures", failures);
    let Some(how) = seen.first().cloned() else {
        let summary = format!("Active answered the incident's exchanges {TRIES} times without failing");
        return Ok(counted(Word::new(Verdict::Inconclusive, summary)));
    };
    let on_active = format!("on Active, {failures} of {TRIES} tries failed: {how}");
    let Some(candidate) = &job.candidate else {
        let verdict = if failures == TRIES { Verdict::Pass } else { Verdict::Inconclusive };
        return Ok(counted(Word::new(verdict, on_active)));
    };
    for _ in 0..TRIES {
        if let Some(how) = fails(job, candidate, &run, &rules).await? {
            return Ok(counted(Word::new(Verdict::Fail, format!("it still fails: {how}")).details(vec![on_active])));
        }
    }
    let word = if failures == TRIES {
        Word::new(Verdict::Pass, format!("what failed on Active {TRIES} of {TRIES} times passes {TRIES} times"))
    } else {
        let summary = format!("it passes {TRIES} times, but on Active only {failures} of {TRIES} tries failed");
        Word::new(Verdict::Inconclusive, summary)
    };
    Ok(counted(word.details(vec![on_active])))
}
