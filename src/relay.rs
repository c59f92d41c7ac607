//! Brings requests to the nodes they are addressed to, along the overlay's edges, and around a neighbour that fails.
//!
//! The same at every node: what is addressed to this node is answered here, the rest goes to the neighbours that lead
//! there. Which nodes are asked is decided by who plans, see [`crate::gather`].

mod dead_ends;
mod vitals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::Instant;

use crate::admission::ClientKey;
use crate::config::{Limits, NodeId, Overlay};
use crate::holder::Holder;
use crate::inventory::{Directory, Health, Snapshot, Traffic};
use crate::metrics::Metrics;
use crate::outside::remaining;
use crate::peer::{BEYOND, Neighbour, PeerError};
use crate::route::Graph;
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, HopStatistics, Inventory,
    InventoryAnswer, InventoryItem, Item, Read, ReadItem,
};

use self::dead_ends::DeadEnds;
use self::vitals::Vitals;

/// The share of the remaining time that the node that plans gives to one attempt, so that another can still be made.
const ATTEMPT_SHARE: f64 = 0.6;

/// What a node that passes a request on keeps for itself, so that its answer is back before the asker gives up: at most
/// this, which is the way there and back between continents, and at most a twentieth of what is left.
const RELAY_MARGIN: Duration = Duration::from_millis(100);

/// Keepalives that a caller must have left, so that its time-out tells of a node that hangs, and not of a caller in a
/// hurry.
const PATIENT_KEEPALIVES: u32 = 4;

