//! What every node says of itself, a line each, for whoever reads why a test failed.

use std::time::Duration;

use overlay::client::NodeMetrics;
use overlay::config::Process;

use super::Cluster;

/// How long a node is waited for. One that hangs must not hang the report.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn dump(cluster: &(dyn Cluster + '_)) -> String {
    let lines = cluster.overlay().processes.values().map(|process| line(cluster, process));
    futures::future::join_all(lines).await.join("\n")
}

async fn line(cluster: &(dyn Cluster + '_), process: &Process) -> String {
    let who = format!("{} {} {}", process.id, process.role, process.team);
    let Ok(client) = cluster.client(&process.id, "dump") else {
        return format!("{who}: has no address");
    };
    match tokio::time::timeout(ANSWERS_WITHIN, client.metrics()).await {
        Ok(Ok(metrics)) => format!("{who}: {}", words(&metrics)),
        Ok(Err(error)) => format!("{who}: {error}"),
        Err(_) => format!("{who}: no answer within {ANSWERS_WITHIN:?}"),
    }
}

fn words(metrics: &NodeMetrics) -> String {
    let state = match (metrics.ready, metrics.draining) {
        (_, true) => "draining",
        (true, false) => "ready",
        (false, false) => "loading",
    };
    let mut words = format!(
        "{state}, {} waiting, {} of {} permits taken, {} result sets open, {} queries and {} chunks so far",
        metrics.waiting_queries,
        metrics.active_queries,
        metrics.max_active,
        metrics.open_result_sets,
        metrics.queries_total,
        metrics.chunks_total,
    );
    for neighbour in metrics.neighbours.iter().filter(|neighbour| neighbour.state != "up") {
        words += &format!("; {} is {}: {}", neighbour.node, neighbour.state, neighbour.last_error);
    }
    words
}
