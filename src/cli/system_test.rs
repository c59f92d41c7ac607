//! `overlay system-test`: a running overlay, checked from outside through the node that clients ask.
//!
//! Nothing is known of the data but what the node says itself, so it runs against any dataset. The
//! checks stand in `checks`.

mod checks;

use std::io::Write;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use self::checks::Checks;
use super::credentials::CredentialArgs;
use super::metrics;
use super::{Failure, runtime};
use crate::client::{ClientError, NodeMetrics};
use crate::security::Security;

/// How long a node has to become ready and to find its neighbours.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Check a running overlay from outside.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay system-test 127.0.0.1 60051
  overlay system-test 192.168.1.2 60051

Asks one query, ten at once, every row there is, and the same of the contract of the old system; \
stops nothing and changes nothing. Exits 3 when a check failed.")]
pub(crate) struct SystemTest {
    /// Where the leader is
    #[arg(value_name = "HOST")]
    host: String,
    /// Where it listens
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// `Ok` says what was seen, `Err` what is wrong.
type Outcome = Result<String, String>;

impl SystemTest {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let address = match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        runtime()?.block_on(check(&self.credentials.security()?, &address))
    }
}

async fn check(security: &Security, address: &str) -> Result<(), Failure> {
    let metrics = settled_metrics(security, address).await;
    let metrics = metrics.map_err(|error| metrics::failure(error, security))?;
    let checks = Checks::new(security, address)?;
    let mut tally = Tally::default();
    tally.note("metrics", checks::metrics(&metrics))?;
    tally.note("single request", checks.single_request().await)?;
    tally.note("ten at once", checks.ten_at_once().await)?;
    tally.note("chunks read again", checks.chunks_again().await)?;
    tally.note("errors tell themselves apart", checks.errors().await)?;
    tally.note("exactly once", checks.exactly_once().await)?;
    tally.note("teams add up", checks.teams_add_up().await)?;
    tally.note("old contract", checks.old_contract().await)?;
    tally.end()
}

/// The node's metrics once it thinks that its neighbours are up, or at last.
///
/// After a start it may take a probe or two until a node notices that others are ready too.
async fn settled_metrics(security: &Security, address: &str) -> Result<NodeMetrics, ClientError> {
    let until = Instant::now() + SETTLED_WITHIN;
    loop {
        let metrics = metrics::ask(security, address).await?;
        if checks::metrics(&metrics).is_ok() || Instant::now() > until {
            return Ok(metrics);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn note(&mut self, name: &str, outcome: Outcome) -> std::io::Result<()> {
        match outcome {
            Ok(seen) => {
                self.passed += 1;
                writeln!(std::io::stdout(), "ok      {name}: {seen}")
            }
            Err(wrong) => {
                self.failed += 1;
                writeln!(std::io::stdout(), "FAILED  {name}: {wrong}")
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        writeln!(std::io::stdout(), "\n{} passed, {} failed", self.passed, self.failed)?;
        match self.failed {
            0 => Ok(()),
            _ => Err(Failure::CheckFailed),
        }
    }
}
