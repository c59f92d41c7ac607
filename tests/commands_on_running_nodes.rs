//! The commands that look at running nodes, against the six nodes of the bundled configuration.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use overlay::config::Overlay;
use overlay::node::{Node, Setup};
use overlay::outside::{Outside, incoming_tcp};
use overlay::state::Stop;
use serde_json::Value;

const CONFIG: &str = include_str!("../configs/one_host_config.json");
const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/airnow");

/// Six nodes on free ports, and the configuration that names these.
struct Six {
    nodes: Vec<Node>,
    overlay: Arc<Overlay>,
    folder: tempfile::TempDir,
}

impl Six {
    async fn start() -> Self {
        let mut overlay = Overlay::parse(CONFIG, "one_host_config.json").unwrap().overlay;
        let mut listeners = Vec::new();
        for process in overlay.processes.values_mut() {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            process.port = listener.local_addr().unwrap().port();
            listeners.push((process.id.clone(), listener));
        }
        let overlay = Arc::new(overlay);
        let mut nodes = Vec::new();
        for (id, listener) in listeners {
            let setup = Setup {
                overlay: overlay.clone(),
                id,
                dataset_root: Some(PathBuf::from(BUNDLED)),
                strict: true,
                load_threads: 1,
                outside: Outside::system(),
                incoming: incoming_tcp(listener),
            };
            nodes.push(Node::start(setup).unwrap());
        }
        for node in &nodes {
            node.ready().await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), overlay.to_json().to_string()).unwrap();
        Six { nodes, overlay, folder }
    }

    fn config(&self) -> String {
        self.folder.path().join("config.json").display().to_string()
    }

    async fn stop(&mut self, id: &str) {
        let node = self.nodes.iter_mut().find(|node| node.state().process.id == *id).unwrap();
        node.stop(Stop::AtOnce);
        node.finished().await.unwrap();
    }
}

async fn overlay(arguments: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_overlay")).args(arguments).output().await.unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

#[tokio::test(flavor = "multi_thread")]
async fn system_test_passes_on_the_bundled_data() {
    let six = Six::start().await;
    let port = six.overlay.leader().port.to_string();
    let tested = overlay(&["system-test", "127.0.0.1", &port]).await;
    assert_eq!(tested.status.code(), Some(0), "{}", text(&tested));
    assert!(text(&tested).contains("8,484 rows of 46 planned days, each once"), "{}", text(&tested));
    assert!(text(&tested).ends_with("8 passed, 0 failed\n"), "{}", text(&tested));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_compares_every_frame_and_names_a_node_that_is_down() {
    let mut six = Six::start().await;
    let config = six.config();
    let arguments = ["verify-data-loading", &config, "--live", "--dataset-root", BUNDLED, "--format", "json"];
    let verified = overlay(&arguments).await;
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    // Green's 1579 rows from 2 members, pink's 6905 from 3.
    assert_eq!(report["live"]["rows_compared"], 2 * 1579 + 3 * 6905);

    six.stop("C").await;
    let verified = overlay(&arguments[..5]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    assert!(text(&verified).contains("FAILED  nodes_answer: neighbour `C`"), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_verification_finds_a_node_with_other_data() {
    let six = Six::start().await;
    let other = tempfile::tempdir().unwrap();
    let day = other.path().join("20200810");
    std::fs::create_dir(&day).unwrap();
    let file = "20200810/20200810-01.csv";
    std::fs::copy(PathBuf::from(BUNDLED).join(file), other.path().join(file)).unwrap();
    let root = other.path().display().to_string();
    let verified = overlay(&["verify-data-loading", &six.config(), "--live", "--dataset-root", &root]).await;
    assert_eq!(verified.status.code(), Some(3), "{}", text(&verified));
    assert!(text(&verified).contains("FAILED  holders_have_the_disk: node `B`"), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_shutdown_reach_every_process() {
    let mut six = Six::start().await;
    let config = six.config();
    six.stop("F").await;
    let metrics = overlay(&["metrics", "--all", "--config", &config, "--format", "json"]).await;
    assert_eq!(metrics.status.code(), Some(1), "{}", text(&metrics));
    let nodes: Value = serde_json::from_slice(&metrics.stdout).unwrap();
    let states: Vec<&str> =
        nodes.as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ready", "ready", "ready", "ready", "ready", "down"]);

    let told = overlay(&["shutdown", "--all", "--config", &config]).await;
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    assert_eq!(text(&told).matches("  stopping\n").count(), 5, "{}", text(&told));
    for node in &mut six.nodes {
        node.finished().await.unwrap();
    }
}
