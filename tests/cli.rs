//! The command line: stories in `tests/cli`, and `init` and `check` with real git and Nix.

use std::path::Path;
use std::process::{Command, Output};

use rei::config::Config;

#[path = "cli/har.rs"]
mod har;

/// A directory without programs, so that the stories are the same on every machine.
const NO_PROGRAMS: &str = "/nonexistent";

#[test]
fn stories() {
    trycmd::TestCases::new()
        .env("PATH", NO_PROGRAMS)
        .env("HOME", "/nonexistent")
        .env("COLUMNS", "100")
        .case("tests/cli/*.trycmd");
}

fn rei(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rei"));
    command.current_dir(directory).args(args).env("HOME", directory).env("XDG_STATE_HOME", directory.join("../state"));
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn git(directory: &Path, args: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=trunk"];
    let output = Command::new("git").arg("-C").arg(directory).args(identity).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", text(&output.stderr));
}

/// A repository `My Service` with a flake in `nix/` that has one package `web` with the program `webd`.
fn repository(parent: &Path) -> std::path::PathBuf {
    let top = parent.join("My Service");
    std::fs::create_dir_all(top.join("nix")).unwrap();
    let package = r#"{ type = "derivation"; name = "web-1"; meta.mainProgram = "webd"; }"#;
    let system = format!("{}-linux", std::env::consts::ARCH);
    let flake = format!("{{ outputs = _: {{ packages.{system}.web = {package}; }}; }}");
    std::fs::write(top.join("nix/flake.nix"), flake).unwrap();
    git(&top, &["init", "-q"]);
    git(&top, &["add", "-A"]);
    git(&top, &["commit", "-qm", "begin"]);
    top
}

fn has(program: &str) -> bool {
    let there = which::which(program).is_ok();
    if !there {
        println!("SKIPPED in part: no {program} here");
    }
    there
}

/// Whether Nix can be used by this user.
fn nix_evaluates() -> bool {
    let args = ["--extra-experimental-features", "nix-command", "eval", "--expr", "1"];
    let output = Command::new("nix").args(args).output();
    let works = output.as_ref().is_ok_and(|output| output.status.success());
    if !works {
        println!("SKIPPED in part: Nix does not evaluate here: {output:?}");
    }
    works
}

#[test]
fn init_reads_the_repository_and_the_flake() {
    if !has("git") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let top = repository(parent.path());
    let output = rei(&top, &["init", "nix"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let file = top.join("nix/rei.toml");
    let config = Config::load(&file).unwrap_or_else(|error| panic!("{error:?}"));
    let runtime = &config.runtime;
    assert_eq!((runtime.name.as_str(), runtime.r#ref.as_str(), runtime.dir.as_str()), ("My-Service", "trunk", "nix"));
    assert_eq!(Path::new(&runtime.source).canonicalize().unwrap(), top.canonicalize().unwrap());
    if nix_evaluates() {
        assert_eq!((runtime.package.as_str(), runtime.command[0].as_str()), ("web", "bin/webd"));
    }
    let again = rei(&top, &["init", "nix"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("already exists"), "{}", text(&again.stderr));
}

#[test]
fn init_writes_a_unit_for_the_file_that_is_there() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().canonicalize().unwrap().join("web");
    std::fs::create_dir(&directory).unwrap();
    rei_toml(&directory, "");
    let output = rei(&directory, &["init", "--systemd"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    for line in ["directory = \"/var/lib/rei/x\"", "operators = \"rei-operators\"", "systemctl enable --now rei-x"] {
        assert!(said.contains(line), "{said}");
    }
    let unit = std::fs::read_to_string(directory.join("rei-x.service")).unwrap();
    assert!(unit.contains(&format!("--config {}/rei.toml\n", directory.display())), "{unit}");
    assert!(unit.contains("\nUser=rei-x\n") && unit.contains("\nStateDirectory=rei/x\n"), "{unit}");
    let again = rei(&directory, &["init", "--systemd"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    // A path that a unit cannot contain.
    let odd = parent.path().join("a b");
    std::fs::create_dir(&odd).unwrap();
    rei_toml(&odd, "");
    let refused = rei(&odd, &["init", "--systemd"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("systemd unit cannot contain"), "{}", text(&refused.stderr));
}

/// The level and the line of the answer `name` in `rei check --json`.
fn answer(directory: &Path, name: &str) -> (String, String) {
    let output = rei(directory, &["check", "--json"]);
    let page: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let answers = page["answers"].as_array().unwrap();
    let found = answers.iter().find(|answer| answer["name"] == name).unwrap_or_else(|| panic!("no {name}: {page:#}"));
    let word = |key: &str| found[key].as_str().unwrap().to_owned();
    (word("level"), word("line"))
}

fn rei_toml(directory: &Path, more: &str) {
    let runtime = "[runtime]\nname = \"x\"\nsource = \".\"\ncommand = [\"bin/x\"]\n";
    std::fs::write(directory.join("rei.toml"), format!("{runtime}{more}")).unwrap();
}

#[test]
fn check_looks_at_the_source() {
    if !has("git") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let top = repository(parent.path());
    for (more, level, word) in [
        ("ref = \"trunk\"\ndir = \"nix\"\n", "ok", "has nix/flake.nix on trunk"),
        ("ref = \"trunk\"\n", "fail", "has no flake.nix"),
        ("ref = \"main\"\n", "fail", "has no branch, tag or commit \"main\""),
    ] {
        rei_toml(&top, more);
        let (found, line) = answer(&top, "source");
        assert!(found == level && line.contains(word), "{found} {line}");
    }
    rei_toml(parent.path(), "");
    let (found, line) = answer(parent.path(), "source");
    assert!(found == "fail" && line.contains("is not a git repository"), "{found} {line}");
}

#[test]
fn check_sees_an_occupied_address() {
    let parent = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = parent.path().join("x.sock");
    let taken = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for occupied in [address.to_string(), format!("unix:{}", socket.display())] {
        rei_toml(parent.path(), &format!("listen = [\"x={occupied}\"]\n[state]\ndirectory = \"/var/lib/rei/x\"\n"));
        let (level, line) = answer(parent.path(), "listen");
        assert!(level == "fail" && line.contains(&occupied), "{level} {line}");
    }
    drop(taken);
    let (level, line) = answer(parent.path(), "listen");
    assert_eq!((level.as_str(), line.as_str()), ("ok", "the addresses are free"));
}

#[test]
fn check_sees_what_is_missing() {
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    rei_toml(
        here,
        "[agents.a]\ncommand = [\"/nonexistent/agent\"]\n[isolation]\nuser = \"nobody-of-that-name\"\n[state]\ndirectory = \"/proc/x\"\n",
    );
    assert_eq!(
        answer(here, "programs"),
        ("fail".to_owned(), "`agents.a`: /nonexistent/agent is no program here".to_owned())
    );
    let (level, line) = answer(here, "user");
    // Who is no root runs instances as itself, and says so.
    let expected = if nix::unistd::geteuid().is_root() { "fail" } else { "warn" };
    assert!(level == expected && line.contains("nobody-of-that-name"), "{level} {line}");
    rei_toml(here, "[agents.a]\ncommand = [\"/bin/sh\"]\n[validation]\ngolden = [\"golden\"]\n");
    let (level, line) = answer(here, "programs");
    assert!(level == "fail" && line.ends_with("golden is no directory"), "{level} {line}");
    rei_toml(here, "[validation]\nstate = { fixture = \"rows\" }\n");
    let (level, line) = answer(here, "programs");
    assert!(level == "fail" && line.ends_with("rows is no directory"), "{level} {line}");
}

#[test]
fn check_reports_a_running_supervisor() {
    use rei::journal::{Journal, Meta};
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("state");
    std::fs::create_dir_all(parent.path().join("src")).unwrap();
    rei_toml(parent.path(), &format!("listen = [\"x=127.0.0.1:1\"]\n[state]\ndirectory = \"{}\"\n", state.display()));
    let file = parent.path().join("rei.toml");
    let content = std::fs::read_to_string(&file).unwrap().replace("source = \".\"", "source = \"src\"");
    std::fs::write(&file, content).unwrap();
    let directory = Config::load(&file).unwrap().state.journal();
    let meta = Meta { runtime: "x".to_owned(), created: rei::time::Timestamp::from_unix_ms(0) };
    let (mut journal, _) = Journal::<u64>::open::<u64>(&directory, &meta).unwrap();
    journal.append(meta.created, &1).unwrap();
    let (level, line) = answer(parent.path(), "listen");
    assert!(level == "ok" && line.contains(&format!("pid {}", std::process::id())), "{level} {line}");
    // The command verifies the journal of rei.toml, even while a supervisor writes it.
    let output = rei(parent.path(), &["journal", "verify"]);
    assert!(text(&output.stdout).starts_with("the journal of x is whole: 1 record in 1 segment"), "{output:?}");
    // A reader that stops before the end of the export causes no failure.
    let body = 7;
    for _ in 0..2000 {
        journal.append(meta.created, &body).unwrap();
    }
    let script = format!("{} journal export | head -n 1", env!("CARGO_BIN_EXE_rei"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(parent.path()).output().unwrap();
    assert_eq!((text(&output.stdout).lines().count(), text(&output.stderr)), (1, String::new()));
}

#[test]
fn check_tests_the_machine_really() {
    let parent = tempfile::tempdir().unwrap();
    rei_toml(parent.path(), "");
    for (name, word) in [("switch", "switches new connections"), ("pidfd", "process descriptors")] {
        let (level, line) = answer(parent.path(), name);
        assert!(level == "ok" && line.contains(word), "{name}: {level} {line}");
    }
    if nix_evaluates() {
        // Either a sandbox works, or the answer says that there is none.
        let (level, line) = answer(parent.path(), "sandbox");
        assert!(level == "ok" && line.ends_with("seen from inside") || level == "fail", "{level} {line}");
        if level == "fail" {
            println!("SKIPPED in part: no sandbox here: {line}");
        }
    }
}

/// A server that answers every connection with the current page.
fn http_server(page: std::sync::Arc<std::sync::Mutex<&'static str>>) -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let page = *page.lock().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
            let _ = stream.write_all((head + page).as_bytes());
        }
    });
    address
}

#[test]
fn golden_runs_are_imported_listed_and_replayed() {
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    let page = std::sync::Arc::new(std::sync::Mutex::new(r#"{"greeting":"hello"}"#));
    let address = http_server(page.clone());
    rei_toml(
        here,
        &format!(
            "listen = [\"http={address}\"]\n[validation]\ngolden = [\"golden\"]\n[state]\ndirectory = \"/nonexistent/state\"\n"
        ),
    );
    std::fs::write(here.join("hello.txt"), "GET /greet/ada\n# a comment\nGET /greet/bob\n").unwrap();
    let output = rei(here, &["golden", "import", "hello.txt"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("hello.golden.jsonl with 2 exchanges\n"), "{}", text(&output.stdout));
    let again = rei(here, &["golden", "import", "hello.txt"]);
    assert_eq!(again.status.code(), Some(1), "an existing run is never overwritten");
    let wrong = rei(here, &["golden", "import", "hello.txt", "--name", "../x"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    let listed = rei(here, &["golden", "list"]);
    assert!(text(&listed.stdout).contains("hello  http      2"), "{}", text(&listed.stdout));
    let shown = rei(here, &["golden", "show", "hello"]);
    assert!(text(&shown.stdout).contains("GET /greet/bob  1 x 2xx"), "{}", text(&shown.stdout));
    assert_eq!(rei(here, &["golden", "show", "other"]).status.code(), Some(1));
    let good = rei(here, &["golden", "replay"]);
    let said = format!("ok    hello  2 of 2 exchanges answered as recorded by {address}\n");
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), said));
    *page.lock().unwrap() = r#"{"greeting":"bye"}"#;
    let bad = rei(here, &["golden", "replay", "hello"]);
    assert_eq!(bad.status.code(), Some(6), "{}", text(&bad.stderr));
    let said = text(&bad.stdout);
    assert!(
        said.contains("exchange 1: GET /greet/ada\n        body/greeting: recorded \"hello\", answered \"bye\""),
        "{said}"
    );
}

#[test]
fn an_archive_is_imported_without_its_credentials() {
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    rei_toml(here, "listen = [\"http=127.0.0.1:1\"]\n[validation]\ngolden = [\"golden\"]\n");
    let archive = r#"{"log": {"entries": [{"request": {"method": "GET", "url": "http://127.0.0.1:8080/a?token=abc123secret",
        "headers": [{"name": "Authorization", "value": "Bearer sk-live-abcdef0123456789"},
                    {"name": "Cookie", "value": "session=deadbeefcafe"}]},
        "response": {"status": 200, "headers": [{"name": "Set-Cookie", "value": "session=deadbeefcafe"}],
                     "content": {"text": "{\"password\": \"hunter2\", \"email\": \"ada@example.org\"}"}}}]}}"#;
    std::fs::write(here.join("login.har"), archive).unwrap();
    let secrets = ["abc123secret", "sk-live", "deadbeef", "hunter2", "ada@example.org"];
    let output = rei(here, &["golden", "import", "login.har"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (said, file) = (text(&output.stdout), std::fs::read_to_string(here.join("golden/login.golden.jsonl")).unwrap());
    assert!(file.contains("{{rei:email}}") && !secrets.iter().any(|secret| file.contains(secret)), "{file}");
    for what in ["data in 6 places", "exchange 1: query token", "request header cookie", "answer body /password"] {
        assert!(said.contains(what), "{what} is not in {said}");
    }
    assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
    let kept = rei(here, &["golden", "import", "login.har", "--name", "kept", "--keep-credentials"]);
    assert!(text(&kept.stderr).contains("do not commit it"), "{}", text(&kept.stderr));
    let file = std::fs::read_to_string(here.join("golden/kept.golden.jsonl")).unwrap();
    assert!(secrets.iter().all(|secret| file.contains(secret)), "{file}");
}

#[test]
fn the_keeper_is_started_as_a_command() {
    use rei::runtime::keeper::Keeper;
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("keeper.sock");
    let keeper = Keeper::start_or_connect(&path, Path::new(env!("CARGO_BIN_EXE_rei"))).unwrap();
    keeper.ping().unwrap();
    keeper.quit().unwrap();
}
