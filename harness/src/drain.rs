//! Clients that drain results with pauses, over and over, while things go wrong, and what they see.
//!
//! Every question is asked once before, on an overlay that is well, and held against the oracle. From then on its bytes are
//! known, and whatever a client reads is compared with them: a whole answer has the same bytes in the same chunks, a
//! partial one the same rows of each day that it has. An answer is right, declared incomplete, refused, or wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::join_all;
use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use overlay::coverage;
use overlay::plan::Query;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use xxhash_rust::xxh3::Xxh3;

use crate::answer;
use crate::cluster::Cluster;
use crate::oracle::{GroupKey, Measure, Oracle, OracleQuery};
use crate::property::{self, Violation};
use crate::scenario::step::{Form, Question};
use crate::scenario::{expected, typed};

/// How long a client that was refused waits before it asks again, unless it is told.
const BACK_OFF: Duration = Duration::from_millis(200);

/// The most that it waits, whatever it is told.
const MAX_BACK_OFF: Duration = Duration::from_secs(5);

/// Refusals and wrong answers that are kept in words.
const KEPT: usize = 20;

/// Questions whose answers are known.
pub struct Drain {
    known: Vec<Known>,
}

/// A question, and what every answer to it must be.
struct Known {
    query: Query,
    rows: u64,
    /// Over the bytes of all frames of the whole answer.
    digest: u64,
    /// Over the rows of each day; only where a partial answer is accepted.
    by_day: BTreeMap<u32, u64>,
}

/// Why there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The overlay did not answer while nothing was wrong.
    #[error("an overlay that is well does not answer {question}")]
    Refused {
        /// What was asked.
        question: String,
        /// What came.
        source: Box<ClientError>,
    },
    /// Its answer is not the oracle's.
    #[error("an overlay that is well answers {question} wrongly: {}: {}", .violation.property, .violation.difference)]
    Wrong {
        /// What was asked.
        question: String,
        /// The difference.
        violation: Violation,
    },
}

/// What became of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// Every byte as it should be.
    Right,
    /// Right as far as it goes, and it says which days it lacks.
    Incomplete,
    /// An error of the node that names the days which are out of reach.
    Named,
    /// Too much to do: the client was told when to come back.
    Overloaded,
    /// No answer for another reason.
    Failed,
    /// Not what it should be.
    Wrong,
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Seen::Right => "right",
            Seen::Incomplete => "incomplete",
            Seen::Named => "days named",
            Seen::Overloaded => "overloaded",
            Seen::Failed => "failed",
            Seen::Wrong => "wrong",
        })
    }
}

/// One call of a client: a query or a chunk.
#[derive(Clone, Copy, Debug)]
pub struct SeenCall {
    /// When it was made.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// Whether there was an answer.
    pub answered: bool,
}

/// What clients have seen so far.
#[derive(Debug, Default)]
pub struct Record {
    inner: Mutex<Sightings>,
}

/// What clients saw in some time.
#[derive(Debug, Default)]
pub struct Sightings {
    /// How many answers were what.
    pub answers: BTreeMap<Seen, u64>,
    /// Rows in them.
    pub rows: u64,
    /// Every call.
    pub calls: Vec<SeenCall>,
    /// The first refusals and wrong answers, in words.
    pub words: Vec<String>,
}

impl Record {
    /// Takes what was seen since it was taken last.
    pub fn take(&self) -> Sightings {
        std::mem::take(&mut *self.inner())
    }

    fn inner(&self) -> MutexGuard<'_, Sightings> {
        self.inner.lock().expect("nothing panics while it holds the record")
    }

    fn call(&self, began: Instant, answered: bool) {
        self.inner().calls.push(SeenCall { began, took: began.elapsed(), answered });
    }

    fn answer(&self, seen: Seen, rows: u64, words: Option<String>) {
        let mut inner = self.inner();
        *inner.answers.entry(seen).or_default() += 1;
        inner.rows += rows;
        if inner.words.len() < KEPT {
            inner.words.extend(words.map(|words| format!("{seen}: {words}")));
        }
    }
}

impl Sightings {
    /// How many answers were so.
    pub fn count(&self, seen: Seen) -> u64 {
        self.answers.get(&seen).copied().unwrap_or(0)
    }

