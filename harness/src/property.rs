//! What must hold in every run, one function each. A function is named as the property is in reports.
//!
//! They judge what was asked against what came; how it was asked is [`scenario`](crate::scenario)'s. Add one here, and call it
//! where a run sees what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use overlay::client::NodeMetrics;
use overlay::config::{CacheLimits, Overlay};
use serde_json::Value;
use tonic::Code;

use crate::calendar;
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
    /// The days that it is for want of.
    pub days: BTreeSet<u32>,
    /// When to come back, of a node that is full.
    pub retry_after: Option<Duration>,
    is_nonsense: bool,
}

impl Refusal {
    /// A status that names no day.
    pub fn by_node(code: Code, words: String) -> Self {
        Refusal { code: Some(code), words, days: BTreeSet::new(), retry_after: None, is_nonsense: false }
    }

    /// Nothing came.
    pub fn no_answer(words: String) -> Self {
        Refusal { code: None, words, days: BTreeSet::new(), retry_after: None, is_nonsense: false }
    }

    /// With the days of a list such as `20200821-20200824, 20200830 and 3 more up to 20200924`.
    pub fn naming(mut self, list: &str) -> Self {
        self.days.extend(days_in(list));
        self
    }

    /// From a node that is full, and says for how long.
    pub fn coming_back(self, retry_after: Duration) -> Self {
        Refusal { retry_after: Some(retry_after), ..self }
    }

    /// Whether it says that there is no result of that name, or none any more.
    pub fn is_about_the_lease(&self) -> bool {
        matches!(self.code, Some(Code::NotFound | Code::FailedPrecondition))
    }

