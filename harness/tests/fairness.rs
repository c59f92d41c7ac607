//! One client that asks for everything, beside nine that ask for little: real nodes in virtual time.
//!
//! Computing takes time by the rows that it is charged with, on two slots a node; everything else takes what the simulated
//! network takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overlay::admission::{ClientKey, QueryStatus};
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::client::{Client, ClientError};
use overlay::coordinator::{Asking, Coordinator, RequestStatus};
use overlay::day::Day;
use overlay::holder::cost_of_encoding;
use overlay::metrics::Gauges;
use overlay::outside::Compute;
use overlay::plan::Query;
use overlay::result_set::Owner;
use overlay_harness::cluster::{Cluster, ClusterSpec, SimCluster, fixtures, wait_until, watched};
use overlay_harness::rivals::{Flood, Flooded, Schedule, Seen, heaviest, light_clients, vanish};
use overlay_harness::topology::TopologyBuilder;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A piece of 100 rows, which is a quantum here, takes ten milliseconds. Encoding a row is charged as sixteen.
const NS_PER_ROW: u64 = 100_000;

const SCHEDULE: Schedule = Schedule { every: Duration::from_millis(400), lasts: Duration::from_secs(8) };
/// Connections of the flood.
const CONNECTIONS: usize = 64;

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

/// The light clients, for as long as is measured.
async fn nine_light_clients(cluster: &SimCluster) -> Seen {
    let client = |number| cluster.client("A", &format!("light {number}")).unwrap();
    light_clients((0..9).map(client).collect(), SCHEDULE).await
}

/// 64 connections of one client.
fn flood<A: Future<Output = Result<(), ClientError>> + Send>(
    cluster: &SimCluster,
    ask: impl Fn(Client) -> A + Clone + Send + 'static,
) -> Flood {
    let connections = (0..CONNECTIONS).map(|_| cluster.client("A", "flood").unwrap());
    Flood::start(connections.collect(), ask)
}

