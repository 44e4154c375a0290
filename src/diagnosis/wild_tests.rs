//! What the last lines of a service say, in the form that each language and library prints by itself.
//!
//! Most samples are real output: of Ruby 3.1, PHP 8.2, Elixir 1.14 on Erlang/OTP 25, GCC 12 and glibc 2.36, Go 1.26,
//! .NET Core 3.1, Java 17, Node 20, Python 3.11; and of the JSON loggers of these languages (pino, winston, zap,
//! logback with the encoders of Logstash and of Elastic, python-json-logger, structlog). The others are written after the
//! documentation of their programs: [`WRITTEN`].

use super::crash::exit;
use crate::health::{Exit, fingerprint};
use crate::redact::Secrets;

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("samples/", $name, ".txt"))
    };
}

/// A sample: its name, its text, the reason of the incident, and the first frame of the cause.
type Wild = (&'static str, &'static str, &'static str, &'static str);

const WILD: &[Wild] = &[
    (
        "java with a suppressed exception",
        sample!("java-suppressed"),
        "java.lang.IllegalStateException: cannot load\norder 7; caused by: java.lang.NullPointerException: Cannot invoke \
         \"String.length()\" because \"<parameter1>\" is null",
        "App.find (App.java:4)",
    ),
    (
        "java with packaging data and a suppressed exception before the cause",
        sample!("java-packaging-suppressed"),
        "org.example.ServiceException: cannot load; caused by: java.lang.NullPointerException: Cannot invoke \
         \"String.length()\" because \"s\" is null",
        "org.example.Dao.find (Dao.java:77)",
    ),
    (
        "java with packaging data",
        sample!("java-packaging"),
        "java.lang.IllegalStateException: cannot load; caused by: java.lang.NullPointerException: Cannot invoke \
         \"String.length()\" because \"<parameter1>\" is null",
        "App.find (App.java:3)",
    ),
    ("ruby", sample!("ruby"), "key not found: :id (KeyError)", "fetch (store2.rb:2)"),
    ("ruby, innermost last", sample!("ruby-reverse"), "key not found: :id (KeyError)", "fetch (store2.rb:2)"),
    ("ruby's Logger", sample!("ruby-logger"), "key not found: :id (KeyError)", "fetch (-e:1)"),
    (
        "ruby with a cause",
        sample!("ruby-cause"),
        "bad order (ArgumentError)\nsecond line; caused by: key not found: :id (KeyError)",
        "fetch (store.rb:2)",
    ),
    (
        ".NET with an inner exception",
        sample!("dotnet"),
        "System.InvalidOperationException: cannot load; caused by: System.NullReferenceException: Object reference not set to \
         an instance of an object.",
        "App.Store.Get",
    ),
    (
        ".NET with two inner exceptions",
        sample!("dotnet-aggregate"),
        "System.AggregateException: One or more errors occurred. (cannot load); caused by: System.NullReferenceException: \
         Object reference not set to an instance of an object.",
        "App.Store.Get",
    ),
    (
        "php",
        sample!("php"),
        "TypeError: sum(): Argument #1 ($a) must be of type int, string given, called in /srv/app/cart2.php on line 3 and \
         defined",
        "sum (/srv/app/cart2.php:2)",
    ),
    (
        "php with a previous exception",
        sample!("php-previous"),
        "RuntimeException: cannot load; caused by: TypeError: sum(): Argument #1 ($a) must be of type int, string given, \
         called in /srv/app/cart.php on line 3 and defined",
        "sum (/srv/app/cart.php:2)",
    ),
    (
        "php without memory",
        sample!("php-memory"),
        "Allowed memory size of 8388608 bytes exhausted (tried to allocate 2097152 bytes)",
        "Command line code:1",
    ),
    ("elixir", sample!("elixir"), "(KeyError) key :id not found in: %{}", "App.Store.get/1 (app.exs:2)"),
    (
        "elixir, with the given arguments",
        sample!("elixir-server"),
        "(FunctionClauseError) no function clause matching in F.f/1",
        "F.f/1 (app2.exs:11)",
    ),
    ("elixir, a linked task", sample!("elixir-task"), "(RuntimeError) in task", "L.run/0 (link.exs:2)"),
    ("erlang", sample!("erlang"), "badarg", "store:main/0"),
    ("erlang's escript", sample!("erlang-escript"), "bad argument", "list_to_integer/1"),
    (
        "C++",
        sample!("cpp"),
        "std::out_of_range: vector::_M_range_check: __n (which is 3) >= this->size() (which is 3)",
        "",
    ),
    (
        "AddressSanitizer",
        sample!("asan"),
        "AddressSanitizer: heap-use-after-free, READ of size 4",
        "get_item (/srv/app/asan.c:2)",
    ),
    (
        "AddressSanitizer, SEGV",
        sample!("asan-segv"),
        "AddressSanitizer: SEGV on unknown address",
        "deref (/srv/app/segv.c:1)",
    ),
    ("LeakSanitizer", sample!("lsan"), "LeakSanitizer: detected memory leaks", "keep (/srv/app/leak.c:2)"),
    (
        "UBSan",
        sample!("ubsan"),
        "runtime error: signed integer overflow: 2147483647 + 1 cannot be represented in type 'int'",
        "ub.c:3:59",
    ),
    (
        "UBSan with a stack",
        sample!("ubsan-stack"),
        "runtime error: signed integer overflow: 2147483647 + 1 cannot be represented in type 'int'",
        "add (/srv/app/ub.c:3)",
    ),
    ("ThreadSanitizer", sample!("tsan"), "data race in bump", "bump (/srv/app/race.c:3)"),
    (
        "Go's race detector",
        sample!("go-race"),
        "data race in main.(*Store).Bump",
        "main.(*Store).Bump (race/main.go:7)",
    ),
    ("Go, a panic in a handler", sample!("go-http"), "assignment to entry in nil map", "main.handle (./svr.go:5)"),
    ("Go, a stack overflow", sample!("go-overflow"), "stack overflow", "main.f (./so.go:2)"),
    ("assert", sample!("glibc"), "Assertion `id > 0' failed", "get (as.c:2)"),
    (
        "node with an aggregate error",
        sample!("node-aggregate"),
        "Error: request failed; caused by: TypeError: bad shard 1",
        "shard (file:///srv/app/agg.mjs:1:45)",
    ),
    (
        "python with a direct cause",
        sample!("python-direct"),
        "RuntimeError: request failed; caused by: LookupError: no id",
        "handle (/srv/app/ch.py:5)",
    ),
    (
        "python's task group",
        sample!("python-taskgroup"),
        "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions); caused by: KeyError: 'id'",
        "fetch (/srv/app/grp.py:4)",
    ),
    (
        "rust, async",
        sample!("rust-async"),
        "called `Option::unwrap()` on a `None` value",
        "app::handlers::user::show::{{closure}} (./src/handlers/user.rs:42:17)",
    ),
    (
        "pino",
        sample!("json-pino"),
        "Error: cannot load order 7; caused by: TypeError: Cannot read properties of undefined (reading 'x')",
        "load (/srv/app/p.js:2:38)",
    ),
    (
        "winston",
        sample!("json-winston"),
        "TypeError: Cannot read properties of undefined (reading 'x')",
        "load (/srv/app/w.js:2:32)",
    ),
    ("python-json-logger", sample!("json-python-logger"), "KeyError: 'id'", "get (/srv/app/j.py:5)"),
    ("structlog", sample!("json-structlog"), "KeyError: 'id'", "get (/srv/app/j.py:5)"),
    ("zap", sample!("json-zap"), "cannot open the ledger: no such file", "main.(*store).get (zp/main.go:7)"),
    (
        "logback with Logstash's encoder",
        sample!("json-logstash"),
        "java.lang.IllegalStateException: cannot load; caused by: java.lang.NullPointerException: Cannot invoke \
         \"String.length()\" because \"<parameter1>\" is null",
        "App.find (App.java:3)",
    ),
    (
        "logback with Elastic's encoder",
        sample!("json-ecs"),
        "java.lang.IllegalStateException: cannot load; caused by: java.lang.NullPointerException: Cannot invoke \
         \"String.length()\" because \"<parameter1>\" is null",
        "App.find (App.java:3)",
    ),
];

