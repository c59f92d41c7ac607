//! What a user's own mistakes are answered with: in a query of either contract, in a row of a file, in a
//! configuration.
//!
//! Check that each message names the field and what it holds, and what it may hold. What a row or a file looks
//! like stands above its message.

use std::fmt::Write;
use std::path::Path;

use insta::assert_snapshot;
use overlay::config::Overlay;
use overlay::day::Day;
use overlay::load::{self, LoadOptions, RejectedRow};
use overlay::proto::legacy::overlay_node_client::OverlayNodeClient;
use overlay::proto::legacy::{ChunkRequest, QueryRequest as OldRequest};
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay_harness::cluster::{ClusterSpec, InProcessCluster, READY_WITHIN, wait_until};
use overlay_harness::snapshot::Redactions;
use overlay_harness::topology::Topology;
use serde_json::{Value, json};

/// A change to a request that was good.
type Change = fn(&mut v1::QueryRequest);

fn filter(request: &mut v1::QueryRequest) -> &mut v1::Predicate {
    request.predicate.get_or_insert_default()
}

/// Each field of `overlay.v1.QueryRequest` that can be wrong, with the code and the message that it gets.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_overlay_v1() {
    let _redacted = Redactions::new().bind();
    let changes: [(&str, Change); 24] = [
        ("predicate.min_value `x`", |it| filter(it).min_value = Some("x".to_owned())),
        ("predicate.max_value ``", |it| filter(it).max_value = Some(String::new())),
        ("min_value 35, max_value 5", |it| {
            filter(it).min_value = Some("35".to_owned());
            filter(it).max_value = Some("5".to_owned());
        }),
        ("predicate of 70,000 bytes", |it| filter(it).site = Some("x".repeat(70_000))),
        ("predicate.lat_min NaN", |it| filter(it).lat_min = Some(f64::NAN)),
        ("predicate.lat_max 90.5", |it| filter(it).lat_max = Some(90.5)),
        ("predicate.lon_min -180.5", |it| filter(it).lon_min = Some(-180.5)),
        ("lon_min 10, lon_max -10", |it| {
            filter(it).lon_min = Some(10.0);
            filter(it).lon_max = Some(-10.0);
        }),
        ("date_start 20200231", |it| it.date_start = Some(20200231)),
        ("date_start 20200820, date_end 20200810", |it| {
            (it.date_start, it.date_end) = (Some(20200820), Some(20200810));
        }),
        ("limit 1,000,000,000,000", |it| it.limit = Some(1_000_000_000_000)),
        ("aggregate.of 9", |it| it.aggregate = Some(v1::Aggregate { of: 9, group_by: Vec::new() })),
        ("aggregate.group_by [0]", |it| it.aggregate = Some(v1::Aggregate { of: 0, group_by: vec![0] })),
        ("aggregate.group_by [4, 1, 4]", |it| {
            it.aggregate = Some(v1::Aggregate { of: 0, group_by: vec![4, 1, 4] });
        }),
        ("encoding 9", |it| it.encoding = 9),
        ("chunking.strategy 9", |it| it.chunking.get_or_insert_default().strategy = 9),
        ("chunking.chunk_rows 0", |it| it.chunking.get_or_insert_default().chunk_rows = Some(0)),
        ("chunking.chunk_bytes 4,194,304", |it| {
            it.chunking.get_or_insert_default().chunk_bytes = Some(4 << 20);
        }),
        ("request_id of 300 bytes", |it| it.request_id = "x".repeat(300)),
        ("client_id of 300 bytes", |it| it.client_id = "x".repeat(300)),
        ("expected_versions of 3 bytes", |it| {
            it.expected_versions = vec![v1::DayVersion { day: 20200820, version: vec![1, 2, 3] }];
        }),
        ("expected_versions that no holder has", |it| {
            it.expected_versions = vec![v1::DayVersion { day: 20200820, version: vec![0; 16] }];
        }),
        ("hops [A]", |it| it.hops = vec!["A".to_owned()]),
        ("33 hops", |it| it.hops = vec!["X".to_owned(); 33]),
    ];
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    // Nodes that are ready may not have found each other yet, and one holder of a day is enough for its rows.
    let whole = wait_until(READY_WITHIN, async || {
        client.clone().query(v1::QueryRequest::default()).await.ok()?;
        cluster.node("A").state().relay.directory().marks().is_empty().then_some(())
    });
    whole.await.expect("all nodes are well");
    let mut table = String::new();
    for (what, change) in changes {
        let mut request = v1::QueryRequest::default();
        change(&mut request);
        let status = client.query(request).await.map(|_| ()).expect_err(what);
        writeln!(table, "{what}\n  {:?}: {}\n", status.code(), status.message()).unwrap();
    }
    assert_snapshot!("requests_of_overlay_v1", table);
}

