//! From the text of a `rei.toml` to a [`Config`], or to everything that is wrong with it.

mod asked;
mod change;
mod house;
mod paths;
mod requests;
mod runtime;
mod signals;

use std::ops::Range;

use toml_edit::Document;

use super::problem::{Problem, Problems};
use super::section::Section;
use super::{Config, Place, template};

/// Lines with broken syntax that are told in one go; behind that many the rest is noise.
const SYNTAX_PROBLEMS_MAX: usize = 10;

impl Config {
    /// Reads a whole `rei.toml`. Pure: what it depends on besides the text is in `place`.
    ///
    /// # Errors
    /// All mistakes of the file, in its order.
    pub fn from_toml(text: &str, place: &Place) -> Result<Self, Vec<Problem>> {
        let problems = Problems::default();
        let config = match syntax(text) {
            Ok(document) => read(&document, place, &problems),
            Err(faults) => {
                for (span, message) in faults {
                    problems.add("", span, format!("not TOML: {message}"), None);
                }
                None
            }
        };
        let problems = problems.into_vec(text);
        config.filter(|_| problems.is_empty()).ok_or(problems)
    }
}

/// The document, or each line that breaks it: a broken line is blanked and the rest read again.
fn syntax(text: &str) -> Result<Document<String>, Vec<(Range<usize>, String)>> {
    let mut faults: Vec<(Range<usize>, String)> = Vec::new();
    let mut rest = text.to_owned();
    let mut line_before = None;
    loop {
        let error = match Document::parse(rest.clone()) {
            Ok(document) if faults.is_empty() => return Ok(document),
            Ok(_) => return Err(faults),
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let start = rest.floor_char_boundary(span.start);
        let line = rest[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = rest[line..].find('\n').map_or(rest.len(), |newline| line + newline);
        // The line after a broken one is often only its victim: an open bracket or quote.
        if line_before != Some(line) {
            faults.push((span, error.message().lines().next().unwrap_or("broken syntax").to_owned()));
        }
        if faults.len() >= SYNTAX_PROBLEMS_MAX || rest[line..end].trim().is_empty() {
            return Err(faults);
        }
        rest.replace_range(line..end, &" ".repeat(end - line));
        line_before = Some(end + 1);
    }
}

fn read(document: &Document<String>, place: &Place, problems: &Problems) -> Option<Config> {
    let defaults = template::defaults();
    let mut root = Section::root(document.as_table(), &defaults, problems);
    let runtime = runtime::runtime(root.section("runtime"), place);
    let listeners = runtime.as_ref().map(|(runtime, _)| runtime.listen.as_slice());
    let health = signals::health(root.section("health"), listeners, place);
    let incidents = signals::incidents(root.section("incidents"), health.as_ref());
    let promotion = root.section("promotion");
    let evolution = change::evolution(root.section("evolution"));
    let validation = change::validation(root.section("validation"), place);
    let agents = change::agents(&root.section("agents"), place);
    let blueprints = change::blueprints(root.section("blueprints"), agents.as_ref(), place);
    let commands = change::commands(&root.section("commands"), place);
    let traffic = house::traffic(root.section("traffic"));
    let golden = house::golden(root.section("golden"), listeners);
    let (of, tap) = (runtime.as_ref().map(|(runtime, _)| runtime), traffic.as_ref().map(|traffic| traffic.tap));
    let promotion = change::promotion(promotion, of, tap);
    let isolation = house::isolation(root.section("isolation"));
    let names = runtime.as_ref().map(|(runtime, source)| (runtime.name.as_str(), source.as_deref()));
    let state = house::state(root.section("state"), names, place);
    root.close();
    Some(Config {
        runtime: runtime?.0,
        health: health?,
        incidents: incidents?,
        promotion: promotion?,
        evolution: evolution?,
        validation: validation?,
        blueprints: blueprints?,
        agents: agents?,
        commands: commands?,
        traffic: traffic?,
        golden: golden?,
        isolation: isolation?,
        state: state?,
    })
}
