//! What is checked of a running overlay, one function a check.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::Outcome;
use crate::cli::output::counted;
use crate::cli::table::thousands;
use crate::client::{Client, ClientError, NodeMetrics, OldClient, QueryResult};
use crate::coverage::Outcome as Fate;
use crate::decimal::Decimal;
use crate::frame::Encoding;
use crate::plan::{ChunkingChoice, Query};
use crate::predicate::Predicate;
use crate::security::Security;

/// Chunks that are read twice.
const CHUNKS_READ_AGAIN: u32 = 12;

/// Rows that the old contract is asked for: several chunks of the default size.
const OLD_LIMIT: u64 = 2500;

/// The node under test, by both contracts.
pub(super) struct Checks {
    client: Client,
    old: OldClient,
    address: String,
    security: Security,
}

/// The node says that it is ready.
pub(super) fn metrics(metrics: &NodeMetrics) -> Outcome {
    let who = format!("node {}, {} of {}", metrics.node, metrics.role, metrics.team);
    if !metrics.ready || metrics.draining {
        return Err(format!("{who} is not ready"));
    }
    match metrics.neighbours.iter().find(|neighbour| neighbour.state != "up") {
        Some(down) => Err(format!("{who} has neighbour {} down: {}", down.node, down.last_error)),
        None => Ok(format!("{who}, ready, {} neighbours up", metrics.neighbours.len())),
    }
}

fn words(error: ClientError) -> String {
    error.to_string()
}

/// PM2.5 from 5 to 35.
fn sample() -> Query {
    Query {
        predicate: Predicate {
            parameter: Some("PM2.5".to_owned()),
            min: Decimal::parse("5").ok(),
            max: Decimal::parse("35").ok(),
            ..Predicate::default()
        },
        ..Query::default()
    }
}

/// Every row there is, in chunks as large as they may be.
fn everything() -> Query {
    let chunking = ChunkingChoice { chunk_rows: Some(1_000_000), ..ChunkingChoice::default() };
    Query { chunking, ..Query::default() }
}

fn total(result: &QueryResult) -> u64 {
    result.manifest.total_records
}

impl Checks {
    pub(super) fn new(security: &Security, address: &str) -> Result<Self, ClientError> {
        Ok(Checks {
            client: Client::secured(security, address, "system-test")?,
            old: OldClient::secured(security, address)?,
            address: address.to_owned(),
            security: security.clone(),
        })
    }

    /// Reads a whole result; the client checks every frame against the ledger.
    async fn drain(&self, result: &mut QueryResult) -> Result<u64, String> {
        let mut rows = 0;
        for index in 0..result.chunk_count() {
            let chunk = self.client.chunk_or_resume(result, index).await.map_err(words)?;
            rows += chunk.frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
        }
        Ok(rows)
    }

    /// One query is answered with a proof, and its chunks hold what the manifest says.
    pub(super) async fn single_request(&self) -> Outcome {
        let query = Query { limit: Some(5000), encoding: Encoding::Json, ..sample() };
        let mut result = self.client.query(&query).await.map_err(words)?;
        let rows = self.drain(&mut result).await?;
        match rows == total(&result) {
            true => Ok(format!(
                "{} of PM2.5 from 5 to 35 in {}",
                counted(rows, "row"),
                counted(u64::from(result.chunk_count()), "chunk")
            )),
            false => Err(format!("the manifest has {} rows, the chunks {rows}", total(&result))),
        }
    }

    /// Ten clients at once get what each would get alone.
    pub(super) async fn ten_at_once(&self) -> Outcome {
        let all = total(&self.client.query(&sample()).await.map_err(words)?);
        let ask = async |number: u64| {
            let client = Client::secured(&self.security, &self.address, &format!("system-test-{number}"))?;
            // Different limits, so that no answer is another one's.
            let limit = 1000 + number;
            let result = client.query(&Query { limit: Some(limit), ..sample() }).await?;
            Ok::<_, ClientError>((total(&result), limit.min(all)))
        };
        for (number, answer) in join_all((1..=10).map(ask)).await.into_iter().enumerate() {
            match answer.map_err(words)? {
                (found, expected) if found != expected => {
                    return Err(format!("client {} got {found} rows, expected {expected}", number + 1));
                }
                _ => {}
            }
        }
        Ok("ten clients got their rows".to_owned())
    }

    /// Chunks are the same bytes when they are read again, last first, all at once.
    pub(super) async fn chunks_again(&self) -> Outcome {
        let chunking = ChunkingChoice { chunk_rows: Some(100), ..ChunkingChoice::default() };
        let query = Query { chunking, limit: Some(u64::from(CHUNKS_READ_AGAIN) * 100), ..Query::default() };
        let result = self.client.query(&query).await.map_err(words)?;
        let mut first = Vec::new();
        for index in 0..result.chunk_count() {
            first.push(self.client.chunk(&result, index).await.map_err(words)?);
        }
        let again = (0..result.chunk_count()).rev().map(|index| self.client.chunk(&result, index));
        for chunk in join_all(again).await {
            let chunk = chunk.map_err(words)?;
            let bytes = |frames: &[crate::verb::Frame]| -> Vec<_> {
                frames.iter().map(|frame| (frame.day, frame.first_row, frame.payload.clone())).collect()
            };
            if bytes(&chunk.frames) != bytes(&first[chunk.index as usize].frames) {
                return Err(format!("chunk {} has other bytes when it is read again", chunk.index));
            }
        }
        Ok(format!("{} chunks, read again from the last on, byte for byte", first.len()))
    }

