//! Builds many derivations with one `nix-store --realise`, then queries the store which outputs are valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::error::{Error, Problem, Result, bounded};
use super::evaluate::Derivation;
use super::locate::Nix;
use super::progress::{Parser, Progress};
use crate::command::{self, Command};

/// Maximum number of progress lines that wait for the parser. More are dropped; the builds are not slowed down.
const LINES_MAX: usize = 4096;

/// How much of the raw progress stream is kept, in bytes. It is not read again; the parser has seen each line.
const RAW_BYTES_MAX: usize = 4 << 10;

/// Maximum size of the log of one build, in bytes. Nix kills a build that writes more.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// Maximum length of a failure message, in bytes: a few lines.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// Options of a realisation.
#[derive(Clone, Debug)]
pub struct RealiseOptions {
    /// Maximum number of parallel builds.
    pub jobs: usize,
    /// Timeout of each build.
    pub timeout: Duration,
    /// Maximum time without output of each build.
    pub silence: Duration,
    /// Timeout of the whole call.
    pub total: Duration,
    /// With a root, links `ROOT`, `ROOT-2`, … protect the outputs from the garbage collector.
    pub root: Option<PathBuf>,
}

/// The result for each derivation, in the order of the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Realised {
    /// One result per derivation.
    pub outcomes: Vec<DerivationOutcome>,
}

/// The result for one derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivationOutcome {
    /// The derivation.
    pub derivation: Derivation,
    /// `None` if its output is valid in the store.
    pub failure: Option<Failure>,
}

/// Why a derivation has no output, as far as Nix's messages show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// A message in one line.
    pub message: String,
}

/// The kind of failure. It decides the message and whether a retry makes sense; it never decides that a check passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The builder exited with a code other than 0, or was killed by a signal.
    Builder,
    /// The build exceeded its timeout.
    TimedOut,
    /// The builder printed nothing for too long. Nix 2.34 does not distinguish this from [`FailureKind::TimedOut`].
    Silent,
    /// The builder succeeded but made no output.
    NoOutput,
    /// A dependency failed.
    Dependency,
    /// A fixed output has another hash than declared.
    HashMismatch,
    /// It requires a build without a sandbox, another system, or features that this machine lacks.
    Refused,
    /// Its log was too long.
    LogTooLong,
    /// The disk is full.
    DiskFull,
    /// The kernel does not support the sandbox.
    NoNamespaces,
    /// Nix gave no reason.
    Unknown,
}

impl DerivationOutcome {
    /// True if its output is valid in the store.
    pub fn valid(&self) -> bool {
        self.failure.is_none()
    }
}

impl Realised {
    /// True if all outputs are valid.
    pub fn all_valid(&self) -> bool {
        self.outcomes.iter().all(DerivationOutcome::valid)
    }
}

impl Failure {
    /// True if the build itself is the cause, as far as Nix's messages show. A build can forge the messages of the
    /// other kinds, so the consequences of those must be limited.
    pub fn is_of_the_build(&self) -> bool {
        // Nix adds this note to any failure while the disk is full.
        let no_space = self.message.contains("caused by lack of free disk space");
        match self.kind {
            FailureKind::Builder | FailureKind::NoOutput => !no_space,
            // A source that cannot be downloaded is a dependency whose builder fails.
            FailureKind::Dependency => !no_space && Problem::find(&self.message) != Problem::Network,
            FailureKind::HashMismatch | FailureKind::Refused | FailureKind::LogTooLong => true,
            FailureKind::TimedOut
            | FailureKind::Silent
            | FailureKind::DiskFull
            | FailureKind::NoNamespaces
            | FailureKind::Unknown => false,
        }
    }

