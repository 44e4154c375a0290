//! The shadow with real servers behind it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::shadow::ShadowWatch;
use crate::config;
use crate::golden::Captured;
use crate::http::{Request, Response};
use crate::interface::types::Verdict;
use crate::lifecycle::Slot;
use crate::live::{Class, Recent, Route, Sample, Source};
use crate::redact::Secrets;
use crate::runtime::fetch::Stream;
use crate::runtime::probe::Dial;
use crate::time::Timestamp;

/// Slot n is the address with index n.
#[derive(Clone)]
struct Plain([SocketAddr; 2]);

impl Dial for Plain {
    async fn dial(&self, _: &str, slot: usize) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(self.0[slot]).await?))
    }
}

/// What a server answers.
#[derive(Clone, Copy)]
enum Does {
    Answer(&'static str),
    Hang,
    Reset,
    Endless,
}

/// A server, and the number of requests that reached it.
async fn server(does: Does) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                counted.fetch_add(1, Ordering::Relaxed);
                match does {
                    Does::Answer(body) => {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(head.as_bytes()).await;
                    }
                    Does::Hang => std::future::pending().await,
                    Does::Reset => {}
                    Does::Endless => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                    }
                }
            });
        }
    });
    (address, count)
}

fn exchange(method: &str, path: &str) -> Captured {
    Captured {
        at: Timestamp::default(),
        connection: 1,
        index: 0,
        listener: "http".to_owned(),
        request: Request { method: method.to_owned(), ..Request::get(path) },
        response: Response { status: 200, headers: Vec::new(), body: b"well".to_vec() },
        events: None,
        duration: Duration::from_millis(1),
    }
}

/// Active had this many requests in a minute.
fn before(requests: u64) -> Recent {
    let mut sample = Sample::default();
    sample.route(Route::of_request("GET", "/a")).add(Class::Success, requests);
    sample.route(Route::of_request("POST", "/a")).add(Class::Success, requests);
    Recent { sample, span_ms: 60_000 }
}

fn plan(share: f64) -> config::Shadow {
    let (routes, except) = (vec!["POST /search".to_owned()], vec!["GET /logout".to_owned()]);
    config::Shadow { share, r#for: Duration::from_secs(30), routes, except }
}

async fn begun(candidate: Does, share: f64, requests: u64) -> (ShadowWatch, [Arc<AtomicU64>; 2]) {
    let (active, active_count) = server(Does::Answer("well")).await;
    let (candidate, count) = server(candidate).await;
    let mut watch = ShadowWatch::default();
    watch.begin(Slot::B, &plan(share), &before(requests), Plain([active, candidate]), Secrets::default());
    (watch, [active_count, count])
}

fn offer(watch: &mut ShadowWatch, slot: Slot, exchange: Captured) {
    watch.current().unwrap().offer(slot, exchange, 1.0);
}

/// Waits until the shadow is judged.
async fn verdict(watch: &mut ShadowWatch) -> (Verdict, String) {
    loop {
        let analysis = watch.current().unwrap().judge();
        if analysis.verdict != Verdict::Inconclusive {
            return (analysis.verdict, analysis.reasons.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_honest_candidate_passes_when_enough_was_asked() {
    let (mut watch, counts) = begun(Does::Answer("well"), 1.0, 60).await;
    let analysis = watch.current().unwrap().judge();
    assert_eq!(analysis.waits_for.as_deref(), Some("15 more exchanges of users to ask once more"));
    (0..20).for_each(|_| offer(&mut watch, Slot::A, exchange("GET", "/a")));
    let (verdict, reason) = verdict(&mut watch).await;
    assert_eq!((verdict, reason.as_str()), (Verdict::Pass, "20 exchanges of 1 routes compared"));
    // Each was asked once of both, and what a log counted of that is no request of users.
    assert_eq!(counts.each_ref().map(|count| count.load(Ordering::Relaxed)), [20, 20]);
    for slot in [Slot::A, Slot::B] {
        let mut sample = Sample::default();
        sample.route(Route::of_request("GET", "/a")).add(Class::Success, 23);
        watch.take_out_own(slot, Source::Tap, &mut sample);
        assert_eq!(sample.total().total(), 23, "the tap does not see them");
        watch.take_out_own(slot, Source::Log, &mut sample);
        assert_eq!(sample.total().total(), 3);
    }
}

#[tokio::test]
async fn a_service_without_users_passes_and_it_is_said() {
    let (mut watch, counts) = begun(Does::Answer("other"), 0.05, 0).await;
    let (verdict, reason) = verdict(&mut watch).await;
    assert_eq!(verdict, Verdict::Pass);
    assert!(reason.contains("users ask too little"), "{reason}");
    assert_eq!(counts[1].load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_candidate_that_does_not_answer_as_active_fails_whatever_it_does() {
    for (does, words) in [
        (Does::Answer("other"), "body/line     1: \"well\" by Active, \"other\" by the candidate"),
        (Does::Reset, "no answer ("),
        (Does::Endless, "no answer (a body of more than 262144 bytes)"),
        (Does::Hang, "no answer (none within 2 s)"),
    ] {
        let (mut watch, _) = begun(does, 1.0, 60).await;
        (0..4).for_each(|_| offer(&mut watch, Slot::A, exchange("GET", "/a")));
        let failure = loop {
            if let Some(failure) = watch.current().unwrap().failure() {
                break failure;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(failure.starts_with("GET /a is answered otherwise: ") && failure.contains(words), "{failure}");
        assert_eq!(watch.current().unwrap().judge().verdict, Verdict::Fail);
    }
}

#[tokio::test]
async fn only_what_may_be_asked_again_is_asked() {
    let (mut watch, counts) = begun(Does::Answer("well"), 1.0, 0).await;
    offer(&mut watch, Slot::A, exchange("POST", "/a"));
    offer(&mut watch, Slot::A, exchange("GET", "/logout?now"));
    offer(&mut watch, Slot::B, exchange("GET", "/a"));
    let of_status = |status| Captured { response: Response { status, ..Response::default() }, ..exchange("GET", "/a") };
    offer(&mut watch, Slot::A, of_status(304));
    offer(&mut watch, Slot::A, of_status(101));
    offer(&mut watch, Slot::A, Captured { events: Some(3), ..exchange("GET", "/a") });
    offer(&mut watch, Slot::A, exchange("POST", "/search?q=a"));
    offer(&mut watch, Slot::A, exchange("HEAD", "/a"));
    let (_, reason) = verdict(&mut watch).await;
    assert!(reason.starts_with("2 exchanges of 2 routes compared"), "{reason}");
    assert_eq!(counts[1].load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_share_of_the_requests_is_asked_and_the_first_of_each_route() {
    let (mut watch, counts) = begun(Does::Answer("well"), 0.1, 0).await;
    for number in 0..400 {
        offer(&mut watch, Slot::A, exchange("GET", "/a"));
        if number == 200 {
            offer(&mut watch, Slot::A, exchange("GET", "/rare"));
        }
        // The queue is bounded, and this server answers as fast as it can.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (_, reason) = verdict(&mut watch).await;
    let asked = counts[1].load(Ordering::Relaxed);
    assert!((20..=80).contains(&asked) && reason.contains("of 2 routes"), "{asked}: {reason}");
}
