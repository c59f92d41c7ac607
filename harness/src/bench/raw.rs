//! Messages as bytes: a client that neither writes nor reads them.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes};
use overlay::outside;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::BenchError;

/// Bytes of an answer that the client takes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Leaves messages as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A connection with the windows that our own client has.
pub(super) async fn connected(address: SocketAddr) -> Result<Channel, BenchError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(BenchError::Connect)?;
    let endpoint = endpoint
        .initial_stream_window_size(outside::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(outside::CONNECTION_WINDOW_BYTES)
        .max_frame_size(outside::HTTP2_FRAME_BYTES)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(BenchError::Connect)
}

/// One connection.
#[derive(Clone)]
pub(super) struct RawClient {
    node: tonic::client::Grpc<Channel>,
}

impl RawClient {
    /// Connects to a node.
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let channel = connected(address).await?;
        Ok(RawClient { node: tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES) })
    }

    /// Sends one message and waits for the one that comes back.
    pub(super) async fn unary(&mut self, path: &PathAndQuery, message: Bytes) -> Result<Bytes, Status> {
        self.ready().await?;
        let answer = self.node.unary(Request::new(message), path.clone(), RawCodec).await?;
        Ok(answer.into_inner())
    }

    /// Sends one message and gives all that come back.
    pub(super) async fn streaming(
        &mut self,
        path: &PathAndQuery,
        message: Bytes,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let answer = self.node.server_streaming(Request::new(message), path.clone(), RawCodec).await?;
        Ok(answer.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.node.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}
