//! Every metric, declared once: name with its unit, help text, labels.
//!
//! Labels are few and bounded: outcomes, caches, neighbours, teams, and clients that the configuration names. Never a result
//! set, another client or a query.

mod orphans;
mod shares;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry, Unit};

use shares::Shares;

pub use orphans::{Orphans, Owner, Work};
pub use shares::{OTHER_CLIENTS, STEPS};

use crate::config::NodeId;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Refusal {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CacheUse {
    cache: &'static str,
    hit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct PeerRequest {
    neighbour: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct NeighbourIs {
    neighbour: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct HeldBy {
    by: &'static str,
}

/// Metrics by label, written out in the order of their labels: equal nodes answer with equal bytes.
#[derive(Clone, Debug)]
struct Labelled<L, M>(Arc<Mutex<BTreeMap<L, M>>>);

type Counters<L> = Labelled<L, Counter>;

impl<L, M> Default for Labelled<L, M> {
    fn default() -> Self {
        Labelled(Arc::default())
    }
}

impl<L, M> Labelled<L, M> {
    fn of(&self, label: L) -> M
    where
        L: Ord,
        M: Clone + Default,
    {
        self.or_insert(label, M::default)
    }

    fn or_insert(&self, label: L, new: impl FnOnce() -> M) -> M
    where
        L: Ord,
        M: Clone,
    {
        self.by_label().entry(label).or_insert_with(new).clone()
    }

    fn by_label(&self) -> MutexGuard<'_, BTreeMap<L, M>> {
        self.0.lock().expect("nothing panics while it holds the metrics")
    }
}

impl<L, M> EncodeMetric for Labelled<L, M>
where
    L: EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    M: EncodeMetric + TypedMetric + fmt::Debug + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (label, metric) in &*self.by_label() {
            metric.encode(encoder.encode_family(label)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        <M as TypedMetric>::TYPE
    }

    fn is_empty(&self) -> bool {
        self.by_label().is_empty()
    }
}

/// Buckets from a tenth of a millisecond to a minute.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

/// The metrics of one node.
pub struct Metrics {
    registry: Registry,
    queries: Counters<Outcome>,
    refusals: Counters<Refusal>,
    query_seconds: Histogram,
    /// The histogram's sum, which it does not give out.
    answered_seconds: Counter<f64, AtomicU64>,
    shares: Shares,
    chunks: Counters<Outcome>,
    chunk_bytes: Counter,
    cache_uses: Counters<CacheUse>,
    rows_scanned: Counter,
    frame_bytes: Counter,
    frame_seconds: Histogram,
    peer_requests: Counters<PeerRequest>,
    retries: Counter,
    hedges: Counter,
    orphans: Orphans,
    active_queries: Gauge,
    waiting_queries: Gauge,
    following_queries: Gauge,
    computing_pieces: Gauge,
    peer_requests_in_flight: Gauge,
    probes_in_flight: Gauge,
    open_streams: Gauge,
    open_result_sets: Gauge,
    held_bytes: Labelled<HeldBy, Gauge>,
    transit_bytes: Gauge,
    orphaned_tasks: Gauge,
    marked_nodes: Gauge,
    neighbour_state: Labelled<NeighbourIs, Gauge>,
    version_conflicts: Gauge,
    rows_held: Gauge,
    rejected_rows: Gauge,
    replaced_days: Counter,
    pending_days: Gauge,
    failed_looks: Gauge,
}

/// What is read from the node at the moment it is asked.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Queries that have their slots.
    pub active_queries: usize,
    /// Queries that wait for slots.
    pub waiting_queries: usize,
    /// Queries that wait for an equal one that runs.
    pub following_queries: usize,
    /// Pieces of scanning and encoding that run.
    pub computing_pieces: usize,
    /// Requests of neighbours that are being answered.
    pub peer_requests_in_flight: usize,
    /// Those of them that are on behalf of no client: neighbours ask how nodes are.
    pub probes_in_flight: usize,
    /// Streams of chunks that are open.
    pub open_streams: usize,
    /// Result sets under a lease.
    pub open_result_sets: usize,
    /// Bytes that each cache, the result sets and replaced data hold within their limits.
    pub held_bytes: [(&'static str, usize); 6],
    /// Bytes of messages on their way.
    pub transit_bytes: usize,
    /// Tasks and pieces of work that nobody waits for any more, and that have not ended yet.
    pub orphaned_tasks: usize,
    /// Nodes that are avoided.
    pub marked_nodes: usize,
    /// Each neighbour, and which of [`NEIGHBOUR_STATES`] it is in.
    pub neighbours: Vec<(NodeId, &'static str)>,
    /// Days whose holders disagree about the version.
    pub version_conflicts: usize,
    /// Rows in the store.
    pub rows_held: u64,
    /// Rows that did not parse.
    pub rejected_rows: u64,
}

/// Sums over a node's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Queries answered, whatever the outcome.
    pub queries: u64,
    /// Queries rejected for overload.
    pub rejected: u64,
    /// Chunks delivered.
    pub chunks: u64,
    /// Mean time of the queries that were answered, in seconds.
    pub query_seconds_mean: f64,
}

/// A registry that is being filled; metrics are written out in the order in which they are declared.
struct Declaring(Registry);

impl Declaring {
    fn metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    /// The unit becomes the end of the name.
    fn with_unit<M: Metric + Clone>(&mut self, name: &str, help: &str, unit: Unit, metric: M) -> M {
        self.0.register_with_unit(name, help, unit, metric.clone());
        metric
    }

    /// Counters of outcomes, all of which are there from the start, at 0: a rate knows no series that begins above.
    fn outcomes(&mut self, name: &str, help: &str, outcomes: &[&'static str]) -> Counters<Outcome> {
        let counters: Counters<Outcome> = self.metric(name, help);
        outcomes.iter().for_each(|outcome| drop(counters.of(Outcome { outcome })));
        counters
    }

    fn bytes<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.with_unit(name, help, Unit::Bytes, M::default())
    }

    fn seconds(&mut self, name: &str, help: &str) -> Histogram {
        self.with_unit(name, help, Unit::Seconds, seconds())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Declaring(Registry::with_prefix("overlay"));
        let build = Info::new([("version", env!("OVERLAY_VERSION"))]);
        all.0.register("build", "What this node was built from", build);
        Metrics {
            shares: Shares::declare(&mut all),
            queries: all.outcomes("queries", "Queries by outcome", &OUTCOMES),
            refusals: all.metric("refusals", "Queries refused, by the limit that they met"),
            query_seconds: all.seconds("query", "From request to manifest"),
            chunks: all.outcomes("chunks", "Chunks by outcome", &CHUNK_OUTCOMES),
            chunk_bytes: all.bytes("chunk", "Payload of chunks delivered"),
            cache_uses: all.metric("cache_uses", "Look-ups by cache and whether they hit"),
            rows_scanned: all.metric("rows_scanned", "Rows scanned by this node"),
            frame_bytes: all.bytes("frame", "Payload of frames encoded"),
            frame_seconds: all.seconds("frame_encode", "Encoding one frame"),
            peer_requests: all.metric("peer_requests", "Requests to neighbours by whether they answered"),
            retries: all.metric("retries", "Requests sent to neighbours after others failed"),
            hedges: all.metric("hedges", "Requests sent because another one was slow"),
            active_queries: all.metric("active_queries", "Queries that have their slots"),
            waiting_queries: all.metric("waiting_queries", "Queries that wait for slots"),
            following_queries: all.metric("following_queries", "Queries that wait for an equal one"),
            computing_pieces: all.metric("computing_pieces", "Pieces of scanning and encoding that run"),
            peer_requests_in_flight: all
                .metric("peer_requests_in_flight", "Requests of neighbours that are being answered"),
            probes_in_flight: all.metric(
                "probes_in_flight",
                "Those of the requests of neighbours that are on behalf of no client",
            ),
            open_streams: all.metric("open_streams", "Streams of chunks that are open"),
            open_result_sets: all.metric("open_result_sets", "Result sets under a lease"),
            held_bytes: all.bytes(
                "held",
                "Bytes held by each cache, by result sets and by data that newer files have replaced",
            ),
            transit_bytes: all.bytes("transit", "Bytes of requests, and of answers that wait to be taken"),
            orphaned_tasks: all.metric("orphaned_tasks", "Tasks that go on although nobody waits for them"),
            marked_nodes: all.metric("marked_nodes", "Nodes avoided until a probe has an answer"),
            neighbour_state: all.metric(
                "neighbour_state",
                "1 for the state that a neighbour is thought to be in, 0 for the others",
            ),
            version_conflicts: all.metric("version_conflicts", "Days whose holders disagree about the data"),
            rows_held: all.metric("rows_held", "Rows in the store"),
            rejected_rows: all.metric("rejected_rows", "Rows of the files that did not parse"),
            replaced_days: all.metric("replaced_days", "Days that newer files have replaced"),
            pending_days: all.metric("pending_days", "Days whose files have changed and are not loaded yet"),
            failed_looks: all.metric(
                "failed_looks",
                "Looks at the files of the dataset that failed, one after the other, up to now",
            ),
            answered_seconds: Counter::default(),
            orphans: Orphans::default(),
            registry: all.0,
        }
    }
}

impl Metrics {
    /// Takes note of how many looks in a row have failed.
    pub fn looked(&self, failed_looks: u32) {
        self.failed_looks.set(failed_looks.into());
    }

    /// Takes note of what a look at the files of a dataset came to.
    pub fn watched(&self, replaced_days: usize, pending_days: usize) {
        self.replaced_days.inc_by(replaced_days as u64);
        self.pending_days.set(pending_days as i64);
    }

    /// Counts a query that ended; one that was answered also by its time.
    pub fn query(&self, outcome: &'static str, took: Duration) {
        self.queries.of(Outcome { outcome }).inc();
        if outcome == "ready" {
            self.query_seconds.observe(took.as_secs_f64());
            self.answered_seconds.inc_by(took.as_secs_f64());
        }
    }

    /// Counts a query that met a limit.
    pub fn refused(&self, limit: &'static str) {
        self.refusals.of(Refusal { limit }).inc();
    }

    /// Counts the time that a query waited for admission, and for what.
    pub fn waited(&self, factor: Option<&str>, waited: Duration) {
        self.shares.waited(factor, waited);
    }

    /// Counts the time that a piece of computing took, of [`STEPS`], for a class of clients.
    pub fn computed(&self, step: &'static str, class: &str, took: Duration) {
        self.shares.computed(step, class, took);
    }

    /// Counts a chunk that was asked for, and its bytes if it was delivered.
    pub fn chunk(&self, outcome: &'static str, bytes: u64) {
        self.chunks.of(Outcome { outcome }).inc();
        self.chunk_bytes.inc_by(bytes);
    }

    /// Counts a look-up in a cache.
    pub fn cache_use(&self, cache: &'static str, hit: bool) {
        let hit = if hit { "true" } else { "false" };
        self.cache_uses.of(CacheUse { cache, hit }).inc();
    }

    /// Counts rows that a scan read.
    pub fn rows_scanned(&self, rows: u64) {
        self.rows_scanned.inc_by(rows);
    }

    /// Counts a frame that was encoded.
    pub fn frame_encoded(&self, bytes: u64, took: Duration) {
        self.frame_bytes.inc_by(bytes);
        self.frame_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request to a neighbour.
    pub fn peer_request(&self, neighbour: &NodeId, answered: bool) {
        let neighbour = neighbour.to_string();
        let outcome = if answered { "answered" } else { "failed" };
        self.peer_requests.of(PeerRequest { neighbour, outcome }).inc();
    }

    /// Counts what goes on without an owner.
    pub fn orphans(&self) -> &Orphans {
        &self.orphans
    }

    /// Counts a request that is sent after another one failed.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Counts a request to other holders for days whose first holders are slow.
    pub fn hedged(&self) {
        self.hedges.inc();
    }

    /// Sums over the node's life.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for outcome in OUTCOMES {
            let count = self.queries.of(Outcome { outcome }).get();
            totals.queries += count;
            if outcome == "rejected" {
                totals.rejected = count;
            }
        }
        totals.chunks = self.chunks.of(Outcome { outcome: "success" }).get();
        let answered = self.queries.of(Outcome { outcome: "ready" }).get();
        if answered > 0 {
            totals.query_seconds_mean = self.answered_seconds.get() / answered as f64;
        }
        totals
    }

    /// Every metric in the Prometheus text format, with the gauges as they are now.
    pub fn exposition(&self, gauges: &Gauges) -> String {
        self.active_queries.set(gauges.active_queries as i64);
        self.waiting_queries.set(gauges.waiting_queries as i64);
        self.following_queries.set(gauges.following_queries as i64);
        self.computing_pieces.set(gauges.computing_pieces as i64);
        self.peer_requests_in_flight.set(gauges.peer_requests_in_flight as i64);
        self.probes_in_flight.set(gauges.probes_in_flight as i64);
        self.open_streams.set(gauges.open_streams as i64);
        self.open_result_sets.set(gauges.open_result_sets as i64);
        self.transit_bytes.set(gauges.transit_bytes as i64);
        for (by, bytes) in gauges.held_bytes.into_iter().filter(|(by, _)| !by.is_empty()) {
            self.held_bytes.of(HeldBy { by }).set(bytes as i64);
        }
        self.orphaned_tasks.set(gauges.orphaned_tasks as i64);
        self.marked_nodes.set(gauges.marked_nodes as i64);
        for (neighbour, is) in &gauges.neighbours {
            for state in NEIGHBOUR_STATES {
                let label = NeighbourIs { neighbour: neighbour.to_string(), state };
                self.neighbour_state.of(label).set(i64::from(state == *is));
            }
        }
        self.version_conflicts.set(gauges.version_conflicts as i64);
        self.rows_held.set(gauges.rows_held as i64);
        self.rejected_rows.set(gauges.rejected_rows as i64);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string succeeds");
        text
    }
}

/// Every state that a neighbour can be thought to be in.
pub const NEIGHBOUR_STATES: [&str; 3] = ["up", "suspect", "down"];

/// Every outcome that a query can have.
const OUTCOMES: [&str; 11] = [
    "ready",
    "invalid",
    "rejected",
    "too_large",
    "not_serving",
    "unavailable",
    "data_loss",
    "not_found",
    "not_allowed",
    "deadline_exceeded",
    "cancelled",
];

/// Every outcome that reading a chunk of a result can have.
const CHUNK_OUTCOMES: [&str; 8] = [
    "success",
    "rejected",
    "too_large",
    "unavailable",
    "data_loss",
    "not_found",
    "deadline_exceeded",
    "cancelled",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_apart_by_what_was_waited_for() {
        let metrics = Metrics::default();
        metrics.waited(None, Duration::ZERO);
        metrics.waited(Some("team green"), Duration::from_secs(1));
        let text = metrics.exposition(&Gauges::default());
        for line in [
            "overlay_query_wait_seconds_count{factor=\"none\"} 1",
            "overlay_query_wait_seconds_sum{factor=\"team green\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }

    /// Goal: a rate sees the first failure of a node's life, too. Method: what is scraped before anything was asked.
    #[test]
    fn outcomes_are_there_from_the_start() {
        let text = Metrics::default().exposition(&Gauges::default());
        let count = |family: &str| text.lines().filter(|line| line.starts_with(family)).count();
        assert_eq!(count("overlay_queries_total{"), OUTCOMES.len());
        assert_eq!(count("overlay_chunks_total{"), CHUNK_OUTCOMES.len());
        assert!(text.contains("overlay_queries_total{outcome=\"unavailable\"} 0\n"), "{text}");
    }

    #[test]
    fn counters_are_written_in_the_order_of_their_labels() {
        let metrics = Metrics::default();
        let ids = ["F", "B", "E", "A", "D", "C"];
        for id in ids {
            metrics.peer_request(&NodeId::from(id), true);
        }
        let text = metrics.exposition(&Gauges::default());
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("overlay_peer_requests_total")).collect();
        let expected = ["A", "B", "C", "D", "E", "F"]
            .map(|id| format!("overlay_peer_requests_total{{neighbour=\"{id}\",outcome=\"answered\"}} 1"));
        assert_eq!(lines, expected);
    }
}
