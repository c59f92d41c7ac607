//! Which nodes there are, who they have edges to, and which team owns which days.
//!
//! [`Topology`] is the graph itself; [`TopologyBuilder`] makes one from teams and a shape, and is plain data, so
//! that a random one shrinks to the smallest that fails. Both know nothing of addresses: a driver decides
//! where nodes listen. Nothing is validated here; the node's own parser judges [`Topology::to_json`].
//!
//! ```
//! use overlay_harness::topology::TopologyBuilder;
//!
//! let topology = TopologyBuilder::teams(&[2, 1]).build();
//! assert_eq!(topology.to_string(), "A -> B(C), D");
//! ```

mod builder;
mod drawing;
mod random;

use std::collections::BTreeSet;
use std::path::Path;

use overlay::config::{Overlay, Problems, Role};
use overlay::day::Day;
use serde_json::{Map, Value, json};

pub use self::builder::{Shape, TeamSpec, TopologyBuilder};
pub use self::random::topologies;

use crate::oracle::TeamRange;

/// An overlay's graph and its teams.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The nodes, in id order; exactly one is the leader.
    pub nodes: Vec<NodeSpec>,
    /// Edges, each once, the smaller id first.
    pub edges: BTreeSet<(String, String)>,
    /// The teams in the order of their days, as the oracle takes them.
    pub teams: Vec<TeamRange>,
    /// Members of a team that hold each of its days; absent: all.
    pub replicas: Option<u32>,
}

/// One node of a topology.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Its name.
    pub id: String,
    /// Its place.
    pub role: Role,
    /// The team whose days it may hold.
    pub team: String,
    /// Its share relative to other members of its team.
    pub weight: f64,
}

impl Topology {
    /// The six nodes of the seed system: A over B and C of green, E and F of pink, and D below both B and E.
    ///
    /// # Panics
    /// Never: the file is checked in, and every test reads it.
    pub fn six_nodes() -> Self {
        let text = include_str!("../../configs/one_host_config.json");
        Self::of(&Overlay::parse(text, "configs/one_host_config.json").expect("a valid file").overlay)
    }

    /// The graph and the teams of a configuration file; its limits, strategies and addresses are left behind.
    ///
    /// # Errors
    /// [`Problems`] if the file is not valid.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Ok(Self::of(&Overlay::read(path)?.overlay))
    }

    /// The graph and the teams of an overlay.
    pub fn of(overlay: &Overlay) -> Self {
        let nodes = overlay.processes.values().map(|process| NodeSpec {
            id: process.id.to_string(),
            role: process.role,
            team: process.team.clone(),
            weight: process.weight,
        });
        let edges = overlay.processes.values().flat_map(|process| {
            process.neighbours.iter().map(|other| edge(process.id.as_str(), other.as_str()))
        });
        let teams = overlay.teams.iter().map(|team| {
            let last = team.days.last().unwrap_or(team.days.start);
            TeamRange::new(&team.name, Day::number(team.days.start), Day::number(last))
        });
        Topology {
            nodes: nodes.collect(),
            edges: edges.collect(),
            teams: teams.collect(),
            replicas: overlay.replicas,
        }
    }

    /// The configuration: every node on loopback, at a port of its own.
    pub fn to_json(&self) -> Value {
        let process = |(index, node): (usize, &NodeSpec)| {
            let process = json!({
                "id": node.id, "role": node.role.name(), "team": node.team, "weight": node.weight,
                "host": "127.0.0.1", "port": 60051 + index, "neighbors": self.neighbours(&node.id),
            });
            (node.id.clone(), process)
        };
        let processes: Map<_, _> = self.nodes.iter().enumerate().map(process).collect();
        let team = |team: &TeamRange| json!({"name": team.name, "first_day": team.first_day, "last_day": team.last_day});
        let teams: Vec<Value> = self.teams.iter().map(team).collect();
        let mut config = json!({"processes": processes, "teams": teams});
        if let Some(replicas) = self.replicas {
            config["replicas"] = json!(replicas);
        }
        config
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.id.as_str())
    }

    /// The id of the leader; empty if there is none.
    pub fn leader(&self) -> &str {
        let leader = self.nodes.iter().find(|node| node.role == Role::Leader);
        leader.map_or("", |node| &node.id)
    }

    /// The nodes that an edge joins with `id`, in id order.
    pub fn neighbours(&self, id: &str) -> Vec<&str> {
        let other = |(left, right): &'_ (String, String)| match (left == id, right == id) {
            (true, _) => Some(right.clone()),
            (_, true) => Some(left.clone()),
            _ => None,
        };
        let ids: BTreeSet<String> = self.edges.iter().filter_map(other).collect();
        self.ids().filter(|id| ids.contains(*id)).collect()
    }

    /// Team leaders and workers of a team, in id order.
    pub fn members(&self, team: &str) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.iter().filter(move |node| node.role != Role::Leader && node.team == team)
    }
}

/// An edge as [`Topology::edges`] has it.
fn edge(left: &str, right: &str) -> (String, String) {
    (left.min(right).to_owned(), left.max(right).to_owned())
}
