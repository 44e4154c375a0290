//! Sockets in the file system.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use rei::interface::socket::{Socket, SocketError};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_socket_belongs_to_its_owner_and_is_removed_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/rei/control.sock");
    let socket = Socket::bind(&path, None).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no other file is left: {left:?}");
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = Socket::bind(&path, None).unwrap();
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_socket_with_a_listener_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let first = Socket::bind(&path, None).unwrap();
    let error = Socket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::Answered { .. }), "{error:?}");
    assert_eq!(error.hint().as_deref(), Some("a supervisor runs already: `rei status`"));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(first);
}

#[tokio::test]
async fn a_socket_with_a_full_queue_counts_as_answered() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use std::os::fd::AsRawFd;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let busy = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(busy.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&busy, Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(matches!(Socket::bind(&path, None), Err(SocketError::Answered { .. })));
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_directory_that_other_users_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Socket::bind(&directory.path().join("control.sock"), None).unwrap_err();
    assert!(matches!(error, SocketError::NotPrivate { mode: 0o777, .. }), "{error:?}");
    assert!(error.hint().unwrap().starts_with("chmod go-w "));
}

#[tokio::test]
async fn a_successors_socket_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let first = Socket::bind(&path, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _second = Socket::bind(&path, None).unwrap();
    drop(first);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let error = Socket::bind(&directory.path().join("x".repeat(120)), None).unwrap_err();
    assert!(error.hint().unwrap().contains("107 bytes"), "{error:?}");
}

#[tokio::test]
async fn only_a_listening_unix_socket_is_adopted() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(Socket::adopt(tcp.into(), None).is_err());
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Socket::adopt(one.into(), None).is_err());
}
