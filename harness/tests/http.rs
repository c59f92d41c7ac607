//! HTTP beside gRPC on the port of a node: every format against the oracle, failures, tokens, and what slow clients get.

use std::collections::BTreeSet;
use std::time::Duration;

use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use overlay::admission::{ClientKey, QueryCost};
use overlay::proto::v1;
use overlay_harness::answer::{self, assert_equal_rows};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, fixtures, wait_until};
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, TeamRange, random_query};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::printer::print_schema;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long anything that must come about may take.
const WITHIN: Duration = Duration::from_secs(60);

/// A whole answer.
struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = timeout(WITHIN, body.collect()).await.expect("it ends").expect("it ends well");
        Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A failure, with the words that its detail must have.
    fn assert_problem(&self, status: u16, kind: &str, words: &[&str]) {
        let document = self.json();
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!((self.status, &document["status"]), (status, &json!(status)), "{document}");
        assert_eq!(document["type"], format!("urn:overlay:problem:{kind}"), "{document}");
        let detail = document["detail"].as_str().unwrap();
        assert!(words.iter().all(|word| detail.contains(word)), "{words:?} in {detail}");
    }
}

fn request(method: Method, address: &str, path: &str) -> Request<Empty<Bytes>> {
    let uri = format!("http://{address}{path}");
    Request::builder().method(method).uri(uri).header("host", address).body(Empty::new()).unwrap()
}

/// Sends a request over a connection of its own, in HTTP/1.1.
async fn send(request: Request<Empty<Bytes>>) -> Response<Incoming> {
    let address = request.uri().authority().unwrap().to_string();
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    timeout(WITHIN, sender.send_request(request)).await.expect("it is answered").unwrap()
}

async fn get(address: &str, path: &str) -> Answer {
    Answer::of(send(request(Method::GET, address, path)).await).await
}

async fn get_over_http2(address: &str, path: &str) -> Answer {
    Answer::of(send_over_http2(address, request(Method::GET, address, path)).await).await
}

/// Sends a request over a connection of its own to `address`, whatever the request calls it, in HTTP/2.
async fn send_over_http2(address: &str, request: Request<Empty<Bytes>>) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    timeout(WITHIN, sender.send_request(request)).await.expect("it is answered").unwrap()
}

fn oracle() -> Oracle {
    Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap()
}

async fn cluster(limits: Value) -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures().with(json!({"limits": limits}))).await.unwrap()
}

/// The oracle's query as a URL has it.
fn url(query: &OracleQuery) -> String {
    let mut url = form_urlencoded::Serializer::new(String::new());
    let texts = [
        ("parameter", &query.parameter),
        ("min", &query.min),
        ("max", &query.max),
        ("team", &query.team),
        ("site", &query.site),
        ("agency", &query.agency),
        ("search", &query.text),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            url.append_pair(name, value);
        }
    }
    for (name, day) in [("from", query.date_start), ("to", query.date_end)] {
        if let Some(day) = day {
            url.append_pair(name, &day.to_string());
        }
    }
    let bounds = [
        query.lon_min.unwrap_or(-180.0),
        query.lat_min.unwrap_or(-90.0),
        query.lon_max.unwrap_or(180.0),
        query.lat_max.unwrap_or(90.0),
    ];
    url.append_pair("bbox", &bounds.map(|bound| bound.to_string()).join(","));
    if let Some(limit) = query.limit {
        url.append_pair("limit", &limit.to_string());
    }
    url.finish()
}

fn rows_of(format: &str, answer: &Answer) -> Vec<Value> {
    match format {
        "ndjson" => answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        "json" => serde_json::from_slice(&answer.body).unwrap(),
        "csv" => rows_of_csv(&answer.body),
        "arrow" => rows_of_arrow(&answer.body),
        "parquet" => rows_of_parquet(&answer.body),
        other => unreachable!("{other}"),
    }
}

/// Numbers where the columns have numbers, null where nothing is written.
fn rows_of_csv(body: &[u8]) -> Vec<Value> {
    const TEXTS: [&str; 9] = [
        "timestamp",
        "parameter",
        "unit",
        "site_name",
        "agency_name",
        "aqs_id",
        "full_aqs_id",
        "date",
        "team",
    ];
    let mut reader = csv::Reader::from_reader(body);
    let columns = reader.headers().unwrap().clone();
    let value = |(column, field): (&str, &str)| {
        let value = match field {
            text if TEXTS.contains(&column) => json!(text),
            "" => Value::Null,
            number => serde_json::from_str(number).unwrap(),
        };
        (column.to_owned(), value)
    };
    let row = |record: csv::StringRecord| columns.iter().zip(&record).map(value).collect();
    reader.records().map(|record| row(record.unwrap())).collect()
}

fn rows_of_arrow(body: &[u8]) -> Vec<Value> {
    let reader = StreamReader::try_new(body, None).unwrap();
    reader.flat_map(|batch| answer::arrow_rows(&batch.unwrap(), None)).collect()
}

fn rows_of_parquet(body: &[u8]) -> Vec<Value> {
    let reader = ParquetRecordBatchReader::try_new(Bytes::copy_from_slice(body), 1000).unwrap();
    reader.flat_map(|batch| answer::arrow_rows(&batch.unwrap(), None)).collect()
}

