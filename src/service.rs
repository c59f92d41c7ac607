//! `overlay.v1` over the node: messages in, messages out, nothing decided here.
//!
//! What a request may hold stands in [`requests`].

pub mod requests;
pub(crate) mod streaming;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::access::Caller;
use crate::admission::{ClientKey, InFlightPermit, QueryStatus};
use crate::aggregate;
use crate::config::NodeId;
use crate::coordinator::{Answered, Asking, ChunkRead, Explanation, RequestStatus};
use crate::error::QueryError;
use crate::frame;
use crate::outside::remaining;
use crate::plan::{Fate, InvalidQuery};
use crate::proto::v1;
use crate::result_set::Owner;
use crate::state::{NodeState, Stop};
use crate::verb::{Call, Cause, CountItem, Failure, Inventory, InventoryItem, ReadItem};
use crate::wire;

use self::streaming::Reading;

/// The client verbs.
pub struct OverlayService(pub Arc<NodeState>);

/// The peer verbs.
pub struct PeerService(pub Arc<NodeState>);

type ServiceResult<T> = Result<Response<T>, Status>;

/// Who calls, as the guard before the service has found.
pub(crate) fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get().cloned().unwrap_or_default()
}

/// The `grpc-timeout` of a request: up to eight digits and a unit.
///
/// Source: the gRPC over HTTP/2 protocol, "Timeout".
pub(crate) fn timeout<T>(request: &Request<T>) -> Option<Duration> {
    let value = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(amount.saturating_mul(60))),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Refuses a request that has passed this node, too many nodes, or one of an overlong name.
pub(crate) fn check_hops(state: &NodeState, hops: &[String]) -> Result<(), QueryError> {
    requests::hops(hops, &state.overlay.limits)?;
    let me = &state.process.id;
    match hops.iter().any(|hop| hop == me.as_str()) {
        true => Err(QueryError::Loop(me.to_string())),
        false => Ok(()),
    }
}

impl OverlayService {
    /// What the coordinator is asked.
    fn asking(&self, request: &Request<v1::QueryRequest>) -> Result<Asking, QueryError> {
        self.0.serving()?;
        let (identity, deadline) = (caller(request).identity, self.0.deadline(timeout(request)));
        let request = request.get_ref();
        check_hops(&self.0, &request.hops)?;
        let (owner, client) = asker(&identity, &request.client_id)?;
        let query = requests::query(request, &self.0.overlay.limits)?;
        Ok(Asking { query, client, owner, request_id: request.request_id.clone(), deadline })
    }
}

/// Who asks: the name of its token or its address, with the id that the client gave itself.
pub(crate) fn asker(identity: &str, client_id: &str) -> Result<(Owner, ClientKey), QueryError> {
    requests::id("client_id", client_id)?;
    let owner = Owner { address: identity.to_owned(), client_id: Some(client_id.to_owned()) };
    Ok((owner, ClientKey::new(identity, client_id)))
}

fn invalid(invalid: InvalidQuery) -> Status {
    QueryError::Invalid(invalid).to_status()
}

fn status(error: QueryError) -> Status {
    error.to_status()
}

