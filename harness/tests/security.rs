//! Certificates, tokens and roles: what is answered to whom, over real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use overlay::client::{Client, ClientError, OldClient};
use overlay::config::{Overlay, SecurityFiles, TlsFiles};
use overlay::frame::Encoding;
use overlay::outside::{ConnectTcp, channel};
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::proto::v1::peer_client::PeerClient;
use overlay::proto::{legacy, legacy::overlay_node_client::OverlayNodeClient, v1};
use overlay::security::{Bearer, NODE_NAME, Security};
use overlay_harness::answer::{self, ask, assert_equal_rows};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures};
use overlay_harness::load::{LoadPlan, Mix, ObservedNode, Work};
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use overlay_harness::scratch;
use prost::Message;
use prost_types::FileDescriptorSet;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

const SIX_NODES: &str = include_str!("../../configs/one_host_config.json");

const NODES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

/// Tokens of one client and another, of nodes and of whoever administers.
const TOKENS: [(&str, &str); 4] = [
    ("client", "a-token-of-one-client"),
    ("another", "a-token-of-another-client"),
    ("peer", "a-token-of-the-nodes"),
    ("admin", "a-token-of-the-admin"),
];

/// A folder with certificates and tokens.
struct Files {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    /// A CA, a certificate for each node on loopback, tokens.
    fn new() -> Self {
        let files = Files { folder: scratch::folder().unwrap(), authority: authority() };
        files.write("ca.pem", &files.authority.pem());
        for node in NODES {
            files.certify(node, node, days_from_now(1));
        }
        let roles = [("client", "client"), ("another", "client"), ("peer", "peer"), ("admin", "admin")];
        let tokens = roles.map(|(name, role)| json!({"name": name, "role": role, "token": token(name)}));
        files.write("tokens.json", &Value::from_iter(tokens).to_string());
        for (name, token) in TOKENS {
            files.write(&format!("{name}.token"), token);
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Makes `name.pem` and `name.key`, of the node `node`.
    fn certify(&self, name: &str, node: &str, until: OffsetDateTime) {
        self.certify_by(&self.authority, name, node, until);
    }

    fn certify_by(
        &self,
        authority: &CertifiedIssuer<'static, KeyPair>,
        name: &str,
        node: &str,
        until: OffsetDateTime,
    ) {
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.subject_alt_names.push(SanType::URI(format!("{NODE_NAME}{node}").try_into().unwrap()));
        (parameters.not_before, parameters.not_after) = (days_from_now(-2), until);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, authority).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn tls(&self) -> Value {
        let path = |name: &str| self.path(name).display().to_string();
        json!({"ca": path("ca.pem"), "certificate": path("{id}.pem"), "key": path("{id}.key")})
    }

    fn tokens(&self) -> Value {
        json!(self.path("tokens.json").display().to_string())
    }

    /// Who has the token of `name`, and checks the nodes' certificates.
    fn with_token(&self, name: &str) -> Security {
        Security::of_client(Some(&self.path("ca.pem")), Some(&self.path(&format!("{name}.token")))).unwrap()
    }

    fn without_token(&self) -> Security {
        Security::of_client(Some(&self.path("ca.pem")), None).unwrap()
    }

    /// Who shows a certificate.
    fn with_certificate(&self, name: &str) -> Security {
        let tls = TlsFiles {
            ca: self.path("ca.pem"),
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        let files = SecurityFiles { tls: Some(tls), tokens: None };
        let overlay = Overlay::parse(SIX_NODES, "six nodes").unwrap().overlay;
        Security::of_node(&files, overlay.process("A").unwrap()).unwrap()
    }
}

fn token(name: &str) -> &'static str {
    TOKENS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn days_from_now(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(days)
}

async fn cluster(security: Value) -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures().with(json!({"security": security}))).await.unwrap()
}

type Secured = InterceptedService<Channel, Bearer>;

/// A channel to a node, as whoever `security` is.
fn secured(cluster: &InProcessCluster, node: &str, security: &Security) -> Secured {
    let address = cluster.address(node);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = channel(endpoint, security.connect(Arc::new(ConnectTcp)), &address, Duration::from_secs(5));
    InterceptedService::new(channel, security.bearer())
}

/// What a call of each service comes to: client verb, its like of the old contract, metrics, peer verb, reflection.
async fn codes(channel: &Secured) -> [Code; 5] {
    let code = |status: Option<Status>| status.map_or(Code::Ok, |status| status.code());
    let mut overlay = OverlayClient::new(channel.clone());
    let query = v1::QueryRequest { limit: Some(1), ..v1::QueryRequest::default() };
    let mut old = OverlayNodeClient::new(channel.clone());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let list = tokio_stream::iter([ServerReflectionRequest::default()]);
    [
        code(overlay.query(query).await.err()),
        code(old.query(legacy::QueryRequest::default()).await.err()),
        code(overlay.get_metrics(v1::GetMetricsRequest {}).await.err()),
        code(PeerClient::new(channel.clone()).inventory(v1::InventoryRequest::default()).await.err()),
        code(reflection.server_reflection_info(list).await.err()),
    ]
}

async fn is_healthy(channel: &Secured) -> bool {
    let answer = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
}

/// Goal: what anybody may ask ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_for_and_not_watched() {
    let cluster = cluster(json!({})).await;
    let channel = secured(&cluster, "A", &Security::default());
    assert!(is_healthy(&channel).await);
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
    assert_eq!(watch.unwrap_err().code(), Code::Unimplemented);
}

