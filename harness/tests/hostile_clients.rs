//! What clients cannot do to a node over real sockets: hold it up, fill it, or keep others from their answers.
//!
//! While a node is attacked an honest client asks on, and each of its answers is held against the first. The attackers
//! write bytes themselves, or use the HTTP library without what makes its users polite.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use h2::client::SendRequest;
use overlay::client::{Client, request};
use overlay::frame::Encoding;
use overlay::outside::{Connect, Stream};
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay_harness::answer::{self, ask};
use overlay_harness::cluster::{ClusterSpec, InProcessCluster};
use overlay_harness::oracle::OracleQuery;
use overlay_harness::skip::skipped;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::codegen::http;

/// How long anything that must come about may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Where honest clients are.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Another address of this host.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// What an HTTP/2 client begins with: the preface, and no settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn client_that_does_not_begin_is_closed() {
    let cluster = cluster(json!({"handshake_ms": 300})).await;
    let address = cluster.address("A");
    let attack = async {
        let silent = TcpStream::connect(&address).await.unwrap();
        let slow = TcpStream::connect(&address).await.unwrap();
        let (slow, mut words) = slow.into_split();
        let trickle = async {
            for byte in BEGIN {
                let _ = words.write_all(&[*byte]).await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(ended(silent), ended(slow), trickle);
    };
    answered_during(&cluster, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_answers_no_ping_is_closed() {
    let cluster = cluster(json!({"ping_ms": 200})).await;
    let address = cluster.address("A");
    let attack = async {
        let mut silent = TcpStream::connect(&address).await.unwrap();
        silent.write_all(BEGIN).await.unwrap();
        // Headers that never end: a ping cannot be answered among them.
        let mut endless = TcpStream::connect(&address).await.unwrap();
        endless.write_all(BEGIN).await.unwrap();
        endless.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82").await.unwrap();
        let (endless, mut words) = endless.into_split();
        let trickle = async {
            while words.write_all(b"\0\0\x01\x09\0\0\0\0\x01\x82").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(ended(silent), ended(endless), trickle);
    };
    answered_during(&cluster, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_closed() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let attack = async {
        let mut random = fastrand::Rng::with_seed(0x51f2);
        let mut inputs = vec![
            b"GET\r\n\r\n".to_vec(),
            b"GET / HTTP/1.1\r\n\0: a\r\n\r\n".to_vec(),
            b"PRI * HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00".repeat(20),
        ];
        for _ in 0..50 {
            let mut garbage = vec![0; random.usize(33..2000)];
            random.fill(&mut garbage);
            inputs.push(garbage.clone());
            inputs.push([BEGIN, &garbage].concat());
        }
        for input in inputs {
            let mut socket = TcpStream::connect(&address).await.unwrap();
            // It may be closed before all is written.
            let _ = socket.write_all(&input).await;
            let _ = socket.shutdown().await;
            ended(socket).await;
        }
    };
    answered_during(&cluster, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_the_limit_are_refused() {
    let cluster = cluster(json!({"header_bytes": 4096})).await;
    let address = cluster.address("A");
    let attack = async {
        let (mut sender, _connection) = http2(&address, LOOPBACK, 65_535).await;
        for (bytes, expected) in [(3000, 200), (5000, 431)] {
            let mut request = post("GetMetrics");
            request.headers_mut().insert("x-much", "x".repeat(bytes).try_into().unwrap());
            let (response, mut body) = sender.send_request(request, false).unwrap();
            // The headers alone may have been refused already: then nobody takes the message.
            let _ = body.send_data(framed(&[]), true);
            let status = timeout(WITHIN, response).await.unwrap().unwrap().status();
            assert_eq!(status.as_u16(), expected, "{bytes} bytes");
        }
    };
    answered_during(&cluster, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_that_does_not_arrive_in_time_is_answered_deadline_exceeded() {
    let cluster = cluster(json!({"request_ms": 300})).await;
    let address = cluster.address("A");
    let attack = async {
        let (mut sender, _connection) = http2(&address, LOOPBACK, 65_535).await;
        let (response, mut body) = sender.send_request(post("Query"), false).unwrap();
        let trickle = async {
            for byte in framed(&[0; 1000]) {
                if body.send_data(Bytes::from(vec![byte]), false).is_err() {
                    // The request is over; its answer says why.
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let answered = async {
            let head = timeout(WITHIN, response).await.unwrap().unwrap();
            let status = head.headers()["grpc-status"].to_str().unwrap().to_owned();
            let message = head.headers()["grpc-message"].to_str().unwrap().to_owned();
            (status, message)
        };
        let answered = tokio::select! {
            answered = answered => answered,
            () = trickle => panic!("all of the message was awaited"),
        };
        assert_eq!(answered.0, "4");
        assert!(answered.1.contains("limits.request_ms"), "{}", answered.1);
    };
    answered_during(&cluster, attack).await;
}

/// Goal: an answer that nobody takes is not kept for ever, though its client answers every ping. Method: clients that take
/// nothing, the first bytes, a little again and again, and all but the last bytes.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_does_not_take_its_answer_is_closed() {
    let cluster = cluster(json!({"untaken_ms": 500})).await;
    let address = cluster.address("A");
    let attack = async {
        let whole = whole_answer(&address).await;
        for (window, trickle) in [(0, false), (1, false), (1000, false), (1000, true), (whole - 1000, false)]
        {
            let (mut sender, connection) = http2(&address, LOOPBACK, window).await;
            let (response, mut body) = sender.send_request(post("Query"), false).unwrap();
            body.send_data(framed(&request(&everything(), "greedy").encode_to_vec()), true).unwrap();
            let head = timeout(WITHIN, response).await.unwrap().unwrap();
            assert_eq!(head.status().as_u16(), 200);
            let mut body = head.into_body();
            let taking = async {
                while trickle && let Some(Ok(bytes)) = body.data().await {
                    sleep(Duration::from_millis(20)).await;
                    // It is closed in the end.
                    let _ = body.flow_control().release_capacity(bytes.len());
                }
            };
            let closed = timeout(WITHIN, async { tokio::join!(connection, taking) }).await;
            assert!(closed.is_ok(), "window {window}, trickle {trickle}: the connection stays open");
            // Until now the client wanted to keep it.
            drop((sender, body));
        }
    };
    answered_during(&cluster, attack).await;
}

/// Goal: who takes nothing is closed also where nothing but heads of answers waits to be taken. Method: a client that asks on and on
/// what is answered without a message, and reads none of it.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_does_not_take_heads_is_closed() {
    let cluster = cluster(json!({"untaken_ms": 500})).await;
    let address = cluster.address("A");
    let attack = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
        let requests = "OPTIONS /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
        let asking = async { while socket.write_all(requests.as_bytes()).await.is_ok() {} };
        timeout(WITHIN, asking).await.expect("the connection is closed");
    };
    answered_during(&cluster, attack).await;
}

/// Goal: answers that nobody takes, and requests that do not end, fill no node, and leave room to other addresses. Method: one
/// address asks for all rows until it is refused, then sends requests that lack their last byte.
#[tokio::test(flavor = "multi_thread")]
async fn messages_on_their_way_have_a_bound() {
    const LIMIT: usize = 128 << 20;
    let cluster = cluster(json!({"transit_bytes": LIMIT})).await;
    let address = cluster.address("A");
    let other = Client::over(Arc::new(From(ELSEWHERE)), &address, "other").unwrap();
    let result = other.query(&everything()).await.unwrap();
    let everything = framed(&request(&everything(), "greedy").encode_to_vec());
    let longest = framed(&[0; 1 << 20]);
    for (message, ends) in [(everything, true), (longest.slice(..longest.len() - 1), false)] {
        let attack = async {
            let (mut sender, connection) = http2(&address, ELSEWHERE, 0).await;
            let mut open = Vec::new();
            let mut answers = FuturesUnordered::new();
            let mut heads = Vec::new();
            for _ in 0..2 * LIMIT / (1 << 20) {
                let (response, mut body) = sender.send_request(post("Query"), false).unwrap();
                body.send_data(message.clone(), ends).unwrap();
                open.push(body);
                answers.push(response);
            }
            let refused = loop {
                let head =
                    timeout(WITHIN, answers.next()).await.expect("a request is refused").unwrap().unwrap();
                if head.headers().contains_key("grpc-status") {
                    break head;
                }
                heads.push(head);
            };
            assert_eq!(refused.headers()["grpc-status"], "8");
            let message = refused.headers()["grpc-message"].to_str().unwrap();
            assert!(message.contains("limits.transit_bytes"), "{message}");
            let full = transit_bytes(&cluster).await;
            assert!((LIMIT / 2..LIMIT).contains(&full), "{full}");
            let chunk = match other.chunks(&result, 0).await {
                Ok(chunks) => std::pin::pin!(chunks).next().await.unwrap(),
                Err(refused) => Err(refused),
            };
            let refused = chunk.unwrap_err().to_string();
            assert!(refused.contains("limits.transit_bytes"), "{refused}");
            drop((open, answers, heads, sender));
            connection.abort();
            let begun = Instant::now();
            while transit_bytes(&cluster).await > LIMIT / 8 {
                assert!(begun.elapsed() < WITHIN, "bytes are not given back");
                sleep(Duration::from_millis(20)).await;
            }
        };
        answered_during(&cluster, attack).await;
    }
}

/// Bytes of the answer to a query for everything, as they are on the wire.
async fn whole_answer(address: &str) -> u32 {
    let (mut sender, _connection) = http2(address, LOOPBACK, 16 << 20).await;
    let (response, mut body) = sender.send_request(post("Query"), false).unwrap();
    body.send_data(framed(&request(&everything(), "polite").encode_to_vec()), true).unwrap();
    let mut body = timeout(WITHIN, response).await.unwrap().unwrap().into_body();
    let mut bytes = 0;
    while let Some(data) = timeout(WITHIN, body.data()).await.unwrap() {
        bytes += data.unwrap().len();
    }
    bytes as u32
}

async fn transit_bytes(cluster: &InProcessCluster) -> usize {
    let metrics = Client::new(&cluster.address("A"), "looks").unwrap().metrics().await.unwrap();
    let line = metrics.exposition.lines().find_map(|line| line.strip_prefix("overlay_transit_bytes "));
    line.unwrap().parse().unwrap()
}

/// Goal: streams that nobody takes from leave their places to others, and say what became of them. Method: there is one
/// place; its client takes the first bytes of the first chunk.
#[tokio::test(flavor = "multi_thread")]
async fn stream_that_nobody_takes_from_gives_its_place_back() {
    let cluster = cluster(json!({"streams": 1, "idle_stream_ms": 500})).await;
    let address = cluster.address("A");
    let client = Client::new(&address, "c").unwrap();
    let result = client.query(&everything()).await.unwrap();
    assert!(result.chunk_count() > 2, "the first chunks are larger than the window");
    let wanted =
        v1::StreamChunksRequest { uid: result.uid.clone(), client_id: "c".to_owned(), first_chunk: 0 };
    let attack = async {
        let (mut sender, _connection) = http2(&address, LOOPBACK, 65_535).await;
        let (response, mut body) = sender.send_request(post("StreamChunks"), false).unwrap();
        body.send_data(framed(&wanted.encode_to_vec()), true).unwrap();
        let mut chunks = timeout(WITHIN, response).await.unwrap().unwrap().into_body();
        let begun = Instant::now();
        while client.chunks(&result, 0).await.is_err() {
            assert!(begun.elapsed() < WITHIN, "the place is not given back");
            sleep(Duration::from_millis(20)).await;
        }
        while let Some(data) = timeout(WITHIN, chunks.data()).await.unwrap() {
            let bytes = data.unwrap().len();
            chunks.flow_control().release_capacity(bytes).unwrap();
        }
        let trailers = chunks.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        let message = trailers["grpc-message"].to_str().unwrap();
        assert!(message.contains("limits.idle_stream_ms"), "{message}");
    };
    answered_during(&cluster, attack).await;
}

/// Goal: one address cannot take the places of others, and whoever finds none is told so.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_told_so_and_closed() {
    let cluster = cluster(json!({"address_connections": 30, "connections": 60})).await;
    let address = cluster.address("A");
    let attack = async {
        let mut open = Vec::new();
        let told = loop {
            let mut socket = TcpStream::connect(&address).await.unwrap();
            let mut head = [0; 9];
            socket.write_all(BEGIN).await.unwrap();
            // A server's settings come first; who is refused reads GOAWAY next.
            let mut words = Vec::new();
            while !words.ends_with(b"limits.address_connections)") {
                match timeout(Duration::from_millis(200), socket.read(&mut head)).await {
                    Ok(Ok(bytes @ 1..)) => words.extend_from_slice(&head[..bytes]),
                    _ => break,
                }
            }
            if words.ends_with(b"limits.address_connections)") {
                break String::from_utf8_lossy(&words).into_owned();
            }
            open.push(socket);
            assert!(open.len() <= 30, "no connection is refused");
        };
        assert!(told.contains("30 connections are open from this address, limit 30"), "{told:?}");
        let refused = Client::new(&address, "late").unwrap().metrics().await.unwrap_err();
        assert!(!refused.to_string().is_empty(), "{refused}");
        let other = Client::over(Arc::new(From(ELSEWHERE)), &address, "other").unwrap();
        other.metrics().await.expect("another address has places");
        drop(open);
        let begun = Instant::now();
        while Client::new(&address, "again").unwrap().metrics().await.is_err() {
            assert!(begun.elapsed() < WITHIN, "places are not given back");
            sleep(Duration::from_millis(20)).await;
        }
    };
    answered_during(&cluster, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_keep_nobody_waiting() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let attack = async {
        let mut open = Vec::new();
        while open.len() < 2000 {
            match TcpStream::connect(&address).await {
                Ok(mut socket) => {
                    socket.write_all(BEGIN).await.unwrap();
                    open.push(socket);
                }
                Err(error) => {
                    skipped(format!("{} idle connections", 2000 - open.len()), error.to_string());
                    break;
                }
            }
        }
        let honest = Client::new(&address, "beside them").unwrap();
        for _ in 0..20 {
            ask(&honest, &everything()).await.expect("answered");
        }
    };
    answered_during(&cluster, attack).await;
}

/// Goal: opening requests and resetting them at once (CVE-2023-44487) costs the one who does it his connection.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_opens_and_resets_requests_is_closed() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let attack = async {
        let (sender, connection) = http2(&address, LOOPBACK, 65_535).await;
        let flood = async move {
            for _ in 0..200_000 {
                let Ok(mut sender) = sender.clone().ready().await else { return true };
                match sender.send_request(post("Query"), false) {
                    Ok((_, mut body)) => body.send_reset(h2::Reason::CANCEL),
                    Err(_) => return true,
                }
                tokio::task::yield_now().await;
            }
            false
        };
        assert!(timeout(WITHIN, flood).await.unwrap(), "the connection stays open");
        let closed = timeout(WITHIN, connection).await.unwrap().unwrap();
        assert!(closed.is_err(), "{closed:?}");
    };
    answered_during(&cluster, attack).await;
}

/// Six nodes in this process, on the fixtures.
async fn cluster(limits: Value) -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures().with(json!({"limits": limits}))).await.unwrap()
}

/// Asks for ozone again and again while the attack lasts, and once more after it.
async fn answered_during(cluster: &InProcessCluster, attack: impl Future<Output = ()>) {
    let client = Client::new(&cluster.address("A"), "honest").unwrap();
    let ozone = OracleQuery { parameter: Some("OZONE".to_owned()), ..OracleQuery::default() };
    let query = answer::query(&ozone, Encoding::Json);
    let (_, expected) = ask(&client, &query).await.unwrap();
    let answered = async || {
        let (_, rows) = ask(&client, &query).await.expect("an honest client is answered");
        assert_eq!(rows, expected);
    };
    let asking = async {
        loop {
            answered().await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = attack => {}
        () = asking => {}
    }
    answered().await;
}

/// All rows, in chunks as large as they may be.
fn everything() -> Query {
    let chunking = ChunkingChoice { chunk_rows: Some(1_000_000), ..ChunkingChoice::default() };
    Query { encoding: Encoding::Json, chunking, ..Query::default() }
}

/// Waits until the node has closed a connection.
async fn ended(mut socket: impl tokio::io::AsyncRead + Unpin) {
    let closed = async { while matches!(socket.read(&mut [0; 1024]).await, Ok(1..)) {} };
    timeout(WITHIN, closed).await.expect("the connection is closed");
}

type Ended = JoinHandle<Result<(), h2::Error>>;

/// A connection from an address, of a client that takes no more than `window` bytes of each answer by itself.
async fn http2(address: &str, from: IpAddr, window: u32) -> (SendRequest<Bytes>, Ended) {
    let socket = From(from).connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (mut sender, connection) = builder
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    (sender, connection)
}

fn post(verb: &str) -> http::Request<()> {
    http::Request::post(format!("http://a/overlay.v1.Overlay/{verb}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// A message with its head: not compressed, and so long.
fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

/// Connects from an address.
struct From(IpAddr);

impl Connect for From {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (from, to) = (self.0, address.parse());
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let to = to.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            Ok(Box::new(socket.connect(to).await?) as Box<dyn Stream>)
        }
        .boxed()
    }
}
