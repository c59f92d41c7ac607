//! The file as a writer sees it: an overlay back to JSON, and the JSON schema for editors.
//!
//! The parser does not use these types (serde stops at the first problem); a test holds both to the same keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    CacheLimits, Chunking, Fairness, Forwarding, Hedging, Limits, Overlay, Process, Profile, Role,
    SecurityFiles, Team,
};

/// The JSON schema of a configuration file (draft 2020-12).
pub fn json_schema() -> Value {
    schemars::schema_for!(OverlayFile).to_value()
}

pub(super) fn to_json(overlay: &Overlay) -> Value {
    let strategies = &overlay.strategies;
    let file = OverlayFile {
        schema: None,
        processes: overlay
            .processes
            .values()
            .map(|process| (process.id.to_string(), ProcessFile::from(process)))
            .collect(),
        teams: Some(overlay.teams.iter().map(TeamFile::from).collect()),
        strategies: StrategiesFile {
            profile: None,
            forwarding: Some(strategies.forwarding),
            chunking: Some(strategies.chunking),
            fairness: Some(strategies.fairness),
            chunk_size: strategies.chunk_size,
            hedging: strategies.hedging,
        },
        limits: overlay.limits.clone(),
        cache: overlay.cache.clone(),
        replicas: overlay.replicas,
        clients: overlay.clients.clone(),
        dataset_root: overlay.dataset_root.clone(),
        security: overlay.security.clone(),
    };
    serde_json::to_value(file).unwrap_or(Value::Null)
}

/// The configuration of one overlay. Only `processes` is required.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Overlay configuration", deny_unknown_fields)]
struct OverlayFile {
    /// Where this schema lies, for editors.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    /// Every node by its id; exactly one is the leader.
    processes: BTreeMap<String, ProcessFile>,
    /// The teams. Default: green 20200810-20200820 and pink 20200821-20200924.
    #[serde(skip_serializing_if = "Option::is_none")]
    teams: Option<Vec<TeamFile>>,
    /// How work is divided, cut and shared out.
    #[schemars(default)]
    strategies: StrategiesFile,
    /// What each queue, buffer and wait of a node may grow to.
    #[schemars(default)]
    limits: Limits,
    /// What each cache of a node may grow to.
    #[schemars(default)]
    cache: CacheLimits,
    /// Members of a team that hold each of its days. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    replicas: Option<u32>,
    /// Weights in the fair queue: under an address, that address's share among all addresses; under a client
    /// id, the id's share among those of its own address. Default 1.
    #[schemars(default, inner(range(min = 0.001, max = 1000.0)))]
    clients: BTreeMap<String, f64>,
    /// Folder of the day folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset_root: Option<PathBuf>,
    /// The files with certificates and tokens; relative paths start at the folder of this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<SecurityFiles>,
}

/// One node.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Process", deny_unknown_fields)]
struct ProcessFile {
    /// Its name: the key that it stands under.
    id: String,
    /// Its place in the overlay.
    role: Role,
    /// The team whose days it may hold.
    team: String,
    /// Host name or IP address.
    host: String,
    /// TCP port.
    #[schemars(range(min = 1))]
    port: u16,
    /// Ids of the nodes that it has an edge to.
    neighbors: BTreeSet<String>,
    /// Its share relative to the other members of its team.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(default = "one", range(min = 0.001, max = 1000.0))]
    weight: f64,
}

/// A date range of data.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Team", deny_unknown_fields)]
struct TeamFile {
    /// Its name.
    name: String,
    /// First day that it owns, YYYYMMDD.
    #[schemars(schema_with = "day_schema")]
    first_day: String,
    /// Last day that it owns, YYYYMMDD.
    #[schemars(schema_with = "day_schema")]
    last_day: String,
    /// Its share relative to the other teams.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(default = "one", range(min = 0.001, max = 1000.0))]
    weight: f64,
}

/// Strategies; the profile names a whole set, the other keys override it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Strategies", default, deny_unknown_fields)]
struct StrategiesFile {
    /// A named set of strategies, `baseline` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
    /// How planned days are divided among the live holders.
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarding: Option<Forwarding>,
    /// How many rows a chunk has.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunking: Option<Chunking>,
    /// When a team may exceed its slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    fairness: Option<Fairness>,
    /// Rows of a chunk under fixed chunking.
    #[schemars(range(min = 1, max = 1_000_000))]
    chunk_size: u32,
    /// Whether a second holder is asked before the first has failed.
    hedging: Hedging,
}

impl Default for StrategiesFile {
    fn default() -> Self {
        StrategiesFile {
            profile: None,
            forwarding: None,
            chunking: None,
            fairness: None,
            chunk_size: super::DEFAULT_CHUNK_SIZE,
            hedging: Hedging::Off,
        }
    }
}

impl From<&Process> for ProcessFile {
    fn from(process: &Process) -> Self {
        ProcessFile {
            id: process.id.to_string(),
            role: process.role,
            team: process.team.clone(),
            host: process.host.clone(),
            port: process.port,
            neighbors: process.neighbours.iter().map(|id| id.to_string()).collect(),
            weight: process.weight,
        }
    }
}

impl From<&Team> for TeamFile {
    fn from(team: &Team) -> Self {
        TeamFile {
            name: team.name.clone(),
            first_day: team.days.start.to_string(),
            last_day: team.days.last().unwrap_or(team.days.start).to_string(),
            weight: team.weight,
        }
    }
}

fn day_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "integer"], "pattern": "^[0-9]{8}$", "minimum": 10101, "maximum": 99991231 })
}

fn one() -> f64 {
    1.0
}

fn is_one(weight: &f64) -> bool {
    *weight == 1.0
}
