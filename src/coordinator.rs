//! The client verbs, on whichever node a client asks: query, chunk, explain, cancel.
//!
//! The life of a query: its inventories are known or asked for; it is planned; an equal result is taken
//! from the cache, or an equal run is joined; else it is admitted, counted, cut into chunks and put
//! under a lease. Reading a chunk admits, reads and forgets again: nothing stays open.

mod answer;
mod explain;
mod read;
mod requests;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::admission::{ClientKey, ComputeSlots, QueryAdmission, QueryCost, QueryStatus};
use crate::aggregate::Groups;
use crate::cache::ByteCache;
use crate::config::{NodeId, Overlay};
use crate::coverage;
use crate::day::Day;
use crate::error::{MissingDay, QueryError};
use crate::gather::{Gather, Unanswered};
use crate::inventory::Snapshot;
use crate::metrics::Metrics;
use crate::outside::{Clock, Compute, Random};
use crate::placement::Placement;
use crate::plan::{self, Ask, Fate, Known, PlanKey, PlannedDay, Query, QueryPlan};
use crate::result_set::{Leases, Owner, ResultSet};
use crate::trace::{self, step};
use crate::verb::{Call, Cause, Frame, HopStatistics, Selection};

use self::requests::{Found, Registered, Requests};
use self::runs::{Join, RunName, Runs};

pub use explain::{ExplainedDay, Explanation};

/// Times a query is planned anew because a holder's data changed under it.
const MAX_PLANS: u32 = 3;

/// Answers clients at one node.
pub struct Coordinator {
    me: NodeId,
    overlay: Arc<Overlay>,
    placement: Arc<Placement>,
    gather: Gather,
    admission: QueryAdmission,
    reads: ComputeSlots,
    leases: Leases,
    results: ByteCache<PlanKey, Arc<ResultSet>>,
    chunks: ByteCache<(PlanKey, u32), Arc<Vec<Frame>>>,
    aggregates: ByteCache<PlanKey, Arc<Groups>>,
    /// One at a time, or many readers of a large aggregate would be many copies.
    recounts: ComputeSlots,
    computing: ComputeSlots,
    runs: Runs,
    requests: Requests,
    /// What is known of the holders, by the directory's generation.
    known: Mutex<Option<(u64, Arc<Known>)>>,
    /// Until when nodes are not asked again for a query's sake that took long to answer, or not to. Held while nodes are
    /// asked: one question serves all.
    sought: tokio::sync::Mutex<BTreeMap<NodeId, Instant>>,
    /// When a node was last asked because a query wants a version that it is not known to have.
    doubted: tokio::sync::Mutex<BTreeMap<NodeId, Instant>>,
    clock: Clock,
    random: Random,
    compute: Compute,
    metrics: Arc<Metrics>,
}

/// A query as it came in.
#[derive(Clone, Debug)]
pub struct Asking {
    /// What is wanted.
    pub query: Query,
    /// Who asks; owns the result set.
    pub client: ClientKey,
    /// The id that the client gave itself; `None` lets every id of the address read.
    pub owner: Owner,
    /// Chosen by the client, to learn what the query waits for, or to cancel it; may be empty.
    pub request_id: String,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// What a query is answered with.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Names the result set while its lease lasts.
    pub uid: String,
    /// The result.
    pub result_set: Arc<ResultSet>,
    /// How long the query waited for admission, and for what.
    pub waited: Duration,
    /// What made it wait; empty if nothing did.
    pub limiting_factor: String,
    /// Where the time went; empty for a result from the cache.
    pub statistics: Arc<Vec<HopStatistics>>,
}

/// One chunk of a result.
#[derive(Clone, Debug)]
pub struct ChunkRead {
    /// In day order.
    pub frames: Arc<Vec<Frame>>,
    /// Chunks of the result.
    pub chunk_count: u32,
    /// Whether no chunk comes after it.
    pub is_last: bool,
}

/// Where a request is.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestStatus {
    /// Its plan is being made.
    Planning,
    /// As admission sees it.
    Planned(QueryStatus),
}

#[derive(Clone)]
struct Ran {
    result_set: Arc<ResultSet>,
    waited: Duration,
    limiting_factor: String,
    statistics: Arc<Vec<HopStatistics>>,
}

impl Ran {
    fn from_cache(result_set: Arc<ResultSet>) -> Self {
        let (waited, limiting_factor) = (Duration::ZERO, String::new());
        Ran { result_set, waited, limiting_factor, statistics: Arc::default() }
    }

