//! What rei asks of an instance: the listener, the path and the pause of its requests.

use std::time::Duration;

use super::super::section::Section;
use super::super::{Listen, ListenAddress};

/// More often than this, probing is a load of its own.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The path of a request.
pub(super) fn path(section: &mut Section<'_>, example: &str) -> Option<String> {
    let at = section.value::<String>("path")?;
    if !at.value.starts_with('/') || at.value.contains([' ', '\r', '\n']) {
        section.impossible("path", &at.span, format!("`{}` is no path of a request", at.value), example);
    }
    Some(at.value)
}

pub(super) fn interval(section: &mut Section<'_>) -> Option<Duration> {
    let at = section.value::<Duration>("interval")?;
    if at.value < INTERVAL_MIN {
        section.impossible("interval", &at.span, "an interval below 10ms is a load, not a probe", "\"1s\" is usual");
    }
    Some(at.value)
}

/// The listener that a probe asks: the one named, or the only one that can be meant.
pub(super) fn asked(section: &mut Section<'_>, listeners: Option<&[Listen]>) -> Option<String> {
    let given = section.has("listen").then(|| section.optional::<String>("listen"));
    if given.is_none() {
        // Asked for, so that the key is known.
        let _ = section.optional::<String>("listen");
    }
    // Without listeners to compare with, `runtime` has been refused already.
    let listeners = listeners?;
    let usable: Vec<&str> = listeners.iter().filter(|l| can_probe(l)).map(|l| l.name.as_str()).collect();
    let names = if usable.is_empty() { "none; add one to `runtime.listen`".to_owned() } else { usable.join(", ") };
    let hint = format!("listeners that can be asked: {names}");
    match given {
        None if usable.len() == 1 => Some(usable[0].to_owned()),
        None => {
            let span = section.span();
            section.impossible(
                "listen",
                &span,
                format!("`{}` must say which listener to ask", section.path_of("listen")),
                &hint,
            );
            None
        }
        Some(at) => {
            let at = at?;
            if !usable.contains(&at.value.as_str()) {
                let known = listeners.iter().any(|l| l.name == at.value);
                let why =
                    if known { "is a datagram socket and cannot be asked" } else { "is no listener of this runtime" };
                section.impossible("listen", &at.span, format!("`{}` {why}", at.value), &hint);
            }
            Some(at.value)
        }
    }
}

fn can_probe(listen: &Listen) -> bool {
    !matches!(listen.address, ListenAddress::Udp(_))
}
