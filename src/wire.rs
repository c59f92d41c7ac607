//! Between the values of this crate and the messages of `overlay.v1`, both ways.
//!
//! Nothing is decided here. What cannot be a value is a [`Malformed`] that names the field.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey, Groups, Partial};
use crate::config::{Chunking, MAX_OWNED_DAYS, NodeId, Team};
use crate::coverage::{Entry, Outcome, Served};
use crate::day::{Day, DayRange};
use crate::decimal::Decimal;
use crate::frame::Encoding;
use crate::inventory::{DayInventory, NodeInventory, NodeLoad, NodeState, Traffic};
use crate::plan::{ChunkingChoice, InvalidQuery, Query};
use crate::predicate::{Place, Predicate, Words};
use crate::proto::v1;
use crate::store::{DayStatistics, Digest, ParameterStatistics, PlaceBounds, Version, WorstRowBytes};
use crate::verb::{Cause, CountItem, Failure, Frame, HopStatistics, ReadItem};

/// A message that stands for no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Malformed {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl From<Malformed> for InvalidQuery {
    fn from(malformed: Malformed) -> Self {
        InvalidQuery::new(malformed.field, malformed.to_string())
    }
}

fn malformed(field: &'static str, what: impl ToString) -> Malformed {
    Malformed { field, what: what.to_string() }
}

/// A number that names nothing; `known` are those of the enum in `proto/`.
fn unknown(field: &'static str, number: i32, known: RangeInclusive<i32>) -> Malformed {
    malformed(field, format!("unknown number {number} (numbers: {} to {})", known.start(), known.end()))
}

pub(crate) fn day(number: u32) -> Result<Day, Malformed> {
    Day::from_number(u64::from(number)).map_err(|error| malformed("day", error))
}

pub(crate) fn version(bytes: &[u8]) -> Result<Version, Malformed> {
    let wrong = |_| malformed("version", format!("{} bytes, expected 16", bytes.len()));
    bytes.try_into().map(Version).map_err(wrong)
}

fn digest(bytes: &[u8]) -> Result<Digest, Malformed> {
    let wrong = |_| malformed("digest", format!("{} bytes, expected 16", bytes.len()));
    bytes.try_into().map(Digest).map_err(wrong)
}

pub(crate) fn node_ids(names: &[String]) -> Vec<NodeId> {
    names.iter().map(|name| NodeId::from(name.as_str())).collect()
}

pub(crate) fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

// Queries.

