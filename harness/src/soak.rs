//! A long run of real processes under mixed load, in which nodes are killed, hang and restart at random.
//!
//! Half of the clients drain results whose bytes are known ([`drain`](crate::drain)); the others are goose's users of the
//! `hostile` mix, rude ones among them ([`load`](crate::load)). What goes wrong, when and for how long comes from a seed. The
//! leader stays: its memory and descriptors must be flat over the whole run, as those of every other process over its
//! life.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{CellAlignment, presets::ASCII_MARKDOWN};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, ClusterError, ClusterSpec, ProcessCluster, wait_until};
use crate::drain::{Drain, PrepareError, Record, Seen, Sightings};
use crate::fault::Fault;
use crate::load::{LoadError, LoadPlan, LoadResults, Mix, Work};
use crate::oracle::{Oracle, OracleError, TeamRange};
use crate::proc;
use crate::scenario::finds_all;

/// How long an overlay that is healed may take until the leader has found everybody.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// Time between two looks at the processes.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// What a process may grow by from the second fifth of its samples to the last, in parts of what it had: caches fill, and
/// the allocator keeps what was freed, but neither goes on.
const GROWTH: f64 = 0.15;

/// A process with fewer samples has not lived long enough to tell.
const TELLING: usize = 60;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// The data of all nodes.
    pub dataset_root: PathBuf,
    /// Clients, half of them of each kind.
    pub clients: u32,
    /// What a draining client waits between two chunks.
    pub pause: Duration,
    /// For how long.
    pub run_for: Duration,
    /// Decides what goes wrong.
    pub seed: u64,
}

/// One look at a process.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at_s: u64,
    /// The node.
    pub node: String,
    /// Its process; another one after a restart.
    pub pid: u32,
    /// Resident memory.
    pub memory_kib: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

/// How a process that lived long enough has grown.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// The node.
    pub node: String,
    /// Seconds between its first sample and its last.
    pub lived_s: u64,
    /// Median memory over the second fifth of its samples, and over the last.
    pub memory_kib: [u64; 2],
    /// Median descriptors likewise.
    pub descriptors: [u64; 2],
    /// Whether both are flat.
    pub is_flat: bool,
}

/// What came of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Decided what went wrong.
    pub seed: u64,
    /// How long it went on.
    pub seconds: u64,
    /// What went wrong, each how often.
    pub faults: BTreeMap<String, u64>,
    /// What the draining clients saw, by outcome.
    pub drained: BTreeMap<String, u64>,
    /// Rows that they read.
    pub rows: u64,
    /// Their first refusals and wrong answers.
    pub words: Vec<String>,
    /// Requests of goose's users: right, rejected, failed, wrong.
    pub mixed: [u64; 4],
    /// Why those failed.
    pub failures: BTreeMap<String, u64>,
    /// Processes that lived long enough.
    pub growth: Vec<Growth>,
    /// Every look at every process.
    pub samples: Vec<Sample>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// The cluster did not come up, or a node of it did not.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data cannot be read.
    #[error("read the dataset")]
    Oracle(#[from] OracleError),
    /// The overlay is wrong before anything goes wrong.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// goose's users could not begin.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A client could not be made, or the leader did not find everybody again.
    #[error("{0}")]
    Stuck(String),
}

impl Plan {
    /// Runs to its end.
    ///
    /// Blocks its thread now and then: run it on a runtime of several.
    ///
    /// # Errors
    /// [`SoakError`] if the overlay does not start, or does not recover from what ended.
    pub async fn run(&self, progress: impl Fn(&str)) -> Result<Report, SoakError> {
        let oracle = Oracle::read(&self.dataset_root, &TeamRange::green_and_pink())?;
        let mut cluster = ProcessCluster::start(&self.binary, ClusterSpec::six_nodes(&self.dataset_root))?;
        let drain = Arc::new(Drain::prepare(&cluster, &oracle).await?);
        drop(oracle);
        let (record, stop) = (Arc::new(Record::default()), CancellationToken::new());
        let stopping = stop.clone().drop_guard();
        let readers =
            (0..self.clients.div_ceil(2)).map(|number| cluster.client("A", &format!("reader {number}")));
        let readers = readers.collect::<Result<Vec<_>, _>>();
        let readers = readers.map_err(|error| SoakError::Stuck(error.to_string()))?;
        let draining = tokio::spawn(drain.run(readers, self.pause, record.clone(), stop));
        let load = LoadPlan {
            host: format!("http://{}", cluster.address("A")),
            work: Work::Closed { mix: Mix::Hostile, run_time: self.run_for },
            users: (self.clients / 2).max(1),
            ..LoadPlan::default()
        };
        let mixed = tokio::spawn(async move { load.run().await });
        let mut run = Run {
            plan: self,
            cluster: &mut cluster,
            began: Instant::now(),
            random: fastrand::Rng::with_seed(self.seed),
            faults: BTreeMap::new(),
            samples: Vec::new(),
        };
        run.disturb(&progress).await?;
        let (began, faults, samples) = (run.began, run.faults, run.samples);
        drop(stopping);
        let failed = |failed| SoakError::Stuck(format!("a client failed: {failed}"));
        draining.await.map_err(failed)?;
        let mixed = mixed.await.map_err(failed)??;
        Ok(self.report(began.elapsed(), faults, &record.take(), &mixed, samples))
    }

