//! Replays a conversation: over a WebSocket, or line by line.
//!
//! A message is sent when everything that came before it in the recording has come again. What the service sends becomes the
//! body of the answer, as a list. If the service ends the conversation early, the list is shorter; if it stays silent, there is
//! no answer.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::fill::Values;
use super::format::is_of_handshake;
use super::message::{self, CONVERSATION_BYTES_MAX, Data, MESSAGE_BYTES_MAX, Message, Side};
use crate::http::{self, Address, BODY_BYTES_MAX, Request, Response};
use crate::report::chain;

/// The key of the handshake in RFC 6455, section 1.3, and the answer to it. A replay needs no other: the key protects caches,
/// and each replay has a connection of its own.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One end of a conversation.
trait Line {
    /// Sends a message.
    async fn send(&mut self, data: Data) -> Result<(), String>;
    /// The next message; `None` if the service has ended the conversation.
    async fn receive(&mut self) -> Result<Option<Data>, String>;
}

/// Sends what was sent, and waits for as much as was received.
async fn talk(line: &mut impl Line, messages: &[Message], values: &RefCell<Values>) -> Result<Vec<Data>, String> {
    let (mut received, mut bytes) = (Vec::new(), 0);
    for message in messages {
        match message.from {
            Side::Client => {
                let data = match &message.data {
                    Data::Text(text) => Data::Text(values.borrow().fill_text(text)),
                    other => other.clone(),
                };
                // A service that has ended the conversation is seen at the next message that must come.
                match line.send(data).await {
                    Err(_) if received.len() < count(messages) => {}
                    done => done?,
                }
            }
            Side::Service => {
                let Some(data) = line.receive().await? else { break };
                bytes += data.len();
                if bytes > CONVERSATION_BYTES_MAX {
                    return Err(format!("it sent more than {CONVERSATION_BYTES_MAX} bytes of messages"));
                }
                values.borrow_mut().learn_value(&message.data.value(), &data.value());
                received.push(data);
            }
        }
    }
    Ok(received)
}

fn count(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.from == Side::Service).count()
}

/// Waits for a conversation at most this long.
async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = || Err(format!("the conversation was not complete within {timeout:?}"));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
}

/// A WebSocket.
struct Socket<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Line for Socket<S> {
    async fn send(&mut self, data: Data) -> Result<(), String> {
        let message = match data {
            Data::Text(text) => tungstenite::Message::text(text),
            Data::Binary(bytes) => tungstenite::Message::binary(bytes),
            Data::Digest { .. } => return Err("a message of which only the digest is known cannot be sent".to_owned()),
        };
        self.0.send(message).await.map_err(|error| chain(&error))
    }

    async fn receive(&mut self) -> Result<Option<Data>, String> {
        use tungstenite::{Error, Message};
        loop {
            return match self.0.next().await {
                Some(Ok(Message::Text(text))) => Ok(Some(Data::Text(text.as_str().to_owned()))),
                Some(Ok(Message::Binary(bytes))) => Ok(Some(Data::Binary(bytes.to_vec()))),
                // The library answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => Ok(None),
                Some(Err(error)) => Err(chain(&error)),
            };
        }
    }
}

/// Opens a WebSocket and replays its messages. The request has its values already.
pub(super) async fn websocket(
    address: &Address,
    mut request: Request,
    messages: &[Message],
    values: &RefCell<Values>,
    timeout: Duration,
) -> Result<Response, String> {
    request.headers.retain(|(name, _)| !is_of_handshake(name));
    let own = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    let own = own.into_iter().chain([("sec-websocket-key", KEY)]);
    request.headers.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let begun = Instant::now();
    let opened = http::upgrade(address, &request, timeout, BODY_BYTES_MAX).await.map_err(|error| chain(&error))?;
    let Some(stream) = opened.stream else { return Ok(opened.response) };
    let accept = opened.response.headers.iter().find(|(name, _)| name == "sec-websocket-accept");
    if accept.is_none_or(|(_, value)| value.trim() != ACCEPT) {
        return Err("it opened no WebSocket: its sec-websocket-accept is not the one of the key".to_owned());
    }
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
    let mut socket = Socket(socket);
    let left = timeout.saturating_sub(begun.elapsed());
    let received = within(left, talk(&mut socket, messages, values)).await?;
    // A service that does not want to hear of the end is left alone.
    let _ = tokio::time::timeout(timeout.saturating_sub(begun.elapsed()), socket.0.close(None)).await;
    Ok(Response { body: message::body(received.iter()), ..opened.response })
}

/// A connection on which both sides speak in lines.
struct Lines<S> {
    stream: BufReader<S>,
    end: &'static str,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line for Lines<S> {
    async fn send(&mut self, data: Data) -> Result<(), String> {
        let Data::Text(text) = data else { return Err("a line must be text".to_owned()) };
        // A line end in a value would be another line.
        let line = text.replace(['\r', '\n'], " ") + self.end;
        self.stream.write_all(line.as_bytes()).await.map_err(|error| format!("cannot send a line: {error}"))
    }

    async fn receive(&mut self) -> Result<Option<Data>, String> {
        let Some(mut line) = line_of(&mut self.stream).await? else { return Ok(None) };
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(String::from_utf8(line).map_or_else(|error| Data::Binary(error.into_bytes()), Data::Text)))
    }
}

/// The next line without its LF; what comes before the end of the connection is the last line. `None` at the end.
async fn line_of(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    loop {
        let piece = stream.fill_buf().await.map_err(|error| format!("cannot read a line: {error}"))?;
        if piece.is_empty() {
            return Ok(Some(line).filter(|line| !line.is_empty()));
        }
        let end = piece.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        let used = end.map_or(piece.len(), |end| end + 1);
        stream.consume(used);
        if line.len() > MESSAGE_BYTES_MAX {
            return Err(format!("it sent a line of more than {MESSAGE_BYTES_MAX} bytes"));
        }
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Connects and replays lines.
pub(super) async fn lines(
    address: &Address,
    messages: &[Message],
    end: &'static str,
    values: &RefCell<Values>,
    timeout: Duration,
) -> Result<Response, String> {
    let connect = |error: std::io::Error| format!("cannot connect to {address}: {error}");
    let received = within(timeout, async {
        match address {
            Address::Tcp(to) => {
                let stream = BufReader::new(TcpStream::connect(to).await.map_err(connect)?);
                talk(&mut Lines { stream, end }, messages, values).await
            }
            Address::Unix(path) => {
                let stream = BufReader::new(UnixStream::connect(path).await.map_err(connect)?);
                talk(&mut Lines { stream, end }, messages, values).await
            }
        }
    });
    Ok(Response { body: message::body(received.await?.iter()), ..Response::default() })
}
