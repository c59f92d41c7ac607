//! Every node on one thread, in virtual time, over a network that a seed decides.
//!
//! The nodes are the real ones, with real HTTP/2 between them; only clock, randomness and network are the
//! simulation's. Scans run inline and take no time, unless a cost is set for their rows. Time passes when nobody has anything to do, so an hour of leases costs
//! nothing. Equal seeds, specifications and bodies give equal traces, byte for byte.
//!
//! It proves nothing about threads, signals, sockets or memory.

mod conditions;
mod forge;
mod liar;
mod network;
mod pipe;
mod trace;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlay::client::{Client, ClientError, OldClient};
use overlay::config::{NodeId, Overlay};
use overlay::load::{self, LoadError, LoadOptions, Reloaded};
use overlay::node::{self, Node, NodeError, Setup};
use overlay::outside::{Clock, Compute, Outside, Random};
use overlay::state::{NodeState, Stop};
use overlay::store::Store;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::trace::TraceLine;

use self::liar::{Liar, Told};
use self::network::Network;
use super::{Cluster, ClusterError, ClusterSpec};
use crate::fault::{Fault, Lie};

/// When simulated time begins: 2020-09-25T00:00Z, the day after the last of the dataset.
const STARTED_UNIX_MS: u64 = 1_600_992_000_000;

/// Cores of a node: not those of the machine, so that one seed gives one trace everywhere.
const CORES: usize = 2;

/// The name that faults and traces have for whatever is no node.
pub const CLIENT: &str = "client";

/// An overlay in virtual time. It must be started and used inside a paused, single-threaded runtime, which
/// [`Driver::run`](super::Driver::run) makes. Dropping it ends every node.
#[must_use = "dropping a cluster ends it"]
pub struct SimCluster {
    overlay: Arc<Overlay>,
    dataset_root: PathBuf,
    revised_root: Option<PathBuf>,
    /// The nodes that have what is revised.
    revised: RefCell<BTreeSet<String>>,
    network: Network,
    random: fastrand::Rng,
    compute: Compute,
    started: Instant,
    nodes: BTreeMap<String, Node>,
    liars: BTreeMap<String, Liar>,
    _carrying: AbortOnDropHandle<()>,
}

impl SimCluster {
    /// Starts every node, in id order, and waits until all are ready.
    ///
    /// # Errors
    /// [`ClusterError`] if the configuration is not valid, or a node cannot load its data.
    pub async fn start(seed: u64, spec: ClusterSpec) -> Result<Self, ClusterError> {
        Self::start_computing(seed, spec, Compute::Inline).await
    }

    /// As [`Self::start`], with nodes whose scans and encodings take time.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_computing(
        seed: u64,
        spec: ClusterSpec,
        compute: Compute,
    ) -> Result<Self, ClusterError> {
        let hosts = (1..=u16::MAX).map(|number| {
            let [high, low] = number.to_be_bytes();
            SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 60051))
        });
        let addresses: BTreeMap<String, SocketAddr> = spec.ids().into_iter().zip(hosts).collect();
        let overlay = Overlay::parse(&spec.config_text(&addresses), "cluster")?.overlay;
        let mut random = fastrand::Rng::with_seed(seed);
        let network = Network::new(random.fork(), addresses.clone());
        let mut cluster = SimCluster {
            _carrying: AbortOnDropHandle::new(tokio::spawn(network.clone().carry())),
            overlay: Arc::new(overlay),
            dataset_root: spec.dataset_root,
            revised_root: spec.revised_root,
            revised: RefCell::default(),
            network,
            random,
            compute,
            started: Instant::now(),
            nodes: BTreeMap::new(),
            liars: BTreeMap::new(),
        };
        for id in addresses.keys() {
            cluster.start_node(id)?;
        }
        for node in cluster.nodes.values() {
            node.ready().await?;
        }
        Ok(cluster)
    }

    /// Every piece of bytes that the network delivered so far, in order.
    pub fn trace(&self) -> Vec<TraceLine> {
        self.network.trace()
    }

    /// A client that calls from an address of its own, the `host`th.
    ///
    /// # Errors
    /// [`ClientError::Address`], which a cluster's own addresses never are.
    ///
    /// # Panics
    /// If the cluster has no such node.
    pub fn client_from(&self, host: u8, id: &str, client_id: &str) -> Result<Client, ClientError> {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 1, host));
        Client::over(self.network.dialer(CLIENT, ip), &self.address(id), client_id)
    }

    /// A node that runs.
    ///
    /// # Panics
    /// If the cluster has no such node, or it crashed.
    pub fn node(&self, id: &str) -> &Node {
        &self.nodes[id]
    }

    fn start_node(&mut self, id: &str) -> Result<(), ClusterError> {
        let elapsed = self.started.elapsed().as_millis() as u64;
        let node = Node::start(Setup {
            overlay: self.overlay.clone(),
            id: NodeId::from(id),
            dataset_root: Some(self.root_of(id).to_owned()),
            strict: false,
            load_threads: 1,
            watch: false,
            outside: Outside {
                clock: Clock::starting_at(STARTED_UNIX_MS + elapsed),
                random: Random::seeded(self.random.u64(..)),
                connect: self.network.dialer(id, self.network.address(id).ip()),
                compute: self.compute,
                cores: CORES,
            },
            incoming: self.network.listen(id),
        })?;
        self.nodes.insert(id.to_owned(), node);
        if let Some(liar) = self.liars.remove(id) {
            self.begin_to_lie(id, liar.lie, liar.told().clone());
        }
        Ok(())
    }

    /// Where a node's data are.
    fn root_of(&self, id: &str) -> &Path {
        let revised_root = self.revised_root.as_ref().filter(|_| self.revised.borrow().contains(id));
        revised_root.unwrap_or(&self.dataset_root)
    }

    fn revise(&self, id: &str, is_revised: bool) {
        let mut revised = self.revised.borrow_mut();
        match is_revised {
            true => revised.insert(id.to_owned()),
            false => revised.remove(id),
        };
    }

    /// Starts a node that runs again, over other data. One that is gone finds them when it is back.
    async fn change_data(&mut self, id: &str, is_revised: bool) -> Result<(), ClusterError> {
        self.revise(id, is_revised);
        match self.nodes.contains_key(id) {
            true => self.restart(id).await,
            false => Ok(()),
        }
    }

    fn begin_to_lie(&mut self, id: &str, lie: Lie, told: Told) {
        let (incoming, node) = self.network.put_before(id).unwrap_or_else(|| {
            // A node that is gone begins when it is back.
            (Box::pin(futures::stream::empty()), tokio::sync::mpsc::channel(1).0)
        });
        self.liars.insert(id.to_owned(), Liar::start(lie, incoming, node, told));
    }

    fn end_to_lie(&mut self, id: &str) {
        if let Some(liar) = self.liars.remove(id)
            && self.nodes.contains_key(id)
        {
            self.network.take_away_from(id, liar.node);
        }
    }

    fn address(&self, id: &str) -> String {
        self.network.address(id).to_string()
    }
}

