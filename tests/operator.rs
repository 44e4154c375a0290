//! The operator's commands against the real server of the interface, whose owner answers with samples.

#[expect(dead_code, reason = "shared with the tests of the interface, which use all of it")]
#[path = "interface/fakes.rs"]
mod fakes;
#[path = "operator/page.rs"]
mod page;
#[path = "interface/shapes.rs"]
mod shapes;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use fakes::{Served, operations, until};
use rei::interface::access::Access;
use rei::interface::operations::{
    HistoryEntry, MonitorEvent, OperationsError, Phase, ShowReply, Status, serve_operations,
};
use rei::interface::socket::Socket;
use rei::interface::types::{MaintenanceAction, SCHEMA};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::process::ChildStderr;

/// A served socket and a `rei.toml` beside it.
fn serve() -> Served {
    let served = operations(Access::own_user());
    let directory = served.path.parent().unwrap();
    let text = format!(
        "[runtime]\nname = \"greeter\"\nsource = \"/nonexistent\"\ncommand = [\"bin/x\"]\nlisten = [\"http=127.0.0.1:1\"]\n\
         [state]\ndirectory = \"{}\"\n",
        directory.display()
    );
    std::fs::write(directory.join("rei.toml"), text).unwrap();
    served
}

fn command(served: &Served, args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_rei"));
    command.current_dir(served.path.parent().unwrap()).args(args).env("COLUMNS", "100").env_remove("CLICOLOR_FORCE");
    command.kill_on_drop(true);
    command
}

async fn rei(served: &Served, args: &[&str]) -> Output {
    let output = command(served, args).stdin(Stdio::null()).output();
    tokio::time::timeout(fakes::PATIENCE, output).await.expect("rei hangs").unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn each_command_sends_its_request() {
    let served = serve();
    let path = "/nix/store/abc-x";
    for (args, call, said) in [
        (vec!["approve", "evo_0002"], "approve evo_0002", "evo_0002 is approved\n"),
        (vec!["reject", "evo_0003", "-r", "no"], "reject evo_0003 no", "evo_0003 is rejected\n"),
        (vec!["reject", "inc_1"], "reject inc_1 an operator rejected it", "inc_1 is rejected\n"),
        (vec!["rollback"], "rollback None", "generation 41 is current\n"),
        (
            vec!["rollback", "--to", "7", "--json"],
            "rollback Some(7)",
            "{\n  \"schema\": \"rei/v0.1\",\n  \"generation\": 41\n}\n",
        ),
        (vec!["pause"], "pause", "no evolution starts until `rei resume`; rei still keeps the runtime alive\n"),
        (vec!["resume"], "resume", "evolutions may start again\n"),
        (vec!["reexec"], "reexec", "the supervisor now runs the installed program\n"),
        (vec!["stop"], "stop", "the runtime and its supervisor stop\n"),
        (vec!["lift", path], "lift /nix/store/abc-x", "/nix/store/abc-x is released from quarantine\n"),
    ] {
        assert_eq!(out(&rei(&served, &args).await), said, "{args:?}");
        assert_eq!(served.owner.calls().last().unwrap(), call, "{args:?}");
    }
    let output = rei(&served, &["evolve", "--rev", "v2", "--blueprint", "b", "--json"]).await;
    assert_eq!(out(&output), "{\n  \"schema\": \"rei/v0.1\",\n  \"evolution_id\": \"evo_0001\"\n}\n");
    assert!(served.owner.calls().last().unwrap().ends_with("Some(\"v2\") Some(\"b\")"));
}

#[tokio::test]
async fn json_is_exactly_the_object_of_the_interface() {
    let served = serve();
    let status = out(&rei(&served, &["status", "--json"]).await);
    assert_eq!(serde_json::from_str::<Status>(&status).unwrap(), shapes::status());
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap(), json!(shapes::status()));
    let history: Value = serde_json::from_str(&out(&rei(&served, &["history", "-n", "3", "--json"]).await)).unwrap();
    assert_eq!(served.owner.calls().last().unwrap(), "history 3");
    assert_eq!(
        history,
        json!({ "schema": SCHEMA, "entries": [HistoryEntry { summary: String::new(), ..shapes::history_entry() }] })
    );
    let shown = out(&rei(&served, &["show", "rec_0001", "--json"]).await);
    assert_eq!(serde_json::from_str::<ShowReply>(&shown).unwrap(), shapes::show_reply());
    let held: Value = serde_json::from_str(&out(&rei(&served, &["show", "quarantine", "--json"]).await)).unwrap();
    assert_eq!(held, json!({ "schema": SCHEMA, "entries": [shapes::quarantine_entry()] }));
}

