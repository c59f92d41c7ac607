//! The load command against a node that errs on purpose: what it counts, and that nothing passes for a success.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overlay::proto::legacy;
use overlay::proto::legacy::overlay_node_server::{OverlayNode, OverlayNodeServer};
use overlay_harness::load::{DEFAULT_QUERY_PARAMS, LoadPlan, LoadResults, Work};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What the node does with one query. Right answers are four rows in two chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Right,
    Rejects,
    Unavailable,
    BreaksOff,
    CountsOneMore,
    ChangesOneByte,
    GivesAnotherChunk,
    LosesTheChunk,
}

/// Answers the first query by the first behaviour, and so on; after the last one it starts again.
struct ScriptedNode {
    script: Vec<Behaviour>,
    asked: AtomicU64,
    refuses_metrics: AtomicU64,
}

#[tonic::async_trait]
impl OverlayNode for ScriptedNode {
    async fn query(
        &self,
        _request: Request<legacy::QueryRequest>,
    ) -> Result<Response<legacy::QueryResponse>, Status> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) as usize % self.script.len();
        let status = match self.script[number] {
            Behaviour::Rejects => "rejected",
            Behaviour::Unavailable => "unavailable:20200810",
            Behaviour::BreaksOff => return Err(Status::internal("broke off")),
            _ => "ready",
        };
        Ok(Response::new(legacy::QueryResponse {
            uid: number.to_string(),
            total_chunks: 2,
            total_records: if self.script[number] == Behaviour::CountsOneMore { 5 } else { 4 },
            hops: vec!["A".to_owned()],
            status: status.to_owned(),
        }))
    }

    async fn get_chunk(
        &self,
        request: Request<legacy::ChunkRequest>,
    ) -> Result<Response<legacy::ChunkResponse>, Status> {
        let legacy::ChunkRequest { uid, chunk_index } = request.into_inner();
        let behaviour = self.script[uid.parse::<usize>().expect("a uid is a number")];
        let data = if behaviour == Behaviour::ChangesOneByte { "[1,3]" } else { "[1,2]" };
        let status = if behaviour == Behaviour::LosesTheChunk { "not_found" } else { "success" };
        Ok(Response::new(legacy::ChunkResponse {
            uid,
            chunk_index: if behaviour == Behaviour::GivesAnotherChunk { 1 } else { chunk_index },
            total_chunks: 2,
            data: data.to_owned(),
            is_last: chunk_index == 1,
            status: status.to_owned(),
        }))
    }

    async fn get_metrics(
        &self,
        _request: Request<legacy::MetricsRequest>,
    ) -> Result<Response<legacy::MetricsResponse>, Status> {
        let refuse = |left: u64| left.checked_sub(1);
        if self.refuses_metrics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refuse).is_ok() {
            return Err(Status::unavailable("node `A` is loading"));
        }
        Ok(Response::new(legacy::MetricsResponse {
            queue_size: 7,
            avg_processing_time_ms: 2.5,
            ..legacy::MetricsResponse::default()
        }))
    }

    async fn shutdown(
        &self,
        _request: Request<legacy::ShutdownRequest>,
    ) -> Result<Response<legacy::ShutdownResponse>, Status> {
        Err(Status::unimplemented("nobody asks this"))
    }
}

async fn start(script: &[Behaviour], refuses_metrics: u64) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let node = ScriptedNode {
        script: script.to_vec(),
        asked: AtomicU64::new(0),
        refuses_metrics: AtomicU64::new(refuses_metrics),
    };
    let server = tonic::transport::Server::builder().add_service(OverlayNodeServer::new(node));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

fn plan(address: SocketAddr) -> LoadPlan {
    LoadPlan { host: format!("http://{address}"), work: benchmark(1), users: 1, ..LoadPlan::default() }
}

fn benchmark(requests: u64) -> Work {
    Work::Benchmark { requests, query_params: DEFAULT_QUERY_PARAMS.to_owned(), all_chunks: false }
}

/// One user asks once for each behaviour.
async fn run(script: &[Behaviour]) -> LoadResults {
    let plan = LoadPlan { work: benchmark(script.len() as u64), ..plan(start(script, 0).await) };
    plan.run().await.expect("the node is there")
}

fn counts(results: &LoadResults) -> [u64; 5] {
    [
        results.total_requests,
        results.successful_requests,
        results.failed_requests,
        results.rejected_requests,
        results.wrong_answers,
    ]
}

#[tokio::test]
async fn every_request_is_made_once_by_many_users() {
    let plan = LoadPlan { work: benchmark(1003), users: 8, ..plan(start(&[Behaviour::Right], 0).await) };
    let results = plan.run().await.expect("the node is there");
    assert_eq!(counts(&results), [1003, 1003, 0, 0, 0]);
    assert_eq!((results.total_records_returned, results.rows_received), (4 * 1003, 2 * 1003));
    assert_eq!((results.bytes_received, results.avg_hops), (5 * 1003, Some(1.0)));
    assert_eq!((results.max_queue_size, results.final_queue_size), (Some(7), Some(7)));
    assert_eq!(results.avg_processing_time_ms, Some(2.5));
}

