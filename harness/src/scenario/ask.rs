//! Asks a question of a cluster and reads all of its answer, by whichever contract.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use overlay::client::{CheckedChunk, ClientError, QueryResult};
use overlay::coverage::{self, Entry};
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use serde_json::Value;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;
use xxhash_rust::xxh3::Xxh3;

use super::LEASE_MS;
use super::step::{Form, Question};
use crate::answer;
use crate::cluster::Cluster;
use crate::property::Refusal;

/// How long a client waits for one call: as long as a node may take for it, and some seconds for the way.
const PATIENCE: Duration = Duration::from_secs(40);

/// How often a client comes back that is turned away, at most. Many come at once, and each time one gets in.
const TRIES: u64 = 100;

/// When to come back by the old contract, which does not say.
const RETRY_OLD: Duration = Duration::from_secs(1);

/// All of an answer.
pub(super) struct Answer {
    /// How often the node was full before.
    pub(super) turned_away: u64,
    /// Rows, or groups, in the form of the question's contract.
    pub(super) rows: Vec<Value>,
    /// The days that it says it lacks.
    pub(super) missing: BTreeSet<u32>,
    /// What proves it; none by the old contract.
    pub(super) ledger: Option<Vec<Entry>>,
    /// Over the bytes of each chunk; empty by the old contract.
    pub(super) digests: Vec<u64>,
}

/// Asks and reads everything, as client `number`; comes back when it is told to where a node is full.
pub(super) async fn ask(
    cluster: &dyn Cluster,
    question: &Question,
    number: usize,
) -> Result<Answer, Refusal> {
    let mut turned_away = 0;
    let answer = until_let_in(&mut turned_away, async || match question.form {
        Form::Old => ask_by_the_old_contract(cluster, question).await,
        Form::Arrow | Form::Json => ask_by_ours(cluster, question, number).await,
    });
    let answer = answer.await?;
    Ok(Answer { turned_away, ..answer })
}

/// Asks again when the node says that it will have room, and counts how often it had none.
pub(super) async fn until_let_in<T>(
    turned_away: &mut u64,
    mut asking: impl AsyncFnMut() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    loop {
        match asking().await {
            Err(refusal) if *turned_away < TRIES && refusal.retry_after.is_some() => {
                *turned_away += 1;
                tokio::time::sleep(refusal.retry_after.unwrap_or_default()).await;
            }
            answered => return answered,
        }
    }
}

/// One call, which a client does not wait for for ever.
pub(super) async fn call<T>(calling: impl Future<Output = Result<T, ClientError>>) -> Result<T, Refusal> {
    call_within(PATIENCE, calling).await
}

/// Calls that a client waits for longer.
pub(super) async fn call_within<T>(
    patience: Duration,
    calling: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Refusal> {
    match tokio::time::timeout(patience, calling).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Refusal::no_answer(format!("no answer within {patience:?}"))),
    }
}

/// The question as the typed client asks it.
pub(crate) fn typed(question: &Question) -> Query {
    let encoding = match question.form {
        Form::Arrow => Encoding::Arrow,
        Form::Json | Form::Old => Encoding::Json,
    };
    let aggregate = question.aggregate.as_ref();
    Query {
        aggregate: aggregate.map(|(measure, keys)| answer::aggregate(*measure, keys)),
        chunking: ChunkingChoice { chunk_rows: question.chunk_rows, ..ChunkingChoice::default() },
        allow_partial: question.allow_partial,
        ..answer::query(&question.query, encoding)
    }
}

/// Why each day that a ledger lacks is missing, and the nodes that were tried.
pub(super) fn reasons(ledger: &[Entry]) -> BTreeMap<u32, String> {
    let reason = |(entry, why, nodes): (&Entry, &str, &[String])| {
        (entry.day.number(), format!("{why} (tried {})", nodes.join(", ")))
    };
    coverage::missing(ledger).map(reason).collect()
}

/// The days that a result says it lacks.
pub(super) fn missing(result: &QueryResult) -> BTreeSet<u32> {
    coverage::missing(&result.ledger).map(|(entry, ..)| entry.day.number()).collect()
}

/// Over the bytes of its rows.
pub(super) fn digest(chunk: &CheckedChunk) -> u64 {
    let mut digest = Xxh3::new();
    chunk.frames.iter().for_each(|frame| digest.update(&frame.payload));
    digest.digest()
}

