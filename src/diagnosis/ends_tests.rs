//! Different ends give different incidents, and the same end gives the same incident again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::crash::exit;
use crate::config::{CrashBound, Incidents};
use crate::health::{Monitor, Signal, Sources};
use crate::interface::types::RuntimeRef;
use crate::redact::Secrets;
use crate::time::Timestamp;

/// Each failure: a name, its exit code, its last lines, and the parts that differ when it happens again.
type End = (&'static str, i32, &'static str, &'static [(&'static str, &'static str)]);

const ENDS: &[End] = &[
    (
        "C++ terminate",
        134,
        "terminate called after throwing an instance of 'std::out_of_range'\n  what():  vector::_M_range_check: __n (which \
         is 3) >= this->size() (which is 3)\n",
        &[("is 3", "is 77")],
    ),
    (
        "C++ terminate, another exception",
        134,
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
        &[],
    ),
    (
        ".NET",
        134,
        "Unhandled exception. System.NullReferenceException: Object reference not set to an instance of an object.\n   at \
         App.Store.Get(String id) in /src/Store.cs:line 21\n   at App.Program.Main(String[] args) in /src/Program.cs:line 9\n",
        &[("line 21", "line 34")],
    ),
    (
        ".NET, the same exception elsewhere",
        134,
        "Unhandled exception. System.NullReferenceException: Object reference not set to an instance of an object.\n   at \
         App.Cart.Sum() in /src/Cart.cs:line 3\n",
        &[],
    ),
    (
        "Ruby",
        1,
        "/app/lib/store.rb:14:in `fetch': key not found: :id (KeyError)\n\tfrom /app/lib/store.rb:14:in `get'\n",
        &[("rb:14", "rb:19")],
    ),
    ("Ruby, another method", 1, "/app/lib/cart.rb:2:in `sum': undefined method `+' for nil (NoMethodError)\n", &[]),
    (
        "PHP",
        255,
        "PHP Fatal error:  Uncaught TypeError: sum(): Argument #1 must be of type int in /app/cart.php:12\nStack trace:\n#0 \
         /app/index.php(3): sum()\n#1 {main}\n  thrown in /app/cart.php on line 12\n",
        &[("12", "15"), ("(3)", "(9)")],
    ),
    (
        "AddressSanitizer, use after free",
        1,
        "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc 0x4f bp 0x7f sp 0x7f\nREAD of size \
         4 at 0x602000000010 thread T0\n    #0 0x4f5 in get_item /src/store.c:21:10\nSUMMARY: AddressSanitizer: \
         heap-use-after-free /src/store.c:21:10 in get_item\n",
        &[("==7==", "==4011=="), ("0x602000000010", "0x60300000ff90"), ("0x4f5", "0x991")],
    ),
    (
        "AddressSanitizer, overflow",
        1,
        "==9==ERROR: AddressSanitizer: stack-buffer-overflow on address 0x7ffd0010 at pc 0x4f bp 0x7f sp 0x7f\nSUMMARY: \
         AddressSanitizer: stack-buffer-overflow /src/parse.c:8:3 in parse\n",
        &[("0x7ffd0010", "0x7ffc99a0")],
    ),
    ("glibc, double free", 134, "free(): double free detected in tcache 2\n", &[]),
    ("glibc, corruption", 134, "malloc(): corrupted top size\n", &[]),
    ("glibc, stack", 134, "*** stack smashing detected ***: terminated\n", &[]),
    ("assert", 134, "served: store.c:21: get: Assertion `id > 0' failed.\n", &[("c:21", "c:40")]),
    (
        "Go deadlock",
        2,
        "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\nmain.main()\n",
        &[],
    ),
    (
        "Perl",
        2,
        "Can't locate object method \"get\" via package \"Store\" at /app/x.pl line 3.\n",
        &[("line 3", "line 8")],
    ),
    ("Lua", 1, "lua: x.lua:3: attempt to index a nil value (global 'store')\n", &[("lua:3", "lua:9")]),
    ("a shell", 127, "/app/start: line 3: gunicorn: command not found\n", &[]),
    ("Erlang", 1, "init terminating in do_boot ({badarg,[{store,get,2}]})\n", &[]),
    (
        "a log line with a time, a process and a request",
        1,
        "2026-01-01T10:00:00.123Z ERROR [4711] store: cannot reach db-1.example.org: connection refused request_id=req-8f3k2j9xq1\n",
        &[("2026-01-01T10:00:00.123Z", "2027-11-22T23:59:01.9Z"), ("4711", "99"), ("8f3k2j9xq1", "0a9bz81kk2")],
    ),
    (
        "a log line in JSON",
        1,
        "{\"ts\":1790000000.1,\"level\":\"fatal\",\"msg\":\"cannot open the ledger\",\"pid\":7,\"trace_id\":\"k3jd8x0qpz\"}\n",
        &[("1790000000.1", "1790000999.7"), ("k3jd8x0qpz", "9x0qpzk3jd")],
    ),
    (
        "a syslog line",
        1,
        "Nov 30 08:02:33 host served[4711]: FATAL: the certificate has expired\n",
        &[("Nov 30 08:02:33", "Dec  1 23:00:01"), ("4711", "12")],
    ),
    ("one plain word", 1, "bye\n", &[]),
    ("the same word and another code", 3, "bye\n", &[]),
    ("another word and a third code", 66, "no input\n", &[]),
    ("another code without a word", 66, "", &[]),
    ("a code without a word", 7, "", &[]),
];

/// Output of a service before it fails, partly the same each time.
const BEFORE: [&str; 3] = [
    "",
    "listening on 127.0.0.1:8080\nGET /a 200 12ms\n10.0.0.1 - - [22/Nov/2026:15:01:10 +0000] \"GET /b HTTP/1.1\" 200 12\n",
    "2026-11-22T15:01:10Z INFO served alice\n2026-11-22T15:01:11Z DEBUG cache miss for /x/bob\n\n",
];

fn fingerprint(code: i32, log: &str) -> String {
    let incidents = Incidents {
        crash: CrashBound { restarts: 3, within: Duration::from_secs(60) },
        latency: None,
        errors: None,
        memory: None,
        fds: None,
        repeats: 2,
    };
    let at = Timestamp::from_unix_ms(1_790_000_000_000);
    let sources = Sources { probe_ms: None, watchdog: false, interface_ms: None };
    let mut monitor = Monitor::new(RuntimeRef::default(), &incidents, sources, at);
    let found = monitor.observe(at, Signal::Exited(exit(Some(code), None, 5, log.as_bytes(), &Secrets::default())));
    found[0].fingerprint.clone()
}

#[test]
fn different_ends_give_different_incidents() {
    let mut known = BTreeMap::new();
    for (name, code, words, _) in ENDS {
        known.entry(fingerprint(*code, words)).or_insert_with(Vec::new).push(*name);
    }
    let shared: Vec<_> = known.values().filter(|names| names.len() > 1).collect();
    assert!(shared.is_empty(), "{} incidents of {} failures: {shared:#?}", known.len(), ENDS.len());
}

#[test]
fn the_same_end_gives_the_same_incident_again() {
    for (name, code, words, other) in ENDS {
        let again = other.iter().fold((*words).to_owned(), |words, (from, to)| words.replace(from, to));
        for before in BEFORE {
            let [one, two] = [words, again.as_str()].map(|words| fingerprint(*code, &format!("{before}{words}")));
            assert_eq!((&one, &two), (&fingerprint(*code, words), &one), "{name} behind {before:?}");
        }
    }
}
