use super::*;
use crate::report::chain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

const LONG: Duration = Duration::from_secs(20);

/// A server that reads one request, writes these bytes and closes the connection.
async fn serve(answer: impl Into<Vec<u8>>) -> (Address, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let answer = answer.into();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let n = stream.read(&mut head).await.unwrap();
        // The client may hang up before the end of an answer that it refuses.
        let _ = stream.write_all(&answer).await;
        String::from_utf8_lossy(&head[..n]).into_owned()
    });
    (address, task)
}

#[tokio::test]
async fn reads_a_chunked_answer_to_its_end() {
    let (address, task) =
        serve("HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    let request = Request {
        method: "POST".into(),
        path: "/x?y=1".into(),
        headers: vec![("content-length".into(), "999".into()), ("x-one".into(), "1".into())],
        body: b"hello".to_vec(),
    };
    let response = send(&address, &request, LONG).await.unwrap();
    assert_eq!((response.status, response.body.as_slice()), (200, b"abcde".as_slice()));
    assert_eq!(response.headers[0], ("x-a".to_owned(), "b".to_owned()));
    let sent = task.await.unwrap();
    assert!(sent.starts_with("POST /x?y=1 HTTP/1.1\r\n") && sent.contains("content-length: 5"), "{sent}");
}

#[tokio::test]
async fn reads_an_answer_that_ends_with_the_connection_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
    });
    let response = send(&Address::Unix(path), &Request::get("/"), LONG).await.unwrap();
    assert_eq!(response.status, 204);
    server.await.unwrap();
}

#[tokio::test]
async fn refuses_large_broken_and_late_answers() {
    let (address, _task) = serve(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(64))).await;
    let error = send_bounded(&address, &Request::get("/"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: 10, .. }), "{error}");

    let (address, _task) = serve("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await;
    let error = send(&address, &Request::get("/"), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Exchange { .. }), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let error = send(&address, &Request::get("/"), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");

    drop(listener);
    let error = send(&address, &Request::get("/"), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

#[tokio::test]
async fn keeps_a_connection_until_the_server_announces_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heads = Vec::new();
        for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", "HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\nb"]
        {
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap();
            heads.push(String::from_utf8_lossy(&head[..n]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        heads
    });
    let mut connection = Connection::open(&address, LONG).await.unwrap();
    let first = connection.send(&Request::get("/1"), LONG, Extent::whole(10)).await.unwrap();
    assert!(first.body == b"a" && connection.is_kept());
    let second = connection.send(&Request::get("/2"), LONG, Extent::whole(10)).await.unwrap();
    assert!(second.body == b"b" && !connection.is_kept());
    let heads = server.await.unwrap();
    assert!(heads[0].starts_with("GET /1 ") && heads[1].starts_with("GET /2 "), "{heads:?}");
    assert!(heads.iter().all(|head| !head.contains("connection: close")), "{heads:?}");
    let error = connection.send(&Request::get("/3"), LONG, Extent::whole(10)).await.unwrap_err();
    assert!(matches!(error, Error::Exchange { .. }), "{error}");
}

#[tokio::test]
async fn reads_the_first_events_of_a_stream_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for number in 0.. {
            // In parts, so that an event may end in another read.
            for part in [format!("data: {number}"), "\r".into(), "\n".into(), "\r\n".into()] {
                if stream.write_all(part.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut connection = Connection::open(&address, LONG).await.unwrap();
    let extent = Extent { bytes_max: 1 << 20, events: Some(2) };
    let response = connection.send(&Request::get("/"), LONG, extent).await.unwrap();
    let text = String::from_utf8(response.body).unwrap();
    assert_eq!(text, ": hello\ndata: 0\r\n\r\ndata: 1\r\n\r\n");
    assert!(!connection.is_kept());
    drop(connection);
    server.await.unwrap();
}

#[tokio::test]
async fn refuses_an_invalid_request() {
    let address: Address = "http://127.0.0.1:1/".parse().unwrap();
    let bad = Request { method: "GET".into(), path: "no blank\nallowed".into(), ..Request::default() };
    // The client connects first, so this needs an address that accepts connections.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = Address::Tcp(listener.local_addr().unwrap());
    assert!(matches!(send(&here, &bad, LONG).await.unwrap_err(), Error::Request { .. }));
    assert_eq!(address.to_string(), "127.0.0.1:1");
    assert!("nowhere".parse::<Address>().unwrap_err().hint().is_some());
}
