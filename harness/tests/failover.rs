//! Days of nodes that are down: another holder answers for them, or the answer names them.

use std::time::Duration;

use overlay::coverage;
use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, Driver, InProcessCluster, fixtures};
use overlay_harness::fault::{Fault, Lie};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use overlay_harness::topology::{Shape, TopologyBuilder};
use serde_json::json;
use tokio::time::Instant;

/// Six nodes of which A has never heard of `unknown`: it was down when A started, and is up again.
/// Nobody probes, so that A goes on avoiding it.
async fn cluster_with_unknown(unknown: &str) -> InProcessCluster {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"probe_ms": 600_000}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    cluster.crash(unknown).await.unwrap();
    cluster.restart("A").await.unwrap();
    let client = cluster.client("A", "first").unwrap();
    client.query(&answer::query(&pink("CO"), Encoding::Json)).await.expect("another holder answers");
    cluster.restart(unknown).await.unwrap();
    cluster
}

fn pink(parameter: &str) -> OracleQuery {
    let (parameter, team) = (Some(parameter.to_owned()), Some("pink".to_owned()));
    OracleQuery { parameter, team, ..OracleQuery::default() }
}

fn row_count(query: &OracleQuery) -> u64 {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    oracle.rows(query).len() as u64
}

/// D alone is known to hold pink's days. When it fails, E must be asked, although it is avoided.
#[tokio::test(flavor = "multi_thread")]
async fn holder_that_is_avoided_is_asked_when_the_others_fail() {
    let mut cluster = cluster_with_unknown("E").await;
    cluster.crash("D").await.unwrap();
    let client = cluster.client("A", "failover").unwrap();
    let query = pink("OZONE");
    let result = client.query(&answer::query(&query, Encoding::Json)).await.expect("E answers");
    assert_eq!(result.manifest.total_records, row_count(&query));
}

/// Goal: a node that one edge does not reach is reached by another. Method: E holds pink's days alone, behind D, to which B
/// and C lead; the edge of B, which is tried first, is cut.
#[test]
fn node_beyond_an_edge_that_is_cut_is_reached_by_another_edge() {
    let mut topology = TopologyBuilder::teams(&[2, 2]).build();
    let edges = [("A", "B"), ("A", "C"), ("B", "D"), ("C", "D"), ("D", "E")];
    topology.edges = edges.map(|(left, right)| (left.to_owned(), right.to_owned())).into();
    topology.replicas = Some(1);
    let teams = topology.teams.clone();
    let spec = ClusterSpec::of(&topology, &fixtures());
    let ran = Driver::Simulated { seed: 7 }.run(spec, async |cluster| {
        cluster.inject(&Fault::partition("B", "D")).await.unwrap();
        let client = cluster.client("A", "failover").unwrap();
        let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Json)).await;
        result.expect("C leads to D, and D to E").manifest.total_records
    });
    let oracle = Oracle::read(&fixtures(), &teams).unwrap();
    assert_eq!(ran.unwrap(), oracle.rows(&OracleQuery::default()).len() as u64);
}

/// Goal: a node on which two ways part pays once for the one that has come to lead nowhere, not at each request. Method: from B
/// two ways lead to G, who holds pink's days alone; on the one that is taken D hangs, which B is no neighbour of.
#[test]
fn way_that_led_nowhere_is_not_tried_first_again() {
    let mut topology = TopologyBuilder::teams(&[5, 1]).build();
    let edges = [("A", "B"), ("B", "C"), ("C", "D"), ("D", "G"), ("B", "E"), ("E", "F"), ("F", "G")];
    topology.edges = edges.map(|(left, right)| (left.to_owned(), right.to_owned())).into();
    let limits = json!({"limits": {"keepalive_ms": 1_000, "probe_ms": 600_000}});
    let spec = ClusterSpec::of(&topology, &fixtures()).with(limits);
    let ran = Driver::Simulated { seed: 7 }.run(spec, async |cluster| {
        let client = cluster.client("A", "failover").unwrap();
        let ask = async |parameter| {
            let asked = Instant::now();
            client.query(&answer::query(&pink(parameter), Encoding::Json)).await.expect("G is reached");
            asked.elapsed()
        };
        ask("CO").await;
        cluster.inject(&Fault::hang("D")).await.unwrap();
        [ask("OZONE").await, ask("PM2.5").await]
    });
    let [first, second] = ran.unwrap();
    let keepalive = Duration::from_secs(1);
    assert!(first >= keepalive && first < 3 * keepalive && second < keepalive / 10, "{first:?}, {second:?}");
}

