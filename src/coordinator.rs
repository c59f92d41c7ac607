//! The client verbs, on whichever node a client asks: query, chunk, explain, cancel.
//!
//! The life of a query: its inventories are known or asked for; it is planned; an equal result is taken
//! from the cache, or an equal run is joined; else it is admitted, counted, cut into chunks and put
//! under a lease. Reading a chunk admits, reads and forgets again: nothing stays open.

mod answer;
mod explain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::{ClientKey, ComputeSlots, QueryAdmission, QueryCost, QueryStatus, Requester};
use crate::aggregate::{GroupId, Partial};
use crate::cache::ByteCache;
use crate::config::{NodeId, Overlay, Role};
use crate::coverage::Outcome;
use crate::day::Day;
use crate::error::{MissingDay, QueryError};
use crate::frame;
use crate::gather::{Gather, Unanswered};
use crate::metrics::Metrics;
use crate::outside::{Clock, Random};
use crate::placement::Placement;
use crate::plan::{self, Ask, Query, QueryPlan};
use crate::result_set::{Leases, Owner, ResultSet};
use crate::store::Version;
use crate::verb::{Call, Cause, Count, Frame, HopStatistics, Read, Selection};

pub use explain::{ExplainedDay, Explanation};

/// Times a query is planned anew because a holder's data changed under it.
const MAX_PLANS: u32 = 3;

/// Answers clients at one node.
pub struct Coordinator {
    me: NodeId,
    overlay: Arc<Overlay>,
    placement: Arc<Placement>,
    gather: Arc<Gather>,
    admission: QueryAdmission,
    reads: ComputeSlots,
    leases: Leases,
    results: ByteCache<Arc<str>, Arc<ResultSet>>,
    chunks: ByteCache<(Arc<str>, u32), Arc<Vec<Frame>>>,
    aggregates: ByteCache<Arc<str>, Arc<Vec<(GroupId, Partial)>>>,
    running: Mutex<BTreeMap<Arc<str>, Running>>,
    requests: Mutex<BTreeMap<(ClientKey, String), Request>>,
    next_run: AtomicU64,
    clock: Clock,
    random: Random,
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

/// A run that equal queries may join.
struct Running {
    run: WeakShared<BoxFuture<'static, Result<Ran, RunError>>>,
    charged_to: ClientKey,
    run_id: String,
}

/// A request that can be asked about and cancelled.
struct Request {
    cancel: CancellationToken,
    serial: u64,
    charged_to: ClientKey,
    run_id: String,
}

#[derive(Clone)]
struct Ran {
    result_set: Arc<ResultSet>,
    waited: Duration,
    limiting_factor: String,
    statistics: Arc<Vec<HopStatistics>>,
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
    pub gather: Arc<Gather>,
    /// Admits queries.
    pub admission: QueryAdmission,
    /// Admits chunk reads.
    pub reads: ComputeSlots,
    /// Keeps result sets.
    pub leases: Leases,
    /// Time.
    pub clock: Clock,
    /// Random bits for uids.
    pub random: Random,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

impl Coordinator {
    /// Answers clients of the node `me`.
    pub fn new(me: NodeId, overlay: Arc<Overlay>, placement: Arc<Placement>, parts: Parts) -> Self {
        let cache = &overlay.cache;
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
            running: Mutex::default(),
            requests: Mutex::default(),
            next_run: AtomicU64::new(1),
            clock: parts.clock,
            random: parts.random,
            metrics: parts.metrics,
        }
    }

    /// Admission, for its gauges and for draining.
    pub fn admission(&self) -> &QueryAdmission {
        &self.admission
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
        let answered = match tokio::time::timeout_at(deadline, self.answer(asking)).await {
            Ok(answered) => answered,
            Err(_) => Err(QueryError::DeadlineExceeded { waited: deadline - started }),
        };
        let outcome = answered.as_ref().map_or_else(QueryError::outcome, |_| "ready");
        self.metrics.query(outcome, started.elapsed());
        answered
    }

