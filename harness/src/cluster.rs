//! Whole overlays to test against: described here, started and ended by a driver.
//!
//! A [`ClusterSpec`] says what to start, a [`Driver`] how, a [`Cluster`] is what then runs. A test body is written
//! once, over `&mut dyn Cluster`, and [`Driver::run`] runs it anywhere:
//!
//! - `in_process`: every node as tasks of the test, over TCP; fast, and all of it ends with the runtime.
//! - `process`: the command, one process a node; what signals, crashes and memory are tested on.
//! - `netns`: the same processes on two hosts with a wire between them; the two-host configuration as it stands,
//!   a wire that is cut, slow, long or lossy. Linux, as root.
//! - `sim`: every node on one thread in virtual time, over a seeded network; what faults between nodes are
//!   tested on, and the only one whose runs repeat byte for byte.
//!
//! The first two listen on loopback at ports that the system chose, the third inside its hosts, the last nowhere.
//! None knows what a right answer is.

mod driver;
mod dump;
mod in_process;
#[cfg(target_os = "linux")]
mod netns;
mod process;
mod sim;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::client::{Client, ClientError, OldClient};
use overlay::config::{Overlay, Problems};
use overlay::node::NodeError;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use self::driver::{Driver, watched};
pub use self::in_process::InProcessCluster;
#[cfg(target_os = "linux")]
pub use self::netns::NetnsCluster;
pub use self::process::{ProcessCluster, RunningNode};
pub use self::sim::{CLIENT, SimCluster, TraceLine};

use crate::fault::Fault;
use crate::topology::Topology;

/// How long nodes may take to load the fixtures, or the real data, on a busy machine in the dev profile.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long [`wait_until`] waits between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An overlay that runs. Dropping it ends every node, without a trace of it left.
///
/// Ids name nodes; every method that takes one panics if the cluster has no such node.
#[tonic::async_trait(?Send)]
pub trait Cluster {
    /// The driver's name, as reports have it.
    fn driver(&self) -> &'static str;

    /// The configuration that its nodes run.
    fn overlay(&self) -> &Overlay;

    /// A new client of a node, with a connection of its own.
    ///
    /// # Errors
    /// [`ClientError::Address`], which a cluster's own addresses never are.
    fn client(&self, id: &str, client_id: &str) -> Result<Client, ClientError>;

    /// A new client of a node by the old contract, with a connection of its own.
    ///
    /// # Errors
    /// [`ClientError::Address`], which a cluster's own addresses never are.
    fn old_client(&self, id: &str) -> Result<OldClient, ClientError>;

    /// Ends a node at once, as `kill -9` does, and waits until it is gone. One that is gone already stays so.
    ///
    /// # Errors
    /// [`ClusterError`] if it had failed by itself.
    async fn crash(&mut self, id: &str) -> Result<(), ClusterError>;

    /// Tells a node to stop, and waits until it has finished what runs and ended.
    ///
    /// # Errors
    /// [`ClusterError`] if it failed, or had to be told again.
    async fn stop(&mut self, id: &str) -> Result<(), ClusterError>;

    /// Starts a node again at its address, after crashing it if it still runs, and waits until it is ready.
    ///
    /// # Errors
    /// [`ClusterError`] if it does not get ready.
    async fn restart(&mut self, id: &str) -> Result<(), ClusterError>;

    /// Begins a fault, which goes on until it is healed.
    ///
    /// # Errors
    /// [`ClusterError::Unsupported`] if this driver cannot offer it.
    async fn inject(&mut self, fault: &Fault) -> Result<(), ClusterError>;

    /// Ends a fault. One that does not go on is healed already.
    ///
    /// # Errors
    /// [`ClusterError::Unsupported`] if this driver cannot offer it.
    async fn heal(&mut self, fault: &Fault) -> Result<(), ClusterError>;