/// What every format has: the day of a row stands in Arrow and Parquet only as its time.
fn in_arrow(rows: Vec<Value>) -> Vec<Value> {
    let without_date = |mut row: Value| {
        row.as_object_mut().unwrap().remove("date");
        row
    };
    rows.into_iter().map(without_date).collect()
}

/// Goal: whatever is asked, and in whatever format, the rows are the oracle's, in their order.
/// Method: random filters, each in every format, over HTTP/1.1 and HTTP/2 in turn.
#[tokio::test(flavor = "multi_thread")]
async fn every_format_has_the_oracles_rows() {
    let (cluster, oracle) = (cluster(json!({})).await, oracle());
    let address = cluster.address("A");
    let mut rng = fastrand::Rng::with_seed(0x51f2);
    for number in 0..40 {
        let query = random_query(&mut rng, &oracle);
        let expected: Vec<Value> = oracle.rows(&query).into_iter().map(|row| row.to_json()).collect();
        for format in ["ndjson", "csv", "json", "arrow", "parquet"] {
            let path = format!("/api/v1/query?{}&format={format}", url(&query));
            let answer = match number % 2 {
                0 => get(&address, &path).await,
                _ => get_over_http2(&address, &path).await,
            };
            assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
            assert_eq!(answer.header("overlay-total-rows"), expected.len().to_string(), "{path}");
            let rows = rows_of(format, &answer);
            match format {
                "arrow" | "parquet" => assert_equal_rows(&path, &in_arrow(expected.clone()), &in_arrow(rows)),
                _ => assert_equal_rows(&path, &expected, &rows),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_the_oracles() {
    let (cluster, oracle) = (cluster(json!({})).await, oracle());
    let query = OracleQuery { parameter: Some("OZONE".to_owned()), ..OracleQuery::default() };
    let expected = oracle.aggregate(&query, Measure::Value, &[GroupKey::Agency, GroupKey::Day]);
    assert!(expected.len() > 10);
    for format in ["ndjson", "csv", "json", "arrow", "parquet"] {
        let path = format!("/api/v1/aggregate?of=value&group_by=agency,day&parameter=ozone&format={format}");
        let answer = get(&cluster.address("A"), &path).await;
        assert_equal_rows(&path, &expected, &rows_of(format, &answer));
    }
}

/// Goal: a Parquet file says what its columns are to readers that know nothing of Arrow. Method: the types that its footer has.
#[tokio::test(flavor = "multi_thread")]
async fn parquet_has_types_of_its_own() {
    let cluster = cluster(json!({})).await;
    let answer = get(&cluster.address("A"), "/api/v1/query?format=parquet").await;
    assert_eq!(answer.header("content-type"), "application/vnd.apache.parquet");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"observations.parquet\"");
    let reader = SerializedFileReader::new(Bytes::from(answer.body)).unwrap();
    let mut schema = Vec::new();
    print_schema(&mut schema, reader.metadata().file_metadata().schema());
    let expected = "message arrow_schema {
  REQUIRED DOUBLE latitude;
  REQUIRED DOUBLE longitude;
  REQUIRED INT64 timestamp (TIMESTAMP(MILLIS,true));
  REQUIRED BYTE_ARRAY parameter (STRING);
  OPTIONAL DOUBLE value;
  REQUIRED BYTE_ARRAY unit (STRING);
  OPTIONAL DOUBLE raw_concentration;
  OPTIONAL INT32 aqi (INTEGER(16,true));
  OPTIONAL INT32 category (INTEGER(8,true));
  REQUIRED BYTE_ARRAY site_name (STRING);
  REQUIRED BYTE_ARRAY agency_name (STRING);
  REQUIRED BYTE_ARRAY aqs_id (STRING);
  REQUIRED BYTE_ARRAY full_aqs_id (STRING);
}
";
    assert_eq!(String::from_utf8(schema).unwrap(), expected);
}

/// Goal: an answer comes piece by piece, with a head that says what it is. Method: a result of many chunks, in small ones.
#[tokio::test(flavor = "multi_thread")]
async fn answer_is_a_stream() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let path = "/api/v1/query?format=csv&chunking=fixed&chunk-rows=50";
    let response = send(request(Method::GET, &address, path)).await;
    let headers = response.headers().clone();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("transfer-encoding"), Some("chunked"));
    assert_eq!(header("content-length"), None);
    assert_eq!(header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(header("content-disposition"), Some("attachment; filename=\"observations.csv\""));
    assert_eq!(header("overlay-limit-reached"), Some("false"));
    assert_eq!(header("access-control-allow-origin"), None);
    assert!(header("overlay-uid").is_some_and(|uid| !uid.is_empty()));
    let (mut body, mut pieces) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        pieces += usize::from(frame.unwrap().is_data());
    }
    assert!(pieces > 10, "{pieces} pieces");
    let state = cluster.node("A").state();
    let closed = wait_until(WITHIN, async || (state.gauges().open_result_sets == 0).then_some(()));
    assert!(closed.await.is_some(), "the result set stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_is_said_to_be_reached() {
    let cluster = cluster(json!({})).await;
    let answer = get(&cluster.address("A"), "/api/v1/query?limit=3").await;
    assert_eq!((answer.text().lines().count(), answer.header("overlay-limit-reached")), (3, "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_problems_that_name_what_is_allowed() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let mistakes = [
        (
            "query?colour=red",
            400,
            "invalid",
            &["unknown parameter `colour`", "parameter, min, max", "timeout_ms"][..],
        ),
        ("query?of=value", 400, "invalid", &["unknown parameter `of`"]),
        ("metrics?limit=1", 400, "invalid", &["none is taken here"]),
        ("query?min=many", 400, "invalid", &["min: `many` is not a number"]),
        ("query?min=35&max=5", 400, "invalid", &["min 35 is above max 5"]),
        ("query?min=1&min=2", 400, "invalid", &["min comes twice"]),
        ("query?from=20200230", 400, "invalid", &["from: "]),
        ("query?from=20200824&to=20200810", 400, "invalid", &["from 20200824 is after to 20200810"]),
        ("query?bbox=1,2,3", 400, "invalid", &["bbox: 3 numbers, expected 4"]),
        ("query?limit=5&site=Pe%F1asco", 400, "invalid", &["`site=Pe%F1asco` is not text", "UTF-8"]),
        ("query?limit=0", 400, "invalid", &["limit: `0` is not a number of rows"]),
        ("query?limit=200000000", 400, "invalid", &["limits.max_rows"]),
        (
            "query?format=xml",
            400,
            "invalid",
            &["format: unknown `xml` (choices: ndjson, csv, json, arrow, parquet)"],
        ),
        (
            "aggregate?of=colour",
            400,
            "invalid",
            &["of: unknown `colour` (choices: value, raw_concentration, aqi)"],
        ),
        ("aggregate?group_by=site,colour", 400, "invalid", &["group_by: unknown `colour`"]),
        ("aggregate?group_by=site,site", 400, "invalid", &["group_by names `site` twice"]),
        ("nothing", 404, "not_found", &["/api/v1/nothing", "/api/v1/query"]),
    ];
    for (path, status, kind, words) in mistakes {
        get(&address, &format!("/api/v1/{path}")).await.assert_problem(status, kind, words);
        get_over_http2(&address, &format!("/api/v1/{path}")).await.assert_problem(status, kind, words);
    }
    let field = get(&address, "/api/v1/query?min=many").await.json()["field"].clone();
    assert_eq!(field, "min");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_seen_from_rows_is_noted_as_on_the_command_line() {
    let cluster = cluster(json!({})).await;
    let unknown = |days, name| {
        format!(
            "none of {days} has a row of parameter `{name}`; names are as in the files, such as PM2.5 or OZONE"
        )
    };
    let no_day = "no team that the node answers for owns a day of this query";
    let own_team = "node `C` answers for its own team only, green; the leader answers for all";
    for (node, path, note) in [
        ("A", "query?parameter=PM2.5", ""),
        ("A", "query?parameter=PM2.5&min=500", "nothing matches"),
        ("A", "query?parameter=PM25", &unknown("46 days", "PM25")),
        ("A", "query?parameter=PM%E2%82%82%0A", &unknown("46 days", r"PM\u{2082}\u{fffd}")),
        ("A", "query?team=blue", no_day),
        ("A", "aggregate?parameter=PM25&from=20200820&to=20200820", &unknown("1 day", "PM25")),
        ("A", "map.svg?parameter=PM25", &unknown("46 days", "PM25")),
        ("A", "hours?team=blue", no_day),
        ("A", "series.svg?parameter=PM25", &unknown("46 days", "PM25")),
        ("A", "coverage?parameter=PM25", &unknown("46 days", "PM25")),
        ("A", "coverage.svg?team=blue", no_day),
        ("C", "query?parameter=PM2.5", own_team),
        ("C", "query?parameter=PM2.5&team=green", ""),
        ("C", "query?team=pink", &format!("{own_team}; {no_day}")),
    ] {
        let answer = get(&cluster.address(node), &format!("/api/v1/{path}")).await;
        assert_eq!((answer.status, answer.header("overlay-note")), (200, note), "{node} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_value_says_as_little_as_an_absent_one() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let path = "/api/v1/query?parameter=&min=&max=&from=&to=&bbox=&search=&limit=5&format=";
    let (empty, absent) = (get(&address, path).await, get(&address, "/api/v1/query?limit=5").await);
    assert_eq!((empty.status, empty.text()), (200, absent.text()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_answered_as_http_has_it() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let path = "/api/v1/query?limit=5";
    let send = async |method| Answer::of(send(request(method, &address, path)).await).await;
    let head = send(Method::HEAD).await;
    assert_eq!((head.status, head.header("overlay-total-rows"), head.body.len()), (200, "5", 0));
    let options = send(Method::OPTIONS).await;
    assert_eq!((options.status, options.header("allow")), (204, "GET, HEAD, OPTIONS"));
    let delete = send(Method::DELETE).await;
    delete.assert_problem(405, "method_not_allowed", &["DELETE /api/v1/query"]);
    assert_eq!(delete.header("allow"), "GET, HEAD, OPTIONS");
}

/// Goal: a browser takes no answer for anything else, whoever gives it. Method: the page and a path; what is refused by a path, for
/// lack of one, for the name that the node is called by, for the version.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_browsers_what_they_may_do_with_it() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let asked = |method, path| request(method, &address, path);
    let mut elsewhere = asked(Method::GET, "/api/v1/metrics");
    elsewhere.headers_mut().insert("host", "elsewhere.example".parse().unwrap());
    let mut old = asked(Method::GET, "/livez");
    *old.version_mut() = hyper::Version::HTTP_10;
    for (status, request) in [
        (200, asked(Method::GET, "/")),
        (200, asked(Method::GET, "/api/v1/query?limit=1")),
        (204, asked(Method::OPTIONS, "/livez")),
        (400, asked(Method::GET, "/api/v1/query?limit=0")),
        (404, asked(Method::GET, "/api/v1/nothing")),
        (404, asked(Method::POST, "/nothing")),
        (405, asked(Method::DELETE, "/livez")),
        (421, elsewhere),
        (505, old),
    ] {
        let answer = Answer::of(send(request).await).await;
        let names = ["cache-control", "x-content-type-options", "content-security-policy"];
        let [cache, sniffing, policy] = names.map(|name| answer.header(name));
        assert_eq!((answer.status, cache, sniffing), (status, "no-store", "nosniff"), "{}", answer.text());
        assert!(policy.starts_with("default-src 'none'"), "{status}: {policy}");
    }
}

/// Goal: HEAD has the headers of GET and nothing behind them, also where it is refused before any path is looked at. Method: what
/// is answered, refused by the path, by the token and by a limit, in both versions.
#[tokio::test(flavor = "multi_thread")]
async fn head_is_the_head_of_get() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let file = folder.path().join("tokens.json");
    std::fs::write(&file, r#"[{"name": "nodes", "role": "peer", "token": "a-token-of-the-nodes"}]"#).unwrap();
    let with_tokens =
        InProcessCluster::start(ClusterSpec::fixtures().with(json!({"security": {"tokens": file}})))
            .await
            .unwrap();
    let without = cluster(json!({})).await;
    for (cluster, path, status) in [
        (&without, "/livez", 200),
        (&without, "/api/v1/query?limit=5", 200),
        (&without, "/api/v1/query?limit=0", 400),
        (&without, "/nothing", 404),
        (&with_tokens, "/api/v1/query", 401),
    ] {
        let address = cluster.address("A");
        let mut heads = Vec::new();
        for method in [Method::GET, Method::HEAD] {
            heads.push(Answer::of(send(request(method.clone(), &address, path)).await).await);
            heads.push(Answer::of(send_over_http2(&address, request(method, &address, path)).await).await);
        }
        // What says how the body comes, and what differs between two answers.
        let same = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            for name in ["date", "overlay-uid", "transfer-encoding"] {
                headers.remove(name);
            }
            (answer.status, headers)
        };
        for (get, head) in [(&heads[0], &heads[2]), (&heads[1], &heads[3])] {
            assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
            assert_eq!(same(head), same(get), "{path}");
        }
    }
}

/// Goal: programs that need a length before they read (and a progress bar that has an end) get it wherever it is known.
#[tokio::test(flavor = "multi_thread")]
async fn answer_that_is_there_at_once_says_its_length() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    for path in ["/livez", "/metrics", "/api/v1/topology", "/api/v1/query?limit=0"] {
        for answer in [get(&address, path).await, get_over_http2(&address, path).await] {
            assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{path}");
        }
    }
    let rows = get(&address, "/api/v1/query").await;
    assert_eq!(rows.header("content-length"), "", "a stream ends where it ends");
}

/// Goal: an answer that cannot be whole does not begin as one, however well its query is known. Method: a result that is kept,
/// whose chunks are not, and whose days nobody can be asked for any more; and one whose chunks are kept, too.
#[tokio::test(flavor = "multi_thread")]
async fn result_that_is_known_is_refused_when_its_days_are_out_of_reach() {
    for (chunk_bytes, status) in [(0, 503), (8 << 20, 200)] {
        let spec = ClusterSpec::fixtures().with(json!({"cache": {"chunk_bytes": chunk_bytes}}));
        let mut cluster = InProcessCluster::start(spec).await.unwrap();
        let address = cluster.address("A");
        let path = "/api/v1/query?parameter=PM2.5&format=csv&chunk-rows=100";
        let before = get(&address, path).await;
        assert_eq!(before.status, 200);
        for node in ["E", "F", "D"] {
            cluster.crash(node).await.unwrap();
        }
        let marked = async || (cluster.node("A").state().gauges().marked_nodes >= 3).then_some(());
        wait_until(READY_WITHIN, marked).await.expect("they are missed");
        let after = get(&address, path).await;
        assert_eq!(after.status, status, "with {chunk_bytes} bytes for chunks: {}", after.text());
        match status {
            503 => after.assert_problem(503, "unavailable", &["20200821"]),
            _ => assert_eq!(after.text(), before.text()),
        }
    }
}

/// Goal: a page of another site, whose name leads to a node, does not read it from the browser of somebody whom the node trusts.
/// Method: requests that call the node by names that it has and has not.
#[tokio::test(flavor = "multi_thread")]
async fn node_is_not_asked_by_the_name_of_another_site() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let called = |name: &str, path: &str| {
        let mut request = request(Method::GET, &address, path);
        request.headers_mut().insert("host", name.try_into().unwrap());
        request
    };
    for name in [
        "evil.example",
        "evil.example:60051",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1x",
        "[::1].evil.example",
    ] {
        for path in ["/api/v1/query?limit=1", "/api/v1/topology", "/metrics", "/nothing"] {
            let answer = Answer::of(send(called(name, path)).await).await;
            answer.assert_problem(
                421,
                "misdirected",
                &[name.trim_end_matches(":60051"), "localhost", "security.tokens"],
            );
        }
        assert_eq!(send(called(name, "/readyz")).await.status(), 200, "health is for anybody");
    }
    let (port, path) = (address.rsplit_once(':').unwrap().1, "/api/v1/query?limit=1");
    for name in [
        "127.0.0.1",
        "192.0.2.1:80",
        "[::1]",
        "[::1]:60051",
        "localhost",
        "LOCALHOST.:1",
        &format!("localhost:{port}"),
        "page.localhost",
    ] {
        assert_eq!(send(called(name, path)).await.status(), 200, "{name}");
    }
    let mut over_http2 = request(Method::GET, "evil.example", path);
    over_http2.headers_mut().remove("host");
    let answer = Answer::of(send_over_http2(&address, over_http2).await).await;
    answer.assert_problem(421, "misdirected", &["evil.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_out_of_reach_are_named_with_the_nodes_tried() {
    let mut cluster = cluster(json!({})).await;
    for node in ["E", "F", "D"] {
        cluster.crash(node).await.unwrap();
    }
    let address = cluster.address("A");
    let answer = get(&address, "/api/v1/query").await;
    answer.assert_problem(503, "unavailable", &["20200821"]);
    assert_eq!(answer.header("retry-after"), "2");
    let document = answer.json();
    assert!(document["days"][0].as_str().unwrap().starts_with("20200821"), "{document}");
    assert_eq!(document["retry_after_ms"], 2000);
    assert!(!document["nodes"].as_array().unwrap().is_empty(), "{document}");
    let partial = get(&address, "/api/v1/query?partial=true&format=json").await;
    assert_eq!(partial.status, 200);
    assert!(partial.header("overlay-missing-days").starts_with("20200821"));
    let green = OracleQuery { team: Some("green".to_owned()), ..OracleQuery::default() };
    let oracle = oracle();
    let expected: Vec<Value> = oracle.rows(&green).into_iter().map(|row| row.to_json()).collect();
    assert_equal_rows(&"partial", &expected, &rows_of("json", &partial));
    let topology = get(&address, "/api/v1/topology").await.json();
    let health = |id: &str| {
        let nodes = topology["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["id"] == id).unwrap()["health"].clone()
    };
    assert_eq!(health("A"), json!("up"));
    assert_ne!(health("E"), json!("up"));
}

/// The only place for queries, as another client has it.
async fn only_place(cluster: &InProcessCluster) -> impl Drop {
    let cost = QueryCost {
        client: ClientKey::new("10.0.0.1", "another"),
        request_id: None,
        teams: [("green".into(), 1)].into_iter().collect(),
    };
    cluster.node("A").state().coordinator.admission().admit(cost).await.unwrap()
}

/// Goal: a full queue says which limit was met and when to come back. Method: no query may wait, and the only place is taken.
#[tokio::test(flavor = "multi_thread")]
async fn overload_says_which_limit_and_when_to_come_back() {
    let cluster = cluster(json!({"max_active": 1, "queue_length": 0})).await;
    let address = cluster.address("A");
    let place = only_place(&cluster).await;
    let answer = get(&address, "/api/v1/query?limit=5").await;
    answer.assert_problem(429, "overloaded", &["limits.queue_length"]);
    assert_eq!(answer.json()["limit"], "limits.queue_length");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    drop(place);
    assert_eq!(get(&address, "/api/v1/query?limit=5").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_that_waits_for_too_long_is_told_that_time_is_up() {
    let cluster = cluster(json!({"max_active": 1})).await;
    let _place = only_place(&cluster).await;
    let answer = get(&cluster.address("A"), "/api/v1/query?timeout_ms=100").await;
    answer.assert_problem(
        504,
        "deadline_exceeded",
        &["the deadline passed after", "timeout_ms, limits.query_ms"],
    );
}

/// Goal: the work of a client that goes away ends. Method: clients that read the head of a long answer and no more.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_vanishes_leaves_nothing_behind() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    for _ in 0..10 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket
            .write_all(b"GET /api/v1/query?chunk-rows=1&chunking=fixed HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 16];
        socket.read_exact(&mut first).await.unwrap();
        assert_eq!(&first[..12], b"HTTP/1.1 200");
    }
    let state = cluster.node("A").state();
    let idle = wait_until(WITHIN, async || {
        let gauges = state.gauges();
        let left =
            (gauges.open_streams, gauges.open_result_sets, gauges.orphaned_tasks, gauges.transit_bytes);
        (left == (0, 0, 0, 0)).then_some(())
    });
    assert!(idle.await.is_some(), "{:?}", state.gauges());
}

/// Goal: an answer that ends in the middle does not look whole. Method: nobody can read on after the first chunks.
#[tokio::test(flavor = "multi_thread")]
async fn answer_that_fails_in_the_middle_breaks_off() {
    for format in ["ndjson", "csv", "json", "arrow", "parquet"] {
        let mut cluster = InProcessCluster::start(
            ClusterSpec::fixtures().with(json!({"cache": {"chunk_bytes": 0}, "limits": {"query_ms": 2000}})),
        )
        .await
        .unwrap();
        let address = cluster.address("A");
        let path = format!("/api/v1/query?chunk-rows=1&chunking=fixed&format={format}");
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 16];
        socket.read_exact(&mut answer).await.unwrap();
        for node in ["B", "C", "D", "E", "F"] {
            cluster.crash(node).await.unwrap();
        }
        let ended = timeout(WITHIN, socket.read_to_end(&mut answer)).await.expect("it ends");
        let is_whole = answer.ends_with(b"\r\n0\r\n\r\n") || answer.ends_with(b"0\r\n\r\n");
        assert!(
            ended.is_err() || !is_whole,
            "{format}: {}",
            String::from_utf8_lossy(&answer[answer.len() - 200..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_that_does_not_end_is_closed() {
    let cluster = cluster(json!({"ping_ms": 300})).await;
    let address = cluster.address("A");
    let started = Instant::now();
    let stream = TcpStream::connect(&address).await.unwrap();
    let (mut answers, mut words) = stream.into_split();
    let trickle = async {
        let head =
            b"GET /livez HTTP/1.1\r\n".iter().chain(b"x-slow: ".iter()).chain(std::iter::repeat(&b'x'));
        for byte in head {
            if words.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = async { while matches!(answers.read(&mut [0; 1024]).await, Ok(1..)) {} };
    tokio::select! {
        () = async { tokio::join!(trickle, std::future::pending::<()>()); } => {}
        closed = timeout(WITHIN, closed) => closed.expect("it is closed"),
    }
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_beyond_the_limit_is_refused() {
    let cluster = cluster(json!({"header_bytes": 16_384})).await;
    let address = cluster.address("A");
    for (bytes, expected) in [(12_000, 200), (20_000, 431)] {
        let mut request = request(Method::GET, &address, "/livez");
        request.headers_mut().insert("x-much", "x".repeat(bytes).try_into().unwrap());
        assert_eq!(send(request).await.status().as_u16(), expected, "{bytes} bytes");
    }
}

/// Goal: who sends its next request at once, and takes no answer, is no exception. Method: two requests in one write.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_takes_no_answer_is_closed() {
    let cluster = cluster(json!({"untaken_ms": 500})).await;
    let address = cluster.address("A");
    let mut sockets = Vec::new();
    for requests in [1, 2] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
        let request = "GET /api/v1/query?format=json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(requests);
        socket.write_all(request.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    let state = cluster.node("A").state();
    let begun = wait_until(WITHIN, async || (state.gauges().transit_bytes > 0).then_some(())).await;
    assert!(begun.is_some());
    let freed = wait_until(WITHIN, async || (state.gauges().transit_bytes == 0).then_some(())).await;
    assert!(freed.is_some(), "{:?}", state.gauges());
}

/// Goal: an answer that nobody reads on holds no result and no place for streams, and breaks off for who comes back to it. Method:
/// a client that rests after the head, on a node that closes connections much later.
#[tokio::test(flavor = "multi_thread")]
async fn answer_that_rests_is_given_up() {
    let cluster = cluster(json!({"idle_stream_ms": 300, "untaken_ms": 60_000})).await;
    let address = cluster.address("A");
    let stream = TokioIo::new(TcpStream::connect(&address).await.unwrap());
    let mut client = http2::Builder::new(TokioExecutor::new());
    let client = client.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let (mut sender, connection) = client.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let path = "/api/v1/query?format=json&chunking=fixed&chunk-rows=500";
    let answer = sender.send_request(request(Method::GET, &address, path)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let state = cluster.node("A").state();
    let held = || (state.gauges().open_streams, state.gauges().open_result_sets);
    assert_eq!(held(), (1, 1));
    assert!(wait_until(WITHIN, async || (held() == (0, 0)).then_some(())).await.is_some(), "{:?}", held());
    let ended = timeout(WITHIN, answer.into_body().collect()).await.expect("it ends");
    assert!(ended.is_err(), "it looks whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_is_used_again() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let stream = TokioIo::new(TcpStream::connect(&address).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let answer =
            sender.send_request(request(Method::GET, &address, "/api/v1/query?limit=2")).await.unwrap();
        assert_eq!(Answer::of(answer).await.text().lines().count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_over_http1_is_refused() {
    let cluster = cluster(json!({})).await;
    let mut request = request(Method::POST, &cluster.address("A"), "/OverlayNode/Query");
    request.headers_mut().insert("content-type", "application/grpc".try_into().unwrap());
    Answer::of(send(request).await).await.assert_problem(505, "http_version", &["HTTP/2"]);
}

/// Goal: a page that somebody visits on a trusted host cannot stop his node, nor ask as a peer. Method: what a browser sends
/// anywhere without asking first, and what it sends to a name that leads to the node.
#[tokio::test(flavor = "multi_thread")]
async fn page_neither_stops_a_node_nor_asks_as_a_peer() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let post = async |path: &str, headers: &str| {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 5\r\n{headers}\r\n"
        );
        socket.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.unwrap();
        let mut answer = Vec::new();
        timeout(WITHIN, socket.read_to_end(&mut answer)).await.expect("it ends").unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    for path in ["/OverlayNode/Shutdown", "/overlay.v1.Overlay/Shutdown", "/overlay.v1.Peer/Inventory"] {
        for headers in ["", "content-type: text/plain\r\n", "content-type: text/plain\r\norigin: null\r\n"] {
            let answer = post(path, headers).await;
            let refused = answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 403");
            assert!(refused, "{path}, {headers}: {answer}");
        }
        let from_page = "content-type: application/grpc-web+proto\r\norigin: http://a\r\n";
        let answer = post(path, from_page).await;
        let denied = answer.contains("grpc-status: 7") || answer.contains("grpc-status:7");
        // The old contract is not there for pages at all, and says so in its own words.
        let refused_in_words = answer.contains("refused:");
        assert!(denied || refused_in_words, "{path}: {answer}");
    }
    assert_eq!(get(&address, "/readyz").await.status, 200);
}

/// Goal: who could not tell a whole answer from one that breaks off gets none.
#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_refused() {
    let cluster = cluster(json!({})).await;
    let mut socket = TcpStream::connect(cluster.address("A")).await.unwrap();
    socket.write_all(b"GET /api/v1/query HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(WITHIN, socket.read_to_string(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.contains(" 505 ") && answer.contains("HTTP/1.1 is needed"), "{answer}");
}

/// Goal: a browser asks `overlay.v1` without a proxy. Method: the bytes that it would send, in HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_answered() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let message = v1::QueryRequest { limit: Some(5), ..v1::QueryRequest::default() }.encode_to_vec();
    let head = format!(
        "POST /overlay.v1.Overlay/Query HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        message.len() + 5
    );
    let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let mut socket = TcpStream::connect(&address).await.unwrap();
    socket.write_all(&[head.as_bytes(), &prefix, &message].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(WITHIN, socket.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: application/grpc-web+proto"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

/// Goal: tokens are good for HTTP as for gRPC, and health needs none.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_roles_hold() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let tokens = json!([
        {"name": "analyst", "role": "client", "token": "a-token-of-one-client"},
        {"name": "nodes", "role": "peer", "token": "a-token-of-the-nodes"},
        {"name": "operator", "role": "admin", "token": "a-token-of-the-admin"},
    ]);
    let file = folder.path().join("tokens.json");
    std::fs::write(&file, tokens.to_string()).unwrap();
    let spec = ClusterSpec::fixtures().with(json!({"security": {"tokens": file}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let address = cluster.address("A");
    let ask = async |path: &str, token: Option<&str>| {
        let mut request = request(Method::GET, &address, path);
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").try_into().unwrap());
        }
        Answer::of(send(request).await).await
    };
    for path in
        ["/api/v1/query?limit=1", "/api/v1/topology", "/api/v1/metrics", "/metrics", "/api/v1/openapi.json"]
    {
        let none = ask(path, None).await;
        none.assert_problem(401, "unauthenticated", &["a token of role client or admin is needed"]);
        assert_eq!(none.header("www-authenticate"), "Bearer");
        ask(path, Some("a-token-of-nobody")).await.assert_problem(401, "unauthenticated", &["unknown"]);
        ask(path, Some("a-token-of-the-nodes")).await.assert_problem(
            403,
            "not_allowed",
            &["client or admin"],
        );
        for token in ["a-token-of-one-client", "a-token-of-the-admin"] {
            assert_eq!(ask(path, Some(token)).await.status, 200, "{path}");
        }
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(ask(path, None).await.status, 200, "{path}");
    }
}

/// Goal: a browser reads why it is refused before a service is reached. Method: what the guard refuses, by name and by verb.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_refused_in_its_own_form() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    for (path, host) in
        [("/overlay.v1.Peer/Inventory", "localhost"), ("/overlay.v1.Overlay/Query", "evil.example")]
    {
        for content_type in ["application/grpc-web+proto", "application/grpc-web-text"] {
            let mut request = request(Method::POST, &address, path);
            let headers = request.headers_mut();
            headers.insert("host", host.try_into().unwrap());
            headers.insert("origin", format!("http://{host}").try_into().unwrap());
            headers.insert("content-type", content_type.try_into().unwrap());
            let answer = Answer::of(send(request).await).await;
            assert_eq!((answer.status, answer.header("grpc-status")), (200, "7"), "{path}");
            assert_eq!(answer.header("content-type"), "application/grpc-web+proto", "{path}");
            assert!(
                answer.header("grpc-message").contains("not%20allowed"),
                "{}",
                answer.header("grpc-message")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_says_how_it_is() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    assert_eq!(get(&address, "/livez").await.text(), "live\n");
    assert_eq!(get(&address, "/readyz").await.text(), "ready\n");
    get(&address, "/api/v1/query?limit=1").await;
    let metrics = get(&address, "/api/v1/metrics").await.json();
    assert_eq!((&metrics["node"], &metrics["queries_total"]), (&json!("A"), &json!(1)), "{metrics}");
    let exposition = get(&address, "/metrics").await;
    assert!(
        exposition.text().contains("overlay_queries_total{outcome=\"ready\"} 1"),
        "{}",
        exposition.text()
    );
    assert!(exposition.text().ends_with("# EOF\n"));
    // The leader may have asked the others while they were loading, and asks them again.
    let all_up = async || {
        let topology = get(&address, "/api/v1/topology").await.json();
        let nodes = topology["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["health"] == "up").then_some(topology)
    };
    let topology = wait_until(WITHIN, all_up).await.expect("all nodes are up");
    let nodes = topology["nodes"].as_array().unwrap();
    let ids: Vec<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["A", "B", "C", "D", "E", "F"]);
    assert_eq!(
        topology["edges"],
        json!([["A", "B"], ["A", "E"], ["B", "C"], ["B", "D"], ["D", "E"], ["E", "F"]])
    );
    let c = &nodes[2];
    assert_eq!((&c["role"], &c["team"], &c["ready"]), (&json!("worker"), &json!("green"), &json!(true)));
    assert!(c["days"].as_array().unwrap().iter().any(|day| day["rows"].as_u64().unwrap() > 0), "{c}");
    let explained = get(&address, "/api/v1/explain?parameter=PM2.5&from=20200815").await.json();
    assert!(explained["rows_to_scan"].as_u64().unwrap() > 0, "{explained}");
    assert_eq!(explained["days"][0]["day"], "20200815");
}

/// Goal: the document is true. Method: its paths are those that answer, its parameters those that errors name, each of its
/// examples is answered, and nothing beside them is.
#[tokio::test(flavor = "multi_thread")]
async fn document_lists_what_there_is() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let document = get(&address, "/api/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let listed: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let unknown = get(&address, "/nothing").await.json();
    assert_eq!(listed, in_parentheses(&unknown, "paths: "));
    for (path, item) in document["paths"].as_object().unwrap() {
        let parameters: Vec<&Value> = item["get"]["parameters"].as_array().unwrap().iter().collect();
        let name =
            |parameter: &Value| parameter["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let names: BTreeSet<String> = parameters.iter().map(|parameter| name(parameter)).collect();
        let refused = get(&address, &format!("{path}?nothing=1")).await;
        refused.assert_problem(400, "invalid", &["unknown parameter `nothing`"]);
        if !names.is_empty() {
            let known = refused.json();
            let known: BTreeSet<String> =
                in_parentheses(&known, "parameters: ").into_iter().map(str::to_owned).collect();
            assert_eq!(names, known, "{path}");
        }
        for name in &names {
            let parameter = &document["components"]["parameters"][name];
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair(name, &in_url(&parameter["example"]));
            let answer = get(&address, &format!("{path}?{}", query.finish())).await;
            assert_eq!(answer.status, 200, "{path} {name}");
        }
        let answer = get(&address, path).await;
        let content = item["get"]["responses"]["200"]["content"].as_object().unwrap();
        assert!(
            content.contains_key(answer.header("content-type")),
            "{path}: {}",
            answer.header("content-type")
        );
    }
}

/// A parameter's value: a list has commas between its items.
fn in_url(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(in_url).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Goal: every member of an answer is described, and every one that is described is there; `scripts/check_openapi` looks at
/// their types. Method: answers beside the schemas of the document, from their roots to their leaves.
#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_members_that_the_document_describes() {
    let cluster = cluster(json!({})).await;
    let address = cluster.address("A");
    let document = get(&address, "/api/v1/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(described) = item["get"]["responses"]["200"]["content"].get("application/json") else {
            continue;
        };
        let query = if path.ends_with("/aggregate") {
            "?format=json&group_by=parameter,site,agency,day,hour,team"
        } else {
            ""
        };
        let query = if path.ends_with("/query") { "?format=json&limit=5" } else { query };
        let answer = get(&address, &format!("{path}{query}")).await.json();
        assert_described(path, &document, &described["schema"], &answer);
    }
    let problem = get(&address, "/api/v1/query?min=many").await.json();
    let described = document["components"]["schemas"]["Problem"]["properties"].as_object().unwrap();
    assert!(problem.as_object().unwrap().keys().all(|name| described.contains_key(name)), "{problem}");
}

fn assert_described(at: &str, document: &Value, schema: &Value, value: &Value) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => document.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    match value {
        Value::Object(members) => {
            let Some(described) = described(schema, members) else { return };
            let names =
                |names: &serde_json::Map<String, Value>| names.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(names(members), names(described), "{at}: answered, and described");
            for (name, member) in members {
                assert_described(&format!("{at} {name}"), document, &described[name], member);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| assert_described(at, document, &schema["items"], item));
        }
        _ => {}
    }
}

/// The members that a schema describes, of several alternatives those of the one with this `kind`, or the only one that is an
/// object; `None` of one that describes no members.
fn described<'a>(
    schema: &'a Value,
    members: &serde_json::Map<String, Value>,
) -> Option<&'a serde_json::Map<String, Value>> {
    let Some(several) = schema["oneOf"].as_array() else { return schema["properties"].as_object() };
    let mut objects = several.iter().filter_map(|one| one["properties"].as_object());
    let kind = members.get("kind");
    objects.find(|described| kind.is_none_or(|kind| described["kind"]["const"] == *kind))
}

fn in_parentheses<'a>(problem: &'a Value, before: &str) -> BTreeSet<&'a str> {
    let detail = problem["detail"].as_str().unwrap();
    detail.split_once(before).unwrap().1.trim_end_matches(')').split(", ").collect()
}
