//! `overlay.v1`: rows, order and counts whatever is asked and however the node is configured; each error has its code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use overlay::admission::{ClientKey, QueryCost, QueryPermit};
use overlay::client::{ClientError, ExplainedDay, QueryResult};
use overlay::config::{Chunking, Forwarding};
use overlay::coverage::{self, Entry, Outcome};
use overlay::day::Day;
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::store::Version;
use overlay_harness::answer::{self, ask, assert_equal_rows, read_chunks};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, fixtures, wait_until};
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, OracleRow, TeamRange, random_query};
use overlay_harness::scenario::finds_all;
use overlay_harness::topology::TopologyBuilder;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::{PreconditionViolation, StatusExt};

const ENCODINGS: [Encoding; 3] = [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy];

async fn fixtures_cluster() -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap()
}

fn oracle() -> Oracle {
    Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap()
}

fn expected_rows(oracle: &Oracle, query: &OracleQuery, encoding: Encoding) -> Vec<Value> {
    let json = match encoding {
        Encoding::JsonLegacy => OracleRow::to_legacy_json,
        Encoding::Arrow | Encoding::Json => OracleRow::to_json,
    };
    oracle.rows(query).into_iter().map(json).collect()
}

fn random_chunking(rng: &mut fastrand::Rng) -> ChunkingChoice {
    ChunkingChoice {
        strategy: rng
            .choice([None, Some(Chunking::Fixed), Some(Chunking::Adaptive), Some(Chunking::QueryBased)])
            .flatten(),
        chunk_rows: rng.choice([None, Some(1), Some(13), Some(500), Some(1_000_000)]).flatten(),
        chunk_bytes: rng.choice([None, Some(4096), Some(50_000)]).flatten(),
    }
}

/// Chunks of one row make a result of thousands of chunks: worth a few, not all.
fn is_slow(chunking: &ChunkingChoice, rows: usize) -> bool {
    rows > 300 && (chunking.chunk_rows == Some(1) || chunking.chunk_bytes == Some(4096))
}

/// Goal: rows, order and counts do not depend on forwarding, encoding or chunking.
/// Method: random queries under each forwarding strategy, each against the oracle; the client checks the proof.
#[tokio::test(flavor = "multi_thread")]
async fn random_queries_give_the_oracles_rows() {
    let oracle = oracle();
    let mut rng = fastrand::Rng::with_seed(0x51f3);
    for forwarding in Forwarding::ALL {
        let spec = ClusterSpec::fixtures().with(json!({"strategies": {"forwarding": forwarding.name()}}));
        let cluster = InProcessCluster::start(spec).await.unwrap();
        let client = cluster.client("A", "random").unwrap();
        for number in 0..100 {
            let query = random_query(&mut rng, &oracle);
            let encoding = ENCODINGS[number % 3];
            let chunking = random_chunking(&mut rng);
            let expected = expected_rows(&oracle, &query, encoding);
            if is_slow(&chunking, expected.len()) {
                continue;
            }
            let asked = Query { chunking, ..answer::query(&query, encoding) };
            let what = format!("{forwarding}, {encoding:?}, {chunking:?}, query {number}: {query}");
            let (result, rows) = ask(&client, &asked).await.unwrap_or_else(|error| panic!("{what}\n{error}"));
            assert_equal_rows(&what, &expected, &rows);
            assert_eq!(result.manifest.total_records, expected.len() as u64, "{what}");
            let limit_reached = query.limit.is_some_and(|limit| expected.len() >= limit);
            assert_eq!(result.manifest.limit_reached, limit_reached, "{what}");
        }
    }
}

