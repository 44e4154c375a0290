//! The two sockets: opened, and who may use them.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::calls::{EvolutionService, OperationsService};
use super::error::StartError;
use super::executor::Executor;
use super::input::Input;
use super::reach::Reach;
use super::sync::AbortOnDrop;
use crate::interface::access::Access;
use crate::interface::evolution::serve_evolution;
use crate::interface::operations::{MonitorEvent, serve_operations};
use crate::interface::secret::Secret;
use crate::interface::socket::Socket;
use crate::runtime::cgroup::is_instance_cgroup;
use crate::runtime::isolation::group_named;

/// Opens both sockets: the operators' group may use the one that is theirs.
///
/// # Errors
/// When a socket, or what its callers prove themselves by, cannot be made.
pub fn serve(
    executor: &Executor,
    reach: &Reach,
    subscribers: &broadcast::Sender<MonitorEvent>,
) -> Result<[AbortOnDrop<()>; 2], StartError> {
    let paths = &executor.tools.paths;
    let operators = match &executor.tools.config.state.operators {
        Some(name) => Some(group_named(name).map_err(|source| StartError::Operators { name: name.clone(), source })?),
        None => None,
    };
    let bind = |path: PathBuf, group| Socket::bind(&path, group).map_err(|source| StartError::Socket { path, source });
    let (control, facade) = (bind(paths.control(), operators)?, bind(paths.facade(), None)?);
    // Nobody is served before, and no other supervisor serves here: its secret would be lost.
    let file = paths.secret();
    let secret = Secret::make(&file, operators);
    let secret = Arc::new(secret.map_err(|source| StartError::File { act: "write", path: file, source })?);
    reach.look(&executor.tools);
    let reach = reach.clone();
    let trees = executor.instances.trees();
    let (told, inputs) = (executor.inputs.clone(), executor.inputs.clone());
    let access = Access::own_user()
        .refuse_instances(move |pid| trees.contains(pid))
        .refuse_instance_cgroups(is_instance_cgroup)
        .refuse_descendants_of(std::process::id())
        .ask_for_proof(move || reach.proof(&secret))
        .on_refusal(move |refusal| {
            if refusal.reason.is_policy_anomaly() {
                // A full queue has worse to tell.
                let _ = told.try_send(Input::Intruder(refusal.to_string()));
            }
        });
    let operations = Arc::new(OperationsService { inputs: inputs.clone(), subscribers: subscribers.clone() });
    let evolution = Arc::new(EvolutionService { inputs });
    let own = access.clone();
    let theirs = operators.into_iter().fold(access, Access::group);
    Ok([
        AbortOnDrop(tokio::spawn(serve_operations(control, operations, theirs))),
        AbortOnDrop(tokio::spawn(serve_evolution(facade, evolution, own))),
    ])
}
