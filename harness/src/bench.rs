//! How fast the overlay is, as ratios: each figure beside one that says what is possible, measured in the same run.
//!
//! References are a bare server that answers with bytes which it has at hand (`ceiling`), the same computing in one process
//! without a network (`one_process`), and DuckDB and Polars over the same files (`peers`). Every round measures all of them
//! once, another one first each time, so that what else the machine does falls on all; medians over rounds are compared.
//! Before the first round everybody does everything once, and the bare server learns its answers.
//! Whatever is found is held against what one process finds: rows, and means.
//!
//! Nothing that is drained or aggregated was asked before, so that no cache helps; all questions have the same rows.

mod ceiling;
mod drains;
mod figures;
mod foreign_clients;
mod found;
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

use arrow_flight::error::FlightError;
use arrow_schema::ArrowError;
use overlay::client::ClientError;
use overlay::day::Day;
use overlay::frame::{Encoding, FrameError};
use overlay::load::LoadError;
use overlay::store::Store;

pub use self::figures::{Figure, Measure, Report};
pub use self::found::Found;

use self::ceiling::Ceiling;
use self::figures::Samples;
use self::peers::Peers;
use self::rates::{Contract, Filters, Questions, lower_bound, new_bound, rate};
use crate::cluster::{ClusterError, ClusterSpec, ProcessCluster};
use crate::proc;

