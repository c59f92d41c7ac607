//! What a node is doing, for who looks at the overlay: nothing is decided by it.

use std::collections::BTreeMap;

use crate::config::NodeId;

/// What a node does at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Queries of its clients that have their slots.
    pub active_queries: u32,
    /// Queries of its clients that wait for slots.
    pub waiting_queries: u32,
    /// Pieces of scanning and encoding that run.
    pub computing_pieces: u32,
    /// Pieces that wait for a compute slot.
    pub waiting_pieces: u32,
    /// Requests of neighbours that are being answered.
    pub peer_requests_in_flight: u32,
    /// What it has asked each neighbour for.
    pub traffic: BTreeMap<NodeId, Traffic>,
}

/// What a node has asked a neighbour for on behalf of clients, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes of them and of their answers, as messages.
    pub bytes: u64,
}
