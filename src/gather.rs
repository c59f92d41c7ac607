//! Counts and reads over store and neighbours, under the caller's deadline.
//!
//! Two layers. [`Gather::relay`] brings items to the nodes they are addressed to, along the overlay's
//! edges, and around an edge or a neighbour that fails. [`Gather::count`] and [`Gather::read`] are for
//! the node that plans: they choose holders, and choose others for the days that came back unanswered.
//!
//! An attempt is reserved (a day has at most one open attempt), then committed whole or not at all, so
//! no row can count twice. A retry always goes to another holder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{join, join_all};
use tokio::time::Instant;

use crate::admission::ClientKey;
use crate::aggregate::Groups;
use crate::config::{NodeId, Overlay};
use crate::coverage::Served;
use crate::day::Day;
use crate::holder::Holder;
use crate::inventory::{Directory, Snapshot};
use crate::metrics::Metrics;
use crate::outside::remaining;
use crate::peer::{Neighbour, PeerError};
use crate::result_set::DayRows;
use crate::route::{self, Candidate, DayNeed, Graph};
use crate::store::Version;
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, HopStatistics, Inventory,
    InventoryAnswer, InventoryItem, Item, Read, ReadItem,
};

/// Reaches every node of the overlay, this one included.
pub struct Gather {
    me: NodeId,
    overlay: Arc<Overlay>,
    graph: Graph,
    neighbours: BTreeMap<NodeId, Neighbour>,
    holder: Arc<Holder>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
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
    /// Holders of that version, in placement order.
    pub holders: Vec<NodeId>,
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

/// A verb that can be carried over the overlay.
pub trait Verb: Sync {
    /// A part of a request.
    type Item: Item;
    /// The answer to a part.
    type Answer: Send;

    /// Answers items that are addressed to this node.
    fn here(
        &self,
        holder: &Holder,
        items: Vec<Self::Item>,
        call: &Call,
    ) -> impl Future<Output = Answers<Self::Item, Self::Answer>> + Send;

    /// Has a neighbour answer items, or bring them on.
    fn there(
        &self,
        neighbour: &Neighbour,
        items: &[Self::Item],
        call: &Call,
    ) -> impl Future<Output = Result<Answers<Self::Item, Self::Answer>, PeerError>> + Send;
}

impl Verb for Count {
    type Item = CountItem;
    type Answer = DayCount;

    async fn here(
        &self,
        holder: &Holder,
        items: Vec<CountItem>,
        call: &Call,
    ) -> Answers<CountItem, DayCount> {
        holder.count(self, items, call).await
    }

    async fn there(
        &self,
        neighbour: &Neighbour,
        items: &[CountItem],
        call: &Call,
    ) -> Result<Answers<CountItem, DayCount>, PeerError> {
        neighbour.count(self, items, call).await
    }
}

impl Verb for Read {
    type Item = ReadItem;
    type Answer = (ReadItem, Frame);

    async fn here(
        &self,
        holder: &Holder,
        items: Vec<ReadItem>,
        call: &Call,
    ) -> Answers<ReadItem, Self::Answer> {
        holder.read(self, items, call).await
    }

    async fn there(
        &self,
        neighbour: &Neighbour,
        items: &[ReadItem],
        call: &Call,
    ) -> Result<Answers<ReadItem, Self::Answer>, PeerError> {
        neighbour.read(self, items, call).await
    }
}

impl Verb for Inventory {
    type Item = InventoryItem;
    type Answer = InventoryAnswer;

    async fn here(
        &self,
        holder: &Holder,
        items: Vec<InventoryItem>,
        _call: &Call,
    ) -> Answers<InventoryItem, InventoryAnswer> {
        let answer = |item: InventoryItem| {
            let inventory = holder.inventory();
            InventoryAnswer {
                unchanged: inventory.ready && inventory.incarnation == item.known_incarnation,
                inventory,
            }
        };
        Answers { answers: items.into_iter().map(answer).collect(), ..Answers::default() }
    }

    async fn there(
        &self,
        neighbour: &Neighbour,
        items: &[InventoryItem],
        call: &Call,
    ) -> Result<Answers<InventoryItem, InventoryAnswer>, PeerError> {
        neighbour.inventory(items, call).await
    }
}

impl Gather {
    /// Reaches the overlay from `me`, through `neighbours`.
    pub fn new(
        me: NodeId,
        overlay: Arc<Overlay>,
        neighbours: BTreeMap<NodeId, Neighbour>,
        holder: Arc<Holder>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Gather {
            me,
            graph: Graph::new(&overlay),
            overlay,
            neighbours,
            holder,
            directory,
            metrics,
            turn: AtomicU64::new(0),
        }
    }

