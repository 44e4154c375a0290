//! Many callers at once: whoever watches, waits or dawdles keeps no operator from a command.

use rei::interface::access::Access;
use rei::interface::client::ClientError;
use rei::interface::operations::{MonitorEvent, OperationsError};
use tokio::io::AsyncWriteExt;

use crate::fakes::{PATIENCE, Served, operations, until};
use crate::shapes;

/// More than there are places.
const WATCHERS: usize = 40;

/// Whether commands are answered, each on a connection of its own.
async fn commands_are_answered(served: &Served) {
    let commands = async {
        let operator = served.operator().await;
        operator.status().await.unwrap();
        operator.rollback(None).await.unwrap();
        operator.stop().await.unwrap();
    };
    tokio::time::timeout(PATIENCE, commands).await.expect("an operator is locked out");
    assert!(served.owner.calls().ends_with(&["status".into(), "rollback None".into(), "stop".into()]));
}

#[tokio::test]
async fn watchers_lock_nobody_out_and_the_oldest_of_them_are_told_to_go() {
    let served = operations(Access::own_user());
    let operator = served.operator().await;
    let mut watchers = Vec::new();
    for nth in 1..=WATCHERS {
        watchers.push(operator.monitor().await.unwrap());
        until("the stream is open", || served.owner.calls().len() == nth).await;
    }
    commands_are_answered(&served).await;
    served.owner.events.send(MonitorEvent { seq: 7, ..shapes::monitor_event() }).unwrap();
    let (mut told, mut watching) = (Vec::new(), Vec::new());
    for (nth, watcher) in watchers.iter_mut().enumerate() {
        match watcher.next().await.unwrap() {
            Ok(event) => watching.push((nth, event.seq)),
            Err(ClientError::Answered(OperationsError::Busy { reason })) => told.push((nth, reason)),
            Err(error) => panic!("{error:?}"),
        }
    }
    // The newest watch on.
    let newest: Vec<_> = (WATCHERS - 16..WATCHERS).map(|nth| (nth, 7)).collect();
    assert_eq!(watching, newest);
    assert!(told.iter().all(|(_, reason)| reason.contains("16 streams")), "{told:?}");
}

#[tokio::test]
async fn who_says_nothing_or_not_all_of_it_locks_nobody_out() {
    let served = operations(Access::own_user());
    let mut held = Vec::new();
    for nth in 0..2 * WATCHERS {
        let mut stream = served.bare();
        // Some have called and wait, some say nothing, some have begun.
        match nth % 3 {
            0 => stream.write_all(b"{\"method\":\"io.openexec.Supervisor.Pause\"}\0").await.unwrap(),
            1 => stream.write_all(b"{\"method\":").await.unwrap(),
            _ => {}
        }
        held.push(stream);
        tokio::task::yield_now().await;
    }
    // The listener's queue is taken in its order: once the last has its place, all had one.
    commands_are_answered(&served).await;
}
