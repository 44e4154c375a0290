//! Answers of honest and of bad candidates.

use std::time::Duration;

use super::*;
use crate::golden::Captured;
use crate::http::{Request, Response};
use crate::redact::Secrets;
use crate::time::Timestamp;

fn response(status: u16, body: &str) -> Response {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Response { status, headers, body: body.as_bytes().to_vec() }
}

fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(response(status, body))
}

fn asked(path: &str, user: Response, rounds: Vec<(Reply, Reply)>) -> Asked {
    let exchange = Captured {
        at: Timestamp::from_unix_ms(1_700_000_000_000),
        connection: 1,
        index: 0,
        request: Request::get(path),
        response: user,
        events: None,
        duration: Duration::from_millis(5),
    };
    let rounds = rounds.into_iter().map(|(active, candidate)| Round { active, candidate }).collect();
    Asked { exchange, rounds }
}

fn trial() -> ShadowTrial {
    ShadowTrial::new(Secrets::default())
}

#[test]
fn clocks_and_ids_in_bodies_are_no_difference() {
    let mut trial = trial();
    for number in 0..200 {
        let body = |side: usize| format!("{{\"id\":\"r{number}-{side}\",\"at\":{},\"name\":\"lamp\"}}", number + side);
        let one = asked("/items/7", response(200, &body(0)), vec![(answer(200, &body(1)), answer(200, &body(2)))]);
        assert!(!one.is_suspicious());
        trial.add(&one);
    }
    assert_eq!(trial.failure(), None);
    assert_eq!(trial.summary(), "200 exchanges of 1 routes compared, 200 with noise");
}

#[test]
fn a_clock_of_seconds_differs_at_first_and_shows_itself_later() {
    let at = |second: u64| format!("{{\"now\":{second},\"name\":\"lamp\"}}");
    let mut one = asked("/", response(200, &at(1)), vec![(answer(200, &at(1)), answer(200, &at(2)))]);
    assert!(one.is_suspicious());
    one.rounds.push(Round { active: answer(200, &at(3)), candidate: answer(200, &at(3)) });
    assert!(!one.is_suspicious());
    let mut trial = trial();
    trial.add(&one);
    assert_eq!(trial.failure(), None);
}

#[test]
fn a_counter_that_changes_between_the_answers_is_no_difference() {
    let hits = |count: u64| format!("{{\"hits\":{count}}}");
    let one = asked("/", response(200, &hits(100)), vec![(answer(200, &hits(101)), answer(200, &hits(1)))]);
    assert!(!one.is_suspicious());
}

/// What the candidate answers in every round, and what the finding says of it.
#[test]
fn a_difference_in_every_round_is_a_finding() {
    let user = response(200, "{\"price\":10,\"name\":\"lamp\"}");
    let mut other_type = user.clone();
    other_type.headers[0].1 = "text/html".to_owned();
    let mut redirects = user.clone();
    redirects.headers.push(("location".to_owned(), "/login".to_owned()));
    for (candidate, words) in [
        (answer(500, "{}"), "GET /items/7 is answered otherwise: status: 200 by Active, 500 by the candidate"),
        (answer(200, "{\"price\":11,\"name\":\"lamp\"}"), "body/price: 10 by Active, 11 by the candidate"),
        (answer(200, "{\"name\":\"lamp\"}"), "body/price: 10 by Active, nothing by the candidate"),
        (answer(200, "{\"price\":10,\"name\":\"lamp\",\"debug\":true}"), "body/debug: nothing by Active, true"),
        (Reply::Answer(other_type), "header/content-type: [\"application/json\"] by Active, [\"text/html\"]"),
        (Reply::Answer(redirects), "header/location: nothing by Active, [\"/login\"] by the candidate"),
        (
            Reply::Nothing("none within 2 s".to_owned()),
            "status: 200 by Active, no answer (none within 2 s) by the candidate",
        ),
    ] {
        let round = || (Reply::Answer(user.clone()), candidate.clone());
        let mut one = asked("/items/7", user.clone(), vec![round()]);
        assert!(one.is_suspicious(), "{words}");
        let mut once = trial();
        once.add(&one);
        assert_eq!(once.failure(), None, "one answer is no confirmation");
        one.rounds.extend([round(), round()].map(|(active, candidate)| Round { active, candidate }));
        let mut trial = trial();
        trial.add(&one);
        let failure = trial.failure().expect(words);
        assert!(failure.contains(words) && failure.ends_with("(asked 3 times)"), "{failure}");
    }
}

#[test]
fn a_header_of_the_process_and_a_difference_that_active_has_too_do_not_count() {
    let user = response(200, "{}");
    let mut named = user.clone();
    named.headers.push(("x-served-by".to_owned(), "b".to_owned()));
    let one = asked("/", user.clone(), vec![(Reply::Answer(user.clone()), Reply::Answer(named))]);
    assert!(!one.is_suspicious());
    // Active limits the rate of the client: it answers rei otherwise than the user.
    let limited = asked("/", user, vec![(answer(429, "{}"), answer(401, "{}"))]);
    assert!(!limited.is_suspicious());
}

#[test]
fn a_candidate_that_fails_now_and_then_is_found_and_an_active_that_does_is_not_held_against_it() {
    let run = |own: u64, other: u64| {
        let mut trial = trial();
        let part = |number: u64, every: u64| if every > 0 && number.is_multiple_of(every) { 500 } else { 200 };
        for number in 1..=400 {
            let round = (answer(part(number + 3, other), "{}"), answer(part(number, own), "{}"));
            trial.add(&asked("/orders/9", response(200, "{}"), vec![round, (answer(200, "{}"), answer(200, "{}"))]));
        }
        trial.failure().map(str::to_owned)
    };
    let failure = run(10, 0).expect("one in ten fails");
    assert!(failure.contains("GET /orders/9") && failure.contains("another status"), "{failure}");
    assert_eq!(run(10, 10), None);
    assert_eq!(run(0, 10), None);
}

#[test]
fn a_finding_has_no_secret_and_no_personal_data() {
    let secret = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
    let body = |mail: &str| format!("{{\"mail\":\"{mail}\",\"access_token\":\"{secret}\"}}");
    let round = || (answer(200, &body("ada@example.org")), answer(500, &body("bob@example.org")));
    let path = format!("/account?token={secret}");
    let mut trial = trial();
    trial.add(&asked(&path, response(200, &body("ada@example.org")), vec![round(), round(), round()]));
    let failure = trial.failure().unwrap();
    assert!(failure.contains("status: 200 by Active, 500 by the candidate"), "{failure}");
    for hidden in [secret, "ada@", "bob@"] {
        assert!(!failure.contains(hidden), "{failure}");
    }
}

#[test]
fn enough_is_what_can_be_expected() {
    assert_eq!([0.0, 20.0, 1e9].map(ShadowTrial::enough), [5, 10, 50]);
}
