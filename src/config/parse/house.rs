//! `[traffic]`, `[golden]`, `[isolation]` and `[state]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::section::{At, Node, Read, Section};
use super::super::value::{Bytes, one_of};
use super::super::{Golden, Isolation, Listen, Place, StandingSample, State, Tap, TapListeners, Traffic};
use super::paths;
use super::signals::at_least_one;

/// Fewer descriptors than this, and a program cannot even start with its listeners.
const FDS_MIN: u64 = 64;
/// The longest directory of sockets: the kernel takes 107 bytes for `DIRECTORY/control.sock` and a temporary suffix.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 88;
/// The Nix store, which only Nix writes.
const STORE: &str = "/nix/store";

impl Read for TapListeners {
    const WHAT: &'static str = "\"loopback\" or \"all\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("loopback", Self::Loopback), ("all", Self::All)])
    }
}

pub(super) fn traffic(mut section: Section<'_>) -> Option<Traffic> {
    let is_off = section.is_off("tap");
    let mut tap = section.section("tap");
    let (share, listeners) = (tap.value::<f64>("share"), tap.value("listeners"));
    if let Some(at) = share.as_ref().filter(|at| !(0.0..=1.0).contains(&at.value)) {
        let message = format!("{} is no share of the connections", at.value);
        tap.impossible("share", &at.span, message, "from 0 (off) to 1 (all)");
    }
    tap.close();
    section.close();
    let share = share?.value;
    Some(Traffic { tap: Tap { share: if is_off { 0.0 } else { share }, listeners: listeners?.value } })
}

pub(super) fn golden(mut section: Section<'_>, listeners: Option<&[Listen]>) -> Option<Golden> {
    let record = section.optional_section("record").map(|section| sample(section, listeners));
    section.close();
    Some(Golden { record: record.map_or(Some(None), |sample| sample.map(Some))? })
}

fn sample(mut section: Section<'_>, listeners: Option<&[Listen]>) -> Option<StandingSample> {
    let (name, listener) = (section.value::<String>("name"), section.optional::<String>("listener"));
    let (limit, bytes) = (at_least_one(&mut section, "limit"), section.value::<Bytes>("bytes"));
    let age = section.value::<Duration>("age");
    if let Some(at) = name.as_ref().filter(|at| !paths::is_name(&at.value, 64)) {
        section.impossible(
            "name",
            &at.span,
            format!("`{}` is no name of a run", at.value),
            "use letters, digits, `-` and `_`",
        );
    }
    if let (Some(at), Some(all)) = (&listener, listeners)
        && !all.iter().any(|listen| listen.name == at.value)
    {
        section.impossible(
            "listener",
            &at.span,
            format!("there is no listener `{}`", at.value),
            "name one of `runtime.listen`",
        );
    }
    section.close();
    let listener = listener.map(|at| at.value);
    Some(StandingSample { name: name?.value, listener, limit: limit?, bytes: bytes?.value.0, age: age?.value })
}

pub(super) fn isolation(mut section: Section<'_>) -> Option<Isolation> {
    let (read, execute) = (paths::absolute(&mut section, "read"), paths::absolute(&mut section, "execute"));
    let write = paths::absolute(&mut section, "write");
    if write.iter().flatten().any(|path| path == Path::new("/") || path.starts_with(STORE)) {
        let span = section.key_span("write").unwrap_or_default();
        section.impossible(
            "write",
            &span,
            "an instance that may write there is not isolated",
            "name the directories it needs",
        );
    }
    let user = section.optional::<String>("user");
    if let Some(at) = user.as_ref().filter(|at| !paths::is_name(&at.value, 32)) {
        section.impossible("user", &at.span, format!("`{}` is no name of a user", at.value), "as in /etc/passwd");
    }
    let memory = section.optional::<Bytes>("memory");
    let processes = at_least_one(&mut section, "processes");
    let fds = section.value::<u64>("fds");
    if let Some(at) = fds.as_ref().filter(|at| at.value < FDS_MIN) {
        let message = format!("{} descriptors do not suffice for any service", at.value);
        section.impossible("fds", &at.span, message, &format!("write {FDS_MIN} or more"));
    }
    let connect = section.optional::<Vec<At<u64>>>("connect").map(|at| ports(&section, at.value));
    let enabled = section.value("enabled");
    section.close();
    Some(Isolation {
        read: read?,
        execute: execute?,
        write: write?,
        user: user.map(|at| at.value),
        memory_bytes: memory.map(|at| at.value.0),
        processes: processes?,
        fds: fds?.value,
        connect,
        enabled: enabled?.value,
    })
}

