//! The answers of the greeter, page by page.

use greeter::answer;

#[test]
fn each_page_has_its_answer() {
    assert_eq!(answer("/healthz"), (200, "ok".to_owned()));
    assert_eq!(answer("/greet/Ada"), (200, "Hello, Ada!".to_owned()));
    assert_eq!(answer("/greet/"), (404, "There is no such page.".to_owned()));
    assert_eq!(answer("/nowhere").0, 404);
}
