//! Days of nodes that are down: another holder answers for them, or the answer names them.

use overlay::frame::Encoding;
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use serde_json::json;

/// Six nodes of which A has never heard of `unknown`: it was down when A started, and is up again.
/// Nobody probes, so that A goes on avoiding it.
async fn cluster_with_unknown(unknown: &str) -> InProcessCluster {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"probe_ms": 600_000}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    cluster.crash(unknown).await.unwrap();
    cluster.restart("A").await.unwrap();
    let client = cluster.client("A", "first").unwrap();
    client.query(&answer::query(&pink("CO"), Encoding::Json)).await.expect("another holder answers");
    cluster.restart(unknown).await.unwrap();
    cluster
}

fn pink(parameter: &str) -> OracleQuery {
    let (parameter, team) = (Some(parameter.to_owned()), Some("pink".to_owned()));
    OracleQuery { parameter, team, ..OracleQuery::default() }
}

fn row_count(query: &OracleQuery) -> u64 {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    oracle.rows(query).len() as u64
}

/// D alone is known to hold pink's days. When it fails, E must be asked, although it is avoided.
#[tokio::test(flavor = "multi_thread")]
async fn holder_that_is_avoided_is_asked_when_the_others_fail() {
    let mut cluster = cluster_with_unknown("E").await;
    cluster.crash("D").await.unwrap();
    let client = cluster.client("A", "failover").unwrap();
    let query = pink("OZONE");
    let result = client.query(&answer::query(&query, Encoding::Json)).await.expect("E answers");
    assert_eq!(result.manifest.total_records, row_count(&query));
}

/// A result set outlives the nodes that counted it: here E and, behind it, F.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_is_read_from_a_holder_that_was_down_at_the_query() {
    let mut cluster = cluster_with_unknown("D").await;
    let client = cluster.client("A", "failover").unwrap();
    let query = pink("PM2.5");
    let result = client.query(&answer::query(&query, Encoding::Json)).await.expect("E and F answer");
    assert!(result.chunk_count() > 1, "the first chunk comes with the count, another one must be read");
    cluster.crash("E").await.unwrap();
    let mut rows = 0;
    for index in 0..result.chunk_count() {
        let chunk = client.chunk(&result, index).await.expect("D answers");
        rows += chunk.frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
    }
    assert_eq!(rows, row_count(&query));
}