    fn is_whole(&self) -> bool {
        coverage::missing(&self.result_set.ledger).next().is_none()
    }
}

#[derive(Clone)]
enum RunError {
    /// A holder's data changed since its inventory was read.
    Stale(QueryError),
    Failed(QueryError),
}

/// What a coordinator is made of beside the overlay.
pub struct Parts {
    /// Reaches the overlay.
    pub gather: Gather,
    /// Admits queries.
    pub admission: QueryAdmission,
    /// Admits chunk reads.
    pub reads: ComputeSlots,
    /// Admits aggregates that are computed again, one at a time.
    pub recounts: ComputeSlots,
    /// Admits pieces of computing, the holder's and those of groups.
    pub computing: ComputeSlots,
    /// Keeps result sets.
    pub leases: Leases,
    /// Time.
    pub clock: Clock,
    /// Random bits for uids.
    pub random: Random,
    /// Where groups are encoded.
    pub compute: Compute,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

impl Coordinator {
    /// Answers clients of the node `me`.
    pub fn new(me: NodeId, overlay: Arc<Overlay>, placement: Arc<Placement>, parts: Parts) -> Self {
        let cache = &overlay.cache;
        let runs = Runs::new(overlay.limits.queue_length);
        Coordinator {
            me,
            results: ByteCache::new(cache.result_bytes),
            chunks: ByteCache::new(cache.chunk_bytes),
            aggregates: ByteCache::new(cache.aggregate_bytes),
            overlay,
            placement,
            gather: parts.gather,
            admission: parts.admission,
            reads: parts.reads,
            leases: parts.leases,
            recounts: parts.recounts,
            computing: parts.computing,
            runs,
            requests: Requests::default(),
            known: Mutex::default(),
            sought: tokio::sync::Mutex::default(),
            doubted: tokio::sync::Mutex::default(),
            clock: parts.clock,
            random: parts.random,
            compute: parts.compute,
            metrics: parts.metrics,
        }
    }

    /// Admission, for its gauges and for draining.
    pub fn admission(&self) -> &QueryAdmission {
        &self.admission
    }

    /// Queries that wait for an equal one that runs.
    pub fn follower_count(&self) -> usize {
        self.runs.follower_count()
    }

    /// Bytes of the caches of results, chunks and aggregates.
    pub fn cached_bytes(&self) -> [usize; 3] {
        [self.results.bytes(), self.chunks.bytes(), self.aggregates.bytes()]
    }

    /// The result sets under a lease.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Answers a query.
    ///
    /// # Errors
    /// [`QueryError`]; a result that lacks a day it needs is one, unless the client accepts partial results.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws this asker; the run goes on while others follow it.
    pub async fn query(self: &Arc<Self>, asking: Asking) -> Result<Answered, QueryError> {
        let started = self.clock.now();
        let deadline = asking.deadline;
        trace::note("overlay.kind", if asking.query.aggregate.is_some() { "aggregate" } else { "rows" });
        let answered = match tokio::time::timeout_at(deadline, self.answer(asking)).await {
            // A run knows the deadline, but not when each of those who share it asked.
            Ok(Err(QueryError::DeadlineExceeded { .. })) | Err(_) => {
                Err(QueryError::DeadlineExceeded { waited: deadline - started })
            }
            Ok(answered) => answered,
        };
        let outcome = answered.as_ref().map_or_else(QueryError::outcome, |_| "ready");
        trace::note("overlay.outcome", outcome);
        self.metrics.query(outcome, started.elapsed());
        if let Some(limit) = answered.as_ref().err().and_then(QueryError::limit) {
            self.metrics.refused(limit);
        }
        answered
    }

    async fn answer(self: &Arc<Self>, asking: Asking) -> Result<Answered, QueryError> {
        asking.query.check(&self.overlay)?;
        let registered = self.requests.register(&asking.client, &asking.request_id);
        let ran = tokio::select! {
            biased;
            () = registered.cancel.cancelled() => return Err(QueryError::Cancelled),
            ran = self.result(&asking, &registered) => ran?,
        };
        let result_set = ran.result_set;
        trace::note("overlay.rows", result_set.total_records as i64);
        trace::note("overlay.chunks", i64::from(result_set.chunk_count()));
        let (random, now) = (self.random.bits(), self.clock.now());
        let uid = self.leases.open(result_set.clone(), asking.owner, random, now)?;
        let Ran { waited, limiting_factor, statistics, .. } = ran;
        Ok(Answered { uid, result_set, waited, limiting_factor, statistics })
    }

