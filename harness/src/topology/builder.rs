//! Topologies in a line: teams, a shape, and edges on top.

use std::collections::BTreeSet;

use overlay::config::Role;

use super::{NodeSpec, Topology, edge};
use crate::calendar;
use crate::oracle::TeamRange;

/// Names of the first teams; later ones are `team4` and so on.
const TEAM_NAMES: [&str; 4] = ["green", "pink", "blue", "amber"];

/// Days of the dataset, which teams divide among them unless told otherwise.
pub(super) const FIRST_DAY: u32 = 20200810;
pub(super) const LAST_DAY: u32 = 20200924;

/// A topology as teams and a shape. The leader `A` comes on top; members get the next letters, team by team.
///
/// Any value builds a graph that the node accepts, as long as each team has a member, ranges do not overlap,
/// `replicas` fits the smallest team and no node is farther from the leader than `limits.max_hops`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyBuilder {
    /// The teams in the order of their days.
    pub teams: Vec<TeamSpec>,
    /// How edges are laid.
    pub shape: Shape,
    /// Edges on top of the shape's, between node numbers (the leader is 0). Numbers beyond the last node count
    /// from the first again, and an edge from a node to itself is none, so that fewer members still make a graph.
    pub extra_edges: BTreeSet<(usize, usize)>,
    /// Members of a team that hold each of its days; absent: all.
    pub replicas: Option<u32>,
}

/// A team of a [`TopologyBuilder`]: its first member is its team leader.
#[derive(Clone, Debug, PartialEq)]
pub struct TeamSpec {
    /// Its name and its days.
    pub range: TeamRange,
    /// The weight of each member, at least one.
    pub weights: Vec<f64>,
}

/// How edges are laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every member has an edge to the leader, and no other.
    Star,
    /// All in one line, which the leader begins.
    Chain,
    /// Team leaders below the leader; below each, its team as a balanced tree.
    Trees {
        /// Children of a node, at least one.
        fan_out: usize,
    },
}

impl TopologyBuilder {
    /// Teams of so many members each, which share the days of the dataset evenly. Every team leader is below the
    /// leader, its workers below it.
    pub fn teams(member_counts: &[usize]) -> Self {
        let days: Vec<u32> = calendar::days(FIRST_DAY, LAST_DAY).collect();
        let share = |index: usize| index * days.len() / member_counts.len();
        let team = |(index, members): (usize, &usize)| TeamSpec {
            range: TeamRange::new(&team_name(index), days[share(index)], days[share(index + 1) - 1]),
            weights: vec![1.0; *members],
        };
        TopologyBuilder {
            teams: member_counts.iter().enumerate().map(team).collect(),
            shape: Shape::Trees { fan_out: usize::MAX },
            extra_edges: BTreeSet::new(),
            replicas: None,
        }
    }

    /// Two teams of `members` in all, every node at the leader: `A -> B, C, D, E`.
    pub fn star(members: usize) -> Self {
        Self::teams(&[members.div_ceil(2), members / 2]).shape(Shape::Star)
    }

    /// Two teams of `members` in all, in one line: `A -> B(C(D(E)))`.
    pub fn chain(members: usize) -> Self {
        Self::teams(&[members.div_ceil(2), members / 2]).shape(Shape::Chain)
    }

    /// A balanced tree of `depth` levels below the leader; each of its `fan_out` branches is a team.
    pub fn tree(fan_out: usize, depth: u32) -> Self {
        let members: usize = (0..depth).map(|level| fan_out.pow(level)).sum();
        Self::teams(&vec![members; fan_out]).shape(Shape::Trees { fan_out })
    }

    /// A node that two ways lead to: `A -> B(D), C(D)`.
    pub fn diamond() -> Self {
        Self::teams(&[1, 2]).edge(1, 3)
    }

    /// Lays edges this way.
    pub fn shape(self, shape: Shape) -> Self {
        TopologyBuilder { shape, ..self }
    }

    /// One more edge, between two node numbers.
    pub fn edge(mut self, left: usize, right: usize) -> Self {
        self.extra_edges.insert((left, right));
        self
    }

    /// Holders of each day.
    pub fn replicas(self, replicas: u32) -> Self {
        TopologyBuilder { replicas: Some(replicas), ..self }
    }

    /// The graph.
    pub fn build(&self) -> Topology {
        let parents = self.parents();
        let id = |number: usize| node_id(number, parents.len());
        let leader_team = self.teams.first().map_or_else(String::new, |team| team.range.name.clone());
        let mut nodes = vec![NodeSpec { id: id(0), role: Role::Leader, team: leader_team, weight: 1.0 }];
        for team in &self.teams {
            for (index, &weight) in team.weights.iter().enumerate() {
                let role = if index == 0 { Role::TeamLeader } else { Role::Worker };
                nodes.push(NodeSpec { id: id(nodes.len()), role, team: team.range.name.clone(), weight });
            }
        }
        let extra = self.extra_edges.iter().map(|(left, right)| (left % nodes.len(), right % nodes.len()));
        let shaped = parents.iter().copied().enumerate().skip(1);
        let edges = shaped.chain(extra).filter(|(left, right)| left != right);
        Topology {
            edges: edges.map(|(left, right)| edge(&id(left), &id(right))).collect(),
            teams: self.teams.iter().map(|team| team.range.clone()).collect(),
            replicas: self.replicas,
            nodes,
        }
    }

    /// The parent of each node by number; the leader's own is 0.
    fn parents(&self) -> Vec<usize> {
        let mut parents = vec![0];
        for team in &self.teams {
            let team_leader = parents.len();
            for member in 0..team.weights.len() {
                parents.push(match self.shape {
                    Shape::Star => 0,
                    Shape::Chain => parents.len() - 1,
                    Shape::Trees { .. } if member == 0 => 0,
                    Shape::Trees { fan_out } => team_leader + (member - 1) / fan_out.max(1),
                });
            }
        }
        parents
    }
}

pub(super) fn team_name(index: usize) -> String {
    TEAM_NAMES.get(index).map_or_else(|| format!("team{index}"), |&name| name.to_owned())
}

/// A letter, or where letters do not last a number, so that ids sort as numbers do.
fn node_id(number: usize, node_count: usize) -> String {
    match u8::try_from(number) {
        Ok(letter) if node_count <= 26 => char::from(b'A' + letter).to_string(),
        _ => format!("N{number:04}"),
    }
}
