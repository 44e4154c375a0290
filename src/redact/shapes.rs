//! Values that are recognised by their form: secrets, and personal data.

/// A kind of secret that is recognised by its form.
pub(super) struct Shape {
    pub(super) kind: FoundKind,
    /// Marks in lower case. A line without any of them cannot match.
    pub(super) marks: &'static [&'static str],
    /// Groups 1 and 3 stay, if they exist; the rest is the secret.
    pub(super) expression: &'static str,
    /// Says of a secret that it is none: prose, or a number with a wrong check digit.
    pub(super) spares: fn(&str) -> bool,
}

/// What kind of value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A secret: a password, a key, a token.
    Secret,
    /// An e-mail address.
    Email,
    /// The number of a payment card.
    Card,
}

/// A value that must be replaced.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its kind.
    pub kind: FoundKind,
    /// Its key, if it has one: the name of a field, or the place of a known secret in the configuration.
    pub key: Option<&'a str>,
    /// The value itself.
    pub value: &'a str,
}

/// Gives the text that is written in the place of a found value. It must have no line end.
pub type Mask<'m> = dyn FnMut(&Found<'_>) -> String + 'm;

/// Lower-case letters only: "basic authentication" is prose.
fn is_prose(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn never(_text: &str) -> bool {
    false
}

/// True if the digits are not those of a card: their number, the first ones (which name the issuer), or the check digit
/// (Luhn) is wrong.
pub(super) fn is_no_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let double = |(at, digit): (usize, &u32)| match (at % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) => twice / 10 + twice % 10,
    };
    let sum: u32 = digits.iter().rev().enumerate().map(double).sum();
    let start = |n: usize| digits.iter().take(n).fold(0, |sum, digit| 10 * sum + digit);
    let lengths = match (start(2), start(4)) {
        (40..=49, _) => [13, 16, 19].as_slice(),
        (34 | 37, _) => &[15],
        (30 | 36 | 38 | 39, _) => &[14],
        (51..=55, _) | (_, 2221..=2720) => &[16],
        (_, 3528..=3589) | (50 | 56..=69, _) => &[16, 17, 18, 19],
        _ => &[],
    };
    !sum.is_multiple_of(10) || !lengths.contains(&digits.len())
}

/// True if it is the name of a file, as `logo@2x.png`.
fn is_no_email(text: &str) -> bool {
    let end = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    FILE_ENDS.contains(&end.as_str())
}

/// Ends of the names of files that have an `@`.
const FILE_ENDS: [&str; 12] = ["png", "jpg", "jpeg", "gif", "webp", "svg", "avif", "js", "mjs", "css", "map", "html"];

pub(super) const SHAPES: [Shape; 7] = [
    Shape {
        kind: FoundKind::Secret,
        marks: &["-----begin"],
        expression: r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*",
        spares: never,
    },
    // A password in a URL may contain `/`, `#` and `@` if it was not encoded; it ends at the last `@`.
    Shape { kind: FoundKind::Secret, marks: &["://"], expression: r#"(://[^\s/:@"']*:)([^\s"']+)(@)"#, spares: never },
    Shape {
        kind: FoundKind::Secret,
        marks: &["bearer ", "basic ", "token "],
        expression: r"((?i-u:\b(?:bearer|basic|token)) +)([A-Za-z0-9._~+/=-]{8,})",
        spares: is_prose,
    },
    // JSON Web Tokens.
    Shape {
        kind: FoundKind::Secret,
        marks: &["eyj"],
        expression: r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)*",
        spares: never,
    },
    // Tokens of Amazon, GitHub, GitLab, Slack, Google, npm, PyPI, Hugging Face, Stripe, DigitalOcean, age, OpenAI,
    // Anthropic and others.
    Shape {
        kind: FoundKind::Secret,
        marks: &[
            "akia",
            "asia",
            "gh",
            "glpat-",
            "xox",
            "xapp-",
            "aiza",
            "npm_",
            "pypi-",
            "hf_",
            "k_live_",
            "k_test_",
            "dop_v1_",
            "age-secret-key-",
            "sk-",
            "gsk_",
            "hooks.slack.com",
        ],
        expression: concat!(
            r"(?-u:\b)(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
            r"|glpat-[A-Za-z0-9_-]{16,}|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{30,}",
            r"|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|hf_[A-Za-z0-9]{30,}|[rs]k_(?:live|test)_[A-Za-z0-9]{10,}",
            r"|dop_v1_[0-9a-f]{32,}|AGE-SECRET-KEY-[0-9A-Z]{20,}|gsk_[A-Za-z0-9]{20,}",
            r"|sk-(?:[a-z0-9]+-)*[A-Za-z0-9_-]{16,}|hooks\.slack\.com/services/[A-Za-z0-9/]+)",
        ),
        spares: never,
    },
    // Personal data, which only a redactor for recorded traffic looks for.
    Shape {
        kind: FoundKind::Email,
        marks: &["@", "%40"],
        expression: r"()(\w[\w.+'-]*(?:@|%40)(?:\w[\w-]*\.)+[^\W\d_]{2,})",
        spares: is_no_email,
    },
    Shape {
        kind: FoundKind::Card,
        marks: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        expression: r"()((?-u:\b)[2-6](?:[ -]?[0-9]){12,18}(?-u:\b))",
        spares: is_no_card,
    },
];

/// Names of fields of forms and APIs, in lower case, whose value is always a secret. In a log they are too common.
const FIELDS: [&str; 8] = ["pass", "pw", "pin", "otp", "cvv", "cvc", "csc", "ssn"];

/// Names of fields whose value is a secret if it is long and has a digit: those of OAuth, OpenID, SAML and of
/// sessions.
const FIELDS_HINTED: [&str; 14] = [
    "assertion",
    "aspsessionid",
    "code",
    "csrf",
    "jsessionid",
    "nonce",
    "phpsessid",
    "relaystate",
    "samlrequest",
    "samlresponse",
    "sessionid",
    "state",
    "ticket",
    "xsrf",
];

/// Minimum length of such a value, in bytes.
const FIELD_LEN_MIN: usize = 16;

/// True if this field of a recorded message has a secret, beyond what [`super::is_credential`] finds.
pub(super) fn is_secret_field(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let long = value.len() >= FIELD_LEN_MIN && value.bytes().any(|byte| byte.is_ascii_digit());
    !value.is_empty()
        && (FIELDS.contains(&name.as_str()) || (long && FIELDS_HINTED.iter().any(|it| name.trim_matches('_') == *it)))
}
