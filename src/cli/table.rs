//! Aligned columns.

use comfy_table::{ContentArrangement, Table, TableStyle};

/// A table without lines, with two spaces between its columns, at most `width` columns wide.
pub(super) fn aligned(head: &[&str], rows: Vec<Vec<String>>, width: u16) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let shown = |row: Vec<String>| row.iter().map(|cell| super::terminal::line(cell)).collect::<Vec<_>>();
    table.set_header(head).add_rows(rows.into_iter().map(shown));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
