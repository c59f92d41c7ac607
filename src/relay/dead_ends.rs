//! The nodes that lately led nowhere: what one request has found out at the price of two keepalives, the next one need
//! not find out again.
//!
//! It is only a preference: a way past a node that is remembered is tried when no other is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::NodeId;

/// Of each node, those that did not lead to it. At most all nodes of the overlay for each of them.
#[derive(Debug)]
pub(super) struct DeadEnds {
    remembered: Duration,
    tried: BTreeMap<NodeId, BTreeMap<NodeId, Instant>>,
}

impl DeadEnds {
    /// None yet. Each is forgotten after the time `remembered`: a node that is well again is not told of here.
    pub(super) fn new(remembered: Duration) -> Self {
        DeadEnds { remembered, tried: BTreeMap::new() }
    }

    /// Notes nodes that did not lead to `target`.
    pub(super) fn note(&mut self, target: &NodeId, nodes: impl IntoIterator<Item = NodeId>, now: Instant) {
        let tried = self.tried.entry(target.clone()).or_default();
        tried.extend(nodes.into_iter().filter(|node| node != target).map(|node| (node, now)));
    }

    /// The nodes that did not lead to `target` a while ago.
    pub(super) fn before(&self, target: &NodeId, now: Instant) -> BTreeSet<NodeId> {
        let is_recent = |then: Instant| now.saturating_duration_since(then) < self.remembered;
        let tried = self.tried.get(target).into_iter().flatten();
        tried.filter(|(_, then)| is_recent(**then)).map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn node_that_led_nowhere_is_remembered_for_a_while_and_for_one_target() {
        let [target, other, bad] = ["G", "H", "D"].map(NodeId::from);
        let (start, remembered) = (Instant::now(), Duration::from_secs(8));
        let mut dead_ends = DeadEnds::new(remembered);
        dead_ends.note(&target, [bad.clone(), target.clone()], start);
        let later = start + Duration::from_secs(7);
        assert_eq!(dead_ends.before(&target, later), BTreeSet::from([bad]), "a target leads to itself");
        assert_eq!(dead_ends.before(&other, later), BTreeSet::new());
        assert_eq!(dead_ends.before(&target, start + remembered), BTreeSet::new());
    }
}
