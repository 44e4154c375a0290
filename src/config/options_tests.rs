//! Makes `rei.toml` and `docs/options.md` out of the descriptions, and keeps them equal.

use std::fmt::Write as _;
use std::path::Path;

use toml_edit::{Item, Table, Value};

use super::options::{document, keys, text};
use super::{Config, Place, template};

/// What stands above the sections of `rei.toml`.
const HEAD: &str = "\
# What rei needs to know about one runtime.
#
# `#key` shows a default: take the `#` away to change it.
# `#?key` shows something that is off until you write it; the values shown are the defaults of its own keys, if it can
# have any. `rei check` tells whether the file and the machine are right; SIGHUP makes a running rei read it again.
# Durations: \"250ms\", \"1s\", \"5m\", \"2h\", \"1d\". Sizes: \"64MiB\". Paths that are not absolute begin where this file is.
";

/// What stands above the table of `docs/options.md`.
const PAGE: &str = "\
# The keys of rei.toml

Made from `src/config/options.toml` by `REI_BLESS=1 cargo test --lib config`. `rei init` writes the same as a commented file,
and the NixOS module has each key as an option of `settings`.

A change of the file is taken at a reload (`systemctl reload`, SIGHUP): *at once*, for the *next start* of an instance, or
not before a *restart* of rei. In the last case the whole file is refused until then.
";

/// The longest line of the file, in characters, with its remark.
const LINE_MAX: usize = 120;
/// Names up to this length are aligned in their section; longer ones stand out.
const NAME_MAX: usize = 14;
/// Assignments up to this length have their remarks in one column.
const ASSIGNMENT_MAX: usize = 46;

fn tables(name: &str) -> Vec<Table> {
    document().get(name).and_then(Item::as_array_of_tables).unwrap().iter().cloned().collect()
}

fn last_name(key: &Table) -> &str {
    text(key, "name").unwrap().rsplit('.').next().unwrap()
}

fn below<'a>(keys: &'a [Table], parent: &str) -> Vec<&'a Table> {
    let inside = |key: &&Table| text(key, "name").unwrap().rsplit_once('.').is_some_and(|(above, _)| above == parent);
    keys.iter().filter(inside).collect()
}

fn value(item: &Item) -> String {
    // A table without keys is written as the inline one that it is.
    item.as_value().map(shown).unwrap_or_default()
}

/// A value as an operator would write it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(all) => format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::InlineTable(all) if all.is_empty() => "{}".to_owned(),
        Value::InlineTable(all) => {
            let inside = all.iter().map(|(name, value)| format!("{name} = {}", shown(value)));
            format!("{{ {} }}", inside.collect::<Vec<_>>().join(", "))
        }
        other => other.clone().decorated("", "").to_string(),
    }
}

/// The value that the file shows: the default, or an example; of a part, those of its keys.
fn example(key: &Table, keys: &[Table]) -> String {
    if text(key, "type") == Some("part") {
        let inside = below(keys, text(key, "name").unwrap());
        let inside = inside.iter().map(|key| format!("{} = {}", last_name(key), example(key, keys)));
        return format!("{{ {} }}", inside.collect::<Vec<_>>().join(", "));
    }
    key.get("example").or_else(|| key.get("default")).map(value).unwrap()
}

fn is(key: &Table, name: &str) -> bool {
    key.get(name).and_then(Item::as_bool).unwrap_or(false)
}

/// A text in lines behind `# `.
fn comment(file: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > LINE_MAX {
            writeln!(file, "{line}").unwrap();
            line = String::from("#");
        }
        write!(line, " {word}").unwrap();
    }
    writeln!(file, "{line}").unwrap();
}

/// `rei.toml` as it is shipped.
fn template_of(sections: &[Table], keys: &[Table]) -> String {
    let mut file = HEAD.to_owned();
    for section in sections {
        let name = text(section, "name").unwrap();
        file.push('\n');
        comment(&mut file, text(section, "doc").unwrap());
        let named = (text(section, "type") == Some("part")).then(|| format!("{name}.NAME"));
        match &named {
            Some(named) => writeln!(file, "#?[{named}]").unwrap(),
            None => writeln!(file, "[{name}]").unwrap(),
        }
        if text(section, "type").is_some() && named.is_none() {
            let values = section.get("example").and_then(Item::as_inline_table).unwrap();
            values.iter().for_each(|(name, value)| writeln!(file, "#?{name} = {}", shown(value)).unwrap());
        }
        let inside = below(keys, named.as_deref().unwrap_or(name));
        let fits = |length: &usize| *length <= NAME_MAX;
        let width = inside.iter().map(|key| last_name(key).len()).filter(fits).max().unwrap_or(0);
        let assignments: Vec<String> = inside
            .iter()
            .map(|key| {
                let mark = match () {
                    () if named.is_some() => "#?",
                    () if is(key, "required") || is(key, "shown") => "",
                    () if key.contains_key("default") => "#",
                    () => "#?",
                };
                format!("{mark}{:width$} = {}", last_name(key), example(key, keys))
            })
            .collect();
        let short = |length: &usize| *length <= ASSIGNMENT_MAX;
        let column = assignments.iter().map(|line| line.chars().count()).filter(short).max().unwrap_or(0);
        for (key, assignment) in inside.iter().zip(assignments) {
            let doc = text(key, "doc").unwrap();
            let line = format!("{assignment:column$}  # {doc}");
            if line.chars().count() <= LINE_MAX {
                writeln!(file, "{line}").unwrap();
            } else {
                comment(&mut file, doc);
                writeln!(file, "{assignment}").unwrap();
            }
        }
    }
    file
}

