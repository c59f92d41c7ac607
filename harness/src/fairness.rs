//! One client that asks for everything beside light ones, over real processes: how long these wait alone, beside it, and
//! beside it where everything is done in the order of arrival.
//!
//! Two overlays run at the same time, one with the node's own strategy and one under `fifo`, each idle while the other is
//! measured. Rounds take all three by turns, so that what else the machine does falls on all of them, and medians over
//! rounds are compared.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{CellAlignment, presets::ASCII_MARKDOWN};
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{Client, ClientError};
use overlay::plan::Query;
use serde::Serialize;
use serde_json::json;

use crate::cluster::{Cluster, ClusterError, ClusterSpec, ProcessCluster, wait_until};
use crate::rivals::{Flood, Flooded, Schedule, heaviest, light_clients};

/// What a flood has before anything is measured beside it.
const FILLS_FOR: Duration = Duration::from_secs(2);

/// How long an overlay may take to have nothing to do once the flood is gone.
const IDLE_WITHIN: Duration = Duration::from_secs(60);

/// Light clients wait for this part of what they wait for under `fifo`, at most.
const BETTER_THAN_FIFO: f64 = 5.0;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// The data of all nodes.
    pub dataset_root: PathBuf,
    /// Light clients, each with a connection.
    pub light: usize,
    /// When they ask.
    pub schedule: Schedule,
    /// Connections of the flooding client.
    pub connections: usize,
    /// What it asks for.
    pub heavy: Heavy,
    /// Rounds; an odd number has a median.
    pub rounds: usize,
}

/// What the flooding client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Heavy {
    /// All rows of all days
    Rows,
    /// The mean of all days by site, hour and parameter
    Groups,
}

/// Who was where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// The light clients alone.
    Alone,
    /// Beside the flood.
    Beside,
    /// Beside the flood, in the order of arrival.
    BesideUnderFifo,
}

/// What one setting came to in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The setting.
    pub setting: Setting,
    /// Of the light clients, from when they meant to ask.
    pub p50_ms: f64,
    /// Likewise.
    pub p99_ms: f64,
    /// Questions of the light clients.
    pub asked: usize,
    /// Of these, not answered.
    pub failed: u64,
    /// Answers that the flood got.
    pub flood_answered: u64,
    /// Refusals of the flood.
    pub flood_refused: u64,
    /// First retries of the flood, at the time that it was told.
    pub flood_retried: u64,
    /// Of these, those that were answered.
    pub flood_in_at_first_retry: u64,
}

/// All rounds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they were measured.
    pub measured: Vec<Measured>,
    /// Median 99th percentile beside the flood over that alone.
    pub beside_over_alone: f64,
    /// Median 99th percentile under `fifo` over that under the node's strategy.
    pub fifo_over_beside: f64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum FairnessError {
    /// An overlay did not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An overlay went on with work that nobody waits for.
    #[error("{IDLE_WITHIN:?} after the flood ended, the leader still has queries")]
    Busy,
}

impl Plan {
    /// Measures all rounds; tells each as it ends.
    ///
    /// # Errors
    /// [`FairnessError`] if an overlay does not start, or does not come to rest.
    pub async fn run(&self, progress: impl Fn(&Measured)) -> Result<Report, FairnessError> {
        let start = |fairness| {
            let spec = ClusterSpec::six_nodes(&self.dataset_root);
            let strategy = json!({"strategies": {"fairness": fairness}});
            ProcessCluster::start(&self.binary, spec.with(strategy))
        };
        let (fair, fifo) = (start("strict")?, start("fifo")?);
        let mut measured = Vec::new();
        for _ in 0..self.rounds {
            for (setting, cluster) in
                [(Setting::Alone, &fair), (Setting::Beside, &fair), (Setting::BesideUnderFifo, &fifo)]
            {
                let one = self.measure(setting, cluster).await?;
                progress(&one);
                measured.push(one);
            }
        }
        Ok(Report::new(measured))
    }