    /// The result of a query: kept, of a run of another one, or of its own.
    async fn result(self: &Arc<Self>, asking: &Asking, registered: &Registered) -> Result<Ran, QueryError> {
        let query = &asking.query;
        let mut join = Join::Any;
        // What a client that accepts a partial result gets if a second run comes to less.
        let mut partial = None;
        // A limit may be full before the days out of reach are needed. Without one they are needed for sure.
        let mut sought = query.limit.is_none() || query.aggregate.is_some();
        for plan_count in 1.. {
            let planning = step!("plan", overlay.days = tracing::field::Empty);
            let plan = self.plan(query, &asking.client, sought).instrument(planning.clone()).await;
            planning.record("overlay.days", plan.days.len() as i64);
            let lacks_days = plan.days.iter().any(|planned| matches!(planned.fate, Fate::OutOfReach { .. }));
            let key = plan.key();
            let cached = self.results.get(&key).filter(|result_set| self.can_be_read(&plan, result_set));
            self.metrics.cache_use("result", cached.is_some());
            if let Some(result_set) = cached {
                trace::note("overlay.cached", true);
                return Ok(Ran::from_cache(result_set));
            }
            // Planned anew, the query asks for data that were there after it came. They may have been replaced already: where
            // files change faster than queries are answered, each next plan would be late, too.
            let replaced_too = plan_count > 1 || !query.expected_versions.is_empty();
            let run = |name| trace::along(self.clone().run(key.clone(), plan, name, replaced_too)).boxed();
            let joined = self.runs.join_or_start(&key, asking, join, run);
            registered.waits_for(&joined.name);
            let ran = joined.run.await;
            match &ran {
                Ok(ran) if ran.is_whole() => {}
                Err(RunError::Stale(_)) if plan_count < MAX_PLANS => continue,
                Err(RunError::Failed(error)) if !error.is_transient() => {}
                // Days that one run cannot reach, another one cannot reach either.
                Err(RunError::Failed(QueryError::Unavailable(_))) if !lacks_days || sought => {}
                _ if join == Join::Any && !joined.name.is_as_good_as_own(asking) => {
                    join = Join::AsGoodAsOwn;
                    partial = ran.ok();
                    continue;
                }
                _ if lacks_days && !sought => {
                    sought = true;
                    partial = ran.ok().or(partial);
                    continue;
                }
                _ => {}
            }
            let failed = |(RunError::Stale(error) | RunError::Failed(error))| error;
            trace::note("overlay.cached", false);
            return ran.or_else(|error| partial.ok_or(failed(error)));
        }
        unreachable!("the loop ends by returning")
    }

    /// Whether the chunks of a result that was kept are here, or somebody who has its versions can be asked for them, as far as is
    /// known: `plan` is of the same result, and new. What is not complete is said by the query, and not by a chunk in the middle.
    fn can_be_read(&self, plan: &QueryPlan, result_set: &ResultSet) -> bool {
        let snapshot = self.gather.relay().directory().snapshot();
        if snapshot.marked.is_empty() {
            return true;
        }
        let out_of_reach = plan.asks().filter(|(_, ask)| !snapshot.reaches(&ask.holders));
        let out_of_reach: BTreeSet<Day> = out_of_reach.map(|(planned, _)| planned.day).collect();
        let with_rows = coverage::rows_taken(&result_set.ledger).filter(|(_, served)| served.rows_taken > 0);
        let with_rows: BTreeSet<Day> = with_rows.map(|(day, _)| day).collect();
        let lost = &out_of_reach & &with_rows;
        if lost.is_empty() {
            return true;
        }
        if result_set.plan.query.aggregate.is_some() {
            return self.aggregates.contains(&result_set.key);
        }
        (0..result_set.chunk_count()).all(|index| {
            let days = result_set.chunk_days(index).unwrap_or_default();
            days.iter().all(|of_day| !lost.contains(&of_day.day))
                || self.chunks.contains(&(result_set.key.clone(), index))
        })
    }

    /// Plans a query after asking for the inventories that it lacks: of nodes that nothing is known of, and if `seek`,
    /// also of those that are marked, where nobody else holds a day.
    async fn plan(&self, query: &Query, client: &ClientKey, seek: bool) -> QueryPlan {
        let teams = self.overlay.teams_answered_by(&self.me);
        let days = query.planned_days(teams.map(|team| (team.name.as_str(), team.days)));
        if !self.known().is_whole(days.iter().map(|(day, _)| *day)) {
            self.learn_holders(&days, client, seek).await;
            // What is known of a holder with new data is forgotten, also while others are waited for.
            self.learn_holders(&days, client, false).await;
        }
        let plan = plan::plan(query.clone(), &days, &self.overlay, &self.known());
        let gone: BTreeSet<NodeId> =
            plan.days.iter().filter_map(holders_without_the_version).flatten().collect();
        if gone.is_empty() {
            return plan;
        }
        // What is known may be old: only what its holders say now is a loss.
        self.ask_again(gone, client).await;
        plan::plan(query.clone(), &days, &self.overlay, &self.known())
    }

