//! Many callers at once: slow and waiting callers do not lock an operator out.

use rei::interface::access::Access;
use rei::interface::client::ClientError;
use rei::interface::operations::{MonitorEvent, OperationsError};
use tokio::io::AsyncWriteExt;

use crate::fakes::{PATIENCE, Served, operations, until};
use crate::shapes;

/// More callers than places.
const WATCHERS: usize = 40;

/// Checks that commands are answered, each on a new connection.
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
async fn watchers_lock_no_operator_out_and_the_oldest_streams_are_ended() {
    let served = operations(Access::own_user());
    let operator = served.operator().await;
    let mut watchers = Vec::new();
    for nth in 1..=WATCHERS {
        watchers.push(operator.monitor().await.unwrap());
        until("the stream is open", || served.owner.calls().len() == nth).await;
    }
    commands_are_answered(&served).await;
    served.owner.events.send(MonitorEvent { seq: 7, ..shapes::monitor_event() }).unwrap();
    let (mut ended, mut watching) = (Vec::new(), Vec::new());
    for (nth, watcher) in watchers.iter_mut().enumerate() {
        match watcher.next().await.unwrap() {
            Ok(event) => watching.push((nth, event.seq)),
            Err(ClientError::Answered(OperationsError::Busy { reason })) => ended.push((nth, reason)),
            Err(error) => panic!("{error:?}"),
        }
    }
    // The newest streams continue.
    let newest: Vec<_> = (WATCHERS - 16..WATCHERS).map(|nth| (nth, 7)).collect();
    assert_eq!(watching, newest);
    assert!(ended.iter().all(|(_, reason)| reason.contains("16 streams")), "{ended:?}");
}

#[tokio::test]
async fn silent_and_incomplete_callers_lock_no_operator_out() {
    let served = operations(Access::own_user());
    let mut held = Vec::new();
    for nth in 0..2 * WATCHERS {
        let mut stream = served.bare();
        // Some have called and wait, some send nothing, some have sent a part of a call.
        match nth % 3 {
            0 => stream.write_all(b"{\"method\":\"io.openexec.Supervisor.Pause\"}\0").await.unwrap(),
            1 => stream.write_all(b"{\"method\":").await.unwrap(),
            _ => {}
        }
        held.push(stream);
        tokio::task::yield_now().await;
    }
    // The server accepts in the order of the queue: when the last caller has a place, every caller had one.
    commands_are_answered(&served).await;
}
