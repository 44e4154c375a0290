//! Reads YAML into a tree in which every value has its line and column.
//!
//! Only a simple subset of YAML is read: one document of maps, lists and scalars. Anchors, aliases and tags are
//! refused, because they can expand a small file to a large tree, or give a text another meaning. Duplicate keys are
//! refused, too. Size and depth are limited.

use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde::Serialize;

/// Maximum size of a blueprint file, in bytes. The longest real one has a few thousand.
pub const BYTES_MAX: usize = 256 << 10;
/// Maximum nesting of maps and lists. A blueprint needs four levels.
const DEPTH_MAX: usize = 16;
/// Maximum number of values in a file.
const NODES_MAX: usize = 20_000;

/// A position in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
}

/// An error in a blueprint file, with a hint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// How to correct it.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

/// A value with its position.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// The value of a node. The keys of a map are unique scalars, in the order of the file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A text. `plain` is true if it is not quoted; only then it can be a number or `true`.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map with its position.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub place: Place,
    pub name: String,
}

/// Parses one document.
///
/// # Errors
/// All problems up to the first one after which the rest cannot be parsed.
pub(super) fn read(text: &str) -> Result<Node, Vec<Problem>> {
    let start = Place { line: 1, column: 1 };
    if text.len() > BYTES_MAX {
        let message = format!("the file has {} bytes, more than {BYTES_MAX}", text.len());
        return Err(vec![problem(start, message, "split the blueprint into several files")]);
    }
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if !tree.take(event, place(span)) {
                    break;
                }
            }
            Err(error) => {
                let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
                tree.problems.push(problem(
                    place,
                    format!("not YAML: {}", error.info()),
                    "check indentation and quotes",
                ));
                break;
            }
        }
    }
    match tree.root {
        Some(root) if tree.problems.is_empty() => Ok(root),
        None if tree.problems.is_empty() => {
            Err(vec![problem(start, "the file is empty".into(), "begin with: version: 1")])
        }
        _ => Err(tree.problems),
    }
}

pub(super) fn problem(place: Place, message: String, hint: impl Into<String>) -> Problem {
    Problem { place, message, hint: hint.into() }
}

fn place(span: Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

/// The tree so far. `open` has the maps and lists that are not closed yet, outermost first.
#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

struct Open {
    place: Place,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Option<Key> },
}

impl Tree {
    /// Handles one event. Returns false if the rest cannot be parsed.
    fn take(&mut self, event: Event<'_>, at: Place) -> bool {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
            Event::DocumentStart(_) if self.root.is_some() => {
                self.refuse(at, "a second document begins here", "keep one blueprint in one file")
            }
            Event::DocumentStart(_) => true,
            Event::Alias(_) => self.refuse(at, "aliases are not allowed", "write the value out"),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = Value::Scalar { text: text.into_owned(), plain };
                self.plain(at, anchor, tag.is_some()) && self.place_value(Node { place: at, value })
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain(at, anchor, tag.is_some()) && self.enter(at, OpenKind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let kind = OpenKind::Map { entries: Vec::new(), key: None };
                self.plain(at, anchor, tag.is_some()) && self.enter(at, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { place, kind: OpenKind::List(items) }) => {
                    self.place_value(Node { place, value: Value::List(items) })
                }
                Some(Open { place, kind: OpenKind::Map { entries, .. } }) => {
                    self.place_value(Node { place, value: Value::Map(entries) })
                }
                None => false,
            },
        }
    }

    fn refuse(&mut self, at: Place, message: &str, hint: &str) -> bool {
        self.problems.push(problem(at, message.into(), hint));
        false
    }

    fn plain(&mut self, at: Place, anchor: usize, tagged: bool) -> bool {
        if anchor > 0 {
            return self.refuse(at, "anchors are not allowed", "write the value out where it is used");
        }
        if tagged {
            return self.refuse(at, "tags are not allowed", "remove the word that begins with !");
        }
        true
    }

    fn enter(&mut self, place: Place, kind: OpenKind) -> bool {
        if self.open.len() == DEPTH_MAX {
            return self.refuse(place, &format!("nested more than {DEPTH_MAX} deep"), "a blueprint needs four levels");
        }
        self.open.push(Open { place, kind });
        true
    }

    fn place_value(&mut self, node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return self.refuse(node.place, &format!("more than {NODES_MAX} values"), "split the blueprint");
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, key }) => match key.take() {
                Some(name) => entries.push((name, node)),
                None => return self.place_key(node),
            },
        }
        true
    }

    fn place_key(&mut self, node: Node) -> bool {
        let at = node.place;
        let Value::Scalar { text, .. } = node.value else {
            return self.refuse(at, "a key must be a scalar", "make the map or list the value of a key");
        };
        let Some(Open { kind: OpenKind::Map { entries, key }, .. }) = self.open.last_mut() else { return false };
        if let Some((first, _)) = entries.iter().find(|(key, _)| key.name == text) {
            let message = format!("{text:?} is defined twice, first in line {}", first.place.line);
            self.problems.push(problem(at, message, "remove one of them"));
        }
        *key = Some(Key { place: at, name: text });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read(text).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn values_have_their_positions() {
        let root = read("version: 1\nstages:\n  - {id: 'a', type: \"agent\"}\n").unwrap();
        let Value::Map(entries) = root.value else { panic!() };
        assert_eq!(entries[1].0.place, Place { line: 2, column: 1 });
        let Value::List(stages) = &entries[1].1.value else { panic!() };
        assert_eq!(stages[0].place, Place { line: 3, column: 5 });
        let Value::Map(stage) = &stages[0].value else { panic!() };
        assert!(matches!(&stage[0].1.value, Value::Scalar { text, plain: false } if text == "a"));
    }

    #[test]
    fn constructs_that_could_hide_something_are_refused() {
        assert!(refused("a: &x 1\nb: *x\n").starts_with("1:"), "{}", refused("a: &x 1\n"));
        assert!(refused("a: &x 1\n").contains("anchors are not allowed"));
        assert!(refused("a: !!binary aGk=\n").contains("tags are not allowed"));
        assert_eq!(refused("a: 1\nb: 2\na: 3\n"), "3:1: \"a\" is defined twice, first in line 1");
        assert!(refused("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(refused("[a]: 1\n").contains("a key must be a scalar"));
        assert!(refused("").contains("empty"));
        assert!(refused("a: [1, 2\nb: 3\n").contains("not YAML"));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(refused(&"[".repeat(200)).contains("nested more than 16 deep"));
        assert!(refused(&format!("a: {}", "x".repeat(BYTES_MAX))).contains("more than 262144"));
        assert!(refused(&format!("[{}]", "1,".repeat(NODES_MAX + 1))).contains("more than 20000 values"));
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n";
        assert!(refused(bomb).contains("not allowed"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ \\-:\\[\\]{}a-c#&*!|>'\"\n,]{0,80}") {
            let _ = read(&text);
        }
    }
}
