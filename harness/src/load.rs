//! A closed loop of load: so many users, each asking its next query when the last one is answered.
//!
//! It speaks the `OverlayNode` contract, so that it measures the system that this one replaces alike.
//! One request is one `Query` and its first chunk, which is what a user waits for before seeing rows;
//! its latency runs from sending the query to holding that chunk. With [`LoadPlan::all_chunks`] it
//! runs to the last chunk. Every answer is checked, outside of its latency: equal queries on equal data
//! have equal bytes, so each answer must equal the first one, and the first one must be consistent.
//!
//! All users ask the same query, as the old benchmark did. A node that caches answers shows its cache,
//! and a closed loop slows down with the node that it measures: its percentiles say nothing about the
//! queue that users who do not wait for each other would see.

mod results;

pub use self::results::{LatencyPercentiles, LoadResults};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use overlay::proto::legacy;
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Time between two looks at the node's queue.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Time between two looks whether the node is ready.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Kinds of failure that are told apart; the rest is counted together.
const MAX_FAILURE_KINDS: usize = 20;

/// Characters of a failure's cause that are kept.
const MAX_FAILURE_CHARS: usize = 200;

/// The filter of the old benchmark. Without a limit the node gives at most 2000 rows.
pub const DEFAULT_QUERY_PARAMS: &str = r#"{"parameter": "PM2.5", "min_value": 5, "max_value": 35}"#;

/// What to ask, how often, by how many.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The node, as `http://HOST:PORT`; the scheme may be left out.
    pub host: String,
    /// Requests of all users together.
    pub requests: u64,
    /// Users, each with a connection and at most one request in flight.
    pub users: u32,
    /// The filter, a JSON object.
    pub query_params: String,
    /// Read every chunk of each result, not only the first.
    pub all_chunks: bool,
    /// Time that each call may take.
    pub timeout: Duration,
    /// Time that the node may take to become ready.
    pub wait: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        LoadPlan {
            host: "http://127.0.0.1:60051".to_owned(),
            requests: 200,
            users: 20,
            query_params: DEFAULT_QUERY_PARAMS.to_owned(),
            all_chunks: false,
            timeout: Duration::from_secs(60),
            wait: Duration::from_secs(10),
        }
    }
}

