//! One running node, as its services see it: who it is, what it may be asked by whom, how it stops.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::InFlight;
use crate::config::{Overlay, Process};
use crate::coordinator::Coordinator;
use crate::error::QueryError;
use crate::holder::Holder;
use crate::metrics::{Gauges, Metrics};
use crate::outside::{Connect, PeerAddress};
use crate::relay::Relay;

/// How a node was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not yet.
    Running,
    /// Takes no query any more and finishes what runs.
    Graceful,
    /// At once.
    AtOnce,
}

/// The hosts of a node and its neighbours: addresses, and names with the addresses that they had when last looked up.
pub struct Hosts {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    resolved: Mutex<BTreeSet<IpAddr>>,
}

impl Hosts {
    /// Hosts as the configuration writes them. Names have no address until [`Self::resolve`].
    pub fn new<'a>(hosts: impl Iterator<Item = &'a str>) -> Self {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for host in hosts {
            match host.parse::<IpAddr>() {
                Ok(ip) => drop(addresses.insert(ip.to_canonical())),
                Err(_) => drop(names.insert(host.to_owned())),
            }
        }
        Hosts { names, addresses, resolved: Mutex::default() }
    }

    /// Looks the names up again. A name that has no address now keeps none.
    pub async fn resolve(&self, connect: &dyn Connect) {
        if self.names.is_empty() {
            return;
        }
        let lookups = self.names.iter().map(|name| connect.resolve(name));
        let found = futures::future::join_all(lookups).await;
        let found = found.into_iter().flatten().map(|ip| ip.to_canonical()).collect();
        *self.resolved.lock().expect("storing addresses does not panic") = found;
    }

    fn contain(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
            || self.resolved.lock().expect("storing addresses does not panic").contains(&ip)
    }
}

/// What the services of one node share.
pub struct NodeState {
    /// The node's place in the overlay.
    pub process: Process,
    /// The configuration.
    pub overlay: Arc<Overlay>,
    /// Answers clients.
    pub coordinator: Arc<Coordinator>,
    /// Answers peers, by way of the overlay.
    pub relay: Arc<Relay>,
    /// Answers peers, from its own data.
    pub holder: Arc<Holder>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Bounds the peer requests in flight.
    pub peer_requests: InFlight,
    /// The addresses of this node and of its neighbours.
    pub peer_hosts: Hosts,
    /// The addresses of this node alone.
    pub own_host: Hosts,
    /// Knows the addresses of hosts that are written as names.
    pub connect: Arc<dyn Connect>,
    /// Bounds the streams of chunks that are open.
    pub streams: InFlight,
    /// Which start of the process this is.
    pub incarnation: u64,
    /// How the node was told to stop.
    pub stop: watch::Sender<Stop>,
}

impl NodeState {
    /// Whether the data are loaded and queries are taken.
    pub fn is_serving(&self) -> bool {
        self.holder.store().is_some() && *self.stop.borrow() == Stop::Running
    }

    /// `loading`, `shutting down`, or `None` while the node serves.
    pub fn not_serving(&self) -> Option<&'static str> {
        match (*self.stop.borrow(), self.holder.store()) {
            (Stop::Running, Some(_)) => None,
            (Stop::Running, None) => Some("loading"),
            _ => Some("shutting down"),
        }
    }

    /// Whether queries are taken.
    ///
    /// # Errors
    /// [`QueryError::NotServing`].
    pub fn serving(&self) -> Result<(), QueryError> {
        match self.not_serving() {
            None => Ok(()),
            Some(state) => Err(QueryError::NotServing { node: self.process.id.to_string(), state }),
        }
    }

    /// Counts a query that was refused before it was asked; the coordinator counts all others.
    pub fn refused(&self, error: QueryError) -> QueryError {
        self.metrics.query(error.outcome(), Duration::ZERO);
        error
    }

    /// Tells the node to stop; a later word can only make it stop sooner.
    pub fn stop(&self, how: Stop) {
        self.stop.send_if_modified(|current| {
            let sooner = how > *current;
            *current = how.max(*current);
            sooner
        });
    }

    /// Whether a caller may use peer verbs: a configured neighbour's host, this host, or a network without addresses.
    pub fn is_peer(&self, address: PeerAddress) -> bool {
        address.0.is_none_or(|address| {
            let ip = address.ip().to_canonical();
            ip.is_loopback() || self.peer_hosts.contain(ip)
        })
    }

    /// Whether a caller may shut the node down: from loopback or the node's own address.
    pub fn is_own(&self, address: PeerAddress) -> bool {
        address.0.is_none_or(|address| {
            let ip = address.ip().to_canonical();
            ip.is_loopback() || self.own_host.contain(ip)
        })
    }

    /// When a request ends that allows itself `timeout`.
    pub fn deadline(&self, timeout: Option<Duration>) -> Instant {
        let most = self.overlay.limits.query();
        Instant::now() + timeout.map_or(most, |timeout| timeout.min(most))
    }

    /// The gauges as they are now.
    pub fn gauges(&self) -> Gauges {
        let admission = self.coordinator.admission();
        let snapshot = self.relay.directory().snapshot();
        let store = self.holder.store();
        let rejected = |batch: &crate::store::DayBatch| batch.statistics.rejected_rows;
        Gauges {
            active_queries: admission.active(),
            waiting_queries: admission.waiting(),
            following_queries: self.coordinator.follower_count(),
            computing_pieces: self.holder.computing_pieces(),
            peer_requests_in_flight: self.peer_requests.taken(),
            open_streams: self.streams.taken(),
            open_result_sets: self.coordinator.leases().open_count(),
            marked_nodes: snapshot.marked.len(),
            version_conflicts: snapshot.version_conflicts().len(),
            rows_held: store.map_or(0, |store| store.row_count()),
            rejected_rows: store.map_or(0, |store| store.days().map(rejected).sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Ipv4Addr;

    use futures::future::BoxFuture;

    use super::*;
    use crate::outside::Stream;

    /// A network with one name, `node-b`.
    struct Named(Ipv4Addr);

    impl Connect for Named {
        fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
            unreachable!("nothing is connected to")
        }

        fn resolve(&self, host: &str) -> BoxFuture<'static, Vec<IpAddr>> {
            let found = if host == "node-b" { vec![IpAddr::V4(self.0)] } else { Vec::new() };
            Box::pin(std::future::ready(found))
        }
    }

    #[tokio::test]
    async fn host_that_is_a_name_has_the_address_that_it_was_last_found_at() {
        let hosts = Hosts::new(["10.0.0.1", "node-b", "nobody"].into_iter());
        let [first, second, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert!(hosts.contain(first) && !hosts.contain(second));
        hosts.resolve(&Named(Ipv4Addr::new(10, 0, 0, 2))).await;
        assert!(hosts.contain(first) && hosts.contain(second) && !hosts.contain(third));
        hosts.resolve(&Named(Ipv4Addr::new(10, 0, 0, 3))).await;
        assert!(!hosts.contain(second) && hosts.contain(third));
    }
}