    /// An unknown result and a chunk out of range are different errors.
    pub(super) async fn errors(&self) -> Outcome {
        let mut result = self.client.query(&Query { limit: Some(1), ..sample() }).await.map_err(words)?;
        let code = async |result: &QueryResult, index| match self.client.chunk(result, index).await {
            Err(ClientError::Status { status, .. }) => status.code(),
            _ => tonic::Code::Ok,
        };
        let beyond = code(&result, result.chunk_count()).await;
        result.uid = "no-such-result".to_owned();
        let unknown = code(&result, 0).await;
        match (beyond, unknown) {
            (tonic::Code::OutOfRange, tonic::Code::NotFound) => {
                Ok("a chunk beyond the last is OutOfRange, an unknown result NotFound".to_owned())
            }
            _ => Err(format!("a chunk beyond the last is {beyond:?}, an unknown result {unknown:?}")),
        }
    }

    /// Every row of every planned day is delivered once: inventory, ledger, manifest and frames agree.
    pub(super) async fn exactly_once(&self) -> Outcome {
        let explained = self.client.explain(&everything()).await.map_err(words)?;
        let mut result = self.client.query(&everything()).await.map_err(words)?;
        let days: Vec<_> = result.ledger.iter().map(|entry| entry.day).collect();
        let distinct: BTreeSet<_> = days.iter().collect();
        if distinct.len() != days.len() {
            return Err(format!("the ledger has {} entries for {} days", days.len(), distinct.len()));
        }
        let planned: Vec<_> = explained.days.iter().map(|day| day.day).collect();
        if planned != days {
            return Err("the ledger's days are not the planned ones".to_owned());
        }
        let mut in_ledger = 0;
        for (entry, explained) in result.ledger.iter().zip(&explained.days) {
            let taken = match &entry.outcome {
                Fate::Served(served) => served.rows_taken,
                _ => 0,
            };
            if taken != explained.rows_to_scan {
                let (day, held) = (entry.day, explained.rows_to_scan);
                return Err(format!("day {day} has {held} rows by its inventory, {taken} in the ledger"));
            }
            in_ledger += taken;
        }
        let delivered = self.drain(&mut result).await?;
        let counts = [explained.rows_to_scan, in_ledger, total(&result), delivered];
        match counts.iter().all(|count| *count == delivered) {
            true if delivered == 0 => Err("the overlay holds no row".to_owned()),
            true => Ok(format!("{} rows of {} planned days, each once", thousands(delivered), days.len())),
            false => Err(format!("rows by inventory, ledger, manifest, frames differ: {counts:?}")),
        }
    }

    /// What the teams answer alone adds up to what they answer together.
    pub(super) async fn teams_add_up(&self) -> Outcome {
        let together = self.client.query(&sample()).await.map_err(words)?;
        let teams: BTreeSet<String> = together.ledger.iter().map(|entry| entry.team.to_string()).collect();
        let mut sum = 0;
        let mut parts = Vec::new();
        for team in teams {
            let query = Query { team: Some(team.clone()), ..sample() };
            let rows = total(&self.client.query(&query).await.map_err(words)?);
            sum += rows;
            parts.push(format!("{team} {}", thousands(rows)));
        }
        match sum == total(&together) {
            true => Ok(format!("{} make {}", parts.join(" and "), thousands(sum))),
            false => Err(format!("{} do not make {}", parts.join(" and "), total(&together))),
        }
    }

    /// The old contract gives the rows that the new one gives, and its own words for what goes wrong.
    pub(super) async fn old_contract(&self) -> Outcome {
        if !self.old.is_healthy().await.map_err(words)? {
            return Err("the node says that it is not healthy".to_owned());
        }
        let expected = Query { limit: Some(OLD_LIMIT), ..sample() };
        let expected = total(&self.client.query(&expected).await.map_err(words)?);
        let params = serde_json::json!({
            "parameter": "PM2.5", "min_value": 5, "max_value": 35, "limit": OLD_LIMIT,
        });
        let result = self.old.query("filter", &params.to_string()).await.map_err(words)?;
        if (result.status.as_str(), result.total_records as u64) != ("ready", expected) {
            return Err(format!("expected {expected} records, the answer is {result:?}"));
        }
        let mut rows = 0;
        for index in 0..result.total_chunks {
            let chunk = self.old.chunk(&result.uid, index).await.map_err(words)?;
            let in_chunk = chunk.row_count();
            match (chunk.status.as_str(), in_chunk, chunk.is_last == (index + 1 == result.total_chunks)) {
                ("success", Some(in_chunk), true) => rows += in_chunk as u64,
                (status, _, _) => {
                    return Err(format!(
                        "chunk {index} of {}: status {status}, is_last {}, rows {in_chunk:?}",
                        result.total_chunks, chunk.is_last
                    ));
                }
            }
        }
        if rows != expected {
            return Err(format!("{expected} records were promised, {rows} came"));
        }
        let unknown = self.old.chunk("no-such-result", 0).await.map_err(words)?.status;
        let beyond = self.old.chunk(&result.uid, result.total_chunks).await.map_err(words)?.status;
        let invalid = self.old.query("filter", "{").await.map_err(words)?.status;
        if unknown != "not_found" || beyond != "out_of_range" || !invalid.starts_with("invalid_query:") {
            return Err(format!("statuses of bad requests are `{unknown}`, `{beyond}`, `{invalid}`"));
        }
        Ok(format!("{} in {}", counted(rows, "row"), counted(result.total_chunks as u64, "chunk")))
    }
}
