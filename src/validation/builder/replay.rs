//! Asks a version the exchanges of a golden run.

use std::time::{Duration, Instant};

use super::Infrastructure;
use super::instance::JudgedInstance;
use super::job::{Job, Subject};
use super::ready::ready;
use crate::golden::{
    self, Answer, Divergence, Exchange, Facets, Flight, GoldenRun, Noise, Normalisers, Order, Progress, Replay,
};
use crate::http::Address;
use crate::validation::checks::InputName;

/// Divergent exchanges after which a candidate is not asked further: a report names the first, and a candidate that
/// answers nothing must not use up the time of the check.
pub(crate) const DIVERGENT_MAX: usize = 5;

/// How long an answer may still come from a process that has ended: what it wrote before is on its way.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What one start of a version answered to a run.
pub(crate) struct Round {
    /// One for each exchange of the run; `None` for one that was not asked.
    pub answers: Vec<Option<Answer>>,
    /// Why the rest was not asked.
    pub cut: Option<String>,
    /// How its process ended by itself, each time.
    deaths: Vec<String>,
    /// The end of what it printed.
    pub tail: Vec<String>,
}

impl Round {
    /// The exchanges that were asked, each with its number.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (usize, &Answer)> {
        self.answers.iter().enumerate().filter_map(|(index, answer)| Some((index, answer.as_ref()?)))
    }

    /// The answer to an exchange, if it was asked.
    pub(crate) fn answer(&self, index: usize) -> Option<&Answer> {
        self.answers.get(index)?.as_ref()
    }
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

/// Starts a version and asks it the exchanges, in the order of their plan.
pub(crate) async fn round(
    subject: &Subject,
    run: &GoldenRun,
    limits: &RoundLimits<'_>,
) -> Result<Round, Infrastructure> {
    let spec = &limits.job.spec;
    let answers = vec![None; run.exchanges.len()];
    let mut round = Round { answers, cut: None, deaths: Vec::new(), tail: Vec::new() };
    let mut progress = Progress::new(Order::of(&run.exchanges));
    let mut bad = 0;
    loop {
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
        match ask_all(&mut instance, &address, run, limits, &mut round, (&mut progress, &mut bad)).await {
            Asked::Dead(how) => {
                round.tail = instance.tail().await;
                round.deaths.push(how.clone());
                if round.deaths.len() as u64 > limits.restarts_max {
                    round.cut = Some(format!("it {how}"));
                    return Ok(round);
                }
                // The exchanges that have not started yet are for the next one.
                continue;
            }
            Asked::Late => {
                round.cut = Some(format!("it did not finish the run within {} ms", spec.timeout_ms));
                return Ok(round);
            }
            Asked::Bad => round.cut = Some(format!("after {DIVERGENT_MAX} bad answers it was asked no more")),
            Asked::All => {}
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

/// How far one instance came.
enum Asked {
    /// To the end of the run.
    All,
    /// Its process ended, and how.
    Dead(String),
    /// The time of the check is over.
    Late,
    /// Too many of its answers are bad.
    Bad,
}

/// Asks one instance what has not started yet.
async fn ask_all(
    instance: &mut JudgedInstance,
    address: &Address,
    run: &GoldenRun,
    limits: &RoundLimits<'_>,
    round: &mut Round,
    (progress, bad): (&mut Progress, &mut usize),
) -> Asked {
    let replay = Replay::new(address.clone(), &run.exchanges).with_protocol(run.header.protocol);
    let timeout = Duration::from_millis(limits.request_timeout_ms);
    let mut flight = Flight::new(&replay, &run.exchanges, timeout, progress);
    let mut take = |round: &mut Round, index: usize, answer: Answer| {
        *bad += usize::from((limits.bad)(index, &answer));
        round.answers[index] = Some(answer);
        *bad
    };
    loop {
        if Instant::now() >= limits.job.deadline {
            return Asked::Late;
        }
        let found = tokio::select! {
            biased;
            found = flight.next() => Some(found),
            _how = instance.end() => None,
        };
        let (index, answer) = match found {
            Some(None) => return Asked::All,
            Some(Some((index, answer))) if answer.response.is_ok() => {
                let bad = take(round, index, answer);
                if let Some(how) = instance.ended().map(str::to_owned) {
                    last_answers(&mut flight, &how, round, &mut take).await;
                    return Asked::Dead(how);
                }
                if bad >= DIVERGENT_MAX {
                    return Asked::Bad;
                }
                continue;
            }
            Some(Some((index, answer))) => (Some(index), Some(answer)),
            None => (None, None),
        };
        // A broken connection is seen before the end of the process that broke it; the end tells more.
        match tokio::time::timeout(LAST_WORDS, instance.end()).await {
            Ok(how) => {
                if let Some((index, answer)) = index.zip(answer) {
                    take(round, index, died(&how, answer.took));
                }
                last_answers(&mut flight, &how, round, &mut take).await;
                return Asked::Dead(how);
            }
            Err(_) => {
                if let Some((index, answer)) = index.zip(answer)
                    && take(round, index, answer) >= DIVERGENT_MAX
                {
                    return Asked::Bad;
                }
            }
        }
    }
}

/// The answer of a process that ended before it answered.
fn died(how: &str, took: Duration) -> Answer {
    Answer::none(format!("its process {how} before it answered"), took)
}

/// What a process that has ended still answered: what it wrote before is on its way. Its end is the other answers.
async fn last_answers(
    flight: &mut Flight<'_>,
    how: &str,
    round: &mut Round,
    take: &mut impl FnMut(&mut Round, usize, Answer) -> usize,
) {
    let begun = Instant::now();
    while let Ok(Some((index, answer))) =
        tokio::time::timeout(LAST_WORDS.saturating_sub(begun.elapsed()), flight.rest()).await
    {
        let answer = if answer.response.is_ok() { answer } else { died(how, answer.took) };
        take(round, index, answer);
    }
    for index in flight.give_up() {
        take(round, index, died(how, begun.elapsed()));
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

/// Reads the golden run of a check, and what makes its answers alike.
pub(crate) fn read_run(job: &Job) -> Result<(GoldenRun, Rules), Infrastructure> {
    let path = job.file(InputName::Golden)?;
    let bodies = job.files.get(&InputName::Bodies).cloned().unwrap_or_else(|| golden::directory_of(path));
    let run = golden::read_with(path, &bodies).map_err(Infrastructure::Golden)?;
    let rules = Rules::of(&run)?;
    Ok((run, rules))
}

/// How an answer differs from the good one; empty if it does not.
pub(crate) fn divergences(exchange: &Exchange, answer: &Answer, noise: &Noise, rules: &Normalisers) -> Vec<Divergence> {
    let no = |at: &str, recorded: Option<String>, answered: &str| {
        vec![Divergence { at: at.to_owned(), recorded, answered: Some(answered.to_owned()) }]
    };
    match (Facets::of_recorded(exchange, rules), &answer.response) {
        (_, Err(reason)) => no("answer", Some("an answer".into()), reason),
        (None, Ok(response)) if response.status >= 500 => {
            no("status", Some("below 500".into()), &response.status.to_string())
        }
        (None, Ok(_)) => Vec::new(),
        (Some(expected), Ok(_)) => {
            let given = answer.facets(exchange, rules).unwrap_or_default();
            golden::compare(&expected, &given, noise, rules)
        }
    }
}

/// An exchange of the run, for a person.
pub(crate) fn name(run: &GoldenRun, index: usize) -> String {
    let asked = run.exchanges.get(index).map(Exchange::name);
    format!("exchange {} of {}, {}", index + 1, run.exchanges.len(), asked.unwrap_or_default())
}
