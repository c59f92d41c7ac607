//! A query of the `OverlayNode` contract: what clients of the old system ask, and its benchmark.

use std::hash::{DefaultHasher, Hash, Hasher};

use overlay::proto::legacy;
use serde::de::IgnoredAny;
use tonic::{Code, Request};

use super::{Answer, Calls, Failure, Success, User};

impl User {
    /// One query, and its first chunk or every chunk.
    pub(super) async fn old_query(
        &self,
        query_params: &str,
        all_chunks: bool,
        calls: &mut Calls,
    ) -> Result<Success, Failure> {
        let reply = self.old_reply(query_params, calls).await?;
        let (records, chunk_count) = (reply.total_records, reply.total_chunks);
        if records < 0 || chunk_count < 1 {
            return Err(Failure::Wrong(format!("{records} records in {chunk_count} chunks")));
        }
        let mut chunks = Vec::new();
        for index in 0..if all_chunks { chunk_count } else { 1 } {
            chunks.push(self.old_chunk(&reply, index, calls).await?);
        }
        let rows = row_count(&chunks, records as u64, chunk_count).map_err(Failure::Wrong)?;
        let mut hasher = DefaultHasher::new();
        chunks.hash(&mut hasher);
        let answer =
            Answer { records: records as u64, chunks: vec![chunk_count as u32], digest: hasher.finish() };
        self.shared.check("old query", answer)?;
        Ok(Success {
            records: Some(records as u64),
            rows,
            hops: reply.hops.len() as u64,
            ..Success::default()
        })
    }

    async fn old_reply(
        &self,
        query_params: &str,
        calls: &mut Calls,
    ) -> Result<legacy::QueryResponse, Failure> {
        let request = Request::new(legacy::QueryRequest {
            query_type: "filter".to_owned(),
            query_params: query_params.to_owned(),
            hops: Vec::new(),
            client_id: self.id.clone(),
        });
        let mut node = self.old.clone();
        let reply = calls.expecting("OverlayNode.Query", &[Code::Ok], node.query(request)).await?;
        let reply = reply.expect("nothing but an answer was expected");
        if reply.status != "ready" {
            calls.fail_last();
        }
        match reply.status.as_str() {
            "ready" => Ok(reply),
            // The old contract says neither which limit nor when to come back.
            "rejected" => Err(Failure::Rejected { limit: "not named".to_owned(), retry_after: None }),
            status => Err(Failure::Failed(format!("OverlayNode.Query: status `{status}`"))),
        }
    }

    async fn old_chunk(
        &self,
        reply: &legacy::QueryResponse,
        chunk_index: i32,
        calls: &mut Calls,
    ) -> Result<String, Failure> {
        let request = Request::new(legacy::ChunkRequest { uid: reply.uid.clone(), chunk_index });
        let mut node = self.old.clone();
        let chunk = calls.expecting("OverlayNode.GetChunk", &[Code::Ok], node.get_chunk(request)).await?;
        let chunk = chunk.expect("nothing but an answer was expected");
        if chunk.status != "success" {
            calls.fail_last();
            return Err(Failure::Failed(format!("OverlayNode.GetChunk: status `{}`", chunk.status)));
        }
        calls.bytes += chunk.data.len() as u64;
        let found = (&chunk.uid, chunk.chunk_index, chunk.total_chunks, chunk.is_last);
        let wanted = (&reply.uid, chunk_index, reply.total_chunks, chunk_index + 1 == reply.total_chunks);
        match found == wanted {
            true => Ok(chunk.data),
            false => Err(Failure::Wrong("a chunk does not belong to its result".to_owned())),
        }
    }
}

/// Rows in the chunks that were read, which must not contradict the total.
fn row_count(chunks: &[String], records: u64, chunk_count: i32) -> Result<u64, String> {
    let mut rows = 0;
    for (index, data) in chunks.iter().enumerate() {
        let chunk: Vec<IgnoredAny> =
            serde_json::from_str(data).map_err(|error| format!("chunk {index} is no JSON array: {error}"))?;
        rows += chunk.len() as u64;
    }
    let whole = chunks.len() == chunk_count as usize;
    match if whole { rows == records } else { 0 < rows && rows < records } {
        true => Ok(rows),
        false => {
            Err(format!("{rows} rows in {} of {chunk_count} chunks, total_records {records}", chunks.len()))
        }
    }
}
