//! Messages by `sd_notify`: which senders the supervisor accepts.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use rei::runtime::isolation::{Sandbox, User};
use rei::runtime::notify::{Notification, NotifySocket};
use tokio::sync::mpsc;

use crate::lab::{LONG, Lab, Start, is_root};

async fn next(heard: &mut mpsc::Receiver<Notification>) -> Notification {
    tokio::time::timeout(LONG, heard.recv()).await.expect("a notification comes").expect("the socket is open")
}

fn helper_start<'a>(path: &'a Path, sandbox: Option<&'a Sandbox>) -> Start<'a> {
    let env = vec![("REI_TEST_ACT".into(), "notify".into())];
    Start { env, notify: Some((path, Some(Duration::from_secs(1)))), sandbox, ..Start::default() }
}

#[tokio::test]
async fn messages_of_the_tree_are_accepted_and_others_are_not() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let socket = NotifySocket::bind(&path, None).unwrap();
    let mut instance = lab.start("talker", &lab.helper(), &crate::lab::HELPER_ARGS, &helper_start(&path, None));
    let (to, mut heard) = mpsc::channel(16);
    let task = socket.forward(instance.tree().clone(), to, || ());
    assert_eq!(next(&mut heard).await, Notification::Ready);
    assert_eq!(next(&mut heard).await, Notification::Status("serving".into()));
    assert_eq!(next(&mut heard).await, Notification::Watchdog);
    assert!(matches!(next(&mut heard).await, Notification::Garbage(_)), "5000 bytes are too many");
    assert!(matches!(next(&mut heard).await, Notification::Garbage(_)), "no assignment");
    UnixDatagram::unbound().unwrap().send_to(b"READY=1", &path).unwrap();
    assert_eq!(next(&mut heard).await, Notification::Stranger(std::process::id().cast_signed()));
    instance.end().await;
    task.abort();
    let _ = task.await;
    assert!(!path.exists(), "the socket is removed with its task");
}

#[tokio::test]
async fn descriptors_in_a_message_are_closed() {
    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
    let lab = Lab::new();
    let path = lab.path("notify");
    let socket = NotifySocket::bind(&path, None).unwrap();
    let tree = lab.trees.adopt(&lab.id("nobody"));
    let (mut read, write) = std::io::pipe().unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    let address = UnixAddr::new(&path).unwrap();
    let rights = [write.as_raw_fd()];
    let parts = [std::io::IoSlice::new(b"BARRIER=1")];
    sendmsg(sender.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), Some(&address))
        .unwrap();
    drop(write);
    socket.receive(&tree, || ()).await.unwrap();
    // The pipe reaches its end only if no copy of its writing end is left.
    let end = tokio::task::spawn_blocking(move || std::io::Read::read(&mut read, &mut [0]).unwrap());
    assert_eq!(tokio::time::timeout(LONG, end).await.expect("the descriptor is closed").unwrap(), 0);
}

#[tokio::test]
async fn messages_of_a_confined_instance_with_its_own_user_are_accepted() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    let path = lab.path("notify");
    let user = User::derived("talker");
    let sandbox = Sandbox::builder().essentials().execute(lab.helper()).user(Some(user.clone())).build().unwrap();
    let socket = NotifySocket::bind(&path, Some(&user)).unwrap();
    let mut instance =
        lab.start("talker", &lab.helper(), &crate::lab::HELPER_ARGS, &helper_start(&path, Some(&sandbox)));
    // If a supervisor dies while it handles the message, the next supervisor gets it.
    let next = socket.as_fd().try_clone_to_owned().unwrap();
    let is_left = || {
        let mut head = [0; 7];
        let peeked = recv(next.as_raw_fd(), &mut head, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        peeked.is_ok() && head == *b"READY=1"
    };
    let noted = AtomicBool::new(false);
    let receive = socket.receive(instance.tree(), || noted.store(is_left(), Ordering::Release));
    let heard = tokio::time::timeout(LONG, receive).await.unwrap().unwrap();
    assert_eq!((&heard[0], noted.load(Ordering::Acquire), is_left()), (&Notification::Ready, true, false));
    instance.end().await;
}
