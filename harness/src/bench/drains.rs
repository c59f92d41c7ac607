//! Whole results: how long a client takes from asking to holding the last row.

use std::net::SocketAddr;
use std::pin::pin;

use futures::TryStreamExt;
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{Client, OldClient};
use overlay::day::Day;
use overlay::plan::{ChunkingChoice, Query};
use overlay::predicate::{Predicate, Words};
use tokio::time::Instant;

use super::rates::{accepted, old_filter};
use super::{BenchError, milliseconds};

/// Rows that who wants all of them asks for at once; the node's bound in bytes makes them fewer.
const CHUNK_ROWS: u32 = 10_000;

/// What a drain came to.
pub(super) struct Drained {
    /// Until the client has the first chunk, checked.
    pub(super) first_ms: f64,
    /// Until it has everything.
    pub(super) all_ms: f64,
    /// Of all chunks.
    pub(super) rows: u64,
    /// The rows of each frame of a day.
    pub(super) frames: Vec<(Day, u32)>,
}

/// PM2.5 from `min` to 35.
pub(super) fn moderate(min: &str) -> Predicate {
    let words = Words { parameter: Some("PM2.5"), min: Some(min), max: Some("35"), ..Words::default() };
    words.resolve().expect("the bounds are in order")
}

/// All rows in Arrow.
pub(super) async fn arrow(address: SocketAddr, min: &str) -> Result<Drained, BenchError> {
    drain(address, Query { predicate: moderate(min), ..Query::default() }).await
}

/// The mean of PM2.5 by site and day, over all days; rows are groups.
pub(super) async fn aggregate(address: SocketAddr, min: &str) -> Result<Drained, BenchError> {
    let words = Words { parameter: Some("PM2.5"), min: Some(min), ..Words::default() };
    let mean = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Day] };
    let predicate = words.resolve().expect("a number");
    drain(address, Query { predicate, aggregate: Some(mean), ..Query::default() }).await
}

/// All chunks, over `StreamChunks` but for the first, each checked.
async fn drain(address: SocketAddr, query: Query) -> Result<Drained, BenchError> {
    let client = connected(address).await?;
    let chunking = ChunkingChoice { chunk_rows: Some(CHUNK_ROWS), ..ChunkingChoice::default() };
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
    let rows = frames.iter().map(|frame| u64::from(frame.rows)).sum();
    let frames = frames.iter().filter_map(|frame| Some((frame.day?, frame.rows))).collect();
    Ok(Drained { first_ms, all_ms, rows, frames })
}

/// All rows in JSON by the old contract, one chunk after the other.
pub(super) async fn old_json(address: SocketAddr, min: &str) -> Result<(f64, u64), BenchError> {
    let client = OldClient::new(&address.to_string())?;
    // Connects; a node that is not ready says so.
    client.is_healthy().await?;
    let began = Instant::now();
    let result = client.query("filter", &old_filter(min, 10_000_000)).await?;
    accepted("ready", &result.status)?;
    for index in 0..result.total_chunks {
        let chunk = client.chunk(&result.uid, index).await?;
        accepted("success", &chunk.status)?;
    }
    Ok((milliseconds(began.elapsed()), result.total_records as u64))
}

async fn connected(address: SocketAddr) -> Result<Client, BenchError> {
    let client = Client::new(&address.to_string(), "bench")?;
    client.metrics().await?;
    Ok(client)
}
