//! Attempts at days: one mechanism for retry, failover and hedging.
//!
//! A *reservation* is the right to answer for some days; a day belongs to one reservation at a time. A *try* asks holders
//! for all days of a reservation. A reservation has one try, or two where the first is slow and hedging is on; **one of
//! them is committed, whole**, and the other one is cancelled: nothing of it is ever used, so no row counts twice. The
//! days that the committed try did not answer are reserved anew, for holders that were not asked yet.
//!
//! - Nothing is retried on a holder that failed, for a client's own mistake, or beyond `limits.query_retries`; the relay
//!   sends no retry for whose answer too little time is left, and none beyond `limits.neighbour_retries`.
//! - A hedge goes out once, after the 95th percentile of the neighbour's latest answers, to other holders that are up,
//!   and only if all hedges since the node began stay below a twentieth of the rows that were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::aggregate::Groups;
use crate::config::{Hedging, NodeId};
use crate::day::Day;
use crate::inventory::{Health, Snapshot};
use crate::relay::Verb;
use crate::route::DayNeed;
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, HopStatistics, Item, Read, ReadItem,
};

use super::{Gather, Unanswered, WantedDay};

/// Holders that may refuse a day because they are overloaded: asking all of them would add to what ails them.
const MAX_OVERLOADED: u32 = 2;

/// Rows that hedges may ask for, of the rows that are asked for.
const HEDGED_SHARE: f64 = 0.05;

/// A verb about days, and how its parts stand for what is wanted.
pub(super) trait DayVerb: Verb {
    /// What is asked of a holder.
    fn item(wanted: &WantedDay, node: NodeId, attempt: u32) -> Self::Item;
    /// The day that an item is about.
    fn day(item: &Self::Item) -> Day;
    /// The day that an answer is about.
    fn answered_day(answer: &Self::Answer) -> Day;
    /// The item that an answer is to.
    fn answered(answer: &Self::Answer) -> &Self::Item;
    /// How an answer contradicts what is known of the day at its version.
    fn contradiction(answer: &Self::Answer, wanted: &WantedDay) -> Option<String>;
}

impl DayVerb for Count {
    fn item(wanted: &WantedDay, node: NodeId, attempt: u32) -> CountItem {
        let WantedDay { day, version, team, frame_rows, .. } = wanted;
        let first_rows = frame_rows.first().copied().unwrap_or(0);
        CountItem { day: *day, version: *version, node, team: team.clone(), attempt, first_rows }
    }

    fn day(item: &CountItem) -> Day {
        item.day
    }

    fn answered_day(answer: &DayCount) -> Day {
        answer.item.day
    }

    fn answered(answer: &DayCount) -> &CountItem {
        &answer.item
    }

    fn contradiction(answer: &DayCount, wanted: &WantedDay) -> Option<String> {
        let (DayCount { item, rows_matched, .. }, rows) = (answer, wanted.rows_to_scan);
        (*rows_matched > rows).then(|| {
            format!(
                "node `{}` says that {rows_matched} rows of day {} match, it has {rows}",
                item.node, item.day
            )
        })
    }
}

impl DayVerb for Read {
    fn item(wanted: &WantedDay, node: NodeId, _attempt: u32) -> ReadItem {
        let WantedDay { day, version, team, first_row, frame_rows, .. } = wanted;
        let (team, first_row) = (team.clone(), *first_row);
        ReadItem { day: *day, version: *version, node, team, first_row, frame_rows: frame_rows.clone() }
    }

    fn day(item: &ReadItem) -> Day {
        item.day
    }

    fn answered_day((item, _): &(ReadItem, Vec<Frame>)) -> Day {
        item.day
    }

    fn answered((item, _): &(ReadItem, Vec<Frame>)) -> &ReadItem {
        item
    }

    fn contradiction(_answer: &(ReadItem, Vec<Frame>), _wanted: &WantedDay) -> Option<String> {
        None
    }
}

