//! The interpreter: reads a script and answers requests with it.
//!
//! The script has a function `handle(request)`; `request` is `#{ method, path, query }`, and `query` is a map of texts. The
//! function's value is the answer: a text, or `#{ status, body, headers }`. `throw #{ status, body }` is an answer, too. Every other
//! error is a bug in the script, a [`Fault`].
//!
//! In addition to the language a script has two functions: `remember(book, value)` appends to a book (a list in the process's
//! memory), and `recall(book)` returns the whole book as an array.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rhai::{AST, Array, Dynamic, Engine, EvalAltResult, ImmutableString, Map, Position, Scope};

/// The largest accepted script, in bytes: far larger than any that a person would write.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;
/// The most steps of the interpreter for one request, a few seconds: an endless loop is a bug that must become visible.
const OPERATIONS_MAX: u64 = 100_000_000;
/// The most nested calls; each takes a few KiB of a worker's stack.
const CALLS_MAX: usize = 64;
/// The most nested expressions, outside and inside of functions.
const DEPTH_MAX: usize = 64;
/// The largest text, array or map of a script, in bytes or entries.
const VALUE_MAX: usize = 1 << 20;
/// The most entries of one book; beyond that the oldest half is removed.
const BOOK_MAX: usize = 100_000;

/// A request, as the input of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The names and values of the query, percent-decoded; of a repeated name only the last value.
    pub query: BTreeMap<String, String>,
}

impl Request {
    /// A request from its method and its target, `/path?name=value`.
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self { method: method.to_owned(), path: decode(path), query: query.collect() }
    }
}

/// Decodes percent-encoding and `+`; text that is not a code stays unchanged.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                plain.push(code);
                at += 3;
                continue;
            }
            (b'+', _) => plain.push(b' '),
            _ => plain.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What a script answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 where the script names none.
    pub status: u16,
    /// Names and values.
    pub headers: BTreeMap<String, String>,
    /// The whole body.
    pub body: String,
}

/// A place in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function.
    pub function: String,
    /// The script's file.
    pub file: String,
    /// The line, from 1; 0 if it is not known.
    pub line: usize,
    /// The column, from 1; 0 if it is not known.
    pub column: usize,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A bug: an error that the script neither caught nor threw as an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The message of the interpreter.
    pub message: String,
    /// The stack, innermost frame first; never empty.
    pub frames: Vec<Frame>,
}

/// Why a script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the script {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`SCRIPT_BYTES_MAX`].
    #[error("the script {} is larger than {SCRIPT_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The text is not a valid script.
    #[error("{file}: {source}")]
    Parse {
        /// The file's name.
        file: String,
        /// The error of the parser, with its place.
        #[source]
        source: rhai::ParseError,
    },
}