    /// A hint for the operator, if there is one.
    pub fn hint(&self, drv: &Path) -> Option<String> {
        let drv = drv.display();
        match self.kind {
            FailureKind::HashMismatch => Problem::HashMismatch.hint(),
            FailureKind::DiskFull => Problem::DiskFull.hint(),
            FailureKind::NoNamespaces => Problem::NoNamespaces.hint(),
            FailureKind::TimedOut | FailureKind::Silent => {
                Some(format!("see its log: nix-store --read-log {drv}; or raise the timeout in rei.toml"))
            }
            FailureKind::Builder | FailureKind::NoOutput => Some(format!("see its log: nix-store --read-log {drv}")),
            _ => None,
        }
    }
}

impl Nix {
    /// Builds all of `derivations` that are not built yet, each as far as possible, and returns which outputs are
    /// valid.
    ///
    /// Progress events are sent to `progress`. A slow receiver loses events, but does not slow the builds down. A
    /// failed build is an [`DerivationOutcome`], not an error.
    ///
    /// # Errors
    /// If Nix cannot be run, or the store cannot be queried afterwards.
    pub async fn realise(
        &self,
        derivations: &[Derivation],
        options: &RealiseOptions,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<Realised> {
        let what = format!("building {}", summary(derivations));
        if derivations.is_empty() {
            return Ok(Realised { outcomes: Vec::new() });
        }
        for derivation in derivations {
            self.require_store_path(&derivation.drv)?;
            self.require_store_path(&derivation.out)?;
        }
        let deadline = Instant::now() + options.total;
        let drvs: Vec<&Path> = derivations.iter().map(|derivation| derivation.drv.as_path()).collect();
        let all = self.build(&what, realisation(self.store(), &drvs, options), deadline, progress.as_ref()).await?;
        let mut invalid = self.invalid_outputs(derivations).await?;
        let mut failures = BTreeMap::new();
        for derivation in derivations.iter().filter(|derivation| invalid.contains(&derivation.out)) {
            let drv = derivation.drv.as_path();
            let mut failure = explain(&all.messages, drv);
            if failure.is_none() && derivations.len() > 1 {
                // If a builder prints a malformed message, Nix 2.8 aborts all builds of the call. A derivation for
                // which Nix gives no reason is built in a call of its own, so that one hostile build does not fail the
                // others.
                let call = realisation(self.store(), &[drv], &RealiseOptions { root: None, ..options.clone() });
                let alone = self.build(&what, call, deadline, progress.as_ref()).await?;
                failure = explain(&alone.messages, drv).or_else(|| unknown(&alone.messages));
            }
            failures.insert(derivation.out.clone(), failure.or_else(|| unknown(&all.messages)));
        }
        if !failures.is_empty() {
            invalid = self.invalid_outputs(derivations).await?;
        }
        if let Some(root) = &options.root {
            let valid = derivations.iter().map(|derivation| derivation.out.clone());
            let valid: Vec<PathBuf> = valid.filter(|out| !invalid.contains(out)).collect();
            // With a failure Nix made no root at all, and an output that is not `out` has a root of another name.
            let is_done = valid.is_empty() || all.success && are_rooted(&valid, root);
            if !is_done {
                self.root_paths(&valid, root).await?;
            }
            self.drop_other_outputs(derivations, root).await?;
        }
        let outcomes = derivations.iter().map(|derivation| {
            let failure = invalid.contains(&derivation.out).then(|| failures.remove(&derivation.out).flatten());
            let gone =
                || Failure { kind: FailureKind::Unknown, message: "it has no output, and Nix gives no reason".into() };
            DerivationOutcome {
                derivation: derivation.clone(),
                failure: failure.map(|failure| failure.unwrap_or_else(gone)),
            }
        });
        Ok(Realised { outcomes: outcomes.collect() })
    }

    /// Removes the roots that Nix makes of outputs that nobody uses: `ROOT-dev` beside `ROOT`.
    async fn drop_other_outputs(&self, derivations: &[Derivation], root: &Path) -> Result<()> {
        let (Some(dir), Some(name)) = (root.parent(), root.file_name()) else { return Ok(()) };
        let begins = format!("{}-", name.to_string_lossy());
        let is_output = |name: &str| name.strip_prefix(&begins).is_some_and(|rest| rest.parse::<u64>().is_err());
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let named = entries.filter(|entry| is_output(&entry.file_name().to_string_lossy()));
        let links = named.filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?)));
        // `ROOT-drv` is a root of rei's own.
        let others: Vec<(PathBuf, PathBuf)> =
            links.filter(|(_, kept)| kept.extension().is_none_or(|it| it != "drv")).collect();
        if others.is_empty() {
            return Ok(());
        }
        let mut outputs = BTreeSet::new();
        for derivation in derivations {
            outputs.extend(self.outputs(&derivation.drv).await?);
        }
        for (link, _) in others.into_iter().filter(|(_, kept)| outputs.contains(kept)) {
            std::fs::remove_file(&link).map_err(|source| Error::File { act: "remove", path: link, source })?;
        }
        Ok(())
    }

    /// Runs one realisation until `deadline` and collects Nix's messages. Failed builds are no error here.
    async fn build(
        &self,
        what: &str,
        call: Command,
        deadline: Instant,
        progress: Option<&mpsc::Sender<Progress>>,
    ) -> Result<CallOutput> {
        let (lines, mut received) = mpsc::channel::<String>(LINES_MAX);
        let call = call.timeout(deadline.saturating_duration_since(Instant::now())).output_bytes_max(RAW_BYTES_MAX);
        let parse = async {
            let mut parser = Parser::default();
            while let Some(line) = received.recv().await {
                if let (Some(event), Some(progress)) = (parser.line(&line), progress) {
                    // A slow or closed receiver must not stop the builds.
                    let _ = progress.try_send(event);
                }
            }
            parser
        };
        let (result, parser) = tokio::join!(call.run_with_lines(Some(lines)), parse);
        let mut messages = parser.messages().to_vec();
        let success = match result {
            Ok(output) => output.success(),
            Err(error @ command::Error::Timeout { .. }) => {
                messages.push(format!("timed out: {error}"));
                false
            }
            Err(source) => return Err(Error::Run { what: what.to_owned(), source }),
        };
        let text = messages.join("\n");
        if !success && Problem::find(&text) == Problem::Daemon {
            return Err(Error::from_nix(what, &text));
        }
        Ok(CallOutput { success, messages })
    }

    async fn invalid_outputs(&self, derivations: &[Derivation]) -> Result<BTreeSet<PathBuf>> {
        self.invalid(derivations.iter().map(|derivation| &derivation.out)).await
    }
}

