//! What nodes say they hold, and who of them is thought to be alive.
//!
//! An inventory is read once for each incarnation of a node. An answer that carries another incarnation
//! makes the inventory stale: it is read again before the next plan.
//!
//! A node that failed is *suspect*, and *down* once it has failed a probe too, or says that it is not ready. It is
//! avoided while others can answer, until a probe has had a real answer from it: a connection alone proves nothing.

mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub use self::load::{NodeLoad, Traffic};

use crate::config::NodeId;
use crate::day::Day;
use crate::store::{DayStatistics, Version};

/// Replaced versions that a node tells of, of all its days together: its inventory is read again with each change of its files,
/// by a query that waits for it, and grows by some 300 bytes for each.
pub const MAX_REPLACED_TOLD: usize = 100;

/// What one node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInventory {
    /// The node.
    pub node: NodeId,
    /// Which start of the process this is, and which data since: a larger number after every restart and with all new data.
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
    /// What the day was before and is still kept as, for those who resume a result; without files if it had no data. The latest
    /// [`MAX_REPLACED_TOLD`] of all days are told.
    pub replaced: BTreeMap<Version, Arc<DayStatistics>>,
}

/// Sent along with every answer, so that a restart is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// The node that answered.
    pub node: NodeId,
    /// Which start of its process, and which data since.
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
    /// Copied when it changes while somebody looks at it, so that looking costs nothing.
    now: Arc<Snapshot>,
    /// Why nodes are marked.
    whys: BTreeMap<NodeId, String>,
    /// What nodes did when they last said what they hold.
    loads: BTreeMap<NodeId, NodeLoad>,
}

/// A consistent view of a [`Directory`], for decisions that are pure.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Another number whenever inventories or marks are others.
    pub generation: u64,
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
        let mut inner = self.lock();
        let node = inventory.node.clone();
        if inventory.ready && !inventory.draining {
            inner.unmark(&node);
        } else {
            let why = if inventory.draining { "shutting down" } else { "not ready" };
            inner.mark(&node, Health::Down, why);
        }
        inner.hear_of_slots(&node, inventory.free_compute_slots);
        let known = inner.now.inventories.get(&node);
        if known.is_some_and(|known| known.incarnation > inventory.incarnation) {
            // It was overtaken on its way by a newer one; or the clock of a node that was restarted went back. It is asked again.
            inner.change().inventories.remove(&node);
            return;
        }
        let known = known.filter(|known| known.incarnation == inventory.incarnation);
        match (unchanged, known) {
            (true, Some(known)) if known.draining == inventory.draining => return,
            (true, Some(known)) => inventory.days = known.days.clone(),
            // Forgotten in the meantime: asked again before the next plan.
            (true, None) => return,
            (false, _) => {}
        }
        inner.change().inventories.insert(node, Arc::new(inventory));
    }

    /// Takes in what a node does, as it said along with its inventory; `None` if it did not say.
    pub fn hear_of_load(&self, node: &NodeId, load: Option<NodeLoad>) {
        let loads = &mut self.lock().loads;
        match load {
            Some(load) => loads.insert(node.clone(), load),
            None => loads.remove(node),
        };
    }

    /// What nodes do, as each said last.
    pub fn loads(&self) -> BTreeMap<NodeId, NodeLoad> {
        self.lock().loads.clone()
    }

    /// Takes in the state that came along with an answer; forgets an inventory of another incarnation.
    pub fn heard_from(&self, state: &NodeState) {
        if state.draining {
            self.is_down(&state.node, "shutting down");
        }
        let mut inner = self.lock();
        inner.hear_of_slots(&state.node, state.free_compute_slots);
        let known = inner.now.inventories.get(&state.node);
        if known.is_some_and(|known| known.incarnation != state.incarnation) {
            inner.change().inventories.remove(&state.node);
        }
    }

    /// Avoids a node that gave no usable answer, until a probe tells more. One that is down stays so.
    pub fn suspect(&self, node: &NodeId, why: &str) {
        self.lock().mark(node, Health::Suspect, why);
    }

    /// Avoids a node that failed a probe, or is not ready.
    pub fn is_down(&self, node: &NodeId, why: &str) {
        self.lock().mark(node, Health::Down, why);
    }

    /// The nodes that are avoided, each with the last failure.
    pub fn marks(&self) -> BTreeMap<NodeId, Mark> {
        let inner = self.lock();
        let mark = |(node, health): (&NodeId, &Health)| {
            let why = inner.whys.get(node).cloned().unwrap_or_default();
            (node.clone(), Mark { health: *health, why })
        };
        inner.now.marked.iter().map(mark).collect()
    }

    /// A view for pure decisions.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().now.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("the directory's own code does not panic")
    }
}

impl Inner {
    /// For another inventory, or another mark.
    fn change(&mut self) -> &mut Snapshot {
        let now = Arc::make_mut(&mut self.now);
        now.generation += 1;
        now
    }

    fn hear_of_slots(&mut self, node: &NodeId, free: u32) {
        if self.now.free_compute_slots.get(node) != Some(&free) {
            Arc::make_mut(&mut self.now).free_compute_slots.insert(node.clone(), free);
        }
    }

    fn mark(&mut self, node: &NodeId, health: Health, why: &str) {
        let known = self.now.marked.get(node).copied();
        let health = known.map_or(health, |known| known.max(health));
        self.whys.insert(node.clone(), why.to_owned());
        if known != Some(health) {
            self.change().marked.insert(node.clone(), health);
        }
        if known.is_none() {
            match self.now.inventories.contains_key(node) {
                true => tracing::warn!(%node, why, "node is avoided until it answers a probe"),
                false => tracing::debug!(%node, why, "node is not up yet"),
            }
        }
    }

    fn unmark(&mut self, node: &NodeId) {
        if self.now.marked.contains_key(node) {
            self.change().marked.remove(node);
            self.whys.remove(node);
        }
    }
}

impl Snapshot {
    /// Whether a node's inventory is known and says that its data can be asked for.
    pub fn serves(&self, node: &NodeId) -> bool {
        self.inventories.get(node).is_some_and(|inventory| inventory.ready && !inventory.draining)
    }

    /// Whether one of these nodes serves, and has not failed since it last answered.
    pub fn reaches(&self, holders: &[NodeId]) -> bool {
        holders.iter().any(|holder| self.serves(holder) && !self.marked.contains_key(holder))
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