    fn report(
        &self,
        took: Duration,
        faults: BTreeMap<String, u64>,
        drained: &Sightings,
        mixed: &LoadResults,
        samples: Vec<Sample>,
    ) -> Report {
        Report {
            seed: self.seed,
            seconds: took.as_secs(),
            faults,
            drained: drained.answers.iter().map(|(seen, count)| (seen.to_string(), *count)).collect(),
            rows: drained.rows,
            words: drained.words.clone(),
            mixed: [
                mixed.successful_requests,
                mixed.rejected_requests,
                mixed.failed_requests - mixed.rejected_requests - mixed.wrong_answers,
                mixed.wrong_answers,
            ],
            failures: mixed.failures.clone(),
            growth: growth(&samples),
            samples,
        }
    }
}

/// A run on its way.
struct Run<'a> {
    plan: &'a Plan,
    cluster: &'a mut ProcessCluster,
    began: Instant,
    random: fastrand::Rng,
    faults: BTreeMap<String, u64>,
    samples: Vec<Sample>,
}

impl Run<'_> {
    /// Lets all be well for some seconds, then something goes wrong, and so on.
    async fn disturb(&mut self, progress: &impl Fn(&str)) -> Result<(), SoakError> {
        while self.began.elapsed() < self.plan.run_for {
            let well = Duration::from_millis(self.random.u64(2_000..8_000));
            self.pass(well).await;
            let nodes = self.nodes();
            if self.random.u8(..4) == 0 {
                self.note(progress, format!("stop and start {}", nodes[0]));
                self.cluster.stop(&nodes[0]).await?;
                self.cluster.restart(&nodes[0]).await?;
            } else {
                let faults: Vec<Fault> = nodes.iter().map(|node| self.fault(node)).collect();
                for fault in &faults {
                    self.note(progress, fault.to_string());
                    self.cluster.inject(fault).await?;
                }
                let wrong = Duration::from_millis(self.random.u64(1_000..8_000));
                self.pass(wrong).await;
                for fault in &faults {
                    self.cluster.heal(fault).await?;
                }
            }
            self.recover().await?;
        }
        Ok(())
    }

    /// One node that is not the leader, or two.
    fn nodes(&mut self) -> Vec<String> {
        let mut others: Vec<String> = (&*self.cluster as &dyn Cluster).ids();
        others.retain(|id| id != "A");
        self.random.shuffle(&mut others);
        others.truncate(if self.random.u8(..3) == 0 { 2 } else { 1 });
        others
    }

    fn fault(&mut self, node: &str) -> Fault {
        match self.random.bool() {
            true => Fault::crash(node),
            false => Fault::hang(node),
        }
    }

    fn note(&mut self, progress: &impl Fn(&str), what: String) {
        progress(&format!("{:>6} s  {what}", self.began.elapsed().as_secs()));
        let kind = what.rsplit_once(' ').map_or(what.as_str(), |(kind, _)| kind).to_owned();
        *self.faults.entry(kind).or_default() += 1;
    }

    async fn recover(&mut self) -> Result<(), SoakError> {
        let cluster = &*self.cluster;
        match wait_until(RECOVERS_WITHIN, async || finds_all(cluster, "A").await.then_some(())).await {
            Some(()) => Ok(()),
            None => {
                let nodes = (cluster as &dyn Cluster).dump().await;
                Err(SoakError::Stuck(format!(
                    "after {RECOVERS_WITHIN:?} A has not found everybody (seed {})\n{nodes}",
                    self.plan.seed
                )))
            }
        }
    }

    /// Lets time pass, and looks at the processes.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let at_s = self.began.elapsed().as_secs();
            for (node, pid) in self.cluster.pids() {
                self.samples.extend(sample(at_s, node, pid));
            }
            tokio::time::sleep_until(end.min(Instant::now() + SAMPLE_EVERY)).await;
        }
    }
}