/// The words of a type for an operator.
fn type_of(key: &Table) -> String {
    let word = match text(key, "type").unwrap() {
        "choice" => {
            let values = key.get("values").and_then(Item::as_array).unwrap();
            return values.iter().map(|value| format!("`{}`", shown(value))).collect::<Vec<_>>().join(", ");
        }
        "name" | "string" | "signal" => "text",
        "path" => "path",
        "duration" => "duration",
        "size" => "size",
        "share" => "0 to 1",
        "count" => "number from 1",
        "number" => "number",
        "switch" => "true or false",
        "strings" | "command" | "program" => "list of texts",
        "fixture" => "text, or list of texts",
        "ports" => "list of ports",
        "variables" => "table of texts",
        "names" => "text, or table of texts",
        "part" => "table",
        "tables" => "list of tables",
        other => panic!("{other} is no type"),
    };
    word.to_owned()
}

/// `docs/options.md`.
fn page_of(sections: &[Table], keys: &[Table]) -> String {
    let mut page = PAGE.to_owned();
    for section in sections {
        let name = text(section, "name").unwrap();
        writeln!(page, "\n## `[{name}]`\n\n{}\n", text(section, "doc").unwrap()).unwrap();
        let mut rows = String::new();
        let inside = format!("{name}.");
        for key in keys.iter().filter(|key| text(key, "name").unwrap().starts_with(&inside)) {
            let default = match () {
                () if is(key, "required") => "must be given".to_owned(),
                () if text(key, "type") == Some("part") && key.contains_key("default") => "on".to_owned(),
                () => key.get("default").map_or_else(|| "off".to_owned(), |item| format!("`{}`", value(item))),
            };
            let when = match text(key, "when") {
                Some("restart") => "restart",
                Some("next-start") => "next start",
                _ => "at once",
            };
            // The keys of a part change with it.
            let when = if text(key, "name").unwrap().matches('.').count() > 1 { "" } else { when };
            let (name, kind, doc) = (text(key, "name").unwrap(), type_of(key), text(key, "doc").unwrap());
            writeln!(rows, "| `{}` | {kind} | {default} | {when} | {doc} |", &name[inside.len()..]).unwrap();
        }
        if rows.is_empty() {
            let example = section.get("example").map(value).unwrap();
            writeln!(page, "The names are yours: `{example}`.").unwrap();
        } else {
            page.push_str("| key | type | default | a change is taken | what it is |\n|---|---|---|---|---|\n");
            page.push_str(&rows);
        }
    }
    page
}

/// The file must be what the descriptions say, to the letter; `REI_BLESS=1` writes it.
fn check(path: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("REI_BLESS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let difference = there.lines().zip(made.lines()).find(|(file, made)| file != made);
    assert!(there == made, "{} differs ({difference:?}): REI_BLESS=1 cargo test --lib config", path.display());
}

#[test]
fn the_shipped_file_is_made_from_the_descriptions() {
    check("src/config/rei.toml", &template_of(&tables("section"), &tables("key")));
}

#[test]
fn the_page_of_the_keys_is_made_from_the_descriptions() {
    check("docs/options.md", &page_of(&tables("section"), &tables("key")));
}

#[test]
fn every_field_of_a_configuration_has_its_key() {
    let place = Place { directory: "/etc/rei".into(), root: true, state_home: None };
    let config = Config::from_toml(template::TEXT, &place).unwrap();
    let tree = serde_json::to_value(&config).unwrap();
    let named = ["agents", "commands"];
    let fields = tree.as_object().unwrap().iter().filter(|(section, _)| !named.contains(&section.as_str()));
    let known: Vec<String> = keys().into_iter().flat_map(|key| key.fields).collect();
    let mut all = Vec::new();
    for (section, inside) in fields {
        all.extend(inside.as_object().unwrap().keys().map(|field| format!("{section}.{field}")));
    }
    let lost: Vec<&String> = all.iter().filter(|field| !known.contains(field)).collect();
    assert!(lost.is_empty(), "options.toml describes no key for {lost:?}");
    let gone: Vec<&String> = known.iter().filter(|field| !all.contains(field)).collect();
    assert!(gone.is_empty(), "options.toml describes {gone:?}, and a configuration has none of them");
}

#[test]
fn every_description_is_whole() {
    let types = include_str!("../../modules/settings.nix");
    for key in tables("key") {
        let name = text(&key, "name").unwrap();
        let kind = text(&key, "type").unwrap_or_else(|| panic!("{name} has no type"));
        assert!(types.contains(&format!("\n    {kind} = ")), "modules/settings.nix has no type {kind}");
        assert!(text(&key, "doc").is_some_and(|doc| doc.ends_with(['.', '…'])), "{name} needs a sentence");
        assert!(text(&key, "when").is_none_or(|when| ["now", "next-start", "restart"].contains(&when)), "{name}");
        let has_value = kind == "part" || key.contains_key("default") || key.contains_key("example");
        assert!(has_value, "{name} needs a default or an example");
        assert!(!is(&key, "required") || !key.contains_key("default"), "{name} must be given, and has a default");
    }
}
