//! The `OverlayNode` contract of the system that this one replaces: a thin adapter over the same node.
//!
//! Outcomes stand in `status`, the gRPC code is OK; only [`get_metrics`](LegacyService) answers
//! `UNAVAILABLE` until the node is ready, since old scripts poll it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::value::RawValue;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::admission::ClientKey;
use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::coordinator::{Asking, ChunkRead};
use crate::day::Day;
use crate::decimal::Decimal;
use crate::error::{MissingDay, QueryError, shown};
use crate::frame::Encoding;
use crate::plan::{InvalidQuery, Query};
use crate::predicate::{Place, Predicate, Words};
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
        let mut params = Params::parse(query_params)?;
        let query = params.query(query_type, max_rows)?;
        Ok(Filter { query, unknown_keys: params.0.into_keys().collect() })
    }
}

/// The members of `query_params` that were not read yet, each as it was written.
struct Params(BTreeMap<String, Box<RawValue>>);

impl Params {
    /// An empty text stands for no filter.
    fn parse(text: &str) -> Result<Self, InvalidQuery> {
        if text.trim().is_empty() {
            return Ok(Params(BTreeMap::new()));
        }
        serde_json::from_str(text).map(Params).map_err(|error| {
            let why = match error.classify() {
                serde_json::error::Category::Data => {
                    format!(
                        "query_params is {}: must be a JSON object, such as {{\"parameter\": \"PM2.5\"}}",
                        shown(text.trim())
                    )
                }
                _ => format!("query_params is not JSON: {error}"),
            };
            InvalidQuery::new("query_params", why)
        })
    }

    fn query(&mut self, query_type: &str, max_rows: u64) -> Result<Query, InvalidQuery> {
        let text = match query_type {
            "search" => {
                let text = self.text("text")?;
                text.ok_or_else(|| InvalidQuery::new("text", "a search needs `text`"))?
            }
            _ => String::new(),
        };
        let mut query = Query {
            encoding: Encoding::JsonLegacy,
            predicate: self.predicate(Some(text.as_str()).filter(|text| !text.is_empty()))?,
            date_start: self.day("date_start")?,
            date_end: self.day("date_end")?,
            team: self.text("team")?,
            limit: Some(self.limit(max_rows)?),
            ..Query::default()
        };
        match query_type {
            "" | "filter" | "search" => {}
            "aggregate" => query.aggregate = Some(self.aggregate()?),
            other => {
                let why = format!("unknown query type `{}` (types: filter, search, aggregate)", shown(other));
                return Err(InvalidQuery::new("query_type", why));
            }
        }
        Ok(query)
    }

    fn predicate(&mut self, text: Option<&str>) -> Result<Predicate, InvalidQuery> {
        let place = Place {
            lat_min: self.degrees("lat_min")?,
            lat_max: self.degrees("lat_max")?,
            lon_min: self.degrees("lon_min")?,
            lon_max: self.degrees("lon_max")?,
        };
        let (min, max) = (self.number("min_value")?, self.number("max_value")?);
        let (parameter, site, agency) = (self.text("parameter")?, self.text("site")?, self.text("agency")?);
        let words = Words {
            parameter: parameter.as_deref(),
            min: min.as_deref(),
            max: max.as_deref(),
            place,
            site: site.as_deref(),
            agency: agency.as_deref(),
            text,
        };
        words.resolve().map_err(|error| InvalidQuery::new(error.field, error.to_string()))
    }

    fn aggregate(&mut self) -> Result<AggregateSpec, InvalidQuery> {
        let of = self.text("of")?.unwrap_or_else(|| AggregateOf::Value.name().to_owned());
        let of = AggregateOf::from_name(&of)
            .ok_or_else(|| format!("of: unknown `{}` (of: value, raw_concentration, aqi)", shown(&of)))
            .map_err(|why| InvalidQuery::new("of", why))?;
        let mut group_by = Vec::new();
        if let Some(raw) = self.take("group_by") {
            let names: Vec<String> = serde_json::from_str(raw.get())
                .or_else(|_| serde_json::from_str::<String>(raw.get()).map(|text| split(&text)))
                .map_err(|_| {
                    InvalidQuery::new("group_by", "group_by is neither a list of keys nor a text")
                })?;
            for name in names {
                let key = GroupKey::from_name(&name).ok_or_else(|| {
                    let keys = "parameter, site, agency, day, hour, team";
                    let name = shown(&name);
                    InvalidQuery::new("group_by", format!("group_by: unknown `{name}` (keys: {keys})"))
                })?;
                group_by.push(key);
            }
        }
        Ok(AggregateSpec { of, group_by })
    }

    /// Absent, null and 0 are the default; larger limits are honoured up to `max_rows`.
    fn limit(&mut self, max_rows: u64) -> Result<u64, InvalidQuery> {
        let Some(text) = self.number("limit")? else {
            return Ok(DEFAULT_LIMIT);
        };
        let invalid = |why: &str| InvalidQuery::new("limit", format!("limit {}: {why}", shown(&text)));
        let least = Decimal::at_least(&text);
        let least = least.map_err(|error| InvalidQuery::new("limit", format!("limit: {error}")))?;
        if least < Decimal(0) {
            return Err(invalid("must not be negative"));
        }
        match whole(&text) {
            Some(0) => Ok(DEFAULT_LIMIT),
            Some(limit) => Ok(limit.min(max_rows)),
            None => Err(invalid("must be a whole number")),
        }
    }

    /// Takes a member out; null counts as absent.
    fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        self.0.remove(key).filter(|raw| raw.get() != "null")
    }

    /// A text; a number is taken as it was written. An empty text does not restrict.
    fn text(&mut self, key: &'static str) -> Result<Option<String>, InvalidQuery> {
        let Some(raw) = self.take(key) else {
            return Ok(None);
        };
        match raw.get().as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(raw.get())
                    .map_err(|error| InvalidQuery::new(key, format!("{key} is not a text: {error}")))?;
                Ok((!text.is_empty()).then_some(text))
            }
            Some(b'-' | b'0'..=b'9') => Ok(Some(raw.get().to_owned())),
            _ => {
                let found = shown(raw.get());
                Err(InvalidQuery::new(key, format!("{key} is neither a text nor a number: {found}")))
            }
        }
    }

    /// A number as it was written, so that it is exact.
    fn number(&mut self, key: &'static str) -> Result<Option<String>, InvalidQuery> {
        Ok(self.text(key)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn degrees(&mut self, key: &'static str) -> Result<Option<f64>, InvalidQuery> {
        let Some(text) = self.number(key)? else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(degrees) if degrees.is_finite() => Ok(Some(degrees)),
            _ => Err(InvalidQuery::new(key, format!("{key}: `{}` is not a number", shown(&text)))),
        }
    }

    fn day(&mut self, key: &'static str) -> Result<Option<Day>, InvalidQuery> {
        let day = |text: String| match whole(&text) {
            Some(number) => Day::from_number(number),
            None => text.parse(),
        };
        let day = self.number(key)?.map(day).transpose();
        day.map_err(|error| InvalidQuery::new(key, format!("{key}: {error}")))
    }
}

/// A number without a fraction, however it is written: `17`, `17.0`, `1.7e1`.
fn whole(text: &str) -> Option<u64> {
    let rounded = || text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    text.parse().ok().or_else(|| rounded().map(|number| number as u64))
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
