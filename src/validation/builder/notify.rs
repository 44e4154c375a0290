//! What the judged says by `sd_notify`: that it is ready, and that it needs more time.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// The longest time that one message gives, as for an instance that serves.
const EXTEND_MAX: Duration = Duration::from_secs(300);
/// The longest time that all messages give beyond a timeout, as for an instance that serves.
const EXTENDED_MAX: Duration = Duration::from_secs(30 * 60);
/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A deadline that `EXTEND_TIMEOUT_USEC` puts off.
pub(super) struct PutOff {
    until: Instant,
    last: Instant,
}

impl PutOff {
    /// It is over a timeout after this.
    pub(super) fn new(begun: Instant, timeout: Duration) -> Self {
        Self { until: begun + timeout, last: begun + timeout + EXTENDED_MAX }
    }

    /// Hears what was said since the last time; says whether it was `READY=1`.
    pub(super) fn hear(&mut self, socket: Option<&UnixDatagram>) -> bool {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let mut ready = false;
        while let Some(Ok(n)) = socket.map(|socket| socket.recv(&mut message)) {
            for line in message[..n].split(|&byte| byte == b'\n') {
                ready |= line == b"READY=1";
                let us =
                    line.strip_prefix(b"EXTEND_TIMEOUT_USEC=").and_then(|us| str::from_utf8(us).ok()?.parse().ok());
                if let Some(us) = us {
                    let more = Duration::from_micros(us).min(EXTEND_MAX);
                    self.until = self.until.max(Instant::now() + more).min(self.last);
                }
            }
        }
        ready
    }

    /// The time until it is over.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_put_off_from_the_message_on_and_within_bounds() {
        let (said, heard) = UnixDatagram::pair().unwrap();
        heard.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        let mut until = PutOff::new(begun, Duration::from_secs(100));
        let mut hear = |message: &str| {
            said.send(message.as_bytes()).unwrap();
            (until.hear(Some(&heard)), until.until.duration_since(begun))
        };
        assert_eq!(hear("EXTEND_TIMEOUT_USEC=1000"), (false, Duration::from_secs(100)), "never nearer");
        let (ready, until) = hear("STATUS=x\nEXTEND_TIMEOUT_USEC=200000000\nREADY=1");
        assert!(ready && until >= Duration::from_secs(200), "{until:?}");
        for bad in ["EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC=", "EXTEND_TIMEOUT_USEC=18446744073709551616"] {
            assert_eq!(hear(bad), (false, until));
        }
        let (_, most) = hear("EXTEND_TIMEOUT_USEC=18446744073709551615");
        assert!(most >= EXTEND_MAX && most < EXTEND_MAX + Duration::from_secs(60), "{most:?}");
        let mut over = PutOff::new(begun, Duration::from_secs(100));
        over.last = begun + Duration::from_secs(110);
        said.send(b"EXTEND_TIMEOUT_USEC=200000000").unwrap();
        over.hear(Some(&heard));
        assert_eq!(over.until, over.last);
    }
}
