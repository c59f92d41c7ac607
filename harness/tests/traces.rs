//! One trace over all hops: what a collector gets of queries, and what nobody gets while traces are off.
#![cfg(unix)]

#[path = "traces/collector.rs"]
mod collector;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_service_client::FlightServiceClient;
use overlay::config::Overlay;
use overlay::connections;
use overlay::node::{Node, Setup};
use overlay::outside::{Outside, incoming_tcp};
use overlay::proto::{legacy, v1};
use overlay_harness::cluster::{ClusterSpec, ProcessCluster, READY_WITHIN, wait_until};
use overlay_harness::scratch;
use overlay_harness::topology::Topology;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{IntoRequest, Status};
use tower::Service;

use collector::{Collector, Trace};

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

const TOKEN: &str = "a-token-of-one-client";
const PEER_TOKEN: &str = "a-token-of-the-nodes";

/// The span of a caller.
const CALLER: &str = "00f067aa0ba902b7";

/// Variables of the environment that make a process export to a collector, soon.
fn exporting(endpoint: &str) -> [(&'static str, String); 2] {
    [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()), ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned())]
}

/// Runs the command, which exports if there is an endpoint.
fn overlay(arguments: &[&str], endpoint: Option<&str>) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command.envs(endpoint.map(exporting).into_iter().flatten());
    command.output().unwrap()
}

/// Six processes that export, each day on one of them, where tokens are asked for.
fn exporting_nodes(endpoint: &str, folder: &Path) -> ProcessCluster {
    let entry = |name, role, token| json!({"name": name, "role": role, "token": token});
    let tokens = json!([entry("one", "client", TOKEN), entry("nodes", "peer", PEER_TOKEN)]);
    fs::write(folder.join("tokens.json"), tokens.to_string()).unwrap();
    fs::write(folder.join("token"), TOKEN).unwrap();
    let security = json!({"tokens": folder.join("tokens.json")});
    let mut spec = ClusterSpec::fixtures().with(json!({"replicas": 1, "security": security}));
    for (name, value) in exporting(endpoint) {
        spec = spec.with_environment(name, &value);
    }
    ProcessCluster::start(BINARY, spec).unwrap()
}