/// Whether `ROOT`, `ROOT-2`, … keep these paths, in their order.
fn are_rooted(paths: &[PathBuf], root: &Path) -> bool {
    paths.iter().enumerate().all(|(at, path)| {
        let mut link = root.as_os_str().to_owned();
        if at > 0 {
            link.push(format!("-{}", at + 1));
        }
        std::fs::read_link(link).is_ok_and(|kept| kept == *path)
    })
}

/// The result of one call.
struct CallOutput {
    success: bool,
    messages: Vec<String>,
}

/// The call that builds `drvs`.
fn realisation(call: Command, drvs: &[&Path], options: &RealiseOptions) -> Command {
    // Nix interprets 0 as "no limit".
    let seconds = |bound: Duration| bound.as_secs().max(1).to_string();
    let call = call
        .args(["--realise", "--keep-going", "--log-format", "internal-json"])
        .args(["--max-jobs", &options.jobs.max(1).to_string()])
        .args(["--timeout", &seconds(options.timeout)])
        .args(["--max-silent-time", &seconds(options.silence)])
        .args(["--option", "max-build-log-size", &LOG_BYTES_MAX.to_string()]);
    let call = match &options.root {
        Some(root) => call.arg("--add-root").arg(root),
        None => call,
    };
    call.args(drvs)
}

