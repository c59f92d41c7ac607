//! Counts and reads for the node that plans: chooses a holder for each day, and another one for the days that come
//! back unanswered, under the caller's deadline.
//!
//! An attempt is reserved (a day has at most one open attempt), then committed whole or not at all, so
//! no row can count twice. A retry always goes to another holder. How an attempt gets there is [`crate::relay`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aggregate::Groups;
use crate::config::{NodeId, Overlay};
use crate::coverage::Served;
use crate::day::Day;
use crate::inventory::Snapshot;
use crate::relay::Relay;
use crate::result_set::DayRows;
use crate::route::{self, Candidate, DayNeed};
use crate::store::Version;
use crate::verb::{Call, Cause, Count, CountItem, Failure, Frame, HopStatistics, Item, Read, ReadItem};

/// Holders that may refuse a day because they are overloaded: asking all of them would add to what ails them.
const MAX_OVERLOADED: u32 = 2;

/// Asks the overlay for whole days.
pub struct Gather {
    overlay: Arc<Overlay>,
    relay: Arc<Relay>,
    turn: AtomicU64,
}

/// A day that has to be counted.
#[derive(Clone, Debug)]
pub struct WantedDay {
    /// The day.
    pub day: Day,
    /// The pinned version.
    pub version: Version,
    /// The team that owns it.
    pub team: Arc<str>,
    /// Rows that a scan reads.
    pub rows: u64,
    /// Holders of that version when the query was planned, in placement order.
    pub holders: Vec<NodeId>,
    /// The day's other holders, asked when those have failed: they refuse if their version is another one.
    pub other_holders: Vec<NodeId>,
    /// Rows to encode along with the count; 0: none.
    pub first_rows: u32,
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
    pub fn new(overlay: Arc<Overlay>, relay: Arc<Relay>) -> Self {
        Gather { overlay, relay, turn: AtomicU64::new(0) }
    }

    /// The way to the nodes, this one included.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The number of the next query.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts every wanted day once, on a holder that the forwarding strategy chooses.
    ///
    /// Days that come back unanswered are asked of their other holders, one after the other.
    ///
    /// `turn` is the query's number, for the strategy that asks one holder in turn.
    pub async fn count(&self, spec: &Count, wanted: &[WantedDay], turn: u64, call: &Call) -> Counted {
        let patient = self.relay.is_patient(call);
        let mut counted = Counted::default();
        let mut failed: BTreeMap<Day, FailedAttempts> = BTreeMap::new();
        let mut open: Vec<&WantedDay> = wanted.iter().collect();
        for attempt in 1.. {
            let snapshot = self.relay.directory().snapshot();
            let needs: Vec<DayNeed> =
                open.iter().filter_map(|day| need(day, failed.get(&day.day), &snapshot)).collect();
            let assigned = self.assign(turn, &needs, &snapshot);
            let mut items = Vec::new();
            for day in open.drain(..) {
                match assigned.get(&day.day) {
                    Some(node) => items.push(CountItem {
                        day: day.day,
                        version: day.version,
                        node: node.clone(),
                        team: day.team.clone(),
                        attempt,
                        first_rows: day.first_rows,
                    }),
                    None => {
                        let unanswered = failed.remove(&day.day).unwrap_or_default().unanswered();
                        counted.days.insert(day.day, Err(unanswered));
                    }
                }
            }
            if items.is_empty() {
                break;
            }
            let answers = self.relay.relay(spec, items, call).await;
            counted.groups.merge(answers.groups);
            counted.statistics.extend(answers.statistics);
            for count in answers.answers {
                let served = Served {
                    node: count.item.node.to_string(),
                    attempt,
                    version: count.item.version,
                    rows_matched: count.rows_matched,
                    rows_taken: 0,
                };
                counted.frames.extend(count.first_frame.map(|frame| (count.item.day, frame)));
                counted.days.insert(count.item.day, Ok(served));
            }
            for failure in answers.failures {
                self.relay.note(&failure, patient);
                if failure.cause == Cause::TooManyGroups {
                    // Another holder would find as many.
                    let mut attempts = FailedAttempts::default();
                    let day = failure.item.day;
                    attempts.add(failure);
                    counted.days.insert(day, Err(attempts.unanswered()));
                    continue;
                }
                open.extend(wanted.iter().find(|day| day.day == failure.item.day));
                failed.entry(failure.item.day).or_default().add(failure);
            }
        }
        counted
    }