    /// What this node knows about the others.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Brings items to the nodes they are addressed to, and their answers back.
    ///
    /// Items that no neighbour brought to their node fail as unreachable; each comes back once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what neighbours do for it.
    pub async fn relay<V: Verb>(
        &self,
        verb: &V,
        items: Vec<V::Item>,
        call: &Call,
    ) -> Answers<V::Item, V::Answer> {
        let (own, others): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| *item.node() == self.me);
        let here = async {
            match own.is_empty() {
                true => Answers::default(),
                false => verb.here(&self.holder, own, call).await,
            }
        };
        let (mut answers, elsewhere) = join(here, self.send_on(verb, others, call)).await;
        answers.merge(elsewhere);
        answers
    }

    /// Sends items to neighbours, round by round, until each is answered or no way is left.
    async fn send_on<V: Verb>(
        &self,
        verb: &V,
        mut items: Vec<V::Item>,
        call: &Call,
    ) -> Answers<V::Item, V::Answer> {
        let mut answers = Answers::default();
        if items.is_empty() {
            return answers;
        }
        let started = Instant::now();
        let mut statistics = HopStatistics { node: self.me.to_string(), ..HopStatistics::default() };
        let mut onward = call.clone();
        onward.hops.push(self.me.clone());
        let mut failed_ways: BTreeMap<NodeId, FailedWays> = BTreeMap::new();
        let mut slowest = std::time::Duration::ZERO;
        let patient = self.is_patient(call);
        while !items.is_empty() {
            // An item that failed before travels alone: it must avoid the nodes that it was at already.
            let mut by_neighbour: BTreeMap<(NodeId, Option<NodeId>), Vec<V::Item>> = BTreeMap::new();
            for item in items.drain(..) {
                match self.next_hop(item.node(), call, &failed_ways) {
                    Some(next) => {
                        let again = failed_ways.contains_key(item.node()).then(|| item.node().clone());
                        by_neighbour.entry((next, again)).or_default().push(item);
                    }
                    None => answers.failures.push(self.unreachable(item, &failed_ways)),
                }
            }
            let asked = by_neighbour.into_iter().map(|((next, again), items)| {
                let mut onward = onward.clone();
                if let Some(target) = &again {
                    let been_at = failed_ways.get(target).into_iter().flat_map(|ways| &ways.nodes_tried);
                    onward.hops.extend(been_at.filter(|node| *node != target).cloned());
                }
                async move {
                    let asked = Instant::now();
                    let result = match self.neighbours.get(&next) {
                        Some(neighbour) => verb.there(neighbour, &items, &onward).await,
                        None => unreachable!("a next hop is a neighbour"),
                    };
                    (next, items, result, asked.elapsed())
                }
            });
            for (next, sent, result, took) in join_all(asked).await {
                statistics.attempts += 1;
                if took > slowest {
                    slowest = took;
                    statistics.slowest_neighbour = next.to_string();
                }
                self.metrics.peer_request(&next, result.is_ok());
                match result {
                    Ok(mut reply) => {
                        for state in &reply.states {
                            self.directory.heard_from(state);
                        }
                        let failures = std::mem::take(&mut reply.failures);
                        answers.merge(reply);
                        for failure in failures {
                            if failure.cause == Cause::Unreachable {
                                failed_ways.entry(failure.item.node().clone()).or_default().add(
                                    next.clone(),
                                    failure.why,
                                    failure.nodes_tried,
                                );
                                items.push(failure.item);
                            } else {
                                answers.failures.push(failure);
                            }
                        }
                    }
                    Err(PeerError::Overloaded { why, retry_after, .. }) => {
                        let failure = |item| Failure {
                            item,
                            cause: Cause::Overloaded { retry_after },
                            why: why.clone(),
                            nodes_tried: vec![next.clone()],
                        };
                        answers.failures.extend(sent.into_iter().map(failure));
                    }
                    Err(error) => {
                        let hurried = matches!(error, PeerError::TimedOut { .. }) && !patient;
                        if !hurried {
                            self.directory.mark(&next, &error.to_string());
                        }
                        for item in sent {
                            failed_ways.entry(item.node().clone()).or_default().add(
                                next.clone(),
                                error.to_string(),
                                vec![next.clone()],
                            );
                            items.push(item);
                        }
                    }
                }
            }
        }
        statistics.elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        answers.statistics.push(statistics);
        answers
    }