/// Goal: short queries are counted by the nearest holder, whatever the strategy says; from a worker that is the worker.
#[tokio::test(flavor = "multi_thread")]
async fn short_queries_go_to_the_nearest_holder() {
    let fewest = expected_rows(&oracle(), &OracleQuery::default(), Encoding::Json).len();
    for (short_rows, asked, expected) in [
        (fewest, "A", vec!["B", "E"]),
        (fewest, "C", vec!["C"]),
        (fewest - 1, "A", vec!["B", "C", "D", "E", "F"]),
    ] {
        let spec = ClusterSpec::fixtures().with(json!({
            "limits": {"short_rows": short_rows}, "strategies": {"forwarding": "parallel"},
        }));
        let cluster = InProcessCluster::start(spec).await.unwrap();
        wait_until(READY_WITHIN, async || finds_all(&cluster, "A").await.then_some(())).await.unwrap();
        let client = cluster.client(asked, "short").unwrap();
        let result = client.query(&Query::default()).await.unwrap();
        let counted: BTreeSet<&str> = result
            .ledger
            .iter()
            .filter_map(|entry| match &entry.outcome {
                Outcome::Served(served) => Some(served.node.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(Vec::from_iter(counted), expected, "{short_rows} rows are short, asked {asked}");
    }
}

/// Goal: groups are exact and ordered whatever they are made of. Method: random keys and measures of random rows.
#[tokio::test(flavor = "multi_thread")]
async fn random_aggregates_give_the_oracles_groups() {
    let oracle = oracle();
    let mut rng = fastrand::Rng::with_seed(0x51f4);
    for forwarding in [Forwarding::RoundRobin, Forwarding::Parallel] {
        let spec = ClusterSpec::fixtures().with(json!({"strategies": {"forwarding": forwarding.name()}}));
        let cluster = InProcessCluster::start(spec).await.unwrap();
        let client = cluster.client("A", "random").unwrap();
        for number in 0..60 {
            let query = random_query(&mut rng, &oracle);
            let mut keys = GroupKey::ALL.to_vec();
            rng.shuffle(&mut keys);
            keys.truncate(rng.usize(..=4));
            let measure = Measure::ALL[rng.usize(..3)];
            let expected = oracle.aggregate(&query, measure, &keys);
            let chunking = random_chunking(&mut rng);
            if is_slow(&chunking, expected.len()) {
                continue;
            }
            let encoding = ENCODINGS[number % 2];
            let asked = Query {
                aggregate: Some(answer::aggregate(measure, &keys)),
                chunking,
                ..answer::query(&query, encoding)
            };
            let what =
                format!("{forwarding}, {encoding:?}, {measure:?} by {keys:?}, query {number}: {query}");
            let (result, groups) =
                ask(&client, &asked).await.unwrap_or_else(|error| panic!("{what}\n{error}"));
            assert_equal_rows(&what, &expected, &groups);
            assert_eq!(result.manifest.total_records, expected.len() as u64, "{what}");
        }
    }
}

/// Goal: where chunks are cut does not show in the rows. Method: the same bytes, cut in many ways.
#[tokio::test(flavor = "multi_thread")]
async fn concatenated_chunks_are_the_same_however_they_are_cut() {
    let cluster = fixtures_cluster().await;
    let client = cluster.client("A", "cutter").unwrap();
    let oracle_query =
        OracleQuery { parameter: Some("OZONE".to_owned()), limit: Some(700), ..OracleQuery::default() };
    let mut texts = Vec::new();
    let mut chunk_counts = Vec::new();
    for (chunk_rows, chunk_bytes) in [(1, None), (7, None), (100, Some(4096)), (699, None), (1_000_000, None)]
    {
        let chunking =
            ChunkingChoice { strategy: Some(Chunking::Fixed), chunk_rows: Some(chunk_rows), chunk_bytes };
        let query = Query { chunking, ..answer::query(&oracle_query, Encoding::Json) };
        let result = client.query(&query).await.unwrap();
        let chunks = read_chunks(&client, &result).await.unwrap();
        let payloads = chunks.iter().flat_map(|chunk| &chunk.frames).map(|frame| frame.payload.as_ref());
        texts.push(payloads.collect::<Vec<_>>().join(&b','));
        chunk_counts.push(result.chunk_count());
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "cut into {chunk_counts:?} chunks");
    assert_eq!(chunk_counts[0], 700);
    assert_eq!(*chunk_counts.last().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_may_be_read_in_any_order_in_parallel_and_again() {
    let cluster = fixtures_cluster().await;
    let client = cluster.client("A", "reader").unwrap();
    let chunking = ChunkingChoice { chunk_rows: Some(100), ..ChunkingChoice::default() };
    let query = Query { chunking, ..answer::query(&OracleQuery::default(), Encoding::Arrow) };
    let result = client.query(&query).await.unwrap();
    let in_order = read_chunks(&client, &result).await.unwrap();
    let mut order: Vec<u32> = (0..result.chunk_count()).chain(0..result.chunk_count()).collect();
    fastrand::Rng::with_seed(5).shuffle(&mut order);
    let readings = order.iter().map(|index| client.chunk(&result, *index));
    let again = futures::future::try_join_all(readings).await.unwrap();
    for (index, chunk) in order.iter().zip(again) {
        assert_eq!(chunk.frames, in_order[*index as usize].frames, "chunk {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_gives_the_chunks_that_get_chunk_gives() {
    let cluster = fixtures_cluster().await;
    let client = cluster.client("A", "streamer").unwrap();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Json)).await.unwrap();
    let mut raw = raw_client(&cluster, "A").await;
    let mut chunks = Vec::new();
    for chunk_index in 0..result.chunk_count() {
        let request =
            v1::GetChunkRequest { uid: result.uid.clone(), chunk_index, client_id: "streamer".to_owned() };
        chunks.push(raw.get_chunk(request).await.unwrap().into_inner());
    }
    assert!(chunks.len() > 10 && chunks.last().unwrap().is_last);
    for first_chunk in [0, 3, result.chunk_count() - 1] {
        let stream = raw.stream_chunks(stream_request(&result.uid, first_chunk, "streamer")).await.unwrap();
        let streamed: Vec<v1::Chunk> = stream.into_inner().try_collect().await.unwrap();
        assert_eq!(streamed, chunks[first_chunk as usize..], "from chunk {first_chunk}");
    }
}

// Limits and the ledger.

/// Goal: with a limit the ledger shows which days were needed, and nothing after them was.
/// Method: a limit that ends inside a day of green; entries against the oracle's counts by day.
#[tokio::test(flavor = "multi_thread")]
async fn ledger_says_which_days_the_limit_left_out() {
    let cluster = fixtures_cluster().await;
    let oracle = oracle();
    let client = cluster.client("A", "limited").unwrap();
    for limit in [1, 40, 500, 2_000, 1_000_000] {
        let query =
            OracleQuery { parameter: Some("PM2.5".to_owned()), limit: Some(limit), ..OracleQuery::default() };
        let (result, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
        let mut by_day = BTreeMap::new();
        for row in oracle.rows(&query) {
            *by_day.entry(row.day).or_insert(0u64) += 1;
        }
        let taken: BTreeMap<u32, u64> = coverage::rows_taken(&result.ledger)
            .map(|(day, served)| (day.number(), served.rows_taken))
            .collect();
        assert_eq!(taken, by_day, "limit {limit}");
        assert_eq!(result.ledger.len(), 46, "each planned day has its entry");
        let last = *by_day.last_key_value().unwrap().0;
        let full = rows.len() == limit;
        for entry in &result.ledger {
            let beyond = entry.outcome == Outcome::BeyondLimit;
            let no_data = matches!(entry.outcome, Outcome::NoData { .. });
            assert!(!beyond || entry.day.number() > last, "limit {limit}, day {}", entry.day);
            assert!(!full || no_data || beyond == (entry.day.number() > last), "limit {limit}: {entry:?}");
        }
    }
}

/// Goal: bounds are inclusive also where statistics decide. Method: the outermost rows of a day are asked for by their
/// own numbers.
#[tokio::test(flavor = "multi_thread")]
async fn day_whose_outermost_row_lies_on_a_bound_is_not_pruned() {
    let cluster = fixtures_cluster().await;
    let oracle = oracle();
    let client = cluster.client("A", "bounds").unwrap();
    let day =
        || OracleQuery { date_start: Some(20200810), date_end: Some(20200810), ..OracleQuery::default() };
    let rows = expected_rows(&oracle, &day(), Encoding::Json);
    let numbers = |field: &str| rows.iter().filter_map(|row| row[field].as_f64()).collect::<Vec<_>>();
    let least = |field| numbers(field).into_iter().reduce(f64::min);
    let most = |field| numbers(field).into_iter().reduce(f64::max);
    for query in [
        OracleQuery { min: most("value").map(|value| value.to_string()), ..day() },
        OracleQuery { max: least("value").map(|value| value.to_string()), ..day() },
        OracleQuery { lat_min: most("latitude"), ..day() },
        OracleQuery { lat_max: least("latitude"), ..day() },
        OracleQuery { lon_min: most("longitude"), ..day() },
        OracleQuery { lon_max: least("longitude"), ..day() },
    ] {
        let expected = expected_rows(&oracle, &query, Encoding::Json);
        assert!((1..rows.len()).contains(&expected.len()), "{query}");
        let found = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap().1;
        assert_equal_rows(&query, &expected, &found);
    }
}

/// Goal: a limit asks for no more days than it needs. Method: one that the last row of the first day fills.
#[tokio::test(flavor = "multi_thread")]
async fn limit_that_a_day_fills_scans_no_other_day() {
    let cluster = fixtures_cluster().await;
    let client = cluster.client("A", "limited").unwrap();
    let first_day = OracleQuery { date_end: Some(20200810), ..OracleQuery::default() };
    let rows = oracle().rows(&first_day).len();
    let query = OracleQuery { limit: Some(rows), ..OracleQuery::default() };
    let result = client.query(&answer::query(&query, Encoding::Json)).await.unwrap();
    let scanned: u64 = result.statistics.iter().map(|hop| hop.rows_scanned).sum();
    assert_eq!(scanned, rows as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_team_is_no_error_when_the_other_fills_the_limit() {
    let mut cluster = fixtures_cluster().await;
    let client = cluster.client("A", "limited").unwrap();
    for id in ["D", "E", "F"] {
        cluster.crash(id).await.unwrap();
    }
    let query = OracleQuery { limit: Some(100), ..OracleQuery::default() };
    let (result, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
    assert_equal_rows(&"green alone", &expected_rows(&oracle(), &query, Encoding::Json), &rows);
    let pink = || result.ledger.iter().filter(|entry| &*entry.team == "pink");
    assert_eq!(pink().count(), 35);
    assert!(pink().all(|entry| entry.outcome == Outcome::BeyondLimit), "{:?}", pink().next());
}

// Complete or declared.

/// Goal: a result lacks days only for a client that asked for that, says which, and is not kept for others.
#[tokio::test(flavor = "multi_thread")]
async fn days_out_of_reach_fail_the_query_unless_partial_is_asked() {
    let mut cluster = fixtures_cluster().await;
    let oracle = oracle();
    let client = cluster.client("A", "partial").unwrap();
    let all = OracleQuery { parameter: Some("SO2".to_owned()), ..OracleQuery::default() };
    let query = answer::query(&all, Encoding::Arrow);
    for id in ["D", "E", "F"] {
        cluster.crash(id).await.unwrap();
    }
    let refused = status_of(client.query(&query).await);
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("20200821"), "names a day: {}", refused.message());
    assert!(
        ["D", "E", "F"].iter().any(|id| refused.message().contains(id)),
        "names nodes: {}",
        refused.message()
    );
    assert!(retry_delay(&refused) > Duration::ZERO);
    let violations = refused.get_details_precondition_failure().unwrap().violations;
    let mut named: Vec<u32> = violations.iter().flat_map(|violation| days_in(&violation.subject)).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        overlay_harness::calendar::days(20200821, 20200924).collect::<Vec<_>>(),
        "{violations:?}"
    );
    for PreconditionViolation { description, .. } in &violations {
        assert!(description.contains("D, E, F: "), "names the nodes of every day: {description}");
    }
    let explained = client.explain(&query).await.unwrap();
    let pink = || explained.days.iter().filter(|day| day.team == "pink");
    let says_so = |day: &ExplainedDay| {
        // A node that was heard draining is no holder any more.
        match day.holders.is_empty() {
            true => day.note == "no live holder",
            false => day.note == format!("marked down: {}", day.holders.join(", ")),
        }
    };
    assert!(pink().all(says_so), "{:?}", pink().next());
    let partial = Query { allow_partial: true, ..query.clone() };
    let (result, rows) = ask(&client, &partial).await.unwrap();
    let green = OracleQuery { team: Some("green".to_owned()), ..all.clone() };
    assert_equal_rows(&"green alone", &expected_rows(&oracle, &green, Encoding::Arrow), &rows);
    let missing: Vec<(&Entry, &str, &[String])> = coverage::missing(&result.ledger).collect();
    assert_eq!(missing.len(), 35, "all of pink");
    assert!(
        missing
            .iter()
            .all(|(entry, why, nodes)| &*entry.team == "pink" && !why.is_empty() && !nodes.is_empty())
    );
    for id in ["D", "E", "F"] {
        cluster.restart(id).await.unwrap();
    }
    let rows = eventually(async || {
        Some(ask(&client, &partial).await.ok()?)
            .filter(|(result, _)| coverage::missing(&result.ledger).next().is_none())
    })
    .await
    .1;
    assert_equal_rows(&"healed", &expected_rows(&oracle, &all, Encoding::Arrow), &rows);
}

/// Goal: days are not given up while a holder of them is up, only because nobody had noticed it yet: neither
/// by a query, nor by a chunk whose plan is older, nor by a cached result.
/// Method: A starts while D is down and never probes again; then D comes up, and the others of pink go.
#[tokio::test(flavor = "multi_thread")]
async fn holder_that_came_up_unnoticed_is_asked_before_its_days_are_given_up() {
    let unseen = json!({"limits": {"probe_ms": 600_000}, "cache": {"chunk_bytes": 0}});
    let mut cluster = InProcessCluster::start(ClusterSpec::fixtures().with(unseen)).await.unwrap();
    cluster.crash("D").await.unwrap();
    cluster.restart("A").await.unwrap();
    let client = cluster.client("A", "late").unwrap();
    let pink = OracleQuery { team: Some("pink".to_owned()), ..OracleQuery::default() };
    let chunking = ChunkingChoice { chunk_rows: Some(1_000), ..ChunkingChoice::default() };
    let query = Query { chunking, ..answer::query(&pink, Encoding::Json) };
    let before = client.query(&query).await.unwrap();
    cluster.restart("D").await.unwrap();
    cluster.crash("E").await.unwrap();
    cluster.crash("F").await.unwrap();
    let ozone = OracleQuery { parameter: Some("OZONE".to_owned()), ..pink.clone() };
    let (result, rows) = ask(&client, &answer::query(&ozone, Encoding::Json)).await.unwrap();
    assert_equal_rows(&"a query", &expected_rows(&oracle(), &ozone, Encoding::Json), &rows);
    let second_try = |entry: &Entry| matches!(&entry.outcome, Outcome::Served(served) if served.node == "D" && served.attempt > 1);
    assert!(result.ledger.iter().any(second_try), "{:?}", result.ledger.last());
    let by_site =
        Query { aggregate: Some(answer::aggregate(Measure::Value, &[GroupKey::Site])), ..query.clone() };
    let groups = ask(&client, &by_site).await.unwrap().1;
    assert_equal_rows(
        &"an aggregate",
        &oracle().aggregate(&pink, Measure::Value, &[GroupKey::Site]),
        &groups,
    );
    let expected = expected_rows(&oracle(), &pink, Encoding::Json);
    let rows = answer::rows(&before, &read_chunks(&client, &before).await.unwrap());
    assert_equal_rows(&"an older result", &expected, &rows);
    assert_equal_rows(&"a cached result", &expected, &ask(&client, &query).await.unwrap().1);
}

// Errors.

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_an_invalid_argument_that_names_the_field() {
    let cluster = fixtures_cluster().await;
    let mut raw = raw_client(&cluster, "A").await;
    let predicate = |change: fn(&mut v1::Predicate)| {
        let mut predicate = v1::Predicate::default();
        change(&mut predicate);
        v1::QueryRequest { predicate: Some(predicate), ..v1::QueryRequest::default() }
    };
    let request = |change: fn(&mut v1::QueryRequest)| {
        let mut request = v1::QueryRequest::default();
        change(&mut request);
        request
    };
    let chunking =
        |chunking: v1::Chunking| v1::QueryRequest { chunking: Some(chunking), ..v1::QueryRequest::default() };
    let aggregate = |of, group_by| v1::QueryRequest {
        aggregate: Some(v1::Aggregate { of, group_by }),
        ..v1::QueryRequest::default()
    };
    let cases = [
        ("min_value", predicate(|predicate| predicate.min_value = Some("NaN".to_owned()))),
        ("max_value", predicate(|predicate| predicate.max_value = Some(String::new()))),
        (
            "min_value",
            predicate(|predicate| {
                predicate.min_value = Some("5".to_owned());
                predicate.max_value = Some("4.999".to_owned());
            }),
        ),
        (
            "min_value",
            predicate(|predicate| {
                predicate.min_value = Some("5.000000001".to_owned());
                predicate.max_value = Some("5".to_owned());
            }),
        ),
        ("text", predicate(|predicate| predicate.text = Some(String::new()))),
        ("lat_min", predicate(|predicate| predicate.lat_min = Some(f64::NAN))),
        ("lat_max", predicate(|predicate| predicate.lat_max = Some(90.5))),
        (
            "lon_min",
            predicate(|predicate| {
                predicate.lon_min = Some(2.0);
                predicate.lon_max = Some(1.0);
            }),
        ),
        ("date_start", request(|request| request.date_start = Some(20200230))),
        ("date_end", request(|request| request.date_end = Some(0))),
        (
            "date_start",
            request(|request| {
                request.date_start = Some(20200902);
                request.date_end = Some(20200901);
            }),
        ),
        ("limit", request(|request| request.limit = Some(u64::MAX))),
        ("encoding", request(|request| request.encoding = 99)),
        (
            "day",
            request(|request| {
                request.expected_versions = vec![v1::DayVersion { day: 7, version: vec![0; 16] }];
            }),
        ),
        (
            "version",
            request(|request| {
                request.expected_versions = vec![v1::DayVersion { day: 20200810, version: vec![0; 3] }];
            }),
        ),
        ("request_id", request(|request| request.request_id = "x".repeat(10_000))),
        ("client_id", request(|request| request.client_id = "x".repeat(10_000))),
        ("hops", request(|request| request.hops = vec!["x".repeat(257)])),
        ("hops", request(|request| request.hops = vec!["x".to_owned(); 33])),
        ("aggregate.of", aggregate(99, vec![])),
        ("group_by", aggregate(1, vec![0])),
        ("group_by", aggregate(1, vec![4, 4])),
        ("strategy", chunking(v1::Chunking { strategy: 99, ..v1::Chunking::default() })),
        ("chunk_rows", chunking(v1::Chunking { chunk_rows: Some(0), ..v1::Chunking::default() })),
        ("chunk_bytes", chunking(v1::Chunking { chunk_bytes: Some(4095), ..v1::Chunking::default() })),
        ("chunk_bytes", chunking(v1::Chunking { chunk_bytes: Some(u32::MAX), ..v1::Chunking::default() })),
    ];
    for (field, request) in cases {
        let refused = raw.query(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
        assert!(refused.message().contains(field), "should name {field}: {}", refused.message());
        let blamed = &refused.get_details_bad_request().unwrap().field_violations[0].field;
        assert!(blamed.ends_with(field), "details should name {field}: {blamed}");
        let unexplained = raw.explain(request).await.map_err(|status| status.code());
        assert!(
            matches!(unexplained, Err(Code::InvalidArgument)) || ["request_id", "hops"].contains(&field),
            "explain, {field}"
        );
    }
    let looped =
        raw.query(v1::QueryRequest { hops: vec!["A".to_owned()], ..v1::QueryRequest::default() }).await;
    assert_eq!(looped.unwrap_err().code(), Code::FailedPrecondition);
}

/// Goal: what operators see holds every query, also those that never reached the planner.
#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_refused_are_counted_once() {
    let cluster = fixtures_cluster().await;
    let mut raw = raw_client(&cluster, "A").await;
    let old = overlay::client::OldClient::new(&cluster.address("A")).unwrap();
    let refused = [
        v1::QueryRequest { encoding: 99, ..v1::QueryRequest::default() },
        v1::QueryRequest { limit: Some(u64::MAX), ..v1::QueryRequest::default() },
        v1::QueryRequest { hops: vec!["A".to_owned()], ..v1::QueryRequest::default() },
        v1::QueryRequest { client_id: "x".repeat(257), ..v1::QueryRequest::default() },
        v1::QueryRequest {
            date_start: Some(20200902),
            date_end: Some(20200901),
            ..v1::QueryRequest::default()
        },
    ];
    for request in refused {
        raw.query(request).await.unwrap_err();
    }
    for params in ["{", "{\"limit\": -1}", "{\"min_value\": 2, \"max_value\": 1}"] {
        assert!(old.query("filter", params).await.unwrap().status.starts_with("invalid_query:"), "{params}");
    }
    raw.query(v1::QueryRequest { limit: Some(1), ..v1::QueryRequest::default() }).await.unwrap();
    let metrics = raw.get_metrics(v1::GetMetricsRequest {}).await.unwrap().into_inner();
    assert_eq!(metrics.queries_total, 9);
    let invalid = "overlay_queries_total{outcome=\"invalid\"} 8";
    assert!(metrics.exposition.contains(invalid), "{}", metrics.exposition);
}

/// Goal: streams that nobody reads cannot take all memory. Method: a node with a place for one.
#[tokio::test(flavor = "multi_thread")]
async fn stream_beyond_the_limit_is_resource_exhausted_until_one_is_gone() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"streams": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "streamer").unwrap();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Json)).await.unwrap();
    let mut raw = raw_client(&cluster, "A").await;
    let open = async |raw: &mut OverlayClient<Channel>| {
        raw.stream_chunks(stream_request(&result.uid, 0, "streamer")).await.map(tonic::Response::into_inner)
    };
    let held = open(&mut raw).await.unwrap();
    let refused = open(&mut raw).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_quota_failure().unwrap().violations[0].subject, "limits.streams");
    assert!(retry_delay(&refused) > Duration::ZERO);
    drop(held);
    let stream = eventually(async || open(&mut raw).await.ok()).await;
    let chunks: Vec<v1::Chunk> = stream.try_collect().await.unwrap();
    assert_eq!(chunks.len(), result.chunk_count() as usize);
}

/// Goal: one connection cannot have any number of requests read at once.
/// Method: what the node says in its first HTTP/2 frame, read byte by byte (RFC 9113, section 6.5).
#[tokio::test(flavor = "multi_thread")]
async fn connection_may_have_as_many_requests_at_once_as_configured() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"connection_requests": 77}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let mut connection = tokio::net::TcpStream::connect(cluster.address("A")).await.unwrap();
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    connection
        .write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &empty_settings].concat())
        .await
        .unwrap();
    let mut header = [0; 9];
    connection.read_exact(&mut header).await.unwrap();
    assert_eq!(header[3], 4, "a SETTINGS frame");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([header[1], header[2]]))];
    connection.read_exact(&mut settings).await.unwrap();
    let max_concurrent_streams = [0, 3, 0, 0, 0, 77];
    assert!(settings.chunks(6).any(|setting| setting == max_concurrent_streams), "{settings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_expired_and_out_of_range_are_three_errors() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"result_ttl_ms": 300}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "me").unwrap();
    let mut raw = raw_client(&cluster, "A").await;
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Arrow)).await.unwrap();
    let codes = async |raw: &mut OverlayClient<Channel>, uid: &str, index: u32| {
        let request =
            v1::GetChunkRequest { uid: uid.to_owned(), chunk_index: index, client_id: "me".to_owned() };
        let got = raw.get_chunk(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
        let streamed = raw.stream_chunks(stream_request(uid, index, "me")).await;
        [got, streamed.map_or_else(|status| status.code(), |_| Code::Ok)]
    };
    assert_eq!(codes(&mut raw, &result.uid, 0).await, [Code::Ok; 2]);
    assert_eq!(codes(&mut raw, &result.uid, result.chunk_count()).await, [Code::OutOfRange; 2]);
    assert_eq!(codes(&mut raw, &result.uid, u32::MAX).await, [Code::OutOfRange; 2]);
    assert_eq!(codes(&mut raw, "nonsense", 0).await, [Code::NotFound; 2]);
    let mut elsewhere = raw_client(&cluster, "B").await;
    assert_eq!(codes(&mut elsewhere, &result.uid, 0).await, [Code::NotFound; 2], "issued by another node");
    // Longer than the lease; each touch before kept it.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(codes(&mut raw, &result.uid, 0).await, [Code::FailedPrecondition; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_touch_renews_a_lease_up_to_its_greatest_age() {
    let limits = json!({"limits": {"result_ttl_ms": 600, "result_max_age_ms": 2000}});
    let cluster = InProcessCluster::start(ClusterSpec::fixtures().with(limits)).await.unwrap();
    let client = cluster.client("A", "me").unwrap();
    let opened = tokio::time::Instant::now();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Arrow)).await.unwrap();
    let mut ended = Duration::ZERO;
    while opened.elapsed() < Duration::from_secs(5) {
        match client.chunk(&result, 1).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => {
                assert_eq!(status_of::<()>(Err(error)).code(), Code::FailedPrecondition);
                ended = opened.elapsed();
                break;
            }
        }
    }
    assert!(ended >= Duration::from_secs(2), "kept by touches, ended after {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uid_is_of_no_use_to_another_client() {
    let cluster = fixtures_cluster().await;
    let client = cluster.client("A", "me").unwrap();
    let result = client.query(&answer::query(&OracleQuery::default(), Encoding::Arrow)).await.unwrap();
    let mut raw = raw_client(&cluster, "A").await;
    let mine = |client_id: &str| v1::GetChunkRequest {
        uid: result.uid.clone(),
        chunk_index: 0,
        client_id: client_id.to_owned(),
    };
    for client_id in ["you", "", "ME"] {
        assert_eq!(raw.get_chunk(mine(client_id)).await.unwrap_err().code(), Code::NotFound, "{client_id}");
        let streamed = raw.stream_chunks(stream_request(&result.uid, 0, client_id)).await;
        assert_eq!(streamed.map(|_| ()).unwrap_err().code(), Code::NotFound, "{client_id}");
        let cancelled = raw.cancel(cancel_request(&result.uid, "", client_id)).await.unwrap().into_inner();
        assert!(!cancelled.found, "{client_id}");
    }
    assert!(raw.get_chunk(mine("me")).await.is_ok());
    assert!(raw.cancel(cancel_request(&result.uid, "", "me")).await.unwrap().into_inner().found);
    assert_eq!(raw.get_chunk(mine("me")).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_is_resource_exhausted_with_a_time_to_come_back() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1, "queue_length": 0}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "me").unwrap();
    let place = take_a_place(&cluster).await;
    let query = answer::query(&OracleQuery { limit: Some(1), ..OracleQuery::default() }, Encoding::Arrow);
    let refused = status_of(client.query(&query).await);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(retry_delay(&refused) > Duration::ZERO, "{refused}");
    assert!(refused.message().contains("limit"), "says which limit: {}", refused.message());
    drop(place);
    client.query(&query).await.unwrap();
}

