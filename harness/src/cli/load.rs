//! `overlay-harness load`: users that ask a running node, check its answers and measure it.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use overlay::config::Overlay;
use overlay::security::Security;

use super::Failure;
use super::output::{check_folder, write_file};
use crate::load::{
    DEFAULT_QUERY_PARAMS, LoadPlan, LoadResults, Mix, ObservedNode, Schedule, Threshold, Work,
};

/// Longest run: of each second a line is kept.
const MAX_RUN_TIME: Duration = Duration::from_secs(24 * 3600);

/// With neither a mix, nor a run time, nor a rate, every option has the value that the old benchmark had.
#[derive(Args)]
#[command(after_help = "\
Examples:
  overlay-harness load --requests 200 --users 20 --output benchmark_results.json
  overlay-harness load --users 20 --run-time 60s --mix baseline --report load.html
  overlay-harness load --rate 500/s --run-time 30s --threshold 'p99<500ms' --threshold 'error-rate<1%'

The benchmark makes so many requests, all of the same query of the OverlayNode contract; a request is one \
Query and its first chunk, with --all-chunks every chunk.

With --run-time, users go through a mix of transactions, each asking again when it has its answer. With --rate, \
transactions arrive at equal intervals however slow the node is, and latency counts from when each was due.

Every answer is checked: ledgers and frames always, counts and rows against the first answer to the same \
question. A rejection is backed off and counted apart. Thresholds are METRIC OP VALUE [for NAME]: pNN, avg, max, \
error-rate, rps; < <= > >=; NAME is a transaction, or GRPC and an RPC.

Exit codes: 0 passed; 1 failed: a wrong answer, a threshold, or without thresholds any request that failed or \
was dropped; 2 the arguments, or the files that they name, are not \
understood.")]
pub(super) struct Load {
    /// The node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:60051", value_parser = host)]
    host: String,
    /// Users, each with a connection
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: u32,
    /// Run the benchmark: requests of all users together [default: 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000), conflicts_with_all = ["run_time", "mix", "rate"])]
    requests: Option<u64>,
    /// The filter of the benchmark
    #[arg(long, value_name = "JSON", default_value = DEFAULT_QUERY_PARAMS, conflicts_with_all = ["run_time", "mix", "rate"])]
    query_params: String,
    /// Read every chunk of each result of the benchmark, not only the first
    #[arg(long, conflicts_with_all = ["run_time", "mix", "rate"])]
    all_chunks: bool,
    /// How long to run a mix, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = run_time)]
    run_time: Option<Duration>,
    /// What users ask for
    #[arg(long, value_enum, requires = "run_time")]
    mix: Option<Mix>,
    /// Open loop: arrivals in a second, such as 500/s
    #[arg(long, value_name = "N/s", value_parser = rate, requires = "run_time")]
    rate: Option<NonZeroU32>,
    /// Open loop: requests in flight at once; what arrives beyond is dropped and counted
    #[arg(long, value_name = "N", default_value = "1000", requires = "rate")]
    max_in_flight: NonZeroU32,
    /// Open loop: decides which transaction is due when
    #[arg(long, value_name = "N", default_value_t = 1, requires = "rate")]
    seed: u64,
    /// Rule that must hold, such as 'p99<500ms for GRPC Query'; may be given again
    #[arg(long, value_name = "RULE")]
    threshold: Vec<Threshold>,
    /// Configuration whose other nodes are asked for their metrics before and after
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who signs the nodes' certificates, PEM; without it connections are not encrypted
    #[arg(long, value_name = "FILE", env = "OVERLAY_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// File with the token to send
    #[arg(long, value_name = "FILE", env = "OVERLAY_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// File for the results, JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// File for the report with plots, HTML; goose's own reports of a closed loop stand beside it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Seconds that each call may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Seconds that the node may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

impl Load {
    /// Runs the load, prints and writes the results.
    pub(super) fn run(self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let results = runtime.block_on(plan.run())?;
        let written = self.write(&results)?;
        // Who reads no further, as `head` does, misses words, and neither files nor exit code.
        let _ = write!(std::io::stdout(), "{results}{written}");
        Ok(results.verdict()?)
    }

