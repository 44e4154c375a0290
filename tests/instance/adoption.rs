//! A new supervisor adopts the instances of a dead supervisor, and adopts no other process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use rei::process;
use rei::runtime::instance::{AdoptError, EndedBy, Instance, StopBy};
use rei::runtime::table::InstanceTable;

use crate::lab::{HELPER_ARGS, LONG, Lab, NONE, until};

/// A supervisor in a separate process, with one instance that exits with code 3 at the supervisor's request.
fn supervisor(lab: &Lab) -> (Child, u32) {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(HELPER_ARGS)
        .env("REI_TEST_ACT", "supervise_one")
        .env("REI_TEST_TABLE", lab.path("instances"))
        .env("REI_TEST_PREFIX", &lab.prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("instance ")?.parse().ok());
    (supervisor, pid.expect("the supervisor says its instance's pid"))
}

#[tokio::test]
async fn an_instance_outlives_its_supervisor_and_is_adopted() {
    let lab = Lab::new();
    let (mut supervisor, pid) = supervisor(&lab);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let table = InstanceTable::open(&lab.path("instances")).unwrap();
    let [entry] = &table.entries()[..] else { panic!("{:?}", table.entries()) };
    assert_eq!((&entry.id, entry.pid), (&lab.id("one"), Some(pid)));
    let mut instance = Instance::adopt(&entry.id, pid, entry.start_ticks, &lab.trees).unwrap();
    assert!(instance.tree().members().iter().any(|stat| stat.pid == pid));
    let ended = instance.stop(StopBy::default(), LONG).await;
    assert_eq!(ended.by, EndedBy::Term);
    assert_eq!(lab.alive(), NONE);
}

#[tokio::test]
async fn the_exit_of_an_adopted_instance_is_known() {
    let lab = Lab::new();
    let (mut supervisor, pid) = supervisor(&lab);
    // Only by its environment, as after a crash before the start was recorded.
    let mut instance = Instance::adopt(&lab.id("one"), pid, None, &lab.trees).unwrap();
    supervisor.stdin.take().unwrap().write_all(b"end\n").unwrap();
    let exit = tokio::time::timeout(LONG, instance.wait()).await.unwrap();
    supervisor.wait().unwrap();
    if exit.code.is_none() {
        println!("SKIPPED: this kernel does not report the exit status of another process's child");
        return;
    }
    assert_eq!(exit.to_string(), "exit code 3");
    assert_eq!(instance.end().await.by, EndedBy::Itself);
}

#[tokio::test]
async fn another_process_is_not_adopted() {
    let lab = Lab::new();
    let mut instance = lab.shell("mine", "sleep 1000");
    let (pid, start) = (instance.pid(), instance.start_ticks());
    let why = |id: &str, pid, start| Instance::adopt(id, pid, start, &lab.trees).err().unwrap();
    assert!(matches!(why(&lab.id("mine"), pid, Some(start + 1)), AdoptError::Other { .. }));
    until("the program", || (process::tag(pid) == process::Tag::Instance(lab.id("mine"))).then_some(()));
    assert!(matches!(why(&lab.id("other"), pid, None), AdoptError::Other { .. }));
    instance.end().await;
    assert!(matches!(why(&lab.id("mine"), pid, Some(start)), AdoptError::Gone { .. }));
}
