//! Durations as an operator writes them: a whole number and a unit.

use std::time::Duration;

/// The units, largest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `250ms`, `1s`, `5m`, `2h`, `1d`; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that holds it exactly: `90s`, `5m`, `250ms`.
pub fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let exact = UNITS.into_iter().find(|&(_, unit_ms)| ms > 0 && ms.is_multiple_of(u128::from(unit_ms)));
    exact.map_or_else(|| "0s".to_owned(), |(unit, unit_ms)| format!("{}{unit}", ms / u128::from(unit_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "1", "s", "1.5s", "-1s", "1 week", "1h30m", "99999999999999999999s", "18446744073709551615d", "१s"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..u64::MAX / 2) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
    }
}
