//! Between the oracle and a client of the node: a query in the client's form, an answer in the oracle's.
//!
//! Rows come back as the JSON objects that [`Oracle`](crate::oracle::Oracle) writes, whatever their encoding,
//! so that one comparison serves every test.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float64Type, Int8Type, Int16Type, Int32Type, TimestampMillisecondType, TimestampSecondType, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use overlay::aggregate::{AggregateOf, AggregateSpec};
use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::plan::Query;
use overlay::predicate::{Place, Words};
use overlay::verb::Frame;
use serde_json::{Map, Value, json};

use crate::oracle::{GroupKey, Measure, OracleQuery, numerically_equal};

/// The oracle's query as the typed client asks it; rows, all chunking as configured.
///
/// # Panics
/// If a bound is no number, or a date does not exist: the oracle's queries have none such.
pub fn query(query: &OracleQuery, encoding: Encoding) -> Query {
    let day = |number: Option<u32>| number.map(|number| Day::from_number(number.into()).expect("a day"));
    let words = Words {
        parameter: query.parameter.as_deref(),
        min: query.min.as_deref(),
        max: query.max.as_deref(),
        place: Place {
            lat_min: query.lat_min,
            lat_max: query.lat_max,
            lon_min: query.lon_min,
            lon_max: query.lon_max,
        },
        site: query.site.as_deref(),
        agency: query.agency.as_deref(),
        text: query.text.as_deref(),
    };
    Query {
        predicate: words.resolve().expect("numbers in order"),
        date_start: day(query.date_start),
        date_end: day(query.date_end),
        team: query.team.clone(),
        limit: query.limit.map(|limit| limit as u64),
        encoding,
        ..Query::default()
    }
}

/// The oracle's aggregate as the node's.
///
/// # Panics
/// Never, as long as both know the same words.
pub fn aggregate(measure: Measure, keys: &[GroupKey]) -> AggregateSpec {
    let key = |key: &GroupKey| overlay::aggregate::GroupKey::from_name(key.name()).expect("the same keys");
    AggregateSpec {
        of: AggregateOf::from_name(measure.name()).expect("the same measures"),
        group_by: keys.iter().map(key).collect(),
    }
}

/// Reads every chunk of a result in order, each checked against the ledger.
///
/// # Errors
/// [`ClientError`] of the first chunk that cannot be read.
pub async fn read_chunks(client: &Client, result: &QueryResult) -> Result<Vec<CheckedChunk>, ClientError> {
    let mut chunks = Vec::new();
    for index in 0..result.chunk_count() {
        chunks.push(client.chunk(result, index).await?);
    }
    Ok(chunks)
}

/// Asks a query and reads all its rows.
///
/// # Errors
/// [`ClientError`] of the query or of the first chunk that cannot be read.
pub async fn ask(client: &Client, query: &Query) -> Result<(QueryResult, Vec<Value>), ClientError> {
    let result = client.query(query).await?;
    let chunks = read_chunks(client, &result).await?;
    let rows = rows(&result, &chunks);
    Ok((result, rows))
}

/// The rows, or groups, of chunks, in their order.
///
/// # Panics
/// If a payload does not decode, which the client has checked.
pub fn rows(result: &QueryResult, chunks: &[CheckedChunk]) -> Vec<Value> {
    let frames = chunks.iter().flat_map(|chunk| &chunk.frames);
    frames.flat_map(|frame| frame_rows(result, frame)).collect()
}

fn frame_rows(result: &QueryResult, frame: &Frame) -> Vec<Value> {
    match result.encoding() {
        Encoding::Arrow => {
            let batch = frame::decode_arrow(&result.manifest.arrow_schema, &frame.payload);
            arrow_rows(&batch.expect("checked by the client"), frame.day)
        }
        Encoding::Json | Encoding::JsonLegacy => {
            let array = [b"[", frame.payload.as_ref(), b"]"].concat();
            serde_json::from_slice(&array).expect("checked by the client")
        }
    }
}

/// The rows of a batch; `day` becomes the member `date`, which Arrow rows do not repeat.
///
/// # Panics
/// If a column is of a type that no frame has.
pub fn arrow_rows(batch: &RecordBatch, day: Option<Day>) -> Vec<Value> {
    let mut rows = vec![Map::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        for (row, object) in rows.iter_mut().enumerate() {
            object.insert(field.name().clone(), cell(column.as_ref(), row));
        }
    }
    if let Some(day) = day {
        for object in &mut rows {
            object.insert("date".to_owned(), json!(day.to_string()));
        }
    }
    rows.into_iter().map(Value::Object).collect()
}

fn cell(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Int8 => json!(column.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => json!(column.as_primitive::<Int16Type>().value(row)),
        DataType::UInt64 => json!(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::Dictionary(..) => {
            let column = column.as_dictionary::<Int32Type>();
            let texts = column.values().as_string::<i32>();
            json!(texts.value(column.keys().value(row) as usize))
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            time(column.as_primitive::<TimestampSecondType>().value(row) * 1000)
        }
        // Parquet has no seconds.
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            time(column.as_primitive::<TimestampMillisecondType>().value(row))
        }
        other => panic!("no column of ours is {other}"),
    }
}

fn time(milliseconds: i64) -> Value {
    let time = chrono::DateTime::from_timestamp_millis(milliseconds).expect("a time of the dataset");
    json!(time.format("%Y-%m-%dT%H:%MZ").to_string())
}

/// Fails at the first row that differs, and says how many there are on either side.
///
/// # Panics
/// If `found` is not `expected`; `what` opens the message.
pub fn assert_equal_rows(what: &dyn std::fmt::Display, expected: &[Value], found: &[Value]) {
    let differs = |index: &usize| match (expected.get(*index), found.get(*index)) {
        (Some(expected), Some(found)) => !numerically_equal(expected, found),
        _ => true,
    };
    if let Some(index) = (0..expected.len().max(found.len())).find(differs) {
        let shown = |row: Option<&Value>| row.map_or_else(|| "no row".to_owned(), Value::to_string);
        panic!(
            "{what}\n  rows      expected {}, found {}\n  first difference at row {index}\n  expected  {}\n  found     {}",
            expected.len(),
            found.len(),
            shown(expected.get(index)),
            shown(found.get(index)),
        );
    }
}
