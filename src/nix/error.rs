//! What Nix's words mean: the telling part of a message, the problem behind it, and the operator's next step.

use std::path::PathBuf;

use super::version::{LEAST_VERSION, Version};
use crate::command;

/// What the calls of this room give.
pub type Result<T> = std::result::Result<T, Error>;

/// What is kept of a message in full, in bytes: a trace of Nix can be megabytes.
const FULL_BYTES_MAX: usize = 64 << 10;

/// What is kept of the telling part, in bytes: a few lines for a person.
const TELLING_BYTES_MAX: usize = 2 << 10;

/// Why Nix could not be asked or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Nix program is not installed.
    #[error("no program {program} in PATH")]
    Missing {
        /// Its name.
        program: &'static str,
        /// What the search said.
        #[source]
        source: which::Error,
    },
    /// The installed Nix is too old.
    #[error("Nix {found} is older than {LEAST_VERSION}, the oldest that rei works with")]
    Old {
        /// What is installed.
        found: Version,
    },
    /// A program printed something else than it should.
    #[error("cannot understand what Nix printed on {what}: {output}")]
    Unreadable {
        /// What was asked.
        what: String,
        /// The beginning of what it printed.
        output: String,
    },
    /// A program could not be run to its end.
    #[error("{what}: Nix did not answer")]
    Run {
        /// What was asked.
        what: String,
        /// Why.
        #[source]
        source: command::Error,
    },
    /// Nix says no.
    #[error("{what}: {message}")]
    Failed {
        /// What was asked.
        what: String,
        /// What is behind it.
        problem: Problem,
        /// The telling part of what Nix said.
        message: String,
        /// All that Nix said, at most 64 KiB.
        full: String,
    },
    /// The flake has no such package.
    #[error("{flake} has no package {package} for {system}; it has: {}", list(available))]
    NoPackage {
        /// The flake.
        flake: String,
        /// What was asked for.
        package: String,
        /// The machine's system.
        system: String,
        /// What there is.
        available: Vec<String>,
    },
    /// An attribute is something else than a derivation.
    #[error("{attribute} of {flake} is not a derivation but a {found}")]
    NotADerivation {
        /// The flake.
        flake: String,
        /// The attribute.
        attribute: String,
        /// Its type in Nix's words.
        found: String,
    },
    /// A flake has more checks than are evaluated one by one.
    #[error("{flake} has {count} checks, of which some do not evaluate; at most {max} are tried one by one")]
    TooManyChecks {
        /// The flake.
        flake: String,
        /// How many it has.
        count: usize,
        /// How many are tried.
        max: usize,
    },
    /// A flake reference cannot be made of this.
    #[error("{given:?} is no {wanted}")]
    BadReference {
        /// What was given.
        given: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A path is not one of the store.
    #[error("{} is not in the store {}", path.display(), store.display())]
    NotInStore {
        /// The path.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// The store's files are not where its paths say. Without a store and a daemon, Nix gives a plain user a private one
    /// below the home, whose programs do not run.
    #[error("there is no Nix store in {}", store.display())]
    NoStore {
        /// Where it should be.
        store: PathBuf,
    },
    /// What the store has of a path is not what was put there, and cannot be put right.
    #[error("{} is damaged: it is not what was once put in the store", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
    },
    /// A file of rei's own could not be read or written.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The profile has no such generation.
    #[error("profile {} has no generation {number}", profile.display())]
    NoGeneration {
        /// The profile.
        profile: PathBuf,
        /// The number.
        number: u64,
    },
    /// The generation's store path is gone.
    #[error("generation {number} of profile {} points to {}, which is gone", profile.display(), path.display())]
    DeadGeneration {
        /// The profile.
        profile: PathBuf,
        /// The number.
        number: u64,
        /// Where it points.
        path: PathBuf,
    },
    /// Another program holds the profile's lock.
    #[error("profile {} is locked by another program", profile.display())]
    ProfileBusy {
        /// The profile.
        profile: PathBuf,
    },
    /// A name is not fit for a file.
    #[error("{name:?} cannot name a {what}: letters, digits, '.', '_', '-', not first a '.'")]
    BadName {
        /// The name.
        name: String,
        /// What it should name.
        what: &'static str,
    },
}

