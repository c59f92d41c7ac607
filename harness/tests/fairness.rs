//! One client that asks for everything, beside nine that ask for little: real nodes in virtual time.
//!
//! Computing takes time by the rows that it is charged with, on two slots a node; everything else takes what the simulated
//! network takes. Light clients ask at their own times, however long answers take, and are timed from when they meant to
//! ask. No question is asked twice, so that no cache helps.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlay::admission::{ClientKey, QueryStatus};
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{Client, ClientError};
use overlay::coordinator::{Asking, Coordinator, RequestStatus};
use overlay::day::Day;
use overlay::metrics::Gauges;
use overlay::outside::Compute;
use overlay::plan::Query;
use overlay::predicate::{Predicate, Words};
use overlay::result_set::Owner;
use overlay_harness::cluster::{Cluster, ClusterSpec, SimCluster, watched};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;

/// A piece of 100 rows, which is a quantum here, takes ten milliseconds. Encoding a row is charged as sixteen.
const NS_PER_ROW: u64 = 100_000;

const LIGHT_CLIENTS: u64 = 9;
/// Between two questions of a light client.
const LIGHT_EVERY: Duration = Duration::from_millis(400);
/// Questions of a light client while is measured.
const QUESTIONS: f64 = 30.0;
/// Connections of the flood.
const CONNECTIONS: usize = 64;
const MEASURED: Duration = Duration::from_secs(12);

/// A chunk takes two and a half pieces to encode, which is what a megabyte takes beside a piece of 65,536 rows.
fn spec(limits: Value) -> ClusterSpec {
    let small = json!({"limits": {"quantum_rows": 100}, "strategies": {"chunk_size": 16}});
    ClusterSpec::fixtures().with(small).with(json!({ "limits": limits }))
}

/// 64 questions at once are too many.
fn few_slots() -> Value {
    json!({"max_active": 30, "per_team_limit": 24, "queue_length": 24})
}

fn in_virtual_time<T>(spec: ClusterSpec, body: impl AsyncFnOnce(&mut SimCluster) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let compute = Compute::Simulated { ns_per_row: NS_PER_ROW };
    runtime.unwrap().block_on(async {
        let mut cluster = SimCluster::start_computing(0xfa1, spec, compute).await.unwrap();
        watched(&mut cluster, body).await
    })
}

/// What matches nearly everything, and never the same twice.
fn never_asked_before(parameter: Option<&str>) -> Predicate {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let min = format!("0.{:09}", NEXT.fetch_add(1, Ordering::Relaxed));
    Words { parameter, min: Some(&min), ..Words::default() }.resolve().unwrap()
}

/// A day of each team.
fn light() -> Query {
    let day = |number| Day::from_number(number);
    Query {
        predicate: never_asked_before(Some("PM2.5")),
        date_start: day(20200820).ok(),
        date_end: day(20200821).ok(),
        limit: Some(16),
        ..Query::default()
    }
}

/// All rows of all days.
fn heaviest() -> Query {
    Query { predicate: never_asked_before(None), ..Query::default() }
}

/// What light clients saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    latencies: Vec<Duration>,
    refused: usize,
    /// Questions that were answered, by client.
    answered: BTreeMap<u64, u64>,
}

impl Seen {
    fn p99(&self) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        sorted[sorted.len() * 99 / 100]
    }
}

/// The light clients, each on a connection of its own, for as long as is measured.
async fn light_clients(cluster: &SimCluster) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut clients = JoinSet::new();
    let start = Instant::now();
    for number in 0..LIGHT_CLIENTS {
        let client = cluster.client("A", &format!("light {number}")).unwrap();
        clients.spawn(light_client(client, number, start, seen.clone()));
    }
    clients.join_all().await;
    let seen = seen.lock().unwrap();
    seen.clone()
}

async fn light_client(client: Client, number: u64, start: Instant, seen: Arc<Mutex<Seen>>) {
    let mut due = start + LIGHT_EVERY * number as u32 / LIGHT_CLIENTS as u32;
    while due < start + MEASURED {
        tokio::time::sleep_until(due).await;
        let answer = client.query(&light()).await;
        let mut seen = seen.lock().unwrap();
        seen.latencies.push(due.elapsed());
        match answer {
            Ok(_) => *seen.answered.entry(number).or_default() += 1,
            Err(_) => seen.refused += 1,
        }
        due += LIGHT_EVERY;
    }
}

/// What the connections of the flood saw.
#[derive(Debug, Default)]
struct Flooded {
    answered: u64,
    refused: u64,
    without_retry_info: u64,
    retried: u64,
    in_at_first_retry: u64,
}

