//! What the client refuses: answers that lost, gained or changed something between node and client.
//!
//! Method: a proxy stands before the leader and forges questions or answers on the way; what it leaves alone passes.

use overlay::aggregate::{AggregateOf, AggregateSpec};
use overlay::client::{Client, ClientError};
use overlay::frame::{self, Encoding};
use overlay::outside::incoming_tcp;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::proto::v1::overlay_server::{Overlay, OverlayServer};
use overlay_harness::answer::{self, ask};
use overlay_harness::cluster::{ClusterSpec, InProcessCluster};
use overlay_harness::oracle::{GroupKey, Measure, OracleQuery};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// What is changed on the way; nothing by default.
#[derive(Clone, Copy)]
struct Forgery {
    request: fn(&mut v1::QueryRequest),
    reply: fn(&mut v1::QueryReply),
    chunk_request: fn(&mut v1::GetChunkRequest),
    chunk: fn(&mut v1::Chunk),
}

impl Default for Forgery {
    fn default() -> Self {
        Forgery { request: |_| {}, reply: |_| {}, chunk_request: |_| {}, chunk: |_| {} }
    }
}

impl Forgery {
    fn request(request: fn(&mut v1::QueryRequest)) -> Self {
        Forgery { request, ..Forgery::default() }
    }

    fn reply(reply: fn(&mut v1::QueryReply)) -> Self {
        Forgery { reply, ..Forgery::default() }
    }

    fn chunk(chunk: fn(&mut v1::Chunk)) -> Self {
        Forgery { chunk, ..Forgery::default() }
    }
}