/// A trace once all of it has come: its spans hang together below `root`, and are what `is_whole` wants.
async fn whole_trace(
    collector: &Collector,
    trace_id: &str,
    root: &str,
    is_whole: impl Fn(&Trace) -> bool,
) -> Trace {
    let look = async || {
        let trace = collector.trace(trace_id);
        (is_whole(&trace) && trace.strays(root).is_empty()).then_some(trace)
    };
    let found = wait_until(READY_WITHIN, look).await;
    found.unwrap_or_else(|| panic!("the trace is not whole:\n{}", collector.trace(trace_id)))
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Goal: a query of the command is one trace, from the command to whoever scanned, without a gap, and says nothing secret.
#[tokio::test(flavor = "multi_thread")]
async fn query_is_one_trace_over_client_and_nodes() {
    let (collector, folder) = (Collector::start().await, scratch::folder().unwrap());
    let six = exporting_nodes(&collector.endpoint, folder.path());
    let (leader, path) = (six.address("A"), |name: &str| folder.path().join(name).display().to_string());
    let (proof, token) = (path("proof.json"), path("token"));
    let words = ["query", "PM2.5", "--leader", &leader, "--token-file", &token, "--proof", &proof];
    let asked = overlay(&words, Some(&collector.endpoint));
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let root = collector.spans().into_iter().find(|span| span.name == "overlay query").unwrap();
    let proof: Value = serde_json::from_str(&fs::read_to_string(proof).unwrap()).unwrap();
    let (served, uid) = (served_by(&proof), proof["uid"].as_str().unwrap().to_owned());
    assert!(served.len() > 4, "each day has one holder: {served:?}");
    let trace = whole_trace(&collector, &root.trace_id, "", |trace| {
        let has_ended = |node: &String| trace.nodes_with("overlay.v1.Peer/Count").contains(node);
        trace.nodes_with("transfer").len() > served.len() && served.iter().all(has_ended)
    })
    .await;

    let ids: BTreeSet<String> = collector.spans().into_iter().map(|span| span.trace_id).collect();
    assert_eq!(ids.len(), 1, "probes of nodes and their requests for metrics are in no trace");
    assert_eq!(trace.0.iter().filter(|span| span.parent_id.is_empty()).count(), 1, "{trace}");
    assert!(trace.0.iter().all(|span| span.service == "overlay"));
    assert_eq!(trace.nodes_with("overlay query"), set(&[""]));
    assert_eq!(trace.nodes_with("overlay.v1.Overlay/Query"), set(&["", "A"]));
    assert_eq!(trace.nodes_with("admission wait"), set(&["A"]));
    assert_eq!(trace.nodes_with("plan"), set(&["A"]));
    for step in ["queue wait", "scan"] {
        assert_eq!(trace.nodes_with(step), served, "{step}:\n{trace}");
    }
    assert!(!trace.nodes_with("encode").is_empty() && trace.nodes_with("encode").is_subset(&served));
    assert!(served.is_subset(&trace.nodes_with("transfer")), "{trace}");
    for name in
        ["plan", "admission wait", "queue wait", "scan", "encode", "transfer", "overlay.v1.Peer/Count"]
    {
        for span in trace.named(name) {
            let parent = trace.parent(span).unwrap();
            let is_within = parent.start_ns <= span.start_ns && span.end_ns <= parent.end_ns;
            assert!(is_within, "{} {name} within {}:\n{trace}", span.node, parent.name);
        }
    }
    let query = trace.named("overlay.v1.Overlay/Query").find(|span| span.node == "A").unwrap();
    let of = |name: &str| query.attributes.get(name).map(String::as_str);
    let said =
        [of("rpc.response.status_code"), of("overlay.kind"), of("overlay.cached"), of("overlay.outcome")];
    assert_eq!(said, ["OK", "rows", "false", "ready"].map(Some));
    assert!(of("overlay.rows").is_some() && of("overlay.chunks").is_some());
    for span in collector.spans() {
        for (name, value) in &span.attributes {
            let is_private = |word: &&str| value.contains(*word);
            assert!(!["a-token", "PM2.5", &uid].iter().any(is_private), "{} {name}={value}", span.name);
        }
    }
}

/// The nodes that a proof names as holders of rows.
fn served_by(proof: &Value) -> BTreeSet<String> {
    let entries = proof["ledger"].as_array().unwrap();
    entries.iter().filter_map(|entry| Some(entry["node"].as_str()?.to_owned())).collect()
}

/// Goal: whoever asks, by whatever contract, finds the overlay's spans in his own trace.
#[tokio::test(flavor = "multi_thread")]
async fn trace_of_a_caller_goes_on_by_every_contract() {
    let (collector, folder) = (Collector::start().await, scratch::folder().unwrap());
    let six = exporting_nodes(&collector.endpoint, folder.path());
    let address = six.address("A");
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let trace_id = |number: u32| format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}");
    let parent = |number: u32| format!("00-{}-{CALLER}-01", trace_id(number));

    let mut node = v1::overlay_client::OverlayClient::new(channel.clone());
    node.query(headed(query("PM2.5"), &parent(1))).await.unwrap();
    let mut old = legacy::overlay_node_client::OverlayNodeClient::new(channel.clone());
    let query_params = json!({"parameter": "OZONE"}).to_string();
    let asked = legacy::QueryRequest { query_params, ..legacy::QueryRequest::default() };
    old.query(headed(asked, &parent(2))).await.unwrap();
    let mut flights = FlightServiceClient::new(channel);
    let command = FlightDescriptor::new_cmd(json!({"parameter": "PM10"}).to_string());
    let flight = flights.get_flight_info(headed(command, &parent(3))).await.unwrap().into_inner();
    let ticket = flight.endpoint[0].ticket.clone().unwrap();
    let mut rows = flights.do_get(headed(ticket, &parent(4))).await.unwrap().into_inner();
    while rows.message().await.unwrap().is_some() {}
    let path = "/api/v1/query?parameter=NO2";
    let answer = get(&address, path, &format!("traceparent: {}\r\n", parent(5))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let names = [
        "overlay.v1.Overlay/Query",
        "OverlayNode/Query",
        "arrow.flight.protocol.FlightService/GetFlightInfo",
        "arrow.flight.protocol.FlightService/DoGet",
        "GET /api/v1/query",
    ];
    for (number, name) in (1..).zip(names) {
        let whole = |trace: &Trace| {
            let mut named = trace.named(name);
            named.any(|span| span.parent_id == CALLER)
                && trace.0.iter().any(|span| span.name == "encode" || span.name == "scan")
        };
        let trace = whole_trace(&collector, &trace_id(number), CALLER, whole).await;
        assert_eq!(trace.nodes_with(name), set(&["A"]), "{trace}");
    }
}

fn query(parameter: &str) -> v1::QueryRequest {
    let predicate = v1::Predicate { parameter: Some(parameter.to_owned()), ..v1::Predicate::default() };
    v1::QueryRequest { predicate: Some(predicate), ..v1::QueryRequest::default() }
}

/// A request as part of a trace, with the token.
fn headed<T>(message: T, parent: &str) -> tonic::Request<T> {
    let mut request = message.into_request();
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

async fn get(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\n{header}connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A node that notes what traces it is asked in, and answers nothing.
struct Listening {
    address: String,
    port: u16,
    heard: Arc<Mutex<Vec<[Option<String>; 2]>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Listening {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let hearing = heard.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let header = |name| Some(request.headers().get(name)?.to_str().unwrap().to_owned());
            hearing.lock().unwrap().push([header("traceparent"), header("tracestate")]);
            async { Ok::<_, Infallible>(Status::unimplemented("it only listens").into_http()) }
        });
        let limits = six_nodes(address.port()).limits;
        let serving = async move {
            connections::serve(service, incoming_tcp(listener), &limits, CancellationToken::new()).await;
        };
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Listening { address: address.to_string(), port: address.port(), heard, _serving: serving }
    }

    /// What it has heard since it was last asked.
    fn heard(&self) -> Vec<[Option<String>; 2]> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

/// The six nodes, of which B is at this port and nobody at the others'.
fn six_nodes(port: u16) -> Overlay {
    let mut config = Topology::six_nodes().to_json();
    for (number, (id, process)) in (1..).zip(config["processes"].as_object_mut().unwrap()) {
        process["host"] = json!("127.0.0.1");
        process["port"] = if id == "B" { json!(port) } else { json!(number) };
    }
    Overlay::parse(&config.to_string(), "six").unwrap().overlay
}

/// Goal: without an endpoint nobody is sent anything, but the trace of a caller is no worse for a node without traces.
#[tokio::test(flavor = "multi_thread")]
async fn node_without_traces_passes_on_what_came_and_adds_nothing() {
    let other = Listening::start().await;
    let words = ["query", "PM2.5", "--leader", &other.address];
    overlay(&words, None);
    assert_eq!(other.heard(), [[None, None]]);
    overlay(&words, Some("http://127.0.0.1:9"));
    let heard = other.heard();
    assert!(heard[0][0].as_ref().is_some_and(|parent| parent.ends_with("-01")), "{heard:?}");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let leader = Node::start(Setup {
        overlay: Arc::new(six_nodes(other.port)),
        id: "A".into(),
        dataset_root: None,
        strict: false,
        load_threads: 1,
        watch: false,
        outside: Outside::system(),
        incoming: incoming_tcp(listener),
    });
    let leader = leader.unwrap();
    leader.ready().await.unwrap();
    let mut node = v1::overlay_client::OverlayClient::connect(address).await.unwrap();
    let mut heard_of = async |asked: tonic::Request<v1::QueryRequest>| {
        other.heard();
        node.query(asked).await.unwrap_err();
        other.heard()
    };
    let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{CALLER}-01");
    let mut asked = headed(query("PM2.5"), &parent);
    asked.metadata_mut().insert("tracestate", "a=1".parse().unwrap());
    let carried = heard_of(asked).await;
    // Probes, which belong to nobody's trace, may be among them.
    let expected = [Some(parent.clone()), Some("a=1".to_owned())];
    assert!(carried.contains(&expected), "{carried:?}");
    assert!(carried.iter().all(|heard| *heard == expected || *heard == [None, None]), "{carried:?}");
    let malformed = heard_of(headed(query("PM2.5"), &parent.to_uppercase())).await;
    assert!(!malformed.is_empty() && malformed.iter().all(|heard| *heard == [None, None]), "{malformed:?}");
    drop(leader);
}

/// Goal: an answer that its client has left says so, and is not taken for one that was read. Method: a window that the answer
/// cannot pass, and clients that leave with the head.
#[tokio::test(flavor = "multi_thread")]
async fn answer_that_is_abandoned_is_cancelled() {
    let (collector, folder) = (Collector::start().await, scratch::folder().unwrap());
    let six = exporting_nodes(&collector.endpoint, folder.path());
    let endpoint = Channel::from_shared(format!("http://{}", six.address("A"))).unwrap();
    let mut channel = endpoint.initial_stream_window_size(1024).connect().await.unwrap();
    let mut flights = FlightServiceClient::new(channel.clone());
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4799";
    let parent = format!("00-{trace_id}-{CALLER}-01");
    let command = FlightDescriptor::new_cmd(json!({"parameter": "PM2.5"}).to_string());
    let flight = flights.get_flight_info(headed(command, &parent)).await.unwrap().into_inner();
    let ticket = flight.endpoint[0].ticket.clone().unwrap();
    drop(flights.do_get(headed(ticket, &parent)).await.unwrap());
    let request = http::Request::get("/api/v1/query?parameter=PM2.5").header("traceparent", &parent);
    let request = request.header("authorization", format!("Bearer {TOKEN}")).body(Body::empty()).unwrap();
    poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answer = channel.call(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);

    let names = ["arrow.flight.protocol.FlightService/DoGet", "GET /api/v1/query"];
    let are_there = |trace: &Trace| names.iter().all(|name| trace.named(name).count() == 1);
    let trace = whole_trace(&collector, trace_id, CALLER, are_there).await;
    for name in names {
        let errors: Vec<&str> = trace.named(name).map(|span| &*span.attributes["error.type"]).collect();
        assert_eq!(errors, ["CANCELLED"], "{name}:\n{trace}");
    }
}

/// Goal: a collector that takes connections and never answers keeps nobody waiting, and is told of once.
#[tokio::test(flavor = "multi_thread")]
async fn collector_that_hangs_delays_no_query_and_no_end_for_long() {
    let hangs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", hangs.local_addr().unwrap());
    let folder = scratch::folder().unwrap();
    let mut six = exporting_nodes(&endpoint, folder.path());
    let (leader, token) = (six.address("A"), folder.path().join("token").display().to_string());
    for parameter in ["PM2.5", "OZONE", "PM10"] {
        let answer = get(&leader, &format!("/api/v1/query?parameter={parameter}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let words = ["query", "PM2.5", "--leader", &leader, "--token-file", &token];
    let began = Instant::now();
    let asked = overlay(&words, Some(&endpoint));
    let (took, said) = (began.elapsed(), String::from_utf8(asked.stderr).unwrap());
    assert!(asked.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("not exported")).count(), 1, "{said}");
    assert!(took < Duration::from_secs(20), "two seconds, on a machine that has time: {took:?}");
    let began = Instant::now();
    six.node("A").signal("TERM").unwrap();
    assert!(six.node("A").wait(READY_WITHIN).unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(six.node("A").log().matches("not exported").count(), 1, "{}", six.node("A").log());
}
