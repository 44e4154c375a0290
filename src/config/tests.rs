use std::collections::BTreeSet;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use proptest::prelude::*;

use super::*;

const FIVE_LINES: &str = r#"[runtime]
name = "greeter"
source = "/srv/greeter"
command = ["bin/greeter"]
listen = ["http=127.0.0.1:8080"]
"#;

fn place() -> Place {
    Place { directory: PathBuf::from("/etc/rei"), root: true, state_home: None }
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::from_toml(text, &place())
}

/// The page that an operator sees for the five lines with more below them.
fn page(more: &str) -> String {
    page_of(&format!("{FIVE_LINES}{more}"))
}

fn page_of(text: &str) -> String {
    match parse(text) {
        Ok(_) => "no problem".to_owned(),
        Err(problems) => render(&problems, "rei.toml", text),
    }
}

fn hints(text: &str) -> Vec<String> {
    let line = |problem: &Problem| format!("{problem} ({})", problem.hint.as_deref().unwrap_or("no hint"));
    parse(text).err().unwrap_or_default().iter().map(line).collect()
}

#[test]
fn five_lines_are_enough() {
    let config = parse(FIVE_LINES).unwrap();
    insta::assert_json_snapshot!(config);
}

#[test]
fn the_example_of_the_readme_is_understood() {
    let text = r#"
[runtime]
name     = "greeter"
source   = "/srv/greeter"
ref      = "main"
package  = "default"
command  = ["bin/greeter"]
listen   = ["http=127.0.0.1:8080"]
strategy = "overlap"
[health]
http     = { listen = "http", path = "/healthz", interval = "1s", timeout = "500ms" }
[incidents]
crash    = { restarts = 3, within = "60s" }
latency  = { p99 = "250ms", for = "10s" }
errors   = { ratio = 0.05, for = "10s" }
[promotion]
mode     = "automatic"
canary   = [{ share = 0.05, for = "30s" }, { share = 0.5, for = "30s" }]
observe  = "5m"
on_inconclusive = "ask"
[evolution]
budget   = { per_incident = 3, per_hour = 6, agent_runs = 20, agent_time = "45m" }
[validation]
golden    = ["golden"]
protected = ["flake.nix", "flake.lock", "checks/**", "tests/**"]
timeout   = "15m"
[blueprints]
directory = "/etc/rei/blueprints"
incident  = "repair"
[agents.fixer]
command  = ["/usr/bin/some-agent", "--print"]
"#;
    let config = parse(text).unwrap();
    assert_eq!(config.promotion.canary.len(), 2);
    assert_eq!(config.validation.golden, [PathBuf::from("/etc/rei/golden")]);
    assert_eq!(config.agents["fixer"].timeout.as_secs(), 20 * 60);
    assert_eq!(config.blueprints.incident.as_deref(), Some("repair"));
}