    /// The neighbour to try next for an item: on a way without marked nodes, else on any.
    fn next_hop(
        &self,
        target: &NodeId,
        call: &Call,
        failed_ways: &BTreeMap<NodeId, FailedWays>,
    ) -> Option<NodeId> {
        if call.hops.len() >= self.overlay.limits.max_hops {
            return None;
        }
        let tried = |next: &NodeId| failed_ways.get(target).is_some_and(|ways| ways.through.contains(next));
        let been_at = failed_ways.get(target).into_iter().flat_map(|ways| &ways.nodes_tried);
        let visited: BTreeSet<NodeId> =
            call.hops.iter().chain(been_at).filter(|node| *node != target).cloned().collect();
        let mut avoided = visited.clone();
        avoided.extend(self.directory.marks().into_keys().filter(|marked| marked != target));
        [avoided, visited].iter().find_map(|avoid| {
            self.graph.next_hops(&self.me, target, avoid).into_iter().find(|next| !tried(next))
        })
    }

    fn unreachable<I: Item>(&self, item: I, failed_ways: &BTreeMap<NodeId, FailedWays>) -> Failure<I> {
        let ways = failed_ways.get(item.node());
        let why = match ways {
            Some(ways) => ways.why.clone(),
            None => {
                format!("node `{}` has no way to node `{}` past the nodes asked before", self.me, item.node())
            }
        };
        Failure { cause: Cause::Unreachable, why, nodes_tried: self.nodes_tried(ways), item }
    }

    /// The nodes that an item was at in vain, this one included: nobody need bring it here again.
    fn nodes_tried(&self, ways: Option<&FailedWays>) -> Vec<NodeId> {
        let mut nodes: BTreeSet<NodeId> = ways.map(|ways| ways.nodes_tried.clone()).unwrap_or_default();
        nodes.insert(self.me.clone());
        nodes.into_iter().collect()
    }