/// What came of all attempts: each wanted day is answered once, or unanswered.
pub(super) struct Gathered<A> {
    pub(super) answers: BTreeMap<Day, A>,
    pub(super) unanswered: BTreeMap<Day, Unanswered>,
    /// Over the days that are answered.
    pub(super) groups: Groups,
    pub(super) statistics: Vec<HopStatistics>,
}

/// Divides days with several holders among them.
pub(super) type Choose<'a> = &'a (dyn Fn(&[DayNeed], &Snapshot) -> BTreeMap<Day, NodeId> + Sync);

/// The attempts at the days of one count or read.
pub(super) struct Attempts<'a, V: DayVerb> {
    gather: &'a Gather,
    verb: &'a V,
    wanted: BTreeMap<Day, &'a WantedDay>,
    choose: Choose<'a>,
    call: &'a Call,
    failed: BTreeMap<Day, FailedAttempts>,
    reservations: BTreeMap<u64, Reservation<V>>,
    next_reservation: u64,
    tries: FuturesUnordered<BoxFuture<'a, TryEnd<V>>>,
    retries_left: u32,
    gathered: Gathered<V::Answer>,
}

/// Whose try it was, and what it came back with; nothing if it was cancelled.
type TryEnd<V> = (u64, Option<Answers<<V as Verb>::Item, <V as Verb>::Answer>>);

/// The right to answer for some days.
struct Reservation<V: Verb> {
    /// The holder that was asked first for each.
    days: BTreeMap<Day, NodeId>,
    /// Cancel the tries that are on their way.
    tries: Vec<AbortHandle>,
    /// What the try that came back first lacked something of, while the other one may be whole.
    incomplete: Option<Answers<V::Item, V::Answer>>,
    /// When the other holders are asked too.
    hedge_at: Option<Instant>,
}

impl<'a, V: DayVerb> Attempts<'a, V> {
    pub(super) fn new(
        gather: &'a Gather,
        verb: &'a V,
        wanted: &'a [WantedDay],
        choose: Choose<'a>,
        call: &'a Call,
    ) -> Self {
        let gathered = Gathered {
            answers: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            groups: Groups::default(),
            statistics: Vec::new(),
        };
        Attempts {
            gather,
            verb,
            wanted: wanted.iter().map(|day| (day.day, day)).collect(),
            choose,
            call,
            failed: BTreeMap::new(),
            reservations: BTreeMap::new(),
            next_reservation: 0,
            tries: FuturesUnordered::new(),
            retries_left: gather.overlay.limits.query_retries,
            gathered,
        }
    }

    /// Makes attempts until each day is answered, or nobody is left to ask for it.
    pub(super) async fn run(mut self) -> Gathered<V::Answer> {
        let days: Vec<Day> = self.wanted.keys().copied().collect();
        self.reserve(&days);
        while !self.reservations.is_empty() {
            let hedge = self.next_hedge();
            tokio::select! {
                biased;
                Some((id, came)) = self.tries.next() => self.came_back(id, came),
                id = due(hedge) => self.hedge(id),
            }
        }
        self.gathered
    }

    /// Reserves days for holders, those together that the same neighbour leads to, and asks.
    fn reserve(&mut self, days: &[Day]) {
        let assigned = self.holders(days, |_| None);
        for day in days.iter().filter(|day| !assigned.contains_key(day)) {
            self.give_up(*day);
        }
        let is_retry = days.iter().any(|day| self.failed.contains_key(day));
        for assigned in self.by_way(assigned) {
            match self.retries_left.checked_sub(u32::from(is_retry)) {
                Some(left) => {
                    self.retries_left = left;
                    self.begin(assigned, is_retry);
                }
                None => self.give_up_retrying(assigned.into_keys()),
            }
        }
    }

    fn give_up_retrying(&mut self, days: impl Iterator<Item = Day>) {
        let most = self.gather.overlay.limits.query_retries;
        let why = format!("not asked of another holder: {most} retries were made (limits.query_retries)");
        for day in days {
            self.failed.entry(day).or_default().note(Cause::Unreachable, &why);
            self.give_up(day);
        }
    }