/// Why no load was generated.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address cannot be used.
    #[error("`{host}` is no address of a node: expected http://HOST:PORT")]
    Host {
        /// As given.
        host: String,
    },
    /// The node did not become ready in time.
    #[error("node at {host} was not ready within {} s: {}: {}", waited.as_secs_f64(), status.code(), status.message())]
    NotReady {
        /// The node.
        host: String,
        /// From the first try to the last.
        waited: Duration,
        /// Its last answer.
        status: Box<Status>,
    },
    /// A user found no connection.
    #[error("failed to connect user {user} of {users} to {host}")]
    Connect {
        /// The user, from 0.
        user: u32,
        /// How many were to connect.
        users: u32,
        /// The node.
        host: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

impl LoadPlan {
    /// Generates the load and tells what came of it. Requests that fail are part of the results.
    ///
    /// # Errors
    /// [`LoadError`] if not a single request could be made.
    pub async fn run(&self) -> Result<LoadResults, LoadError> {
        let endpoint = self.endpoint()?;
        let observer = OverlayNodeClient::new(endpoint.connect_lazy());
        self.wait_until_ready(&observer).await?;
        let mut clients = Vec::new();
        for user in 0..self.users {
            // Connected before the clock starts: connecting is no part of a request.
            let channel = endpoint.connect().await.map_err(|source| LoadError::Connect {
                user,
                users: self.users,
                host: self.host.clone(),
                source,
            })?;
            clients.push(OverlayNodeClient::new(channel));
        }

        let shared = Arc::new(Shared {
            plan: self.clone(),
            next_request: AtomicU64::new(0),
            first_answer: OnceLock::new(),
        });
        let done = CancellationToken::new();
        let sampler = tokio::spawn(sample_queue(observer, done.clone()));
        let started_at = SystemTime::now();
        let started = Instant::now();
        let users: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(user, client)| tokio::spawn(shared.clone().ask_until_done(format!("load-{user}"), client)))
            .collect();
        let mut tally = Tally::default();
        for user in users {
            tally.merge(user.await.expect("a user does not panic"));
        }
        let took = started.elapsed();
        done.cancel();
        let queue = sampler.await.expect("the sampler does not panic");
        Ok(LoadResults::new(self, started_at, took, tally, &queue))
    }

    fn endpoint(&self) -> Result<Endpoint, LoadError> {
        let invalid = || LoadError::Host { host: self.host.clone() };
        let uri = match self.host.contains("://") {
            true => self.host.clone(),
            false => format!("http://{}", self.host),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| invalid())?;
        if endpoint.uri().port().is_none() || endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid());
        }
        Ok(endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true))
    }

    /// Polls the metrics, as old scripts do.
    async fn wait_until_ready(&self, node: &OverlayNodeClient<Channel>) -> Result<(), LoadError> {
        let started = Instant::now();
        loop {
            let Err(status) = node.clone().get_metrics(self.timed(legacy::MetricsRequest {})).await else {
                return Ok(());
            };
            let waited = started.elapsed();
            if status.code() != Code::Unavailable || waited >= self.wait {
                return Err(LoadError::NotReady {
                    host: self.host.clone(),
                    waited,
                    status: Box::new(status),
                });
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// What all users share.
struct Shared {
    plan: LoadPlan,
    next_request: AtomicU64,
    /// With its rows in the chunks that were read.
    first_answer: OnceLock<(Answer, u64)>,
}

/// What must be the same in every answer.
#[derive(Clone, Debug)]
struct Answer {
    total_records: i64,
    total_chunks: i32,
    /// The chunks that were read: the first, or all.
    chunks: Vec<String>,
}

/// Why a request gave no answer that can be trusted.
enum Failure {
    /// The node was full, and said so.
    Rejected,
    /// The call failed, or its status says so.
    Failed(String),
    /// The answer contradicts itself or the first one.
    Wrong(String),
}

impl Shared {
    async fn ask_until_done(self: Arc<Self>, client_id: String, node: OverlayNodeClient<Channel>) -> Tally {
        let mut tally = Tally::default();
        while self.next_request.fetch_add(1, Ordering::Relaxed) < self.plan.requests {
            let started = Instant::now();
            match self.ask(&client_id, node.clone()).await {
                Ok((hops, answer)) => {
                    let latency = started.elapsed();
                    tally.bytes_received += answer.chunks.iter().map(|data| data.len() as u64).sum::<u64>();
                    match self.check(&answer) {
                        Ok((records, rows)) => tally.success(latency, hops, records, rows),
                        Err(failure) => tally.failure(failure),
                    }
                }
                Err(failure) => tally.failure(failure),
            }
        }
        tally
    }

    /// One request: the hops of its answer, and the answer.
    async fn ask(
        &self,
        client_id: &str,
        mut node: OverlayNodeClient<Channel>,
    ) -> Result<(usize, Answer), Failure> {
        let request = legacy::QueryRequest {
            query_type: "filter".to_owned(),
            query_params: self.plan.query_params.clone(),
            hops: Vec::new(),
            client_id: client_id.to_owned(),
        };
        let reply = node.query(self.plan.timed(request)).await.map_err(|status| failed("Query", &status))?;
        let reply = reply.into_inner();
        match reply.status.as_str() {
            "ready" => {}
            "rejected" => return Err(Failure::Rejected),
            status => return Err(Failure::Failed(format!("Query: status `{status}`"))),
        }
        let (total_records, total_chunks) = (reply.total_records, reply.total_chunks);
        if total_records < 0 || total_chunks < 1 {
            return Err(Failure::Wrong(format!("{total_records} records in {total_chunks} chunks")));
        }
        let mut answer = Answer { total_records, total_chunks, chunks: Vec::new() };
        for chunk_index in 0..if self.plan.all_chunks { total_chunks } else { 1 } {
            let request = legacy::ChunkRequest { uid: reply.uid.clone(), chunk_index };
            let chunk = node
                .get_chunk(self.plan.timed(request))
                .await
                .map_err(|status| failed("GetChunk", &status))?;
            let chunk = chunk.into_inner();
            if chunk.status != "success" {
                return Err(Failure::Failed(format!("GetChunk: status `{}`", chunk.status)));
            }
            let found = (&chunk.uid, chunk.chunk_index, chunk.total_chunks, chunk.is_last);
            let wanted = (&reply.uid, chunk_index, total_chunks, chunk_index + 1 == total_chunks);
            if found != wanted {
                return Err(Failure::Wrong("a chunk does not belong to its result".to_owned()));
            }
            answer.chunks.push(chunk.data);
        }
        Ok((reply.hops.len(), answer))
    }

    /// The records of a right answer, and how many of them came with it.
    fn check(&self, answer: &Answer) -> Result<(u64, u64), Failure> {
        if self.first_answer.get().is_none() {
            let rows = row_count(answer).map_err(Failure::Wrong)?;
            // Of two users that come here at once, the second is compared with the first.
            let _ = self.first_answer.set((answer.clone(), rows));
        }
        let (first, rows) = self.first_answer.get().expect("it was set above");
        match difference(answer, first) {
            None => Ok((answer.total_records as u64, *rows)),
            Some(difference) => Err(Failure::Wrong(difference)),
        }
    }
}

fn failed(call: &str, status: &Status) -> Failure {
    Failure::Failed(format!("{call}: {}: {}", status.code(), status.message()))
}

/// Rows in the chunks that were read, which must not contradict the total.
fn row_count(answer: &Answer) -> Result<u64, String> {
    let mut rows = 0;
    for (index, data) in answer.chunks.iter().enumerate() {
        let chunk: Vec<IgnoredAny> =
            serde_json::from_str(data).map_err(|error| format!("chunk {index} is no JSON array: {error}"))?;
        rows += chunk.len() as u64;
    }
    let total = answer.total_records as u64;
    let whole = answer.chunks.len() == answer.total_chunks as usize;
    match if whole { rows == total } else { 0 < rows && rows < total } {
        true => Ok(rows),
        false => Err(format!(
            "{rows} rows in {} of {} chunks, total_records {total}",
            answer.chunks.len(),
            answer.total_chunks
        )),
    }
}

fn difference(answer: &Answer, first: &Answer) -> Option<String> {
    let counts = (answer.total_records, answer.total_chunks);
    let first_counts = (first.total_records, first.total_chunks);
    if counts != first_counts {
        return Some(format!(
            "{} records in {} chunks, the first answer had {} in {}",
            counts.0, counts.1, first_counts.0, first_counts.1
        ));
    }
    let index = answer.chunks.iter().zip(&first.chunks).position(|(data, first)| data != first)?;
    Some(format!("chunk {index} has other bytes than in the first answer"))
}

/// What came of the requests of one user, or of all.
#[derive(Debug, Default)]
struct Tally {
    latencies: Vec<Duration>,
    hops: u64,
    total_records: u64,
    min_records: Option<u64>,
    max_records: Option<u64>,
    rows_received: u64,
    bytes_received: u64,
    failed: u64,
    rejected: u64,
    wrong: u64,
    causes: BTreeMap<String, u64>,
}

impl Tally {
    fn success(&mut self, latency: Duration, hops: usize, records: u64, rows: u64) {
        self.latencies.push(latency);
        self.hops += hops as u64;
        self.total_records += records;
        self.min_records = Some(self.min_records.map_or(records, |least| least.min(records)));
        self.max_records = self.max_records.max(Some(records));
        self.rows_received += rows;
    }

    fn failure(&mut self, failure: Failure) {
        self.failed += 1;
        let cause = match failure {
            Failure::Rejected => {
                self.rejected += 1;
                "Query: status `rejected`".to_owned()
            }
            Failure::Failed(cause) => cause,
            Failure::Wrong(what) => {
                self.wrong += 1;
                format!("wrong answer: {what}")
            }
        };
        self.cause(cause.chars().take(MAX_FAILURE_CHARS).collect(), 1);
    }

    fn cause(&mut self, cause: String, count: u64) {
        let known = self.causes.len() < MAX_FAILURE_KINDS || self.causes.contains_key(&cause);
        let cause = if known { cause } else { "other".to_owned() };
        *self.causes.entry(cause).or_default() += count;
    }

    fn merge(&mut self, other: Tally) {
        self.latencies.extend(other.latencies);
        self.hops += other.hops;
        self.total_records += other.total_records;
        self.min_records = [self.min_records, other.min_records].into_iter().flatten().min();
        self.max_records = self.max_records.max(other.max_records);
        self.rows_received += other.rows_received;
        self.bytes_received += other.bytes_received;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.wrong += other.wrong;
        for (cause, count) in other.causes {
            self.cause(cause, count);
        }
    }
}

/// The node's queue while the load ran.
#[derive(Debug, Default)]
struct QueueSamples {
    samples: u64,
    sum: u64,
    max: u64,
    last: u64,
    avg_processing_time_ms: f64,
}

/// Looks at the node's metrics until `done`, and once more.
async fn sample_queue(mut node: OverlayNodeClient<Channel>, done: CancellationToken) -> QueueSamples {
    let mut queue = QueueSamples::default();
    loop {
        let last = done.is_cancelled();
        let mut request = Request::new(legacy::MetricsRequest {});
        request.set_timeout(Duration::from_secs(5));
        if let Ok(metrics) = node.get_metrics(request).await {
            let metrics = metrics.into_inner();
            let size = metrics.queue_size.max(0) as u64;
            queue.samples += 1;
            queue.sum += size;
            queue.max = queue.max.max(size);
            queue.last = size;
            queue.avg_processing_time_ms = f64::from(metrics.avg_processing_time_ms);
        }
        if last {
            return queue;
        }
        let _ = tokio::time::timeout(SAMPLE_EVERY, done.cancelled()).await;
    }
}
