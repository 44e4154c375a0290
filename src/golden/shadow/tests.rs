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

fn asked(path: &str, user: Response) -> Asked {
    Asked::new(Captured {
        at: Timestamp::from_unix_ms(1_700_000_000_000),
        connection: 1,
        index: 0,
        listener: "http".to_owned(),
        request: Request::get(path),
        response: user,
        events: None,
        duration: Duration::from_millis(5),
    })
}

/// Adds a round; returns whether both are to be asked again.
fn add(trial: &mut ShadowTrial, asked: &mut Asked, active: Reply, candidate: Reply) -> bool {
    asked.push(Round { active, candidate });
    trial.add(asked)
}

fn trial() -> ShadowTrial {
    ShadowTrial::new(Secrets::default())
}

#[test]
fn clocks_and_ids_in_bodies_are_no_difference() {
    let mut trial = trial();
    for number in 0..200 {
        let body = |side: usize| format!("{{\"id\":\"r{number}-{side}\",\"at\":{},\"name\":\"lamp\"}}", number + side);
        let mut one = asked("/items/7", response(200, &body(0)));
        assert!(!add(&mut trial, &mut one, answer(200, &body(1)), answer(200, &body(2))));
    }
    assert_eq!(trial.failure(), None);
    assert_eq!(trial.summary(), "200 exchanges of 1 routes compared, 200 with noise");
}

#[test]
fn a_clock_of_seconds_differs_at_first_and_shows_itself_later() {
    let at = |second: u64| answer(200, &format!("{{\"now\":{second},\"name\":\"lamp\"}}"));
    let mut trial = trial();
    let mut one = asked("/", response(200, "{\"now\":1,\"name\":\"lamp\"}"));
    assert!(add(&mut trial, &mut one, at(1), at(2)));
    assert!(!add(&mut trial, &mut one, at(3), at(3)));
    assert_eq!(trial.failure(), None);
    assert!(trial.summary().ends_with("1 that differed now and then"), "{}", trial.summary());
}

#[test]
fn a_counter_that_changes_between_the_answers_is_no_difference() {
    let hits = |count: u64| answer(200, &format!("{{\"hits\":{count}}}"));
    assert!(!add(&mut trial(), &mut asked("/", response(200, "{\"hits\":100}")), hits(101), hits(1)));
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
            "otherwise: status: 200 by Active, no answer (none within 2 s) by the candidate (asked",
        ),
    ] {
        let (mut trial, mut one) = (trial(), asked("/items/7", user.clone()));
        let mut again = || add(&mut trial, &mut one, Reply::Answer(user.clone()), candidate.clone());
        // One answer, or three, can be chance.
        assert!((0..3).all(|_| again()), "{words}");
        let rounds = 4 + (0..20).take_while(|_| again()).count();
        assert!(rounds <= ROUNDS_ENOUGH, "{rounds}");
        let failure = trial.failure().expect(words);
        assert!(failure.contains(words) && failure.ends_with(&format!("(asked {rounds} times)")), "{failure}");
    }
}

#[test]
fn a_header_of_the_process_and_a_difference_that_active_has_too_do_not_count() {
    let user = response(200, "{}");
    let mut named = user.clone();
    named.headers.push(("x-served-by".to_owned(), "b".to_owned()));
    let again = add(&mut trial(), &mut asked("/", user.clone()), Reply::Answer(user.clone()), Reply::Answer(named));
    assert!(!again);
    // Active limits the rate of the client: it answers rei otherwise than the user.
    assert!(!add(&mut trial(), &mut asked("/", user), answer(429, "{}"), answer(401, "{}")));
}

/// Exchanges in which each side fails with its chance, asked again as long as that is wanted; why the candidate is degraded.
fn flaky(seed: u64, own: f64, other: f64) -> Option<String> {
    let mut state = seed;
    let mut reply = |chance: f64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = (state >> 33) as f64 / (1_u64 << 31) as f64;
        answer(if drawn < chance { 500 } else { 200 }, "{}")
    };
    let mut trial = trial();
    for _ in 0..400 {
        let mut one = asked("/orders/9", response(200, "{}"));
        while one.rounds < ROUNDS_ENOUGH && {
            let (active, candidate) = (reply(other), reply(own));
            add(&mut trial, &mut one, active, candidate)
        } {}
    }
    trial.failure().map(str::to_owned)
}

#[test]
fn a_candidate_that_fails_now_and_then_is_found() {
    let failure = flaky(1, 0.1, 0.0).expect("one in ten fails");
    assert!(failure.contains("GET /orders/9") && failure.contains("now and then"), "{failure}");
    assert_eq!(flaky(1, 0.0, 0.1), None);
}

/// The error bound is 1 %, whatever is asked again.
#[test]
fn a_candidate_that_fails_as_often_as_active_is_not_rejected() {
    for chance in [0.02, 0.1, 0.3] {
        let wrong: Vec<String> = (0..150).filter_map(|seed| flaky(seed, chance, chance)).collect();
        assert!(wrong.len() <= 2, "{} of 150 at {chance}: {:?}", wrong.len(), wrong.first());
    }
}

#[test]
fn a_finding_has_no_secret_and_no_personal_data() {
    let secret = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
    let body = |mail: &str| format!("{{\"mail\":\"{mail}\",\"access_token\":\"{secret}\"}}");
    let path = format!("/account?token={secret}");
    let (mut trial, mut one) = (trial(), asked(&path, response(200, &body("ada@example.org"))));
    while add(&mut trial, &mut one, answer(200, &body("ada@example.org")), answer(500, &body("bob@example.org"))) {}
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
