//! Tests what happens to an agent's secret key.

use super::*;
use crate::redact::Secret;

const KEY: &str = "sesame/0pen+Key-4711";

/// A world whose agent has a key.
async fn with_key(blueprint: &str, script: &str) -> World {
    let mut world = World::new(blueprint, script).await;
    world.job.agents.get_mut("fixer").unwrap().env.insert("API_KEY".into(), KEY.into());
    world.job.secrets = Secrets::new(vec![Secret { place: "agents.fixer.env.API_KEY".into(), value: KEY.into() }]);
    world
}

/// The files below a directory that contain the key in an easily readable form.
fn files_with_key(dir: &Path) -> Vec<PathBuf> {
    use base64::Engine;
    let code = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}"));
    let forms = [KEY.to_owned(), code, KEY.replace('/', "%2F").replace('+', "%2B")];
    let (mut open, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            if forms.iter().any(|form| bytes.windows(form.len()).any(|part| part == form.as_bytes())) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_key_that_an_agent_prints_is_stored_nowhere_and_given_to_no_other_agent() {
    const AGENT_PRINTS: &str = "version: 1\nname: one\nstages:\n  - {id: work, type: agent, goal: Do it, \
                         outputs: [patch, notes, answer], retry_limit: 2}\n";
    let script = r#"
        if [ -e "${REI_FAILURE:-/nowhere}" ]; then
            grep -q "the agent said" "$REI_FAILURE" || exit 8
            if grep -qF "$API_KEY" "$REI_FAILURE"; then exit 9; fi
            if grep -rqF "$API_KEY" "${REI_CONTEXT%/*}"; then exit 10; fi
            echo new > file; echo "$API_KEY" > "$REI_OUTPUTS/notes"; echo "I used $API_KEY"
            exit 0
        fi
        head -c 9000 /dev/zero | tr "\0" x; echo
        echo "the agent said"; env; env >&2; printf "user:$API_KEY" | base64 -w 0; echo "$API_KEY" > "$HOME/cache"
        echo "https://host/?k=sesame%2F0pen%2BKey-4711" >&2
        exit 3"#;
    let mut world = with_key(AGENT_PRINTS, script).await;
    // The output of the runtime is evidence. Bytes that are no text must not hide a key.
    let evidence = world.job.context.clone().unwrap().join("logs/tail.log");
    std::fs::write(&evidence, [b"\xff\xfe key ".as_slice(), KEY.as_bytes(), b"\n"].concat()).unwrap();
    // The end of each stream is kept, and it is truncated in the middle of the key.
    world.job.agents.get_mut("fixer").unwrap().output_bytes = 4096;
    let (outcome, events) = world.run().await;
    assert!(matches!(outcome, RunOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(events.ended(), ["-work", "+work"]);
    std::fs::remove_file(evidence).unwrap();
    assert_eq!(files_with_key(world.state.path()), Vec::<PathBuf>::new());
    assert!(!format!("{:?}", events.0).contains(KEY), "the journal");
}

#[tokio::test]
async fn a_commit_with_a_key_is_refused() {
    let script = r#"mkdir -p conf; echo "key = '$API_KEY'" > conf/settings.py; echo "$API_KEY" > "$REI_OUTPUTS/x""#;
    let world = with_key(ONE_AGENT, script).await;
    let (outcome, events) = world.run().await;
    let RunOutcome::Failed { reason, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("conf/settings.py") && reason.contains("agents.fixer.env.API_KEY"), "{reason}");
    assert_eq!(events.ended(), ["-work"]);
    assert_eq!(files_with_key(world.state.path()), Vec::<PathBuf>::new());
    let objects = std::process::Command::new("git")
        .arg("--git-dir")
        .arg(world.job.mirror.git_dir())
        .args(["cat-file", "--batch-all-objects", "--batch"])
        .output()
        .unwrap();
    assert!(objects.status.success() && !String::from_utf8_lossy(&objects.stdout).contains(KEY), "in the mirror");
}

#[tokio::test]
async fn a_key_that_the_operator_has_committed_is_not_the_agents_fault() {
    let mut world = with_key(ONE_AGENT, "echo new > other").await;
    world.repository.commit(&[("settings", KEY)], "the operator's own");
    world.job.active = world.job.mirror.fetch().await.unwrap();
    let (outcome, _) = world.run().await;
    assert_eq!(world.changed(&outcome).await, ["other"]);
}

/// The agent changes a file, and leaves its key in places that no commit includes. Then a command shows what is there.
const AGENT_LEAVES_FILES: &str = "version: 1
name: leaves
stages:
  - {id: work, type: agent, goal: Do it, outputs: [patch]}
  - {id: look, type: deterministic, action: run, command: look, retry_limit: 0}
  - {id: more, type: agent, goal: More, outputs: [patch]}
";

#[tokio::test]
async fn a_key_that_an_agent_leaves_outside_its_commit_is_removed_before_the_next_stage() {
    let script = r#"[ "$REI_STAGE" = work ] || exit 0
        mkdir -p cache; echo "$API_KEY" > cache/token; echo "$API_KEY" | gzip > cache/packed
        echo "$API_KEY" > .git/token; echo "$API_KEY" | git hash-object -w --stdin > /dev/null; echo new > file"#;
    let look = r#"grep -rqF Key-4711 . && { echo the key is there; exit 3; }
        find cache .git/token -type f 2> /dev/null | grep . && exit 4; [ $(git rev-list --all | wc -l) = 1 ] || exit 5
        git cat-file --batch-all-objects --batch | grep -aqF Key-4711 && exit 6; grep -q new file"#;
    let mut world = with_key(AGENT_LEAVES_FILES, script).await;
    world.repository.commit(&[(".gitignore", "cache/\n")], "ignores");
    world.job.active = world.job.mirror.fetch().await.unwrap();
    world.job.commands.insert("look".into(), ["sh", "-c", look].map(str::to_owned).to_vec());
    let (outcome, events) = world.run().await;
    assert_eq!(events.ended(), ["+work", "+look", "+more"], "{outcome:?} {}", events.summary("look"));
    assert_eq!(world.changed(&outcome).await, ["file"]);
}
