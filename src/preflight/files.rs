//! The operator's files, followed while rei runs: rei.toml, blueprints and golden runs.
//!
//! A change is checked and logged. rei takes a changed rei.toml only when the operator asks for it (SIGHUP, `systemctl reload`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answer::{Answer, Level};
use super::ask::file::{blueprints, golden};
use super::means::Means;
use crate::changes::Changes;
use crate::config::{Change, Config, FILE_BYTES_MAX, LoadError, When, diff};
use crate::digest::sha256;
use crate::report::chain;

/// The pause between two looks if no event arrives: a safety net that costs a few system calls.
const POLL: Duration = Duration::from_secs(60);
/// The least pause between two looks: another program may write to the directory of rei.toml all the time.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The files are read when no event has arrived for this time: by then the writer has finished.
const QUIET: Duration = Duration::from_millis(300);
/// The files are read after this time even if events still arrive.
const RESTLESS_MAX: Duration = Duration::from_secs(3);
/// Links that are followed from rei.toml to the file itself: as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// The most files of a directory that are compared: blueprints and golden runs are some dozens.
const ENTRIES_MAX: usize = 4096;
/// Changed keys that are named in one line.
const KEYS_TOLD: usize = 5;

/// Follows the files until the task is dropped, and logs what each change means.
pub async fn follow_files<M: Means>(means: M) {
    let Some(config) = means.config().cloned() else { return };
    let mut files = Files::new(means.file().to_owned(), config);
    drop(means);
    loop {
        for answer in files.next().await {
            let hint = answer.hint.map_or_else(String::new, |hint| format!("; hint: {hint}"));
            match answer.level {
                Level::Ok => tracing::info!("{}{hint}", answer.line),
                Level::Warn | Level::Fail => tracing::warn!("{}{hint}", answer.line),
            }
        }
    }
}

/// The files, and their state at the last look.
struct Files {
    file: PathBuf,
    /// The last configuration of the file that could be used.
    config: Config,
    changes: Changes,
    seen: Seen,
}

/// The state of the files that is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The digest of rei.toml; `None` if it cannot be read.
    file: Option<String>,
    blueprints: Stamps,
    golden: Stamps,
}

/// Files by path, each with what changes when it is written or replaced.
type Stamps = BTreeMap<PathBuf, [i64; 4]>;

impl Files {
    fn new(file: PathBuf, config: Config) -> Self {
        let seen = Seen::of(&file, &config);
        // The state directory may be beside rei.toml; changes in it do not count.
        let state = config.state.directory.clone();
        let changes = Changes::new(move |path| !path.starts_with(&state));
        Self { file, config, changes, seen }
    }

    /// Waits until a file has changed, and returns what the change means.
    async fn next(&mut self) -> Vec<Answer> {
        loop {
            self.changes.watch(self.directories());
            let seen = Seen::of(&self.file, &self.config);
            if seen != self.seen {
                self.changes.settled(QUIET, RESTLESS_MAX).await;
                let settled = Seen::of(&self.file, &self.config);
                let before = std::mem::replace(&mut self.seen, settled);
                return self.judge(&before).await;
            }
            self.changes.next(POLL).await;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// The directories in which a change can be one of the files.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let named = self.config.blueprints.directory.iter().chain(&self.config.validation.golden);
        let own = places(&self.file);
        own.into_iter().chain(named.cloned()).collect()
    }

    /// What a change means. This may read many files, so it runs beside the loop's thread.
    async fn judge(&mut self, before: &Seen) -> Vec<Answer> {
        let (file, config, now) = (self.file.clone(), self.config.clone(), self.seen.clone());
        let (is_file, is_blueprints, is_golden) =
            (now.file != before.file, now.blueprints != before.blueprints, now.golden != before.golden);
        let judged = tokio::task::spawn_blocking(move || {
            let (mut answers, mut taken) = (Vec::new(), None);
            if is_file {
                let (answer, config) = of_the_file(&file, &config);
                answers.push(answer);
                taken = config;
            }
            let config = taken.as_ref().unwrap_or(&config);
            if is_blueprints {
                answers.push(of_directory(
                    "the blueprints have changed",
                    "the next evolution runs them",
                    blueprints(Some(config)),
                ));
            }
            if is_golden {
                let then = "the next candidate is compared with them";
                answers.push(of_directory("the golden runs have changed", then, golden(Some(config))));
            }
            (answers, taken)
        });
        let Ok((answers, taken)) = judged.await else { return Vec::new() };
        if let Some(config) = taken {
            self.config = config;
            // The new file may name other directories.
            self.seen = Seen { file: now.file, ..Seen::of(&self.file, &self.config) };
        }
        answers
    }
}

/// What rei.toml means now, and its configuration if it can be used.
fn of_the_file(file: &Path, before: &Config) -> (Answer, Option<Config>) {
    let shown = file.display();
    let holds = "what rei has read of it before holds";
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            let why = std::iter::once(chain(&error)).chain(error.mistakes()).collect::<Vec<_>>().join("; ");
            let hint = match &error {
                LoadError::Invalid { .. } => Some(format!("rei check --file-only --config {shown}")),
                other => other.hint(),
            };
            return (
                Answer {
                    level: Level::Warn,
                    line: format!("{shown} has changed and cannot be used, {holds}: {why}"),
                    hint,
                },
                None,
            );
        }
    };
    let unusable = blueprints(Some(&config)).into_iter().find(|answer| answer.level == Level::Fail);
    if let Some(wrong) = unusable {
        let line = format!("{shown} has changed and cannot be used, {holds}: {}", wrong.line);
        return (Answer { level: Level::Warn, line, hint: wrong.hint }, None);
    }
    let changes = diff(before, &config);
    let answer = match changes.iter().find(|change| change.when == When::Restart) {
        _ if changes.is_empty() => Answer::ok(format!("{shown} was written again, and says what it said")),
        Some(change) => Answer::warn(
            format!("{shown} has changed, and {} cannot change while rei runs: {holds}", change.key),
            "restart rei to take it, or change the key back",
        ),
        None => Answer {
            level: Level::Ok,
            line: format!("{shown} has changed and can be used ({}), {holds}", keys(&changes)),
            hint: Some(format!("take it: systemctl reload, or kill -HUP {}", std::process::id())),
        },
    };
    (answer, Some(config))
}

