//! Random runs of a whole overlay: who is there, what they hold, what is asked, and what goes wrong meanwhile.
//!
//! A seed and what it is to run on decide all of it. [`shrink::draw`] makes the plain data, [`Scenario::prepare`] writes the dataset and
//! resolves the steps against it, [`Prepared::run`] performs them on any driver and checks every answer with
//! [`property`](crate::property). What fails is shrunk by [`shrink`] and printed as
//! [`Failure`](crate::report::Failure), with the command that repeats it. Read `draw` for what can come, [`step`] for
//! what a step is, `run` for what must hold.
//!
//! Safety is checked always: an answer is right, whatever is wrong in the overlay. That there is an answer is asked only
//! while nothing is wrong, or once it is healed and the nodes have seen so.

mod ask;
mod draw;
mod kept;
mod panics;
mod reach;
mod revision;
mod run;
pub mod shrink;
pub mod step;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::ClusterSpec;
use crate::dataset::{DatasetError, DatasetSpec};
use crate::fault::Fault;
use crate::oracle::{Oracle, OracleError};
use crate::report::Reported;
use crate::topology::{Topology, TopologyBuilder};

pub(crate) use self::ask::typed;
pub use self::draw::{RunOn, scenarios};
pub(crate) use self::reach::{Trouble, excuses};
pub(crate) use self::run::expected;
pub use self::run::{Progress, Tally, Transcript, finds_all};

use overlay::load::LoadError;

use self::draw::Draft;
use self::revision::Revision;
use self::step::Step;

/// A run as plain data. Steps are drafts until it is known which rows and nodes they can be about.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Who is there.
    pub topology: TopologyBuilder,
    /// What they hold.
    pub dataset: DatasetSpec,
    /// Decides what nodes hold whose data are revised.
    pub revision: u64,
    /// Strategies and limits, as keys of the configuration.
    pub settings: Settings,
    drafts: Vec<Draft>,
}

/// What of the configuration is no part of the graph.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `strategies.forwarding`.
    pub forwarding: &'static str,
    /// `strategies.chunking`.
    pub chunking: &'static str,
    /// `strategies.fairness`.
    pub fairness: &'static str,
    /// `strategies.chunk_size`, in rows.
    pub chunk_size: u32,
    /// `limits.chunk_bytes`.
    pub chunk_bytes: u32,
    /// `limits.max_active`, `per_team_limit` and `compute_slots`: few, so that a handful of questions wait.
    pub slots: u32,
    /// `limits.queue_length`: where it is short, questions are turned away.
    pub queue_length: u32,
    /// `limits.quantum_rows`: few, so that scans are done in pieces.
    pub quantum_rows: u32,
    /// `limits.short_rows`: none, or some of the queries.
    pub short_rows: u32,
    /// `limits.query_ms`: where it is short, an attempt ends before an answer that is late.
    pub query_ms: u64,
    /// `limits.keepalive_ms`: where it is long, answers are late without the loss of their connection.
    pub keepalive_ms: u64,
    /// All keys of `cache`, in bytes: none, few so that much is computed again, or as they are by default.
    pub cache_bytes: Option<u32>,
}

/// How long a result stays after its last touch, so that steps outlast it.
pub(crate) const LEASE_MS: u64 = 10_000;

impl Settings {
    fn to_json(&self) -> Value {
        let Settings {
            forwarding,
            chunking,
            fairness,
            chunk_size,
            chunk_bytes,
            slots,
            queue_length,
            quantum_rows,
            short_rows,
            query_ms,
            keepalive_ms,
            cache_bytes,
        } = self;
        let strategies = json!({"forwarding": forwarding, "chunking": chunking, "fairness": fairness, "chunk_size": chunk_size});
        let limits = json!({
            "result_ttl_ms": LEASE_MS, "chunk_bytes": chunk_bytes, "max_active": slots, "per_team_limit": slots,
            "compute_slots": slots, "quantum_rows": quantum_rows,
            "short_rows": short_rows, "query_ms": query_ms,
            "keepalive_ms": keepalive_ms, "queue_length": queue_length,
        });
        let mut settings = json!({"strategies": strategies, "limits": limits});
        if let Some(bytes) = cache_bytes {
            let keys = ["result_bytes", "chunk_bytes", "selection_bytes", "aggregate_bytes"];
            settings["cache"] = keys.into_iter().map(|key| (key.to_owned(), json!(bytes))).collect();
        }
        settings
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.to_json())
    }
}