/// `None` for a process that is gone, and where the system does not tell.
fn sample(at_s: u64, node: String, pid: u32) -> Option<Sample> {
    let memory_kib = proc::resident_bytes(pid)? / 1024;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Sample { at_s, node, pid, memory_kib, descriptors })
}

fn growth(samples: &[Sample]) -> Vec<Growth> {
    let processes: BTreeSet<(&str, u32)> =
        samples.iter().map(|sample| (sample.node.as_str(), sample.pid)).collect();
    let of = |(node, pid): (&str, u32)| {
        let own: Vec<&Sample> =
            samples.iter().filter(|sample| (sample.node.as_str(), sample.pid) == (node, pid)).collect();
        let fifth = own.len() / 5;
        if own.len() < TELLING {
            return None;
        }
        let medians = |of: fn(&Sample) -> u64| {
            [&own[fifth..2 * fifth], &own[own.len() - fifth..]].map(|samples| median(samples, of))
        };
        let (memory_kib, descriptors) =
            (medians(|sample| sample.memory_kib), medians(|sample| sample.descriptors));
        let is_flat = |[early, late]: [u64; 2]| late as f64 <= early as f64 * (1.0 + GROWTH);
        Some(Growth {
            node: node.to_owned(),
            lived_s: own[own.len() - 1].at_s - own[0].at_s,
            is_flat: is_flat(memory_kib) && is_flat(descriptors),
            memory_kib,
            descriptors,
        })
    };
    processes.into_iter().filter_map(of).collect()
}

fn median(samples: &[&Sample], of: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(|sample| of(sample)).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

impl Report {
    /// Whether no answer was wrong, and no process has grown.
    pub fn holds(&self) -> bool {
        let wrong = self.drained.get(&Seen::Wrong.to_string()).copied().unwrap_or(0) + self.mixed[3];
        wrong == 0 && self.growth.iter().all(|growth| growth.is_flat)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(formatter, "soak     {} s, seed {}", self.seconds, self.seed)?;
        writeln!(formatter, "faults   {}", listed(&self.faults))?;
        writeln!(formatter, "drained  {}; {} rows", listed(&self.drained), self.rows)?;
        let [right, rejected, failed, wrong] = self.mixed;
        writeln!(formatter, "mixed    {right} right, {rejected} rejected, {failed} failed, {wrong} wrong")?;
        for (cause, count) in &self.failures {
            writeln!(formatter, "           {count} {cause}")?;
        }
        let mut table = comfy_table::Table::new();
        let header = ["node", "lived s", "MiB early", "late", "descriptors early", "late", "flat"];
        table.load_style(ASCII_MARKDOWN).set_header(header);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for Growth { node, lived_s, memory_kib, descriptors, is_flat } in &self.growth {
            let mib = memory_kib.map(|kib| format!("{:.1}", kib as f64 / 1024.0));
            let [early, late] = descriptors.map(|count| count.to_string());
            let [mib_early, mib_late] = mib;
            let flat = if *is_flat { "yes" } else { "NO" };
            table.add_row([
                node.clone(),
                lived_s.to_string(),
                mib_early,
                mib_late,
                early,
                late,
                flat.to_owned(),
            ]);
        }
        writeln!(formatter, "{table}")?;
        self.words.iter().try_for_each(|words| writeln!(formatter, "  {words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(memory_kib: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |at_s| Sample {
            at_s,
            node: "A".to_owned(),
            pid: 7,
            memory_kib: memory_kib(at_s),
            descriptors: 20,
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn process_that_goes_on_growing_is_not_flat() {
        let verdict = |samples: &[Sample]| growth(samples).iter().map(|it| it.is_flat).collect::<Vec<_>>();
        // Its caches fill in the first fifth.
        assert_eq!(verdict(&samples(|at_s| 1000 + 50 * at_s.min(20))), [true]);
        assert_eq!(verdict(&samples(|at_s| 1000 + 5 * at_s)), [false]);
        assert_eq!(
            verdict(&samples(|_| 1000)[..TELLING - 1]),
            [] as [bool; 0],
            "it did not live long enough"
        );
    }
}
