//! Performs the steps of a scenario and holds every answer against what must hold.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::future::join_all;
use overlay::client::{CheckedChunk, Client, QueryResult};
use tokio::time::Instant;

use super::ask::{Answer, ask, missing, typed, within_patience};
use super::step::{Form, Question, Step};
use super::{LEASE_MS, Prepared, reach};
use crate::answer;
use crate::cluster::{Cluster, ClusterError, Driver, wait_until};
use crate::fault::Fault;
use crate::oracle::{Oracle, OracleQuery, OracleRow};
use crate::property::{self, Expected, Lease, Refusal, Violation};
use crate::report::Failure;
use crate::topology::Topology;

/// How long an overlay that is healed may take until all its nodes have seen so.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// Rows of an answer by the old contract that has no limit.
const OLD_LIMIT: usize = 2_000;

/// Is told of every step before it begins: its number from 1, and the step.
pub type Progress<'a> = &'a mut dyn FnMut(usize, &Step);

/// What came of a run in which everything holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Digests of the chunks of whole answers, for comparing runs: by step, and by question of that step.
    pub digests: BTreeMap<(usize, usize), Vec<u64>>,
    /// How much was held against the oracle.
    pub tally: Tally,
}

/// How much runs have shown: a run whose questions find nothing shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers.
    pub answers: u64,
    /// Rows and groups in them, and in chunks of kept results.
    pub rows: u64,
    /// Questions and reads that got no answer, and were excused.
    pub refusals: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.rows += other.rows;
        self.refusals += other.refusals;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { answers, rows, refusals } = self;
        write!(formatter, "{answers} answers with {rows} rows, {refusals} refusals")
    }
}

impl Prepared {
    /// Performs the first `steps` steps on a cluster of its own.
    ///
    /// # Errors
    /// [`Failure`] of the first step after which something does not hold.
    pub fn run(
        &self,
        driver: &Driver,
        steps: usize,
        progress: Progress<'_>,
    ) -> Result<Transcript, Box<Failure>> {
        let at = Cell::new(0);
        let body = async |cluster: &mut dyn Cluster| {
            let mut run = Run::new(self, matches!(driver, Driver::Simulated { .. }), cluster);
            for (index, step) in self.steps.iter().take(steps).enumerate() {
                at.set(index + 1);
                progress(index + 1, step);
                if let Err(violation) = run.perform(index + 1, step).await {
                    let nodes = run.cluster.dump().await;
                    return Err(Box::new(self.failure(driver, index + 1, violation, run.faults, nodes)));
                }
            }
            Ok(run.transcript)
        };
        let broken = |what: String| {
            let nodes = "not asked".to_owned();
            Box::new(self.failure(driver, at.get(), property::nothing_breaks(what), BTreeMap::new(), nodes))
        };
        match catch_unwind(AssertUnwindSafe(|| driver.run(self.cluster(), body))) {
            Ok(Ok(done)) => done,
            Ok(Err(cluster)) => Err(broken(cluster.to_string())),
            Err(panic) => Err(broken(words_of(&*panic))),
        }
    }

    fn failure(
        &self,
        driver: &Driver,
        step: usize,
        violation: Violation,
        faults: BTreeMap<Fault, usize>,
        nodes: String,
    ) -> Failure {
        Failure {
            violation,
            step,
            steps: self.steps.len(),
            step_words: self.steps.get(step.wrapping_sub(1)).map(ToString::to_string).unwrap_or_default(),
            driver: driver.clone(),
            topology: self.topology.to_string(),
            data: self.data(),
            faults: faults.into_iter().map(|(fault, since)| (fault.to_string(), since)).collect(),
            nodes,
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without words"))
}

/// A run on its way.
struct Run<'a> {
    oracle: &'a Oracle,
    topology: &'a Topology,
    cluster: &'a mut dyn Cluster,
    time_is_virtual: bool,
    /// What goes on, and since which step.
    faults: BTreeMap<Fault, usize>,
    opened: BTreeMap<usize, Opened>,
    transcript: Transcript,
}

/// A result that is kept.
struct Opened {
    question: Question,
    client: Client,
    result: QueryResult,
    expected: Vec<Expected>,
    /// It was touched no earlier than this, as far as is known for sure.
    touched_after: Instant,
    /// And perhaps as late as this.
    touched_before: Instant,
    /// Whether it was cancelled, or its node crashed; perhaps, if nobody answered the cancellation.
    is_over: IsOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum IsOver {
    No,
    Perhaps,
    Yes,
}

impl<'a> Run<'a> {
    fn new(prepared: &'a Prepared, time_is_virtual: bool, cluster: &'a mut dyn Cluster) -> Self {
        Run {
            oracle: &prepared.oracle,
            topology: &prepared.topology,
            cluster,
            time_is_virtual,
            faults: BTreeMap::new(),
            opened: BTreeMap::new(),
            transcript: Transcript::default(),
        }
    }

