//! How results are cut into chunks, and the bytes that chunks consist of, by both contracts.
//!
//! Check a layout by counting: `chunking` says how many rows a chunk may have, `ledger` how many rows each day
//! gives, and the chunks must tile them in order. Rows stand in `fixtures/airnow/YYYYMMDD/YYYYMMDD-HH.csv`;
//! those of the site Quarryton are four a day, at 01, 07, 13 and 19 hours. Frames of many rows are cut short.

use std::fmt::Write;

use arrow_array::cast::AsArray;
use insta::assert_snapshot;
use overlay::client::{CheckedChunk, Client, OldClient, QueryResult};
use overlay::config::Chunking;
use overlay::coverage::{Entry, Outcome};
use overlay::frame::{self, Encoding};
use overlay::plan::Query;
use overlay::verb::Frame;
use overlay_harness::answer::{self, read_chunks};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster};
use overlay_harness::oracle::{GroupKey, Measure, OracleQuery};
use overlay_harness::snapshot::Redactions;
use serde_json::{Value, json};

/// Rows of a frame that are shown; of a longer one the first and the last two.
const ROWS_SHOWN: usize = 12;

/// The days around the border between the teams: green's last, pink's first.
fn two_days() -> OracleQuery {
    OracleQuery { date_start: Some(20200820), date_end: Some(20200821), ..OracleQuery::default() }
}

/// Four rows of each of the two days.
fn eight_rows() -> OracleQuery {
    OracleQuery { site: Some("Quarryton".to_owned()), ..two_days() }
}

fn first(limit: usize, of: OracleQuery) -> OracleQuery {
    OracleQuery { limit: Some(limit), ..of }
}

/// An overlay that cuts chunks by `strategy`, of `chunk_rows` rows if it is the fixed one.
async fn cluster(strategy: Chunking, chunk_rows: u32, chunk_bytes: Option<u32>) -> InProcessCluster {
    let mut spec = ClusterSpec::fixtures()
        .with(json!({"strategies": {"chunking": strategy.name(), "chunk_size": chunk_rows}}));
    if let Some(chunk_bytes) = chunk_bytes {
        spec = spec.with(json!({"limits": {"chunk_bytes": chunk_bytes}}));
    }
    InProcessCluster::start(spec).await.unwrap()
}

/// Goal: chunks of the fixed strategy have `chunk_size` rows, here 3, across the border of days; only the last
/// has fewer. The chunk that spans the two days starts with the last row of 20200820.
#[tokio::test(flavor = "multi_thread")]
async fn fixed_chunks_have_their_rows() {
    let _redacted = Redactions::new().bind();
    let cluster = cluster(Chunking::Fixed, 3, None).await;
    let no_rows = OracleQuery { min: Some("500".to_owned()), ..eight_rows() };
    assert_snapshot!("fixed_no_rows", layouts(&cluster, &no_rows).await);
    assert_snapshot!("fixed_one_row", layouts(&cluster, &first(1, eight_rows())).await);
    assert_snapshot!("fixed_exactly_a_chunk", layouts(&cluster, &first(3, eight_rows())).await);
    assert_snapshot!("fixed_one_more_than_a_chunk", layouts(&cluster, &first(4, eight_rows())).await);
    assert_snapshot!("fixed_chunk_spans_two_days", layouts(&cluster, &eight_rows()).await);
    assert_snapshot!("fixed_limit_ends_inside_a_day", layouts(&cluster, &first(6, eight_rows())).await);
}

/// Goal: the first chunk of the adaptive strategy has 100 rows, each after it twice as many.
/// 20200820 has 200 rows, 50 in each file, and 20200821 has 197.
#[tokio::test(flavor = "multi_thread")]
async fn adaptive_chunks_double() {
    let _redacted = Redactions::new().bind();
    let cluster = cluster(Chunking::Adaptive, 3, None).await;
    let no_rows = OracleQuery { min: Some("500".to_owned()), ..eight_rows() };
    assert_snapshot!("adaptive_no_rows", layouts(&cluster, &no_rows).await);
    assert_snapshot!("adaptive_one_row", layouts(&cluster, &first(1, two_days())).await);
    assert_snapshot!("adaptive_exactly_a_chunk", layouts(&cluster, &first(100, two_days())).await);
    assert_snapshot!("adaptive_one_more_than_a_chunk", layouts(&cluster, &first(101, two_days())).await);
    assert_snapshot!("adaptive_chunk_spans_two_days", layouts(&cluster, &two_days()).await);
    assert_snapshot!("adaptive_limit_ends_inside_a_day", layouts(&cluster, &first(250, two_days())).await);
}

