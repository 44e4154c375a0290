//! `rei init --systemd`: the unit of one runtime, from the same directives as the NixOS module.

use std::path::{Path, PathBuf};

use toml_edit::{Document, Item};

use super::super::error::{CommandError, Kind};
use super::super::ui::Ui;
use crate::config::Config;
use crate::config::template::OPERATORS;

/// The directives; each loose one has its reason.
const UNIT: &str = include_str!("../../../modules/unit.toml");
/// On Debian only this group may use the Nix daemon, so the new user becomes a member.
const NIX_GROUP: &str = "nix-users";

/// The values that differ between machines.
struct Place<'a> {
    name: &'a str,
    config: &'a Path,
    rei: &'a Path,
    user: String,
    operators: &'a str,
}

impl Place<'_> {
    fn fill(&self, text: &str) -> String {
        // In a unit, % starts a specifier.
        let path = |path: &Path| path.to_string_lossy().replace('%', "%%");
        [
            ("@name@", self.name.to_owned()),
            ("@config@", path(self.config)),
            ("@rei@", path(self.rei)),
            ("@user@", self.user.clone()),
            ("@operators@", self.operators.to_owned()),
        ]
        .iter()
        .fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value))
    }
}

/// Writes `rei-NAME.service` beside rei.toml, and prints how to install it.
///
/// # Errors
/// If rei.toml is wrong, a path cannot be written in a unit, or the file already exists or cannot be written.
pub fn write(file: &Path, ui: &mut Ui) -> Result<(), CommandError> {
    let config = Config::load(file)?;
    let failed = |what: String| CommandError::new(Kind::Failed, what);
    let path = file.canonicalize().map_err(|error| failed(format!("cannot find {}", file.display())).because(error))?;
    let rei = std::env::current_exe().map_err(|error| failed("cannot find rei's own program".into()).because(error))?;
    for word in [&path, &rei] {
        if word.to_string_lossy().contains(|c: char| c.is_whitespace() || "\"'\\$@".contains(c)) {
            let error = failed(format!("a systemd unit cannot contain the path {}", word.display()));
            return Err(error.hint("move it to a path without spaces, quotes, \\, $ and @"));
        }
    }
    let operators = config.state.operators.as_deref().unwrap_or(OPERATORS);
    let name = &*config.runtime.name;
    let place = Place { name, config: &path, rei: &rei, user: format!("rei-{name}"), operators };
    let unit = file.with_file_name(format!("rei-{name}.service"));
    let created = std::fs::OpenOptions::new().write(true).create_new(true).open(&unit);
    let written = created.and_then(|mut new| std::io::Write::write_all(&mut new, render(&place).as_bytes()));
    written.map_err(|error| failed(format!("cannot write {}", unit.display())).because(error))?;
    ui.status(&format!("wrote {}", unit.display()));
    if let Some(lines) = missing(&config, &place, says_where(&path)) {
        ui.warning(&format!(
            "{} needs these lines, for the unit's directories and group:\n\n{lines}\n",
            file.display()
        ));
    }
    ui.hint(&format!("to install and enable it:\n\n{}\n", steps(&place, &unit)));
    Ok(())
}

/// The commands that install and enable the unit.
fn steps(place: &Place<'_>, unit: &Path) -> String {
    let Place { name, config, user, operators, .. } = place;
    let unit: PathBuf = unit.canonicalize().unwrap_or_else(|_| unit.to_owned());
    [
        format!("getent group {operators} || groupadd --system {operators}"),
        format!(
            "id {user} || useradd --system --no-create-home --home-dir /var/lib/rei/{name} --gid {operators} \
             $(getent group {NIX_GROUP} >/dev/null && echo --groups {NIX_GROUP}) {user}"
        ),
        format!("install -m 644 {} /etc/systemd/system/", unit.display()),
        "systemctl daemon-reload".to_owned(),
        format!("systemctl enable --now rei-{name}"),
        format!("rei status --config {}", config.display()),
    ]
    .map(|step| format!("  {step}"))
    .join("\n")
}

/// Whether rei.toml names the state directory. The default differs for each user, so the unit's user would use another directory.
fn says_where(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let named = |document: Document<String>| document.get("state")?.get("directory").map(drop);
    Document::parse(text).ok().and_then(named).is_some()
}

