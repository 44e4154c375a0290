//! One line for one event.

use super::Look;
use super::words::{plain, time_of_day};
use crate::cli::ui::Role;
use crate::interface::operations::MonitorEvent;

/// The width of the kind, in columns.
const KIND: usize = 10;

/// The event as one line of `rei status --watch` without a terminal.
pub(in crate::cli) fn line(event: &MonitorEvent, look: Look) -> String {
    let role = match event.kind.as_str() {
        "incident" => Role::Bad,
        "decision" | "verdict" => Role::Heading,
        "progress" | "log" => Role::Faint,
        _ => Role::Hint,
    };
    let at = look.paint.paint(Role::Faint, &time_of_day(event.at));
    let kind = look.paint.paint(role, &format!("{:KIND$}", plain(&event.kind)));
    format!("{at}  {kind}  {}", plain(&event.text))
}