    fn plan(&self) -> Result<LoadPlan, Failure> {
        let work = self.work();
        for file in self.output.iter().chain(&self.report) {
            check_folder(file)?;
        }
        for threshold in &self.threshold {
            threshold.check_name(&work).map_err(Failure::usage)?;
        }
        let goose_reports = match (&self.report, &work) {
            (None, _) | (_, Work::Open { .. }) => Vec::new(),
            (Some(report), _) => {
                vec![report.with_extension("goose.html"), report.with_extension("goose.json")]
            }
        };
        Ok(LoadPlan {
            host: self.host()?,
            work,
            users: self.users,
            timeout: Duration::from_secs(self.timeout),
            wait: Duration::from_secs(self.wait),
            thresholds: self.threshold.clone(),
            observed: self.config.as_deref().map_or(Ok(Vec::new()), observed)?,
            security: Security::of_client(self.ca.as_deref(), self.token_file.as_deref())
                .map_err(Failure::usage)?,
            goose_reports,
        })
    }

    /// The node, with the scheme that it is asked by.
    fn host(&self) -> Result<String, Failure> {
        let (scheme, address) = self.host.split_once("://").unwrap_or(("http", &*self.host));
        match (&self.ca, scheme) {
            (Some(_), _) => Ok(format!("https://{address}")),
            (None, "https") => {
                Err(Failure::usage(format!("{} is asked by TLS: give its CA with --ca FILE", self.host)))
            }
            (None, _) => Ok(self.host.clone()),
        }
    }

    fn work(&self) -> Work {
        let mix = self.mix.unwrap_or(Mix::Baseline);
        match (self.run_time, self.rate) {
            (Some(run_time), Some(rate)) => {
                let schedule = Schedule { rate, run_time, max_in_flight: self.max_in_flight };
                Work::Open { mix, schedule, seed: self.seed }
            }
            (Some(run_time), None) => Work::Closed { mix, run_time },
            (None, _) => Work::Benchmark {
                requests: self.requests.unwrap_or(200),
                query_params: self.query_params.clone(),
                all_chunks: self.all_chunks,
            },
        }
    }

    /// Writes the files, and tells which.
    fn write(&self, results: &LoadResults) -> Result<String, Failure> {
        let mut written = String::new();
        if let Some(path) = &self.output {
            written += &write_file(path, &(serde_json::to_string_pretty(results)? + "\n"))?;
        }
        if let Some(path) = &self.report {
            written += &write_file(path, &results.page().to_string())?;
        }
        Ok(written)
    }
}

fn observed(config: &Path) -> Result<Vec<ObservedNode>, Failure> {
    let overlay = Overlay::read(config).map_err(Failure::usage)?.overlay;
    let node = |process: &overlay::config::Process| ObservedNode {
        id: process.id.to_string(),
        address: process.address(),
    };
    Ok(overlay.processes.values().map(node).collect())
}

fn host(text: &str) -> Result<String, String> {
    let plan = LoadPlan { host: text.to_owned(), ..LoadPlan::default() };
    plan.endpoint()
        .map(|_| plan.host)
        .map_err(|_| "expected http://HOST:PORT or https://HOST:PORT".to_owned())
}

/// A whole number of seconds or minutes.
pub(super) fn run_time(text: &str) -> Result<Duration, String> {
    let (number, factor) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(seconds), _) => (seconds, 1),
        (None, Some(minutes)) => (minutes, 60),
        (None, None) => (text, 1),
    };
    let seconds =
        number.parse::<u64>().map_err(|_| "expected seconds or minutes, such as 30s or 5m".to_owned())?;
    let run_time = Duration::from_secs(seconds.saturating_mul(factor));
    match run_time {
        Duration::ZERO => Err("nothing happens in no time: at least 1s".to_owned()),
        _ if run_time > MAX_RUN_TIME => Err("at most 1440m".to_owned()),
        _ => Ok(run_time),
    }
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate =
        number.parse::<u32>().map_err(|_| "expected arrivals in a second, such as 500/s".to_owned())?;
    match NonZeroU32::new(rate) {
        None => Err("at a rate of 0 nothing arrives: at least 1/s".to_owned()),
        Some(rate) if rate.get() > 100_000 => Err("at most 100000/s".to_owned()),
        Some(rate) => Ok(rate),
    }
}
