//! Requests that rei makes itself, and that a source counts as if they were those of users.

use std::collections::BTreeMap;

use super::class::Class;
use super::route::Route;
use super::sample::{ROUTES_MAX, Sample};

/// What rei asked an instance, and one source of it has not counted yet.
///
/// A source may count a request before rei has read the answer, or seconds later. So what is owed stays owed until it is
/// taken out of a sample. The source may name the route in its own way (`/users/:id`): then the request is taken out of
/// the route with the same method, or of any route, that has most requests that ended like it.
#[derive(Clone, Debug, Default)]
pub struct Own {
    owed: BTreeMap<(Route, Class), u64>,
}

impl Own {
    /// rei asked for a route, and the answer had this class.
    pub fn add(&mut self, route: Route, class: Class) {
        let is_new = !self.owed.contains_key(&(route.clone(), class));
        let route = if is_new && self.owed.len() >= ROUTES_MAX * Class::ALL.len() { Route::rest() } else { route };
        *self.owed.entry((route, class)).or_default() += 1;
    }

    /// Takes out of a sample what is owed, as far as the sample has it.
    pub fn take_out_of(&mut self, sample: &mut Sample) {
        let owed = std::mem::take(&mut self.owed);
        for ((route, class), mut count) in owed {
            while count > 0 {
                let Some(found) = place(sample, &route, class) else { break };
                let counts = sample.route(found);
                let taken = counts.of(class).min(count);
                counts.take(class, taken);
                count -= taken;
            }
            if count > 0 {
                self.owed.insert((route, class), count);
            }
        }
    }
}

/// The route of a sample that has counted such a request.
fn place(sample: &Sample, route: &Route, class: Class) -> Option<Route> {
    let has = |counts: &super::counts::Counts| counts.of(class) > 0;
    if sample.get(route).is_some_and(has) {
        return Some(route.clone());
    }
    // A source that uses the same names has not counted it yet.
    if sample.get(route).is_some() {
        return None;
    }
    let method = |route: &Route| route.name().split(' ').next().unwrap_or_default().to_owned();
    let own = method(route);
    let rank = |other: &Route| u8::from(method(other) == own);
    let others = sample.routes().filter(|(other, counts)| has(counts) && !is_path_of_log(other, route));
    others.max_by_key(|(other, counts)| (rank(other), counts.of(class))).map(|(other, _)| other.clone())
}

/// Whether a route is named by the same template as rei's own names, and is another one.
fn is_path_of_log(other: &Route, route: &Route) -> bool {
    // `/users/:id`, `/users/{id}` and `/users/<id>` are patterns of a library.
    let is_plain = |part: &str| part == super::route::PLACEHOLDER || !part.starts_with([':', '{', '<', '*']);
    let is_template = |name: &str| name.split_once(' ').is_some_and(|(_, path)| path.split('/').all(is_plain));
    other != route && is_template(other.name()) && is_template(route.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(routes: &[(&str, &str, u64)]) -> Sample {
        let mut sample = Sample::default();
        for (method, name, count) in routes {
            sample.route(Route::named(method, name)).add(Class::Success, *count);
        }
        sample
    }

    fn own(count: u64) -> Own {
        let mut own = Own::default();
        (0..count).for_each(|_| own.add(Route::of_request("GET", "/users/42"), Class::Success));
        own
    }

    #[test]
    fn what_rei_asked_is_taken_out_once_whenever_it_is_counted() {
        let mut own = own(3);
        let mut early = sample(&[("GET", "/users/{}", 2)]);
        own.take_out_of(&mut early);
        assert_eq!(early.total().total(), 0);
        let mut late = sample(&[("GET", "/users/{}", 5), ("POST", "/users/{}", 5)]);
        own.take_out_of(&mut late);
        assert_eq!(late.total().total(), 9);
        own.take_out_of(&mut late);
        assert_eq!(late.total().total(), 9, "it is taken out once");
    }

    #[test]
    fn another_name_of_the_route_does_not_hide_it() {
        for routes in [[("GET", "/users/:id", 5), ("POST", "/users", 9)], [("", "", 5), ("POST", "/users", 9)]] {
            let (mut own, mut sample) = (own(2), sample(&routes));
            own.take_out_of(&mut sample);
            assert_eq!(sample.total().total(), 12, "{routes:?}");
        }
        let (mut own, mut others) = (own(2), sample(&[("GET", "/about", 5)]));
        own.take_out_of(&mut others);
        assert_eq!(others.total().total(), 5, "a log names routes as rei does: this is another one");
    }
}