/// Goal: open results take a bounded amount of memory, and nobody locks others out by leaving them unread, under
/// whatever ids. Method: a hundred ids of one address, each with one result that it does not read.
#[tokio::test(flavor = "multi_thread")]
async fn open_results_are_bounded_and_make_room_for_new_ones() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"result_set_bytes": 65_536}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let query = answer::query(&OracleQuery::default(), Encoding::Arrow);
    let mut open = Vec::new();
    for number in 0..100 {
        let client = cluster.client("A", &format!("client {number}")).unwrap();
        let result = client.query(&query).await.unwrap();
        client.chunk(&result, 1).await.unwrap();
        open.push((client, result));
    }
    let kept = cluster.node("A").state().coordinator.leases().open_count();
    assert!((1..100).contains(&kept), "{kept}");
    let (first_client, first) = &open[0];
    let ended = status_of(first_client.chunk(first, 1).await);
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_query_can_be_asked_about_and_cancelled() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let place = take_a_place(&cluster).await;
    let mut raw = raw_client(&cluster, "A").await;
    let request = v1::QueryRequest {
        request_id: "mine".to_owned(),
        client_id: "me".to_owned(),
        ..v1::QueryRequest::default()
    };
    let mut asking = raw.clone();
    let waiting = tokio::spawn(async move { asking.query(request).await });
    let mine = v1::GetQueryStatusRequest { request_id: "mine".to_owned(), client_id: "me".to_owned() };
    let status = eventually(async || {
        let status = raw.get_query_status(mine.clone()).await.unwrap().into_inner();
        (status.state == "waiting").then_some(status)
    })
    .await;
    assert_eq!(status.position, 1);
    assert!(!status.limiting_factor.is_empty());
    let stranger = v1::GetQueryStatusRequest { request_id: "mine".to_owned(), client_id: "you".to_owned() };
    assert_eq!(raw.get_query_status(stranger).await.unwrap().into_inner().state, "unknown");
    assert!(!raw.cancel(cancel_request("", "mine", "you")).await.unwrap().into_inner().found);
    assert!(raw.cancel(cancel_request("", "mine", "me")).await.unwrap().into_inner().found);
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Cancelled);
    let admission = cluster.node("A").state().coordinator.admission();
    eventually(async || (admission.waiting() == 0).then_some(())).await;
    drop(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_of_the_client_ends_a_query() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let place = take_a_place(&cluster).await;
    let mut raw = raw_client(&cluster, "A").await;
    let mut request = tonic::Request::new(v1::QueryRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let refused =
        tokio::time::timeout(Duration::from_secs(5), raw.query(request)).await.unwrap().unwrap_err();
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&refused.code()), "{refused}");
    let admission = cluster.node("A").state().coordinator.admission();
    eventually(async || (admission.waiting() == 0).then_some(())).await;
    drop(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_of_the_node_says_how_long_it_was() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1, "query_ms": 100}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let place = take_a_place(&cluster).await;
    let refused = status_of(cluster.client("A", "me").unwrap().query(&Query::default()).await);
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    let waited = refused.message().strip_prefix("the deadline passed after ").unwrap();
    let waited: u64 = waited.split_once(" ms").unwrap().0.parse().unwrap();
    assert!((1..=100).contains(&waited), "{}", refused.message());
    drop(place);
}

