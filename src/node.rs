//! A node's life: wire it together, serve, load, drain, end.
//!
//! A node owns every task that it starts. When it ends, or is dropped, nothing of it runs on.

mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthService;
use tonic_web::GrpcWebLayer;
use tower::Layer;
use tower::util::MapResponseLayer;

pub use self::live::take_new_data;

use self::live::{keep_up, unowned, warn_of_unowned};
use crate::access::{Access, GuardLayer};
use crate::admission::{
    ClientKey, ComputeLimits, ComputeSlots, InFlight, Order, QueryAdmission, QueryLimits, Weights,
};
use crate::config::{NodeId, Overlay, Process, Role};
use crate::connections::{self, BodiesLayer, Places};
use crate::coordinator::{Coordinator, Parts};
use crate::day::Day;
use crate::flight::FlightService;
use crate::gather::Gather;
use crate::holder::Holder;
use crate::http;
use crate::inventory::Directory;
use crate::legacy::LegacyService;
use crate::load::{self, LoadError, LoadOptions, LoadProgress, Watcher};
use crate::metrics::Metrics;
use crate::outside::{Clock, Incoming, Outside};
use crate::peer::Neighbour;
use crate::placement::Placement;
use crate::proto::{self, legacy, v1};
use crate::relay::Relay;
use crate::result_set::{LeaseLimits, Leases};
use crate::security::{Security, SecurityError, accept_tls};
use crate::service::{OverlayService, PeerService};
use crate::state::{NodeState, Stop};
use crate::trace::TraceLayer;
use crate::verb::Call;

/// Rejected rows of each day that are kept with file, line and reason; all are counted.
const REJECTED_ROWS_KEPT: usize = 20;

/// Bytes of a request between nodes: a day takes about 60, a predicate at most four times
/// `limits.filter_bytes`.
const MAX_PEER_REQUEST_BYTES: usize = 16 << 20;

/// A health check names a service.
const MAX_HEALTH_REQUEST_BYTES: usize = 4096;

/// What health is asked about: the node, and each of its services.
const SERVICES: [&str; 5] =
    ["", "OverlayNode", "overlay.v1.Overlay", "overlay.v1.Peer", "arrow.flight.protocol.FlightService"];

/// What a node that stops at once still gives the answer to the one who told it to.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// What a node is made of.
pub struct Setup {
    /// The configuration.
    pub overlay: Arc<Overlay>,
    /// Which of its processes this node is.
    pub id: NodeId,
    /// The dataset root; a node with no day placed on it needs none.
    pub dataset_root: Option<PathBuf>,
    /// Whether a row that does not parse keeps the node from starting.
    pub strict: bool,
    /// Files that are parsed at the same time.
    pub load_threads: usize,
    /// Whether to go on looking for new and changed files.
    pub watch: bool,
    /// Clock, randomness, network, computing.
    pub outside: Outside,
    /// The connections of a bound listener.
    pub incoming: Incoming,
}

/// Why a node cannot start or go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration has no such process.
    #[error("no process `{id}` in the configuration (processes: {known})")]
    UnknownProcess {
        /// The id asked for.
        id: String,
        /// The ids there are.
        known: String,
    },
    /// Days are placed at the node, and it was given no data.
    #[error(
        "node `{0}` holds days but has no dataset root: give --dataset-root, or dataset_root in the configuration"
    )]
    NoDatasetRoot(NodeId),
    /// A certificate, key or token cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The data could not be loaded.
    #[error("node `{node}` failed to load its data: {why}")]
    Load {
        /// The node.
        node: NodeId,
        /// The cause, with the path.
        why: String,
    },
    /// The listener failed.
    #[error("node `{node}` stopped serving: {why}")]
    Serve {
        /// The node.
        node: NodeId,
        /// The cause.
        why: String,
    },
}

/// How far a node has come with loading.
#[derive(Clone, Debug)]
pub enum Loading {
    /// Files are being read.
    Running(LoadProgress),
    /// The node is ready.
    Ready,
    /// The node cannot become ready.
    Failed(NodeError),
}

/// A node that runs. Dropping it ends it at once.
#[must_use = "dropping a node ends it"]
pub struct Node {
    state: Arc<NodeState>,
    loading: watch::Receiver<Loading>,
    tasks: JoinSet<Result<(), NodeError>>,
}

