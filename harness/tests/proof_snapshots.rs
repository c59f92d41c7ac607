//! What comes with a result: manifest, coverage ledger, statistics; and what a node says of itself.
//!
//! Check that the ledger has each day of the query once, in order; that the rows taken add up to the manifest's;
//! and that nothing is asked for which statistics exclude. The fixtures lack 20200811 to 20200813.

use std::fmt::Write;

use insta::assert_snapshot;
use overlay::client::Client;
use overlay::coverage::{Entry, Outcome};
use overlay::frame::{self, Encoding};
use overlay::plan::Query;
use overlay::proto::legacy::MetricsRequest;
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, wait_until};
use overlay_harness::oracle::OracleQuery;
use overlay_harness::snapshot::Redactions;
use serde_json::json;

/// With one holder for each day, who serves it does not depend on which members a node heard of first.
fn one_holder_a_day() -> ClusterSpec {
    ClusterSpec::fixtures().with(json!({"replicas": 1}))
}

fn days(first: u32, last: u32) -> OracleQuery {
    OracleQuery { date_start: Some(first), date_end: Some(last), ..OracleQuery::default() }
}

/// A query and the ledger that it is answered with.
async fn push_ledger(text: &mut String, client: &Client, query: &OracleQuery, allow_partial: bool) {
    let query = Query { allow_partial, ..answer::query(query, Encoding::Json) };
    let result = client.query(&query).await.unwrap();
    writeln!(text, "{query}: {} rows", result.manifest.total_records).unwrap();
    for entry in &result.ledger {
        writeln!(text, "  {}", line(entry)).unwrap();
    }
    text.push('\n');
}

fn line(Entry { day, team, outcome }: &Entry) -> String {
    let outcome = match outcome {
        Outcome::Served(served) => format!(
            "served by {}, attempt {}, version {}, {} rows match, {} taken",
            served.node, served.attempt, served.version, served.rows_matched, served.rows_taken
        ),
        Outcome::Pruned { by, version } => format!("pruned, {by}, version {version}"),
        Outcome::NoData { node } => format!("no data, says {node}"),
        Outcome::BeyondLimit => "beyond the limit".to_owned(),
        Outcome::Missing { why, nodes_tried } => format!("missing, {why}, tried {}", nodes_tried.join(" ")),
    };
    format!("{day} {team:5}  {outcome}")
}

/// Each way in which a day is accounted for. Versions are hashes of the fixtures' rows; the same day has the same
/// one wherever it stands.
#[tokio::test(flavor = "multi_thread")]
async fn ledgers_account_for_every_day() {
    let cluster = InProcessCluster::start(one_holder_a_day()).await.unwrap();
    let _redacted = Redactions::new().bind();
    let client = cluster.client("A", "snapshot").unwrap();
    let quarryton = |query| OracleQuery { site: Some("Quarryton".to_owned()), ..query };

    let mut text = String::new();
    push_ledger(&mut text, &client, &quarryton(days(20200810, 20200814)), false).await;
    push_ledger(&mut text, &client, &quarryton(days(20200820, 20200821)), false).await;
    assert_snapshot!("ledger_served_and_no_data", text);

    let mut text = String::new();
    let two_days = || days(20200820, 20200821);
    for query in [
        OracleQuery { parameter: Some("PM2.5".to_owned()), min: Some("500".to_owned()), ..two_days() },
        OracleQuery { max: Some("-10".to_owned()), ..two_days() },
        OracleQuery { parameter: Some("BENZENE".to_owned()), ..two_days() },
        OracleQuery { lat_min: Some(60.0), ..two_days() },
    ] {
        push_ledger(&mut text, &client, &query, false).await;
    }
    assert_snapshot!("ledger_pruned", text);

    let mut text = String::new();
    let first = |limit| OracleQuery { limit: Some(limit), ..quarryton(days(20200819, 20200822)) };
    push_ledger(&mut text, &client, &first(3), false).await;
    push_ledger(&mut text, &client, &first(8), false).await;
    assert_snapshot!("ledger_beyond_limit", text);

    let mut text = String::new();
    push_ledger(&mut text, &client, &days(20201001, 20201002), false).await;
    assert_snapshot!("ledger_of_no_planned_day", text);
}