async fn ask_by_ours(cluster: &dyn Cluster, question: &Question, number: usize) -> Result<Answer, Refusal> {
    let client = cluster.client(&question.node, &format!("client {number}"))?;
    let result = call(client.query(&typed(question))).await?;
    let (mut chunks, mut touched) = (Vec::new(), Instant::now());
    for index in 0..result.chunk_count() {
        let asked = Instant::now();
        let chunk = call(client.chunk(&result, index)).await;
        chunks.push(
            chunk
                .map_err(|refusal| again_if_outlasted(refusal, Code::FailedPrecondition, asked - touched))?,
        );
        touched = asked;
    }
    Ok(Answer {
        rows: answer::rows(&result, &chunks),
        turned_away: 0,
        missing: missing(&result),
        ledger: Some(result.ledger),
        digests: chunks.iter().map(digest).collect(),
    })
}

async fn ask_by_the_old_contract(cluster: &dyn Cluster, question: &Question) -> Result<Answer, Refusal> {
    let client = cluster.old_client(&question.node)?;
    // The old `filter` knows no text.
    let query_type = if question.query.text.is_some() { "search" } else { "filter" };
    let result = call(client.query(query_type, &question.query.to_json().to_string())).await?;
    expect_status("ready", &result.status)?;
    let (mut rows, mut touched) = (Vec::new(), Instant::now());
    for index in 0..result.total_chunks {
        let asked = Instant::now();
        let chunk = call(client.chunk(&result.uid, index)).await?;
        let success = expect_status("success", &chunk.status);
        success.map_err(|refusal| again_if_outlasted(refusal, Code::NotFound, asked - touched))?;
        touched = asked;
        let chunk_rows = serde_json::from_str::<Vec<Value>>(&chunk.data);
        rows.extend(chunk_rows.map_err(|error| Refusal::nonsense(format!("chunk {index}: {error}")))?);
    }
    if rows.len() as i64 != result.total_records {
        let words = format!("total_records is {}, its chunks have {}", result.total_records, rows.len());
        return Err(Refusal::nonsense(words));
    }
    Ok(Answer { turned_away: 0, rows, missing: BTreeSet::new(), ledger: None, digests: Vec::new() })
}

/// A refusal that sends the client back at once, if its code is `expired` and the chunk before outlasted the lease: waiting
/// for nodes that hang can take longer than so short a lease.
fn again_if_outlasted(refusal: Refusal, expired: Code, since_touched: Duration) -> Refusal {
    match refusal.code == Some(expired) && since_touched >= Duration::from_millis(LEASE_MS) {
        true => refusal.coming_back(Duration::ZERO),
        false => refusal,
    }
}

/// A status of the old contract as what it is in ours.
fn expect_status(expected: &str, status: &str) -> Result<(), Refusal> {
    let code = match status.split(':').next() {
        Some(word) if word == expected => return Ok(()),
        Some("unavailable") => Code::Unavailable,
        Some("rejected") => Code::ResourceExhausted,
        Some("not_found") => Code::NotFound,
        Some("data_loss") => Code::DataLoss,
        _ => return Err(Refusal::nonsense(format!("status `{status}`"))),
    };
    // The old contract has no word of its own for it.
    let code = if status.contains("the deadline passed") { Code::DeadlineExceeded } else { code };
    let list = status.split_once(':').map_or("", |(_, list)| list);
    let refusal = Refusal::by_node(code, format!("status `{status}`")).naming(list);
    Err(if code == Code::ResourceExhausted { refusal.coming_back(RETRY_OLD) } else { refusal })
}

/// When to come back to a node that is full, if it says when, and which limit it has met.
fn overloaded(status: &tonic::Status) -> Option<Duration> {
    let details = status.get_error_details();
    let names_a_limit = details.quota_failure().is_some_and(|quota| !quota.violations.is_empty());
    let retry_after = details.retry_info().and_then(|info| info.retry_delay);
    retry_after.filter(|_| status.code() == Code::ResourceExhausted && names_a_limit)
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        let words = error.to_string();
        match error {
            ClientError::Status { status, .. } => {
                let missing = status.get_details_precondition_failure();
                let refusal = Refusal::by_node(status.code(), words);
                let violations = missing.map(|missing| missing.violations).unwrap_or_default();
                let refusal =
                    violations.iter().fold(refusal, |refusal, violation| refusal.naming(&violation.subject));
                match overloaded(&status) {
                    Some(retry_after) => refusal.coming_back(retry_after),
                    None => refusal,
                }
            }
            _ => Refusal::nonsense(words),
        }
    }
}
