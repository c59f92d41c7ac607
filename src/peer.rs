//! The typed connection to a neighbour: inventory, count, read.
//!
//! Opened lazily, kept, and watched by pings, so that a neighbour that hangs is noticed within
//! `limits.keepalive_ms` while one that is only slow is waited for. Every answer is checked against its
//! request, see [`check`].

pub mod check;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;
use tracing::Instrument;

use crate::config::{NodeId, Overlay, Process};
use crate::inventory::Traffic;
use crate::outside::{self, Connect, ConnectAttempts, NeverUsed, remaining};
use crate::proto::v1;
use crate::security::{Bearer, Security};
use crate::trace;
use crate::verb::{
    Answers, Call, Count, CountItem, DayCount, Frame, InventoryAnswer, InventoryItem, Read, ReadItem,
};
use crate::wire;

/// Bytes of an answer between nodes. A count carries up to `limits.max_groups` groups.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What the neighbour gets beyond the time that it is waited for, so that it is always this side that gives up: what it
/// would say of the time does not tell a slow neighbour from one that is out of order.
pub(crate) const BEYOND: Duration = Duration::from_millis(100);

/// When to come back to an overloaded neighbour that does not say when.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);

/// A neighbour in the overlay.
pub struct Neighbour {
    id: NodeId,
    address: String,
    client: v1::peer_client::PeerClient<InterceptedService<Channel, Bearer>>,
    attempts: ConnectAttempts,
    /// Those of the overlay.
    nodes: BTreeSet<NodeId>,
    /// What it was asked for on behalf of clients.
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Why a neighbour gave no usable answer at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The transport failed, or the neighbour refused the request as a whole.
    #[error("neighbour `{node}` ({address}) did not answer: {why}")]
    Transport {
        /// The neighbour.
        node: NodeId,
        /// Where it should listen.
        address: String,
        /// What the transport reported.
        why: String,
    },
    /// The neighbour did not answer in time.
    #[error("neighbour `{node}` ({address}) did not answer within {} ms", waited.as_millis())]
    TimedOut {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The neighbour has more requests in flight than it takes.
    #[error("neighbour `{node}` ({address}) is overloaded: {why}")]
    Overloaded {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// The limit, in its words.
        why: String,
        /// When to come back, it says.
        retry_after: Duration,
    },
    /// The answer has more bytes than a message between nodes may have: only groups can be so many.
    #[error("neighbour `{node}` ({address}) has more groups than {} MiB: {why}", MAX_ANSWER_BYTES >> 20)]
    TooLarge {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// What the transport reported.
        why: String,
    },
    /// The answer contradicts the request.
    #[error("neighbour `{node}` ({address}) answered nonsense: {what}")]
    BadAnswer {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// The contradiction.
        what: String,
    },
}

impl PeerError {
    /// Which of them it is, in a word.
    fn kind(&self) -> &'static str {
        match self {
            PeerError::Transport { .. } => "transport",
            PeerError::TimedOut { .. } => "timed_out",
            PeerError::Overloaded { .. } => "overloaded",
            PeerError::TooLarge { .. } => "too_large",
            PeerError::BadAnswer { .. } => "bad_answer",
        }
    }
}

