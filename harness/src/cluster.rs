//! Whole overlays to test against: described here, started and ended by a driver.
//!
//! [`in_process`] runs every node as tasks of the test: fast, and all of it ends with the runtime.
//! [`process`] runs the command, one process a node: what signals, crashes and memory are tested on.
//! Both listen on loopback at ports that the system chose. Neither knows what a right answer is.

mod in_process;
mod process;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::config::Problems;
use overlay::node::NodeError;
use serde_json::{Map, Value, json};

pub use self::in_process::InProcessCluster;
pub use self::process::{ProcessCluster, RunningNode};

/// How long nodes may take to load the fixtures, or the real data, on a busy machine in the dev profile.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// What to start. The ports of the topology are replaced by free ones, and every host by loopback.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    config: Value,
    dataset_root: PathBuf,
}

impl ClusterSpec {
    /// The six nodes of the default topology over the data in `dataset_root`.
    pub fn six_nodes(dataset_root: &Path) -> Self {
        Self::new(default_topology(), dataset_root)
    }

    /// The six nodes over the data that are checked in.
    pub fn fixtures() -> Self {
        Self::six_nodes(&fixtures())
    }

    /// Any configuration.
    pub fn new(config: Value, dataset_root: &Path) -> Self {
        ClusterSpec { config, dataset_root: dataset_root.to_owned() }
    }

    /// Sets keys of the configuration, inside objects key by key: `{"limits": {"result_ttl_ms": 50}}`.
    pub fn with(mut self, overrides: Value) -> Self {
        merge(&mut self.config, overrides);
        self
    }

    /// The ids of its processes.
    pub fn ids(&self) -> Vec<String> {
        let processes = self.config.get("processes").and_then(Value::as_object);
        processes.into_iter().flat_map(Map::keys).cloned().collect()
    }

    /// The configuration file's text once every process has its address.
    fn config_text(&self, addresses: &BTreeMap<String, SocketAddr>) -> String {
        let place = |address: &SocketAddr| json!({"host": address.ip().to_string(), "port": address.port()});
        let places: Map<_, _> = addresses.iter().map(|(id, address)| (id.clone(), place(address))).collect();
        let mut config = self.config.clone();
        merge(&mut config, json!({"processes": places}));
        config.to_string()
    }
}

/// Why a cluster, or a node of it, did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The specification makes no valid configuration.
    #[error("the cluster's configuration is not valid: {0}")]
    Config(#[from] Problems),
    /// A node of an in-process cluster failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A process ended, or was not ready in time.
    #[error("node `{id}` {what}\n{log}")]
    Process {
        /// The node.
        id: String,
        /// What it did instead of getting ready.
        what: String,
        /// Its standard error.
        log: String,
    },
    /// The system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    let doing = doing.into();
    |source| ClusterError::Io { doing, source }
}

/// The folder of the data that are checked in.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/airnow")
}

/// The leader A over B and C of team green, E and F of team pink, and D, whom both B and E have an edge to.
pub fn default_topology() -> Value {
    let process = |id: &str, role: &str, team: &str, neighbours: &[&str]| {
        (
            id.to_owned(),
            json!({
                "id": id, "role": role, "team": team, "host": "127.0.0.1", "port": 0,
                "neighbors": neighbours,
            }),
        )
    };
    let processes: Map<_, _> = [
        process("A", "leader", "green", &["B", "E"]),
        process("B", "team_leader", "green", &["A", "C", "D"]),
        process("C", "worker", "green", &["B"]),
        process("D", "worker", "pink", &["B", "E"]),
        process("E", "team_leader", "pink", &["A", "D", "F"]),
        process("F", "worker", "pink", &["E"]),
    ]
    .into_iter()
    .collect();
    json!({"processes": processes})
}

/// A bound listener on loopback for each id, all bound before any port is given away, so that they differ.
fn bind_listeners(ids: &[String]) -> Result<BTreeMap<String, TcpListener>, ClusterError> {
    let bind = |id: &String| Ok((id.clone(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?));
    ids.iter().map(bind).collect::<io::Result<_>>().map_err(io_error("bind a port on loopback"))
}

fn addresses_of(
    listeners: &BTreeMap<String, TcpListener>,
) -> Result<BTreeMap<String, SocketAddr>, ClusterError> {
    let address = |(id, listener): (&String, &TcpListener)| Ok((id.clone(), listener.local_addr()?));
    listeners.iter().map(address).collect::<io::Result<_>>().map_err(io_error("ask for a bound port"))
}

fn merge(into: &mut Value, overrides: Value) {
    match (into, overrides) {
        (Value::Object(into), Value::Object(overrides)) => {
            for (key, value) in overrides {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, overrides) => *into = overrides,
    }
}