/// A scenario whose data are on disk and whose steps are resolved. Dropping it removes the data.
pub struct Prepared {
    /// Who is there.
    pub topology: Topology,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What answers are held against.
    pub oracle: Oracle,
    settings: Settings,
    folder: TempDir,
    /// If a node has it at some time.
    revision: Option<Revision>,
}

/// Why a scenario could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The dataset could not be written.
    #[error("write the scenario's dataset")]
    Dataset(#[from] DatasetError),
    /// The dataset could not be read again.
    #[error("read the scenario's dataset")]
    Oracle(#[from] OracleError),
    /// The node's loader, which knows the versions of days, does not read the revised dataset.
    #[error("load the scenario's revised dataset")]
    Load(#[from] LoadError),
    /// There is no folder to write to.
    #[error("make a temporary folder")]
    Folder(#[from] std::io::Error),
}

impl Scenario {
    /// Writes the dataset to a temporary folder and resolves the steps against it.
    ///
    /// # Errors
    /// [`PrepareError`] if the file system refuses.
    pub fn prepare(&self) -> Result<Prepared, PrepareError> {
        let folder = crate::scratch::folder()?;
        let topology = self.topology.build();
        self.dataset.write(folder.path())?;
        let oracle = Oracle::read(folder.path(), &topology.teams)?;
        let steps = step::resolve(&self.drafts, &topology, &oracle);
        let is_revised =
            |step: &Step| matches!(step, Step::Inject(Fault::Revise { .. }) | Step::Replace { .. });
        let revision =
            steps.iter().any(is_revised).then(|| Revision::of(&oracle, folder.path(), self.revision));
        let revision = revision.transpose()?;
        Ok(Prepared { topology, steps, oracle, settings: self.settings.clone(), folder, revision })
    }
}

impl Prepared {
    /// What a driver starts.
    pub fn cluster(&self) -> ClusterSpec {
        let spec = ClusterSpec::of(&self.topology, self.root()).with(self.settings.to_json());
        match &self.revision {
            Some(revision) => spec.revised(revision.root()),
            None => spec,
        }
    }

    /// How much data there is, in words.
    pub fn data(&self) -> String {
        let days: BTreeSet<u32> = self.oracle.all_rows().iter().map(|row| row.day).collect();
        format!("{} rows of {} days", self.oracle.all_rows().len(), days.len())
    }

    /// Where its data are.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// How long one run may take by the clock on the wall; a node that computes for ever stops virtual time.
const RUN_WITHIN: Duration = Duration::from_secs(300);

/// Performs the scenario of a seed to its end; if it fails, the smallest one found that fails in the same way.
///
/// # Errors
/// The [`Reported`] failure, with the command that repeats it.
///
/// # Panics
/// If the file system refuses the dataset. A run that does not end ends the process, with the seed.
pub fn hold(seed: u64, on: RunOn) -> Result<Tally, Box<Reported>> {
    let run = |scenario: &Scenario| {
        let prepared = scenario.prepare().unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
        let _watched = Watch::start(seed, on);
        prepared.run(&on.driver(seed), usize::MAX, &mut |_, _, _| {})
    };
    let mut failure = match run(&shrink::draw(seed, on)) {
        Ok(transcript) => return Ok(transcript.tally),
        Err(failure) => failure,
    };
    let (_, shrunk) = shrink::smallest(seed, on, |simpler| match run(simpler) {
        Err(smaller) if smaller.violation.property == failure.violation.property => {
            failure = smaller;
            true
        }
        _ => false,
    });
    Err(Box::new(Reported { failure: *failure, seed, on, shrunk }))
}

/// Ends the process with a message, unless it is dropped in time.
struct Watch {
    _is_done: Sender<()>,
}

impl Watch {
    fn start(seed: u64, on: RunOn) -> Self {
        let (is_done, done) = channel::<()>();
        std::thread::spawn(move || {
            if done.recv_timeout(RUN_WITHIN) == Err(RecvTimeoutError::Timeout) {
                let replay = format!("overlay-harness replay --seed {seed:#x} --driver {on}");
                // Not by a macro: the output of a test is shown when it ends, and this one does not.
                let _ = writeln!(
                    std::io::stderr(),
                    "a run does not end ({RUN_WITHIN:?}), or a smaller one of: {replay}"
                );
                std::process::abort();
            }
        });
        Watch { _is_done: is_done }
    }
}