/// What is behind a refusal of Nix, as far as its words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The daemon cannot be reached, or went away.
    Daemon,
    /// This user may not use the store.
    Permission,
    /// The repository of an input is not there or is none.
    NotARepository,
    /// The repository of an input belongs to somebody else.
    Owner,
    /// The repository of an input has no such commit.
    NoRevision,
    /// The commit has no flake.nix.
    NoFlake,
    /// An input is not in flake.lock.
    Unlocked,
    /// The evaluation wants to build.
    ImportFromDerivation,
    /// The evaluation recurses without end.
    Recursion,
    /// The evaluation wants something from outside its commit.
    Impure,
    /// Nothing can be written.
    DiskFull,
    /// A download differs from what was announced.
    HashMismatch,
    /// Something cannot be downloaded.
    Network,
    /// A path is not, or no longer, in the store.
    Gone,
    /// The kernel gives no sandbox.
    NoNamespaces,
    /// Anything else: the flake's own error.
    Other,
}

/// What a user needs who does not own the store.
const USE_THE_DAEMON: &str = "use Nix through its daemon: apt-get install nix-setup-systemd (or the installer of \
                              nixos.org), then usermod --append --groups nix-users USER";

impl Problem {
    /// Finds the problem in what Nix printed. The words of Nix 2.8 to 2.34.
    pub fn find(text: &str) -> Self {
        const WORDS: &[(&str, Problem)] = &[
            ("cannot connect to socket", Problem::Daemon),
            ("cannot connect to daemon", Problem::Daemon),
            ("Nix daemon disconnected", Problem::Daemon),
            ("kernel namespaces that are required for sandboxing", Problem::NoNamespaces),
            ("user namespaces are not enabled", Problem::NoNamespaces),
            ("cloning builder process", Problem::NoNamespaces),
            ("unable to start build process", Problem::NoNamespaces),
            ("No space left on device", Problem::DiskFull),
            ("database or disk is full", Problem::DiskFull),
            ("not owned by current user", Problem::Owner),
            ("dubious ownership", Problem::Owner),
            ("unsafe repository", Problem::Owner),
            ("Cannot find Git revision", Problem::NoRevision),
            ("object not found - no match for id", Problem::NoRevision),
            ("not appear to be a git repository", Problem::NotARepository),
            ("not a git repository", Problem::NotARepository),
            ("Failed to fetch git repository", Problem::NotARepository),
            ("/flake.nix' does not exist", Problem::NoFlake),
            ("/flake.nix': No such file or directory", Problem::NoFlake),
            ("cannot update unlocked flake input", Problem::Unlocked),
            ("cannot update flake input", Problem::Unlocked),
            ("option 'allow-import-from-derivation' is disabled", Problem::ImportFromDerivation),
            ("stack overflow", Problem::Recursion),
            ("infinite recursion", Problem::Recursion),
            ("max-call-depth exceeded", Problem::Recursion),
            ("in pure eval mode", Problem::Impure),
            ("in pure evaluation mode", Problem::Impure),
            ("is forbidden in restricted mode", Problem::Impure), // as 2.8 says of a path outside
            ("hash mismatch", Problem::HashMismatch),
            ("unable to download", Problem::Network),
            ("don't know how to build these paths", Problem::Gone),
            ("there is no substituter that can build it", Problem::Gone),
            ("' is not valid", Problem::Gone),
            ("Permission denied", Problem::Permission),
        ];
        // The last error counts: what stands before it are warnings and the way to it.
        let from = text.rfind("error:").unwrap_or(0);
        let found =
            |text: &str| WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, problem)| problem.clone());
        found(&text[from..]).or_else(|| found(text)).unwrap_or(Self::Other)
    }

    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Daemon => "start the Nix daemon: systemctl start nix-daemon.socket",
            Self::Permission => USE_THE_DAEMON,
            Self::NotARepository => "an input of the flake names a git repository that is not there: see flake.lock",
            Self::Owner => "a repository that the flake names must belong to the user that runs rei: chown --recursive",
            Self::NoRevision => "an input's repository has lost the commit: nix flake update, and commit flake.lock",
            Self::NoFlake => "the commit needs a flake.nix (runtime.dir names its directory): git add flake.nix",
            Self::Unlocked => "lock the inputs and commit the lock: nix flake lock && git add flake.lock",
            Self::ImportFromDerivation => {
                "set validation.allow_import_from_derivation = true if you trust this flake to build while it is evaluated"
            }
            Self::Recursion => "a value of the flake is defined by itself; see the full message for where",
            Self::Impure => "a commit may only use what it holds: add the file to the tree, give each fetch its hash",
            Self::DiskFull => "free some space: nix-collect-garbage, df --human-readable",
            Self::HashMismatch => {
                "the source has changed upstream, or the hash in the flake is wrong: put in the one Nix got"
            }
            Self::Network => "the build machine needs the network for this fetch, or a cache that has it",
            Self::Gone => "the garbage collector took it: build it again",
            Self::NoNamespaces => {
                "allow user namespaces: sysctl user.max_user_namespaces=15000, and where there are these, \
                 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
            }
            Self::Other => return None,
        };
        Some(hint.to_owned())
    }
}