    /// Asks nodes for their inventories and takes them into the directory; marks those out of reach.
    pub async fn learn(&self, nodes: impl IntoIterator<Item = NodeId>, call: &Call) {
        let snapshot = self.directory.snapshot();
        let known = |node: &NodeId| known_incarnation(&snapshot, node);
        let items: Vec<InventoryItem> =
            nodes.into_iter().map(|node| InventoryItem { known_incarnation: known(&node), node }).collect();
        let answers = self.relay(&Inventory, items, call).await;
        for answer in answers.answers {
            self.directory.learn(answer.inventory, answer.unchanged);
        }
        let overloaded = |cause| matches!(cause, Cause::Overloaded { .. });
        for failure in answers.failures.iter().filter(|failure| !overloaded(failure.cause)) {
            self.directory.mark(&failure.item.node, &failure.why);
        }
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
        let patient = self.is_patient(call);
        let mut counted = Counted::default();
        let mut failed: BTreeMap<Day, FailedAttempts> = BTreeMap::new();
        let mut open: Vec<&WantedDay> = wanted.iter().collect();
        for attempt in 1.. {
            let snapshot = self.directory.snapshot();
            let needs: Vec<DayNeed> = open.iter().filter_map(|day| need(day, &failed, &snapshot)).collect();
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
            let answers = self.relay(spec, items, call).await;
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
                self.note(&failure, patient);
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
        let patient = self.is_patient(call);
        let mut frames: BTreeMap<Day, Frame> = BTreeMap::new();
        let mut failed: BTreeMap<Day, FailedAttempts> = BTreeMap::new();
        let mut unanswered = BTreeMap::new();
        let mut open: Vec<_> = days.iter().collect();
        while !open.is_empty() {
            let snapshot = self.directory.snapshot();
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
            let answers = self.relay(spec, items, call).await;
            frames.extend(answers.answers.into_iter().map(|(item, frame)| (item.day, frame)));
            for failure in answers.failures {
                self.note(&failure, patient);
                open.extend(days.iter().find(|(rows, ..)| rows.day == failure.item.day));
                failed.entry(failure.item.day).or_default().add(failure);
            }
        }
        match unanswered.is_empty() {
            true => Ok(frames.into_values().collect()),
            false => Err(unanswered),
        }
    }

    /// The holder that the next query would ask for each needed day.
    pub fn assign_next(&self, needs: &[DayNeed]) -> BTreeMap<Day, NodeId> {
        let turn = self.turn.load(Ordering::Relaxed);
        self.assign(turn, needs, &self.directory.snapshot())
    }

    fn assign(&self, turn: u64, needs: &[DayNeed], snapshot: &Snapshot) -> BTreeMap<Day, NodeId> {
        let holders: BTreeSet<&NodeId> = needs.iter().flat_map(|need| &need.holders).collect();
        let candidate = |node: &NodeId| Candidate {
            node: node.clone(),
            weight: self.overlay.process(node).map_or(1.0, |process| process.weight),
            free_compute_slots: snapshot.free_compute_slots.get(node).copied().unwrap_or(0),
            distance: self.overlay.distance_from_leader(node).unwrap_or(u32::MAX),
        };
        let candidates = holders.into_iter().map(|node| (node.clone(), candidate(node))).collect();
        route::assign(self.overlay.strategies.forwarding, turn, needs, &candidates)
    }

    /// The neighbour that a request to `target` would go to first.
    pub fn via(&self, target: &NodeId) -> Option<NodeId> {
        let call = Call { hops: Vec::new(), client: ClientKey::new("", ""), deadline: Instant::now() };
        self.next_hop(target, &call, &BTreeMap::new())
    }

    /// Whether the call leaves time enough to tell a node that hangs from a caller in a hurry.
    fn is_patient(&self, call: &Call) -> bool {
        remaining(call.deadline) >= self.overlay.limits.keepalive() * 4
    }

    fn note<I: Item>(&self, failure: &Failure<I>, patient: bool) {
        if patient && matches!(failure.cause, Cause::Unreachable | Cause::NotReady | Cause::BadAnswer) {
            self.directory.mark(failure.item.node(), &failure.why);
        }
    }
}

/// The holders of a day that were not asked yet: those thought to be alive, or else the marked ones.
fn need(day: &WantedDay, failed: &BTreeMap<Day, FailedAttempts>, snapshot: &Snapshot) -> Option<DayNeed> {
    let tried = failed.get(&day.day);
    let untried =
        day.holders.iter().filter(|holder| tried.is_none_or(|tried| !tried.nodes.contains(*holder)));
    let (marked, live): (Vec<_>, Vec<_>) =
        untried.cloned().partition(|holder| snapshot.marked.contains(holder));
    let holders = if live.is_empty() { marked } else { live };
    (!holders.is_empty()).then_some(DayNeed { day: day.day, rows: day.rows, holders })
}

/// The incarnation whose days are known: an inventory of a node that was still loading has none.
fn known_incarnation(snapshot: &Snapshot, node: &NodeId) -> u64 {
    let known = snapshot.inventories.get(node).filter(|inventory| inventory.ready);
    known.map_or(0, |inventory| inventory.incarnation)
}

fn next_holder(order: &[NodeId], failed: Option<&FailedAttempts>, snapshot: &Snapshot) -> Option<NodeId> {
    let untried =
        || order.iter().filter(|holder| failed.is_none_or(|failed| !failed.nodes.contains(*holder)));
    let live = untried().find(|holder| !snapshot.marked.contains(*holder));
    live.or_else(|| untried().next()).cloned()
}

/// The ways to one node that failed.
#[derive(Default)]
struct FailedWays {
    through: BTreeSet<NodeId>,
    why: String,
    nodes_tried: BTreeSet<NodeId>,
}

impl FailedWays {
    fn add(&mut self, through: NodeId, why: String, nodes_tried: Vec<NodeId>) {
        self.nodes_tried.extend(nodes_tried);
        self.through.insert(through);
        self.why = why;
    }
}

/// The holders of one day that failed.
#[derive(Default)]
struct FailedAttempts {
    nodes: BTreeSet<NodeId>,
    nodes_tried: BTreeSet<NodeId>,
    last: Option<(Cause, String)>,
    some_not_gone: bool,
}

impl FailedAttempts {
    fn add<I: Item>(&mut self, failure: Failure<I>) {
        self.nodes.insert(failure.item.node().clone());
        self.nodes_tried.insert(failure.item.node().clone());
        self.nodes_tried.extend(failure.nodes_tried);
        // A node that has the day in another version says more than one that is out of reach.
        let gone = matches!(failure.cause, Cause::VersionDiffers | Cause::NotHeld | Cause::OutOfRange);
        self.some_not_gone |= !gone;
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
