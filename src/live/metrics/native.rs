//! Reads a histogram that is one value of a page: `{count:17,sum:3.5,schema:3,…}`, as in OpenMetrics 2.0.

/// The most buckets of such a histogram that are read; libraries keep 160.
const BUCKETS_MAX: usize = 1_024;
/// The schemas of exponential buckets: a bucket is `2^(2^-schema)` times as wide as the one below it.
const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;

/// A histogram with exponential buckets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Native {
    pub(super) count: f64,
    pub(super) sum: f64,
    /// The upper edge of each bucket, and what is in it alone.
    pub(super) buckets: Vec<(f64, f64)>,
}

/// Reads what stands between the braces.
pub(super) fn parse(text: &str) -> Option<Native> {
    let (mut found, mut schema, mut zero) = (Native::default(), None, (0.0, 0.0));
    let (mut spans, mut counts) = (Vec::new(), Vec::new());
    for (key, value) in fields(text) {
        let number = || value.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        match key {
            "count" => found.count = number()?,
            "sum" => found.sum = value.parse().ok()?,
            "schema" => schema = Some(value.parse::<i32>().ok()?),
            "zero_threshold" => zero.0 = number()?,
            "zero_count" => zero.1 = number()?,
            "positive_spans" => {
                for span in list(value) {
                    let (offset, length) = span.split_once(':')?;
                    spans.push((offset.trim().parse::<i32>().ok()?, length.trim().parse::<usize>().ok()?));
                }
            }
            "positive_buckets" => {
                for count in list(value) {
                    counts.push(count.trim().parse::<f64>().ok().filter(|count| count.is_finite() && *count >= 0.0)?);
                }
            }
            _ => {}
        }
    }
    let schema = schema.filter(|schema| SCHEMAS.contains(schema))?;
    if zero.1 > 0.0 {
        found.buckets.push((zero.0, zero.1));
    }
    let (mut index, mut counts) = (0_i32, counts.into_iter());
    for (offset, length) in spans {
        index = index.checked_add(offset)?;
        for _ in 0..length {
            if found.buckets.len() == BUCKETS_MAX {
                return None;
            }
            let edge = (f64::from(index) * f64::from(-schema).exp2()).exp2();
            found.buckets.push((edge, counts.next()?));
            index = index.checked_add(1)?;
        }
    }
    Some(found)
}

/// The fields; a comma inside `[…]` does not end one.
fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut depth = 0_u32;
    let parts = text.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.filter_map(|part| part.split_once(':')).map(|(key, value)| (key.trim(), value.trim()))
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.trim_start_matches('[').trim_end_matches(']').split(',').filter(|part| !part.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_buckets_get_their_edges() {
        let text = "count:6,sum:3.5,schema:0,zero_threshold:1e-4,zero_count:1,positive_spans:[-1:2,1:1],positive_buckets:[2,2,1]";
        let found = parse(text).unwrap();
        assert_eq!((found.count, found.sum), (6.0, 3.5));
        assert_eq!(found.buckets, [(1e-4, 1.0), (0.5, 2.0), (1.0, 2.0), (4.0, 1.0)]);
        assert_eq!(
            parse("count:1,sum:1,schema:3,positive_spans:[8:1],positive_buckets:[1]").unwrap().buckets,
            [(2.0, 1.0)]
        );
    }

    #[test]
    fn a_histogram_that_makes_no_sense_is_refused() {
        for text in [
            "",
            "count:1,sum:1",
            "count:1,sum:1,schema:90",
            "count:-1,sum:1,schema:0",
            "count:1,sum:1,schema:0,positive_spans:[0:3],positive_buckets:[1]",
            "count:1,sum:1,schema:0,positive_spans:[0:99999999999],positive_buckets:[1]",
            "count:1,sum:1,schema:0,positive_spans:[2147483647:2],positive_buckets:[1,1]",
            "count:1,sum:1,schema:0,positive_spans:[x],positive_buckets:[1]",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