/// The light clients once the flood has filled all queues, and what it sees meanwhile.
async fn beside(cluster: &SimCluster, flood: &Flood) -> (Seen, Flooded) {
    tokio::time::sleep(Duration::from_secs(5)).await;
    flood.take_seen();
    let seen = nine_light_clients(cluster).await;
    (seen, flood.take_seen())
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

/// Method: most work is pink's, whose three holders have six slots: what the light ones leave of them is the flood's fair
/// share, what they ask for is theirs.
#[test]
fn flooding_client_does_not_starve_others_and_waits_for_itself() {
    in_virtual_time(spec(few_slots()), async |cluster| {
        let alone = nine_light_clients(cluster).await;
        let flood = flood(cluster, ask_heaviest);
        let (light, flooded) = beside(cluster, &flood).await;
        assert!(alone.failed.is_empty() && light.failed.is_empty(), "{:?}", light.failed);
        let (p99_alone, p99) = (alone.percentile(99), light.percentile(99));
        assert!(p99 <= 3 * p99_alone, "{p99:?} beside the flood, {p99_alone:?} alone");

        let (questions, pink_rows) = (SCHEDULE.questions() as f64, |days| rows_of_days(cluster, days) as f64);
        let slots_can = 6.0 * SCHEDULE.lasts.as_secs_f64() * 1e9 / NS_PER_ROW as f64;
        let fair_share = slots_can - 9.0 * questions * pink_rows(20200821..=20200821);
        let mut parts: Vec<f64> = light.answered.values().map(|count| *count as f64 / questions).collect();
        parts.push(flooded.answered as f64 * pink_rows(20200821..=20200924) / fair_share);
        assert_eq!(parts.len(), 10);
        assert!(jain(&parts) >= 0.95, "{}: {parts:?}", jain(&parts));

        assert!(flooded.refused > 0 && flooded.without_retry_info == 0, "{flooded:?}");
        assert!(flooded.retried > 0, "{flooded:?}");
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
        let spec = spec(json!({})).with(json!({ "cache": no_cache, "strategies": {"chunk_size": 8} }));
        in_virtual_time(spec, async |cluster| {
            let alone = nine_light_clients(cluster).await;
            let result = cluster.client("A", "flood").unwrap().query(&query).await.unwrap();
            let (result, next) = (Arc::new(result), Arc::new(AtomicU32::new(0)));
            let drain = flood(cluster, move |client| {
                let (result, chunk) = (result.clone(), next.fetch_add(1, Ordering::Relaxed));
                async move { client.chunk(&result, chunk % result.chunk_count()).await.map(drop) }
            });
            let (light, drained) = beside(cluster, &drain).await;
            // What was encoded before is answered in the meantime.
            let encoded = (drained.answered as u32).saturating_sub(CONNECTIONS as u32);
            let rows = cost_of_encoding(8, query.encoding);
            let encoding = Duration::from_nanos(rows * NS_PER_ROW) * encoded;
            assert!(drained.answered > 100, "no flood: {drained:?}");
            assert!(encoding <= SCHEDULE.lasts * slots, "{drained:?} without paying for it");
            assert!(alone.failed.is_empty() && light.failed.is_empty(), "{:?}", light.failed);
            let (alone, p99) = (alone.percentile(99), light.percentile(99));
            assert!(p99 <= 3 * alone, "{p99:?} beside the flood, {alone:?} alone");
        });
    }
}

/// Goal: what the node does about it is what helps. Method: the same without turns.
#[test]
fn flooding_client_starves_others_under_fifo() {
    let spec = spec(few_slots()).with(json!({"strategies": {"fairness": "fifo"}}));
    in_virtual_time(spec, async |cluster| {
        let alone = nine_light_clients(cluster).await.percentile(99);
        let (light, _) = beside(cluster, &flood(cluster, ask_heaviest)).await;
        let p99 = light.percentile(99);
        assert!(p99 > 15 * alone || !light.failed.is_empty(), "{p99:?} beside the flood, {alone:?} alone");
    });
}

/// Goal: nobody computes for a client that is gone. Method: the flood fills every queue, and vanishes, all of it at once; a
/// tenth of a second later no node has anything to do.
#[test]
fn work_of_clients_that_vanish_stops_everywhere_within_a_tenth_of_a_second() {
    in_virtual_time(spec(few_slots()), async |cluster| {
        let flood = flood(cluster, ask_heaviest);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(nodes_that(cluster, is_at_work), NODES);
        drop(flood);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(nodes_that(cluster, is_at_work), [""; 0]);
    });
}

/// Goal: who never comes back takes nothing along. Method: a thousand clients ask and vanish, at every stage, while light ones
/// ask; these get their answers, and within a lease of the last nobody holds anything.
#[test]
fn thousand_clients_that_vanish_leave_nothing_behind() {
    let limits = json!({"result_ttl_ms": 5_000, "probe_ms": 500});
    in_virtual_time(spec(limits), async |cluster| {
        let alone = nine_light_clients(cluster).await;
        let vanishing = async {
            let mut vanishing = tokio::task::JoinSet::new();
            for number in 0..1000 {
                let client = cluster.client("A", &format!("vanishing {number}")).unwrap();
                vanishing.spawn(vanish(client, number));
                tokio::time::sleep(SCHEDULE.lasts / 1000).await;
            }
            vanishing.join_all().await;
        };
        let (light, ()) = futures::join!(nine_light_clients(cluster), vanishing);
        let answered = |seen: &Seen| seen.answered.values().sum::<u64>() as f64;
        assert!(answered(&light) >= 0.8 * answered(&alone), "{:?}", light.failed);
        let leader = cluster.node("A").state();
        assert!(leader.gauges().open_result_sets > 0, "they left results");
        let holds = |gauges: &Gauges| {
            is_at_work(gauges)
                || gauges.open_streams + gauges.open_result_sets > 0
                || gauges.orphaned_tasks > 0
        };
        // A lease, the time between two looks at leases, and a moment.
        let within = Duration::from_millis(5_000 + 500 + 100);
        let empty = wait_until(within, async || nodes_that(cluster, holds).is_empty().then_some(())).await;
        assert!(empty.is_some(), "{:?}", nodes_that(cluster, holds));
    });
}

const NODES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

fn nodes_that(cluster: &SimCluster, holds: impl Fn(&Gauges) -> bool) -> Vec<&'static str> {
    NODES.into_iter().filter(|id| holds(&cluster.node(id).state().gauges())).collect()
}

fn is_at_work(gauges: &Gauges) -> bool {
    let queries = gauges.active_queries + gauges.waiting_queries + gauges.following_queries;
    queries + gauges.computing_pieces + gauges.peer_requests_in_flight > 0
}

/// Goal: what a node does for clients is told from what nodes ask each other for themselves. Method: a chain so long that both
/// are seen under way, at the node through which all of it passes.
#[test]
fn requests_on_behalf_of_a_client_are_told_from_probes() {
    let spec = ClusterSpec::of(&TopologyBuilder::chain(12).build(), &fixtures());
    in_virtual_time(spec, async |cluster| {
        let (at_b, within) = (|| cluster.node("B").state().gauges(), Duration::from_secs(1));
        let probed = async || Some(at_b()).filter(|gauges| gauges.probes_in_flight > 0);
        let probed = wait_until(within, probed).await.expect("the leader asks how nodes are");
        assert_eq!(probed.peer_requests_in_flight, probed.probes_in_flight);
        let for_clients = || at_b().peer_requests_in_flight - at_b().probes_in_flight;
        let client = cluster.client("A", "asks").unwrap();
        let asked = wait_until(within, async || (for_clients() > 0).then_some(()));
        let (answered, asked) = futures::future::join(client.query(&Query::default()), asked).await;
        answered.unwrap();
        asked.expect("what the client asks for passes B");
        assert_eq!(for_clients(), 0);
    });
}

/// Goal: a waiting query is told the truth. Method: questions of the flooding client, behind others of its own, while light
/// ones come and go beside them; what each is told a tenth of a second after it came is within a factor of two of what
/// comes.
#[test]
fn estimated_start_of_a_waiting_query_is_within_a_factor_of_two() {
    let limits = json!({"max_active": 8, "per_team_limit": 8, "queue_length": 200});
    in_virtual_time(spec(limits), async |cluster| {
        let flood = flood(cluster, ask_heaviest);
        let coordinator = cluster.node("A").state().coordinator.clone();
        let asking = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let mut told = Vec::new();
            for number in 0..3 {
                told.push(wait_in_line(coordinator.clone(), number).await);
            }
            told
        };
        let ((light, _), told) = futures::join!(beside(cluster, &flood), asking);
        let wrong = told.iter().filter(|(estimated, waited)| {
            let ratio = estimated.as_secs_f64() / waited.as_secs_f64();
            !(0.5..=2.0).contains(&ratio)
        });
        assert_eq!((wrong.count(), light.failed.len()), (0, 0), "{told:?}");
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
