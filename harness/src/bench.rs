//! How fast the overlay is, as ratios: each figure beside one that says what is possible, measured in the same run.
//!
//! References are a bare server that answers with bytes which it has at hand (`ceiling`), the same computing in one process
//! without a network (`one_process`), and DuckDB and Polars over the same files (`peers`). Every round measures all of them
//! once, one after the other, so that what else the machine does falls on all; medians over rounds are compared.
//! Whatever answers is held against the others: rows must be as many.
//!
//! Nothing that is drained or aggregated was asked before, so that no cache helps; all questions have the same rows.

mod ceiling;
mod drains;
mod figures;
mod one_process;
mod peers;
mod processes;
mod rates;
mod raw;
mod steady;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use overlay::client::ClientError;
use overlay::load::LoadError;
use overlay::store::Store;

pub use self::figures::{Figure, Measure, Report};

use self::ceiling::Ceiling;
use self::figures::Samples;
use self::peers::Peers;
use self::rates::{Contract, Filters, Questions, lower_bound, new_bound, rate};
use crate::cluster::{ClusterError, ClusterSpec, ProcessCluster};
use crate::proc;

/// Cores that loading and computing may use, as the targets have it.
const THREADS: usize = 2;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// The data of all nodes.
    pub dataset_root: PathBuf,
    /// Rounds; an odd number has a median.
    pub rounds: usize,
    /// How long each rate is measured.
    pub lasts: Duration,
    /// A Python that has DuckDB and Polars; without one their figures are left out.
    pub python: Option<PathBuf>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The overlay did not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A client got no answer that it can trust.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A server refused.
    #[error("a query was refused: {0}")]
    Status(#[from] tonic::Status),
    /// The old contract refused.
    #[error("the old contract answered `{0}`")]
    Refused(String),
    /// An answer without the rows that match.
    #[error("the answer to a query for {expected} rows has {found} in its first chunk")]
    FirstChunk {
        /// Rows that match, as far as they were wanted.
        expected: u64,
        /// Rows that came.
        found: u64,
    },
    /// No connection.
    #[error("cannot connect to a server on loopback")]
    Connect(#[source] tonic::transport::Error),
    /// The dataset cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The system refused.
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
    /// DuckDB or Polars failed.
    #[error("DuckDB and Polars: {0}")]
    Peers(String),
    /// Frames that came do not have the rows that match.
    #[error("the overlay's frames are not the rows that one process finds")]
    Differ,
    /// Two that did the same work came to different ends.
    #[error("{work}: {left} rows, but {right} rows by {by}")]
    Rows {
        /// What was done.
        work: &'static str,
        /// By the overlay, or by one process.
        left: u64,
        /// By whom it is compared with.
        right: u64,
        /// Who that is.
        by: &'static str,
    },
    /// The node did not keep up with half of what it had just done.
    #[error("at {rate} queries a second {dropped} could not be sent: too many others were in flight")]
    FallsBehind {
        /// Queries a second.
        rate: u32,
        /// Queries that were due and not sent.
        dropped: u64,
    },
}

/// What is measured, while it runs.
struct Bench<'a> {
    plan: &'a Plan,
    cluster: ProcessCluster,
    leader: SocketAddr,
    ceiling: Ceiling,
    peers: Option<Peers>,
    files: Vec<PathBuf>,
    store: Store,
    /// Rows that match what is asked.
    matching: u64,
    samples: Samples,
}

impl Plan {
    /// Measures all rounds; tells each as it ends.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn run(&self, progress: impl Fn(&str)) -> Result<Report, BenchError> {
        progress("starting six nodes, a bare server, and whoever they are compared with");
        let cluster = ProcessCluster::start(&self.binary, ClusterSpec::six_nodes(&self.dataset_root))?;
        let leader = cluster.address_of("A");
        let (_, store) = one_process::load(&self.dataset_root, THREADS)?;
        let mut bench = Bench {
            plan: self,
            leader,
            ceiling: Ceiling::before(leader).await?,
            peers: self.python.as_ref().map(|python| Peers::start(python, &self.dataset_root)).transpose()?,
            files: one_process::csv_files(&self.dataset_root)?,
            matching: one_process::matching(&store),
            store,
            samples: Samples::default(),
            cluster,
        };
        for round in 1..=self.rounds {
            bench.round().await?;
            progress(&format!("round {round} of {} is measured", self.rounds));
        }
        bench.sizes()?;
        let versions = bench.peers.as_ref().map(|peers| peers.versions.clone());
        Ok(Report::new(bench.samples, self.rounds, bench.store.row_count(), versions))
    }
}

