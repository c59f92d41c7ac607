//! What nodes say they hold, and who of them is thought to be alive.
//!
//! An inventory is read once for each incarnation of a node. An answer that carries another incarnation
//! makes the inventory stale: it is read again before the next plan.
//!
//! A node that failed is *suspect*, and *down* once it has failed a probe too, or says that it is not ready. It is
//! avoided while others can answer, until a probe has had a real answer from it: a connection alone proves nothing.

use std::collections::BTreeMap;
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
    /// Whether it is shutting down.
    pub draining: bool,
}

/// What is thought of a node that is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// A request to it failed, and no probe has told more.
    Suspect,
    /// A probe failed too, or it said that it is not ready.
    Down,
}

impl Health {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Health::Suspect => "suspect",
            Health::Down => "down",
        }
    }
}

/// Why a node is avoided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What is thought of it.
    pub health: Health,
    /// The last failure.
    pub why: String,
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
    marks: BTreeMap<NodeId, Mark>,
}

/// A consistent view of a [`Directory`], for decisions that are pure.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The latest inventory of each node that has one.
    pub inventories: BTreeMap<NodeId, Arc<NodeInventory>>,
    /// The latest word on free compute slots.
    pub free_compute_slots: BTreeMap<NodeId, u32>,
    /// Nodes that failed and have answered no probe since.
    pub marked: BTreeMap<NodeId, Health>,
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
            let why = if inventory.draining { "shutting down" } else { "not ready" };
            inner.marks.insert(node.clone(), Mark { health: Health::Down, why: why.to_owned() });
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
        if state.draining {
            self.is_down(&state.node, "shutting down");
        }
        let mut inner = self.lock();
        inner.free_compute_slots.insert(state.node.clone(), state.free_compute_slots);
        let stale =
            inner.inventories.get(&state.node).is_some_and(|known| known.incarnation != state.incarnation);
        if stale {
            inner.inventories.remove(&state.node);
        }
    }

    /// Avoids a node that gave no usable answer, until a probe tells more. One that is down stays so.
    pub fn suspect(&self, node: &NodeId, why: &str) {
        self.mark(node, Health::Suspect, why);
    }

    /// Avoids a node that failed a probe, or is not ready.
    pub fn is_down(&self, node: &NodeId, why: &str) {
        self.mark(node, Health::Down, why);
    }

    fn mark(&self, node: &NodeId, health: Health, why: &str) {
        let mut inner = self.lock();
        let was_up = inner.inventories.contains_key(node);
        let known = inner.marks.get(node).map(|mark| mark.health);
        let health = known.map_or(health, |known| known.max(health));
        let mark = Mark { health, why: why.to_owned() };
        if inner.marks.insert(node.clone(), mark).is_none() {
            match was_up {
                true => tracing::warn!(%node, why, "node is avoided until it answers a probe"),
                false => tracing::debug!(%node, why, "node is not up yet"),
            }
        }
    }

    /// The nodes that are avoided, each with the last failure.
    pub fn marks(&self) -> BTreeMap<NodeId, Mark> {
        self.lock().marks.clone()
    }

    /// A view for pure decisions.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            inventories: inner.inventories.clone(),
            free_compute_slots: inner.free_compute_slots.clone(),
            marked: inner.marks.iter().map(|(node, mark)| (node.clone(), mark.health)).collect(),
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
