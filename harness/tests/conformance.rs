//! The same checks on every driver and on several topologies.
//!
//! A body is written once over `&mut dyn Cluster`; a driver that this machine cannot offer is skipped with its
//! reason in the output. What is expected comes from the oracle, whose teams are those of the topology.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use overlay::config::Role;
use overlay::coverage::{self, Outcome};
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay_harness::answer::{self, ask, assert_equal_rows, read_chunks};
use overlay_harness::cluster::{
    Cluster, ClusterError, ClusterSpec, Driver, READY_WITHIN, fixtures, wait_until,
};
use overlay_harness::fault::Fault;
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, OracleRow, random_query};
use overlay_harness::scenario::finds_all;
use overlay_harness::skip::skipped;
use overlay_harness::topology::{Shape, Topology, TopologyBuilder};
use serde_json::{Value, json};
use tonic::Code;

/// How long anything that must come about may take, in the cluster's own time.
const WITHIN: Duration = Duration::from_secs(20);

fn drivers() -> Vec<Driver> {
    let binary = || Path::new(env!("CARGO_BIN_EXE_overlay-node")).to_owned();
    vec![
        Driver::InProcess,
        Driver::Processes { binary: binary() },
        #[cfg(target_os = "linux")]
        Driver::Namespaces { binary: binary() },
        Driver::Simulated { seed: 0x51f2 },
    ]
}

fn topologies() -> Vec<Topology> {
    vec![
        Topology::six_nodes(),
        TopologyBuilder::star(3).build(),
        TopologyBuilder::chain(4).build(),
        TopologyBuilder::diamond().build(),
        TopologyBuilder::tree(2, 2).replicas(2).build(),
        TopologyBuilder::teams(&[3, 1, 2]).shape(Shape::Trees { fan_out: 1 }).build(),
    ]
}

/// Runs a body on every driver that the machine offers, over each of these topologies.
fn on_every_driver(topologies: &[Topology], overrides: Value, body: impl AsyncFn(&mut dyn Cluster)) {
    for driver in drivers() {
        if let Some(why) = driver.unavailable() {
            skipped(format!("driver {driver}"), why);
            continue;
        }
        for topology in topologies {
            eprintln!("{driver}: {topology}");
            let spec = ClusterSpec::of(topology, &fixtures()).with(overrides.clone());
            let ran = driver.run(spec, async |cluster| {
                // A node that started before others avoids them until it has asked them again.
                let (found, leader) = (&*cluster, cluster.topology().leader().to_owned());
                wait_until(READY_WITHIN, async || finds_all(found, &leader).await.then_some(()))
                    .await
                    .unwrap();
                body(cluster).await;
            });
            ran.unwrap();
        }
    }
}

/// Divides the days among all holders, so that each serves some.
fn parallel() -> Value {
    json!({"strategies": {"forwarding": "parallel"}, "limits": {"short_rows": 0}})
}

#[test]
fn scatter_gather_equals_the_oracle() {
    on_every_driver(&topologies(), parallel(), async |cluster| {
        let client = client_of_leader(cluster);
        let oracle = oracle_of(cluster);
        let mut rng = fastrand::Rng::with_seed(0x51f6);
        for number in 0..12 {
            let query = random_query(&mut rng, &oracle);
            let encoding = [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy][number % 3];
            let asked = answer::query(&query, encoding);
            let what = format!("{encoding:?}, query {number}: {query}");
            let (_, rows) = ask(&client, &asked).await.unwrap_or_else(|error| panic!("{what}\n{error}"));
            assert_equal_rows(&what, &expected_rows(&oracle, &query, encoding), &rows);
        }
    });
}

#[test]
fn aggregates_equal_the_oracles() {
    on_every_driver(&topologies(), parallel(), async |cluster| {
        let client = client_of_leader(cluster);
        let oracle = oracle_of(cluster);
        for (measure, keys) in [
            (Measure::Value, vec![GroupKey::Parameter, GroupKey::Team]),
            (Measure::Aqi, vec![GroupKey::Day, GroupKey::Site]),
            (Measure::RawConcentration, vec![]),
        ] {
            let query = OracleQuery { date_start: Some(20200815), ..OracleQuery::default() };
            let aggregate = Some(answer::aggregate(measure, &keys));
            let asked = Query { aggregate, ..answer::query(&query, Encoding::Json) };
            let (_, groups) = ask(&client, &asked).await.unwrap();
            let what = format!("{measure:?} by {keys:?}");
            assert_equal_rows(&what, &oracle.aggregate(&query, measure, &keys), &groups);
        }
    });
}

