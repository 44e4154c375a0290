//! One HTTP request to an instance, over a connection that was made before. The answer is limited in size; the caller
//! limits the time.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::report::chain;

/// A connection to an instance.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// Whether the body was longer than that.
    pub is_cut: bool,
}

/// Sends `GET path`, and reads the answer to its end, or until the body is longer than `bytes_max`.
///
/// # Errors
/// If there is no answer, or it is incomplete. The error is one line.
pub async fn get(stream: Box<dyn Stream>, path: &str, accept: &str, bytes_max: usize) -> Result<Answer, String> {
    let no_answer = |error: hyper::Error| format!("no HTTP answer: {}", chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .header(header::USER_AGENT, concat!("rei/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, accept)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("{path:?} is not a valid path: {error}"))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(no_answer)?;
        let (status, mut rest) = (response.status(), response.into_body());
        let (mut body, mut is_cut) = (Vec::new(), false);
        // Read the body to its end: only then is the answer complete.
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|error| format!("{status}, but the body is incomplete: {error}"))?;
            let Ok(data) = frame.into_data() else { continue };
            let fits = data.len().min(bytes_max - body.len());
            body.extend_from_slice(&data[..fits]);
            if fits < data.len() {
                is_cut = true;
                break;
            }
        }
        Ok(Answer { status, body, is_cut })
    };
    // Polling `connection` drives the exchange; whichever ends first decides.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(no_answer(error)),
        },
    }
}