/// Every connection asks anew when it has its answer, and when it is refused comes back at the time that it is told.
fn flood<A: Future<Output = Result<(), ClientError>> + 'static>(
    cluster: &SimCluster,
    ask: impl Fn(Client) -> A + 'static,
) -> Flood {
    let ask = Rc::new(ask);
    let seen = Arc::new(Mutex::new(Flooded::default()));
    let local = tokio::task::LocalSet::new();
    for _ in 0..CONNECTIONS {
        let client = cluster.client("A", "flood").unwrap();
        let (seen, ask) = (seen.clone(), ask.clone());
        local.spawn_local(async move {
            let mut retries = 0_u32;
            loop {
                let answer = ask(client.clone()).await;
                let wait = {
                    let mut seen = seen.lock().unwrap();
                    seen.retried += u64::from(retries == 1);
                    let Err(error) = answer else {
                        seen.answered += 1;
                        seen.in_at_first_retry += u64::from(retries == 1);
                        retries = 0;
                        continue;
                    };
                    seen.refused += 1;
                    retries += 1;
                    let wait = retry_after(&error);
                    seen.without_retry_info += u64::from(wait.is_none());
                    wait
                };
                tokio::time::sleep(wait.unwrap_or(Duration::from_secs(1))).await;
            }
        });
    }
    Flood { local, seen }
}

struct Flood {
    local: tokio::task::LocalSet,
    seen: Arc<Mutex<Flooded>>,
}

fn retry_after(error: &ClientError) -> Option<Duration> {
    let ClientError::Status { status, .. } = error else { panic!("{error}") };
    assert_eq!(status.code(), Code::ResourceExhausted, "{error}");
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

impl Flood {
    /// Lets it fill queues first, and then runs beside it.
    async fn beside<T>(&self, run: impl Future<Output = T>) -> T {
        let both = self.local.run_until(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            *self.seen.lock().unwrap() = Flooded::default();
            run.await
        });
        both.await
    }
}

/// (sum of x) squared, over n times the sum of x squared.
///
/// Source: R. Jain, D. Chiu, W. Hawe, A Quantitative Measure of Fairness and Discrimination, 1984.
fn jain(parts: &[f64]) -> f64 {
    let sum: f64 = parts.iter().sum();
    let squares: f64 = parts.iter().map(|part| part * part).sum();
    sum * sum / (parts.len() as f64 * squares)
}

async fn ask_heaviest(client: Client) -> Result<(), ClientError> {
    client.query(&heaviest()).await.map(drop)
}

/// Method: most work is pink's, whose three holders have six
/// slots: what the light ones leave of them is the flood's fair share, what they ask for is theirs.
#[test]
fn flooding_client_does_not_starve_others_and_waits_for_itself() {
    in_virtual_time(spec(few_slots()), async |cluster| {
        let alone = light_clients(cluster).await;
        let flood = flood(cluster, ask_heaviest);
        let beside = flood.beside(light_clients(cluster)).await;
        let flooded = flood.seen.lock().unwrap();
        let pink_rows = |days| rows_of_days(cluster, days) as f64;
        let capacity = 6.0 * MEASURED.as_secs_f64() * 10_000.0;
        let asked_for = QUESTIONS * pink_rows(20200821..=20200821);
        let fair_share = capacity - LIGHT_CLIENTS as f64 * asked_for;
        let mut parts: Vec<f64> =
            beside.answered.values().map(|answered| *answered as f64 / QUESTIONS).collect();
        parts.push(flooded.answered as f64 * pink_rows(20200821..=20200924) / fair_share);
        assert_eq!((alone.refused, beside.refused), (0, 0));
        assert!(
            beside.p99() <= 3 * alone.p99(),
            "{:?} beside the flood, {:?} alone",
            beside.p99(),
            alone.p99()
        );
        assert!(jain(&parts) >= 0.95, "{}: {parts:?}", jain(&parts));
        assert!(flooded.refused > 0 && flooded.without_retry_info == 0, "{flooded:?}");
        assert!(flooded.in_at_first_retry * 10 >= flooded.retried * 8, "{flooded:?}");
    });
}

/// Goal: who only reads cannot flood either. Method: 64 connections read chunks of rows, or of groups; no chunk and no
/// selection is kept for them.
#[test]
fn client_that_only_reads_does_not_starve_others() {
    let no_cache = json!({"chunk_bytes": 0, "selection_bytes": 0});
    let by_site = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Day] };
    let groups = Query { aggregate: Some(by_site), ..heaviest() };
    // Holders have ten slots, the leader, which encodes groups, has two.
    for (query, slots) in [(heaviest(), 10), (groups, 2)] {
        let spec = spec(json!({})).with(json!({ "cache": no_cache }));
        in_virtual_time(spec, async |cluster| {
            let alone = light_clients(cluster).await;
            let result = cluster.client("A", "flood").unwrap().query(&query).await.unwrap();
            let (result, next) = (Arc::new(result), Arc::new(AtomicU32::new(0)));
            let drain = flood(cluster, move |client| {
                let (result, chunk) = (result.clone(), next.fetch_add(1, Ordering::Relaxed));
                async move { client.chunk(&result, chunk % result.chunk_count()).await.map(drop) }
            });
            let beside = drain.beside(light_clients(cluster)).await;
            let drained = drain.seen.lock().unwrap();
            // What was encoded before is answered in the meantime.
            let encoded = (drained.answered as u32).saturating_sub(CONNECTIONS as u32);
            let encoding = Duration::from_nanos(16 * 16 * NS_PER_ROW) * encoded;
            assert!(drained.answered > 100, "no flood: {drained:?}");
            assert!(encoding <= MEASURED * slots, "{drained:?} without paying for it");
            assert_eq!((alone.refused, beside.refused), (0, 0));
            let (alone, beside) = (alone.p99(), beside.p99());
            assert!(beside <= 3 * alone, "{beside:?} beside the flood, {alone:?} alone");
        });
    }
}

