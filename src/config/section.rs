//! One table of the file while it is read: asks for keys, falls back to the defaults, and knows what nobody asked for.

use std::ops::Range;

use toml_edit::{ArrayOfTables, Item, Table, TableLike, Value};

use super::problem::Problems;

/// Below this likeness (0 to 1) an unknown key is not taken for a misspelt one.
const LIKENESS_MIN: f64 = 0.7;

/// A value and where it is written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
    /// Whether the operator wrote it; else it is a default, and `span` is the table that it would be in.
    pub(super) given: bool,
}

/// One thing in the file that is to be read as a value.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, 'k> {
    pub(super) content: Content<'a>,
    pub(super) key: &'k str,
    pub(super) problems: &'a Problems,
}

/// What a node is.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Value(&'a Value),
    Table(&'a Table),
    Tables(&'a ArrayOfTables),
}

/// A type that can be read from the file.
pub(super) trait Read: Sized {
    /// What the file must hold: "a string".
    const WHAT: &'static str;
    /// Reads it, or says what is wrong and gives `None`.
    fn read(node: Node<'_, '_>) -> Option<Self>;
}

impl<'a, 'k> Node<'a, 'k> {
    fn of(item: &'a Item, key: &'k str, problems: &'a Problems) -> Option<Self> {
        let content = match item {
            Item::None => return None,
            Item::Value(value) => Content::Value(value),
            Item::Table(table) => Content::Table(table),
            Item::ArrayOfTables(tables) => Content::Tables(tables),
        };
        Some(Self { content, key, problems })
    }

    /// The bytes of the value.
    pub(super) fn span(&self) -> Range<usize> {
        match self.content {
            Content::Value(value) => value.span(),
            Content::Table(table) => table.span(),
            Content::Tables(tables) => tables.span(),
        }
        .unwrap_or_default()
    }

    /// Says that the value is wrong.
    pub(super) fn wrong<T>(&self, message: impl std::fmt::Display, hint: Option<String>) -> Option<T> {
        self.problems.add(self.key, self.span(), format!("`{}` {message}", self.key), hint);
        None
    }

    /// Says that the value has the wrong type.
    pub(super) fn wrong_type<T>(&self, what: &str, hint: Option<String>) -> Option<T> {
        self.wrong(format!("must be {what}, not {}", self.kind()), hint)
    }

    fn kind(&self) -> &'static str {
        match self.content {
            Content::Value(Value::String(_)) => "a string",
            Content::Value(Value::Integer(_) | Value::Float(_)) => "a number",
            Content::Value(Value::Boolean(_)) => "true or false",
            Content::Value(Value::Datetime(_)) => "a date",
            Content::Value(Value::Array(_)) | Content::Tables(_) => "an array",
            Content::Value(Value::InlineTable(_)) | Content::Table(..) => "a table",
        }
    }

    /// The table that the node is, if it is one.
    pub(super) fn table(&self) -> Option<&'a dyn TableLike> {
        match self.content {
            Content::Value(Value::InlineTable(table)) => Some(table),
            Content::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The elements of the array that the node is, if it is one.
    pub(super) fn elements(&self) -> Option<Vec<Node<'a, 'k>>> {
        let node = |content| Node { content, ..*self };
        match self.content {
            Content::Value(Value::Array(array)) => Some(array.iter().map(|v| node(Content::Value(v))).collect()),
            Content::Tables(tables) => Some(tables.iter().map(|table| node(Content::Table(table))).collect()),
            _ => None,
        }
    }
}

/// A table that is read key by key.
pub(super) struct Section<'a> {
    path: String,
    given: Option<&'a dyn TableLike>,
    defaults: Option<&'a dyn TableLike>,
    span: Range<usize>,
    asked: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(given: &'a dyn TableLike, defaults: &'a dyn TableLike, problems: &'a Problems) -> Self {
        Self { path: String::new(), given: Some(given), defaults: Some(defaults), span: 0..0, asked: vec![], problems }
    }

    /// A table that stands in an array: no defaults.
    pub(super) fn element(node: &Node<'a, '_>) -> Option<Self> {
        let (path, span, problems) = (node.key.to_owned(), node.span(), node.problems);
        let given = node.table().or_else(|| node.wrong_type("a table", None))?;
        Some(Self { path, given: Some(given), defaults: None, span, asked: vec![], problems })
    }

    /// The table `key`; a missing one is all defaults.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.optional_section(key).unwrap_or_else(|| self.child(key, None, self.span.clone()))
    }

    /// Whether the table `key` is written as `false`.
    pub(super) fn is_off(&self, key: &'static str) -> bool {
        let item = self.given.and_then(|table| table.get(key));
        item.and_then(Item::as_bool) == Some(false)
    }

    /// The table `key` if it is written; `true` is an empty one and `false` is none.
    pub(super) fn optional_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let item = self.given?.get(key)?;
        let node = Node::of(item, &path, self.problems)?;
        let span = self.key_span(key).unwrap_or_else(|| node.span());
        match (node.table(), node.content) {
            (Some(table), _) => Some(self.child(key, Some(table), span)),
            (None, Content::Value(Value::Boolean(on))) => on.value().then(|| self.child(key, None, span)),
            (None, _) => node.wrong_type("a table", Some(format!("write `[{path}]` and its keys below it"))),
        }
    }

    /// The tables in this one, whose names are the operator's; their defaults are under `NAME`.
    pub(super) fn named_sections(&self) -> Vec<(String, Section<'a>)> {
        let Some(given) = self.given else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, item) in given.iter() {
            let path = self.path_of(name);
            let Some(node) = Node::of(item, &path, self.problems) else { continue };
            let span = given.key(name).and_then(toml_edit::Key::span).unwrap_or_else(|| node.span());
            let Some(table) = node.table().or_else(|| node.wrong_type("a table", None)) else { continue };
            let defaults = self.defaults.and_then(|table| table.get("NAME")).and_then(Item::as_table_like);
            let (asked, problems) = (Vec::new(), self.problems);
            sections.push((name.to_owned(), Section { path, given: Some(table), defaults, span, asked, problems }));
        }
        sections
    }

    /// The values in this table, whose names are the operator's.
    pub(super) fn named_values<T: Read>(&self) -> Vec<(String, At<T>)> {
        let Some(given) = self.given else { return Vec::new() };
        let read = |(name, item): (&str, &'a Item)| {
            let path = self.path_of(name);
            let node = Node::of(item, &path, self.problems)?;
            Some((name.to_owned(), At { value: T::read(node)?, span: node.span(), given: true }))
        };
        given.iter().filter_map(read).collect()
    }

    fn child(&self, key: &str, given: Option<&'a dyn TableLike>, span: Range<usize>) -> Section<'a> {
        let defaults = self.defaults.and_then(|table| table.get(key)).and_then(Item::as_table_like);
        Section { path: self.path_of(key), given, defaults, span, asked: vec![], problems: self.problems }
    }

    /// The value of `key` as it is written.
    pub(super) fn optional<T: Read>(&mut self, key: &'static str) -> Option<At<T>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let node = Node::of(self.given?.get(key)?, &path, self.problems)?;
        Some(At { value: T::read(node)?, span: node.span(), given: true })
    }

    /// The value of `key`, written or by default.
    pub(super) fn value<T: Read>(&mut self, key: &'static str) -> Option<At<T>> {
        if self.has(key) {
            return self.optional(key);
        }
        self.asked.push(key);
        let path = self.path_of(key);
        let Some(item) = self.defaults.and_then(|table| table.get(key)) else {
            self.missing::<T>(key, None);
            return None;
        };
        let node = Node::of(item, &path, self.problems)?;
        Some(At { value: T::read(node)?, span: self.span.clone(), given: false })
    }

    /// The value of `key`, which has no default.
    pub(super) fn required<T: Read>(&mut self, key: &'static str, example: &str) -> Option<At<T>> {
        if !self.has(key) {
            self.asked.push(key);
            self.missing::<T>(key, Some(format!("add `{key} = {example}`")));
            return None;
        }
        self.optional(key)
    }

    fn missing<T: Read>(&self, key: &str, hint: Option<String>) {
        let (path, place) = (self.path_of(key), if self.path.is_empty() { "the file" } else { &self.path });
        let message = format!("`{key}` is missing in `{place}`: it must be {}", T::WHAT);
        self.problems.add(&path, self.span.clone(), message, hint);
    }

    /// Whether `key` is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.given.is_some_and(|table| table.get(key).is_some_and(|item| !item.is_none()))
    }

    /// Where the table is written.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where `key` itself is written.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.given?.key(key)?.span()
    }

    /// Says that the value at `at` cannot be.
    pub(super) fn impossible(&self, key: &str, span: &Range<usize>, message: impl Into<String>, hint: &str) {
        self.problems.add(&self.path_of(key), span.clone(), message, Some(hint.to_owned()));
    }

    /// The whole name of `key`.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Says which keys are unknown. Call it when every key has been asked for.
    pub(super) fn close(self) {
        let Some(given) = self.given else { return };
        for (key, item) in given.iter() {
            if self.asked.contains(&key) || item.is_none() {
                continue;
            }
            let span = given.key(key).and_then(toml_edit::Key::span).or_else(|| item.span()).unwrap_or_default();
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let hint = nearest(key, &self.asked).map_or_else(
                || format!("known keys{place}: {}", self.asked.join(", ")),
                |known| format!("did you mean `{known}`?"),
            );
            self.problems.add(&self.path_of(key), span, format!("unknown key `{key}`{place}"), Some(hint));
        }
    }
}

/// The known key that `key` is probably meant to be.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let like = |candidate: &&str| strsim::jaro_winkler(key, candidate);
    let best = known.iter().copied().max_by(|a, b| like(a).total_cmp(&like(b)))?;
    let near = like(&best) >= LIKENESS_MIN && strsim::damerau_levenshtein(key, best) <= best.len().div_ceil(2);
    near.then_some(best)
}
