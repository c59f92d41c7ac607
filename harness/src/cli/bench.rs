//! `overlay-harness bench`: how fast the overlay is, beside what is possible.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::load::run_time;
use super::output::{check_folder, check_paths, publish, write_file};
use crate::bench::Plan;
use crate::failover::node_binary;
use crate::report::Origin;

/// The nodes are processes of their own, at free ports on loopback; nothing that is drained is in a cache.
#[derive(Args)]
#[command(after_help = "\
Each round measures everything once: the overlay, a bare server that answers with the same bytes, the same computing in one \
process, and with --peers DuckDB and Polars over the same files. scripts/compare_peers brings these two and runs this command. \
Before the first round all do it once untimed. The files must have no header lines, and no rows that loading rejects.

Exit codes: 0 measured, whatever the figures; 1 a measurement failed, or two did not find the same; 2 the arguments are not \
understood.")]
pub(super) struct Bench {
    /// Folder of day folders
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long each rate is measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = run_time)]
    lasts: Duration,
    /// A Python that has DuckDB and Polars
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// File for the report with every round, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// File for the report to look at
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Bench {
    /// Measures all rounds, and prints the table.
    pub(super) fn run(self) -> Result<(), Failure> {
        check_paths(&self.dataset_root, self.output.as_deref())?;
        self.html.as_deref().map_or(Ok(()), check_folder)?;
        let plan = Plan {
            binary: node_binary()?,
            dataset_root: self.dataset_root,
            rounds: self.rounds.into(),
            lasts: self.lasts,
            python: self.peers,
        };
        let report = tokio::runtime::Runtime::new()?.block_on(plan.run(|said| eprintln!("{said}")))?;
        publish(&report, &Origin::measured(), self.output.as_deref())?;
        if let Some(path) = &self.html {
            print!("{}", write_file(path, &report.page().to_string())?);
        }
        Ok(())
    }
}