/// Reads a script's text.
///
/// # Errors
/// If the file cannot be read, is too large, or is not text.
pub fn read(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(SCRIPT_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// The books of a script; they live as long as the process.
type Books = Arc<Mutex<BTreeMap<String, Array>>>;

/// A script that many threads can run at once.
#[derive(Clone)]
pub struct Script {
    engine: Arc<Engine>,
    program: Arc<AST>,
    file: Arc<str>,
}

impl Script {
    /// Parses the script in `text`; `file` is its name in faults.
    ///
    /// # Errors
    /// If the text is not a valid script.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        Self::with(file, text, engine())
    }

    fn with(file: &str, text: &str, engine: Engine) -> Result<Self, Error> {
        // The first line, which names the interpreter, becomes a comment, so that every place in the file stays the same.
        let text = text.strip_prefix("#!").map_or_else(|| text.to_owned(), |rest| format!("//{rest}"));
        let program = engine.compile(text).map_err(|source| Error::Parse { file: file.to_owned(), source })?;
        Ok(Self { engine: Arc::new(engine), program: Arc::new(program), file: file.into() })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// If this request meets a bug in the script.
    pub fn handle(&self, request: &Request) -> Result<Answer, Fault> {
        let query = request.query.iter().map(|(name, value)| (name.as_str().into(), text(value)));
        let mut input = Map::new();
        input.insert("method".into(), text(&request.method));
        input.insert("path".into(), text(&request.path));
        input.insert("query".into(), Dynamic::from_map(query.collect()));
        let given = self.call("handle", vec![Dynamic::from_map(input)]);
        let value = given.or_else(|error| thrown_answer(&error).ok_or_else(|| self.fault("handle", &error)))?;
        answer_of(value).map_err(|message| self.fault_here("handle", message))
    }

    /// The sorted names of the script's functions that have no parameters and start with `prefix`.
    pub fn functions(&self, prefix: &str) -> Vec<String> {
        let plain = |function: &rhai::ScriptFnMetadata<'_>| function.params.is_empty();
        let all = self.program.iter_functions().filter(plain).map(|function| function.name.to_owned());
        let mut names: Vec<String> = all.filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        names
    }

    /// Runs one of [`Script::functions`].
    ///
    /// # Errors
    /// If it fails, also with a `throw`.
    pub fn run(&self, function: &str) -> Result<(), Fault> {
        self.call(function, Vec::new()).map(drop).map_err(|error| self.fault(function, &error))
    }

    fn call(&self, function: &str, arguments: Vec<Dynamic>) -> Result<Dynamic, Box<EvalAltResult>> {
        self.engine.call_fn(&mut Scope::new(), &self.program, function, arguments)
    }

    /// The fault of an error: the place of each call that led to it, innermost first, and the innermost message.
    fn fault(&self, called: &str, error: &EvalAltResult) -> Fault {
        let mut calls: Vec<(String, Position)> = Vec::new();
        let mut innermost = error;
        while let EvalAltResult::ErrorInFunctionCall(name, _, inner, position) = innermost {
            calls.push((name.clone(), *position));
            innermost = inner;
        }
        if calls.first().is_none_or(|(name, _)| name != called) {
            calls.insert(0, (called.to_owned(), Position::NONE));
        }
        // The position of a call is in the caller: each function stopped at its call of the next inner function.
        let mut places: Vec<Position> = calls.iter().skip(1).map(|(_, position)| *position).collect();
        places.push(innermost.position());
        let frame = |((function, _), at): (&(String, Position), Position)| Frame {
            function: function.clone(),
            file: self.file.to_string(),
            line: at.line().unwrap_or(0),
            column: at.position().unwrap_or(0),
        };
        let frames = calls.iter().zip(places).map(frame).rev().collect();
        Fault { message: message_of(innermost), frames }
    }

    fn fault_here(&self, function: &str, message: String) -> Fault {
        let file = self.file.to_string();
        Fault { message, frames: vec![Frame { function: function.to_owned(), file, line: 0, column: 0 }] }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The language with its limits, and with new books.
fn engine() -> Engine {
    let mut engine = Engine::new();
    engine
        .set_max_operations(OPERATIONS_MAX)
        .set_max_call_levels(CALLS_MAX)
        .set_max_expr_depths(DEPTH_MAX, DEPTH_MAX)
        .set_max_string_size(VALUE_MAX)
        .set_max_array_size(VALUE_MAX)
        .set_max_map_size(VALUE_MAX);
    let books = Books::default();
    let written = Arc::clone(&books);
    engine.register_fn("remember", move |book: ImmutableString, value: Dynamic| {
        let mut books = written.lock().unwrap_or_else(PoisonError::into_inner);
        let book = books.entry(book.into()).or_default();
        if book.len() >= BOOK_MAX {
            book.drain(..BOOK_MAX / 2);
        }
        book.push(value);
    });
    engine.register_fn("recall", move |book: ImmutableString| -> Array {
        books.lock().unwrap_or_else(PoisonError::into_inner).get(book.as_str()).cloned().unwrap_or_default()
    });
    engine
}

/// A script that tests `service`: `get(target)` sends a request to the service and returns `#{ status, headers, body }`, and
/// `expect(found, wanted)` fails if the two differ. Each call of this function makes a new service with empty books.
///
/// # Errors
/// If one of the two is not a valid script.
pub fn test_script(service: (&str, &str), test: (&str, &str)) -> Result<Script, Error> {
    let service = Script::parse(service.0, service.1)?;
    let mut engine = engine();
    engine.register_fn("get", move |target: ImmutableString| -> Result<Map, Box<EvalAltResult>> {
        let answer = service.handle(&Request::new("GET", &target)).map_err(|fault| {
            let place = fault.frames.first().map(ToString::to_string).unwrap_or_default();
            format!("GET {target} stops the service: {} at {place}", fault.message)
        })?;
        let headers = answer.headers.iter().map(|(name, value)| (name.as_str().into(), text(value)));
        Ok(Map::from([
            ("status".into(), Dynamic::from_int(answer.status.into())),
            ("headers".into(), Dynamic::from_map(headers.collect())),
            ("body".into(), text(&answer.body)),
        ]))
    });
    engine.register_fn("expect", |found: Dynamic, wanted: Dynamic| -> Result<(), Box<EvalAltResult>> {
        let shown = |value: &Dynamic| format!("{value:?}");
        if shown(&found) == shown(&wanted) {
            return Ok(());
        }
        Err(format!("found {}, wanted {}", shown(&found), shown(&wanted)).into())
    });
    Script::with(test.0, test.1, engine)
}

fn text(text: &str) -> Dynamic {
    Dynamic::from(ImmutableString::from(text))
}

/// The thrown value, if it is an answer.
fn thrown_answer(error: &EvalAltResult) -> Option<Dynamic> {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) => thrown_answer(inner),
        EvalAltResult::ErrorRuntime(value, _) => {
            let map = value.read_lock::<Map>()?;
            map.contains_key("status").then(|| Dynamic::from_map(map.clone()))
        }
        _ => None,
    }
}

/// The interpreter's message without the place, which the frames have.
fn message_of(error: &EvalAltResult) -> String {
    let message = error.to_string().replace('\n', " ");
    let place = format!(" ({})", error.position());
    message.strip_suffix(place.as_str()).map_or_else(|| message.clone(), str::to_owned)
}

/// Turns a script's value into an answer; the error says why it is not an answer.
fn answer_of(value: Dynamic) -> Result<Answer, String> {
    let plain = |body: String| Answer { status: 200, headers: BTreeMap::new(), body };
    if value.is_string() {
        return Ok(plain(value.to_string()));
    }
    let none = |what: &str| format!("an answer is a text or #{{ status, body, headers }}, not {what}");
    let map = value.try_cast_result::<Map>().map_err(|value| none(value.type_name()))?;
    let body = map.get("body").map(ToString::to_string).unwrap_or_default();
    let mut answer = plain(body);
    if let Some(status) = map.get("status") {
        let status = status.as_int().ok().and_then(|status| u16::try_from(status).ok());
        answer.status = status.filter(|status| (200..=599).contains(status)).ok_or_else(|| none("with this status"))?;
    }
    if let Some(headers) = map.get("headers") {
        let headers = headers.read_lock::<Map>().ok_or_else(|| none("with these headers"))?;
        answer.headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(source: &str, target: &str) -> Result<Answer, Fault> {
        Script::parse("bin/x", source).unwrap().handle(&Request::new("GET", target))
    }

    #[test]
    fn a_request_target_is_parsed() {
        let request = Request::new("GET", "/a%20b?name=Zo%C3%AB+X&flag&bad=%zz&name=last");
        assert_eq!(request.path, "/a b");
        let query: Vec<_> = request.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(query, [("bad", "%zz"), ("flag", ""), ("name", "last")]);
        assert_eq!(decode("Zo%C3%AB+X%"), "Zoë X%");
    }

    #[test]
    fn texts_maps_and_thrown_maps_are_answers() {
        let source = r#"
            fn handle(request) {
                switch request.path {
                    "/text" => `hello ${request.query.name}`,
                    "/map" => #{ status: 201, body: "made", headers: #{ "x-a": "b" } },
                    _ => deep()
                }
            }
            fn deep() { throw #{ status: 404, body: "no" } }
        "#;
        assert_eq!(ask(source, "/text?name=x").unwrap().body, "hello x");
        let made = ask(source, "/map").unwrap();
        assert_eq!((made.status, made.headers["x-a"].as_str()), (201, "b"));
        assert_eq!(ask(source, "/").unwrap().status, 404);
    }

    #[test]
    fn a_bug_names_every_function_on_the_way() {
        let source = "#!/usr/bin/env x\nfn handle(request) {\n    outer(7)\n}\nfn outer(n) {\n    let x = 1;\n    \
                      inner(n)\n}\nfn inner(n) {\n    let words = [\"a\"];\n    words[n]\n}\n";
        let fault = ask(source, "/").unwrap_err();
        assert_eq!(fault.message, "Array index 7 out of bounds: only 1 element in array");
        let frames: Vec<String> = fault.frames.iter().map(|frame| format!("{} {frame}", frame.function)).collect();
        assert_eq!(frames, ["inner bin/x:11:11", "outer bin/x:7:5", "handle bin/x:3:5"]);
    }

    #[test]
    fn a_value_that_is_no_answer_is_a_bug() {
        for source in ["fn handle(r) { 1 }", "fn handle(r) { #{ status: 99 } }", "fn handle(r) { throw \"x\" }"] {
            assert_eq!(ask(source, "/").unwrap_err().frames[0].function, "handle", "{source}");
        }
        assert!(ask("fn other() {}", "/").unwrap_err().message.contains("handle"));
    }

    #[test]
    fn an_endless_loop_ends_as_a_bug() {
        let fault = ask("fn handle(r) { loop {} }", "/").unwrap_err();
        assert!(fault.message.contains("operations"), "{fault}");
    }

    #[test]
    fn books_last_as_long_as_the_script() {
        let source = r#"fn handle(r) { remember("visits", r.path); `${recall("visits").len()}` }"#;
        let script = Script::parse("x", source).unwrap();
        let bodies: Vec<String> = (0..3).map(|_| script.handle(&Request::new("GET", "/")).unwrap().body).collect();
        assert_eq!(bodies, ["1", "2", "3"]);
    }

    #[test]
    fn a_syntax_error_names_its_place() {
        let error = Script::parse("bin/x", "fn handle(r) {\n  let = 1;\n}").unwrap_err();
        assert!(error.to_string().starts_with("bin/x: ") && error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn tests_ask_the_service_and_compare() {
        let service = r#"fn handle(r) { if r.path == "/bug" { [][0] } else { "hi" } }"#;
        let test = r#"
            fn test_good() { expect(get("/").body, "hi"); expect(get("/").status, 200); }
            fn test_different() { expect(get("/").body, "ho"); }
            fn test_bug() { get("/bug"); }
            fn helper(x) {}
        "#;
        let script = test_script(("bin/x", service), ("tests/x", test)).unwrap();
        assert_eq!(script.functions("test_"), ["test_bug", "test_different", "test_good"]);
        script.run("test_good").unwrap();
        assert_eq!(script.run("test_different").unwrap_err().message, r#"Runtime error: found "hi", wanted "ho""#);
        assert!(script.run("test_bug").unwrap_err().message.contains("stops the service"));
    }
}
