//! The report: the measured rows, the goals, and notes; printed and written as JSON.

use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, TableStyle};
use serde::Serialize;

/// The version of the JSON format.
const SCHEMA: &str = "rei-bench/1.0";

/// One distribution.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub chapter: &'static str,
    pub what: String,
    pub n: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    pub unit: &'static str,
}

/// One goal, and whether this run met it.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub chapter: &'static str,
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub met: bool,
}

/// All rows, goals and notes of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    machine: String,
    load_before: String,
    load_after: String,
    rows: Vec<Row>,
    goals: Vec<Goal>,
    notes: Vec<String>,
}

impl Report {
    pub fn new() -> Self {
        let kernel = read("/proc/sys/kernel/osrelease");
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let machine = format!("Linux {kernel}, {processors} processors");
        let (load_before, load_after) = (read("/proc/loadavg"), String::new());
        Self { schema: SCHEMA, machine, load_before, load_after, rows: vec![], goals: vec![], notes: vec![] }
    }

    /// Adds a distribution and returns its median.
    pub fn row(&mut self, chapter: &'static str, what: &str, unit: &'static str, mut values: Vec<f64>) -> Option<f64> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let (p50, p99) = (quantile(&values, 0.5), quantile(&values, 0.99));
        println!("  {what}: p50 {p50:.3}, p99 {p99:.3}, max {max:.3} {unit} (n = {})", values.len());
        self.rows.push(Row { chapter, what: what.to_owned(), n: values.len(), p50, p99, max, unit });
        Some(p50)
    }

    pub fn p50(&self, chapter: &str, what: &str) -> Option<f64> {
        self.find(chapter, what).map(|row| row.p50)
    }

    pub fn p99(&self, chapter: &str, what: &str) -> Option<f64> {
        self.find(chapter, what).map(|row| row.p99)
    }

    fn find(&self, chapter: &str, what: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.chapter == chapter && row.what == what)
    }

    pub fn goal(&mut self, chapter: &'static str, what: &str, wanted: &str, measured: String, met: bool) {
        self.goals.push(Goal { chapter, what: what.to_owned(), wanted: wanted.to_owned(), measured, met });
    }

    /// Prints and keeps a note for the readers of the figures.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        println!("  {note}");
        self.notes.push(note);
    }

    pub fn finish(mut self, path: &Path) -> std::io::Result<()> {
        self.load_after = read("/proc/loadavg");
        println!("\n{}; load {} before, {} after\n", self.machine, self.load_before, self.load_after);
        let mut table = Table::new();
        table.load_style(TableStyle::new()).set_header(["", "measured", "n", "p50", "p99", "max", "unit"]);
        for row in &self.rows {
            let [p50, p99, max] = [row.p50, row.p99, row.max].map(|value| format!("{value:.3}"));
            table.add_row([row.chapter, &row.what, &row.n.to_string(), &p50, &p99, &max, row.unit]);
        }
        for column in table.column_iter_mut().skip(2).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}\n");
        let mut table = Table::new();
        table.load_style(TableStyle::new()).set_header(["", "goal", "wanted", "measured", ""]);
        for goal in &self.goals {
            let word = if goal.met { "met" } else { "MISSED" };
            table.add_row([goal.chapter, &goal.what, &goal.wanted, &goal.measured, word]);
        }
        println!("{table}\n");
        self.notes.iter().for_each(|note| println!("* {note}"));
        std::fs::write(path, serde_json::to_vec_pretty(&self)?)?;
        println!("\nthe whole report: {}", path.display());
        Ok(())
    }
}

/// A quantile of sorted values: the smallest value that is not below the fraction `q` of them.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
