//! Requests as the runtime's own metrics count them. Pure.
//!
//! | file | its one job |
//! |---|---|
//! | `page` | reads the lines of a page: Prometheus text and OpenMetrics |
//! | `native` | reads a histogram that is one value of a page |
//! | `names` | the usual names of metrics and labels |
//! | `rules` | which metrics and labels the operator names |
//! | `series` | the series of a page that can be about requests |
//! | `choice` | decides which of them are the requests, and which the durations |
//! | `count` | turns what was added since the last page into a sample |
//! | `scrape` | the state between two pages |

mod choice;
mod count;
mod names;
mod native;
mod page;
mod rules;
mod scrape;
mod series;
#[cfg(test)]
mod tests;

pub use count::Own;
pub use page::PAGE_BYTES_MAX;
pub use rules::{Failed, Rules};
pub use scrape::Scrape;
