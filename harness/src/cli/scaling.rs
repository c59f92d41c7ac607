//! `overlay-harness scaling`: how costs grow with rows, and with nodes.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Failure;
use super::output::{check_folder, publish, write_file};
use crate::failover::node_binary;
use crate::report::{Origin, Page};
use crate::scaling::{nodes, rows};

#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 every cost grows as is claimed, or less; 1 otherwise; 2 the arguments are not understood.")]
pub(super) struct Scaling {
    #[command(subcommand)]
    against: Against,
    /// File for the report with every figure, JSON
    #[arg(long, global = true, value_name = "FILE")]
    output: Option<PathBuf>,
    /// File for the report with plots, HTML
    #[arg(long, global = true, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Against {
    /// Time and memory of six processes against the rows that they hold
    ///
    /// Generated days, which take about 160 bytes a row on disk until the end: 8 GB at 50,000,000 rows. Each step has
    /// four times the days of the one before; the last one has the days of the first, with four times the rows each.
    Rows(Rows),
    /// Messages and the leader's memory against the nodes of an overlay, simulated
    Nodes(Nodes),
}

#[derive(Args)]
struct Rows {
    /// Rows of the largest step
    #[arg(long, value_name = "ROWS", default_value_t = 50_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    most: u64,
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10))]
    steps: u32,
    /// Rounds of each step
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Folder where the data lie until the end [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct Nodes {
    /// Nodes of each overlay
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000", value_parser = clap::value_parser!(u16).range(4..=3000))]
    nodes: Vec<u16>,
    /// Decides what the simulated network does
    #[arg(long, default_value_t = 2020)]
    seed: u64,
}

impl Scaling {
    /// Measures all sizes, and prints the tables.
    pub(super) fn run(self) -> Result<(), Failure> {
        for path in self.output.iter().chain(&self.report) {
            check_folder(path)?;
        }
        let progress = |line: &str| eprintln!("{line}");
        match &self.against {
            Against::Rows(rows) => {
                let plan = rows.plan()?;
                let gb = (plan.most_rows * rows::BYTES_ON_DISK) as f64 / 1e9;
                eprintln!("the data take about {gb:.1} GB on disk until the end");
                let report = tokio::runtime::Runtime::new()?.block_on(plan.run(progress))?;
                self.publish(&report, &Origin::measured(), report.page(), report.holds())
            }
            Against::Nodes(Nodes { nodes, seed }) => {
                let nodes = nodes.iter().copied().map(usize::from).collect();
                let report = nodes::Plan { nodes, seed: *seed }.run(progress)?;
                let origin = Origin { seed: Some(*seed), ..Origin::measured() };
                self.publish(&report, &origin, report.page(), report.holds())
            }
        }
    }

    fn publish(
        &self,
        report: &(impl std::fmt::Display + Serialize),
        origin: &Origin,
        mut page: Page,
        holds: bool,
    ) -> Result<(), Failure> {
        publish(report, origin, self.output.as_deref())?;
        page.paragraph(&format!("Measured with {origin}."));
        if let Some(path) = &self.report {
            print!("{}", write_file(path, &page.to_string())?);
        }
        match holds {
            true => Ok(()),
            false => Err("a cost grows faster than is claimed".into()),
        }
    }
}

impl Rows {
    fn plan(&self) -> Result<rows::Plan, Failure> {
        if let Some(dir) = self.dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(Failure::usage(format!("`{}` is not a folder that exists", dir.display())));
        }
        Ok(rows::Plan {
            binary: node_binary()?,
            place: self.dir.clone(),
            sites: rows::SITES,
            most_rows: self.most,
            steps: self.steps,
            rounds: self.rounds.into(),
        })
    }
}
