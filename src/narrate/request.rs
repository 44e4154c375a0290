//! The words for an operator's request.

use crate::lifecycle::{Request, Trust};

/// A request as a verb phrase that can follow "to": "approve evo_0002".
pub(super) fn request(of: &Request) -> String {
    match of {
        Request::Evolve { rev, blueprint } => {
            let rev = rev.as_ref().map_or_else(String::new, |rev| format!(" to {rev}"));
            let blueprint = blueprint.as_ref().map_or_else(String::new, |name| format!(" by the blueprint {name}"));
            format!("begin an evolution{rev}{blueprint}")
        }
        Request::Approve { id } => format!("approve {id}"),
        Request::Reject { id, reason } => format!("reject {id}{}", because(reason)),
        Request::Rollback { to: None } => "roll back to Previous".to_owned(),
        Request::Rollback { to: Some(generation) } => format!("roll back to generation {generation}"),
        Request::Pause => "begin no more evolutions".to_owned(),
        Request::Resume => "begin evolutions again".to_owned(),
        Request::Release { content } => format!("release {content} from quarantine"),
        Request::Settle { trust: Trust::Reality, reason } => format!("trust what serves{}", because(reason)),
        Request::Settle { trust: Trust::Journal, reason } => format!("trust the journal{}", because(reason)),
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
