//! What can be done with a flight beside reading it.

use arrow_flight::{
    ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightEndpoint,
    RenewFlightEndpointRequest,
};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::ticket::ChunkTicket;
use super::{FlightService, status};
use crate::error::{QueryError, shown};
use crate::plan::InvalidQuery;
use crate::service::asker;

const CANCEL: &str = "CancelFlightInfo";
const RENEW: &str = "RenewFlightEndpoint";

/// The actions that there are.
pub(super) fn list() -> impl Iterator<Item = ActionType> {
    let action = |(name, description): (&str, &str)| ActionType {
        r#type: name.to_owned(),
        description: description.to_owned(),
    };
    let actions = [
        (CANCEL, "CancelFlightInfoRequest -> CancelFlightInfoResult: ends the lease of a flight"),
        (
            RENEW,
            "RenewFlightEndpointRequest -> FlightEndpoint: renews the lease that its ticket is read under",
        ),
    ];
    actions.into_iter().map(action)
}

impl FlightService {
    /// Does one of them for a caller, and gives its result.
    pub(super) fn act(&self, action: &str, body: Bytes, identity: &str) -> Result<Bytes, Status> {
        match action {
            CANCEL => {
                let request =
                    CancelFlightInfoRequest::decode(body).map_err(|error| malformed(CANCEL, &error))?;
                let endpoint = request.info.and_then(|info| info.endpoint.into_iter().next());
                let done = self.cancel(&endpoint.unwrap_or_default(), identity).map_err(status)?;
                Ok(done.encode_to_vec().into())
            }
            RENEW => {
                let request =
                    RenewFlightEndpointRequest::decode(body).map_err(|error| malformed(RENEW, &error))?;
                let done = self.renew(request.endpoint.unwrap_or_default(), identity).map_err(status)?;
                Ok(done.encode_to_vec().into())
            }
            other => {
                let other = shown(other);
                Err(Status::unimplemented(format!("unknown action `{other}` (actions: {CANCEL}, {RENEW})")))
            }
        }
    }

    fn cancel(
        &self,
        endpoint: &FlightEndpoint,
        identity: &str,
    ) -> Result<CancelFlightInfoResult, QueryError> {
        let ticket = ticket(endpoint)?;
        let (owner, client) = asker(identity, &ticket.client_id)?;
        self.result_set(&ticket.uid, &owner)?;
        let cancelled = self.state.coordinator.cancel(&ticket.uid, "", &owner, &client);
        let status = if cancelled { CancelStatus::Cancelled } else { CancelStatus::NotCancellable };
        Ok(CancelFlightInfoResult { status: status.into() })
    }

    fn renew(&self, endpoint: FlightEndpoint, identity: &str) -> Result<FlightEndpoint, QueryError> {
        let ticket = ticket(&endpoint)?;
        let (owner, _) = asker(identity, &ticket.client_id)?;
        self.result_set(&ticket.uid, &owner)?;
        let expires = self.expiration(&ticket.uid, &owner)?;
        Ok(FlightEndpoint { expiration_time: Some(expires), ..endpoint })
    }
}

fn ticket(endpoint: &FlightEndpoint) -> Result<ChunkTicket, InvalidQuery> {
    ChunkTicket::parse(endpoint.ticket.as_ref().map_or(&[][..], |ticket| &ticket.ticket))
}

fn malformed(action: &'static str, error: &prost::DecodeError) -> Status {
    status(InvalidQuery::new("body", format!("the body of `{action}` cannot be read: {error}")))
}
