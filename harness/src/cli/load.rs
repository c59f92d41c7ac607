//! `overlay-harness load`: asks a node many queries and measures its answers.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::load::{DEFAULT_QUERY_PARAMS, LoadPlan};

/// Every option left out has the value that the old benchmark had.
#[derive(Args)]
#[command(after_help = "\
Examples:
  overlay-harness load --requests 200 --users 20 --output benchmark_results.json
  overlay-harness load --host http://192.168.1.2:60051 --all-chunks

A request is one Query of the OverlayNode contract and its first chunk, and its latency runs from one
to the other; with --all-chunks it runs to the last chunk. Every answer is compared with the first.
All users ask the same query, so a node that caches answers shows its cache.

Exit codes: 0 every request had its right answer; 1 failed; 2 the arguments are not understood.")]
pub(super) struct Load {
    /// The node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:60051")]
    host: String,
    /// Requests of all users together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    requests: u64,
    /// Users, each asking its next query when the last one is answered
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: u32,
    /// File for the results, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The filter
    #[arg(long, value_name = "JSON", default_value = DEFAULT_QUERY_PARAMS)]
    query_params: String,
    /// Read every chunk of each result, not only the first
    #[arg(long)]
    all_chunks: bool,
    /// Seconds that each call may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Seconds that the node may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

impl Load {
    /// Runs the load, prints and writes the results.
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let plan = LoadPlan {
            host: self.host,
            requests: self.requests,
            users: self.users,
            query_params: self.query_params,
            all_chunks: self.all_chunks,
            timeout: Duration::from_secs(self.timeout),
            wait: Duration::from_secs(self.wait),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let results = runtime.block_on(plan.run())?;
        print!("{results}");
        if let Some(path) = self.output {
            let text = serde_json::to_string_pretty(&results)? + "\n";
            fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            println!("\nwritten to {}", path.display());
        }
        match results.failed_requests {
            0 => Ok(()),
            failed => Err(format!("{failed} of {} requests failed", results.total_requests).into()),
        }
    }
}
