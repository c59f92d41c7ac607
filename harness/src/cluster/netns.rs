//! Every node as a process on one of two hosts, or on a host of its own: network namespaces with wires between them.
//!
//! Two hosts are 192.168.1.1 and 192.168.1.2, so that the two-host configuration runs as it stands. Nodes of
//! another configuration are put on them in turn. Namespaces have no names: each lives as long as a process is in it or
//! this one has it open, and every process ends with this one, however that ends. So nothing is left behind.
//!
//! The wire is the harness's own (`netns/wire`), so that it can be cut, slow, long and lossy on a kernel that has nothing
//! for that. All nodes of a host share it: what a fault does to one, it does to all of its host.

mod host;
mod line;
mod wire;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use overlay::client::{Client, ClientError, OldClient};
use overlay::config::Overlay;

use self::host::Host;
use self::wire::{Way, Wire};
use super::{Cluster, ClusterError, ClusterSpec, ProcessCluster};
use crate::fault::Fault;

const DRIVER: &str = "namespaces";

/// The addresses of the two-host configuration.
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(192, 168, 1, 2)];

/// An overlay on hosts. Dropping it kills every process, and the namespaces go with them.
#[must_use = "dropping a cluster ends it"]
pub struct NetnsCluster {
    processes: ProcessCluster,
    wire: Wire,
    hosts: BTreeMap<IpAddr, Host>,
}

impl NetnsCluster {
    /// Why this machine cannot run it: not root, or a tool is absent. `None` if it can.
    pub fn unavailable() -> Option<String> {
        let script = "ip link set lo up && ip tuntap add wire mode tun && nsenter --version";
        match Command::new("unshare").args(["--net", "sh", "-c", script]).output() {
            Ok(tried) if tried.status.success() => None,
            Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// Starts every node, at the ports of the configuration, and waits until all are ready: on the two hosts of the
    /// two-host configuration, where those that it puts elsewhere take turns.
    ///
    /// # Errors
    /// [`ClusterError`] if the hosts cannot be made, or a node is not ready in time.
    pub fn start(binary: &Path, spec: ClusterSpec) -> Result<Self, ClusterError> {
        let mut in_turn = HOSTS.into_iter().cycle();
        Self::start_on(binary, spec, |configured| {
            let turn = in_turn.next().expect("a cycle does not end");
            configured.filter(|ip| HOSTS.contains(ip)).unwrap_or(turn)
        })
    }

    /// Starts every node on a host of its own, so that each edge is a wire of its own.
    ///
    /// # Errors
    /// [`ClusterError`] if the hosts cannot be made, or a node is not ready in time.
    pub fn start_apart(binary: &Path, spec: ClusterSpec) -> Result<Self, ClusterError> {
        let mut hosts = (1..=254).map(|last| Ipv4Addr::new(192, 168, 1, last));
        Self::start_on(binary, spec, |_| hosts.next().expect("a network has room for so many nodes"))
    }

    fn start_on(
        binary: &Path,
        spec: ClusterSpec,
        mut place: impl FnMut(Option<Ipv4Addr>) -> Ipv4Addr,
    ) -> Result<Self, ClusterError> {
        let overlay = Overlay::parse(&spec.config_text(&BTreeMap::new()), "cluster")?.overlay;
        let (mut addresses, mut hosts) = (BTreeMap::new(), BTreeMap::new());
        for process in overlay.processes.values() {
            let ip = place(process.host.parse().ok());
            addresses.insert(process.id.to_string(), SocketAddr::new(ip.into(), process.port));
            if let Entry::Vacant(vacant) = hosts.entry(IpAddr::from(ip)) {
                vacant.insert(Host::start(ip)?);
            }
        }
        let wire = Wire::between(hosts.values())?;
        let launchers =
            addresses.iter().map(|(id, address)| (id.clone(), hosts[&address.ip()].launcher())).collect();
        let processes = ProcessCluster::start_at(binary, spec, addresses, launchers)?;
        Ok(NetnsCluster { processes, wire, hosts })
    }

    /// The process ids of all nodes and of what holds the namespaces.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.pids().into_values().chain(self.hosts.values().map(Host::pid)).collect()
    }

    fn host(&self, id: &str) -> &Host {
        &self.hosts[&self.processes.address_of(id).ip()]
    }

    /// The ways that a fault of the wire is about: both between the ends of a link, or all from the one that is slow. `None`
    /// if the fault is about a process.
    fn ways(&self, fault: &Fault) -> Result<Option<Vec<Way>>, ClusterError> {
        match fault {
            Fault::Partition(link) | Fault::Delay { link, .. } | Fault::Loss { link, .. } => {
                let [left, right] = link.ends().map(|id| self.host(id).ip());
                match left == right {
                    true => Err(unsupported(fault)),
                    false => Ok(Some(vec![(left, right), (right, left)])),
                }
            }
            Fault::PartitionOneWay { from, to } => match [from, to].map(|id| self.host(id).ip()) {
                [from, to] if from == to => Err(unsupported(fault)),
                [from, to] => Ok(Some(vec![(from, to)])),
            },
            Fault::Slow { node, .. } => Ok(Some(self.wire.from(self.host(node).ip()))),
            Fault::Crash { .. }
            | Fault::Hang { .. }
            | Fault::Revise { .. }
            | Fault::Replace { .. }
            | Fault::Lie { .. } => Ok(None),
        }
    }
}

#[tonic::async_trait(?Send)]
impl Cluster for NetnsCluster {
    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn overlay(&self) -> &Overlay {
        self.processes.overlay()
    }

    /// The client is on the host of the node, so that it can talk to it whatever happens between hosts.
    fn client(&self, id: &str, client_id: &str) -> Result<Client, ClientError> {
        Client::over(self.host(id).dialer(), &self.processes.address(id), client_id)
    }

    fn old_client(&self, id: &str) -> Result<OldClient, ClientError> {
        OldClient::over(self.host(id).dialer(), &self.processes.address(id))
    }

    async fn crash(&mut self, id: &str) -> Result<(), ClusterError> {
        self.processes.crash(id).await
    }

    async fn stop(&mut self, id: &str) -> Result<(), ClusterError> {
        self.processes.stop(id).await
    }

    async fn restart(&mut self, id: &str) -> Result<(), ClusterError> {
        self.processes.restart(id).await
    }

    /// A fault between nodes on different hosts is one of everything between these hosts, and a slow node makes all
    /// of its host slow.
    async fn inject(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match self.ways(fault)? {
            Some(ways) => ways.into_iter().for_each(|way| self.wire.begin(way, fault)),
            None => self.processes.inject(fault).await?,
        }
        Ok(())
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match self.ways(fault)? {
            Some(ways) => ways.into_iter().for_each(|way| self.wire.end(way, fault)),
            None => self.processes.heal(fault).await?,
        }
        Ok(())
    }
}

fn unsupported(fault: &Fault) -> ClusterError {
    let why = "both nodes are on one host, where no wire joins them";
    ClusterError::Unsupported { driver: DRIVER, fault: fault.clone(), why }
}
