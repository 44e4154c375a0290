//! Text that would change a terminal: in a log, an incident, a commit, the name of a check. rei shows it escaped.

use rei::interface::types::MaintenanceAction;

use crate::lab::{CHECKS, Lab};

/// Whether a terminal would interpret the character: control characters and direction marks.
fn is_interpreted(c: char) -> bool {
    let direction = ['\u{61c}', '\u{200e}', '\u{200f}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    (c.is_control() && c != '\n' && c != '\t') || direction
}

#[test]
fn text_from_others_cannot_change_a_terminal() {
    let Some(lab) = Lab::new() else { return };
    lab.write("checks/default.nix", &CHECKS.replace("right =", "\"ri\u{202e}ght \u{9b}\" ="));
    lab.commit_tree("well 1");
    let mut supervisor = lab.serving();
    assert!(lab.ask("/curse").is_err());
    let mut incidents = Vec::new();
    supervisor.until("an incident", |it| {
        incidents = it.status().map(|status| status.open_incidents).unwrap_or_default();
        !incidents.is_empty()
    });
    assert!(incidents[0].summary.contains('\u{202e}'), "the text is stored unchanged: {incidents:#?}");
    lab.write("behaviour", "wrong 2\n");
    let rev = lab.commit_tree("well\u{202e} 2 \u{1b}[2J\u{9b}31m");
    let end = supervisor.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Rejected), "{end:#?}");
    assert!(end.summary.contains("ri\u{202e}ght"), "{end:#?}");
    let mut all = supervisor.raw_output();
    assert!(all.contains("user\\u{202e}txt.exe"), "the log shows the text escaped: {all}");
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["show", &incidents[0].id.0],
        &["show", &incidents[0].id.0, "--json"],
        &["show", &end.id],
        &["show", "nothing\u{202e}\u{9b}"],
    ] {
        let mut command = lab.rei();
        let output = command.args(words).arg("--config").arg(lab.path("rei.toml")).output().unwrap();
        let said = [output.stdout.clone(), output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains(is_interpreted), "{words:?}: {said:?}");
        if words.contains(&"--json") {
            let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(value.to_string().contains('\u{202e}'), "the same value: {said}");
        } else if words[0] != "status" && words[0] != "history" {
            assert!(said.contains("\\u{202e}"), "{words:?}: {said}");
        }
        all += &said;
    }
    assert!(!all.contains(is_interpreted), "{all:?}");
    assert_eq!(supervisor.stop(), Some(0));
}
