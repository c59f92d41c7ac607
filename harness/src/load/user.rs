//! One user: its connection, and what it does in each transaction.
//!
//! Every answer is checked while it loads. The typed client checks ledgers and frames of every result; here,
//! an answer to a question that was asked before must equal the first one, in counts and in the bytes of its rows.

mod old_contract;
mod rude;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use overlay::decimal::Decimal;
use overlay::plan::{ChunkingChoice, Query, STREAMED_CHUNK_ROWS};
use overlay::predicate::Predicate;
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::security::Security;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::Secured;
use super::mix::Transaction;
use super::outcome::{CALLS, Call, Failure, Outcome, Success};

/// Rows of a small query.
const SMALL: u64 = 100;

/// Parameters that small queries ask for in turn.
const PARAMETERS: [&str; 6] = ["PM2.5", "OZONE", "PM10", "NO2", "SO2", "CO"];

/// What all users of a run share.
pub(super) struct Shared {
    timeout: Duration,
    /// Of each question that is asked again, the first answer.
    first_answers: Mutex<BTreeMap<String, Answer>>,
    next_number: AtomicU64,
}

/// What must be the same in every answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    records: u64,
    chunks: Vec<u32>,
    digest: u64,
}

impl Shared {
    /// For calls that may take `timeout` each.
    pub(super) fn new(timeout: Duration) -> Self {
        Shared { timeout, first_answers: Mutex::default(), next_number: AtomicU64::new(0) }
    }

    /// Holds an answer against the first one to the same question.
    fn check(&self, question: &str, answer: Answer) -> Result<(), Failure> {
        let mut first_answers = self.first_answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = first_answers.entry(question.to_owned()).or_insert_with(|| answer.clone());
        match (answer.records == first.records, answer == *first) {
            (true, true) => Ok(()),
            (true, false) => {
                Err(Failure::Wrong(format!("{question}: the rows differ from the first answer's")))
            }
            (false, _) => Err(Failure::Wrong(format!(
                "{question}: {} records, the first answer had {}",
                answer.records, first.records
            ))),
        }
    }
}

/// One user with a connection of its own.
#[derive(Clone)]
pub(super) struct User {
    shared: Arc<Shared>,
    id: String,
    client: Client,
    overlay: OverlayClient<Secured>,
    old: OverlayNodeClient<Secured>,
}

/// The calls of one transaction, as they are made.
struct Calls {
    timeout: Duration,
    made: Vec<Call>,
    ended: Instant,
    bytes: u64,
}

impl User {
    /// A user of the node at `address`; the typed client connects for itself, everything else uses `channel`.
    pub(super) fn new(
        shared: Arc<Shared>,
        id: String,
        security: &Security,
        address: &str,
        channel: Secured,
    ) -> Result<Self, ClientError> {
        Ok(User {
            shared,
            client: Client::secured(security, address, &id)?,
            overlay: OverlayClient::new(channel.clone()),
            old: OverlayNodeClient::new(channel),
            id,
        })
    }

    /// The id under which the node knows it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Connects the typed client, which else does so with its first call. Any answer will do, also that the node
    /// knows the old contract only.
    pub(super) async fn connect(&self) {
        let _ = tokio::time::timeout(self.shared.timeout, self.client.metrics()).await;
    }

    /// Does a transaction, each time another one of its kind.
    pub(super) async fn perform(&self, transaction: Transaction) -> Outcome {
        let number = self.shared.next_number.fetch_add(1, Ordering::Relaxed);
        self.timed(transaction.name(), async |calls| match transaction {
            Transaction::SmallQuery => self.small(number, calls).await,
            Transaction::DistinctQuery => self.distinct(number, calls).await,
            Transaction::Drain => self.drain(calls).await,
            Transaction::Aggregate => self.aggregate(number, calls).await,
            Transaction::Metrics => self.metrics(calls).await,
            Transaction::OldQuery => self.old_query(super::DEFAULT_QUERY_PARAMS, true, calls).await,
            Transaction::MalformedFilter => self.malformed_filter(number, calls).await,
            Transaction::UnknownResult => self.unknown_result(calls).await,
            Transaction::ChunkOutOfRange => self.chunk_out_of_range(calls).await,
            Transaction::AbandonedResult => self.abandoned_result(calls).await,
            Transaction::CancelledQuery => self.cancelled_query(number, calls).await,
        })
        .await
    }

