//! The overlay's configuration: JSON text in, a validated [`Overlay`] out.
//!
//! One file describes the whole overlay and every node reads the same one. Only `processes` is required; the rest
//! has defaults, so the files of the system that this replaces load unchanged. [`Overlay::parse`] reports every
//! problem at once, each with file and key; what it returns needs no further check.
//!
//! Nothing here opens a socket, reads a clock or looks at the dataset.
//!
//! Reading order: this file, [`limits`](Limits), `problem`, `json` (text to tree), `reader` (single values),
//! `parse` (tree to draft), `check` (what only the whole draft can tell), `schema` (back to JSON, and the JSON schema).

mod check;
mod json;
mod limits;
mod names;
mod parse;
mod problem;
mod reader;
mod schema;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::day::{Day, DayRange};

pub use limits::{CacheLimits, Limits};
pub use names::{Chunking, Fairness, Forwarding, Hedging, Profile, Role};
pub use problem::{Problem, Problems};
pub use schema::json_schema;

/// Rows of a chunk under fixed chunking, unless the file says otherwise.
pub const DEFAULT_CHUNK_SIZE: u32 = 500;

/// Bytes of a configuration file: a thousand processes need less than a fiftieth of it.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// Days that all teams own together. Placement lists the holders of every one; this is over a century.
pub const MAX_OWNED_DAYS: usize = 40_000;

/// Least and largest weight. One turn of the fair queue serves in proportion to weights, so a smaller
/// one would wait for thousands of turns.
pub const WEIGHT_RANGE: (f64, f64) = (0.001, 1000.0);

/// The configured graph of nodes with everything that governs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    /// Every node by its id. Exactly one is the leader, and every other one can be reached from it.
    pub processes: BTreeMap<NodeId, Process>,
    /// Teams in the order of their first day; their ranges are disjoint. Default: green 20200810-20200820
    /// and pink 20200821-20200924.
    pub teams: Vec<Team>,
    /// How work is divided, cut and shared out.
    pub strategies: Strategies,
    /// What each queue, buffer and wait may grow to.
    pub limits: Limits,
    /// What each cache may grow to.
    pub cache: CacheLimits,
    /// Members of a team that hold each of its days, at least 1 and at most the members of the smallest team.
    /// Absent: all members. Raising it costs memory and buys failover.
    pub replicas: Option<u32>,
    /// Weights in the fair queue: under an address, that address's share among all addresses; under a client
    /// id, the id's share among those of its own address. What is not named has weight 1.
    pub clients: BTreeMap<String, f64>,
    /// Folder of the day folders, as written; a relative one starts at the working directory of the node.
    pub dataset_root: Option<PathBuf>,
    /// The files with certificates and tokens. Absent: no TLS, no tokens.
    pub security: Option<SecurityFiles>,
    leader: NodeId,
    distances: BTreeMap<NodeId, u32>,
}

/// Where certificates and tokens are: as written, behind the folder of the configuration file if they are relative.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Security", default, deny_unknown_fields)]
pub struct SecurityFiles {
    /// Certificates of the nodes. Absent: connections are not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Tokens with their roles, a JSON list of `{name, role, token}`. Absent: callers need none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
}

/// Files in PEM format; `{id}` stands for the id of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Tls", deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificates of those who sign the nodes' certificates.
    pub ca: PathBuf,
    /// The node's own certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// The key of the node's certificate.
    pub key: PathBuf,
}

/// An overlay and what is odd about its file, yet harmless.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The validated configuration.
    pub overlay: Overlay,
    /// Edges that only one side lists, neighbours listed twice.
    pub warnings: Vec<Problem>,
}

impl Overlay {
    /// Reads a configuration from JSON text; `file` is the name that problems carry.
    ///
    /// # Errors
    /// [`Problems`] with everything that is wrong, in the order of the file where there is one.
    pub fn parse(text: &str, file: &str) -> Result<Parsed, Problems> {
        parse::parse(text, file)
    }

