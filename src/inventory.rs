//! What nodes say they hold, and who of them is thought to be alive.
//!
//! An inventory is read once for each incarnation of a node. An answer that carries another incarnation
//! makes the inventory stale: it is read again before the next plan. A node that failed is marked and
//! avoided until a probe has had a real answer from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::config::NodeId;
use crate::day::Day;
use crate::store::{DayStatistics, Version};

/// What one node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInventory {
    /// The node.
    pub node: NodeId,
    /// Which start of the process this is; another number after every restart.
    pub incarnation: u64,
    /// Whether its data are loaded.
    pub ready: bool,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Compute slots that nobody uses.
    pub free_compute_slots: u32,
    /// Files loaded.
    pub files: u64,
    /// Every day placed at the node; one without files has statistics of 0 files.
    pub days: BTreeMap<Day, DayInventory>,
    /// Day folders of the dataset that no team owns.
    pub unowned_days: Vec<String>,
}

/// What a node holds of one day.
#[derive(Clone, Debug, PartialEq)]
pub struct DayInventory {
    /// Of the data.
    pub version: Version,
    /// Rows, files, bounds.
    pub statistics: Arc<DayStatistics>,
    /// The first few rows that did not parse, as `file:line: reason`.
    pub rejected: Vec<String>,
}

/// Sent along with every answer, so that a restart is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// The node that answered.
    pub node: NodeId,
    /// Which start of its process.
    pub incarnation: u64,
    /// Compute slots that nobody uses.
    pub free_compute_slots: u32,
}

/// What one node knows about the others.
#[derive(Default)]
pub struct Directory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    inventories: BTreeMap<NodeId, Arc<NodeInventory>>,
    free_compute_slots: BTreeMap<NodeId, u32>,
    marks: BTreeMap<NodeId, String>,
}

/// A consistent view of a [`Directory`], for decisions that are pure.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The latest inventory of each node that has one.
    pub inventories: BTreeMap<NodeId, Arc<NodeInventory>>,
    /// The latest word on free compute slots.
    pub free_compute_slots: BTreeMap<NodeId, u32>,
    /// Nodes that failed and were not heard of since.
    pub marked: BTreeSet<NodeId>,
}

impl Directory {
    /// Takes in an inventory, which also proves that the node is alive if it is ready.
    ///
    /// One that is `unchanged` has no days; the days known already stay.
    pub fn learn(&self, mut inventory: NodeInventory, unchanged: bool) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let node = inventory.node.clone();
        if inventory.ready && !inventory.draining {
            inner.marks.remove(&node);
        } else {
            inner.marks.insert(node.clone(), "not ready".to_owned());
        }
        inner.free_compute_slots.insert(node.clone(), inventory.free_compute_slots);
        let known = inner.inventories.get(&node).filter(|known| known.incarnation == inventory.incarnation);
        match (unchanged, known) {
            (true, Some(known)) if known.draining == inventory.draining => {}
            (true, Some(known)) => {
                inventory.days = known.days.clone();
                inner.inventories.insert(node, Arc::new(inventory));
            }
            // Forgotten in the meantime: asked again before the next plan.
            (true, None) => {}
            (false, _) => {
                inner.inventories.insert(node, Arc::new(inventory));
            }
        }
    }

    /// Takes in the state that came along with an answer; forgets an inventory of another incarnation.
    pub fn heard_from(&self, state: &NodeState) {
        let mut inner = self.lock();
        inner.free_compute_slots.insert(state.node.clone(), state.free_compute_slots);
        let stale =
            inner.inventories.get(&state.node).is_some_and(|known| known.incarnation != state.incarnation);
        if stale {
            inner.inventories.remove(&state.node);
        }
    }

    /// Marks a node that gave no usable answer.
    pub fn mark(&self, node: &NodeId, why: &str) {
        let mut inner = self.lock();
        let was_up = inner.inventories.contains_key(node);
        if inner.marks.insert(node.clone(), why.to_owned()).is_none() {
            match was_up {
                true => tracing::warn!(%node, why, "node is avoided until it answers a probe"),
                false => tracing::debug!(%node, why, "node is not up yet"),
            }
        }
    }

    /// The nodes that are avoided, each with the last failure.
    pub fn marks(&self) -> BTreeMap<NodeId, String> {
        self.lock().marks.clone()
    }

    /// A view for pure decisions.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            inventories: inner.inventories.clone(),
            free_compute_slots: inner.free_compute_slots.clone(),
            marked: inner.marks.keys().cloned().collect(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("the directory's own code does not panic")
    }
}

impl Snapshot {
    /// Whether a node's inventory is known and says that its data can be asked for.
    pub fn serves(&self, node: &NodeId) -> bool {
        self.inventories.get(node).is_some_and(|inventory| inventory.ready && !inventory.draining)
    }

    /// The days whose holders have different versions, with who has which.
    pub fn version_conflicts(&self) -> BTreeMap<Day, BTreeMap<Version, Vec<NodeId>>> {
        let mut holders: BTreeMap<Day, BTreeMap<Version, Vec<NodeId>>> = BTreeMap::new();
        for (node, inventory) in &self.inventories {
            for (day, held) in &inventory.days {
                holders.entry(*day).or_default().entry(held.version).or_default().push(node.clone());
            }
        }
        holders.retain(|_, versions| versions.len() > 1);
        holders
    }
}
