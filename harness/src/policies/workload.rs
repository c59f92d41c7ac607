//! What comes when: a workload as a file, and the generated ones.
//!
//! A recorded workload is a JSON object: the model of the node, weights, and arrivals in the order of time.
//!
//! ```json
//! {
//!   "name": "two clients",
//!   "node": {"max_active": 4, "compute_slots": 1},
//!   "weights": {"clients": {"analyst": 2}},
//!   "arrivals": [
//!     {"at_ms": 0, "client": "analyst", "rows": {"green": 200000, "pink": 50000}},
//!     {"at_ms": 3, "client": "crawler", "rows": {"green": 5000000}}
//!   ]
//! }
//! ```

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Arrivals at a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// What tables call it.
    pub name: String,
    /// The node that they come to.
    #[serde(default)]
    pub node: NodeModel,
    /// Shares; who is not named has weight 1.
    #[serde(default)]
    pub weights: WorkloadWeights,
    /// In the order of time.
    pub arrivals: Vec<Arrival>,
}

/// A node as far as sharing it goes; the keys are those of its configuration, but for the speed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeModel {
    /// Queries that run at a time.
    pub max_active: usize,
    /// Running queries that touch a team.
    pub per_team_limit: usize,
    /// Queries that wait at a time.
    pub queue_length: usize,
    /// Times that a query is passed over before it reserves its slots.
    pub max_bypass: u32,
    /// Pieces that are read at a time.
    pub compute_slots: usize,
    /// Rows of a piece.
    pub quantum_rows: u64,
    /// Rows that one slot reads in a millisecond.
    pub rows_per_ms: u64,
}

impl Default for NodeModel {
    /// A small node that reads slowly, so that a workload of some hundred queries fills it.
    fn default() -> Self {
        NodeModel {
            max_active: 8,
            per_team_limit: 5,
            queue_length: 1000,
            max_bypass: 16,
            compute_slots: 2,
            quantum_rows: 65_536,
            rows_per_ms: 1_000,
        }
    }
}

/// Shares of teams and clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadWeights {
    /// By team.
    pub teams: BTreeMap<String, f64>,
    /// By client.
    pub clients: BTreeMap<String, f64>,
}

/// A query that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    /// Milliseconds since the workload began.
    pub at_ms: u64,
    /// Who asks.
    pub client: String,
    /// Rows to read, by team.
    pub rows: BTreeMap<String, u64>,
}

/// Why a file is no workload.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Not the JSON described above.
    #[error("workload is malformed: {0}")]
    Malformed(serde_json::Error),
    /// Well formed, but it makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Workload {
    /// Reads a workload from JSON text.
    ///
    /// # Errors
    /// [`WorkloadError`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, WorkloadError> {
        let workload: Workload = serde_json::from_str(text).map_err(WorkloadError::Malformed)?;
        workload.check()?;
        Ok(workload)
    }

    fn check(&self) -> Result<(), WorkloadError> {
        let invalid = |what: String| Err(WorkloadError::Invalid(what));
        let NodeModel { max_active, per_team_limit, compute_slots, quantum_rows, rows_per_ms, .. } =
            self.node;
        let counts = [
            ("max_active", max_active as u64),
            ("per_team_limit", per_team_limit as u64),
            ("compute_slots", compute_slots as u64),
            ("quantum_rows", quantum_rows),
            ("rows_per_ms", rows_per_ms),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return invalid(format!("node.{key} 0 out of range: must be at least 1"));
        }
        let mut weights = self.weights.teams.iter().chain(&self.weights.clients);
        if let Some((name, weight)) = weights.find(|(_, weight)| !(0.001..=1000.0).contains(*weight)) {
            return invalid(format!(
                "weight {weight} of `{name}` out of range: must be between 0.001 and 1000"
            ));
        }
        if self.arrivals.is_empty() {
            return invalid("the workload has no arrivals".to_owned());
        }
        for (index, arrival) in self.arrivals.iter().enumerate() {
            if arrival.rows.values().sum::<u64>() == 0 {
                return invalid(format!("arrivals[{index}] reads no rows"));
            }
        }
        match self.arrivals.windows(2).position(|pair| pair[0].at_ms > pair[1].at_ms) {
            Some(index) => invalid(format!("arrivals[{}] comes before the one that precedes it", index + 1)),
            None => Ok(()),
        }
    }
}

impl Arrival {
    /// Rows of all teams.
    pub fn total_rows(&self) -> u64 {
        self.rows.values().sum()
    }

    /// The pieces that its rows are read in, team after team.
    pub fn pieces(&self, quantum_rows: u64) -> impl Iterator<Item = (&str, u64)> {
        self.rows.iter().flat_map(move |(team, rows)| {
            let starts = (0..*rows).step_by(quantum_rows as usize);
            starts.map(move |start| (team.as_str(), quantum_rows.min(rows - start)))
        })
    }
}

impl NodeModel {
    /// How long a slot takes to read a piece, in whole milliseconds.
    pub fn piece_ms(&self, rows: u64) -> u64 {
        rows.div_ceil(self.rows_per_ms)
    }

    /// How long a query takes that has a slot to itself.
    pub fn alone_ms(&self, arrival: &Arrival) -> u64 {
        arrival.pieces(self.quantum_rows).map(|(_, rows)| self.piece_ms(rows)).sum()
    }
}

