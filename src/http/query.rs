//! Queries over HTTP: asked whole, answered chunk by chunk.
//!
//! The first chunk is awaited before the head of the answer is sent, so that most failures have a status. A failure behind
//! it breaks the answer off: whoever reads one to its end has all of it. The result set is given up with the answer.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_DISPOSITION;
use tonic::codegen::http::{HeaderValue, Response};

use crate::access::Caller;
use crate::admission::ClientKey;
use crate::coordinator::{Answered, Asking, ChunkRead, Coordinator};
use crate::coverage;
use crate::day::Day;
use crate::error::{self, QueryError};
use crate::frame;
use crate::notes;
use crate::plan::{Fate, Query};
use crate::result_set::{Owner, ResultSet};
use crate::rows::{Format, RowWriter};
use crate::service;
use crate::service::streaming::{Reading, reads, until_idle};
use crate::state::NodeState;

use super::parameters::Asked;
use super::with_type;

/// Rows to scan that writing one row costs as much as: 0.5 ns against 0.3 (a line), 1 (a record) and 0.5 microseconds (Parquet), by what
/// answers of 225,521 rows take beside the same frames as they are.
const SCANNED_ROWS_PER_LINE: u64 = 600;
const SCANNED_ROWS_PER_RECORD: u64 = 2000;
const SCANNED_ROWS_PER_PARQUET_ROW: u64 = 1000;

/// The chunks of a result that are still to come, or why there are no more.
type Chunks = BoxStream<'static, Result<ChunkRead, QueryError>>;

/// A query that was answered, and whose chunks are read.
pub(super) struct Opened {
    /// What it was answered with.
    pub(super) answered: Answered,
    /// The first is there. The result set is given up with them.
    pub(super) chunks: Chunks,
    /// Who pays for what is made of them.
    pub(super) client: ClientKey,
}