/// Without pink, a query that accepts partial results gets green's rows and is told what is missing and who was
/// tried; one that green's rows fill does not need pink.
#[tokio::test(flavor = "multi_thread")]
async fn ledger_names_missing_days() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"probe_ms": 100}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    marked(&cluster, 0).await;
    for id in ["D", "E", "F"] {
        cluster.crash(id).await.unwrap();
    }
    marked(&cluster, 3).await;
    let mut redactions = Redactions::new();
    for id in ["A", "D", "E", "F"] {
        redactions = redactions.name(cluster.address(id), &format!("address of {id}"));
    }
    let _redacted = redactions.bind();
    let client = cluster.client("A", "snapshot").unwrap();
    let mut text = String::new();
    let query = OracleQuery { site: Some("Quarryton".to_owned()), ..days(20200820, 20200822) };
    push_ledger(&mut text, &client, &query, true).await;
    push_ledger(&mut text, &client, &OracleQuery { limit: Some(4), ..query.clone() }, false).await;
    writeln!(
        text,
        "not partial\n  {}",
        client.query(&answer::query(&query, Encoding::Json)).await.unwrap_err()
    )
    .unwrap();
    assert_snapshot!("ledger_missing", text);
}

/// Waits until A avoids so many nodes.
async fn marked(cluster: &InProcessCluster, nodes: usize) {
    let client = cluster.client("A", "snapshot").unwrap();
    let wanted = format!("\noverlay_marked_nodes {nodes}\n");
    let seen = async || client.metrics().await.unwrap().exposition.contains(&wanted).then_some(());
    wait_until(READY_WITHIN, seen).await.expect("A notices that they are down");
}

/// All that a reply to a query says, field by field: for rows in both encodings, and for groups.
#[tokio::test(flavor = "multi_thread")]
async fn replies_say_what_a_client_needs() {
    let cluster = InProcessCluster::start(one_holder_a_day()).await.unwrap();
    let _redacted = Redactions::new().bind();
    let mut client = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    let request = |encoding: v1::Encoding| v1::QueryRequest {
        predicate: Some(v1::Predicate { site: Some("Quarryton".to_owned()), ..v1::Predicate::default() }),
        date_start: Some(20200820),
        date_end: Some(20200821),
        encoding: encoding.into(),
        chunking: Some(v1::Chunking { chunk_rows: Some(3), ..v1::Chunking::default() }),
        ..v1::QueryRequest::default()
    };
    let by_day = v1::Aggregate { of: 0, group_by: vec![v1::GroupKey::Day.into()] };
    for (name, request) in [
        ("reply_arrow", request(v1::Encoding::Arrow)),
        ("reply_json", request(v1::Encoding::Json)),
        ("reply_groups", v1::QueryRequest { aggregate: Some(by_day), ..request(v1::Encoding::Arrow) }),
    ] {
        let reply = client.query(request).await.unwrap().into_inner();
        assert_snapshot!(name, reply_text(&reply));
    }
}

fn reply_text(reply: &v1::QueryReply) -> String {
    let manifest = reply.manifest.as_ref().unwrap();
    let chunking = manifest.chunking.as_ref().unwrap();
    let admission = reply.admission.as_ref().unwrap();
    let chunk = reply.first_chunk.as_ref().unwrap();
    let mut text = format!(
        "uid             {}\ntotal_records   {}\nchunk_rows      {:?}\nlimit_reached   {}\nchunking        {:?}, chunk_rows {}, chunk_bytes {}\nencoding        {:?}\n",
        reply.uid,
        manifest.total_records,
        manifest.chunk_rows,
        manifest.limit_reached,
        chunking.strategy(),
        chunking.chunk_rows(),
        chunking.chunk_bytes(),
        manifest.encoding(),
    );
    writeln!(text, "arrow_schema    {}", schema(&manifest.arrow_schema)).unwrap();
    for entry in &reply.ledger {
        writeln!(text, "ledger          {} {}", entry.day, entry.team).unwrap();
    }
    writeln!(text, "limiting_factor `{}`", admission.limiting_factor).unwrap();
    for hop in &reply.statistics {
        let v1::HopStatistics { node, rows_scanned, attempts, .. } = hop;
        writeln!(text, "statistics      {node}: rows_scanned {rows_scanned}, attempts {attempts}").unwrap();
    }
    writeln!(text, "lease_ms        {}", reply.lease_ms).unwrap();
    for frame in &chunk.frames {
        let v1::Frame { day, first_row, rows, node, .. } = frame;
        writeln!(text, "first_chunk     day {day}, first_row {first_row}, rows {rows}, encoded by {node}")
            .unwrap();
    }
    writeln!(text, "hops            {:?}", reply.hops).unwrap();
    text
}

