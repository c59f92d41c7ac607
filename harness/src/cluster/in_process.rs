//! Every node as tasks of one runtime, over real TCP on loopback.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay::client::{Client, ClientError, OldClient};
use overlay::config::{NodeId, Overlay};
use overlay::node::{Node, Setup};
use overlay::outside::{Outside, incoming_tcp};
use overlay::state::Stop;

use super::{Cluster, ClusterError, ClusterSpec, addresses_of, bind_listeners, io_error};
use crate::fault::Fault;

/// An overlay inside this process. Dropping it ends every node.
#[must_use = "dropping a cluster ends it"]
pub struct InProcessCluster {
    overlay: Arc<Overlay>,
    dataset_root: PathBuf,
    watch: bool,
    addresses: BTreeMap<String, SocketAddr>,
    nodes: BTreeMap<String, Node>,
}

impl InProcessCluster {
    /// Starts every node and waits until all are ready. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`ClusterError`] if the configuration is not valid, or a node cannot load its data.
    pub async fn start(spec: ClusterSpec) -> Result<Self, ClusterError> {
        let cluster = Self::start_loading(spec)?;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Starts every node without waiting for its data.
    ///
    /// # Errors
    /// [`ClusterError`] if the configuration is not valid.
    pub fn start_loading(spec: ClusterSpec) -> Result<Self, ClusterError> {
        let listeners = bind_listeners(&spec.ids())?;
        let addresses = addresses_of(&listeners)?;
        let overlay = Overlay::parse(&spec.config_text(&addresses), "cluster")?.overlay;
        let mut cluster = InProcessCluster {
            overlay: Arc::new(overlay),
            dataset_root: spec.dataset_root,
            watch: spec.watch,
            addresses,
            nodes: BTreeMap::new(),
        };
        for (id, listener) in listeners {
            cluster.start_node(&id, listener)?;
        }
        Ok(cluster)
    }

    /// Waits until every node has loaded its data.
    ///
    /// # Errors
    /// [`ClusterError::Node`] if one cannot.
    pub async fn ready(&self) -> Result<(), ClusterError> {
        for node in self.nodes.values() {
            node.ready().await?;
        }
        Ok(())
    }

    /// Where a node listens, as `HOST:PORT`.
    ///
    /// # Panics
    /// If the cluster has no such node.
    pub fn address(&self, id: &str) -> String {
        self.addresses[id].to_string()
    }

    /// A node that runs.
    ///
    /// # Panics
    /// If the cluster has no such node, or it was stopped.
    pub fn node(&self, id: &str) -> &Node {
        &self.nodes[id]
    }

    /// Waits until a node has ended that was told to stop.
    ///
    /// # Errors
    /// [`ClusterError::Node`] if it failed.
    pub async fn finished(&mut self, id: &str) -> Result<(), ClusterError> {
        match self.nodes.remove(id) {
            Some(mut node) => Ok(node.finished().await?),
            None => Ok(()),
        }
    }

    fn start_node(&mut self, id: &str, listener: TcpListener) -> Result<(), ClusterError> {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener))
            .map_err(io_error(format!("listen for node `{id}`")))?;
        let node = Node::start(Setup {
            overlay: self.overlay.clone(),
            id: NodeId::from(id),
            dataset_root: Some(self.dataset_root.clone()),
            strict: false,
            load_threads: 1,
            watch: self.watch,
            outside: Outside::system(),
            incoming: incoming_tcp(listener),
        })?;
        self.nodes.insert(id.to_owned(), node);
        Ok(())
    }
}

#[tonic::async_trait(?Send)]
impl Cluster for InProcessCluster {
    fn driver(&self) -> &'static str {
        "in-process"
    }

    fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    fn client(&self, id: &str, client_id: &str) -> Result<Client, ClientError> {
        Client::new(&self.address(id), client_id)
    }

    fn old_client(&self, id: &str) -> Result<OldClient, ClientError> {
        OldClient::new(&self.address(id))
    }

    async fn crash(&mut self, id: &str) -> Result<(), ClusterError> {
        if let Some(node) = self.nodes.get(id) {
            node.stop(Stop::AtOnce);
        }
        self.finished(id).await
    }

    async fn stop(&mut self, id: &str) -> Result<(), ClusterError> {
        if let Some(node) = self.nodes.get(id) {
            node.stop(Stop::Graceful);
        }
        self.finished(id).await
    }

    async fn restart(&mut self, id: &str) -> Result<(), ClusterError> {
        self.crash(id).await?;
        let address = self.addresses[id];
        // The listener closes when the last task that holds it is dropped, which may be a moment later.
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(_) if tries < 50 => tries += 1,
                Err(error) => return Err(io_error(format!("listen on {address} again"))(error)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.start_node(id, listener)?;
        Ok(self.nodes[id].ready().await?)
    }

    async fn inject(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.crash(node).await,
            other => Err(unsupported(other)),
        }
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.restart(node).await,
            other => Err(unsupported(other)),
        }
    }
}

fn unsupported(fault: &Fault) -> ClusterError {
    let why = "tasks of one runtime over loopback have no network and no scheduler of their own";
    ClusterError::Unsupported { driver: "in-process", fault: fault.clone(), why }
}
