//! Whole results: how long a client takes from asking to holding the last row.

use std::net::SocketAddr;
use std::pin::pin;

use arrow_array::{Array, Float64Array};
use bytes::Bytes;
use futures::TryStreamExt;
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{Client, OldChunk, OldClient};
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::plan::{ChunkingChoice, Query, STREAMED_CHUNK_ROWS};
use overlay::predicate::{Predicate, Words};
use overlay::verb::Frame;
use tokio::time::Instant;

use super::rates::{accepted, old_filter};
use super::{BenchError, Found, milliseconds};

/// What a drain came to.
pub(super) struct Drained {
    /// Until the client has the first chunk, checked.
    pub(super) first_ms: f64,
    /// Until it has everything.
    pub(super) all_ms: f64,
    /// Precedes the frames.
    schema: Bytes,
    /// Of all chunks.
    frames: Vec<Frame>,
}

impl Drained {
    /// Of all frames, each of which was decoded.
    pub(super) fn rows(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.rows)).sum()
    }

    /// The rows of each frame of a day.
    pub(super) fn days(&self) -> Vec<(Day, u32)> {
        self.frames.iter().filter_map(|frame| Some((frame.day?, frame.rows))).collect()
    }

    /// Of all groups.
    fn mean_sum(&self) -> Result<f64, BenchError> {
        let sum = |frame: &Frame| {
            let groups = frame::decode_arrow(&self.schema, &frame.payload)?;
            let means = groups.column_by_name("mean");
            let means = means.and_then(|means| means.as_any().downcast_ref::<Float64Array>());
            Ok(means.expect("the client has checked the schema").values().iter().sum::<f64>())
        };
        self.frames.iter().map(sum).sum()
    }
}

/// PM2.5 from `min` to 35.
pub(super) fn moderate(min: &str) -> Predicate {
    let words = Words { parameter: Some("PM2.5"), min: Some(min), max: Some("35"), ..Words::default() };
    words.resolve().expect("the bounds are in order")
}

/// A bound below every value that is left after -999, with the digits of `bound`.
pub(super) fn no_bound(bound: &str) -> String {
    format!("-9{bound}")
}

/// PM2.5 from `min` on.
pub(super) fn particles(min: &str) -> Predicate {
    let words = Words { parameter: Some("PM2.5"), min: Some(min), ..Words::default() };
    words.resolve().expect("a number")
}

/// Means by site and day.
pub(super) fn means_by_site_and_day() -> AggregateSpec {
    AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Day] }
}

/// All rows.
pub(super) async fn rows(address: SocketAddr, min: &str, encoding: Encoding) -> Result<Drained, BenchError> {
    drain(address, Query { predicate: moderate(min), encoding, ..Query::default() }).await
}

/// The mean of PM2.5 by site and day, over all days; rows are groups.
pub(super) async fn aggregate(address: SocketAddr, min: &str) -> Result<(f64, Found), BenchError> {
    let query =
        Query { predicate: particles(min), aggregate: Some(means_by_site_and_day()), ..Query::default() };
    let drained = drain(address, query).await?;
    let found = Found { rows: drained.rows(), mean_sum: Some(drained.mean_sum()?) };
    Ok((drained.all_ms, found))
}

/// All chunks, over `StreamChunks` but for the first, each checked.
async fn drain(address: SocketAddr, query: Query) -> Result<Drained, BenchError> {
    let client = connected(address).await?;
    let chunking = ChunkingChoice { chunk_rows: Some(STREAMED_CHUNK_ROWS), ..ChunkingChoice::default() };
    let query = Query { chunking, ..query };
    let began = Instant::now();
    let mut result = client.query(&query).await?;
    let mut frames = client.chunk_or_resume(&mut result, 0).await?.frames;
    let first_ms = milliseconds(began.elapsed());
    if result.chunk_count() > 1 {
        let mut chunks = pin!(client.chunks(&result, 1).await?);
        while let Some(chunk) = chunks.try_next().await? {
            frames.extend(chunk.frames);
        }
    }
    let all_ms = milliseconds(began.elapsed());
    Ok(Drained { first_ms, all_ms, schema: result.arrow_schema(), frames })
}

/// All rows in JSON by the old contract, one chunk after the other. They are counted when the time is taken.
pub(super) async fn old_json(address: SocketAddr, min: &str) -> Result<(f64, Found), BenchError> {
    let client = OldClient::new(&address.to_string())?;
    // Connects; a node that is not ready says so.
    client.is_healthy().await?;
    let began = Instant::now();
    let result = client.query("filter", &old_filter(min, 10_000_000)).await?;
    accepted("ready", &result.status)?;
    let mut chunks = Vec::new();
    for index in 0..result.total_chunks {
        let chunk = client.chunk(&result.uid, index).await?;
        accepted("success", &chunk.status)?;
        chunks.push(chunk);
    }
    let ms = milliseconds(began.elapsed());
    let no_rows = || BenchError::Refused("a chunk that is no JSON array".to_owned());
    let rows = |chunk: &OldChunk| chunk.row_count().ok_or_else(no_rows);
    let rows = chunks.iter().map(rows).sum::<Result<usize, _>>()?;
    Ok((ms, Found::rows(rows as u64)))
}

async fn connected(address: SocketAddr) -> Result<Client, BenchError> {
    let client = Client::new(&address.to_string(), "bench")?;
    client.metrics().await?;
    Ok(client)
}
