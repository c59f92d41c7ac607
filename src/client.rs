//! The typed client: asks queries, reads chunks, checks every proof, resumes when a node is gone.
//!
//! A result that passes here is whole: its ledger tiles the plan and adds up to its manifest, its frames tile
//! the ledger in canonical order, every digest is right, every payload decodes to the rows its header says.
//! What that proves, and what it cannot, stands in `check`.

mod check;
mod old_contract;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::Instrument;

pub use old_contract::{OldChunk, OldClient, OldResult};

use crate::coverage::{self, Entry, Gap};
use crate::day::Day;
use crate::frame::Encoding;
use crate::outside::{self, Connect, ConnectTcp};
use crate::plan::Query;
use crate::proto::v1;
use crate::result_set::{DayRows, days_of_range};
use crate::security::{Bearer, Security};
use crate::store::Version;
use crate::trace;
use crate::verb::Frame;
use crate::wire::{self, Malformed};
use check::{check_frames, check_ledger, check_manifest};

/// Bytes of an answer that the client takes: a manifest of many chunks, or a chunk of 3 MiB with its headers.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// How long connecting to a node may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Times that a result is asked for again, with its versions, before reading it is given up.
const MAX_RESUMES: u32 = 5;

/// Why a client got no result that it can trust.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("`{address}` is no address of a node: {}expected HOST:PORT", if address.contains(':') { "" } else { "the port is missing, " })]
    Address {
        /// As given.
        address: String,
    },
    /// The node refused, or could not be reached.
    #[error("node at {address}: {}", status_words(.status))]
    Status {
        /// The node asked.
        address: String,
        /// What it said.
        status: Box<Status>,
    },
    /// An answer stands for no value.
    #[error("node at {address} answered nonsense: {malformed}")]
    Malformed {
        /// The node asked.
        address: String,
        /// The field.
        malformed: Malformed,
    },
    /// The coverage ledger does not prove the result.
    #[error("node at {address} gave a result without proof: {gap}")]
    Unproven {
        /// The node asked.
        address: String,
        /// What is wrong with the ledger.
        gap: Gap,
    },
    /// Frames are not what the ledger says.
    #[error("node at {address} gave a chunk that contradicts its proof: {what}")]
    Contradiction {
        /// The node asked.
        address: String,
        /// The contradiction.
        what: String,
    },
}

impl ClientError {
    /// The error without the node that it came from, where several nodes may have the same one.
    pub fn reason(&self) -> String {
        match self {
            ClientError::Status { status, .. } => status_words(status),
            error => error.to_string(),
        }
    }
}

fn status_words(status: &Status) -> String {
    let code = format!("{:?}", status.code());
    // What the transport met, such as a refused connection, stands at the end of the causes.
    let causes = std::iter::successors(status.source(), |error| (**error).source());
    let cause = causes.last().map(ToString::to_string).unwrap_or_default();
    match status.message() {
        message if !message.contains(&cause) => format!("{message}: {cause} ({code})"),
        "" => code,
        message => format!("{message} ({code})"),
    }
}

/// What a node says of itself when it is asked for its metrics.
pub type NodeMetrics = v1::GetMetricsReply;

/// A connection to one node.
#[derive(Clone)]
pub struct Client {
    address: String,
    client_id: String,
    /// What the node is given for a query or a chunk; without one its own `limits.query_ms` holds.
    timeout: Option<Duration>,
    overlay: Node,
}

/// How a node is asked.
type Node = v1::overlay_client::OverlayClient<InterceptedService<Channel, Bearer>>;

/// A result whose ledger was checked and whose chunks are checked as they come.
#[derive(Debug)]
pub struct QueryResult {
    /// Names it while its lease lasts.
    pub uid: String,
    /// Rows, chunks, encoding.
    pub manifest: v1::Manifest,
    /// One entry for each planned day.
    pub ledger: Vec<Entry>,
    /// How long it waited, and for what.
    pub admission: v1::Admission,
    /// Where the time went.
    pub statistics: Vec<v1::HopStatistics>,
    /// The nodes that the request went through.
    pub hops: Vec<String>,
    query: Query,
    first_chunk: Option<v1::Chunk>,
}