#[test]
fn the_shipped_file_says_the_defaults() {
    // As it is: only the examples of the runtime. With every default written out: the same.
    let shipped = parse(template::TEXT).unwrap();
    let written = parse(&template::uncommented(&["#"])).map_err(|p| render(&p, "rei.toml", template::TEXT)).unwrap();
    let mut expected = shipped.clone();
    expected.runtime.r#ref = written.runtime.r#ref.clone();
    assert_eq!(shipped, written);
    assert_eq!(expected.runtime.r#ref, "main");
}

#[test]
fn the_shipped_file_names_every_key() {
    // An unknown key's hint lists what the parser asks for; each of those must be in the file that explains them.
    let sections = [
        "",
        "runtime",
        "health",
        "incidents",
        "promotion",
        "evolution",
        "validation",
        "blueprints",
        "isolation",
        "state",
    ];
    let inner = ["health.http", "health.tcp", "health.command", "health.notify", "health.interface", "incidents.crash"];
    let bounds = [
        "incidents.latency",
        "incidents.errors",
        "incidents.memory",
        "incidents.fds",
        "evolution.budget",
        "evolution.retry",
        "agents.x",
    ];
    let whole = template::uncommented(&["#?", "#"]);
    let mut seen = BTreeSet::new();
    for section in sections.into_iter().chain(inner).chain(bounds) {
        let text =
            format!("{}zzzzzzzz = 1\n", if section.is_empty() { String::new() } else { format!("[{section}]\n") });
        let problems = parse(&text).unwrap_err();
        let unknown = problems.iter().find(|problem| problem.message.contains("zzzzzzzz")).unwrap();
        let hint = unknown.hint.as_deref().unwrap_or_default();
        let known = hint.split_once(": ").unwrap_or_else(|| panic!("{section}: {hint}")).1;
        for key in known.split(", ") {
            let there = [
                format!("\n{key} "),
                format!("{{ {key} "),
                format!(", {key} "),
                format!("[{key}"),
                format!("\n{key}="),
            ];
            assert!(there.iter().any(|form| whole.contains(form)), "`{section}.{key}` is not in the shipped rei.toml");
            seen.insert(format!("{section}.{key}"));
        }
    }
    assert!(seen.len() > 70, "only {} keys were compared", seen.len());
}

#[test]
fn a_filled_template_is_right() {
    let answers = template::Answers {
        name: "web".to_owned(),
        source: "..".to_owned(),
        r#ref: Some("release/1 \"x".to_owned()),
        dir: Some("nix".to_owned()),
        package: Some("web".to_owned()),
        command: "bin/web".to_owned(),
        systemd: false,
    };
    let text = template::fill(&answers);
    let hints = hints(&text);
    assert_eq!(hints.len(), 1, "{hints:?}");
    assert!(hints[0].contains("no name of a branch"), "{hints:?}");
    let config =
        parse(&template::fill(&template::Answers { r#ref: Some("release/1".to_owned()), ..answers.clone() })).unwrap();
    let runtime = &config.runtime;
    assert_eq!((runtime.name.as_str(), runtime.source.as_str(), runtime.dir.as_str()), ("web", "/etc", "nix"));
    assert_eq!((runtime.r#ref.as_str(), runtime.package.as_str()), ("release/1", "web"));
    assert_eq!(runtime.command, ["bin/web"]);
    assert_eq!(config.state.operators, None);
    let config = parse(&template::fill(&template::Answers { r#ref: None, systemd: true, ..answers })).unwrap();
    assert_eq!(config.state.directory, std::path::Path::new("/var/lib/rei/web"));
    assert_eq!(config.state.sockets.as_deref(), Some(std::path::Path::new("/run/rei/web")));
    assert_eq!(config.state.operators.as_deref(), Some("rei-operators"));
}

#[test]
fn all_problems_come_in_one_go() {
    let text = r#"
[runtime]
nmae = "greeter"
source = 7
ref = "a..b"
package = "-x"
command = ["/usr/bin/greeter"]
listen = ["http=example.org:80", "http", "a=127.0.0.1:0", "b=:8080", "c=::1:80", "d=8080", "e=unix:x"]
strategy = "overlapping"
start_timeout = 30
poll = "1.5s"
env = { PATH = "/bin", LISTEN_FDS = "3", "A B" = "c" }
[health]
http = { path = "healthz", timeout = "0s" }
[incidents]
crash = { restarts = 0 }
[promotion]
canary = [{ share = 0.5, for = "30s" }, { share = 0.5, for = "30s" }, { share = 1, for = "1s" }, { shar = 0.1 }]
[validation]
protected = ["/etc/passwd", "a[", "ok/**"]
golden = "golden"
[agents.fixer]
[commands]
fmt = []
[isolation]
connect = [0, 80, 70000]
fds = 3
memory = "1GB"
read = ["etc"]
[state]
directory = "var"
[telemetry]
on = true
"#;
    insta::assert_snapshot!(page_of(text));
}

#[test]
fn broken_syntax_is_told_line_by_line() {
    insta::assert_snapshot!(page_of("[runtime\nname = \"x\"\nsource = \ncommand = [\"bin/x\"]\n\nlisten == 1\n"));
}

#[test]
fn every_rule_has_its_word() {
    let mut said = Vec::new();
    for more in [
        "strategy = \"recreate\"\n[promotion]\ncanary = [{ share = 0.1, for = \"1s\" }]\n",
        "strategy = \"recreate\"\n[promotion]\nshadow = { share = 0.1, for = \"1s\" }\n",
        "[promotion]\nshadow = { share = 0.1, for = \"1s\" }\n[traffic]\ntap = false\n",
        "[promotion]\nshadow = { share = 1.5, for = \"0s\", routes = [\"/search\"], except = [\"GET /a?b\"] }\n",
        "[promotion]\nshadow = { share = 0.1 }\n",
        "[health]\nhttp = { listen = \"web\" }\n",
        "[health]\nhttp = \"x\"\n",
        "[incidents]\nlatency = { p99 = \"1s\" }\n",
        "[health]\ntcp = true\n[incidents]\nlatency = true\n",
        "[health]\ntcp = true\n[incidents]\nerrors = { ratio = 1 }\n",
        "[health]\ntcp = { interval = \"1ms\" }\n",
        "[blueprints]\nincident = \"mend\"\n",
        "[blueprints]\nincident = \"repair\"\n",
        "[blueprints]\nincident = { runtime_failur = \"repair\" }\n",
        "[blueprints]\nupgrade = \"../x\"\n",
        "[state]\ndirectory = \"/srv/greeter/state\"\n",
        "[state]\ndirectory = \"/nix/store/x\"\n",
        "[isolation]\nwrite = [\"/\"]\n",
        "[isolation]\nuser = \"-x\"\n",
        "[state]\noperators = \"a b\"\n",
        "[evolution]\nbudget = { per_hour = 0 }\n",
        "[evolution]\nbudget = { per_hour = -1 }\n",
        "[evolution]\nretry = { pause = \"2h\" }\n",
        "[evolution]\nretry = { pause_max = \"1s\", tries = 0 }\n",
        "[evolution]\nretry = { pause = \"0s\" }\n",
        "[health]\nnotify = 3\n",
        "dir = \"../x\"\n",
    ] {
        said.push(page(more));
    }
    said.push(page(&format!("[state]\ndirectory = \"/{}\"\n", "d".repeat(100))));
    said.push(page_of(
        &FIVE_LINES
            .replace("http=127.0.0.1:8080", "ipc=unix:/run/x.sock\", \"ipc=unix:/run/y.sock\", \"x=unix:/run/./x.sock"),
    ));
    said.push(page_of(&FIVE_LINES.replace("http=127.0.0.1:8080", "rei=127.0.0.1:8080")));
    said.push(page_of(&FIVE_LINES.replace("bin/greeter", "bin/../../greeter")));
    said.push(page_of(&FIVE_LINES.replace("\"/srv/greeter\"", "\"~/greeter\"")));
    said.push(page_of(""));
    assert!(said.iter().all(|page| page != "no problem"), "{said:#?}");
    insta::assert_snapshot!(said.join("---\n"));
}

#[test]
fn a_service_is_stopped_as_it_wants() {
    let read = |more: &str| parse(&format!("{FIVE_LINES}{more}")).map(|config| config.runtime);
    let usual = read("").unwrap();
    assert_eq!((usual.stop_signal, usual.stop_mode), (Signal::SIGTERM, StopMode::ControlGroup));
    let chosen = read("stop_signal = \"QUIT\"\nstop_mode = \"mixed\"\n").unwrap();
    assert_eq!((chosen.stop_signal, chosen.stop_mode), (Signal::SIGQUIT, StopMode::Mixed));
    for (wrong, word) in [
        ("stop_signal = \"SIGKILL\"", "no process can act on it"),
        ("stop_signal = \"sigquit\"", "no signal has this name"),
        ("stop_mode = \"process\"", "cannot be \"process\""),
    ] {
        let problems = read(wrong).unwrap_err();
        assert!(problems[0].message.contains(word) && problems[0].hint.is_some(), "{problems:?}");
    }
}

#[test]
fn steps_may_be_tables_of_their_own() {
    // As programs write arrays of tables.
    let steps = "[[promotion.canary]]\nshare = 0.05\nfor = \"30s\"\n[[promotion.canary]]\nshare = 0.5\nfor = \"1m\"\n";
    let inline = "[promotion]\ncanary = [{ share = 0.05, for = \"30s\" }, { share = 0.5, for = \"1m\" }]\n";
    let read = |more: &str| parse(&format!("{FIVE_LINES}{more}")).unwrap().promotion;
    assert_eq!(read(steps), read(inline));
    let wrong = parse(&format!("{FIVE_LINES}[[promotion.canary]]\nshare = 2\nfor = \"1s\"\n")).unwrap_err();
    assert_eq!((wrong.len(), wrong[0].line), (1, 7));
}

#[test]
fn what_is_left_out_follows_the_listeners() {
    let unix = FIVE_LINES.replace("127.0.0.1:8080", "unix:/run/x.sock");
    assert!(parse(&unix).unwrap().promotion.canary.is_empty(), "a unix socket cannot be shared");
    let recreate = format!("{FIVE_LINES}strategy = \"recreate\"\n");
    assert!(parse(&recreate).unwrap().promotion.canary.is_empty());
    let probe = format!("{FIVE_LINES}[health]\ntcp = true\nnotify = false\n");
    let health = parse(&probe).unwrap().health;
    assert_eq!((health.tcp.unwrap().listen.as_str(), health.notify), ("http", None));
}

#[test]
fn the_tap_takes_loopback_listeners_unless_the_file_says_otherwise() {
    let text =
        FIVE_LINES.replace("[\"http=127.0.0.1:8080\"]", "[\"a=[::1]:1\", \"b=0.0.0.0:2\", \"c=udp:127.0.0.1:3\"]");
    let taken = |more: &str| {
        let config = parse(&format!("{text}{more}")).unwrap();
        let listens = config.runtime.listen.iter().filter(|listen| config.traffic.tap.takes(listen));
        (listens.map(|listen| listen.name.clone()).collect::<String>(), config.traffic.tap.share)
    };
    assert_eq!(taken(""), ("a".to_owned(), 0.01));
    assert_eq!(taken("[traffic]\ntap = true\n"), ("a".to_owned(), 0.01));
    assert_eq!(taken("[traffic]\ntap = { share = 0.5 }\n"), ("a".to_owned(), 0.5));
    assert_eq!(taken("[traffic]\ntap = { listeners = \"all\" }\n"), ("ab".to_owned(), 0.01));
    assert_eq!(taken("[traffic]\ntap = false\n"), (String::new(), 0.0));
    assert_eq!(taken("[traffic]\ntap = { share = 0 }\n"), (String::new(), 0.0));
    let wrong = parse(&format!("{text}[traffic]\ntap = {{ share = 1.5 }}\n")).unwrap_err();
    assert!(wrong[0].message.contains("no share") && wrong[0].hint.is_some(), "{wrong:?}");
}

#[test]
fn sources_are_told_apart() {
    for (source, expected) in [
        (".", "/etc/rei"),
        ("../x", "/etc/x"),
        ("a:b/c", "a:b/c"),
        ("./a:b", "/etc/rei/a:b"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
    ] {
        let text = FIVE_LINES.replace("/srv/greeter", source) + "[state]\ndirectory = \"/var/x\"\n";
        assert_eq!(parse(&text).unwrap().runtime.source, expected);
    }
}

#[test]
fn the_state_directory_follows_the_user() {
    let user = Place { root: false, state_home: Some("/home/a/.local/state".into()), ..place() };
    let config = Config::from_toml(FIVE_LINES, &user).unwrap();
    assert_eq!(config.state.directory, PathBuf::from("/home/a/.local/state/rei/greeter"));
    assert_eq!(parse(FIVE_LINES).unwrap().state.directory, PathBuf::from("/var/lib/rei/greeter"));
    let nobody = Config::from_toml(FIVE_LINES, &Place { state_home: None, ..user }).unwrap_err();
    assert_eq!((nobody.len(), nobody[0].key.as_str()), (1, "state.directory"));
}

#[test]
fn a_file_that_is_none_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rei.toml");
    let said = |file: &std::path::Path| {
        let error = Config::load(file).unwrap_err();
        (error.to_string(), error.hint())
    };
    let (message, hint) = said(&file);
    assert!(message.starts_with("cannot read ") && hint.unwrap().contains("rei init"), "{message}");
    assert!(said(directory.path()).0.starts_with("cannot read "));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(said(&file).0.ends_with("is not UTF-8 text"));
    std::fs::write(&file, vec![b'\n'; FILE_BYTES_MAX + 1]).unwrap();
    assert!(said(&file).0.contains("is larger than"));
    std::fs::write(&file, FIVE_LINES).unwrap();
    assert_eq!(Config::load(&file).unwrap().runtime.name, "greeter");
}

#[test]
fn a_change_says_when_it_takes_effect() {
    let old = parse(FIVE_LINES).unwrap();
    assert_eq!(diff(&old, &old), []);
    let more = "poll = \"1s\"\nenv = { A = \"secret\" }\n[health]\ntcp = true\n[promotion]\nobserve = \"1m\"\n[agents.x]\ncommand = [\"/x\"]\n\
        [state]\nlog = \"1MiB\"\nruns = 5\nevidence = \"1MiB\"\n";
    let new = parse(&format!("{}{more}", FIVE_LINES.replace("8080", "8081"))).unwrap();
    let said: Vec<String> = diff(&old, &new).iter().map(|change| format!("{} {:?}", change.key, change.when)).collect();
    let expected = [
        "runtime.env NextStart",
        "runtime.listen Restart",
        "runtime.poll Now",
        "health.tcp Now",
        "promotion.observe Now",
        "agents.x Now",
        "state.log NextStart",
        "state.runs Now",
        "state.evidence Now",
    ];
    assert_eq!(said, expected);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse(&text).map_err(|problems| render(&problems, "x", &text));
    }

    #[test]
    fn no_damage_to_a_file_makes_the_parser_panic(at in 0..template::TEXT.len(), cut in 0_usize..40, new in "[\\]\\[{}=\"'#\\n\\t,.a0é]{0,4}") {
        let whole = template::uncommented(&["#?", "#"]);
        let start = whole.floor_char_boundary(at.min(whole.len()));
        let end = whole.floor_char_boundary((start + cut).min(whole.len()));
        let text = format!("{}{new}{}", &whole[..start], &whole[end..]);
        for problem in parse(&text).err().unwrap_or_default() {
            prop_assert!(problem.line >= 1 && problem.column >= 1 && problem.span.end <= text.len());
            prop_assert!(!problem.message.contains('\n'));
        }
    }
}