impl Node {
    /// Starts to serve and to load. Until the data are loaded, queries are answered `UNAVAILABLE`.
    ///
    /// Must be called inside a runtime.
    ///
    /// # Errors
    /// [`NodeError`] if the configuration has no such process, or no data for it.
    pub fn start(setup: Setup) -> Result<Self, NodeError> {
        let overlay = setup.overlay.clone();
        let Some(process) = overlay.process(&setup.id).cloned() else {
            let known: Vec<String> = overlay.processes.keys().map(NodeId::to_string).collect();
            return Err(NodeError::UnknownProcess { id: setup.id.to_string(), known: known.join(", ") });
        };
        let placement = Arc::new(Placement::new(&overlay));
        let placed = placement.days_of(&process.id);
        if !placed.is_empty() && setup.dataset_root.is_none() {
            return Err(NodeError::NoDatasetRoot(process.id));
        }
        let (progress, loading) = watch::channel(Loading::Running(LoadProgress::default()));
        let security = overlay.security.as_ref().map(|files| Security::of_node(files, &process));
        let security = security.transpose()?.unwrap_or_default();
        if security.tokens().is_some() && security.tls().is_none() {
            tracing::warn!(node = %process.id, "tokens without TLS: whoever can read the network has them");
        }
        let places = Places::new(&overlay.limits);
        let incoming = connections::limited(setup.incoming, places, security.tls().is_some());
        let incoming = match security.tls() {
            Some(tls) => accept_tls(incoming, tls, overlay.limits.connect()),
            None => incoming,
        };
        let setup = Setup { incoming, ..setup };
        let state = wire_together(&setup, &security, process, placement, placed);
        let mut tasks = JoinSet::new();
        let health = tonic_health::server::HealthReporter::new();
        let clock = setup.outside.clock;
        tasks.spawn(serve(state.clone(), clock, setup.incoming, health.clone()));
        let options = LoadOptions {
            threads: setup.load_threads,
            strict: setup.strict,
            rejected_kept: REJECTED_ROWS_KEPT,
        };
        let root = setup.dataset_root.filter(|_| !state.holder.placed().is_empty());
        let dataset = root.map(|root| Dataset { root, options, watch: setup.watch });
        tasks.spawn(load_data(state.clone(), dataset, progress, health));
        tasks.spawn(watch_others(state.clone()));
        tasks.spawn(look_up_hosts(state.clone()));
        Ok(Node { state, loading, tasks })
    }

    /// What the node's services share.
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// How far loading has come.
    pub fn loading(&self) -> watch::Receiver<Loading> {
        self.loading.clone()
    }

