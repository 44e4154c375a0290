//! The followed ref, looked after beside the loop.

use std::sync::Arc;
use std::time::Duration;

use super::failure::reason;
use super::input::{Input, Inputs};
use super::sync::AbortOnDrop;
use super::tools::Tools;
use crate::lifecycle::{Event, Lifecycle};
use crate::source::{Follower, ObjectId};

/// The pause after the followed ref could not be looked at.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);

/// The commit that needs no telling: the last that was told, or else Active's.
pub fn followed(core: &Lifecycle) -> Option<ObjectId> {
    let active = || core.active().map(|active| &*active.version.rev);
    ObjectId::parse(core.followed().or_else(active)?)
}

/// Looks after the followed ref and tells each new commit.
pub fn follow(tools: Arc<Tools>, seen: Option<ObjectId>, inputs: Inputs) -> AbortOnDrop<()> {
    AbortOnDrop(tokio::spawn(async move {
        let mut follower = Follower::new(tools.mirror.clone(), tools.config.runtime.poll, seen);
        // A source that is away for a day is told once.
        let mut told_of: Option<String> = None;
        let mut prepared = false;
        loop {
            let told = async {
                if !prepared {
                    tools.mirror.prepare().await?;
                    prepared = true;
                }
                let commit = follower.next().await?;
                tools.mirror.fetch().await?;
                let tree = tools.mirror.tree(&commit).await?;
                Ok::<_, crate::source::Error>(Event::Followed { rev: commit.to_string(), tree: tree.to_string() })
            };
            match told.await {
                Ok(event) => {
                    if told_of.take().is_some() {
                        tracing::info!("the source can be read again");
                    }
                    if inputs.send(Input::Event(event)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let why = reason(&error, error.hint());
                    if told_of.as_ref() != Some(&why) {
                        tracing::warn!("cannot follow the source, Active goes on: {why}");
                        told_of = Some(why);
                    }
                    tokio::time::sleep(FOLLOW_RETRY).await;
                }
            }
        }
    }))
}
