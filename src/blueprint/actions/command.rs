//! `run`: runs a command of the operator in the workspace. It is confined like an agent, because it handles an agent's
//! files.

use std::collections::BTreeMap;

use super::{ACTION_TIMEOUT, ActionContext, Failure, Made, agent};
use crate::blueprint::confine::{self, Confined};

/// Memory limit of a command, in bytes; enough for a compiler or formatter.
const MEMORY_BYTES: u64 = 4 << 30;
/// How much of each output stream of a command is kept, in bytes.
const OUTPUT_BYTES: usize = 1 << 20;

pub(super) async fn run<W>(ctx: &mut ActionContext<'_, W>, name: &str) -> Result<Made, Failure> {
    let words = ctx.job.commands.get(name).filter(|words| !words.is_empty());
    let Some([program, args @ ..]) = words.map(Vec::as_slice) else {
        return Err(Failure::new(format!("rei.toml has no command {name:?}")));
    };
    let dirs = agent::AgentDirs::prepare(ctx).await?;
    let env = [("PATH", confine::PATH), ("LC_ALL", "C.UTF-8")].map(|(name, value)| (name.into(), value.into()));
    let confined = Confined {
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        env: BTreeMap::from_iter(env.into_iter().chain(dirs.env())),
        dir: ctx.workspace.dir().to_owned(),
        write: dirs.write(ctx),
        read: dirs.read(),
        hide: ctx.job.state_dir.clone(),
        network: false,
        memory_bytes: MEMORY_BYTES,
        timeout: ctx.stage.timeout.unwrap_or(ACTION_TIMEOUT),
        output_bytes: OUTPUT_BYTES,
        stdin: Vec::new(),
        secrets: ctx.job.secrets.clone(),
    };
    let ended = confined.run().await?;
    let log = ended.log();
    match ended.failure() {
        None => Ok(Made::one(format!("command {name:?} exited with 0"), "output", log)),
        Some(failure) => Err(Failure::new(format!("command {name:?} {failure}")).with_log(log)),
    }
}
