//! The journal on real, full file systems.

use std::path::{Path, PathBuf};
use std::process::Command;

use rei::journal::{Error, HeadStatus, Journal, Limits, Meta, Reader, Reserve, head_beside};
use rei::time::Timestamp;
use serde_json::{Value, json};

/// A small file system that is unmounted when this is dropped.
struct Mount {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mount {
    /// Mounts a file system of `kind`; if that is not possible, prints the reason and returns `None`.
    fn new(kind: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, path) = (directory.path().join("image"), directory.path().join("mount"));
        std::fs::create_dir(&path).unwrap();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let steps: Vec<Vec<String>> = match kind {
            "tmpfs" => vec![["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs"].map(str::to_owned).to_vec()],
            _ => vec![
                ["truncate", "-s", "16M", &text(&image)].map(str::to_owned).to_vec(),
                ["mkfs.ext4", "-q", "-m", "0", &text(&image)].map(str::to_owned).to_vec(),
                ["mount", "-o", "loop", &text(&image)].map(str::to_owned).to_vec(),
            ],
        };
        for mut step in steps {
            if step[0] == "mount" {
                step.push(text(&path));
            }
            let output = Command::new(&step[0]).args(&step[1..]).output();
            if !output.as_ref().is_ok_and(|output| output.status.success()) {
                println!("SKIPPED: no {kind} can be mounted here: {step:?}: {output:?}");
                return None;
            }
        }
        Some(Self { path, _directory: directory })
    }

    /// Fills the disk completely.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path.join("filler")).unwrap();
        for size in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        let _ = file.sync_all();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

fn meta() -> Meta {
    Meta { runtime: "greeter".to_owned(), created: Timestamp::from_unix_ms(1_795_359_670_250) }
}

fn appends_succeed_on_a_full(kind: &str) {
    let Some(mount) = Mount::new(kind) else { return };
    let limits = Limits { segment_bytes: 256 << 10, reserve_bytes: 512 << 10 };
    let directory = mount.path.join("journal");
    let (mut journal, _) = Journal::<Value>::open_with::<Value>(&directory, &meta(), limits).unwrap();
    assert_eq!(journal.attach_head(&head_beside(&directory)).unwrap(), HeadStatus::NoHead);
    let body = json!({ "event": "tick", "text": "x".repeat(500) });
    let at = Timestamp::from_unix_ms(0);
    journal.append(at, &body).unwrap();
    assert!(matches!(journal.reserve(), Reserve::Held { bytes } if bytes >= limits.reserve_bytes / 2));
    mount.fill();
    // Far more than one rollback writes, and beyond the size at which a new segment usually starts.
    for _ in 0..400 {
        journal.append(at, &body).unwrap();
    }
    let Reserve::Shrinking { bytes, reason } = journal.reserve() else { panic!("{:?}", journal.reserve()) };
    assert!(bytes < limits.reserve_bytes / 2, "{bytes} {reason}");
    // If the reserve itself is used up, the error says so, and the journal stays valid.
    let error = loop {
        match journal.append(at, &body) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("free space"));
    assert!(journal.rotation_failure().is_some());
    let written = journal.last_seq();
    assert_eq!(Reader::open(&directory).unwrap().verify().unwrap().records, written);
    // The sealed head still had its space.
    assert_eq!(journal.head_failure(), None);
    assert_eq!(
        Reader::open(&directory).unwrap().verify_against(&head_beside(&directory)).unwrap().sealed,
        Some(written)
    );
    // With free space again, the journal continues normally.
    std::fs::remove_file(mount.path.join("filler")).unwrap();
    assert!(
        matches!(journal.reserve(), Reserve::Held { .. }),
        "the reserve is reported without a record: {:?}",
        journal.reserve()
    );
    assert_eq!(journal.append(at, &body).unwrap().seq, written + 1);
    assert!(matches!(journal.reserve(), Reserve::Held { .. }), "{:?}", journal.reserve());
    assert_eq!(journal.rotation_failure(), None);
    drop(journal);
    let (_, opened) = Journal::<Value>::open_with::<Value>(&directory, &meta(), limits).unwrap();
    assert_eq!(opened.records.len() as u64, written + 1);
}

#[test]
fn appends_succeed_on_a_full_ext4() {
    appends_succeed_on_a_full("ext4");
}

#[test]
fn appends_succeed_on_a_full_tmpfs() {
    appends_succeed_on_a_full("tmpfs");
}

/// The variable with the directory for the child of the next test.
const CHILD_DIRECTORY: &str = "REI_TEST_JOURNAL";
/// The size of a segment: small, so that many kills happen at a change of segments.
const SMALL: Limits = Limits { segment_bytes: 2000, reserve_bytes: 64 << 10 };

#[test]
#[ignore = "the child of acknowledged_records_survive_a_kill"]
fn child_that_writes_until_it_is_killed() {
    use std::io::Write;
    let directory = std::env::var_os(CHILD_DIRECTORY).expect("started by its parent");
    let directory = Path::new(&directory).join("journal");
    let (mut journal, opened) = Journal::<u64>::open_with::<u64>(&directory, &meta(), SMALL).unwrap();
    let status = journal.attach_head(&head_beside(&directory)).unwrap();
    assert!(status == HeadStatus::Whole || journal.last_seq() == 0 && status == HeadStatus::NoHead, "{status:?}");
    let mut number = opened.records.last().map_or(opened.snapshot.map_or(0, |(seq, _)| seq), |record| record.body);
    let mut out = std::io::stdout();
    loop {
        number += 1;
        let record = journal.append(Timestamp::from_unix_ms(number), &number).unwrap();
        assert_eq!(record.seq, number);
        writeln!(out, "acknowledged {number}").unwrap();
        if number.is_multiple_of(7) {
            journal.snapshot(&number).unwrap();
        }
    }
}

#[test]
fn acknowledged_records_survive_a_kill() {
    use std::io::{BufRead, BufReader};
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("journal");
    let mut promised = 0;
    for round in 0..30 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIRECTORY, parent.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        for line in lines {
            let number = line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse().ok());
            promised = number.unwrap_or(promised);
            seen += u64::from(number.is_some());
            if seen == 3 + round {
                // The child's output until its death is read, too.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 3 + round, "round {round}: the child exited by itself");
        let verified = Reader::open(&directory).unwrap().verify_against(&head_beside(&directory)).unwrap();
        assert!(verified.records >= promised, "round {round}: {} of {promised}", verified.records);
        // Every acknowledged record was sealed before.
        assert!(verified.sealed >= Some(promised), "round {round}: {:?} of {promised}", verified.sealed);
    }
    let (_, opened) = Journal::<u64>::open_with::<u64>(&directory, &meta(), SMALL).unwrap();
    assert!(opened.snapshot.is_some());
    assert!(opened.records.iter().all(|record| record.seq == record.body));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let error = Journal::<Value>::open::<Value>(Path::new("/proc/journal"), &meta()).unwrap_err();
    assert_eq!(error.to_string(), "cannot make /proc/journal");
}
