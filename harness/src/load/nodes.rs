//! What the nodes say of themselves: the queue while the load runs, counters before and after it.

use std::time::Duration;

use overlay::client::{Client, NodeMetrics};
use overlay::proto::legacy;
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::security::Security;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::Secured;

/// Time between two looks at the node's queue.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// How long a node may take: it only reads counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A node whose metrics are taken before and after the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNode {
    /// Its id.
    pub id: String,
    /// Where it listens, as `HOST:PORT`.
    pub address: String,
}

/// What a node did during the load; what it had done before is in neither number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeUsage {
    /// Its id.
    pub node: String,
    /// Where it listens.
    pub address: String,
    /// Its counters before the load; `None` if it did not answer.
    pub before: Option<NodeCounters>,
    /// Its counters after the load; `None` if it did not answer.
    pub after: Option<NodeCounters>,
}

/// Counters over a node's life, and gauges.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub struct NodeCounters {
    pub version: String,
    pub incarnation: u64,
    pub queries_total: u64,
    pub rejected_total: u64,
    pub chunks_total: u64,
    pub chunk_bytes_total: u64,
    pub rows_scanned_total: u64,
    pub frame_bytes_total: u64,
    pub query_wait_seconds_total: f64,
    pub query_ms_mean: f64,
    pub open_result_sets: u32,
    pub waiting_queries: u32,
    pub neighbours_down: u32,
}

/// The node's queue while the load ran.
#[derive(Debug, Default)]
pub(super) struct QueueSamples {
    pub(super) samples: u64,
    pub(super) sum: u64,
    pub(super) max: u64,
    pub(super) last: u64,
    pub(super) avg_processing_time_ms: f64,
    /// The longest queue of each second that was looked at.
    pub(super) by_second: Vec<(u64, u64)>,
}

/// Asks every node at once.
pub(super) async fn counters(security: &Security, nodes: &[ObservedNode]) -> Vec<Option<NodeCounters>> {
    futures::future::join_all(nodes.iter().map(|node| counters_of(security, &node.address))).await
}

async fn counters_of(security: &Security, address: &str) -> Option<NodeCounters> {
    let client = Client::secured(security, address, "load-observer").ok()?;
    let metrics = tokio::time::timeout(ANSWER_WITHIN, client.metrics()).await.ok()?.ok()?;
    Some(NodeCounters::new(&metrics))
}

impl NodeUsage {
    pub(super) fn new(
        (node, (before, after)): (ObservedNode, (Option<NodeCounters>, Option<NodeCounters>)),
    ) -> Self {
        NodeUsage { node: node.id, address: node.address, before, after }
    }
}

impl NodeCounters {
    fn new(metrics: &NodeMetrics) -> Self {
        let value = |name| exposed(&metrics.exposition, name);
        let down = metrics.neighbours.iter().filter(|neighbour| neighbour.state != "up").count();
        let build = metrics.exposition.split_once("overlay_build_info{version=\"");
        let version = build.and_then(|(_, behind)| behind.split_once('"'));
        NodeCounters {
            version: version.map_or("unknown", |(version, _)| version).to_owned(),
            incarnation: metrics.incarnation,
            queries_total: metrics.queries_total,
            rejected_total: metrics.rejected_total,
            chunks_total: metrics.chunks_total,
            chunk_bytes_total: value("overlay_chunk_bytes_total") as u64,
            rows_scanned_total: value("overlay_rows_scanned_total") as u64,
            frame_bytes_total: value("overlay_frame_bytes_total") as u64,
            query_wait_seconds_total: value("overlay_query_wait_seconds_sum"),
            query_ms_mean: metrics.query_seconds_mean * 1e3,
            open_result_sets: metrics.open_result_sets,
            waiting_queries: metrics.waiting_queries,
            neighbours_down: down as u32,
        }
    }
}

/// A metric in the Prometheus text format, over all its labels; 0 if it is not there.
fn exposed(exposition: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        is_whole_name.then(|| value.trim().parse::<f64>().ok()).flatten()
    };
    exposition.lines().filter_map(value).sum()
}

/// Looks at the node's queue until `done`, and once more.
pub(super) async fn sample_queue(
    mut node: OverlayNodeClient<Secured>,
    done: CancellationToken,
) -> QueueSamples {
    let started = Instant::now();
    let mut queue = QueueSamples::default();
    loop {
        let last = done.is_cancelled();
        let mut request = Request::new(legacy::MetricsRequest {});
        request.set_timeout(ANSWER_WITHIN);
        if let Ok(metrics) = node.get_metrics(request).await {
            queue.add(started.elapsed().as_secs(), &metrics.into_inner());
        }
        if last {
            return queue;
        }
        let _ = tokio::time::timeout(SAMPLE_EVERY, done.cancelled()).await;
    }
}

impl QueueSamples {
    fn add(&mut self, second: u64, metrics: &legacy::MetricsResponse) {
        let size = metrics.queue_size.max(0) as u64;
        self.samples += 1;
        self.sum += size;
        self.max = self.max.max(size);
        self.last = size;
        self.avg_processing_time_ms = f64::from(metrics.avg_processing_time_ms);
        match self.by_second.last_mut() {
            Some((last, longest)) if *last == second => *longest = size.max(*longest),
            _ => self.by_second.push((second, size)),
        }
    }
}