/// Answers with rows.
pub(super) async fn rows(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Response<Body>, QueryError> {
    let query = asked.rows().map_err(|invalid| state.refused(invalid.into()))?;
    answer(state, caller, asked, query).await
}

/// Answers with groups.
pub(super) async fn groups(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Response<Body>, QueryError> {
    let query = asked.groups().map_err(|invalid| state.refused(invalid.into()))?;
    answer(state, caller, asked, query).await
}

/// What a query would do.
pub(super) async fn explanation(
    state: &NodeState,
    caller: &Caller,
    asked: &Asked,
) -> Result<Value, QueryError> {
    state.serving()?;
    let (asked_at, deadline) = (Instant::now(), state.deadline(asked.timeout()));
    let (_, client) = service::asker(&caller.identity, "")?;
    let query = asked.rows()?;
    let explaining = state.coordinator.explain(&query, &client);
    let late = |_| QueryError::DeadlineExceeded { waited: deadline - asked_at };
    let explanation = tokio::time::timeout_at(deadline, explaining).await.map_err(late)??;
    let days = explanation.plan.days.iter().zip(&explanation.days).map(|(planned, explained)| {
        let (rows_to_scan, rows_at_most, pruned_by) = match &planned.fate {
            Fate::Ask(ask) => (ask.rows_to_scan, ask.rows_at_most, None),
            Fate::Pruned { by, .. } => (0, 0, Some(by)),
            _ => (0, 0, None),
        };
        json!({
            "day": planned.day.to_string(),
            "team": &*planned.team,
            "rows_to_scan": rows_to_scan,
            "rows_at_most": rows_at_most,
            "pruned_by": pruned_by,
            "holders": names(&explained.holders),
            "assigned": explained.assigned.as_deref(),
            "via": explained.via.as_deref(),
            "note": explained.note,
        })
    });
    let strategies = &state.overlay.strategies;
    Ok(json!({
        "query": explanation.plan.query.to_string(),
        "rows_to_scan": explanation.rows_to_scan,
        "forwarding": strategies.forwarding.to_string(),
        "chunking": explanation.plan.bounds.strategy.to_string(),
        "fairness": strategies.fairness.to_string(),
        "days": days.collect::<Value>(),
    }))
}

fn names(nodes: &[crate::config::NodeId]) -> Value {
    nodes.iter().map(|node| node.to_string()).collect()
}

async fn answer(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
    query: Query,
) -> Result<Response<Body>, QueryError> {
    let columns = frame::json_keys(query.aggregate.as_ref());
    let schema = frame::schema_before(query.encoding, query.aggregate.as_ref());
    let deadline = state.deadline(asked.timeout());
    let Opened { answered, chunks, client } = open(state, caller, asked, query, deadline).await?;
    let format = asked.format();
    let writer = RowWriter::start(format, Vec::new(), columns, &schema).expect("writing to memory succeeds");
    let chunks = chunks.map(|chunk| chunk.map_err(|error| error.to_status())).boxed();
    let chunks = until_idle(chunks, state.overlay.limits.idle_stream()).boxed();
    let writing = Writing {
        coordinator: state.coordinator.clone(),
        client,
        result_set: answered.result_set.clone(),
        format,
        chunks,
        index: 0,
        writer: Some(writer),
    };
    let body = writing.bytes();
    let body =
        Body::new(http_body_util::StreamBody::new(body.map(|bytes| bytes.map(http_body::Frame::data))));
    Ok(with_head(with_type(content_type(format), body), state, asked, &answered))
}

/// Asks a query, which is to be planned and counted until `deadline`, and for its first chunk.
pub(super) async fn open(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
    query: Query,
    deadline: Instant,
) -> Result<Opened, QueryError> {
    state.serving().map_err(|error| state.refused(error))?;
    let (owner, client) = service::asker(&caller.identity, "")?;
    let until = asked.timeout().map(|timeout| Instant::now() + timeout);
    let asking =
        Asking { query, client: client.clone(), owner: owner.clone(), request_id: String::new(), deadline };
    let answered = state.coordinator.query(asking).await?;
    let uid = answered.uid.clone();
    let lease = Lease { coordinator: state.coordinator.clone(), uid, owner, client: client.clone() };
    let chunks = chunks(state.clone(), caller, lease, &answered, until).await?;
    Ok(Opened { answered, chunks, client })
}

/// A result set that nobody reads once this is dropped.
struct Lease {
    coordinator: Arc<Coordinator>,
    uid: String,
    owner: Owner,
    client: ClientKey,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.coordinator.cancel(&self.uid, "", &self.owner, &self.client);
    }
}

/// The chunks of a result, the first of which is there.
async fn chunks(
    state: Arc<NodeState>,
    caller: &Caller,
    lease: Lease,
    answered: &Answered,
    until: Option<Instant>,
) -> Result<Chunks, QueryError> {
    let place = state.streams.try_acquire_for(&*caller.identity, 1)?;
    let reading = Reading {
        uid: answered.uid.clone(),
        owner: lease.owner.clone(),
        client: lease.client.clone(),
        chunks: 0..answered.result_set.chunk_count(),
        until,
    };
    let mut chunks = reads(&state, reading).boxed();
    let first = match chunks.next().await {
        Some((_, chunk)) => Some(chunk?),
        None => None,
    };
    let rest = chunks.map(|(_, chunk)| chunk);
    // The place and the result set are given back when the client has taken everything, is gone, or takes nothing any more.
    let chunks = stream::iter(first.map(Ok)).chain(rest).map(move |chunk| {
        let _held = (&place, &lease);
        chunk
    });
    Ok(chunks.boxed())
}

/// An answer that is written while it is read.
struct Writing {
    coordinator: Arc<Coordinator>,
    client: ClientKey,
    result_set: Arc<ResultSet>,
    format: Format,
    chunks: BoxStream<'static, Result<ChunkRead, Status>>,
    /// Of the next chunk.
    index: u32,
    /// `None` at the end.
    writer: Option<RowWriter<Vec<u8>>>,
}

impl Writing {
    fn bytes(self) -> impl futures::Stream<Item = Result<Bytes, Status>> + Send {
        stream::try_unfold(self, |mut writing| async move {
            while let Some(writer) = writing.writer.take() {
                let chunk = writing.chunks.next().await.transpose()?;
                let (writer, bytes) = writing.written(writer, chunk).await?;
                writing.writer = writer;
                writing.index += 1;
                // Of Parquet, most chunks only fill a row group.
                if !bytes.is_empty() {
                    return Ok(Some((bytes, writing)));
                }
            }
            Ok(None)
        })
    }

    /// The bytes of a chunk, or those behind the last one, with the writer for what follows.
    async fn written(
        &mut self,
        mut writer: RowWriter<Vec<u8>>,
        chunk: Option<ChunkRead>,
    ) -> Result<(Option<RowWriter<Vec<u8>>>, Bytes), Status> {
        let frames = chunk.iter().flat_map(|chunk| chunk.frames.iter());
        let rows: u64 = frames.map(|frame| u64::from(frame.rows)).sum();
        let ends = chunk.is_none();
        let write = move || -> io::Result<_> {
            let Some(chunk) = chunk else { return Ok((None, writer.finish()?.into())) };
            chunk.frames.iter().try_for_each(|frame| writer.frame(&frame.payload))?;
            let bytes = std::mem::take(writer.out_mut());
            Ok((Some(writer), bytes.into()))
        };
        let of_row = match self.format {
            // Frames as they are: at most `chunk_bytes` are copied.
            Format::Json | Format::Arrow => return write().map_err(unreadable),
            // A bracket at most.
            Format::Ndjson | Format::Csv if ends => return write().map_err(unreadable),
            Format::Ndjson => SCANNED_ROWS_PER_LINE,
            Format::Csv => SCANNED_ROWS_PER_RECORD,
            Format::Parquet => SCANNED_ROWS_PER_PARQUET_ROW,
        };
        let chunk = (&*self.result_set, self.index);
        let written = self.coordinator.work_for(&self.client, chunk, rows.max(1) * of_row, write).await;
        written.map_err(|error| error.to_status())?.map_err(unreadable)
    }
}

/// What a node sent is no frame of rows; the answer breaks off.
fn unreadable(error: io::Error) -> Status {
    tracing::warn!(%error, "a chunk cannot be written");
    Status::data_loss(error.to_string())
}

/// What a format is called in a header.
pub(super) fn content_type(format: Format) -> &'static str {
    match format {
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Json => "application/json",
        Format::Arrow => "application/vnd.apache.arrow.stream",
        Format::Parquet => "application/vnd.apache.parquet",
    }
}

