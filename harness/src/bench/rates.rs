//! How many queries a second a server answers: so many connections, each asking again when it has its answer.
//!
//! The client is the generated one, which decodes what it gets and does nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::proto::{legacy, v1};
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{BenchError, raw};

/// Connections that ask at once.
pub(super) const CONNECTIONS: u64 = 20;

/// Rows that each query wants.
const LIMIT: u64 = 100;

/// Questions of each connection before time is taken; also how many a server of known answers is asked.
const WARM_UP: u64 = 50;

/// Which filter a question has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Filters {
    /// Always the same one.
    Same,
    /// One that nobody has used before.
    New,
    /// Each of a few by turns, other ones on each connection.
    Few,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contract {
    /// `Query`, whose answer brings the first chunk, in Arrow.
    Ours,
    /// `Query` and `GetChunk`, in JSON.
    Old,
}

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Questions {
    pub(super) contract: Contract,
    pub(super) filters: Filters,
    /// Rows that match each filter.
    pub(super) matching: u64,
}

/// A lower bound that makes another filter for each `number`, all of which have the same rows: no value lies between 4.9 and 5.
///
/// # Panics
/// If there were a hundred million.
pub(super) fn lower_bound(number: u64) -> String {
    assert!(number < 100_000_000, "the bounds are used up");
    format!("4.{}", 999_999_999 - number)
}

/// A bound that was not used before.
pub(super) fn new_bound() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1_000_000);
    lower_bound(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Filters {
    fn bound(self, connection: u64, question: u64) -> String {
        match self {
            Filters::Same => lower_bound(0),
            Filters::New => new_bound(),
            Filters::Few => lower_bound(1 + connection * WARM_UP + question % WARM_UP),
        }
    }
}

/// What a server came to.
pub(super) struct Rate {
    /// Queries answered in a second.
    pub(super) a_second: f64,
    /// All that were answered, those before time was taken too.
    pub(super) answered: u64,
}

/// Asks whoever listens at `address`.
pub(super) async fn rate(
    address: SocketAddr,
    questions: Questions,
    lasts: Duration,
) -> Result<Rate, BenchError> {
    let warm = Arc::new(Barrier::new(CONNECTIONS as usize));
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let asker = Asker::connect(address, questions, connection).await?;
        let warm = warm.clone();
        connections.spawn(async move {
            let warmed = asker.warm_up().await;
            // Whoever failed comes here too, or the others would wait for ever.
            warm.wait().await;
            warmed?;
            let (began, mut answered) = (Instant::now(), 0);
            while began.elapsed() < lasts {
                asker.ask_number(answered).await?;
                answered += 1;
            }
            Ok::<_, BenchError>((answered as f64 / began.elapsed().as_secs_f64(), WARM_UP + answered))
        });
    }
    let mut sum = Rate { a_second: 0.0, answered: 0 };
    for of_one in connections.join_all().await {
        let (a_second, answered) = of_one?;
        sum.a_second += a_second;
        sum.answered += answered;
    }
    Ok(sum)
}

/// One connection and what it asks over it.
#[derive(Clone)]
pub(super) struct Asker {
    channel: Channel,
    questions: Questions,
    connection: u64,
}

impl Asker {
    pub(super) async fn connect(
        address: SocketAddr,
        questions: Questions,
        connection: u64,
    ) -> Result<Self, BenchError> {
        let channel = raw::connected(address).await?;
        Ok(Asker { channel, questions, connection })
    }

    async fn warm_up(&self) -> Result<(), BenchError> {
        for question in 0..WARM_UP {
            self.ask_number(question).await?;
        }
        Ok(())
    }

    async fn ask_number(&self, question: u64) -> Result<(), BenchError> {
        self.ask(&self.questions.filters.bound(self.connection, question)).await
    }

    /// Asks once, and takes the first chunk, which has all rows that are wanted.
    ///
    /// # Errors
    /// [`BenchError`] for a refusal, and for an answer without these rows.
    pub(super) async fn ask(&self, min: &str) -> Result<(), BenchError> {
        let client_id = format!("bench {}", self.connection);
        let found = match self.questions.contract {
            Contract::Ours => {
                let predicate = v1::Predicate {
                    parameter: Some("PM2.5".to_owned()),
                    min_value: Some(min.to_owned()),
                    max_value: Some("35".to_owned()),
                    ..v1::Predicate::default()
                };
                let query = v1::QueryRequest {
                    predicate: Some(predicate),
                    limit: Some(LIMIT),
                    client_id,
                    ..v1::QueryRequest::default()
                };
                let reply = OverlayClient::new(self.channel.clone()).query(query).await?.into_inner();
                let frames = reply.first_chunk.map(|chunk| chunk.frames).unwrap_or_default();
                frames.iter().map(|frame| u64::from(frame.rows)).sum()
            }
            Contract::Old => {
                let query = legacy::QueryRequest {
                    query_type: "filter".to_owned(),
                    query_params: old_filter(min, LIMIT),
                    client_id,
                    ..legacy::QueryRequest::default()
                };
                let mut node = OverlayNodeClient::new(self.channel.clone());
                let result = node.query(query).await?.into_inner();
                accepted("ready", &result.status)?;
                let chunk = legacy::ChunkRequest { uid: result.uid, chunk_index: 0 };
                let chunk = node.get_chunk(chunk).await?.into_inner();
                accepted("success", &chunk.status)?;
                // The rows stand in a text that this client does not read, as it does not decode frames.
                if chunk.is_last { result.total_records as u64 } else { 0 }
            }
        };
        match LIMIT.min(self.questions.matching) {
            expected if expected == found => Ok(()),
            expected => Err(BenchError::FirstChunk { expected, found }),
        }
    }
}

/// Holds the outcome of an answer of the old contract, whose gRPC code is OK whatever happened, against what it must be.
pub(super) fn accepted(wanted: &str, status: &str) -> Result<(), BenchError> {
    match status == wanted {
        true => Ok(()),
        false => Err(BenchError::Refused(status.to_owned())),
    }
}

/// PM2.5 from `min` to 35 as clients of the old contract write it.
pub(super) fn old_filter(min: &str, limit: u64) -> String {
    json!({"parameter": "PM2.5", "min_value": min, "max_value": 35, "limit": limit}).to_string()
}