    /// A holder for each day that has one left that was not asked, nor is being asked.
    fn holders(&self, days: &[Day], asked: impl Fn(Day) -> Option<NodeId>) -> BTreeMap<Day, NodeId> {
        let snapshot = self.gather.relay.directory().snapshot();
        let need = |day: &Day| {
            let failed = self.failed.get(day);
            if failed.is_some_and(|failed| failed.overloaded >= MAX_OVERLOADED) {
                return None;
            }
            let mut without = failed.map(|failed| failed.nodes.clone()).unwrap_or_default();
            without.extend(asked(*day));
            need(self.wanted[day], &without, &snapshot)
        };
        let needs: Vec<DayNeed> = days.iter().filter_map(need).collect();
        (self.choose)(&needs, &snapshot)
    }

    fn by_way(&self, assigned: BTreeMap<Day, NodeId>) -> Vec<BTreeMap<Day, NodeId>> {
        let nodes: BTreeSet<NodeId> = assigned.values().cloned().collect();
        let ways = self.gather.relay.ways(nodes);
        let days_of = |nodes: Vec<NodeId>| {
            let days = assigned.iter().filter(|(_, node)| nodes.contains(node));
            days.map(|(day, node)| (*day, node.clone())).collect()
        };
        ways.into_iter().map(days_of).collect()
    }

    fn begin(&mut self, assigned: BTreeMap<Day, NodeId>, is_retry: bool) {
        let id = self.next_reservation;
        self.next_reservation += 1;
        let hedge_at = if is_retry { None } else { self.hedge_at(&assigned) };
        let tries = vec![self.ask(id, &assigned, is_retry)];
        let reservation = Reservation { days: assigned, tries, incomplete: None, hedge_at };
        self.reservations.insert(id, reservation);
    }

    /// Sends one try on its way.
    fn ask(&mut self, id: u64, assigned: &BTreeMap<Day, NodeId>, is_retry: bool) -> AbortHandle {
        let item = |(day, node): (&Day, &NodeId)| {
            let failed = self.failed.get(day).map_or(0, |failed| failed.nodes.len() as u32);
            let hedge = u32::from(is_retry && failed == 0);
            V::item(self.wanted[day], node.clone(), 1 + failed + hedge)
        };
        let items: Vec<V::Item> = assigned.iter().map(item).collect();
        let call = Call { is_retry, ..self.call.clone() };
        let (gather, verb) = (self.gather, self.verb);
        let (handle, registration) = AbortHandle::new_pair();
        let asking = async move { gather.relay.relay(verb, items, &call).await };
        let asking = Abortable::new(asking, registration).map(move |came| (id, came.ok()));
        self.tries.push(asking.boxed());
        handle
    }

    /// Commits a try that is whole, or the last one of its reservation.
    fn came_back(&mut self, id: u64, came: Option<Answers<V::Item, V::Answer>>) {
        // One that was cancelled has no reservation any more.
        let came = came.map(|came| self.believed(came));
        let (Some(came), Some(reservation)) = (came, self.reservations.get_mut(&id)) else { return };
        let is_whole = came.failures.is_empty();
        let is_first_of_two = reservation.tries.len() == 2 && reservation.incomplete.is_none();
        if !is_whole && is_first_of_two {
            reservation.incomplete = Some(came);
            return;
        }
        let Some(reservation) = self.reservations.remove(&id) else { return };
        reservation.tries.iter().for_each(AbortHandle::abort);
        match reservation.incomplete {
            Some(other) if !is_whole => self.commit_better(came, other),
            _ => self.commit(came),
        }
    }