#[tokio::test]
async fn overload_outage_and_breakdown_are_failures_and_not_wrong() {
    use Behaviour::{BreaksOff, LosesTheChunk, Rejects, Right, Unavailable};
    let results = run(&[Right, Rejects, Unavailable, BreaksOff, LosesTheChunk, Rejects]).await;
    assert_eq!(counts(&results), [6, 1, 5, 2, 0]);
    assert_eq!(results.rejections_by_limit["not named"], 2);
    assert_eq!(results.failures.values().sum::<u64>(), 5);
}

#[tokio::test]
async fn answer_that_differs_from_the_first_is_wrong() {
    use Behaviour::{ChangesOneByte, CountsOneMore, GivesAnotherChunk, Right};
    let results = run(&[Right, CountsOneMore, ChangesOneByte, Right, GivesAnotherChunk]).await;
    assert_eq!(counts(&results), [5, 2, 3, 0, 3]);
    assert_eq!((results.min_records_per_query, results.max_records_per_query), (Some(4), Some(4)));
}

/// Goal: a first answer that contradicts itself is not what the others are held against.
#[tokio::test]
async fn first_answer_must_add_up() {
    use Behaviour::{CountsOneMore, Right};
    let script = [CountsOneMore, Right, Right];
    let query_params = DEFAULT_QUERY_PARAMS.to_owned();
    let work = Work::Benchmark { requests: 3, query_params, all_chunks: true };
    let plan = LoadPlan { work, ..plan(start(&script, 0).await) };
    let results = plan.run().await.expect("the node is there");
    assert_eq!(counts(&results), [3, 2, 1, 0, 1]);
    assert_eq!(results.rows_received, 2 * 4);
}

/// Goal: thresholds decide whether a run passes, but a wrong answer fails it whatever they say.
#[tokio::test]
async fn verdict_is_by_thresholds_and_never_passes_a_wrong_answer() {
    use Behaviour::{ChangesOneByte, Rejects, Right};
    let judge = async |script: &[Behaviour], thresholds: &[&str]| {
        let thresholds = thresholds.iter().map(|rule| rule.parse().expect("a rule")).collect();
        let work = benchmark(script.len() as u64);
        let plan = LoadPlan { work, thresholds, ..plan(start(script, 0).await) };
        plan.run().await.expect("the node is there").verdict().err().unwrap_or_default()
    };
    assert_eq!(judge(&[Right, Right], &[]).await, "");
    assert_eq!(judge(&[Right, Rejects], &[]).await, "1 of 2 requests failed, 0 were dropped");
    assert_eq!(judge(&[Right, Rejects], &["error-rate<=50%"]).await, "");
    assert_eq!(
        judge(&[Right, Rejects], &["error-rate<60%", "error-rate<50%"]).await,
        "1 of 2 thresholds failed, first `error-rate<50%`: 50.00%"
    );
    assert_eq!(judge(&[Right, ChangesOneByte], &["error-rate<=50%"]).await, "1 of 2 answers are wrong");
}

#[tokio::test]
async fn load_waits_for_a_node_that_still_loads() {
    let plan = plan(start(&[Behaviour::Right], 2).await);
    assert_eq!(counts(&plan.run().await.expect("it became ready")), [1, 1, 0, 0, 0]);
}

#[tokio::test]
async fn load_gives_up_when_nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let plan = LoadPlan { wait: Duration::ZERO, ..plan(address) };
    let error = plan.run().await.expect_err("nobody listens").to_string();
    assert!(error.starts_with(&format!("node at http://{address} was not ready")), "{error}");
}

/// Goal: the result file has every key of the old benchmark, under its name.
#[tokio::test]
async fn results_have_the_old_keys() {
    const OLD_KEYS: [&str; 20] = [
        "total_requests",
        "successful_requests",
        "failed_requests",
        "total_time_seconds",
        "throughput_rps",
        "avg_latency_ms",
        "median_latency_ms",
        "p95_latency_ms",
        "p99_latency_ms",
        "min_latency_ms",
        "max_latency_ms",
        "avg_hops",
        "max_queue_size",
        "avg_queue_size",
        "final_queue_size",
        "avg_processing_time_ms",
        "total_records_returned",
        "avg_records_per_query",
        "max_records_per_query",
        "min_records_per_query",
    ];
    let results = serde_json::to_value(run(&[Behaviour::Right]).await).expect("it is JSON");
    let missing: Vec<_> = OLD_KEYS.into_iter().filter(|key| !results[key].is_number()).collect();
    assert!(missing.is_empty(), "no numbers: {missing:?} in {results}");
    // What the old one did not tell: with what the figures can be cited.
    assert_eq!(results["version"], overlay::VERSION);
    assert!(results["machine"]["cores"].is_u64(), "{results}");
}