#[tonic::async_trait]
impl v1::overlay_server::Overlay for OverlayService {
    async fn query(&self, request: Request<v1::QueryRequest>) -> ServiceResult<v1::QueryReply> {
        let asking = self.asking(&request).map_err(|error| self.0.refused(error).to_status())?;
        let (owner, client, deadline) = (asking.owner.clone(), asking.client.clone(), asking.deadline);
        let coordinator = &self.0.coordinator;
        let answered = coordinator.query(asking).await.map_err(status)?;
        // It saves a round trip where it is at hand; the manifest does not wait for it for long.
        let soon = deadline.min(Instant::now() + remaining(deadline) / 4);
        let first = coordinator.chunk(&answered.uid, 0, &owner, &client, soon).await.ok();
        Ok(Response::new(reply(&self.0, answered, first, request.into_inner().hops)))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> ServiceResult<v1::Chunk> {
        let (identity, deadline) = (caller(&request).identity, self.0.deadline(timeout(&request)));
        let request = request.into_inner();
        let (owner, client) = asker(&identity, &request.client_id).map_err(status)?;
        let index = request.chunk_index;
        let chunk = self.0.coordinator.chunk(&request.uid, i64::from(index), &owner, &client, deadline).await;
        let chunk = chunk.map_err(status)?;
        Ok(Response::new(chunk_message(&request.uid, index, chunk)))
    }

    type StreamChunksStream = BoxStream<'static, Result<v1::Chunk, Status>>;

    async fn stream_chunks(
        &self,
        request: Request<v1::StreamChunksRequest>,
    ) -> ServiceResult<Self::StreamChunksStream> {
        let (identity, timeout) = (caller(&request).identity, timeout(&request));
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let request = request.into_inner();
        let (owner, client) = asker(&identity, &request.client_id).map_err(status)?;
        let uid = request.uid;
        let result_set = self.0.coordinator.leases().touch(&uid, &owner, Instant::now());
        let chunk_count = result_set.map_err(|error| status(error.into()))?.chunk_count();
        if request.first_chunk >= chunk_count {
            let index = i64::from(request.first_chunk);
            return Err(status(QueryError::OutOfRange { index, chunk_count }));
        }
        let chunks = request.first_chunk..chunk_count;
        let reading = Reading { uid: uid.clone(), owner, client, chunks, until };
        let message = move |index, chunk| vec![Ok(chunk_message(&uid, index, chunk))];
        Ok(Response::new(streaming::chunks(&self.0, reading, message).map_err(status)?))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> ServiceResult<v1::CancelReply> {
        let identity = caller(&request).identity;
        let request = request.into_inner();
        let (owner, client) = asker(&identity, &request.client_id).map_err(status)?;
        let found = self.0.coordinator.cancel(&request.uid, &request.request_id, &owner, &client);
        Ok(Response::new(v1::CancelReply { found }))
    }

    async fn explain(&self, request: Request<v1::QueryRequest>) -> ServiceResult<v1::ExplainReply> {
        self.0.serving().map_err(status)?;
        let (identity, deadline) = (caller(&request).identity, self.0.deadline(timeout(&request)));
        let request = request.into_inner();
        let query = requests::query(&request, &self.0.overlay.limits);
        let query = query.map_err(|error| status(error.into()))?;
        let (_, client) = asker(&identity, &request.client_id).map_err(status)?;
        let explaining = self.0.coordinator.explain(&query, &client);
        let explanation = match tokio::time::timeout_at(deadline, explaining).await {
            Ok(explained) => explained.map_err(status)?,
            Err(_) => {
                return Err(Status::deadline_exceeded("the deadline passed while inventories were read"));
            }
        };
        Ok(Response::new(explain_reply(&self.0, explanation)))
    }

    async fn get_query_status(
        &self,
        request: Request<v1::GetQueryStatusRequest>,
    ) -> ServiceResult<v1::GetQueryStatusReply> {
        let identity = caller(&request).identity;
        let request = request.into_inner();
        let (_, client) = asker(&identity, &request.client_id).map_err(status)?;
        let reply = match self.0.coordinator.status(&request.request_id, &client) {
            RequestStatus::Planning => {
                v1::GetQueryStatusReply { state: "planning".to_owned(), ..Default::default() }
            }
            RequestStatus::Planned(QueryStatus::Unknown) => {
                v1::GetQueryStatusReply { state: "unknown".to_owned(), ..Default::default() }
            }
            RequestStatus::Planned(QueryStatus::Running) => {
                v1::GetQueryStatusReply { state: "running".to_owned(), ..Default::default() }
            }
            RequestStatus::Planned(QueryStatus::Waiting { limiting_factor, position, estimated_start }) => {
                v1::GetQueryStatusReply {
                    state: "waiting".to_owned(),
                    limiting_factor,
                    position: position as u32 + 1,
                    estimated_start_ms: estimated_start.as_secs_f64() * 1e3,
                }
            }
        };
        Ok(Response::new(reply))
    }

    async fn get_metrics(
        &self,
        _request: Request<v1::GetMetricsRequest>,
    ) -> ServiceResult<v1::GetMetricsReply> {
        Ok(Response::new(metrics_reply(&self.0)))
    }

    async fn shutdown(&self, request: Request<v1::ShutdownRequest>) -> ServiceResult<v1::ShutdownReply> {
        if let Some(why) = caller(&request).not_admin {
            return Err(QueryError::NotAllowed(why).to_status());
        }
        let how = if request.into_inner().graceful { Stop::Graceful } else { Stop::AtOnce };
        self.0.stop(how);
        Ok(Response::new(v1::ShutdownReply { status: "stopping".to_owned() }))
    }
}

/// What a query was answered with, for clients and their checks.
pub(crate) fn reply(
    state: &NodeState,
    answered: Answered,
    first: Option<ChunkRead>,
    mut hops: Vec<String>,
) -> v1::QueryReply {
    hops.push(state.process.id.to_string());
    let result_set = &answered.result_set;
    let plan = &result_set.plan;
    let manifest = v1::Manifest {
        total_records: result_set.total_records,
        chunk_rows: result_set.chunk_rows(),
        limit_reached: result_set.limit_reached,
        chunking: Some(v1::Chunking {
            strategy: wire::chunking_strategy_to(plan.bounds.strategy).into(),
            chunk_rows: Some(plan.bounds.fixed_rows),
            chunk_bytes: Some(plan.bounds.chunk_bytes),
        }),
        encoding: wire::encoding_to(plan.query.encoding).into(),
        arrow_schema: frame::schema_before(plan.query.encoding, plan.query.aggregate.as_ref()).to_vec(),
    };
    v1::QueryReply {
        manifest: Some(manifest),
        ledger: result_set.ledger.iter().map(wire::entry_to).collect(),
        admission: Some(v1::Admission {
            waited_ms: answered.waited.as_secs_f64() * 1e3,
            limiting_factor: answered.limiting_factor,
        }),
        statistics: answered.statistics.iter().map(wire::statistics_to).collect(),
        lease_ms: state.coordinator.leases().ttl().as_millis() as u64,
        first_chunk: first.map(|chunk| chunk_message(&answered.uid, 0, chunk)),
        hops,
        owned: state.overlay.teams_answered_by(&state.process.id).map(wire::owned_to).collect(),
        uid: answered.uid,
    }
}

fn chunk_message(uid: &str, index: u32, chunk: ChunkRead) -> v1::Chunk {
    v1::Chunk {
        uid: uid.to_owned(),
        chunk_index: index,
        is_last: chunk.is_last,
        frames: chunk.frames.iter().cloned().map(wire::frame_to).collect(),
    }
}

fn explain_reply(state: &NodeState, explanation: Explanation) -> v1::ExplainReply {
    let strategies = &state.overlay.strategies;
    let days = explanation.plan.days.iter().zip(explanation.days).map(|(planned, explained)| {
        let mut day = v1::PlannedDay {
            day: planned.day.number(),
            team: planned.team.to_string(),
            holders: wire::names(&explained.holders),
            assigned: explained.assigned.map(|node| node.to_string()).unwrap_or_default(),
            via: explained.via.map(|node| node.to_string()).unwrap_or_default(),
            note: explained.note,
            ..v1::PlannedDay::default()
        };
        match &planned.fate {
            Fate::Ask(ask) => {
                day.rows_to_scan = ask.rows_to_scan;
                day.rows_at_most = ask.rows_at_most;
            }
            Fate::Pruned { by, .. } => day.pruned_by = by.clone(),
            _ => {}
        }
        day
    });
    v1::ExplainReply {
        days: days.collect(),
        query: explanation.plan.query.to_string(),
        rows_to_scan: explanation.rows_to_scan,
        forwarding: strategies.forwarding.to_string(),
        chunking: explanation.plan.bounds.strategy.to_string(),
        fairness: strategies.fairness.to_string(),
    }
}

fn metrics_reply(state: &NodeState) -> v1::GetMetricsReply {
    let gauges = state.gauges();
    let totals = state.metrics.totals();
    let marks = state.relay.directory().marks();
    let neighbour = |id: &NodeId| v1::NeighbourState {
        node: id.to_string(),
        state: marks.get(id).map_or("up", |mark| mark.health.name()).to_owned(),
        last_error: marks.get(id).map(|mark| mark.why.clone()).unwrap_or_default(),
    };
    let store = state.holder.store();
    let store = store.as_deref();
    v1::GetMetricsReply {
        node: state.process.id.to_string(),
        role: state.process.role.to_string(),
        team: state.process.team.clone(),
        ready: store.is_some(),
        draining: *state.stop.borrow() != Stop::Running,
        incarnation: state.incarnation,
        active_queries: gauges.active_queries as u32,
        waiting_queries: gauges.waiting_queries as u32,
        max_active: state.overlay.limits.max_active as u32,
        open_result_sets: gauges.open_result_sets as u32,
        queries_total: totals.queries,
        chunks_total: totals.chunks,
        rejected_total: totals.rejected,
        query_seconds_mean: totals.query_seconds_mean,
        files: store.map_or(0, |store| store.file_count()),
        rows: gauges.rows_held,
        days: store.map_or(0, |store| store.days().count() as u32),
        neighbours: state.process.neighbours.iter().map(neighbour).collect(),
        exposition: state.metrics.exposition(&gauges),
    }
}

impl PeerService {
    /// Takes one of the places for peers.
    fn admit(&self, hops: &[String]) -> Result<InFlightPermit, Status> {
        let state = &self.0;
        check_hops(state, hops).map_err(status)?;
        state.peer_requests.try_acquire().map_err(|overloaded| QueryError::from(overloaded).to_status())
    }

    fn call(&self, timeout: Option<Duration>, hops: &[String], avoid: &[String], client: ClientKey) -> Call {
        let (hops, avoid) = (wire::node_ids(hops), wire::node_ids(avoid));
        Call { hops, avoid, ..Call::new(client, self.0.deadline(timeout)) }
    }
}

#[tonic::async_trait]
impl v1::peer_server::Peer for PeerService {
    async fn inventory(&self, request: Request<v1::InventoryRequest>) -> ServiceResult<v1::InventoryReply> {
        let _place = self.admit(&request.get_ref().hops)?;
        let v1::InventoryRequest { hops, avoid, client_address, client_id, .. } = request.get_ref();
        let client = ClientKey::new(client_address.as_str(), client_id.as_str());
        let _probe = client.is_nobody().then(|| self.0.probes.try_acquire());
        let call = self.call(timeout(&request), hops, avoid, client);
        let items = requests::inventory(request.get_ref(), &self.0.overlay).map_err(invalid)?;
        let answers = self.0.relay.relay(&Inventory, items, &call).await;
        let unreachable = |failure: Failure<InventoryItem>| v1::Unreachable {
            node: failure.item.node.to_string(),
            retry_after_ms: match failure.cause {
                Cause::Overloaded { retry_after } => Some(retry_after.as_millis() as u64),
                _ => None,
            },
            why: failure.why,
            nodes_tried: wire::names(&failure.nodes_tried),
            been_at: wire::names(&failure.been_at),
        };
        let node = |answer: &crate::verb::InventoryAnswer| {
            let is_me = answer.inventory.node == self.0.process.id;
            let load = if is_me { Some(&self.0.load()) } else { answer.load.as_ref() };
            v1::NodeInventory {
                load: load.map(wire::load_to),
                ..wire::inventory_to(&answer.inventory, answer.unchanged)
            }
        };
        Ok(Response::new(v1::InventoryReply {
            nodes: answers.answers.iter().map(node).collect(),
            unreachable: answers.failures.into_iter().map(unreachable).collect(),
        }))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> ServiceResult<v1::CountReply> {
        let _place = self.admit(&request.get_ref().hops)?;
        let timeout = timeout(&request);
        let request = request.into_inner();
        let client = ClientKey::new(request.client_address.as_str(), request.client_id.as_str());
        let call = self.call(timeout, &request.hops, &request.avoid, client);
        let (spec, items) = requests::count(&request, &self.0.overlay).map_err(invalid)?;
        let answers = self.0.relay.relay(&spec, items.clone(), &call).await;
        if answers.groups.len() > self.0.overlay.limits.max_groups {
            return Ok(Response::new(self.too_many_groups(items)));
        }
        let day = |count: crate::verb::DayCount| v1::DayCount {
            day: count.item.day.number(),
            version: count.item.version.0.to_vec(),
            node: count.item.node.to_string(),
            attempt: count.item.attempt,
            rows_matched: count.rows_matched,
            first_frame: count.first_frame.map(wire::frame_to),
        };
        Ok(Response::new(v1::CountReply {
            days: answers.answers.into_iter().map(day).collect(),
            failures: answers.failures.into_iter().map(count_failure).collect(),
            statistics: answers.statistics.iter().map(wire::statistics_to).collect(),
            groups: wire::groups_to(&answers.groups),
            nodes: answers.states.iter().map(wire::state_to).collect(),
        }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> ServiceResult<v1::ReadReply> {
        let _place = self.admit(&request.get_ref().hops)?;
        let timeout = timeout(&request);
        let request = request.into_inner();
        let client = ClientKey::new(request.client_address.as_str(), request.client_id.as_str());
        let call = self.call(timeout, &request.hops, &request.avoid, client);
        let (spec, items) = requests::read(&request, &self.0.overlay).map_err(invalid)?;
        let answers = self.0.relay.relay(&spec, items, &call).await;
        let failure = |failure: Failure<ReadItem>| {
            let (day, node) = (failure.item.day, failure.item.node.clone());
            wire::day_failure_to(failure, day, &node)
        };
        Ok(Response::new(v1::ReadReply {
            frames: answers.answers.into_iter().flat_map(|(_, frames)| frames).map(wire::frame_to).collect(),
            failures: answers.failures.into_iter().map(failure).collect(),
            statistics: answers.statistics.iter().map(wire::statistics_to).collect(),
            nodes: answers.states.iter().map(wire::state_to).collect(),
        }))
    }
}

impl PeerService {
    /// `limits.max_groups` holds at each hop: beyond it every day fails rather than some groups.
    fn too_many_groups(&self, items: Vec<CountItem>) -> v1::CountReply {
        let why = aggregate::too_many_groups(self.0.overlay.limits.max_groups);
        let failed = |item| Failure {
            item,
            cause: Cause::TooManyGroups,
            why: why.clone(),
            nodes_tried: vec![self.0.process.id.clone()],
            been_at: Vec::new(),
        };
        v1::CountReply {
            failures: items.into_iter().map(failed).map(count_failure).collect(),
            ..v1::CountReply::default()
        }
    }
}

fn count_failure(failure: Failure<CountItem>) -> v1::DayFailure {
    let (day, node) = (failure.item.day, failure.item.node.clone());
    wire::day_failure_to(failure, day, &node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_has_eight_digits_and_a_unit() {
        let of = |value: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", value.parse().unwrap());
            timeout(&request)
        };
        assert_eq!(of("20m"), Some(Duration::from_millis(20)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "20", "+5S", "-1S", "999999999S", "99999999999999999999S"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
