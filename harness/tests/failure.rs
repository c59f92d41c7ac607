//! What clients see when processes are killed, hang, restart or are told to stop. Six processes, real signals.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use overlay::coverage::{self, Outcome};
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay_harness::answer::{self, ask, assert_equal_rows, read_chunks};
use overlay_harness::cluster::{
    Cluster, ClusterSpec, InProcessCluster, ProcessCluster, READY_WITHIN, RunningNode, fixtures, wait_until,
};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use overlay_harness::scenario::finds_all;
use overlay_harness::skip::real_dataset;
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

/// Longer than two keepalives (one second each), after which a neighbour that hangs is given up.
const HANG_IS_NOTICED_WITHIN: Duration = Duration::from_secs(8);

/// Goal: a client that reads slowly does not notice that the worker it was reading from has died.
/// Method: a reader that pauses after each chunk; midway, the worker that the ledger names for the last day
/// not yet read is killed with signal 9. The bytes are those of an undisturbed read, on another overlay.
/// Days are divided in parallel, so that every worker serves some, and no chunk is kept; the killed one must have served frames
/// already, and must be named for days that are still to be read, or the test proves nothing.
async fn read_survives_the_death_of_a_worker(root: &Path, query: Query, pause: Duration) {
    let settings = json!({
        "strategies": {"forwarding": "parallel"}, "limits": {"short_rows": 0}, "cache": {"chunk_bytes": 0},
    });
    let spec = || ClusterSpec::six_nodes(root).with(settings.clone());
    let undisturbed = {
        let cluster = InProcessCluster::start(spec()).await.unwrap();
        let client = cluster.client("A", "undisturbed").unwrap();
        let result = client.query(&query).await.unwrap();
        bytes(&read_chunks(&client, &result).await.unwrap())
    };
    let mut cluster = ProcessCluster::start(BINARY, spec()).unwrap();
    found_each_other(&cluster).await;
    let client = cluster.client("A", "reader").unwrap();
    let result = client.query(&query).await.unwrap();
    let midway = result.chunk_count() * 2 / 3;
    let mut chunks = Vec::new();
    for index in 0..midway {
        chunks.push(client.chunk(&result, index).await.unwrap());
        tokio::time::sleep(pause).await;
    }
    let worker = last_worker(&result, midway).expect("a worker is to serve a day not yet read");
    let served = frames_of(&chunks, &worker);
    assert!(served > 0, "worker {worker} had served nothing before it was killed");
    cluster.crash(&worker).await.unwrap();
    for index in midway..result.chunk_count() {
        let chunk = client.chunk(&result, index).await;
        chunks.push(chunk.unwrap_or_else(|error| panic!("chunk {index} after {worker} was killed: {error}")));
        tokio::time::sleep(pause).await;
    }
    assert_eq!(frames_of(&chunks[midway as usize..], &worker), 0, "a killed worker serves nothing");
    let differs = bytes(&chunks).iter().zip(&undisturbed).position(|(found, expected)| found != expected);
    assert_eq!((chunks.len(), differs), (undisturbed.len(), None), "chunks, and the first that differs");
}

/// The last worker that the ledger names for days in chunks from `first_chunk` on.
fn last_worker(result: &QueryResult, first_chunk: u32) -> Option<String> {
    let days = (first_chunk + 1..result.chunk_count()).filter_map(|index| result.chunk_days(index)).flatten();
    days.map(|day| day.counted_by).rfind(|node| ["C", "D", "F"].contains(&node.as_str()))
}

fn frames_of(chunks: &[CheckedChunk], node: &str) -> usize {
    chunks.iter().flat_map(|chunk| &chunk.frames).filter(|frame| *frame.node == *node).count()
}