    /// Has a node that runs take the data of [`Fault::Replace`], or those that it had, while others are asked: what injecting and
    /// healing that fault do between steps. One that is gone finds them when it is back.
    ///
    /// # Errors
    /// [`ClusterError::Unsupported`] if this driver cannot offer it.
    fn replace_data(&self, id: &str, _is_revised: bool) -> Result<(), ClusterError> {
        let why = "nothing hands data to its nodes";
        Err(ClusterError::Unsupported { driver: self.driver(), fault: Fault::replace(id), why })
    }

    /// How many lies a neighbour was told by a node, since that began to lie. Nobody lies where there is no
    /// [`Fault::Lie`].
    fn lies_told(&self, _liar: &str, _neighbour: &str) -> u64 {
        0
    }
}

impl dyn Cluster + '_ {
    /// The ids of its nodes, in order.
    pub fn ids(&self) -> Vec<String> {
        self.overlay().processes.keys().map(ToString::to_string).collect()
    }

    /// The graph and the teams that its nodes run.
    pub fn topology(&self) -> Topology {
        Topology::of(self.overlay())
    }

    /// One line for each node: role, queue, permits, open result sets, last errors. For people, when a test fails.
    pub async fn dump(&self) -> String {
        dump::dump(self).await
    }
}

/// Looks again and again until there is something; `None` if there still is nothing after `within`.
///
/// This observes, in the clock of the runtime: virtual time passes at once.
pub async fn wait_until<T>(within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        match look().await {
            Some(seen) => return Some(seen),
            None if Instant::now() >= end => return None,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// What to start. In process and as processes, nodes get free ports on loopback; in namespaces they keep their ports, and
/// their hosts where these are 192.168.1.1 and 192.168.1.2; simulated ones have no sockets.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    config: Value,
    dataset_root: PathBuf,
    revised_root: Option<PathBuf>,
    ready_within: Duration,
    watch: bool,
    environment: BTreeMap<String, String>,
}

impl ClusterSpec {
    /// The six nodes of the default topology over the data in `dataset_root`.
    pub fn six_nodes(dataset_root: &Path) -> Self {
        Self::of(&Topology::six_nodes(), dataset_root)
    }

    /// The six nodes over the data that are checked in, which are so few that every query would go to the nearest holder:
    /// here the forwarding strategy decides.
    pub fn fixtures() -> Self {
        Self::six_nodes(&fixtures()).with(json!({"limits": {"short_rows": 0}}))
    }

    /// Any topology.
    pub fn of(topology: &Topology, dataset_root: &Path) -> Self {
        Self::new(topology.to_json(), dataset_root)
    }

    /// Any configuration.
    pub fn new(config: Value, dataset_root: &Path) -> Self {
        ClusterSpec {
            config,
            dataset_root: dataset_root.to_owned(),
            revised_root: None,
            ready_within: READY_WITHIN,
            watch: false,
            environment: BTreeMap::new(),
        }
    }

    /// Gives the first start of processes another time than [`READY_WITHIN`], for data that take longer to load.
    pub fn ready_within(self, time: Duration) -> Self {
        ClusterSpec { ready_within: time, ..self }
    }

    /// Has the nodes watch their files. Simulated ones, whose time is not that of files, do not.
    pub fn watching(self) -> Self {
        ClusterSpec { watch: true, ..self }
    }

    /// Sets a variable of the environment of processes.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What nodes have while [`Fault::Revise`] or [`Fault::Replace`] goes on.
    pub fn revised(self, root: &Path) -> Self {
        ClusterSpec { revised_root: Some(root.to_owned()), ..self }
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
    #[error("the cluster's configuration is not valid")]
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
    /// The driver has no means to bring this fault about.
    #[error("the {driver} driver cannot offer `{fault}`: {why}")]
    Unsupported {
        /// The driver.
        driver: &'static str,
        /// What was asked for.
        fault: Fault,
        /// What it lacks.
        why: &'static str,
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
