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
//! | `error_lines` | errors in a candidate's log that the version before it did not write |
//! | `log` | the source that reads the runtime's access log |
//! | `metrics` | the source that reads the runtime's metrics |
//! | `sequential` | evidence that may be looked at at any time: e-processes |
//! | `factorial` | factorials, for both kinds of tests |
//! | `paired` | the same for two sides that are asked the same |
//! | `own` | rei's own requests, taken out of what a source counted |
//! | `draws` | draws without replacement, with a fixed seed |
//! | `pool` | the time before a trial as its reference |
//! | `facet` | what can be different, and what of it is tolerated |
//! | `silence` | a candidate that answers nothing |
//! | `trial` | all evidence of one trial |
//! | `judgement` | its verdict and reasons |
//! | `growth` | memory and descriptors of a candidate against Active's at the same age |

mod class;
mod counts;
mod draws;
mod error_lines;
mod facet;
mod factorial;
mod growth;
mod judgement;
mod latencies;
pub mod log;
pub mod metrics;
mod own;
mod paired;
mod pool;
mod route;
mod sample;
mod sequential;
mod series;
mod silence;
mod templates;
mod trial;

pub use class::Class;
pub use counts::Counts;
pub use error_lines::ErrorLines;
pub use factorial::ln_factorial;
pub use growth::{Curve, Growth, Usage};
pub use judgement::Judgement;
pub use latencies::Latencies;
pub use own::Own;
pub use paired::Paired;
pub use pool::Pool;
pub use route::{PLACEHOLDER, Route};
pub use sample::{Connections, ROUTES_MAX, Sample, Source};
pub use series::{Recent, Series};
pub use templates::{TEMPLATES_MAX, Templates};
pub use trial::{ALPHA, Limits, Trial};