/// The name of the first derivation, and the number of others.
fn summary(derivations: &[Derivation]) -> String {
    let first = derivations.first().and_then(|one| one.drv.file_name()).unwrap_or_default().to_string_lossy();
    match derivations.len() {
        0 | 1 => first.into_owned(),
        n => format!("{first} and {} more", n - 1),
    }
}

/// Why `drv` has no output, as far as `messages` show.
fn explain(messages: &[String], drv: &Path) -> Option<Failure> {
    let name = drv.file_name()?.to_string_lossy();
    // `build of 'A.drv', 'B.drv' failed` is only a summary.
    let of_its_own = |message: &&String| !message.contains("build of '");
    let named = messages.iter().filter(of_its_own).find(|message| message.contains(&*name));
    // Nix 2.34 does not say which build timed out.
    let late = || messages.iter().find(|message| message.contains("timed out after") && !message.contains(".drv"));
    let message = named.or_else(late)?;
    let kind = kind(message);
    let mut text = one_line(message);
    if kind == FailureKind::Dependency {
        // The message about the cause came earlier.
        let cause = messages.iter().filter(of_its_own).find(|message| self::kind(message) != FailureKind::Dependency);
        text.extend(cause.map(|cause| format!(": {}", one_line(cause))));
    }
    Some(Failure { kind, message: bounded(&text, MESSAGE_BYTES_MAX).to_owned() })
}

/// The last message of a call, if no message names the derivation.
fn unknown(messages: &[String]) -> Option<Failure> {
    let last = messages.last()?;
    Some(Failure { kind: kind(last), message: bounded(&one_line(last), MESSAGE_BYTES_MAX).to_owned() })
}

/// The kind of failure in a message of Nix 2.8 to 2.34.
fn kind(message: &str) -> FailureKind {
    const WORDS: &[(&str, FailureKind)] = &[
        ("seconds of silence", FailureKind::Silent),
        ("timed out", FailureKind::TimedOut),
        ("hash mismatch in fixed-output", FailureKind::HashMismatch),
        ("dependencies of derivation", FailureKind::Dependency),
        ("dependency failed", FailureKind::Dependency),
        ("dependencies failed", FailureKind::Dependency),
        ("failed to produce output", FailureKind::NoOutput),
        ("has '__noChroot' set", FailureKind::Refused),
        ("is required to build", FailureKind::Refused),
        ("missing system features", FailureKind::Refused),
        ("platform mismatch", FailureKind::Refused),
        ("bytes of log output", FailureKind::LogTooLong),
        ("failed with exit code", FailureKind::Builder),
        ("failed due to signal", FailureKind::Builder),
    ];
    let found = WORDS.iter().find(|(words, _)| message.contains(words)).map(|(_, kind)| *kind);
    found.unwrap_or_else(|| match Problem::find(message) {
        Problem::DiskFull => FailureKind::DiskFull,
        Problem::NoNamespaces => FailureKind::NoNamespaces,
        _ => FailureKind::Unknown,
    })
}

