//! URLs as archives and lists have them: the origin, and the path with the query as a request sends it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What a path must not contain, as in the URL standard. An escape that is there already stays.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}').add(b'^');

/// What a query must not contain.
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'\'');

/// What a name or a value in a form must not contain; a space becomes a plus.
const FORM: &AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_').remove(b' ');

/// Scheme, host and port: the server that a URL names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    scheme: String,
    /// In lower case, without a user, with brackets around an IPv6 address.
    host: String,
    /// `None` if it is the scheme's own.
    port: Option<u16>,
}

impl Origin {
    /// The host and the port, as the header `host` has them.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// True if the host is a name that other machines know, and no address: one server can serve many names.
    pub(crate) fn is_named(&self) -> bool {
        self.address().is_none() && self.host != "localhost"
    }

    /// True if the host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The port, also if it is the scheme's own.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.scheme == "https" { 443 } else { 80 })
    }

    fn address(&self) -> Option<IpAddr> {
        let six = self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match six {
            Some(six) => six.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.host.parse().ok(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

/// A URL that a server can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The server. The origin of a WebSocket is that of the HTTP request that opens it.
    pub origin: Origin,
    /// The path with the query, encoded, without the fragment.
    pub path: String,
    /// True for `ws:` and `wss:`.
    pub is_websocket: bool,
}

/// Why a URL has no target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoTarget {
    /// The scheme names no server: `data`, `blob`, an extension of a browser.
    Scheme(String),
    /// It is not a URL.
    Invalid,
}

impl Target {
    /// Parses an absolute URL.
    pub(crate) fn parse(url: &str) -> Result<Self, NoTarget> {
        let url = url.trim();
        let (scheme, rest) = url.split_once(':').ok_or(NoTarget::Invalid)?;
        let scheme = scheme.to_ascii_lowercase();
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err(NoTarget::Invalid);
        }
        let (scheme, is_websocket) = match scheme.as_str() {
            "http" | "https" => (scheme, false),
            "ws" => ("http".to_owned(), true),
            "wss" => ("https".to_owned(), true),
            _ => return Err(NoTarget::Scheme(scheme)),
        };
        let rest = rest.strip_prefix("//").ok_or(NoTarget::Invalid)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| NoTarget::Invalid)?) };
                (host, port)
            }
            _ => (authority, None),
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(NoTarget::Invalid);
        }
        let default = if scheme == "https" { 443 } else { 80 };
        let port = port.filter(|port: &u16| *port != default);
        let origin = Origin { scheme, host: host.to_ascii_lowercase(), port };
        Ok(Self { origin, path: encode(path), is_websocket })
    }
}

/// A path with its query as a request sends it: everything that is not allowed is percent-encoded, and the fragment is
/// removed.
pub(crate) fn encode(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut out = if path.starts_with('/') { String::new() } else { String::from("/") };
    out.extend(utf8_percent_encode(path, PATH));
    if let Some(query) = query {
        out.push('?');
        out.extend(utf8_percent_encode(query, QUERY));
    }
    out
}

/// A name or a value in a form or a query, encoded.
pub(crate) fn form_encode(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace(' ', "+")
}

/// A segment of a path, or a part of it, encoded.
pub(crate) fn segment_encode(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace(' ', "%20")
}

/// The text of a segment of a path. Bytes that are not UTF-8 are replaced.
pub(crate) fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// The text of a name or a value in a form or a query.
pub(crate) fn form_decode(text: &str) -> String {
    decode(&text.replace('+', " ")).into_owned()
}

/// The path and query of a URL, or of a text that is a path already.
pub(crate) fn path_of(url: &str) -> Option<String> {
    if url.starts_with('/') {
        return Some(encode(url));
    }
    Target::parse(url).ok().map(|target| target.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_and_encoded() {
        for (url, origin, path) in [
            ("http://x.test", "http://x.test", "/"),
            ("HTTP://X.test:80/a b?c=d e#f?g", "http://x.test", "/a%20b?c=d%20e"),
            ("https://x.test:443/é%C3%A9%", "https://x.test", "/%C3%A9%C3%A9%"),
            ("https://ada:pw@x.test:8443?q='{\"", "https://x.test:8443", "/?q=%27{%22"),
            ("wss://[::1]:8080/ws", "https://[::1]:8080", "/ws"),
            ("http://x.test/{a}|\\^`", "http://x.test", "/%7Ba%7D|\\%5E%60"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.origin.to_string().as_str(), target.path.as_str()), (origin, path), "{url}");
            assert!(target.path.parse::<hyper::http::uri::PathAndQuery>().is_ok(), "{path}");
        }
        for (url, why) in [
            ("data:,x", NoTarget::Scheme("data".into())),
            ("blob:http://x.test/1", NoTarget::Scheme("blob".into())),
            ("chrome-extension://a/b.js", NoTarget::Scheme("chrome-extension".into())),
            ("", NoTarget::Invalid),
            ("/a", NoTarget::Invalid),
            ("http:/x", NoTarget::Invalid),
            ("http://x.test:99999/", NoTarget::Invalid),
            ("http:///a", NoTarget::Invalid),
            ("ü://x", NoTarget::Invalid),
        ] {
            assert_eq!(Target::parse(url), Err(why), "{url}");
        }
        let named = |url: &str| Target::parse(url).unwrap().origin.is_named();
        assert!(
            named("http://x.test")
                && !named("http://127.0.0.1:1")
                && !named("http://[::1]")
                && !named("http://localhost")
        );
    }

    #[test]
    fn forms_are_encoded_and_decoded() {
        let text = "a b&c=é%+*-._~";
        assert_eq!(form_encode(text), "a+b%26c%3D%C3%A9%25%2B*-._%7E");
        assert_eq!(form_decode(&form_encode(text)), text);
        assert_eq!(form_decode("%zz%4"), "%zz%4");
    }
}
