//! Performs the steps of a scenario and holds every answer against what must hold.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::future::{join, join_all};
use overlay::client::NodeMetrics;
use overlay::coverage::Entry;
use overlay::placement::Placement;
use serde_json::Value;
use tokio::time::Instant;
use tonic::Code;

use super::ask::{Answer, ask, call, reasons};
use super::kept::Opened;
use super::reach::{self, Excuses, Trouble};
use super::revision::Revision;
use super::step::{Form, Question, Step};
use super::{LEASE_MS, Prepared, panics};
use crate::cluster::{Cluster, Driver, wait_until};
use crate::fault::Fault;
use crate::oracle::{Oracle, OracleQuery, OracleRow};
use crate::property::{self, Expected, Refusal, Violation};
use crate::report::Failure;
use crate::topology::Topology;

/// How long an overlay that is healed may take until all its nodes have seen so.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);

/// How long the end of a fault may go unnoticed while others go on, in keepalives: until nodes that are avoided are asked
/// again, which takes the time between two probes and that of a probe.
const NOTICED_WITHIN_KEEPALIVES: u32 = 10;

/// Until a connection that carries nothing is given up, which takes two, and one more.
const KEEPALIVES_OF_A_CONNECTION: u32 = 3;

/// How long a node may take until it holds nothing more.
const RESTS_WITHIN: Duration = Duration::from_secs(5);

/// How long the work for a client that is gone may go on.
const STOPS_WITHIN: Duration = Duration::from_millis(100);

/// Rows of an answer by the old contract that has no limit.
const OLD_LIMIT: usize = 2_000;

/// Is told of every step before it begins: when, since the run began, its number from 1, and the step.
pub type Progress<'a> = &'a mut dyn FnMut(Duration, usize, &Step);

/// What came of a run in which everything holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Digests of the chunks of whole answers, for comparing runs: by step, and by question of that step.
    pub digests: BTreeMap<(usize, usize), Vec<u64>>,
    /// How much was held against the oracle.
    pub tally: Tally,
    /// When each step was done, since the first began.
    pub done_at: Vec<Duration>,
}

/// How much runs have shown: a run whose questions find nothing shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers.
    pub answers: u64,
    /// Those that came while something was wrong.
    pub answers_under_faults: u64,
    /// Rows and groups in them, and in chunks of kept results.
    pub rows: u64,
    /// Days that they said they lack.
    pub missing_days: u64,
    /// Questions and reads that got no answer, and were excused.
    pub refusals: u64,
    /// Questions that were turned away by a node that was full, and asked again.
    pub turned_away: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.answers_under_faults += other.answers_under_faults;
        self.rows += other.rows;
        self.missing_days += other.missing_days;
        self.refusals += other.refusals;
        self.turned_away += other.turned_away;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { answers, answers_under_faults, rows, missing_days, refusals, turned_away } = self;
        write!(
            formatter,
            "{answers} answers ({answers_under_faults} under faults) with {rows} rows, {missing_days} days declared missing, \
             {refusals} refusals, {turned_away} turned away for a while"
        )
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
        panics::forget();
        let at = Cell::new(0);
        let body = async |cluster: &mut dyn Cluster| {
            let began = Instant::now();
            let mut run = Run::new(self, matches!(driver, Driver::Simulated { .. }), cluster);
            for (index, step) in self.steps.iter().take(steps).enumerate() {
                at.set(index + 1);
                progress(began.elapsed(), index + 1, step);
                let done = run.perform(index + 1, step).await;
                if let Err(violation) = done.and_then(|()| property::nothing_breaks(panics::since())) {
                    let nodes = run.cluster.dump().await;
                    return Err(Box::new(self.failure(index + 1, violation, run.faults, nodes)));
                }
                run.transcript.done_at.push(began.elapsed());
            }
            Ok(run.transcript)
        };
        let ran = catch_unwind(AssertUnwindSafe(|| driver.run(self.cluster(), body)));
        let ran = match ran {
            Ok(Ok(done)) => return done,
            Ok(Err(cluster)) => property::nothing_breaks(Err(cluster)),
            Err(_) => property::nothing_breaks(panics::since()),
        };
        let violation = ran.expect_err("a cluster that does not start, or a panic");
        Err(Box::new(self.failure(at.get(), violation, BTreeMap::new(), "not asked".to_owned())))
    }

    fn failure(
        &self,
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
            topology: self.topology.to_string(),
            settings: self.settings.to_string(),
            data: self.data(),
            faults: faults.into_iter().map(|(fault, since)| (fault.to_string(), since)).collect(),
            nodes,
        }
    }
}

