//! What a line says about a request.

use std::borrow::Cow;

/// What a line says; a part that it does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields<'a> {
    /// The status of the answer; 0 if the client was gone before there was one.
    pub(super) status: Option<u16>,
    pub(super) method: Option<Cow<'a, str>>,
    /// The target of the request, with its query.
    pub(super) path: Option<Cow<'a, str>>,
    /// How long it took, in microseconds.
    pub(super) duration_us: Option<u64>,
    /// The bytes of the answer.
    pub(super) bytes: Option<u64>,
    pub(super) agent: Option<Cow<'a, str>>,
    pub(super) level: Option<Cow<'a, str>>,
    pub(super) message: Option<Cow<'a, str>>,
}

impl Fields<'_> {
    /// Takes the method and the path out of a request line: `GET /a HTTP/1.1`.
    pub(super) fn set_request(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next());
        if let Some(path) = path {
            self.method = Some(Cow::Owned(method.to_owned()));
            self.path = Some(Cow::Owned(path.to_owned()));
        }
    }
}

/// The status of an answer: three digits, or 0 and `-` if there was no answer.
pub(super) fn status(text: &str) -> Option<u16> {
    match text {
        "-" | "0" | "000" => Some(0),
        // A log of nginx behind several upstreams has `502, 200`; the last one was sent.
        _ => text.rsplit(", ").next()?.parse().ok().filter(|status| (100..600).contains(status)),
    }
}
