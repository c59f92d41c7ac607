//! The `OverlayNode` contract: what clients of the system that this replaces see, byte for byte and status by status.

use std::time::Duration;

use overlay::admission::{ClientKey, QueryCost};
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::legacy::{
    ChunkRequest, ChunkResponse, MetricsRequest, QueryRequest, QueryResponse, ShutdownRequest,
};
use overlay_harness::answer::assert_equal_rows;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures};
use overlay_harness::dataset::DatasetSpec;
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange, random_query};
use serde_json::{Value, json};
use tonic::transport::Channel;

/// Rows of an answer when the query has no limit of its own.
const DEFAULT_LIMIT: usize = 2000;

struct OldClient(OverlayNodeClient<Channel>);

impl OldClient {
    async fn of(cluster: &InProcessCluster, id: &str) -> Self {
        let address = format!("http://{}", cluster.address(id));
        OldClient(OverlayNodeClient::connect(address).await.unwrap())
    }

    async fn ask(&mut self, query_type: &str, params: &str) -> QueryResponse {
        let request = QueryRequest {
            query_type: query_type.to_owned(),
            query_params: params.to_owned(),
            ..QueryRequest::default()
        };
        self.0.query(request).await.unwrap().into_inner()
    }

    async fn filter(&mut self, params: Value) -> QueryResponse {
        self.ask("filter", &params.to_string()).await
    }

    async fn chunk(&mut self, uid: &str, chunk_index: i32) -> ChunkResponse {
        let request = ChunkRequest { uid: uid.to_owned(), chunk_index };
        self.0.get_chunk(request).await.unwrap().into_inner()
    }

    /// All rows, chunk by chunk in order.
    async fn rows(&mut self, answer: &QueryResponse) -> Vec<Value> {
        assert_eq!(answer.status, "ready");
        let mut rows = Vec::new();
        for index in 0..answer.total_chunks {
            let chunk = self.chunk(&answer.uid, index).await;
            rows.extend(serde_json::from_str::<Vec<Value>>(&chunk.data).unwrap());
        }
        rows
    }
}

fn oracle() -> Oracle {
    Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap()
}

fn expected_rows(oracle: &Oracle, query: &OracleQuery) -> Vec<Value> {
    let limit = query.limit.or(Some(DEFAULT_LIMIT));
    let query = OracleQuery { limit, ..query.clone() };
    oracle.rows(&query).into_iter().map(|row| row.to_legacy_json()).collect()
}

/// Goal: an old client gets the rows, in their order, whatever it asks and however it reads.
/// Method: 200 random filters against the oracle; chunks are read in random order, then again.
#[tokio::test(flavor = "multi_thread")]
async fn random_filters_give_the_oracles_rows() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let oracle = oracle();
    let mut client = OldClient::of(&cluster, "A").await;
    let mut rng = fastrand::Rng::with_seed(0x51f2);
    for number in 0..200 {
        let query = random_query(&mut rng, &oracle);
        let expected = expected_rows(&oracle, &query);
        let query_type = if query.text.is_some() { "search" } else { "filter" };
        let answer = client.ask(query_type, &query.to_string()).await;
        assert_eq!(
            (answer.status.as_str(), answer.total_records),
            ("ready", expected.len() as i64),
            "{query}"
        );
        assert_eq!(answer.hops, ["A"]);
        let mut order: Vec<i32> = (0..answer.total_chunks).collect();
        rng.shuffle(&mut order);
        let mut chunks = vec![Vec::<Value>::new(); order.len()];
        for (reading, index) in order.iter().chain(&order).enumerate() {
            let chunk = client.chunk(&answer.uid, *index).await;
            assert_eq!((chunk.status.as_str(), &chunk.uid), ("success", &answer.uid), "{query}");
            assert_eq!((chunk.chunk_index, chunk.total_chunks), (*index, answer.total_chunks), "{query}");
            assert_eq!(chunk.is_last, *index + 1 == answer.total_chunks, "{query}");
            let rows: Vec<Value> = serde_json::from_str(&chunk.data).unwrap();
            match reading < order.len() {
                true => chunks[*index as usize] = rows,
                false => assert_eq!(chunks[*index as usize], rows, "read again, chunk {index} of {query}"),
            }
        }
        assert_equal_rows(&format!("filter {number}: {query}"), &expected, &chunks.concat());
    }
}