/// One chunk, checked.
#[derive(Clone, Debug)]
pub struct CheckedChunk {
    /// Its index.
    pub index: u32,
    /// Its frames, in day order.
    pub frames: Vec<Frame>,
}

/// What a query would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedQuery {
    /// The query in words.
    pub query: String,
    /// The planned days, in order.
    pub days: Vec<ExplainedDay>,
    /// Rows that all scans together would read.
    pub rows_to_scan: u64,
    /// How days are divided among holders.
    pub forwarding: String,
    /// How chunks are cut.
    pub chunking: String,
    /// How teams share slots.
    pub fairness: String,
}

/// What a query would do about one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedDay {
    /// The day.
    pub day: Day,
    /// The team that owns it.
    pub team: String,
    /// The statistics that show that no row can match; `None`: they do not.
    pub pruned_by: Option<String>,
    /// Holders of its version in placement order, those that are marked as down last.
    pub holders: Vec<String>,
    /// The holder that would be asked first.
    pub assigned: Option<String>,
    /// The neighbour that the request would go to; `None`: the node itself.
    pub via: Option<String>,
    /// Rows that a scan reads.
    pub rows_to_scan: u64,
    /// Rows that can match, from the statistics.
    pub rows_at_most: u64,
    /// Why nobody would be asked, where nothing was pruned, or which holders are marked as down; empty otherwise.
    pub note: String,
}