fn keys(changes: &[Change]) -> String {
    let told = changes.iter().take(KEYS_TOLD).map(|change| change.key.as_str()).collect::<Vec<_>>().join(", ");
    match changes.len().saturating_sub(KEYS_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// What a change in a directory means.
fn of_directory(what: &str, then: &str, answers: Vec<Answer>) -> Answer {
    match answers.into_iter().find(|answer| answer.level != Level::Ok) {
        None => Answer::ok(format!("{what}; {then}")),
        Some(wrong) => Answer { level: Level::Warn, line: format!("{what}: {}", wrong.line), hint: wrong.hint },
    }
}

impl Seen {
    fn of(file: &Path, config: &Config) -> Self {
        let content = std::fs::metadata(file)
            .ok()
            .filter(|about| about.len() <= u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX));
        let content = content.and_then(|_| std::fs::read(file).ok());
        Self {
            file: content.map(|content| sha256(&content)),
            blueprints: stamps(config.blueprints.directory.iter()),
            golden: stamps(config.validation.golden.iter()),
        }
    }
}

/// The files of directories.
fn stamps<'d>(dirs: impl Iterator<Item = &'d PathBuf>) -> Stamps {
    let entries = dirs.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
    let stamp = |path: PathBuf| {
        let about = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let inode = i64::from_ne_bytes(about.ino().to_ne_bytes());
        Some((path, [inode, about.mtime(), about.mtime_nsec(), i64::try_from(about.len()).unwrap_or(i64::MAX)]))
    };
    entries.map(|entry| entry.path()).filter_map(stamp).take(ENTRIES_MAX).collect()
}

