//! Reads a duration, whose unit can be in the key or in the value.

use crate::config::DurationUnit;

/// The units that a value can end with, and the microseconds of each.
const UNITS: &[(&str, f64)] = &[
    ("milliseconds", 1e3),
    ("microseconds", 1.0),
    ("nanoseconds", 1e-3),
    ("seconds", 1e6),
    ("msec", 1e3),
    ("usec", 1.0),
    ("ms", 1e3),
    ("us", 1.0),
    ("\u{b5}s", 1.0),
    ("\u{3bc}s", 1.0),
    ("ns", 1e-3),
    ("sec", 1e6),
    ("h", 3.6e9),
    ("m", 6e7),
    ("s", 1e6),
];

/// How the key of a duration ends, and the unit of a plain number.
const KEYS: &[(&str, DurationUnit)] = &[
    ("ms", DurationUnit::Ms),
    ("msec", DurationUnit::Ms),
    ("millis", DurationUnit::Ms),
    ("milliseconds", DurationUnit::Ms),
    ("us", DurationUnit::Us),
    ("usec", DurationUnit::Us),
    ("micros", DurationUnit::Us),
    ("microseconds", DurationUnit::Us),
    ("ns", DurationUnit::Ns),
    ("nanos", DurationUnit::Ns),
    ("nanoseconds", DurationUnit::Ns),
    ("s", DurationUnit::S),
    ("sec", DurationUnit::S),
    ("secs", DurationUnit::S),
    ("seconds", DurationUnit::S),
];

/// Keys whose unit is fixed by the program that writes them: pino, nginx, Caddy.
const KNOWN: &[(&str, DurationUnit)] = &[
    ("responseTime", DurationUnit::Ms),
    ("request_time", DurationUnit::S),
    ("upstream_response_time", DurationUnit::S),
];

/// The unit of plain numbers under this key.
pub(super) fn unit_of(key: &str) -> Option<DurationUnit> {
    let name = key.rsplit('.').next().unwrap_or_default();
    if let Some((_, unit)) = KNOWN.iter().find(|(known, _)| *known == name) {
        return Some(*unit);
    }
    KEYS.iter().find_map(|(end, unit)| {
        let before = name.strip_suffix(end).filter(|before| before.ends_with('_'));
        // `durationMs`, but not `status`.
        let camel = || {
            let (first, rest) = end.split_at(1);
            let end = format!("{}{rest}", first.to_ascii_uppercase());
            name.ends_with(&end) && name.len() > end.len()
        };
        (before.is_some() || camel()).then_some(*unit)
    })
}

/// Reads a duration. Its own unit comes first, then the given one; without both it cannot be read.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the value is positive"
)]
pub(super) fn read_us(text: &str, unit: Option<DurationUnit>) -> Option<u64> {
    let us = |value: f64| (value.is_finite() && value >= 0.0).then(|| value.round() as u64);
    if let Ok(number) = text.parse::<f64>() {
        return us(number * per_unit(unit?));
    }
    // `1m2.5s` of Go, `12.3ms`, `12 ms`.
    let (mut rest, mut all) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let (name, per) = UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        all += number.parse::<f64>().ok()? * per;
        rest = after[name.len()..].trim_start();
    }
    (!text.trim().is_empty()).then(|| us(all)).flatten()
}

/// The microseconds of a unit.
fn per_unit(unit: DurationUnit) -> f64 {
    match unit {
        DurationUnit::S => 1e6,
        DurationUnit::Ms => 1e3,
        DurationUnit::Us => 1.0,
        DurationUnit::Ns => 1e-3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_in_the_value_or_in_the_key() {
        let cases = [
            ("0.012", Some(DurationUnit::S), Some(12_000)),
            ("12", Some(DurationUnit::Ms), Some(12_000)),
            ("12", None, None),
            ("12.3ms", None, Some(12_300)),
            ("12.3ms", Some(DurationUnit::S), Some(12_300)),
            ("1m2.5s", None, Some(62_500_000)),
            ("45.1\u{b5}s", None, Some(45)),
            ("3 ms", None, Some(3_000)),
            ("-1", Some(DurationUnit::S), None),
            ("NaN", Some(DurationUnit::S), None),
            ("ms", None, None),
            ("", None, None),
            ("-", Some(DurationUnit::S), None),
        ];
        for (text, unit, us) in cases {
            assert_eq!(read_us(text, unit), us, "{text}");
        }
        let keys = [
            ("duration_ms", Some(DurationUnit::Ms)),
            ("durationMs", Some(DurationUnit::Ms)),
            ("http.duration_us", Some(DurationUnit::Us)),
            ("elapsed_seconds", Some(DurationUnit::S)),
            ("responseTime", Some(DurationUnit::Ms)),
            ("request_time", Some(DurationUnit::S)),
            ("status", None),
            ("duration", None),
            ("ms", None),
        ];
        for (key, unit) in keys {
            assert_eq!(unit_of(key), unit, "{key}");
        }
    }
}