/// The RPCs of Arrow Flight, whose descriptors its library does not have.
const FLIGHT_RPCS: [&str; 10] = [
    "DoAction",
    "DoExchange",
    "DoGet",
    "DoPut",
    "GetFlightInfo",
    "GetSchema",
    "Handshake",
    "ListActions",
    "ListFlights",
    "PollFlightInfo",
];

/// Every RPC of every service but health, as `/package.Service/Method`.
fn every_rpc() -> Vec<String> {
    let descriptors = FileDescriptorSet::decode(overlay::proto::DESCRIPTORS).unwrap();
    let mut paths: Vec<String> = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"))
        .into();
    paths.extend(FLIGHT_RPCS.map(|method| format!("/arrow.flight.protocol.FlightService/{method}")));
    for file in &descriptors.file {
        for service in &file.service {
            let service_name = match file.package() {
                "" => service.name().to_owned(),
                package => format!("{package}.{}", service.name()),
            };
            paths.extend(service.method.iter().map(|method| format!("/{service_name}/{}", method.name())));
        }
    }
    paths
}

/// What a call of an RPC comes to, with an empty message.
async fn code_of(channel: &Secured, path: &str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    if let Err(error) = grpc.ready().await {
        panic!("no connection: {error}");
    }
    let codec = ProstCodec::<(), ()>::default();
    let answer = grpc.unary(Request::new(()), path.parse().unwrap(), codec).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

const DENIED: Code = Code::PermissionDenied;
const UNKNOWN: Code = Code::Unauthenticated;

#[tokio::test(flavor = "multi_thread")]
async fn secured_overlay_answers_whoever_has_a_token_and_fails_over() {
    let files = Files::new();
    let mut cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    let client = Client::secured(&files.with_token("client"), &cluster.address("A"), "me").unwrap();
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    for (parameter, crashed) in [("PM2.5", None), ("OZONE", Some("E"))] {
        if let Some(node) = crashed {
            cluster.crash(node).await.unwrap();
        }
        let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
        let (_, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
        let expected: Vec<Value> = oracle.rows(&query).into_iter().map(|row| row.to_json()).collect();
        assert_equal_rows(&parameter, &expected, &rows);
    }
    let old = OldClient::secured(&files.with_token("client"), &cluster.address("A")).unwrap();
    assert_eq!(old.query("filter", r#"{"parameter": "CO"}"#).await.unwrap().status, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_is_generated_with_a_token_and_refused_without() {
    let files = Files::new();
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    let work = || Work::Closed { mix: Mix::Smoke, run_time: Duration::from_secs(1) };
    let plan = |security: Security| LoadPlan {
        host: format!("https://{}", cluster.address("A")),
        work: work(),
        users: 2,
        observed: vec![ObservedNode { id: "B".to_owned(), address: cluster.address("B") }],
        security,
        ..LoadPlan::default()
    };
    let results = plan(files.with_token("client")).run().await.unwrap();
    assert!(results.total_requests > 0 && results.failures.is_empty(), "{:?}", results.failures);
    assert!(results.nodes.iter().all(|node| node.after.is_some()), "every node tells its counters");
    let refused = plan(files.without_token()).run().await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("a token of role client or admin is needed"), "{refused}");
    let address = cluster.address("A");
    for host in [format!("https://{address}"), address.clone()] {
        let output = Command::new(env!("CARGO_BIN_EXE_overlay-harness"))
            .args(["load", "--requests", "2", "--users", "1", "--host", &host])
            .args(["--ca", "ca.pem", "--token-file", "client.token"])
            .current_dir(&files.folder)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains(&format!("https://{address}")), "{output:?}");
    }
}

/// Goal: nodes without certificates know each other by the peer token, wherever they are.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_certificates_show_each_other_a_token() {
    let files = Files::new();
    let cluster = cluster(json!({"tokens": files.tokens()})).await;
    let security = Security::of_client(None, Some(&files.path("client.token"))).unwrap();
    let client = Client::secured(&security, &cluster.address("A"), "me").unwrap();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Arrow)).await.unwrap();
    assert!(result.manifest.total_records > 0);
    let nobody = secured(&cluster, "A", &Security::default());
    assert_eq!(codes(&nobody).await, [UNKNOWN; 5]);
    assert!(is_healthy(&nobody).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_health_is_answered_without_the_right_token() {
    let files = Files::new();
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    files.write("wrong.token", "a-token-of-one-clienT");
    let cases = [
        (files.without_token(), [UNKNOWN; 5]),
        (files.with_token("wrong"), [UNKNOWN; 5]),
        (files.with_token("client"), [Code::Ok, Code::Ok, Code::Ok, DENIED, Code::Ok]),
        (files.with_token("peer"), [DENIED, DENIED, DENIED, Code::Ok, DENIED]),
        (files.with_token("admin"), [Code::Ok; 5]),
    ];
    for (security, expected) in cases {
        let channel = secured(&cluster, "A", &security);
        assert_eq!(codes(&channel).await, expected, "{security:?}");
        assert!(is_healthy(&channel).await);
    }
}

/// Goal: no RPC is forgotten, also not one that is added later. Method: all that the descriptors name are called without a token,
/// with an unknown one, and with one of the wrong role, where a role is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn no_rpc_is_answered_without_the_right_token() {
    let files = Files::new();
    files.write("unknown.token", "a-token-that-nobody-knows");
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    let paths = every_rpc();
    let services: BTreeSet<&str> = paths.iter().filter_map(|path| path.split('/').nth(1)).collect();
    let (reflection, overlay) =
        ("grpc.reflection.v1.ServerReflection", ["OverlayNode", "overlay.v1.Overlay"]);
    assert!(services.is_superset(&BTreeSet::from([reflection, overlay[0], overlay[1], "overlay.v1.Peer"])));
    for path in &paths {
        let wrong_role = if path.starts_with("/overlay.v1.Peer/") { "client" } else { "peer" };
        for (security, code) in [
            (files.without_token(), UNKNOWN),
            (files.with_token("unknown"), UNKNOWN),
            (files.with_token(wrong_role), DENIED),
        ] {
            let found = code_of(&secured(&cluster, "A", &security), path).await;
            assert_eq!(found, code, "{path} with {security:?}, wrong role {wrong_role}");
        }
    }
    assert!(cluster.node("A").state().is_serving(), "nobody has shut it down");
}

