//! Asks a version the exchanges of a golden run.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Infrastructure;
use super::instance::JudgedInstance;
use super::job::{Job, Subject};
use super::ready::ready;
use crate::golden::{self, Answer, Divergence, Exchange, Facets, GoldenRun, Noise, Normalisers, Replay};

/// Divergent exchanges after which a candidate is not asked further: a report names the first, and a candidate that
/// answers nothing must not use up the time of the check.
pub(crate) const DIVERGENT_MAX: usize = 5;

/// How long an answer may still come from a process that has ended: what it wrote before is on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What one start of a version answered to a run.
pub(crate) struct Round {
    /// One for each exchange that was asked.
    pub answers: Vec<Answer>,
    /// Why the rest was not asked.
    pub cut: Option<String>,
    /// How its process ended by itself, each time.
    deaths: Vec<String>,
    /// The end of what it printed.
    pub tail: Vec<String>,
}

/// What a round may cost.
pub(crate) struct RoundLimits<'a> {
    pub job: &'a Job,
    /// The bound of one request, in milliseconds.
    pub request_timeout_ms: u64,
    /// How often it is started again after its process ended.
    pub restarts_max: u64,
    /// How long it must still run after its last answer.
    pub aftermath: Duration,
    /// Says of an answer whether it is bad; a round with too many of those is cut.
    pub bad: &'a dyn Fn(usize, &Answer) -> bool,
}

/// Starts a version and asks it the exchanges in order.
pub(crate) async fn round(
    subject: &Subject,
    run: &GoldenRun,
    limits: &RoundLimits<'_>,
) -> Result<Round, Infrastructure> {
    let spec = &limits.job.spec;
    let mut round = Round { answers: Vec::new(), cut: None, deaths: Vec::new(), tail: Vec::new() };
    let mut bad = 0;
    'start: loop {
        let mut instance = match JudgedInstance::start(&spec.instance, subject, &limits.job.top).await? {
            Ok(instance) => instance,
            Err(reason) => {
                round.cut = Some(format!("it does not start: {reason}"));
                return Ok(round);
            }
        };
        if let Err(reason) = ready(&mut instance, &spec.instance).await {
            (round.cut, round.tail) = (Some(reason), instance.tail().await);
            return Ok(round);
        }
        let address = instance.listener(&run.header.listener).and_then(|listener| listener.address.clone());
        let Some(address) = address else {
            round.cut = Some(format!("there is no listener {:?} to ask", run.header.listener));
            return Ok(round);
        };
        let mut replay = Replay::new(address, &run.exchanges);
        while let Some(exchange) = run.exchanges.get(round.answers.len()) {
            if Instant::now() >= limits.job.deadline {
                round.cut = Some(format!("it did not finish the run within {} ms", spec.timeout_ms));
                return Ok(round);
            }
            let timeout = Duration::from_millis(limits.request_timeout_ms);
            let answer = ask(&mut instance, replay.ask(round.answers.len(), exchange, timeout)).await;
            bad += usize::from((limits.bad)(round.answers.len(), &answer));
            round.answers.push(answer);
            if let Some(how) = instance.ended().map(str::to_owned) {
                round.tail = instance.tail().await;
                round.deaths.push(how.clone());
                if round.deaths.len() as u64 > limits.restarts_max {
                    round.cut = Some(format!("it {how}"));
                    return Ok(round);
                }
                continue 'start;
            }
            if bad == DIVERGENT_MAX {
                round.cut = Some(format!("after {DIVERGENT_MAX} bad answers it was asked no more"));
                break;
            }
        }
        if round.cut.is_none()
            && let Ok(how) = tokio::time::timeout(limits.aftermath, instance.end()).await
        {
            round.cut = Some(format!("it {how}"));
        }
        round.tail = instance.tail().await;
        return Ok(round);
    }
}

/// One answer; if the process ends first, its end is the answer.
async fn ask(instance: &mut JudgedInstance, answer: impl Future<Output = Answer>) -> Answer {
    let begun = Instant::now();
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

/// What makes the answers of a run alike: for each exchange the rules of the run and its own learned ones.
pub(crate) struct Rules {
    run: Normalisers,
    exchanges: Vec<Normalisers>,
}

impl Rules {
    /// Compiles the rules of a run.
    pub(crate) fn of(run: &GoldenRun) -> Result<Self, Infrastructure> {
        let wrong = |reason| Infrastructure::Attribute { name: "golden", reason };
        let whole = Normalisers::compile(&run.header.normalisers).map_err(wrong)?;
        let exchanges = run.exchanges.iter().map(|exchange| whole.with(&exchange.learned));
        let exchanges = exchanges.collect::<Result<_, _>>().map_err(wrong)?;
        Ok(Self { run: whole, exchanges })
    }

    /// The rules of an exchange.
    pub(crate) fn at(&self, index: usize) -> &Normalisers {
        self.exchanges.get(index).unwrap_or(&self.run)
    }
}

/// Reads a golden run and what makes its answers alike.
pub(crate) fn read_run(path: &Path) -> Result<(GoldenRun, Rules), Infrastructure> {
    let run = golden::read(path).map_err(Infrastructure::Golden)?;
    let rules = Rules::of(&run)?;
    Ok((run, rules))
}

/// How an answer differs from the good one; empty if it does not.
pub(crate) fn divergences(exchange: &Exchange, answer: &Answer, noise: &Noise, rules: &Normalisers) -> Vec<Divergence> {
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

/// An exchange of the run, for a person.
pub(crate) fn name(run: &GoldenRun, index: usize) -> String {
    let asked =
        run.exchanges.get(index).map(|exchange| format!("{} {}", exchange.request.method, exchange.request.path));
    format!("exchange {} of {}, {}", index + 1, run.exchanges.len(), asked.unwrap_or_default())
}
