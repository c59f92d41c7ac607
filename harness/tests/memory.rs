//! The promise about memory: six processes over the whole dataset, drained, take at most 250 MB together.

#![cfg(target_os = "linux")]

use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay_harness::cluster::{Cluster, ClusterSpec, ProcessCluster};
use overlay_harness::skip::{real_dataset, skipped};

const MOST_BYTES: u64 = 250_000_000;

/// Method: drain every row as Arrow and then as old JSON, drop what comes, add up the peaks of resident memory. Only of a
/// release build: in the dev profile the code alone is 20 MB, which all processes share and each is counted with.
#[tokio::test(flavor = "multi_thread")]
async fn six_processes_drained_of_the_real_data_stay_below_250_megabytes() {
    let Some(root) = real_dataset() else { return };
    if cfg!(debug_assertions) {
        return skipped(
            "the peak of memory",
            "it is one of release builds: cargo test --release --test memory",
        );
    }
    let cluster =
        ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), ClusterSpec::six_nodes(&root)).unwrap();
    let client = cluster.client("A", "drain").unwrap();
    for encoding in [Encoding::Arrow, Encoding::JsonLegacy] {
        let result = client.query(&Query { encoding, ..Query::default() }).await.unwrap();
        let mut rows = 0;
        for index in 0..result.chunk_count() {
            let chunk = client.chunk(&result, index).await.unwrap();
            rows += chunk.frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
        }
        assert_eq!(rows, 1_167_525, "{encoding:?}");
    }
    let peaks: Vec<(String, u64)> =
        cluster.pids().into_iter().map(|(id, pid)| (id, peak_bytes(pid))).collect();
    let total: u64 = peaks.iter().map(|(_, bytes)| bytes).sum();
    eprintln!("peak resident memory {} MB: {peaks:?}", total / 1_000_000);
    assert!(total <= MOST_BYTES, "{total} bytes, at most {MOST_BYTES}: {peaks:?}");
}

/// The most memory that a process had resident so far.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