    /// Something came that contradicts itself, its proof or the contract.
    pub fn nonsense(words: String) -> Self {
        Refusal { code: None, words, days: BTreeSet::new(), retry_after: None, is_nonsense: true }
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

/// A chunk that is read again has the bytes that it had, whoever serves it, and if its result was lost in between.
///
/// # Errors
/// [`Violation`] with the digests.
pub fn chunk_has_its_bytes_again(index: u32, before: u64, again: u64) -> Result<(), Violation> {
    match before == again {
        true => Ok(()),
        false => {
            let difference = format!("chunk {index}: digest {again:016x}, before {before:016x}");
            Err(Violation::of("chunk_has_its_bytes_again", difference))
        }
    }
}

/// Days are missing only from an answer that may lack some, and only if no sure way leads to them, or if they came too
/// late, as the answer's own words have it, since others, asked at once, had spent its time on such days.
///
/// # Errors
/// [`Violation`] naming the days.
pub fn missing_days_have_a_cause(
    missing: &BTreeMap<u32, String>,
    may_lack_some: bool,
    out_of_reach: &BTreeSet<u32>,
    beside_others: bool,
) -> Result<(), Violation> {
    let may_be_late = beside_others && !out_of_reach.is_empty();
    let is_late =
        |why: &str| ["did not answer within", "too few to ask"].iter().any(|words| why.contains(words));
    let has_a_cause = |(day, why): &(&u32, &String)| {
        may_lack_some && (out_of_reach.contains(day) || may_be_late && is_late(why))
    };
    let without_cause: BTreeMap<_, _> = missing.iter().filter(|missing| !has_a_cause(missing)).collect();
    match without_cause.is_empty() {
        true => Ok(()),
        false => Err(Violation::of("missing_days_have_a_cause", format!("{without_cause:?} are missing"))),
    }
}

/// A node that is well refuses only for want of days that are out of reach, and names these and no other; or it is out
/// of time while some are. One that is not well may say nothing, or break off. Nonsense has no excuse, and neither has one that is
/// full: it says which limit it has met and when it will have room, and who comes back then is let in at some time.
///
/// # Errors
/// [`Violation`] with the refusal's words.
pub fn refusal_has_a_cause(
    refusal: &Refusal,
    out_of_reach: &BTreeSet<u32>,
    may_be_silent: bool,
) -> Result<(), Violation> {
    let is_excused = match refusal.code {
        None => may_be_silent && !refusal.is_nonsense,
        Some(Code::Unavailable) if refusal.days.is_empty() => may_be_silent,
        Some(Code::Unavailable) => refusal.days.is_subset(out_of_reach),
        // Those ahead of it in the queue may have spent its time on them.
        Some(Code::DeadlineExceeded) => may_be_silent || !out_of_reach.is_empty(),
        // What the transport says when a connection closes under a request.
        Some(Code::Cancelled | Code::Unknown) => may_be_silent,
        Some(_) => false,
    };
    match is_excused {
        true => Ok(()),
        false => Err(Violation::of("refusal_has_a_cause", &*refusal.words)),
    }
}

/// A kept result is read at its own versions; that one is lost is said only of days whose version no node has that is well,
/// and all of them are named.
///
/// # Errors
/// [`Violation`] with the refusal's words.
pub fn read_is_refused_for_a_cause(
    refusal: &Refusal,
    out_of_reach: &BTreeSet<u32>,
    may_be_silent: bool,
) -> Result<(), Violation> {
    match refusal.code {
        Some(Code::DataLoss) if !refusal.days.is_empty() && refusal.days.is_subset(out_of_reach) => Ok(()),
        Some(Code::DataLoss) => Err(Violation::of("read_is_refused_for_a_cause", &*refusal.words)),
        _ => refusal_has_a_cause(refusal, out_of_reach, may_be_silent),
    }
}

/// Where holders disagree about a day, the first of them in the order of placement decides which version is asked for, once its
/// inventory has been read.
///
/// # Errors
/// [`Violation`] with the days that are of another version.
pub fn first_holder_decides(others: &BTreeSet<u32>) -> Result<(), Violation> {
    match others.is_empty() {
        true => Ok(()),
        false => {
            let difference = format!("{others:?} are not in the version of their first holders");
            Err(Violation::of("first_holder_decides", difference))
        }
    }
}

/// Who only lacks what a lying node keeps from it says so, and names that node among those tried.
///
/// # Errors
/// [`Violation`] with the refusal's words.
pub fn refusal_names_who_lied(refusal: &Refusal, liars: &BTreeSet<String>) -> Result<(), Violation> {
    let mut words = refusal.words.split(|letter: char| !letter.is_alphanumeric());
    match refusal.days.is_empty() || words.any(|word| liars.contains(word)) {
        true => Ok(()),
        false => {
            let difference = format!("none of {liars:?} in: {}", refusal.words);
            Err(Violation::of("refusal_names_who_lied", difference))
        }
    }
}

/// A neighbour that was told lies has counted the answers as failed, by the name of who lied.
///
/// # Errors
/// [`Violation`] with how many lies it was told.
pub fn lie_is_found_out(
    liar: &str,
    neighbour: &str,
    lies: u64,
    metrics: &NodeMetrics,
) -> Result<(), Violation> {
    let counter = format!("overlay_peer_requests_total{{neighbour=\"{liar}\",outcome=\"failed\"}} ");
    let found = metrics.exposition.lines().find_map(|line| line.strip_prefix(&counter)?.parse().ok());
    match lies <= found.unwrap_or(0) {
        true => Ok(()),
        false => {
            let difference =
                format!("{neighbour} was told {lies} lies by {liar}, it counts {found:?} failed requests");
            Err(Violation::of("lie_is_found_out", difference))
        }
    }
}

/// The days of a list of days and ranges of days.
fn days_in(list: &str) -> impl Iterator<Item = u32> {
    let day = |word: &str| word.parse().ok().filter(|day| calendar::date(*day).is_some());
    let range = move |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(calendar::days(day(first)?, day(last)?))
    };
    list.split([',', ' ']).filter_map(range).flatten()
}

/// What is known of a lease when it is read under; later ones are not undone by earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lease {
    /// It lasts.
    Lasts,
    /// It may have ended, by its time or by a cancellation that nobody answered.
    MayHaveEnded,
    /// It ended by its time, or was given back.
    Ended,
    /// The node that gave it is gone, or was started anew.
    Forgotten,
}

/// A result can be read while its lease lasts, and not afterwards: one that ended and one that the node does not know
/// are different errors.
///
/// # Errors
/// [`Violation`].
pub fn lease_decides_what_can_be_read(lease: Lease, refused: Option<&Refusal>) -> Result<(), Violation> {
    let code = refused.map(|refusal| refusal.code);
    let is_right = match code {
        None => matches!(lease, Lease::Lasts | Lease::MayHaveEnded),
        Some(Some(Code::FailedPrecondition)) => matches!(lease, Lease::Ended | Lease::MayHaveEnded),
        Some(Some(Code::NotFound)) => lease == Lease::Forgotten,
        // Whether there is another excuse, `refusal_has_a_cause` decides.
        Some(_) => true,
    };
    match is_right {
        true => Ok(()),
        false => {
            let came = refused.map_or("a chunk came", |refusal| &refusal.words);
            Err(Violation::of("lease_decides_what_can_be_read", format!("{lease:?}, but: {came}")))
        }
    }
}

