//! How many queries a second a server answers: so many connections, each asking again when it has its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use overlay::proto::{legacy, v1};
use prost::Message;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;

use super::BenchError;
use super::raw::RawClient;

const QUERY: &str = "/overlay.v1.Overlay/Query";
const OLD_QUERY: &str = "/OverlayNode/Query";
const OLD_CHUNK: &str = "/OverlayNode/GetChunk";

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
    contract: Contract,
    filters: Filters,
    lasts: Duration,
) -> Result<Rate, BenchError> {
    let warm = Arc::new(Barrier::new(CONNECTIONS as usize));
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let mut asker = Asker::connect(address, contract, connection).await?;
        let warm = warm.clone();
        connections.spawn(async move {
            for question in 0..WARM_UP {
                asker.ask(&filters.bound(connection, question)).await?;
            }
            warm.wait().await;
            let (began, mut answered) = (Instant::now(), 0);
            while began.elapsed() < lasts {
                asker.ask(&filters.bound(connection, answered)).await?;
                answered += 1;
            }
            Ok::<_, Status>((answered as f64 / began.elapsed().as_secs_f64(), WARM_UP + answered))
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
    client: RawClient,
    contract: Contract,
    client_id: String,
}

impl Asker {
    pub(super) async fn connect(
        address: SocketAddr,
        contract: Contract,
        number: u64,
    ) -> Result<Self, BenchError> {
        let client = RawClient::connect(address).await.map_err(BenchError::Connect)?;
        Ok(Asker { client, contract, client_id: format!("bench {number}") })
    }

    /// Asks once, and takes the rows of the first chunk.
    pub(super) async fn ask(&mut self, min: &str) -> Result<(), Status> {
        match self.contract {
            Contract::Ours => {
                let predicate = v1::Predicate {
                    parameter: Some("PM2.5".to_owned()),
                    min_value: Some(min.to_owned()),
                    max_value: Some("35".to_owned()),
                    ..v1::Predicate::default()
                };
                let client_id = self.client_id.clone();
                let query = v1::QueryRequest {
                    predicate: Some(predicate),
                    limit: Some(LIMIT),
                    client_id,
                    ..v1::QueryRequest::default()
                };
                self.call(QUERY, &query).await?;
            }
            Contract::Old => {
                let query = legacy::QueryRequest {
                    query_type: "filter".to_owned(),
                    query_params: old_filter(min, LIMIT),
                    client_id: self.client_id.clone(),
                    ..legacy::QueryRequest::default()
                };
                let answer = self.call(OLD_QUERY, &query).await?;
                let answer = legacy::QueryResponse::decode(answer);
                let uid = answer.map_err(|error| Status::internal(error.to_string()))?.uid;
                self.call(OLD_CHUNK, &legacy::ChunkRequest { uid, chunk_index: 0 }).await?;
            }
        }
        Ok(())
    }

    async fn call(&mut self, path: &'static str, message: &impl Message) -> Result<Bytes, Status> {
        self.client.unary(&PathAndQuery::from_static(path), message.encode_to_vec().into()).await
    }
}

/// PM2.5 from `min` to 35 as clients of the old contract write it.
pub(super) fn old_filter(min: &str, limit: u64) -> String {
    json!({"parameter": "PM2.5", "min_value": min, "max_value": 35, "limit": limit}).to_string()
}