    async fn answer(self: &Arc<Self>, asking: Asking) -> Result<Answered, QueryError> {
        asking.query.check(&self.overlay)?;
        for plan_count in 1.. {
            let plan = self.plan(&asking.query, &asking.client, asking.deadline).await;
            let key: Arc<str> = plan.key().into();
            let cached = self.results.get(&key);
            self.metrics.cache_use("result", cached.is_some());
            let ran = match cached {
                Some(result_set) => Ran {
                    result_set,
                    waited: Duration::ZERO,
                    limiting_factor: String::new(),
                    statistics: Arc::default(),
                },
                None => match self.run_shared(key, plan, &asking).await {
                    Ok(ran) => ran,
                    Err(RunError::Stale(_)) if plan_count < MAX_PLANS => continue,
                    // Another asker's deadline passed, this one's has not yet.
                    Err(RunError::Failed(QueryError::DeadlineExceeded { .. }))
                        if self.clock.now() < asking.deadline =>
                    {
                        continue;
                    }
                    Err(RunError::Stale(error) | RunError::Failed(error)) => return Err(error),
                },
            };
            let uid = self.leases.open(
                ran.result_set.clone(),
                asking.owner.clone(),
                self.random.bits(),
                self.clock.now(),
            )?;
            return Ok(Answered {
                uid,
                result_set: ran.result_set,
                waited: ran.waited,
                limiting_factor: ran.limiting_factor,
                statistics: ran.statistics,
            });
        }
        unreachable!("the loop ends by returning")
    }

    /// Plans a query after asking for the inventories that it lacks.
    async fn plan(&self, query: &Query, client: &ClientKey, deadline: Instant) -> QueryPlan {
        let own_team = match self.overlay.process(&self.me) {
            Some(process) if process.role != Role::Leader => Some(process.team.as_str()),
            _ => None,
        };
        let days = query.planned_days(&self.overlay, own_team);
        let mut snapshot = self.gather.directory().snapshot();
        let mut unknown = BTreeSet::new();
        for (day, _) in &days {
            let holders = self.placement.holders(*day);
            let lost =
                !holders.iter().any(|holder| snapshot.serves(holder) && !snapshot.marked.contains(holder));
            let asked =
                |holder: &&NodeId| !snapshot.serves(holder) && (lost || !snapshot.marked.contains(*holder));
            unknown.extend(holders.iter().filter(asked).cloned());
        }
        if !unknown.is_empty() {
            let call = self.call(client, deadline);
            self.gather.learn(unknown, &call).await;
            snapshot = self.gather.directory().snapshot();
        }
        plan::plan(query.clone(), days, &self.overlay, &self.placement, &snapshot)
    }

