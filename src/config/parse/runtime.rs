//! `[runtime]` and its listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::super::section::{At, Node, Read, Section};
use super::super::value::one_of;
use super::super::{Listen, ListenAddress, Place, Runtime, Standby, StopMode, Strategy};
use super::paths;

/// The longest name of a runtime: it is part of file and cgroup names.
const NAME_BYTES_MAX: usize = 64;
/// The longest path of a unix socket: the kernel's 107, less a suffix for the second slot.
const SOCKET_PATH_BYTES_MAX: usize = 96;
/// Listeners of one runtime: each costs five sockets.
const LISTENERS_MAX: usize = 64;

impl Read for Strategy {
    const WHAT: &'static str = "\"overlap\" or \"recreate\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("overlap", Self::Overlap), ("recreate", Self::Recreate)])
    }
}

impl Read for Standby {
    const WHAT: &'static str = "\"keep\", \"fresh\" or \"cold\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("keep", Self::Keep), ("fresh", Self::Fresh), ("cold", Self::Cold)])
    }
}

impl Read for StopMode {
    const WHAT: &'static str = "\"control-group\" or \"mixed\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        one_of(node, &[("control-group", Self::ControlGroup), ("mixed", Self::Mixed)])
    }
}

impl Read for Signal {
    const WHAT: &'static str = "the name of a signal, as \"SIGTERM\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let name = String::read(node)?;
        let whole = if name.starts_with("SIG") { name.clone() } else { format!("SIG{name}") };
        let hint = "a name of signal(7), as \"SIGTERM\", \"SIGQUIT\", \"SIGINT\" or \"SIGUSR1\"";
        match whole.parse() {
            Ok(Self::SIGKILL | Self::SIGSTOP | Self::SIGCONT) => {
                let hint = "choose the signal on which the service finishes what it has";
                node.wrong(format!("cannot be \"{name}\": no process can act on it"), Some(hint.to_owned()))
            }
            Ok(signal) => Some(signal),
            Err(_) => node.wrong(format!("cannot be \"{name}\": no signal has this name"), Some(hint.to_owned())),
        }
    }
}

/// The section, and the path of the source if it is a path.
pub(super) fn runtime(mut section: Section<'_>, place: &Place) -> Option<(Runtime, Option<PathBuf>)> {
    let name = section.required::<String>("name", "\"greeter\"");
    if let Some(at) = name.as_ref().filter(|at| !paths::is_name(&at.value, NAME_BYTES_MAX)) {
        let hint = format!("letters, digits, - and _; at most {NAME_BYTES_MAX}");
        section.impossible("name", &at.span, format!("`{}` is no name for a runtime", at.value), &hint);
    }
    let source = section.required::<String>("source", "\".\"");
    let source = source.map(|at| repository(&section, &at, place));
    let followed = section.value::<String>("ref");
    if let Some(at) = followed.as_ref().filter(|at| !is_ref(&at.value)) {
        section.impossible(
            "ref",
            &at.span,
            format!("`{}` is no name of a branch or tag", at.value),
            "as in \"main\" or \"v1\"",
        );
    }
    let submodules = section.value("submodules");
    let dir = section.value::<String>("dir");
    if let Some(at) = dir.as_ref().filter(|at| !paths::is_inner(&at.value)) {
        section.impossible(
            "dir",
            &at.span,
            format!("`{}` leaves the repository", at.value),
            "write it from the repository's root",
        );
    }
    let package = section.value::<String>("package");
    if let Some(at) = package.as_ref().filter(|at| !is_attribute(&at.value)) {
        section.impossible(
            "package",
            &at.span,
            format!("`{}` is no name of a package", at.value),
            "as `nix flake show` lists it",
        );
    }
    let command = section.required::<Vec<String>>("command", "[\"bin/NAME\"]");
    paths::command_is_there(&section, command.as_ref());
    if let Some(at) = &command {
        program_is_inside(&section, at);
    }
    let env = section.section("env");
    let listen = listeners(&mut section);
    let (strategy, standby) = (section.value("strategy"), section.value("standby"));
    let (start, stop) = (section.value("start_timeout"), section.value("stop_timeout"));
    let (stop_signal, stop_mode) = (section.value("stop_signal"), section.value("stop_mode"));
    let poll = section.value("poll");
    section.close();
    let (source, source_path) = source?;
    let runtime = Runtime {
        name: name?.value,
        source,
        r#ref: followed?.value,
        submodules: submodules?.value,
        dir: dir?.value,
        package: package?.value,
        command: command?.value,
        env: paths::environment(env),
        listen: listen?,
        strategy: strategy?.value,
        standby: standby?.value,
        start_timeout: start?.value,
        stop_timeout: stop?.value,
        stop_signal: stop_signal?.value,
        stop_mode: stop_mode?.value,
        poll: poll?.value,
    };
    Some((runtime, source_path))
}

/// A URL as it is, or a path made absolute.
fn repository(section: &Section<'_>, at: &At<String>, place: &Place) -> (String, Option<PathBuf>) {
    let text = at.value.trim();
    if text.is_empty() || text.starts_with('-') {
        section.impossible(
            "source",
            &at.span,
            "`runtime.source` names no repository",
            "a path or a URL, as git takes it",
        );
    }
    if text.starts_with("~") {
        section.impossible("source", &at.span, "`~` means nothing here", "write the whole path, from /");
    }
    if let Some(path) = text.strip_prefix("file://") {
        return (text.to_owned(), Some(PathBuf::from(path)));
    }
    // As git has it: a colon before the first slash is a host.
    let colon = text.find(':').unwrap_or(usize::MAX);
    if text.contains("://") || colon < text.find('/').unwrap_or(text.len()) {
        return (text.to_owned(), None);
    }
    let path = paths::resolved(text, place);
    (path.to_string_lossy().into_owned(), Some(path))
}

