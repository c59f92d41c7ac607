//! The commands that look at running nodes, against the six nodes of the bundled configuration.

use std::fs;
use std::path::Path;
use std::process::Output;

use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use serde_json::Value;
use tempfile::TempDir;

/// Six nodes, and a file that names their addresses.
struct Six {
    cluster: InProcessCluster,
    folder: TempDir,
}

impl Six {
    async fn start(dataset_root: &Path) -> Self {
        let cluster = InProcessCluster::start(ClusterSpec::six_nodes(dataset_root)).await.unwrap();
        let folder = overlay_harness::scratch::folder().unwrap();
        fs::write(folder.path().join("config.json"), cluster.overlay().to_json().to_string()).unwrap();
        Six { cluster, folder }
    }

    fn config(&self) -> String {
        self.folder.path().join("config.json").display().to_string()
    }

    async fn system_test(&self) -> Output {
        let port = self.cluster.overlay().leader().port.to_string();
        overlay(&["system-test", "127.0.0.1", &port]).await
    }
}

async fn overlay(arguments: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_overlay-node");
    tokio::process::Command::new(binary).args(arguments).output().await.unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// A dataset of one day and no row.
fn empty_dataset() -> TempDir {
    let root = overlay_harness::scratch::folder().unwrap();
    fs::create_dir(root.path().join("20200810")).unwrap();
    root
}

/// Rows of a team in the bundled data, or of all.
fn rows_of(team: Option<&str>) -> usize {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    oracle.count(&OracleQuery { team: team.map(str::to_owned), ..OracleQuery::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn system_test_fails_on_an_overlay_without_a_row() {
    let empty = empty_dataset();
    let six = Six::start(empty.path()).await;
    let tested = six.system_test().await;
    assert_eq!(tested.status.code(), Some(3), "{}", text(&tested));
    assert!(text(&tested).contains("FAILED  exactly once: the overlay holds no row\n"), "{}", text(&tested));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_compares_every_frame_and_names_a_node_that_is_down() {
    let mut six = Six::start(&fixtures()).await;
    let (config, root) = (six.config(), fixtures().display().to_string());
    let arguments = ["verify-data-loading", &config, "--live", "--dataset-root", &root, "--format", "json"];
    let verified = overlay(&arguments).await;
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    // Two members hold green's rows, three hold pink's.
    let held = 2 * rows_of(Some("green")) + 3 * rows_of(Some("pink"));
    assert_eq!(report["live"]["rows_compared"], held);

    six.cluster.stop("C").await.unwrap();
    let verified = overlay(&arguments[..5]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    assert!(
        text(&verified).contains("FAILED  every process runs and is ready: neighbour `C`"),
        "{}",
        text(&verified)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_finds_a_node_with_other_data() {
    let six = Six::start(&fixtures()).await;
    let other = empty_dataset();
    let file = "20200810/20200810-01.csv";
    fs::copy(fixtures().join(file), other.path().join(file)).unwrap();
    let root = other.path().display().to_string();
    let verified = overlay(&["verify-data-loading", &six.config(), "--live", "--dataset-root", &root]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    assert!(
        text(&verified).contains("FAILED  every holder has the versions on disk: node `B`"),
        "{}",
        text(&verified)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_finds_nodes_that_hold_nothing() {
    let empty = empty_dataset();
    let six = Six::start(empty.path()).await;
    let verified = overlay(&["verify-data-loading", &six.config(), "--live"]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    let finding = "FAILED  holders of one version give the same bytes: not a single row is held\n";
    assert!(text(&verified).contains(finding), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_shutdown_reach_every_process() {
    let mut six = Six::start(&fixtures()).await;
    let config = six.config();
    six.cluster.stop("F").await.unwrap();
    let metrics = overlay(&["metrics", "--all", "--config", &config, "--format", "json"]).await;
    assert_eq!(metrics.status.code(), Some(1), "{}", text(&metrics));
    let nodes: Value = serde_json::from_slice(&metrics.stdout).unwrap();
    let states: Vec<&str> =
        nodes.as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ready", "ready", "ready", "ready", "ready", "down"]);

    let told = overlay(&["shutdown", "--all", "--config", &config]).await;
    // F is where it should be.
    assert_eq!(told.status.code(), Some(0), "{}", text(&told));
    assert_eq!(text(&told).matches("  stopping\n").count(), 5, "{}", text(&told));
    assert_eq!(text(&told).matches("  down already\n").count(), 1, "{}", text(&told));
    for id in ["A", "B", "C", "D", "E"] {
        six.cluster.finished(id).await.unwrap();
    }

    let verified = overlay(&["verify-data-loading", &config, "--live"]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    let ending = "0 passed, 1 failed, 4 not checked, 6 findings\n";
    assert!(text(&verified).ends_with(ending), "{}", text(&verified));
    assert!(!text(&verified).contains("ok      "), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_names_the_rows_that_a_node_rejected() {
    let data = overlay_harness::scratch::folder().unwrap();
    let whole = fs::read(fixtures().join("20200815/20200815-01.csv")).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::create_dir(data.path().join("20200815")).unwrap();
    let file = data.path().join("20200815/20200815-01.csv");
    fs::write(&file, &whole[..second + 9]).unwrap();
    let six = Six::start(data.path()).await;
    let verified = overlay(&["verify-data-loading", &six.config(), "--live"]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    let named = format!("node `B` rejected 1 row of 20200815: {}:2: ", file.display());
    assert!(text(&verified).contains(&named), "should say `{named}`: {}", text(&verified));
}
