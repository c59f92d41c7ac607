//! `overlay-harness failover`: what clients see while nodes die and edges are cut.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::load::run_time;
use super::output::{check_paths, publish};
use crate::failover::{Plan, node_binary};
use crate::report::Origin;

/// The nodes are processes of their own, at free ports on loopback; edges are cut between network namespaces.
#[derive(Args)]
#[command(after_help = "\
Each trial goes on for --trial; then the fault ends, and the next one begins when the leader has found everybody. \
Caches of the leader are off, so that every call needs the nodes behind it.

The columns: days that no way led to; queries and chunks; answers right to the last byte; answers that said which days \
they lack; errors that named the days; other errors; wrong answers; the slowest call; from the fault to the end of the \
last call that failed, or took twice as long as the slowest one without a fault; from the fault's end until the leader \
had found everybody.

Exit codes: 0 as promised; 1 a wrong answer, or a refusal though a way was left; 2 the arguments are not understood.")]
pub(super) struct Failover {
    /// Folder of day folders
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
    /// Clients that drain results at the same time
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Milliseconds that each waits between two chunks
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pause: u64,
    /// How long each fault goes on, such as 10s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = run_time)]
    trial: Duration,
    /// File for the table, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Failover {
    /// Makes all trials, and prints each as it ends and the table.
    pub(super) fn run(self) -> Result<(), Failure> {
        check_paths(&self.dataset_root, self.output.as_deref())?;
        let plan = Plan {
            binary: node_binary()?,
            dataset_root: self.dataset_root,
            clients: self.clients,
            pause: Duration::from_millis(self.pause),
            trial: self.trial,
        };
        let runtime = tokio::runtime::Runtime::new()?;
        let table = runtime.block_on(plan.run(|row| {
            let verdict = if row.as_promised { "as promised" } else { "NOT AS PROMISED" };
            eprintln!("{}: {} right, {verdict}", row.fault, row.right);
        }))?;
        publish(&table, &Origin::measured(), self.output.as_deref())?;
        match table.is_as_promised() {
            true => Ok(()),
            false => Err("some trials were not as promised".into()),
        }
    }
}
