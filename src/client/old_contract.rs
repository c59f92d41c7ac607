//! A client of the `OverlayNode` contract, as far as checks of a running node need one.

use std::sync::Arc;

use serde_json::value::RawValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::{CONNECT_WITHIN, ClientError};
use crate::outside::{self, Connect, ConnectTcp};
use crate::proto::legacy;
use crate::security::{Bearer, Security};

/// A connection to one node by the old contract.
#[derive(Clone)]
pub struct OldClient {
    address: String,
    node: legacy::overlay_node_client::OverlayNodeClient<InterceptedService<Channel, Bearer>>,
}

/// What the old contract answers to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldResult {
    /// Names the result.
    pub uid: String,
    /// Chunks to fetch.
    pub total_chunks: i32,
    /// Rows in all of them.
    pub total_records: i64,
    /// `ready`, or why there is no result.
    pub status: String,
}

/// What the old contract answers to a request for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldChunk {
    /// A JSON array of objects.
    pub data: String,
    /// Whether no chunk comes after it.
    pub is_last: bool,
    /// `success`, or why there is no chunk.
    pub status: String,
}

impl OldChunk {
    /// The rows of the chunk; `None` if it is no JSON array.
    pub fn row_count(&self) -> Option<usize> {
        serde_json::from_str::<Vec<Box<RawValue>>>(&self.data).ok().map(|rows| rows.len())
    }
}

impl OldClient {
    /// A client of the node at `address`, written `HOST:PORT`, by TCP; connects when it is first needed.
    ///
    /// # Errors
    /// [`ClientError::Address`] if it is no address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        Self::secured(&Security::default(), address)
    }

    /// The same where nodes have certificates, or want a token.
    ///
    /// # Errors
    /// [`ClientError::Address`] if it is no address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn secured(security: &Security, address: &str) -> Result<Self, ClientError> {
        Self::build(security, Arc::new(ConnectTcp), address)
    }

    /// A client over any network.
    ///
    /// # Errors
    /// [`ClientError::Address`] if `address` is none.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn over(connect: Arc<dyn Connect>, address: &str) -> Result<Self, ClientError> {
        Self::build(&Security::default(), connect, address)
    }

    fn build(security: &Security, connect: Arc<dyn Connect>, address: &str) -> Result<Self, ClientError> {
        let invalid = |_| ClientError::Address { address: address.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(invalid)?;
        let channel = outside::channel(endpoint, security.connect(connect), address, CONNECT_WITHIN);
        let node =
            legacy::overlay_node_client::OverlayNodeClient::with_interceptor(channel, security.bearer());
        Ok(OldClient { address: address.to_owned(), node })
    }

    /// Asks a query; `params` is a JSON object.
    ///
    /// # Errors
    /// [`ClientError::Status`] if the node cannot be reached.
    pub async fn query(&self, query_type: &str, params: &str) -> Result<OldResult, ClientError> {
        let request = legacy::QueryRequest {
            query_type: query_type.to_owned(),
            query_params: params.to_owned(),
            ..legacy::QueryRequest::default()
        };
        let reply = self.node.clone().query(request).await.map_err(|status| self.status(status))?;
        let legacy::QueryResponse { uid, total_chunks, total_records, status, .. } = reply.into_inner();
        Ok(OldResult { uid, total_chunks, total_records, status })
    }

    /// Reads one chunk.
    ///
    /// # Errors
    /// [`ClientError::Status`] if the node cannot be reached.
    pub async fn chunk(&self, uid: &str, chunk_index: i32) -> Result<OldChunk, ClientError> {
        let request = legacy::ChunkRequest { uid: uid.to_owned(), chunk_index };
        let reply = self.node.clone().get_chunk(request).await.map_err(|status| self.status(status))?;
        let legacy::ChunkResponse { data, is_last, status, .. } = reply.into_inner();
        Ok(OldChunk { data, is_last, status })
    }

    /// Whether the node says that it is healthy.
    ///
    /// # Errors
    /// [`ClientError::Status`] if the node cannot be reached or is not ready yet.
    pub async fn is_healthy(&self) -> Result<bool, ClientError> {
        let reply = self.node.clone().get_metrics(legacy::MetricsRequest {}).await;
        Ok(reply.map_err(|status| self.status(status))?.into_inner().is_healthy)
    }

    fn status(&self, status: tonic::Status) -> ClientError {
        ClientError::Status { address: self.address.clone(), status: Box::new(status) }
    }
}
