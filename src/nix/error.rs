//! Interprets Nix's messages: the main part of a message, the problem, and a hint for the operator.

use std::path::PathBuf;

use super::version::{LEAST_VERSION, Version};
use crate::command;

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Maximum size of a full message, in bytes. A trace of Nix can have megabytes.
const FULL_BYTES_MAX: usize = 64 << 10;

/// Maximum size of the main part of a message, in bytes: a few lines.
const MAIN_PART_BYTES_MAX: usize = 2 << 10;

/// Why a call of Nix failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of Nix is not installed.
    #[error("no program {program} in PATH")]
    Missing {
        /// The name of the program.
        program: &'static str,
        /// The error of the search.
        #[source]
        source: which::Error,
    },
    /// The installed Nix is too old.
    #[error("Nix {found} is older than {LEAST_VERSION}, the oldest version that rei supports")]
    Old {
        /// The installed version.
        found: Version,
    },
    /// A program printed unexpected output.
    #[error("unexpected output of Nix for {what}: {output}")]
    Unreadable {
        /// The purpose of the call.
        what: String,
        /// The beginning of the output.
        output: String,
    },
    /// A program could not be run to its end.
    #[error("{what}: Nix did not answer")]
    Run {
        /// The purpose of the call.
        what: String,
        /// The error of the call.
        #[source]
        source: command::Error,
    },
    /// Nix returned an error.
    #[error("{what}: {message}")]
    Failed {
        /// The purpose of the call.
        what: String,
        /// The problem.
        problem: Problem,
        /// The main part of Nix's message.
        message: String,
        /// The full message of Nix, at most 64 KiB.
        full: String,
    },
    /// The flake has no such package.
    #[error("{flake} has no package {package} for {system}; it has: {}", list(available))]
    NoPackage {
        /// The flake.
        flake: String,
        /// The package that was requested.
        package: String,
        /// The machine's system.
        system: String,
        /// The existing packages.
        available: Vec<String>,
    },
    /// An attribute is not a derivation.
    #[error("{attribute} of {flake} is not a derivation but a {found}")]
    NotADerivation {
        /// The flake.
        flake: String,
        /// The attribute.
        attribute: String,
        /// The name of its type in Nix.
        found: String,
    },
    /// The flake has more checks than can be evaluated one by one.
    #[error("{flake} has {count} checks, of which some do not evaluate; at most {max} are tried one by one")]
    TooManyChecks {
        /// The flake.
        flake: String,
        /// The number of its checks.
        count: usize,
        /// The maximum.
        max: usize,
    },
    /// A flake reference cannot be made from this value.
    #[error("{given:?} is not a valid {wanted}")]
    BadReference {
        /// The value.
        given: String,
        /// The expected kind of value.
        wanted: &'static str,
    },
    /// A path is not in the store.
    #[error("{} is not in the store {}", path.display(), store.display())]
    NotInStore {
        /// The path.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// The directory of the store does not exist. Without a store and a daemon, Nix uses a private store below the home
    /// of a plain user; programs from it do not run.
    #[error("there is no Nix store in {}", store.display())]
    NoStore {
        /// The expected directory.
        store: PathBuf,
    },
    /// A path in the store has not the contents that were added, and it cannot be repaired.
    #[error("{} is damaged: its contents differ from what was added to the store", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
    },
    /// A file of rei's own could not be read or written.
    #[error("cannot {act} {}", path.display())]
    File {
        /// The operation that failed.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
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
    /// The store path of the generation does not exist any more.
    #[error("generation {number} of profile {} points to {}, which does not exist any more", profile.display(), path.display())]
    DeadGeneration {
        /// The profile.
        profile: PathBuf,
        /// The number.
        number: u64,
        /// Its store path.
        path: PathBuf,
    },
    /// Another program has locked the profile.
    #[error("profile {} is locked by another program", profile.display())]
    ProfileBusy {
        /// The profile.
        profile: PathBuf,
    },
    /// A name is not a valid file name.
    #[error(
        "{name:?} is not a valid name of a {what}: use letters, digits, '.', '_', '-', and no '.' or '-' at the beginning"
    )]
    BadName {
        /// The name.
        name: String,
        /// The thing that it should name.
        what: &'static str,
    },
}

