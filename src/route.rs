//! Which neighbour leads to which node, and which holder answers for which day: pure decisions over a snapshot.
//!
//! The caller says who is down and who has been asked; nothing here is remembered between two calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::{Forwarding, NodeId, Overlay};
use crate::day::Day;

/// The overlay's edges, ready to be searched.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<GraphNode>,
    index: BTreeMap<NodeId, usize>,
}

#[derive(Clone, Debug)]
struct GraphNode {
    id: NodeId,
    /// Edges from the leader.
    distance: u32,
    /// The leader of the node's team; none for the leader of the overlay, which is in no team's way.
    team_leader: Option<usize>,
    neighbours: Vec<usize>,
}

impl Graph {
    /// The graph of a configuration.
    pub fn new(overlay: &Overlay) -> Self {
        let index: BTreeMap<NodeId, usize> = overlay.processes.keys().cloned().zip(0..).collect();
        let team_leaders: BTreeMap<&str, usize> = overlay
            .teams
            .iter()
            .filter_map(|team| Some((team.name.as_str(), *index.get(&overlay.team_leader(&team.name)?.id)?)))
            .collect();
        let nodes = overlay.processes.values().map(|process| GraphNode {
            id: process.id.clone(),
            distance: overlay.distance_from_leader(&process.id).unwrap_or(u32::MAX),
            team_leader: (process.id != overlay.leader().id)
                .then(|| team_leaders.get(process.team.as_str()).copied())
                .flatten(),
            neighbours: process.neighbours.iter().filter_map(|id| index.get(id).copied()).collect(),
        });
        Graph { nodes: nodes.collect(), index }
    }

    /// The neighbours of `from` that lead to `target` past neither `from` nor a node in `avoid`, best first.
    ///
    /// Order: the shorter way; then a child or parent before a neighbour at equal distance from the leader,
    /// which relays only in failover; then the leader of the target's team; then the id. There is none if
    /// `target` is `from`, unknown, or in `avoid` itself.
    ///
    /// Bounds: one breadth-first search, linear in nodes and edges.
    pub fn next_hops(&self, from: &NodeId, target: &NodeId, avoid: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let (Some(&from), Some(&target)) = (self.index.get(from), self.index.get(target)) else {
            return Vec::new();
        };
        let remaining = self.distances_to(target, from, avoid);
        let mut hops: Vec<(u32, usize)> = self.nodes[from]
            .neighbours
            .iter()
            .filter_map(|neighbour| Some((remaining[*neighbour]?, *neighbour)))
            .collect();
        hops.sort_by_key(|(length, neighbour)| {
            let is_sibling = self.nodes[*neighbour].distance == self.nodes[from].distance;
            let is_other = self.nodes[target].team_leader != Some(*neighbour);
            (*length, is_sibling, is_other, &self.nodes[*neighbour].id)
        });
        hops.into_iter().map(|(_, neighbour)| self.nodes[neighbour].id.clone()).collect()
    }

    /// Edges between each node and `target` on the shortest way that passes neither `from` nor `avoid`.
    fn distances_to(&self, target: usize, from: usize, avoid: &BTreeSet<NodeId>) -> Vec<Option<u32>> {
        let mut closed = vec![false; self.nodes.len()];
        closed[from] = true;
        for index in avoid.iter().filter_map(|id| self.index.get(id)) {
            closed[*index] = true;
        }
        let mut distances = vec![None; self.nodes.len()];
        if closed[target] {
            return distances;
        }
        distances[target] = Some(0);
        closed[target] = true;
        let mut queue = VecDeque::from([(target, 0)]);
        while let Some((node, distance)) = queue.pop_front() {
            for neighbour in &self.nodes[node].neighbours {
                if !closed[*neighbour] {
                    closed[*neighbour] = true;
                    distances[*neighbour] = Some(distance + 1);
                    queue.push_back((*neighbour, distance + 1));
                }
            }
        }
        distances
    }
}

/// A live holder as the planning node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The holder.
    pub node: NodeId,
    /// Its configured weight; positive.
    pub weight: f64,
    /// Compute slots that it last reported free.
    pub free_compute_slots: u32,
}

/// A planned day and who can answer for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayNeed {
    /// The day.
    pub day: Day,
    /// Rows that it holds: the cost of scanning it.
    pub rows: u64,
    /// Live holders of the pinned version, in placement order.
    pub holders: Vec<NodeId>,
}

/// Divides the planned days among their holders.
///
/// `turn` counts queries; only `round_robin` looks at it. A holder that `candidates` does not name counts with weight 1
/// and no free slot; only `capacity` looks at them.
///
/// Shape: every day with a holder is assigned to one of its holders, every other day is absent. Equal input, in
/// whatever order of `needs`, gives equal output.
pub fn assign(
    forwarding: Forwarding,
    turn: u64,
    needs: &[DayNeed],
    candidates: &BTreeMap<NodeId, Candidate>,
) -> BTreeMap<Day, NodeId> {
    match forwarding {
        Forwarding::RoundRobin => in_turn(turn, needs),
        Forwarding::Parallel => balanced(needs, |_| 1.0),
        Forwarding::Capacity => balanced(needs, |node| candidates.get(node).map_or(1.0, capacity)),
    }
}

fn capacity(candidate: &Candidate) -> f64 {
    candidate.weight * f64::from(candidate.free_compute_slots.max(1))
}

/// One holder for all days of a query that have the same holders. Placement orders them differently for each day,
/// so the turn goes by id.
fn in_turn(turn: u64, needs: &[DayNeed]) -> BTreeMap<Day, NodeId> {
    let holder = |need: &DayNeed| {
        let holders: BTreeSet<&NodeId> = need.holders.iter().collect();
        let place = turn.checked_rem(holders.len() as u64)?;
        let holder = holders.into_iter().nth(place as usize)?;
        Some((need.day, holder.clone()))
    };
    needs.iter().filter_map(holder).collect()
}

/// Longest processing time first: the largest day goes where it would be finished soonest, and so on. With equal
/// capacities and the same holders for all days no holder exceeds the ideal share by more than the largest day.
///
/// Source: Graham, "Bounds on multiprocessing timing anomalies" (1969).
fn balanced(needs: &[DayNeed], capacity: impl Fn(&NodeId) -> f64) -> BTreeMap<Day, NodeId> {
    let mut largest_first: Vec<&DayNeed> = needs.iter().collect();
    largest_first.sort_by_key(|need| (std::cmp::Reverse(need.rows), need.day));
    // Rows and days of each holder so far. Days break ties, so that days without rows are spread too.
    let mut loads: BTreeMap<&NodeId, (u64, u32)> = BTreeMap::new();
    let mut assigned = BTreeMap::new();
    for need in largest_first {
        let finished = |holder: &&NodeId| {
            let (rows, days) = loads.get(*holder).copied().unwrap_or_default();
            (rows.saturating_add(need.rows) as f64 / capacity(holder), days)
        };
        let order = |left: &&NodeId, right: &&NodeId| {
            let ((left, left_days), (right, right_days)) = (finished(left), finished(right));
            left.total_cmp(&right).then(left_days.cmp(&right_days))
        };
        // Of equal ones `min_by` takes the first: placement order.
        if let Some(holder) = need.holders.iter().min_by(order) {
            let (rows, days) = loads.entry(holder).or_default();
            *rows = rows.saturating_add(need.rows);
            *days += 1;
            assigned.insert(need.day, holder.clone());
        }
    }
    assigned
}

#[cfg(test)]
mod tests;
