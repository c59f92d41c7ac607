//! The computing of one request: pieces of it under permits, charged with what they cost, and what they took.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::Holder;
use crate::admission::Requester;
use crate::predicate::Predicate;
use crate::scan::BoundPredicate;
use crate::store::Store;
use crate::trace::step;
use crate::verb::{Call, Cause, HopStatistics, Selection};

/// The computing of one request, or of a part of it: permits in, time out.
pub(super) struct Work<'a> {
    holder: &'a Holder,
    call: &'a Call,
    /// The data that it began with.
    pub(super) store: Arc<Store>,
    /// Whether all of it together takes less time than handing pieces to another thread.
    is_short: bool,
    pub(super) selecting: Arc<Selecting>,
    started: Instant,
    statistics: HopStatistics,
}

impl<'a> Work<'a> {
    /// Work of a request that costs about as much as scanning so many rows.
    pub(super) fn new(
        holder: &'a Holder,
        call: &'a Call,
        store: &Arc<Store>,
        selection: &Selection,
        cost: u64,
    ) -> Self {
        Work {
            holder,
            call,
            store: store.clone(),
            is_short: cost <= holder.short_rows,
            selecting: Arc::new(Selecting { predicate: selection.predicate.clone(), bound: OnceLock::new() }),
            started: Instant::now(),
            statistics: HopStatistics { node: holder.node.to_string(), ..HopStatistics::default() },
        }
    }

    /// The items in order, in as many parts as slots are free, but at most so many, which cost about the same: a request of
    /// many days that nobody competes with uses all cores. One that is short is one part.
    pub(super) fn in_parts<I>(&self, items: Vec<I>, most: usize, cost: impl Fn(&I) -> u64) -> Vec<Vec<I>> {
        let most = if self.is_short { 1 } else { self.holder.slots.free_slots().clamp(1, most) };
        let share = items.iter().map(&cost).sum::<u64>().div_ceil(most as u64).max(1);
        let mut parts: Vec<Vec<I>> = std::iter::repeat_with(Vec::new).take(most).collect();
        let mut before = 0;
        for item in items {
            let cost = cost(&item);
            // Where its middle lies.
            let part = ((before + cost / 2) / share).min(most as u64 - 1);
            before += cost;
            parts[part as usize].push(item);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Work of a part of the request, to be [added](Self::add) when it is done.
    pub(super) fn part(&self) -> Self {
        let (store, selecting) = (self.store.clone(), self.selecting.clone());
        Work { store, selecting, statistics: HopStatistics::default(), ..*self }
    }

    /// Counts in what a part has done.
    pub(super) fn add(&mut self, part: Work<'a>) {
        self.statistics.merge(part.statistics);
    }

    /// Runs one piece under a permit of the team and the client.
    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        step: Step,
        team: &Arc<str>,
        cost: u64,
        piece: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Done<T>, Refusal> {
        let (client, due) = (self.call.client.clone(), self.call.deadline);
        let requester = Requester { team: team.clone(), client, due };
        let asked = Instant::now();
        let acquiring = self.holder.slots.acquire(&requester, cost.max(1));
        let permit = match acquiring.instrument(step!("queue wait")).await {
            Ok(permit) => permit,
            Err(overloaded) => {
                let retry_after = overloaded.retry_after;
                return Err(Refusal(Cause::Overloaded { retry_after }, overloaded.to_string()));
            }
        };
        let granted = Instant::now();
        self.statistics.queue_ms += milliseconds(granted - asked);
        // The slot goes with the piece: one that nobody waits for any more keeps it to its end.
        let (_owner, work) = self.holder.metrics.orphans().tie();
        let span = step.span(team, cost);
        let holding = move || {
            let result = span.in_scope(piece);
            drop((permit, work));
            result
        };
        let compute = self.holder.compute;
        let result = match self.is_short && cost <= self.holder.short_rows {
            true => compute.run_here(cost, holding).await,
            false => compute.run(cost, holding).await,
        };
        let took = granted.elapsed();
        self.holder.metrics.computed(step.name(), self.holder.class(&self.call.client), took);
        Ok(Done { result, took })
    }

    pub(super) fn scanned(&mut self, rows: u64, took: Duration) {
        self.statistics.rows_scanned += rows;
        self.statistics.scan_ms += milliseconds(took);
    }

    pub(super) fn encoded(&mut self, bytes: u64, took: Duration) {
        self.statistics.bytes += bytes;
        self.statistics.encode_ms += milliseconds(took);
        self.holder.metrics.frame_encoded(bytes, took);
    }

    pub(super) fn statistics(mut self) -> HopStatistics {
        self.statistics.elapsed_ms = milliseconds(self.started.elapsed());
        self.statistics
    }
}

/// What a piece of work does.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Scan,
    /// Adds rows to their groups.
    Add,
    /// Gives groups their names.
    Name,
    Encode,
}

impl Step {
    /// As metrics have it.
    fn name(self) -> &'static str {
        match self {
            Step::Scan => "scan",
            Step::Add => "add",
            Step::Name => "name",
            Step::Encode => "encode",
        }
    }

    /// Its span, which begins now. `cost` is in rows to scan.
    fn span(self, team: &str, cost: u64) -> Span {
        let cost = cost as i64;
        match self {
            Step::Scan => step!("scan", overlay.team = team, overlay.cost = cost),
            Step::Add => step!("add", overlay.team = team, overlay.cost = cost),
            Step::Name => step!("name groups", overlay.team = team, overlay.cost = cost),
            Step::Encode => step!("encode", overlay.team = team, overlay.cost = cost),
        }
    }
}

pub(super) struct Done<T> {
    pub(super) result: T,
    pub(super) took: Duration,
}

/// Why a holder does not answer an item.
pub(super) struct Refusal(pub(super) Cause, pub(super) String);

/// A predicate that is decided for the sites of a store when it is first needed, once in a request.
pub(super) struct Selecting {
    predicate: Arc<Predicate>,
    bound: OnceLock<BoundPredicate>,
}

impl Selecting {
    pub(super) fn bound(&self, store: &Store) -> &BoundPredicate {
        self.bound.get_or_init(|| BoundPredicate::new(store, &self.predicate))
    }
}

/// The rows of each day that are computed together: all of several days, which are not too many, or one after the other of
/// the pieces of at most `quantum` rows that a day is cut into.
pub(super) fn pieces(day_rows: &[usize], quantum: u32) -> Vec<Vec<Range<usize>>> {
    match day_rows {
        [] => Vec::new(),
        [rows] => {
            let starts = (0..*rows).step_by(quantum as usize);
            let piece = |start: usize| start..(start + quantum as usize).min(*rows);
            starts.map(|start| Vec::from([piece(start)])).collect()
        }
        several => vec![several.iter().map(|rows| 0..*rows).collect()],
    }
}

pub(super) fn rows_in(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