/// Threads that loading has, as the targets have it, and DuckDB and Polars for whatever they do.
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
    /// A Python that has DuckDB and Polars; without one nothing is compared with them.
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
    /// HTTP refused.
    #[error("HTTP answered `{0}`")]
    Problem(String),
    /// An HTTP connection broke.
    #[error("HTTP over loopback broke")]
    Http(#[from] hyper::Error),
    /// Arrow Flight refused, or sent what its client cannot read.
    #[error("Arrow Flight's client failed")]
    Flight(#[from] FlightError),
    /// An Arrow stream that cannot be read.
    #[error("the Arrow stream over HTTP cannot be read")]
    Arrow(#[from] ArrowError),
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
    /// A file of the dataset cannot be read.
    #[error("cannot read `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The dataset has what not everybody reads alike.
    #[error(
        "the files have {records} records, of which {rows} are rows: the bench wants files without headers and rejected rows"
    )]
    Dataset {
        /// Records by the csv crate.
        records: u64,
        /// Rows that load.
        rows: u64,
    },
    /// The system refused.
    #[error("the system refused: {0}")]
    Io(#[from] io::Error),
    /// DuckDB or Polars failed.
    #[error("DuckDB and Polars: {0}")]
    Peers(String),
    /// Frames that came cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Frames that came do not have the rows that match.
    #[error("the overlay's frames are not the rows that one process finds")]
    Frames,
    /// Somebody found something else than one process does.
    #[error("{measure:?}: {found}, but {expected} in one process")]
    Differ {
        /// What was measured.
        measure: Measure,
        /// What came of it.
        found: Found,
        /// What has to.
        expected: Found,
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
    /// The rows of each frame of the overlay's last drain.
    frames: Vec<(Day, u32)>,
    /// What all drains must find.
    matching: Found,
    /// What all means must be.
    means: Found,
    samples: Samples,
}

impl Plan {
    /// Measures all rounds; tells each as it ends.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn run(&self, progress: impl Fn(&str)) -> Result<Report, BenchError> {
        progress("starting six nodes, a bare server, and whoever they are compared with");
        let files = one_process::csv_files(&self.dataset_root)?;
        let (_, store) = one_process::load(&self.dataset_root, THREADS)?;
        one_process::check_files(&files, &store)?;
        let cluster = ProcessCluster::start(&self.binary, ClusterSpec::six_nodes(&self.dataset_root))?;
        let leader = cluster.address_of("A");
        let peers = self.python.as_ref().map(|python| Peers::start(python, &self.dataset_root));
        let (peers, versions) = peers.transpose()?.unzip();
        let mut bench = Bench {
            plan: self,
            leader,
            ceiling: Ceiling::before(leader).await?,
            peers,
            files,
            frames: Vec::new(),
            matching: one_process::matching(&store),
            means: one_process::means(&store),
            store,
            samples: Samples::default(),
            cluster,
        };
        let peak_of_drains = bench.warm_up().await?;
        progress("everybody is warm");
        for round in 1..=self.rounds {
            bench.round(round).await?;
            progress(&format!("round {round} of {} is measured", self.rounds));
        }
        bench.sizes(peak_of_drains)?;
        Ok(Report::new(bench.samples, self.rounds, bench.store.row_count(), versions))
    }
}

impl Bench<'_> {
    /// Has everybody do everything once, and forgets what that took. Gives the peak of the nodes before the flood of queries.
    async fn warm_up(&mut self) -> Result<Option<f64>, BenchError> {
        self.works(0).await?;
        let peak_of_drains = self.peak_mb();
        self.rates(0, Duration::ZERO).await?;
        self.ceiling.seal();
        self.samples = Samples::default();
        Ok(peak_of_drains)
    }

    async fn round(&mut self, round: usize) -> Result<(), BenchError> {
        self.works(round).await?;
        self.rates(round, self.plan.lasts).await?;
        let config = self.cluster.config();
        let took = processes::until_healthy(&self.plan.binary, &config, &self.plan.dataset_root).await?;
        self.samples.add(Measure::Start, milliseconds(took));
        Ok(())
    }

    /// Drains, means and loading.
    async fn works(&mut self, round: usize) -> Result<(), BenchError> {
        use Measure::*;
        let loaded = Found::rows(self.store.row_count());
        let works: [(&[Measure], Found); 4] = [
            (
                &[
                    Drain,
                    FlightDrain,
                    HttpDrain,
                    JsonDrain,
                    HttpLines,
                    OneProcessDrain,
                    WireDrain,
                    DuckDbFilter,
                    PolarsFilter,
                ],
                self.matching,
            ),
            (&[OldJson, WireOldJson, DuckDbJson, PolarsJson], self.matching),
            (&[Aggregate, DuckDbAggregate, PolarsAggregate], self.means),
            (&[Load, ParseOnly, DuckDbLoad, PolarsLoad], loaded),
        ];
        for (contestants, expected) in works {
            for measure in in_turn(contestants, round) {
                let (ms, found) = match (peers::command(measure), &mut self.peers) {
                    (Some(_), None) => continue,
                    (Some(command), Some(peers)) => peers.measure(command)?,
                    (None, _) => self.work(measure).await?,
                };
                if !found.is_as(expected) {
                    return Err(BenchError::Differ { measure, found, expected });
                }
                self.samples.add(measure, ms);
            }
        }
        Ok(())
    }

    /// Milliseconds of what neither DuckDB nor Polars does, and what came of it.
    async fn work(&mut self, measure: Measure) -> Result<(f64, Found), BenchError> {
        let (leader, bare) = (self.leader, self.ceiling.address);
        match measure {
            Measure::Drain => {
                let drained = drains::rows(leader, &new_bound(), Encoding::Arrow).await?;
                self.samples.add(Measure::FirstRow, drained.first_ms);
                self.frames = drained.days();
                Ok((drained.all_ms, Found::rows(drained.rows())))
            }
            Measure::WireDrain => {
                let drained = drains::rows(bare, &lower_bound(0), Encoding::Arrow).await?;
                self.samples.add(Measure::WireFirstRow, drained.first_ms);
                Ok((drained.all_ms, Found::rows(drained.rows())))
            }
            Measure::OneProcessDrain => {
                let predicate = drains::moderate(&new_bound());
                one_process::scan_gather_encode(&self.store, &predicate, &self.frames)
            }
            Measure::JsonDrain => {
                let drained = drains::rows(leader, &new_bound(), Encoding::Json).await?;
                Ok((drained.all_ms, Found::rows(drained.rows())))
            }
            Measure::FlightDrain => foreign_clients::flight(leader, &new_bound()).await,
            Measure::HttpDrain => foreign_clients::http_arrow(leader, &new_bound()).await,
            Measure::HttpLines => foreign_clients::http_lines(leader, &new_bound()).await,
            Measure::OldJson => drains::old_json(leader, &new_bound()).await,
            Measure::WireOldJson => drains::old_json(bare, &lower_bound(0)).await,
            Measure::Aggregate => drains::aggregate(leader, &drains::no_bound(&new_bound())).await,
            Measure::Load => {
                let (ms, store) = one_process::load(&self.plan.dataset_root, THREADS)?;
                Ok((ms, Found::rows(store.row_count())))
            }
            Measure::ParseOnly => one_process::parse_only(&self.files),
            other => unreachable!("{other:?} is no work"),
        }
    }

    async fn rates(&mut self, round: usize, lasts: Duration) -> Result<(), BenchError> {
        use Measure::*;
        let (node, bare) = (self.leader, self.ceiling.address);
        let questions = |contract, filters| Questions { contract, filters, matching: self.matching.rows };
        let pairs = [
            [
                (SameFilter, node, questions(Contract::Ours, Filters::Same)),
                (WireSameFilter, bare, questions(Contract::Ours, Filters::Same)),
            ],
            [
                (NewFilters, node, questions(Contract::Ours, Filters::New)),
                (WireNewFilters, bare, questions(Contract::Ours, Filters::Few)),
            ],
            [
                (OldSameFilter, node, questions(Contract::Old, Filters::Same)),
                (WireOldSameFilter, bare, questions(Contract::Old, Filters::Same)),
            ],
        ];
        for (measure, address, questions) in pairs.iter().flat_map(|pair| in_turn(pair, round)) {
            let before = self.processor_time();
            let rate = rate(address, questions, lasts).await?;
            self.samples.add(measure, rate.a_second);
            let of_nodes = match measure {
                SameFilter => SameFilterCpu,
                NewFilters => NewFiltersCpu,
                _ => continue,
            };
            if let (Some(before), Some(after)) = (before, self.processor_time()) {
                let microseconds = (after - before).as_secs_f64() * 1e6;
                self.samples.add(of_nodes, microseconds / rate.answered as f64);
            }
        }
        let half = self.samples.last(NewFilters) / 2.0;
        let steady = steady::at_rate(node, questions(Contract::Ours, Filters::New), half, lasts).await?;
        self.samples.add(SteadyP50, steady.p50_ms);
        self.samples.add(SteadyP99, steady.p99_ms);
        self.samples.add(SteadyP999, steady.p999_ms);
        self.samples.add(SteadyLate, steady.late_ms);
        self.samples.add(SteadyUnanswered, steady.unanswered as f64);
        Ok(())
    }

    /// What is the same in every round.
    fn sizes(&mut self, peak_of_drains: Option<f64>) -> Result<(), BenchError> {
        self.samples.add(Measure::BytesARow, self.store.bytes() as f64 / self.store.row_count() as f64);
        let binary = std::fs::metadata(&self.plan.binary)?.len();
        self.samples.add(Measure::Binary, binary as f64 / 1e6);
        for (measure, peak) in [(Measure::PeakOfDrains, peak_of_drains), (Measure::Peak, self.peak_mb())] {
            if let Some(peak) = peak {
                self.samples.add(measure, peak);
            }
        }
        Ok(())
    }

    /// Of all nodes together, each at its own time; `None` where the system does not tell.
    fn peak_mb(&self) -> Option<f64> {
        let peaks = self.cluster.pids().into_values().map(proc::peak_bytes);
        Some(peaks.sum::<Option<u64>>()? as f64 / 1e6)
    }

    /// Of all nodes together.
    fn processor_time(&self) -> Option<Duration> {
        self.cluster.pids().into_values().map(proc::processor_time).sum()
    }
}

/// All contestants, another one first in each round.
fn in_turn<T: Copy>(contestants: &[T], round: usize) -> impl Iterator<Item = T> {
    let first = round % contestants.len();
    contestants.iter().copied().cycle().skip(first).take(contestants.len())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