    /// Reads row ranges of days from the holders that counted them, or from others with their versions.
    ///
    /// Shape: one frame for each of `days`, in their order.
    ///
    /// # Errors
    /// The days that no holder could read, each with the reason.
    pub async fn read(
        &self,
        spec: &Read,
        days: &[(DayRows, Arc<str>, Vec<NodeId>)],
        call: &Call,
    ) -> Result<Vec<Frame>, BTreeMap<Day, Unanswered>> {
        let patient = self.relay.is_patient(call);
        let mut frames: BTreeMap<Day, Frame> = BTreeMap::new();
        let mut failed: BTreeMap<Day, FailedAttempts> = BTreeMap::new();
        let mut unanswered = BTreeMap::new();
        let mut open: Vec<_> = days.iter().collect();
        while !open.is_empty() {
            let snapshot = self.relay.directory().snapshot();
            let mut items = Vec::new();
            for (rows, team, holders) in open.drain(..) {
                let counted_by = NodeId::from(rows.counted_by.as_str());
                let mut order = vec![counted_by];
                order.extend(holders.iter().cloned());
                match next_holder(&order, failed.get(&rows.day), &snapshot) {
                    Some(node) => items.push(ReadItem {
                        day: rows.day,
                        version: rows.version,
                        node,
                        team: team.clone(),
                        first_row: rows.first_row,
                        rows: rows.rows,
                    }),
                    None => {
                        let attempts = failed.remove(&rows.day).unwrap_or_default();
                        unanswered.insert(rows.day, attempts.unanswered());
                    }
                }
            }
            let answers = self.relay.relay(spec, items, call).await;
            frames.extend(answers.answers.into_iter().map(|(item, frame)| (item.day, frame)));
            for failure in answers.failures {
                self.relay.note(&failure, patient);
                open.extend(days.iter().find(|(rows, ..)| rows.day == failure.item.day));
                failed.entry(failure.item.day).or_default().add(failure);
            }
        }
        match unanswered.is_empty() {
            true => Ok(frames.into_values().collect()),
            false => Err(unanswered),
        }
    }

    /// The holder that the next query would ask first for each wanted day.
    pub fn assign_next(&self, wanted: &[WantedDay]) -> BTreeMap<Day, NodeId> {
        let turn = self.turn.load(Ordering::Relaxed);
        let snapshot = self.relay.directory().snapshot();
        let needs: Vec<DayNeed> = wanted.iter().filter_map(|day| need(day, None, &snapshot)).collect();
        self.assign(turn, &needs, &snapshot)
    }

    fn assign(&self, turn: u64, needs: &[DayNeed], snapshot: &Snapshot) -> BTreeMap<Day, NodeId> {
        let holders: BTreeSet<&NodeId> = needs.iter().flat_map(|need| &need.holders).collect();
        let candidate = |node: &NodeId| Candidate {
            node: node.clone(),
            weight: self.overlay.process(node).map_or(1.0, |process| process.weight),
            free_compute_slots: snapshot.free_compute_slots.get(node).copied().unwrap_or(0),
        };
        let candidates = holders.into_iter().map(|node| (node.clone(), candidate(node))).collect();
        route::assign(self.overlay.strategies.forwarding, turn, needs, &candidates)
    }
}

/// The holders of a day to choose from: of those that were not asked yet, the ones thought to be alive that the plan
/// knew, or else others that are alive, or else those that are marked.
fn need(day: &WantedDay, failed: Option<&FailedAttempts>, snapshot: &Snapshot) -> Option<DayNeed> {
    if failed.is_some_and(|failed| failed.overloaded >= MAX_OVERLOADED) {
        return None;
    }
    let untried = |holders: &[NodeId]| -> (Vec<NodeId>, Vec<NodeId>) {
        let untried =
            holders.iter().filter(|holder| failed.is_none_or(|tried| !tried.nodes.contains(*holder)));
        untried.cloned().partition(|holder| !snapshot.marked.contains(holder))
    };
    let ((live, marked), (other_live, other_marked)) = (untried(&day.holders), untried(&day.other_holders));
    let holders = [live, other_live, marked, other_marked].into_iter().find(|holders| !holders.is_empty())?;
    Some(DayNeed { day: day.day, rows: day.rows, holders })
}

/// The next one in `order` to read from: one thought to be alive, or else a marked one.
fn next_holder(order: &[NodeId], failed: Option<&FailedAttempts>, snapshot: &Snapshot) -> Option<NodeId> {
    if failed.is_some_and(|failed| failed.overloaded >= MAX_OVERLOADED) {
        return None;
    }
    let untried =
        || order.iter().filter(|holder| failed.is_none_or(|failed| !failed.nodes.contains(*holder)));
    let live = untried().find(|holder| !snapshot.marked.contains(*holder));
    live.or_else(|| untried().next()).cloned()
}

/// The holders of one day that failed.
#[derive(Default)]
struct FailedAttempts {
    nodes: BTreeSet<NodeId>,
    nodes_tried: BTreeSet<NodeId>,
    last: Option<(Cause, String)>,
    some_not_gone: bool,
    overloaded: u32,
}

impl FailedAttempts {
    fn add<I: Item>(&mut self, failure: Failure<I>) {
        self.nodes.insert(failure.item.node().clone());
        self.nodes_tried.insert(failure.item.node().clone());
        self.nodes_tried.extend(failure.nodes_tried);
        // A node that has the day in another version says more than one that is out of reach.
        let gone = matches!(failure.cause, Cause::VersionDiffers | Cause::NotHeld | Cause::OutOfRange);
        self.some_not_gone |= !gone;
        self.overloaded += u32::from(matches!(failure.cause, Cause::Overloaded { .. }));
        let more_telling = self.last.as_ref().is_none_or(|(cause, _)| *cause <= failure.cause);
        if more_telling {
            self.last = Some((failure.cause, failure.why));
        }
    }

    fn unanswered(self) -> Unanswered {
        let lost = self.last.is_some() && !self.some_not_gone;
        let (cause, why) =
            self.last.unwrap_or_else(|| (Cause::Unreachable, "no holder of the day is known".to_owned()));
        Unanswered { cause, lost, why, nodes_tried: self.nodes_tried.into_iter().collect() }
    }
}
