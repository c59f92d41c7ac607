//! Counts and reads for the node that plans: chooses a holder for each day, and another one for the days that come
//! back unanswered, under the caller's deadline.
//!
//! What is sent, sent again and taken stands in `attempts`. How a request gets to its holder is [`crate::relay`]'s.

mod attempts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::aggregate::Groups;
use crate::config::{NodeId, Overlay};
use crate::coverage::Served;
use crate::day::Day;
use crate::holder::SCANNED_ROWS_PER_ADDED_ROW;
use crate::inventory::Snapshot;
use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::route::{self, Candidate, DayNeed};
use crate::store::Version;
use crate::verb::{Call, Cause, Count, Frame, HopStatistics, Read};

use self::attempts::{Attempts, HedgeBudget, need};

/// Asks the overlay for whole days.
pub struct Gather {
    overlay: Arc<Overlay>,
    relay: Arc<Relay>,
    turn: AtomicU64,
    hedges: Mutex<HedgeBudget>,
    metrics: Arc<Metrics>,
}

/// A day of which something is wanted.
#[derive(Clone, Debug)]
pub struct WantedDay {
    /// The day.
    pub day: Day,
    /// The pinned version.
    pub version: Version,
    /// The team that owns it.
    pub team: Arc<str>,
    /// Rows that a scan reads.
    pub rows_to_scan: u64,
    /// Holders of that version when the query was planned: for a count in placement order, for a read in the order in
    /// which they are asked.
    pub holders: Vec<NodeId>,
    /// The day's other holders, asked when those have failed: they refuse if their version is another one.
    pub other_holders: Vec<NodeId>,
    /// The first row to encode, in the day's result; 0 for a count.
    pub first_row: u64,
    /// Rows of each frame to encode, one behind the other. A count encodes one at most, of those rows that there are.
    pub frame_rows: Vec<u32>,
}

/// A day that nobody could answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The most telling of the failures.
    pub cause: Cause,
    /// Every holder was heard of, and none has the version or the rows any more.
    pub lost: bool,
    /// In words.
    pub why: String,
    /// Every node that was asked in vain.
    pub nodes_tried: Vec<NodeId>,
}

/// What counting some days came to.
#[derive(Debug, Default)]
pub struct Counted {
    /// For each day: its ledger entry (no row taken yet), or why there is none.
    pub days: BTreeMap<Day, Result<Served, Unanswered>>,
    /// First frames, where they were asked for.
    pub frames: BTreeMap<Day, Frame>,
    /// Partial aggregates over the days that were counted.
    pub groups: Groups,
    /// Where the time went.
    pub statistics: Vec<HopStatistics>,
}

impl Gather {
    /// Asks through `relay`.
    pub fn new(overlay: Arc<Overlay>, relay: Arc<Relay>, metrics: Arc<Metrics>) -> Self {
        Gather { overlay, relay, turn: AtomicU64::new(0), hedges: Mutex::default(), metrics }
    }

    /// The way to the nodes, this one included.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The number of the next query.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts every wanted day once, on a holder that the forwarding strategy chooses, or on the nearest where there is
    /// little to scan.
    ///
    /// Days that come back unanswered are asked of their other holders, one after the other.
    ///
    /// `turn` is the query's number, for the strategy that asks one holder in turn.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what nodes do for it.
    pub async fn count(&self, spec: &Count, wanted: &[WantedDay], turn: u64, call: &Call) -> Counted {
        let choose = |needs: &[DayNeed], snapshot: &Snapshot| {
            self.assign(turn, needs, spec.aggregate.is_some(), snapshot)
        };
        let gathered = Attempts::new(self, spec, wanted, &choose, call).run().await;
        let mut counted =
            Counted { groups: gathered.groups, statistics: gathered.statistics, ..Counted::default() };
        for (day, count) in gathered.answers {
            let served = Served {
                node: count.item.node.to_string(),
                attempt: count.item.attempt,
                version: count.item.version,
                rows_matched: count.rows_matched,
                rows_taken: 0,
            };
            counted.frames.extend(count.first_frame.map(|frame| (day, frame)));
            counted.days.insert(day, Ok(served));
        }
        counted.days.extend(gathered.unanswered.into_iter().map(|(day, why)| (day, Err(why))));
        counted
    }