impl Error {
    /// What Nix said on standard error, as an error.
    pub(super) fn from_nix(what: impl Into<String>, stderr: &str) -> Self {
        let text = strip_colours(stderr);
        let full = bounded(text.trim_end(), FULL_BYTES_MAX).to_owned();
        Self::Failed { what: what.into(), problem: Problem::find(&text), message: telling(&text), full }
    }

    /// An output that is not what it should be, as an error.
    pub(super) fn unreadable(what: impl Into<String>, output: &str) -> Self {
        Self::Unreadable { what: what.into(), output: bounded(output.trim(), TELLING_BYTES_MAX).to_owned() }
    }

    /// Whether the flake itself is at fault, as far as Nix's words tell: it does not evaluate, or has not what is asked
    /// for. A flake can forge the words of the other kind; so what follows from those must be bounded.
    pub fn is_of_the_flake(&self) -> bool {
        match self {
            Self::NoPackage { .. } | Self::NotADerivation { .. } | Self::TooManyChecks { .. } => true,
            Self::Failed { problem, .. } => match problem {
                Problem::NoFlake
                | Problem::Unlocked
                | Problem::ImportFromDerivation
                | Problem::Recursion
                | Problem::Impure
                | Problem::HashMismatch
                | Problem::Other => true,
                Problem::Daemon
                | Problem::Permission
                | Problem::NotARepository
                | Problem::Owner
                | Problem::NoRevision
                | Problem::DiskFull
                | Problem::Network
                | Problem::Gone
                | Problem::NoNamespaces => false,
            },
            Self::Missing { .. }
            | Self::Old { .. }
            | Self::Unreadable { .. }
            | Self::Run { .. }
            | Self::BadReference { .. }
            | Self::NotInStore { .. }
            | Self::NoStore { .. }
            | Self::Damaged { .. }
            | Self::File { .. }
            | Self::NoGeneration { .. }
            | Self::DeadGeneration { .. }
            | Self::ProfileBusy { .. }
            | Self::BadName { .. } => false,
        }
    }

    /// The problem behind it, where Nix told one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("install Nix: apt-get install nix-bin, or see https://nixos.org/download".to_owned())
            }
            Self::Old { .. } => Some("install a newer Nix: https://nixos.org/download".to_owned()),
            Self::Run { source: command::Error::Timeout { .. }, .. } => {
                Some("look what it waits for: ps -ef | grep nix".to_owned())
            }
            Self::Failed { problem, .. } => problem.hint(),
            Self::NoPackage { available, .. } => match available.first() {
                Some(name) => {
                    Some(format!("set runtime.package = {name:?} in rei.toml, or add the package to the flake"))
                }
                None => Some("add packages.<system>.NAME to the flake".to_owned()),
            },
            Self::NotADerivation { .. } => {
                Some("the attribute must be what `derivation` or a builder gives".to_owned())
            }
            Self::NoStore { .. } => Some(USE_THE_DAEMON.to_owned()),
            Self::Damaged { path } => Some(format!("nix-store --delete --ignore-liveness {}", path.display())),
            Self::ProfileBusy { profile } => Some(format!("see who holds it: fuser {}.lock", profile.display())),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Problem::DiskFull.hint(),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `text` without the escape sequences that colour it.
pub(super) fn strip_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if chars.next() == Some('[') {
            // The sequence ends with its first letter.
            chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    plain
}