impl Neighbour {
    /// A neighbour that is connected to when it is first needed.
    ///
    /// Must be called inside a runtime.
    pub fn new(process: &Process, overlay: &Overlay, security: &Security, connect: Arc<dyn Connect>) -> Self {
        let connect = security.connect_to(connect, process);
        let address = process.address();
        let limits = &overlay.limits;
        let keepalive = limits.keepalive();
        let endpoint = Endpoint::from_static("http://neighbour")
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true);
        let (channel, attempts) =
            outside::channel_with_attempts(endpoint, connect, &address, limits.connect());
        let client = v1::peer_client::PeerClient::with_interceptor(channel, security.bearer())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        let nodes = overlay.processes.keys().cloned().collect();
        let (requests, bytes) = Default::default();
        Neighbour { id: process.id.clone(), address, client, attempts, nodes, requests, bytes }
    }

    /// What it was asked for on behalf of clients: how nodes are is not counted.
    pub fn traffic(&self) -> Traffic {
        Traffic { requests: self.requests.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn count_traffic(&self, call: &Call, request: &impl Message, reply: &impl Message) {
        if !call.client.is_nobody() {
            let bytes = request.encoded_len() + reply.encoded_len();
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Asks this neighbour, and through it others, what they hold.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn inventory(
        &self,
        items: &[InventoryItem],
        call: &Call,
    ) -> Result<Answers<InventoryItem, InventoryAnswer>, PeerError> {
        let node = |item: &InventoryItem| v1::NodeRequest {
            node: item.node.to_string(),
            known_incarnation: item.known_incarnation,
        };
        let request = v1::InventoryRequest {
            nodes: items.iter().map(node).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
            client_address: call.client.address.to_string(),
            client_id: call.client.id.to_string(),
        };
        let ask = |timeout| {
            let (mut client, request) = (self.client.clone(), timed(request.clone(), timeout));
            async move { client.inventory(request).await }
        };
        let reply = self.asked("overlay.v1.Peer/Inventory", items.len(), call, ask).await?;
        self.count_traffic(call, &request, &reply);
        check::inventory(items, &self.nodes, reply).map_err(|what| self.bad_answer(what))
    }

    /// Has this neighbour, and others through it, count days.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn count(
        &self,
        spec: &Count,
        items: &[CountItem],
        call: &Call,
    ) -> Result<Answers<CountItem, DayCount>, PeerError> {
        let request = v1::CountRequest {
            predicate: Some(wire::predicate_to(&spec.selection.predicate)),
            aggregate: spec.aggregate.as_ref().map(wire::aggregate_to),
            encoding: wire::encoding_to(spec.selection.encoding).into(),
            days: items.iter().map(wire::count_item_to).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
            client_address: call.client.address.to_string(),
            client_id: call.client.id.to_string(),
            replaced_too: spec.replaced_too,
        };
        let ask = |timeout| {
            let (mut client, request) = (self.client.clone(), timed(request.clone(), timeout));
            async move { client.count(request).await }
        };
        let reply = self.asked("overlay.v1.Peer/Count", items.len(), call, ask).await?;
        self.count_traffic(call, &request, &reply);
        check::count(spec, items, &self.nodes, reply).map_err(|what| self.bad_answer(what))
    }

    /// Has this neighbour, and others through it, read row ranges.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn read(
        &self,
        spec: &Read,
        items: &[ReadItem],
        call: &Call,
    ) -> Result<Answers<ReadItem, (ReadItem, Vec<Frame>)>, PeerError> {
        let request = v1::ReadRequest {
            predicate: Some(wire::predicate_to(&spec.selection.predicate)),
            encoding: wire::encoding_to(spec.selection.encoding).into(),
            days: items.iter().map(wire::read_item_to).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
            client_address: call.client.address.to_string(),
            client_id: call.client.id.to_string(),
        };
        let ask = |timeout| {
            let (mut client, request) = (self.client.clone(), timed(request.clone(), timeout));
            async move { client.read(request).await }
        };
        let reply = self.asked("overlay.v1.Peer/Read", items.len(), call, ask).await?;
        self.count_traffic(call, &request, &reply);
        check::read(items, &self.nodes, reply).map_err(|what| self.bad_answer(what))
    }

    /// Asks, in a span of its own if the call is traced.
    async fn asked<T, F>(
        &self,
        method: &'static str,
        items: usize,
        call: &Call,
        ask: impl Fn(Duration) -> F,
    ) -> Result<T, PeerError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let span = trace::calls(method, &self.address);
        span.record("overlay.neighbour", self.id.as_str());
        span.record("overlay.items", items as i64);
        span.record("overlay.retry", call.is_retry);
        let answered = self.within(call, ask).instrument(span.clone()).await;
        match &answered {
            Ok(_) => trace::ended(&span, Code::Ok),
            Err(error) => trace::failed(&span, error.kind()),
        }
        answered
    }

    /// Waits for an answer until the call's deadline, or until the connection that it needs cannot be made.
    ///
    /// A request that met a connection that had ended is sent on a new one: it was never sent, and says nothing of the
    /// neighbour as it is now.
    async fn within<T, F>(&self, call: &Call, ask: impl Fn(Duration) -> F) -> Result<T, PeerError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let waited = remaining(call.deadline);
        let (node, address) = (self.id.clone(), self.address.clone());
        let failure = self.attempts.failure();
        let asking = async {
            match ask(waited + BEYOND).await {
                Err(status) if was_never_sent(&status) => ask(remaining(call.deadline) + BEYOND).await,
                answered => answered,
            }
        };
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout_at(call.deadline, asking) => answered,
            why = failure => return Err(PeerError::Transport { node, address, why }),
        };
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(match status.code() {
                Code::ResourceExhausted => {
                    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
                    PeerError::Overloaded {
                        node,
                        address,
                        why: status.message().to_owned(),
                        retry_after: retry_after
                            .map_or(RETRY_OVERLOADED, |after| after.min(wire::LONGEST_RETRY)),
                    }
                }
                Code::DeadlineExceeded => PeerError::TimedOut { node, address, waited },
                // What tonic says of a message beyond the size that the client takes.
                Code::OutOfRange => PeerError::TooLarge { node, address, why: cause_chain(&status) },
                _ => PeerError::Transport { node, address, why: cause_chain(&status) },
            }),
            Err(_) => Err(PeerError::TimedOut { node, address, waited }),
        }
    }

    fn bad_answer(&self, what: String) -> PeerError {
        PeerError::BadAnswer { node: self.id.clone(), address: self.address.clone(), what }
    }
}

fn timed<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    trace::carry(request.metadata_mut());
    request
}

/// Whether the connection had ended before the request was written to it. One that was made for a request which was then
/// given up is looked at by nobody, so that its end is noticed only by the next request: as one that is cancelled, or by the
/// first words on the connection. What was sent may be under way at the neighbour, and is not meant.
fn was_never_sent(status: &tonic::Status) -> bool {
    let first = std::error::Error::source(status);
    let mut chain = std::iter::successors(first, |error| error.source());
    chain.any(|error| {
        let is_canceled = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
        let io = error.downcast_ref::<std::io::Error>();
        is_canceled || io.and_then(std::io::Error::get_ref).is_some_and(|cause| cause.is::<NeverUsed>())
    })
}

/// What the transport met, which may stand in the status or below it: `connection refused`.
fn cause_chain(status: &tonic::Status) -> String {
    let mut words = vec![status.message().to_owned()];
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.iter().any(|word| word.contains(&said)) {
            words.push(said);
        }
        cause = error.source();
    }
    if words.len() > 1 {
        words.retain(|word| word != "transport error");
    }
    words.join(": ")
}
