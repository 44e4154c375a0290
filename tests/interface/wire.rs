//! Messages that no well-behaved client sends, and the introspection that every Varlink tool may use.

use rei::interface::access::Access;
use rei::interface::{evolution, operations, proof};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::fakes::{self, Served};

async fn ask(served: &Served, call: Value) -> Value {
    let mut stream = served.bare();
    send(&mut stream, call.to_string().as_bytes()).await;
    receive(&mut stream).await.expect("a reply")
}

async fn send(stream: &mut UnixStream, message: &[u8]) {
    stream.write_all(message).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
}

/// The next message, or `None` if the connection is closed.
async fn receive(stream: &mut UnixStream) -> Option<Value> {
    let mut message = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(0) => return Some(serde_json::from_slice(&message).unwrap()),
            Ok(byte) => message.push(byte),
            Err(_) => return None,
        }
    }
}

#[tokio::test]
async fn the_definition_files_are_served_unchanged() {
    for (served, name, definition) in [
        (fakes::operations(Access::own_user()), operations::NAME, operations::DEFINITION),
        (fakes::evolution(), evolution::NAME, evolution::DEFINITION),
    ] {
        let info = ask(&served, json!({ "method": "org.varlink.service.GetInfo" })).await;
        assert_eq!(info["parameters"]["interfaces"], json!(["org.varlink.service", name]));
        assert_eq!(info["parameters"]["version"], env!("CARGO_PKG_VERSION"));
        for (interface, expected) in [(name, definition), ("org.varlink.service", "interface org.varlink.service")] {
            let parameters = json!({ "interface": interface });
            let call = json!({ "method": "org.varlink.service.GetInterfaceDescription", "parameters": parameters });
            let description = ask(&served, call).await;
            let description = description["parameters"]["description"].as_str().unwrap().to_owned();
            assert!(description.contains(expected), "{description}");
            assert!(zlink::idl::Interface::try_from(description.as_str()).is_ok());
        }
    }
}

#[tokio::test]
async fn a_caller_that_needs_a_proof_finds_the_method_by_introspection() {
    let served = fakes::operations_by(|path| crate::access::rule(path, None));
    let info = ask(&served, json!({ "method": "org.varlink.service.GetInfo" })).await;
    let expected = json!(["org.varlink.service", operations::NAME, proof::NAME]);
    assert_eq!(info["parameters"]["interfaces"], expected);
    let parameters = json!({ "interface": proof::NAME });
    let call = json!({ "method": "org.varlink.service.GetInterfaceDescription", "parameters": parameters });
    assert_eq!(ask(&served, call).await["parameters"]["description"], proof::DEFINITION);
    let standing = ask(&served, json!({ "method": "io.openexec.Access.Standing" })).await;
    assert!(standing["parameters"]["proven"].is_boolean(), "{standing}");
}

#[tokio::test]
async fn an_unknown_method_or_interface_is_named() {
    let served = fakes::operations(Access::own_user());
    let unknown = ask(&served, json!({ "method": "io.openexec.Supervisor.Explode", "parameters": {} })).await;
    assert_eq!(unknown["error"], "org.varlink.service.MethodNotFound");
    assert_eq!(unknown["parameters"]["method"], "io.openexec.Supervisor.Explode");
    let unknown = ask(&served, json!({ "method": "io.openexec.RuntimeEvolution.ReportRuntimeHealth" })).await;
    assert_eq!(unknown["error"], "org.varlink.service.InterfaceNotFound");
    let unknown = ask(&served, json!({ "method": "nonsense" })).await;
    assert_eq!(unknown["error"], "org.varlink.service.MethodNotFound");
    let missing = ask(&served, json!({ "method": "io.openexec.Supervisor.Show" })).await;
    assert_eq!(missing["parameters"]["parameter"], "id");
    // A misspelt parameter must not cause the default action.
    let parameters = json!({ "generation": 40 });
    let odd = ask(&served, json!({ "method": "io.openexec.Supervisor.Rollback", "parameters": parameters })).await;
    assert_eq!(odd["error"], "org.varlink.service.InvalidParameter");
    assert_eq!(odd["parameters"]["parameter"], "generation");
    let once = ask(&served, json!({ "method": "io.openexec.Supervisor.Monitor" })).await;
    assert_eq!(once["error"], "org.varlink.service.ExpectedMore");
    assert!(served.owner.calls().is_empty());
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let served = fakes::operations(Access::own_user());
    let operator = served.operator().await;
    for garbage in [&b"hello"[..], b"", b"[]", b"{\"method\":7}", b"{\"method\":\"a.b\"", b"\xff\xfe"] {
        let mut stream = served.bare();
        send(&mut stream, garbage).await;
        assert_eq!(receive(&mut stream).await, None, "{garbage:?}");
    }
    operator.status().await.unwrap();
}

