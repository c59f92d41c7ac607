//! Request -> plan: which days, at which version, which of them can be left out and why.
//!
//! Pure: a plan follows from the query, the configuration and what is known of the holders. Nothing
//! here knows who is asked in the end; [`crate::gather`] divides the work.

mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::sync::Arc;

use crate::aggregate::AggregateSpec;
use crate::chunking::ChunkBounds;
use crate::config::{Chunking, NodeId, Overlay};
use crate::day::{Day, DayRange};
use crate::decimal::Decimal;
use crate::error::shown;
use crate::frame::{self, Encoding};
use crate::predicate::{Place, Predicate};
use crate::store::{DayStatistics, ParameterStatistics, Version};

pub use self::known::Known;
use self::known::{KnownDay, Serving};

/// A query whose every part was checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Which rows.
    pub predicate: Predicate,
    /// First day wanted.
    pub date_start: Option<Day>,
    /// Last day wanted.
    pub date_end: Option<Day>,
    /// Only days of this team. A team that owns no day gives an empty result.
    pub team: Option<String>,
    /// Rows, or groups of an aggregate; `None`: all.
    pub limit: Option<u64>,
    /// Groups instead of rows.
    pub aggregate: Option<AggregateSpec>,
    /// How frames are encoded.
    pub encoding: Encoding,
    /// How chunks are cut; what is absent is as configured.
    pub chunking: ChunkingChoice,
    /// Whether a result may lack days that nobody could answer for.
    pub allow_partial: bool,
    /// Versions that days must have, to resume an earlier result. A partial result is resumed without the days that it
    /// lacks: those have none.
    pub expected_versions: BTreeMap<Day, Version>,
}

/// Rows of a fixed chunk for who reads the whole result as one stream, and does not say. A chunk costs some 2 KiB and as many
/// steps whatever is in it: of 225,521 rows, 500 in each chunk took twice to three times as long to read.
pub const STREAMED_CHUNK_ROWS: u32 = 10_000;

/// What a client chose about chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkingChoice {
    /// How the number of rows is chosen.
    pub strategy: Option<Chunking>,
    /// Rows of a fixed chunk.
    pub chunk_rows: Option<u32>,
    /// Encoded bytes that a chunk may have.
    pub chunk_bytes: Option<u32>,
}

/// A query that cannot be run as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct InvalidQuery {
    /// The field that is to blame, as the request names it; the first one of a pair.
    pub field: &'static str,
    /// What it holds, and what it may hold.
    pub why: String,
}

impl InvalidQuery {
    /// A query that cannot be run because of `field`.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        InvalidQuery { field, why: why.into() }
    }
}

/// What will be asked, and what need not be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryPlan {
    /// The query.
    pub query: Query,
    /// Every planned day, in order.
    pub days: Vec<PlannedDay>,
    /// How chunks are cut.
    pub bounds: ChunkBounds,
}

/// Names what a plan computes.
pub type PlanKey = Arc<[u8]>;

/// One planned day.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDay {
    /// The day.
    pub day: Day,
    /// The team that owns it.
    pub team: Arc<str>,
    /// What is to be done about it.
    pub fate: Fate,
}

/// What is to be done about a planned day.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// A holder has to be asked.
    Ask(Ask),
    /// The statistics of this version show that no row matches.
    Pruned {
        /// Which statistics, in words.
        by: String,
        /// The version that they describe.
        version: Version,
    },
    /// This holder says that the day has no files; or had none, if that is expected.
    NoData(NodeId),
    /// No holder's inventory is known.
    OutOfReach {
        /// All holders, in placement order.
        holders: Vec<NodeId>,
    },
    /// A partial result that is resumed lacks the day.
    NotResumed,
    /// Every holder was heard of and none has the expected version any more, nor keeps it.
    VersionGone {
        /// The version that was expected.
        expected: Version,
        /// All holders, in placement order.
        holders: Vec<NodeId>,
    },
}

/// A day that a holder has to be asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The pinned version.
    pub version: Version,
    /// Rows that a scan reads.
    pub rows_to_scan: u64,
    /// Rows that can match, from the statistics.
    pub rows_at_most: u64,
    /// Bytes that one row may take in the query's encoding.
    pub worst_row_bytes: u32,
    /// Holders of the pinned version in placement order, those that are marked last.
    pub holders: Arc<[NodeId]>,
}

