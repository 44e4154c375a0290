//! Where the repository of a submodule is: pure functions that read an URL of `.gitmodules` as git does.
//!
//! A candidate writes `.gitmodules`, so an URL is hostile input. It may use only transports that git itself allows for
//! submodules, none of which runs a program that the URL names.

use std::path::PathBuf;

/// Maximum length of an URL, in bytes: git hosts accept less.
const URL_BYTES_MAX: usize = 2048;
/// The schemes that git allows for submodules by default. `file` is treated as a path; every other scheme would be a
/// program, `git-remote-SCHEME`.
const SCHEMES: [&str; 4] = ["https", "ssh", "git", "http"];

/// The repository of a submodule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// On another machine: an URL, or `host:path`.
    Remote(String),
    /// On this machine: an absolute path.
    Local(PathBuf),
}

impl Address {
    /// Reads an absolute URL or path. The error says what is wrong, for a sentence that begins with the submodule.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.is_empty() || url.len() > URL_BYTES_MAX || url.starts_with('-') || url.contains(char::is_control) {
            return Err("has an invalid URL");
        }
        if let Some(path) = url.strip_prefix("file://") {
            return if path.starts_with('/') { Ok(Self::Local(path.into())) } else { Err("has an invalid URL") };
        }
        if let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', ':'])) {
            let host = rest.split('/').next().unwrap_or_default();
            return match SCHEMES.contains(&scheme) {
                true if host.is_empty() || host.starts_with('-') => Err("has an URL without a host"),
                true => Ok(Self::Remote(url.to_owned())),
                false => Err("has an URL with a scheme that git forbids for submodules"),
            };
        }
        match url.find([':', '/']).map(|at| &url[at..]) {
            // `ext::COMMAND` and its like.
            Some(rest) if rest.starts_with("::") => Err("has an URL that would run a program"),
            Some(rest) if rest.starts_with(':') && !url.starts_with(':') => Ok(Self::Remote(url.to_owned())),
            Some(_) if url.starts_with('/') => Ok(Self::Local(url.into())),
            _ => Err("has an URL that is neither absolute nor begins with ./ or ../"),
        }
    }

    /// The text with which git fetches from it.
    pub fn for_git(&self) -> String {
        match self {
            Self::Remote(url) => url.clone(),
            Self::Local(path) => path.to_string_lossy().into_owned(),
        }
    }

    /// The text for a message, without a password.
    pub fn shown(&self) -> String {
        without_password(&self.for_git())
    }
}

/// An URL for a message: the part before `@` of a host can be a key.
pub(super) fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let host = rest.split('/').next().unwrap_or_default();
        let (_, after) = host.rsplit_once('@').filter(|(user, _)| user.contains(':') || scheme.starts_with("http"))?;
        Some(format!("{scheme}://…@{after}{}", &rest[host.len()..]))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// The address of a submodule, whose URL may begin with `./` or `../`: then it is relative to the address of the
/// repository that names it. As git does, `..` removes the last part of that address.
pub(super) fn resolve(base: &Address, url: &str) -> Result<Address, &'static str> {
    if !url.starts_with("./") && !url.starts_with("../") && url != "." && url != ".." {
        return Address::parse(url);
    }
    let base = base.for_git();
    let (root, path) = match base.split_once("://") {
        Some((_, rest)) => base.split_at(base.len() - rest.len() + rest.find('/').unwrap_or(rest.len())),
        None if base.starts_with('/') => ("", base.as_str()),
        None => base.split_at(base.find(':').map_or(0, |colon| colon + 1)),
    };
    let mut parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    for part in url.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part != ".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            return Err("has an URL that leads out of its host");
        }
    }
    // `host:path` keeps a path without a slash in front.
    let slash = if path.starts_with('/') || root.ends_with("://") || base.contains("://") { "/" } else { "" };
    Address::parse(&format!("{root}{slash}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> Address {
        Address::Remote(url.into())
    }

    #[test]
    fn only_transports_of_git_and_paths_are_addresses() {
        for url in ["https://example.org/x.git", "ssh://git@host/x", "git://host/x", "git@host:x/y", "http://h/x"] {
            assert_eq!(Address::parse(url), Ok(remote(url)), "{url}");
        }
        assert_eq!(Address::parse("/srv/x"), Ok(Address::Local("/srv/x".into())));
        assert_eq!(Address::parse("file:///srv/x"), Ok(Address::Local("/srv/x".into())));
        let long = format!("https://h/{}", "x".repeat(URL_BYTES_MAX));
        for url in [
            "",
            "-oProxyCommand=x",
            "--upload-pack=x",
            "ext::sh -c true",
            "fd::7",
            "file::/srv/x",
            "FILE:///srv/x",
            "file://srv/x",
            "ftp://host/x",
            "foo+ssh://host/x",
            "https://",
            "ssh://-oProxyCommand=x/y",
            "srv/x",
            ":x",
            "https://h/a\nb",
            &long,
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn relative_addresses_are_resolved_as_git_does() {
        for (base, url, expected) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git/", "../../c", "https://h/c"),
            ("https://h/a", "./b", "https://h/a/b"),
            ("ssh://git@h:22/a/b", "../c", "ssh://git@h:22/a/c"),
            ("git@h:a/b", "../c", "git@h:a/c"),
            ("git@h:b", "../c", "git@h:c"),
            ("git@h:/a/b", "../c", "git@h:/a/c"),
            ("https://h/a", "https://x.test/x", "https://x.test/x"),
        ] {
            assert_eq!(resolve(&remote(base), url), Ok(remote(expected)), "{base} and {url}");
        }
        let base = Address::Local("/srv/git/app".into());
        assert_eq!(resolve(&base, "../lib"), Ok(Address::Local("/srv/git/lib".into())));
        assert_eq!(resolve(&base, ".."), Ok(Address::Local("/srv/git".into())));
        assert_eq!(resolve(&remote("https://h/a"), "../../../c"), Err("has an URL that leads out of its host"));
        assert!(resolve(&base, "../../../../etc").is_err());
        assert!(resolve(&remote("git@h:b"), "../../c").is_err());
    }

    #[test]
    fn keys_in_an_url_are_not_shown() {
        assert_eq!(without_password("https://token@h/x"), "https://…@h/x");
        assert_eq!(without_password("ssh://a:b@h/x"), "ssh://…@h/x");
        for url in ["ssh://git@h/x", "https://h/x@y", "git@h:x", "/srv/a@b"] {
            assert_eq!(without_password(url), url);
        }
    }
}
