//! What must hold in every run, one function each. A function is named as the property is in reports.
//!
//! They judge what was asked against what came; how it was asked is [`scenario`](crate::scenario)'s. Add one here, and call it
//! where a run sees what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use overlay::client::NodeMetrics;
use serde_json::Value;
use tonic::Code;

use crate::oracle::numerically_equal;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The function's name.
    pub property: &'static str,
    /// What came instead of what.
    pub difference: String,
}

impl Violation {
    fn of(property: &'static str, difference: impl Into<String>) -> Self {
        Violation { property, difference: difference.into() }
    }
}

/// A row, or group, that an answer must have, and where it comes from.
#[derive(Clone, Debug)]
pub struct Expected {
    /// In words: `day 20200822, file 20200822-07.csv, row 311`.
    pub origin: String,
    /// The row as a JSON object.
    pub row: Value,
}

/// A question that got no answer.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What the node, or the transport, gave as the reason.
    pub code: Option<Code>,
    /// In full.
    pub words: String,
    is_nonsense: bool,
}

impl Refusal {
    /// A status.
    pub fn by_node(code: Code, words: String) -> Self {
        Refusal { code: Some(code), words, is_nonsense: false }
    }

    /// Nothing came.
    pub fn no_answer(words: String) -> Self {
        Refusal { code: None, words, is_nonsense: false }
    }

    /// Something came that contradicts itself, its proof or the contract.
    pub fn nonsense(words: String) -> Self {
        Refusal { code: None, words, is_nonsense: true }
    }
}

/// An answer has the rows that the oracle has, in its order.
///
/// # Errors
/// [`Violation`] with how many rows are missing or extra, and the first of each.
pub fn scatter_gather_equals_oracle(expected: &[Expected], found: &[Value]) -> Result<(), Violation> {
    match difference(expected, found) {
        None => Ok(()),
        Some(difference) => Err(Violation::of("scatter_gather_equals_oracle", difference)),
    }
}

/// A chunk read again, whenever and from whomever, has the rows that the result has at its place.
///
/// # Errors
/// [`Violation`].
pub fn chunk_has_its_rows_of_the_result(
    index: u32,
    expected: &[Expected],
    found: &[Value],
) -> Result<(), Violation> {
    match difference(expected, found) {
        None => Ok(()),
        Some(difference) => {
            Err(Violation::of("chunk_has_its_rows_of_the_result", format!("chunk {index}: {difference}")))
        }
    }
}

/// Days are missing only from an answer that may lack some, and only while no way leads to them.
///
/// # Errors
/// [`Violation`] naming the days.
pub fn missing_days_have_a_cause(
    missing: &BTreeSet<u32>,
    may_lack_some: bool,
    is_excused: bool,
) -> Result<(), Violation> {
    if missing.is_empty() || (may_lack_some && is_excused) {
        return Ok(());
    }
    Err(Violation::of(
        "missing_days_have_a_cause",
        format!("{missing:?} are missing, but a way leads to them"),
    ))
}

/// A question is refused only while something is wrong that excuses it, in words that say so, and never by nonsense.
///
/// # Errors
/// [`Violation`] with the refusal's words.
pub fn refusal_has_a_cause(refusal: &Refusal, is_excused: bool) -> Result<(), Violation> {
    let is_outage = match refusal.code {
        None => !refusal.is_nonsense,
        // What the transport says when a connection closes under a request is not the node's word.
        Some(code) => {
            matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
        }
    };
    match is_excused && is_outage {
        true => Ok(()),
        false => Err(Violation::of("refusal_has_a_cause", &*refusal.words)),
    }
}

/// What is known of a lease at the time of a read.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Whether it may have ended: by time, by its client, or with its node.
    pub may_be_over: bool,
    /// Whether it must have.
    pub must_be_over: bool,
}

/// A result can be read while its lease lasts, and not afterwards.
///
/// # Errors
/// [`Violation`].
pub fn lease_decides_what_can_be_read(
    lease: Lease,
    read: Result<(), &Refusal>,
    is_excused: bool,
) -> Result<(), Violation> {
    let property = "lease_decides_what_can_be_read";
    match read {
        Ok(()) if lease.must_be_over => {
            Err(Violation::of(property, "a chunk came after the lease had ended"))
        }
        Ok(()) => Ok(()),
        Err(refusal) => match refusal.code {
            Some(Code::NotFound | Code::FailedPrecondition) if lease.may_be_over => Ok(()),
            Some(Code::NotFound | Code::FailedPrecondition) => {
                Err(Violation::of(property, format!("the lease lasts, but: {}", refusal.words)))
            }
            _ => refusal_has_a_cause(refusal, is_excused),
        },
    }
}

/// Once nothing is wrong any more, every node gets ready and finds all its neighbours up.
///
/// # Errors
/// [`Violation`] with what each node says of itself.
pub fn overlay_recovers_once_it_is_healed(nodes: Result<(), String>) -> Result<(), Violation> {
    nodes.map_err(|nodes| Violation::of("overlay_recovers_once_it_is_healed", nodes))
}