impl Query {
    /// Checks what no single field shows.
    ///
    /// # Errors
    /// [`InvalidQuery`] that names the fields and what they hold.
    pub fn check(&self, overlay: &Overlay) -> Result<(), InvalidQuery> {
        let place = &self.predicate.place;
        if let (Some(start), Some(end)) = (self.date_start, self.date_end)
            && start > end
        {
            return Err(InvalidQuery::new(
                "date_start",
                format!("date_start {start} is after date_end {end}"),
            ));
        }
        check_place(["lat_min", "lat_max"], [place.lat_min, place.lat_max], 90.0)?;
        check_place(["lon_min", "lon_max"], [place.lon_min, place.lon_max], 180.0)?;
        let limits = &overlay.limits;
        if let Some(limit) = self.limit
            && limit > limits.max_rows
        {
            let why = format!(
                "limit {limit} out of range: must be at most {} (limits.max_rows); leave it out for all rows",
                limits.max_rows
            );
            return Err(InvalidQuery::new("limit", why));
        }
        if let Some(rows) = self.chunking.chunk_rows
            && rows == 0
        {
            return Err(InvalidQuery::new("chunk_rows", "chunk_rows 0 out of range: must be at least 1"));
        }
        if let Some(bytes) = self.chunking.chunk_bytes
            && !(4096..=limits.chunk_bytes).contains(&(bytes as usize))
        {
            let why = format!(
                "chunk_bytes {bytes} out of range: must be between 4096 and {} (limits.chunk_bytes), both inclusive",
                limits.chunk_bytes
            );
            return Err(InvalidQuery::new("chunk_bytes", why));
        }
        if let Some(spec) = &self.aggregate {
            let mut seen = BTreeSet::new();
            if let Some(twice) = spec.group_by.iter().find(|key| !seen.insert(**key)) {
                return Err(InvalidQuery::new(
                    "group_by",
                    format!("group_by names `{}` twice", twice.name()),
                ));
            }
        }
        Ok(())
    }

