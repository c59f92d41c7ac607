//! `overlay-harness fairness`: light clients beside one that asks for everything.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::load::run_time;
use super::output::{check_paths, publish};
use crate::failover::node_binary;
use crate::fairness::{Heavy, Plan};
use crate::report::Origin;
use crate::rivals::Schedule;

/// The nodes are processes of their own, at free ports on loopback; nothing that is asked is in a cache.
#[derive(Args)]
#[command(after_help = "\
Each round measures the light clients alone, beside the flood, and beside it where everything is done in the order of \
arrival; latency counts from when a client meant to ask.

Exit codes: 0 light clients do five times better than under fifo, and none is refused; 1 otherwise; 2 the arguments are not \
understood.")]
pub(super) struct Fairness {
    /// Folder of day folders
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
    /// Light clients
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000))]
    light: u16,
    /// Milliseconds between two questions of a light client
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    every: u64,
    /// Connections of the flooding client
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// What it asks for
    #[arg(long, value_enum, default_value = "groups")]
    heavy: Heavy,
    /// How long each measurement goes on
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = run_time)]
    lasts: Duration,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// File for the report with every round, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Fairness {
    /// Measures all rounds, and prints the table.
    pub(super) fn run(self) -> Result<(), Failure> {
        check_paths(&self.dataset_root, self.output.as_deref())?;
        let plan = Plan {
            binary: node_binary()?,
            dataset_root: self.dataset_root,
            light: self.light.into(),
            schedule: Schedule { every: Duration::from_millis(self.every), lasts: self.lasts },
            connections: self.connections.into(),
            heavy: self.heavy,
            rounds: self.rounds.into(),
        };
        let report = tokio::runtime::Runtime::new()?.block_on(plan.run(|one| eprintln!("{one}")))?;
        publish(&report, &Origin::measured(), self.output.as_deref())?;
        match report.holds() {
            true => Ok(()),
            false => {
                Err("light clients are not served five times better than under fifo, or one was refused"
                    .into())
            }
        }
    }
}