/// The beginning of `text`, at most `max` bytes, cut between characters.
pub(super) fn bounded(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The part of a message that says what is wrong and where: the last error, without trace and source excerpt.
pub(super) fn telling(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let from = lines.iter().rposition(|line| line.starts_with("error:") && line.len() > "error:".len());
    let Some(from) = from else {
        // No error said: the last line is the best there is.
        return bounded(lines.iter().rfind(|line| !line.is_empty()).unwrap_or(&"no message"), TELLING_BYTES_MAX)
            .to_owned();
    };
    let mut telling = String::new();
    for line in &lines[from..] {
        let part = if let Some(place) = line.strip_prefix("at ") {
            format!("(at {})", in_the_tree(place.trim_end_matches(':')))
        } else if line.is_empty() || line.starts_with("(use '--show-trace'") || is_excerpt(line) {
            continue;
        } else {
            line.strip_prefix("error:").unwrap_or(line).trim().to_owned()
        };
        if !telling.is_empty() {
            telling.push(' ');
        }
        telling.push_str(&part);
    }
    bounded(&telling, TELLING_BYTES_MAX).to_owned()
}

/// Whether a line shows source: `   29|     rec.x = …` or the `|   ^` below it.
fn is_excerpt(line: &str) -> bool {
    line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('|')
}

/// `flake.nix:29:5` of `/nix/store/HASH-source/flake.nix:29:5` or `«git+file:…»/flake.nix:29:5`.
fn in_the_tree(place: &str) -> &str {
    place.split_once("-source/").or_else(|| place.split_once("»/")).map_or(place, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VERSIONS, samples};
    use super::*;

    /// What each version prints when the evaluation of an attribute fails, and what must be read from it.
    const SAMPLES: &[(&str, [&str; 3], Problem, &str)] = &[
        (
            "abort",
            samples!("eval-abort"),
            Problem::Other,
            "evaluation aborted with the following error message: 'aborted on purpose'",
        ),
        ("missing", samples!("eval-missing"), Problem::Other, "attribute 'nosuch' missing (at flake.nix:28:17)"),
        ("syntax", samples!("eval-syntax"), Problem::Other, "syntax error, unexpected ';' (at flake.nix:1:29)"),
        ("nested", samples!("eval-nested"), Problem::Other, "deep down"),
        ("recursion", samples!("eval-inf"), Problem::Recursion, "infinite recursion encountered (at flake.nix:30:21)"),
    ];

    #[test]
    fn the_telling_part_is_the_same_for_all_versions() {
        for (name, texts, problem, expected) in SAMPLES {
            for (version, text) in VERSIONS.iter().zip(texts) {
                assert_eq!(&telling(text), expected, "{name} of {version}");
                assert_eq!(&Problem::find(text), problem, "{name} of {version}");
            }
        }
    }

    #[test]
    fn each_problem_is_found_in_the_words_of_all_versions() {
        use Problem::*;
        for (problem, texts) in [
            (ImportFromDerivation, samples!("eval-ifd")),
            (Recursion, samples!("eval-recu")),
            (Impure, samples!("eval-read")),
            (Unlocked, samples!("eval-nolock")),
            (NoFlake, samples!("eval-noflake")),
            (NoRevision, samples!("eval-norev")),
            (Network, samples!("eval-net")),
            (Daemon, samples!("nodaemon")),
            (Gone, samples!("badpath")),
        ] {
            for (version, text) in VERSIONS.iter().zip(texts) {
                let error = Error::from_nix("test", text);
                assert_eq!(error.problem(), Some(&problem), "{version}: {text}");
                assert!(error.hint().is_some(), "{problem:?} needs a hint");
                let shown = error.to_string();
                assert!(!shown.contains('\n') && shown.len() < 600, "{version} {problem:?}: {shown}");
            }
        }
        for text in [include_str!("samples/2.26/eval-owner"), include_str!("samples/2.34/eval-owner")] {
            assert_eq!(Problem::find(text), Owner);
        }
    }

    #[test]
    fn colours_and_garbage_do_no_harm() {
        assert_eq!(strip_colours("\u{1b}[31;1merror:\u{1b}[0m no"), "error: no");
        assert_eq!(strip_colours("cut \u{1b}[31"), "cut ");
        assert_eq!(strip_colours("\u{1b}"), "");
        assert_eq!(telling(""), "no message");
        assert_eq!(telling("\u{fffd}\n\n"), "\u{fffd}");
        assert_eq!(telling("error:"), "error:");
        assert!(telling(&format!("error: {}", "ü".repeat(10_000))).len() <= TELLING_BYTES_MAX);
    }
}
