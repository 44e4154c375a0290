//! docs/cli.md agrees with the program: this test runs every example, and looks for every command and flag.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use rei::golden::{Exchange, Expected, Header, Writer};
use rei::history::{EvolutionStep, EvolutionView};
use rei::http::Request;
use rei::interface::operations::{ShowKind, ShowReply};
use rei::interface::types::Evidence;
use rei::time::Timestamp;
use serde_json::json;

use super::fakes::{Served, operations};
use super::{Access, rei, shapes};

/// The directory and the address of the runtime in the examples of the page.
const HOME: &str = "/srv/greeter";
const ADDRESS: &str = "127.0.0.1:8080";

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")
}

fn page() -> String {
    std::fs::read_to_string(place()).unwrap()
}

/// A server whose answer differs from the recorded one.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let body = r#"{"greeting":"bye"}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    address
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The directory for the examples: two configurations, a golden run, a journal, and a supervisor that answers.
fn home(address: SocketAddr) -> Served {
    let served = operations(Access::own_user());
    let directory = served.path.parent().unwrap().to_owned();
    let toml = format!(
        "[runtime]\nname = \"greeter\"\nsource = \"{HOME}\"\ncommand = [\"bin/greeter\"]\nlisten = [\"http={address}\"]\n\
         [validation]\ngolden = [\"golden\"]\n[state]\ndirectory = \"{}\"\n",
        directory.display()
    );
    write(&directory.join("rei.toml"), &toml);
    write(&directory.join("wrong.toml"), &toml.replace("command", "comand"));
    let run = directory.join("golden/hello.golden.jsonl");
    std::fs::create_dir(directory.join("golden")).unwrap();
    let mut writer =
        Writer::create(&run, &Header::new("hello", "http", Timestamp::from_unix_ms(1_795_359_670_000))).unwrap();
    let good = br#"{"greeting":"hello"}"#.to_vec();
    let response = Some(Expected { status: 200, headers: vec![], body: Some(good) });
    writer
        .push(Exchange { request: Request::get("/greet/ada"), response, after_ms: 0, ..Exchange::default() })
        .unwrap();
    writer.finish().unwrap();
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/journal.in/whole");
    for name in ["000000000001.jsonl", "000000000004.jsonl"] {
        write(&directory.join("journal").join(name), &std::fs::read_to_string(whole.join(name)).unwrap());
    }
    served
}

/// The object that the supervisor shows for this id.
fn object(id: &str) -> ShowReply {
    let record = shapes::show_reply();
    let evidence: Vec<Evidence> = record.evidence.clone();
    let (kind, object, evidence) = match id.split('_').next().unwrap() {
        "evo" => (ShowKind::Evolution, json!(evolution()), vec![]),
        "inc" => (ShowKind::Incident, json!(shapes::incident()), evidence),
        "ctx" => (ShowKind::Context, json!(shapes::evolution_context()), evidence),
        "cand" => (ShowKind::Candidate, json!(shapes::candidate()), vec![]),
        "val" => (ShowKind::Report, json!(shapes::validation_report()), vec![]),
        _ => (record.kind, record.object.clone(), vec![]),
    };
    ShowReply { kind, id: id.to_owned(), object, evidence, ..record }
}

fn evolution() -> EvolutionView {
    let entry = shapes::history_entry();
    let step = EvolutionStep {
        name: "building".into(),
        started_at: entry.started_at,
        finished_at: entry.finished_at,
        duration_ms: Some(1000),
        detail: Some("fix".into()),
        journal_seq: 12,
    };
    EvolutionView {
        entry,
        blueprint: "repair".into(),
        rev: None,
        asked_by: Some("operator:ada".into()),
        files_changed: vec!["src/main.rs".into()],
        steps: vec![step],
    }
}

/// The output of the command in that directory, with the directory and address of the page.
async fn printed(served: &Served, address: SocketAddr, line: &str) -> String {
    let args: Vec<&str> = line.split_whitespace().collect();
    // A stream has no end; other tests read it.
    if args.contains(&"--watch") {
        return serde_json::to_string(&shapes::monitor_event()).unwrap() + "\n";
    }
    if let ["show", id, ..] = args[..] {
        *served.owner.shown.lock().unwrap() = Some(object(id));
    }
    *served.owner.history_summary.lock().unwrap() = shapes::history_entry().summary;
    let output = rei(served, &args).await;
    let directory = served.path.parent().unwrap().display().to_string();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "rei {line}: {}", String::from_utf8_lossy(&output.stderr));
    text.replace(&directory, HOME).replace(&address.to_string(), ADDRESS)
}

/// With `UPDATE_DOCS` set, this test writes the examples anew.
#[tokio::test]
async fn each_example_is_the_real_output() {
    const BEGIN: &str = "```console\n$ rei ";
    let address = server();
    let served = home(address);
    let (old, mut new, mut count) = (page(), String::new(), 0);
    let mut rest = old.as_str();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (line, after) = after.split_once('\n').unwrap();
        let (_, after) = after.split_once("```\n").expect("a block that ends");
        new.extend([before, BEGIN, line, "\n", &printed(&served, address, line).await, "```\n"]);
        (rest, count) = (after, count + 1);
    }
    new += rest;
    assert!(count > 10, "only {count} examples");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(place(), &new).unwrap();
    } else if let Some((old, new)) = old.lines().zip(new.lines()).find(|(old, new)| old != new) {
        panic!("docs/cli.md says\n{old}\nwhere rei says\n{new}\nWith UPDATE_DOCS=1 this test writes it anew.");
    }
    assert_eq!(old.lines().count(), new.lines().count());
}

/// The commands that a person can type, with their names.
fn leaves(command: &Command, name: &str) -> Vec<(String, Command)> {
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let found: Vec<_> = below.flat_map(|sub| leaves(sub, &format!("{name} {}", sub.get_name()))).collect();
    if found.is_empty() { vec![(name.to_owned(), command.clone())] } else { found }
}

/// The name of an argument in a row of the page.
fn word(arg: &Arg) -> String {
    let value = || arg.get_value_names().and_then(|names| names.first()).map_or_else(String::new, ToString::to_string);
    arg.get_long().map_or_else(value, |long| format!("--{long}"))
}

#[test]
fn the_page_has_exactly_the_commands_and_flags_of_the_program() {
    let page = page();
    for (name, command) in leaves(&rei::cli::Cli::command(), "rei") {
        let heading = format!("### {name}\n");
        let section = page.split_once(&heading).unwrap_or_else(|| panic!("docs/cli.md has no {heading}")).1;
        let section = section.split("\n#").next().unwrap();
        let table: BTreeSet<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', ' ']).next()).collect();
        let mut known = BTreeSet::new();
        for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
            let word = word(arg);
            assert!(table.contains(word.as_str()), "{name}: no row for {word}");
            known.insert(word);
        }
        for row in table {
            assert!(known.contains(row), "{name} has no {row}");
        }
    }
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let page = page();
    for (code, meaning) in rei::cli::exit_code::TABLE {
        let row = format!("| {code} | {meaning} |");
        assert!(page.contains(&row), "docs/cli.md has no {row:?}");
    }
    let rows = page.split_once("## Exit codes").unwrap().1.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, rei::cli::exit_code::TABLE.len() + 1, "the heading and each code");
}