/// Goal: chunks of the query_based strategy have a tenth of the limit, rounded up, or of the total without a
/// limit: of 8 rows each is one. The old contract always has a limit, 2000 if the query names none.
#[tokio::test(flavor = "multi_thread")]
async fn query_based_chunks_have_a_tenth_of_the_limit() {
    let _redacted = Redactions::new().bind();
    let cluster = cluster(Chunking::QueryBased, 3, None).await;
    let no_rows = OracleQuery { min: Some("500".to_owned()), ..eight_rows() };
    assert_snapshot!("query_based_no_rows", layouts(&cluster, &no_rows).await);
    assert_snapshot!("query_based_one_row", layouts(&cluster, &first(1, eight_rows())).await);
    assert_snapshot!("query_based_exactly_a_chunk", layouts(&cluster, &first(80, eight_rows())).await);
    assert_snapshot!("query_based_one_more_than_a_chunk", layouts(&cluster, &first(70, eight_rows())).await);
    assert_snapshot!("query_based_chunk_spans_two_days", layouts(&cluster, &first(30, eight_rows())).await);
    assert_snapshot!("query_based_limit_ends_inside_a_day", layouts(&cluster, &first(6, eight_rows())).await);
    assert_snapshot!("query_based_without_a_limit", layouts(&cluster, &eight_rows()).await);
}

/// Goal: where rows as wide as the widest of the days could exceed `chunk_bytes`, here 4096, a chunk has fewer
/// rows than its strategy gives it: 100 of fixed and adaptive, 20 of query_based by a limit of 200. How many,
/// the line `widest` lets you work out: its rows and its frames must fit.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_end_a_chunk_before_its_rows_do() {
    let _redacted = Redactions::new().bind();
    let sixteen_rows =
        OracleQuery { site: Some("Sorrelmont".to_owned()), date_end: Some(20200820), ..two_days() };
    for strategy in Chunking::ALL {
        let cluster = cluster(*strategy, 100, Some(4096)).await;
        let layouts = layouts(&cluster, &first(200, sixteen_rows.clone())).await;
        let text = format!("widest    {}\n{layouts}", widest(&cluster));
        assert_snapshot!(format!("{strategy}_bytes_before_rows"), text);
    }
}

/// What the rows of 20200820 may take at most, by encoding.
fn widest(cluster: &InProcessCluster) -> String {
    let store = cluster.node("B").state().holder.store().unwrap();
    let day = store.days().find(|day| day.day.number() == 20200820).unwrap();
    let of = |encoding: Encoding| {
        let rows = encoding.of(&day.statistics.worst_row_bytes);
        format!("{rows} bytes a row and {} a frame", frame::frame_overhead_bytes(encoding))
    };
    let [arrow, json, old] = [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy].map(of);
    format!("Arrow {arrow}; JSON {json}; OverlayNode {old}")
}

