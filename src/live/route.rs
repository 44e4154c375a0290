//! The name of a route: method and path template, such as `GET /users/{}/orders`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands in a template for a part of the path that differs between requests.
pub const PLACEHOLDER: &str = "{}";
/// Parts of a path that a template keeps; what is below them is one placeholder.
const PARTS_MAX: usize = 8;
/// The longest part that a template keeps, in bytes: longer ones are tokens.
const PART_BYTES_MAX: usize = 32;
/// The longest method, in bytes.
const METHOD_BYTES_MAX: usize = 16;
/// The longest name of a route that a source gives itself, in bytes.
const NAME_BYTES_MAX: usize = 160;

/// The name of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Route(String);

impl Route {
    /// All requests of a source that names no routes.
    pub fn unnamed() -> Self {
        Self("*".to_owned())
    }

    /// All routes beyond the first [`super::ROUTES_MAX`].
    pub fn rest() -> Self {
        Self("(other routes)".to_owned())
    }

    /// The route of a request: its method, and its path with numbers, identifiers and long tokens taken out. The query
    /// is not part of a route.
    pub fn of_request(method: &str, target: &str) -> Self {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        // The absolute form, and CONNECT's authority, have no other path (RFC 9112, section 3.2).
        let path = match path.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => path,
        };
        let mut template = String::new();
        let parts = path.split('/').filter(|part| !part.is_empty());
        for (index, part) in parts.enumerate() {
            template.push('/');
            if index == PARTS_MAX {
                template.push_str(PLACEHOLDER);
                break;
            }
            if is_variable(part) { template.push_str(PLACEHOLDER) } else { template.push_str(part) }
        }
        if template.is_empty() {
            template.push('/');
        }
        Self(format!("{} {template}", method_name(method)))
    }

    /// The route that the runtime itself names, as in a label of its metrics: `GET` and `/users/:id`.
    pub fn named(method: &str, name: &str) -> Self {
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        match (method, name) {
            ("", "") => Self::unnamed(),
            ("", name) => Self(name.to_owned()),
            (method, "") => Self(method_name(method)),
            (method, name) => Self(format!("{} {name}", method_name(method))),
        }
    }

    /// The memory of this name, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.capacity()
    }

    /// The name, for a person.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The method in upper case; `?` if it is no token of HTTP (RFC 9110, section 9.1).
fn method_name(method: &str) -> String {
    let is_token = !method.is_empty() && method.len() <= METHOD_BYTES_MAX;
    if is_token && method.bytes().all(|b| b.is_ascii_alphabetic() || b"-_".contains(&b)) {
        method.to_ascii_uppercase()
    } else {
        "?".to_owned()
    }
}

/// Whether a part of a path differs between requests: a number, an identifier, a token, or something that cannot be shown.
fn is_variable(part: &str) -> bool {
    let is_plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&b));
    if !is_plain || part.len() > PART_BYTES_MAX {
        return true;
    }
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    // `v1`, `oauth2` and `p95` are names; `42`, `user-123`, `2024-01-31` and `deadbeef0` are values.
    let is_version = digits <= 2 && part.as_bytes()[0].is_ascii_alphabetic();
    let is_hex = part.len() >= 8 && part.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (digits > 0 && !is_version) || is_hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_placeholders_and_names_stay() {
        let cases = [
            ("GET", "/", "GET /"),
            ("get", "/users/42/orders?page=2", "GET /users/{}/orders"),
            ("GET", "/v1/items/0b9c2f6e-6a39-4d1e-9b0a-2f8f7c1d9a77", "GET /v1/items/{}"),
            ("POST", "/oauth2/token", "POST /oauth2/token"),
            ("GET", "/files/report-2024-01-31.pdf", "GET /files/{}"),
            ("GET", "/caf%C3%A9", "GET /{}"),
            ("GET", "/deadbeefcafe", "GET /{}"),
            ("GET", "//a//b/", "GET /a/b"),
            ("GET", "http://example.org:80/a/1", "GET /a/{}"),
            ("CONNECT", "example.org:443", "CONNECT /{}"),
            ("OPTIONS", "*", "OPTIONS /*"),
            ("GE T", "/a", "? /a"),
            ("GET", "/a/b/c/d/e/f/g/h/i/j", "GET /a/b/c/d/e/f/g/h/{}"),
            ("GET", "/eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9aaaaaaa", "GET /{}"),
        ];
        for (method, target, route) in cases {
            assert_eq!(Route::of_request(method, target).name(), route, "{target}");
        }
    }

    #[test]
    fn a_name_of_the_runtime_stays_and_is_bounded() {
        assert_eq!(Route::named("GET", "/users/:id").name(), "GET /users/:id");
        assert_eq!(Route::named("", "").name(), "*");
        assert_eq!(Route::named("", "hello\u{1b}").name(), "hello");
        assert!(Route::named("GET", &"ü".repeat(1_000)).name().len() <= 165);
    }
}
