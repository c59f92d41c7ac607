//! `overlay shutdown`: tells one node to stop, or every process of a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::credentials::CredentialArgs;
use super::metrics;
use super::unanswered::Unanswered;
use super::{Failure, leader_or_default, read_overlay, runtime};
use crate::client::{Client, ClientError};
use crate::config::Process;
use crate::security::Security;

/// How long a node may take to say that it stops.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The next step where a node refuses to stop.
const REFUSED: &str = "give a token of role admin with --token-file FILE, or run this on the node's host";

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
it have ended, so that what runs still finds its data; their CA is the configuration's. A node that \
is down already needs no stopping.")]
pub(crate) struct Shutdown {
    /// The node to stop [env: OVERLAY_LEADER] [default: 127.0.0.1:60051]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "all")]
    leader: Option<String>,
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
                let security = self.credentials.security()?;
                let leader = leader_or_default(self.leader);
                let answer = runtime.block_on(stop(&security, &leader, self.now));
                let answer = answer.map_err(|error| match Unanswered::of(&error) {
                    Unanswered::Refused => Failure::with_help(error, REFUSED),
                    _ => metrics::failure(error, &security),
                })?;
                Ok(writeln!(std::io::stdout(), "{leader}  {answer}")?)
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
    let (mut failed, mut helps) = (0, BTreeSet::new());
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
                Err(error) => match Unanswered::of(&error) {
                    Unanswered::Down => writeln!(std::io::stdout(), "{id}  {address}  down already")?,
                    why => {
                        writeln!(std::io::stdout(), "{id}  {address}  FAILED: {error}")?;
                        failed += 1;
                        helps.insert(match why {
                            Unanswered::Refused => REFUSED,
                            _ => metrics::help(&error, security),
                        });
                    }
                },
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
            Err(Failure::with_help(error, Vec::from_iter(helps).join("; ")))
        }
    }
}

async fn stop(security: &Security, address: &str, now: bool) -> Result<String, ClientError> {
    metrics::ask(security, address).await?;
    let client = Client::secured(security, address, "shutdown")?;
    match metrics::within(ANSWER_WITHIN, address, client.shutdown(!now)).await {
        // A node that ends at once may be gone before its answer is.
        Err(_) if now && metrics::ask(security, address).await.is_err() => Ok("stopped".to_owned()),
        answer => answer,
    }
}

/// Waits until a node does not answer any more.
async fn ended(security: &Security, address: &str, until: Instant) {
    while Instant::now() < until && metrics::ask(security, address).await.is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