/// Goal: nobody gets around the guard by another way of writing a path, or to a service that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn path_that_is_written_in_another_way_opens_nothing() {
    let files = Files::new();
    let cluster = cluster(json!({"tokens": files.tokens()})).await;
    let nobody = secured(&cluster, "A", &Security::default());
    for path in [
        "//overlay.v1.Overlay/GetMetrics",
        "/overlay.v1.Overlay//GetMetrics",
        "/overlay%2Ev1.Overlay/GetMetrics",
        "/grpc.health.v1.Health/../overlay.v1.Overlay/GetMetrics",
        "/grpc.health.v1.Health/../../overlay.v1.Overlay/GetMetrics",
        "/grpc.health.v1.Health/GetMetrics",
        "/unknown.Service/Method",
        "/",
    ] {
        let code = code_of(&nobody, path).await;
        assert!(matches!(code, Code::Unauthenticated | Code::Unimplemented), "{path}: {code:?}");
    }
}

/// Goal: HTTP is there over TLS as without it, in both versions, with tokens, and by any name that a certificate could have.
/// Method: what `curl` offers, one version at a time.
#[tokio::test(flavor = "multi_thread")]
async fn http_is_answered_over_tls() {
    let files = Files::new();
    for tokens in [Value::Null, files.tokens()] {
        let mut security = json!({"tls": files.tls()});
        let has_tokens = !tokens.is_null();
        if has_tokens {
            security["tokens"] = tokens;
        }
        let cluster = cluster(security).await;
        for version in [&b"http/1.1"[..], b"h2"] {
            let get = async |path: &str, token: Option<&str>| {
                http_over_tls(&cluster.address("A"), &files, version, path, token).await
            };
            assert_eq!(get("/livez", None).await, (200, "live\n".to_owned()));
            let (status, rows) = get("/api/v1/query?parameter=PM2.5&limit=7", Some(token("client"))).await;
            assert_eq!((status, rows.lines().count()), (200, 7), "{rows}");
            let (status, _) = get("/api/v1/query?limit=7", None).await;
            assert_eq!(status, if has_tokens { 401 } else { 200 });
        }
    }
}

