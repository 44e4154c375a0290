//! Makes runs from an HTTP archive (HAR 1.2) of a browser or a proxy.

use base64::Engine;
use serde::Deserialize;

use super::format::{Exchange, Expected, GoldenRun, Header};
use super::record::{RecordError, path_of};
use crate::http::Request;

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    request: HarRequest,
    response: HarResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HarRequest {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Pair>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct PostData {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct HarResponse {
    status: u16,
    #[serde(default)]
    headers: Vec<Pair>,
    #[serde(default)]
    content: Content,
}

#[derive(Default, Deserialize)]
struct Content {
    text: Option<String>,
    encoding: Option<String>,
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    value: String,
}

/// The headers that are kept in a run. Pseudo-headers of HTTP/2, headers about the connection, and encodings that the
/// archive has already decoded are left out.
fn headers(pairs: Vec<Pair>) -> Vec<(String, String)> {
    const LEFT_OUT: &[&str] =
        &["connection", "content-encoding", "content-length", "host", "transfer-encoding", "accept-encoding"];
    let named = pairs.into_iter().map(|pair| (pair.name.to_ascii_lowercase(), pair.value));
    named.filter(|(name, _)| !name.starts_with(':') && !LEFT_OUT.contains(&name.as_str())).collect()
}

/// Reads an archive. Entries without an answer (status 0) are skipped. The hosts of URLs are ignored.
///
/// # Errors
/// If it is not an archive, or an entry cannot be a golden exchange.
pub fn from_har(archive: &[u8], header: Header) -> Result<GoldenRun, RecordError> {
    let wrong = |entry, reason: String| RecordError::Archive { entry, reason };
    let har: Har = serde_json::from_slice(archive).map_err(|error| wrong(0, error.to_string()))?;
    let mut exchanges = Vec::new();
    for (index, entry) in har.log.entries.into_iter().enumerate() {
        if entry.response.status == 0 {
            continue;
        }
        let (request, response) = (entry.request, entry.response);
        let path = path_of(&request.url).ok_or_else(|| wrong(index + 1, format!("{:?} is not a URL", request.url)))?;
        let body = match (response.content.text, response.content.encoding.as_deref()) {
            (None, _) => None,
            (Some(code), Some("base64")) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(code);
                Some(bytes.map_err(|error| wrong(index + 1, format!("the content is not base64: {error}")))?)
            }
            (Some(text), _) => Some(text.into_bytes()),
        };
        let expected = Expected { status: response.status, headers: headers(response.headers), body };
        let asked = Request {
            method: request.method,
            path,
            headers: headers(request.headers),
            body: request.post_data.map_or_else(Vec::new, |data| data.text.into_bytes()),
        };
        exchanges.push(Exchange { request: asked, response: Some(expected), after_ms: 0, ..Exchange::default() });
    }
    Ok(GoldenRun { header, exchanges })
}