/// The cause of an error of Nix, as far as its message shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The daemon cannot be reached, or has disconnected.
    Daemon,
    /// This user has no permission to use the store.
    Permission,
    /// The repository of an input does not exist, or is not a repository.
    NotARepository,
    /// The repository of an input belongs to another user.
    Owner,
    /// The repository of an input does not have the commit.
    NoRevision,
    /// The commit has no flake.nix.
    NoFlake,
    /// An input is not in flake.lock.
    Unlocked,
    /// The evaluation needs a build (import from derivation).
    ImportFromDerivation,
    /// The evaluation recurses endlessly.
    Recursion,
    /// The evaluation needs something outside its commit.
    Impure,
    /// The disk is full.
    DiskFull,
    /// A download has another hash than expected.
    HashMismatch,
    /// A download failed.
    Network,
    /// A path is not in the store, or not any more.
    Gone,
    /// The kernel does not support the sandbox.
    NoNamespaces,
    /// Another error, of the flake itself.
    Other,
}

/// The hint for a user that does not own the store.
const USE_THE_DAEMON: &str = "use Nix through its daemon: apt-get install nix-setup-systemd (or the installer of \
                              nixos.org), then usermod --append --groups nix-users USER";

impl Problem {
    /// Finds the problem in a message of Nix 2.8 to 2.34.
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
        // The last error decides; before it are warnings and the trace.
        let from = text.rfind("error:").unwrap_or(0);
        let found =
            |text: &str| WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, problem)| problem.clone());
        found(&text[from..]).or_else(|| found(text)).unwrap_or(Self::Other)
    }

    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Daemon => "start the Nix daemon: systemctl start nix-daemon.socket",
            Self::Permission => USE_THE_DAEMON,
            Self::NotARepository => "an input of the flake names a git repository that does not exist: see flake.lock",
            Self::Owner => {
                "the repositories of the flake's inputs must belong to the user that runs rei: chown --recursive"
            }
            Self::NoRevision => {
                "the repository of an input does not have the commit any more: run nix flake update, and commit flake.lock"
            }
            Self::NoFlake => "the commit needs a flake.nix (runtime.dir names its directory): git add flake.nix",
            Self::Unlocked => "lock the inputs and commit the lock: nix flake lock && git add flake.lock",
            Self::ImportFromDerivation => {
                "set validation.allow_import_from_derivation = true if you trust this flake to build while it is evaluated"
            }
            Self::Recursion => "a value of the flake refers to itself; the full message shows where",
            Self::Impure => {
                "a commit may use only files that it contains: add the file to the tree, and a hash to each fetch"
            }
            Self::DiskFull => "free some space: nix-collect-garbage, df --human-readable",
            Self::HashMismatch => {
                "the source has changed upstream, or the hash in the flake is wrong: set the hash that Nix got"
            }
            Self::Network => "this fetch needs the network on the build machine, or a cache that contains the result",
            Self::Gone => "the garbage collector removed it: build it again",
            Self::NoNamespaces => {
                "allow user namespaces: sysctl user.max_user_namespaces=15000, and if they exist, \
                 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
            }
            Self::Other => return None,
        };
        Some(hint.to_owned())
    }
}

impl Error {
    /// An error from Nix's standard error.
    pub(super) fn from_nix(what: impl Into<String>, stderr: &str) -> Self {
        let text = strip_colours(stderr);
        let full = bounded(text.trim_end(), FULL_BYTES_MAX).to_owned();
        Self::Failed { what: what.into(), problem: Problem::find(&text), message: main_part(&text), full }
    }

    /// An error for unexpected output.
    pub(super) fn unreadable(what: impl Into<String>, output: &str) -> Self {
        Self::Unreadable { what: what.into(), output: bounded(output.trim(), MAIN_PART_BYTES_MAX).to_owned() }
    }

