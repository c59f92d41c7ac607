//! A whole file of rows, held against the oracle's reading of it.

use overlay::frame::{self, Encoding};
use overlay::load::{LoadError, LoadOptions, load_bytes};
use overlay::store::DayBatch;
use overlay::store::Store;
use serde_json::Value;

use super::{Seed, sample, text_seeds};
use crate::answer::{arrow_rows, assert_equal_rows};
use crate::oracle::{Oracle, OracleRow};

pub(super) fn run(bytes: &[u8]) {
    let day = sample::day(sample::DAY);
    let all = LoadOptions { rejected_kept: usize::MAX, ..LoadOptions::default() };
    let loaded = load_bytes(day, "file", bytes, &all).expect("a small file has few parameters");
    let oracle = Oracle::of_file(sample::DAY, "file", bytes);
    let (store, batch) = (&loaded.store, loaded.store.day(day).expect("a day with a file is there"));

    let rejected: Vec<u64> = loaded.rejected.iter().map(|row| row.line).collect();
    let expected: Vec<u64> = oracle.rejected().iter().map(|record| record.line).collect();
    assert_eq!(rejected, expected, "lines that are rejected: {:?}", loaded.rejected);
    assert_eq!(batch.statistics.rejected_rows, expected.len() as u64);
    for row in &loaded.rejected {
        assert!(row.reason.len() <= 512 && !row.reason.contains('\n'), "{:?}", row.reason);
    }

    let expected = |json: fn(&OracleRow) -> Value| oracle.all_rows().iter().map(json).collect::<Vec<_>>();
    assert_equal_rows(&"json", &expected(OracleRow::to_json), &json_rows(store, batch, Encoding::Json));
    let legacy = json_rows(store, batch, Encoding::JsonLegacy);
    assert_equal_rows(&"legacy json", &expected(OracleRow::to_legacy_json), &legacy);
    assert_equal_rows(&"arrow", &expected(OracleRow::to_json), &arrow(store, batch));

    let strict = load_bytes(day, "file", bytes, &LoadOptions { strict: true, ..all });
    match strict {
        Ok(strict) => assert_eq!(strict.store.day(day).map(|day| day.version), Some(batch.version)),
        Err(LoadError::Rejected(row)) => assert_eq!(Some(&row), loaded.rejected.first()),
        Err(other) => panic!("{other}"),
    }
}

fn json_rows(store: &Store, batch: &DayBatch, encoding: Encoding) -> Vec<Value> {
    let payload = payload(store, batch, encoding);
    let count = frame::json_row_count(&payload, &frame::json_keys(None)).expect("what was encoded decodes");
    let rows: Vec<Value> = serde_json::from_slice(&[b"[", payload.as_ref(), b"]"].concat()).expect("JSON");
    assert_eq!(count, rows.len());
    rows
}

fn arrow(store: &Store, batch: &DayBatch) -> Vec<Value> {
    let payload = payload(store, batch, Encoding::Arrow);
    let decoded = frame::decode_arrow(&frame::schema_message(), &payload).expect("what was encoded decodes");
    arrow_rows(&decoded, Some(batch.day))
}

/// All rows; no larger than the statistics say that they can become.
fn payload(store: &Store, batch: &DayBatch, encoding: Encoding) -> bytes::Bytes {
    let rows: Vec<u32> = (0..batch.row_count()).collect();
    let payload = frame::encode_rows(store, batch, &rows, encoding);
    let row_bytes = u64::from(encoding.of(&batch.statistics.worst_row_bytes));
    let most = row_bytes * rows.len() as u64 + u64::from(frame::frame_overhead_bytes(encoding));
    assert!(payload.len() as u64 <= most, "{encoding:?}: {} bytes, {most} at most", payload.len());
    payload
}

pub(super) fn seeds() -> Vec<Seed> {
    let header = format!("Latitude,Longitude,UTC,parameter\r\n{}", sample::CSV.replace('\n', "\r\n"));
    let first = sample::CSV.lines().next().unwrap_or_default();
    let mut seeds = text_seeds(&[
        ("empty", ""),
        ("rows", sample::CSV),
        ("header", &header),
        ("byte_order_mark", &format!("\u{feff}\n{first}")),
        ("line_break_inside", &format!("{}\n", first.replace("City", "\nCity"))),
        ("cut", &sample::CSV[..sample::CSV.len() - 9]),
        ("another_day", &first.replace("2020-08-10", "2020-08-11")),
        (
            "edges",
            "-90,180,2020-08-10T23:59,P,999999999.999999999,U,-0.000000001,32767,6,,,,\n90,-180,2020-08-10T00:00,P,1e2,U,+.5,0,1,\u{e9},\u{4e2d},,\n",
        ),
        (
            "rejected",
            "1,2,3\n91,0,2020-08-10T00:00,P,1,U,1,1,1,,,,\n0,0,2020-08-10T00:00,,1,U,1,1,1,,,,\n0,0,2020-08-10T00:00,P,x,U,1,1,7,,,,\n",
        ),
    ]);
    seeds.push(("no_text", [first.as_bytes(), b"\n0,0,2020-08-10T00:00,\xff,1,U,1,1,1,,,,\n"].concat()));
    seeds
}