#[tokio::test]
async fn without_json_commands_print_pages() {
    let served = serve();
    let page = out(&rei(&served, &["status"]).await);
    assert!(page.starts_with("● greeter  degraded  canary for "), "{page}");
    assert!(page.contains("50 requests on the candidate"), "{page}");
    assert!(out(&rei(&served, &["history"]).await).contains("evo_0001  2026-11-22 15:01:11  1 s   promoted  ada"));
    assert!(out(&rei(&served, &["show", "rec_0001"]).await).contains("slow under load"));
    let colored = out(&rei(&served, &["--color", "always", "status"]).await);
    assert!(colored.contains("\x1b[1;33m● greeter\x1b[0m"), "{colored}");
}

#[tokio::test]
async fn a_refusal_has_its_own_code_and_the_next_step() {
    let served = serve();
    let hint = "wait for its end".to_owned();
    *served.owner.failure.lock().unwrap() = Some(OperationsError::WrongPhase { phase: Phase::Canary, hint });
    let output = rei(&served, &["evolve"]).await;
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: not in phase canary\nhint: wait for its end\n");
}

/// Sends the event as soon as a watcher listens.
async fn send(served: &Served, event: MonitorEvent) {
    let events = &served.owner.events;
    until("a watcher", || events.receiver_count() > 0).await;
    events.send(event).unwrap();
}

#[tokio::test]
async fn watching_without_a_terminal_prints_each_event_on_a_line() {
    for (args, line) in [
        (vec!["status", "--watch"], "15:01:18.000  phase       evo_0001: the context is collected".to_owned()),
        (vec!["status", "--watch", "--json"], serde_json::to_string(&shapes::monitor_event()).unwrap()),
    ] {
        let served = serve();
        let mut child = command(&served, &args).stdout(Stdio::piped()).spawn().unwrap();
        let stdout: std::process::ChildStdout = {
            let fd = child.stdout.take().unwrap().into_owned_fd().unwrap();
            fd.into()
        };
        send(&served, shapes::monitor_event()).await;
        let first = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next().unwrap().unwrap());
        let first = tokio::time::timeout(fakes::PATIENCE, first).await.expect("no line came").unwrap();
        assert_eq!(first, line);
        child.kill().await.unwrap();
    }
}