/// A node with nobody to serve holds no permit and nobody in its queue, and once leases are over no result.
///
/// # Errors
/// [`Violation`] with what is held.
pub fn nothing_is_held_at_rest(
    node: &str,
    metrics: &NodeMetrics,
    leases_are_over: bool,
) -> Result<(), Violation> {
    let NodeMetrics { active_queries, waiting_queries, open_result_sets, .. } = metrics;
    if (*active_queries, *waiting_queries) == (0, 0) && (*open_result_sets == 0 || !leases_are_over) {
        return Ok(());
    }
    let held = format!(
        "{node} holds {active_queries} permits, {waiting_queries} waiting queries and {open_result_sets} result sets"
    );
    Err(Violation::of("nothing_is_held_at_rest", held))
}

/// Whatever happens, nobody panics and every cluster comes up.
pub fn nothing_breaks(what: impl Into<String>) -> Violation {
    Violation::of("nothing_breaks", what)
}

/// How the rows that came differ from those expected: by which are there, or else by their order.
fn difference(expected: &[Expected], found: &[Value]) -> Option<String> {
    let differs = |index: &usize| match (expected.get(*index), found.get(*index)) {
        (Some(expected), Some(found)) => !numerically_equal(&expected.row, found),
        _ => true,
    };
    let index = (0..expected.len().max(found.len())).find(differs)?;
    let mut surplus: BTreeMap<String, i64> = BTreeMap::new();
    found.iter().for_each(|row| *surplus.entry(canonical(row)).or_default() += 1);
    let is_missing = |expected: &&Expected| {
        let count = surplus.entry(canonical(&expected.row)).or_default();
        *count -= 1;
        *count < 0
    };
    let missing: Vec<&Expected> = expected.iter().filter(is_missing).collect();
    let extra: i64 = surplus.values().filter(|count| **count > 0).sum();
    if missing.is_empty() && extra == 0 {
        return Some(format!("no row missing or extra, but out of order from row {index} on"));
    }
    let mut words = format!("missing {} rows", missing.len());
    if let Some(first) = missing.first() {
        write!(words, "; first: {}", first.origin).expect("a string takes all");
    }
    write!(words, "; extra {extra} rows").expect("a string takes all");
    if let Some((first, _)) = surplus.iter().find(|(_, count)| **count > 0) {
        write!(words, "; first: {first}").expect("a string takes all");
    }
    Some(words)
}

/// A text that is equal for rows that are numerically equal.
fn canonical(row: &Value) -> String {
    match row {
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string())
        }
        Value::Object(object) => {
            let sorted: BTreeMap<&String, String> =
                object.iter().map(|(name, value)| (name, canonical(value))).collect();
            let members: Vec<String> =
                sorted.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expected(rows: &[i64]) -> Vec<Expected> {
        rows.iter().map(|row| Expected { origin: format!("row {row}"), row: json!({"aqi": row}) }).collect()
    }

    fn found(rows: &[f64]) -> Vec<Value> {
        rows.iter().map(|row| json!({"aqi": row})).collect()
    }

    fn words(expected_rows: &[i64], found_rows: &[f64]) -> Option<String> {
        difference(&expected(expected_rows), &found(found_rows))
    }

    #[test]
    fn difference_counts_rows_and_names_the_first_of_each_kind() {
        assert_eq!(words(&[1, 2, 2], &[1.0, 2.0, 2.0]), None);
        let lost = "missing 2 rows; first: row 2; extra 0 rows";
        assert_eq!(words(&[1, 2, 3], &[1.0]).as_deref(), Some(lost));
        let twice = "missing 0 rows; extra 1 rows; first: {aqi: 1}";
        assert_eq!(words(&[1, 2], &[1.0, 1.0, 2.0]).as_deref(), Some(twice));
        let order = "no row missing or extra, but out of order from row 1 on";
        assert_eq!(words(&[1, 2, 3], &[1.0, 3.0, 2.0]).as_deref(), Some(order));
    }

    #[test]
    fn refusal_needs_an_outage_and_its_code() {
        let unavailable = Refusal::by_node(Code::Unavailable, String::new());
        assert!(refusal_has_a_cause(&unavailable, true).is_ok());
        assert!(refusal_has_a_cause(&unavailable, false).is_err());
        for refusal in [
            Refusal::by_node(Code::ResourceExhausted, String::new()),
            Refusal::by_node(Code::DataLoss, String::new()),
            Refusal::nonsense(String::new()),
        ] {
            assert!(refusal_has_a_cause(&refusal, true).is_err(), "{refusal:?}");
        }
    }

    #[test]
    fn lease_that_lasts_is_no_reason_to_refuse_and_one_that_is_over_none_to_answer() {
        let lasting = Lease { may_be_over: false, must_be_over: false };
        let over = Lease { may_be_over: true, must_be_over: true };
        let expired = Refusal::by_node(Code::FailedPrecondition, String::new());
        assert!(lease_decides_what_can_be_read(lasting, Ok(()), false).is_ok());
        assert!(lease_decides_what_can_be_read(over, Err(&expired), false).is_ok());
        assert!(lease_decides_what_can_be_read(over, Ok(()), true).is_err());
        assert!(lease_decides_what_can_be_read(lasting, Err(&expired), true).is_err());
    }
}
