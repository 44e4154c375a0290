//! Datagrams: each is routed separately, and an evolution loses none.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Setup};

/// The time limit of one answer: a switch must not delay a client longer.
const ANSWER: Duration = Duration::from_secs(20);

/// One client with one socket: its requests and answers are one flow.
struct Client {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Client {
    fn of(address: SocketAddr) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let end = end.clone();
            move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(address).unwrap();
                socket.set_read_timeout(Some(ANSWER)).unwrap();
                let (mut answers, mut datagram) = (Vec::new(), [0; 1024]);
                while !end.load(Ordering::Relaxed) {
                    let number = answers.len().to_string();
                    socket.send(number.as_bytes()).unwrap();
                    let n = socket.recv(&mut datagram).unwrap_or_else(|error| panic!("no answer to {number}: {error}"));
                    let text = String::from_utf8_lossy(&datagram[..n]).into_owned();
                    let (echoed, version) = text.split_once(' ').unwrap();
                    assert_eq!(echoed, number, "each datagram has one answer");
                    answers.push(version.to_owned());
                    std::thread::sleep(Duration::from_millis(2));
                }
                answers
            }
        });
        Self { end, thread }
    }

    /// Stops; returns the answering versions in order. Every datagram must have an answer.
    fn finish(self) -> Vec<String> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_share_of_datagrams_then_all_of_them_and_none_is_lost() {
    const PROMOTION: &str = "canary = [{ share = 0.3, for = \"3s\" }]\nobserve = \"2s\"";
    let Some(mut lab) = Lab::serving(Setup { udp: true, promotion: PROMOTION, ..Setup::default() }) else { return };
    let client = Client::of(lab.udp());
    let rev = lab.commit("ok 2");
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::Promoted));
    lab.until("Steady", |status| status.phase == Phase::Steady);
    let answers = client.finish();
    // Both versions answer between the first answer of the new version and the last answer of the old one.
    let first = answers.iter().position(|version| version == "ok 2").expect("the new version answers");
    let last = answers.iter().rposition(|version| version == "ok 1").expect("the old one did");
    assert!(first < last && last + 1 < answers.len(), "{first}, {last} of {}", answers.len());
    let both = &answers[first..=last];
    let (n, got) = (both.len() as f64, both.iter().filter(|version| *version == "ok 2").count() as f64);
    let (mean, deviation) = (n * 0.3, (n * 0.3 * 0.7).sqrt());
    println!("{got} of {n} datagrams for a share of 0.3, of {} altogether", answers.len());
    // Six standard deviations: a false failure once in five hundred million runs.
    assert!(n > 50.0 && (got - mean).abs() < 6.0 * deviation, "{got} of {n} for a share of 0.3");
}