    /// Adds what was seen at another time.
    pub fn merge(&mut self, other: Sightings) {
        for (seen, count) in other.answers {
            *self.answers.entry(seen).or_default() += count;
        }
        self.rows += other.rows;
        self.calls.extend(other.calls);
        self.words.extend(other.words.into_iter().take(KEPT.saturating_sub(self.words.len())));
    }
}

impl Drain {
    /// Asks every question once, of the leader, and holds the answers against the oracle.
    ///
    /// # Errors
    /// [`PrepareError`] if an answer does not come, or is not the oracle's.
    pub async fn prepare(cluster: &dyn Cluster, oracle: &Oracle) -> Result<Self, PrepareError> {
        let leader = cluster.topology().leader().to_owned();
        let mut known = Vec::new();
        for question in questions(&leader) {
            let words = question.to_string();
            let refused =
                |source| PrepareError::Refused { question: words.clone(), source: Box::new(source) };
            let client = cluster.client(&leader, "reference").map_err(refused)?;
            let query = typed(&question);
            let result = client.query(&query).await.map_err(refused)?;
            let chunks = answer::read_chunks(&client, &result).await.map_err(refused)?;
            let found = answer::rows(&result, &chunks);
            property::scatter_gather_equals_oracle(&expected(oracle, &question, &Default::default()), &found)
                .map_err(|violation| PrepareError::Wrong { question: words.clone(), violation })?;
            let mut read = Reading::default();
            chunks.iter().for_each(|chunk| read.take(chunk));
            let by_day = if query.allow_partial { read.days() } else { BTreeMap::new() };
            known.push(Known { query, rows: read.rows, digest: read.whole.digest(), by_day });
        }
        Ok(Drain { known })
    }

    /// Has clients drain one result after the other, each in an order of its own, until they are told to stop.
    pub async fn run(
        self: Arc<Self>,
        clients: Vec<Client>,
        pause: Duration,
        record: Arc<Record>,
        stop: CancellationToken,
    ) {
        let users = clients.into_iter().enumerate().map(|(number, client)| {
            let (drain, record, stop) = (self.clone(), record.clone(), stop.clone());
            tokio::spawn(async move {
                for turn in number.. {
                    let known = &drain.known[turn % drain.known.len()];
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = known.drain(&client, pause, &record) => {}
                    }
                }
            })
        });
        join_all(users).await;
    }
}

impl Known {
    /// Asks, reads everything with pauses, and compares.
    async fn drain(&self, client: &Client, pause: Duration, record: &Record) {
        let began = Instant::now();
        let asked = client.query(&self.query).await;
        record.call(began, asked.is_ok());
        let mut result = match asked {
            Ok(result) => result,
            Err(error) => return refused(&error, record).await,
        };
        let mut read = Reading::default();
        for index in 0..result.chunk_count() {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let chunk = client.chunk_or_resume(&mut result, index).await;
            record.call(began, chunk.is_ok());
            match chunk {
                Ok(chunk) => read.take(&chunk),
                Err(error) => return refused(&error, record).await,
            }
        }
        let (seen, words) = self.judge(&result, &read);
        record.answer(seen, read.rows, words);
    }

    fn judge(&self, result: &QueryResult, read: &Reading) -> (Seen, Option<String>) {
        let missing: Vec<u32> =
            coverage::missing(&result.ledger).map(|(entry, ..)| entry.day.number()).collect();
        let wrong = |what: String| (Seen::Wrong, Some(format!("{}: {what}", self.query)));
        if missing.is_empty() {
            return match (read.rows, read.whole.digest()) == (self.rows, self.digest) {
                true => (Seen::Right, None),
                false => wrong(format!("{} rows, expected {}, or other bytes", read.rows, self.rows)),
            };
        }
        let mut expected = self.by_day.clone();
        expected.retain(|day, _| !missing.contains(day));
        match read.days() == expected {
            true => (Seen::Incomplete, None),
            false => wrong(format!("without {missing:?}, other days differ")),
        }
    }
}

async fn refused(error: &ClientError, record: &Record) {
    let words = error.to_string();
    let ClientError::Status { status, .. } = error else {
        return record.answer(Seen::Wrong, 0, Some(words));
    };
    let details = tonic_types::StatusExt::get_error_details(&**status);
    let names_days = details.precondition_failure().is_some();
    let seen = match status.code() {
        Code::Unavailable | Code::DataLoss if names_days => Seen::Named,
        Code::ResourceExhausted => Seen::Overloaded,
        _ => Seen::Failed,
    };
    record.answer(seen, 0, Some(words));
    let told = details.retry_info().and_then(|info| info.retry_delay);
    tokio::time::sleep(told.unwrap_or(BACK_OFF).min(MAX_BACK_OFF)).await;
}

