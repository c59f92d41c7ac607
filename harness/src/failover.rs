//! What clients see while nodes are killed or stopped and edges are cut, one after the other, with real processes.
//!
//! Clients drain results the whole time ([`drain`](crate::drain)). Each trial begins its faults, waits, ends them, and
//! waits until the leader has found everybody again. What clients saw from the beginning to the end of a trial is one row
//! of the [`Table`]: it is as promised if nothing was wrong, and if nobody was refused but where days were out of reach.
//!
//! Nodes and pairs of nodes fail as processes on this host; edges are cut between network namespaces, one for each node,
//! where the machine has them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{CellAlignment, presets::ASCII_MARKDOWN};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(target_os = "linux")]
use crate::cluster::NetnsCluster;
use crate::cluster::{Cluster, ClusterError, ClusterSpec, ProcessCluster, wait_until};
use crate::drain::{Drain, PrepareError, Record, Seen, SeenCall, Sightings};
use crate::fault::Fault;
use crate::oracle::{Oracle, OracleError, OracleQuery, TeamRange};
use crate::scenario::step::{Form, Question};
use crate::scenario::{Trouble, excuses, finds_all};
use crate::topology::Topology;

/// A call was disturbed if it took so many times as long as the slowest one without a fault.
const DISTURBED: u32 = 2;

/// How long an overlay that is healed may take until the leader has found everybody.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// How long a killed leader stays away: its clients wait for it.
const LEADER_AWAY: Duration = Duration::from_secs(1);

/// What to do, on what, how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Takes the arguments of `overlay`.
    pub binary: PathBuf,
    /// The data of all nodes.
    pub dataset_root: PathBuf,
    /// Clients that drain results at the same time.
    pub clients: u32,
    /// What each waits between two chunks.
    pub pause: Duration,
    /// How long each fault goes on.
    pub trial: Duration,
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
struct Trial {
    name: String,
    faults: Vec<Fault>,
}

/// What clients saw in one trial.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What went wrong.
    pub fault: String,
    /// Days that no way led to.
    pub days_out_of_reach: usize,
    /// Answers whose every byte was right.
    pub right: u64,
    /// Answers that said which days they lack; only one question in seven accepts that.
    pub incomplete: u64,
    /// Errors that named the days out of reach.
    pub days_named: u64,
    /// Other errors.
    pub failed: u64,
    /// Answers that were not what they should be.
    pub wrong: u64,
    /// Queries and chunks.
    pub calls: u64,
    /// The slowest of them, in milliseconds.
    pub slowest_ms: u64,
    /// From the fault to the end of the last call that failed, or took twice as long as the slowest one without a fault, in
    /// milliseconds.
    pub disturbed_ms: u64,
    /// From the end of the fault until the leader had found everybody, in milliseconds.
    pub found_again_ms: u64,
    /// The first refusals and wrong answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// Whether that is what is promised.
    pub as_promised: bool,
}

/// All trials.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// In the order in which they were made. The first on each overlay is without a fault.
    pub rows: Vec<Row>,
    /// Why no edge was cut, if none was.
    pub edges_skipped: Option<String>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// A cluster did not come up, or a node of it did not.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data cannot be read.
    #[error("read the dataset")]
    Oracle(#[from] OracleError),
    /// The overlay is wrong before anything goes wrong.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A client could not be made, or the leader did not find everybody again.
    #[error("{0}")]
    Stuck(String),
}

impl Trial {
    fn without_fault(name: &str) -> Self {
        Trial { name: name.to_owned(), faults: Vec::new() }
    }
}

