//! Follows the ref in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use super::failure::reason;
use super::input::{Input, Inputs};
use super::sync::AbortOnDrop;
use super::tools::Tools;
use crate::lifecycle::{Event, Lifecycle};
use crate::source::{Follower, ObjectId};

/// The pause after the followed ref could not be read.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);

/// The commit that needs no report: the last commit that was reported, or else Active's.
pub fn followed(core: &Lifecycle) -> Option<ObjectId> {
    let active = || core.active().map(|active| &*active.version.rev);
    ObjectId::parse(core.followed().or_else(active)?)
}

/// Follows the ref and sends each new commit to the loop.
pub fn follow(tools: Arc<Tools>, seen: Option<ObjectId>, inputs: Inputs) -> AbortOnDrop<()> {
    AbortOnDrop(tokio::spawn(async move {
        let mut follower = Follower::new(tools.mirror.clone(), tools.config.runtime.poll, seen);
        // The failure that was logged last. A source that is unreachable for a day is logged once.
        let mut logged: Option<String> = None;
        let mut prepared = false;
        loop {
            let next = async {
                if !prepared {
                    tools.mirror.prepare().await?;
                    prepared = true;
                }
                let commit = follower.next().await?;
                tools.mirror.fetch().await?;
                let tree = tools.mirror.tree(&commit).await?;
                Ok::<_, crate::source::Error>(Event::Followed { rev: commit.to_string(), tree: tree.to_string() })
            };
            match next.await {
                Ok(event) => {
                    if logged.take().is_some() {
                        tracing::info!("the source can be read again");
                    }
                    if inputs.send(Input::Event(event)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let why = reason(&error, error.hint());
                    if logged.as_ref() != Some(&why) {
                        tracing::warn!("cannot follow the source, Active continues to serve: {why}");
                        logged = Some(why);
                    }
                    tokio::time::sleep(FOLLOW_RETRY).await;
                }
            }
        }
    }))
}
