use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::time::Timestamp;

const SMALL: Limits = Limits { segment_bytes: 700, reserve_bytes: 4096 };

fn meta() -> Meta {
    Meta { runtime: "greeter".to_owned(), created: Timestamp::from_unix_ms(1_795_359_670_250) }
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_795_359_670_250 + ms)
}

fn body(number: u64) -> Value {
    json!({ "event": "tick", "number": number, "text": "grüße\n\"x\"" })
}

type Open = Result<(Journal<Value>, Opened<Value>), Error>;

fn open(directory: &Path) -> Open {
    Journal::open_with(directory, &meta(), SMALL)
}

/// A journal with `count` records.
fn filled(count: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(directory.path()).unwrap();
    for number in 1..=count {
        assert_eq!(journal.append(at(number), &body(number)).unwrap().seq, number);
    }
    directory
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    segment::list(directory).unwrap().into_iter().map(|segment| segment.path).collect()
}

fn numbers(opened: &Opened<Value>) -> Vec<u64> {
    opened.records.iter().map(|record| record.body["number"].as_u64().unwrap()).collect()
}

/// The result of another start: the numbers, whether a line was removed, or the error.
fn reopened(directory: &Path) -> Result<(Vec<u64>, Option<TornLine>), Error> {
    open(directory).map(|(_, opened)| (numbers(&opened), opened.torn_line))
}

#[test]
fn appended_records_are_read_back_across_segments() {
    let directory = filled(20);
    assert!(segments(directory.path()).len() > 3, "{:?}", segments(directory.path()));
    let (mut journal, opened) = open(directory.path()).unwrap();
    assert_eq!(numbers(&opened), (1..=20).collect::<Vec<_>>());
    assert_eq!((opened.snapshot, opened.torn_line, opened.warnings), (None, None, vec![]));
    assert_eq!(opened.records[4].at, at(5));
    assert_eq!(journal.append(at(21), &body(21)).unwrap().seq, 21);
    let verified = Reader::open(directory.path()).unwrap().verify().unwrap();
    assert_eq!((verified.records, verified.first_at, verified.last_at), (21, Some(at(1)), Some(at(21))));
    assert_eq!((verified.runtime.as_str(), verified.format), ("greeter", line::format()));
}

#[test]
fn each_line_contains_the_hash_of_the_previous_one() {
    let directory = filled(20);
    let mut before = "0".repeat(64);
    for path in segments(directory.path()) {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["prev"], before.as_str());
            before = line::hash(line.as_bytes());
        }
    }
    assert_eq!(Reader::open(directory.path()).unwrap().verify().unwrap().head, before);
}

/// Replaces the descriptor of an open segment by a device that accepts every write and refuses every sync.
fn lose_the_disk_of(segment: &Path) {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let mut fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fd = fds.find(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == segment)).unwrap();
    let fd = fd.file_name().to_str().unwrap().parse().unwrap();
    // SAFETY: dup2 keeps the descriptor number open, so the journal still owns a valid descriptor; only its file
    // changes.
    assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd);
}

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let directory = filled(1);
    let (mut journal, _) = Journal::<Value>::open::<Value>(directory.path(), &meta()).unwrap();
    lose_the_disk_of(&segments(directory.path())[0]);
    let error = journal.append(at(2), &body(2)).unwrap_err();
    assert!(matches!(&error, Error::Io { act: "sync", .. }), "{error:?}");
    assert!(matches!(journal.append(at(2), &body(2)).unwrap_err(), Error::Poisoned { .. }));
}