#[test]
fn chunks_are_read_again_in_any_order() {
    on_every_driver(&topologies(), json!({}), async |cluster| {
        let client = client_of_leader(cluster);
        let result = client.query(&everything_in_chunks_of(300)).await.unwrap();
        let in_order = read_chunks(&client, &result).await.unwrap();
        assert!(in_order.len() > 10, "{} chunks", in_order.len());
        let mut order: Vec<u32> = (0..result.chunk_count()).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut order);
        let again = order.iter().map(|&index| client.chunk(&result, index));
        for chunk in futures::future::try_join_all(again).await.unwrap() {
            assert_eq!(chunk.frames, in_order[chunk.index as usize].frames, "chunk {}", chunk.index);
        }
        let beyond = code_of(client.chunk(&result, result.chunk_count()).await);
        assert_eq!(beyond, Code::OutOfRange);
    });
}

#[test]
fn old_contract_has_its_statuses_on_every_node() {
    on_every_driver(&topologies(), json!({}), async |cluster| {
        let oracle = oracle_of(cluster);
        for id in cluster.ids() {
            let client = cluster.old_client(&id).unwrap();
            let answer = client.query("filter", r#"{"parameter": "co", "limit": "40"}"#).await.unwrap();
            assert_eq!(answer.status, "ready", "{id}");
            let query = OracleQuery {
                parameter: Some("CO".to_owned()),
                limit: Some(40),
                team: team_asked_at(cluster, &id),
                ..OracleQuery::default()
            };
            let mut rows = Vec::new();
            for index in 0..answer.total_chunks {
                let chunk = client.chunk(&answer.uid, index).await.unwrap();
                assert_eq!(
                    (chunk.status.as_str(), chunk.is_last),
                    ("success", index + 1 == answer.total_chunks)
                );
                rows.extend(serde_json::from_str::<Vec<Value>>(&chunk.data).unwrap());
            }
            let expected = expected_rows(&oracle, &query, Encoding::JsonLegacy);
            assert_equal_rows(&format!("40 rows of CO at {id}"), &expected, &rows);
            let status = async |uid: &str, index| client.chunk(uid, index).await.unwrap().status;
            assert_eq!(status(&answer.uid, answer.total_chunks).await, "out_of_range", "{id}");
            assert_eq!(status("no-such-uid", 0).await, "not_found", "{id}");
            let invalid = client.query("filter", r#"{"limit": -1}"#).await.unwrap();
            assert!(invalid.status.starts_with("invalid_query:"), "{id}: {}", invalid.status);
        }
    });
}

/// Goal: a reader does not notice that a node it was reading from is gone.
/// Method: midway through, the last worker that the ledger names for days not yet read is crashed; all bytes are
/// those of a read before. Workers are no relays in these topologies, and the leader keeps no frames.
#[test]
fn read_survives_the_crash_of_a_member() {
    let topologies = [
        Topology::six_nodes(),
        TopologyBuilder::star(4).build(),
        TopologyBuilder::teams(&[3, 2]).edge(2, 5).build(),
    ];
    let overrides = json!({
        "strategies": {"forwarding": "parallel"}, "limits": {"short_rows": 0}, "cache": {"chunk_bytes": 0},
    });
    on_every_driver(&topologies, overrides, async |cluster| {
        let client = client_of_leader(cluster);
        let result = client.query(&everything_in_chunks_of(150)).await.unwrap();
        let undisturbed = bytes(&read_chunks(&client, &result).await.unwrap());
        let midway = result.chunk_count() * 2 / 3;
        let mut chunks = Vec::new();
        for index in 0..midway {
            chunks.push(client.chunk(&result, index).await.unwrap());
        }
        let topology = cluster.topology();
        let is_worker = |id: &String| {
            let mut nodes = topology.nodes.iter();
            nodes.any(|node| node.id == *id && node.role == Role::Worker)
        };
        let days = (midway + 1..result.chunk_count()).filter_map(|index| result.chunk_days(index)).flatten();
        let worker = days.map(|day| day.counted_by).rfind(is_worker).expect("a worker is to serve");
        cluster.crash(&worker).await.unwrap();
        for index in midway..result.chunk_count() {
            let chunk = client.chunk(&result, index).await;
            chunks.push(chunk.unwrap_or_else(|error| panic!("chunk {index} without {worker}: {error}")));
        }
        let frames = chunks[midway as usize..].iter().flat_map(|chunk| &chunk.frames);
        assert_eq!(frames.filter(|frame| *frame.node == *worker).count(), 0, "{worker} is gone");
        let differs = bytes(&chunks).iter().zip(&undisturbed).position(|(found, expected)| found != expected);
        assert_eq!((chunks.len(), differs), (undisturbed.len(), None), "chunks, and the first that differs");
    });
}

/// Goal: a team that nobody can reach fails the query, by days and nodes; with `allow_partial` it is declared.
#[test]
fn team_out_of_reach_is_declared() {
    on_every_driver(&topologies(), json!({}), async |cluster| {
        let client = client_of_leader(cluster);
        let oracle = oracle_of(cluster);
        let topology = cluster.topology();
        let lost = topology.teams.last().unwrap().clone();
        let members: Vec<&str> = topology.members(&lost.name).map(|node| node.id.as_str()).collect();
        for id in &members {
            cluster.crash(id).await.unwrap();
        }
        let all = OracleQuery { parameter: Some("PM10".to_owned()), ..OracleQuery::default() };
        let query = answer::query(&all, Encoding::Json);
        let refused = client.query(&query).await.unwrap_err().to_string();
        assert!(refused.contains("Unavailable"), "{refused}");
        let first_day = lost.first_day.to_string();
        assert!(
            members.iter().copied().chain([first_day.as_str()]).all(|it| refused.contains(it)),
            "{refused}"
        );
        let partial = Query { allow_partial: true, ..query };
        let (result, rows) = ask(&client, &partial).await.unwrap();
        let others: Vec<Value> = expected_rows(&oracle, &all, Encoding::Json);
        let lost_query = OracleQuery { team: Some(lost.name.clone()), ..all.clone() };
        let kept = others.len() - expected_rows(&oracle, &lost_query, Encoding::Json).len();
        assert_equal_rows(&"the other teams", &others[..kept], &rows);
        let missing: BTreeSet<u32> =
            coverage::missing(&result.ledger).map(|(entry, ..)| entry.day.number()).collect();
        let days: BTreeSet<u32> = overlay_harness::calendar::days(lost.first_day, lost.last_day).collect();
        assert_eq!(missing, days);
    });
}

#[test]
fn restarted_node_is_used_again() {
    let topologies = [Topology::six_nodes(), TopologyBuilder::diamond().build()];
    on_every_driver(&topologies, parallel(), async |cluster| {
        let client = client_of_leader(cluster);
        let topology = cluster.topology();
        let worker = topology.nodes.iter().rfind(|node| node.role == Role::Worker).unwrap().id.clone();
        cluster.crash(&worker).await.unwrap();
        let without = client.query(&distinct_query(0)).await.unwrap();
        assert!(!servers(&without).contains(&worker), "{worker} was crashed");
        cluster.restart(&worker).await.unwrap();
        assert!(serves_again(&client, &worker).await, "{worker} was restarted");
    });
}

/// Goal: whatever is wrong, answers are whole and right, and nothing of it stays once it is healed.
/// Method: each fault that the driver can offer, one after the other, at a node whose days others hold as well. Where
/// there are hosts, the nodes are on those of the two-host file: whichever is cut off, the others hold every day.
#[test]
fn faults_do_not_change_answers() {
    let faults = [
        Fault::partition("A", "E"),
        Fault::partition_one_way("E", "A"),
        Fault::partition("E", "F"),
        Fault::delay("A", "E", Duration::from_millis(100)),
        Fault::loss("B", "C", 20),
        Fault::slow("E", 20_000),
        Fault::hang("F"),
        Fault::hang("E"),
        Fault::crash("E"),
    ];
    let mut on_two_hosts: Value =
        serde_json::from_str(include_str!("../../configs/two_hosts_config.json")).unwrap();
    for (key, value) in parallel().as_object().into_iter().flatten() {
        on_two_hosts[key] = value.clone();
    }
    on_every_driver(&[Topology::six_nodes()], on_two_hosts, async |cluster| {
        let client = client_of_leader(cluster);
        let oracle = oracle_of(cluster);
        for (fault, parameter) in
            faults.iter().zip(["CO", "SO2", "NO2", "PM10", "OZONE", "CO", "SO2", "NO2", "PM10"])
        {
            match cluster.inject(fault).await {
                Err(refused @ ClusterError::Unsupported { .. }) => {
                    skipped("a fault", refused);
                    continue;
                }
                injected => injected.unwrap(),
            }
            let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
            let (_, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
            assert_equal_rows(fault, &expected_rows(&oracle, &query, Encoding::Json), &rows);
            cluster.heal(fault).await.unwrap();
            for id in ["C", "E", "F"] {
                assert!(serves_again(&client, id).await, "{id} does not serve after {fault}");
            }
        }
    });
}

#[test]
fn node_that_is_stopped_finishes_and_is_gone() {
    on_every_driver(&[TopologyBuilder::star(2).build()], json!({}), async |cluster| {
        let client = client_of_leader(cluster);
        client.query(&Query::default()).await.unwrap();
        cluster.stop("A").await.unwrap();
        // A new connection is refused; one that closes under a request may end it in other words.
        let newcomer = client_of_leader(cluster);
        assert_eq!(code_of(newcomer.query(&Query::default()).await), Code::Unavailable);
        cluster.restart("A").await.unwrap();
        let asked = wait_until(WITHIN, async || client.query(&Query::default()).await.ok()).await;
        assert_eq!(
            asked.expect("A is back").manifest.total_records,
            oracle_of(cluster).rows(&OracleQuery::default()).len() as u64
        );
    });
}

/// Goal: a node's metrics say what was asked of it. Method: a known number of queries and chunks at the leader.
#[test]
fn metrics_count_what_was_asked() {
    on_every_driver(&topologies(), json!({}), async |cluster| {
        let client = client_of_leader(cluster);
        let result = client.query(&everything_in_chunks_of(2_000)).await.unwrap();
        read_chunks(&client, &result).await.unwrap();
        let metrics = client.metrics().await.unwrap();
        assert_eq!((metrics.role.as_str(), metrics.ready, metrics.rows), ("leader", true, 0));
        assert_eq!((metrics.queries_total, metrics.rejected_total), (1, 0));
        // The query brings the first chunk along, which counts as well.
        assert_eq!(metrics.chunks_total, u64::from(result.chunk_count()) + 1);
        assert_eq!((metrics.active_queries, metrics.waiting_queries, metrics.open_result_sets), (0, 0, 1));
        for line in cluster.dump().await.lines() {
            assert!(line.contains(": ready, 0 waiting, 0 of 100 permits taken"), "{line}");
        }
    });
}

// What the bodies are made of.

fn client_of_leader(cluster: &dyn Cluster) -> Client {
    cluster.client(&cluster.overlay().leader().id, "conformance").unwrap()
}

/// The fixtures' rows as this cluster's teams own them.
fn oracle_of(cluster: &dyn Cluster) -> Oracle {
    Oracle::read(&fixtures(), &cluster.topology().teams).unwrap()
}

fn expected_rows(oracle: &Oracle, query: &OracleQuery, encoding: Encoding) -> Vec<Value> {
    let json = match encoding {
        Encoding::JsonLegacy => OracleRow::to_legacy_json,
        Encoding::Arrow | Encoding::Json => OracleRow::to_json,
    };
    oracle.rows(query).into_iter().map(json).collect()
}

/// The leader answers for all teams, any other node for its own.
fn team_asked_at(cluster: &dyn Cluster, id: &str) -> Option<String> {
    let process = cluster.overlay().process(id).unwrap();
    (process.role != Role::Leader).then(|| process.team.clone())
}

fn everything_in_chunks_of(chunk_rows: u32) -> Query {
    let chunking = ChunkingChoice { chunk_rows: Some(chunk_rows), ..ChunkingChoice::default() };
    Query { chunking, ..answer::query(&OracleQuery::default(), Encoding::Arrow) }
}

/// Queries that differ, so that no cache answers.
fn distinct_query(number: u32) -> Query {
    let query = OracleQuery { min: Some(format!("0.{number:04}")), ..OracleQuery::default() };
    answer::query(&query, Encoding::Arrow)
}

async fn serves_again(client: &Client, id: &str) -> bool {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let seen = wait_until(WITHIN, async || {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let result = client.query(&distinct_query(number)).await.ok()?;
        servers(&result).contains(id).then_some(())
    });
    seen.await.is_some()
}

/// The nodes that the ledger names.
fn servers(result: &QueryResult) -> BTreeSet<String> {
    let served = |outcome: &Outcome| match outcome {
        Outcome::Served(served) => Some(served.node.clone()),
        _ => None,
    };
    result.ledger.iter().filter_map(|entry| served(&entry.outcome)).collect()
}

/// The payloads of each chunk.
fn bytes(chunks: &[CheckedChunk]) -> Vec<Vec<u8>> {
    let payloads = |chunk: &CheckedChunk| {
        chunk.frames.iter().map(|frame| frame.payload.as_ref()).collect::<Vec<_>>().concat()
    };
    chunks.iter().map(payloads).collect()
}

fn code_of<T>(result: Result<T, ClientError>) -> Code {
    match result {
        Err(ClientError::Status { status, .. }) => status.code(),
        Err(error) => panic!("should have been refused by the node: {error}"),
        Ok(_) => panic!("should have failed"),
    }
}
