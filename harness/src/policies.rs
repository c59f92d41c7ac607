//! The policy laboratory: one workload under several ways of sharing a node, in virtual time, side by side.
//!
//! [`Policy::Strict`], [`Policy::Weighted`] and [`Policy::Hybrid`] are the node's own: its query admission and its compute
//! slots, driven by tasks under a paused clock ([`real`]). [`Policy::Fifo`] and [`Policy::RoundRobin`] are what one would
//! write first ([`baseline`]): they stand here to be compared with, and know no limits, weights or pieces.
//!
//! All of them read the same rows at the same speed, so only order and waiting differ. There is no network and no
//! clock but the virtual one: equal workloads give equal bytes.
//!
//! Reading order: [`workload`] (what comes when), [`real`], [`baseline`], [`figures`] (what is said about a run).

pub mod baseline;
pub mod figures;
mod page;
pub mod real;
pub mod workload;

use std::collections::BTreeMap;

use serde::Serialize;

pub use figures::{Comparison, Figures};
pub use workload::{Arrival, Generated, NodeModel, Workload, WorkloadError};

/// A way of sharing a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The node's: a team never exceeds its slots.
    Strict,
    /// The node's: a team may exceed them while the others leave room.
    Weighted,
    /// The node's: strict under load, weighted below.
    Hybrid,
    /// Whole queries in the order of their arrival.
    Fifo,
    /// Whole queries, one of each client in turn, whatever they cost.
    RoundRobin,
}

impl Policy {
    /// All, in the order of a comparison.
    pub const ALL: [Policy; 5] =
        [Policy::Strict, Policy::Weighted, Policy::Hybrid, Policy::Fifo, Policy::RoundRobin];

    /// As tables and JSON write it.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Strict => "strict",
            Policy::Weighted => "weighted",
            Policy::Hybrid => "hybrid",
            Policy::Fifo => "fifo",
            Policy::RoundRobin => "round_robin",
        }
    }

    /// Runs the workload to its end.
    pub fn run(self, workload: &Workload) -> Run {
        use overlay::config::Fairness;
        match self {
            Policy::Strict => real::run(self, Fairness::Strict, workload),
            Policy::Weighted => real::run(self, Fairness::Weighted, workload),
            Policy::Hybrid => real::run(self, Fairness::Hybrid, workload),
            Policy::Fifo => baseline::run(self, baseline::Fifo::default(), workload),
            Policy::RoundRobin => baseline::run(self, baseline::RoundRobin::default(), workload),
        }
    }
}

/// What became of a workload under one policy.
#[derive(Clone, Debug)]
pub struct Run {
    /// The policy.
    pub policy: Policy,
    /// One for each arrival, in the workload's order.
    pub queries: Vec<Outcome>,
    /// Every stretch of computing, in the order of its end.
    pub served: Vec<Served>,
}

/// What became of one arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All its rows were read. Milliseconds since the workload began.
    Answered {
        /// When its first row was read.
        started_ms: u64,
        /// When its last row was read.
        ended_ms: u64,
    },
    /// The queue was full.
    Refused,
}

/// Rows that one slot read for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whose.
    pub client: String,
    /// Of which team.
    pub team: String,
    /// From when; milliseconds since the workload began.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
    /// How many.
    pub rows: u64,
}

/// Runs a workload under every policy.
pub fn compare(workload: &Workload) -> Comparison {
    Comparison::new(workload, &Policy::ALL.map(|policy| policy.run(workload)))
}

/// Rows by client that a run had read at a moment, stretches under way in part.
fn served_until(run: &Run, ms: f64) -> BTreeMap<&str, f64> {
    let mut rows = BTreeMap::new();
    for served in &run.served {
        let (from, until) = (served.from_ms as f64, served.until_ms as f64);
        let part = ((ms - from) / (until - from)).clamp(0.0, 1.0);
        *rows.entry(served.client.as_str()).or_default() += served.rows as f64 * part;
    }
    rows
}