pub(crate) fn query_from(request: &v1::QueryRequest) -> Result<Query, Malformed> {
    let date = |field, number: Option<u32>| {
        number
            .map(|number| Day::from_number(u64::from(number)))
            .transpose()
            .map_err(|error| malformed(field, error))
    };
    let expected =
        request.expected_versions.iter().map(|pinned| Ok((day(pinned.day)?, version(&pinned.version)?)));
    Ok(Query {
        predicate: predicate_from(request.predicate.as_ref())?,
        date_start: date("date_start", request.date_start)?,
        date_end: date("date_end", request.date_end)?,
        team: request.team.clone(),
        limit: request.limit,
        aggregate: request.aggregate.as_ref().map(aggregate_from).transpose()?,
        encoding: encoding_from(request.encoding)?,
        chunking: request.chunking.as_ref().map(chunking_from).transpose()?.unwrap_or_default(),
        allow_partial: request.allow_partial,
        expected_versions: expected.collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}

/// A predicate in messages carries bounds as text, so that they are exact.
pub(crate) fn predicate_from(predicate: Option<&v1::Predicate>) -> Result<Predicate, Malformed> {
    let Some(predicate) = predicate else {
        return Ok(Predicate::default());
    };
    let number = |field, value: Option<f64>| match value {
        Some(value) if !value.is_finite() => Err(malformed(field, format!("`{value}` is not a number"))),
        value => Ok(value),
    };
    let words = Words {
        parameter: predicate.parameter.as_deref(),
        min: predicate.min_value.as_deref(),
        max: predicate.max_value.as_deref(),
        place: Place {
            lat_min: number("lat_min", predicate.lat_min)?,
            lat_max: number("lat_max", predicate.lat_max)?,
            lon_min: number("lon_min", predicate.lon_min)?,
            lon_max: number("lon_max", predicate.lon_max)?,
        },
        site: predicate.site.as_deref(),
        agency: predicate.agency.as_deref(),
        text: predicate.text.as_deref(),
    };
    words.resolve().map_err(|error| malformed(error.field, error.why))
}

/// A predicate as a message, whose bounds are texts so that they are exact.
pub fn predicate_to(predicate: &Predicate) -> v1::Predicate {
    v1::Predicate {
        parameter: predicate.parameter.clone(),
        min_value: predicate.min.map(|bound| bound.to_string()),
        max_value: predicate.max.map(|bound| bound.to_string()),
        lat_min: predicate.place.lat_min,
        lat_max: predicate.place.lat_max,
        lon_min: predicate.place.lon_min,
        lon_max: predicate.place.lon_max,
        site: predicate.site.clone(),
        agency: predicate.agency.clone(),
        text: predicate.text.clone(),
    }
}

pub(crate) fn aggregate_from(aggregate: &v1::Aggregate) -> Result<AggregateSpec, Malformed> {
    let of = match v1::AggregateOf::try_from(aggregate.of) {
        Ok(v1::AggregateOf::Unspecified | v1::AggregateOf::Value) => AggregateOf::Value,
        Ok(v1::AggregateOf::RawConcentration) => AggregateOf::RawConcentration,
        Ok(v1::AggregateOf::Aqi) => AggregateOf::Aqi,
        Err(_) => {
            return Err(unknown("aggregate.of", aggregate.of, 0..=3));
        }
    };
    let key = |number: &i32| match v1::GroupKey::try_from(*number) {
        Ok(v1::GroupKey::Parameter) => Ok(GroupKey::Parameter),
        Ok(v1::GroupKey::Site) => Ok(GroupKey::Site),
        Ok(v1::GroupKey::Agency) => Ok(GroupKey::Agency),
        Ok(v1::GroupKey::Day) => Ok(GroupKey::Day),
        Ok(v1::GroupKey::Hour) => Ok(GroupKey::Hour),
        Ok(v1::GroupKey::Team) => Ok(GroupKey::Team),
        Ok(v1::GroupKey::Unspecified) | Err(_) => Err(unknown("aggregate.group_by", *number, 1..=6)),
    };
    Ok(AggregateSpec { of, group_by: aggregate.group_by.iter().map(key).collect::<Result<_, _>>()? })
}

/// An aggregate as a message.
pub fn aggregate_to(spec: &AggregateSpec) -> v1::Aggregate {
    let of = match spec.of {
        AggregateOf::Value => v1::AggregateOf::Value,
        AggregateOf::RawConcentration => v1::AggregateOf::RawConcentration,
        AggregateOf::Aqi => v1::AggregateOf::Aqi,
    };
    let key = |key: &GroupKey| match key {
        GroupKey::Parameter => v1::GroupKey::Parameter,
        GroupKey::Site => v1::GroupKey::Site,
        GroupKey::Agency => v1::GroupKey::Agency,
        GroupKey::Day => v1::GroupKey::Day,
        GroupKey::Hour => v1::GroupKey::Hour,
        GroupKey::Team => v1::GroupKey::Team,
    };
    v1::Aggregate { of: of.into(), group_by: spec.group_by.iter().map(|each| key(each).into()).collect() }
}

pub(crate) fn encoding_from(number: i32) -> Result<Encoding, Malformed> {
    match v1::Encoding::try_from(number) {
        Ok(v1::Encoding::Unspecified | v1::Encoding::Arrow) => Ok(Encoding::Arrow),
        Ok(v1::Encoding::Json) => Ok(Encoding::Json),
        Ok(v1::Encoding::JsonLegacy) => Ok(Encoding::JsonLegacy),
        Err(_) => Err(unknown("encoding", number, 0..=3)),
    }
}

pub(crate) fn encoding_to(encoding: Encoding) -> v1::Encoding {
    match encoding {
        Encoding::Arrow => v1::Encoding::Arrow,
        Encoding::Json => v1::Encoding::Json,
        Encoding::JsonLegacy => v1::Encoding::JsonLegacy,
    }
}

pub(crate) fn chunking_from(chunking: &v1::Chunking) -> Result<ChunkingChoice, Malformed> {
    let strategy = match v1::ChunkingStrategy::try_from(chunking.strategy) {
        Ok(v1::ChunkingStrategy::Unspecified) => None,
        Ok(v1::ChunkingStrategy::Fixed) => Some(Chunking::Fixed),
        Ok(v1::ChunkingStrategy::Adaptive) => Some(Chunking::Adaptive),
        Ok(v1::ChunkingStrategy::QueryBased) => Some(Chunking::QueryBased),
        Err(_) => {
            return Err(unknown("chunking.strategy", chunking.strategy, 0..=3));
        }
    };
    Ok(ChunkingChoice { strategy, chunk_rows: chunking.chunk_rows, chunk_bytes: chunking.chunk_bytes })
}

pub(crate) fn chunking_strategy_to(strategy: Chunking) -> v1::ChunkingStrategy {
    match strategy {
        Chunking::Fixed => v1::ChunkingStrategy::Fixed,
        Chunking::Adaptive => v1::ChunkingStrategy::Adaptive,
        Chunking::QueryBased => v1::ChunkingStrategy::QueryBased,
    }
}

// The coverage ledger.

/// A ledger's entry as a message.
pub fn entry_to(entry: &Entry) -> v1::CoverageEntry {
    use v1::coverage_entry::Outcome as Message;
    let outcome = match &entry.outcome {
        Outcome::Served(served) => Message::Served(v1::Served {
            node: served.node.clone(),
            attempt: served.attempt,
            version: served.version.0.to_vec(),
            rows_matched: served.rows_matched,
            rows_taken: served.rows_taken,
        }),
        Outcome::Pruned { by, version } => {
            Message::Pruned(v1::Pruned { by: by.clone(), version: version.0.to_vec() })
        }
        Outcome::NoData { node } => Message::NoData(v1::NoData { node: node.clone() }),
        Outcome::BeyondLimit => Message::BeyondLimit(v1::BeyondLimit {}),
        Outcome::Missing { why, nodes_tried } => {
            Message::Missing(v1::Missing { why: why.clone(), nodes_tried: nodes_tried.clone() })
        }
    };
    v1::CoverageEntry { day: entry.day.number(), team: entry.team.to_string(), outcome: Some(outcome) }
}

/// The ledger's entry that a message stands for.
///
/// # Errors
/// [`Malformed`] if it stands for none.
pub fn entry_from(message: &v1::CoverageEntry) -> Result<Entry, Malformed> {
    use v1::coverage_entry::Outcome as Message;
    let outcome = match message.outcome.as_ref() {
        Some(Message::Served(served)) => Outcome::Served(Served {
            node: served.node.clone(),
            attempt: served.attempt,
            version: version(&served.version)?,
            rows_matched: served.rows_matched,
            rows_taken: served.rows_taken,
        }),
        Some(Message::Pruned(pruned)) => {
            Outcome::Pruned { by: pruned.by.clone(), version: version(&pruned.version)? }
        }
        Some(Message::NoData(no_data)) => Outcome::NoData { node: no_data.node.clone() },
        Some(Message::BeyondLimit(_)) => Outcome::BeyondLimit,
        Some(Message::Missing(missing)) => {
            Outcome::Missing { why: missing.why.clone(), nodes_tried: missing.nodes_tried.clone() }
        }
        None => {
            return Err(malformed("ledger", format!("no outcome for day {}", message.day)));
        }
    };
    Ok(Entry { day: day(message.day)?, team: Arc::from(message.team.as_str()), outcome })
}

pub(crate) fn owned_to(team: &Team) -> v1::OwnedDays {
    v1::OwnedDays {
        team: team.name.clone(),
        first_day: team.days.start.number(),
        last_day: team.days.last().map_or(0, Day::number),
    }
}

/// Owned days in order, none of them twice, and no more than teams may own.
///
/// # Errors
/// [`Malformed`] if they are not.
pub fn owned_from(messages: &[v1::OwnedDays]) -> Result<Vec<(String, DayRange)>, Malformed> {
    let wrong = |what: &str| malformed("owned", what);
    let mut owned: Vec<(String, DayRange)> = Vec::with_capacity(messages.len());
    for message in messages {
        let days = DayRange::inclusive(day(message.first_day)?, day(message.last_day)?);
        if days.is_empty() {
            return Err(wrong("a range ends before it starts"));
        }
        if owned.last().is_some_and(|(_, before)| before.end > days.start) {
            return Err(wrong("a range starts before the one before it has ended"));
        }
        owned.push((message.team.clone(), days));
    }
    // A range of a few bytes may span ten thousand years, and each of its days is planned for.
    let most = MAX_OWNED_DAYS;
    match owned.iter().flat_map(|(_, days)| days.days()).take(most + 1).count() {
        0 => Err(wrong("the node says of no day that it answers for it")),
        days if days > most => Err(wrong(&format!("more than {most} days, teams own no more together"))),
        _ => Ok(owned),
    }
}

// Frames.

/// A frame as a message.
pub fn frame_to(frame: Frame) -> v1::Frame {
    v1::Frame {
        day: frame.day.map_or(0, Day::number),
        version: frame.version.0.to_vec().into(),
        first_row: frame.first_row,
        rows: frame.rows,
        payload: frame.payload,
        digest: frame.digest.0.to_vec().into(),
        node: frame.node.to_string(),
    }
}

/// The frame that a message stands for; its digest is not checked.
///
/// # Errors
/// [`Malformed`] if it stands for none.
pub fn frame_from(frame: v1::Frame) -> Result<Frame, Malformed> {
    Ok(Frame {
        day: (frame.day != 0).then(|| day(frame.day)).transpose()?,
        version: version(&frame.version)?,
        first_row: frame.first_row,
        rows: frame.rows,
        digest: digest(&frame.digest)?,
        payload: frame.payload,
        node: NodeId::from(frame.node.as_str()),
    })
}

// Peer verbs.

/// A day to count as a message.
pub fn count_item_to(item: &CountItem) -> v1::DayRequest {
    v1::DayRequest {
        day: item.day.number(),
        version: item.version.0.to_vec(),
        node: item.node.to_string(),
        team: item.team.to_string(),
        attempt: item.attempt,
        first_rows: item.first_rows,
        ..v1::DayRequest::default()
    }
}

pub(crate) fn count_item_from(request: &v1::DayRequest) -> Result<CountItem, Malformed> {
    Ok(CountItem {
        day: day(request.day)?,
        version: version(&request.version)?,
        node: NodeId::from(request.node.as_str()),
        team: Arc::from(request.team.as_str()),
        attempt: request.attempt,
        first_rows: request.first_rows,
    })
}

/// A row range to read as a message.
pub fn read_item_to(item: &ReadItem) -> v1::DayRequest {
    v1::DayRequest {
        day: item.day.number(),
        version: item.version.0.to_vec(),
        node: item.node.to_string(),
        team: item.team.to_string(),
        first_row: item.first_row,
        rows: item.rows().min(u64::from(u32::MAX)) as u32,
        frame_rows: if item.frame_rows.len() == 1 { Vec::new() } else { item.frame_rows.clone() },
        ..v1::DayRequest::default()
    }
}

pub(crate) fn read_item_from(request: &v1::DayRequest) -> Result<ReadItem, Malformed> {
    Ok(ReadItem {
        day: day(request.day)?,
        version: version(&request.version)?,
        node: NodeId::from(request.node.as_str()),
        team: Arc::from(request.team.as_str()),
        first_row: request.first_row,
        frame_rows: match request.frame_rows.is_empty() {
            true => vec![request.rows],
            false => request.frame_rows.clone(),
        },
    })
}

pub(crate) fn day_failure_to<I>(failure: Failure<I>, day: Day, node: &NodeId) -> v1::DayFailure {
    let cause = match failure.cause {
        Cause::Unreachable => v1::FailureCause::Unreachable,
        Cause::NotHeld => v1::FailureCause::NotHeld,
        Cause::VersionDiffers => v1::FailureCause::VersionDiffers,
        Cause::NotReady => v1::FailureCause::NotReady,
        Cause::Overloaded { .. } => v1::FailureCause::Overloaded,
        Cause::TooManyGroups => v1::FailureCause::TooManyGroups,
        Cause::BadAnswer => v1::FailureCause::BadAnswer,
        Cause::OutOfRange => v1::FailureCause::OutOfRange,
        Cause::OutOfTime => v1::FailureCause::OutOfTime,
    };
    let retry_after = match failure.cause {
        Cause::Overloaded { retry_after } => retry_after,
        _ => Duration::ZERO,
    };
    v1::DayFailure {
        day: day.number(),
        node: node.to_string(),
        cause: cause.into(),
        retry_after_ms: retry_after.as_millis() as u64,
        why: failure.why,
        nodes_tried: names(&failure.nodes_tried),
        been_at: names(&failure.been_at),
    }
}

pub(crate) fn cause_from(failure: &v1::DayFailure) -> Cause {
    match v1::FailureCause::try_from(failure.cause) {
        Ok(v1::FailureCause::Unreachable) => Cause::Unreachable,
        Ok(v1::FailureCause::NotHeld) => Cause::NotHeld,
        Ok(v1::FailureCause::VersionDiffers) => Cause::VersionDiffers,
        Ok(v1::FailureCause::NotReady) => Cause::NotReady,
        Ok(v1::FailureCause::Overloaded) => {
            Cause::Overloaded { retry_after: retry_after(failure.retry_after_ms) }
        }
        Ok(v1::FailureCause::TooManyGroups) => Cause::TooManyGroups,
        Ok(v1::FailureCause::OutOfRange) => Cause::OutOfRange,
        Ok(v1::FailureCause::OutOfTime) => Cause::OutOfTime,
        Ok(v1::FailureCause::BadAnswer | v1::FailureCause::Unspecified) | Err(_) => Cause::BadAnswer,
    }
}

/// Nobody is put off for longer, whatever another node says.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// When to come back, as another node has it.
pub(crate) fn retry_after(ms: u64) -> Duration {
    Duration::from_millis(ms).min(LONGEST_RETRY)
}

pub(crate) fn state_to(state: &NodeState) -> v1::NodeState {
    v1::NodeState {
        node: state.node.to_string(),
        incarnation: state.incarnation,
        free_compute_slots: state.free_compute_slots,
        draining: state.draining,
    }
}

pub(crate) fn state_from(state: &v1::NodeState) -> NodeState {
    NodeState {
        node: NodeId::from(state.node.as_str()),
        incarnation: state.incarnation,
        free_compute_slots: state.free_compute_slots,
        draining: state.draining,
    }
}

pub(crate) fn statistics_to(statistics: &HopStatistics) -> v1::HopStatistics {
    v1::HopStatistics {
        node: statistics.node.clone(),
        queue_ms: statistics.queue_ms,
        scan_ms: statistics.scan_ms,
        encode_ms: statistics.encode_ms,
        rows_scanned: statistics.rows_scanned,
        bytes: statistics.bytes,
        attempts: statistics.attempts,
        slowest_neighbour: statistics.slowest_neighbour.clone(),
        elapsed_ms: statistics.elapsed_ms,
    }
}

pub(crate) fn statistics_from(statistics: &v1::HopStatistics) -> HopStatistics {
    HopStatistics {
        node: statistics.node.clone(),
        queue_ms: statistics.queue_ms,
        scan_ms: statistics.scan_ms,
        encode_ms: statistics.encode_ms,
        rows_scanned: statistics.rows_scanned,
        bytes: statistics.bytes,
        attempts: statistics.attempts,
        slowest_neighbour: statistics.slowest_neighbour.clone(),
        elapsed_ms: statistics.elapsed_ms,
    }
}

/// Groups as a message; none where there are none.
pub fn groups_to(groups: &Groups) -> Option<v1::Groups> {
    let partials = groups.partials();
    let message = || v1::Groups {
        texts: groups.texts().iter().map(|text| text.to_string()).collect(),
        keys: groups.codes().to_vec(),
        counts: partials.iter().map(|partial| partial.count).collect(),
        min_e9: partials.iter().map(|partial| partial.min.0).collect(),
        max_e9: partials.iter().map(|partial| partial.max.0).collect(),
        sums_e9: partials
            .iter()
            .map(|partial| partial.sum.to_be_bytes())
            .collect::<Vec<_>>()
            .into_flattened(),
    };
    (!groups.is_empty()).then(message)
}

/// Groups of `spec`, whose keys are in the order asked.
///
/// # Errors
/// [`Malformed`] if there are groups that were not asked for, or if they are none, as
/// [`Groups::from_columns`] says.
pub fn groups_from(spec: Option<&AggregateSpec>, message: Option<v1::Groups>) -> Result<Groups, Malformed> {
    let Some(message) = message else { return Ok(Groups::default()) };
    let wrong = |what: &str| malformed("groups", what);
    let spec = spec.ok_or_else(|| wrong("none were asked for"))?;
    let (sums, rest) = message.sums_e9.as_chunks::<16>();
    let count = message.counts.len();
    if count == 0 {
        return Err(wrong("there is none"));
    }
    if [message.min_e9.len(), message.max_e9.len(), sums.len()] != [count; 3] || !rest.is_empty() {
        return Err(wrong("the columns are not of one length"));
    }
    let values = message.counts.iter().zip(&message.min_e9).zip(&message.max_e9).zip(sums);
    let partial = |(((count, min), max), sum): (((&u64, &i64), &i64), &[u8; 16])| Partial {
        count: *count,
        min: Decimal(*min),
        max: Decimal(*max),
        sum: i128::from_be_bytes(*sum),
    };
    let texts = message.texts.into_iter().map(String::into_boxed_str).collect();
    Groups::from_columns(&spec.group_by, texts, message.keys, values.map(partial).collect())
        .map_err(|why| wrong(&why.to_string()))
}

/// An inventory as a message, without days where it is `unchanged`.
pub fn inventory_to(inventory: &NodeInventory, unchanged: bool) -> v1::NodeInventory {
    let days = if unchanged { &BTreeMap::new() } else { &inventory.days };
    v1::NodeInventory {
        node: inventory.node.to_string(),
        incarnation: inventory.incarnation,
        ready: inventory.ready,
        draining: inventory.draining,
        free_compute_slots: inventory.free_compute_slots,
        files: inventory.files,
        days: days.iter().map(|(day, inventory)| day_inventory_to(*day, inventory)).collect(),
        unowned_days: inventory.unowned_days.clone(),
        unchanged,
        // What the node does is added by who answers.
        load: None,
    }
}

/// What a node does, as a message.
pub fn load_to(load: &NodeLoad) -> v1::NodeLoad {
    let traffic = |(neighbour, traffic): (&NodeId, &Traffic)| v1::Traffic {
        neighbour: neighbour.to_string(),
        requests: traffic.requests,
        bytes: traffic.bytes,
    };
    v1::NodeLoad {
        active_queries: load.active_queries,
        waiting_queries: load.waiting_queries,
        computing_pieces: load.computing_pieces,
        waiting_pieces: load.waiting_pieces,
        peer_requests_in_flight: load.peer_requests_in_flight,
        traffic: load.traffic.iter().map(traffic).collect(),
    }
}

/// What a node says that it does, as far as it is about `nodes`: it is only shown.
pub fn load_from(message: v1::NodeLoad, nodes: &BTreeSet<NodeId>) -> NodeLoad {
    let traffic = |traffic: &v1::Traffic| {
        let neighbour = nodes.get(traffic.neighbour.as_str())?.clone();
        Some((neighbour, Traffic { requests: traffic.requests, bytes: traffic.bytes }))
    };
    NodeLoad {
        active_queries: message.active_queries,
        waiting_queries: message.waiting_queries,
        computing_pieces: message.computing_pieces,
        waiting_pieces: message.waiting_pieces,
        peer_requests_in_flight: message.peer_requests_in_flight,
        traffic: message.traffic.iter().filter_map(traffic).collect(),
    }
}

fn day_inventory_to(day: Day, inventory: &DayInventory) -> v1::DayInventory {
    let replaced =
        |(version, statistics): (&Version, &Arc<DayStatistics>)| held_to(day, *version, statistics);
    v1::DayInventory {
        rejected: inventory.rejected.clone(),
        replaced: inventory.replaced.iter().map(replaced).collect(),
        ..held_to(day, inventory.version, &inventory.statistics)
    }
}

/// A day at one version.
fn held_to(day: Day, version: Version, statistics: &DayStatistics) -> v1::DayInventory {
    let place =
        statistics.place.unwrap_or(PlaceBounds { lat_min: 0.0, lat_max: 0.0, lon_min: 0.0, lon_max: 0.0 });
    let parameter = |(name, of): (&String, &ParameterStatistics)| v1::ParameterStatistics {
        parameter: name.clone(),
        rows: of.rows,
        missing: of.missing,
        value_min_e9: of.min.map(|value| value.0),
        value_max_e9: of.max.map(|value| value.0),
    };
    v1::DayInventory {
        day: day.number(),
        files: statistics.files,
        rows: statistics.rows,
        rejected_rows: statistics.rejected_rows,
        version: version.0.to_vec(),
        parameters: statistics.parameters.iter().map(parameter).collect(),
        lat_min: place.lat_min,
        lat_max: place.lat_max,
        lon_min: place.lon_min,
        lon_max: place.lon_max,
        worst_row_bytes_arrow: statistics.worst_row_bytes.arrow,
        worst_row_bytes_json: statistics.worst_row_bytes.json,
        worst_row_bytes_json_legacy: statistics.worst_row_bytes.json_legacy,
        ..v1::DayInventory::default()
    }
}

/// The inventory that a message stands for.
///
/// # Errors
/// [`Malformed`] if it stands for none.
pub fn inventory_from(message: &v1::NodeInventory) -> Result<NodeInventory, Malformed> {
    let days = message.days.iter().map(|inventory| Ok((day(inventory.day)?, day_inventory_from(inventory)?)));
    let days = days.collect::<Result<BTreeMap<_, _>, _>>()?;
    if days.len() != message.days.len() {
        return Err(malformed("days", "a day comes twice"));
    }
    Ok(NodeInventory {
        node: NodeId::from(message.node.as_str()),
        incarnation: message.incarnation,
        ready: message.ready,
        draining: message.draining,
        free_compute_slots: message.free_compute_slots,
        files: message.files,
        days,
        unowned_days: message.unowned_days.clone(),
    })
}

fn day_inventory_from(message: &v1::DayInventory) -> Result<DayInventory, Malformed> {
    let replaced = message.replaced.iter().map(held_from).collect::<Result<BTreeMap<_, _>, _>>()?;
    if replaced.len() != message.replaced.len() {
        return Err(malformed("replaced", "a version comes twice"));
    }
    let (version, statistics) = held_from(message)?;
    Ok(DayInventory { version, statistics, rejected: message.rejected.clone(), replaced })
}

/// What a day is at one version.
fn held_from(message: &v1::DayInventory) -> Result<(Version, Arc<DayStatistics>), Malformed> {
    let parameter = |of: &v1::ParameterStatistics| {
        let statistics = ParameterStatistics {
            rows: of.rows,
            missing: of.missing,
            min: of.value_min_e9.map(Decimal),
            max: of.value_max_e9.map(Decimal),
        };
        (of.parameter.clone(), statistics)
    };
    let parameters: BTreeMap<_, _> = message.parameters.iter().map(parameter).collect();
    if parameters.len() != message.parameters.len() {
        return Err(malformed("parameters", "a parameter comes twice"));
    }
    let statistics = DayStatistics {
        rows: message.rows,
        rejected_rows: message.rejected_rows,
        files: message.files,
        parameters,
        place: (message.rows > 0).then_some(PlaceBounds {
            lat_min: message.lat_min,
            lat_max: message.lat_max,
            lon_min: message.lon_min,
            lon_max: message.lon_max,
        }),
        worst_row_bytes: WorstRowBytes {
            arrow: message.worst_row_bytes_arrow,
            json: message.worst_row_bytes_json,
            json_legacy: message.worst_row_bytes_json_legacy,
        },
    };
    Ok((version(&message.version)?, Arc::new(statistics)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_groups_are_as_long_as_there_are_groups() {
        let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Hour, GroupKey::Site] };
        let two = v1::Groups {
            texts: vec!["here".to_owned()],
            keys: vec![1, 0, 23, 0],
            counts: vec![1, 2],
            min_e9: vec![-5, 6],
            max_e9: vec![-5, 7],
            sums_e9: [i128::from(-5), 13].map(i128::to_be_bytes).concat(),
        };
        let groups = groups_from(Some(&spec), Some(two.clone())).unwrap();
        assert_eq!((groups.partials()[0].sum, groups.partials()[1].sum), (-5, 13));
        assert_eq!(groups_to(&groups), Some(two.clone()));
        assert_eq!(groups_from(None, None).unwrap().len(), 0);
        assert!(groups_from(None, Some(two.clone())).is_err(), "no aggregate was asked for");
        let cut: [fn(&mut v1::Groups); 7] = [
            |groups| groups.counts.truncate(1),
            |groups| groups.min_e9.truncate(1),
            |groups| groups.max_e9.truncate(1),
            |groups| groups.sums_e9.truncate(16),
            |groups| groups.sums_e9.truncate(31),
            |groups| groups.keys.truncate(3),
            |groups| *groups = v1::Groups::default(),
        ];
        for cut in cut {
            let mut groups = two.clone();
            cut(&mut groups);
            assert!(groups_from(Some(&spec), Some(groups.clone())).is_err(), "{groups:?}");
        }
    }

    #[test]
    fn owned_days_are_in_order_and_never_none() {
        let owned = |ranges: &[(u32, u32)]| {
            let message = |&(first_day, last_day): &(u32, u32)| v1::OwnedDays {
                team: "green".into(),
                first_day,
                last_day,
            };
            owned_from(&ranges.iter().map(message).collect::<Vec<_>>())
        };
        let two = owned(&[(20200810, 20200810), (20200811, 20200820)]).unwrap();
        let days: Vec<usize> = two.iter().map(|(_, range)| range.days().count()).collect();
        assert_eq!(days, [1, 10]);
        for wrong in [
            &[][..],
            &[(20200810, 20200809)],
            &[(20200810, 20200230)],
            &[(20200810, 20200812), (20200812, 20200813)],
            &[(20200811, 20200812), (20200810, 20200810)],
            &[(20000101, 20991231), (21000101, 21991231)],
        ] {
            assert!(owned(wrong).is_err(), "{wrong:?}");
        }
    }
}