fn ports(section: &Section<'_>, numbers: Vec<At<u64>>) -> Vec<u16> {
    let mut ports = Vec::with_capacity(numbers.len());
    for at in numbers {
        match u16::try_from(at.value) {
            Ok(port) if port > 0 => ports.push(port),
            _ => section.impossible("connect", &at.span, format!("{} is no port", at.value), "1 to 65535"),
        }
    }
    ports
}

/// `names` are the runtime's name and the path of its source, if known.
pub(super) fn state(mut section: Section<'_>, names: Option<(&str, Option<&Path>)>, place: &Place) -> Option<State> {
    let given = section.optional::<String>("directory");
    let written = section.has("directory");
    let sockets = section.optional::<String>("sockets");
    let operators = section.optional::<String>("operators");
    if let Some(at) = operators.as_ref().filter(|at| !paths::is_name(&at.value, 32)) {
        section.impossible("operators", &at.span, format!("`{}` is no name of a group", at.value), "as in /etc/group");
    }
    let log = section.value::<Bytes>("log");
    let runs = at_least_one(&mut section, "runs");
    let evidence = section.value::<Bytes>("evidence");
    let whole = |key: &'static str, at: &Option<At<String>>| {
        let at = at.as_ref()?;
        if !at.value.starts_with('/') {
            section.impossible(
                key,
                &at.span,
                format!("`{}` is not absolute", at.value),
                "write the whole path, from /",
            );
        }
        Some(paths::normal(Path::new(&at.value)))
    };
    let directory = match whole("directory", &given) {
        Some(directory) => Some(directory),
        None if written => None,
        None => names.and_then(|(name, _)| by_default(&section, name, place)),
    };
    let sockets_directory = whole("sockets", &sockets);
    let span = given.as_ref().map_or_else(|| section.span(), |at| at.span.clone());
    if let (Some(directory), Some((_, Some(source)))) = (&directory, names)
        && directory.starts_with(source)
    {
        let hint = "keep it outside: rei's own files would be part of what it builds";
        let message = format!("the state directory {} is inside the source", directory.display());
        section.impossible("directory", &span, message, hint);
    }
    if directory.as_ref().is_some_and(|directory| directory.starts_with(STORE)) {
        section.impossible("directory", &span, "no user can write into the Nix store", "as in /var/lib/rei/NAME");
    }
    let (holder, key, at) = match (&sockets_directory, &sockets) {
        (Some(sockets), Some(at)) => (Some(sockets), "sockets", at.span.clone()),
        _ => (directory.as_ref(), "directory", span),
    };
    if let Some(holder) = holder.filter(|holder| holder.as_os_str().len() > SOCKET_DIRECTORY_BYTES_MAX) {
        let message = format!("{} is too long for the path of a socket", holder.display());
        section.impossible(key, &at, message, "set `state.sockets` to a short path, as in /run/rei/NAME");
    }
    section.close();
    Some(State {
        directory: directory?,
        sockets: sockets_directory,
        operators: operators.map(|at| at.value),
        log_bytes: log?.value.0,
        runs: runs?,
        evidence_bytes: evidence?.value.0,
    })
}

fn by_default(section: &Section<'_>, name: &str, place: &Place) -> Option<PathBuf> {
    if place.root {
        return Some(Path::new("/var/lib/rei").join(name));
    }
    let Some(home) = &place.state_home else {
        let message = "neither $XDG_STATE_HOME nor $HOME is set, so `state.directory` must be given";
        section.impossible("directory", &section.span(), message, "[state] directory = \"/path\"");
        return None;
    };
    Some(paths::normal(&home.join("rei").join(name)))
}