/// Forms that no program on the machine of the authors prints.
const WRITTEN: &[Wild] = &[
    (
        "ruby 3.4, which names the class",
        "store.rb:2:in 'Hash#fetch': key not found: :id (KeyError)\n\tfrom store.rb:2:in 'Store#get'\n\tfrom a.rb:4:in '<main>'\n",
        "key not found: :id (KeyError)",
        "Hash#fetch (store.rb:2)",
    ),
    (
        "rails",
        "KeyError (key not found: :id):\n  \napp/models/store.rb:3:in `fetch'\napp/controllers/a.rb:9:in `show'\n",
        "KeyError (key not found: :id)",
        "fetch (app/models/store.rb:3)",
    ),
    (
        "monolog",
        "[2026-11-30T10:00:00.1+00:00] app.CRITICAL: request failed {\"exception\":\"[object] (TypeError(code: 0): bad order at \
         /app/cart.php:12)\n[stacktrace]\n#0 /app/index.php(3): App\\Cart->sum()\n#1 {main}\n\"} []\n",
        "TypeError: bad order",
        "App\\Cart->sum (/app/cart.php:12)",
    ),
    (
        "anyhow",
        "Error: cannot start\n\nCaused by:\n    0: cannot read the config\n    1: No such file or directory (os error 2)\n",
        "cannot start; caused by: No such file or directory (os error 2)",
        "",
    ),
    (
        ".NET with symbols, from its console logger",
        "fail: App.Worker[0]\n      request failed\n      System.NullReferenceException: Object reference not set to an instance \
         of an object.\n         at App.Store.Get(String id) in /src/Store.cs:line 21\n         at App.Program.Main(String[] args) \
         in /src/Program.cs:line 9\n",
        "System.NullReferenceException: Object reference not set to an instance of an object.",
        "App.Store.Get (/src/Store.cs:21)",
    ),
    (
        "an aggregate of .NET",
        "Unhandled exception. System.AggregateException: One or more errors occurred. (a) (b)\n ---> System.IO.IOException: a\n   \
         at App.A.Run()\n   --- End of inner exception stack trace ---\n   at App.Program.Main(String[] args)\n ---> (Inner \
         Exception #1) System.ArgumentException: b\n   at App.B.Run()<---\n\n",
        "System.AggregateException: One or more errors occurred. (a) (b); caused by: System.IO.IOException: a",
        "App.A.Run",
    ),
    (
        "Java behind the words of a logger",
        "2026-11-30 10:00:00,123 ERROR [main] app: request failed java.lang.IllegalStateException: no order\n\tat \
         org.example.Svc.get(Svc.java:7)\n\tat org.example.Svc.main(Svc.java:3)\n",
        "2026-11-30 10:00:00,123 ERROR [main] app: request failed java.lang.IllegalStateException: no order",
        "org.example.Svc.get (Svc.java:7)",
    ),
    (
        "Serilog",
        "{\"@t\":\"2026-11-30T10:00:00Z\",\"@mt\":\"request failed\",\"@l\":\"Error\",\"@x\":\"System.InvalidOperationException: \
         cannot load\\n   at App.Order.Load(String id) in /src/Order.cs:line 5\\n   at App.Program.Main()\"}\n",
        "System.InvalidOperationException: cannot load",
        "App.Order.Load (/src/Order.cs:5)",
    ),
    (
        "a list of frames in JSON",
        "{\"level\":\"fatal\",\"exception\":{\"name\":\"KeyError\",\"message\":\"key not found: :id\",\"stack_trace\":[\"store.rb:2:in \
         `fetch'\",\"a.rb:4:in `<main>'\"]}}\n",
        "KeyError: key not found: :id",
        "fetch (store.rb:2)",
    ),
    (
        "zerolog",
        "{\"level\":\"fatal\",\"stack\":[{\"func\":\"open\",\"line\":\"12\",\"source\":\"ledger.go\"},{\"func\":\"main\",\"line\":\"3\",\
         \"source\":\"main.go\"}],\"error\":\"no such file\",\"message\":\"cannot start\"}\n",
        "cannot start: no such file",
        "open (ledger.go:12)",
    ),
    (
        "LLVM's C++",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: no ledger\n",
        "std::runtime_error: no ledger",
        "",
    ),
    (
        "LLVM's UBSan",
        "/src/a.cpp:3:59: runtime error: load of null pointer of type 'int'\n    #0 0x55d0 in app::get(int) /src/a.cpp:3:59\n    \
         #1 0x55d9 in main /src/a.cpp:9:3\n\nSUMMARY: UndefinedBehaviorSanitizer: undefined-behavior /src/a.cpp:3:59\n",
        "runtime error: load of null pointer of type 'int'",
        "app::get(int) (/src/a.cpp:3:59)",
    ),
];

