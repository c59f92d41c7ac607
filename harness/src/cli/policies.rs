//! `overlay-harness policies`: one workload under several ways of sharing a node.

use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Failure;
use super::output::write_file;
use crate::policies::{Generated, Workload, compare};

/// Every option left out gives the comparison that the snapshot test has.
#[derive(Args)]
#[command(after_help = "\
Examples:
  overlay-harness policies
  overlay-harness policies --workload lopsided --seed 7 --output policies.json --report policies.html
  overlay-harness policies --workload recorded.json

strict, weighted and hybrid are the node's own admission and compute slots in virtual time; fifo and \
round_robin run whole queries, in order of arrival or one of each client in turn. Slowdown is latency over \
what the query takes alone. Jain's index compares what clients got by the time half of the rows are read \
with what a server that divides itself gives them: 1 is perfectly fair. Equal workloads print equal bytes.

A recorded workload is a JSON object, times and sizes in milliseconds and rows:
  {\"name\": \"two clients\", \"node\": {\"max_active\": 4}, \"weights\": {\"clients\": {\"analyst\": 2}},
   \"arrivals\": [{\"at_ms\": 0, \"client\": \"analyst\", \"rows\": {\"green\": 200000, \"pink\": 50000}}]}")]
pub(super) struct Policies {
    /// A generated workload (flood, lopsided, mixed), or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "flood")]
    workload: String,
    /// Decides a generated workload
    #[arg(long, default_value_t = 2020)]
    seed: u64,
    /// File for the figures, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// File for the report with plots, HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Policies {
    /// Runs the workload under every policy, prints and writes the figures.
    pub(super) fn run(self) -> Result<(), Failure> {
        let (workload, seed) = self.workload()?;
        let mut comparison = compare(&workload);
        comparison.origin.seed = seed;
        print!("{comparison}");
        let json = serde_json::to_string_pretty(&comparison)? + "\n";
        for (path, text) in [(self.output, json), (self.report, comparison.page().to_string())] {
            if let Some(path) = path {
                print!("\n{}", write_file(&path, &text)?);
            }
        }
        Ok(())
    }

    /// The workload, and the seed that it was generated from.
    fn workload(&self) -> Result<(Workload, Option<u64>), Failure> {
        let name = &self.workload;
        if let Ok(generated) = Generated::from_str(name, false) {
            return Ok((generated.workload(self.seed), Some(self.seed)));
        }
        let text = fs::read_to_string(name).map_err(|error| {
            Failure::usage(format!(
                "`{name}` is no generated workload (flood, lopsided, mixed) and cannot be read: {error}"
            ))
        })?;
        let workload = Workload::parse(&text).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
        Ok((workload, None))
    }
}