impl Client {
    /// A client of the node at `address`, written `HOST:PORT`, by TCP; connects when it is first needed.
    ///
    /// # Errors
    /// [`ClientError::Address`] if it is no address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(address: &str, client_id: &str) -> Result<Self, ClientError> {
        Self::secured(&Security::default(), address, client_id)
    }

    /// The same where nodes have certificates, or want a token.
    ///
    /// # Errors
    /// [`ClientError::Address`] if it is no address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn secured(security: &Security, address: &str, client_id: &str) -> Result<Self, ClientError> {
        Self::build(security, Arc::new(ConnectTcp), address, client_id)
    }

    /// A client over any network.
    ///
    /// # Errors
    /// [`ClientError::Address`] if `address` is none.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn over(connect: Arc<dyn Connect>, address: &str, client_id: &str) -> Result<Self, ClientError> {
        Self::build(&Security::default(), connect, address, client_id)
    }

    fn build(
        security: &Security,
        connect: Arc<dyn Connect>,
        address: &str,
        client_id: &str,
    ) -> Result<Self, ClientError> {
        let invalid = || ClientError::Address { address: address.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid())?;
        if endpoint.uri().port().is_none() {
            return Err(invalid());
        }
        let endpoint = endpoint
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let channel = outside::channel(endpoint, security.connect(connect), address, CONNECT_WITHIN);
        Ok(Client {
            address: address.to_owned(),
            client_id: client_id.to_owned(),
            timeout: None,
            overlay: v1::overlay_client::OverlayClient::with_interceptor(channel, security.bearer())
                .max_decoding_message_size(MAX_ANSWER_BYTES),
        })
    }

    /// Gives the node so much time for each query and chunk; less than its own `limits.query_ms`, or it makes no difference.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Client { timeout: Some(timeout), ..self }
    }

    fn timed<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    /// The node's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks a query and checks the proof that comes with its manifest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn query(&self, query: &Query) -> Result<QueryResult, ClientError> {
        let asked = self.timed(request(query, &self.client_id));
        let reply = self
            .ask("overlay.v1.Overlay/Query", asked, |mut node, asked| async move { node.query(asked).await });
        let reply = reply.await?;
        QueryResult::checked(&self.address, query, reply)
    }

    /// Reads one chunk of a result and checks it against the ledger.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn chunk(&self, result: &QueryResult, index: u32) -> Result<CheckedChunk, ClientError> {
        let request = v1::GetChunkRequest {
            uid: result.uid.clone(),
            chunk_index: index,
            client_id: self.client_id.clone(),
        };
        let asked = self.timed(request);
        let chunk = self.ask("overlay.v1.Overlay/GetChunk", asked, |mut node, asked| async move {
            node.get_chunk(asked).await
        });
        result.checked_chunk(&self.address, index, chunk.await?)
    }

    /// Reads the chunks of a result from `first` on, in order, each checked against the ledger.
    ///
    /// # Errors
    /// [`ClientError`]; in the stream too, where it is the last item. A stream that ends early has one.
    ///
    /// # Cancel safety
    /// Dropping the stream ends it at the node.
    pub async fn chunks<'a>(
        &'a self,
        result: &'a QueryResult,
        first: u32,
    ) -> Result<impl Stream<Item = Result<CheckedChunk, ClientError>> + 'a, ClientError> {
        let request = v1::StreamChunksRequest {
            uid: result.uid.clone(),
            first_chunk: first,
            client_id: self.client_id.clone(),
        };
        let asked = tonic::Request::new(request);
        let chunks = self.ask("overlay.v1.Overlay/StreamChunks", asked, |mut node, asked| async move {
            node.stream_chunks(asked).await
        });
        let chunks = chunks.await?;
        Ok(stream::try_unfold((chunks, first), move |(mut chunks, index)| async move {
            match chunks.message().await.map_err(|status| self.status(status))? {
                Some(chunk) => {
                    Ok(Some((result.checked_chunk(&self.address, index, chunk)?, (chunks, index + 1))))
                }
                None if index == result.chunk_count() => Ok(None),
                None => Err(self.contradiction(format!("the stream ended before chunk {index}"))),
            }
        }))
    }

    /// Reads one chunk, and asks the query again with its versions if the node has lost the result.
    ///
    /// # Errors
    /// [`ClientError`]; `DATA_LOSS` if the versions are gone.
    pub async fn chunk_or_resume(
        &self,
        result: &mut QueryResult,
        index: u32,
    ) -> Result<CheckedChunk, ClientError> {
        if index == 0
            && let Some(chunk) = result.first_chunk.take()
        {
            return result.checked_chunk(&self.address, 0, chunk);
        }
        let mut resumes = 0;
        loop {
            let error = match self.chunk(result, index).await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => error,
            };
            let lost = matches!(&error, ClientError::Status { status, .. } if is_lost(status));
            if !lost || resumes == MAX_RESUMES {
                return Err(error);
            }
            resumes += 1;
            tokio::time::sleep(Duration::from_millis(100 << resumes)).await;
            match self.resume(result).await {
                Ok(resumed) => (result.uid, result.first_chunk) = (resumed.uid, resumed.first_chunk),
                Err(error) if resumes == MAX_RESUMES => return Err(error),
                Err(ClientError::Status { status, .. }) if is_lost(&status) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for a result again at the versions and with the chunks of its manifest.
    async fn resume(&self, result: &QueryResult) -> Result<QueryResult, ClientError> {
        let version = |entry: &Entry| {
            let version = match &entry.outcome {
                coverage::Outcome::Served(served) => served.version,
                coverage::Outcome::Pruned { version, .. } => *version,
                coverage::Outcome::NoData { .. } => Version::of_no_data(),
                coverage::Outcome::BeyondLimit | coverage::Outcome::Missing { .. } => return None,
            };
            Some((entry.day, version))
        };
        let chunking = result.manifest.chunking.as_ref().map(wire::chunking_from).transpose();
        let chunking = chunking.map_err(|malformed| self.malformed(malformed))?;
        let query = Query {
            expected_versions: result.ledger.iter().filter_map(version).collect(),
            chunking: chunking.unwrap_or_default(),
            // A result that was whole is never resumed as a partial one.
            allow_partial: coverage::missing(&result.ledger).next().is_some(),
            ..result.query.clone()
        };
        let again = self.query(&query).await?;
        if again.manifest != result.manifest {
            return Err(
                self.contradiction("asked again at the same versions, the manifest differs".to_owned())
            );
        }
        Ok(again)
    }

    /// Ends the lease of a result that nobody will read any more; whether there was one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel(&self, result: &QueryResult) -> Result<bool, ClientError> {
        let request = v1::CancelRequest {
            uid: result.uid.clone(),
            request_id: String::new(),
            client_id: self.client_id.clone(),
        };
        let asked = tonic::Request::new(request);
        let reply = self.ask("overlay.v1.Overlay/Cancel", asked, |mut node, asked| async move {
            node.cancel(asked).await
        });
        Ok(reply.await?.found)
    }

    /// The plan of a query, without running it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, query: &Query) -> Result<ExplainedQuery, ClientError> {
        let asked = tonic::Request::new(request(query, &self.client_id));
        let reply = self.ask("overlay.v1.Overlay/Explain", asked, |mut node, asked| async move {
            node.explain(asked).await
        });
        explained(reply.await?).map_err(|malformed| self.malformed(malformed))
    }

    /// The node's metrics.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metrics(&self) -> Result<NodeMetrics, ClientError> {
        let asked = tonic::Request::new(v1::GetMetricsRequest {});
        let reply = self.ask("overlay.v1.Overlay/GetMetrics", asked, |mut node, asked| async move {
            node.get_metrics(asked).await
        });
        reply.await
    }

    /// Tells the node to stop.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&self, graceful: bool) -> Result<String, ClientError> {
        let reply = self.overlay.clone().shutdown(v1::ShutdownRequest { graceful }).await;
        Ok(reply.map_err(|status| self.status(status))?.into_inner().status)
    }

    /// Asks, in a span of its own if a trace was begun.
    async fn ask<M, T, F>(
        &self,
        method: &'static str,
        mut asked: tonic::Request<M>,
        ask: impl FnOnce(Node, tonic::Request<M>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let span = trace::calls(method, &self.address);
        span.in_scope(|| trace::carry(asked.metadata_mut()));
        let answered = ask(self.overlay.clone(), asked).instrument(span.clone()).await;
        trace::ended(&span, answered.as_ref().map_or_else(Status::code, |_| Code::Ok));
        Ok(answered.map_err(|status| self.status(status))?.into_inner())
    }

    fn status(&self, status: Status) -> ClientError {
        ClientError::Status { address: self.address.clone(), status: Box::new(of_the_connection(status)) }
    }

    fn malformed(&self, malformed: Malformed) -> ClientError {
        self::malformed(&self.address, malformed)
    }

    fn contradiction(&self, what: String) -> ClientError {
        contradiction(&self.address, what)
    }
}