    /// Joins an equal run, or starts one; the first asker pays for it.
    async fn run_shared(
        self: &Arc<Self>,
        key: Arc<str>,
        plan: QueryPlan,
        asking: &Asking,
    ) -> Result<Ran, RunError> {
        let (run, charged_to, run_id) = self.join_or_start(key, plan, asking);
        let cancel = CancellationToken::new();
        let _registered = (!asking.request_id.is_empty()).then(|| {
            let serial = self.next_run.fetch_add(1, Ordering::Relaxed);
            let request = Request { cancel: cancel.clone(), serial, charged_to, run_id };
            self.register(asking, request)
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(RunError::Failed(QueryError::Cancelled)),
            ran = run => ran,
        }
    }

    fn join_or_start(
        self: &Arc<Self>,
        key: Arc<str>,
        plan: QueryPlan,
        asking: &Asking,
    ) -> (Shared<BoxFuture<'static, Result<Ran, RunError>>>, ClientKey, String) {
        let mut running = self.running.lock().expect("joining a run does not panic");
        running.retain(|_, running| running.run.upgrade().is_some());
        if let Some(found) = running.get(&key)
            && let Some(run) = found.run.upgrade()
            && run.peek().is_none()
        {
            return (run, found.charged_to.clone(), found.run_id.clone());
        }
        let run_id = self.next_run.fetch_add(1, Ordering::Relaxed).to_string();
        let run = self
            .clone()
            .run(key.clone(), plan, asking.client.clone(), run_id.clone(), asking.deadline)
            .boxed()
            .shared();
        if let Some(weak) = run.downgrade() {
            let entry = Running { run: weak, charged_to: asking.client.clone(), run_id: run_id.clone() };
            running.insert(key, entry);
        }
        (run, asking.client.clone(), run_id)
    }

    async fn run(
        self: Arc<Self>,
        key: Arc<str>,
        plan: QueryPlan,
        client: ClientKey,
        run_id: String,
        deadline: Instant,
    ) -> Result<Ran, RunError> {
        let teams = plan.cost_by_team().into_iter().map(|(team, rows)| (Arc::from(team), rows)).collect();
        let cost = QueryCost { client: client.clone(), request_id: Some(run_id), teams };
        let admitted = tokio::time::timeout_at(deadline, self.admission.admit(cost)).await;
        let out_of_time = || RunError::Failed(QueryError::DeadlineExceeded { waited: Duration::ZERO });
        let mut permit = admitted
            .map_err(|_| out_of_time())?
            .map_err(|error| RunError::Failed(QueryError::from_admission(error, &self.me)))?;
        self.metrics.waited(permit.waited());
        let call = self.call(&client, deadline);
        let work = self.count_and_cut(key, plan, &call);
        let (result_set, statistics) =
            tokio::time::timeout_at(deadline, work).await.map_err(|_| out_of_time())??;
        permit.measured(rows_scanned(&result_set));
        Ok(Ran {
            result_set: Arc::new(result_set),
            waited: permit.waited(),
            limiting_factor: permit.limiting_factor().unwrap_or_default().to_owned(),
            statistics: Arc::new(statistics),
        })
        .inspect(|ran: &Ran| self.keep(ran))
    }

    /// Keeps a complete result for equal queries.
    fn keep(&self, ran: &Ran) {
        let result_set = &ran.result_set;
        if crate::coverage::missing(&result_set.ledger).next().is_none() {
            let bytes = result_set.bytes() + result_set.key.len();
            self.results.insert(result_set.key.clone(), result_set.clone(), bytes);
        }
    }

    /// Reads a chunk, as often as wanted while the lease lasts.
    ///
    /// # Errors
    /// [`QueryError`]: unknown, expired, out of range, unavailable and lost are all different.
    pub async fn chunk(
        self: &Arc<Self>,
        uid: &str,
        index: i64,
        reader: &Owner,
        client: &ClientKey,
        deadline: Instant,
    ) -> Result<ChunkRead, QueryError> {
        let started = self.clock.now();
        let reading = self.read_chunk(uid, index, reader, client, deadline);
        let read = match tokio::time::timeout_at(deadline, reading).await {
            Ok(read) => read,
            Err(_) => Err(QueryError::DeadlineExceeded { waited: deadline - started }),
        };
        let bytes = read
            .as_ref()
            .map_or(0, |chunk| chunk.frames.iter().map(|frame| frame.payload.len() as u64).sum());
        let outcome = read.as_ref().map_or_else(QueryError::outcome, |_| "success");
        self.metrics.chunk(outcome, bytes);
        read
    }

    async fn read_chunk(
        self: &Arc<Self>,
        uid: &str,
        index: i64,
        reader: &Owner,
        client: &ClientKey,
        deadline: Instant,
    ) -> Result<ChunkRead, QueryError> {
        let result_set = self.leases.touch(uid, reader, self.clock.now())?;
        let chunk_count = result_set.chunk_count();
        let out_of_range = || QueryError::OutOfRange { index, chunk_count };
        let index = u32::try_from(index).map_err(|_| out_of_range())?;
        let range = result_set.chunk_range(index).ok_or_else(out_of_range)?;
        let cache_key = (result_set.key.clone(), index);
        let cached = self.chunks.get(&cache_key);
        self.metrics.cache_use("chunk", cached.is_some());
        let frames = match cached {
            Some(frames) => frames,
            None => {
                let requester = Requester { team: chunk_team(&result_set, index), client: client.clone() };
                let rows = (range.end - range.start).max(1);
                let permit = self.reads.acquire(&requester, rows).await?;
                let call = self.call(client, deadline);
                let frames = match &result_set.plan.query.aggregate {
                    Some(_) => self.aggregate_frames(&result_set, range, &call).await?,
                    None => self.row_frames(&result_set, index, &call).await?,
                };
                drop(permit);
                self.keep_chunk(cache_key, frames)
            }
        };
        let is_last = index + 1 == chunk_count;
        if is_last {
            self.leases.read_out(uid);
        }
        Ok(ChunkRead { frames, chunk_count, is_last })
    }

    fn keep_chunk(&self, key: (Arc<str>, u32), frames: Vec<Frame>) -> Arc<Vec<Frame>> {
        let frames = Arc::new(frames);
        let payload: usize = frames.iter().map(|frame| frame.payload.len() + size_of::<Frame>()).sum();
        self.chunks.insert(key.clone(), frames.clone(), payload + key.0.len());
        frames
    }

    async fn row_frames(
        &self,
        result_set: &ResultSet,
        index: u32,
        call: &Call,
    ) -> Result<Vec<Frame>, QueryError> {
        let plan = &result_set.plan;
        let asks: BTreeMap<Day, _> =
            plan.asks().map(|(planned, ask)| (planned.day, (planned, ask))).collect();
        let days: Vec<_> = result_set
            .chunk_days(index)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|rows| {
                let (planned, ask) = asks.get(&rows.day)?;
                Some((rows, Arc::from(planned.team.as_str()), self.all_holders(planned.day, ask)))
            })
            .collect();
        let spec = Read { selection: self.selection(plan) };
        self.gather.read(&spec, &days, call).await.map_err(unread)
    }

