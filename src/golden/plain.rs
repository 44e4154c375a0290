//! Makes an exchange of live traffic plain: without the headers of one connection, and with bodies whose content codings are
//! decoded. So it can be compared, redacted and replayed.

use std::io::{self, Read};

use super::capture::Captured;
use crate::http;

/// Codings of one body. A server that applies more than one has a fault, or an attacker sends it.
const CODINGS_MAX: usize = 2;
/// The buffer of the decoder for Brotli, in bytes.
const BROTLI_BUFFER_BYTES: usize = 4 << 10;

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Undecoded {
    /// The coding is not known.
    #[error("the content coding {0:?} is not known")]
    Unknown(String),
    /// The body is larger than allowed after it was decoded.
    #[error("the decoded body has more than {0} bytes")]
    TooLarge(usize),
    /// The body is not in its coding.
    #[error("the body is not valid in its content coding")]
    Invalid(#[source] io::Error),
}

impl Captured {
    /// Whether [`Self::plain`] decodes a body, which takes a while.
    pub fn is_coded(&self) -> bool {
        let mut headers = self.request.headers.iter().chain(&self.response.headers);
        headers.any(|(name, _)| name.eq_ignore_ascii_case("content-encoding"))
    }

    /// The exchange without the headers of its connection, and with decoded bodies of at most this size.
    ///
    /// # Errors
    /// If a body cannot be decoded.
    pub fn plain(mut self, body_bytes_max: usize) -> Result<Self, Undecoded> {
        let Self { request, response, .. } = &mut self;
        for (headers, body) in [(&mut request.headers, &mut request.body), (&mut response.headers, &mut response.body)]
        {
            let codings: Vec<String> = headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"))
                .flat_map(|(_, value)| value.split(','))
                .map(|coding| coding.trim().to_ascii_lowercase())
                .filter(|coding| !coding.is_empty() && coding != "identity")
                .collect();
            if let Some(one_more) = codings.get(CODINGS_MAX) {
                return Err(Undecoded::Unknown(one_more.clone()));
            }
            // An answer to HEAD, and 304, name the coding of a body that they do not have.
            for coding in codings.iter().rev() {
                if !body.is_empty() {
                    *body = decoded(coding, body, body_bytes_max)?;
                }
            }
            // An answer must come without a content coding, so that it can be compared.
            headers.retain(|(name, _)| !http::is_of_connection(name));
        }
        // A replay sends a request in chunks again if it came so. How an answer is framed says nothing.
        response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("transfer-encoding"));
        Ok(self)
    }
}

fn decoded(coding: &str, body: &[u8], max: usize) -> Result<Vec<u8>, Undecoded> {
    match coding {
        "gzip" | "x-gzip" => bounded(flate2::read::MultiGzDecoder::new(body), max),
        // RFC 9110 means the form with a header; some servers send it without one.
        "deflate" => bounded(flate2::read::ZlibDecoder::new(body), max).or_else(|error| match error {
            Undecoded::Invalid(_) => bounded(flate2::read::DeflateDecoder::new(body), max),
            other => Err(other),
        }),
        "br" => bounded(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER_BYTES), max),
        other => Err(Undecoded::Unknown(other.to_owned())),
    }
}

fn bounded(decoder: impl Read, max: usize) -> Result<Vec<u8>, Undecoded> {
    let mut bytes = Vec::new();
    decoder.take(max as u64 + 1).read_to_end(&mut bytes).map_err(Undecoded::Invalid)?;
    if bytes.len() > max { Err(Undecoded::TooLarge(max)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use base64::Engine;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;
    use crate::http::{Request, Response};
    use crate::time::Timestamp;

    const TEXT: &[u8] = b"{\"hello\": \"hello hello hello\"}";
    const MAX: usize = 1 << 20;

    fn answered(coding: &str, body: Vec<u8>) -> Captured {
        let headers = [("content-encoding", coding), ("content-length", "9"), ("content-type", "text/plain")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut request = Request::get("/");
        request.headers = [("Accept-Encoding", "gzip"), ("connection", "keep-alive"), ("accept", "*/*")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        Captured {
            at: Timestamp::default(),
            connection: 1,
            index: 0,
            listener: "http".to_owned(),
            request,
            response: Response { status: 200, headers, body },
            events: None,
            duration: Duration::ZERO,
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_coding_is_decoded_and_the_headers_of_the_connection_are_left_out() {
        let (mut zlib, mut raw) =
            (ZlibEncoder::new(Vec::new(), Compression::best()), DeflateEncoder::new(Vec::new(), Compression::best()));
        zlib.write_all(TEXT).unwrap();
        raw.write_all(TEXT).unwrap();
        // By Node's zlib.
        let brotli = base64::engine::general_purpose::STANDARD.decode(BROTLI).unwrap();
        let both = gzip(&gzip(TEXT));
        for (coding, body) in [
            ("gzip", gzip(TEXT)),
            ("X-Gzip", gzip(TEXT)),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
            ("br", brotli),
            ("identity", TEXT.to_vec()),
            ("gzip, gzip", both),
        ] {
            let exchange = answered(coding, body);
            assert!(exchange.is_coded());
            let plain = exchange.plain(MAX).unwrap();
            assert_eq!(plain.response.body, TEXT, "{coding}");
            assert_eq!(plain.response.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
            assert_eq!(plain.request.headers, [("accept".to_owned(), "*/*".to_owned())]);
        }
        assert_eq!(answered("gzip", Vec::new()).plain(MAX).unwrap().response.body, b"", "the answer to HEAD");
    }

    #[test]
    fn a_bomb_a_broken_body_and_an_unknown_coding_are_refused() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(matches!(answered("gzip", bomb).plain(MAX), Err(Undecoded::TooLarge(MAX))));
        for coding in ["gzip", "deflate", "br"] {
            let found = answered(coding, b"\xffnot coded".to_vec()).plain(MAX);
            assert!(matches!(found, Err(Undecoded::Invalid(_))), "{coding}: {found:?}");
        }
        for coding in ["zstd", "gzip, gzip, gzip"] {
            assert!(matches!(answered(coding, TEXT.to_vec()).plain(MAX), Err(Undecoded::Unknown(_))), "{coding}");
        }
    }

    /// [`TEXT`].
    const BROTLI: &str = "iw6AeyJoZWxsbyI6ICJoZWxsbyBoZWxsbyBoZWxsbyJ9Aw==";
}