fn end(log: &str) -> Exit {
    exit(Some(1), None, 9, log.as_bytes(), &Secrets::default())
}

fn print(log: &str) -> String {
    let end = end(log);
    fingerprint("crash", &end.reason.unwrap_or_default(), &end.frames)
}

#[test]
fn each_end_has_its_reason_and_the_frames_of_its_cause() {
    let mut wrong = Vec::new();
    for (name, log, reason, first) in WILD.iter().chain(WRITTEN) {
        let end = end(log);
        let found = (end.reason.unwrap_or_default(), end.frames.first().cloned().unwrap_or_default());
        if found != ((*reason).to_owned(), (*first).to_owned()) {
            wrong.push(format!("{name}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), WILD.len() + WRITTEN.len(), wrong.join("\n"));
}

#[test]
fn the_abort_of_each_library_is_a_reason() {
    for line in sample!("glibc").lines() {
        let found = end(&format!("listening on 127.0.0.1:80\n{line}\n")).reason.unwrap_or_default();
        assert!(!found.is_empty() && line.contains(found.trim_start_matches("get: ")), "{line}: {found}");
    }
}

/// Changes what differs at another occurrence of the same fault: addresses, process ids, times and places in lines.
fn again(log: &str) -> String {
    let mut out = String::new();
    let mut rest = log;
    while let Some(c) = rest.chars().next() {
        let before = out.chars().next_back().unwrap_or(' ');
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if rest.starts_with("0x") {
            let hex = rest[2..].find(|c: char| !c.is_ascii_hexdigit()).map_or(rest.len(), |at| at + 2);
            out.push_str(&rest[..hex].replace('2', "7").replace('a', "3"));
            rest = &rest[hex..];
        } else if digits > 0 && [':', '=', '#', '<', ' '].contains(&before) && !out.ends_with("argument #") {
            // A line, a process, or a time.
            out.push_str(&rest[..digits].replace(['1', '4'], "9").replace('7', "8"));
            rest = &rest[digits..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

#[test]
fn the_same_fault_again_has_the_same_fingerprint_and_another_fault_has_another() {
    let mut prints = std::collections::BTreeMap::<String, Vec<&str>>::new();
    for (name, log, ..) in WILD.iter().chain(WRITTEN) {
        let stamped: String = log.lines().map(|line| format!("2026-11-22T15:01:10.250Z stderr {line}\n")).collect();
        let before = format!("GET /a 200\n{log}");
        for other in [&stamped, &before] {
            assert_eq!(print(log), print(other), "{name}:\n{other}");
        }
        // Numbers of frames, such as `#0` or `7: from`, are the grammar of a trace, not its data.
        let own = again(log);
        if !end(&own).frames.is_empty() {
            assert_eq!(print(log), print(&own), "{name}:\n{own}");
        }
        prints.entry(print(log)).or_default().push(name);
    }
    // The same fault in several forms: the order of Ruby's frames; the encoders of one logger; a plain stack.
    let same = prints.values().filter(|names| names.len() > 1).collect::<Vec<_>>();
    let expected: Vec<Vec<&str>> = vec![
        vec!["java with packaging data", "logback with Logstash's encoder", "logback with Elastic's encoder"],
        vec!["python-json-logger", "structlog"],
    ];
    assert!(same.iter().all(|names| expected.contains(names)), "{same:?}");
}

/// The same lines with two blocks of them exchanged: each from its first line up to an empty line.
fn exchanged(text: &str, one: &str, other: &str) -> String {
    let block = |first: &str| {
        let from = text.find(first).unwrap();
        &text[from..from + text[from..].find("\n\n").unwrap()]
    };
    let (one, other) = (block(one), block(other));
    text.replace(one, "@").replace(other, one).replace('@', other)
}

#[test]
fn the_two_sides_of_a_race_are_one_fault_whichever_comes_first() {
    for (log, swaps) in [
        (sample!("tsan"), [("Read of", "@"), ("Previous write of", "Previous read of"), ("@", "Write of")]),
        (sample!("go-race"), [("Read at", "@"), ("Previous write at", "Previous read at"), ("@", "Write at")]),
    ] {
        let read = log.lines().find(|line| line.trim_start().starts_with("Read")).unwrap();
        let write = log.lines().find(|line| line.trim_start().starts_with("Previous write")).unwrap();
        let turned = exchanged(log, read, write);
        assert!(turned != log && print(log) == print(&turned), "{turned}");
        // Both sides read and write: chance decides which of the two is caught.
        let mut other = swaps.iter().fold(log.to_owned(), |text, (from, to)| text.replace(from, to));
        assert_eq!(print(log), print(&other), "{other}");
        // Another function races: another fault.
        other = other.replace("bump", "reset").replace("Bump", "Reset");
        assert_ne!(print(log), print(&other));
    }
}

#[test]
fn a_warning_with_a_stack_did_not_end_the_process() {
    let log = sample!("json-logstash").replace("\"ERROR\"", "\"WARN\"") + "the certificate has expired\n";
    assert_eq!((end(&log).reason, end(sample!("json-logstash")).reason.is_some()), (None, true));
}
