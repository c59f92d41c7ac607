//! Payloads as a client decodes them: a byte that says how, and the payload; or a schema message and a payload.

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey, Tally};
use overlay::frame::{self, Encoding};

use super::{Seed, pair, paired, sample, tagged};

pub(super) fn run(bytes: &[u8]) {
    let Some((tag, bytes)) = tagged(bytes) else { return };
    match tag % 5 {
        0 => arrow(&frame::schema_message(), bytes),
        1 => arrow(&frame::groups_schema_message(&spec()), bytes),
        2 => pair(bytes).into_iter().for_each(|(schema, payload)| arrow(schema, payload)),
        3 => json(bytes, &frame::json_keys(None)),
        _ => json(bytes, &frame::json_keys(Some(&spec()))),
    }
}

fn arrow(schema: &[u8], payload: &[u8]) {
    match frame::decode_arrow(schema, payload) {
        Ok(batch) => every_value_is_there(&batch, payload.len()),
        Err(error) => assert!(error.to_string().len() <= 2048, "{error}"),
    }
}

/// Nothing that a client does with a batch can lead out of it, and it is no larger than the payload makes it.
fn every_value_is_there(batch: &RecordBatch, payload_bytes: usize) {
    assert!(batch.num_rows() <= payload_bytes, "{} rows in {payload_bytes} bytes", batch.num_rows());
    let taken = batch.get_array_memory_size();
    // Each buffer is copied into one of its own, in steps of 64 bytes.
    let most = 4 * payload_bytes + 1024 * (batch.num_columns() + 1);
    assert!(taken <= most, "{taken} bytes of a payload of {payload_bytes}");
    for column in batch.columns() {
        assert_eq!(column.len(), batch.num_rows());
        assert!(column.null_count() <= column.len());
        match column.data_type() {
            DataType::Dictionary(..) => {
                let column = column.as_dictionary::<Int32Type>();
                let texts = column.values().as_string::<i32>();
                let mut keys = column.keys().iter().flatten();
                assert!(keys.all(|key| texts.value(key as usize).len() <= payload_bytes));
            }
            DataType::Utf8 => {
                let bytes: usize = column.as_string::<i32>().iter().flatten().map(str::len).sum();
                assert!(bytes <= payload_bytes);
            }
            _ => {}
        }
    }
}

fn json(payload: &[u8], keys: &[String]) {
    let counted = frame::json_row_count(payload, keys);
    let array = [b"[", payload, b"]"].concat();
    match counted {
        Ok(count) => {
            let rows: Vec<serde_json::Map<String, serde_json::Value>> =
                serde_json::from_slice(&array).expect("an array of objects");
            assert_eq!(rows.len(), count);
            assert!(rows.iter().all(|row| row.keys().eq(keys)), "other members than {keys:?}");
        }
        Err(error) => assert!(error.to_string().len() <= 2048, "{error}"),
    }
}

fn spec() -> AggregateSpec {
    AggregateSpec {
        of: AggregateOf::Value,
        group_by: vec![GroupKey::Parameter, GroupKey::Day, GroupKey::Hour],
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    let rows = |encoding| sample::rows_frame(&[0, 1, 2, 3], 0, encoding).payload;
    let mut tally = Tally::new(sample::store(), &spec());
    tally.add(sample::batch(), &[0, 1, 2, 3], &"green".into());
    let groups = tally.into_groups(sample::store());
    let groups = |encoding| frame::encode_groups(spec().of, &groups, 0..groups.len(), encoding);
    let schema = frame::schema_message();
    let no_rows = frame::encode_rows(sample::store(), sample::batch(), &[], Encoding::Arrow);
    vec![
        ("arrow_rows", tagged(0, &rows(Encoding::Arrow))),
        ("arrow_no_rows", tagged(0, &no_rows)),
        ("arrow_groups", tagged(1, &groups(Encoding::Arrow))),
        ("arrow_schema", tagged(2, &paired(&schema, &rows(Encoding::Arrow)))),
        (
            "arrow_groups_schema",
            tagged(2, &paired(&frame::groups_schema_message(&spec()), &groups(Encoding::Arrow))),
        ),
        ("json_rows", tagged(3, &rows(Encoding::Json))),
        ("json_legacy_rows", tagged(3, &rows(Encoding::JsonLegacy))),
        ("json_groups", tagged(4, &groups(Encoding::Json))),
    ]
}
