//! What the file names beside itself: blueprints and golden runs. It is the operator's and read without asking the machine
//! anything, so that a build can look at it, too.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::blueprint::library::Library;
use crate::config::types::{Listen, ListenAddress, StandingSample};
use crate::config::{Config, LogFormat};
use crate::golden;
use crate::preflight::answer::Answer;
use crate::report::chain;

/// Can the blueprints be used that are named, with the agents and commands that there are?
pub fn blueprints(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    let library = Library::new(config.blueprints.directory.clone());
    vec![match library.unusable(config).first() {
        Some(error) => {
            let hint = error.hint().unwrap_or_else(|| "correct it, or name another in the file".to_owned());
            Answer::fail(chain(error).replace('\n', "; "), hint)
        }
        None => {
            let wanted = &config.blueprints;
            let mut names: Vec<&String> = wanted.incident.iter().chain(wanted.by_class.values()).collect();
            names.push(&wanted.upgrade);
            names.sort();
            names.dedup();
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            Answer::ok(names.join(", "))
        }
    }]
}

/// Can every golden run be read to its end, and has it a listener to ask?
pub fn golden(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config.filter(|config| !config.validation.golden.is_empty()) else { return Vec::new() };
    vec![match golden_runs(config) {
        Ok(runs) if runs.is_empty() => Answer::warn(
            "no golden run in `validation.golden`",
            "make one: rei golden record, or rei golden import FILE",
        ),
        Ok(runs) => Answer::ok(runs.join(", ")),
        Err(answer) => answer,
    }]
}

/// The names of the runs.
fn golden_runs(config: &Config) -> Result<Vec<String>, Answer> {
    let wrong = |error: golden::Error| {
        let hint = error.hint().unwrap_or_else(|| "record it again: rei golden import FILE".to_owned());
        Answer::fail(chain(&error).replace('\n', "; "), hint)
    };
    let mut names = Vec::new();
    for run in golden::list(&config.validation.golden).map_err(wrong)? {
        golden::verify(&run.path).map_err(wrong)?;
        let header = run.header;
        if !config.runtime.listen.iter().any(|listen| listen.name == header.listener) {
            let line =
                format!("the golden run {} asks the listener `{}`, which is not there", header.name, header.listener);
            return Err(Answer::fail(line, "name one of `runtime.listen` in its first line"));
        }
        names.push(header.name);
    }
    Ok(names)
}

/// Where are the requests of users counted?
pub fn requests(config: Option<&Config>) -> Vec<Answer> {
    let Some(health) = config.map(|config| &config.health) else { return Vec::new() };
    let mut sources = Vec::new();
    if let Some(metrics) = &health.metrics {
        let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "the usual names".to_owned());
        let (requests, latency) = (named(&metrics.requests), named(&metrics.latency));
        let how = if requests == latency { requests } else { format!("{requests}, latency by {latency}") };
        sources.push(format!("`{}` on `{}` every {:?}, by {how}", metrics.path, metrics.listen, metrics.interval));
    }
    if let Some(log) = &health.log {
        let format = match &log.format {
            LogFormat::Combined => "in the format combined",
            LogFormat::Common => "in the format common",
            LogFormat::Json => "as JSON",
            LogFormat::Logfmt => "as logfmt",
            LogFormat::Pattern(_) => "by a regular expression",
        };
        sources.push(format!("the lines of the output {format}"));
    }
    let tells_agents = !matches!(&health.log, Some(log) if log.format == LogFormat::Common);
    let asks_root = health.http.as_ref().is_some_and(|probe| probe.path == "/");
    if asks_root && !tells_agents {
        let line = "the format common has no user agent, so that rei's probes of `/` count as requests of users";
        return vec![Answer::warn(line, "set another `health.http.path`, or log in the format combined")];
    }
    (!sources.is_empty()).then(|| Answer::ok(sources.join("; "))).into_iter().collect()
}

/// Which listeners have a tap, that shows what users' requests get?
pub fn tap(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    let tap = &config.traffic.tap;
    let tcp = config.runtime.listen.iter().filter(|listen| matches!(listen.address, ListenAddress::Tcp(_)));
    let (taken, left): (Vec<_>, Vec<_>) = tcp.partition(|listen| tap.takes(listen));
    let names = |listens: &[&Listen]| listens.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    let is_recorded = |sample: &StandingSample| {
        let named = |listen: &&Listen| sample.listener.as_ref().is_none_or(|name| *name == listen.name);
        tap.share > 0.0 && taken.iter().any(named)
    };
    if let Some(sample) = config.golden.record.as_ref().filter(|sample| !is_recorded(sample)) {
        let of = sample.listener.as_ref().map_or_else(String::new, |name| format!(" in front of {name}"));
        let line = format!("`golden.record` records nothing: there is no tap{of}");
        let hint = "set `traffic.tap = { listeners = \"all\" }`, name a listener on a loopback address, or remove `golden.record`";
        return vec![Answer::warn(line, hint)];
    }
    if taken.is_empty() && left.is_empty() {
        return Vec::new();
    }
    if tap.share <= 0.0 {
        return vec![Answer::ok("`traffic.tap` is off")];
    }
    let mut words = Vec::new();
    if !taken.is_empty() {
        words.push(format!("a share of the connections of {} goes through it", names(&taken)));
    }
    if !left.is_empty() {
        let left = names(&left);
        words.push(format!(
            "not those of {left}, because the runtime would see its address in place of the client's \
             (`traffic.tap.listeners = \"all\"` allows that)"
        ));
    }
    vec![Answer::ok(words.join("; "))]
}