/// Goal: work stops when its client goes away. Method: a waiting query whose call is dropped leaves the queue.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_goes_away_leaves_the_queue() {
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_active": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let place = take_a_place(&cluster).await;
    let client = cluster.client("A", "leaver").unwrap();
    let asking = tokio::spawn(async move { client.query(&Query::default()).await.map(|_| ()) });
    let admission = cluster.node("A").state().coordinator.admission();
    eventually(async || (admission.waiting() == 1).then_some(())).await;
    asking.abort();
    eventually(async || (admission.waiting() == 0).then_some(())).await;
    drop(place);
}

// Resuming.

/// Goal: a leader that restarts has forgotten its results, and the client reads on as if it had not.
#[tokio::test(flavor = "multi_thread")]
async fn result_is_resumed_at_its_versions_after_the_leader_restarts() {
    let mut cluster = fixtures_cluster().await;
    let client = cluster.client("A", "resumer").unwrap();
    let query = answer::query(&OracleQuery::default(), Encoding::Json);
    let mut result = client.query(&query).await.unwrap();
    let undisturbed = read_chunks(&client, &result).await.unwrap();
    let uid = result.uid.clone();
    cluster.restart("A").await.unwrap();
    for (index, expected) in undisturbed.iter().enumerate().skip(3) {
        let chunk = client.chunk_or_resume(&mut result, index as u32).await.unwrap();
        let payloads = |chunk: &overlay::client::CheckedChunk| {
            chunk
                .frames
                .iter()
                .map(|frame| (frame.day, frame.first_row, frame.payload.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(payloads(&chunk), payloads(expected), "chunk {index}");
    }
    assert_ne!(result.uid, uid);
}

/// Goal: rows of two versions never mix. Method: a file changes and its holders restart while a client reads.
#[tokio::test(flavor = "multi_thread")]
async fn result_whose_data_changed_is_lost_and_not_mixed() {
    let root = overlay_harness::scratch::folder().unwrap();
    copy_days(&fixtures(), root.path(), &["20200819", "20200821", "20200822"]);
    let mut cluster = InProcessCluster::start(ClusterSpec::six_nodes(root.path())).await.unwrap();
    let client = cluster.client("A", "resumer").unwrap();
    let chunking = ChunkingChoice { chunk_rows: Some(20), ..ChunkingChoice::default() };
    let query = Query { chunking, ..answer::query(&OracleQuery::default(), Encoding::Json) };
    let mut result = client.query(&query).await.unwrap();
    let changed = root.path().join("20200821/20200821-01.csv");
    let text = std::fs::read_to_string(&changed).unwrap();
    std::fs::write(&changed, text.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    for id in ["D", "E", "F"] {
        cluster.restart(id).await.unwrap();
    }
    let day_of = |result: &QueryResult, index: u32| result.chunk_days(index).unwrap()[0].day.number();
    let first_changed = (0..result.chunk_count()).find(|index| day_of(&result, *index) == 20200821).unwrap();
    let unchanged = result.chunk_count() - 1;
    assert_eq!(day_of(&result, unchanged), 20200822);
    let lost = status_of(client.chunk_or_resume(&mut result, first_changed + 1).await);
    assert_eq!(lost.code(), Code::DataLoss, "{lost}");
    assert!(lost.message().contains("20200821"), "{}", lost.message());
    client.chunk(&result, unchanged).await.expect("days that did not change can still be read");
    let expected = Query { expected_versions: versions(&result), ..query.clone() };
    let refused = status_of(client.query(&expected).await);
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    let oracle = Oracle::read(root.path(), &TeamRange::green_and_pink()).unwrap();
    let rows = ask(&client, &query).await.unwrap().1;
    assert_equal_rows(&"asked anew", &expected_rows(&oracle, &OracleQuery::default(), Encoding::Json), &rows);
}

/// Goal: a partial result is resumed as it was, also when what it lacks can be reached again.
#[tokio::test(flavor = "multi_thread")]
async fn partial_result_is_resumed_without_the_days_that_it_lacks() {
    let mut cluster = fixtures_cluster().await;
    for id in ["D", "E", "F"] {
        cluster.crash(id).await.unwrap();
    }
    let client = cluster.client("A", "resumer").unwrap();
    let query = Query { allow_partial: true, ..answer::query(&OracleQuery::default(), Encoding::Json) };
    let mut result = client.query(&query).await.unwrap();
    assert!(coverage::missing(&result.ledger).count() > 0);
    let undisturbed = read_chunks(&client, &result).await.unwrap();
    for id in ["D", "E", "F", "A"] {
        cluster.restart(id).await.unwrap();
    }
    let chunk = client.chunk_or_resume(&mut result, 1).await.unwrap();
    assert_eq!(chunk.frames[0].payload, undisturbed[1].frames[0].payload);
}

/// Goal: rows of a day that had none do not slip into a result that is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn result_is_lost_when_a_day_without_data_has_some() {
    let root = overlay_harness::scratch::folder().unwrap();
    copy_days(&fixtures(), root.path(), &["20200810", "20200821"]);
    let mut cluster = InProcessCluster::start(ClusterSpec::six_nodes(root.path())).await.unwrap();
    let client = cluster.client("A", "resumer").unwrap();
    let mut result = client.query(&answer::query(&OracleQuery::default(), Encoding::Json)).await.unwrap();
    copy_days(&fixtures(), root.path(), &["20200819"]);
    for id in ["B", "C", "A"] {
        cluster.restart(id).await.unwrap();
    }
    let lost = status_of(client.chunk_or_resume(&mut result, 1).await);
    assert_eq!(lost.code(), Code::DataLoss, "{lost}");
    assert!(lost.message().contains("20200819"), "{}", lost.message());
}

/// Goal: an overlay may be deep. Method: a chain of 23 nodes, each of which passes most of the request on; each day lies
/// on one of them.
#[tokio::test(flavor = "multi_thread")]
async fn chain_of_twenty_three_nodes_answers_whole() {
    let topology = TopologyBuilder::chain(22).replicas(1).build();
    assert_eq!(topology.nodes.len(), 23);
    let spec = ClusterSpec::of(&topology, &fixtures());
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "deep").unwrap();
    let query = OracleQuery { parameter: Some("NO2".to_owned()), ..OracleQuery::default() };
    let oracle = Oracle::read(&fixtures(), &topology.teams).unwrap();
    let (_, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
    assert_equal_rows(&topology, &expected_rows(&oracle, &query, Encoding::Json), &rows);
}

// What the tests above are made of.

async fn raw_client(cluster: &InProcessCluster, id: &str) -> OverlayClient<Channel> {
    let client = OverlayClient::connect(format!("http://{}", cluster.address(id))).await.unwrap();
    client.max_decoding_message_size(16 << 20)
}

fn stream_request(uid: &str, first_chunk: u32, client_id: &str) -> v1::StreamChunksRequest {
    v1::StreamChunksRequest { uid: uid.to_owned(), first_chunk, client_id: client_id.to_owned() }
}

fn cancel_request(uid: &str, request_id: &str, client_id: &str) -> v1::CancelRequest {
    v1::CancelRequest {
        uid: uid.to_owned(),
        request_id: request_id.to_owned(),
        client_id: client_id.to_owned(),
    }
}

/// Holds the leader's only place, as a query that runs does.
async fn take_a_place(cluster: &InProcessCluster) -> QueryPermit {
    let cost = QueryCost {
        client: ClientKey::new("10.0.0.1", "another"),
        request_id: None,
        teams: [("green".into(), 1)].into_iter().collect(),
    };
    cluster.node("A").state().coordinator.admission().admit(cost).await.unwrap()
}

fn status_of<T>(result: Result<T, ClientError>) -> Status {
    match result {
        Ok(_) => panic!("should have failed"),
        Err(ClientError::Status { status, .. }) => *status,
        Err(error) => panic!("should have been refused by the node: {error}"),
    }
}

fn retry_delay(status: &Status) -> Duration {
    status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default()
}

/// The days of `20200821-20200824, 20200830`.
fn days_in(subject: &str) -> impl Iterator<Item = u32> {
    subject.split(", ").flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        overlay_harness::calendar::days(first.parse().unwrap(), last.parse().unwrap())
    })
}

fn versions(result: &QueryResult) -> BTreeMap<Day, Version> {
    coverage::rows_taken(&result.ledger).map(|(day, served)| (day, served.version)).collect()
}

fn copy_days(from: &Path, to: &Path, days: &[&str]) {
    for day in days {
        std::fs::create_dir(to.join(day)).unwrap();
        for file in std::fs::read_dir(from.join(day)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(day).join(file.file_name())).unwrap();
        }
    }
}

/// Looks until there is something.
async fn eventually<T>(look: impl AsyncFnMut() -> Option<T>) -> T {
    wait_until(READY_WITHIN, look).await.expect("it comes about")
}
