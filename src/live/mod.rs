//! What users' requests get: counts of real traffic for each slot, by route, class and latency. Pure.
//!
//! Three sources see requests: the runtime's metrics, its access log, and the tap. Each source turns what it sees into
//! [`Sample`]s, which say what came since the last sample. Everything after that is the same for all sources:
//!
//! ```text
//! metrics ─┐
//! log     ─┼─▶ Sample (since the last one) ─▶ Series of a slot ─▶ status, report
//! tap     ─┘                                    └──────────────▶ Trial ─▶ pass, fail or inconclusive
//! ```
//!
//! | file | its one job |
//! |---|---|
//! | `class` | how a request ended |
//! | `latencies` | a histogram of durations |
//! | `counts` | the requests of one route |
//! | `route` | the name of a route: method and path template |
//! | `sample` | what a source saw since its last sample |
//! | `series` | the requests of the version in a slot |
//! | `templates` | messages of errors, with numbers and identifiers taken out |
//! | `log` | the source that reads the runtime's access log |
//! | `metrics` | the source that reads the runtime's metrics |

mod class;
mod counts;
mod latencies;
pub mod log;
pub mod metrics;
mod route;
mod sample;
mod series;
mod templates;

pub use class::Class;
pub use counts::Counts;
pub use latencies::Latencies;
pub use route::{PLACEHOLDER, Route};
pub use sample::{Connections, ROUTES_MAX, Sample, Source};
pub use series::{Recent, Series};
pub use templates::{TEMPLATES_MAX, Templates};