impl Plan {
    /// Makes all trials.
    ///
    /// Blocks its thread: run it on a runtime of several.
    ///
    /// # Errors
    /// [`FailoverError`] if a cluster does not start, or does not recover from a fault that ended.
    pub async fn run(&self, progress: impl Fn(&Row)) -> Result<Table, FailoverError> {
        let oracle = Oracle::read(&self.dataset_root, &TeamRange::green_and_pink())?;
        let mut table = Table::default();
        {
            let mut cluster = ProcessCluster::start(&self.binary, self.spec())?;
            self.trials(&mut cluster, &oracle, &of_nodes(), &mut table, &progress).await?;
        }
        table.edges_skipped = self.cut_edges(&oracle, &mut table, &progress).await?;
        Ok(table)
    }

    /// Nothing is taken from a cache of the leader, so that every call needs the nodes behind it.
    fn spec(&self) -> ClusterSpec {
        let cache = serde_json::json!({"cache": {"result_bytes": 0, "chunk_bytes": 0, "aggregate_bytes": 0}});
        ClusterSpec::six_nodes(&self.dataset_root).with(cache)
    }

    #[cfg(target_os = "linux")]
    async fn cut_edges(
        &self,
        oracle: &Oracle,
        table: &mut Table,
        progress: &impl Fn(&Row),
    ) -> Result<Option<String>, FailoverError> {
        if let Some(why) = NetnsCluster::unavailable() {
            return Ok(Some(why));
        }
        let mut cluster = NetnsCluster::start_apart(&self.binary, self.spec())?;
        self.trials(&mut cluster, oracle, &of_edges(), table, progress).await?;
        Ok(None)
    }

    #[cfg(not(target_os = "linux"))]
    async fn cut_edges(
        &self,
        _oracle: &Oracle,
        _table: &mut Table,
        _progress: &impl Fn(&Row),
    ) -> Result<Option<String>, FailoverError> {
        Ok(Some("only Linux has network namespaces".to_owned()))
    }

    async fn trials(
        &self,
        cluster: &mut dyn Cluster,
        oracle: &Oracle,
        trials: &[Trial],
        table: &mut Table,
        progress: &impl Fn(&Row),
    ) -> Result<(), FailoverError> {
        let drain = Arc::new(Drain::prepare(cluster, oracle).await?);
        let client = |number: u32| cluster.client("A", &format!("reader {number}"));
        let clients: Result<Vec<_>, _> = (0..self.clients).map(client).collect();
        let clients = clients.map_err(|error| FailoverError::Stuck(error.to_string()))?;
        let (record, stop) = (Arc::new(Record::default()), CancellationToken::new());
        let draining = tokio::spawn(drain.run(clients, self.pause, record.clone(), stop.clone()));
        let stopping = stop.drop_guard();
        let mut usual = Duration::MAX;
        for trial in trials {
            let row = self.trial(cluster, trial, &record, usual).await?;
            if trial.faults.is_empty() {
                usual = Duration::from_millis(row.slowest_ms);
            }
            progress(&row);
            table.rows.push(row);
        }
        drop(stopping);
        draining.await.map_err(|failed| FailoverError::Stuck(format!("a client failed: {failed}")))
    }

    async fn trial(
        &self,
        cluster: &mut dyn Cluster,
        trial: &Trial,
        record: &Record,
        usual: Duration,
    ) -> Result<Row, FailoverError> {
        drop(record.take());
        let began = Instant::now();
        for fault in &trial.faults {
            cluster.inject(fault).await?;
        }
        let of_leader = trial.faults.iter().any(|fault| *fault == Fault::crash("A"));
        tokio::time::sleep(if of_leader { LEADER_AWAY } else { self.trial }).await;
        for fault in &trial.faults {
            cluster.heal(fault).await?;
        }
        let healed = Instant::now();
        let found = wait_until(RECOVERS_WITHIN, async || finds_all(cluster, "A").await.then_some(())).await;
        let found_again = healed.elapsed();
        if found.is_none() {
            let nodes = cluster.dump().await;
            return Err(FailoverError::Stuck(format!(
                "{found_again:?} after `{}` ended, A has not found everybody\n{nodes}",
                trial.name
            )));
        }
        tokio::time::sleep(self.trial / 2).await;
        Ok(row(trial, &record.take(), began, found_again, usual))
    }
}

