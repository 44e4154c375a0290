//! Points in time as data. The core never reads a clock; the time is passed to it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in whole milliseconds. If it does not fit (584 million years), the result is `u64::MAX`.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time in whole milliseconds since 1970-01-01T00:00:00Z.
///
/// An `Instant` cannot be written to a journal or replayed, so all decisions use this type. It is written as RFC 3339
/// in UTC with three decimals (`2026-11-22T15:01:10.250Z`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    ms: u64,
}

impl Timestamp {
    /// The last point in time with a four-digit year in RFC 3339, in milliseconds.
    const MAX_MS: u64 = 253_402_207_200_000;

    /// The point `ms` milliseconds after 1970-01-01T00:00:00Z, at most the end of the year 9999.
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self { ms: if ms > Self::MAX_MS { Self::MAX_MS } else { ms } }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn as_unix_ms(self) -> u64 {
        self.ms
    }

    /// The point `ms` milliseconds after this one.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self::from_unix_ms(self.ms.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this point; 0 if `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.ms.saturating_sub(earlier.ms)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cannot fail: `ms` is at most MAX_MS, which is in jiff's range.
        let ms = i64::try_from(self.ms).unwrap_or(0);
        let at = jiff::Timestamp::from_millisecond(ms).map_err(|_| fmt::Error)?;
        write!(f, "{at:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at: jiff::Timestamp = text.parse()?;
        Ok(Self::from_unix_ms(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_rfc_3339_and_read_back() {
        let at = Timestamp::from_unix_ms(1_795_359_670_250);
        let text = serde_json::to_string(&at).unwrap();
        assert_eq!(text, "\"2026-11-22T15:01:10.250Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), at);
    }

    #[test]
    fn a_duration_is_cut_to_whole_milliseconds_and_never_wraps() {
        for (duration, ms) in [
            (Duration::ZERO, 0),
            (Duration::from_micros(1999), 1),
            (Duration::from_secs(3600), 3_600_000),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(millis(duration), ms, "{duration:?}");
        }
    }

    #[test]
    fn every_value_can_be_written() {
        for ms in [0, 1, Timestamp::MAX_MS, u64::MAX] {
            let at = Timestamp::from_unix_ms(ms);
            assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
    }
}