/// Goal: every field of every row, as its encoding writes it. Check against `20200820-01.csv`, lines 1 to 3 (the
/// third has no raw concentration), and the lines of Cañada in the four files (that of 13 hours has neither
/// concentration nor AQI); groups against the eight rows of Quarryton.
#[tokio::test(flavor = "multi_thread")]
async fn rows_and_groups_are_written_field_by_field() {
    let _redacted = Redactions::new().bind();
    let cluster = cluster(Chunking::Fixed, 3, None).await;
    let client = cluster.client("A", "snapshot").unwrap();
    let one_day = OracleQuery { date_end: Some(20200820), ..two_days() };
    let queries =
        [first(3, one_day.clone()), OracleQuery { site: Some("Cañada".to_owned()), ..one_day.clone() }];
    for (name, encoding) in [("rows_arrow", Encoding::Arrow), ("rows_json", Encoding::Json)] {
        let mut text = String::new();
        for query in &queries {
            push_frames(&mut text, &client, &answer::query(query, encoding)).await;
        }
        assert_snapshot!(name, text);
    }
    let by_day = answer::aggregate(Measure::Value, &[GroupKey::Day, GroupKey::Site]);
    for (name, encoding) in [("groups_arrow", Encoding::Arrow), ("groups_json", Encoding::Json)] {
        let mut text = String::new();
        let query = Query { aggregate: Some(by_day.clone()), ..answer::query(&eight_rows(), encoding) };
        push_frames(&mut text, &client, &query).await;
        assert_snapshot!(name, text);
    }
    let old = OldClient::new(&cluster.address("A")).unwrap();
    let mut text = String::new();
    for query in &queries {
        push_old_chunks(&mut text, &old, "filter", query.to_json()).await;
    }
    assert_snapshot!("rows_old_json", text);
    let mut text = String::new();
    let mut params = eight_rows().to_json();
    params["group_by"] = json!(["day", "site"]);
    push_old_chunks(&mut text, &old, "aggregate", params).await;
    assert_snapshot!("groups_old_json", text);
}

async fn push_frames(text: &mut String, client: &Client, query: &Query) {
    let result = client.query(query).await.unwrap();
    writeln!(text, "{query}").unwrap();
    for chunk in read_chunks(client, &result).await.unwrap() {
        for frame in &chunk.frames {
            let day = frame.day.map_or_else(|| "groups".to_owned(), |day| format!("day {day}"));
            writeln!(text, "\nchunk {}, {day}", chunk.index).unwrap();
            match result.encoding() {
                Encoding::Arrow => push_columns(text, &result, frame),
                _ => push_objects(text, std::str::from_utf8(&frame.payload).unwrap()),
            }
        }
    }
    text.push('\n');
}

async fn push_old_chunks(text: &mut String, client: &OldClient, query_type: &str, params: Value) {
    let answer = client.query(query_type, &params.to_string()).await.unwrap();
    writeln!(text, "{query_type} {params}").unwrap();
    for index in 0..answer.total_chunks {
        writeln!(text, "\nchunk {index}").unwrap();
        push_objects(text, &client.chunk(&answer.uid, index).await.unwrap().data);
    }
    text.push('\n');
}

/// JSON as it is, but a line for each object.
fn push_objects(text: &mut String, json: &str) {
    writeln!(text, "{}", json.replace("},{", "},\n{")).unwrap();
}

/// A line for each column: name, type, values, and the dictionary where there is one.
fn push_columns(text: &mut String, result: &QueryResult, frame: &Frame) {
    let batch = frame::decode_arrow(&result.manifest.arrow_schema, &frame.payload).unwrap();
    let rows = answer::rows(result, &[CheckedChunk { index: 0, frames: vec![frame.clone()] }]);
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let values: Vec<String> = rows.iter().map(|row| row[field.name()].to_string()).collect();
        let null = if field.is_nullable() { " or null" } else { "" };
        write!(text, "  {} ({}{null}): {}", field.name(), field.data_type(), values.join(", ")).unwrap();
        if let Some(column) = column.as_any_dictionary_opt() {
            let words: Vec<&str> = column.values().as_string::<i32>().iter().flatten().collect();
            write!(text, "; dictionary {words:?}").unwrap();
        }
        text.push('\n');
    }
}

/// A query's chunks by each contract and encoding; those that are cut alike stand once.
async fn layouts(cluster: &InProcessCluster, query: &OracleQuery) -> String {
    let client = cluster.client("A", "snapshot").unwrap();
    let (arrow, arrow_chunks) = ask(&client, query, Encoding::Arrow).await;
    let (json, json_chunks) = ask(&client, query, Encoding::Json).await;
    assert_eq!(counts(&arrow.ledger), counts(&json.ledger), "encodings count alike");
    let mut text = format!(
        "query     {}\nchunking  {}\nledger    {}\n",
        answer::query(query, Encoding::Json),
        chunking(cluster),
        counts(&arrow.ledger).join("\n          ")
    );
    let [arrow, json] = [layout(&arrow, &arrow_chunks), layout(&json, &json_chunks)];
    match arrow == json {
        true => write!(text, "\noverlay.v1, Arrow and JSON: {arrow}").unwrap(),
        false => write!(text, "\noverlay.v1, Arrow: {arrow}\noverlay.v1, JSON: {json}").unwrap(),
    }
    write!(text, "\nOverlayNode: {}", old_layout(cluster, query).await).unwrap();
    text
}

