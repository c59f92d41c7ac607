//! Arrow Flight: what its own client gets is what the oracle expects and `StreamChunks` gives; each error has its code.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_flight::decode::DecodedPayload;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelStatus, FlightClient, FlightData, FlightDescriptor,
    FlightEndpoint, FlightInfo, RenewFlightEndpointRequest, Ticket,
};
use futures::{StreamExt, TryStreamExt};
use overlay::client::QueryResult;
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay_harness::answer::{self, ask, assert_equal_rows, read_chunks};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, fixtures, wait_until};
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, OracleRow, TeamRange, random_query};
use overlay_harness::scratch;
use prost::Message;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn cluster(overrides: Value) -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures().with(overrides)).await.unwrap()
}

fn oracle() -> Oracle {
    Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap()
}

async fn channel(cluster: &InProcessCluster, node: &str) -> Channel {
    let address = format!("http://{}", cluster.address(node));
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

async fn flights(cluster: &InProcessCluster, node: &str) -> FlightClient {
    FlightClient::new(channel(cluster, node).await)
}

fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("{other}"),
    }
}

async fn get_info(client: &mut FlightClient, command: &Value) -> Result<FlightInfo, Status> {
    client.get_flight_info(FlightDescriptor::new_cmd(command.to_string())).await.map_err(status)
}

fn ticket(endpoint: &FlightEndpoint) -> Ticket {
    endpoint.ticket.clone().unwrap()
}

/// A ticket of the flight with other members.
fn changed(info: &FlightInfo, changes: Value) -> Ticket {
    let mut ticket: Value = serde_json::from_slice(&ticket(&info.endpoint[0]).ticket).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        ticket[key] = value.clone();
    }
    Ticket::new(ticket.to_string())
}

/// The rows of a ticket, or its groups; each day is in the words that come with its rows.
async fn rows(client: &mut FlightClient, ticket: Ticket) -> Result<Vec<Value>, Status> {
    let mut messages = client.do_get(ticket).await.map_err(status)?.into_inner();
    let mut rows = Vec::new();
    while let Some(message) = messages.try_next().await.map_err(status)? {
        if let DecodedPayload::RecordBatch(batch) = &message.payload {
            let told = v1::Frame::decode(message.app_metadata()).unwrap();
            assert_eq!(told.rows as usize, batch.num_rows());
            let day = (told.day != 0).then(|| Day::from_number(told.day.into()).unwrap());
            rows.extend(answer::arrow_rows(batch, day));
        }
    }
    Ok(rows)
}

async fn all_rows(client: &mut FlightClient, info: &FlightInfo) -> Result<Vec<Value>, Status> {
    let mut all = Vec::new();
    for endpoint in &info.endpoint {
        all.extend(rows(client, ticket(endpoint)).await?);
    }
    Ok(all)
}