    /// Does one request of the benchmark.
    pub(super) async fn benchmark(&self, query_params: &str, all_chunks: bool) -> Outcome {
        self.timed(super::BENCHMARK, async |calls| self.old_query(query_params, all_chunks, calls).await)
            .await
    }

    async fn timed(
        &self,
        transaction: &'static str,
        act: impl AsyncFnOnce(&mut Calls) -> Result<Success, Failure>,
    ) -> Outcome {
        let started = Instant::now();
        let mut calls = Calls { timeout: self.shared.timeout, made: Vec::new(), ended: started, bytes: 0 };
        let result = act(&mut calls).await;
        let latency = calls.ended - started;
        Outcome { transaction, calls: calls.made, latency, bytes: calls.bytes, result }
    }

    async fn small(&self, number: u64, calls: &mut Calls) -> Result<Success, Failure> {
        let parameter = PARAMETERS[number as usize % PARAMETERS.len()];
        let query = Query { predicate: of_parameter(parameter), limit: Some(SMALL), ..Query::default() };
        self.read(&query, Some(&format!("small query of {parameter}")), calls).await
    }

    /// The range `[5 + n, 35 + n]` in ten-thousandths: 300,000 of them before they come round.
    async fn distinct(&self, number: u64, calls: &mut Calls) -> Result<Success, Failure> {
        let step = number % 300_000;
        let bound = |tens: u64| format!("{}.{:04}", tens + step / 10_000, step % 10_000);
        let predicate = Predicate {
            min: Some(Decimal::at_least(&bound(5)).expect("a number")),
            max: Some(Decimal::at_most(&bound(35)).expect("a number")),
            ..of_parameter("PM2.5")
        };
        let query = Query { predicate, limit: Some(SMALL), ..Query::default() };
        self.read(&query, None, calls).await
    }

    async fn drain(&self, calls: &mut Calls) -> Result<Success, Failure> {
        self.read(&large(), Some("drain"), calls).await
    }

    async fn aggregate(&self, number: u64, calls: &mut Calls) -> Result<Success, Failure> {
        let keys = [[GroupKey::Team, GroupKey::Day], [GroupKey::Parameter, GroupKey::Hour]];
        let group_by = keys[number as usize % keys.len()].to_vec();
        let question = format!("aggregate by {group_by:?}");
        let aggregate = Some(AggregateSpec { of: AggregateOf::Value, group_by });
        self.read(&Query { aggregate, ..Query::default() }, Some(&question), calls).await
    }

    async fn metrics(&self, calls: &mut Calls) -> Result<Success, Failure> {
        let metrics = calls.client("GetMetrics", self.client.metrics()).await?;
        let mut hasher = DefaultHasher::new();
        (&metrics.node, metrics.files, metrics.days).hash(&mut hasher);
        let answer = Answer { records: metrics.rows, chunks: Vec::new(), digest: hasher.finish() };
        self.shared.check("metrics", answer)?;
        Ok(Success::default())
    }

    /// Asks a query, reads every chunk, and holds the answer against the first one to the same `question`.
    async fn read(
        &self,
        query: &Query,
        question: Option<&str>,
        calls: &mut Calls,
    ) -> Result<Success, Failure> {
        let mut result = calls.client("Query", self.client.query(query)).await?;
        let mut chunks = vec![calls.first_chunk(self.client.chunk_or_resume(&mut result, 0)).await?];
        for index in 1..result.chunk_count() {
            let chunk = calls.client("GetChunk", self.client.chunk_or_resume(&mut result, index)).await?;
            chunks.push(calls.count(chunk));
        }
        if let Some(question) = question {
            self.shared.check(question, answer(&result, &chunks))?;
        }
        Ok(Success::of_result(&result, row_count(&chunks)))
    }
}

