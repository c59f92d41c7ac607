//! One running node, as its services see it: who it is, what it may be asked by whom, how it stops.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::InFlight;
use crate::config::{Overlay, Process};
use crate::coordinator::Coordinator;
use crate::gather::Gather;
use crate::holder::Holder;
use crate::metrics::{Gauges, Metrics};
use crate::outside::PeerAddress;

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

/// What the services of one node share.
pub struct NodeState {
    /// The node's place in the overlay.
    pub process: Process,
    /// The configuration.
    pub overlay: Arc<Overlay>,
    /// Answers clients.
    pub coordinator: Arc<Coordinator>,
    /// Answers peers, by way of the overlay.
    pub gather: Arc<Gather>,
    /// Answers peers, from its own data.
    pub holder: Arc<Holder>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Bounds the peer requests in flight.
    pub peer_requests: InFlight,
    /// The addresses of this node and of its neighbours.
    pub peer_hosts: BTreeSet<IpAddr>,
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
            ip.is_loopback() || self.peer_hosts.contains(&ip)
        })
    }

    /// Whether a caller may shut the node down: from loopback or the node's own address.
    pub fn is_own(&self, address: PeerAddress) -> bool {
        address.0.is_none_or(|address| {
            let ip = address.ip().to_canonical();
            ip.is_loopback() || self.process.host.parse() == Ok(ip)
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
        let snapshot = self.gather.directory().snapshot();
        let store = self.holder.store();
        let rejected = |batch: &crate::store::DayBatch| batch.statistics.rejected_rows;
        Gauges {
            active_queries: admission.active(),
            waiting_queries: admission.waiting(),
            open_result_sets: self.coordinator.leases().open_count(),
            marked_nodes: snapshot.marked.len(),
            version_conflicts: snapshot.version_conflicts().len(),
            rows_held: store.map_or(0, |store| store.row_count()),
            rejected_rows: store.map_or(0, |store| store.days().map(rejected).sum()),
        }
    }
}