/// A message on one line, without `error:` and without the list of outputs that Nix 2.34 adds.
fn one_line(message: &str) -> String {
    let message = message.split("Output paths:").next().unwrap_or(message);
    let words: Vec<&str> = message.split_whitespace().skip_while(|word| *word == "error:").collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VERSIONS, samples};
    use super::*;

    fn explained(text: &str, drv: &str) -> Option<Failure> {
        let mut parser = Parser::default();
        text.lines().for_each(|line| drop(parser.line(line)));
        explain(parser.messages(), Path::new(drv))
    }

    #[test]
    fn a_failure_is_explained_in_all_versions() {
        use FailureKind::*;
        for (text, drv, kind) in [
            (samples!("build-fail"), "jaw78mm50pv7d089hig504vbyn7p7i1c-fail.drv", Builder),
            (samples!("build-dep"), "i30cin36l8hw7by8rj6b3fj0c674jj7f-dep.drv", Dependency),
            (samples!("build-fod"), "3vfrmhv0kq0mhfmfm2wkpi8ggrhcr517-fod.drv", HashMismatch),
            (samples!("build-noout"), "4x8daa8glbk1lm5kpqnpgn9s091kxv9k-noout.drv", NoOutput),
            (samples!("build-slow"), "fjdw5jf96xw528p2ra8hnikq5l2mvvyn-slow.drv", TimedOut),
            (samples!("build-nochroot"), "qz3aa5vj5g4zgphdgxybkbh2jzpckqra-nochroot.drv", Refused),
            (samples!("build-kvm"), "xg879h2pqjyr5gxrwfxvdxsadab33r04-kvmx.drv", Refused),
        ] {
            for (version, text) in VERSIONS.iter().zip(text) {
                let failure = explained(text, &format!("/nix/store/{drv}"));
                let failure = failure.unwrap_or_else(|| panic!("{version} says nothing of {drv}"));
                assert_eq!(failure.kind, kind, "{version} {drv}: {}", failure.message);
                assert!(
                    !failure.message.contains(['\n', '\u{1b}']) && !failure.message.contains("error:"),
                    "{failure:?}"
                );
            }
        }
    }

    #[test]
    fn failures_of_one_call_are_distinguished() {
        for (version, text) in VERSIONS.iter().zip(samples!("build-mixed")) {
            let kind = |drv| explained(text, drv).map(|failure| failure.kind);
            assert_eq!(kind("jaw78mm50pv7d089hig504vbyn7p7i1c-fail.drv"), Some(FailureKind::Builder), "{version}");
            assert_eq!(kind("fjdw5jf96xw528p2ra8hnikq5l2mvvyn-slow.drv"), Some(FailureKind::TimedOut), "{version}");
            let silent = kind("fpskm13fl9nvcgky2l13cbar9wh69fsc-silent.drv");
            let expected = if *version == "2.34" { FailureKind::TimedOut } else { FailureKind::Silent };
            assert_eq!(silent, Some(expected), "{version}");
            let dependent = explained(text, "i30cin36l8hw7by8rj6b3fj0c674jj7f-dep.drv").unwrap();
            assert_eq!(dependent.kind, FailureKind::Dependency, "{version}");
            assert!(dependent.message.contains("failed with exit code 3"), "{version}: {}", dependent.message);
        }
    }

    #[test]
    fn a_machine_without_a_sandbox_is_recognised_in_all_versions() {
        for message in [
            "error: unable to start build process",
            "error: cannot perform a sandboxed build because user namespaces are not enabled; check /proc/sys/user",
            "error: this system does not support the kernel namespaces that are required for sandboxing; use '--no-sandbox'",
        ] {
            assert_eq!(unknown(&[message.to_owned()]).unwrap().kind, FailureKind::NoNamespaces, "{message}");
        }
        assert_eq!(unknown(&["No space left on device".to_owned()]).unwrap().kind, FailureKind::DiskFull);
        assert_eq!(unknown(&[]), None);
    }

    #[test]
    fn a_derivation_without_a_message_has_no_explanation() {
        let [text, ..] = samples!("build-garbage");
        assert_eq!(explained(text, "pr73dpwglb86nf7gn852cq3kakx8cfnn-garbage.drv"), None);
        for text in samples!("build-fail") {
            assert_eq!(explained(text, "00000000000000000000000000000000-other.drv"), None);
        }
    }

    #[test]
    fn the_call_limits_every_build() {
        let options = RealiseOptions {
            jobs: 0,
            timeout: Duration::from_millis(1),
            silence: Duration::from_secs(60),
            total: Duration::from_secs(90),
            root: Some("/state/roots/x".into()),
        };
        let call = realisation(Command::new("nix-store", options.total), &[Path::new("/nix/store/a.drv")], &options);
        let argv = "nix-store --realise --keep-going --log-format internal-json --max-jobs 1 --timeout 1 \
                    --max-silent-time 60 --option max-build-log-size 67108864 --add-root /state/roots/x /nix/store/a.drv";
        assert_eq!(call.argv().join(" "), argv);
    }
}