impl Calls {
    /// Makes a call of the typed client.
    async fn client<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let answered = tokio::time::timeout(self.timeout, call).await;
        let result = match answered {
            Ok(result) => result.map_err(|error| (code_of(&error), Failure::of_client(name, &error))),
            Err(_) => Err((Code::DeadlineExceeded, self.no_answer(name))),
        };
        let code = result.as_ref().err().map_or(Code::Ok, |(code, _)| *code);
        self.made(name, started, code, result.is_ok());
        result.map_err(|(_, failure)| failure)
    }

    /// The first chunk, which as a rule came with the answer to the query, so that it is no call of its own.
    async fn first_chunk(
        &mut self,
        chunk: impl Future<Output = Result<CheckedChunk, ClientError>>,
    ) -> Result<CheckedChunk, Failure> {
        let chunk = tokio::time::timeout(self.timeout, chunk).await;
        self.ended = Instant::now();
        let chunk = chunk.map_err(|_| self.no_answer("GetChunk"))?;
        Ok(self.count(chunk.map_err(|error| Failure::of_client("GetChunk", &error))?))
    }

    /// Makes a call that should end with `expected`, and gives its answer if that is success.
    async fn expecting<T>(
        &mut self,
        name: &'static str,
        expected: &[Code],
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Option<T>, Failure> {
        let started = Instant::now();
        let answered = tokio::time::timeout(self.timeout, call).await;
        let result = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        let good = expected.contains(&code);
        self.made(name, started, code, good);
        match result {
            Ok(answer) if good => Ok(Some(answer.into_inner())),
            Err(_) if good => Ok(None),
            Ok(_) => Err(Failure::Wrong(format!("{name}: answered, where {expected:?} was due"))),
            Err(status) => Err(Failure::of_status(name, &status)),
        }
    }

    fn made(&mut self, name: &'static str, started: Instant, code: Code, good: bool) {
        debug_assert!(CALLS.contains(&name), "`{name}` is a name for thresholds");
        self.ended = Instant::now();
        self.made.push(Call { name, took: self.ended - started, code, good });
    }

    /// The last call's answer has a status that says that it failed, as the old contract does.
    fn fail_last(&mut self) {
        if let Some(call) = self.made.last_mut() {
            call.good = false;
        }
    }

    fn no_answer(&self, name: &str) -> Failure {
        Failure::Failed(format!("{name}: no answer in {} s", self.timeout.as_secs_f64()))
    }

    fn count(&mut self, chunk: CheckedChunk) -> CheckedChunk {
        self.bytes += chunk.frames.iter().map(|frame| frame.payload.len() as u64).sum::<u64>();
        chunk
    }
}

fn code_of(error: &ClientError) -> Code {
    match error {
        ClientError::Status { status, .. } => status.code(),
        _ => Code::Internal,
    }
}

fn of_parameter(parameter: &str) -> Predicate {
    Predicate { parameter: Some(parameter.to_owned()), ..Predicate::default() }
}

/// A result that takes many chunks.
fn large() -> Query {
    let chunking = ChunkingChoice { chunk_rows: Some(STREAMED_CHUNK_ROWS), ..ChunkingChoice::default() };
    Query { predicate: of_parameter("PM2.5"), chunking, ..Query::default() }
}

fn answer(result: &QueryResult, chunks: &[CheckedChunk]) -> Answer {
    let mut hasher = DefaultHasher::new();
    for frame in chunks.iter().flat_map(|chunk| &chunk.frames) {
        (frame.day, frame.first_row, frame.rows, &frame.payload).hash(&mut hasher);
    }
    let manifest = &result.manifest;
    Answer { records: manifest.total_records, chunks: manifest.chunk_rows.clone(), digest: hasher.finish() }
}

fn row_count(chunks: &[CheckedChunk]) -> u64 {
    chunks.iter().flat_map(|chunk| &chunk.frames).map(|frame| u64::from(frame.rows)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(records: u64, digest: u64) -> Answer {
        Answer { records, chunks: vec![records as u32], digest }
    }

    /// Goal: each answer is held against the first one to its own question, in counts and in bytes.
    #[test]
    fn answer_that_differs_from_the_first_is_wrong() {
        let shared = Shared::new(Duration::from_secs(1));
        let check = |question, answer| match shared.check(question, answer) {
            Err(Failure::Wrong(what)) => what,
            other => format!("{other:?}"),
        };
        assert_eq!(check("drain", answer(4, 7)), "Ok(())");
        assert_eq!(check("drain", answer(4, 7)), "Ok(())");
        assert_eq!(check("aggregate", answer(5, 9)), "Ok(())");
        assert_eq!(check("drain", answer(5, 7)), "drain: 5 records, the first answer had 4");
        assert_eq!(check("drain", answer(4, 8)), "drain: the rows differ from the first answer's");
    }
}