    /// What of a try does not contradict the inventories. With partial aggregates that is all of it or nothing: they are of
    /// all its days together, and what one day has too many of cannot be told from the rest.
    fn believed(&self, mut came: Answers<V::Item, V::Answer>) -> Answers<V::Item, V::Answer> {
        let contradiction =
            |answer: &V::Answer| V::contradiction(answer, self.wanted[&V::answered_day(answer)]);
        let Some(first) = came.answers.iter().find_map(contradiction) else { return came };
        let all = !came.groups.is_empty();
        for answer in std::mem::take(&mut came.answers) {
            let why = match contradiction(&answer) {
                None if !all => {
                    came.answers.push(answer);
                    continue;
                }
                why => why.unwrap_or_else(|| first.clone()),
            };
            let item = V::answered(&answer).clone();
            let nodes_tried = vec![item.node().clone()];
            came.failures.push(Failure {
                item,
                cause: Cause::BadAnswer,
                why,
                nodes_tried,
                been_at: Vec::new(),
            });
        }
        came.groups = Groups::default();
        came
    }

    /// Of two tries that both lack something, one is committed. The other one's failures tell whom not to ask again.
    fn commit_better(&mut self, came: Answers<V::Item, V::Answer>, other: Answers<V::Item, V::Answer>) {
        let (better, worse) = match other.failures.len() <= came.failures.len() {
            true => (other, came),
            false => (came, other),
        };
        let open: BTreeSet<Day> = better.failures.iter().map(|failure| V::day(&failure.item)).collect();
        for failure in worse.failures.into_iter().filter(|failure| open.contains(&V::day(&failure.item))) {
            self.gather.relay.note(&failure);
            self.failed.entry(V::day(&failure.item)).or_default().add(failure);
        }
        self.commit(better);
    }

    /// Takes what a try has answered, all of it, and reserves anew what it has not.
    fn commit(&mut self, came: Answers<V::Item, V::Answer>) {
        for answer in came.answers {
            let taken = self.gathered.answers.insert(V::answered_day(&answer), answer);
            assert!(taken.is_none(), "a day belongs to one reservation, of which one try is committed");
        }
        self.gathered.groups.merge(came.groups);
        merge_statistics(&mut self.gathered.statistics, came.statistics);
        let mut again = Vec::new();
        for failure in came.failures {
            self.gather.relay.note(&failure);
            let day = V::day(&failure.item);
            let cause = failure.cause;
            self.failed.entry(day).or_default().add(failure);
            match cause {
                // Another holder would find as many.
                Cause::TooManyGroups => self.give_up(day),
                _ => again.push(day),
            }
        }
        self.reserve(&again);
    }

    fn give_up(&mut self, day: Day) {
        let failed = self.failed.remove(&day).unwrap_or_default();
        self.gathered.unanswered.insert(day, failed.unanswered());
    }

    /// When to ask other holders too, if the first are slow.
    fn hedge_at(&self, assigned: &BTreeMap<Day, NodeId>) -> Option<Instant> {
        self.hedge_budget(|budget| budget.asked(self.rows_to_scan(assigned.keys())));
        if self.gather.overlay.strategies.hedging == Hedging::Off {
            return None;
        }
        let usual = assigned.values().map(|node| self.gather.relay.usual_time(node, 95));
        Some(Instant::now() + usual.max().flatten()?)
    }

    fn next_hedge(&self) -> Option<(Instant, u64)> {
        self.reservations.iter().filter_map(|(id, reservation)| Some((reservation.hedge_at?, *id))).min()
    }

    /// Asks other holders for all days of a reservation, if there are any that are up, and rows to spend on them.
    fn hedge(&mut self, id: u64) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        reservation.hedge_at = None;
        if reservation.incomplete.is_some() {
            return;
        }
        let days = reservation.days.clone();
        let listed: Vec<Day> = days.keys().copied().collect();
        let others = self.holders(&listed, |day| days.get(&day).cloned());
        let snapshot = self.gather.relay.directory().snapshot();
        let is_marked = |node| snapshot.marked.contains_key(node);
        let all_up = others.len() == days.len() && !others.values().any(is_marked);
        if all_up && self.hedge_budget(|budget| budget.take(self.rows_to_scan(days.keys()))) {
            self.gather.metrics.hedged();
            let handle = self.ask(id, &others, true);
            self.reservations.entry(id).and_modify(|reservation| reservation.tries.push(handle));
        }
    }

    fn hedge_budget<T>(&self, with: impl FnOnce(&mut HedgeBudget) -> T) -> T {
        with(&mut self.gather.hedges.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn rows_to_scan<'d>(&self, days: impl Iterator<Item = &'d Day>) -> u64 {
        days.map(|day| self.wanted[day].rows_to_scan).sum()
    }
}

