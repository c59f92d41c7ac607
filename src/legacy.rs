//! The `OverlayNode` contract of the system that this one replaces: a thin adapter over the same node.
//!
//! Outcomes stand in `status`, the gRPC code is OK; only [`get_metrics`](LegacyService) answers
//! `UNAVAILABLE` until the node is ready, since old scripts poll it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::admission::ClientKey;
use crate::coordinator::{Asking, ChunkRead};
use crate::error::{MissingDay, QueryError, shown};
use crate::frame::Encoding;
use crate::params::Params;
use crate::plan::{InvalidQuery, Query};
use crate::proto::legacy;
use crate::result_set::{LeaseError, Owner};
use crate::service::{caller, check_hops, requests, timeout};
use crate::state::{NodeState, Stop};
use crate::verb::Frame;

/// Rows that a query without a limit gets.
const DEFAULT_LIMIT: u64 = 2000;

/// Unknown keys that are logged at most, once each.
const MAX_LOGGED_KEYS: usize = 100;

/// The old contract.
pub struct LegacyService {
    state: Arc<NodeState>,
    unknown_keys: Mutex<BTreeSet<String>>,
}

impl LegacyService {
    /// The old contract over a node.
    pub fn new(state: Arc<NodeState>) -> Self {
        LegacyService { state, unknown_keys: Mutex::default() }
    }

    /// What the coordinator is asked, once the hops are checked.
    fn asking(&self, request: &Request<legacy::QueryRequest>) -> Result<Asking, QueryError> {
        let (identity, deadline) = (caller(request).identity, self.state.deadline(timeout(request)));
        let request = request.get_ref();
        requests::id("client_id", &request.client_id)?;
        self.state.serving()?;
        Ok(Asking {
            query: self.query(request)?,
            client: ClientKey::new(identity.as_str(), request.client_id.as_str()),
            owner: owner(&identity),
            request_id: String::new(),
            deadline,
        })
    }

    fn query(&self, request: &legacy::QueryRequest) -> Result<Query, QueryError> {
        let limits = &self.state.overlay.limits;
        let found = request.query_params.len();
        if found > limits.filter_bytes {
            let most = limits.filter_bytes;
            let why = format!("query_params has {found} bytes, limit {most} (limits.filter_bytes)");
            return Err(InvalidQuery::new("query_params", why).into());
        }
        let Filter { query, unknown_keys } =
            Filter::parse(&request.query_type, &request.query_params, limits.max_rows)?;
        self.log_unknown(unknown_keys.iter());
        Ok(query)
    }

    /// A chunk of a result of this contract, as the text of its rows.
    async fn chunk(
        &self,
        uid: &str,
        index: i64,
        identity: &str,
        deadline: Instant,
    ) -> Result<(ChunkRead, String), QueryError> {
        let (coordinator, owner) = (&self.state.coordinator, owner(identity));
        let result_set = coordinator.leases().touch(uid, &owner, Instant::now());
        if result_set.is_ok_and(|result_set| result_set.plan.query.encoding != Encoding::JsonLegacy) {
            // A result of `overlay.v1`, whose rows this contract cannot carry.
            let unknown = QueryError::Lease(LeaseError::Unknown(uid.to_owned()));
            self.state.metrics.chunk(unknown.outcome(), 0);
            return Err(unknown);
        }
        let chunk = coordinator.chunk(uid, index, &owner, &ClientKey::new(identity, ""), deadline).await?;
        let data = json_array(&chunk.frames)?;
        Ok((chunk, data))
    }

    fn log_unknown<'a>(&self, keys: impl Iterator<Item = &'a String>) {
        let mut logged = self.unknown_keys.lock().expect("logging a key does not panic");
        for key in keys {
            if logged.len() < MAX_LOGGED_KEYS && logged.insert(key.clone()) {
                tracing::warn!(key, "query_params has a key that is not known and is ignored");
            }
        }
    }
}

fn owner(identity: &str) -> Owner {
    Owner { address: identity.to_owned(), client_id: None }
}