#[test]
fn only_records_after_the_snapshot_are_read() {
    let directory = filled(10);
    let (mut journal, _) = open(directory.path()).unwrap();
    journal.snapshot(&json!({ "phase": "steady" })).unwrap();
    drop(journal);
    let (mut journal, opened) = open(directory.path()).unwrap();
    assert_eq!(opened.snapshot, Some((10, json!({ "phase": "steady" }))));
    assert_eq!(numbers(&opened), Vec::<u64>::new());
    for number in 11..=15 {
        journal.append(at(number), &body(number)).unwrap();
    }
    drop(journal);
    // Nothing before the snapshot is read. It may even be damaged, which `verify` reports.
    let oldest = &segments(directory.path())[0];
    let mut content = std::fs::read(oldest).unwrap();
    content[300] ^= 1;
    std::fs::write(oldest, content).unwrap();
    assert_eq!(reopened(directory.path()).unwrap(), ((11..=15).collect(), None));
    assert!(Reader::open(directory.path()).unwrap().verify().unwrap_err().is_damage());
}

#[test]
fn a_damaged_snapshot_is_skipped_and_reported() {
    let directory = filled(3);
    let (mut journal, _) = open(directory.path()).unwrap();
    journal.snapshot(&1).unwrap();
    journal.append(at(4), &body(4)).unwrap();
    journal.snapshot(&2).unwrap();
    drop(journal);
    let newest = directory.path().join("snapshots/000000000004.json");
    let mut content = std::fs::read(&newest).unwrap();
    let end = content.len() - 70;
    content[end] ^= 4;
    std::fs::write(&newest, content).unwrap();
    let (_, opened) = open(directory.path()).unwrap();
    assert_eq!((opened.snapshot.clone(), numbers(&opened)), (Some((3, json!(1))), vec![4]));
    assert_eq!(opened.warnings.len(), 1, "{:?}", opened.warnings);
    assert!(opened.warnings[0].ends_with("000000000004.json is damaged"), "{:?}", opened.warnings);
}

#[test]
fn old_snapshots_are_removed() {
    let directory = filled(0);
    let (mut journal, _) = open(directory.path()).unwrap();
    for number in 1..=5 {
        journal.append(at(number), &body(number)).unwrap();
        journal.snapshot(&number).unwrap();
    }
    assert_eq!(std::fs::read_dir(directory.path().join("snapshots")).unwrap().count(), 2);
}

#[test]
fn records_that_a_snapshot_includes_must_exist() {
    let directory = filled(3);
    let (mut journal, _) = open(directory.path()).unwrap();
    journal.snapshot(&json!({})).unwrap();
    drop(journal);
    let last = segments(directory.path()).pop().unwrap();
    let content = std::fs::read_to_string(&last).unwrap();
    let kept = content.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(&last, &content[..kept]).unwrap();
    let error = reopened(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    std::fs::remove_file(last).unwrap();
    assert!(reopened(directory.path()).unwrap_err().is_damage());
}

#[test]
fn a_journal_has_only_one_writer() {
    let directory = filled(1);
    let (journal, _) = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, Error::Locked { pid: Some(found), .. } if found == pid), "{error}");
    assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
    assert_eq!(Reader::open(directory.path()).unwrap().writer(), Some(Some(pid)));
    drop(journal);
    assert_eq!(Reader::open(directory.path()).unwrap().writer(), None);
    open(directory.path()).unwrap();
}

#[test]
fn a_journal_of_another_runtime_or_a_newer_rei_is_refused() {
    let directory = filled(1);
    let other = Meta { runtime: "web".to_owned(), ..meta() };
    let error = Journal::<Value>::open::<Value>(directory.path(), &other).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    let other = of_format("2.0", &[body(1)]);
    let before = std::fs::read(&segments(other.path())[0]).unwrap();
    let error = reopened(other.path()).unwrap_err();
    assert!(matches!(&error, Error::Newer { found, .. } if found == "2.0"), "{error}");
    assert_eq!(std::fs::read(&segments(other.path())[0]).unwrap(), before, "a refused journal was changed");
    assert!(Reader::open(other.path()).unwrap().verify().is_err());
}

