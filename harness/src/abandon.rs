//! Clients that open a query and vanish, over real processes: what they leave behind, and what others get meanwhile.
//!
//! Rounds without and with vanishing clients alternate, so that what else the machine does falls on both. After each round
//! with them, every gauge of what is held has to be back at zero on every node within a lease.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use overlay::client::{Client, ClientError};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterError, ClusterSpec, ProcessCluster, wait_until};
use crate::property::held;
use crate::rivals::{light, vanish};

/// A lease, in the configuration of the run.
const LEASE: Duration = Duration::from_secs(5);

/// Between two looks of a node at its leases, in the configuration of the run.
const PROBE: Duration = Duration::from_millis(500);

/// How much later than the lease's end gauges are looked at last.
const SPARE: Duration = Duration::from_secs(1);

/// Part of what live clients get without vanishing ones that they get beside them, at least.
const KEPT: f64 = 0.8;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// The data of all nodes.
    pub dataset_root: PathBuf,
    /// Clients that vanish, in each round that has them.
    pub vanishing: u64,
    /// Clients that stay, each asking anew when it has its answer.
    pub live: usize,
    /// How long a round goes on.
    pub lasts: Duration,
    /// Rounds of each kind; an odd number has a median.
    pub rounds: usize,
}

/// What one round came to.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Whether clients vanished.
    pub with_vanishing: bool,
    /// Answers that the live clients got, in a second.
    pub answers_per_second: f64,
    /// Their questions that failed.
    pub failed: u64,
    /// From the last client that vanished until nothing was held any more.
    pub empty_after_ms: Option<u64>,
    /// What was held in the end.
    pub held: Vec<String>,
}

/// All rounds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub rounds: Vec<Round>,
    /// Median throughput beside vanishing clients over that without.
    pub kept: f64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AbandonError {
    /// The overlay did not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Plan {
    /// Makes all rounds; tells each as it ends.
    ///
    /// # Errors
    /// [`AbandonError`] if the overlay does not start.
    pub async fn run(&self, progress: impl Fn(&Round)) -> Result<Report, AbandonError> {
        let limits = json!({"result_ttl_ms": LEASE.as_millis(), "probe_ms": PROBE.as_millis()});
        let spec = ClusterSpec::six_nodes(&self.dataset_root).with(json!({ "limits": limits }));
        let cluster = ProcessCluster::start(&self.binary, spec)?;
        let mut rounds = Vec::new();
        for number in 0..2 * self.rounds {
            let round = self.round(&cluster, number % 2 == 1).await?;
            progress(&round);
            rounds.push(round);
        }
        Ok(Report::new(rounds))
    }

    async fn round(&self, cluster: &ProcessCluster, with_vanishing: bool) -> Result<Round, AbandonError> {
        let ends = Instant::now() + self.lasts;
        let mut live = JoinSet::new();
        for number in 0..self.live {
            live.spawn(stay(cluster.client("A", &format!("live {number}"))?, ends));
        }
        let mut vanishing = JoinSet::new();
        if with_vanishing {
            let pause = self.lasts / u32::try_from(self.vanishing).unwrap_or(u32::MAX).max(1);
            for number in 0..self.vanishing {
                vanishing.spawn(vanish(cluster.client("A", &format!("vanishing {number}"))?, number));
                tokio::time::sleep(pause).await;
            }
        }
        let answers = live.join_all().await;
        vanishing.join_all().await;
        let gone = Instant::now();
        let within = LEASE + PROBE + SPARE;
        let is_empty = async || held_anywhere(cluster).await.is_empty().then(|| gone.elapsed());
        let empty_after = wait_until(within, is_empty).await;
        let (answered, failed) = answers.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Ok(Round {
            with_vanishing,
            answers_per_second: answered as f64 / self.lasts.as_secs_f64(),
            failed,
            empty_after_ms: empty_after.map(|after| after.as_millis() as u64),
            held: if empty_after.is_some() { Vec::new() } else { held_anywhere(cluster).await },
        })
    }
}

/// Asks until it is time; how many answers and failures that made.
async fn stay(client: Client, ends: Instant) -> (u64, u64) {
    let (mut answered, mut failed) = (0, 0);
    while Instant::now() < ends {
        match client.query(&light()).await {
            Ok(_) => answered += 1,
            Err(_) => failed += 1,
        }
    }
    (answered, failed)
}

/// What nodes hold, and nodes that do not say.
async fn held_anywhere(cluster: &ProcessCluster) -> Vec<String> {
    let mut found = Vec::new();
    for id in cluster.overlay().processes.keys() {
        let metrics = match cluster.client(id, "observer") {
            Ok(observer) => observer.metrics().await,
            Err(error) => Err(error),
        };
        match metrics {
            Ok(metrics) => found.extend(held(&metrics).into_iter().map(|line| format!("{id}: {line}"))),
            Err(error) => found.push(format!("{id}: {error}")),
        }
    }
    found
}

impl Report {
    fn new(rounds: Vec<Round>) -> Self {
        let median = |with_vanishing| {
            let of_kind = rounds.iter().filter(|round| round.with_vanishing == with_vanishing);
            let mut values: Vec<f64> = of_kind.map(|round| round.answers_per_second).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Report { kept: median(true) / median(false), rounds }
    }

    /// Whether nothing was left behind, and live clients got what is theirs.
    pub fn holds(&self) -> bool {
        self.kept >= KEPT && self.rounds.iter().all(|round| round.held.is_empty() && round.failed == 0)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.with_vanishing { "vanishing" } else { "without" };
        let (rate, failed) = (self.answers_per_second, self.failed);
        write!(formatter, "{kind:<10} {rate:>8.1} answers/s, {failed} failed, ")?;
        match self.empty_after_ms {
            Some(after) => write!(formatter, "nothing held after {after} ms"),
            None => write!(formatter, "STILL HELD: {}", self.held.join("; ")),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rounds.iter().try_for_each(|round| writeln!(formatter, "{round}"))?;
        writeln!(
            formatter,
            "live clients get {:.2} times beside vanishing ones what they get without (medians)",
            self.kept
        )
    }
}