/// Goal: a node is not taken for gone because its connections were. Method: a client of C, whose only way leads over B, gives up while
/// C connects to B; then the connections of B end, as those of one that lies do when it is itself again, and C is asked again.
#[test]
fn connection_that_nobody_waited_for_is_not_held_against_a_neighbour() {
    let mut topology = TopologyBuilder::teams(&[2]).shape(Shape::Chain).build();
    topology.replicas = Some(1);
    let question = answer::query(&OracleQuery::default(), Encoding::Json);
    let refused = |gives_up: u64, seed: u64| {
        let spec = ClusterSpec::of(&topology, &fixtures());
        let ran = Driver::Simulated { seed }.run(spec, async |cluster| {
            let lie = Fault::lie("B", Lie::ALL[0]);
            cluster.inject(&lie).await.unwrap();
            let client = cluster.client("C", "gives up").unwrap();
            let _ = tokio::time::timeout(Duration::from_millis(gives_up), client.query(&question)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.heal(&lie).await.unwrap();
            let client = cluster.client("C", "stays").unwrap();
            client.query(&question).await.err().map(|error| error.to_string())
        });
        ran.unwrap()
    };
    for (gives_up, seed) in (3..8).flat_map(|gives_up| [1, 2, 3].map(|seed| (gives_up, seed))) {
        assert_eq!(refused(gives_up, seed), None, "given up after {gives_up} ms, seed {seed}");
    }
}

/// A result set outlives the nodes that counted it: here E and, behind it, F.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_is_read_from_a_holder_that_was_down_at_the_query() {
    let mut cluster = cluster_with_unknown("D").await;
    let client = cluster.client("A", "failover").unwrap();
    let query = pink("PM2.5");
    let result = client.query(&answer::query(&query, Encoding::Json)).await.expect("E and F answer");
    assert!(result.chunk_count() > 1, "the first chunk comes with the count, another one must be read");
    cluster.crash("E").await.unwrap();
    let mut rows = 0;
    for index in 0..result.chunk_count() {
        let chunk = client.chunk(&result, index).await.expect("D answers");
        rows += chunk.frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
    }
    assert_eq!(rows, row_count(&query));
}

/// Goal: a team that has too much to do is not made to refuse on each of its members.
/// Method: four holders without a place for another request; the days say who was asked.
#[tokio::test(flavor = "multi_thread")]
async fn third_holder_is_not_asked_when_two_are_overloaded() {
    let topology = TopologyBuilder::teams(&[4]).shape(Shape::Star).build();
    let limits = json!({"limits": {"probe_ms": 600_000, "peer_requests": 4}});
    let cluster =
        InProcessCluster::start(ClusterSpec::of(&topology, &fixtures()).with(limits)).await.unwrap();
    let client = cluster.client("A", "overload").unwrap();
    client.query(&partial("CO")).await.expect("the holders are heard of");
    let holders = ["B", "C", "D", "E"].map(|id| &cluster.node(id).state().peer_requests);
    let places = holders.map(|holder| [(); 4].map(|()| holder.try_acquire().expect("nobody asks")));
    let result = client.query(&partial("OZONE")).await.expect("a partial result");
    let asked: Vec<usize> = coverage::missing(&result.ledger).map(|(_, _, nodes)| nodes.len()).collect();
    assert!(!asked.is_empty() && asked.iter().all(|nodes| *nodes == 2), "{asked:?}");
    drop(places);
}

/// Goal: a request that has been at `max_hops` nodes goes no farther, and nobody is blamed for that.
/// Method: a ring of five in which B is down: C can be reached through E and D only, which is a hop too many.
#[tokio::test(flavor = "multi_thread")]
async fn way_with_too_many_hops_is_not_tried() {
    let topology = TopologyBuilder::chain(4).replicas(1).edge(0, 4).build();
    let limits = json!({"limits": {"probe_ms": 600_000, "max_hops": 2}});
    let mut cluster =
        InProcessCluster::start(ClusterSpec::of(&topology, &fixtures()).with(limits)).await.unwrap();
    cluster.crash("B").await.unwrap();
    let client = cluster.client("A", "far").unwrap();
    let result = client.query(&partial("OZONE")).await.expect("a partial result");
    let is_at_c = |nodes: &[String]| nodes.iter().any(|node| node == "C");
    assert!(coverage::missing(&result.ledger).any(|(_, _, nodes)| is_at_c(nodes)), "{:?}", result.ledger);
    for id in ["D", "E"] {
        assert_eq!(cluster.node(id).state().relay.directory().marks(), Default::default(), "{id}");
    }
}

fn partial(parameter: &str) -> Query {
    let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
    Query { allow_partial: true, ..answer::query(&query, Encoding::Json) }
}