    async fn aggregate_frames(
        &self,
        result_set: &ResultSet,
        range: std::ops::Range<u64>,
        call: &Call,
    ) -> Result<Vec<Frame>, QueryError> {
        let plan = &result_set.plan;
        let Some(spec) = &plan.query.aggregate else {
            return Ok(Vec::new());
        };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let groups = match self.aggregates.get(&result_set.key) {
            Some(groups) => groups,
            None => self.aggregate_again(result_set, call).await?,
        };
        let chunk = groups.get(range.start as usize..range.end as usize).unwrap_or_default();
        let payload = frame::encode_groups(spec, chunk, plan.query.encoding);
        Ok(vec![Frame {
            day: None,
            version: aggregate_version(result_set),
            first_row: range.start,
            rows: chunk.len() as u32,
            digest: frame::digest(&payload),
            payload,
            node: self.me.clone(),
        }])
    }

    /// Ends a lease, or withdraws a request; whether there was one that belongs to the client.
    pub fn cancel(&self, uid: &str, request_id: &str, reader: &Owner, client: &ClientKey) -> bool {
        let key = (client.clone(), request_id.to_owned());
        let requests = self.requests.lock().expect("registering a request does not panic");
        let withdrawn = requests.get(&key).map(|request| request.cancel.cancel()).is_some();
        withdrawn | (!uid.is_empty() && self.leases.close(uid, reader))
    }

    /// What a request waits for.
    pub fn status(&self, request_id: &str, client: &ClientKey) -> QueryStatus {
        let key = (client.clone(), request_id.to_owned());
        let requests = self.requests.lock().expect("registering a request does not panic");
        match requests.get(&key) {
            Some(request) => self.admission.status(&request.run_id, &request.charged_to),
            None => QueryStatus::Unknown,
        }
    }

    fn register(self: &Arc<Self>, asking: &Asking, request: Request) -> Registered {
        let key = (asking.client.clone(), asking.request_id.clone());
        let serial = request.serial;
        self.requests.lock().expect("registering a request does not panic").insert(key.clone(), request);
        Registered { coordinator: self.clone(), key, serial }
    }

    /// The holders that a plan knew, then those that have come since: they refuse if their version differs.
    fn all_holders(&self, day: Day, ask: &Ask) -> Vec<NodeId> {
        let later = self.placement.holders(day).iter().filter(|holder| !ask.holders.contains(holder));
        ask.holders.iter().chain(later).cloned().collect()
    }

    fn selection(&self, plan: &QueryPlan) -> Selection {
        Selection { predicate: Arc::new(plan.query.predicate.clone()), encoding: plan.query.encoding }
    }

    fn call(&self, client: &ClientKey, deadline: Instant) -> Call {
        Call { hops: Vec::new(), client: client.clone(), deadline }
    }
}

/// Takes a request off the register when it ends, however it ends.
struct Registered {
    coordinator: Arc<Coordinator>,
    key: (ClientKey, String),
    serial: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Ok(mut requests) = self.coordinator.requests.lock() {
            // A later request of the same id may have taken the place.
            if requests.get(&self.key).is_some_and(|request| request.serial == self.serial) {
                requests.remove(&self.key);
            }
        }
    }
}

/// What counting really cost: the rows of the days that were counted, by team.
fn rows_scanned(result_set: &ResultSet) -> BTreeMap<Arc<str>, u64> {
    let mut rows: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    let counted: BTreeSet<Day> = result_set
        .ledger
        .iter()
        .filter(|entry| matches!(entry.outcome, Outcome::Served(_)))
        .map(|entry| entry.day)
        .collect();
    for (planned, ask) in result_set.plan.asks().filter(|(planned, _)| counted.contains(&planned.day)) {
        *rows.entry(Arc::from(planned.team.as_str())).or_default() += ask.rows_to_scan;
    }
    rows
}

/// The team that pays for reading a chunk: the one of its first day.
fn chunk_team(result_set: &ResultSet, index: u32) -> Arc<str> {
    let first = result_set.chunk_days(index).and_then(|days| Some(days.first()?.day));
    let planned = result_set.plan.days.iter().find(|planned| first.is_none_or(|day| planned.day == day));
    Arc::from(planned.map_or("", |planned| planned.team.as_str()))
}

/// The version of an aggregate: of all the versions that went into it.
fn aggregate_version(result_set: &ResultSet) -> Version {
    let versions: Vec<u8> = crate::coverage::rows_taken(&result_set.ledger)
        .flat_map(|(day, served)| [&day.number().to_be_bytes()[..], &served.version.0].concat())
        .collect();
    Version(frame::digest(&versions).0)
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
        return QueryError::TooLarge(unanswered.why.clone());
    }
    let overloaded = days.iter().filter_map(|(_, unanswered)| match unanswered.cause {
        Cause::Overloaded { retry_after } => Some((retry_after, &unanswered.why)),
        _ => None,
    });
    if let Some((retry_after, why)) = overloaded.max() {
        return QueryError::Overloaded { message: why.clone(), retry_after };
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