fn schema(message: &[u8]) -> String {
    if message.is_empty() {
        return "none".to_owned();
    }
    let stream = [message, &frame::END_OF_STREAM].concat();
    let reader = arrow_ipc::reader::StreamReader::try_new(&stream[..], None).unwrap();
    let schema = reader.schema();
    let fields = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
    fields.collect::<Vec<_>>().join(", ")
}

/// What a node says of itself after one query of eight rows in three chunks, each read once, by a leader and a
/// holder: counters are those of this work. The first chunk is delivered twice, with the reply too: 934 bytes of
/// JSON, twice, 932 and 621 are the leader's `chunk_bytes`; the holder encoded the four rows of 20200820, 1,244 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_was_done() {
    let cluster = InProcessCluster::start(one_holder_a_day()).await.unwrap();
    let _redacted = Redactions::new().bind();
    let client = cluster.client("A", "snapshot").unwrap();
    let query = OracleQuery { site: Some("Quarryton".to_owned()), ..days(20200820, 20200821) };
    let mut query = answer::query(&query, Encoding::Json);
    query.chunking.chunk_rows = Some(3);
    answer::ask(&client, &query).await.unwrap();
    for (id, name) in [("A", "metrics_of_the_leader"), ("B", "metrics_of_a_holder")] {
        let metrics = cluster.client(id, "snapshot").unwrap().metrics().await.unwrap();
        let mut old = OverlayNodeClient::connect(format!("http://{}", cluster.address(id))).await.unwrap();
        let old = old.get_metrics(MetricsRequest {}).await.unwrap().into_inner();
        assert_snapshot!(name, metrics_text(&metrics) + &old_metrics_text(&old) + &metrics.exposition);
    }
}

fn metrics_text(metrics: &v1::GetMetricsReply) -> String {
    let neighbours =
        metrics.neighbours.iter().map(|neighbour| format!("{} {}", neighbour.node, neighbour.state));
    format!(
        "overlay.v1 GetMetrics\n  {} {} {}, ready {}, draining {}\n  active_queries {} of {}, waiting_queries {}, open_result_sets {}\n  queries_total {}, chunks_total {}, rejected_total {}\n  files {}, rows {}, days {}\n  neighbours {}\n\n",
        metrics.node,
        metrics.role,
        metrics.team,
        metrics.ready,
        metrics.draining,
        metrics.active_queries,
        metrics.max_active,
        metrics.waiting_queries,
        metrics.open_result_sets,
        metrics.queries_total,
        metrics.chunks_total,
        metrics.rejected_total,
        metrics.files,
        metrics.rows,
        metrics.days,
        neighbours.collect::<Vec<_>>().join(", "),
    )
}

fn old_metrics_text(metrics: &overlay::proto::legacy::MetricsResponse) -> String {
    format!(
        "OverlayNode GetMetrics\n  {} {} {}, is_healthy {}\n  active_requests {} of {}, queue_size {}, data_files_loaded {}\n\n",
        metrics.process_id,
        metrics.role,
        metrics.team,
        metrics.is_healthy,
        metrics.active_requests,
        metrics.max_capacity,
        metrics.queue_size,
        metrics.data_files_loaded,
    )
}
