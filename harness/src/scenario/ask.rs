//! Asks a question of a cluster and reads all of its answer, by whichever contract.

use std::collections::BTreeSet;
use std::time::Duration;

use overlay::client::{ClientError, QueryResult};
use overlay::coverage;
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use serde_json::Value;
use tonic::Code;
use tonic_types::StatusExt;
use xxhash_rust::xxh3::Xxh3;

use super::step::{Form, Question};
use crate::answer;
use crate::cluster::Cluster;
use crate::property::Refusal;

/// How long a client waits for one call: as long as a node may take for it, and some seconds for the way.
const PATIENCE: Duration = Duration::from_secs(40);

/// All of an answer.
pub(super) struct Answer {
    /// Rows, or groups, in the form of the question's contract.
    pub(super) rows: Vec<Value>,
    /// The days that it says it lacks.
    pub(super) missing: BTreeSet<u32>,
    /// Over the bytes of each chunk; empty by the old contract.
    pub(super) digests: Vec<u64>,
}

/// Asks and reads everything, as client `number`.
pub(super) async fn ask(
    cluster: &dyn Cluster,
    question: &Question,
    number: usize,
) -> Result<Answer, Refusal> {
    match question.form {
        Form::Old => ask_by_the_old_contract(cluster, question).await,
        Form::Arrow | Form::Json => ask_by_ours(cluster, question, number).await,
    }
}

/// One call, which a client does not wait for for ever.
pub(super) async fn call<T>(calling: impl Future<Output = Result<T, ClientError>>) -> Result<T, Refusal> {
    match tokio::time::timeout(PATIENCE, calling).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Refusal::no_answer(format!("no answer within {PATIENCE:?}"))),
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

/// The days that a result says it lacks.
pub(super) fn missing(result: &QueryResult) -> BTreeSet<u32> {
    coverage::missing(&result.ledger).map(|(entry, ..)| entry.day.number()).collect()
}

async fn ask_by_ours(cluster: &dyn Cluster, question: &Question, number: usize) -> Result<Answer, Refusal> {
    let client = cluster.client(&question.node, &format!("client {number}"))?;
    let result = call(client.query(&typed(question))).await?;
    let mut chunks = Vec::new();
    for index in 0..result.chunk_count() {
        chunks.push(call(client.chunk(&result, index)).await?);
    }
    let digest = |chunk: &overlay::client::CheckedChunk| {
        let mut digest = Xxh3::new();
        chunk.frames.iter().for_each(|frame| digest.update(&frame.payload));
        digest.digest()
    };
    Ok(Answer {
        rows: answer::rows(&result, &chunks),
        missing: missing(&result),
        digests: chunks.iter().map(digest).collect(),
    })
}

async fn ask_by_the_old_contract(cluster: &dyn Cluster, question: &Question) -> Result<Answer, Refusal> {
    let client = cluster.old_client(&question.node)?;
    // The old `filter` knows no text.
    let query_type = if question.query.text.is_some() { "search" } else { "filter" };
    let result = call(client.query(query_type, &question.query.to_json().to_string())).await?;
    expect_status("ready", &result.status)?;
    let mut rows = Vec::new();
    for index in 0..result.total_chunks {
        let chunk = call(client.chunk(&result.uid, index)).await?;
        expect_status("success", &chunk.status)?;
        let chunk_rows = serde_json::from_str::<Vec<Value>>(&chunk.data);
        rows.extend(chunk_rows.map_err(|error| Refusal::nonsense(format!("chunk {index}: {error}")))?);
    }
    if rows.len() as i64 != result.total_records {
        let words = format!("total_records is {}, its chunks have {}", result.total_records, rows.len());
        return Err(Refusal::nonsense(words));
    }
    Ok(Answer { rows, missing: BTreeSet::new(), digests: Vec::new() })
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
    Err(Refusal::by_node(code, format!("status `{status}`")).naming(list))
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        let words = error.to_string();
        match error {
            ClientError::Status { status, .. } => {
                let missing = status.get_details_precondition_failure();
                let refusal = Refusal::by_node(status.code(), words);
                let violations = missing.map(|missing| missing.violations).unwrap_or_default();
                violations.iter().fold(refusal, |refusal, violation| refusal.naming(&violation.subject))
            }
            _ => Refusal::nonsense(words),
        }
    }
}
