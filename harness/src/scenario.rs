//! Random runs of a whole overlay: who is there, what they hold, what is asked, and what goes wrong meanwhile.
//!
//! One seed decides all of it. [`Scenario::draw`] makes the plain data, [`Scenario::prepare`] writes the dataset and
//! resolves the steps against it, [`Prepared::run`] performs them on any driver and checks every answer with
//! [`property`](crate::property). What fails is shrunk by [`shrink`] and printed as
//! [`Failure`](crate::report::Failure), with the command that repeats it. Read `draw` for what can come, [`step`] for
//! what a step is, `run` for what must hold.
//!
//! Safety is checked always: an answer is right, whatever is wrong in the overlay. That there is an answer is asked only
//! while nothing is wrong, or once it is healed and the nodes have seen so.

mod ask;
mod draw;
mod reach;
mod run;
pub mod shrink;
pub mod step;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{ClusterSpec, Driver};
use crate::dataset::{DatasetError, DatasetSpec};
use crate::oracle::{Oracle, OracleError};
use crate::report::Reported;
use crate::topology::{Topology, TopologyBuilder};

pub use self::draw::{Happenings, scenarios};
pub use self::run::{Progress, Tally, Transcript};

use self::draw::Draft;
use self::step::Step;

/// A run as plain data. Steps are drafts until it is known which rows and nodes they can be about.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Who is there.
    pub topology: TopologyBuilder,
    /// What they hold.
    pub dataset: DatasetSpec,
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
    /// Whether the nodes keep frames.
    pub caches_frames: bool,
}

/// How long a result stays after its last touch, so that steps outlast it.
pub(crate) const LEASE_MS: u64 = 10_000;

impl Settings {
    fn to_json(&self) -> Value {
        let Settings { forwarding, chunking, fairness, chunk_size, caches_frames } = self;
        let strategies = json!({"forwarding": forwarding, "chunking": chunking, "fairness": fairness, "chunk_size": chunk_size});
        let mut settings = json!({"strategies": strategies, "limits": {"result_ttl_ms": LEASE_MS}});
        if !caches_frames {
            settings["cache"] = json!({"chunk_bytes": 0});
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
        let folder = tempfile::tempdir()?;
        let topology = self.topology.build();
        self.dataset.write(folder.path())?;
        let oracle = Oracle::read(folder.path(), &topology.teams)?;
        let steps = step::resolve(&self.drafts, &topology, &oracle);
        Ok(Prepared { topology, steps, oracle, settings: self.settings.clone(), folder })
    }
}

impl Prepared {
    /// What a driver starts.
    pub fn cluster(&self) -> ClusterSpec {
        ClusterSpec::of(&self.topology, self.root()).with(self.settings.to_json())
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

/// Runs the scenario of a seed on a driver, to its end; if it fails, the smallest one found that fails too.
///
/// # Errors
/// The [`Reported`] failure, with the command that repeats it.
///
/// # Panics
/// If the file system refuses the dataset.
pub fn hold(seed: u64, happenings: Happenings, driver: &Driver) -> Result<Tally, Box<Reported>> {
    let run = |scenario: &Scenario| {
        let prepared = scenario.prepare().unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
        prepared.run(driver, usize::MAX, &mut |_, _| {})
    };
    let mut failure = match run(&shrink::draw(seed, happenings)) {
        Ok(transcript) => return Ok(transcript.tally),
        Err(failure) => failure,
    };
    let (_, shrunk) = shrink::smallest(seed, happenings, |simpler| match run(simpler) {
        Ok(_) => false,
        Err(smaller) => {
            failure = smaller;
            true
        }
    });
    Err(Box::new(Reported { failure: *failure, seed, shrunk }))
}