    /// What is known of the holders now.
    fn known(&self) -> Arc<Known> {
        let snapshot = self.gather.relay().directory().snapshot();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((generation, known)) if *generation == snapshot.generation => known.clone(),
            _ => {
                let anew = Arc::new(Known::new(&self.placement, &snapshot));
                *known = Some((snapshot.generation, anew.clone()));
                anew
            }
        }
    }

    /// Asks nodes what they hold now, one question at a time for all queries: what was asked while a query waited for its
    /// turn was asked for it, too.
    async fn ask_again(&self, mut nodes: BTreeSet<NodeId>, client: &ClientKey) {
        let came = self.clock.now();
        let mut asked = self.doubted.lock().await;
        nodes.retain(|node| asked.get(node).is_none_or(|then| *then < came));
        if nodes.is_empty() {
            return;
        }
        let now = self.clock.now();
        let call = self.call(client, now + self.gather.relay().probe_time());
        self.gather.relay().learn(nodes.iter().cloned(), &call).await;
        asked.extend(nodes.into_iter().map(|node| (node, now)));
    }

    fn unknown_holders(&self, days: &[(Day, &str)], snapshot: &Snapshot, seek: bool) -> BTreeSet<NodeId> {
        let mut unknown = BTreeSet::new();
        for (day, _) in days {
            let holders = self.placement.holders(*day);
            let is_lost = !snapshot.reaches(holders);
            let wanted = |holder: &&NodeId| match snapshot.marked.contains_key(*holder) {
                true => seek && is_lost,
                false => !snapshot.serves(holder),
            };
            unknown.extend(holders.iter().filter(wanted).cloned());
        }
        unknown
    }

    /// Asks the holders in question what they hold, one question at a time for all queries. Marked ones that kept a
    /// query waiting are not asked again before the time between two probes has passed.
    async fn learn_holders(&self, days: &[(Day, &str)], client: &ClientKey, seek: bool) {
        let relay = self.gather.relay();
        if self.unknown_holders(days, &relay.directory().snapshot(), seek).is_empty() {
            return;
        }
        let mut sought = self.sought.lock().await;
        let snapshot = relay.directory().snapshot();
        let now = self.clock.now();
        let mut unknown = self.unknown_holders(days, &snapshot, seek);
        unknown.retain(|node| {
            let waits = sought.get(node).is_some_and(|until| now < *until);
            !(waits && snapshot.marked.contains_key(node))
        });
        if !unknown.is_empty() {
            let probe = self.overlay.limits.probe();
            let call = self.call(client, now + relay.probe_time());
            // In advance, in case that who asks does not wait for the answer: the next in line need not ask again.
            sought.extend(unknown.iter().map(|node| (node.clone(), call.deadline + probe)));
            relay.learn(unknown.iter().cloned(), &call).await;
            let answered = self.clock.now();
            let slow = answered - now > self.overlay.limits.keepalive() / 2;
            for node in unknown {
                match slow {
                    true => drop(sought.insert(node, answered + probe)),
                    false => drop(sought.remove(&node)),
                }
            }
        }
    }

    async fn run(
        self: Arc<Self>,
        key: PlanKey,
        plan: QueryPlan,
        name: RunName,
        replaced_too: bool,
    ) -> Result<Ran, RunError> {
        let RunName { id, charged_to, deadline } = name;
        let teams = plan.cost_by_team().into_iter().collect();
        let cost = QueryCost { client: charged_to.clone(), request_id: Some(id), teams };
        // Who asks says how long that was.
        let out_of_time = |_| RunError::Failed(QueryError::DeadlineExceeded { waited: Duration::ZERO });
        let waiting = step!("admission wait", overlay.limiting_factor = tracing::field::Empty);
        let admitting = self.admission.admit(cost).instrument(waiting.clone());
        let admitted = tokio::time::timeout_at(deadline, admitting).await;
        let mut permit = admitted
            .map_err(out_of_time)?
            .map_err(|error| RunError::Failed(QueryError::from_admission(error, &self.me)))?;
        self.metrics.waited(permit.limiting_factor(), permit.waited());
        waiting.record("overlay.limiting_factor", permit.limiting_factor().unwrap_or_default());
        let call = self.call(&charged_to, deadline);
        let mut scanned = BTreeMap::new();
        let work = self.count_and_cut(key, plan, &call, replaced_too, &mut scanned);
        let counted = tokio::time::timeout_at(deadline, work).await;
        permit.measured(scanned);
        let (result_set, statistics) = counted.map_err(out_of_time)??;
        let ran = Ran {
            result_set: Arc::new(result_set),
            waited: permit.waited(),
            limiting_factor: permit.limiting_factor().unwrap_or_default().to_owned(),
            statistics: Arc::new(statistics),
        };
        self.keep(&ran);
        Ok(ran)
    }

