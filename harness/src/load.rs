//! Load: users that ask a running node, check every answer and measure it.
//!
//! Read `mix` for what is asked, `user` for how, `closed` and `open` for when; `recorder` counts,
//! [`LoadResults`] is what a run writes, `page` is the report to look at. Three kinds of run:
//!
//! - [`Work::Benchmark`] is the benchmark of the system that this one replaces, under its words: so many
//!   requests, all users the same query of the `OverlayNode` contract. A request is one `Query` and its first
//!   chunk, which is what a user waits for before seeing rows. A node that caches answers shows its cache.
//! - [`Work::Closed`] has users that go through a [`Mix`], each asking again when it has its answer.
//! - [`Work::Open`] has requests of a [`Mix`] arrive at a fixed rate, timed from when they were due.
//!
//! Both closed loops run on goose. A closed loop slows down with the node that it measures: its percentiles say
//! nothing about the queue that users who do not wait for each other would see. The open loop does.
//!
//! A run never decides how fast is fast enough: [`Threshold`]s do. But a wrong answer fails any run.

mod closed;
mod mix;
mod nodes;
mod open;
mod outcome;
mod page;
mod recorder;
mod results;
mod text;
mod threshold;
mod user;

pub use self::mix::{Mix, Transaction};
pub use self::nodes::{NodeCounters, NodeUsage, ObservedNode};
pub(crate) use self::open::run as at_schedule;
pub use self::open::{Arrivals, Schedule};
pub(crate) use self::recorder::Latencies;
pub use self::results::{
    AdmissionResults, CallResults, ClientResults, CurvePoint, LatencyPercentiles, LoadResults, SecondResults,
    TransactionResults, WorkDone,
};
pub use self::threshold::{InvalidThreshold, Judged, Threshold, UnknownName};

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use goose::GooseError;
use hyper_util::rt::TokioIo;
use overlay::client::ClientError;
use overlay::outside::{ConnectTcp, Stream};
use overlay::proto::legacy;
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::security::{Bearer, Security};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tower::Service;

use self::closed::{Crowd, Loop};
use self::recorder::Recorder;
use self::user::{Shared, User};

/// A connection that sends the token along, if there is one.
type Secured = InterceptedService<Channel, Bearer>;

/// Time between two looks whether the node is ready.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// What reports and thresholds call a request of the benchmark.
const BENCHMARK: &str = "benchmark";

/// The filter of the old benchmark. Without a limit the node gives at most 2000 rows.
pub const DEFAULT_QUERY_PARAMS: &str = r#"{"parameter": "PM2.5", "min_value": 5, "max_value": 35}"#;

/// What to ask, how often, by how many.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The node, as `http://HOST:PORT`; the scheme may be left out.
    pub host: String,
    /// What is asked, and when.
    pub work: Work,
    /// Users, each with a connection; in a closed loop each has at most one request in flight.
    pub users: u32,
    /// Time that each call may take.
    pub timeout: Duration,
    /// Time that the node may take to become ready.
    pub wait: Duration,
    /// What decides whether the run passes.
    pub thresholds: Vec<Threshold>,
    /// Nodes whose metrics are taken before and after, beside the one that is asked.
    pub observed: Vec<ObservedNode>,
    /// The CA that signs the nodes' certificates, and the token to send.
    pub security: Security,
    /// Files for goose's own report of a closed loop, each in the format of its ending.
    pub goose_reports: Vec<PathBuf>,
}

/// What is asked, and when.
#[derive(Clone, Debug)]
pub enum Work {
    /// The old benchmark, a closed loop.
    Benchmark {
        /// Requests of all users together.
        requests: u64,
        /// The filter, a JSON object.
        query_params: String,
        /// Read every chunk of each result, not only the first.
        all_chunks: bool,
    },
    /// A mix in a closed loop.
    Closed {
        /// What is asked.
        mix: Mix,
        /// For how long.
        run_time: Duration,
    },
    /// A mix in an open loop.
    Open {
        /// What is asked.
        mix: Mix,
        /// When.
        schedule: Schedule,
        /// Decides which transaction is due when.
        seed: u64,
    },
}

impl Default for Work {
    fn default() -> Self {
        Work::Benchmark { requests: 200, query_params: DEFAULT_QUERY_PARAMS.to_owned(), all_chunks: false }
    }
}

impl Work {
    /// The transactions that it may make, by name.
    fn transactions(&self) -> Vec<&'static str> {
        match self {
            Work::Benchmark { .. } => vec![BENCHMARK],
            Work::Closed { mix, .. } | Work::Open { mix, .. } => {
                mix.weights().iter().map(|(transaction, _)| transaction.name()).collect()
            }
        }
    }
}

impl Default for LoadPlan {
    fn default() -> Self {
        LoadPlan {
            host: "http://127.0.0.1:60051".to_owned(),
            work: Work::default(),
            users: 20,
            timeout: Duration::from_secs(60),
            wait: Duration::from_secs(10),
            thresholds: Vec::new(),
            observed: Vec::new(),
            security: Security::default(),
            goose_reports: Vec::new(),
        }
    }
}

/// Why no load was generated.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The address cannot be used.
    #[error("`{host}` is no address of a node: expected http://HOST:PORT or https://HOST:PORT")]
    Host {
        /// As given.
        host: String,
    },
    /// The node did not become ready in time.
    #[error("node at {host} was not ready within {:.1} s: {}: {}", waited.as_secs_f64(), status.code(), status.message())]
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
    /// The typed client takes no such address.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// goose did not run, or could not write its report.
    #[error("goose: {0}")]
    Goose(Box<GooseError>),
}