#[tonic::async_trait]
impl legacy::overlay_node_server::OverlayNode for LegacyService {
    async fn query(
        &self,
        request: Request<legacy::QueryRequest>,
    ) -> Result<Response<legacy::QueryResponse>, Status> {
        let checked = check_hops(&self.state, &request.get_ref().hops);
        let mut hops = match &checked {
            // Nobody gets back what was too much to read.
            Err(QueryError::Invalid(_)) => Vec::new(),
            _ => request.get_ref().hops.clone(),
        };
        hops.push(self.state.process.id.to_string());
        let answered = match checked.and_then(|()| self.asking(&request)) {
            Ok(asking) => self.state.coordinator.query(asking).await,
            Err(refused) => Err(self.state.refused(refused)),
        };
        let response = match answered {
            Ok(answered) => legacy::QueryResponse {
                uid: answered.uid,
                total_chunks: answered.result_set.chunk_count() as i32,
                total_records: answered.result_set.total_records as i64,
                hops,
                status: "ready".to_owned(),
            },
            Err(error) => legacy::QueryResponse {
                hops,
                status: query_status(&error),
                ..legacy::QueryResponse::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn get_chunk(
        &self,
        request: Request<legacy::ChunkRequest>,
    ) -> Result<Response<legacy::ChunkResponse>, Status> {
        let (identity, deadline) = (caller(&request).identity, self.state.deadline(timeout(&request)));
        let legacy::ChunkRequest { uid, chunk_index } = request.into_inner();
        let response = match self.chunk(&uid, i64::from(chunk_index), &identity, deadline).await {
            Ok((chunk, data)) => legacy::ChunkResponse {
                chunk_index,
                total_chunks: chunk.chunk_count as i32,
                data,
                is_last: chunk.is_last,
                status: "success".to_owned(),
                uid,
            },
            Err(error) => legacy::ChunkResponse {
                chunk_index,
                total_chunks: match error {
                    QueryError::OutOfRange { chunk_count, .. } => chunk_count as i32,
                    _ => 0,
                },
                status: chunk_status(&error),
                uid,
                ..legacy::ChunkResponse::default()
            },
        };
        Ok(Response::new(response))
    }

    async fn get_metrics(
        &self,
        _request: Request<legacy::MetricsRequest>,
    ) -> Result<Response<legacy::MetricsResponse>, Status> {
        let state = &self.state;
        let Some(store) = state.holder.store() else {
            let node = state.process.id.to_string();
            return Err(QueryError::NotServing { node, state: "loading" }.to_status());
        };
        let gauges = state.gauges();
        Ok(Response::new(legacy::MetricsResponse {
            process_id: state.process.id.to_string(),
            role: state.process.role.to_string(),
            team: state.process.team.clone(),
            active_requests: gauges.active_queries as i32,
            max_capacity: state.overlay.limits.max_active as i32,
            is_healthy: state.is_serving(),
            queue_size: gauges.waiting_queries as i32,
            avg_processing_time_ms: (state.metrics.totals().query_seconds_mean * 1e3) as f32,
            data_files_loaded: store.file_count() as i32,
        }))
    }

    async fn shutdown(
        &self,
        request: Request<legacy::ShutdownRequest>,
    ) -> Result<Response<legacy::ShutdownResponse>, Status> {
        let status = match caller(&request).not_admin {
            None => {
                let how = if request.into_inner().graceful { Stop::Graceful } else { Stop::AtOnce };
                self.state.stop(how);
                "stopping".to_owned()
            }
            Some(why) => format!("refused:{why}"),
        };
        Ok(Response::new(legacy::ShutdownResponse { status }))
    }
}

/// The frames of a chunk as one JSON array.
fn json_array(frames: &[Frame]) -> Result<String, QueryError> {
    let payload: usize = frames.iter().map(|frame| frame.payload.len() + 1).sum();
    let mut data = String::with_capacity(payload + 2);
    data.push('[');
    for (index, frame) in frames.iter().enumerate() {
        if index > 0 {
            data.push(',');
        }
        let text = std::str::from_utf8(&frame.payload);
        data.push_str(text.map_err(|error| QueryError::DataLoss(unreadable(frame, &error)))?);
    }
    data.push(']');
    Ok(data)
}

fn unreadable(frame: &Frame, error: &std::str::Utf8Error) -> Vec<MissingDay> {
    let missing = |day| MissingDay {
        day,
        why: format!("its frame is no text: {error}"),
        nodes_tried: vec![frame.node.to_string()],
    };
    frame.day.map(missing).into_iter().collect()
}

/// The `status` of a query that failed.
pub fn query_status(error: &QueryError) -> String {
    match error {
        QueryError::Invalid(invalid) => format!("invalid_query:{invalid}"),
        QueryError::TooLarge { message, .. } => format!("invalid_query:{message}"),
        QueryError::Loop(_) => "loop_detected".to_owned(),
        QueryError::Overloaded { .. } => "rejected".to_owned(),
        QueryError::Unavailable(days) => format!("unavailable:{}", list(days)),
        other => format!("unavailable:{other}"),
    }
}

/// The `status` of a chunk that could not be read.
pub fn chunk_status(error: &QueryError) -> String {
    match error {
        QueryError::Lease(LeaseError::Unknown(_) | LeaseError::Expired(_)) => "not_found".to_owned(),
        QueryError::OutOfRange { .. } => "out_of_range".to_owned(),
        QueryError::DataLoss(days) => format!("data_loss:{}", list(days)),
        QueryError::Unavailable(days) => format!("unavailable:{}", list(days)),
        other => format!("unavailable:{other}"),
    }
}

fn list(days: &[MissingDay]) -> String {
    let days: Vec<String> = days.iter().map(|missing| missing.day.to_string()).collect();
    days.join(",")
}

/// What a query of this contract asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The query.
    pub query: Query,
    /// Keys of `query_params` that mean nothing, in order.
    pub unknown_keys: Vec<String>,
}

impl Filter {
    /// Reads `query_type` and `query_params`; a larger limit than `max_rows` is lowered to it.
    ///
    /// # Errors
    /// [`InvalidQuery`] that names the key.
    pub fn parse(query_type: &str, query_params: &str, max_rows: u64) -> Result<Self, InvalidQuery> {
        let mut params = Params::parse("query_params", query_params)?;
        let query = query(&mut params, query_type, max_rows)?;
        Ok(Filter { query, unknown_keys: params.into_unknown().collect() })
    }
}

fn query(params: &mut Params, query_type: &str, max_rows: u64) -> Result<Query, InvalidQuery> {
    let text = match query_type {
        "search" => {
            let text = params.text("text")?;
            text.ok_or_else(|| InvalidQuery::new("text", "a search needs `text`"))?
        }
        _ => String::new(),
    };
    let mut query = Query {
        encoding: Encoding::JsonLegacy,
        predicate: params.predicate(Some(text.as_str()).filter(|text| !text.is_empty()))?,
        date_start: params.day("date_start")?,
        date_end: params.day("date_end")?,
        team: params.text("team")?,
        limit: Some(limit(params.count("limit")?, max_rows)),
        ..Query::default()
    };
    match query_type {
        "" | "filter" | "search" => {}
        "aggregate" => query.aggregate = Some(params.aggregate()?),
        other => {
            let why = format!("unknown query type `{}` (types: filter, search, aggregate)", shown(other));
            return Err(InvalidQuery::new("query_type", why));
        }
    }
    Ok(query)
}

/// Absent, null and 0 are the default; larger limits are honoured up to `max_rows`.
fn limit(found: Option<u64>, max_rows: u64) -> u64 {
    match found {
        None | Some(0) => DEFAULT_LIMIT,
        Some(limit) => limit.min(max_rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::day::Day;

    #[test]
    fn frame_that_is_no_text_is_a_loss_of_its_day() {
        let frame = |day, payload: &'static [u8]| Frame {
            day: Some(Day::from_number(day).unwrap()),
            version: crate::store::Version([1; 16]),
            first_row: 0,
            rows: 1,
            payload: payload.into(),
            digest: crate::frame::digest(payload),
            node: "D".into(),
        };
        let whole = [frame(20200810, b"{}"), frame(20200811, b"{},{}")];
        assert_eq!(json_array(&whole).unwrap(), "[{},{},{}]");
        let lost = json_array(&[frame(20200810, b"{}"), frame(20200811, b"{\xff}")]).unwrap_err();
        assert_eq!(chunk_status(&lost), "data_loss:20200811");
    }
}
