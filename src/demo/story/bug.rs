//! Act 1: the service dies of a real bug, twice.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::acts::{BUG, GOOD, REQUEST_MAX, SOON_MAX, Story, WORK_MAX, count};
use crate::demo::error::Error;
use crate::demo::load::{CONNECTIONS_PER_SECOND, KEPT_OPEN};
use crate::demo::stage::Stage;
use crate::demo::tally::{Latency, RequestOutcome};
use crate::golden::{Header, SUFFIX, Writer, record as record_golden};
use crate::http::{Address, Request};
use crate::interface::types::RuntimeIncident;
use crate::lifecycle::Event;
use crate::time::{Timestamp, millis};

/// The requests whose answers are recorded from v1.
const RECORDED: [&str; 6] =
    ["/greet?name=Ada", "/greet?name=Ada&style=1", GOOD, "/greet?style=loud", "/healthz", "/admin"];
/// The requests before and between the crashes: enough for meaningful figures.
const REQUESTS: u64 = 200;

/// Records a golden run from the live service.
pub(super) async fn record(stage: &Stage) -> Result<usize, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = Header::new("greeter", "http", Timestamp::from_unix_ms(millis(now)));
    let requests = RECORDED.iter().map(|target| Request::get(*target)).collect();
    let run = record_golden(&Address::Tcp(stage.address), header, requests, REQUEST_MAX).await?;
    let recorded = run.exchanges.len();
    let mut writer = Writer::create(&stage.golden().join(format!("greeter{SUFFIX}")), &run.header)?;
    for exchange in run.exchanges {
        writer.push(exchange)?;
    }
    writer.finish()?;
    Ok(recorded)
}

impl Story<'_, '_> {
    pub(super) async fn a_bug(&mut self) -> Result<(), Error> {
        self.narrator.say(&format!(
            "load from outside: {CONNECTIONS_PER_SECOND} new connections a second, {KEPT_OPEN} kept open"
        ))?;
        let tally = self.after_requests(REQUESTS).await?;
        self.narrator.good(&tally.to_string())?;
        let first = self.crash("a client asks for style 3, and the greeter has three, from 0").await?;
        self.after_requests(REQUESTS).await?;
        self.opened = self.observer.mark();
        let second = self.crash("the same again").await?;
        self.fact("back after a crash", format!("{} and {}", Latency(first), Latency(second)));
        let opened = self.state("an incident", WORK_MAX, |status| {
            let evolution = status.evolution.as_ref()?;
            let crash =
                |open: &&RuntimeIncident| Some(&open.id) == evolution.incident_id.as_ref() && open.cause == "crash";
            Some((status.open_incidents.iter().find(crash)?.clone(), evolution.id.clone()))
        });
        let (incident, evolution) = opened.await?;
        self.repair = evolution;
        self.narrator.bad(&format!("twice the same: {} opens, and asks for an evolution", incident.id))?;
        self.narrator.quote(&incident.summary)?;
        self.died = self.load.tally().lost();
        Ok(())
    }

    /// Sends the request that crashes the service; returns the microseconds until the service answers another request.
    async fn crash(&mut self, why: &str) -> Result<u64, Error> {
        let (mark, before) = (self.observer.mark(), self.load.tally());
        if let Some(status) = self.ask(BUG).await {
            return Err(Error::unexpected(format!(
                "GET {BUG} was answered with {status}, but should crash the service"
            )));
        }
        let broke = Instant::now();
        if self.ask(GOOD).await != Some(200) {
            return Err(Error::unexpected("the service did not come back"));
        }
        let back = u64::try_from(broke.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.narrator.bad(&format!("GET {BUG} breaks off: {why}"))?;
        let exit = self.event("the end of the process", SOON_MAX, mark, |it| match &it.event {
            Event::Exited { exit, .. } => Some(exit.clone()),
            _ => None,
        });
        let exit = exit.await?;
        let lost = self.load.tally().since(&before);
        let (broken, refused) = (lost.of(RequestOutcome::Broken), lost.of(RequestOutcome::Refused));
        self.narrator.good(&format!("the process died ({exit}); the next one answers {} later", Latency(back)))?;
        self.narrator.quote(&format!("{} died with it, {refused} were refused", count(broken, "other request")))?;
        if refused > 0 {
            return Err(Error::unexpected(format!("{refused} connections were refused during the restart")));
        }
        Ok(back)
    }
}
