//! Which routes of the live traffic golden runs cover. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format::GoldenRun;
use crate::live::{Class, PLACEHOLDER, Route};

/// What runs know of one route: the number of exchanges by status class.
pub type RouteExchanges = BTreeMap<&'static str, u64>;

/// The routes of a run.
pub fn routes(run: &GoldenRun) -> BTreeMap<Route, RouteExchanges> {
    let mut all: BTreeMap<Route, RouteExchanges> = BTreeMap::new();
    for exchange in &run.exchanges {
        let route = Route::of_request(&exchange.request.method, &exchange.request.path);
        let class = exchange.response.as_ref().and_then(|response| Class::of_status(response.status));
        *all.entry(route).or_default().entry(class.map_or("any", Class::name)).or_default() += 1;
    }
    all
}

/// How much of the live traffic the runs cover.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// The live requests.
    pub requests: u64,
    /// Of these: to a route that a run has.
    pub covered: u64,
    /// Each live route, the one with most requests first.
    pub routes: Vec<CoveredRoute>,
    /// Routes of the runs that have no live request now.
    pub unused: Vec<String>,
}

/// One live route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoveredRoute {
    /// Its name, as the source of the traffic says it.
    pub route: String,
    /// Its requests.
    pub requests: u64,
    /// The exchanges of the runs to this route.
    pub exchanges: u64,
}

impl Coverage {
    /// Compares live routes, each with its requests, with the exchanges of runs; `requests` are those of all routes, also of
    /// routes that the source does not name.
    pub fn of(live: &[(String, u64)], requests: u64, runs: &BTreeMap<Route, u64>) -> Self {
        let mut used = vec![false; runs.len()];
        let mut routes = Vec::new();
        for (route, requests) in live {
            let mut exchanges = 0;
            for (used, (known, count)) in used.iter_mut().zip(runs) {
                if is_same(route, known.name()) {
                    (*used, exchanges) = (true, exchanges + count);
                }
            }
            routes.push(CoveredRoute { route: route.clone(), requests: *requests, exchanges });
        }
        routes.sort_by(|a, b| (b.requests, &a.route).cmp(&(a.requests, &b.route)));
        let covered = routes.iter().filter(|route| route.exchanges > 0).map(|route| route.requests).sum();
        let unused = runs.keys().zip(used).filter(|(_, used)| !used).map(|(route, _)| route.name().to_owned());
        let named = routes.iter().map(|route| route.requests).sum();
        Self { requests: requests.max(named), covered, unused: unused.collect(), routes }
    }

    /// The share of the requests that is covered, in per cent.
    pub fn percent(&self) -> f64 {
        percent(self.covered, self.requests)
    }
}

/// A part of a whole, in per cent; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// True if a live route and the route of an exchange are the same. A runtime names the variable parts of its routes in its own
/// way: `/users/:id`, `/users/{id}`, `/users/<int:id>`. A name without a method stands for all methods.
fn is_same(live: &str, known: &str) -> bool {
    let (live_method, live_path) = split(live);
    let (method, path) = split(known);
    if !live_method.is_empty() && live_method != method {
        return false;
    }
    let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (live, known) = (parts(live_path), parts(path));
    let is_variable = |part: &str| part == PLACEHOLDER || part.starts_with([':', '{', '<', '*']);
    let alike = |(live, known): (&String, &String)| live == known || (is_variable(live) && is_variable(known));
    live.len() == known.len() && live.iter().zip(&known).all(alike)
}

/// The method and the path of a route's name.
fn split(name: &str) -> (&str, &str) {
    name.split_once(' ').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_live_requests_is_by_route_and_not_by_exchange() {
        let runs = [("GET", "/users/1", 40), ("POST", "/users", 1), ("GET", "/old", 3)];
        let runs = runs.map(|(method, path, count)| (Route::of_request(method, path), count)).into();
        let live = [("GET /users/:id", 60), ("POST /users", 20), ("GET /search", 15)];
        let live: Vec<(String, u64)> = live.map(|(route, requests)| (route.to_owned(), requests)).to_vec();
        let found = Coverage::of(&live, 100, &runs);
        let rows: Vec<(&str, u64, u64)> =
            found.routes.iter().map(|row| (row.route.as_str(), row.requests, row.exchanges)).collect();
        assert_eq!(rows, [("GET /users/:id", 60, 40), ("POST /users", 20, 1), ("GET /search", 15, 0)]);
        assert_eq!((found.covered, found.requests, found.percent()), (80, 100, 80.0));
        assert_eq!(found.unused, ["GET /old"]);
        assert_eq!(Coverage::of(&[], 0, &runs).percent(), 0.0);
    }

    #[test]
    fn a_route_is_known_by_each_way_to_write_it() {
        for live in ["GET /users/{}", "GET /users/{id}", "GET /users/<int:id>", "/users/:id", "GET /users/*"] {
            assert!(is_same(live, "GET /users/{}"), "{live}");
        }
        for live in ["POST /users/{}", "GET /users", "GET /users/{}/orders", "GET /users/me", "*"] {
            assert!(!is_same(live, "GET /users/{}"), "{live}");
        }
    }
}
