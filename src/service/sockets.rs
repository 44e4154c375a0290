//! Opens the two sockets, and decides which callers may use them.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::StartError;
use super::executor::Executor;
use super::input::Input;
use super::reach::Reach;
use super::sync::AbortOnDrop;
use crate::interface::access::Access;
use crate::interface::evolution::serve_evolution;
use crate::interface::operations::serve_operations;
use crate::interface::queue::CallQueue;
use crate::interface::secret::Secret;
use crate::interface::socket::Socket;
use crate::runtime::cgroup::is_instance_cgroup;
use crate::runtime::isolation::group_named;

/// Opens both sockets. The operators' group may use the control socket only.
///
/// # Errors
/// When a socket, or the secret by which its callers prove themselves, cannot be created.
pub fn serve(executor: &Executor, reach: &Reach) -> Result<[AbortOnDrop<()>; 2], StartError> {
    let paths = &executor.tools.paths;
    let operators = match &executor.tools.config.state.operators {
        Some(name) => Some(group_named(name).map_err(|source| StartError::Operators { name: name.clone(), source })?),
        None => None,
    };
    let bind = |path: PathBuf, group| Socket::bind(&path, group).map_err(|source| StartError::Socket { path, source });
    let (control, evolution_socket) = (bind(paths.control(), operators)?, bind(paths.evolution(), None)?);
    // Both sockets are bound, so no other supervisor serves here: a new secret would make that supervisor's secret
    // useless. No caller is served before the secret exists.
    let file = paths.secret();
    let secret = Secret::make(&file, operators);
    let secret = Arc::new(secret.map_err(|source| StartError::File { act: "write", path: file, source })?);
    reach.look(&executor.tools);
    let reach = reach.clone();
    let trees = executor.instances.trees();
    let (intruders, inputs) = (executor.inputs.clone(), executor.inputs.clone());
    let access = Access::own_user()
        .refuse_instances(move |pid| trees.contains(pid))
        .refuse_instance_cgroups(is_instance_cgroup)
        .refuse_descendants_of(std::process::id())
        .ask_for_proof(move || reach.proof(&secret))
        .on_refusal(move |refusal| {
            if refusal.reason.is_policy_anomaly() {
                // If the queue is full, the report is dropped, because other inputs matter more.
                let _ = intruders.try_send(Input::Intruder(refusal.to_string()));
            }
        });
    let calls = Arc::new(CallQueue(inputs));
    let own = access.clone();
    let theirs = operators.into_iter().fold(access, Access::group);
    Ok([
        AbortOnDrop(tokio::spawn(serve_operations(control, Arc::clone(&calls), theirs))),
        AbortOnDrop(tokio::spawn(serve_evolution(evolution_socket, calls, own))),
    ])
}