    async fn measure(&self, setting: Setting, cluster: &ProcessCluster) -> Result<Measured, FairnessError> {
        let flood = match setting {
            Setting::Alone => None,
            Setting::Beside | Setting::BesideUnderFifo => {
                let connections = (0..self.connections).map(|_| cluster.client("A", "flood"));
                let heavy = self.heavy;
                let ask = move |client: Client| async move { client.query(&heavy.query()).await.map(drop) };
                let flood = Flood::start(connections.collect::<Result<_, _>>()?, ask);
                tokio::time::sleep(FILLS_FOR).await;
                flood.take_seen();
                Some(flood)
            }
        };
        let clients = (0..self.light).map(|number| cluster.client("A", &format!("light {number}")));
        let light = light_clients(clients.collect::<Result<_, _>>()?, self.schedule).await;
        let flooded = flood.as_ref().map(Flood::take_seen).unwrap_or_default();
        drop(flood);
        let observer = cluster.client("A", "observer")?;
        wait_until(IDLE_WITHIN, async || is_idle(&observer).await.then_some(()))
            .await
            .ok_or(FairnessError::Busy)?;
        let ms = |percent| light.percentile(percent).as_secs_f64() * 1e3;
        let Flooded { answered, refused, retried, in_at_first_retry, .. } = flooded;
        Ok(Measured {
            setting,
            p50_ms: ms(50),
            p99_ms: ms(99),
            asked: light.latencies.len(),
            failed: light.failed.values().sum(),
            flood_answered: answered,
            flood_refused: refused,
            flood_retried: retried,
            flood_in_at_first_retry: in_at_first_retry,
        })
    }
}

async fn is_idle(observer: &Client) -> bool {
    let metrics = observer.metrics().await;
    metrics.is_ok_and(|metrics| metrics.active_queries + metrics.waiting_queries == 0)
}

impl Heavy {
    fn query(self) -> Query {
        let group_by = vec![GroupKey::Site, GroupKey::Hour, GroupKey::Parameter];
        let mean = AggregateSpec { of: AggregateOf::Value, group_by };
        match self {
            Heavy::Rows => heaviest(),
            Heavy::Groups => Query { aggregate: Some(mean), ..heaviest() },
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Setting::Alone => "alone",
            Setting::Beside => "beside the flood",
            Setting::BesideUnderFifo => "beside the flood, fifo",
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { setting, p50_ms, p99_ms, asked, failed, .. } = self;
        write!(formatter, "{setting:<22}  p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, {failed} of {asked} failed")
    }
}

impl Report {
    fn new(measured: Vec<Measured>) -> Self {
        let p99 = |setting| median(&measured, setting, |one| one.p99_ms);
        let beside = p99(Setting::Beside);
        Report {
            beside_over_alone: beside / p99(Setting::Alone),
            fifo_over_beside: p99(Setting::BesideUnderFifo) / beside,
            measured,
        }
    }

    /// Whether the light clients do far better than under `fifo`, and none of their questions failed.
    pub fn holds(&self) -> bool {
        let fair = self.measured.iter().filter(|one| one.setting != Setting::BesideUnderFifo);
        self.fifo_over_beside >= BETTER_THAN_FIFO && fair.map(|one| one.failed).sum::<u64>() == 0
    }
}

/// NaN if nothing was measured.
fn median(measured: &[Measured], setting: Setting, of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = measured.iter().filter(|one| one.setting == setting).map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        let header = ["light clients", "p50 ms", "p99 ms", "not answered", "flood answered", "flood refused"];
        table.load_style(ASCII_MARKDOWN).set_header(header);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let settings = [Setting::Alone, Setting::Beside, Setting::BesideUnderFifo];
        for setting in settings {
            let number = |of: fn(&Measured) -> f64| median(&self.measured, setting, of);
            table.add_row([
                setting.to_string(),
                format!("{:.1}", number(|one| one.p50_ms)),
                format!("{:.1}", number(|one| one.p99_ms)),
                format!("{:.0}", number(|one| one.failed as f64)),
                format!("{:.0}", number(|one| one.flood_answered as f64)),
                format!("{:.0}", number(|one| one.flood_refused as f64)),
            ]);
        }
        writeln!(formatter, "{table}")?;
        writeln!(
            formatter,
            "medians of {} rounds; p99 beside the flood {:.1} times alone, {:.1} times better than under fifo",
            self.measured.len() / settings.len(),
            self.beside_over_alone,
            self.fifo_over_beside
        )
    }
}