/// A journal with one segment, whose header names another format.
fn of_format(format: &str, bodies: &[Value]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let header = line::Header {
        journal: line::MAGIC.to_owned(),
        format: format.to_owned(),
        runtime: meta().runtime,
        created: meta().created,
        first: 1,
        prev: line::genesis(),
    };
    let mut content = line::seal(&header).unwrap();
    for (index, body) in bodies.iter().enumerate() {
        let last = content[..content.len() - 1].rsplit(|byte| *byte == b'\n').next().unwrap();
        let seq = index as u64 + 1;
        let record = Record { seq, at: at(seq), prev: line::hash(last), body };
        content.extend(line::seal(&record).unwrap());
    }
    std::fs::write(directory.path().join(segment::file_name(1)), content).unwrap();
    directory
}

#[test]
fn a_segment_has_one_format() {
    let later = format!("{FORMAT_MAJOR}.{}", FORMAT_MINOR + 1);
    for format in ["1.0", &*later] {
        let directory = of_format(format, &[body(1), body(2)]);
        let (mut journal, opened) = open(directory.path()).unwrap();
        assert_eq!((numbers(&opened), opened.later.is_none()), (vec![1, 2], true), "{format}");
        journal.append(at(3), &body(3)).unwrap();
        drop(journal);
        let formats = segments(directory.path()).into_iter().map(|path| {
            let content = std::fs::read_to_string(path).unwrap();
            let header: Value = serde_json::from_str(content.lines().next().unwrap()).unwrap();
            header["format"].as_str().unwrap().to_owned()
        });
        assert_eq!(formats.collect::<Vec<_>>(), [format.to_owned(), line::format()]);
        assert_eq!(reopened(directory.path()).unwrap().0, [1, 2, 3]);
    }
}

#[test]
fn a_journal_of_a_later_rei_is_read_up_to_the_first_unknown_record() {
    let later = format!("{FORMAT_MAJOR}.{}", FORMAT_MINOR + 1);
    let directory = of_format(&later, &[json!(1), json!("two"), json!(3)]);
    let (mut journal, opened) = Journal::<u64>::open_with::<u64>(directory.path(), &meta(), SMALL).unwrap();
    assert_eq!(opened.records.iter().map(|record| record.body).collect::<Vec<_>>(), [1]);
    let error = opened.later.unwrap();
    assert!(matches!(&error, Error::Later { place, found, .. } if place.seq == Some(2) && *found == later), "{error}");
    assert!(!error.is_damage() && error.hint().is_some());
    // The records after it are kept, and the chain continues after them.
    assert_eq!(journal.append(at(4), &4).unwrap().seq, 4);
    drop(journal);
    assert_eq!(Reader::open(directory.path()).unwrap().verify().unwrap().records, 4);
}

#[test]
fn a_snapshot_that_cannot_be_read_is_skipped() {
    let directory = filled(3);
    let (mut journal, _) = open(directory.path()).unwrap();
    journal.snapshot(&json!("another shape")).unwrap();
    drop(journal);
    let (_, opened) = Journal::<Value>::open_with::<u64>(directory.path(), &meta(), SMALL).unwrap();
    assert_eq!((opened.snapshot, opened.records.len()), (None, 3));
    assert!(opened.warnings.iter().any(|warning| warning.contains("cannot read")), "{:?}", opened.warnings);
}

#[test]
fn a_record_of_another_form_is_reported_with_its_position() {
    let directory = filled(2);
    let error = Journal::<u64>::open::<Value>(directory.path(), &meta()).unwrap_err();
    assert!(matches!(&error, Error::Body { place, .. } if place.seq == Some(1) && place.line == 2), "{error}");
}

#[test]
fn invalid_records_are_not_written() {
    let directory = filled(1);
    let (mut journal, _) = Journal::<Value>::open::<Value>(directory.path(), &meta()).unwrap();
    let error = journal.append(at(2), &json!("x".repeat(RECORD_BYTES_MAX))).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(journal.append(at(2), &body(2)).unwrap().seq, 2);
    drop(journal);
    assert_eq!(reopened(directory.path()).unwrap(), (vec![1, 2], None));
}