/// Workloads that need no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Four clients ask small queries at leisure, a fifth asks large ones as fast as it can
    Flood,
    /// Most queries are for green; some are for pink or for both
    Lopsided,
    /// Six clients that ask more or less, queries of all sizes, one client with thrice the weight
    Mixed,
}

impl Generated {
    /// The workload. Equal seeds give equal ones.
    pub fn workload(self, seed: u64) -> Workload {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut workload = Workload {
            name: self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
            node: NodeModel::default(),
            weights: WorkloadWeights::default(),
            arrivals: Vec::new(),
        };
        match self {
            Generated::Flood => flood(&mut rng, &mut workload.arrivals),
            Generated::Lopsided => lopsided(&mut rng, &mut workload.arrivals),
            Generated::Mixed => {
                workload.weights.clients.insert("client3".to_owned(), 3.0);
                mixed(&mut rng, &mut workload.arrivals);
            }
        }
        workload.arrivals.sort_by_key(|arrival| arrival.at_ms);
        workload
    }
}

const GREEN: &[&str] = &["green"];
const PINK: &[&str] = &["pink"];
const BOTH: &[&str] = &["green", "pink"];

/// `total` rows, divided evenly among the teams.
fn arrival(at_ms: u64, client: impl Into<String>, teams: &[&str], total: u64) -> Arrival {
    let rows = teams.iter().map(|team| (team.to_string(), total / teams.len() as u64)).collect();
    Arrival { at_ms, client: client.into(), rows }
}

fn any_teams(rng: &mut fastrand::Rng) -> &'static [&'static str] {
    [GREEN, PINK, BOTH][rng.usize(..3)]
}

fn flood(rng: &mut fastrand::Rng, arrivals: &mut Vec<Arrival>) {
    for number in 0..100 {
        arrivals.push(arrival(number * 20, "flood", any_teams(rng), rng.u64(400_000..600_000)));
    }
    for client in 0..4 {
        for number in 0..25 {
            let at_ms = number * 400 + rng.u64(..400);
            arrivals.push(arrival(at_ms, format!("client{client}"), any_teams(rng), rng.u64(20_000..60_000)));
        }
    }
}

fn lopsided(rng: &mut fastrand::Rng, arrivals: &mut Vec<Arrival>) {
    for number in 0..200 {
        let teams = [GREEN, GREEN, GREEN, GREEN, GREEN, GREEN, PINK, BOTH][rng.usize(..8)];
        let client = format!("client{}", rng.usize(..4));
        arrivals.push(arrival(number * 50 + rng.u64(..50), client, teams, rng.u64(50_000..200_000)));
    }
}

fn mixed(rng: &mut fastrand::Rng, arrivals: &mut Vec<Arrival>) {
    for number in 0..240 {
        // The lower its number, the more a client asks.
        let client = format!("client{}", rng.usize(..6).min(rng.usize(..6)));
        // From 8,192 to a million rows, each doubling as likely as the next one.
        let rows = 8_192 << rng.u32(..7);
        arrivals.push(arrival(number * 40 + rng.u64(..40), client, any_teams(rng), rows + rng.u64(..rows)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_workloads_come_back_from_their_json() {
        for generated in Generated::value_variants() {
            let workload = generated.workload(7);
            let text = serde_json::to_string(&workload).unwrap();
            assert_eq!(Workload::parse(&text).unwrap(), workload);
            assert_eq!(generated.workload(7), workload);
            assert_ne!(generated.workload(8), workload);
        }
    }

    #[test]
    fn mistake_in_a_file_is_named() {
        let error = |text: &str| Workload::parse(text).unwrap_err().to_string();
        assert_eq!(error(r#"{"name": "x", "arrivals": []}"#), "the workload has no arrivals");
        let one = r#"{"at_ms": 5, "client": "a", "rows": {"green": 1}}"#;
        let two = r#"{"at_ms": 4, "client": "a", "rows": {"green": 1}}"#;
        let backwards = format!(r#"{{"name": "x", "arrivals": [{one}, {two}]}}"#);
        assert_eq!(error(&backwards), "arrivals[1] comes before the one that precedes it");
        let slow = format!(r#"{{"name": "x", "node": {{"rows_per_ms": 0}}, "arrivals": [{one}]}}"#);
        assert_eq!(error(&slow), "node.rows_per_ms 0 out of range: must be at least 1");
        let light =
            format!(r#"{{"name": "x", "weights": {{"teams": {{"green": 0}}}}, "arrivals": [{one}]}}"#);
        assert_eq!(error(&light), "weight 0 of `green` out of range: must be between 0.001 and 1000");
        assert!(error(r#"{"name": "x", "arivals": []}"#).starts_with("workload is malformed: unknown field"));
    }

    #[test]
    fn pieces_are_whole_quanta_and_a_rest_for_each_team() {
        let arrival = Arrival {
            at_ms: 0,
            client: "a".to_owned(),
            rows: [("green".to_owned(), 250), ("pink".to_owned(), 100)].into(),
        };
        let pieces: Vec<_> = arrival.pieces(100).collect();
        assert_eq!(pieces, [("green", 100), ("green", 100), ("green", 50), ("pink", 100)]);
    }
}