    /// Waits until the data are loaded.
    ///
    /// # Errors
    /// [`NodeError`] if they cannot be.
    pub async fn ready(&self) -> Result<(), NodeError> {
        let mut loading = self.loading.clone();
        let ended = loading.wait_for(|loading| !matches!(loading, Loading::Running(_))).await;
        match ended.as_deref() {
            Ok(Loading::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(NodeError::Serve {
                node: self.state.process.id.clone(),
                why: "stopped while loading".to_owned(),
            }),
        }
    }

    /// Tells the node to stop. Ask [`Self::finished`] for the end.
    pub fn stop(&self, how: Stop) {
        self.state.stop(how);
    }

    /// Waits until the node has ended: told to stop, or failed.
    ///
    /// # Errors
    /// [`NodeError`] if it failed.
    pub async fn finished(&mut self) -> Result<(), NodeError> {
        let result = loop {
            match self.tasks.join_next().await {
                // Loading ends when the data are there; serving ends when the node does.
                Some(Ok(Ok(()))) if *self.state.stop.borrow() == Stop::Running => {}
                Some(Ok(Ok(()))) | None => break Ok(()),
                Some(Ok(Err(error))) => break Err(error),
                Some(Err(aborted)) if aborted.is_cancelled() => {}
                Some(Err(panicked)) => {
                    break Err(NodeError::Serve {
                        node: self.state.process.id.clone(),
                        why: panicked.to_string(),
                    });
                }
            }
        };
        self.tasks.abort_all();
        result
    }
}

fn wire_together(
    setup: &Setup,
    security: &Security,
    process: Process,
    placement: Arc<Placement>,
    placed: BTreeSet<Day>,
) -> Arc<NodeState> {
    let overlay = setup.overlay.clone();
    let (limits, outside) = (&overlay.limits, &setup.outside);
    let incarnation = incarnation(outside);
    let metrics = Arc::new(Metrics::default());
    let weights = Weights {
        teams: overlay.teams.iter().map(|team| (team.name.clone(), team.weight)).collect(),
        clients: overlay.clients.clone(),
    };
    let quantum_rows = limits.quantum_rows;
    let fair = |slots, what, limiting_factor| {
        let queue_length = limits.compute_queue_length;
        let order = Order::under(overlay.strategies.fairness);
        let limits = ComputeLimits { slots, queue_length, quantum_rows, order, what, limiting_factor };
        ComputeSlots::new(limits, weights.clone())
    };
    let computing = fair(
        limits.compute_slots.unwrap_or(outside.cores),
        ["piece of work waiting", "pieces of work waiting"],
        "compute_slots",
    );
    let holder = Arc::new(Holder::new(
        process.id.clone(),
        incarnation,
        placed,
        &overlay,
        computing.clone(),
        outside.compute,
        metrics.clone(),
    ));
    let neighbours: BTreeMap<NodeId, Neighbour> = process
        .neighbours
        .iter()
        .filter_map(|id| overlay.process(id))
        .map(|other| (other.id.clone(), Neighbour::new(other, &overlay, security, outside.connect.clone())))
        .collect();
    let relay = Arc::new(Relay::new(
        process.id.clone(),
        &overlay,
        neighbours,
        holder.clone(),
        Arc::new(Directory::default()),
        metrics.clone(),
    ));
    let admission = QueryAdmission::new(QueryLimits {
        max_active: limits.max_active,
        per_team_limit: limits.per_team_limit,
        queue_length: limits.queue_length,
        max_bypass: limits.max_bypass,
        fairness: overlay.strategies.fairness,
        weights: weights.clone(),
    });
    let lease_limits = LeaseLimits {
        ttl: limits.result_ttl(),
        max_age: limits.result_max_age(),
        bytes: limits.result_set_bytes,
        client_sets: limits.client_result_sets,
        client_bytes: limits.client_result_set_bytes,
    };
    let leases = Leases::new(&process.id, incarnation, lease_limits);
    let parts = Parts {
        gather: Gather::new(overlay.clone(), relay.clone(), metrics.clone()),
        admission,
        reads: fair(limits.reads_in_flight, ["chunk read waiting", "chunk reads waiting"], "reads_in_flight"),
        recounts: fair(
            1,
            ["aggregate to count again waiting", "aggregates to count again waiting"],
            "recounts",
        ),
        computing,
        leases,
        clock: outside.clock,
        random: outside.random.clone(),
        compute: outside.compute,
        metrics: metrics.clone(),
    };
    let coordinator = Arc::new(Coordinator::new(process.id.clone(), overlay.clone(), placement, parts));
    let access = Arc::new(Access::new(&overlay, &process, security));
    Arc::new(NodeState {
        peer_requests: InFlight::new(
            ["peer request in flight", "peer requests in flight"],
            "limits.peer_requests",
            limits.peer_requests,
        ),
        // As each of them is a peer request too, there is always a place.
        probes: InFlight::new(
            ["probe in flight", "probes in flight"],
            "limits.peer_requests",
            limits.peer_requests,
        ),
        streams: InFlight::new(
            ["stream of chunks open", "streams of chunks open"],
            "limits.streams",
            limits.streams,
        ),
        transit: InFlight::new(
            ["byte of messages on their way", "bytes of messages on their way"],
            "limits.transit_bytes",
            limits.transit_bytes,
        ),
        process,
        coordinator,
        relay,
        holder,
        metrics,
        access,
        connect: outside.connect.clone(),
        incarnation,
        stop: watch::channel(Stop::Running).0,
        overlay,
    })
}

/// Time makes incarnations grow, random bits keep two starts in one millisecond apart; never 0. New data add one, by which a start
/// is told from them.
fn incarnation(outside: &Outside) -> u64 {
    (outside.clock.unix_ms() << 16) | (outside.random.bits() & 0xffff) | 1
}

type Health = tonic_health::server::HealthReporter;

/// Answers how the node is, but watches nothing: anybody may ask, and a watch would never end.
struct HealthChecks(HealthService);

#[tonic::async_trait]
impl health_server::Health for HealthChecks {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        self.0.check(request).await
    }

    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, tonic::Status>>;

    async fn watch(
        &self,
        _request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("health is not watched here: ask Check again"))
    }
}

