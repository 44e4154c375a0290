//! A real supervisor with one source of traffic, and the cases one after the other.

use rei::interface::operations::VersionStatus;
use rei::interface::types::MaintenanceAction;
use rei::live::Source;

use crate::case::{Case, Load};
use crate::lab::Lab;
use crate::load::Clients;

/// Requests that Active must have answered before a candidate comes, so that there is something to compare with.
const KNOWN: u64 = 1_000;

/// What became of a case.
pub struct Outcome {
    case: Case,
    source: Source,
    is_promoted: bool,
    reason: String,
}

impl Outcome {
    fn is_right(&self) -> bool {
        let says = &self.case.says;
        let says_it = says.is_empty() || says.iter().any(|words| self.reason.contains(words));
        self.is_promoted != self.case.is_bad && says_it
    }
}

/// The configuration with one source of traffic.
fn configuration(source: Source) -> (&'static str, &'static str) {
    match source {
        Source::Metrics => ("env = { }\n", "metrics = { path = \"/metrics\", interval = \"1s\" }\n"),
        Source::Log => (
            "env = { SHOP_LOG = \"json\" }\n",
            "log = { format = \"json\", status = \"status\", duration = \"duration_ms\", method = \"method\", path = \"path\" }\n",
        ),
        Source::Tap => ("", ""),
    }
}

fn configure(lab: &Lab, source: Source) {
    let (runtime, health) = configuration(source);
    let tap = if source == Source::Tap { "true" } else { "false" };
    lab.configure_with(
        runtime,
        &format!(
            "[health]\nhttp = {{ listen = \"http\", path = \"/healthz\", interval = \"500ms\", timeout = \"2s\" }}\n{health}\
             [traffic]\ntap = {tap}\n\
             [incidents]\nerrors = {{ ratio = 0.05, for = \"5s\" }}\nlatency = {{ p99 = \"400ms\", for = \"5s\" }}\n\
             [promotion]\ncanary = [{{ share = 0.3, for = \"10s\" }}]\nobserve = \"10s\"\nhold = \"30s\"\n\
             on_inconclusive = \"revert\"\n[evolution]\nbudget = {{ per_hour = 1000 }}\n"
        ),
    );
}

/// A version that answers well and complains in its log: what it says is in the report and in the status of both slots.
pub fn new_errors() {
    let Some(lab) = Lab::of("shop") else { return };
    configure(&lab, Source::Log);
    let mut supervisor = lab.serving();
    let clients = Clients::start(lab.address());
    let errors = |version: Option<VersionStatus>| {
        let traffic = version.into_iter().flat_map(|version| version.traffic);
        traffic.flat_map(|traffic| traffic.errors).collect::<Vec<_>>()
    };
    supervisor.until("requests that Active answered", |it| {
        let active = it.status().and_then(|status| status.active);
        active.is_some_and(|active| active.traffic.iter().any(|traffic| traffic.requests >= KNOWN))
    });
    let rev = lab.commit("2 complains=0.3");
    let message = "no connection of pool {} after {} us, password=[redacted]";
    let (mut found, mut of_active) = (Vec::new(), Vec::new());
    supervisor.until("a candidate's new error in the status", |it| {
        let Some(status) = it.status() else { return false };
        (found, of_active) = (errors(status.candidate), errors(status.active));
        found.iter().any(|error| error.is_new && error.lines > 0)
    });
    assert_eq!(found.iter().map(|error| error.message.as_str()).collect::<Vec<_>>(), [message]);
    assert_eq!(of_active, []);
    let end = supervisor.verdict_on(&rev);
    drop(clients);
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "a log decides nothing: {}", end.summary);
    assert!(end.summary.contains("new errors in its log: "), "{}", end.summary);
    assert!(end.summary.contains(message) && end.summary.contains("error lines for each request, 0.00 before"));
    assert_eq!(supervisor.stop(), Some(0));
}

/// Commits each case to a service under load.
pub fn judge(source: Source, cases: Vec<Case>) -> Vec<Outcome> {
    let Some(lab) = Lab::of("shop") else { return Vec::new() };
    configure(&lab, source);
    let mut supervisor = lab.serving();
    let clients = Clients::start(lab.address());
    let mut version = 1;
    let mut before = String::new();
    let mut outcomes = Vec::new();
    for case in cases {
        if case.before != before {
            version += 1;
            clients.change(Load::Steady);
            let rev = lab.commit(&format!("{version} {}", case.before));
            let end = supervisor.verdict_on(&rev);
            if end.action != Some(MaintenanceAction::Promoted) {
                let reason = format!("the version before it was not promoted: {}", end.summary);
                outcomes.push(Outcome { is_promoted: case.is_bad, case, source, reason });
                continue;
            }
            before.clone_from(&case.before);
        }
        supervisor.until("requests that Active answered", |it| {
            let active = it.status().and_then(|status| status.active);
            active.is_some_and(|active| active.traffic.iter().any(|traffic| traffic.requests >= KNOWN))
        });
        version += 1;
        clients.change(case.load);
        let rev = lab.commit(&format!("{version} {} {}", case.before, case.behaviour));
        let end = supervisor.verdict_on(&rev);
        let is_promoted = end.action == Some(MaintenanceAction::Promoted);
        let outcome = Outcome { case, source, is_promoted, reason: end.summary };
        let word = if outcome.is_right() { "right" } else { "WRONG" };
        println!("{word}: {:?} {}: {}", source, outcome.case.name, outcome.reason);
        if is_promoted {
            before = format!("{} {}", outcome.case.before, outcome.case.behaviour).trim().to_owned();
        }
        clients.change(Load::Steady);
        outcomes.push(outcome);
    }
    drop(clients);
    if outcomes.iter().any(|outcome| !outcome.is_right()) {
        println!("{}", supervisor.output());
    }
    assert_eq!(supervisor.stop(), Some(0));
    outcomes
}

/// Prints one line, and fails if a case was judged wrong.
pub fn report(outcomes: Vec<Outcome>) {
    let promoted = |is_bad| outcomes.iter().filter(|it| it.case.is_bad == is_bad && it.is_promoted).count();
    let of = |is_bad| outcomes.iter().filter(|it| it.case.is_bad == is_bad).count();
    println!(
        "live corpus: {} of {} bad versions promoted, {} of {} honest versions promoted",
        promoted(true),
        of(true),
        promoted(false),
        of(false)
    );
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|it| !it.is_right())
        .map(|it| format!("{:?} {} ({}): {}", it.source, it.case.name, it.case.what, it.reason))
        .collect();
    assert!(wrong.is_empty(), "judged wrong:\n{}", wrong.join("\n"));
}
