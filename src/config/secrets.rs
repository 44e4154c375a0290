//! Which values of a configuration are secrets.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Config;
use crate::redact::{Secret, VALUE_BYTES_MIN, is_credential};

/// A value without a telling name is a secret only from this length, in bytes.
const OPAQUE_BYTES_MIN: usize = 12;

/// A larger file holds no key alone, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where systemd puts credentials.
const CREDENTIALS: &str = "/run/credentials";

/// Words of the names of files that hold secrets.
const FILE_WORDS: [&str; 9] =
    [".env", "secret", "credential", "token", "password", "passwd", ".netrc", "apikey", "api_key"];

impl Config {
    /// The values that rei must not store or send on if a program prints them, each with its place. These are variables
    /// and options of agents, commands and the runtime, and a password in the source's URL.
    ///
    /// A variable is a secret if its name says so, or if its value is not a path, an address, a number or a word. If in
    /// doubt, it is a secret: if rei removes too much from a log, a hint is lost; if it removes too little, a key is
    /// public.
    pub fn secrets(&self) -> Vec<Secret> {
        let mut found = Vec::new();
        for (name, agent) in &self.agents {
            variables(&format!("agents.{name}.env"), &agent.env, &mut found);
            options(&format!("agents.{name}.command"), &agent.command, &mut found);
        }
        for (name, command) in &self.commands {
            options(&format!("commands.{name}"), command, &mut found);
        }
        variables("runtime.env", &self.runtime.env, &mut found);
        options("runtime.command", &self.runtime.command, &mut found);
        if let Some(password) = password(&self.runtime.source) {
            found.push(Secret { place: "runtime.source".into(), value: password.to_owned() });
        }
        found
    }

    /// The same values, and those in the files of secrets: such a file is the best place for a key. This blocks on the
    /// disk. A file that does not exist or cannot be read adds no secrets; the program that needs it reports the error.
    pub fn all_secrets(&self) -> Vec<Secret> {
        let mut found = self.secrets();
        for path in self.secret_files() {
            if let Ok(text) = read(&path) {
                in_text(&path.display().to_string(), &text, &mut found);
            }
        }
        found
    }

    /// Files that hold secrets by their names or places, of those that the configuration lets agents and instances read.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let all = self
            .agents
            .values()
            .flat_map(|agent| &agent.read)
            .chain(&self.isolation.read)
            .chain(&self.isolation.execute);
        let named = |path: &&PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            FILE_WORDS.iter().any(|word| name.contains(word))
                || name.ends_with(".key")
                || name.ends_with(".pem")
                || path.starts_with(CREDENTIALS)
        };
        all.filter(named).cloned().collect()
    }
}

/// The text of a regular file of at most [`FILE_BYTES_MAX`].
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path.metadata()?.is_file() {
        std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The secrets in the text of a file: one key that is all of it, `NAME=VALUE` lines, JSON, or lines of a key in PEM.
fn in_text(place: &str, text: &str, found: &mut Vec<Secret>) {
    let text = text.trim();
    let mut push = |value: &str| found.push(Secret { place: place.to_owned(), value: value.to_owned() });
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(text) {
        let mut open: Vec<(String, serde_json::Value)> = map.into_iter().collect();
        while let Some((key, value)) = open.pop() {
            match value {
                serde_json::Value::String(value) if is_credential(&key, &value) || is_opaque(&value) => push(&value),
                serde_json::Value::Object(map) => open.extend(map),
                serde_json::Value::Array(items) => open.extend(items.into_iter().map(|item| (key.clone(), item))),
                _ => {}
            }
        }
        return;
    }
    if !text.contains('\n') && !text.contains('=') {
        push(text);
        return;
    }
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.starts_with("-----")) {
        let named = line
            .split_once('=')
            .filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || "_ .".contains(c)));
        match named {
            Some((name, value)) => {
                let value = value.trim().trim_matches(['"', '\'']);
                if is_credential(name, value) || is_opaque(value) {
                    push(value);
                }
            }
            None if is_opaque(line) => push(line),
            None => {}
        }
    }
}

