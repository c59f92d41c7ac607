//! A result set is a value: the resolved plan, the pinned version and the row count of each day, the
//! chunk boundaries. About a kilobyte; no rows, no selections.
//!
//! The node that a client asked keeps it under a lease, see [`Leases`]. A chunk maps to row ranges of days, which
//! any holder of their versions can read, as often as wanted.

mod leases;
mod reading;

use std::ops::Range;
use std::sync::Arc;

use crate::coverage::{Entry, Outcome};
use crate::day::Day;
use crate::plan::{Ask, Fate, PlanKey, PlannedDay, QueryPlan};
use crate::store::Version;

pub use leases::{
    LEASE_OVERHEAD_BYTES, LeaseError, LeaseLimits, Leases, Owner, ResultSetLimit, TooManyResultSets,
};
pub use reading::{WINDOW_CHUNKS, Window};

/// What a query was answered with, as long as its chunks can be read.
#[derive(Debug)]
pub struct ResultSet {
    /// Equal for equal results; see [`QueryPlan::key`].
    pub key: PlanKey,
    /// The plan that was run.
    pub plan: Arc<QueryPlan>,
    /// One entry for each planned day.
    pub ledger: Vec<Entry>,
    /// Rows, or groups of an aggregate.
    pub total_records: u64,
    /// Whether the limit cut the result, or filled it exactly.
    pub limit_reached: bool,
    /// First record of each chunk, and the end of the last one; never fewer than two.
    boundaries: Vec<u64>,
    /// The entries of the ledger that rows are taken from: the record after the last one of each, and its place.
    day_ends: Vec<(u64, usize)>,
}

/// Rows of one day's result that a chunk consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRows {
    /// The day.
    pub day: Day,
    /// Its pinned version.
    pub version: Version,
    /// The holder that counted it, which is asked first.
    pub counted_by: String,
    /// First row, in the day's result.
    pub first_row: u64,
    /// Rows.
    pub rows: u32,
}

impl ResultSet {
    /// A result whose chunks have `chunk_rows` records each.
    pub fn new(
        key: PlanKey,
        plan: Arc<QueryPlan>,
        ledger: Vec<Entry>,
        total_records: u64,
        limit_reached: bool,
        chunk_rows: &[u32],
    ) -> Self {
        let mut boundaries = Vec::with_capacity(chunk_rows.len() + 1);
        boundaries.push(0);
        let mut end = 0;
        for rows in chunk_rows {
            end += u64::from(*rows);
            boundaries.push(end);
        }
        assert_eq!(end, total_records, "chunks tile the result");
        let day_ends = day_ends(&ledger);
        ResultSet { key, plan, ledger, total_records, limit_reached, boundaries, day_ends }
    }

    /// Chunks; an empty result has one.
    pub fn chunk_count(&self) -> u32 {
        self.boundaries.len() as u32 - 1
    }

    /// Records of each chunk.
    pub fn chunk_rows(&self) -> Vec<u32> {
        self.boundaries.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect()
    }

    /// The records `[start, end)` that chunk `index` has; `None` beyond the last chunk.
    pub fn chunk_range(&self, index: u32) -> Option<Range<u64>> {
        let index = index as usize;
        Some(*self.boundaries.get(index)?..*self.boundaries.get(index + 1)?)
    }

    /// The row ranges of days that chunk `index` consists of, in day order.
    pub fn chunk_days(&self, index: u32) -> Option<Vec<DayRows>> {
        let range = self.chunk_range(index)?;
        let first = self.day_ends.partition_point(|(end, _)| *end <= range.start);
        Some(days_between(&self.ledger, &self.day_ends[first..], self.records_before(first), range))
    }

    /// The planned day, with what was to be asked.
    pub fn ask(&self, day: Day) -> Option<(&PlannedDay, &Ask)> {
        let index = self.plan.days.binary_search_by_key(&day, |planned| planned.day).ok()?;
        match &self.plan.days[index].fate {
            Fate::Ask(ask) => Some((&self.plan.days[index], ask)),
            _ => None,
        }
    }

    fn records_before(&self, day_index: usize) -> u64 {
        day_index.checked_sub(1).map_or(0, |before| self.day_ends[before].0)
    }

    /// About how many bytes this value takes.
    pub fn bytes(&self) -> usize {
        let texts = |entry: &Entry| match &entry.outcome {
            Outcome::Missing { why, nodes_tried } => {
                why.len() + nodes_tried.iter().map(|node| size_of::<String>() + node.len()).sum::<usize>()
            }
            Outcome::Pruned { by, .. } => by.len(),
            _ => 16,
        };
        let entry_bytes: usize =
            self.ledger.iter().map(|entry| size_of::<Entry>() + entry.team.len() + texts(entry)).sum();
        size_of::<Self>()
            + self.key.len()
            + entry_bytes
            + self.boundaries.len() * size_of::<u64>()
            + self.day_ends.len() * size_of::<(u64, usize)>()
            + self.plan.bytes()
    }
}

/// The row ranges of days that the records `range` of a result consist of, in day order.
pub fn days_of_range(ledger: &[Entry], range: Range<u64>) -> Vec<DayRows> {
    days_between(ledger, &day_ends(ledger), 0, range)
}

fn day_ends(ledger: &[Entry]) -> Vec<(u64, usize)> {
    let mut end = 0u64;
    let taken = ledger.iter().enumerate().filter_map(|(index, entry)| match &entry.outcome {
        Outcome::Served(served) if served.rows_taken > 0 => {
            end = end.saturating_add(served.rows_taken);
            Some((end, index))
        }
        _ => None,
    });
    taken.collect()
}

/// The parts of days inside `range`; the first of `day_ends` begins with the record `start`.
fn days_between(
    ledger: &[Entry],
    day_ends: &[(u64, usize)],
    mut start: u64,
    range: Range<u64>,
) -> Vec<DayRows> {
    let mut days = Vec::new();
    for (end, index) in day_ends {
        if start >= range.end {
            break;
        }
        let Entry { day, outcome: Outcome::Served(served), .. } = &ledger[*index] else { continue };
        let (first, behind) = (range.start.max(start), range.end.min(*end));
        if first < behind {
            days.push(DayRows {
                day: *day,
                version: served.version,
                counted_by: served.node.clone(),
                first_row: first - start,
                rows: (behind - first) as u32,
            });
        }
        start = *end;
    }
    days
}
