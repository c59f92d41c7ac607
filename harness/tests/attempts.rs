//! Attempts: what is asked again, of whom, how often, and that nothing counts twice.

use std::time::Duration;

use overlay::client::{Client, QueryResult};
use overlay::coverage::{self, Outcome};
use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay::proto::v1;
use overlay_harness::answer::{self, assert_equal_rows};
use overlay_harness::cluster::{
    Cluster, ClusterSpec, Driver, InProcessCluster, READY_WITHIN, fixtures, wait_until,
};
use overlay_harness::fault::{Fault, Lie};
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, OracleRow, TeamRange};
use overlay_harness::topology::TopologyBuilder;
use serde_json::{Value, json};

fn oracle() -> Oracle {
    Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap()
}

/// The query that none was like before: the first so many rows of pink's.
fn pink(limit: usize) -> OracleQuery {
    OracleQuery { team: Some("pink".to_owned()), limit: Some(limit), ..OracleQuery::default() }
}

fn json_query(query: &OracleQuery) -> Query {
    answer::query(query, Encoding::Json)
}

async fn all_rows(client: &Client, result: &QueryResult) -> Vec<Value> {
    let mut chunks = Vec::new();
    for index in 0..result.chunk_count() {
        chunks.push(client.chunk(result, index).await.unwrap());
    }
    answer::rows(result, &chunks)
}

/// A counter of the node's.
async fn counter(cluster: &dyn Cluster, node: &str, name: &str) -> u64 {
    let metrics = cluster.client(node, "").unwrap().metrics().await.unwrap();
    let line =
        metrics.exposition.lines().find_map(|line| line.strip_prefix(&format!("overlay_{name}_total ")));
    line.unwrap_or_else(|| panic!("no counter {name}")).parse().unwrap()
}

/// Goal: two holders are asked for the same days at the same time, and no row, count or group is doubled.
/// Method: A learns how fast E is, then E's edge gets slow; queries go on, each answer is held against the oracle.
#[test]
fn hedged_days_count_once() {
    let spec = ClusterSpec::fixtures().with(json!({"strategies": {"hedging": "p95"}}));
    let oracle = oracle();
    let ran = Driver::Simulated { seed: 11 }.run(spec, async |cluster| {
        let client = cluster.client("A", "hedger").unwrap();
        for limit in 1..60 {
            client.query(&json_query(&pink(limit))).await.unwrap();
        }
        let all = OracleQuery { limit: None, ..pink(1) };
        for parameter in ["CO", "NO2", "SO2", "PM10"] {
            let query = OracleQuery { parameter: Some(parameter.to_owned()), ..all.clone() };
            client.query(&json_query(&query)).await.unwrap();
        }
        let hedges_before = counter(cluster, "A", "hedges").await;
        cluster.inject(&Fault::delay("A", "E", Duration::from_millis(400))).await.unwrap();
        for limit in 100..104 {
            let result = client.query(&json_query(&pink(limit))).await.unwrap();
            let expected: Vec<Value> =
                oracle.rows(&pink(limit)).into_iter().map(OracleRow::to_json).collect();
            assert_equal_rows(&limit, &expected, &all_rows(&client, &result).await);
        }
        let keys = [GroupKey::Day, GroupKey::Parameter];
        let groups = Query {
            aggregate: Some(answer::aggregate(Measure::Value, &keys)),
            ..json_query(&OracleQuery { parameter: Some("OZONE".to_owned()), ..all.clone() })
        };
        let result = client.query(&groups).await.unwrap();
        let ozone = OracleQuery { parameter: Some("OZONE".to_owned()), ..all };
        let expected = oracle.aggregate(&ozone, Measure::Value, &keys);
        assert_equal_rows(&"groups", &expected, &all_rows(&client, &result).await);
        counter(cluster, "A", "hedges").await - hedges_before
    });
    assert!(ran.unwrap() > 0, "a hedge was sent");
}

/// Goal: what is asked twice stays below a twentieth, however slow nodes are. Method: all edges of the leader get slow after
/// twenty queries, whose rows are counted; of as many like them afterwards only few may be asked twice.
#[test]
fn hedges_stay_within_their_share() {
    let spec = ClusterSpec::fixtures().with(json!({"strategies": {"hedging": "p95"}}));
    let ran = Driver::Simulated { seed: 12 }.run(spec, async |cluster| {
        let client = cluster.client("A", "hedger").unwrap();
        for limit in 1..60 {
            client.query(&json_query(&pink(limit))).await.unwrap();
        }
        for edge in ["B", "E"] {
            cluster.inject(&Fault::delay("A", edge, Duration::from_millis(100))).await.unwrap();
        }
        for limit in 60..120 {
            client.query(&json_query(&pink(limit))).await.unwrap();
        }
        counter(cluster, "A", "hedges").await
    });
    // Each asks for the first day alone, and its first chunk comes along: 119 first requests.
    let hedges = ran.unwrap();
    assert!((1..=5).contains(&hedges), "{hedges}");
}

