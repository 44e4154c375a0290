//! What a source saw since its last sample.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::route::Route;
use super::templates::Templates;

/// Routes that are counted by themselves; the requests of all others are counted together.
pub const ROUTES_MAX: usize = 64;

/// Where counts of real requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The runtime's own metrics.
    Metrics,
    /// The runtime's access log.
    Log,
    /// Connections that the tap relayed.
    Tap,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Log, Self::Tap];

    /// The name for a person and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Log => "log",
            Self::Tap => "tap",
        }
    }
}

/// Connections whose content the tap could not read as HTTP/1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Connections that ended.
    pub ended: u64,
    /// Of these: the instance reset the connection, or could not be reached.
    pub reset: u64,
    /// Of these: the client sent something, and the instance closed the connection without a byte.
    pub empty: u64,
}

impl Connections {
    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: Self) {
        self.ended = self.ended.saturating_add(other.ended);
        self.reset = self.reset.saturating_add(other.reset);
        self.empty = self.empty.saturating_add(other.empty);
    }
}

/// What a source saw of one instance since its last sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The requests by route; at most [`ROUTES_MAX`] and [`Route::rest`].
    routes: BTreeMap<Route, Counts>,
    /// Connections that could not be read as HTTP/1.
    pub connections: Connections,
    /// Whether durations are only known in wide steps, as from the histogram of a metrics library: then a bucket has
    /// all durations of a step, at its upper edge.
    pub coarse: bool,
    /// Lines or series that the source could not read.
    pub unread: u64,
    /// Lines of the log with level error or worse.
    pub error_lines: u64,
    /// The messages of these lines.
    pub errors: Templates,
}

impl Sample {
    /// The counts of a route, to add to.
    pub fn route(&mut self, route: Route) -> &mut Counts {
        let is_new = !self.routes.contains_key(&route);
        let named = self.routes.keys().filter(|known| **known != Route::rest()).count();
        let route = if is_new && named >= ROUTES_MAX { Route::rest() } else { route };
        self.routes.entry(route).or_default()
    }

    /// All routes with their counts.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, &Counts)> {
        self.routes.iter()
    }

    /// The counts of one route, if it had requests.
    pub fn get(&self, route: &Route) -> Option<&Counts> {
        self.routes.get(route)
    }

    /// The counts of all routes together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.routes.values().for_each(|counts| total.merge(counts));
        total
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (route, counts) in &other.routes {
            self.route(route.clone()).merge(counts);
        }
        self.connections.merge(other.connections);
        self.coarse |= other.coarse;
        self.unread = self.unread.saturating_add(other.unread);
        self.error_lines = self.error_lines.saturating_add(other.error_lines);
        self.errors.merge(&other.errors);
    }

    /// The memory of this sample, in bytes.
    pub fn bytes(&self) -> usize {
        let routes = self.routes.iter().map(|(route, counts)| route.bytes() + counts.bytes()).sum::<usize>();
        size_of::<Self>() + routes + self.errors.bytes()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        *self == Self { coarse: self.coarse, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Class;

    #[test]
    fn routes_beyond_the_limit_are_counted_together() {
        let mut sample = Sample::default();
        for index in 0..1_000 {
            sample.route(Route::named("GET", &format!("/{index}"))).request(Class::Success, 1_000);
        }
        assert_eq!(sample.routes().count(), ROUTES_MAX + 1);
        assert_eq!(sample.get(&Route::rest()).unwrap().total(), 1_000 - ROUTES_MAX as u64);
        assert_eq!(sample.total().total(), 1_000);
    }

    #[test]
    fn a_sample_survives_its_json() {
        let mut sample = Sample::default();
        sample.route(Route::of_request("GET", "/a/1")).request(Class::ServerError, 12_000);
        sample.connections.ended = 3;
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
    }
}