fn malformed(address: &str, malformed: Malformed) -> ClientError {
    ClientError::Malformed { address: address.to_owned(), malformed }
}

fn contradiction(address: &str, what: String) -> ClientError {
    ClientError::Contradiction { address: address.to_owned(), what }
}

/// A connection that ends under a request is `UNAVAILABLE`. The transport has other codes for it, by the moment; they are a
/// node's words, unless they have a cause on this side.
fn of_the_connection(status: Status) -> Status {
    match (status.code(), status.source()) {
        (Code::Cancelled | Code::Internal, Some(_)) => {
            let mut unavailable = Status::unavailable("the connection ended");
            unavailable.set_source(Arc::new(status));
            unavailable
        }
        _ => status,
    }
}

/// The node has lost the result set, or is gone itself; another try may find it back.
fn is_lost(status: &Status) -> bool {
    let lost = [Code::NotFound, Code::FailedPrecondition, Code::Unavailable, Code::Unknown];
    lost.contains(&status.code())
}

impl QueryResult {
    /// The result of `query` that the node at `address` replied with, once its manifest and its ledger are checked.
    ///
    /// # Errors
    /// [`ClientError`] that says what is wrong with the reply.
    pub fn checked(address: &str, query: &Query, reply: v1::QueryReply) -> Result<Self, ClientError> {
        let ledger = reply.ledger.iter().map(wire::entry_from).collect::<Result<Vec<_>, _>>();
        let ledger = ledger.map_err(|error| malformed(address, error))?;
        let owned = wire::owned_from(&reply.owned).map_err(|error| malformed(address, error))?;
        let result = QueryResult {
            uid: reply.uid,
            manifest: reply.manifest.unwrap_or_default(),
            ledger,
            admission: reply.admission.unwrap_or_default(),
            statistics: reply.statistics,
            hops: reply.hops,
            query: query.clone(),
            first_chunk: reply.first_chunk,
        };
        check_manifest(&result.manifest, query)
            .map_err(|what| contradiction(address, format!("the manifest is not the query's: {what}")))?;
        check_ledger(&result, &owned)
            .map_err(|gap| ClientError::Unproven { address: address.to_owned(), gap })?;
        Ok(result)
    }