/// Goal: a query that may not retry says so, and names the holder that failed.
#[tokio::test(flavor = "multi_thread")]
async fn query_without_retries_fails_with_its_limit() {
    // A neighbour that a busy machine makes late is not to be taken for hanging: nobody asks it again.
    let limits = json!({"limits": {"query_retries": 0, "probe_ms": 600_000, "keepalive_ms": 20_000}});
    let mut cluster = InProcessCluster::start(ClusterSpec::fixtures().with(limits)).await.unwrap();
    let client = cluster.client("A", "once").unwrap();
    for limit in 1..4 {
        client.query(&json_query(&pink(limit))).await.expect("nothing is wrong, and all are known");
    }
    cluster.crash("F").await.unwrap();
    let mut refused = Vec::new();
    for limit in 4..7 {
        if let Err(error) = client.query(&json_query(&pink(limit))).await {
            refused.push(error.to_string());
        }
    }
    // In turn D, E and F are asked; once F has failed it is avoided.
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("tried") && refused[0].contains('F'), "{refused:?}");
    assert!(refused[0].contains("0 retries were made (limits.query_retries)"), "{refused:?}");
}

/// Goal: a neighbour gets no more retries than it may, and whoever asks learns when to come back.
#[tokio::test(flavor = "multi_thread")]
async fn neighbour_without_retries_is_overloaded() {
    // A neighbour that a busy machine makes late is not to be taken for hanging: nobody asks it again.
    let limits = json!({"limits": {"neighbour_retries": 0, "probe_ms": 600_000, "keepalive_ms": 20_000}});
    let mut cluster = InProcessCluster::start(ClusterSpec::fixtures().with(limits)).await.unwrap();
    let client = cluster.client("A", "once").unwrap();
    for limit in 1..4 {
        client.query(&json_query(&pink(limit))).await.expect("nothing is wrong, and all are known");
    }
    cluster.crash("F").await.unwrap();
    let mut refused = Vec::new();
    for limit in 4..7 {
        if let Err(overlay::client::ClientError::Status { status, .. }) =
            client.query(&json_query(&pink(limit))).await
        {
            refused.push(status);
        }
    }
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].code(), tonic::Code::ResourceExhausted);
    assert!(refused[0].message().contains("limit 0 (limits.neighbour_retries)"), "{}", refused[0].message());
    let details = tonic_types::StatusExt::get_details_retry_info(&*refused[0]);
    assert!(details.and_then(|info| info.retry_delay).is_some_and(|delay| delay > Duration::ZERO));
}

