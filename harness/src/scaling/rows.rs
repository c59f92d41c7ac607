//! Six processes over more and more days of the same size: what loading, scanning, pruning and draining cost.
//!
//! Every question is a new one each time, so that no cache helps. Rounds take all questions by turns, and medians are
//! compared. Each day lies on one member of its team, so that what is loaded is what there is. As days grow in number, so do
//! the entries of every ledger; what rows alone cost is told by as few days with more rows each.

mod data;
mod question;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use overlay::client::{Client, ClientError};
use overlay::day::Day;
use serde::Serialize;

pub use self::question::Question;
pub use self::report::Report;

use self::data::Data;
use crate::cluster::{Cluster, ClusterError, ClusterSpec, ProcessCluster};
use crate::dataset::DatasetError;
use crate::proc;

/// How many times the days of the step before a step has, and how many times the rows a day the dense one.
const STEP_FACTOR: u32 = 4;

/// Rows that are drained, unless the smallest step has fewer.
const DRAINED_ROWS: u64 = 100_000;

/// Stations that give a day as many rows as one of the real data has, some 25,000.
pub const SITES: u32 = 870;

/// Bytes of a generated row on disk, about.
pub const BYTES_ON_DISK: u64 = 160;

/// What six processes may take to be ready: a minute, and as much again for each of so many rows.
const ROWS_LOADED_A_MINUTE: u64 = 5_000_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// Where the data lie meanwhile; `None`: where temporary files do.
    pub place: Option<PathBuf>,
    /// Stations, which decide how many rows a day has: about 29 each.
    pub sites: u32,
    /// Rows of the largest step, about.
    pub most_rows: u64,
    /// Steps, each of four times the days of the one before.
    pub steps: u32,
    /// Rounds of each step; an odd number has a median.
    pub rounds: usize,
}

/// What one size came to.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Days.
    pub days: u32,
    /// Rows of all days.
    pub rows: u64,
    /// From the start of the processes until all are ready.
    pub load_seconds: f64,
    /// Resident memory of the five nodes that hold data, at most, added up; `None` where the system does not tell.
    pub holder_bytes: Option<u64>,
    /// Likewise of the leader.
    pub leader_bytes: Option<u64>,
    /// What each question came to, in their order.
    pub answers: Vec<Answers>,
}

/// What one question came to at one size.
#[derive(Clone, Debug, Serialize)]
pub struct Answers {
    /// What was asked.
    pub question: Question,
    /// Median time to the manifest, or to the last row where the rows were read.
    pub ms: f64,
    /// Rows that all nodes together scanned for one answer.
    pub rows_scanned: u64,
    /// Rows of the answer, or groups.
    pub records: u64,
}