    /// Reads a configuration file of at most [`MAX_FILE_BYTES`].
    ///
    /// # Errors
    /// [`Problems`], also when the file cannot be read.
    pub fn read(path: &Path) -> Result<Parsed, Problems> {
        let file = path.display().to_string();
        let problem = |what: String| Problems(vec![Problem::new(&file, "", what)]);
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|opened| opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| problem(format!("cannot read the configuration: {error}")))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(problem(format!("configuration exceeds {MAX_FILE_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| problem(format!("configuration is not UTF-8: {error}")))?;
        Overlay::parse(&text, &file)
    }

    /// The one node that plans queries over all teams and holds no data.
    pub fn leader(&self) -> &Process {
        &self.processes[&self.leader]
    }

    /// The node with this id.
    pub fn process(&self, id: &str) -> Option<&Process> {
        self.processes.get(id)
    }

    /// The teams for which a node answers clients: all of them at the leader, elsewhere the node's own.
    pub fn teams_answered_by(&self, id: &str) -> impl Iterator<Item = &Team> {
        let own = self.process(id).filter(|process| process.role != Role::Leader);
        self.teams.iter().filter(move |team| own.is_none_or(|process| process.team == team.name))
    }

    /// The team with this name.
    pub fn team(&self, name: &str) -> Option<&Team> {
        self.teams.iter().find(|team| team.name == name)
    }

    /// Team leaders and workers of a team in id order. The leader holds no data and is no member.
    pub fn members(&self, team: &str) -> impl Iterator<Item = &Process> {
        let is_member = move |process: &&Process| process.role != Role::Leader && process.team == team;
        self.processes.values().filter(is_member)
    }

    /// The team that owns a day.
    pub fn team_of_day(&self, day: Day) -> Option<&Team> {
        self.teams.iter().find(|team| team.days.contains(day))
    }

    /// A team's leader: its `team_leader` nearest to the leader, the first in id order among equals.
    pub fn team_leader(&self, team: &str) -> Option<&Process> {
        self.members(team)
            .filter(|process| process.role == Role::TeamLeader)
            .min_by_key(|process| (self.distance_from_leader(&process.id), &process.id))
    }

    /// Edges between the leader and a node on the shortest way.
    pub fn distance_from_leader(&self, id: &str) -> Option<u32> {
        self.distances.get(id).copied()
    }

    /// The configuration with every default written out; [`Overlay::parse`] reads the same overlay from it.
    pub fn to_json(&self) -> serde_json::Value {
        schema::to_json(self)
    }
}

/// Edges from `start` to each node that can be reached from it, breadth first.
fn distances(processes: &BTreeMap<NodeId, Process>, start: &NodeId) -> BTreeMap<NodeId, u32> {
    let mut distances = BTreeMap::from([(start.clone(), 0)]);
    let mut queue = VecDeque::from([(start, 0)]);
    while let Some((id, distance)) = queue.pop_front() {
        for neighbour in processes.get(id).into_iter().flat_map(|process| &process.neighbours) {
            if !distances.contains_key(neighbour) {
                distances.insert(neighbour.clone(), distance + 1);
                queue.push_back((neighbour, distance + 1));
            }
        }
    }
    distances
}

/// The name of a node, unique in its overlay. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for NodeId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeId {
    fn from(id: &str) -> Self {
        NodeId(id.into())
    }
}

impl From<String> for NodeId {
    fn from(id: String) -> Self {
        NodeId(id.into())
    }
}

impl PartialEq<str> for NodeId {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for NodeId {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// One node of the overlay.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Its name.
    pub id: NodeId,
    /// Its place in the overlay.
    pub role: Role,
    /// The team whose days it may hold.
    pub team: String,
    /// Host name or IP address without brackets.
    pub host: String,
    /// TCP port of both services.
    pub port: u16,
    /// The nodes at the other end of its edges. An edge that one side lists, both have.
    pub neighbours: BTreeSet<NodeId>,
    /// Its share of its team's days (with `replicas`) and of its rows (with `capacity` forwarding), relative to
    /// the other members. Default 1, from 0.001 to 1000.
    pub weight: f64,
}

impl Process {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A date range of data and the name of those who hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct Team {
    /// Its name.
    pub name: String,
    /// The days it owns; never empty.
    pub days: DayRange,
    /// Its share of the compute slots relative to the other teams. Default 1, from 0.001 to 1000.
    pub weight: f64,
}

/// How the planned days are divided, results cut into chunks and slots shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategies {
    /// Which holder answers for which day.
    pub forwarding: Forwarding,
    /// Where a result is cut into chunks.
    pub chunking: Chunking,
    /// When a team may exceed its slots.
    pub fairness: Fairness,
    /// Rows of a chunk under fixed chunking, 500 by default, from 1 to 1,000,000. Raising it makes chunks fewer and
    /// larger until `limits.chunk_bytes` caps them.
    pub chunk_size: u32,
    /// Whether a second holder is asked before the first has failed.
    pub hedging: Hedging,
}

impl Default for Strategies {
    fn default() -> Self {
        Profile::Baseline.strategies(DEFAULT_CHUNK_SIZE)
    }
}
