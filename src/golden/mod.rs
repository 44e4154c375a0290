//! Golden runs: recorded exchanges with known-good answers.
//!
//! | file | its one job |
//! |---|---|
//! | `format` | what a run has: a header and exchanges |
//! | `line` | the stored form of an exchange |
//! | `bodies` | large bodies in files beside the run, and their digests |
//! | `message` | the messages of a conversation: of a WebSocket, or lines. Pure |
//! | `file` | reads, writes and lists `NAME.golden.jsonl`: a header, then one exchange per line |
//! | `normalise` | the rules of a run's author for differences that do not count |
//! | `fact` | one fact of an answer, and its path |
//! | `facets` | an answer as a tree of facts, each with a path |
//! | `compare` | compares a recorded answer with the candidate's, without the differences between two answers of Active (noise). Pure |
//! | `order` | which requests of a replay wait for which, and which overlap. Pure |
//! | `talk` | replays a conversation |
//! | `replay` | sends all requests of a run to an instance |
//! | `capture` | an exchange of live traffic |
//! | `plain` | such an exchange without content codings and headers of the connection. Pure |
//! | `reservoir` | a standing sample of live exchanges, by route and status class. Pure |
//! | `coverage` | which routes of the live traffic runs cover. Pure |
//! | `recording` | a stream of live exchanges to a run |
//! | `learn` | learns from three answers what may differ between them. Pure |
//! | `learned` | the rules that were learned for one exchange. Pure |
//! | `record` | records runs from a list of requests to a live server |
//! | `har` | makes runs from an HTTP archive of a browser or a proxy |
//! | `transcript` | makes runs of lines from a text with what both sides said. Pure |
//! | `shadow` | the answers of Active and of a candidate to the same live requests, compared. Pure |
//! | `url` | the origin of a URL, and its path as a request sends it |
//! | `redact` | replaces secrets and personal data in exchanges by placeholders |
//! | `placeholder` | the form of a placeholder, and a text with placeholders as a pattern. Pure |
//! | `fill` | the values of placeholders in a replay |
//!
//! A run belongs to the operator. Only the judge reads it, where the candidate cannot see it.

mod bodies;
mod capture;
mod compare;
mod coverage;
mod facets;
mod fact;
mod file;
mod fill;
mod format;
mod har;
mod learn;
mod learned;
mod line;
mod message;
mod normalise;
mod order;
mod placeholder;
mod plain;
mod record;
mod recording;
mod redact;
mod replay;
mod reservoir;
mod shadow;
mod talk;
#[cfg(test)]
mod tests;
mod transcript;
mod url;

pub use bodies::{
    BODY_FILE_BYTES_MAX, BODY_INLINE_MAX, BodyFile, BodyFiles, Digests, directory_if_any, directory_of, prune,
};
pub use capture::Captured;
pub use compare::{Divergence, Noise, compare, diff};
pub use coverage::{Coverage, CoveredRoute, RouteExchanges, percent, routes};
pub use facets::Facets;
pub use file::{Error, Writer, list, read, read_with, verify, write};
pub use fill::{Values, ValuesError};
pub use format::{
    EXCHANGES_MAX, Exchange, Expected, FILE_BYTES_MAX, GoldenRun, Header, Headers, LINES, Listed, Protocol, Recorded,
    Recording, SUFFIX, SWITCHING,
};
pub use har::{ArchiveError, Chosen, Imported, LeftOut, LeftOutEntry, TakenEntry, from_har, is_archive};
pub use learn::{DropReason, LOOSE_SHARE_MAX, Three, learn};
pub use learned::{LEARNED_MAX, Learned, Rule};
pub use message::{Data, MESSAGE_BYTES_MAX, MESSAGES_MAX, Message, Side};
pub use normalise::{Normaliser, Normalisers};
pub use order::{OVERLAP_MAX, Order, Progress};
pub use placeholder::{Kind, MARK, Piece, Placeholder, Template, pieces};
pub use plain::Undecoded;
pub use record::{RecordError, parse_requests, record};
pub use recording::Recorder;
pub use redact::{NotKept, RedactedExchange, RedactedRun, Redaction, Replaced, has_mark};
pub use replay::{Answer, Flight, REQUEST_TIMEOUT, Replay};
pub use reservoir::{Reservoir, SampleLimits};
pub use shadow::{Asked, Difference, EXCHANGES_FEW, ROUNDS_ENOUGH, Reply, Round, ShadowTrial};
pub use transcript::{TranscriptError, is_transcript, parse_transcript};