/// A manifest's total is the number of rows, or groups, that there are.
///
/// # Errors
/// [`Violation`] with both.
pub fn manifest_counts_what_there_is(total_records: u64, expected: usize) -> Result<(), Violation> {
    match total_records == expected as u64 {
        true => Ok(()),
        false => {
            let difference = format!("the manifest has {total_records} records, there are {expected}");
            Err(Violation::of("manifest_counts_what_there_is", difference))
        }
    }
}

/// A client that gives a result back is told whether there was one.
///
/// # Errors
/// [`Violation`].
pub fn cancellation_ends_a_lease(lease: Lease, was_there: bool) -> Result<(), Violation> {
    let is_right = match lease {
        Lease::Lasts => was_there,
        Lease::MayHaveEnded => true,
        Lease::Ended | Lease::Forgotten => !was_there,
    };
    match is_right {
        true => Ok(()),
        false => {
            Err(Violation::of("cancellation_ends_a_lease", format!("{lease:?}, but found is {was_there}")))
        }
    }
}

/// Once nothing is wrong any more, every node gets ready, finds all its neighbours up, and avoids nobody.
///
/// # Errors
/// [`Violation`] with the time that it had.
pub fn overlay_recovers_once_it_is_healed(is_well: bool, within: Duration) -> Result<(), Violation> {
    match is_well {
        true => Ok(()),
        false => Err(Violation::of("overlay_recovers_once_it_is_healed", format!("not within {within:?}"))),
    }
}

/// A node with nobody to serve holds no permit, no place and nobody in its queue, computes nothing, and has no result
/// once leases are over.
///
/// # Errors
/// [`Violation`] with what is held.
pub fn nothing_is_held_at_rest(
    node: &str,
    metrics: &NodeMetrics,
    leases_are_over: bool,
) -> Result<(), Violation> {
    let mut held = held(metrics);
    held.retain(|line| {
        leases_are_over || ![RESULT_SETS, RESULT_SET_BYTES].iter().any(|gauge| line.starts_with(gauge))
    });
    match held.is_empty() {
        true => Ok(()),
        false => Err(Violation::of("nothing_is_held_at_rest", format!("{node}: {}", held.join(", ")))),
    }
}

/// The gauges of what is given back that are not zero.
pub fn held(metrics: &NodeMetrics) -> Vec<String> {
    let held = HELD.iter().filter_map(|gauge| {
        let line = metrics.exposition.lines().find(|line| line.starts_with(gauge));
        match line {
            Some(line) if line.ends_with(" 0") => None,
            Some(line) => Some(line.to_owned()),
            None => Some(format!("{gauge} is not among the metrics")),
        }
    });
    held.collect()
}

/// When a client is gone, so is the work for it, on every node. Its results stay until their leases end, and nodes go on to
/// ask each other how they are, on behalf of nobody.
///
/// # Errors
/// [`Violation`] with what goes on.
pub fn work_stops_with_its_client(node: &str, metrics: &NodeMetrics) -> Result<(), Violation> {
    let mut held = held(metrics);
    let only_probes = gauge(metrics, PEER_REQUESTS).is_some_and(|all| Some(all) == gauge(metrics, PROBES));
    held.retain(|line| {
        let is_no_work = [RESULT_SETS, RESULT_SET_BYTES].iter().any(|gauge| line.starts_with(gauge));
        !(is_no_work || only_probes && line.starts_with(PEER_REQUESTS))
    });
    match held.is_empty() {
        true => Ok(()),
        false => Err(Violation::of("work_stops_with_its_client", format!("{node}: {}", held.join(", ")))),
    }
}

fn gauge(metrics: &NodeMetrics, name: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(name)?.trim_start().parse().ok();
    metrics.exposition.lines().find_map(value)
}

/// Each cache, the result sets together and replaced data hold at most the bytes that they may, in a node as it is configured.
///
/// # Errors
/// [`Violation`] with who holds more, or is not among the metrics.
pub fn memory_is_within_its_limits(
    node: &str,
    overlay: &Overlay,
    metrics: &NodeMetrics,
) -> Result<(), Violation> {
    let CacheLimits { result_bytes, chunk_bytes, selection_bytes, aggregate_bytes } = overlay.cache;
    let limits = [
        ("results", result_bytes),
        ("chunks", chunk_bytes),
        ("selections", selection_bytes),
        ("aggregates", aggregate_bytes),
        ("result_sets", overlay.limits.result_set_bytes),
        ("replaced", overlay.limits.replaced_bytes),
    ];
    for (by, limit) in limits {
        let gauge = format!("overlay_held_bytes{{by=\"{by}\"}} ");
        let bytes =
            metrics.exposition.lines().find_map(|line| line.strip_prefix(&gauge)?.parse::<usize>().ok());
        if bytes.is_none_or(|bytes| bytes > limit) {
            let difference = format!("{node}: {by} hold {bytes:?} bytes, limit {limit}");
            return Err(Violation::of("memory_is_within_its_limits", difference));
        }
    }
    Ok(())
}