fn chunking(cluster: &InProcessCluster) -> String {
    let (strategies, limits) = (&cluster.overlay().strategies, &cluster.overlay().limits);
    let bytes = format!("at most {} bytes", limits.chunk_bytes);
    match strategies.chunking {
        Chunking::Fixed => format!("fixed, {} rows, {bytes}", strategies.chunk_size),
        Chunking::Adaptive => format!("adaptive, 100 rows and twice as many each time, {bytes}"),
        Chunking::QueryBased => format!("query_based, a tenth of the limit, {bytes}"),
    }
}

async fn ask(client: &Client, query: &OracleQuery, encoding: Encoding) -> (QueryResult, Vec<CheckedChunk>) {
    let result = client.query(&answer::query(query, encoding)).await.unwrap();
    let chunks = read_chunks(client, &result).await.unwrap();
    (result, chunks)
}

/// What each day gave, without who served it, which is whose turn it was.
fn counts(ledger: &[Entry]) -> Vec<String> {
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Served(served) => {
            format!("served, {} rows match, {} taken", served.rows_matched, served.rows_taken)
        }
        Outcome::Pruned { by, .. } => format!("pruned, {by}"),
        Outcome::BeyondLimit => "beyond the limit".to_owned(),
        other => panic!("the fixtures have these days: {other:?}"),
    };
    ledger.iter().map(|entry| format!("{} {}, {}", entry.day, entry.team, outcome(&entry.outcome))).collect()
}

/// Chunk by chunk, frame by frame.
fn layout(result: &QueryResult, chunks: &[CheckedChunk]) -> String {
    let manifest = &result.manifest;
    let reached = if manifest.limit_reached { ", limit reached" } else { "" };
    let mut text =
        format!("total_records {}, chunk_rows {:?}{reached}\n", manifest.total_records, manifest.chunk_rows);
    for chunk in chunks {
        writeln!(text, "  chunk {}", chunk.index).unwrap();
        for frame in &chunk.frames {
            let day = frame.day.expect("frames of rows have a day");
            let end = frame.first_row + u64::from(frame.rows);
            writeln!(text, "    {day}, rows {}..{end} of its result", frame.first_row).unwrap();
            let rows = answer::rows(result, &[CheckedChunk { index: 0, frames: vec![frame.clone()] }]);
            push_rows(&mut text, &rows);
        }
    }
    text
}

async fn old_layout(cluster: &InProcessCluster, query: &OracleQuery) -> String {
    let client = OldClient::new(&cluster.address("A")).unwrap();
    let answer = client.query("filter", &query.to_string()).await.unwrap();
    let mut text = format!(
        "{}, total_records {}, total_chunks {}\n",
        answer.status, answer.total_records, answer.total_chunks
    );
    for index in 0..answer.total_chunks {
        let chunk = client.chunk(&answer.uid, index).await.unwrap();
        let last = if chunk.is_last { ", the last" } else { "" };
        writeln!(text, "  chunk {index}: {}{last}", chunk.status).unwrap();
        push_rows(&mut text, &serde_json::from_str::<Vec<Value>>(&chunk.data).unwrap());
    }
    text
}

/// Time, parameter, concentration and site of each row, as the encoding has them.
fn push_rows(text: &mut String, rows: &[Value]) {
    let hidden = if rows.len() > ROWS_SHOWN { 2..rows.len() - 2 } else { 0..0 };
    for (index, row) in rows.iter().enumerate() {
        if index == hidden.start && !hidden.is_empty() {
            writeln!(text, "      ({} rows)", hidden.len()).unwrap();
        }
        if !hidden.contains(&index) {
            let field = |name: &str| match &row[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let [time, parameter, value, site] = ["timestamp", "parameter", "value", "site_name"].map(field);
            writeln!(text, "      {time} {parameter} {value} {site}").unwrap();
        }
    }
}
