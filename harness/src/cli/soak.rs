//! `overlay-harness soak`: real processes, mixed load, random faults, for a long time.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::load::run_time;
use super::output::{check_paths, publish};
use crate::failover::node_binary;
use crate::report::Origin;
use crate::soak::Plan;

/// Nodes are killed, hang, and are told to stop, at random; the leader stays.
#[derive(Args)]
#[command(after_help = "\
Half of the clients drain results whose every byte is known; the others are users of the `hostile` mix of \
`overlay-harness load`. The report tells what they saw, and how memory and file descriptors of each process went: \
the medians of the second fifth of its life and of the last are compared.

Exit codes: 0 no wrong answer, and no process grew; 1 otherwise; 2 the arguments are not understood.")]
pub(super) struct Soak {
    /// Folder of day folders
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
    /// For how long, such as 30m
    #[arg(long = "for", value_name = "TIME", default_value = "30m", value_parser = run_time)]
    run_for: Duration,
    /// Clients, half of each kind
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=1000))]
    clients: u32,
    /// Milliseconds that a draining client waits between two chunks
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pause: u64,
    /// Decides what goes wrong; drawn if left out
    #[arg(long)]
    seed: Option<u64>,
    /// File for the report with every sample, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Soak {
    /// Runs to the end, tells each fault as it begins, and prints the report.
    pub(super) fn run(self) -> Result<(), Failure> {
        check_paths(&self.dataset_root, self.output.as_deref())?;
        let plan = Plan {
            binary: node_binary()?,
            dataset_root: self.dataset_root,
            clients: self.clients,
            pause: Duration::from_millis(self.pause),
            run_for: self.run_for,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
        };
        let report = tokio::runtime::Runtime::new()?.block_on(plan.run(|line| eprintln!("{line}")))?;
        publish(&report, &Origin::measured(), self.output.as_deref())?;
        match report.holds() {
            true => Ok(()),
            false => Err("an answer was wrong, or a process grew".into()),
        }
    }
}
