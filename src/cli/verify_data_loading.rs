//! `overlay verify-data-loading`: does every row of a dataset get loaded, each where it belongs?
//!
//! Offline it reads the disk as every process of a configuration would (`disk`, `proof`) and checks that
//! what they load tiles the dataset (`checks`). With `--live` it asks the running nodes what they hold
//! (`live`) and compares their `frames`. What it found is shown as text or as JSON (`report`).

mod checks;
mod disk;
mod frames;
mod live;
mod proof;
mod report;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, dataset_root, no_dataset, read_overlay, runtime};
use crate::day::Day;

/// Check that the processes of a configuration load every row of a dataset, each where it belongs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay verify-data-loading configs/one_host_config.json --dataset-root DIR
  overlay verify-data-loading configs/one_host_config.json --dataset-root DIR --format json
  overlay verify-data-loading configs/one_host_config.json --live
  overlay verify-data-loading configs/one_host_config.json --live --dataset-root DIR

Exits 0 only when everything holds. 3: a row that does not parse, a file that cannot be read, has no \
row, is there twice or lies outside a day folder, a row that nobody loads, no row at all, a node that is \
down or holds something else. A planned day that is not on disk is normal.")]
pub(crate) struct VerifyDataLoading {
    /// The configuration
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Where the day folders are (default: dataset_root of the configuration; with --live: none)
    #[arg(long, value_name = "DIR")]
    dataset_root: Option<PathBuf>,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Ask the running nodes, and compare them with each other and with --dataset-root
    #[arg(long)]
    live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Tables and one line for each check
    Text,
    /// One object
    Json,
}

/// One thing that has to hold.
struct Check {
    /// For machines; never changes.
    name: &'static str,
    /// What holds if nothing was found.
    claim: String,
    /// `None`: nobody was there to ask.
    findings: Option<Vec<Finding>>,
}

/// One thing that does not hold.
#[derive(Default)]
struct Finding {
    message: String,
    day: Option<Day>,
    /// The file and, where there is one, the line.
    at: Option<(PathBuf, Option<u64>)>,
    /// The nodes that it concerns.
    nodes: Vec<String>,
}

impl VerifyDataLoading {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let overlay = read_overlay(&self.config, None)?;
        let root = match self.live {
            true => self.dataset_root,
            false => dataset_root(self.dataset_root, &overlay),
        };
        if root.is_none() && !self.live {
            let error = format!("{} names no dataset root", self.config.display());
            return Err(Failure::usage(error, "give --dataset-root DIR, or ask running nodes with --live"));
        }
        let disk = root.as_deref().map(disk::read).transpose().map_err(no_dataset)?;
        let proof = disk.as_ref().map(|disk| proof::prove(&overlay, disk));
        let live = match self.live {
            true => Some(runtime()?.block_on(live::ask(&overlay, disk.as_ref()))),
            false => None,
        };
        let report = report::Report { config: &self.config, root: root.as_deref(), proof, live };
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Text => report.write_text(&mut out)?,
            Format::Json => writeln!(out, "{:#}", report.to_json())?,
        }
        match report.checks().all(Check::holds) {
            true => Ok(()),
            false => Err(Failure::CheckFailed),
        }
    }
}

impl Check {
    fn holds(&self) -> bool {
        self.findings.as_ref().is_some_and(Vec::is_empty)
    }

    /// The claim without what was counted.
    fn sentence(&self) -> &str {
        self.claim.split_once(": ").map_or(&self.claim, |(sentence, _)| sentence)
    }

    fn to_json(&self) -> Value {
        json!({
            "check": self.name,
            "ok": self.holds(),
            "checked": self.findings.is_some(),
            "claim": self.claim,
            "findings": self.findings.iter().flatten().map(Finding::to_json).collect::<Value>(),
        })
    }
}

impl Finding {
    fn to_json(&self) -> Value {
        json!({
            "message": self.message,
            "day": self.day.map(Day::number),
            "file": self.at.as_ref().map(|(file, _)| file.display().to_string()),
            "line": self.at.as_ref().and_then(|(_, line)| *line),
            "nodes": self.nodes,
        })
    }
}