/// Goal: days that were lost on the way never pass for a whole result, whatever else still adds up.
#[tokio::test(flavor = "multi_thread")]
async fn ledger_that_does_not_tile_the_plan_is_refused() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let all = rows(Encoding::Json);
    let nothing = Query { limit: Some(0), ..all.clone() };
    let cases = [
        ("a day without rows", &all, Forgery::reply(|reply| drop(reply.ledger.remove(1)))),
        (
            "a day with its rows",
            &all,
            Forgery { reply: lose_a_day, chunk: lose_its_frame, ..Forgery::default() },
        ),
        ("the last days", &all, Forgery::request(|request| request.date_end = Some(20200820))),
        ("the first days", &all, Forgery::request(|request| request.date_start = Some(20200815))),
        ("a team", &all, Forgery::request(|request| request.team = Some("pink".to_owned()))),
        ("every day", &nothing, Forgery::reply(|reply| reply.ledger.clear())),
        ("order", &nothing, Forgery::reply(|reply| reply.ledger.reverse())),
    ];
    for (lost, query, forgery) in cases {
        let refused = refusal(&cluster, query, forgery).await;
        assert!(refused.contains("expected "), "{lost}: {refused}");
    }
    let renamed = Forgery::reply(|reply| reply.ledger[3].team = "pink".to_owned());
    let refused = refusal(&cluster, &all, renamed).await;
    assert!(refused.contains("team `pink`"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_limit_is_refused() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let two_rows = Query { limit: Some(2), ..rows(Encoding::Json) };
    let two_groups = Query { limit: Some(2), ..groups() };
    let more = Forgery::request(|request| request.limit = Some(9));
    for query in [&two_rows, &two_groups] {
        let refused = refusal(&cluster, query, more).await;
        assert!(refused.contains("9") && refused.contains("limit is 2"), "{refused}");
    }
    let silent = Forgery::reply(|reply| reply.manifest.as_mut().unwrap().limit_reached = false);
    let refused = refusal(&cluster, &two_rows, silent).await;
    assert!(refused.contains("limit_reached"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_shape_than_asked_are_refused() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let (json, arrow) = (rows(Encoding::Json), rows(Encoding::Arrow));
    let another_schema = Forgery::reply(|reply| {
        let spec = AggregateSpec { of: AggregateOf::Value, group_by: Vec::new() };
        reply.manifest.as_mut().unwrap().arrow_schema = frame::groups_schema_message(&spec).to_vec();
    });
    let bare_rows = Forgery::chunk(|chunk| {
        let frame = &mut chunk.frames[0];
        set_payload(frame, vec!["{}"; frame.rows as usize].join(","));
    });
    let renamed_key = Forgery::chunk(|chunk| {
        let text = String::from_utf8(chunk.frames[0].payload.to_vec()).unwrap();
        set_payload(&mut chunk.frames[0], text.replacen("\"aqi\"", "\"iqa\"", 1));
    });
    let legacy = Forgery::request(|request| request.encoding = v1::Encoding::JsonLegacy.into());
    let cases = [
        (&json, legacy, "encoding"),
        (&arrow, legacy, "encoding"),
        (&arrow, another_schema, "schema"),
        (&json, another_schema, "schema"),
        (&json, bare_rows, "latitude"),
        (&json, renamed_key, "aqi"),
    ];
    for (query, forgery, said) in cases {
        let refused = refusal(&cluster, query, forgery).await;
        assert!(refused.contains(said), "should say {said}: {refused}");
    }
}

/// Goal: groups that come are the manifest's, computed from the versions in the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn frames_of_groups_are_checked_as_frames_of_rows_are() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let cases = [
        ("another version", Forgery::chunk(|chunk| chunk.frames[0].version = vec![7; 16].into())),
        ("a day", Forgery::chunk(|chunk| chunk.frames[0].day = 20200810)),
        ("another place", Forgery::chunk(|chunk| chunk.frames[0].first_row = 1)),
        ("no frame", Forgery::chunk(|chunk| chunk.frames.clear())),
        ("two frames", Forgery::chunk(in_two_frames)),
    ];
    for (forged, forgery) in cases {
        let refused = refusal(&cluster, &groups(), forgery).await;
        assert!(refused.contains("the ledger says"), "{forged}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_of_another_result_or_beyond_the_last_is_refused() {
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let query = rows(Encoding::Json);
    let refused = refusal(&cluster, &query, Forgery::chunk(|chunk| chunk.uid.push('x'))).await;
    assert!(refused.contains("came for"), "{refused}");
    let beyond = Forgery {
        chunk_request: |request| request.chunk_index = 0,
        chunk: |chunk| (chunk.chunk_index, chunk.is_last) = (1, false),
        ..Forgery::default()
    };
    let (client, _proxy) = forged(&cluster, beyond).await;
    let result = client.query(&query).await.unwrap();
    assert_eq!(result.chunk_count(), 1);
    assert!(result.chunk_days(0).is_some() && result.chunk_days(1).is_none());
    let refused = client.chunk(&result, 1).await.unwrap_err();
    assert!(matches!(refused, ClientError::Contradiction { .. }), "{refused}");
}

/// Ozone in as few chunks as there may be: one.
fn rows(encoding: Encoding) -> Query {
    let chunking = ChunkingChoice { chunk_rows: Some(1_000_000), ..ChunkingChoice::default() };
    let ozone = OracleQuery { parameter: Some("OZONE".to_owned()), ..OracleQuery::default() };
    Query { chunking, ..answer::query(&ozone, encoding) }
}

fn groups() -> Query {
    Query { aggregate: Some(answer::aggregate(Measure::Value, &[GroupKey::Site])), ..rows(Encoding::Json) }
}

/// Takes the last day that has rows away, so that ledger, manifest and chunk still agree.
fn lose_a_day(reply: &mut v1::QueryReply) {
    let is_served =
        |entry: &v1::CoverageEntry| matches!(served(entry), Some(served) if served.rows_taken > 0);
    let last = reply.ledger.iter().rposition(is_served).unwrap();
    let rows = served(&reply.ledger.remove(last)).unwrap().rows_taken;
    let manifest = reply.manifest.as_mut().unwrap();
    manifest.total_records -= rows;
    manifest.chunk_rows[0] -= rows as u32;
}

fn lose_its_frame(chunk: &mut v1::Chunk) {
    chunk.frames.pop();
}

fn served(entry: &v1::CoverageEntry) -> Option<&v1::Served> {
    match entry.outcome.as_ref()? {
        v1::coverage_entry::Outcome::Served(served) => Some(served),
        _ => None,
    }
}

/// The first group in a frame of its own, all others in a second one.
fn in_two_frames(chunk: &mut v1::Chunk) {
    let all = chunk.frames[0].clone();
    let text = String::from_utf8(all.payload.to_vec()).unwrap();
    let (first, rest) = text.split_once("},").unwrap();
    chunk.frames = vec![v1::Frame { rows: 1, ..all.clone() }, v1::Frame { rows: all.rows - 1, ..all }];
    set_payload(&mut chunk.frames[0], format!("{first}}}"));
    set_payload(&mut chunk.frames[1], rest.to_owned());
}

fn set_payload(frame: &mut v1::Frame, payload: String) {
    frame.digest = frame::digest(payload.as_bytes()).0.to_vec().into();
    frame.payload = payload.into();
}

/// What the client says about a forged answer; the same question without forgery must pass.
async fn refusal(cluster: &InProcessCluster, query: &Query, forgery: Forgery) -> String {
    let (honest, _proxy) = forged(cluster, Forgery::default()).await;
    ask(&honest, query).await.expect("an answer that is left alone passes");
    let (client, _proxy) = forged(cluster, forgery).await;
    match ask(&client, query).await {
        Ok((result, rows)) => panic!("passed: {} rows by {:?}", rows.len(), result.manifest),
        Err(ClientError::Status { status, .. }) => panic!("the node refused, not the client: {status}"),
        Err(error) => error.to_string(),
    }
}

/// A client whose questions and answers pass through a proxy that forges them.
async fn forged(cluster: &InProcessCluster, forgery: Forgery) -> (Client, AbortOnDropHandle<()>) {
    let node = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
    let proxy = Proxy { node: node.max_decoding_message_size(16 << 20), forgery };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(OverlayServer::new(proxy));
    let serving = async move { server.serve_with_incoming(incoming_tcp(listener)).await.unwrap() };
    (Client::new(&address, "forged").unwrap(), AbortOnDropHandle::new(tokio::spawn(serving)))
}

struct Proxy {
    node: OverlayClient<Channel>,
    forgery: Forgery,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Overlay for Proxy {
    async fn query(&self, request: Request<v1::QueryRequest>) -> Answer<v1::QueryReply> {
        let mut request = request.into_inner();
        (self.forgery.request)(&mut request);
        let mut reply = self.node.clone().query(request).await?.into_inner();
        (self.forgery.reply)(&mut reply);
        Ok(Response::new(reply))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> Answer<v1::Chunk> {
        let mut request = request.into_inner();
        (self.forgery.chunk_request)(&mut request);
        let mut chunk = self.node.clone().get_chunk(request).await?.into_inner();
        (self.forgery.chunk)(&mut chunk);
        Ok(Response::new(chunk))
    }

    type StreamChunksStream = futures::stream::Empty<Result<v1::Chunk, Status>>;

    async fn stream_chunks(&self, _: Request<v1::StreamChunksRequest>) -> Answer<Self::StreamChunksStream> {
        Err(not_forged())
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Answer<v1::CancelReply> {
        Err(not_forged())
    }

    async fn explain(&self, _: Request<v1::QueryRequest>) -> Answer<v1::ExplainReply> {
        Err(not_forged())
    }

    async fn get_query_status(
        &self,
        _: Request<v1::GetQueryStatusRequest>,
    ) -> Answer<v1::GetQueryStatusReply> {
        Err(not_forged())
    }

    async fn get_metrics(&self, _: Request<v1::GetMetricsRequest>) -> Answer<v1::GetMetricsReply> {
        Err(not_forged())
    }

    async fn shutdown(&self, _: Request<v1::ShutdownRequest>) -> Answer<v1::ShutdownReply> {
        Err(not_forged())
    }
}

fn not_forged() -> Status {
    Status::unimplemented("the proxy passes queries and chunks only")
}