    /// True if the flake itself is the cause, as far as Nix's message shows: it does not evaluate, or lacks what was
    /// requested. A flake can forge the messages of the other kinds, so the consequences of those must be limited.
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

    /// The problem, if the error has one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// A hint for the operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("install Nix: apt-get install nix-bin, or see https://nixos.org/download".to_owned())
            }
            Self::Old { .. } => Some("install a newer Nix: https://nixos.org/download".to_owned()),
            Self::Run { source: command::Error::Timeout { .. }, .. } => {
                Some("see what it is waiting for: ps -ef | grep nix".to_owned())
            }
            Self::Failed { problem, .. } => problem.hint(),
            Self::NoPackage { available, .. } => match available.first() {
                Some(name) => {
                    Some(format!("set runtime.package = {name:?} in rei.toml, or add the package to the flake"))
                }
                None => Some("add packages.<system>.NAME to the flake".to_owned()),
            },
            Self::NotADerivation { .. } => Some("the attribute must be a derivation".to_owned()),
            Self::NoStore { .. } => Some(USE_THE_DAEMON.to_owned()),
            Self::Damaged { path } => Some(format!("nix-store --delete --ignore-liveness {}", path.display())),
            Self::ProfileBusy { profile } => {
                Some(format!("see which process holds the lock: fuser {}.lock", profile.display()))
            }
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Problem::DiskFull.hint(),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `text` without colour escape sequences.
pub(super) fn strip_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            plain.push(c);
        } else if chars.next() == Some('[') {
            // An escape sequence ends with its first letter.
            chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    plain
}

/// The beginning of `text`, at most `max` bytes, cut between characters.
pub(super) fn bounded(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The main part of a message, which says what is wrong and where: the last error, without trace and source excerpt.
pub(super) fn main_part(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let from = lines.iter().rposition(|line| line.starts_with("error:") && line.len() > "error:".len());
    let Some(from) = from else {
        // There is no error line, so use the last line.
        return bounded(lines.iter().rfind(|line| !line.is_empty()).unwrap_or(&"no message"), MAIN_PART_BYTES_MAX)
            .to_owned();
    };
    let mut main = String::new();
    for line in &lines[from..] {
        let part = if let Some(place) = line.strip_prefix("at ") {
            format!("(at {})", in_the_tree(place.trim_end_matches(':')))
        } else if line.is_empty() || line.starts_with("(use '--show-trace'") || is_excerpt(line) {
            continue;
        } else {
            line.strip_prefix("error:").unwrap_or(line).trim().to_owned()
        };
        if !main.is_empty() {
            main.push(' ');
        }
        main.push_str(&part);
    }
    bounded(&main, MAIN_PART_BYTES_MAX).to_owned()
}

/// True if the line shows source code: `   29|     rec.x = …`, or the `|   ^` below it.
fn is_excerpt(line: &str) -> bool {
    line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('|')
}

/// `flake.nix:29:5` from `/nix/store/HASH-source/flake.nix:29:5` or `«git+file:…»/flake.nix:29:5`.
fn in_the_tree(place: &str) -> &str {
    place.split_once("-source/").or_else(|| place.split_once("»/")).map_or(place, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{VERSIONS, samples};
    use super::*;

    /// The output of each version for a failed evaluation, and the expected result.
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
    fn the_main_part_is_the_same_for_all_versions() {
        for (name, texts, problem, expected) in SAMPLES {
            for (version, text) in VERSIONS.iter().zip(texts) {
                assert_eq!(&main_part(text), expected, "{name} of {version}");
                assert_eq!(&Problem::find(text), problem, "{name} of {version}");
            }
        }
    }

    #[test]
    fn each_problem_is_found_in_the_messages_of_all_versions() {
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
        assert_eq!(main_part(""), "no message");
        assert_eq!(main_part("\u{fffd}\n\n"), "\u{fffd}");
        assert_eq!(main_part("error:"), "error:");
        assert!(main_part(&format!("error: {}", "ü".repeat(10_000))).len() <= MAIN_PART_BYTES_MAX);
    }
}
