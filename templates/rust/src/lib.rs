//! The answers of the greeter.

/// Status and text for a path.
pub fn answer(path: &str) -> (u16, String) {
    match path.strip_prefix("/greet/") {
        _ if path == "/healthz" => (200, "ok".to_owned()),
        Some(name) if !name.is_empty() => (200, format!("Hello, {name}!")),
        _ => (404, "There is no such page.".to_owned()),
    }
}