async fn code(client: &mut FlightClient, ticket: Ticket) -> Code {
    rows(client, ticket).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn with(mut command: Value, more: Value) -> Value {
    command.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    command
}

/// Goal: rows, order and counts are the oracle's, whatever is asked and however it is cut.
#[tokio::test(flavor = "multi_thread")]
async fn random_commands_give_the_oracles_rows() {
    let (oracle, cluster) = (oracle(), cluster(json!({})).await);
    let mut client = flights(&cluster, "A").await;
    let mut rng = fastrand::Rng::with_seed(0xf119);
    for number in 0..60 {
        let query = random_query(&mut rng, &oracle);
        let expected: Vec<Value> = oracle.rows(&query).into_iter().map(OracleRow::to_json).collect();
        let chunk_rows = [None, Some(50), Some(500)][rng.usize(..3)];
        let command = with(query.to_json(), json!({"chunk_rows": chunk_rows}));
        let info = get_info(&mut client, &command).await.unwrap_or_else(|error| panic!("{command}\n{error}"));
        assert_eq!((info.total_records, info.total_bytes, info.ordered), (expected.len() as i64, -1, true));
        let rows = all_rows(&mut client, &info).await.unwrap_or_else(|error| panic!("{command}\n{error}"));
        assert_equal_rows(&format!("query {number}: {command}"), &expected, &rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_aggregates_give_the_oracles_groups() {
    let (oracle, cluster) = (oracle(), cluster(json!({})).await);
    let mut client = flights(&cluster, "A").await;
    let mut rng = fastrand::Rng::with_seed(0xf11a);
    for number in 0..30 {
        let query = random_query(&mut rng, &oracle);
        let mut keys = GroupKey::ALL.to_vec();
        rng.shuffle(&mut keys);
        keys.truncate(rng.usize(..=4));
        let measure = Measure::ALL[rng.usize(..3)];
        let expected = oracle.aggregate(&query, measure, &keys);
        let names: Vec<&str> = keys.iter().map(|key| key.name()).collect();
        let more = json!({"of": measure.name(), "group_by": names, "chunk_rows": 100});
        let command = with(query.to_json(), more);
        let info = get_info(&mut client, &command).await.unwrap_or_else(|error| panic!("{command}\n{error}"));
        let groups = all_rows(&mut client, &info).await.unwrap_or_else(|error| panic!("{command}\n{error}"));
        assert_equal_rows(&format!("aggregate {number}: {command}"), &expected, &groups);
        assert_eq!(info.total_records, expected.len() as i64, "{command}");
    }
}

/// Payloads put together again from the messages of a stream, each with what is told of its frame.
async fn payloads(channel: Channel, ticket: Ticket) -> Vec<(v1::Frame, Vec<u8>)> {
    let stream = FlightServiceClient::new(channel).do_get(ticket).await.unwrap().into_inner();
    let messages: Vec<FlightData> = stream.try_collect().await.unwrap();
    let (mut payloads, mut payload) = (Vec::new(), Vec::new());
    for message in &messages[1..] {
        payload.extend_from_slice(&[0xff; 4]);
        payload.extend_from_slice(&(message.data_header.len() as u32).to_le_bytes());
        payload.extend_from_slice(&message.data_header);
        payload.extend_from_slice(&message.data_body);
        if !message.app_metadata.is_empty() {
            let told = v1::Frame::decode(message.app_metadata.clone()).unwrap();
            payloads.push((told, std::mem::take(&mut payload)));
        }
    }
    assert!(payload.is_empty(), "a frame ends with its rows");
    payloads
}

/// Goal: no byte of a frame is another one than on `overlay.v1`, and what is told of each frame is true.
#[tokio::test(flavor = "multi_thread")]
async fn frames_are_those_that_stream_chunks_gives() {
    let cluster = cluster(json!({})).await;
    let chunking = ChunkingChoice { chunk_rows: Some(300), ..ChunkingChoice::default() };
    let client = cluster.client("A", "reader").unwrap();
    let result = client.query(&Query { chunking, ..Query::default() }).await.unwrap();
    let chunks = read_chunks(&client, &result).await.unwrap();
    let info = get_info(&mut flights(&cluster, "A").await, &json!({"chunk_rows": 300})).await.unwrap();
    assert_eq!(info.schema, result.arrow_schema());
    let mut found = Vec::new();
    for endpoint in &info.endpoint {
        found.extend(payloads(channel(&cluster, "A").await, ticket(endpoint)).await);
    }
    let expected: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.frames).collect();
    assert_eq!(found.len(), expected.len());
    for (frame, (told, payload)) in expected.into_iter().zip(&found) {
        assert!(frame.payload == *payload, "day {:?}, first row {}", frame.day, frame.first_row);
        assert_eq!((told.first_row, told.rows), (frame.first_row, frame.rows));
        assert_eq!(told.digest, frame::digest(payload).0.to_vec());
    }
}

/// Goal: readers in parallel together get each row once, and each ticket gives its rows again.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_cover_the_result_once_in_parallel_and_again() {
    let (oracle, cluster) = (oracle(), cluster(json!({})).await);
    let info = get_info(&mut flights(&cluster, "A").await, &json!({"chunk_rows": 20})).await.unwrap();
    assert_eq!(info.endpoint.len(), 16);
    let expected: Vec<Value> =
        oracle.rows(&OracleQuery::default()).into_iter().map(OracleRow::to_json).collect();
    for _ in 0..2 {
        let reading = info.endpoint.iter().map(async |endpoint| {
            let mut client = flights(&cluster, "A").await;
            rows(&mut client, ticket(endpoint)).await
        });
        let parts = futures::future::try_join_all(reading).await.unwrap();
        let most = parts.iter().map(Vec::len).max().unwrap();
        assert!(most <= expected.len() / 16 + 20, "no reader has much more than its share: {most}");
        assert_equal_rows(&"parallel readers", &expected, &parts.concat());
    }
}

/// Goal: who has a flight can check it as our own client checks an answer.
#[tokio::test(flavor = "multi_thread")]
async fn flight_brings_the_ledger() {
    let cluster = cluster(json!({})).await;
    let query = OracleQuery { parameter: Some("OZONE".to_owned()), ..OracleQuery::default() };
    // Cut alike it is one result, counted once.
    let chunking = ChunkingChoice { chunk_rows: Some(300), ..ChunkingChoice::default() };
    let command = with(query.to_json(), json!({"chunk_rows": 300}));
    let info = get_info(&mut flights(&cluster, "A").await, &command).await.unwrap();
    let reply = v1::QueryReply::decode(info.app_metadata.clone()).unwrap();
    let asked = Query { chunking, ..answer::query(&query, Encoding::Arrow) };
    let told = QueryResult::checked(&cluster.address("A"), &asked, reply).unwrap();
    let (own, _) = ask(&cluster.client("A", "me").unwrap(), &asked).await.unwrap();
    assert_eq!((&told.ledger, told.manifest.total_records as i64), (&own.ledger, info.total_records));
}

#[tokio::test(flavor = "multi_thread")]
async fn result_without_rows_has_its_schema() {
    let cluster = cluster(json!({})).await;
    let mut client = flights(&cluster, "A").await;
    for (command, columns) in [
        (json!({"parameter": "nothing"}), 13),
        (json!({"limit": 0}), 13),
        (json!({"parameter": "nothing", "group_by": "site,day"}), 6),
    ] {
        let info = get_info(&mut client, &command).await.unwrap();
        assert_eq!((info.total_records, info.endpoint.len()), (0, 1), "{command}");
        let mut stream = client.do_get(ticket(&info.endpoint[0])).await.unwrap();
        assert!(stream.next().await.is_none(), "{command}");
        let schema = stream.schema().unwrap().clone();
        assert_eq!(schema.fields().len(), columns, "{command}");
        let alone = client.get_schema(FlightDescriptor::new_cmd(command.to_string())).await.unwrap();
        assert_eq!((&*schema, &info.try_decode_schema().unwrap()), (&alone, &alone), "{command}");
    }
}

/// Goal: what is listed can be asked for, and has the rows that the list says.
#[tokio::test(flavor = "multi_thread")]
async fn listed_flights_are_there() {
    let (oracle, cluster) = (oracle(), cluster(json!({})).await);
    let mut by_day: BTreeMap<String, i64> = BTreeMap::new();
    for row in oracle.rows(&OracleQuery::default()) {
        *by_day.entry(row.to_json()["date"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let mut client = flights(&cluster, "A").await;
    let listed: Vec<FlightInfo> = client.list_flights("").await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed.len(), by_day.len() + 2, "each day with rows, and two teams");
    for flight in &listed {
        let descriptor = flight.flight_descriptor.clone().unwrap();
        let command: Value = serde_json::from_slice(&descriptor.cmd).unwrap();
        let info = client.get_flight_info(descriptor).await.unwrap();
        assert_eq!(info.total_records, flight.total_records, "{command}");
        if command["team"].is_null() {
            assert_eq!(
                Some(&info.total_records),
                by_day.get(&command["date_start"].to_string()),
                "{command}"
            );
        }
    }
    let mut of_a_worker = flights(&cluster, "C").await;
    for (client, criteria) in [(&mut of_a_worker, ""), (&mut client, r#"{"team": "green"}"#)] {
        let listed: Vec<FlightInfo> =
            client.list_flights(criteria).await.unwrap().try_collect().await.unwrap();
        let teams = listed
            .iter()
            .filter(|flight| flight.flight_descriptor.as_ref().unwrap().cmd.starts_with(b"{\"team\""));
        assert_eq!(teams.count(), 1, "{criteria}");
    }
}

fn seconds_from_now(endpoint: &FlightEndpoint) -> f64 {
    let ends = endpoint.expiration_time.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    ends.seconds as f64 + f64::from(ends.nanos) / 1e9 - now
}

#[tokio::test(flavor = "multi_thread")]
async fn flight_can_be_renewed_until_it_is_cancelled() {
    let cluster = cluster(json!({"limits": {"result_ttl_ms": 30_000}})).await;
    let mut client = flights(&cluster, "A").await;
    let info = get_info(&mut client, &json!({"limit": 10, "client_id": "me"})).await.unwrap();
    let endpoint = info.endpoint[0].clone();
    assert!((20.0..=30.5).contains(&seconds_from_now(&endpoint)), "{}", seconds_from_now(&endpoint));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let renewed =
        client.renew_flight_endpoint(RenewFlightEndpointRequest::new(endpoint.clone())).await.unwrap();
    assert!(seconds_from_now(&renewed) > seconds_from_now(&endpoint), "it lasts longer");
    assert_eq!(rows(&mut client, ticket(&renewed)).await.unwrap().len(), 10);
    let cancelled = client.cancel_flight_info(CancelFlightInfoRequest::new(info.clone())).await.unwrap();
    assert_eq!(cancelled.status(), CancelStatus::Cancelled);
    assert_eq!(code(&mut client, ticket(&endpoint)).await, Code::FailedPrecondition);
    let again = client.cancel_flight_info(CancelFlightInfoRequest::new(info)).await.unwrap_err();
    assert_eq!(status(again).code(), Code::FailedPrecondition);
    let names: Vec<String> =
        client.list_actions().await.unwrap().map_ok(|action| action.r#type).try_collect().await.unwrap();
    assert_eq!(names, ["CancelFlightInfo", "RenewFlightEndpoint"]);
}

/// Goal: expired, unknown, out of range and another's are told apart as on `overlay.v1`.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_give_no_rows_say_why() {
    let short = cluster(json!({"limits": {"result_ttl_ms": 50}})).await;
    let mut client = flights(&short, "A").await;
    let info = get_info(&mut client, &json!({"limit": 10})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert_eq!(code(&mut client, ticket(&info.endpoint[0])).await, Code::FailedPrecondition);
    let cluster = cluster(json!({})).await;
    let mut client = flights(&cluster, "A").await;
    let info = get_info(&mut client, &json!({"limit": 10})).await.unwrap();
    let json = cluster.client("A", "").unwrap();
    let json = json.query(&Query { encoding: Encoding::Json, ..Query::default() }).await.unwrap();
    for (changes, expected) in [
        (json!({"uid": "A-0000000000000000-0-0000000000000000"}), Code::NotFound),
        (json!({"uid": json.uid}), Code::NotFound),
        (json!({"client_id": "another"}), Code::NotFound),
        (json!({"end_chunk": 2}), Code::OutOfRange),
        (json!({"end_chunk": 0}), Code::InvalidArgument),
        (json!({"more": 1}), Code::InvalidArgument),
    ] {
        assert_eq!(code(&mut client, changed(&info, changes.clone())).await, expected, "{changes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_commands_are_named() {
    let cluster = cluster(json!({})).await;
    let mut client = flights(&cluster, "A").await;
    for (command, field, why) in [
        ("{", "command", "command is not JSON"),
        ("[]", "command", "must be a JSON object"),
        (r#"{"parametr": "CO"}"#, "command", "unknown key `parametr` (keys: parameter, min_value, max_value"),
        (r#"{"min_value": "x"}"#, "min_value", "x"),
        (r#"{"date_start": 20200901, "date_end": 20200831}"#, "date_start", "is after date_end"),
        (r#"{"group_by": ["week"]}"#, "group_by", "unknown `week` (keys: parameter"),
        (r#"{"limit": 1000000000000}"#, "limit", "limits.max_rows"),
        (r#"{"chunk_rows": 0}"#, "chunk_rows", "at least 1"),
    ] {
        let descriptor = FlightDescriptor::new_cmd(command);
        let refused = client.get_flight_info(descriptor.clone()).await.map_err(status).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{command}: {refused}");
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, field, "{command}");
        assert!(refused.message().contains(why), "{command}: {}", refused.message());
        assert_eq!(status(client.get_schema(descriptor).await.unwrap_err()).code(), Code::InvalidArgument);
    }
    let path = FlightDescriptor::new_path(vec!["green".to_owned()]);
    let refused = status(client.get_flight_info(path).await.unwrap_err());
    assert!(refused.message().contains("the descriptor is no command"), "{refused}");
    let listing = client.list_flights(r#"{"site": "x"}"#).await.map(drop).map_err(status).unwrap_err();
    assert!(listing.message().contains("(keys: date_start, date_end, team)"), "{listing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_unimplemented() {
    let cluster = cluster(json!({})).await;
    let mut client = flights(&cluster, "A").await;
    let mut refused = vec![
        status(client.poll_flight_info(FlightDescriptor::new_cmd("{}")).await.unwrap_err()),
        status(client.do_action(Action::new("Drop", "")).await.map(drop).unwrap_err()),
    ];
    let data = || futures::stream::iter([FlightData::default()]);
    let raw = client.inner_mut();
    refused.push(raw.do_put(data()).await.map(drop).unwrap_err());
    refused.push(raw.do_exchange(data()).await.map(drop).unwrap_err());
    refused.push(raw.handshake(futures::stream::iter([])).await.map(drop).unwrap_err());
    for (refused, says) in
        refused.iter().zip(["polled", "actions: Cancel", "uploaded", "exchanged", "Bearer"])
    {
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains(says), "{refused}");
    }
}

/// Goal: streams of Flight take the same places as `StreamChunks`, and give them back. Method: there is one place, and its
/// client has a window for a part of what comes.
#[tokio::test(flavor = "multi_thread")]
async fn stream_beyond_the_limit_is_resource_exhausted_until_one_is_gone() {
    let cluster = cluster(json!({"limits": {"streams": 1}})).await;
    let mut client = flights(&cluster, "A").await;
    let info = get_info(&mut client, &json!({"client_id": "me", "chunk_rows": 20})).await.unwrap();
    let whole = || {
        let last: Value = serde_json::from_slice(&ticket(info.endpoint.last().unwrap()).ticket).unwrap();
        changed(&info, json!({"end_chunk": last["end_chunk"]}))
    };
    let narrow = Channel::from_shared(format!("http://{}", cluster.address("A"))).unwrap();
    let mut narrow =
        FlightServiceClient::new(narrow.initial_stream_window_size(65_535).connect().await.unwrap());
    let held = narrow.do_get(whole()).await.unwrap().into_inner();
    let refused = rows(&mut client, whole()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_quota_failure().unwrap().violations[0].subject, "limits.streams");
    let own = cluster.client("A", "me").unwrap();
    let result = own.query(&Query::default()).await.unwrap();
    assert!(own.chunks(&result, 0).await.is_err(), "the place is taken for both");
    assert!(client.list_flights("").await.is_err(), "and for lists");
    drop(held);
    let mut read = None;
    wait_until(READY_WITHIN, async || {
        read = rows(&mut client, whole()).await.ok();
        read.is_some().then_some(())
    })
    .await
    .expect("the place is given back");
    assert_eq!(read.unwrap().len() as i64, info.total_records);
}

/// Goal: a day out of reach is an error that names it, or is told where partial results are taken.
#[tokio::test(flavor = "multi_thread")]
async fn flight_is_whole_or_says_what_it_lacks() {
    let mut cluster = cluster(json!({})).await;
    for node in ["D", "E", "F"] {
        cluster.crash(node).await.unwrap();
    }
    let mut client = flights(&cluster, "A").await;
    let refused = get_info(&mut client, &json!({})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.get_details_retry_info().is_some() && refused.get_details_precondition_failure().is_some()
    );
    let info = get_info(&mut client, &json!({"allow_partial": true})).await.unwrap();
    let green = get_info(&mut client, &json!({"team": "green"})).await.unwrap();
    assert_eq!(info.total_records, green.total_records);
    let told = v1::QueryReply::decode(info.app_metadata).unwrap();
    let missing =
        |entry: &&v1::CoverageEntry| matches!(entry.outcome, Some(v1::coverage_entry::Outcome::Missing(_)));
    assert!(told.ledger.iter().filter(missing).all(|entry| entry.team == "pink"));
    let listed: Vec<FlightInfo> = client.list_flights("").await.unwrap().try_collect().await.unwrap();
    assert!(listed.iter().any(|flight| flight.total_records == -1), "rows out of reach are not known");
}

/// Goal: with tokens a client has the role for it, and another client's ticket is good for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn token_decides_who_may_ask_and_whose_tickets_are_read() {
    let folder = scratch::folder().unwrap();
    let file = folder.path().join("tokens.json");
    let token = |name: &str| format!("a-token-of-the-{name}-client");
    let tokens = [("one", "client"), ("other", "client"), ("nodes", "peer")]
        .map(|(name, role)| json!({"name": name, "role": role, "token": token(name)}));
    fs::write(&file, Value::from_iter(tokens).to_string()).unwrap();
    let cluster = cluster(json!({"security": {"tokens": file.display().to_string()}})).await;
    let channel = channel(&cluster, "A").await;
    let with_token = |name: &str| {
        let mut client = FlightClient::new(channel.clone());
        client.add_header("authorization", &format!("Bearer {}", token(name))).unwrap();
        client
    };
    let command = json!({"limit": 3});
    let (mut one, mut other) = (with_token("one"), with_token("other"));
    let info = get_info(&mut one, &command).await.unwrap();
    assert_eq!(rows(&mut one, ticket(&info.endpoint[0])).await.unwrap().len(), 3);
    assert_eq!(code(&mut other, ticket(&info.endpoint[0])).await, Code::NotFound);
    let cancel = other.cancel_flight_info(CancelFlightInfoRequest::new(info.clone())).await.unwrap_err();
    assert_eq!(status(cancel).code(), Code::NotFound);
    for (mut refused, expected) in [
        (with_token("nodes"), Code::PermissionDenied),
        (with_token("unknown"), Code::Unauthenticated),
        (FlightClient::new(channel.clone()), Code::Unauthenticated),
    ] {
        assert_eq!(get_info(&mut refused, &command).await.unwrap_err().code(), expected);
        assert_eq!(code(&mut refused, ticket(&info.endpoint[0])).await, expected);
    }
}
