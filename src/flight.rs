//! Arrow Flight over the node: a query is a command, its answer a flight, its chunks the tickets of a flight's endpoints.
//!
//! A thin adapter, as [`service`](crate::service) is: the same queries, leases, limits, codes and details. Frames go out as
//! the bytes that their holders encoded; no column is decoded here. Flight SQL, uploads and polling are not served.
//!
//! Source: Arrow Flight RPC, protocol `arrow.flight.protocol`.

mod actions;
mod command;
mod listing;
mod messages;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::FlightService as Service;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use self::command::Command;
use self::ticket::ChunkTicket;
use crate::coordinator::{Answered, Asking};
use crate::error::QueryError;
use crate::frame::{self, Encoding};
use crate::outside::Clock;
use crate::plan::InvalidQuery;
use crate::result_set::{LeaseError, Owner, ResultSet};
use crate::service::streaming::{self, Reading};
use crate::service::{asker, caller, reply, timeout};
use crate::state::NodeState;

/// Flights of one node.
pub struct FlightService {
    state: Arc<NodeState>,
    clock: Clock,
}

type ServiceResult<T> = Result<Response<T>, Status>;
type Items<T> = BoxStream<'static, Result<T, Status>>;

fn status(error: impl Into<QueryError>) -> Status {
    error.into().to_status()
}

fn not_served(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what}: ask GetFlightInfo with a JSON command, then DoGet with its tickets"
    ))
}

impl FlightService {
    /// Flights over a node; `clock` dates the ends of leases.
    pub fn new(state: Arc<NodeState>, clock: Clock) -> Self {
        FlightService { state, clock }
    }

    /// The query of a descriptor, which has to be a command.
    fn command(&self, descriptor: &FlightDescriptor) -> Result<Command, InvalidQuery> {
        if descriptor.r#type() != DescriptorType::Cmd {
            let why =
                "the descriptor is no command: must be one, a JSON object such as {\"parameter\": \"PM2.5\"}";
            return Err(InvalidQuery::new("descriptor", why));
        }
        Command::parse(&descriptor.cmd, &self.state.overlay.limits)
    }

    /// What the coordinator is asked.
    fn asking(&self, request: &Request<FlightDescriptor>) -> Result<(Asking, String), QueryError> {
        self.state.serving()?;
        let (identity, deadline) = (caller(request).identity, self.state.deadline(timeout(request)));
        let Command { query, client_id } = self.command(request.get_ref())?;
        let (owner, client) = asker(&identity, &client_id)?;
        Ok((Asking { query, client, owner, request_id: String::new(), deadline }, client_id))
    }

    /// A result set that this contract can carry.
    fn result_set(&self, uid: &str, owner: &Owner) -> Result<Arc<ResultSet>, QueryError> {
        let result_set = self.state.coordinator.leases().touch(uid, owner, self.clock.now())?;
        match result_set.plan.query.encoding {
            Encoding::Arrow => Ok(result_set),
            Encoding::Json | Encoding::JsonLegacy => Err(LeaseError::Unknown(uid.to_owned()).into()),
        }
    }

    /// The end of a lease, which is thereby renewed, as a date.
    fn expiration(&self, uid: &str, owner: &Owner) -> Result<prost_types::Timestamp, QueryError> {
        let now = self.clock.now();
        let lasts = self.state.coordinator.leases().renew(uid, owner, now)?.duration_since(now);
        let ends = Duration::from_millis(self.clock.unix_ms()) + lasts;
        Ok(prost_types::Timestamp { seconds: ends.as_secs() as i64, nanos: ends.subsec_nanos() as i32 })
    }

    /// A result as a flight. Its `app_metadata` is the reply that `overlay.v1` gives to the same query.
    fn flight(
        &self,
        descriptor: FlightDescriptor,
        answered: Answered,
        owner: &Owner,
        client_id: &str,
    ) -> Result<FlightInfo, QueryError> {
        let expires = self.expiration(&answered.uid, owner)?;
        let result_set = answered.result_set.clone();
        let endpoint = |chunks: std::ops::Range<u32>| {
            let ticket = ChunkTicket {
                uid: answered.uid.clone(),
                client_id: client_id.to_owned(),
                first_chunk: chunks.start,
                end_chunk: chunks.end,
            };
            FlightEndpoint {
                ticket: Some(Ticket { ticket: ticket.to_bytes() }),
                expiration_time: Some(expires),
                ..FlightEndpoint::default()
            }
        };
        Ok(FlightInfo {
            schema: frame::schema_before(Encoding::Arrow, result_set.plan.query.aggregate.as_ref()),
            flight_descriptor: Some(descriptor),
            endpoint: ticket::ranges(&result_set.chunk_rows()).into_iter().map(endpoint).collect(),
            total_records: result_set.total_records as i64,
            total_bytes: -1,
            ordered: true,
            app_metadata: reply(&self.state, answered, None, Vec::new()).encode_to_vec().into(),
        })
    }
}