/// Starts `rei status --watch` and waits until it watches; returns it and its standard error.
async fn watching(served: &Served) -> (tokio::process::Child, tokio::io::Lines<tokio::io::BufReader<ChildStderr>>) {
    let mut child =
        command(served, &["status", "--watch"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("it watches", || served.owner.events.receiver_count() == 1).await;
    let said = tokio::io::BufReader::new(child.stderr.take().unwrap()).lines();
    (child, said)
}

#[tokio::test]
async fn a_watcher_whose_stream_is_ended_gets_the_reason() {
    let served = serve();
    let (mut child, mut said) = watching(&served).await;
    let operator = served.operator().await;
    let mut others = Vec::new();
    // As many streams as allowed: the oldest stream of all is ended.
    for _ in 0..16 {
        others.push(operator.monitor().await.unwrap());
    }
    let said = async {
        for line in [
            "error: the supervisor ended this watch: there are more than 16 streams, and this was the oldest of them",
            "hint: end another watching program, then call `rei status --watch` again",
        ] {
            assert_eq!(said.next_line().await.unwrap().as_deref(), Some(line));
        }
        child.wait().await.unwrap().code()
    };
    assert_eq!(tokio::time::timeout(fakes::PATIENCE, said).await.expect("the watch must end"), Some(5));
}

/// Ends all connections, and serves again.
async fn serve_again(served: &mut Served) {
    served.task.abort();
    // The result is always the error of the abort.
    let _ = (&mut served.task).await;
    let socket = Socket::bind(&served.path, None).unwrap();
    served.task = tokio::spawn(serve_operations(socket, served.owner.clone(), Access::own_user()));
}

#[tokio::test]
async fn a_watcher_distinguishes_a_lost_connection_from_a_new_supervisor() {
    let mut served = serve();
    let (_child, mut said) = watching(&served).await;
    serve_again(&mut served).await;
    let line = tokio::time::timeout(fakes::PATIENCE, said.next_line()).await.expect("no line arrived").unwrap();
    assert_eq!(line.as_deref(), Some("warning: the connection to the supervisor was lost: events may be missing here"));
    *served.owner.started_at.lock().unwrap() = Some(rei::time::Timestamp::from_unix_ms(1));
    serve_again(&mut served).await;
    let line = tokio::time::timeout(fakes::PATIENCE, said.next_line()).await.expect("no line arrived").unwrap();
    assert_eq!(line.as_deref(), Some("the supervisor has restarted"));
}

/// Runs `evolve --wait`; the owner sends some progress and then this end.
async fn waited(action: MaintenanceAction) -> Output {
    let served = serve();
    let entry = |action, finished_at| HistoryEntry { action, finished_at, ..shapes::history_entry() };
    let reply = |entry: HistoryEntry, step: &str| {
        let mut object = json!(entry);
        object["steps"] = json!([{ "name": "building" }, { "name": step }]);
        let kind = rei::interface::operations::ShowKind::Evolution;
        ShowReply { kind, id: "evo_0001".to_owned(), object, ..shapes::show_reply() }
    };
    let show = |reply: ShowReply| *served.owner.shown.lock().unwrap() = Some(reply);
    show(reply(entry(None, None), "awaiting approval"));
    let child = command(&served, &["evolve", "--wait", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let progress = json!({ "done": 1, "total": 3 });
    send(&served, MonitorEvent { seq: 0, kind: "progress".into(), data: progress, ..shapes::monitor_event() }).await;
    send(&served, shapes::monitor_event()).await;
    until("a request for the evolution", || served.owner.calls().iter().any(|call| call == "show evo_0001")).await;
    show(reply(entry(Some(action), shapes::history_entry().finished_at), "observing"));
    send(&served, MonitorEvent { kind: "decision".into(), text: "it ended".into(), ..shapes::monitor_event() }).await;
    tokio::time::timeout(fakes::PATIENCE, child.wait_with_output()).await.expect("the command does not end").unwrap()
}

#[tokio::test]
async fn waiting_ends_with_the_evolution_and_its_exit_code() {
    for (action, code, said) in [
        (MaintenanceAction::Promoted, 0, ""),
        (MaintenanceAction::Unchanged, 0, ""),
        (MaintenanceAction::RolledBack, 11, "error: Previous was restored: repaired crash\nhint: rei show evo_0001\n"),
        (
            MaintenanceAction::Rejected,
            10,
            "error: the candidate was rejected: repaired crash\nhint: rei show evo_0001\n",
        ),
    ] {
        let output = waited(action).await;
        let begun = "evo_0001 starts\nawaiting approval: rei approve evo_0001, or rei reject evo_0001\n";
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.starts_with(begun) && stderr.ends_with(said), "{stderr}");
        let shown: ShowReply = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown.id, "evo_0001");
    }
}

#[tokio::test]
async fn waiting_continues_without_events_if_others_watch() {
    let served = serve();
    let show = |finished_at, action| {
        let object = json!(HistoryEntry { action, finished_at, ..shapes::history_entry() });
        let kind = rei::interface::operations::ShowKind::Evolution;
        let shown = ShowReply { kind, id: "evo_0001".to_owned(), object, ..shapes::show_reply() };
        *served.owner.shown.lock().unwrap() = Some(shown);
    };
    show(None, None);
    let child = command(&served, &["evolve", "--wait", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    until("it watches", || served.owner.events.receiver_count() == 1).await;
    let operator = served.operator().await;
    let mut others = Vec::new();
    for nth in 1..=16 {
        others.push(operator.monitor().await.unwrap());
        until("another watcher", || served.owner.events.receiver_count() > nth.min(15)).await;
    }
    let looks = || served.owner.calls().iter().filter(|call| *call == "show evo_0001").count();
    let before = looks();
    until("repeated requests for the evolution", || looks() >= before + 2).await;
    show(shapes::history_entry().finished_at, Some(MaintenanceAction::Promoted));
    let output = tokio::time::timeout(fakes::PATIENCE, child.unwrap().wait_with_output()).await.expect("it waits");
    assert!(output.unwrap().status.success());
    // It has ended no stream of the others.
    send(&served, shapes::monitor_event()).await;
    for other in &mut others {
        assert_eq!(other.next().await.unwrap().unwrap(), shapes::monitor_event());
    }
}

#[tokio::test]
async fn waiting_ends_at_the_given_timeout() {
    let served = serve();
    let output = rei(&served, &["evolve", "--wait", "--timeout", "1ms"]).await;
    assert_eq!(output.status.code(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `--watch` on a terminal: a page on the alternate screen, drawn again and again; after Ctrl-C the last page stays.
#[tokio::test]
async fn watching_on_a_terminal_draws_a_page() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if which::which("script").is_err() {
        fakes::skip("there is no program `script`, which gives a terminal");
        return;
    }
    let served = serve();
    let line = format!("stty cols 100; exec {} status --watch", env!("CARGO_BIN_EXE_rei"));
    let mut child = tokio::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .current_dir(served.path.parent().unwrap())
        .env("TERM", "xterm")
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut drawn = Vec::new();
    let pages = |drawn: &[u8]| String::from_utf8_lossy(drawn).matches("\x1b[H").count();
    let both = async {
        // One page at once, and another one after a while.
        while pages(&drawn) < 2 {
            assert_ne!(screen.read_buf(&mut drawn).await.unwrap(), 0, "{}", String::from_utf8_lossy(&drawn));
        }
        keys.write_all(b"\x03").await.unwrap();
        screen.read_to_end(&mut drawn).await.unwrap();
    };
    tokio::time::timeout(fakes::PATIENCE, both).await.expect("no page was drawn, or the command did not end");
    let drawn = String::from_utf8_lossy(&drawn);
    let (inside, after) = drawn.split_once("\x1b[?1049l").expect("the screen is left");
    assert!(inside.contains("\x1b[?1049h") && inside.contains("greeter"), "{drawn}");
    assert!(after.contains("\x1b[1;33m● greeter\x1b[0m"), "{drawn}");
    assert!(child.wait().await.unwrap().success());
}