    /// Reads row ranges of days, from the first of their holders that is thought to be alive, or from others.
    ///
    /// Shape: the frames of each of `wanted`, in day order.
    ///
    /// # Errors
    /// The days that no holder could read, each with the reason.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what nodes do for it.
    pub async fn read(
        &self,
        spec: &Read,
        wanted: &[WantedDay],
        call: &Call,
    ) -> Result<Vec<Frame>, BTreeMap<Day, Unanswered>> {
        let first = |need: &DayNeed| Some((need.day, need.holders.first()?.clone()));
        let choose = |needs: &[DayNeed], _: &Snapshot| needs.iter().filter_map(first).collect();
        let gathered = Attempts::new(self, spec, wanted, &choose, call).run().await;
        match gathered.unanswered.is_empty() {
            true => Ok(gathered.answers.into_values().flat_map(|(_, frames)| frames).collect()),
            false => Err(gathered.unanswered),
        }
    }

    /// The holder that the next query would ask first for each wanted day, if it asks for all at once; `adds_up` for an
    /// aggregate.
    pub fn assign_next(&self, wanted: &[WantedDay], adds_up: bool) -> BTreeMap<Day, NodeId> {
        let turn = self.turn.load(Ordering::Relaxed);
        let snapshot = self.relay.directory().snapshot();
        let needs: Vec<DayNeed> =
            wanted.iter().filter_map(|day| need(day, &BTreeSet::new(), &snapshot)).collect();
        self.assign(turn, &needs, adds_up, &snapshot)
    }

    fn assign(
        &self,
        turn: u64,
        needs: &[DayNeed],
        adds_up: bool,
        snapshot: &Snapshot,
    ) -> BTreeMap<Day, NodeId> {
        if let Some(nearest) = self.nearest(needs, adds_up, snapshot) {
            return nearest;
        }
        let holders: BTreeSet<&NodeId> = needs.iter().flat_map(|need| &need.holders).collect();
        let candidate = |node: &NodeId| Candidate {
            node: node.clone(),
            weight: self.overlay.process(node).map_or(1.0, |process| process.weight),
            free_compute_slots: snapshot.free_compute_slots.get(node).copied().unwrap_or(0),
        };
        let candidates = holders.into_iter().map(|node| (node.clone(), candidate(node))).collect();
        route::assign(self.overlay.strategies.forwarding, turn, needs, &candidates)
    }

    /// The holder of each day that is nearest: this node, or else by edges from the leader, in placement order. None if the
    /// days cost more than a short count, or one of these holders has all its slots taken.
    fn nearest(
        &self,
        needs: &[DayNeed],
        adds_up: bool,
        snapshot: &Snapshot,
    ) -> Option<BTreeMap<Day, NodeId>> {
        let rows = needs.iter().fold(0, |sum: u64, need| sum.saturating_add(need.rows));
        let cost = rows.saturating_mul(if adds_up { 1 + SCANNED_ROWS_PER_ADDED_ROW } else { 1 });
        if cost > self.overlay.limits.short_rows {
            return None;
        }
        let distance = |node: &&NodeId| match *node == self.relay.me() {
            true => 0,
            false => self.overlay.distance_from_leader(node).unwrap_or(u32::MAX),
        };
        let nearest = |need: &DayNeed| Some((need.day, need.holders.iter().min_by_key(distance)?.clone()));
        let nearest: BTreeMap<Day, NodeId> = needs.iter().filter_map(nearest).collect();
        let is_busy = |node: &NodeId| snapshot.free_compute_slots.get(node) == Some(&0);
        Some(nearest).filter(|nearest| !nearest.values().any(is_busy))
    }
}