/// Goal: no request goes out that cannot be answered in time; the client learns that time was the matter.
/// Method: every way takes 200 ms there and back, E says nothing, and the client allows 450 ms: 270 for the first try.
#[test]
fn nothing_is_retried_without_the_time_for_an_answer() {
    let limits = json!({"limits": {"probe_ms": 600_000, "keepalive_ms": 5_000}});
    let spec = ClusterSpec::fixtures().with(limits);
    let ran = Driver::Simulated { seed: 13 }.run(spec, async |cluster| {
        for edge in ["B", "E"] {
            cluster.inject(&Fault::delay("A", edge, Duration::from_millis(100))).await.unwrap();
        }
        let client = cluster.client("A", "hurried").unwrap();
        for limit in 1..60 {
            client.query(&json_query(&pink(limit))).await.unwrap();
            let green = OracleQuery { team: Some("green".to_owned()), ..pink(limit) };
            client.query(&json_query(&green)).await.unwrap();
        }
        let retries_before = counter(cluster, "A", "retries").await;
        cluster.inject(&Fault::partition("A", "E")).await.unwrap();
        let started = tokio::time::Instant::now();
        let within = Duration::from_millis(450);
        let refused = client
            .clone()
            .with_timeout(within)
            .query(&json_query(&pink(60)))
            .await
            .expect_err("E says nothing");
        let took = started.elapsed();
        let retries = counter(cluster, "A", "retries").await - retries_before;
        (refused.to_string(), took, retries)
    });
    let (refused, took, retries) = ran.unwrap();
    assert_eq!(retries, 0);
    assert!(refused.contains("DeadlineExceeded"), "{refused} {took:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
}

/// Goal: a hundred requests to a host that does not answer take no longer than one. Method: thirty queries at once that all
/// need B, whose connection has ended and which is cut off; with one attempt to connect for each, one after the other, they would take a minute.
#[test]
fn requests_that_wait_for_a_connection_fail_with_it() {
    let topology = TopologyBuilder::chain(2).build();
    let spec = ClusterSpec::of(&topology, &fixtures()).with(json!({"limits": {"probe_ms": 600_000}}));
    let ran = Driver::Simulated { seed: 14 }.run(spec, async |cluster| {
        let client = cluster.client("A", "many").unwrap();
        client.query(&json_query(&OracleQuery::default())).await.unwrap();
        cluster.inject(&Fault::crash("B")).await.unwrap();
        cluster.inject(&Fault::partition("A", "B")).await.unwrap();
        let started = tokio::time::Instant::now();
        let queries: Vec<Query> = (0..30)
            .map(|min| json_query(&OracleQuery { min: Some(min.to_string()), ..OracleQuery::default() }))
            .collect();
        let refused = futures::future::join_all(queries.iter().map(|query| client.query(query))).await;
        let codes = refused.into_iter().map(|refused| match refused {
            Err(overlay::client::ClientError::Status { status, .. }) => status.code(),
            other => panic!("{other:?}"),
        });
        (codes.collect::<Vec<_>>(), started.elapsed())
    });
    let (codes, took) = ran.unwrap();
    assert_eq!(codes, [tonic::Code::Unavailable; 30]);
    // One attempt to connect may take a second.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Goal: a node that fails is suspect first, down when a probe fails too, and up when it answers one.
#[tokio::test(flavor = "multi_thread")]
async fn failed_node_is_suspect_then_down_then_up() {
    let limits = json!({"limits": {"probe_ms": 600_000}});
    let mut cluster = InProcessCluster::start(ClusterSpec::fixtures().with(limits)).await.unwrap();
    let client = cluster.client("A", "doctor").unwrap();
    for limit in 1..4 {
        client.query(&json_query(&pink(limit))).await.unwrap();
    }
    cluster.crash("E").await.unwrap();
    for limit in 4..7 {
        client.query(&json_query(&pink(limit))).await.expect("D and F answer");
    }
    assert_eq!(health(&client, "E").await, "suspect", "nobody has probed it");
    let relay = cluster.node("A").state().relay.clone();
    let probe = async || {
        let client = overlay::admission::ClientKey::new("", "");
        let call = overlay::verb::Call::new(client, tokio::time::Instant::now() + relay.probe_time());
        relay.learn([overlay::config::NodeId::from("E")], &call).await;
    };
    probe().await;
    assert_eq!(health(&client, "E").await, "down");
    cluster.restart("E").await.unwrap();
    let is_up = wait_until(READY_WITHIN, async || {
        probe().await;
        (health(&client, "E").await == "up").then_some(())
    });
    is_up.await.expect("E is up again");
}

async fn health(client: &Client, node: &str) -> String {
    let metrics = client.metrics().await.unwrap();
    let found = metrics.neighbours.into_iter().find(|neighbour: &v1::NeighbourState| neighbour.node == node);
    found.expect("a neighbour").state
}

/// Goal: whoever has an answer of a node that shuts down asks another one from then on, without waiting for a probe.
#[tokio::test(flavor = "multi_thread")]
async fn draining_node_is_avoided_from_its_next_answer_on() {
    let limits = json!({"limits": {"probe_ms": 600_000}});
    let cluster = InProcessCluster::start(ClusterSpec::fixtures().with(limits)).await.unwrap();
    let client = cluster.client("A", "asker").unwrap();
    for limit in 1..4 {
        client.query(&json_query(&pink(limit))).await.unwrap();
    }
    cluster.node("E").state().holder.set_draining();
    for limit in 4..7 {
        client.query(&json_query(&pink(limit))).await.expect("E still answers what is asked of it");
    }
    let marks = cluster.node("A").state().relay.directory().marks();
    assert_eq!(marks.get("E").map(|mark| &*mark.why), Some("shutting down"));
    for limit in 7..10 {
        let result = client.query(&json_query(&pink(limit))).await.unwrap();
        let served = result.ledger.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Served(served) => Some(served.node.clone()),
            _ => None,
        });
        assert!(served.into_iter().all(|node| node != "E"));
        assert_eq!(coverage::missing(&result.ledger).count(), 0);
    }
}

/// Goal: no count goes into a result, or into a group, that is beyond what the inventories say. Method: of the holders of each
/// day one counts more rows than any day has; the answer is the oracle's, and the liar is named.
#[test]
fn count_beyond_the_rows_of_a_day_is_not_believed() {
    let spec = ClusterSpec::fixtures().with(json!({"strategies": {"forwarding": "parallel"}}));
    let oracle = oracle();
    let ran = Driver::Simulated { seed: 12 }.run(spec, async |cluster| {
        let client = cluster.client("A", "c").unwrap();
        cluster.inject(&Fault::lie("C", Lie::TooMany)).await.unwrap();
        let ozone = OracleQuery { parameter: Some("OZONE".to_owned()), ..OracleQuery::default() };
        let result = client.query(&json_query(&ozone)).await.unwrap();
        assert_eq!(result.manifest.total_records as usize, oracle.count(&ozone));
        let mean = Query {
            aggregate: Some(answer::aggregate(Measure::Value, &[GroupKey::Day])),
            ..json_query(&ozone)
        };
        let result = client.query(&mean).await.unwrap();
        let expected = oracle.aggregate(&ozone, Measure::Value, &[GroupKey::Day]);
        assert_equal_rows(&"groups", &expected, &all_rows(&client, &result).await);
        let servers = result.ledger.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Served(served) => Some(served.node.as_str()),
            _ => None,
        });
        assert!(servers.clone().count() > 0 && !servers.into_iter().any(|node| node == "C"));
    });
    ran.unwrap();
}