/// The lines of `[state]` that the unit needs and that rei.toml does not have.
fn missing(config: &Config, place: &Place<'_>, says_where: bool) -> Option<String> {
    let (name, operators) = (place.name, place.operators);
    let (state, sockets) = (format!("/var/lib/rei/{name}"), format!("/run/rei/{name}"));
    let there = &config.state;
    let lines = [
        (!says_where || there.directory != Path::new(&state)).then(|| format!("directory = \"{state}\"")),
        (there.sockets.as_deref() != Some(Path::new(&sockets))).then(|| format!("sockets = \"{sockets}\"")),
        there.operators.is_none().then(|| format!("operators = \"{operators}\"")),
    ];
    let lines: Vec<String> = lines.into_iter().flatten().map(|line| format!("  {line}")).collect();
    (!lines.is_empty()).then(|| format!("  [state]\n{}", lines.join("\n")))
}

/// The unit's text, with the comments of the directives.
fn render(place: &Place<'_>) -> String {
    // Cannot fail: the text is a constant, and a test of this file reads it.
    let directives = Document::parse(UNIT).expect("modules/unit.toml is TOML");
    let mut unit = place.fill("# rei for the runtime `@name@`; written by `rei init --systemd`.\n");
    for (section, items) in directives.iter() {
        let Some(items) = items.as_table() else { continue };
        unit.push_str(&format!("\n[{section}]\n"));
        for (directive, value) in items {
            let remark = items.key(directive).and_then(|key| key.leaf_decor().prefix()?.as_str());
            unit.push_str(remark.unwrap_or_default().trim_start_matches('\n'));
            for value in values(value) {
                unit.push_str(&format!("{directive}={}\n", place.fill(&value)));
            }
        }
    }
    unit
}

/// The values of a directive: the directive is repeated for each of them.
fn values(item: &Item) -> Vec<String> {
    let word = |value: &toml_edit::Value| match value {
        toml_edit::Value::Boolean(value) => value.value().to_string(),
        toml_edit::Value::Integer(value) => value.value().to_string(),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    match item.as_value() {
        Some(toml_edit::Value::Array(values)) => values.iter().map(word).collect(),
        Some(value) => vec![word(value)],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The highest allowed score. A unit without any hardening has 9.6.
    const EXPOSURE_MAX: f64 = 3.0;

    fn unit() -> String {
        // systemd checks that programs and users exist, so these exist on every machine.
        let place = Place {
            name: "greeter",
            config: Path::new("/srv/greeter/rei.toml"),
            rei: Path::new("/bin/sh"),
            user: "daemon".to_owned(),
            operators: "daemon",
        };
        render(&place)
    }

    #[test]
    fn the_unit_has_no_placeholder_left() {
        let unit = unit();
        let directives: Vec<&str> = unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(directives.iter().all(|line| line.starts_with('[') || line.contains('=')), "{unit}");
        assert!(!directives.iter().any(|line| line.contains('@') && !line.starts_with("SystemCall")), "{unit}");
        for line in ["[Install]", "User=daemon", "ExecStart=/bin/sh run --config /srv/greeter/rei.toml"] {
            assert!(directives.contains(&line), "{unit}");
        }
    }

    #[test]
    fn systemd_accepts_the_unit_and_rates_it_as_hardened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rei-greeter.service");
        std::fs::write(&path, unit()).unwrap();
        let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(&path).output();
        // systemd-analyze looks for documentation with `man`, which some machines do not have.
        let Ok(verified) = analyze(&["verify", "--man=no"]) else { return eprintln!("SKIPPED: no systemd-analyze") };
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        // An older systemd ignores directives that it does not know.
        let ours = said.lines().filter(|line| line.contains("rei-greeter"));
        let wrong: Vec<&str> = ours.filter(|line| !line.contains("Unknown key")).collect();
        assert!(wrong.is_empty() && verified.status.success(), "{said}");
        let scored = analyze(&["security", "--offline=true"]).unwrap();
        let said = String::from_utf8_lossy(&scored.stdout).into_owned();
        let score = said.lines().find_map(|line| line.split_once("Overall exposure level for")?.1.split(' ').nth(2));
        let score: Option<f64> = score.and_then(|score| score.parse().ok());
        assert!(score.is_some_and(|score| score <= EXPOSURE_MAX), "{score:?}\n{said}");
    }
}