#[test]
fn a_reader_sees_a_journal_that_is_being_written() {
    let directory = filled(5);
    let (mut journal, _) = open(directory.path()).unwrap();
    let mut seen = Vec::new();
    let reader = Reader::open(directory.path()).unwrap();
    journal.append(at(6), &body(6)).unwrap();
    let take = |record: Record<Value>| {
        seen.push(record.seq);
        if record.seq == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    reader.records(3, take).unwrap();
    assert_eq!(seen, [3, 4, 5]);
    let mut lines = Vec::new();
    reader.export(&mut lines, 2).unwrap();
    let text = String::from_utf8(lines).unwrap();
    let first: Record<Value> = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first.seq, 2);
}

#[test]
fn a_torn_last_line_is_removed_and_reported() {
    let directory = filled(3);
    let last = segments(directory.path()).pop().unwrap();
    let whole = std::fs::read(&last).unwrap();
    for torn in [&b"{\"seq\":4,\"at\":\"2026"[..], &b"\0\0\0\0"[..], &b"{\"seq\":4,\0\0\0\0\0\"}\n"[..], &[0; 3 << 20]]
    {
        std::fs::write(&last, [&whole, torn].concat()).unwrap();
        let verified = Reader::open(directory.path()).unwrap().verify().unwrap();
        assert_eq!((verified.records, verified.unfinished_bytes), (3, torn.len() as u64));
        let torn_line = TornLine { path: last.clone(), offset: whole.len() as u64, bytes: torn.len() as u64 };
        assert_eq!(reopened(directory.path()).unwrap(), (vec![1, 2, 3], Some(torn_line)));
        assert_eq!(std::fs::read(&last).unwrap(), whole);
    }
    let garbage = [&whole, &b"what is this?\n"[..]].concat();
    std::fs::write(&last, &garbage).unwrap();
    let error = reopened(directory.path()).unwrap_err();
    assert!(matches!(&error, Error::Damaged { place, .. } if place.seq == Some(4)), "{error}");
    assert_eq!(std::fs::read(&last).unwrap(), garbage, "a damaged journal was changed");
}

#[test]
fn a_missing_or_foreign_segment_is_detected() {
    let directory = filled(20);
    let paths = segments(directory.path());
    let second = std::fs::read(&paths[1]).unwrap();
    std::fs::remove_file(&paths[1]).unwrap();
    assert!(reopened(directory.path()).unwrap_err().is_damage());
    std::fs::write(&paths[1], &second).unwrap();
    assert!(reopened(directory.path()).is_ok());
    // Records of another journal, with valid numbers and sums.
    let other = filled(20);
    let foreign = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(foreign.path()).unwrap();
    for number in 1..=20 {
        journal.append(at(number), &body(number + 1000)).unwrap();
    }
    drop(journal);
    let stranger = segments(foreign.path()).into_iter().find(|path| path.file_name() == paths[1].file_name());
    std::fs::copy(stranger.unwrap(), &segments(other.path())[1]).unwrap();
    assert!(reopened(other.path()).unwrap_err().is_damage());
}

