//! `overlay shutdown`: tells one node to stop, or every process of a configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::credentials::CredentialArgs;
use super::metrics::{self, NOT_REACHED};
use super::{DEFAULT_LEADER, Failure, read_overlay, runtime};
use crate::client::Client;
use crate::config::Process;
use crate::security::Security;

/// How long a node may take to say that it stops.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at whether a node has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tell a node to stop.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay shutdown
  overlay shutdown --leader 127.0.0.1:60053 --now
  overlay shutdown --all --config configs/one_host_config.json

A node takes this from loopback or from its own address only; where tokens are on, with one of role \
admin, from anywhere. Without --now it takes no query any more and finishes what runs within \
limits.grace_ms. With --all the leader goes first, those nearest to it next, each when those before \
it have ended, so that what runs still finds its data; their CA is the configuration's.")]
pub(crate) struct Shutdown {
    /// The node to stop
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_LEADER, conflicts_with = "all")]
    leader: String,
    /// Stop every process of the configuration
    #[arg(long)]
    all: bool,
    /// The configuration for --all
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json", requires = "all")]
    config: PathBuf,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Stop at once, whatever runs
    #[arg(long)]
    now: bool,
}

impl Shutdown {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        match self.all {
            true => runtime.block_on(stop_all(&self.config, &self.credentials, self.now)),
            false => {
                let answer = runtime.block_on(stop(&self.credentials.security()?, &self.leader, self.now));
                let answer = answer.map_err(|error| Failure::with_help(error, NOT_REACHED))?;
                Ok(writeln!(std::io::stdout(), "{}  {answer}", self.leader)?)
            }
        }
    }
}

async fn stop_all(config: &Path, credentials: &CredentialArgs, now: bool) -> Result<(), Failure> {
    let overlay = read_overlay(config, None)?;
    let security = &credentials.security_in(&overlay)?;
    let mut by_distance: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    for process in overlay.processes.values() {
        let distance = overlay.distance_from_leader(&process.id).unwrap_or(u32::MAX);
        by_distance.entry(if now { 0 } else { distance }).or_default().push(process);
    }
    let mut failed = 0;
    for processes in by_distance.values() {
        let answers = processes.iter().map(async |process| stop(security, &process.address(), now).await);
        let answers = futures::future::join_all(answers).await;
        let mut told = Vec::new();
        for (process, answer) in processes.iter().zip(answers) {
            let (id, address) = (&process.id, process.address());
            match answer {
                Ok(answer) => {
                    writeln!(std::io::stdout(), "{id}  {address}  {answer}")?;
                    told.push(address);
                }
                Err(error) => {
                    writeln!(std::io::stdout(), "{id}  {address}  FAILED: {error}")?;
                    failed += 1;
                }
            }
        }
        if !now {
            let until = Instant::now() + overlay.limits.grace();
            futures::future::join_all(told.iter().map(|address| ended(security, address, until))).await;
        }
    }
    match failed {
        0 => Ok(()),
        _ => {
            let error = format!("{failed} of {} nodes could not be told to stop", overlay.processes.len());
            Err(Failure::with_help(error, "a node that is down needs no stopping; see the lines above"))
        }
    }
}

async fn stop(security: &Security, address: &str, now: bool) -> Result<String, String> {
    metrics::ask(security, address).await?;
    let client = Client::secured(security, address, "shutdown").map_err(|error| error.to_string())?;
    match tokio::time::timeout(ANSWER_WITHIN, client.shutdown(!now)).await {
        Ok(Ok(answer)) => Ok(answer),
        // A node that ends at once may be gone before its answer is.
        Ok(Err(_)) if now && metrics::ask(security, address).await.is_err() => Ok("stopped".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("node at {address} did not answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

/// Waits until a node does not answer any more.
async fn ended(security: &Security, address: &str, until: Instant) {
    while Instant::now() < until && metrics::ask(security, address).await.is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