    /// Keeps a complete result for equal queries.
    fn keep(&self, ran: &Ran) {
        if ran.is_whole() {
            let result_set = &ran.result_set;
            let bytes = result_set.bytes();
            self.results.insert(result_set.key.clone(), result_set.clone(), bytes);
        }
    }

    /// Ends a lease, or withdraws a request; whether there was one that belongs to the client.
    pub fn cancel(&self, uid: &str, request_id: &str, reader: &Owner, client: &ClientKey) -> bool {
        let withdrawn = self.requests.cancel(client, request_id);
        withdrawn | (!uid.is_empty() && self.leases.close(uid, reader, self.clock.now()))
    }

    /// What a request waits for.
    pub fn status(&self, request_id: &str, client: &ClientKey) -> RequestStatus {
        match self.requests.find(client, request_id) {
            Found::Unknown => RequestStatus::Planned(QueryStatus::Unknown),
            Found::Planning => RequestStatus::Planning,
            Found::Run(run) => RequestStatus::Planned(self.admission.status(&run.id, &run.charged_to)),
        }
    }

    /// The holders of a day that the plan does not name: they have come since, or have another version.
    fn other_holders(&self, day: Day, ask: &Ask) -> impl Iterator<Item = NodeId> {
        self.placement.holders(day).iter().filter(|holder| !ask.holders.contains(holder)).cloned()
    }

    fn selection(&self, plan: &QueryPlan) -> Selection {
        Selection { predicate: Arc::new(plan.query.predicate.clone()), encoding: plan.query.encoding }
    }

    fn call(&self, client: &ClientKey, deadline: Instant) -> Call {
        Call::new(client.clone(), deadline)
    }
}

/// The holders of a day, if none is known to have the version that is expected.
fn holders_without_the_version(planned: &PlannedDay) -> Option<Vec<NodeId>> {
    match &planned.fate {
        Fate::VersionGone { holders, .. } => Some(holders.clone()),
        _ => None,
    }
}

/// The error of a chunk whose days nobody could read.
fn unread(days: BTreeMap<Day, Unanswered>) -> QueryError {
    let (lost, out_of_reach): (Vec<_>, Vec<_>) =
        days.into_iter().partition(|(_, unanswered)| unanswered.lost);
    if out_of_reach.is_empty() {
        return QueryError::DataLoss(missing_days(lost));
    }
    unavailable(out_of_reach)
}

/// The error of a query whose days nobody could answer for.
fn unavailable(days: Vec<(Day, Unanswered)>) -> QueryError {
    let with = |cause| days.iter().find(move |(_, unanswered)| unanswered.cause == cause);
    if let Some((_, unanswered)) = with(Cause::TooManyGroups) {
        return QueryError::TooLarge { limit: "limits.max_groups", message: unanswered.why.clone() };
    }
    let overloaded = days.iter().filter_map(|(_, unanswered)| match unanswered.cause {
        Cause::Overloaded { retry_after } => Some((retry_after, &unanswered.why)),
        _ => None,
    });
    if let Some((retry_after, why)) = overloaded.max() {
        return QueryError::Overloaded { limit: None, message: why.clone(), retry_after };
    }
    if days.iter().all(|(_, unanswered)| unanswered.cause == Cause::OutOfTime) {
        return QueryError::DeadlineExceeded { waited: Duration::ZERO };
    }
    QueryError::Unavailable(missing_days(days))
}

fn missing_days(days: Vec<(Day, Unanswered)>) -> Vec<MissingDay> {
    days.into_iter()
        .map(|(day, unanswered)| MissingDay {
            day,
            why: unanswered.why,
            nodes_tried: unanswered.nodes_tried.iter().map(NodeId::to_string).collect(),
        })
        .collect()
}
