//! Durations, sizes, times and versions in readable form.

use crate::digest::short;
use crate::interface::types::Version;
use crate::time::Timestamp;

/// The shown characters of the hash of a store path.
const HASH_CHARS: usize = 8;

/// `350 ms`, `4 s`, `2 min 3 s`, `3 h 12 min`, `5 d 2 h`.
pub(super) fn duration_ms(ms: u64) -> String {
    let s = ms / 1000;
    let two = |large: u64, unit: &str, small: u64, less: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {less}") }
    };
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// `900 µs`, `9.0 ms`, `1.20 s`.
pub(super) fn duration_us(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// `512 B`, `87.0 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} B"),
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

/// A share of 1 as `5 %` or `0.25 %`.
pub(super) fn percent(share: f64) -> String {
    let rounded = format!("{:.2}", share * 100.0);
    format!("{} %", rounded.trim_end_matches('0').trim_end_matches('.'))
}

/// `2026-11-22 15:01:10`, in UTC.
pub(super) fn time(at: Timestamp) -> String {
    let text = at.to_string();
    text.split('.').next().unwrap_or_default().replace('T', " ")
}

/// `15:01:10.250`, in UTC.
pub(super) fn time_of_day(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('T').map_or("", |(_, time)| time).trim_end_matches('Z').to_owned()
}

/// `3 s ago`.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration_ms(now.ms_since(at)))
}

/// A store path without the store directory and with a short hash: `abcdefgh…-greeter-1.2`.
pub(super) fn store_path(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    match base.split_once('-') {
        Some((hash, name)) if hash.chars().count() > HASH_CHARS => {
            format!("{}…-{name}", hash.chars().take(HASH_CHARS).collect::<String>())
        }
        _ => base.to_owned(),
    }
}

/// A version: its commit and its store path.
pub(super) fn version(version: &Version) -> String {
    let (rev, path) = (short(&version.rev), store_path(&version.store_path));
    if rev.is_empty() { path } else { format!("{rev} {path}") }
}

/// Text from outside, escaped and on one line, so that its columns can be counted.
pub(super) fn plain(text: &str) -> String {
    crate::cli::terminal::line(text)
}