fn variables(place: &str, env: &BTreeMap<String, String>, found: &mut Vec<Secret>) {
    for (name, value) in env {
        if is_credential(name, value) || is_opaque(value) {
            found.push(Secret { place: format!("{place}.{name}"), value: value.clone() });
        } else if let Some(password) = password(value) {
            found.push(Secret { place: format!("{place}.{name}"), value: password.to_owned() });
        }
    }
}

/// `--api-key VALUE`, `--api-key=VALUE`, `API_KEY=VALUE`.
fn options(place: &str, words: &[String], found: &mut Vec<Secret>) {
    let mut push = |name: &str, value: &str| {
        if value.len() >= VALUE_BYTES_MIN && is_credential(name, value) {
            found.push(Secret { place: place.to_owned(), value: value.to_owned() });
        }
    };
    for (at, word) in words.iter().enumerate() {
        match (word.split_once('='), words.get(at + 1)) {
            (Some((name, value)), _) => push(name.trim_start_matches('-'), value),
            (None, Some(value)) if word.starts_with("--") && !value.starts_with('-') => {
                push(word.trim_start_matches('-'), value);
            }
            (None, _) => {}
        }
    }
}

/// The password in a URL.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let password = user.split_once(':').map_or(user, |(_, password)| password);
    (password.len() >= VALUE_BYTES_MIN).then_some(password)
}

/// Whether a value looks like a key: long, in one piece, of letters and digits, and neither path nor address.
fn is_opaque(value: &str) -> bool {
    let has = |test: fn(char) -> bool| value.chars().any(test);
    let mixed = has(|c| c.is_ascii_digit()) && has(|c| c.is_ascii_alphabetic());
    let address = value.contains("://") || value.starts_with(['/', '.', '~', '[']) || value.contains(":/");
    let host =
        value.contains(':') && value.rsplit(':').next().is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    value.len() >= OPAQUE_BYTES_MIN && mixed && !address && !host && !has(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_secrets_is_read() {
        for (text, values) in [
            ("sesame-4711\n", &["sesame-4711"][..]),
            ("# mine\nAPI_KEY=\"sesame-4711\"\nMODE=fast\nexport B_TOKEN=abcdef123\n", &["sesame-4711", "abcdef123"]),
            ("{\"mode\": \"fast\", \"all\": {\"api_key\": \"sesame-4711\"}}", &["sesame-4711"]),
            ("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END KEY-----\n", &["MIIEvQIBADANBgkqhkiG9w0"]),
            ("", &[""]),
        ] {
            let mut found = Vec::new();
            in_text("f", text, &mut found);
            assert_eq!(found.iter().map(|secret| &*secret.value).collect::<Vec<_>>(), values, "{text}");
        }
    }

    #[test]
    fn a_key_is_told_from_a_setting() {
        let names = |pairs: &[(&str, &str)]| {
            let env = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let mut found = Vec::new();
            variables("e", &env, &mut found);
            found.into_iter().map(|secret| secret.place[2..].to_owned()).collect::<Vec<_>>()
        };
        let settings = [
            ("PATH", "/usr/bin:/bin"),
            ("MODE", "production"),
            ("PORT", "8080"),
            ("URL", "http://127.0.0.1:80/v1"),
            ("ADDRESS", "db1.example.org:5432"),
            ("MAX_TOKENS", "4096"),
            ("RUST_LOG", "info,rei=debug"),
        ];
        assert_eq!(names(&settings), Vec::<String>::new());
        let keys = [
            ("A_PASSWORD", "hunter"),
            ("B_TOKEN", "abc12345"),
            ("C", "0a1b2c3d4e5f60718293"),
            ("D_URL", "postgres://ada:s3same77@h/d"),
            ("E_KEY", "kJ8sdf7Hs0dkfjHsdf73"),
        ];
        assert_eq!(names(&keys), ["A_PASSWORD", "B_TOKEN", "C", "D_URL", "E_KEY"]);
        let mut found = Vec::new();
        let words = ["agent", "--api-key", "abcdef123", "--token=abcdef124", "--print", "KEY=1"].map(str::to_owned);
        options("c", &words, &mut found);
        let values: Vec<&str> = found.iter().map(|secret| secret.value.as_str()).collect();
        assert_eq!(values, ["abcdef123", "abcdef124"]);
        assert_eq!(password("https://token77@host/x"), Some("token77"));
    }
}
