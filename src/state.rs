//! One running node, as its services see it: who it is, whether it serves, how it stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::access::Access;
use crate::admission::InFlight;
use crate::config::{NodeId, Overlay, Process};
use crate::coordinator::Coordinator;
use crate::error::QueryError;
use crate::holder::Holder;
use crate::inventory::NodeLoad;
use crate::metrics::{Gauges, Metrics};
use crate::outside::Connect;
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
    /// Counts those of them that are on behalf of no client.
    pub probes: InFlight,
    /// Decides who may call what.
    pub access: Arc<Access>,
    /// Knows the addresses of hosts that are written as names.
    pub connect: Arc<dyn Connect>,
    /// Bounds the streams of chunks that are open.
    pub streams: InFlight,
    /// Bounds the bytes of messages on their way.
    pub transit: InFlight,
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
        if let Some(limit) = error.limit() {
            self.metrics.refused(limit);
        }
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

    /// When a request ends that allows itself `timeout`.
    pub fn deadline(&self, timeout: Option<Duration>) -> Instant {
        let most = self.overlay.limits.query();
        Instant::now() + timeout.map_or(most, |timeout| timeout.min(most))
    }

    /// Bytes by who holds them: the keys of `cache`, `limits.result_set_bytes` and `limits.replaced_bytes`.
    fn held_bytes(&self) -> [(&'static str, usize); 6] {
        let [results, chunks, aggregates] = self.coordinator.cached_bytes();
        [
            ("aggregates", aggregates),
            ("chunks", chunks),
            ("replaced", self.holder.store().map_or(0, |store| store.replaced_bytes())),
            ("result_sets", self.coordinator.leases().bytes()),
            ("results", results),
            ("selections", self.holder.cached_bytes()),
        ]
    }

    /// What the node does now.
    pub fn load(&self) -> NodeLoad {
        let admission = self.coordinator.admission();
        NodeLoad {
            active_queries: admission.active() as u32,
            waiting_queries: admission.waiting() as u32,
            computing_pieces: self.holder.computing_pieces() as u32,
            waiting_pieces: self.holder.waiting_pieces() as u32,
            peer_requests_in_flight: self.peer_requests.taken().saturating_sub(self.probes.taken()) as u32,
            traffic: self.relay.traffic(),
        }
    }

    /// The gauges as they are now.
    pub fn gauges(&self) -> Gauges {
        let admission = self.coordinator.admission();
        let snapshot = self.relay.directory().snapshot();
        let store = self.holder.store();
        let store = store.as_deref();
        let rejected = |batch: &crate::store::DayBatch| batch.statistics.rejected_rows;
        let neighbour = |id: &NodeId| (id.clone(), snapshot.marked.get(id).map_or("up", |mark| mark.name()));
        Gauges {
            active_queries: admission.active(),
            waiting_queries: admission.waiting(),
            following_queries: self.coordinator.follower_count(),
            computing_pieces: self.holder.computing_pieces(),
            peer_requests_in_flight: self.peer_requests.taken(),
            probes_in_flight: self.probes.taken(),
            open_streams: self.streams.taken(),
            open_result_sets: self.coordinator.leases().open_count(),
            held_bytes: self.held_bytes(),
            transit_bytes: self.transit.taken(),
            orphaned_tasks: self.metrics.orphans().count(),
            marked_nodes: snapshot.marked.len(),
            neighbours: self.process.neighbours.iter().map(neighbour).collect(),
            version_conflicts: snapshot.version_conflicts().len(),
            rows_held: store.map_or(0, |store| store.row_count()),
            rejected_rows: store.map_or(0, |store| store.days().map(rejected).sum()),
        }
    }
}