/// Goal: what the node does about it is what helps. Method: the same without turns.
#[test]
fn flooding_client_starves_others_under_fifo() {
    let spec = spec(few_slots()).with(json!({"strategies": {"fairness": "fifo"}}));
    in_virtual_time(spec, async |cluster| {
        let alone = light_clients(cluster).await;
        let beside = flood(cluster, ask_heaviest).beside(light_clients(cluster)).await;
        let (alone, p99) = (alone.p99(), beside.p99());
        assert!(p99 > 15 * alone || beside.refused > 0, "{p99:?} beside the flood, {alone:?} alone");
    });
}

/// Goal: nobody computes for a client that is gone. Method: the flood fills every queue, and vanishes, all of it at once; a
/// tenth of a second later no node has anything to do.
#[test]
fn work_of_clients_that_vanish_stops_everywhere_within_a_tenth_of_a_second() {
    in_virtual_time(spec(few_slots()), async |cluster| {
        let flood = flood(cluster, ask_heaviest);
        flood.beside(async {}).await;
        let busy = |cluster: &SimCluster| -> Vec<String> {
            let gauges = |id: &&str| cluster.node(id).state().gauges();
            let is_busy = |id: &&str| {
                let Gauges {
                    active_queries,
                    waiting_queries,
                    following_queries,
                    computing_pieces,
                    peer_requests_in_flight,
                    ..
                } = gauges(id);
                let at_work = active_queries + waiting_queries + following_queries + computing_pieces;
                at_work + peer_requests_in_flight > 0
            };
            let ids = ["A", "B", "C", "D", "E", "F"].into_iter();
            ids.filter(is_busy).map(str::to_owned).collect()
        };
        assert_eq!(busy(cluster), ["A", "B", "C", "D", "E", "F"]);
        drop(flood);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(busy(cluster), Vec::<String>::new());
    });
}

/// Goal: a waiting query is told the truth. Method: beside the flood's queue, questions of one client that says when it
/// looks; each waits behind others of its own. What it was told, half-way down the queue, is within a factor of two of what
/// comes.
#[test]
fn estimated_start_of_a_waiting_query_is_within_a_factor_of_two() {
    let limits = json!({"max_active": 4, "per_team_limit": 4, "queue_length": 200});
    in_virtual_time(spec(limits), async |cluster| {
        let flood = flood(cluster, ask_heaviest);
        let coordinator = cluster.node("A").state().coordinator.clone();
        let told = flood.beside(async {
            let mut told = Vec::new();
            for number in 0..10 {
                told.push(wait_in_line(coordinator.clone(), number).await);
            }
            told
        });
        let told = told.await;
        let wrong = told.iter().filter(|(estimated, waited)| {
            let ratio = estimated.as_secs_f64() / waited.as_secs_f64();
            !(0.5..=2.0).contains(&ratio)
        });
        assert_eq!(wrong.count(), 0, "{told:?}");
    });
}

/// Asks as the flood does, looks a tenth of a second later, and tells what it saw, and what was left to wait then.
async fn wait_in_line(coordinator: Arc<Coordinator>, number: u32) -> (Duration, Duration) {
    let client = ClientKey::new("10.1.0.1", "flood");
    let owner = Owner { address: client.address.to_string(), client_id: Some(client.id.to_string()) };
    let (request_id, deadline) = (format!("request {number}"), Instant::now() + Duration::from_secs(60));
    let asking =
        Asking { query: heaviest(), client: client.clone(), owner, request_id: request_id.clone(), deadline };
    let look = Duration::from_millis(100);
    let looking = async {
        tokio::time::sleep(look).await;
        coordinator.status(&request_id, &client)
    };
    let (answered, status) = futures::join!(coordinator.query(asking), looking);
    let RequestStatus::Planned(QueryStatus::Waiting { limiting_factor, position, estimated_start }) = status
    else {
        panic!("{status:?}")
    };
    assert_eq!(limiting_factor, "client");
    assert!(position > 20, "{position}");
    (estimated_start, answered.unwrap().waited - look)
}

fn rows_of_days(cluster: &SimCluster, days: std::ops::RangeInclusive<u64>) -> u64 {
    let store = cluster.node("D").state().holder.store().unwrap().clone();
    let days = days.filter_map(|number| store.day(Day::from_number(number).ok()?));
    days.map(|day| day.row_count() as u64).sum()
}