/// What there is to say about a result beside its rows.
fn with_head(
    mut response: Response<Body>,
    state: &NodeState,
    asked: &Asked,
    answered: &Answered,
) -> Response<Body> {
    let format = asked.format();
    let result_set = &answered.result_set;
    let kind = if result_set.plan.query.aggregate.is_some() { "aggregate" } else { "observations" };
    // Text is shown by a browser, what is for other programs is kept as a file.
    let place = if matches!(format, Format::Ndjson | Format::Json) { "inline" } else { "attachment" };
    let extension = if format == Format::Arrow { "arrows" } else { format.name() };
    let headers = response.headers_mut();
    let mut say = |name: &'static str, value: String| {
        let value = HeaderValue::try_from(value).expect("names of days and numbers are ASCII");
        headers.insert(name, value);
    };
    say(CONTENT_DISPOSITION.as_str(), format!("{place}; filename=\"{kind}.{extension}\""));
    say("overlay-uid", answered.uid.clone());
    say("overlay-total-rows", result_set.total_records.to_string());
    say("overlay-limit-reached", result_set.limit_reached.to_string());
    say_beside(&mut response, state, asked, result_set);
    response
}

/// The days that a partial result lacks.
pub(super) fn missing_days(result_set: &ResultSet) -> Vec<Day> {
    coverage::missing(&result_set.ledger).map(|(entry, ..)| entry.day).collect()
}

/// Says beside an answer what cannot be seen from it: the days that it lacks, why it has no rows, that other teams have more.
pub(super) fn say_beside(
    response: &mut Response<Body>,
    state: &NodeState,
    asked: &Asked,
    result_set: &ResultSet,
) {
    let headers = response.headers_mut();
    let missing = missing_days(result_set);
    if !missing.is_empty() {
        let days = HeaderValue::try_from(error::listed(&missing)).expect("names of days are ASCII");
        headers.insert("overlay-missing-days", days);
    }
    let process = &state.process;
    let notes = [
        notes::own_team(&process.id, process.role.name(), &process.team, asked.team()),
        notes::without_rows(&result_set.plan.query, &result_set.ledger, result_set.total_records),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if !notes.is_empty() {
        // Names may be in any alphabet.
        let line = notes.join("; ").escape_default().to_string();
        headers.insert("overlay-note", HeaderValue::try_from(line).expect("what is escaped is ASCII"));
    }
}