#[tokio::test]
async fn a_call_is_bounded_and_may_be_as_large_as_the_bound() {
    let served = fakes::operations(Access::own_user());
    let call = |bytes: usize| {
        let empty = json!({ "method": "io.openexec.Supervisor.Show", "parameters": { "id": "" } }).to_string().len();
        let id = "x".repeat(bytes - empty);
        json!({ "method": "io.openexec.Supervisor.Show", "parameters": { "id": id } }).to_string()
    };
    let mut stream = served.bare();
    send(&mut stream, call(1 << 20).as_bytes()).await;
    assert_eq!(receive(&mut stream).await.unwrap()["parameters"]["shown"]["id"], "rec_0001");

    let mut stream = served.bare();
    let larger = call((1 << 20) + 1);
    // The server closes before it has read everything, so the write may fail.
    let _ = stream.write_all(larger.as_bytes()).await;
    let _ = stream.write_all(&[0]).await;
    assert_eq!(receive(&mut stream).await, None);
    served.operator().await.status().await.unwrap();
}

#[tokio::test]
async fn calls_may_be_pipelined_and_may_need_no_reply() {
    let served = fakes::operations(Access::own_user());
    let mut stream = served.bare();
    let call = |name: &str, oneway: bool| {
        json!({ "method": format!("io.openexec.Supervisor.{name}"), "oneway": oneway, "parameters": null }).to_string()
    };
    let ahead = [call("Pause", true), call("Resume", false), call("Quarantine", false)].join("\0") + "\0";
    stream.write_all(ahead.as_bytes()).await.unwrap();
    assert_eq!(receive(&mut stream).await, Some(json!({ "parameters": {} })));
    assert!(receive(&mut stream).await.unwrap()["parameters"]["entries"].is_array());
    assert_eq!(served.owner.calls(), ["pause", "resume", "quarantine"]);
}

#[tokio::test]
async fn a_caller_without_a_complete_message_is_dropped() {
    let served = fakes::operations(Access::own_user());
    let (mut silent, mut slow) = (served.bare(), served.bare());
    slow.write_all(b"{\"method\":").await.unwrap();
    let (silent, slow) = tokio::join!(receive(&mut silent), receive(&mut slow));
    assert_eq!((silent, slow), (None, None));
}

#[tokio::test]
async fn a_caller_that_pipelines_too_much_waits_and_is_answered() {
    let served = fakes::evolution();
    let mut stream = served.bare();
    send(&mut stream, br#"{"method":"io.openexec.RuntimeEvolution.ReportRuntimeHealth","more":true}"#).await;
    assert_eq!(receive(&mut stream).await.unwrap()["continues"], true);
    // It pipelines a lot, and still gets every answer.
    let ahead = r#"{"method":"io.openexec.RuntimeEvolution.BuildCandidateRuntime"}"#.to_owned() + "\0";
    stream.write_all(ahead.repeat(2000).as_bytes()).await.unwrap();
    assert_eq!(receive(&mut stream).await.unwrap()["continues"], true);
}

#[tokio::test]
async fn the_connection_that_was_idle_longest_is_closed_for_a_new_one() {
    let served = fakes::operations(Access::own_user());
    let mut held: Vec<_> = (0..32).map(|_| served.bare()).collect();
    for stream in &mut held {
        send(stream, br#"{"method":"io.openexec.Supervisor.Pause"}"#).await;
        receive(stream).await.unwrap();
    }
    send(&mut held[0], br#"{"method":"io.openexec.Supervisor.Resume"}"#).await;
    receive(&mut held[0]).await.unwrap();
    let mut late = served.bare();
    send(&mut late, br#"{"method":"io.openexec.Supervisor.Stop"}"#).await;
    receive(&mut late).await.unwrap();
    assert!(served.owner.calls().contains(&"stop".into()));
    assert_eq!(receive(&mut held[1]).await, None, "it was idle longest");
    for stream in [0, 2] {
        send(&mut held[stream], br#"{"method":"io.openexec.Supervisor.Pause"}"#).await;
        receive(&mut held[stream]).await.unwrap();
    }
}

#[tokio::test]
async fn descriptors_that_a_caller_sends_are_not_kept() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let served = fakes::operations(Access::own_user());
    let (kept, sent) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut stream = served.bare();
    stream.writable().await.unwrap();
    let message = b"{\"method\":\"io.openexec.Supervisor.Pause\"}\0";
    let fds = [sent.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[std::io::IoSlice::new(message)], &rights, MsgFlags::empty(), None).unwrap();
    drop(sent);
    receive(&mut stream).await.unwrap();
    // The connection is still open; the pipe would stay open only if the server kept a copy of `sent`.
    kept.set_nonblocking(true).unwrap();
    let end = std::io::Read::read(&mut &kept, &mut [0; 1]);
    assert_eq!(end.unwrap(), 0);
}