/// A run on its way.
pub(super) struct Run<'a> {
    pub(super) oracle: &'a Oracle,
    pub(super) revision: Option<&'a Revision>,
    pub(super) topology: &'a Topology,
    pub(super) cluster: &'a mut dyn Cluster,
    time_is_virtual: bool,
    /// What goes on, and since which step.
    faults: BTreeMap<Fault, usize>,
    /// What ended, and when, since last nothing was wrong.
    over: Vec<(Instant, Fault)>,
    /// The nodes that took other data while they ran, since they were started.
    pub(super) keeping: BTreeSet<String>,
    /// When a fault last began or ended.
    changed_at: Instant,
    /// More than one thing was wrong, or a client vanished, since last nothing was wrong.
    is_disturbed: bool,
    pub(super) opened: BTreeMap<usize, Opened>,
    pub(super) transcript: Transcript,
}

impl<'a> Run<'a> {
    fn new(prepared: &'a Prepared, time_is_virtual: bool, cluster: &'a mut dyn Cluster) -> Self {
        Run {
            oracle: &prepared.oracle,
            revision: prepared.revision.as_ref(),
            topology: &prepared.topology,
            cluster,
            time_is_virtual,
            faults: BTreeMap::new(),
            over: Vec::new(),
            keeping: BTreeSet::new(),
            changed_at: Instant::now(),
            is_disturbed: false,
            opened: BTreeMap::new(),
            transcript: Transcript::default(),
        }
    }

    /// What excuses an answer to a new question, which may be of any version.
    fn excuses(&self, question: &Question) -> Excuses {
        let trouble = self.trouble();
        let changed = self.revision.map(|revision| revision.changed()).unwrap_or_default();
        let lost = reach::lost(question, &changed, self.topology, &trouble);
        Excuses { lost, ..reach::excuses(question, None, self.topology, &trouble) }
    }

