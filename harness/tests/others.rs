//! What one client does, or one node fails to do, costs the others nothing.

use std::fs;
use std::time::Duration;

use overlay::admission::{ClientKey, QueryCost, QueryPermit};
use overlay::client::Client;
use overlay::config::Chunking;
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, fixtures, wait_until};
use overlay_harness::oracle::OracleQuery;
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::Code;

/// Takes the only place of a node that runs one query at a time.
async fn take_the_place(cluster: &InProcessCluster) -> QueryPermit {
    let client = ClientKey::new("10.0.0.1", "another");
    let cost = QueryCost { client, request_id: None, teams: [("green".into(), 1)].into_iter().collect() };
    cluster.node("A").state().coordinator.admission().admit(cost).await.unwrap()
}

fn query(parameter: &str) -> Query {
    let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
    answer::query(&query, Encoding::Json)
}

/// Asks in a task, and comes back when `waiting` queries wait in A's queue.
async fn ask(
    cluster: &InProcessCluster,
    id: &str,
    query: Query,
    waiting: usize,
) -> JoinHandle<Result<u64, Code>> {
    let client: Client = cluster.client("A", id).unwrap();
    let asking = tokio::spawn(async move {
        let answered = client.query(&query).await;
        answered.map(|result| result.manifest.total_records).map_err(|error| match error {
            overlay::client::ClientError::Status { status, .. } => status.code(),
            other => panic!("{other}"),
        })
    });
    let waits = || asking.is_finished() || cluster.node("A").state().gauges().waiting_queries == waiting;
    comes_about("it waits", waits).await;
    assert!(!asking.is_finished(), "{id} was to wait");
    asking
}

/// Waits until something is so.
async fn comes_about(what: &str, is_so: impl Fn() -> bool) {
    wait_until(READY_WITHIN, async || is_so().then_some(())).await.expect(what);
}

/// Waits until so many queries of A follow equal ones.
async fn followers(cluster: &InProcessCluster, count: usize) {
    let is_so = || cluster.node("A").state().gauges().following_queries == count;
    comes_about("queries follow equal ones", is_so).await;
}

/// Goal: a client that asks the same as a flooding one is not refused for the flood's long line.
/// Method: the flood has three queries waiting, of which the light client joins the last; when a third client comes,
/// that one is refused. The light client then waits in a line of its own.
#[tokio::test(flavor = "multi_thread")]
async fn follower_of_a_query_that_is_refused_waits_on_its_own() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1, "queue_length": 3}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let place = take_the_place(&cluster).await;
    let first = ask(&cluster, "flood", query("CO"), 1).await;
    let second = ask(&cluster, "flood", query("NO2"), 2).await;
    let third = ask(&cluster, "flood", query("SO2"), 3).await;
    let light = ask(&cluster, "light", query("SO2"), 3).await;
    followers(&cluster, 1).await;
    let other = ask(&cluster, "other", query("PM10"), 3).await;
    assert_eq!(third.await.unwrap(), Err(Code::ResourceExhausted));
    assert_eq!(second.await.unwrap(), Err(Code::ResourceExhausted), "the light one takes its place");
    drop(place);
    assert!(first.await.unwrap().is_ok());
    assert!(light.await.unwrap().is_ok_and(|rows| rows > 0));
    assert!(other.await.unwrap().is_ok());
}

/// Goal: a client with much time is not failed by one with little that asked the same before.
/// Method: the first asker gives up while both wait for a place.
#[tokio::test(flavor = "multi_thread")]
async fn follower_with_more_time_outlives_the_deadline_of_the_first_asker() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    // From here on A knows what every node holds, and plans only once.
    cluster.client("A", "first").unwrap().query(&query("CO")).await.unwrap();
    let place = take_the_place(&cluster).await;
    let raw = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    let ask = |timeout| {
        let mut request =
            tonic::Request::new(v1::QueryRequest { limit: Some(7), ..v1::QueryRequest::default() });
        request.set_timeout(timeout);
        let mut raw = raw.clone();
        tokio::spawn(async move { raw.query(request).await })
    };
    let hurried = ask(Duration::from_secs(1));
    comes_about("it waits", || cluster.node("A").state().gauges().waiting_queries == 1).await;
    let patient = ask(Duration::from_secs(60));
    followers(&cluster, 1).await;
    assert!(hurried.await.unwrap().is_err());
    // The node's clock for that deadline started a moment after the client's; then the run is over for both.
    followers(&cluster, 0).await;
    drop(place);
    let answered = patient.await.unwrap().unwrap().into_inner();
    assert_eq!(answered.manifest.unwrap().total_records, 7);
}

/// Goal: clients in a hurry do not make healthy nodes look dead to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn hurried_clients_mark_no_node() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let relay = cluster.node("A").state().relay.clone();
    let patient = cluster.client("A", "patient").unwrap();
    patient.query(&query("CO")).await.unwrap();
    // Nodes that A asked while they were loading are marked until the next probe.
    comes_about("no node is marked", || relay.directory().marks().is_empty()).await;
    let raw = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    for timeout_ms in [1, 2, 3, 5, 8, 12] {
        for limit in 100..120 {
            let request = v1::QueryRequest { limit: Some(limit), ..v1::QueryRequest::default() };
            let mut request = tonic::Request::new(request);
            request.set_timeout(Duration::from_millis(timeout_ms));
            let _ = raw.clone().query(request).await;
            assert_eq!(relay.directory().marks(), Default::default(), "{timeout_ms} ms, limit {limit}");
        }
    }
}

/// Goal: days that the limit leaves out do not move the chunks' boundaries, so that a result can be resumed while
/// they are out of reach. Method: pink has a site with a long name; A starts anew while pink is down.
#[tokio::test(flavor = "multi_thread")]
async fn boundaries_do_not_depend_on_days_beyond_the_limit() {
    let root = overlay_harness::scratch::folder().unwrap();
    for day in fs::read_dir(fixtures()).unwrap() {
        let day = day.unwrap();
        let copy = root.path().join(day.file_name());
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(day.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    let long = format!(
        "\"40.1\",\"-120.2\",\"2020-09-01T01:00\",\"CO\",\"0.3\",\"PPM\",\"0.3\",\"-999\",\"-999\",\"{}\",\"Agency\",\"060000001\",\"840060000001\"\n",
        "Long Lane ".repeat(40)
    );
    let file = root.path().join("20200901/20200901-01.csv");
    fs::write(&file, fs::read_to_string(&file).unwrap() + &long).unwrap();
    let mut cluster = InProcessCluster::start(ClusterSpec::six_nodes(root.path())).await.unwrap();
    let chunking = ChunkingChoice {
        strategy: Some(Chunking::Fixed),
        chunk_rows: Some(1_000_000),
        chunk_bytes: Some(4096),
    };
    let of_green = OracleQuery { limit: Some(150), ..OracleQuery::default() };
    let limited = Query { chunking, ..answer::query(&of_green, Encoding::Json) };
    let all_up = cluster.client("A", "me").unwrap().query(&limited).await.unwrap();
    for id in ["D", "E", "F"] {
        cluster.stop(id).await.unwrap();
    }
    cluster.restart("A").await.unwrap();
    let pink_down = cluster.client("A", "me").unwrap().query(&limited).await.unwrap();
    assert_eq!(pink_down.manifest, all_up.manifest);
    assert!(all_up.chunk_count() > 5, "{}", all_up.chunk_count());
}
