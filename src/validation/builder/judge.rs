//! Runs the check that the job asks for.

use super::Infrastructure;
use super::checks;
use super::job::Job;
use super::outcome::CheckOutcome;
use crate::validation::checks::Kind;

/// Runs the check of the job.
pub(crate) async fn judge(job: &Job) -> Result<CheckOutcome, Infrastructure> {
    no_network()?;
    match &job.spec.kind {
        Kind::Control => Ok(checks::control()),
        Kind::Boot => checks::boot(job).await,
        Kind::Golden(spec) => checks::golden(job, spec).await,
        Kind::Qualify(spec) => checks::qualify(job, spec).await,
        Kind::Reproduction(spec) => checks::reproduction(job, spec).await,
    }
}

/// Refuses a place from which an address of the world is reachable. Nothing is sent: UDP connects by routing alone.
fn no_network() -> Result<(), Infrastructure> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(Infrastructure::system("open a socket"))?;
    match socket.connect("192.0.2.1:9") {
        Ok(()) => Err(Infrastructure::Network),
        Err(_) => Ok(()),
    }
}