    pub(super) fn trouble(&self) -> Trouble<'_> {
        let is_recent = |(ended, _): &&(Instant, Fault)| ended.elapsed() < self.noticed_within();
        Trouble {
            in_force: self.faults.keys().collect(),
            recent: self.over.iter().filter(is_recent).map(|(_, fault)| fault).collect(),
            keeping: self.keeping.iter().map(String::as_str).collect(),
        }
    }

    fn noticed_within(&self) -> Duration {
        self.cluster.overlay().limits.keepalive() * NOTICED_WITHIN_KEEPALIVES
    }

    /// Whether nothing is wrong, nor was a moment ago.
    fn is_undisturbed(&self) -> bool {
        self.faults.is_empty() && self.over.is_empty()
    }

    async fn perform(&mut self, number: usize, step: &Step) -> Result<(), Violation> {
        match step {
            Step::Ask(questions) => self.ask(number, questions).await,
            Step::Open(question) => self.open(number, question).await,
            Step::Read { opened_at, way, indices } => self.read(*opened_at, *way, indices).await,
            Step::Cancel { opened_at } => self.cancel(*opened_at).await,
            Step::Vanish(question, after) => self.vanish(number, question, *after).await,
            Step::VanishReading { opened_at, way, after } => {
                self.vanish_reading(*opened_at, *way, *after).await
            }
            Step::Restart { node } => self.restart(node).await,
            Step::Inject(fault) => self.inject(number, fault).await,
            Step::Replace { node, after, questions } => self.replace(number, node, *after, questions).await,
            Step::Heal(fault) => self.heal(fault).await,
            Step::Wait(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
            Step::Rest => self.rest().await,
        }
    }

    async fn ask(&mut self, step: usize, questions: &[Question]) -> Result<(), Violation> {
        // Before they are asked: the end of a fault may be noticed while they run.
        let excuses = self.excuses_of_each(questions);
        let answers = self.answers(questions).await;
        self.judge_each(step, questions, &excuses, answers)
    }

    /// Asks, and has a node take other data meanwhile.
    async fn replace(
        &mut self,
        step: usize,
        node: &str,
        after: Duration,
        questions: &[Question],
    ) -> Result<(), Violation> {
        let excuses = self.excuses_of_each(questions);
        let replacing = async {
            tokio::time::sleep(after).await;
            self.cluster.replace_data(node, true)
        };
        let (answers, replaced) = join(self.answers(questions), replacing).await;
        property::nothing_breaks(replaced)?;
        self.began(step, &Fault::replace(node));
        self.judge_each(step, questions, &excuses, answers)
    }

    fn excuses_of_each(&self, questions: &[Question]) -> Vec<Excuses> {
        let beside_others = questions.len() > 1;
        questions.iter().map(|question| Excuses { beside_others, ..self.excuses(question) }).collect()
    }

    async fn answers(&self, questions: &[Question]) -> Vec<Result<Answer, Refusal>> {
        let cluster = &*self.cluster;
        let asking = questions.iter().enumerate().map(|(number, question)| ask(cluster, question, number));
        join_all(asking).await
    }

    fn judge_each(
        &mut self,
        step: usize,
        questions: &[Question],
        excuses: &[Excuses],
        answers: Vec<Result<Answer, Refusal>>,
    ) -> Result<(), Violation> {
        let answered = questions.iter().zip(excuses).zip(answers).enumerate();
        for (number, ((question, excuses), answer)) in answered {
            self.judge((step, number), question, excuses, answer)?;
        }
        Ok(())
    }

    async fn vanish(&mut self, step: usize, question: &Question, after: Duration) -> Result<(), Violation> {
        let excuses = self.excuses(question);
        match tokio::time::timeout(after, ask(&*self.cluster, question, 0)).await {
            Ok(answer) => self.judge((step, 0), question, &excuses, answer),
            Err(_) => self.work_stops().await,
        }
    }

    /// Whether nobody works any more for a client that is gone; asked while all links are well.
    pub(super) async fn work_stops(&mut self) -> Result<(), Violation> {
        self.is_disturbed = true;
        if !self.is_undisturbed() {
            return Ok(());
        }
        for node in self.cluster.ids() {
            self.holds_nothing(&node, STOPS_WITHIN, property::work_stops_with_its_client).await?;
        }
        Ok(())
    }

    /// Looks at a node again and again until nothing is held there. Neighbours ask each other how they are, so that one look may
    /// find such a request.
    async fn holds_nothing(
        &self,
        node: &str,
        within: Duration,
        holds: impl Fn(&str, &NodeMetrics) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let client = property::nothing_breaks(self.cluster.client(node, ""))?;
        let mut found = Ok(());
        wait_until(within, async || {
            let metrics = call(client.metrics()).await.map_err(|refusal| refusal.words);
            found = property::nothing_breaks(metrics).and_then(|metrics| holds(node, &metrics));
            found.is_ok().then_some(())
        })
        .await;
        found
    }

    fn judge(
        &mut self,
        place: (usize, usize),
        question: &Question,
        excuses: &Excuses,
        answer: Result<Answer, Refusal>,
    ) -> Result<(), Violation> {
        match answer {
            Err(refusal) => {
                self.transcript.tally.refusals += 1;
                match refusal.code {
                    Some(Code::DataLoss) => {
                        property::read_is_refused_for_a_cause(&refusal, &excuses.lost, excuses.silence)?;
                    }
                    _ => {
                        // Whoever cannot be reached might have it.
                        let days = &excuses.days | &excuses.lost;
                        property::refusal_has_a_cause(&refusal, &days, excuses.silence)?;
                    }
                }
                // The old contract names days only.
                match excuses.liars.is_empty() || question.form == Form::Old {
                    true => Ok(()),
                    false => property::refusal_names_who_lied(&refusal, &excuses.liars),
                }
            }
            Ok(answer) => {
                let reasons = reasons(answer.ledger.as_deref().unwrap_or_default());
                property::missing_days_have_a_cause(
                    &reasons,
                    question.allow_partial,
                    &excuses.days,
                    excuses.beside_others,
                )?;
                self.judge_versions(answer.ledger.as_deref().unwrap_or_default())?;
                let oracle = self.oracle_of(&self.revised_days(question, &answer));
                let expected = expected(&oracle, question, &answer.missing);
                property::scatter_gather_equals_oracle(&expected, &answer.rows)?;
                self.count(&answer);
                if answer.missing.is_empty() && question.form != Form::Old {
                    self.transcript.digests.insert(place, answer.digests);
                }
                Ok(())
            }
        }
    }

    /// Whether a new result is of the versions that it should be of, once everybody knows who has which.
    pub(super) fn judge_versions(&self, ledger: &[Entry]) -> Result<(), Violation> {
        let is_known = self.changed_at.elapsed() >= self.noticed_within();
        let is_revised = |node: &str| {
            [Fault::revise(node), Fault::replace(node)].iter().any(|fault| self.faults.contains_key(fault))
        };
        let only_revised = self.faults.keys().all(has_other_data);
        match self.revision {
            Some(revision) if is_known && only_revised => {
                let placement = Placement::new(self.cluster.overlay());
                let others = revision.against_first_holders(ledger, &placement, is_revised);
                property::first_holder_decides(&others)
            }
            _ => Ok(()),
        }
    }

    /// The days that an answer has in their revised version.
    fn revised_days(&self, question: &Question, answer: &Answer) -> BTreeSet<u32> {
        match (self.revision, &answer.ledger) {
            (None, _) => BTreeSet::new(),
            (Some(revision), Some(ledger)) => revision.revised_in(ledger),
            (Some(revision), None) => revision.revised_by_rows(self.oracle, question, answer),
        }
    }

    /// What there is to be found, if these days are of the revised version.
    pub(super) fn oracle_of(&self, revised: &BTreeSet<u32>) -> Cow<'a, Oracle> {
        match self.revision {
            Some(revision) if !revised.is_empty() => {
                Cow::Owned(self.oracle.with_days_of(&revision.oracle, revised))
            }
            _ => Cow::Borrowed(self.oracle),
        }
    }

    fn count(&mut self, answer: &Answer) {
        let tally = &mut self.transcript.tally;
        tally.answers += 1;
        tally.answers_under_faults += u64::from(!self.faults.is_empty());
        tally.rows += answer.rows.len() as u64;
        tally.missing_days += answer.missing.len() as u64;
        tally.turned_away += answer.turned_away;
    }

    async fn inject(&mut self, step: usize, fault: &Fault) -> Result<(), Violation> {
        property::nothing_breaks(self.cluster.inject(fault).await)?;
        self.began(step, fault);
        Ok(())
    }

    fn began(&mut self, step: usize, fault: &Fault) {
        self.faults.insert(fault.clone(), step);
        self.changed_at = Instant::now();
        self.is_disturbed |= self.faults.len() > 1 || !self.over.is_empty();
        if let Fault::Crash { node } | Fault::Revise { node } = fault {
            self.forget(node);
        }
        self.note_restart(fault);
        self.note_replaced(fault);
    }

    /// A node that takes data keeps those that it has; one that is gone has none.
    fn note_replaced(&mut self, fault: &Fault) {
        if let Fault::Replace { node } = fault
            && !self.faults.contains_key(&Fault::crash(node))
        {
            self.keeping.insert(node.clone());
        }
    }

    /// Data change by a restart, which others take for a crash until they have asked again.
    fn note_restart(&mut self, fault: &Fault) {
        if let Fault::Revise { node } = fault {
            self.over.push((self.changed_at, Fault::crash(node)));
        }
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), Violation> {
        if let Fault::Lie { node, .. } = fault {
            self.find_out(node).await?;
        }
        property::nothing_breaks(self.cluster.heal(fault).await)?;
        if let Fault::Revise { node } = fault {
            self.forget(node);
        }
        self.faults.remove(fault);
        self.changed_at = Instant::now();
        self.over.push((self.changed_at, fault.clone()));
        self.note_restart(fault);
        self.note_replaced(fault);
        match self.faults.is_empty() {
            true => self.recover().await,
            false => Ok(()),
        }
    }

    /// Whether those who were lied to know it, as far as nothing else was wrong meanwhile.
    async fn find_out(&self, liar: &str) -> Result<(), Violation> {
        if self.is_disturbed {
            return Ok(());
        }
        for neighbour in self.topology.neighbours(liar) {
            // Before its answer comes, more lies may be told.
            let lies = self.cluster.lies_told(liar, neighbour);
            let client = property::nothing_breaks(self.cluster.client(neighbour, ""))?;
            let metrics = call(client.metrics()).await.map_err(|refusal| refusal.words);
            property::lie_is_found_out(liar, neighbour, lies, &property::nothing_breaks(metrics)?)?;
        }
        Ok(())
    }

    async fn restart(&mut self, node: &str) -> Result<(), Violation> {
        property::nothing_breaks(self.cluster.stop(node).await)?;
        self.forget(node);
        property::nothing_breaks(self.cluster.restart(node).await)?;
        self.recover().await
    }

    /// Waits until all nodes have found each other again.
    async fn recover(&mut self) -> Result<(), Violation> {
        let cluster = &*self.cluster;
        // What was sent while a link was bad is still on its way, and holds up what comes after it on its connection: until
        // it has come, or the connection is given up.
        let is_of_a_link = |fault: &Fault| {
            !has_other_data(fault) && !matches!(fault, Fault::Crash { .. } | Fault::Lie { .. })
        };
        if self.over.iter().any(|(_, fault)| is_of_a_link(fault)) {
            tokio::time::sleep(cluster.overlay().limits.keepalive() * KEEPALIVES_OF_A_CONNECTION).await;
        }
        // Whoever is found again may still be thought to have the data that it had.
        if self.over.iter().any(|(_, fault)| has_other_data(fault)) {
            tokio::time::sleep(self.noticed_within()).await;
        }
        let found = wait_until(RECOVERS_WITHIN, async || {
            let finding = self.topology.ids().map(|node| finds_all(cluster, node));
            join_all(finding).await.into_iter().all(|finds| finds).then_some(())
        });
        property::overlay_recovers_once_it_is_healed(found.await.is_some(), RECOVERS_WITHIN)?;
        self.over.clear();
        self.is_disturbed = false;
        Ok(())
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
            let answer = ask(&*self.cluster, &everything, 0).await;
            self.judge((0, 0), &everything, &Excuses::default(), answer)?;
        }
        if self.time_is_virtual {
            tokio::time::sleep(Duration::from_millis(LEASE_MS * 2)).await;
        }
        for node in self.cluster.ids() {
            let holds = |node: &str, metrics: &NodeMetrics| {
                property::memory_is_within_its_limits(node, self.cluster.overlay(), metrics)?;
                property::nothing_is_held_at_rest(node, metrics, self.time_is_virtual)
            };
            self.holds_nothing(&node, RESTS_WITHIN, holds).await?;
        }
        Ok(())
    }
}