/// `usual` is what the slowest call took without a fault.
fn row(trial: &Trial, seen: &Sightings, began: Instant, found_again: Duration, usual: Duration) -> Row {
    let days_out_of_reach = out_of_reach(&trial.faults).len();
    let disturbed = |call: &&SeenCall| !call.answered || call.took > usual.saturating_mul(DISTURBED);
    let ended = |call: &SeenCall| (call.began + call.took).saturating_duration_since(began);
    let last = seen.calls.iter().filter(disturbed).map(ended).max().unwrap_or_default();
    let slowest = seen.calls.iter().map(|call| call.took).max().unwrap_or_default();
    let [right, incomplete, days_named, overloaded, failed, wrong] =
        [Seen::Right, Seen::Incomplete, Seen::Named, Seen::Overloaded, Seen::Failed, Seen::Wrong]
            .map(|what| seen.count(what));
    let of_leader = trial.faults.contains(&Fault::crash("A"));
    let refused = overloaded + if of_leader { 0 } else { failed };
    let lacking = incomplete + days_named;
    Row {
        fault: trial.name.clone(),
        days_out_of_reach,
        right,
        incomplete,
        days_named,
        failed: failed + overloaded,
        wrong,
        calls: seen.calls.len() as u64,
        slowest_ms: slowest.as_millis() as u64,
        disturbed_ms: last.as_millis() as u64,
        found_again_ms: found_again.as_millis() as u64,
        words: seen.words.clone(),
        as_promised: wrong == 0 && refused == 0 && right > 0 && (days_out_of_reach > 0 || lacking == 0),
    }
}

/// The days that no way leads to from the leader.
fn out_of_reach(faults: &[Fault]) -> BTreeSet<u32> {
    let everything = Question {
        node: "A".to_owned(),
        form: Form::Json,
        query: OracleQuery::default(),
        aggregate: None,
        chunk_rows: None,
        allow_partial: false,
    };
    // A leader that is gone answers nothing, also for days that all others have.
    let in_force = faults.iter().filter(|fault| **fault != Fault::crash("A")).collect();
    let trouble = Trouble { in_force, ..Trouble::default() };
    excuses(&everything, None, &Topology::six_nodes(), &trouble).days
}

/// Each node but the leader killed and stopped, the pair of pink's that leaves D, and the leader killed.
fn of_nodes() -> Vec<Trial> {
    let others = ["B", "C", "D", "E", "F"];
    let kill = |node: &str| Trial { name: format!("kill -9 {node}"), faults: vec![Fault::crash(node)] };
    let stop = |node: &str| Trial { name: format!("SIGSTOP {node}"), faults: vec![Fault::hang(node)] };
    let mut trials = vec![Trial::without_fault("none")];
    trials.extend(others.map(kill));
    trials.extend(others.map(stop));
    trials.push(Trial {
        name: "kill -9 E and F".to_owned(),
        faults: vec![Fault::crash("E"), Fault::crash("F")],
    });
    trials
        .push(Trial { name: "SIGSTOP E and F".to_owned(), faults: vec![Fault::hang("E"), Fault::hang("F")] });
    trials.push(Trial {
        name: format!("kill -9 A, back after {} s", LEADER_AWAY.as_secs()),
        faults: vec![Fault::crash("A")],
    });
    trials
}

#[cfg(target_os = "linux")]
fn of_edges() -> Vec<Trial> {
    let cut = |(left, right): &(String, String)| Trial {
        name: format!("cut {left} | {right}"),
        faults: vec![Fault::partition(left, right)],
    };
    let edges = Topology::six_nodes().edges;
    std::iter::once(Trial::without_fault("none, hosts apart")).chain(edges.iter().map(cut)).collect()
}