/// Serves until told to stop, then lets what runs come to its end within the grace time.
async fn serve(
    state: Arc<NodeState>,
    clock: Clock,
    incoming: Incoming,
    health: Health,
) -> Result<(), NodeError> {
    let failed = |why: String| NodeError::Serve { node: state.process.id.clone(), why };
    let limits = &state.overlay.limits;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_v1 = reflection().build_v1().map_err(|error| failed(error.to_string()))?;
    let reflection_v1alpha = reflection().build_v1alpha().map_err(|error| failed(error.to_string()))?;
    let overlay_service = v1::overlay_server::OverlayServer::new(OverlayService(state.clone()))
        .max_decoding_message_size(limits.message_bytes);
    let peer_service = v1::peer_server::PeerServer::new(PeerService(state.clone()))
        .max_decoding_message_size(MAX_PEER_REQUEST_BYTES);
    let legacy_service =
        legacy::overlay_node_server::OverlayNodeServer::new(LegacyService::new(state.clone()))
            .max_decoding_message_size(limits.legacy_message_bytes);
    let flight_service = FlightServiceServer::new(FlightService::new(state.clone(), clock))
        .max_decoding_message_size(limits.message_bytes);
    // Anybody may ask it: nobody needs much room to.
    let health_server = HealthServer::new(HealthChecks(HealthService::from_health_reporter(health.clone())))
        .max_decoding_message_size(MAX_HEALTH_REQUEST_BYTES);
    let closing = CancellationToken::new();
    // The HTTP library would date responses by the system's clock.
    let dated = move |mut response: tonic::codegen::http::Response<tonic::body::Body>| {
        let date = clock.http_date().try_into().expect("a date is ASCII");
        response.headers_mut().insert(tonic::codegen::http::header::DATE, date);
        response
    };
    let routes = Routes::new(health_server)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .add_service(GrpcWebLayer::new().layer(overlay_service))
        .add_service(peer_service)
        .add_service(legacy_service)
        .add_service(flight_service);
    let layers = (
        MapResponseLayer::new(http::for_browsers),
        BodiesLayer {
            request: limits.request(),
            transit: state.transit.clone(),
            header_bytes: limits.header_bytes as usize,
        },
        MapResponseLayer::new(dated),
        GuardLayer { access: state.access.clone(), not_http: http::refuses },
        TraceLayer { node: state.process.id.as_str().into() },
    );
    let service = layers.layer(http::beside(routes, state.clone()));
    let server = connections::serve(service, incoming, limits, closing.clone());
    tokio::pin!(server);
    let grace_ends = tokio::select! {
        biased;
        () = &mut server => return Ok(()),
        grace_ends = drained(&state, &health) => grace_ends,
    };
    closing.cancel();
    let at_once = async {
        stopped(&state, Stop::AtOnce).await;
        tokio::time::sleep(LAST_ANSWER).await;
    };
    tokio::select! {
        biased;
        () = &mut server => Ok(()),
        () = at_once => Ok(()),
        () = tokio::time::sleep_until(grace_ends) => Ok(()),
    }
}

