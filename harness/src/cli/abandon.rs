//! `overlay-harness abandon`: clients that open a query and vanish.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::load::run_time;
use super::output::{check_paths, publish};
use crate::abandon::Plan;
use crate::failover::node_binary;
use crate::report::Origin;

/// The nodes are processes of their own, at free ports on loopback, with leases of five seconds.
#[derive(Args)]
#[command(after_help = "\
Rounds without and with clients that vanish alternate: while they wait for an answer, with a result that they never read, \
after a chunk, or in the middle of one. After each round every node is asked what it holds.

Exit codes: 0 nothing is held within a lease, and live clients keep four fifths of their throughput; 1 otherwise; 2 the arguments \
are not understood.")]
pub(super) struct Abandon {
    /// Folder of day folders
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
    /// Clients that vanish in a round
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    vanishing: u64,
    /// Clients that stay
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    live: u16,
    /// How long a round goes on
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = run_time)]
    lasts: Duration,
    /// Rounds of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// File for the report, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Abandon {
    /// Makes all rounds, and prints each as it ends.
    pub(super) fn run(self) -> Result<(), Failure> {
        check_paths(&self.dataset_root, self.output.as_deref())?;
        let plan = Plan {
            binary: node_binary()?,
            dataset_root: self.dataset_root,
            vanishing: self.vanishing,
            live: self.live.into(),
            lasts: self.lasts,
            rounds: self.rounds.into(),
        };
        let report = tokio::runtime::Runtime::new()?.block_on(plan.run(|round| eprintln!("{round}")))?;
        publish(&report, &Origin::measured(), self.output.as_deref())?;
        match report.holds() {
            true => Ok(()),
            false => Err("something was left behind, or live clients were slowed down".into()),
        }
    }
}