impl LoadPlan {
    /// Generates the load and tells what came of it. Requests that fail are part of the results.
    ///
    /// # Errors
    /// [`LoadError`] if not a single request could be made.
    pub async fn run(&self) -> Result<LoadResults, LoadError> {
        let endpoint = self.endpoint()?;
        let lazily = endpoint.connect_with_connector_lazy(self.connector(&endpoint));
        let observer = OverlayNodeClient::with_interceptor(lazily, self.security.bearer());
        self.wait_until_ready(&observer).await?;
        let users = self.connect(&endpoint).await?;
        let observed = self.observed_nodes(&endpoint);
        let before = nodes::counters(&self.security, &observed).await;

        let done = CancellationToken::new();
        let sampler = tokio::spawn(nodes::sample_queue(observer, done.clone()));
        let started_at = SystemTime::now();
        let crowd = Arc::new(Crowd { users, recorder: Recorder::start() });
        let arrivals = self.generate(crowd.clone(), &endpoint).await?;
        done.cancel();
        let queue = sampler.await.expect("the sampler does not panic");
        let after = nodes::counters(&self.security, &observed).await;

        let usage = observed.into_iter().zip(before.into_iter().zip(after)).map(NodeUsage::new).collect();
        Ok(LoadResults::new(self, started_at, &crowd.recorder.finish(), &queue, arrivals, usage))
    }

    async fn generate(&self, crowd: Arc<Crowd>, endpoint: &Endpoint) -> Result<Option<Arrivals>, LoadError> {
        let work = match &self.work {
            Work::Open { mix, schedule, seed } => {
                return Ok(Some(open_loop(crowd, *mix, *schedule, *seed).await));
            }
            Work::Closed { mix, run_time } => Loop::Mix(*mix, *run_time),
            Work::Benchmark { requests, query_params, all_chunks } => Loop::Benchmark {
                requests: *requests,
                query_params: query_params.clone(),
                all_chunks: *all_chunks,
            },
        };
        let host = endpoint.uri().to_string();
        closed::run(crowd, &host, work, &self.goose_reports)
            .await
            .map_err(|error| LoadError::Goose(Box::new(error)))?;
        Ok(None)
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, LoadError> {
        let invalid = || LoadError::Host { host: self.host.clone() };
        // What encrypts is the connector, below.
        let address = match self.host.split_once("://") {
            None => &*self.host,
            Some(("http" | "https", address)) => address,
            Some(_) => return Err(invalid()),
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| invalid())?;
        if endpoint.uri().port().is_none() {
            return Err(invalid());
        }
        Ok(endpoint.connect_timeout(Duration::from_secs(5)).tcp_nodelay(true))
    }

    /// Connects every user before the clock starts: connecting is no part of a request.
    async fn connect(&self, endpoint: &Endpoint) -> Result<Vec<User>, LoadError> {
        let shared = Arc::new(Shared::new(self.timeout));
        let mut users = Vec::new();
        for user in 0..self.users {
            let channel = endpoint.connect_with_connector(self.connector(endpoint)).await;
            let channel = channel.map_err(|source| LoadError::Connect {
                user,
                users: self.users,
                host: self.host.clone(),
                source,
            })?;
            let channel = Secured::new(channel, self.security.bearer());
            let (id, address) = (format!("load-{user}"), address(endpoint));
            let user = User::new(shared.clone(), id, &self.security, &address, channel)?;
            user.connect().await;
            users.push(user);
        }
        Ok(users)
    }

    /// Connects to the node, by TLS where its CA is known.
    fn connector(
        &self,
        endpoint: &Endpoint,
    ) -> impl Service<Uri, Response = TokioIo<Box<dyn Stream>>, Error = io::Error, Future: Send>
    + Send
    + 'static
    + use<> {
        let (connect, address) = (self.security.connect(Arc::new(ConnectTcp)), address(endpoint));
        tower::service_fn(move |_: Uri| {
            let connecting = connect.connect(&address);
            async move { connecting.await.map(TokioIo::new) }
        })
    }

    /// The node that is asked, unless it is among the others.
    fn observed_nodes(&self, endpoint: &Endpoint) -> Vec<ObservedNode> {
        let asked = address(endpoint);
        match self.observed.iter().any(|node| node.address == asked) {
            true => self.observed.clone(),
            false => {
                let asked = ObservedNode { id: "asked".to_owned(), address: asked };
                std::iter::once(asked).chain(self.observed.iter().cloned()).collect()
            }
        }
    }

    /// Polls the metrics, as old scripts do.
    async fn wait_until_ready(&self, node: &OverlayNodeClient<Secured>) -> Result<(), LoadError> {
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

/// `HOST:PORT`.
fn address(endpoint: &Endpoint) -> String {
    endpoint.uri().authority().map_or_else(String::new, ToString::to_string)
}

/// Arrivals go to the users in turn.
async fn open_loop(crowd: Arc<Crowd>, mix: Mix, schedule: Schedule, seed: u64) -> Arrivals {
    let sending = crowd.clone();
    let send = move |number: u64| {
        let crowd = sending.clone();
        // A generator for each arrival, so that what is due does not depend on what was dropped.
        let transaction = mix.pick(&mut Rng::with_seed(seed.wrapping_add(number)));
        async move { crowd.user(number).perform(transaction).await }
    };
    let done = move |number, latency, outcome: outcome::Outcome| {
        let outcome = outcome::Outcome { latency, ..outcome };
        crowd.recorder.record(crowd.user(number).id(), outcome);
    };
    open::run(schedule, send, done).await
}

impl Crowd {
    fn user(&self, number: u64) -> &User {
        &self.users[number as usize % self.users.len()]
    }
}