/// The rules of `git check-ref-format` that a person can break.
fn is_ref(text: &str) -> bool {
    let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !text.contains(bad)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.starts_with('-')
        && !text.ends_with('.')
        && text != "@"
        && text.split('/').all(part)
}

/// A name that can stand in a flake reference behind `#` without being read as more.
fn is_attribute(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_'+".contains(c);
    !text.is_empty() && text.chars().all(fits) && !text.starts_with('-')
}

fn program_is_inside(section: &Section<'_>, at: &At<Vec<String>>) {
    let Some(program) = at.value.first().filter(|program| !program.is_empty()) else { return };
    if program.starts_with('/') {
        let inner = program.trim_start_matches('/').rsplit("/bin/").next().unwrap_or(program);
        let hint = format!("write it from the package's root: \"bin/{}\"", inner.rsplit('/').next().unwrap_or(inner));
        section.impossible(
            "command",
            &at.span,
            "the program of `runtime.command` must be inside the store path",
            &hint,
        );
    } else if !paths::is_inner(program) {
        let hint = "write it from the package's root, without `..`: \"bin/NAME\"";
        section.impossible("command", &at.span, "the program of `runtime.command` leaves the store path", hint);
    }
}

fn listeners(section: &mut Section<'_>) -> Option<Vec<Listen>> {
    if !section.has("listen") {
        // A worker needs none. It is read all the same, so that the key is known.
        let _ = section.optional::<Vec<String>>("listen");
        return Some(Vec::new());
    }
    let entries = section.optional::<Vec<At<String>>>("listen")?;
    if entries.value.len() > LISTENERS_MAX {
        let message = format!("{} listeners are more than {LISTENERS_MAX}", entries.value.len());
        section.impossible("listen", &entries.span, message, "split the runtime");
    }
    let mut listeners: Vec<Listen> = Vec::new();
    for at in &entries.value {
        match listener(&at.value) {
            Err((message, hint)) => section.impossible("listen", &at.span, message, &hint),
            Ok(listen) => {
                if let Some(twin) = listeners.iter().find(|other| other.name == listen.name) {
                    let message = format!("two listeners are named `{}`", twin.name);
                    section.impossible("listen", &at.span, message, "give each a name of its own");
                } else if let Some(twin) = listeners.iter().find(|other| other.address == listen.address) {
                    let message =
                        format!("`{}` and `{}` have the same address {}", twin.name, listen.name, twin.address);
                    section.impossible("listen", &at.span, message, "one listener for each address");
                }
                listeners.push(listen);
            }
        }
    }
    Some(listeners)
}

/// One `name=address`; else what is wrong with it and a hint.
fn listener(text: &str) -> Result<Listen, (String, String)> {
    let example = "write name=address: \"http=127.0.0.1:8080\", \"dns=udp:127.0.0.1:53\" or \"ipc=unix:/run/x.sock\"";
    let (name, address) = text.split_once('=').ok_or((format!("`{text}` has no name"), example.to_owned()))?;
    if !paths::is_name(name, NAME_BYTES_MAX) {
        return Err((format!("`{name}` is no name for a listener"), "letters, digits, - and _".to_owned()));
    }
    if name == "rei" {
        let hint = "rei makes it itself where `health.interface` is set; give yours another name";
        return Err(("the name `rei` is the interface's own".to_owned(), hint.to_owned()));
    }
    let address = if let Some(path) = address.strip_prefix("unix:") {
        ListenAddress::Unix(unix(path)?)
    } else if let Some(address) = address.strip_prefix("udp:") {
        ListenAddress::Udp(internet(address)?)
    } else {
        ListenAddress::Tcp(internet(address)?)
    };
    Ok(Listen { name: name.to_owned(), address })
}

fn internet(text: &str) -> Result<SocketAddr, (String, String)> {
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let parsed = local.as_deref().unwrap_or(text).parse::<SocketAddr>();
    let address = parsed.map_err(|_| (format!("`{text}` is no address to listen on"), address_hint(text)))?;
    if address.port() == 0 {
        return Err((format!("`{text}` has no port that a client could know"), "write the port".to_owned()));
    }
    Ok(address)
}

fn address_hint(text: &str) -> String {
    match text.rsplit_once(':') {
        None if text.parse::<u16>().is_ok() => format!("write the address as well: 127.0.0.1:{text} or 0.0.0.0:{text}"),
        None => format!("add the port: {text}:8080"),
        Some(("" | "*", port)) => format!("for all addresses write 0.0.0.0:{port}"),
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => format!("write [{host}]:{port}"),
        Some((host, port)) if port.parse::<u16>().is_err() => format!("the port is a number up to 65535: {host}:8080"),
        Some((_, port)) => {
            format!("hostnames are not resolved, except localhost; write the number: 127.0.0.1:{port}")
        }
    }
}

fn unix(path: &str) -> Result<PathBuf, (String, String)> {
    if path.starts_with('@') {
        return Err(("abstract sockets cannot be switched".to_owned(), "use a path: unix:/run/NAME.sock".to_owned()));
    }
    if !path.starts_with('/') || path.ends_with('/') {
        return Err((format!("`{path}` is no absolute path of a socket"), "as in unix:/run/NAME.sock".to_owned()));
    }
    if path.len() > SOCKET_PATH_BYTES_MAX {
        let hint = format!("the kernel takes few; at most {SOCKET_PATH_BYTES_MAX} here");
        return Err((format!("the socket path has {} bytes", path.len()), hint));
    }
    Ok(paths::normal(std::path::Path::new(path)))
}
