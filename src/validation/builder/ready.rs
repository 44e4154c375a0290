//! The configured probes: when is an instance ready?

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::PollFlags;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::instance::JudgedInstance;
use super::notify::PutOff;
use super::tree::LOOK;
use crate::http::{self, Address, Request};
use crate::interface::types::MESSAGE_BYTES_MAX;
use crate::poll::is_ready;
use crate::report::chain;
use crate::validation::checks::{INTERFACE_LISTENER, InstanceSpec, ReadinessProbe};

/// How long an instance without any probe must have run to count as ready.
const SETTLE: Duration = Duration::from_millis(300);

/// The pause between two rounds of probes.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// The call of the Interface that is made, and no more of it: readiness needs one answer.
const HEALTH_CALL: &[u8] = b"{\"method\":\"io.openexec.RuntimeEvolution.ReportRuntimeHealth\",\"parameters\":{}}\0";

/// Waits until an instance is ready: how long it took from its start.
///
/// # Errors
/// A line for a person: it ended, or was not ready in time and why.
pub(crate) async fn ready(instance: &mut JudgedInstance, spec: &InstanceSpec) -> Result<Duration, String> {
    let bound = Duration::from_millis(spec.start_timeout_ms);
    let mut until = PutOff::new(instance.started, bound);
    let mut notified = false;
    let mut reason = String::from("no probe was answered");
    loop {
        if let Some(how) = instance.ended() {
            return Err(format!("it {how} before it was ready"));
        }
        notified |= until.hear(instance.notify.as_ref());
        let left = until.left();
        if left.is_zero() {
            return Err(format!("it was not ready within {} ms: {reason}", spec.start_timeout_ms));
        }
        let round = tokio::time::timeout(left, probe_all(instance, &spec.probes, notified)).await;
        match round.unwrap_or_else(|_| Err("a probe was still open".into())) {
            Ok(()) if spec.probes.is_empty() && instance.started.elapsed() < SETTLE.min(bound) => {}
            Ok(()) => return Ok(instance.started.elapsed()),
            Err(said) => reason = said,
        }
        tokio::time::sleep(PROBE_PAUSE.min(left)).await;
    }
}

async fn probe_all(instance: &JudgedInstance, probes: &[ReadinessProbe], notified: bool) -> Result<(), String> {
    for probe in probes {
        match probe {
            ReadinessProbe::Http { listen, path, timeout_ms } => {
                let address = address(instance, listen)?;
                let answer = http::send(address, &Request::get(path), Duration::from_millis(*timeout_ms)).await;
                let status = answer.map_err(|error| chain(&error))?.status;
                if !(200..400).contains(&status) {
                    return Err(format!("GET {path} answers {status}"));
                }
            }
            ReadinessProbe::Tcp { listen, timeout_ms } => {
                accepted(instance, listen, Duration::from_millis(*timeout_ms)).await?
            }
            ReadinessProbe::Notify if notified => {}
            ReadinessProbe::Notify => return Err("READY=1 has not come".into()),
            ReadinessProbe::Interface { timeout_ms } => {
                let address = address(instance, INTERFACE_LISTENER)?;
                let asked = tokio::time::timeout(Duration::from_millis(*timeout_ms), ask_health(address)).await;
                says_ready(&asked.map_err(|_| "ReportRuntimeHealth was not answered".to_owned())??)?;
            }
        }
    }
    Ok(())
}

fn address<'a>(instance: &'a JudgedInstance, listen: &str) -> Result<&'a Address, String> {
    let listener = instance.listener(listen).ok_or_else(|| format!("there is no listener {listen:?}"))?;
    listener.address.as_ref().ok_or_else(|| format!("the listener {listen:?} is UDP"))
}

/// Whether a connection is taken out of the queue: the judge's own copy of the listener shows when it is empty again.
async fn accepted(instance: &JudgedInstance, listen: &str, timeout: Duration) -> Result<(), String> {
    let address = address(instance, listen)?;
    let failed = |error: std::io::Error| format!("cannot connect to the listener {listen:?}: {error}");
    let _connection: Box<dyn std::any::Any> = match address {
        Address::Tcp(to) => Box::new(TcpStream::connect(to).await.map_err(failed)?),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
    };
    let Some(listener) = instance.listener(listen) else { return Err(format!("there is no listener {listen:?}")) };
    let waiting = || is_ready(listener.fd.as_fd(), PollFlags::POLLIN) == Ok(true);
    let until_taken = async {
        while waiting() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let taken = tokio::time::timeout(timeout, until_taken).await;
    taken.map_err(|_| format!("it accepts no connection on the listener {listen:?}"))
}

/// One call of the runtime's own Interface, the reply without its final NUL.
async fn ask_health(address: &Address) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("ReportRuntimeHealth: {error}");
    let mut reply = Vec::new();
    let mut chunk = [0_u8; 4096];
    let Address::Unix(path) = address else { return Err("the Interface is no Unix socket".into()) };
    let mut stream = UnixStream::connect(path).await.map_err(failed)?;
    stream.write_all(HEALTH_CALL).await.map_err(failed)?;
    loop {
        let n = stream.read(&mut chunk).await.map_err(failed)?;
        if n == 0 {
            return Err("ReportRuntimeHealth: the connection ended in the middle of a reply".into());
        }
        if let Some(end) = chunk[..n].iter().position(|&byte| byte == 0) {
            reply.extend_from_slice(&chunk[..end]);
            return Ok(reply);
        }
        reply.extend_from_slice(&chunk[..n]);
        if reply.len() > MESSAGE_BYTES_MAX {
            return Err(format!("ReportRuntimeHealth: a reply of more than {MESSAGE_BYTES_MAX} bytes"));
        }
    }
}

/// Whether a reply is a health report that does not deny readiness.
fn says_ready(reply: &[u8]) -> Result<(), String> {
    let garbled = |error: serde_json::Error| format!("ReportRuntimeHealth answers garbage: {error}");
    let reply: Value = serde_json::from_slice(reply).map_err(garbled)?;
    if let Some(error) = reply.get("error") {
        return Err(format!("ReportRuntimeHealth answers {error}"));
    }
    let parameters = reply.get("parameters").ok_or("ReportRuntimeHealth answers nothing")?;
    let report = parameters.get("report").unwrap_or(parameters);
    let status = report.get("status").and_then(Value::as_str).ok_or("the health report has no status")?;
    if status == "failed" || report.get("ready") == Some(&Value::Bool(false)) {
        return Err(format!("the health report says {status}, ready: {}", report["ready"]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_report_can_deny_readiness_and_garbage_cannot_claim_it() {
        assert!(says_ready(br#"{"parameters":{"report":{"status":"ok","ready":true}}}"#).is_ok());
        assert!(says_ready(br#"{"parameters":{"status":"degraded","ready":null}}"#).is_ok());
        for not in [
            &br#"{"parameters":{"report":{"status":"ok","ready":false}}}"#[..],
            br#"{"parameters":{"report":{"status":"failed"}}}"#,
            br#"{"parameters":{}}"#,
            br#"{"error":"org.varlink.service.MethodNotFound","parameters":{}}"#,
            b"{}",
            b"[[[",
        ] {
            assert!(says_ready(not).is_err(), "{}", String::from_utf8_lossy(not));
        }
    }
}