/// Goal: numbers are those of the file, not only nearly: 5.1 never becomes 5.0999999, 5.0 keeps its decimal.
/// Method: all rows of one day; each number's text against the file's, zeros at the end aside.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_written_as_in_the_file() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let answer = client.filter(json!({"date_start": 20200820, "date_end": 20200820})).await;
    let mut texts = Vec::new();
    for index in 0..answer.total_chunks {
        let data = client.chunk(&answer.uid, index).await.data;
        type Row = std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>;
        let rows: Vec<Row> = serde_json::from_str(&data).unwrap();
        texts.extend(rows.iter().map(|row| {
            ["latitude", "longitude", "value", "raw_concentration", "aqi"]
                .map(|name| row[name].get().to_owned())
        }));
    }
    let day = OracleQuery { date_start: Some(20200820), date_end: Some(20200820), ..OracleQuery::default() };
    let oracle = oracle();
    let rows = oracle.rows(&day);
    assert_eq!(texts.len(), rows.len());
    let plain = |text: &str| match text.trim() {
        "" => "-999".to_owned(),
        text if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        text => text.to_owned(),
    };
    for (texts, row) in texts.iter().zip(rows) {
        let in_file = [0, 1, 4, 6, 7].map(|field| plain(row.field(field)));
        assert_eq!(texts.each_ref().map(|text| plain(text)), in_file);
        assert!(texts[2].contains('.') && texts[3].contains('.'), "{texts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_not_the_leader_knows_no_row_of_another_team() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    for (id, other) in [("B", "pink"), ("C", "pink"), ("D", "green"), ("E", "green"), ("F", "green")] {
        let mut client = OldClient::of(&cluster, id).await;
        let answer = client.filter(json!({"team": other})).await;
        assert_eq!((answer.status.as_str(), answer.total_records), ("ready", 0), "{id} about {other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_has_passed_this_node_is_a_loop() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let request = |hops: &[&str]| QueryRequest {
        hops: hops.iter().map(|hop| hop.to_string()).collect(),
        ..QueryRequest::default()
    };
    let looped = client.0.query(request(&["X", "A"])).await.unwrap().into_inner();
    assert_eq!(
        (looped.status.as_str(), looped.hops),
        ("loop_detected", ["X", "A", "A"].map(String::from).to_vec())
    );
    let passed = client.0.query(request(&["X"])).await.unwrap().into_inner();
    assert_eq!((passed.status.as_str(), passed.hops), ("ready", ["X", "A"].map(String::from).to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn query_that_makes_no_sense_says_why() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let oversize = json!({"site": "x".repeat(70_000)}).to_string();
    let cases = [
        ("filter", "{", "not JSON"),
        ("filter", "{\"limit\": 5}}", "not JSON"),
        ("filter", "[]", "must be a JSON object"),
        ("filter", "5", "must be a JSON object"),
        ("filter", "{\"min_value\": 35, \"max_value\": 5}", "min_value"),
        ("filter", "{\"min_value\": \"35.01\", \"max_value\": 35}", "max_value"),
        (
            "filter",
            "{\"min_value\": 5.000000001, \"max_value\": 5}",
            "min_value: `5.000000001` is above max_value `5`",
        ),
        (
            "filter",
            "{\"min_value\": 2e10, \"max_value\": 1e10}",
            "min_value: `2e10` is above max_value `1e10`",
        ),
        ("filter", "{\"min_value\": \"NaN\"}", "min_value"),
        ("filter", "{\"min_value\": NaN}", "not JSON"),
        ("filter", "{\"max_value\": \"inf\"}", "max_value"),
        ("filter", "{\"min_value\": true}", "min_value"),
        ("filter", "{\"lat_min\": \"NaN\"}", "lat_min"),
        ("filter", "{\"lat_min\": 41, \"lat_max\": 40}", "lat_min"),
        ("filter", "{\"lon_max\": 181}", "lon_max"),
        ("filter", "{\"date_start\": \"20200230\"}", "date_start"),
        ("filter", "{\"date_end\": 2020}", "date_end"),
        ("filter", "{\"date_start\": \"2020-08-10\"}", "date_start"),
        ("filter", "{\"date_start\": 20200821, \"date_end\": 20200820}", "date_start"),
        ("filter", "{\"date_start\": 20200810.5}", "date_start"),
        ("filter", "{\"parameter\": {}}", "parameter"),
        ("filter", "{\"limit\": -1}", "limit"),
        ("filter", "{\"limit\": \"-1\"}", "limit"),
        ("filter", "{\"limit\": 1.5}", "limit"),
        ("filter", "{\"limit\": \"many\"}", "limit"),
        ("everything", "{}", "everything"),
        ("FILTER", "{}", "FILTER"),
        ("search", "{}", "text"),
        ("search", "{\"text\": \"\"}", "text"),
        ("aggregate", "{\"of\": \"wind\"}", "wind"),
        ("aggregate", "{\"group_by\": [\"month\"]}", "month"),
        ("aggregate", "{\"group_by\": [\"day\", \"day\"]}", "group_by"),
        ("filter", &oversize, "limits.filter_bytes"),
    ];
    for (query_type, params, why) in cases {
        let answer = client.ask(query_type, params).await;
        let shown: String = params.chars().take(60).collect();
        assert!(
            answer.status.starts_with("invalid_query:") && answer.status.contains(why),
            "{query_type} {shown}: `{}` should say {why}",
            answer.status
        );
        assert_eq!((answer.uid.as_str(), answer.total_chunks, answer.total_records), ("", 0, 0), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_defaults_to_2000_and_larger_ones_are_honoured() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let all = oracle().rows(&OracleQuery::default()).len() as i64;
    assert!(all > 3000, "the fixtures must have more rows than the default limit");
    let cases = [
        ("{}", 2000),
        ("", 2000),
        ("{\"limit\": null}", 2000),
        ("{\"limit\": 0}", 2000),
        ("{\"limit\": \"0\"}", 2000),
        ("{\"limit\": 0.0}", 2000),
        ("{\"limit\": \"\"}", 2000),
        ("{\"limit\": 1}", 1),
        ("{\"limit\": \"17\"}", 17),
        ("{\"limit\": 17.0}", 17),
        ("{\"limit\": 3e3}", 3000),
        ("{\"limit\": 1000000000000}", all),
        ("{\"limit\": 99999999999999999999999}", all),
    ];
    for (params, expected) in cases {
        let answer = client.ask("filter", params).await;
        assert_eq!((answer.status.as_str(), answer.total_records), ("ready", expected), "{params}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_dates_may_be_texts_and_unknown_keys_are_ignored() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let query = OracleQuery {
        parameter: Some("PM2.5".to_owned()),
        min: Some("5".to_owned()),
        max: Some("35".to_owned()),
        date_start: Some(20200818),
        date_end: Some(20200823),
        ..OracleQuery::default()
    };
    let expected = expected_rows(&oracle(), &query);
    assert!(!expected.is_empty());
    let spellings = [
        json!({"parameter": "PM2.5", "min_value": 5, "max_value": 35, "date_start": 20200818.0, "date_end": 20200823}),
        json!({"parameter": "pm2.5", "min_value": "5", "max_value": "35.0", "date_start": "20200818", "date_end": "20200823.0"}),
        json!({"parameter": "Pm2.5", "min_value": 5.0, "max_value": "3.5e1", "date_start": " 20200818 ", "date_end": 20200823,
               "site": null, "agency": "", "team": null, "lat_min": null, "colour": "red", "nested": {"a": [1]}}),
    ];
    for params in spellings {
        for query_type in ["", "filter"] {
            let answer = client.ask(query_type, &params.to_string()).await;
            assert_equal_rows(&params, &expected, &client.rows(&answer).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregate_comes_as_a_json_array_of_groups() {
    use overlay_harness::oracle::{GroupKey, Measure};
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let oracle = oracle();
    for group_by in [json!(["team", "parameter"]), json!("team, parameter")] {
        let params = json!({"of": "aqi", "group_by": group_by, "date_start": 20200818});
        let answer = client.ask("aggregate", &params.to_string()).await;
        let query = OracleQuery { date_start: Some(20200818), ..OracleQuery::default() };
        let expected = oracle.aggregate(&query, Measure::Aqi, &[GroupKey::Team, GroupKey::Parameter]);
        assert_equal_rows(&params, &expected, &client.rows(&answer).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_beyond_either_end_is_out_of_range_and_unknown_uid_is_not_found() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let answer = client.filter(json!({"limit": 1200})).await;
    assert_eq!(answer.total_chunks, 3, "1200 rows in chunks of 500");
    for index in [-1, 3, i32::MIN, i32::MAX] {
        let chunk = client.chunk(&answer.uid, index).await;
        assert_eq!((chunk.status.as_str(), chunk.chunk_index), ("out_of_range", index));
        assert_eq!((chunk.total_chunks, chunk.data.as_str(), chunk.is_last), (3, "", false));
    }
    let mut elsewhere = OldClient::of(&cluster, "B").await;
    let long = "x".repeat(100_000);
    for uid in ["", "nonsense", &long] {
        let chunk = client.chunk(uid, 0).await;
        assert_eq!((chunk.status.as_str(), chunk.data.as_str()), ("not_found", ""));
    }
    assert_eq!(elsewhere.chunk(&answer.uid, 0).await.status, "not_found", "another node's result");
    assert_eq!(client.chunk(&answer.uid, 0).await.status, "success", "untouched by all that");
}

/// Goal: a result that `overlay.v1` gave never reaches an old client in a form that the contract does not know.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_of_a_result_in_another_encoding_is_not_found() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let client = cluster.client("A", "new").unwrap();
    let mut old = OldClient::of(&cluster, "A").await;
    for (encoding, status) in
        [(Encoding::Arrow, "not_found"), (Encoding::Json, "not_found"), (Encoding::JsonLegacy, "success")]
    {
        let result = client.query(&Query { encoding, limit: Some(5), ..Query::default() }).await.unwrap();
        let chunk = old.chunk(&result.uid, 0).await;
        assert_eq!(
            (chunk.status.as_str(), chunk.data.is_empty()),
            (status, status != "success"),
            "{encoding:?}"
        );
    }
    let metrics = client.metrics().await.unwrap();
    let counted = "overlay_chunks_total{outcome=\"not_found\"} 2";
    assert!(metrics.exposition.contains(counted), "{}", metrics.exposition);
}

/// Goal: an old client gets as many rows as its limit allows, however small chunks are configured: it has no way
/// to ask for larger ones. Method: more rows than a result may have chunks, at one row a chunk.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_grow_where_there_would_be_too_many() {
    let root = overlay_harness::scratch::folder().unwrap();
    let two_days = DatasetSpec {
        first_day: 20200820,
        last_day: 20200821,
        sites: 700,
        hours: (0..24).collect(),
        ..DatasetSpec::default()
    };
    let written = two_days.write(&root.path().join("data")).unwrap();
    let chunk_rows = written.rows.div_ceil(65_536);
    assert_eq!(chunk_rows, 2, "{written:?}");
    let spec = ClusterSpec::six_nodes(&root.path().join("data"));
    let one_row = json!({"strategies": {"chunking": "fixed", "chunk_size": 1}});
    let cluster = InProcessCluster::start(spec.with(one_row)).await.unwrap();
    let mut old = OldClient::of(&cluster, "A").await;
    let answer = old.filter(json!({"limit": 1_000_000_000_000i64})).await;
    assert_eq!((answer.status.as_str(), answer.total_records), ("ready", written.rows as i64));
    assert_eq!(answer.total_chunks, written.rows.div_ceil(chunk_rows) as i32);
    let last = old.chunk(&answer.uid, answer.total_chunks - 1).await;
    assert_eq!((last.status.as_str(), last.is_last), ("success", true));
    let client = cluster.client("A", "new").unwrap();
    let result = client.query(&Query::default()).await.unwrap();
    let chunking = result.manifest.chunking.as_ref().unwrap();
    assert_eq!(chunking.chunk_rows, Some(chunk_rows as u32), "what resuming asks for");
    let own = ChunkingChoice { chunk_rows: Some(1), ..ChunkingChoice::default() };
    let refused = client.query(&Query { chunking: own, ..Query::default() }).await.unwrap_err().to_string();
    let says = format!("{} records make more than 65536 chunks", written.rows);
    assert!(refused.contains(&says) && refused.contains("chunk_rows 1"), "{refused}");
}

/// Goal: an answer never becomes larger than clients accept because of what was sent along with the question.
#[tokio::test(flavor = "multi_thread")]
async fn hops_that_are_too_long_or_too_many_are_not_sent_back() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    for (hops, says) in [
        (vec!["x".repeat(5_000_000)], "5000000 bytes, limit 256"),
        (vec!["x".repeat(250); 20_000], "20000 hops, limit 32"),
    ] {
        let answer =
            client.0.query(QueryRequest { hops, ..QueryRequest::default() }).await.unwrap().into_inner();
        assert!(
            answer.status.starts_with("invalid_query:") && answer.status.contains(says),
            "{}",
            answer.status
        );
        assert_eq!(answer.hops, ["A"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_result_has_one_empty_chunk() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    for params in [
        json!({"parameter": "WIND"}),
        json!({"date_start": 20300101}),
        json!({"team": "nobody"}),
        json!({"min_value": 1e12}),
        json!({"min_value": 1e10, "max_value": 2e10}),
        json!({"min_value": "5.0000000001", "max_value": "5.0000000001"}),
        json!({"date_start": 20200811, "date_end": 20200813}),
    ] {
        let answer = client.filter(params.clone()).await;
        let shape = (answer.status.as_str(), answer.total_chunks, answer.total_records);
        assert_eq!(shape, ("ready", 1, 0), "{params}");
        let chunk = client.chunk(&answer.uid, 0).await;
        assert_eq!(
            (chunk.status.as_str(), chunk.data.as_str(), chunk.is_last),
            ("success", "[]", true),
            "{params}"
        );
        assert_eq!(client.chunk(&answer.uid, 1).await.status, "out_of_range", "{params}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn result_whose_lease_ended_is_not_found() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"result_ttl_ms": 200}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let answer = client.filter(json!({"limit": 10})).await;
    assert_eq!(client.chunk(&answer.uid, 0).await.status, "success");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(client.chunk(&answer.uid, 0).await.status, "not_found");
}

/// Goal: a full node refuses at once, and takes queries again when it has room.
/// Method: the test itself holds the only place.
#[tokio::test(flavor = "multi_thread")]
async fn query_is_rejected_when_the_queue_is_full() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1, "queue_length": 0}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let mut client = OldClient::of(&cluster, "A").await;
    let cost = QueryCost {
        client: ClientKey::new("10.0.0.1", "another"),
        request_id: None,
        teams: [("green".into(), 1)].into_iter().collect(),
    };
    let place = cluster.node("A").state().coordinator.admission().admit(cost).await.unwrap();
    let rejected = client.filter(json!({"limit": 5})).await;
    assert_eq!((rejected.status.as_str(), rejected.hops), ("rejected", vec!["A".to_owned()]));
    assert_eq!((rejected.uid.as_str(), rejected.total_chunks), ("", 0));
    let metrics = client.0.get_metrics(MetricsRequest {}).await.unwrap().into_inner();
    assert_eq!((metrics.active_requests, metrics.max_capacity, metrics.queue_size), (1, 1, 0));
    drop(place);
    assert_eq!(client.filter(json!({"limit": 5})).await.status, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_who_the_node_is_and_what_it_holds() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let oracle = oracle();
    let files = |team: &str| {
        let query = OracleQuery { team: Some(team.to_owned()), ..OracleQuery::default() };
        let rows = oracle.rows(&query);
        let files: std::collections::BTreeSet<_> = rows.iter().map(|row| (row.day, &row.file_stem)).collect();
        files.len() as i32
    };
    let leader = ("leader", "green", 0);
    let [green, pink] = ["green", "pink"].map(files);
    for (id, (role, team, files)) in [
        ("A", leader),
        ("B", ("team_leader", "green", green)),
        ("C", ("worker", "green", green)),
        ("D", ("worker", "pink", pink)),
        ("E", ("team_leader", "pink", pink)),
        ("F", ("worker", "pink", pink)),
    ] {
        let mut client = OldClient::of(&cluster, id).await;
        assert_eq!(client.filter(json!({})).await.status, "ready");
        let metrics = client.0.get_metrics(MetricsRequest {}).await.unwrap().into_inner();
        let who = (metrics.process_id.as_str(), metrics.role.as_str(), metrics.team.as_str());
        assert_eq!(who, (id, role, team));
        assert_eq!(metrics.data_files_loaded, files, "{id}");
        assert_eq!((metrics.is_healthy, metrics.active_requests, metrics.queue_size), (true, 0, 0), "{id}");
        assert_eq!(metrics.max_capacity, 100, "{id}");
        assert!(metrics.avg_processing_time_ms > 0.0, "{id}");
    }
}

/// Goal: old scripts poll `GetMetrics` until the node is ready; an answer too early makes them query too early.
/// Method: one of its files is a pipe that nobody has written to yet.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_unavailable_until_the_data_are_loaded() {
    let root = overlay_harness::scratch::folder().unwrap();
    let folder = root.path().join("20200810");
    std::fs::create_dir(&folder).unwrap();
    let pipe = folder.join("20200810-01.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let one = json!({
        "processes": {
            "A": {"id": "A", "role": "leader", "team": "green", "host": "127.0.0.1", "port": 0, "neighbors": ["B"]},
            "B": {"id": "B", "role": "team_leader", "team": "green", "host": "127.0.0.1", "port": 0, "neighbors": ["A"]},
        },
        "teams": [{"name": "green", "first_day": 20200810, "last_day": 20200810}],
    });
    let starting = InProcessCluster::start_loading(ClusterSpec::new(one, root.path())).unwrap();
    let mut client = OldClient::of(&starting, "B").await;
    let refused = client.0.get_metrics(MetricsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let answer = client.filter(json!({})).await;
    assert!(
        answer.status.starts_with("unavailable:") && answer.status.contains("loading"),
        "{}",
        answer.status
    );
    let row = std::fs::read_to_string(fixtures().join("20200810/20200810-01.csv")).unwrap();
    tokio::task::spawn_blocking(move || std::fs::write(pipe, row)).await.unwrap().unwrap();
    starting.ready().await.unwrap();
    let metrics = client.0.get_metrics(MetricsRequest {}).await.unwrap().into_inner();
    assert_eq!((metrics.is_healthy, metrics.data_files_loaded), (true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_says_stopping_and_the_node_ends() {
    let mut cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    for graceful in [true, false] {
        let mut client = OldClient::of(&cluster, "A").await;
        let answer = client.0.shutdown(ShutdownRequest { graceful }).await.unwrap().into_inner();
        assert_eq!(answer.status, "stopping");
        let ended = tokio::time::timeout(Duration::from_secs(5), cluster.finished("A")).await;
        ended.expect("the node should end").unwrap();
        cluster.restart("A").await.unwrap();
    }
}