/// Reaches every node of the overlay, this one included.
pub struct Relay {
    me: NodeId,
    limits: Limits,
    graph: Graph,
    neighbours: BTreeMap<NodeId, Neighbour>,
    vitals: BTreeMap<NodeId, Mutex<Vitals>>,
    dead_ends: Mutex<DeadEnds>,
    holder: Arc<Holder>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
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
    type Answer = (ReadItem, Vec<Frame>);

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
            let inventory = holder.inventory(item.known_incarnation);
            InventoryAnswer {
                unchanged: inventory.ready && inventory.incarnation == item.known_incarnation,
                inventory,
                // The service that answers knows it.
                load: None,
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

impl Relay {
    /// Reaches the overlay from `me`, through `neighbours`.
    pub fn new(
        me: NodeId,
        overlay: &Overlay,
        neighbours: BTreeMap<NodeId, Neighbour>,
        holder: Arc<Holder>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (graph, limits) = (Graph::new(overlay), overlay.limits.clone());
        let now = Instant::now();
        let vitals = |id: &NodeId| (id.clone(), Mutex::new(Vitals::new(limits.neighbour_retries, now)));
        let vitals = neighbours.keys().map(vitals).collect();
        let dead_ends = Mutex::new(DeadEnds::new(limits.keepalive() * (2 * PATIENT_KEEPALIVES)));
        Relay { me, limits, graph, neighbours, vitals, dead_ends, holder, directory, metrics }
    }

    /// This node.
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// What this node knows about the others.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What this node has asked each neighbour for.
    pub fn traffic(&self) -> BTreeMap<NodeId, Traffic> {
        self.neighbours.iter().map(|(id, neighbour)| (id.clone(), neighbour.traffic())).collect()
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
        let mut failed_ways: BTreeMap<NodeId, FailedWays> = BTreeMap::new();
        let mut slowest = Duration::ZERO;
        while !items.is_empty() {
            let (requests, nowhere) = self.requests::<V>(items, call, &failed_ways);
            items = Vec::new();
            answers.failures.extend(nowhere.into_iter().map(|item| self.unreachable(item, &failed_ways)));
            let (requests, refused) = self.within_budget(requests);
            answers.failures.extend(refused);
            let patient = self.is_patient(call);
            let asked = requests.into_iter().map(|request| async move {
                let asked = Instant::now();
                let result = match self.neighbours.get(&request.next) {
                    Some(neighbour) => verb.there(neighbour, &request.items, &request.call).await,
                    None => unreachable!("a next hop is a neighbour"),
                };
                (request, result, asked.elapsed())
            });
            for (request, result, took) in join_all(asked).await {
                let Request { next, items: sent, .. } = request;
                statistics.attempts += 1;
                if took > slowest {
                    slowest = took;
                    statistics.slowest_neighbour = next.to_string();
                }
                self.metrics.peer_request(&next, result.is_ok());
                match result {
                    Ok(mut reply) => {
                        let is_whole = reply.failures.is_empty();
                        self.vitals(&next).answered(took, is_whole);
                        for state in &reply.states {
                            self.directory.heard_from(state);
                        }
                        let failures = std::mem::take(&mut reply.failures);
                        answers.merge(reply);
                        for failure in failures {
                            if patient {
                                self.note_dead_end(&next, &failure);
                            }
                            if failure.cause == Cause::Unreachable {
                                let ways = failed_ways.entry(failure.item.node().clone()).or_default();
                                ways.been_at.extend(failure.been_at);
                                ways.been_at.insert(next.clone());
                                ways.is_telling = true;
                                ways.add(next.clone(), failure.why, failure.nodes_tried);
                                items.push(failure.item);
                            } else {
                                answers.failures.push(failure);
                            }
                        }
                    }
                    Err(PeerError::Overloaded { why, retry_after, .. }) => {
                        let cause = Cause::Overloaded { retry_after };
                        answers.failures.extend(all_failed(sent, cause, &why, &next));
                    }
                    Err(error @ PeerError::TooLarge { .. }) => {
                        let why = error.to_string();
                        answers.failures.extend(all_failed(sent, Cause::TooManyGroups, &why, &next));
                    }
                    Err(error) => {
                        let in_a_hurry = !patient && matches!(error, PeerError::TimedOut { .. });
                        if !in_a_hurry {
                            self.directory.suspect(&next, &error.to_string());
                        }
                        for item in sent {
                            if !in_a_hurry {
                                self.dead_ends().note(item.node(), [next.clone()], Instant::now());
                            }
                            let ways = failed_ways.entry(item.node().clone()).or_default();
                            ways.is_telling |= !in_a_hurry;
                            ways.add(next.clone(), error.to_string(), vec![next.clone()]);
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

    /// What to send where, and the items that no way is left for. An item that failed before travels alone: it must
    /// avoid the nodes that it was at already.
    fn requests<V: Verb>(
        &self,
        items: Vec<V::Item>,
        call: &Call,
        failed_ways: &BTreeMap<NodeId, FailedWays>,
    ) -> (Vec<Request<V::Item>>, Vec<V::Item>) {
        let mut by_neighbour: BTreeMap<(NodeId, Option<NodeId>), Vec<V::Item>> = BTreeMap::new();
        let mut nowhere = Vec::new();
        let snapshot = self.directory.snapshot();
        let mut next_hops: BTreeMap<NodeId, Option<NodeId>> = BTreeMap::new();
        for item in items {
            let target = item.node();
            let next = match next_hops.get(target) {
                Some(next) => next.clone(),
                None => {
                    let next = self.next_hop(target, call, failed_ways.get(target), &snapshot.marked);
                    next_hops.entry(target.clone()).or_insert(next).clone()
                }
            };
            match next {
                Some(next) => {
                    let again = failed_ways.contains_key(item.node()).then(|| item.node().clone());
                    by_neighbour.entry((next, again)).or_default().push(item);
                }
                None => nowhere.push(item),
            }
        }
        let deadline = self.attempt_ends(call);
        let request = |((next, again), items): ((NodeId, Option<NodeId>), _)| {
            let is_retry = call.is_retry || again.is_some();
            let mut call = Call { deadline, is_retry, ..call.clone() };
            call.hops.push(self.me.clone());
            let ways = again.and_then(|target| failed_ways.get(&target));
            call.avoid.extend(ways.into_iter().flat_map(|ways| &ways.been_at).cloned());
            Request { next, items, call }
        };
        (by_neighbour.into_iter().map(request).collect(), nowhere)
    }

    /// The requests that may be sent, and the failures of retries that may not.
    fn within_budget<I: Item>(&self, requests: Vec<Request<I>>) -> (Vec<Request<I>>, Vec<Failure<I>>) {
        let (mut sent, mut refused) = (Vec::new(), Vec::new());
        for request in requests {
            match self.why_not_again(&request.next, &request.call) {
                None => sent.push(request),
                Some((cause, why)) => refused.extend(all_failed(request.items, cause, &why, &request.next)),
            }
        }
        (sent, refused)
    }

    /// Why a retry is not sent: there is no time left for an answer, or the neighbour has had too many. Else one is used up.
    fn why_not_again(&self, next: &NodeId, call: &Call) -> Option<(Cause, String)> {
        if !call.is_retry {
            return None;
        }
        let left = remaining(call.deadline);
        let mut vitals = self.vitals(next);
        if left.is_zero() || vitals.percentile(50).is_some_and(|usual| left < usual) {
            let why = format!("{} ms are left for neighbour `{next}`, too few to ask it", left.as_millis());
            return Some((Cause::OutOfTime, why));
        }
        if let Err(retry_after) = vitals.take_retry(Instant::now()) {
            let most = self.limits.neighbour_retries;
            let why =
                format!("too many retries on neighbour `{next}`, limit {most} (limits.neighbour_retries)");
            return Some((Cause::Overloaded { retry_after }, why));
        }
        self.metrics.retried();
        None
    }

    fn vitals(&self, neighbour: &NodeId) -> MutexGuard<'_, Vitals> {
        let vitals = self.vitals.get(neighbour).expect("a next hop is a neighbour");
        vitals.lock().expect("nothing panics while it holds them")
    }

    fn dead_ends(&self) -> MutexGuard<'_, DeadEnds> {
        self.dead_ends.lock().expect("nothing panics while it holds them")
    }

    /// Remembers that a neighbour did not lead to a node, and whom it tried.
    fn note_dead_end<I: Item>(&self, next: &NodeId, failure: &Failure<I>) {
        if matches!(failure.cause, Cause::Unreachable | Cause::OutOfTime) {
            let tried = failure.nodes_tried.iter().chain([next]).cloned();
            self.dead_ends().note(failure.item.node(), tried, Instant::now());
        }
    }

    /// How long the neighbour that leads to `target` takes for most of its answers; `None` if this is the target, or while
    /// there were too few answers to tell.
    pub fn usual_time(&self, target: &NodeId, percent: usize) -> Option<Duration> {
        let next = self.via(target).filter(|_| *target != self.me)?;
        self.vitals(&next).percentile(percent)
    }

    /// The neighbour to try next for an item: on a way past nodes that were tried or are marked, else on any.
    fn next_hop(
        &self,
        target: &NodeId,
        call: &Call,
        failed: Option<&FailedWays>,
        marked: &BTreeMap<NodeId, Health>,
    ) -> Option<NodeId> {
        if call.hops.len() >= self.limits.max_hops {
            return None;
        }
        let tried = |next: &NodeId| failed.is_some_and(|ways| ways.through.contains(next));
        let been_at = failed.into_iter().flat_map(|ways| &ways.been_at);
        let visited: BTreeSet<NodeId> = call.hops.iter().chain(&call.avoid).chain(been_at).cloned().collect();
        let mut unmarked = visited.clone();
        unmarked.extend(marked.keys().filter(|node| *node != target).cloned());
        // A node that one neighbour did not reach may be gone, so that ways past it come first.
        let mut untried = unmarked.clone();
        let nodes_tried = failed.into_iter().flat_map(|ways| &ways.nodes_tried);
        untried.extend(nodes_tried.filter(|node| *node != target).cloned());
        let mut untried_before = untried.clone();
        untried_before.extend(self.dead_ends().before(target, Instant::now()));
        [untried_before, untried, unmarked, visited].iter().find_map(|avoid| {
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
        // Nobody need bring it here again.
        let and_here = |nodes: Option<&BTreeSet<NodeId>>| {
            let mut nodes = nodes.cloned().unwrap_or_default();
            nodes.insert(self.me.clone());
            nodes.into_iter().collect()
        };
        let in_a_hurry = ways.is_some_and(|ways| !ways.is_telling);
        Failure {
            cause: if in_a_hurry { Cause::OutOfTime } else { Cause::Unreachable },
            why,
            nodes_tried: and_here(ways.map(|ways| &ways.nodes_tried)),
            been_at: and_here(ways.map(|ways| &ways.been_at)),
            item,
        }
    }

    /// When one attempt at a neighbour ends: earlier than the caller's deadline.
    fn attempt_ends(&self, call: &Call) -> Instant {
        let left = remaining(call.deadline);
        let attempt = match call.hops.is_empty() {
            true => left.mul_f64(ATTEMPT_SHARE),
            // The asker waits less long than it says.
            false => {
                let left = left.saturating_sub(BEYOND);
                left - RELAY_MARGIN.min(left / 20)
            }
        };
        Instant::now() + attempt
    }

    /// The neighbour that a request to `target` would go to first.
    pub fn via(&self, target: &NodeId) -> Option<NodeId> {
        let call = Call::new(ClientKey::nobody(), Instant::now());
        self.next_hop(target, &call, None, &self.directory.snapshot().marked)
    }

    /// Asks nodes for their inventories and takes them into the directory; those out of reach are down.
    ///
    /// Each way is asked for itself: who is behind a neighbour that hangs keeps nobody else's answer from being known.
    pub async fn learn(&self, nodes: impl IntoIterator<Item = NodeId>, call: &Call) {
        join_all(self.ways(nodes).into_iter().map(|nodes| self.learn_together(nodes, call))).await;
    }

    /// Nodes, those together that the same neighbour leads to.
    pub fn ways(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<Vec<NodeId>> {
        let mut by_way: BTreeMap<Option<NodeId>, Vec<NodeId>> = BTreeMap::new();
        for node in nodes {
            by_way.entry(self.via(&node)).or_default().push(node);
        }
        by_way.into_values().collect()
    }

    async fn learn_together(&self, nodes: Vec<NodeId>, call: &Call) {
        let snapshot = self.directory.snapshot();
        let known = |node: &NodeId| known_incarnation(&snapshot, node);
        let items: Vec<InventoryItem> =
            nodes.into_iter().map(|node| InventoryItem { known_incarnation: known(&node), node }).collect();
        let answers = self.relay(&Inventory, items, call).await;
        for answer in answers.answers {
            self.directory.hear_of_load(&answer.inventory.node, answer.load);
            self.directory.learn(answer.inventory, answer.unchanged);
        }
        for failure in &answers.failures {
            if tells_of_the_node(failure.cause) {
                self.directory.is_down(failure.item.node(), &failure.why);
            }
        }
    }

    /// Suspects the node that failed to answer, if that tells of the node, and not only of a caller in a hurry.
    pub fn note<I: Item>(&self, failure: &Failure<I>) {
        if tells_of_the_node(failure.cause) {
            self.directory.suspect(failure.item.node(), &failure.why);
        }
    }

    /// Whether the call leaves time enough to tell a node that hangs from a caller in a hurry.
    pub fn is_patient(&self, call: &Call) -> bool {
        remaining(call.deadline) >= self.limits.keepalive() * PATIENT_KEEPALIVES
    }

    /// How long a question may take that is to find out whether a node is up: the first attempt at it is patient.
    pub fn probe_time(&self) -> Duration {
        self.limits.keepalive() * (2 * PATIENT_KEEPALIVES)
    }
}

/// Whether a failure has its cause in the node that was to answer, or on the way there.
fn tells_of_the_node(cause: Cause) -> bool {
    matches!(cause, Cause::Unreachable | Cause::NotReady | Cause::BadAnswer)
}

fn all_failed<'a, I: 'a>(
    items: Vec<I>,
    cause: Cause,
    why: &'a str,
    node: &'a NodeId,
) -> impl Iterator<Item = Failure<I>> + 'a {
    let failure = move |item| {
        let (why, nodes_tried) = (why.to_owned(), vec![node.clone()]);
        Failure { item, cause, why, nodes_tried, been_at: Vec::new() }
    };
    items.into_iter().map(failure)
}

/// The incarnation whose days are known: an inventory of a node that was still loading has none.
fn known_incarnation(snapshot: &Snapshot, node: &NodeId) -> u64 {
    let known = snapshot.inventories.get(node).filter(|inventory| inventory.ready);
    known.map_or(0, |inventory| inventory.incarnation)
}

/// Items that go to one neighbour together.
struct Request<I> {
    next: NodeId,
    items: Vec<I>,
    call: Call,
}

/// The ways to one node that failed.
#[derive(Default)]
struct FailedWays {
    through: BTreeSet<NodeId>,
    why: String,
    nodes_tried: BTreeSet<NodeId>,
    been_at: BTreeSet<NodeId>,
    /// Not on all of them there was too little time to tell a node that hangs from one that is slow.
    is_telling: bool,
}

impl FailedWays {
    fn add(&mut self, through: NodeId, why: String, nodes_tried: Vec<NodeId>) {
        self.nodes_tried.extend(nodes_tried);
        self.through.insert(through);
        // The way tried first is the shortest, and tells most.
        if self.why.is_empty() {
            self.why = why;
        }
    }
}