impl Table {
    /// Whether every trial was as promised.
    pub fn is_as_promised(&self) -> bool {
        self.rows.iter().all(|row| row.as_promised)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        let header = [
            "fault",
            "days lost",
            "calls",
            "right",
            "incomplete",
            "days named",
            "failed",
            "wrong",
            "slowest ms",
            "disturbed ms",
            "found again ms",
        ];
        table.load_style(ASCII_MARKDOWN).set_header(header);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            let numbers = [
                row.days_out_of_reach as u64,
                row.calls,
                row.right,
                row.incomplete,
                row.days_named,
                row.failed,
                row.wrong,
                row.slowest_ms,
                row.disturbed_ms,
                row.found_again_ms,
            ];
            table.add_row(std::iter::once(row.fault.clone()).chain(numbers.map(|number| number.to_string())));
        }
        writeln!(formatter, "{table}")?;
        if let Some(why) = &self.edges_skipped {
            writeln!(formatter, "no edge was cut: {why}")?;
        }
        for row in self.rows.iter().filter(|row| !row.as_promised) {
            writeln!(formatter, "not as promised: {}", row.fault)?;
            row.words.iter().try_for_each(|words| writeln!(formatter, "  {words}"))?;
        }
        Ok(())
    }
}

/// The command that takes the arguments of `overlay`, which is built beside this one.
///
/// # Errors
/// In words, if it is not there.
pub fn node_binary() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this command: {error}"))?;
    let name = format!("overlay-node{}", std::env::consts::EXE_SUFFIX);
    let beside = own.parent().unwrap_or(Path::new(".")).join(&name);
    match beside.is_file() {
        true => Ok(beside),
        false => Err(format!("no {name} beside {}: build the harness's binaries", own.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right answers, and `seen` beside them.
    fn verdict(fault: Fault, seen: Seen) -> bool {
        let mut sightings = Sightings::default();
        sightings.answers.insert(Seen::Right, 5);
        sightings.answers.insert(seen, 5);
        let trial = Trial { name: fault.to_string(), faults: vec![fault] };
        row(&trial, &sightings, Instant::now(), Duration::ZERO, Duration::MAX).as_promised
    }

    #[test]
    fn nobody_is_refused_but_where_days_are_out_of_reach() {
        // C can be reached through B alone, pink through D as well as E.
        assert_eq!(["B", "E"].map(|node| verdict(Fault::crash(node), Seen::Named)), [true, false]);
        assert_eq!(["B", "E"].map(|node| verdict(Fault::hang(node), Seen::Incomplete)), [true, false]);
        assert_eq!(["A", "B"].map(|node| verdict(Fault::crash(node), Seen::Failed)), [true, false]);
        assert_eq!(["A", "B"].map(|node| verdict(Fault::crash(node), Seen::Wrong)), [false, false]);
    }

    #[test]
    fn disturbance_lasts_until_the_end_of_the_last_call_that_was_slow_or_failed() {
        let began = Instant::now();
        let call = |after_ms, took_ms, answered| SeenCall {
            began: began + Duration::from_millis(after_ms),
            took: Duration::from_millis(took_ms),
            answered,
        };
        let disturbed_ms = |calls, usual_ms| {
            let seen = Sightings { calls, ..Sightings::default() };
            let usual = Duration::from_millis(usual_ms);
            let row = row(&Trial::without_fault("some"), &seen, began, Duration::ZERO, usual);
            (row.disturbed_ms, row.slowest_ms)
        };
        let calls = vec![call(10, 2_000, true), call(2_500, 100, false), call(3_000, 400, true)];
        assert_eq!(disturbed_ms(calls.clone(), 200), (2_600, 2_000));
        assert_eq!(disturbed_ms(calls.clone(), 199), (3_400, 2_000));
        assert_eq!(disturbed_ms(calls[..1].to_vec(), 1_000), (0, 2_000));
    }
}
