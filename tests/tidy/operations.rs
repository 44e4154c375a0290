//! An operation is a row of its interface's table and a handler: no other code of the interface or the service spells it.

use regex::Regex;

use crate::{files, none, read};

/// The tables of the two interfaces.
const TABLES: &[&str] = &["src/interface/operations.rs", "src/interface/evolution.rs"];

/// The handlers of the service.
const HANDLERS: &str = "src/service/calls.rs";

/// A runtime is no supervisor: it answers the calls of the evolution interface itself.
const RUNTIME: &str = "src/interface/runtime.rs";

/// Rows whose replies are a series, so that the service and the client have a function for the series.
const SERIES: &[&str] = &["monitor", "report_runtime_health"];

#[test]
fn an_operation_is_a_row_and_a_handler() {
    let row = Regex::new(r"(?m)^\s*= (?:anyone|operator|stream|repeated) (\w+)").unwrap();
    let tables: Vec<String> = TABLES.iter().map(|table| read(table)).collect();
    let operations: Vec<&str> =
        tables.iter().flat_map(|table| row.captures_iter(table)).map(|row| row.get(1).unwrap().as_str()).collect();
    assert!(operations.len() > 15, "the rows were not found: {operations:?}");
    let (files, handlers) = (files(), read(HANDLERS));
    let mut findings = Vec::new();
    for operation in operations {
        let asynchronous = format!("async fn {operation}(");
        for file in &files {
            let is_made = file.path.starts_with("src/interface/") && file.path != RUNTIME || file.path == HANDLERS;
            if is_made && !SERIES.contains(&operation) && file.text.contains(&asynchronous) {
                findings.push(format!("{}: `{operation}` is made from its row in the table", file.path));
            }
        }
        if !handlers.contains(&format!("fn {operation}(")) {
            findings.push(format!("{HANDLERS}: no handler of `{operation}`"));
        }
    }
    none("an operation is a row and a handler", findings);
}
