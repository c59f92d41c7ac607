//! The whole contract on six processes: every RPC of every service on each node, the commands that check an overlay,
//! every way to end a node.
//!
//! Goal: nothing that `proto/` declares goes untried on any node, and what comes back is the oracle's answer.
//! Method: the clients note which RPCs they call; at the end these must be, for each node, the declared ones. The
//! same walk goes over the data that are checked in and over the real ones. Only what every node has to answer
//! stands here: limits, errors and faults have files of their own.
#![cfg(unix)]

mod called;
mod questions;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use futures::TryStreamExt;
use overlay::proto::v1::{self, CountRequest, DayRequest, InventoryRequest, NodeRequest, ReadRequest};
use overlay::proto::{legacy, v1::Encoding};
use overlay_harness::answer::{ask, assert_equal_rows};
use overlay_harness::cluster::{Cluster, ClusterSpec, ProcessCluster, READY_WITHIN, fixtures};
use overlay_harness::skip::real_dataset;
use serde_json::{Value, json};
use tonic::Code;

use called::{Called, Node, declared_rpcs};
use questions::{DAYS, Questions};

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

const IDS: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_answers_on_each_of_six_processes() {
    walk(&fixtures()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_answers_on_each_of_six_processes_over_the_real_data() {
    let Some(root) = real_dataset() else { return };
    walk(&root).await;
}

async fn walk(root: &Path) {
    let called = Called::default();
    let questions = Questions::read(root);
    let mut six = start(ClusterSpec::six_nodes(root));
    for id in IDS {
        let mut node = Node::connect(id, &six.address(id), &called).await;
        typed_client_gets_the_oracles_answers(&six, id, &questions).await;
        client_verbs_answer(&mut node, &questions).await;
        peer_verbs_answer(&mut node, &questions).await;
        old_contract_answers(&mut node, &questions).await;
    }
    checking_commands_pass(&six, root);
    for id in IDS {
        let mut node = Node::connect(id, &six.address(id), &called).await;
        let told = node.overlay.shutdown(v1::ShutdownRequest { graceful: true }).await.unwrap();
        assert_eq!(told.into_inner().status, "stopping");
        assert_eq!(exit_of(&mut six, id).code(), Some(0), "{id} was told to stop");
    }
    // What nodes hold does not matter to how they end: each day once is loaded sooner.
    let spec = ClusterSpec::six_nodes(root).with(json!({"replicas": 1}));
    let mut six = start(spec.clone());
    for id in IDS {
        let mut node = Node::connect(id, &six.address(id), &called).await;
        let told = node.old.shutdown(legacy::ShutdownRequest { graceful: true }).await.unwrap();
        assert_eq!(told.into_inner().status, "stopping");
        assert_eq!(exit_of(&mut six, id).code(), Some(0), "{id} was told to stop by the old contract");
    }
    signals_end_nodes(&mut start(spec)).await;
    for id in IDS {
        assert_eq!(called.by(id), declared_rpcs(), "RPCs called on {id}, and those that are declared");
    }
}

fn start(spec: ClusterSpec) -> ProcessCluster {
    ProcessCluster::start(BINARY, spec).unwrap()
}

fn exit_of(six: &mut ProcessCluster, id: &str) -> ExitStatus {
    six.node(id).wait(READY_WITHIN).unwrap()
}

/// Every type of query in both encodings; the client checks the proof of each answer.
async fn typed_client_gets_the_oracles_answers(six: &ProcessCluster, id: &str, questions: &Questions) {
    let client = six.client(id, "typed").unwrap();
    for question in questions.of(id) {
        for encoding in [overlay::frame::Encoding::Arrow, overlay::frame::Encoding::Json] {
            let asked = question.query(encoding);
            let (_, found) = ask(&client, &asked).await.unwrap();
            assert_equal_rows(&format!("{id}, {}, {encoding:?}", question.name), &question.expected, &found);
        }
    }
}

/// `overlay.v1.Overlay`, but for `Shutdown`: one result from its plan to the end of its lease.
async fn client_verbs_answer(node: &mut Node, questions: &Questions) {
    let client_id = "walker".to_owned();
    let request = v1::QueryRequest {
        predicate: Some(questions.predicate()),
        date_start: Some(*DAYS.start()),
        date_end: Some(*DAYS.end()),
        encoding: Encoding::Json.into(),
        client_id: client_id.clone(),
        request_id: "walk".to_owned(),
        ..v1::QueryRequest::default()
    };
    let plan = node.overlay.explain(request.clone()).await.unwrap().into_inner();
    let planned: Vec<u32> = plan.days.iter().map(|day| day.day).collect();
    assert_eq!(planned, questions.days_of(&node.id), "{}", node.id);

    let uid = node.overlay.query(request).await.unwrap().into_inner().uid;
    let mut chunks = Vec::new();
    while !chunks.last().is_some_and(|chunk: &v1::Chunk| chunk.is_last) {
        let chunk_index = chunks.len() as u32;
        let request = v1::GetChunkRequest { uid: uid.clone(), chunk_index, client_id: client_id.clone() };
        chunks.push(node.overlay.get_chunk(request).await.unwrap().into_inner());
    }
    let found = json_rows(chunks.iter().flat_map(|chunk| &chunk.frames));
    assert_equal_rows(&node.id, &questions.filter_of(&node.id).expected, &found);

    let stream = v1::StreamChunksRequest { uid: uid.clone(), first_chunk: 0, client_id: client_id.clone() };
    let streamed = node.overlay.stream_chunks(stream).await.unwrap().into_inner();
    assert_eq!(streamed.try_collect::<Vec<_>>().await.unwrap(), chunks, "{}", node.id);

    let status = v1::GetQueryStatusRequest { request_id: "walk".to_owned(), client_id: client_id.clone() };
    let status = node.overlay.get_query_status(status).await.unwrap().into_inner();
    assert_eq!(status.state, "unknown", "the query has been answered");

    let cancel =
        v1::CancelRequest { uid: uid.clone(), request_id: String::new(), client_id: client_id.clone() };
    assert!(node.overlay.cancel(cancel).await.unwrap().into_inner().found);
    let ended = node.overlay.get_chunk(v1::GetChunkRequest { uid, chunk_index: 0, client_id }).await;
    assert_eq!(ended.unwrap_err().code(), Code::FailedPrecondition);

    let metrics = node.overlay.get_metrics(v1::GetMetricsRequest {}).await.unwrap().into_inner();
    let (_, rows) = questions.held_by(&node.id);
    assert_eq!((&*metrics.node, metrics.ready, metrics.rows), (&*node.id, true, rows));
}

/// `overlay.v1.Peer`, as a neighbour would ask: A is asked for what the others hold, they for their own days.
async fn peer_verbs_answer(node: &mut Node, questions: &Questions) {
    let asked: &[&str] = if node.id == "A" { &IDS } else { &[&node.id] };
    let nodes = asked.iter().map(|id| NodeRequest { node: id.to_string(), known_incarnation: 0 }).collect();
    let request = InventoryRequest { nodes, ..InventoryRequest::default() };
    let inventory = node.peer.inventory(request).await.unwrap().into_inner();
    assert_eq!(inventory.unreachable, []);
    for of in &inventory.nodes {
        let rows = of.days.iter().map(|day| day.rows).sum();
        assert_eq!((of.files, rows), questions.held_by(&of.node), "{}, asked {}", of.node, node.id);
    }

    let mut days: Vec<DayRequest> = inventory.nodes.iter().flat_map(day_requests).collect();
    // One holder for each day, where there are several the last.
    days.sort_by_key(|day| (day.day, std::cmp::Reverse(day.node.clone())));
    days.dedup_by_key(|day| day.day);
    let predicate = Some(questions.predicate());
    let request = CountRequest {
        predicate: predicate.clone(),
        encoding: Encoding::Json.into(),
        days: days.clone(),
        ..CountRequest::default()
    };
    let counted = node.peer.count(request).await.unwrap().into_inner();
    assert_eq!(counted.failures, []);
    for day in &mut days {
        let count = counted.days.iter().find(|count| count.day == day.day).unwrap();
        day.rows = count.rows_matched as u32;
    }
    days.retain(|day| day.rows > 0);
    let request = ReadRequest { predicate, encoding: Encoding::Json.into(), days, ..ReadRequest::default() };
    let mut read = node.peer.read(request).await.unwrap().into_inner();
    assert_eq!(read.failures, []);
    read.frames.sort_by_key(|frame| frame.day);
    assert_equal_rows(&node.id, &questions.filter_of(&node.id).expected, &json_rows(&read.frames));
}

/// The days of the questions that a node says it holds.
fn day_requests(inventory: &v1::NodeInventory) -> impl Iterator<Item = DayRequest> {
    let held = inventory.days.iter().filter(|day| DAYS.contains(&day.day) && day.files > 0);
    held.map(|day| DayRequest {
        day: day.day,
        version: day.version.clone(),
        node: inventory.node.clone(),
        team: questions::team_of(day.day).to_owned(),
        attempt: 1,
        ..DayRequest::default()
    })
}

/// `OverlayNode`, but for `Shutdown`.
async fn old_contract_answers(node: &mut Node, questions: &Questions) {
    for question in questions.of(&node.id) {
        let request = legacy::QueryRequest {
            query_type: question.name.to_owned(),
            query_params: question.old_params().to_string(),
            ..legacy::QueryRequest::default()
        };
        let answer = node.old.query(request).await.unwrap().into_inner();
        assert_eq!((&*answer.status, &answer.hops), ("ready", &vec![node.id.clone()]));
        let mut found = Vec::new();
        for chunk_index in 0..answer.total_chunks {
            let request = legacy::ChunkRequest { uid: answer.uid.clone(), chunk_index };
            let chunk = node.old.get_chunk(request).await.unwrap().into_inner();
            assert_eq!((&*chunk.status, chunk.is_last), ("success", chunk_index + 1 == answer.total_chunks));
            found.extend(serde_json::from_str::<Vec<Value>>(&chunk.data).unwrap());
        }
        assert_equal_rows(&format!("{}, old {}", node.id, question.name), &question.old_expected, &found);
    }
    let metrics = node.old.get_metrics(legacy::MetricsRequest {}).await.unwrap().into_inner();
    let (files, _) = questions.held_by(&node.id);
    assert_eq!((&*metrics.process_id, metrics.data_files_loaded as u64), (&*node.id, files));
}

/// The rows of JSON frames.
fn json_rows<'a>(frames: impl IntoIterator<Item = &'a v1::Frame>) -> Vec<Value> {
    let rows = |frame: &v1::Frame| {
        let array = [b"[", frame.payload.as_ref(), b"]"].concat();
        serde_json::from_slice::<Vec<Value>>(&array).unwrap()
    };
    frames.into_iter().flat_map(rows).collect()
}

fn checking_commands_pass(six: &ProcessCluster, root: &Path) {
    let (config, root, leader) = (six.config(), root.to_str().unwrap(), six.address("A"));
    let (host, port) = leader.rsplit_once(':').unwrap();
    let config = config.to_str().unwrap();
    for arguments in
        [&["verify-data-loading", config, "--dataset-root", root, "--live"][..], &["system-test", host, port]]
    {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    }
}

/// B, D and F are told to stop, the others are killed, in turn.
async fn signals_end_nodes(six: &mut ProcessCluster) {
    for (told, killed) in [("F", "C"), ("D", "E"), ("B", "A")] {
        six.node(told).signal("TERM").unwrap();
        assert_eq!(exit_of(six, told).code(), Some(0), "{told} was told to stop");
        six.crash(killed).await.unwrap();
        assert_eq!(exit_of(six, killed).signal(), Some(9), "{killed} was killed");
    }
}