/// The directories of a file and of every link on the way to it: a link can be replaced as well as the file. On NixOS
/// `/etc/rei/NAME/rei.toml` leads through a link in `/etc`.
fn places(file: &Path) -> BTreeSet<PathBuf> {
    let (mut places, mut links) = (BTreeSet::new(), 0);
    let Ok(mut rest) = std::path::absolute(file) else { return places };
    // The first link of the path is replaced by what it means, until there is none.
    'resolve: while links < LINKS_MAX {
        let ancestors: Vec<PathBuf> = rest.ancestors().map(Path::to_owned).collect();
        for path in ancestors.iter().rev() {
            let Ok(target) = std::fs::read_link(path) else { continue };
            let dir = path.parent().unwrap_or(Path::new("/"));
            places.insert(dir.to_owned());
            let below = rest.strip_prefix(path).unwrap_or(Path::new(""));
            let meant = dir.join(target);
            rest = if below.as_os_str().is_empty() { meant } else { meant.join(below) };
            links += 1;
            continue 'resolve;
        }
        break;
    }
    places.extend(rest.parent().map(Path::to_owned));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound of a test that waits for a fact.
    const SOON: Duration = Duration::from_secs(60);

    const FILE: &str = "[runtime]\nname = \"x\"\nsource = \"https://example.org/x\"\ncommand = [\"bin/x\"]\n\
                        listen = [\"http=127.0.0.1:1\"]\n[blueprints]\ndirectory = \"blueprints\"\n\
                        [validation]\ngolden = [\"golden\"]\n[state]\ndirectory = \"/nonexistent/state\"\n";

    struct Lab {
        dir: tempfile::TempDir,
        files: Files,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["blueprints", "golden"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            std::fs::write(dir.path().join("rei.toml"), FILE).unwrap();
            let file = dir.path().join("rei.toml");
            let config = Config::load(&file).unwrap();
            Self { files: Files::new(file, config), dir }
        }

        /// Writes a file as an editor does: beside the old one, and into its place.
        fn replace(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            std::fs::write(path.with_extension("new"), text).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }

        /// What is said next.
        async fn told(&mut self) -> String {
            let answers = tokio::time::timeout(SOON, self.files.next()).await.expect("a change was not told");
            let told =
                answers.into_iter().map(|it| format!("{:?}: {}; {}", it.level, it.line, it.hint.unwrap_or_default()));
            told.collect::<Vec<_>>().join("\n")
        }
    }

    #[tokio::test]
    async fn a_change_of_rei_toml_is_told_with_what_it_would_do() {
        let mut lab = Lab::new();
        lab.replace("rei.toml", &format!("{FILE}[promotion]\nobserve = \"7m\"\n"));
        let told = lab.told().await;
        assert!(told.starts_with("Ok") && told.contains("can be used (promotion.observe)"), "{told}");
        assert!(told.contains(&format!("kill -HUP {}", std::process::id())), "{told}");
        // In its place, and in the middle.
        std::fs::write(lab.dir.path().join("rei.toml"), &FILE[..FILE.len() / 2]).unwrap();
        let told = lab.told().await;
        assert!(told.starts_with("Warn") && told.contains("what rei has read of it before holds"), "{told}");
        assert!(told.contains("rei check --file-only"), "{told}");
        std::fs::remove_file(lab.dir.path().join("rei.toml")).unwrap();
        assert!(lab.told().await.contains("cannot be used"));
        lab.replace("rei.toml", &FILE.replace("\"x\"", "\"y\""));
        let told = lab.told().await;
        assert!(told.starts_with("Warn") && told.contains("runtime.name cannot change while rei runs"), "{told}");
    }

    #[tokio::test]
    async fn blueprints_and_golden_runs_that_change_are_looked_at() {
        let mut lab = Lab::new();
        lab.replace("blueprints/upgrade.yaml", "nonsense: 1\n");
        let told = lab.told().await;
        assert!(told.starts_with("Warn: the blueprints have changed: "), "{told}");
        std::fs::remove_file(lab.dir.path().join("blueprints/upgrade.yaml")).unwrap();
        let told = lab.told().await;
        assert!(told.starts_with("Ok: the blueprints have changed; the next evolution runs them"), "{told}");
        lab.replace(&format!("golden/a{}", crate::golden::SUFFIX), "no golden run\n");
        let told = lab.told().await;
        assert!(told.starts_with("Warn: the golden runs have changed: "), "{told}");
    }

    /// The directory goes with all that is in it, and another comes.
    #[tokio::test]
    async fn a_directory_that_is_replaced_is_followed() {
        let mut lab = Lab::new();
        let (blueprints, away) = (lab.dir.path().join("blueprints"), lab.dir.path().join("away"));
        lab.replace("blueprints/mine.yaml", "x: 1\n");
        lab.told().await;
        std::fs::rename(&blueprints, &away).unwrap();
        lab.told().await;
        std::fs::create_dir(&blueprints).unwrap();
        lab.replace("blueprints/upgrade.yaml", "nonsense: 1\n");
        assert!(lab.told().await.starts_with("Warn: the blueprints have changed: "));
        std::fs::remove_file(blueprints.join("upgrade.yaml")).unwrap();
        assert!(lab.told().await.contains("the next evolution runs them"));
    }

    /// As NixOS has it: the file is a link through another link, which a switch replaces.
    #[tokio::test]
    async fn a_link_on_the_way_is_followed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        for (name, share) in [("old", "0.1"), ("new", "0.2")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let text = format!(
                "{}[promotion]\ncanary = [{{ share = {share}, for = \"1s\" }}]\n",
                FILE.replace("[blueprints]\ndirectory = \"blueprints\"\n", "")
            );
            std::fs::write(dir.path().join(name).join("rei.toml"), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("old", dir.path().join("static")).unwrap();
        symlink("../static/rei.toml", dir.path().join("etc/rei.toml")).unwrap();
        let file = dir.path().join("etc/rei.toml");
        let config = Config::load(&file).unwrap();
        let mut lab = Lab { files: Files::new(file, config), dir };
        symlink("new", lab.dir.path().join("static.new")).unwrap();
        std::fs::rename(lab.dir.path().join("static.new"), lab.dir.path().join("static")).unwrap();
        let told = lab.told().await;
        assert!(told.contains("can be used (promotion.canary)"), "{told}");
    }
}
