//! Rows of `rei history` and of the quarantine.

use super::Look;
use super::words::{duration_ms, plain, store_path, time};
use crate::cli::ui::Role;
use crate::digest::short;
use crate::interface::operations::{HistoryEntry, QuarantineEntry};
use crate::interface::types::MaintenanceAction;
use crate::narrate;

/// The spaces between two columns.
const GAP: usize = 2;

/// The action as a word with its role.
pub(super) fn action(action: Option<MaintenanceAction>) -> (Role, &'static str) {
    let Some(done) = action else { return (Role::Hint, "under way") };
    let role = match done {
        MaintenanceAction::Promoted => Role::Good,
        MaintenanceAction::Unchanged => Role::Faint,
        MaintenanceAction::RolledBack => Role::Bad,
        MaintenanceAction::Rejected | MaintenanceAction::Restarted | MaintenanceAction::Deferred => Role::Warning,
    };
    (role, narrate::action(done))
}

/// Evolutions and maintenance records, newest first.
pub(in crate::cli) fn history(entries: &[HistoryEntry], look: Look) -> String {
    let rows: Vec<Vec<(Option<Role>, String)>> = entries
        .iter()
        .map(|entry| {
            let (role, done) = action(entry.action);
            let took = match entry.finished_at {
                Some(at) if at == entry.started_at => String::new(),
                Some(at) => duration_ms(at.ms_since(entry.started_at)),
                None => format!("{} so far", duration_ms(look.now.ms_since(entry.started_at))),
            };
            let by = entry.decided_by.clone().unwrap_or_default();
            vec![
                (None, entry.id.clone()),
                (Some(Role::Faint), time(entry.started_at)),
                (None, took),
                (Some(role), done.to_owned()),
                (None, plain(by.strip_prefix("operator:").unwrap_or(&by))),
                (None, plain(&entry.summary)),
            ]
        })
        .collect();
    columns(&["id", "began (UTC)", "took", "end", "by", "what and why"], &rows, look)
}

/// The content in quarantine.
pub(in crate::cli) fn quarantine(entries: &[QuarantineEntry], look: Look) -> String {
    let rows: Vec<Vec<(Option<Role>, String)>> = entries
        .iter()
        .map(|entry| {
            let path = entry.store_path.as_deref().filter(|path| !path.is_empty());
            vec![
                (None, entry.candidate_id.0.clone()),
                (Some(Role::Faint), time(entry.at)),
                (None, short(&entry.tree).to_owned()),
                (None, path.map_or_else(|| "never built".to_owned(), store_path)),
                (None, plain(&entry.reason)),
            ]
        })
        .collect();
    columns(&["candidate", "since (UTC)", "tree", "store path", "why"], &rows, look)
}

/// Aligned columns; the last one is cut at the width.
pub(super) fn columns(head: &[&str], rows: &[Vec<(Option<Role>, String)>], look: Look) -> String {
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|(_, cell)| cell.chars().count());
        cells.chain(head.get(index).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let before_last: usize = widths.iter().rev().skip(1).map(|width| width + GAP).sum();
    let left = look.width.saturating_sub(before_last).max(1);
    let line = |cells: &[(Option<Role>, String)]| {
        let mut line = String::new();
        for (index, (role, cell)) in cells.iter().enumerate() {
            let last = index + 1 == cells.len();
            let cell = if last { cut(cell, left) } else { cell.clone() };
            let pad = if last { 0 } else { widths[index] + GAP - cell.chars().count() };
            line.push_str(&role.map_or_else(|| cell.clone(), |role| look.paint.paint(role, &cell)));
            line.push_str(&" ".repeat(pad));
        }
        line.trim_end().to_owned()
    };
    let head: Vec<(Option<Role>, String)> = head.iter().map(|cell| (Some(Role::Heading), (*cell).to_owned())).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
}

/// At most this many characters; an ellipsis marks a cut.
fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max - 1).chain(['…']).collect(),
    }
}