#[test]
fn the_journal_of_format_1_0_is_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal/1.0");
    let verified = Reader::open(&fixture).unwrap().verify().unwrap();
    insta::assert_json_snapshot!(verified);
    // And it can be continued.
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("snapshots")).unwrap();
    for name in ["000000000001.jsonl", "000000000004.jsonl", "snapshots/000000000003.json"] {
        std::fs::copy(fixture.join(name), copy.path().join(name)).unwrap();
    }
    let (mut journal, opened) = open(copy.path()).unwrap();
    assert_eq!((opened.snapshot.clone(), numbers(&opened)), (Some((3, json!({ "phase": "steady" }))), vec![4, 5]));
    assert_eq!(journal.append(at(6), &body(6)).unwrap().seq, 6);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_byte_is_detected(pick in 0.0..1.0, flip in 1_u8..) {
        let directory = filled(8);
        let paths = segments(directory.path());
        let sizes: Vec<usize> = paths.iter().map(|path| std::fs::read(path).unwrap().len()).collect();
        let total: usize = sizes.iter().sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a choice")]
        let mut byte = (pick * total as f64) as usize;
        let file = sizes.iter().position(|size| if byte < *size { true } else { byte -= size; false }).unwrap();
        let mut content = std::fs::read(&paths[file]).unwrap();
        content[byte] ^= flip;
        std::fs::write(&paths[file], &content).unwrap();
        let unfinished = Reader::open(directory.path()).unwrap().verify().map(|verified| verified.unfinished_bytes);
        prop_assert!(!matches!(unfinished, Ok(0)), "byte {byte} of {}", paths[file].display());
        let start = reopened(directory.path());
        prop_assert!(!matches!(start, Ok((_, None))), "byte {byte} of {}: {start:?}", paths[file].display());
    }

    #[test]
    fn a_truncation_is_a_removed_last_line_or_an_error(pick in 0.0..1.0, which in any::<prop::sample::Index>()) {
        let directory = filled(8);
        let paths = segments(directory.path());
        let path = which.get(&paths);
        let content = std::fs::read(path).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a choice")]
        let keep = (pick * content.len() as f64) as usize;
        std::fs::write(path, &content[..keep]).unwrap();
        match reopened(directory.path()) {
            Err(error) => prop_assert!(error.is_damage(), "{error}"),
            Ok((numbers, torn_line)) => {
                prop_assert_eq!(path, paths.last().unwrap());
                prop_assert!(torn_line.is_some() || content[..keep].ends_with(b"\n"));
                let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
                prop_assert_eq!(&numbers, &expected);
                // The rest is a valid journal again.
                prop_assert_eq!(reopened(directory.path()).unwrap(), (expected, None));
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(content in proptest::collection::vec(any::<u8>(), 0..600), after in any::<bool>()) {
        let directory = if after { filled(2) } else { tempfile::tempdir().unwrap() };
        let path = directory.path().join(segment::file_name(1));
        let mut whole = std::fs::read(&path).unwrap_or_default();
        whole.extend_from_slice(&content);
        std::fs::write(&path, whole).unwrap();
        let _ = Reader::open(directory.path()).unwrap().verify();
        let _ = reopened(directory.path());
    }
}

/// A journal with `count` records and a sealed head, in a directory with space beside it; and the head's path.
fn sealed(count: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("journal");
    let head = head_beside(&directory);
    let (mut journal, _) = open(&directory).unwrap();
    assert_eq!(journal.attach_head(&head).unwrap(), HeadStatus::NoHead);
    for number in 1..=count {
        journal.append(at(number), &body(number)).unwrap();
    }
    (state, directory, head)
}

/// The result of the next start.
fn head_status(directory: &Path, head: &Path) -> HeadStatus {
    let (mut journal, _) = open(directory).unwrap();
    journal.attach_head(head).unwrap()
}

fn verified(directory: &Path, head: &Path) -> Result<Verified, Error> {
    Reader::open(directory).unwrap().verify_against(head)
}

/// Removes the last `count` records, at the end of a line.
fn cut_records(directory: &Path, count: usize) {
    for _ in 0..count {
        let path = segments(directory).pop().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        match text.trim_end().rsplit_once('\n') {
            Some((before, _)) => std::fs::write(&path, format!("{before}\n")).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn a_journal_cut_at_a_record_is_shorter_than_its_head() {
    let (_state, directory, head) = sealed(20);
    assert_eq!(head_status(&directory, &head), HeadStatus::Whole);
    assert_eq!(verified(&directory, &head).unwrap().sealed, Some(20));
    cut_records(&directory, 1);
    assert_eq!(head_status(&directory, &head), HeadStatus::Short { records: 19, sealed: 20 });
    let error = verified(&directory, &head).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().ends_with("shorter than its sealed head: record 19 of 20"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("rei journal accept"));
    // A second comparison gives the same result: only a record, or an operator's decision, moves the head.
    assert_eq!(head_status(&directory, &head), HeadStatus::Short { records: 19, sealed: 20 });
    let (mut journal, _) = open(&directory).unwrap();
    journal.attach_head(&head).unwrap();
    journal.append(at(20), &body(99)).unwrap();
    drop(journal);
    assert_eq!(head_status(&directory, &head), HeadStatus::Whole);
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(head_status(&directory, &head), HeadStatus::Short { records: 0, sealed: 20 });
}

#[test]
fn a_head_older_than_the_journal_is_normal_and_a_different_record_is_not() {
    let (_state, directory, head) = sealed(5);
    let old = std::fs::read(&head).unwrap();
    let (mut journal, _) = open(&directory).unwrap();
    journal.attach_head(&head).unwrap();
    (6..=20).for_each(|number| drop(journal.append(at(number), &body(number)).unwrap()));
    journal.snapshot(&json!({})).unwrap();
    drop(journal);
    // As after a power failure: the journal is on disk, but the head is older.
    std::fs::write(&head, &old).unwrap();
    assert_eq!(head_status(&directory, &head), HeadStatus::Whole);
    assert_eq!(verified(&directory, &head).unwrap().sealed, Some(5));
    // A backup from before record 5, which was continued in another way.
    std::fs::remove_dir_all(&directory).unwrap();
    let (mut journal, _) = open(&directory).unwrap();
    (1..=9).for_each(|number| drop(journal.append(at(number), &body(number + 100)).unwrap()));
    drop(journal);
    assert_eq!(head_status(&directory, &head), HeadStatus::Other { seq: 5 });
    assert!(matches!(verified(&directory, &head), Err(Error::Other { seq: 5, .. })));
}

#[test]
fn with_a_torn_copy_the_previous_head_is_used_and_a_damaged_head_is_reported() {
    let (_state, directory, head) = sealed(7);
    let whole = std::fs::read(&head).unwrap();
    // Records 7 and 6 are in the two copies; if one of them is torn, the other one is valid.
    for copy in [0, 4096] {
        let mut torn = whole.clone();
        torn[copy + 40] ^= 1;
        std::fs::write(&head, &torn).unwrap();
        assert_eq!(head_status(&directory, &head), HeadStatus::Whole);
    }
    std::fs::write(&head, vec![b'x'; 8192]).unwrap();
    assert_eq!(head_status(&directory, &head), HeadStatus::DamagedHead);
    assert_eq!(verified(&directory, &head).unwrap().sealed, None);
    std::fs::write(&head, "").unwrap();
    assert_eq!(head_status(&directory, &head), HeadStatus::NoHead);
    let (mut journal, _) = open(&directory).unwrap();
    journal.attach_head(&head).unwrap();
    journal.seal();
    assert_eq!(journal.head_failure(), None);
    assert!(journal.head_to_sync().is_some() && journal.head_to_sync().is_none(), "synced once");
    drop(journal);
    assert_eq!(verified(&directory, &head).unwrap().sealed, Some(7));
}

#[test]
fn the_head_names_the_last_record_in_any_segment() {
    for count in 0..12 {
        let (_state, directory, head) = sealed(count);
        assert_eq!(
            head_status(&directory, &head),
            if count == 0 { HeadStatus::NoHead } else { HeadStatus::Whole },
            "{count}"
        );
        let (mut journal, _) = open(&directory).unwrap();
        journal.attach_head(&head).unwrap();
        journal.seal();
        drop(journal);
        assert_eq!(head_status(&directory, &head), HeadStatus::Whole, "{count}");
    }
}