/// Whether it is about a node that has other data than the others.
fn has_other_data(fault: &Fault) -> bool {
    matches!(fault, Fault::Revise { .. } | Fault::Replace { .. })
}

/// Whether a node is ready, says that its neighbours are up, and avoids nobody.
pub async fn finds_all(cluster: &dyn Cluster, node: &str) -> bool {
    let Ok(client) = cluster.client(node, "") else { return false };
    call(client.metrics()).await.is_ok_and(|metrics| {
        let avoids_nobody = metrics.exposition.lines().any(|line| line == "overlay_marked_nodes 0");
        metrics.ready && avoids_nobody && metrics.neighbours.iter().all(|neighbour| neighbour.state == "up")
    })
}

/// What the oracle says to a question, as if there were no rows of the days that the answer says it lacks.
pub(crate) fn expected(oracle: &Oracle, question: &Question, missing: &BTreeSet<u32>) -> Vec<Expected> {
    if !missing.is_empty() {
        return expected(&oracle.without(missing), question, &BTreeSet::new());
    }
    let Question { form, query, aggregate, .. } = question;
    if let Some((measure, keys)) = aggregate {
        let groups = oracle.aggregate(query, *measure, keys).into_iter().enumerate();
        return groups.map(|(index, row)| Expected { origin: format!("group {index}"), row }).collect();
    }
    let (to_json, limit): (fn(&OracleRow) -> Value, _) = match form {
        Form::Old => (OracleRow::to_legacy_json, query.limit.or(Some(OLD_LIMIT))),
        Form::Arrow | Form::Json => (OracleRow::to_json, query.limit),
    };
    let rows = oracle.rows(&OracleQuery { limit, ..query.clone() });
    let origin = |row: &OracleRow| format!("day {}, file {}.csv, row {}", row.day, row.file_stem, row.line);
    rows.into_iter().map(|row| Expected { origin: origin(row), row: to_json(row) }).collect()
}