async fn set_health(health: &Health, status: tonic_health::ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Waits for the word to stop, refuses queries from then on, and waits for those that run.
///
/// Gives the end of the grace time, which what is left of serving shares.
async fn drained(state: &NodeState, health: &Health) -> Instant {
    stopped(state, Stop::Graceful).await;
    state.holder.set_draining();
    set_health(health, tonic_health::ServingStatus::NotServing).await;
    let admission = state.coordinator.admission();
    admission.drain();
    let grace_ends = Instant::now() + state.overlay.limits.grace();
    tokio::select! {
        biased;
        () = stopped(state, Stop::AtOnce) => {}
        () = admission.idle() => {}
        () = tokio::time::sleep_until(grace_ends) => {}
    }
    grace_ends
}

async fn stopped(state: &NodeState, how: Stop) {
    let mut stop = state.stop.subscribe();
    // The sender lives in the state that this borrows.
    let _ = stop.wait_for(|stop| *stop >= how).await;
}

/// Where a node's data come from.
struct Dataset {
    root: PathBuf,
    options: LoadOptions,
    watch: bool,
}

async fn load_data(
    state: Arc<NodeState>,
    dataset: Option<Dataset>,
    progress: watch::Sender<Loading>,
    health: Health,
) -> Result<(), NodeError> {
    set_health(&health, tonic_health::ServingStatus::NotServing).await;
    let progress = Arc::new(progress);
    let options = dataset.as_ref().map(|dataset| dataset.options);
    let (reporting, loading_state) = (progress.clone(), state.clone());
    let job = move || {
        let report = |at: LoadProgress| drop(reporting.send_replace(Loading::Running(at)));
        // Before anything is loaded, so that whatever is written meanwhile is noticed.
        let watched = dataset.as_ref().filter(|dataset| dataset.watch);
        let placed = || loading_state.holder.placed().clone();
        let watcher = watched.map(|dataset| Watcher::new(dataset.root.clone(), placed()));
        load_placed(&loading_state, dataset, &report)?;
        Ok::<_, LoadError>(watcher)
    };
    // Loading is charged to nobody.
    let watcher = match state.holder.compute().run(0, job).await {
        Ok(watcher) => watcher,
        Err(error) => {
            let error = NodeError::Load { node: state.process.id.clone(), why: error.to_string() };
            progress.send_replace(Loading::Failed(error.clone()));
            return Err(error);
        }
    };
    set_health(&health, tonic_health::ServingStatus::Serving).await;
    tracing::info!(node = %state.process.id, "ready");
    progress.send_replace(Loading::Ready);
    match watcher.zip(options) {
        Some((watcher, options)) => keep_up(&state, watcher, options).await,
        // The task that serves is the one whose end is the node's.
        None => std::future::pending().await,
    }
}

/// Loads the days that are placed at the node and lie on the disk; notes the days that no team owns.
fn load_placed(
    state: &NodeState,
    dataset: Option<Dataset>,
    report: &(dyn Fn(LoadProgress) + Sync),
) -> Result<(), LoadError> {
    let Some(Dataset { root, options, .. }) = dataset else {
        state.holder.set_loaded(load::Loaded::default(), Vec::new());
        return Ok(());
    };
    let placed = state.holder.placed();
    let on_disk = load::days_on_disk(&root)?;
    let unowned = unowned(state, &on_disk.days);
    let days: BTreeSet<Day> = on_disk.days.iter().copied().filter(|day| placed.contains(day)).collect();
    let absent: Vec<String> = placed.difference(&days).map(Day::to_string).collect();
    if !absent.is_empty() {
        tracing::info!(node = %state.process.id, days = absent.join(","), "planned days without data");
    }
    warn_of_unowned(state, &unowned);
    let loaded = load::load(&root, &days, &options, report)?;
    for row in &loaded.rejected {
        tracing::warn!(node = %state.process.id, %row, "row rejected");
    }
    state.holder.set_loaded(loaded, unowned);
    Ok(())
}

/// Keeps the addresses of the hosts that are written as names.
async fn look_up_hosts(state: Arc<NodeState>) -> Result<(), NodeError> {
    loop {
        state.access.resolve(state.connect.as_ref()).await;
        tokio::time::sleep(state.overlay.limits.probe()).await;
    }
}

/// Asks nodes how they are, and ends leases. One that does not answer is not asked again before its time is over, and
/// keeps no other from being asked.
async fn watch_others(state: Arc<NodeState>) -> Result<(), NodeError> {
    let relay = &state.relay;
    let mut asked: BTreeSet<NodeId> = BTreeSet::new();
    let mut probes = FuturesUnordered::new();
    loop {
        state.coordinator.leases().sweep(Instant::now());
        let call = Call::new(ClientKey::nobody(), Instant::now() + relay.probe_time());
        let idle = watched(&state).into_iter().filter(|node| !asked.contains(node));
        for nodes in relay.ways(idle) {
            asked.extend(nodes.iter().cloned());
            let call = call.clone();
            probes.push(async move {
                relay.learn(nodes.iter().cloned(), &call).await;
                nodes
            });
        }
        let next = Instant::now() + state.overlay.limits.probe();
        loop {
            tokio::select! {
                biased;
                Some(nodes) = probes.next() => asked.retain(|node| !nodes.contains(node)),
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

/// All others for the leader, for others those that they have dealt with.
fn watched(state: &NodeState) -> BTreeSet<NodeId> {
    let snapshot = state.relay.directory().snapshot();
    let mut nodes: BTreeSet<NodeId> =
        snapshot.inventories.keys().chain(snapshot.marked.keys()).cloned().collect();
    if state.process.role == Role::Leader {
        nodes.extend(state.overlay.processes.keys().cloned());
    }
    nodes.remove(&state.process.id);
    nodes
}