/// Each way to get another status than `ready` by what one asks of `OverlayNode`; and what does not matter to it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_old_contract() {
    let _redacted = Redactions::new().bind();
    let bad: [(&str, &str); 26] = [
        ("delete", "{}"),
        ("filter", "{"),
        ("filter", "[]"),
        ("filter", "7"),
        ("filter", r#"{"parameter": true}"#),
        ("filter", r#"{"min_value": "many"}"#),
        ("filter", r#"{"min_value": [5]}"#),
        ("filter", r#"{"min_value": 35, "max_value": 5}"#),
        ("filter", r#"{"lat_min": "north"}"#),
        ("filter", r#"{"lat_max": 90.5}"#),
        ("filter", r#"{"lon_min": 10, "lon_max": -10}"#),
        ("filter", r#"{"date_start": 20200231}"#),
        ("filter", r#"{"date_start": "2020-08-10"}"#),
        ("filter", r#"{"date_start": 20200820, "date_end": 20200810}"#),
        ("filter", r#"{"limit": -1}"#),
        ("filter", r#"{"limit": 1.5}"#),
        ("filter", r#"{"limit": "all"}"#),
        ("search", "{}"),
        ("aggregate", r#"{"of": "humidity"}"#),
        ("aggregate", r#"{"group_by": "planet"}"#),
        ("aggregate", r#"{"group_by": 7}"#),
        ("aggregate", r#"{"group_by": ["day", "day"]}"#),
        // These are taken.
        ("", ""),
        ("filter", r#"{"parameter": "pm2.5", "min_value": "5", "date_start": "20200820", "limit": null}"#),
        ("filter", r#"{"parameter": "UNKNOWN"}"#),
        ("filter", r#"{"colour": "blue", "limit": 3}"#),
    ];
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let mut client = OverlayNodeClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    let mut table = String::new();
    for (query_type, params) in bad {
        let (query_type, query_params) = (query_type.to_owned(), params.to_owned());
        let request = OldRequest { query_type, query_params, ..OldRequest::default() };
        push_old(&mut table, &mut client, &request, &format!("{:?} {params}", request.query_type)).await;
    }
    let long = format!(r#"{{"site": "{}"}}"#, "x".repeat(70_000));
    let asked = |hops: &[&str], client_id: &str, query_params: &str| OldRequest {
        hops: hops.iter().map(|hop| (*hop).to_owned()).collect(),
        client_id: client_id.to_owned(),
        query_params: query_params.to_owned(),
        ..OldRequest::default()
    };
    push_old(&mut table, &mut client, &asked(&["A"], "", ""), "hops [A]").await;
    push_old(&mut table, &mut client, &asked(&["X"; 33], "", ""), "33 hops").await;
    push_old(&mut table, &mut client, &asked(&[], &"x".repeat(300), ""), "client_id of 300 bytes").await;
    push_old(&mut table, &mut client, &asked(&[], "", &long), "query_params of 70,012 bytes").await;
    for chunk_index in [-1, 0] {
        let request = ChunkRequest { uid: "none".to_owned(), chunk_index };
        let chunk = client.get_chunk(request).await.unwrap().into_inner();
        writeln!(table, "GetChunk {chunk_index} of `none`\n  {}\n", chunk.status).unwrap();
    }
    assert_snapshot!("requests_of_the_old_contract", table);
}

async fn push_old(
    table: &mut String,
    client: &mut OverlayNodeClient<tonic::transport::Channel>,
    request: &OldRequest,
    what: &str,
) {
    let answer = client.query(request.clone()).await.unwrap().into_inner();
    let rows = match answer.status.as_str() {
        "ready" => format!(", total_records {}", answer.total_records),
        _ => String::new(),
    };
    writeln!(table, "{what}\n  {}{rows}\n", answer.status).unwrap();
}

/// Each reason why a row of a file is not loaded, below the row as it stands in the file.
#[test]
fn rows_of_a_file() {
    let _redacted = Redactions::new().bind();
    let fields = [
        "44.1",
        "-123.4",
        "2020-08-10T01:00",
        "PM2.5",
        "8.1",
        "UG/M3",
        "7.2",
        "34",
        "1",
        "Site",
        "Agency",
        "410070003",
        "840410070003",
    ];
    let with = |index: usize, text: &str| {
        let mut fields = fields;
        fields[index] = text;
        fields.join(",")
    };
    let long = "x".repeat(1025);
    let rows = [
        fields[..12].join(","),
        fields.join(",") + ",more",
        with(9, "\"Site\" 2"),
        with(0, "north"),
        with(0, "90.5"),
        with(1, "-180.5"),
        with(2, "2020-08-10 01:00"),
        with(2, "2020-08-10T24:00"),
        with(2, "2020-08-11T00:00"),
        with(3, ""),
        with(3, &long),
        with(4, "8;1"),
        with(4, "1e12"),
        with(5, " "),
        with(6, "7.2.1"),
        with(7, "34.5"),
        with(7, "-1"),
        with(8, "7"),
        with(10, &long),
        with(9, "\"open"),
        format!("{},", fields[..12].join(",")),
    ];
    let mut table = String::new();
    for row in rows {
        let reason = rejected(&row).pop().unwrap_or_else(|| panic!("was not rejected: {row}"));
        writeln!(table, "{}\n  {reason}\n", row.replace(&long, "x (1025 times)")).unwrap();
    }
    let parameters: Vec<String> = (1..=256).map(|number| with(3, &format!("P{number}"))).collect();
    writeln!(table, "P1 to P256\n  {}", rejected(&parameters.join("\n")).join("\n  ")).unwrap();
    assert_snapshot!("rows_of_a_file", table);
}

/// Loads a file with this text, and gives what was rejected.
fn rejected(text: &str) -> Vec<String> {
    let root = overlay_harness::scratch::folder().unwrap();
    std::fs::create_dir(root.path().join("20200810")).unwrap();
    std::fs::write(root.path().join("20200810/20200810-01.csv"), text).unwrap();
    let days = [Day::from_number(20200810).unwrap()].into();
    let loaded = load::load(root.path(), &days, &LoadOptions::default(), &|_| {}).unwrap();
    let relative = |row: &RejectedRow| {
        let file = row.file.strip_prefix(root.path()).unwrap().to_owned();
        RejectedRow { file, ..row.clone() }.to_string()
    };
    loaded.rejected.iter().map(relative).collect()
}

/// Each mistake in a configuration: what is changed in that of the six nodes (null takes a key away), and the
/// problems that `check-config` and every node name. Warnings keep nobody from starting.
#[test]
fn configurations() {
    let _redacted = Redactions::new().bind();
    let team = |name: &str, first_day: u32, last_day: u32| json!({"name": name, "first_day": first_day, "last_day": last_day});
    let (green, pink) = (team("green", 20200810, 20200820), team("pink", 20200821, 20200924));
    let process = |id: &str, change: Value| json!({"processes": {id: change}});
    let changes = [
        json!({"processes": null}),
        json!({"processes": []}),
        json!({"processes": {"F": 7}}),
        json!({"processes": {"E": null}}),
        json!({"verbose": true}),
        json!({"replicas": 0}),
        json!({"replicas": 3}),
        json!({"dataset_root": 7}),
        json!({"clients": {"x": 0, "y": "1"}}),
        json!({"limits": {"chunk_bytes": 16_777_216, "max_hops": 2.5, "max_actve": 1, "queue_length": -1}}),
        json!({"limits": {"max_hops": 1}}),
        json!({"limits": {"result_max_age_ms": 1000}}),
        json!({"limits": {"message_bytes": 4096}}),
        json!({"cache": {"result_bytes": "1 MiB"}}),
        json!({"strategies": {"forwarding": "random", "chunking": "huge", "fairness": "none", "profile": "fast"}}),
        json!({"strategies": {"chunk_size": 0, "window": 3}}),
        json!({"teams": {}}),
        json!({"teams": []}),
        json!({"teams": [green, team("green", 20200821, 20200924)]}),
        json!({"teams": [green, team("pink", 20200820, 20200924)]}),
        json!({"teams": [green, team("pink", 20200924, 20200821)]}),
        json!({"teams": [green, team("pink", 20200821, 20200931)]}),
        json!({"teams": [green, {"name": "pink", "first_day": "10000101", "last_day": "99991231"}]}),
        json!({"teams": [green, pink, team("blue", 20201001, 20201002)]}),
        json!({"teams": [green, {"name": "pink ink", "first_day": true}]}),
        process("A", json!({"id": "Z"})),
        process("A", json!({"role": "worker"})),
        process("C", json!({"role": "leader"})),
        process("B", json!({"role": "boss"})),
        json!({"processes": {"B": {"role": "boss"}, "C": {"role": "leader"}}}),
        process("E", json!({"role": "worker"})),
        process("C", json!({"team": "blue"})),
        process("C", json!({"team": ""})),
        process("C", json!({"host": "my host"})),
        process("C", json!({"host": null})),
        process("C", json!({"port": 0})),
        process("C", json!({"port": "60053"})),
        process("C", json!({"port": 60052})),
        process("C", json!({"weight": -1})),
        process("C", json!({"weight": "heavy"})),
        process("C", json!({"neighbours": []})),
        process("C", json!({"neighbors": ["B", "X", "C"]})),
        process("C", json!({"neighbors": ["B", "B", "F"]})),
        process("B", json!({"neighbors": ["A", "D", 7]})),
        json!({"processes": {"B": {"neighbors": ["A", "D"]}, "C": {"neighbors": []}}}),
    ];
    let mut table = String::new();
    for change in changes {
        let mut file = six_nodes();
        merge(&mut file, &change);
        push_parsed(&mut table, &change.to_string(), &file.to_string());
    }
    assert_snapshot!("configurations", table);
}

/// What is no JSON, or says a thing twice, and a file that is not there.
#[test]
fn files_of_configurations() {
    let _redacted = Redactions::new().bind();
    let mut table = String::new();
    for text in ["", "{", "{\n  \"processes\": {,}\n}", "7", r#"{"replicas": 1, "replicas": 2}"#] {
        push_parsed(&mut table, text, text);
    }
    push_parsed(&mut table, "[ (1000 times)", &"[".repeat(1000));
    let absent = Overlay::read(Path::new("configs/absent.json")).unwrap_err();
    writeln!(table, "a file that is not there\n  {absent}\n").unwrap();
    assert_snapshot!("files_of_configurations", table);
}

/// The default topology on the ports of the bundled one-host configuration.
fn six_nodes() -> Value {
    let mut file = Topology::six_nodes().to_json();
    // As the old files have it, so that the default teams show.
    file.as_object_mut().expect("a configuration").remove("teams");
    for (port, process) in (60051..).zip(file["processes"].as_object_mut().unwrap().values_mut()) {
        process["port"] = json!(port);
    }
    file
}

/// Changes key by key; null takes the key away.
fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, change) in change {
                match change {
                    Value::Null => drop(into.remove(key)),
                    change => merge(into.entry(key).or_insert(Value::Null), change),
                }
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn push_parsed(table: &mut String, what: &str, text: &str) {
    writeln!(table, "{what}").unwrap();
    match Overlay::parse(text, "six.json") {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                writeln!(table, "  warning: {warning}").unwrap();
            }
            assert!(!parsed.warnings.is_empty(), "nothing is wrong with {what}");
        }
        Err(problems) => {
            for problem in &problems.0 {
                writeln!(table, "  {problem}").unwrap();
            }
        }
    }
    table.push('\n');
}