    /// Whether something is wrong that excuses a question's having no answer, or not a whole one.
    fn is_excused(&self, question: &Question) -> bool {
        let faults: Vec<&Fault> = self.faults.keys().collect();
        !faults.is_empty() && !reach::must_be_answered(question, self.topology, &faults)
    }

    async fn perform(&mut self, number: usize, step: &Step) -> Result<(), Violation> {
        match step {
            Step::Ask(questions) => self.ask(number, questions).await,
            Step::Open(question) => self.open(number, question).await,
            Step::Read { opened_at, indices } => self.read(*opened_at, indices).await,
            Step::Cancel { opened_at } => self.cancel(*opened_at).await,
            Step::Inject(fault) => self.inject(number, fault).await,
            Step::Heal(fault) => self.heal(fault).await,
            Step::Wait(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
            Step::Rest => self.rest().await,
        }
    }

    async fn ask(&mut self, step: usize, questions: &[Question]) -> Result<(), Violation> {
        let cluster = &*self.cluster;
        let asking = questions.iter().enumerate().map(|(number, question)| ask(cluster, question, number));
        for (number, (question, answer)) in questions.iter().zip(join_all(asking).await).enumerate() {
            match answer {
                Err(refusal) => {
                    self.transcript.tally.refusals += 1;
                    property::refusal_has_a_cause(&refusal, self.is_excused(question))?;
                }
                Ok(answer) => {
                    self.check(question, &answer)?;
                    self.transcript.tally.answers += 1;
                    self.transcript.tally.rows += answer.rows.len() as u64;
                    if answer.missing.is_empty() && question.form != Form::Old {
                        self.transcript.digests.insert((step, number), answer.digests);
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&self, question: &Question, answer: &Answer) -> Result<(), Violation> {
        property::missing_days_have_a_cause(
            &answer.missing,
            question.allow_partial,
            self.is_excused(question),
        )?;
        property::scatter_gather_equals_oracle(
            &expected(self.oracle, question, &answer.missing),
            &answer.rows,
        )
    }

    async fn open(&mut self, step: usize, question: &Question) -> Result<(), Violation> {
        let client = self.cluster.client(&question.node, &format!("reader of step {step}"));
        let client = client.map_err(|error| property::nothing_breaks(error.to_string()))?;
        let touched_after = Instant::now();
        let query = typed(question);
        let result = within_patience(async { Ok(client.query(&query).await?) }).await;
        let result = match result {
            Ok(result) => result,
            Err(refusal) => return property::refusal_has_a_cause(&refusal, self.is_excused(question)),
        };
        let missing = missing(&result);
        property::missing_days_have_a_cause(&missing, question.allow_partial, self.is_excused(question))?;
        let expected = expected(self.oracle, question, &missing);
        let (question, touched_before) = (question.clone(), Instant::now());
        let opened =
            Opened { question, client, result, expected, touched_after, touched_before, is_over: IsOver::No };
        self.opened.insert(step, opened);
        Ok(())
    }

    async fn read(&mut self, opened_at: usize, indices: &[u32]) -> Result<(), Violation> {
        // The step may have been refused, and then there is nothing to read.
        let Some(mut opened) = self.opened.remove(&opened_at) else { return Ok(()) };
        let is_excused = self.is_excused(&opened.question);
        for index in indices {
            let index = index % opened.result.chunk_count();
            let asked = Instant::now();
            let chunk =
                within_patience(async { Ok(opened.client.chunk(&opened.result, index).await?) }).await;
            let lease = opened.lease(asked);
            property::lease_decides_what_can_be_read(lease, chunk.as_ref().map(drop), is_excused)?;
            opened.touched_before = Instant::now();
            match chunk {
                Err(_) => self.transcript.tally.refusals += 1,
                Ok(chunk) => {
                    opened.touched_after = asked;
                    self.transcript.tally.rows += opened.check(chunk)?;
                }
            }
        }
        self.opened.insert(opened_at, opened);
        Ok(())
    }

    async fn cancel(&mut self, opened_at: usize) -> Result<(), Violation> {
        let is_disturbed = !self.faults.is_empty();
        let Some(opened) = self.opened.get_mut(&opened_at) else { return Ok(()) };
        let cancelled = within_patience(async { Ok(opened.client.cancel(&opened.result).await?) }).await;
        match cancelled {
            Err(refusal) => {
                opened.is_over = opened.is_over.max(IsOver::Perhaps);
                property::refusal_has_a_cause(&refusal, is_disturbed)
            }
            Ok(_) => {
                opened.is_over = IsOver::Yes;
                Ok(())
            }
        }
    }

    async fn inject(&mut self, step: usize, fault: &Fault) -> Result<(), Violation> {
        self.cluster.inject(fault).await.map_err(broken)?;
        self.faults.insert(fault.clone(), step);
        if let Fault::Crash { node } = fault {
            self.opened
                .values_mut()
                .filter(|opened| opened.question.node == *node)
                .for_each(|opened| opened.is_over = IsOver::Yes);
        }
        Ok(())
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.cluster.heal(fault).await.map_err(broken)?;
        self.faults.remove(fault);
        match self.faults.is_empty() {
            true => self.recover().await,
            false => Ok(()),
        }
    }

    async fn recover(&self) -> Result<(), Violation> {
        let cluster = &*self.cluster;
        let well = wait_until(RECOVERS_WITHIN, async || {
            let nodes = cluster.ids().into_iter().map(|id| is_well(cluster, id));
            join_all(nodes).await.into_iter().all(|is_well| is_well).then_some(())
        });
        let nodes = match well.await {
            Some(()) => Ok(()),
            None => Err(format!("not after {RECOVERS_WITHIN:?}")),
        };
        property::overlay_recovers_once_it_is_healed(nodes)
    }

    async fn rest(&mut self) -> Result<(), Violation> {
        let leader = self.cluster.topology().leader().to_owned();
        for node in self.cluster.ids() {
            let process = self.cluster.overlay().process(&node);
            let team = process.filter(|process| *process.id != *leader).map(|process| process.team.clone());
            let query = OracleQuery { team, ..OracleQuery::default() };
            let everything = Question {
                node,
                form: Form::Json,
                query,
                aggregate: None,
                chunk_rows: None,
                allow_partial: false,
            };
            match ask(&*self.cluster, &everything, 0).await {
                Err(refusal) => property::refusal_has_a_cause(&refusal, false)?,
                Ok(answer) => self.check(&everything, &answer)?,
            }
        }
        if self.time_is_virtual {
            tokio::time::sleep(Duration::from_millis(LEASE_MS * 2)).await;
        }
        for node in self.cluster.ids() {
            let client = self
                .cluster
                .client(&node, "")
                .map_err(|error| property::nothing_breaks(error.to_string()))?;
            let metrics =
                client.metrics().await.map_err(|error| property::nothing_breaks(error.to_string()))?;
            property::nothing_is_held_at_rest(&node, &metrics, self.time_is_virtual)?;
        }
        Ok(())
    }
}

impl Opened {
    /// What is known of its lease when a read that was asked at that time is answered now.
    fn lease(&self, asked: Instant) -> Lease {
        let ttl = Duration::from_millis(LEASE_MS);
        let must_be_over = self.is_over == IsOver::Yes || asked >= self.touched_before + ttl;
        let may_be_over = self.is_over >= IsOver::Perhaps || Instant::now() >= self.touched_after + ttl;
        Lease { must_be_over, may_be_over: must_be_over || may_be_over }
    }

    /// How many rows the chunk has, if they are the right ones.
    fn check(&self, chunk: CheckedChunk) -> Result<u64, Violation> {
        let index = chunk.index;
        let rows_before: u32 = self.result.manifest.chunk_rows[..index as usize].iter().sum();
        let rows = self.result.manifest.chunk_rows[index as usize];
        let its_own = (rows_before as usize)..(rows_before + rows) as usize;
        // A result that lacks rows fails here as well: its chunks reach beyond what is expected, or end before.
        let expected = self.expected.get(its_own).unwrap_or_default();
        let found = answer::rows(&self.result, &[chunk]);
        property::chunk_has_its_rows_of_the_result(index, expected, &found)?;
        let total = self.result.manifest.total_records;
        if total != self.expected.len() as u64 {
            let rows: Vec<_> = self.expected.iter().take(total as usize).map(|it| it.row.clone()).collect();
            property::scatter_gather_equals_oracle(&self.expected, &rows)?;
        }
        Ok(u64::from(rows))
    }
}

fn broken(error: ClusterError) -> Violation {
    property::nothing_breaks(error.to_string())
}

async fn is_well(cluster: &dyn Cluster, id: String) -> bool {
    let Ok(client) = cluster.client(&id, "") else { return false };
    let metrics = within_patience(async { Ok::<_, Refusal>(client.metrics().await?) }).await;
    metrics.is_ok_and(|metrics| {
        metrics.ready && metrics.neighbours.iter().all(|neighbour| neighbour.state == "up")
    })
}

/// What the oracle says to a question, without the days that the answer says it lacks.
fn expected(oracle: &Oracle, question: &Question, missing: &BTreeSet<u32>) -> Vec<Expected> {
    if let Some((measure, keys)) = &question.aggregate {
        let groups = oracle.aggregate(&question.query, *measure, keys).into_iter().enumerate();
        return groups.map(|(index, row)| Expected { origin: format!("group {index}"), row }).collect();
    }
    let to_json = match question.form {
        Form::Old => OracleRow::to_legacy_json,
        Form::Arrow | Form::Json => OracleRow::to_json,
    };
    let limit = match question.form {
        Form::Old => question.query.limit.or(Some(OLD_LIMIT)),
        Form::Arrow | Form::Json => question.query.limit,
    };
    let all = oracle.rows(&OracleQuery { limit: None, ..question.query.clone() });
    let there = all.into_iter().filter(|row| !missing.contains(&row.day)).take(limit.unwrap_or(usize::MAX));
    let origin = |row: &OracleRow| format!("day {}, file {}.csv, row {}", row.day, row.file_stem, row.line);
    there.map(|row| Expected { origin: origin(row), row: to_json(row) }).collect()
}