/// Gauges of what is given back.
const HELD: [&str; 9] = [
    "overlay_active_queries",
    "overlay_waiting_queries",
    "overlay_following_queries",
    "overlay_computing_pieces",
    PEER_REQUESTS,
    "overlay_open_streams",
    "overlay_orphaned_tasks",
    RESULT_SETS,
    RESULT_SET_BYTES,
];

const PEER_REQUESTS: &str = "overlay_peer_requests_in_flight";
const PROBES: &str = "overlay_probes_in_flight";
const RESULT_SETS: &str = "overlay_open_result_sets";
const RESULT_SET_BYTES: &str = "overlay_held_bytes{by=\"result_sets\"}";

/// Whatever happens, nobody panics, every cluster comes up and does what it is told.
///
/// # Errors
/// [`Violation`] with what broke.
pub fn nothing_breaks<T>(result: Result<T, impl fmt::Display>) -> Result<T, Violation> {
    result.map_err(|error| Violation::of("nothing_breaks", error.to_string()))
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
    fn refusal_needs_a_day_that_is_lost_or_a_node_that_is_not_well() {
        let refused = |code, days: &str| Refusal::by_node(code, String::new()).naming(days);
        let lost = BTreeSet::from([20200821, 20200822]);
        let is_excused = |refusal: &Refusal, silent| refusal_has_a_cause(refusal, &lost, silent).is_ok();
        assert!(is_excused(&refused(Code::Unavailable, "20200821-20200822"), false));
        assert!(is_excused(&refused(Code::Unavailable, "20200821"), false));
        assert!(!is_excused(&refused(Code::Unavailable, "20200820, 20200821"), false));
        assert!(!is_excused(&refused(Code::Unavailable, "20200821 and 2 more up to 20200823"), false));
        assert!(!is_excused(&refused(Code::Unavailable, ""), false));
        assert!(is_excused(&refused(Code::Unavailable, ""), true));
        assert!(is_excused(&refused(Code::DeadlineExceeded, ""), false));
        assert!(is_excused(&refused(Code::Unknown, ""), true));
        assert!(!is_excused(&refused(Code::Unknown, "20200821"), false));
        assert!(!is_excused(&refused(Code::ResourceExhausted, "20200821"), true));
        assert!(is_excused(&Refusal::no_answer(String::new()), true));
        assert!(!is_excused(&Refusal::no_answer(String::new()), false));
        assert!(!is_excused(&Refusal::nonsense(String::new()), true));
    }

    #[test]
    fn what_nodes_ask_on_behalf_of_nobody_is_no_work_for_a_client() {
        let stops = |peer_requests: u32, probes: u32| {
            let others = HELD.iter().filter(|gauge| **gauge != PEER_REQUESTS);
            let mut exposition: String = others.map(|gauge| format!("{gauge} 0\n")).collect();
            exposition += &format!("{PEER_REQUESTS} {peer_requests}\n{PROBES} {probes}\n");
            let metrics = NodeMetrics { exposition, ..NodeMetrics::default() };
            work_stops_with_its_client("B", &metrics).is_ok()
        };
        assert_eq!([stops(0, 0), stops(2, 2), stops(2, 1), stops(1, 0)], [true, true, false, false]);
    }

    #[test]
    fn each_lease_has_its_own_error() {
        use Lease::*;
        let expired = Refusal::by_node(Code::FailedPrecondition, String::new());
        let unknown = Refusal::by_node(Code::NotFound, String::new());
        let right = |refused| {
            [Lasts, MayHaveEnded, Ended, Forgotten]
                .map(|lease| lease_decides_what_can_be_read(lease, refused).is_ok())
        };
        assert_eq!(right(None), [true, true, false, false]);
        assert_eq!(right(Some(&expired)), [false, true, true, false]);
        assert_eq!(right(Some(&unknown)), [false, false, false, true]);
    }
}
