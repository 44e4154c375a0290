//! Tests with real output of each language's runtime, and with hostile logs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::find::find_in;
use super::lines::Lines;
use super::table::LANGUAGES;
use super::*;

/// One line per trace and one per frame, for snapshots.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for trace in parse(text.as_bytes()) {
        let thread = trace.thread.map_or(String::new(), |thread| format!(" [{thread}]"));
        out += &format!("{}{thread}: {}\n", trace.language, trace.reason.replace('\n', " / "));
        for frame in trace.frames.iter().take(5) {
            out += &format!("  {frame}\n");
        }
        if trace.frames.len() > 5 {
            out += &format!("  and {} more\n", trace.frames.len() - 5);
        }
    }
    out
}

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("../samples/", $name, ".txt"))
    };
}

#[test]
fn rust_with_a_backtrace() {
    insta::assert_snapshot!(shown(sample!("rust-backtrace")), @"
    rust [worker-1]: index out of bounds: the len is 3 but the index is 7
      __rustc::rust_begin_unwind (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panicking.rs:689:5)
      core::panicking::panic_fmt (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/panicking.rs:80:14)
      core::panicking::panic_bounds_check (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/panicking.rs:271:5)
      svc::store::lookup (./svc.rs:1:60)
      svc::handle (./svc.rs:2:30)
      and 1 more
    rust [main]: no worker left
      __rustc::rust_begin_unwind (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panicking.rs:689:5)
      core::panicking::panic_fmt (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/panicking.rs:80:14)
      core::panicking::panic_display::<&str> (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/panicking.rs:259:5)
      core::option::expect_failed (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/option.rs:2245:5)
      core::option::Option<T>::expect (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/option.rs:971:21)
      and 2 more
    ");
}

#[test]
fn rust_without_one() {
    insta::assert_snapshot!(shown(sample!("rust-plain")), @"
    rust [worker-1]: index out of bounds: the len is 3 but the index is 7
      svc.rs:1:60
    rust [main]: no worker left
      svc.rs:3:158
    ");
    let log = "thread 'main' panicked at src/a.rs:1:2:\nboom\nGET / 200\nGET /x 200\n";
    insta::assert_snapshot!(shown(log), @"
    rust [main]: boom
      src/a.rs:1:2
    ");
}

#[test]
fn rust_full_and_overflow_and_before_1_73() {
    insta::assert_snapshot!(shown(sample!("rust-full")), @"
    rust [main]: assertion `left == right` failed: sum of 2 /   left: 2 /  right: 3
      std::backtrace_rs::backtrace::libunwind::trace (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/../../backtrace/src/backtrace/libunwind.rs:117:9)
      std::backtrace_rs::backtrace::trace_unsynchronized::<std::sys::backtrace::_print_fmt::{closure#1}> (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/../../backtrace/src/backtrace/mod.rs:66:14)
      std::sys::backtrace::_print_fmt (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/sys/backtrace.rs:74:9)
      <<std::sys::backtrace::BacktraceLock>::print::DisplayBacktrace as core::fmt::Display>::fmt (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/sys/backtrace.rs:44:26)
      <core::fmt::rt::Argument>::fmt (/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/fmt/rt.rs:152:76)
      and 32 more
    ");
    insta::assert_snapshot!(shown(sample!("rust-overflow")), @"rust [main]: stack overflow");
    let old = "thread 'main' panicked at 'assertion failed: `(left == right)`\n  left: `1`,\n right: `2`', src/main.rs:10:5\n\
               note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
    insta::assert_snapshot!(shown(old), @"
    rust [main]: assertion failed: `(left == right)` /   left: `1`, /  right: `2`
      src/main.rs:10:5
    ");
}

#[test]
fn go() {
    for sample in [sample!("go-panic"), sample!("go-nil"), sample!("go-deadlock"), sample!("go-map")] {
        assert_eq!(parse(sample.as_bytes()).len(), 1);
    }
    insta::assert_snapshot!(shown(sample!("go-panic")), @"
    go [goroutine 17 [running]]: runtime error: index out of range [7] with length 3
      main.(*Server).lookup (greeter/main.go:11)
      main.(*Server).handle (greeter/main.go:13)
      main.main.func2 (greeter/main.go:43)
    ");
    insta::assert_snapshot!(shown(sample!("go-nil")), @"
    go [goroutine 1 [running]]: runtime error: invalid memory address or nil pointer dereference
      main.(*Server).lookup (greeter/main.go:11)
      main.(*Server).handle (greeter/main.go:13)
      main.main (greeter/main.go:27)
    ");
    let again = "panic: first [recovered]\n\tpanic: second\n\ngoroutine 1 [running]:\nmain.f({0x1, 0x2})\n\t/a/b.go:3 +0x1d\n\n\
                 goroutine 9 [chan receive, 2 minutes]:\nmain.(*W).run(0xc000)\n\t/a/w.go:7 +0x1\ncreated by main.main\n\t/a/b.go:1 +0x2\nexit status 2\n";
    insta::assert_snapshot!(shown(again), @"
    go [goroutine 9 [chan receive, 2 minutes]]: second
      main.(*W).run (/a/w.go:7)
    go [goroutine 1 [running]]: second
      main.f (/a/b.go:3)
    ");
}

#[test]
fn python() {
    insta::assert_snapshot!(shown(sample!("python-chained")), @"
    python: KeyError: 'id'
      parse (/srv/app/svc.py:4)
      handle (/srv/app/svc.py:7)
    python: OrderError: order 4711 has no id
      handle (/srv/app/svc.py:9)
      main (/srv/app/svc.py:11)
      <module> (/srv/app/svc.py:13)
    ");
    insta::assert_snapshot!(shown(sample!("python-group")), @"
    python: ExceptionGroup: 2 shards failed (2 sub-exceptions)
      main (/srv/app/grp.py:9)
      <module> (/srv/app/grp.py:10)
    python: ConnectionError: peer went away
      fetch (/srv/app/grp.py:3)
      main (/srv/app/grp.py:7)
    python: ValueError: bad shard 1
      fetch (/srv/app/grp.py:2)
      main (/srv/app/grp.py:7)
    ");
    insta::assert_snapshot!(shown(sample!("python-fatal")), @"
    python [current]: Segmentation fault
      string_at (/usr/lib/python3.11/ctypes/__init__.py:519)
      peek (<string>:3)
      main (<string>:4)
      <module> (<string>:5)
    ");
}

#[test]
fn java() {
    insta::assert_snapshot!(shown(sample!("java-caused")), @r#"
    java [worker-1]: java.lang.IllegalStateException: cannot read order
      Svc.handle (Svc.java:3)
      Svc.lambda$main$0 (Svc.java:4)
      java.base/java.lang.Thread.run (Thread.java:840)
    java [worker-1]: java.lang.NumberFormatException: For input string: "x9"
      java.base/java.lang.NumberFormatException.forInputString (NumberFormatException.java:67)
      java.base/java.lang.Integer.parseInt (Integer.java:668)
      java.base/java.lang.Integer.parseInt (Integer.java:786)
      Svc.parse (Svc.java:2)
      Svc.handle (Svc.java:3)
      and 2 more
    java [main]: java.lang.IllegalStateException: cannot read order
      Svc.handle (Svc.java:3)
      Svc.main (Svc.java:4)
    java [main]: java.lang.NumberFormatException: For input string: "y"
      java.base/java.lang.NumberFormatException.forInputString (NumberFormatException.java:67)
      java.base/java.lang.Integer.parseInt (Integer.java:668)
      java.base/java.lang.Integer.parseInt (Integer.java:786)
      Svc.parse (Svc.java:2)
      Svc.handle (Svc.java:3)
      and 8 more
    "#);
    let logged = "12:00 ERROR request failed\ncom.example.OrderException: no id\n\tat com.example.Svc.handle(Svc.java:3)\nnext line\n";
    insta::assert_snapshot!(shown(logged), @"
    java: com.example.OrderException: no id
      com.example.Svc.handle (Svc.java:3)
    ");
}

#[test]
fn node() {
    insta::assert_snapshot!(shown(sample!("node-cause")), @"
    node: OrderError: order 4711 unreadable
      handle (/srv/app/svc.js:3:64)
      Timeout.tick [as _onTimeout] (/srv/app/svc.js:4:29)
      listOnTimeout (node:internal/timers:581:17)
      process.processTimers (node:internal/timers:519:7)
    node: TypeError: Cannot read properties of undefined (reading 'toString')
      parse (/srv/app/svc.js:2:43)
      handle (/srv/app/svc.js:3:34)
      Timeout.tick [as _onTimeout] (/srv/app/svc.js:4:29)
      listOnTimeout (node:internal/timers:581:17)
      process.processTimers (node:internal/timers:519:7)
    ");
    insta::assert_snapshot!(shown(sample!("node-rejection")), @"
    node: TypeError: no such order: 12
      fetchOrder ([eval]:1:36)
      [eval]:1:74
      runScriptInThisContext (node:internal/vm:209:10)
      node:internal/process/execution:118:14
      [eval]-wrapper:6:24
      and 3 more
    ");
    insta::assert_snapshot!(shown(sample!("node-reject-value")), @r#"
    node: UnhandledPromiseRejection: This error originated either by throwing inside of an async function without a catch block, or by rejecting a promise which was not handled with .catch(). The promise rejected with the reason "17".
      throwUnhandledRejectionsMode (node:internal/process/promises:389:7)
      processPromiseRejections (node:internal/process/promises:470:17)
      process.processTicksAndRejections (node:internal/process/task_queues:96:32)
    "#);
    insta::assert_snapshot!(shown(sample!("node-oom")), @"node: Reached heap limit Allocation failed - JavaScript heap out of memory");
}

#[test]
fn lines_with_timestamps_and_colours_are_parsed_like_plain_ones() {
    for name in [sample!("rust-backtrace"), sample!("python-chained"), sample!("java-caused"), sample!("go-panic")] {
        let stamp = |line: &str| format!("2026-11-22T15:01:10.250Z stderr {line}\n");
        let stamped: String = name.lines().map(stamp).collect();
        assert_eq!(parse(stamped.as_bytes()), parse(name.as_bytes()));
        let coloured: String = name.lines().map(|line| format!("\x1b[31m{line}\x1b[0m\n")).collect();
        assert_eq!(parse(coloured.as_bytes()), parse(name.as_bytes()));
    }
}

#[test]
fn ordinary_lines_are_no_traces() {
    let log =
        "GET /a 200\npanic: said a user\nINFO: at last (a:1:2)\nError: x\nTraceback\nat home\nthread 'x' is fine\n";
    assert_eq!(parse(log.as_bytes()), []);
}

#[test]
fn a_flood_is_limited_to_the_last_traces() {
    let one = |i: usize| format!("thread 'w' panicked at a.rs:1:1:\nboom {i}\nnote: run with\n");
    let log: String = (0..5_000).map(one).collect();
    let traces = parse(log.as_bytes());
    assert_eq!((traces.len(), traces[TRACES_MAX - 1].reason.as_str()), (TRACES_MAX, "boom 4999"));
    let deep: String = (0..9_000).map(|i| format!("   {i}: f\n             at a.rs:1:1\n")).collect();
    let log = format!("thread 'w' panicked at a.rs:1:1:\n{}\nstack backtrace:\n{deep}", "x".repeat(100_000));
    let traces = parse(log.as_bytes());
    assert_eq!((traces[0].frames.len(), traces[0].reason.len()), (FRAMES_MAX, 1024));
}

/// Maximum number of lines that parsers may ask for, for each line of a text. Each row of the table looks a limited number
/// of lines ahead; the longest look is for Go's first goroutine.
const LOOKS_MAX: usize = 400;

/// All samples: each line of them is a line that some parser takes.
fn samples() -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/diagnosis/samples");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().map(|name| std::fs::read_to_string(name).unwrap()).collect()
}

/// The number of lines that the parsers asked for, and the number of lines.
fn looks(text: &str) -> (usize, usize) {
    let lines = Lines::of(text);
    find_in(&lines);
    (lines.looks.get(), lines.len().max(1))
}

#[test]
fn the_work_grows_no_faster_than_the_log() {
    const LOG_BYTES: usize = 64 << 10;
    let all = samples();
    let lines: Vec<&str> = all.lines().filter(|line| !line.is_empty()).collect();
    let begins = |line: &&&str| LANGUAGES.iter().any(|it| (it.head)(line).is_some()) || line.starts_with('{');
    let heads: BTreeSet<&str> = lines.iter().filter(begins).copied().collect();
    assert!(heads.len() > 30, "{heads:?}");
    // Each beginning, again and again, that is never a trace; and a beginning with each other line below it.
    let pairs = lines.windows(2).filter(|pair| begins(&&pair[0])).map(|pair| pair.join("\n"));
    let units = heads.iter().map(|line| ((*line).to_owned(), LOG_BYTES)).chain(pairs.map(|pair| (pair, LOG_BYTES / 8)));
    for (unit, bytes) in units {
        let text = format!("{unit}\n").repeat(bytes / (unit.len() + 1) + 1);
        let (looks, count) = looks(&text);
        assert!(looks <= LOOKS_MAX * count, "{looks} looks at {count} lines of {unit}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_mix_of_real_lines_is_read_without_a_panic(seed in any::<u64>(), cut in 0_usize..40) {
        let all = samples();
        let lines: Vec<&str> = all.lines().collect();
        let mut state = seed;
        let mut text = String::new();
        while text.len() < 8 << 10 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let line = lines[usize::try_from(state >> 33).unwrap() % lines.len()];
            // Some lines are cut, as at the end of a pipe.
            let end = if state % 7 == 0 { line.floor_char_boundary(cut) } else { line.len() };
            text += &line[..end];
            text.push('\n');
        }
        prop_assert!(parse(text.as_bytes()).len() <= TRACES_MAX);
        let (looks, count) = looks(&text);
        prop_assert!(looks <= LOOKS_MAX * count, "{looks} looks at {count} lines");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4_096)) {
        prop_assert!(parse(&bytes).len() <= TRACES_MAX);
    }

    #[test]
    fn any_json_is_read_without_a_panic(text in "[\\PC\n\t]{0,200}", key in "stack|error|exception|frames|x") {
        let line = serde_json::json!({ "level": "error", key: text, "err": { "stack": [text] } }).to_string();
        prop_assert!(parse(line.as_bytes()).len() <= TRACES_MAX);
    }

}

proptest! {
    #[test]
    fn any_mix_of_lines_is_read_without_a_panic(lines in proptest::collection::vec(prop_oneof![
        Just("thread 'a' panicked at 'x".to_owned()), Just("thread 'a' (1) panicked at a:1:1:".to_owned()),
        Just("stack backtrace:".into()), Just("   0: f".into()), Just("             at b:1".into()),
        Just("panic: é".into()), Just("goroutine 1 [running]:".into()), Just("main.f(".into()), Just("\ta.go:1 +0x1".into()),
        Just("...3 frames elided...".into()), Just("created by x".into()),
        Just("  | Traceback (most recent call last):".into()), Just("  |   File \"a\", line 1, in f".into()), Just("é| x".into()),
        Just("Traceback (most recent call last):".into()), Just("  File \"a\", line ".into()), Just("Fatal Python error: x".into()),
        Just("Current thread 0x1 (most recent call first):".into()), Just("a.B: c".into()), Just("\tat a.b(c)".into()),
        Just("Caused by: x.Y".into()), Just("Error: x".into()), Just("    at f (a:1:2) {".into()), Just("  [cause]: E".into()),
        ".{0,20}",
    ], 0..60)) {
        let log = lines.join("\n");
        let traces = parse(log.as_bytes());
        prop_assert!(traces.len() <= TRACES_MAX);
    }
}