/// What a look at all files of a node finds that are others now. It takes no time: nobody but the nodes has a thread.
fn reload(state: &NodeState, root: &Path) -> Result<Reloaded, LoadError> {
    let mut store = state.holder.store().map(|store| Store::clone(&store)).unwrap_or_default();
    let mut days = BTreeMap::new();
    for day in state.holder.placed() {
        let loaded = load::load_over(store, root, &[*day].into(), &LoadOptions::default(), &|_| ())?;
        store = loaded.store;
        days.insert(*day, loaded.rejected);
    }
    Ok(Reloaded { store, days, ..Reloaded::default() })
}

/// Where clients call from: no node's address, so that they may not use peer verbs.
const CLIENT_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));

#[tonic::async_trait(?Send)]
impl Cluster for SimCluster {
    fn driver(&self) -> &'static str {
        "simulated"
    }

    fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    fn client(&self, id: &str, client_id: &str) -> Result<Client, ClientError> {
        Client::over(self.network.dialer(CLIENT, CLIENT_IP), &self.address(id), client_id)
    }

    fn old_client(&self, id: &str) -> Result<OldClient, ClientError> {
        OldClient::over(self.network.dialer(CLIENT, CLIENT_IP), &self.address(id))
    }

    fn replace_data(&self, id: &str, is_revised: bool) -> Result<(), ClusterError> {
        self.revise(id, is_revised);
        let Some(node) = self.nodes.get(id) else { return Ok(()) };
        let reloaded = reload(node.state(), self.root_of(id));
        let why = |error: LoadError| NodeError::Load { node: id.into(), why: error.to_string() };
        node::take_new_data(node.state(), reloaded.map_err(why)?);
        Ok(())
    }

    fn lies_told(&self, liar: &str, neighbour: &str) -> u64 {
        let told = self.liars.get(liar).map(|liar| liar.told().lock().expect("counting does not panic"));
        told.and_then(|told| told.get(&self.network.address(neighbour).ip()).copied()).unwrap_or(0)
    }

    async fn crash(&mut self, id: &str) -> Result<(), ClusterError> {
        // First the network, so that nothing of what the node still does is heard.
        self.network.disconnect(id);
        drop(self.nodes.remove(id));
        Ok(())
    }

    async fn stop(&mut self, id: &str) -> Result<(), ClusterError> {
        if let Some(mut node) = self.nodes.remove(id) {
            node.stop(Stop::Graceful);
            node.finished().await?;
        }
        self.network.disconnect(id);
        Ok(())
    }

    async fn restart(&mut self, id: &str) -> Result<(), ClusterError> {
        self.crash(id).await?;
        self.start_node(id)?;
        Ok(self.nodes[id].ready().await?)
    }

    async fn inject(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.crash(node).await,
            Fault::Revise { node } => self.change_data(node, true).await,
            Fault::Replace { node } => self.replace_data(node, true),
            Fault::Lie { node, lie } => {
                self.begin_to_lie(node, *lie, Told::default());
                Ok(())
            }
            other => {
                self.network.begin(other);
                Ok(())
            }
        }
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.restart(node).await,
            Fault::Revise { node } => self.change_data(node, false).await,
            Fault::Replace { node } => self.replace_data(node, false),
            Fault::Lie { node, .. } => {
                self.end_to_lie(node);
                Ok(())
            }
            other => {
                self.network.end(other);
                Ok(())
            }
        }
    }
}

impl Drop for SimCluster {
    fn drop(&mut self) {
        for id in self.overlay.processes.keys() {
            self.network.disconnect(id);
        }
    }
}