/// The payloads of each chunk.
fn bytes(chunks: &[CheckedChunk]) -> Vec<Vec<u8>> {
    let payloads = |chunk: &CheckedChunk| {
        chunk.frames.iter().map(|frame| frame.payload.as_ref()).collect::<Vec<_>>().concat()
    };
    chunks.iter().map(payloads).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_read_survives_the_death_of_the_worker_that_serves_it() {
    for encoding in [Encoding::Arrow, Encoding::JsonLegacy] {
        let chunking = ChunkingChoice { chunk_rows: Some(150), ..ChunkingChoice::default() };
        let query = Query { chunking, ..answer::query(&OracleQuery::default(), encoding) };
        read_survives_the_death_of_a_worker(&fixtures(), query, Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_read_of_the_real_data_survives_the_death_of_the_worker_that_serves_it() {
    let Some(root) = real_dataset() else { return };
    let particles = OracleQuery { parameter: Some("PM2.5".to_owned()), ..OracleQuery::default() };
    let chunking = ChunkingChoice { chunk_rows: Some(4000), ..ChunkingChoice::default() };
    let query = Query { chunking, ..answer::query(&particles, Encoding::Arrow) };
    read_survives_the_death_of_a_worker(&root, query, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_team_leader_is_gone_round_by_way_of_the_other_team() {
    let mut cluster = six_processes(json!({}));
    let client = cluster.client("A", "detour").unwrap();
    let pink = OracleQuery {
        team: Some("pink".to_owned()),
        parameter: Some("PM10".to_owned()),
        ..OracleQuery::default()
    };
    cluster.crash("E").await.unwrap();
    let (result, rows) = ask(&client, &answer::query(&pink, Encoding::Json)).await.unwrap();
    assert_equal_rows(&"pink without E", &expected_rows(&pink), &rows);
    // F has an edge to E only, so D is all that is left of pink.
    assert_eq!(servers(&result), BTreeSet::from(["D".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn team_that_is_gone_fails_the_query_with_its_days_and_nodes_unless_partial_is_asked() {
    let mut cluster = six_processes(json!({}));
    let client = cluster.client("A", "partial").unwrap();
    let all = OracleQuery { parameter: Some("PM10".to_owned()), ..OracleQuery::default() };
    let query = answer::query(&all, Encoding::Json);
    for id in ["D", "E", "F"] {
        cluster.crash(id).await.unwrap();
    }
    let status = status_of(client.query(&query).await);
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("20200821"), "names a day: {}", status.message());
    assert!(
        ["D", "E", "F"].iter().all(|id| status.message().contains(id)),
        "names the nodes tried: {}",
        status.message()
    );
    let partial = Query { allow_partial: true, ..query };
    let (result, rows) = ask(&client, &partial).await.unwrap();
    let green = OracleQuery { team: Some("green".to_owned()), ..all };
    assert_equal_rows(&"green alone", &expected_rows(&green), &rows);
    let missing: Vec<_> = coverage::missing(&result.ledger).collect();
    assert_eq!(missing.len(), 35, "every day of pink");
    assert!(
        missing
            .iter()
            .all(|(entry, why, nodes)| &*entry.team == "pink" && !why.is_empty() && !nodes.is_empty())
    );
}

/// Goal: a process that is alive but does nothing is given up within seconds, whether it holds data or relays.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_node_does_not_hang_a_query() {
    for hanging in ["C", "D", "E"] {
        let mut cluster = six_processes(json!({"strategies": {"forwarding": "parallel"}}));
        found_each_other(&cluster).await;
        let client = cluster.client("A", "hang").unwrap();
        let warm = OracleQuery { parameter: Some("CO".to_owned()), ..OracleQuery::default() };
        let (result, _) = ask(&client, &answer::query(&warm, Encoding::Json)).await.unwrap();
        assert!(servers(&result).contains(hanging), "{hanging} should have served: {:?}", servers(&result));
        cluster.node(hanging).signal("STOP").unwrap();
        let query = OracleQuery { parameter: Some("NO2".to_owned()), ..OracleQuery::default() };
        let started = Instant::now();
        let (result, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
        let took = started.elapsed();
        assert_equal_rows(&format!("while {hanging} hangs"), &expected_rows(&query), &rows);
        assert!(!servers(&result).contains(hanging));
        assert!(took < HANG_IS_NOTICED_WITHIN, "{hanging} hung the query for {took:?}");
        cluster.node(hanging).signal("CONT").unwrap();
        wait_until_it_serves(&client, hanging).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_node_is_used_again() {
    let mut cluster = six_processes(json!({"strategies": {"forwarding": "parallel"}}));
    found_each_other(&cluster).await;
    let client = cluster.client("A", "restart").unwrap();
    // Another query each time: the answer to an equal one would come from the cache and name who served it first.
    for (id, parameter) in [("F", "SO2"), ("C", "NO2"), ("E", "CO")] {
        cluster.crash(id).await.unwrap();
        let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
        let (result, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
        assert_equal_rows(&format!("without {id}"), &expected_rows(&query), &rows);
        assert!(!servers(&result).contains(id), "{id} was killed");
        cluster.restart(id).await.unwrap();
        wait_until_it_serves(&client, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_that_was_killed_forgets_its_results_and_the_client_resumes_them() {
    let mut cluster = six_processes(json!({}));
    let client = cluster.client("A", "resumer").unwrap();
    let query = answer::query(&OracleQuery::default(), Encoding::Arrow);
    let mut result = client.query(&query).await.unwrap();
    let undisturbed = bytes(&read_chunks(&client, &result).await.unwrap());
    cluster.restart("A").await.unwrap();
    for index in 1..result.chunk_count() {
        let chunk = client.chunk_or_resume(&mut result, index).await.unwrap();
        assert_eq!(bytes(&[chunk])[0], undisturbed[index as usize], "chunk {index}");
    }
}

// Stopping.

/// Goal: what runs is finished, nothing new begins. Method: a stream that is read slowly while its node stops.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_stream_come_to_its_end_and_refuses_queries() {
    let mut cluster = six_processes(json!({}));
    let (client, mut stream, chunk_count) = blocked_stream(&cluster).await;
    cluster.node("A").signal("TERM").unwrap();
    let refused = eventually(async || client.query(&Query::default()).await.err()).await;
    assert_eq!(status_of::<()>(Err(refused)).code(), Code::Unavailable);
    assert!(cluster.node("A").is_running(), "a stream is still open");
    let mut chunks = 0;
    while let Some(chunk) = stream.next().await {
        chunk.unwrap();
        chunks += 1;
    }
    assert_eq!(chunks, chunk_count);
    drop((client, stream));
    let status = cluster.node("A").wait(Duration::from_secs(5)).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

/// Method: the node has ten times as long to finish as the test waits for its end. That the first signal has come is
/// seen by what it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn second_signal_ends_a_node_at_once() {
    let mut cluster = six_processes(json!({"limits": {"grace_ms": 600_000}}));
    let (client, _stream, _) = blocked_stream(&cluster).await;
    cluster.node("A").signal("TERM").unwrap();
    eventually(async || client.query(&Query::default()).await.err()).await;
    assert!(cluster.node("A").is_running(), "waits for the stream, for limits.grace_ms");
    cluster.node("A").signal("TERM").unwrap();
    cluster.node("A").wait(READY_WITHIN).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_ends_what_takes_too_long() {
    let mut cluster = six_processes(json!({"limits": {"grace_ms": 500}}));
    let (_client, _stream, _) = blocked_stream(&cluster).await;
    cluster.node("A").signal("TERM").unwrap();
    let status = cluster.node("A").wait(Duration::from_secs(5)).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn node_ends_when_whoever_started_it_dies() {
    let mut cluster = six_processes(json!({}));
    cluster.node("C").close_stdin();
    cluster.node("C").wait(Duration::from_secs(5)).unwrap();
    assert!(cluster.node("B").is_running());
}

#[test]
fn dropped_cluster_leaves_no_process_behind() {
    let cluster = six_processes(json!({}));
    let pids = cluster.pids();
    assert_eq!(pids.len(), 6);
    drop(cluster);
    let alive = |pid: &u32| {
        std::process::Command::new("kill").args(["-0", &pid.to_string()]).output().unwrap().status.success()
    };
    let left: Vec<_> = pids.values().filter(|pid| alive(pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn port_that_is_taken_is_an_error_that_names_it() {
    let cluster = six_processes(json!({}));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = overlay_harness::scratch::folder().unwrap();
    let arguments = ["--config", cluster.config().to_str().unwrap(), "--bind", &address].map(OsString::from);
    let mut node = RunningNode::spawn(Path::new(BINARY), "A", arguments, folder.path()).unwrap();
    let status = node.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(1));
    let log = node.log();
    assert!(log.contains(&format!("error: cannot listen on {address}")), "{log}");
    assert!(log.contains("help: another process listens there"), "{log}");
}

// What the tests above are made of.

fn six_processes(overrides: Value) -> ProcessCluster {
    ProcessCluster::start(BINARY, ClusterSpec::fixtures().with(overrides)).unwrap()
}

/// Waits until the leader avoids nobody: those that started after it are avoided until it asks them again.
async fn found_each_other(cluster: &ProcessCluster) {
    wait_until(READY_WITHIN, async || finds_all(cluster, "A").await.then_some(())).await.expect("all are up");
}

fn expected_rows(query: &OracleQuery) -> Vec<Value> {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    oracle.rows(query).into_iter().map(|row| row.to_json()).collect()
}

/// The nodes that the ledger names.
fn servers(result: &QueryResult) -> BTreeSet<String> {
    let served = |outcome: &Outcome| match outcome {
        Outcome::Served(served) => Some(served.node.clone()),
        _ => None,
    };
    result.ledger.iter().filter_map(|entry| served(&entry.outcome)).collect()
}

/// Asks queries that differ, so that none comes from a cache, until the ledger names `id`.
async fn wait_until_it_serves(client: &Client, id: &str) {
    let mut number = 0;
    eventually(async || {
        number += 1;
        let query = OracleQuery { min: Some(format!("0.{number:04}")), ..OracleQuery::default() };
        let result = client.query(&answer::query(&query, Encoding::Arrow)).await.ok()?;
        servers(&result).contains(id).then_some(())
    })
    .await;
}

/// A client of A and a stream of chunks that A cannot finish before it is read: its windows are too small.
async fn blocked_stream(cluster: &ProcessCluster) -> (Client, tonic::Streaming<v1::Chunk>, u32) {
    let client = cluster.client("A", "streamer").unwrap();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::JsonLegacy)).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", cluster.address("A")))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let request =
        v1::StreamChunksRequest { uid: result.uid.clone(), first_chunk: 0, client_id: "streamer".to_owned() };
    let stream = OverlayClient::new(channel).stream_chunks(request).await.unwrap().into_inner();
    (client, stream, result.chunk_count())
}

fn status_of<T>(result: Result<T, ClientError>) -> Status {
    match result {
        Ok(_) => panic!("should have failed"),
        Err(ClientError::Status { status, .. }) => *status,
        Err(error) => panic!("should have been refused by the node: {error}"),
    }
}

/// Looks until there is something.
async fn eventually<T>(look: impl AsyncFnMut() -> Option<T>) -> T {
    wait_until(READY_WITHIN, look).await.expect("it comes about")
}