    /// Chunk `index` that the node at `address` sent, once it is held against the ledger and decoded.
    ///
    /// # Errors
    /// [`ClientError`] that says what is wrong with the chunk.
    pub fn checked_chunk(
        &self,
        address: &str,
        index: u32,
        chunk: v1::Chunk,
    ) -> Result<CheckedChunk, ClientError> {
        let frames = chunk.frames.into_iter().map(wire::frame_from).collect::<Result<Vec<_>, _>>();
        let frames = frames.map_err(|error| malformed(address, error))?;
        let is_last = u64::from(index) + 1 == u64::from(self.chunk_count());
        if (&chunk.uid, chunk.chunk_index, chunk.is_last) != (&self.uid, index, is_last) {
            let what = format!(
                "chunk {} of `{}` came for chunk {index} of `{}`, last: {is_last}",
                chunk.chunk_index, chunk.uid, self.uid
            );
            return Err(contradiction(address, what));
        }
        check_frames(self, index, &frames).map_err(|what| contradiction(address, what))?;
        Ok(CheckedChunk { index, frames })
    }

    /// Chunks of the result.
    pub fn chunk_count(&self) -> u32 {
        self.manifest.chunk_rows.len() as u32
    }

    /// How its frames are encoded.
    pub fn encoding(&self) -> Encoding {
        wire::encoding_from(self.manifest.encoding).unwrap_or_default()
    }

    /// The schema message that precedes Arrow frames.
    pub fn arrow_schema(&self) -> Bytes {
        Bytes::copy_from_slice(&self.manifest.arrow_schema)
    }

    /// The rows of days that a chunk consists of, by the ledger; `None` beyond the last chunk.
    pub fn chunk_days(&self, index: u32) -> Option<Vec<DayRows>> {
        Some(days_of_range(&self.ledger, self.chunk_range(index)?))
    }

    fn chunk_range(&self, index: u32) -> Option<std::ops::Range<u64>> {
        let (before, from) = self.manifest.chunk_rows.split_at_checked(index as usize)?;
        let start = before.iter().map(|rows| u64::from(*rows)).sum();
        Some(start..start + u64::from(*from.first()?))
    }
}

fn explained(reply: v1::ExplainReply) -> Result<ExplainedQuery, Malformed> {
    let some = |text: String| if text.is_empty() { None } else { Some(text) };
    let day = |day: v1::PlannedDay| {
        Ok(ExplainedDay {
            day: wire::day(day.day)?,
            team: day.team,
            pruned_by: some(day.pruned_by),
            holders: day.holders,
            assigned: some(day.assigned),
            via: some(day.via),
            rows_to_scan: day.rows_to_scan,
            rows_at_most: day.rows_at_most,
            note: day.note,
        })
    };
    Ok(ExplainedQuery {
        query: reply.query,
        days: reply.days.into_iter().map(day).collect::<Result<_, _>>()?,
        rows_to_scan: reply.rows_to_scan,
        forwarding: reply.forwarding,
        chunking: reply.chunking,
        fairness: reply.fairness,
    })
}

/// The message that asks a query.
pub fn request(query: &Query, client_id: &str) -> v1::QueryRequest {
    let chunking = &query.chunking;
    let pinned = |(day, version): (&Day, &crate::store::Version)| v1::DayVersion {
        day: day.number(),
        version: version.0.to_vec(),
    };
    v1::QueryRequest {
        predicate: Some(wire::predicate_to(&query.predicate)),
        date_start: query.date_start.map(Day::number),
        date_end: query.date_end.map(Day::number),
        team: query.team.clone(),
        limit: query.limit,
        aggregate: query.aggregate.as_ref().map(wire::aggregate_to),
        encoding: wire::encoding_to(query.encoding).into(),
        chunking: Some(v1::Chunking {
            strategy: chunking.strategy.map_or(0, |strategy| wire::chunking_strategy_to(strategy).into()),
            chunk_rows: chunking.chunk_rows,
            chunk_bytes: chunking.chunk_bytes,
        }),
        allow_partial: query.allow_partial,
        client_id: client_id.to_owned(),
        expected_versions: query.expected_versions.iter().map(pinned).collect(),
        ..v1::QueryRequest::default()
    }
}