/// Adds up what each node spent on requests that ran side by side; by node, in whatever order they came back.
fn merge_statistics(all: &mut Vec<HopStatistics>, more: Vec<HopStatistics>) {
    for one in more {
        match all.binary_search_by(|known| known.node.cmp(&one.node)) {
            Ok(index) => all[index].merge(one),
            Err(index) => all.insert(index, one),
        }
    }
}

/// Waits until it is time for a hedge; for ever, without one.
async fn due(hedge: Option<(Instant, u64)>) -> u64 {
    match hedge {
        Some((at, id)) => {
            tokio::time::sleep_until(at).await;
            id
        }
        None => std::future::pending().await,
    }
}

/// Rows that were asked for, and those of them that were asked for twice in case that the first holder is slow.
#[derive(Debug, Default)]
pub(super) struct HedgeBudget {
    asked: u64,
    hedged: u64,
}

impl HedgeBudget {
    fn asked(&mut self, rows: u64) {
        self.asked = self.asked.saturating_add(rows);
    }

    /// Whether so many rows may be asked for a second time; if so, they are.
    fn take(&mut self, rows: u64) -> bool {
        let hedged = self.hedged.saturating_add(rows);
        let allowed = hedged as f64 <= self.asked as f64 * HEDGED_SHARE;
        if allowed {
            self.hedged = hedged;
        }
        allowed
    }
}

/// The holders of a day to choose from, without those that were asked: the ones thought to be up that the plan knew, or
/// else others that are up, or else those that are suspect, or else those that are down.
pub(super) fn need(day: &WantedDay, without: &BTreeSet<NodeId>, snapshot: &Snapshot) -> Option<DayNeed> {
    let left = |holders: &[NodeId], health: Option<Health>| -> Vec<NodeId> {
        let left = holders.iter().filter(|node| !without.contains(*node));
        left.filter(|node| snapshot.marked.get(*node).copied() == health).cloned().collect()
    };
    let by_health = [None, Some(Health::Suspect), Some(Health::Down)];
    let mut choices = by_health
        .into_iter()
        .flat_map(|health| [left(&day.holders, health), left(&day.other_holders, health)]);
    let holders = choices.find(|holders| !holders.is_empty())?;
    Some(DayNeed { day: day.day, rows: day.rows_to_scan, holders })
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
        self.overloaded += u32::from(matches!(failure.cause, Cause::Overloaded { .. }));
        self.note(failure.cause, &failure.why);
    }

    /// Notes why a holder failed, or why none was asked.
    fn note(&mut self, cause: Cause, why: &str) {
        // A node that has the day in another version says more than one that is out of reach.
        let gone = matches!(cause, Cause::VersionDiffers | Cause::NotHeld | Cause::OutOfRange);
        self.some_not_gone |= !gone;
        let more_telling = self.last.as_ref().is_none_or(|(known, _)| *known <= cause);
        if more_telling {
            self.last = Some((cause, why.to_owned()));
        }
    }

    fn unanswered(self) -> Unanswered {
        let lost = self.last.is_some() && !self.some_not_gone;
        let (cause, why) =
            self.last.unwrap_or_else(|| (Cause::Unreachable, "no holder of the day is known".to_owned()));
        Unanswered { cause, lost, why, nodes_tried: self.nodes_tried.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_ask_for_at_most_a_twentieth_of_the_rows() {
        let mut budget = HedgeBudget::default();
        assert!(!budget.take(1), "nothing was asked for");
        budget.asked(100);
        assert_eq!([budget.take(3), budget.take(3), budget.take(2)], [true, false, true]);
        budget.asked(20);
        assert_eq!([budget.take(1), budget.take(1)], [true, false]);
    }
}