#[tonic::async_trait]
impl Service for FlightService {
    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> ServiceResult<FlightInfo> {
        let asking = self.asking(&request).map_err(|error| self.state.refused(error).to_status());
        let (asking, client_id) = asking?;
        let owner = asking.owner.clone();
        let answered = self.state.coordinator.query(asking).await.map_err(status)?;
        let flight = self.flight(request.into_inner(), answered, &owner, &client_id);
        Ok(Response::new(flight.map_err(status)?))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> ServiceResult<SchemaResult> {
        let Command { query, .. } = self.command(request.get_ref()).map_err(status)?;
        query.check(&self.state.overlay).map_err(status)?;
        let schema = frame::schema_before(Encoding::Arrow, query.aggregate.as_ref());
        Ok(Response::new(SchemaResult { schema }))
    }

    type DoGetStream = Items<FlightData>;

    async fn do_get(&self, request: Request<Ticket>) -> ServiceResult<Self::DoGetStream> {
        let identity = caller(&request).identity;
        let until = timeout(&request).map(|timeout| Instant::now() + timeout);
        let ticket = ChunkTicket::parse(&request.get_ref().ticket).map_err(status)?;
        let (owner, client) = asker(&identity, &ticket.client_id).map_err(status)?;
        let result_set = self.result_set(&ticket.uid, &owner).map_err(status)?;
        let chunks = ticket.chunks(result_set.chunk_count()).map_err(status)?;
        let schema = messages::of_schema(result_set.plan.query.aggregate.as_ref());
        let reading = Reading { uid: ticket.uid, owner, client, chunks, until };
        let rows = streaming::chunks(&self.state, reading, |_, chunk| messages::of_chunk(&chunk));
        let schema = futures::stream::iter([Ok(schema)]);
        Ok(Response::new(schema.chain(rows.map_err(status)?).boxed()))
    }

    type ListFlightsStream = Items<FlightInfo>;

    async fn list_flights(&self, request: Request<Criteria>) -> ServiceResult<Self::ListFlightsStream> {
        let (identity, deadline) = (caller(&request).identity, self.state.deadline(timeout(&request)));
        self.state.serving().map_err(status)?;
        let query = command::criteria(&request.get_ref().expression, &self.state.overlay.limits);
        let query = query.map_err(status)?;
        let (_, client) = asker(&identity, "").map_err(status)?;
        let explaining = self.state.coordinator.explain(&query, &client);
        let Ok(explained) = tokio::time::timeout_at(deadline, explaining).await else {
            return Err(Status::deadline_exceeded("the deadline passed while inventories were read"));
        };
        let flights = listing::flights(&explained.map_err(status)?.plan).map(Ok);
        let flights = streaming::held(&self.state, &identity, futures::stream::iter(flights));
        Ok(Response::new(flights.map_err(status)?))
    }

    type DoActionStream = Items<ActionResult>;

    async fn do_action(&self, request: Request<Action>) -> ServiceResult<Self::DoActionStream> {
        let identity = caller(&request).identity;
        let Action { r#type, body } = request.into_inner();
        let body = self.act(&r#type, body, &identity)?;
        Ok(Response::new(futures::stream::iter([Ok(ActionResult { body })]).boxed()))
    }

    type ListActionsStream = Items<ActionType>;

    async fn list_actions(&self, _request: Request<Empty>) -> ServiceResult<Self::ListActionsStream> {
        Ok(Response::new(futures::stream::iter(actions::list().map(Ok)).boxed()))
    }

    type HandshakeStream = Items<HandshakeResponse>;

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> ServiceResult<Self::HandshakeStream> {
        let why = "nobody shakes hands here: send a token in the header `authorization`, as `Bearer TOKEN`";
        Err(Status::unimplemented(why))
    }

    async fn poll_flight_info(&self, _request: Request<FlightDescriptor>) -> ServiceResult<PollInfo> {
        Err(not_served("flights are not polled"))
    }

    type DoPutStream = Items<PutResult>;

    async fn do_put(&self, _request: Request<Streaming<FlightData>>) -> ServiceResult<Self::DoPutStream> {
        Err(not_served("observations are not uploaded"))
    }

    type DoExchangeStream = Items<FlightData>;

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> ServiceResult<Self::DoExchangeStream> {
        Err(not_served("observations are not exchanged"))
    }
}