/// The status and the body of an answer to a request that calls the node by a name that the configuration has not.
async fn http_over_tls(
    address: &str,
    files: &Files,
    version: &[u8],
    path: &str,
    token: Option<&str>,
) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![version.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(version));
    let mut request = hyper::Request::get(format!("https://overlay.example{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = if version == b"h2" {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = request.header("host", "overlay.example").body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap()
    };
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Goal: who connects and says nothing holds up nobody, and is not kept. Method: two hundred such connections; one after the other
/// their handshakes would take longer than a client waits for its connection.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_hold_up_nobody_and_are_closed() {
    let files = Files::new();
    let spec = ClusterSpec::fixtures()
        .with(json!({"security": {"tls": files.tls()}, "limits": {"connect_ms": 500}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let connect = || TcpStream::connect(cluster.address("A"));
    let silent = futures::future::try_join_all((0..200).map(|_| connect())).await.unwrap();
    let channel = secured(&cluster, "A", &files.without_token());
    assert!(is_healthy(&channel).await, "behind silent connections");
    let closed = silent.into_iter().map(async |mut stream| stream.read(&mut [0]).await);
    let closed = tokio::time::timeout(Duration::from_secs(20), futures::future::join_all(closed)).await;
    let closed = closed.expect("a handshake has a limit");
    assert!(closed.iter().all(|read| !matches!(read, Ok(1..))), "nothing was said to them");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_needs_the_role_of_an_admin() {
    let files = Files::new();
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    for (name, code) in [("client", DENIED), ("peer", DENIED)] {
        let mut overlay = OverlayClient::new(secured(&cluster, "C", &files.with_token(name)));
        let refused = overlay.shutdown(v1::ShutdownRequest { graceful: true }).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    let mut old = OverlayNodeClient::new(secured(&cluster, "C", &files.with_token("client")));
    let refused = old.shutdown(legacy::ShutdownRequest { graceful: true }).await.unwrap().into_inner();
    assert_eq!(refused.status, "refused:shutdown needs a token of role admin");
    assert!(cluster.node("C").state().is_serving());
    let mut overlay = OverlayClient::new(secured(&cluster, "C", &files.with_token("admin")));
    overlay.shutdown(v1::ShutdownRequest { graceful: true }).await.unwrap();
    assert!(!cluster.node("C").state().is_serving());
}

#[tokio::test(flavor = "multi_thread")]
async fn result_belongs_to_the_token_that_asked() {
    let files = Files::new();
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    // The same client id on the same host: only the token differs.
    let [own, another] = ["client", "another"]
        .map(|name| Client::secured(&files.with_token(name), &cluster.address("A"), "same").unwrap());
    let result = own.query(&answer::query(&OracleQuery::default(), Encoding::Json)).await.unwrap();
    match another.chunk(&result, 0).await {
        Err(ClientError::Status { status, .. }) => assert_eq!(status.code(), Code::NotFound),
        other => panic!("{other:?}"),
    }
    let raw = |name: &str| secured(&cluster, "A", &files.with_token(name));
    let (uid, client_id) = (result.uid.clone(), "same".to_owned());
    let streaming = v1::StreamChunksRequest { uid, client_id, first_chunk: 0 };
    let refused =
        OverlayClient::new(raw("another")).stream_chunks(streaming.clone()).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    OverlayClient::new(raw("client")).stream_chunks(streaming).await.expect("its owner may");
    assert!(!another.cancel(&result).await.unwrap());
    own.chunk(&result, 0).await.expect("it is still there");
    let asking = legacy::QueryRequest { client_id: "same".to_owned(), ..legacy::QueryRequest::default() };
    let uid = OverlayNodeClient::new(raw("client")).query(asking).await.unwrap().into_inner().uid;
    for (name, status) in [("another", "not_found"), ("client", "success")] {
        let request = legacy::ChunkRequest { uid: uid.clone(), chunk_index: 0 };
        let chunk = OverlayNodeClient::new(raw(name)).get_chunk(request).await.unwrap().into_inner();
        assert_eq!(chunk.status, status, "{name}");
    }
}

/// A has the neighbours B and E; a client without a certificate may ask as a client.
#[tokio::test(flavor = "multi_thread")]
async fn peer_verbs_need_the_certificate_of_a_neighbour() {
    let files = Files::new();
    files.certify("expired", "B", days_from_now(-1));
    files.certify_by(&authority(), "stranger", "B", days_from_now(1));
    let cluster = cluster(json!({"tls": files.tls()})).await;
    let client_only = [Code::Ok, Code::Ok, Code::Ok, UNKNOWN, Code::Ok];
    assert_eq!(codes(&secured(&cluster, "A", &files.without_token())).await, client_only);
    for (name, code) in [("B", Code::Ok), ("E", Code::Ok), ("A", Code::Ok), ("C", DENIED)] {
        let expected = [Code::Ok, Code::Ok, Code::Ok, code, Code::Ok];
        assert_eq!(codes(&secured(&cluster, "A", &files.with_certificate(name))).await, expected, "{name}");
    }
    for name in ["expired", "stranger"] {
        let channel = secured(&cluster, "A", &files.with_certificate(name));
        assert!(codes(&channel).await.iter().all(|code| *code != Code::Ok), "{name} is not let in");
        assert!(!is_healthy(&channel).await, "{name} has no connection");
    }
}

/// Goal: a node does not talk to one that only says it is its neighbour. Method: E shows a certificate that is right for its
/// host but names F, or has expired, or is of another CA; pink is reached through B and D.
#[tokio::test(flavor = "multi_thread")]
async fn neighbour_with_a_certificate_that_is_not_its_own_is_not_asked() {
    let files = Files::new();
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    let cases: [(&str, &dyn Fn()); 3] = [
        ("its certificate names node `F`, not node `E`", &|| files.certify("E", "F", days_from_now(1))),
        ("certificate expired", &|| files.certify("E", "E", days_from_now(-1))),
        ("invalid peer certificate", &|| files.certify_by(&authority(), "E", "E", days_from_now(1))),
    ];
    for (expected, certify) in cases {
        certify();
        let cluster = cluster(json!({"tls": files.tls()})).await;
        let client = Client::secured(&files.without_token(), &cluster.address("A"), "me").unwrap();
        let query = OracleQuery { parameter: Some("CO".to_owned()), ..OracleQuery::default() };
        let (_, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
        assert_eq!(rows.len(), oracle.rows(&query).len());
        let metrics = client.metrics().await.unwrap();
        let of_e = metrics.neighbours.iter().find(|neighbour| neighbour.node == "E").unwrap();
        assert!(of_e.last_error.contains(expected), "{expected}: {}", of_e.last_error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_says_what_is_wrong_with_a_connection() {
    let files = Files::new();
    let with_tls = cluster(json!({"tls": files.tls()})).await;
    let without = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let other = Files::new();
    let cases = [
        (Security::default(), &with_tls, "plaintext to a TLS port", "node at 127.0.0.1"),
        (files.without_token(), &without, "TLS to a plain port", "the other end speaks no TLS"),
        (other.without_token(), &with_tls, "a CA that signed nothing here", "invalid peer certificate"),
    ];
    for (security, cluster, what, expected) in cases {
        let client = Client::secured(&security, &cluster.address("A"), "me").unwrap();
        let error = client.metrics().await.expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
}

/// The command as people use it: certificates, six processes, a query; and no token in anything that was written.
#[test]
fn development_certificates_secure_an_overlay_of_processes() {
    let folder = scratch::folder().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut config: Value = serde_json::from_str(SIX_NODES).unwrap();
    let free: Vec<std::net::TcpListener> =
        NODES.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (node, listener) in NODES.iter().zip(&free) {
        config["processes"][node]["port"] = json!(listener.local_addr().unwrap().port());
    }
    let leader = format!("127.0.0.1:{}", config["processes"]["A"]["port"]);
    fs::write(path("overlay.json"), config.to_string()).unwrap();
    let certs = overlay(&["certs", "--config", "overlay.json", "--output", "certs"], folder.path());
    assert!(certs.status.success(), "{certs:?}");
    let again = overlay(&["certs", "--config", "overlay.json", "--output", "certs"], folder.path());
    let refused = "error: cannot write certs/ca.pem: it is there already\nhelp: nothing is overwritten: choose another folder with --output, or remove the old files\n";
    assert_eq!(String::from_utf8_lossy(&again.stderr), refused);
    assert_eq!(again.status.code(), Some(2));
    let printed = String::from_utf8(certs.stdout).unwrap();
    let (start, end) = (printed.find('{').unwrap(), printed.rfind("\n\nnext:").unwrap());
    let printed: Value = serde_json::from_str(&printed[start..end]).expect("an object");
    let written: Value = serde_json::from_slice(&fs::read(path("certs/overlay.json")).unwrap()).unwrap();
    assert_eq!(printed["security"], written["security"]);
    let checked = overlay(&["check-config", "certs/overlay.json"], folder.path());
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("security    TLS, tokens"), "{checked:?}");
    drop(free);
    let log = fs::File::create(path("log")).unwrap();
    let root = fixtures().display().to_string();
    let mut up = Command::new(env!("CARGO_BIN_EXE_overlay-node"))
        .args(["up", "--config", "certs/overlay.json", "--dataset-root", &root])
        .current_dir(&folder)
        .env(
            "OVERLAY_LOG",
            "trace,h2=trace,hyper=trace,hyper_util=trace,rustls=trace,tonic=trace,tower=trace",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(up.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    let asked = |token: &str| {
        let credentials = ["--ca", "certs/ca.pem", "--token-file", token];
        let query = ["query", "PM2.5", "5", "35", "--limit", "3", "--leader", &leader];
        overlay(&[&query[..], &credentials[..]].concat(), folder.path())
    };
    let (rows, refused) = (asked("certs/client.token"), asked("certs/peer.token"));
    let in_plaintext = overlay(&["query", "PM2.5", "--leader", &leader], folder.path());
    let plainly = asked_plainly(&leader, &path("certs"));
    let credentials = ["--ca", "certs/ca.pem", "--token-file", "certs/admin.token"];
    let stop = ["shutdown", "--all", "--config", "certs/overlay.json"];
    let metrics = overlay(
        &[&["metrics", "--leader", &leader, "--format", "prometheus"], &credentials[..]].concat(),
        folder.path(),
    );
    // The configuration knows the CA.
    let stopped = overlay(&[&stop[..], &credentials[2..]].concat(), folder.path());
    up.wait().unwrap();
    let log = fs::read_to_string(path("log")).unwrap();
    assert!(line.starts_with("ready: A at"), "{line}{log}");
    assert_eq!(String::from_utf8_lossy(&rows.stdout).lines().count(), 3, "{rows:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("role client or admin"), "{refused:?}");
    assert!(String::from_utf8_lossy(&in_plaintext.stderr).contains("--ca"), "{in_plaintext:?}");
    assert!(plainly, "a client that does not mark its token is answered");
    assert!(stopped.status.success(), "{stopped:?}");
    let written =
        [log, String::from_utf8(metrics.stdout).unwrap(), String::from_utf8(refused.stderr).unwrap()];
    assert!(
        written[0].len() > 10_000 && written[1].contains("overlay_queries"),
        "there is something to look at"
    );
    for name in ["client", "peer", "admin"] {
        let token = fs::read_to_string(path(&format!("certs/{name}.token"))).unwrap();
        assert!(
            written.iter().all(|text| !text.contains(token.trim_end())),
            "the token `{name}` was written"
        );
    }
}

#[test]
fn check_config_tells_of_every_file_that_cannot_be_used() {
    let files = Files::new();
    let folder = files.folder.path();
    files.certify("B", "C", days_from_now(1));
    files.certify("C", "C", days_from_now(-1));
    files.certify_by(&authority(), "D", "D", days_from_now(1));
    files.write("E.key", &fs::read_to_string(files.path("A.key")).unwrap());
    for missing in ["F.pem", "F.key"] {
        fs::remove_file(files.path(missing)).unwrap();
    }
    files.write(
        "tokens.json",
        r#"[{"name": "one", "role": "client", "token": "a-token-of-one-client"}, {"name": "one"}]"#,
    );
    let mut config: Value = serde_json::from_str(SIX_NODES).unwrap();
    let said = |config: &Value| {
        files.write("overlay.json", &config.to_string());
        let output = overlay(&["check-config", "overlay.json"], folder);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let tls = json!({"ca": "ca.pem", "certificate": "{id}.pem", "key": "{id}.key"});
    config["security"] = json!({"tls": tls, "tokens": "tokens.json"});
    let text = said(&config);
    for (line, key) in [
        ("F.pem: is not on this host: process `F` cannot run here", "security.tls.certificate"),
        (
            "tokens.json: not a list of {name, role, token} with role client, peer or admin, at line 1",
            "security.tokens",
        ),
        ("B.pem: its certificate names node `C`, not node `B`", "security.tls.certificate"),
        ("C.pem: invalid peer certificate: certificate expired", "security.tls.certificate"),
        ("D.pem: invalid peer certificate: BadSignature", "security.tls.certificate"),
        ("E.pem: cannot be used: ", "security.tls.certificate"),
    ] {
        let found = text
            .lines()
            .filter(|said| said.contains(line) && said.contains(&format!("(overlay.json, {key})")));
        assert_eq!(found.count(), 1, "{line}\n{text}");
    }
    assert!(!text.contains("A.pem") && !text.contains("a-token"), "{text}");
    files.write("tokens.json", r#"[{"name": "one", "role": "client", "token": "a-token-of-one-client"}]"#);
    config["security"] = json!({"tokens": "tokens.json"});
    assert!(said(&config).contains("no token of role peer"));
    config["security"] = json!({"tls": {"ca": "none.pem", "certificate": "{id}.pem", "key": "{id}.key"}});
    assert!(said(&config).contains("none.pem: cannot be read"));
}

/// Goal: what was begun can be begun again. Method: a process whose id is no name of a file, and a file that is already there.
#[test]
fn certs_writes_everything_or_nothing() {
    let folder = scratch::folder().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut config: Value = serde_json::from_str(SIX_NODES).unwrap();
    let processes = config["processes"].as_object_mut().unwrap();
    let worker = json!({"id": "../up", "role": "worker", "team": "pink", "host": "127.0.0.1", "port": 1, "neighbors": ["F"]});
    processes.insert("../up".to_owned(), worker);
    fs::write(path("odd.json"), config.to_string()).unwrap();
    let refused = overlay(&["certs", "--config", "odd.json", "--output", "odd"], folder.path());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("process `../up` can have no certificate"),
        "{refused:?}"
    );
    fs::write(path("six.json"), SIX_NODES).unwrap();
    fs::create_dir(path("some")).unwrap();
    fs::write(path("some/F.key"), "mine").unwrap();
    let refused = overlay(&["certs", "--config", "six.json", "--output", "some"], folder.path());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot write some/F.key"), "{refused:?}");
    assert_eq!(fs::read_dir(path("some")).unwrap().count(), 1);
    assert!(!path("odd").exists() && !path("up.pem").exists());
}

/// Asks as other clients do: their HTTP libraries do not know that a token is a secret.
fn asked_plainly(leader: &str, certs: &Path) -> bool {
    let token = fs::read_to_string(certs.join("client.token")).unwrap();
    let security = Security::of_client(Some(&certs.join("ca.pem")), None).unwrap();
    let asking = async {
        let endpoint = Endpoint::from_shared(format!("http://{leader}")).unwrap();
        let channel =
            channel(endpoint, security.connect(Arc::new(ConnectTcp)), leader, Duration::from_secs(5));
        let mut request = Request::new(v1::QueryRequest { limit: Some(1), ..v1::QueryRequest::default() });
        let header = format!("Bearer {}", token.trim_end()).parse().unwrap();
        request.metadata_mut().insert("authorization", header);
        OverlayClient::new(channel).query(request).await.is_ok()
    };
    tokio::runtime::Runtime::new().unwrap().block_on(asking)
}

/// Goal: every command names what is missing: a CA, another CA, a token, or the right one.
#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_would_let_them_in() {
    let (files, other) = (Files::new(), Files::new());
    files.write("short.token", "123456789012345");
    let cluster = cluster(json!({"tls": files.tls(), "tokens": files.tokens()})).await;
    files.write("config.json", &cluster.overlay().to_json().to_string());
    let (leader, other_ca) = (cluster.address("A"), other.path("ca.pem").display().to_string());
    let ca_missing = "help: if the node serves TLS, give its CA with --ca FILE";
    let other_ca_needed = "help: give the CA that signed the node's certificate with --ca FILE";
    let token_needed = "help: give a token of that role with --token-file FILE";
    let admin_needed =
        "help: give a token of role admin with --token-file FILE, or run this on the node's host";
    let one = |command: &str, more: &str| format!("{command} --leader {leader} {more}");
    let all = |command: &str, more: &str| format!("{command} --all --config config.json --ca ca.pem {more}");
    for (line, said) in [
        (one("query", ""), ca_missing),
        (one("explain", ""), ca_missing),
        (one("metrics", ""), ca_missing),
        (one("shutdown", ""), ca_missing),
        (one("query", &format!("--ca {other_ca}")), other_ca_needed),
        (one("metrics", &format!("--ca {other_ca}")), other_ca_needed),
        (one("query", "--ca ca.pem"), token_needed),
        (one("metrics", "--ca ca.pem"), token_needed),
        (one("shutdown", "--ca ca.pem --token-file client.token"), admin_needed),
        (all("shutdown", "--token-file client.token"), admin_needed),
        (
            all("metrics", ""),
            "6 of 6 nodes gave no metrics: A, B, C, D, E, F: a token of role client or admin",
        ),
        (all("metrics", ""), token_needed),
        (one("query", "--ca ca.pem --token-file short.token"), "one line of 16 to 4096 visible ASCII"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = overlay(&words, files.folder.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(said), "{line}: {stderr}");
        assert_eq!(stderr.matches("help: ").count(), 1, "{line}: {stderr}");
    }
    let refused = overlay(
        &["metrics", "--all", "--config", "config.json", "--ca", "ca.pem", "--format", "json"],
        files.folder.path(),
    );
    let nodes: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(nodes.as_array().unwrap().iter().all(|node| node["state"] == "refused"), "{nodes}");
}

/// Goal: whoever asks with TLS where there is none is told to leave it out, not to start what runs. Method: a CA in the words, and
/// in a configuration that the nodes do not run with.
#[tokio::test(flavor = "multi_thread")]
async fn commands_say_that_a_node_serves_without_tls() {
    let files = Files::new();
    let cluster = InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap();
    let leader = cluster.address("A");
    let mut config = cluster.overlay().to_json();
    config["security"] = json!({"tls": files.tls()});
    files.write("config.json", &config.to_string());
    let one = |command: &str| format!("{command} --ca ca.pem --leader {leader}");
    let (host, port) = leader.rsplit_once(':').unwrap();
    for line in [
        one("query"),
        one("explain"),
        one("metrics"),
        one("shutdown"),
        format!("system-test {host} {port} --ca ca.pem"),
        "metrics --all --config config.json".to_owned(),
        "shutdown --all --config config.json".to_owned(),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = overlay(&words, files.folder.path());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let help = "help: the node serves without TLS: leave out --ca";
        assert!(!output.status.success() && stderr.contains(help), "{line}: {stderr}");
    }
}

fn overlay(arguments: &[&str], folder: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_overlay-node")).args(arguments).current_dir(folder).output().unwrap()
}
