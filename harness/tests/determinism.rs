//! Equal seeds give equal runs: every byte that passed between nodes, when, and every answer.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, SimCluster, fixtures, wait_until};
use overlay_harness::dataset::revise;
use overlay_harness::fault::{Fault, Lie};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange, random_query};
use serde_json::json;

/// Names the file that a second process is to write its trace to.
const TRACE_TO: &str = "OVERLAY_TRACE_TO";

/// A run with everything that can come in a different order: queries in parallel over all holders, each kind of
/// fault, new data while answers are on their way, a crash in the middle of reads, restarts, graceful stops, metrics.
fn trace_of(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let others = overlay_harness::scratch::folder().unwrap();
        revise(&fixtures(), others.path(), seed).unwrap();
        let spec = ClusterSpec::fixtures().with(json!({"strategies": {"forwarding": "parallel"}}));
        let spec = spec.revised(others.path());
        let mut cluster = SimCluster::start(seed, spec).await.unwrap();
        let answers = eventful_run(&mut cluster, seed).await;
        let lines = cluster.trace();
        lines.iter().fold(answers, |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        })
    })
}

async fn eventful_run(cluster: &mut dyn Cluster, seed: u64) -> String {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut answers = String::new();
    let faults = [
        Fault::delay("A", "B", Duration::from_millis(40)),
        Fault::loss("B", "C", 20),
        Fault::slow("E", 50_000),
        Fault::hang("F"),
        Fault::partition("A", "E"),
        Fault::partition_one_way("B", "A"),
        Fault::lie("E", Lie::Omits),
        Fault::replace("C"),
        Fault::crash("D"),
    ];
    for fault in &faults {
        cluster.inject(fault).await.unwrap();
        answers += &ask_in_parallel(cluster, &oracle, &mut rng).await;
        cluster.heal(fault).await.unwrap();
        answers += &format!("{fault} is over\n{}\n", cluster.dump().await);
    }
    answers += &ask_while_data_are_replaced(cluster, &oracle, &mut rng).await;
    answers += &read_while_a_worker_crashes(cluster).await;
    for id in ["B", "A"] {
        cluster.stop(id).await.unwrap();
        answers += &format!("{id} is stopped\n{}\n", cluster.dump().await);
        cluster.restart(id).await.unwrap();
    }
    answers += &ask_in_parallel(cluster, &oracle, &mut rng).await;
    answers
}

/// Five queries at once, each by a client of its own, and all their chunks.
async fn ask_in_parallel(cluster: &dyn Cluster, oracle: &Oracle, rng: &mut fastrand::Rng) -> String {
    let asking = (0..5).map(|number| {
        let encoding = [Encoding::Arrow, Encoding::Json][number % 2];
        let query = Query { allow_partial: true, ..answer::query(&random_query(rng, oracle), encoding) };
        let client = cluster.client("A", &format!("client {number}")).unwrap();
        async move {
            match answer::ask(&client, &query).await {
                Ok((result, rows)) => {
                    format!("{} rows under {}\n{:?}\n", rows.len(), result.uid, result.ledger)
                }
                Err(error) => format!("{error}\n"),
            }
        }
    });
    futures::future::join_all(asking).await.concat()
}

async fn ask_while_data_are_replaced(
    cluster: &dyn Cluster,
    oracle: &Oracle,
    rng: &mut fastrand::Rng,
) -> String {
    let replacing = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        cluster.replace_data("B", true).unwrap();
    };
    futures::future::join(ask_in_parallel(cluster, oracle, rng), replacing).await.0
}

async fn read_while_a_worker_crashes(cluster: &mut dyn Cluster) -> String {
    let client = cluster.client("A", "reader").unwrap();
    let chunking = ChunkingChoice { chunk_rows: Some(200), ..ChunkingChoice::default() };
    let query = Query { chunking, ..answer::query(&OracleQuery::default(), Encoding::Arrow) };
    let result = wait_until(Duration::from_secs(20), async || client.query(&query).await.ok()).await;
    let result = result.expect("all faults are healed");
    let mut answers = String::new();
    for index in 0..result.chunk_count() {
        if index == result.chunk_count() / 2 {
            cluster.crash("F").await.unwrap();
        }
        let chunk = client.chunk(&result, index).await.unwrap();
        let nodes: Vec<&str> = chunk.frames.iter().map(|frame| frame.node.as_str()).collect();
        writeln!(answers, "chunk {index} from {nodes:?}").unwrap();
    }
    cluster.restart("F").await.unwrap();
    answers
}

#[test]
fn equal_seeds_give_equal_traces_in_one_process() {
    let first = trace_of(0x51f2);
    assert!(first.lines().count() > 3_000, "{} lines", first.lines().count());
    assert_equal_lines(&first, &trace_of(0x51f2));
}

/// Method: this test runs itself in a process of its own, which writes its trace to a file instead of comparing.
#[test]
fn equal_seeds_give_equal_traces_in_two_processes() {
    if let Some(path) = std::env::var_os(TRACE_TO) {
        return std::fs::write(path, trace_of(0x51f3)).unwrap();
    }
    let folder = overlay_harness::scratch::folder().unwrap();
    let path = folder.path().join("trace");
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "equal_seeds_give_equal_traces_in_two_processes"])
        .env(TRACE_TO, &path)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_equal_lines(&trace_of(0x51f3), &std::fs::read_to_string(&path).unwrap());
}

#[test]
fn other_seeds_give_other_traces() {
    assert_ne!(trace_of(1), trace_of(2));
}

/// Stops at the first line that differs.
fn assert_equal_lines(first: &str, second: &str) {
    let mut pairs = first.lines().zip(second.lines()).enumerate();
    if let Some((number, (left, right))) = pairs.find(|(_, (left, right))| left != right) {
        panic!("line {} differs\n  first   {left}\n  second  {right}", number + 1);
    }
    assert_eq!(
        first.lines().count(),
        second.lines().count(),
        "lines, of which the shorter has all in common"
    );
}