    /// The planned days: of those that teams own, the ones that lie inside the query's dates and are of its team.
    pub fn planned_days<'a>(
        &self,
        owned: impl IntoIterator<Item = (&'a str, DayRange)>,
    ) -> Vec<(Day, &'a str)> {
        let mut days: Vec<(Day, &'a str)> = owned
            .into_iter()
            .filter(|(team, _)| self.team.as_ref().is_none_or(|wanted| team == wanted))
            .flat_map(|(team, owned)| {
                let wanted = DayRange {
                    start: self.date_start.unwrap_or(owned.start),
                    end: self.date_end.map_or(owned.end, Day::next),
                };
                wanted.intersect(&owned).days().map(move |day| (day, team))
            })
            .collect();
        days.sort();
        days
    }
}

/// The query in words: `rows of PM2.5, value 5.0 to 35.0, days from 20200810, at most 2000`.
impl fmt::Display for Query {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Predicate { parameter, min, max, place, site, agency, text } = &self.predicate;
        match &self.aggregate {
            Some(spec) => {
                let keys: Vec<&str> = spec.group_by.iter().map(|key| key.name()).collect();
                write!(formatter, "{} by [{}]", spec.of.name(), keys.join(", "))?;
            }
            None => write!(formatter, "rows")?,
        }
        write!(formatter, " of {}", parameter.as_deref().unwrap_or("every parameter"))?;
        let mut range = |name: &str, low: Option<String>, high: Option<String>| match (low, high) {
            (None, None) => Ok(()),
            (Some(low), None) => write!(formatter, ", {name} from {low}"),
            (None, Some(high)) => write!(formatter, ", {name} up to {high}"),
            (Some(low), Some(high)) => write!(formatter, ", {name} {low} to {high}"),
        };
        fn text_of(value: Option<impl ToString>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        range("value", text_of(*min), text_of(*max))?;
        range("latitude", text_of(place.lat_min), text_of(place.lat_max))?;
        range("longitude", text_of(place.lon_min), text_of(place.lon_max))?;
        range("days", text_of(self.date_start), text_of(self.date_end))?;
        for (name, part) in [("site", site), ("agency", agency), ("text", text), ("team", &self.team)] {
            if let Some(part) = part {
                write!(formatter, ", {name} `{part}`")?;
            }
        }
        match self.limit {
            Some(limit) => write!(formatter, ", at most {limit}"),
            None => Ok(()),
        }
    }
}

fn check_place(fields: [&'static str; 2], bounds: [Option<f64>; 2], limit: f64) -> Result<(), InvalidQuery> {
    for (field, bound) in fields.into_iter().zip(bounds) {
        if let Some(bound) = bound
            && !(-limit..=limit).contains(&bound)
        {
            let why = format!("{field} {bound} out of range: must be between {} and {limit} degrees", -limit);
            return Err(InvalidQuery::new(field, why));
        }
    }
    match (fields, bounds) {
        ([lowest, highest], [Some(min), Some(max)]) if min > max => {
            Err(InvalidQuery::new(lowest, format!("{lowest} {min} is above {highest} {max}")))
        }
        _ => Ok(()),
    }
}

/// Plans a query over `days`, as [`Query::planned_days`] gives them.
pub fn plan(query: Query, days: &[(Day, &str)], overlay: &Overlay, known: &Known) -> QueryPlan {
    let planned = |(day, team): &(Day, &str)| match known.day(*day) {
        Some(known) => PlannedDay { day: *day, team: known.team.clone(), fate: fate(&query, *day, known) },
        None => {
            let fate = Fate::OutOfReach { holders: Vec::new() };
            PlannedDay { day: *day, team: Arc::from(*team), fate }
        }
    };
    let days: Vec<PlannedDay> = days.iter().map(planned).collect();
    let bounds = chunk_bounds(&query, &days, overlay);
    QueryPlan { query, days, bounds }
}

fn fate(query: &Query, day: Day, known: &KnownDay) -> Fate {
    let expected = query.expected_versions.get(&day);
    // Also a day beyond the limit, which is not needed either.
    if expected.is_none() && query.allow_partial && !query.expected_versions.is_empty() {
        return Fate::NotResumed;
    }
    // Also who has other data by now, and keeps those that are expected.
    let having = |version| known.serving.iter().filter_map(move |one| Some((&one.node, one.at(version)?)));
    let first = known.serving.first();
    let chosen = match expected {
        Some(version) => having(*version).next().map(|(node, statistics)| (node, *version, statistics)),
        None => first.map(|Serving { node, version, statistics, .. }| (node, *version, &**statistics)),
    };
    let Some((node, version, statistics)) = chosen else {
        let holders = known.holders.clone();
        return match expected {
            Some(expected) if known.serving.len() == holders.len() => {
                Fate::VersionGone { expected: *expected, holders }
            }
            _ => Fate::OutOfReach { holders },
        };
    };
    if statistics.files == 0 {
        return Fate::NoData(node.clone());
    }
    let wanted = Wanted::of(&query.predicate, statistics);
    if let Some(by) = pruned_by(&query.predicate, statistics, &wanted) {
        return Fate::Pruned { by, version };
    }
    let by_value = query.predicate.min.is_some() || query.predicate.max.is_some();
    let holders = match expected {
        Some(_) => having(version).map(|(node, _)| node.clone()).collect(),
        None => known.of_first_version.clone(),
    };
    Fate::Ask(Ask {
        version,
        rows_to_scan: statistics.rows,
        rows_at_most: wanted.rows - if by_value { wanted.missing } else { 0 },
        worst_row_bytes: query.encoding.of(&statistics.worst_row_bytes),
        holders,
    })
}

/// What the statistics of a day say of the parameters that a predicate wants, together.
#[derive(Default)]
struct Wanted {
    rows: u64,
    missing: u64,
    values: Option<(Decimal, Decimal)>,
}

impl Wanted {
    fn of(predicate: &Predicate, statistics: &DayStatistics) -> Self {
        let mut wanted = Wanted::default();
        match &predicate.parameter {
            Some(name) => statistics.parameters.get(name).into_iter().for_each(|of| wanted.add(of)),
            None => statistics.parameters.values().for_each(|of| wanted.add(of)),
        }
        wanted
    }

    fn add(&mut self, of: &ParameterStatistics) {
        self.rows += of.rows;
        self.missing += of.missing;
        if let (Some(min), Some(max)) = (of.min, of.max) {
            let (least, greatest) = self.values.unwrap_or((min, max));
            self.values = Some((least.min(min), greatest.max(max)));
        }
    }
}

/// Why no row of a day can match, in words; `None` if one may.
fn pruned_by(predicate: &Predicate, statistics: &DayStatistics, wanted: &Wanted) -> Option<String> {
    if let Some(parameter) = &predicate.parameter
        && !statistics.parameters.contains_key(parameter)
    {
        return Some(format!("no row of parameter {}", shown(parameter)));
    }
    if predicate.min.is_some() || predicate.max.is_some() {
        match wanted.values {
            None => return Some("no row has a concentration".to_owned()),
            Some((least, _)) if predicate.max.is_some_and(|max| max < least) => {
                return Some(format!("smallest concentration {least}"));
            }
            Some((_, greatest)) if predicate.min.is_some_and(|min| min > greatest) => {
                return Some(format!("largest concentration {greatest}"));
            }
            Some(_) => {}
        }
    }
    match &statistics.place {
        Some(bounds) if predicate.place != Place::default() => {
            let wanted = &predicate.place;
            let outside = wanted.lat_min.is_some_and(|bound| bounds.lat_max < bound)
                || wanted.lat_max.is_some_and(|bound| bounds.lat_min > bound)
                || wanted.lon_min.is_some_and(|bound| bounds.lon_max < bound)
                || wanted.lon_max.is_some_and(|bound| bounds.lon_min > bound);
            outside.then(|| {
                format!(
                    "sites lie between latitudes {} and {}, longitudes {} and {}",
                    bounds.lat_min, bounds.lat_max, bounds.lon_min, bounds.lon_max
                )
            })
        }
        Some(_) => None,
        None => Some("no row parsed".to_owned()),
    }
}

/// How chunks are cut, as far as it is known before it is known which days rows are taken from.
fn chunk_bounds(query: &Query, days: &[PlannedDay], overlay: &Overlay) -> ChunkBounds {
    let worst = |planned: &PlannedDay| match &planned.fate {
        Fate::Ask(ask) => Some(ask.worst_row_bytes),
        _ => None,
    };
    let choice = &query.chunking;
    ChunkBounds {
        strategy: choice.strategy.unwrap_or(overlay.strategies.chunking),
        fixed_rows: choice.chunk_rows.unwrap_or(overlay.strategies.chunk_size),
        may_grow: choice.chunk_rows.is_none(),
        chunk_bytes: choice.chunk_bytes.unwrap_or(overlay.limits.chunk_bytes as u32),
        worst_row_bytes: days.iter().filter_map(worst).max().unwrap_or(1),
        frame_overhead_bytes: frame::frame_overhead_bytes(query.encoding),
    }
}

impl QueryPlan {
    /// Equal for plans that give equal results: predicate, days and versions, limit, encoding, chunks.
    pub fn key(&self) -> PlanKey {
        let Query { predicate, limit, aggregate, encoding, allow_partial, .. } = &self.query;
        let ChunkBounds { strategy, fixed_rows, chunk_bytes, may_grow, .. } = self.bounds;
        let mut key = Vec::with_capacity(512 + 32 * self.days.len());
        // Writing to memory does not fail. A query that accepts missing days must not share the run of one that does not.
        let _ = write!(
            key,
            "{predicate:?}|{limit:?}|{aggregate:?}|{encoding:?}|{strategy:?} {fixed_rows} {chunk_bytes} \
             {may_grow}|{allow_partial}|"
        );
        for planned in &self.days {
            key.extend(planned.day.number().to_le_bytes());
            match &planned.fate {
                Fate::Ask(ask) => {
                    key.push(b'a');
                    key.extend(ask.version.0);
                }
                Fate::Pruned { version, .. } => {
                    key.push(b'p');
                    key.extend(version.0);
                }
                // Whoever says so: the next one does when that one is gone.
                Fate::NoData(_) => key.push(b'n'),
                fate => {
                    let _ = write!(key, "{fate:?}|");
                }
            }
        }
        key.into()
    }

    /// The days that have to be asked for, with what to ask.
    pub fn asks(&self) -> impl Iterator<Item = (&PlannedDay, &Ask)> {
        self.days.iter().filter_map(|planned| match &planned.fate {
            Fate::Ask(ask) => Some((planned, ask)),
            _ => None,
        })
    }

    /// The planned days.
    pub fn day_list(&self) -> Vec<Day> {
        self.days.iter().map(|planned| planned.day).collect()
    }

    /// Rows to scan by team: what the query is expected to cost.
    pub fn cost_by_team(&self) -> BTreeMap<Arc<str>, u64> {
        let mut cost = BTreeMap::new();
        for (planned, ask) in self.asks() {
            *cost.entry(planned.team.clone()).or_default() += ask.rows_to_scan;
        }
        cost
    }

    /// About how many bytes this value takes.
    pub fn bytes(&self) -> usize {
        let of_fate = |planned: &PlannedDay| match &planned.fate {
            Fate::Ask(ask) => ask.holders.len() * size_of::<NodeId>(),
            Fate::Pruned { by, .. } => by.len(),
            _ => 0,
        };
        let fates: usize = self.days.iter().map(of_fate).sum();
        size_of::<Self>()
            + self.query.predicate.bytes()
            + self.query.expected_versions.len() * (size_of::<(Day, Version)>() + 16)
            + self.days.len() * (size_of::<PlannedDay>() + 16)
            + fates
    }
}

#[cfg(test)]
mod tests;