/// What a client has read of an answer.
#[derive(Default)]
struct Reading {
    rows: u64,
    whole: Xxh3,
    /// Of JSON frames, whose rows stand side by side however they are cut.
    by_day: BTreeMap<u32, Xxh3>,
}

impl Reading {
    fn take(&mut self, chunk: &CheckedChunk) {
        for frame in &chunk.frames {
            self.rows += u64::from(frame.rows);
            self.whole.update(&frame.payload);
            if let Some(day) = frame.day {
                let of_day = self.by_day.entry(day.number()).or_default();
                of_day.update(&frame.payload);
                of_day.update(b",");
            }
        }
    }

    fn days(&self) -> BTreeMap<u32, u64> {
        self.by_day.iter().map(|(day, digest)| (*day, digest.digest())).collect()
    }
}

/// What is asked: large and small results, both encodings, groups, a limit, and one that may lack days.
fn questions(leader: &str) -> Vec<Question> {
    let rows = |parameter: &str, form: Form, chunk_rows: u32| Question {
        node: leader.to_owned(),
        form,
        query: OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() },
        aggregate: None,
        chunk_rows: Some(chunk_rows),
        allow_partial: false,
    };
    let particles = rows("PM2.5", Form::Arrow, 10_000);
    let moderate =
        OracleQuery { min: Some("5".to_owned()), max: Some("35".to_owned()), ..particles.query.clone() };
    let ozone = rows("OZONE", Form::Arrow, 20_000);
    let august = OracleQuery { date_end: Some(20200904), ..ozone.query.clone() };
    let nitrogen = Question { allow_partial: true, ..rows("NO2", Form::Json, 2_000) };
    let hazardous = rows("PM2.5", Form::Json, 100);
    let first = OracleQuery { min: Some("150".to_owned()), limit: Some(500), ..hazardous.query.clone() };
    let keys = vec![GroupKey::Team, GroupKey::Day, GroupKey::Agency];
    vec![
        Question { query: moderate, ..particles.clone() },
        rows("PM10", Form::Json, 2_000),
        Question { query: august, ..ozone },
        nitrogen,
        Question { aggregate: Some((Measure::Value, keys)), chunk_rows: None, ..particles },
        Question { query: first, ..hazardous },
        rows("SO2", Form::Arrow, 5_000),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterSpec, InProcessCluster, fixtures};
    use crate::oracle::TeamRange;

    /// Reads one result of each question, and stops.
    async fn seen(drain: &Drain, client: &Client) -> Sightings {
        let record = Record::default();
        for known in &drain.known {
            known.drain(client, Duration::ZERO, &record).await;
        }
        record.take()
    }

    /// Goal: what clients report can be relied on. Method: answers that are right, then days that are gone, then answers
    /// held against bytes that are not theirs.
    #[tokio::test(flavor = "multi_thread")]
    async fn right_named_incomplete_and_wrong_answers_are_told_apart() {
        let mut cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
        let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
        let mut drain = Drain::prepare(&cluster, &oracle).await.unwrap();
        let client = cluster.client("A", "reader").unwrap();
        let questions = drain.known.len() as u64;
        assert_eq!(seen(&drain, &client).await.answers, BTreeMap::from([(Seen::Right, questions)]));
        for node in ["D", "E", "F"] {
            cluster.crash(node).await.unwrap();
        }
        cluster.restart("A").await.unwrap();
        let without_pink = seen(&drain, &client).await;
        assert_eq!(without_pink.count(Seen::Incomplete), 1, "{without_pink:?}");
        assert_eq!(without_pink.count(Seen::Incomplete) + without_pink.count(Seen::Named), questions);
        for node in ["D", "E", "F"] {
            cluster.restart(node).await.unwrap();
        }
        for known in &mut drain.known {
            known.digest ^= 1;
        }
        assert_eq!(seen(&drain, &client).await.answers, BTreeMap::from([(Seen::Wrong, questions)]));
    }
}
