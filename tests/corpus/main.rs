//! Versions that only the requests of users can tell apart: each case is a commit to a service under load. A bad one must
//! not stay, an honest one must.
//!
//! | file | its one job |
//! |---|---|
//! | `cases/bad`, `cases/honest` | a directory for each case, with its `case.toml` |
//! | `case` | reads a case |
//! | `load` | the clients |
//! | `shadow` | versions that are distinguished before a user reaches them |
//! | `run` | a real supervisor with one source of traffic, and the cases one after the other |
//!
//! `cargo test --test corpus` runs a part. `make corpus-live` runs all cases with each source of traffic that can show them.

mod case;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "uses a part of it")]
mod common;
#[path = "../bad_input/lab.rs"]
#[expect(dead_code, reason = "uses a part of it")]
mod lab;
mod load;
mod run;
mod shadow;

use case::Case;
use rei::live::Source;

/// The cases that always run: one for each kind of evidence, and each source.
const PART: [(Source, &[&str]); 3] = [
    (Source::Tap, &["fails-30-percent", "answers-nobody", "resets", "slower-5-percent"]),
    (Source::Metrics, &["slow-on-real-routes", "answers-nobody", "same-again"]),
    (Source::Log, &["one-route-fails", "answers-nobody", "same-again"]),
];

#[test]
fn a_part_of_the_corpus_is_judged_right() {
    let threads = PART.map(|(source, names)| {
        let cases = Case::all().into_iter().filter(|case| names.contains(&case.name.as_str())).collect();
        std::thread::spawn(move || run::judge(source, cases))
    });
    run::report(threads.into_iter().flat_map(|thread| thread.join().expect("a thread that ends")).collect());
}

#[test]
#[ignore = "takes half an hour: make corpus-live"]
fn all_cases_are_judged_right() {
    let threads = Source::ALL.map(|source| {
        let cases = Case::all().into_iter().filter(|case| case.sources.contains(&source)).collect();
        std::thread::spawn(move || run::judge(source, cases))
    });
    run::report(threads.into_iter().flat_map(|thread| thread.join().expect("a thread that ends")).collect());
}

#[test]
fn errors_that_the_version_before_did_not_write_are_shown() {
    run::new_errors();
}

#[test]
fn the_corpus_has_twenty_cases_of_each_kind() {
    let cases = Case::all();
    let bad = cases.iter().filter(|case| case.is_bad).count();
    assert!(bad >= 20 && cases.len() - bad >= 20, "{bad} bad cases of {}", cases.len());
    // A case that fewer sources can show says why.
    assert!(cases.iter().all(|case| case.sources.len() == Source::ALL.len() || !case.why.is_empty()));
}