impl Bench<'_> {
    async fn round(&mut self) -> Result<(), BenchError> {
        self.drains().await?;
        self.aggregates().await?;
        if self.samples.is_first(Measure::PeakOfDrains) {
            self.peak(Measure::PeakOfDrains);
        }
        self.rates().await?;
        self.loading()?;
        let config = self.cluster.config();
        let took = processes::until_healthy(&self.plan.binary, &config, &self.plan.dataset_root).await?;
        self.samples.add(Measure::Start, milliseconds(took));
        Ok(())
    }

    async fn rates(&mut self) -> Result<(), BenchError> {
        let (node, bare, lasts) = (self.leader, self.ceiling.address, self.plan.lasts);
        let matching = self.matching;
        let questions = |contract, filters| Questions { contract, filters, matching };
        let works = [
            (Measure::SameFilter, node, questions(Contract::Ours, Filters::Same)),
            (Measure::WireSameFilter, bare, questions(Contract::Ours, Filters::Same)),
            (Measure::NewFilters, node, questions(Contract::Ours, Filters::New)),
            (Measure::WireNewFilters, bare, questions(Contract::Ours, Filters::Few)),
            (Measure::OldSameFilter, node, questions(Contract::Old, Filters::Same)),
            (Measure::WireOldSameFilter, bare, questions(Contract::Old, Filters::Same)),
        ];
        for (measure, address, questions) in works {
            let before = self.processor_time();
            let rate = rate(address, questions, lasts).await?;
            self.samples.add(measure, rate.a_second);
            let after = self.processor_time();
            let of_nodes = match measure {
                Measure::SameFilter => Measure::SameFilterCpu,
                Measure::NewFilters => Measure::NewFiltersCpu,
                _ => continue,
            };
            if let (Some(before), Some(after)) = (before, after) {
                let microseconds = (after - before).as_secs_f64() * 1e6;
                self.samples.add(of_nodes, microseconds / rate.answered as f64);
            }
        }
        let half = self.samples.last(Measure::NewFilters) / 2.0;
        let new_filters = questions(Contract::Ours, Filters::New);
        let latencies = steady::at_rate(node, new_filters, half, lasts).await?;
        self.samples.add(Measure::SteadyP50, latencies.p50_ms);
        self.samples.add(Measure::SteadyP99, latencies.p99_ms);
        self.samples.add(Measure::SteadyP999, latencies.p999_ms);
        Ok(())
    }

    async fn drains(&mut self) -> Result<(), BenchError> {
        let bound = new_bound();
        let ours = drains::arrow(self.leader, &bound).await?;
        self.samples.add(Measure::Drain, ours.all_ms);
        self.samples.add(Measure::FirstRow, ours.first_ms);
        let computed = one_process::scan_gather_encode(&self.store, &drains::moderate(&bound), &ours.frames)?;
        self.samples.add(Measure::OneProcessDrain, computed);
        // The first time the bare server asks the node.
        drains::arrow(self.ceiling.address, &lower_bound(0)).await?;
        let bare = drains::arrow(self.ceiling.address, &lower_bound(0)).await?;
        self.samples.add(Measure::WireDrain, bare.all_ms);
        self.samples.add(Measure::WireFirstRow, bare.first_ms);
        self.beside("filter_arrow", ours.rows, [Measure::DuckDbFilter, Measure::PolarsFilter])?;
        let (ms, rows) = drains::old_json(self.leader, &new_bound()).await?;
        self.samples.add(Measure::OldJson, ms);
        drains::old_json(self.ceiling.address, &lower_bound(0)).await?;
        let (bare, _) = drains::old_json(self.ceiling.address, &lower_bound(0)).await?;
        self.samples.add(Measure::WireOldJson, bare);
        self.beside("filter_json", rows, [Measure::DuckDbJson, Measure::PolarsJson])
    }

    async fn aggregates(&mut self) -> Result<(), BenchError> {
        // Below every value that is left after -999.
        let ours = drains::aggregate(self.leader, &format!("-9{}", new_bound())).await?;
        self.samples.add(Measure::Aggregate, ours.all_ms);
        self.beside("aggregate", ours.rows, [Measure::DuckDbAggregate, Measure::PolarsAggregate])
    }

    fn loading(&mut self) -> Result<(), BenchError> {
        let (ms, store) = one_process::load(&self.plan.dataset_root, THREADS)?;
        self.samples.add(Measure::Load, ms);
        let (ms, rows) = one_process::parse_only(&self.files)?;
        same("parsing", store.row_count(), rows, "the csv crate")?;
        self.samples.add(Measure::ParseOnly, ms);
        self.beside("load", rows, [Measure::DuckDbLoad, Measure::PolarsLoad])
    }

    /// Has DuckDB and Polars do the same.
    fn beside(&mut self, work: &'static str, rows: u64, measures: [Measure; 2]) -> Result<(), BenchError> {
        let Some(peers) = &mut self.peers else { return Ok(()) };
        for (measure, system) in measures.into_iter().zip(["duckdb", "polars"]) {
            let (ms, theirs) = peers.measure(work, system)?;
            same(work, rows, theirs, system)?;
            self.samples.add(measure, ms);
        }
        Ok(())
    }

    /// What is the same in every round.
    fn sizes(&mut self) -> Result<(), BenchError> {
        self.samples.add(Measure::BytesARow, self.store.bytes() as f64 / self.store.row_count() as f64);
        let binary = std::fs::metadata(&self.plan.binary)?.len();
        self.samples.add(Measure::Binary, binary as f64 / 1e6);
        self.peak(Measure::Peak);
        Ok(())
    }

    fn peak(&mut self, measure: Measure) {
        let peaks = self.cluster.pids().into_values().map(proc::peak_bytes);
        if let Some(peak) = peaks.sum::<Option<u64>>() {
            self.samples.add(measure, peak as f64 / 1e6);
        }
    }

    /// Of all nodes together.
    fn processor_time(&self) -> Option<Duration> {
        self.cluster.pids().into_values().map(proc::processor_time).sum()
    }
}

fn same(work: &'static str, left: u64, right: u64, by: &'static str) -> Result<(), BenchError> {
    match left == right {
        true => Ok(()),
        false => Err(BenchError::Rows { work, left, right, by }),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