/// Can only the owner read the files with secrets: rei.toml itself, and the files of secrets that it names?
pub fn secrets(config: Option<&Config>, own_file: &Path) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    let held = config.secrets();
    let own = (!held.is_empty()).then(|| own_file.to_owned());
    let files: Vec<PathBuf> = own.into_iter().chain(config.secret_files()).collect();
    for file in &files {
        // A file that does not exist has no secrets; the agent that needs it reports that.
        let Some(found) = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file) else { continue };
        let who = match found.permissions().mode() {
            mode if mode & 0o004 != 0 => "everybody",
            mode if mode & 0o040 != 0 => "its group",
            _ => continue,
        };
        let places: Vec<&str> = held.iter().map(|secret| secret.place.as_str()).collect();
        let what = if file == own_file { format!(" has {} and", places.join(", ")) } else { String::new() };
        let line = format!("{}{what} can be read by {who}", file.display());
        let hint = match file.starts_with("/nix/store") {
            true => "a secret does not belong in the Nix store: let the program read it from a file".to_owned(),
            false => format!("chmod go-r {}", file.display()),
        };
        return vec![Answer::warn(line, hint)];
    }
    let fine = (!files.is_empty()).then(|| Answer::ok("only their owner can read the files with secrets"));
    fine.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::answer::Level;

    #[test]
    fn a_standing_sample_without_a_tap_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |address: &str, more: &str| {
            let file = dir.path().join("rei.toml");
            let text = format!(
                "[runtime]\nname = \"x\"\nsource = \"https://example.org/x\"\ncommand = [\"bin/x\"]\n\
                 listen = [\"http={address}\"]\n{more}\n"
            );
            std::fs::write(&file, text).unwrap();
            tap(Some(&Config::load(&file).unwrap())).remove(0)
        };
        let record = "[golden]\nrecord = true";
        assert_eq!(told("127.0.0.1:80", record).level, Level::Ok);
        assert_eq!(told("0.0.0.0:80", "").level, Level::Ok);
        assert_eq!(
            told("0.0.0.0:80", &format!("{record}\n[traffic]\ntap = {{ listeners = \"all\" }}")).level,
            Level::Ok
        );
        let off = told("127.0.0.1:80", &format!("{record}\n[traffic]\ntap = false"));
        for answer in [told("0.0.0.0:80", record), told("unix:/run/x", record), off] {
            assert_eq!(answer.level, Level::Warn, "{}", answer.line);
            assert!(answer.line.contains("golden.record"), "{}", answer.line);
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("rei.toml"), dir.path().join("agent.token"));
        let found = |secret: &str, modes: [u32; 2]| {
            let text = format!(
                "[runtime]\nname = \"x\"\nsource = \"https://example.org/x\"\ncommand = [\"bin/x\"]\n[agents.fixer]\ncommand = [\"/bin/true\"]\n\
                 env = {{ {secret} }}\nread = [\"{}\"]\n",
                key.display()
            );
            for (path, text, mode) in [(&file, text.as_str(), modes[0]), (&key, "k", modes[1])] {
                std::fs::write(path, text).unwrap();
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            let config = Config::load(&file).unwrap();
            secrets(Some(&config), &file).remove(0)
        };
        let key_in_file = "API_KEY = \"sesame4711\"";
        assert_eq!(found(key_in_file, [0o600, 0o600]).level, Level::Ok);
        let world = found(key_in_file, [0o644, 0o600]);
        assert_eq!(world.level, Level::Warn);
        assert!(world.line.contains("agents.fixer.env.API_KEY") && world.line.contains("everybody"), "{}", world.line);
        assert!(!world.line.contains("sesame"), "{}", world.line);
        assert!(found(key_in_file, [0o640, 0o600]).line.contains("its group"));
        assert_eq!(found("MODE = \"fast\"", [0o644, 0o600]).level, Level::Ok);
        let named = found("MODE = \"fast\"", [0o644, 0o644]);
        assert!(named.level == Level::Warn && named.line.contains("agent.token"), "{}", named.line);
    }
}