impl Step {
    /// What a question came to.
    ///
    /// # Panics
    /// If it was not asked.
    pub fn answers(&self, question: Question) -> &Answers {
        let answers = self.answers.iter().find(|answers| answers.question == question);
        answers.unwrap_or_else(|| panic!("`{}` was not asked", question.name()))
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The data could not be made.
    #[error("make the data")]
    Data(#[from] DatasetError),
    /// There was no folder for them.
    #[error("make a folder for the data")]
    Folder(#[from] std::io::Error),
    /// The overlay did not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A question was not answered.
    #[error("`{}` over {days} days", .question.name())]
    Unanswered {
        /// What was asked.
        question: Question,
        /// Of the step.
        days: u32,
        /// What came instead.
        source: Box<ClientError>,
    },
    /// A node did not say what it has done.
    #[error("ask a node for its counters")]
    Counters(#[from] ClientError),
}

impl Plan {
    /// Measures all steps, from the smallest to the largest; tells each as it ends.
    ///
    /// Blocks its thread now and then: run it on a runtime of several.
    ///
    /// # Errors
    /// [`RowsError`] if the data cannot be made, an overlay does not start, or a question is not answered.
    pub async fn run(&self, progress: impl Fn(&str)) -> Result<Report, RowsError> {
        let mut data = Data::new(self.place.as_deref(), self.sites)?;
        let mut steps = Vec::new();
        for days in self.days(data.rows_of_first_day()?) {
            progress(&format!("making {days} days below {}", data.root().display()));
            let rows = data.grow_to(days)?;
            progress(&format!("loading {rows} rows"));
            let smallest = steps.first().map_or(rows, |step: &Step| step.rows);
            steps.push(self.measure(&data, days, rows, smallest.min(DRAINED_ROWS)).await?);
        }
        drop(data);
        let dense = match &steps[..] {
            [smallest, _, ..] => Some(self.measure_dense(smallest, &progress).await?),
            _ => None,
        };
        Ok(Report::new(self.rounds, steps, dense))
    }

    /// The days of the smallest step, with more rows each.
    async fn measure_dense(&self, smallest: &Step, progress: impl Fn(&str)) -> Result<Step, RowsError> {
        let mut data = Data::new(self.place.as_deref(), self.sites * STEP_FACTOR)?;
        progress(&format!("making {} dense days below {}", smallest.days, data.root().display()));
        let rows = data.grow_to(smallest.days)?;
        progress(&format!("loading {rows} rows"));
        self.measure(&data, smallest.days, rows, smallest.rows.min(DRAINED_ROWS)).await
    }

    /// Days of each step. Two teams share them, so there are two at least.
    fn days(&self, rows_of_day: u64) -> Vec<u32> {
        let most = self.most_rows.div_ceil(rows_of_day) as u32;
        let step = |index| (most / STEP_FACTOR.saturating_pow(index)).max(2);
        let mut days: Vec<u32> = (0..self.steps).rev().map(step).collect();
        days.dedup();
        days
    }

    async fn measure(&self, data: &Data, days: u32, rows: u64, drained_rows: u64) -> Result<Step, RowsError> {
        let minutes = 1 + rows / ROWS_LOADED_A_MINUTE;
        let spec = ClusterSpec::of(&data.topology(), &data.root());
        let spec = spec.ready_within(Duration::from_secs(60 * minutes));
        let began = Instant::now();
        let cluster = ProcessCluster::start(&self.binary, spec)?;
        let load_seconds = began.elapsed().as_secs_f64();
        let client = cluster.client("A", "scaling")?;
        let asking = Asking { cluster: &cluster, client, days, first_day: data.first_day(), drained_rows };
        let mut answers = Vec::new();
        for _ in 0..self.rounds {
            for question in Question::ALL {
                answers.push(asking.ask(question).await?);
            }
        }
        let pids = cluster.pids();
        let peak = |ids: &dyn Fn(&str) -> bool| -> Option<u64> {
            pids.iter().filter(|(id, _)| ids(id)).map(|(_, pid)| proc::peak_bytes(*pid)).sum()
        };
        Ok(Step {
            days,
            rows,
            load_seconds,
            holder_bytes: peak(&|id| id != "A"),
            leader_bytes: peak(&|id| id == "A"),
            answers: medians(&answers),
        })
    }
}

/// Who asks whom.
struct Asking<'a> {
    cluster: &'a ProcessCluster,
    client: Client,
    days: u32,
    first_day: Day,
    drained_rows: u64,
}

impl Asking<'_> {
    async fn ask(&self, question: Question) -> Result<Answers, RowsError> {
        let scanned_before = self.rows_scanned().await?;
        let unanswered =
            |source| RowsError::Unanswered { question, days: self.days, source: Box::new(source) };
        let (took, records) = self.answer(question).await.map_err(unanswered)?;
        let rows_scanned = self.rows_scanned().await? - scanned_before;
        Ok(Answers { question, ms: took.as_secs_f64() * 1e3, rows_scanned, records })
    }

    async fn answer(&self, question: Question) -> Result<(Duration, u64), ClientError> {
        let query = question.query(self.first_day, self.drained_rows);
        let began = Instant::now();
        let result = self.client.query(&query).await?;
        if question.reads_rows() {
            self.client.chunks(&result, 0).await?.try_for_each(async |_| Ok(())).await?;
        }
        let took = began.elapsed();
        // Results of thousands of days are large, and a client may keep so many bytes of them.
        self.client.cancel(&result).await?;
        Ok((took, result.manifest.total_records))
    }

    /// By all nodes, since they started.
    async fn rows_scanned(&self) -> Result<u64, ClientError> {
        let mut rows = 0;
        for id in self.cluster.pids().keys() {
            let metrics = self.cluster.client(id, "observer")?.metrics().await?;
            let counter = |line: &str| line.strip_prefix("overlay_rows_scanned_total ")?.parse::<u64>().ok();
            rows += metrics.exposition.lines().find_map(counter).unwrap_or(0);
        }
        Ok(rows)
    }
}

/// One for each question, in their order.
fn medians(answers: &[Answers]) -> Vec<Answers> {
    let mut by_question: BTreeMap<Question, Vec<&Answers>> = BTreeMap::new();
    for answer in answers {
        by_question.entry(answer.question).or_default().push(answer);
    }
    let median = |mut answers: Vec<&Answers>| {
        answers.sort_by(|left, right| left.ms.total_cmp(&right.ms));
        answers[answers.len() / 2].clone()
    };
    by_question.into_values().map(median).collect()
}
