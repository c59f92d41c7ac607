//! The whole real dataset through load, scan, aggregate and frame, against figures counted independently.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey, Tally};
use overlay::decimal::Decimal;
use overlay::frame::{
    Encoding, decode_arrow, encode_rows, frame_overhead_bytes, json_keys, json_row_count, schema_message,
};
use overlay::load::{LoadOptions, days_on_disk, load};
use overlay::predicate::Predicate;
use overlay::scan::{BoundPredicate, select};
use overlay::store::{DayBatch, Store};

/// The dataset, loaded once; `None` where it is not at hand.
fn store() -> Option<&'static Store> {
    static STORE: OnceLock<Option<Store>> = OnceLock::new();
    let load_all = || {
        let Some(root) = std::env::var_os("OVERLAY_DATASET").map(PathBuf::from) else {
            // Not by `eprintln!`, which libtest keeps to itself when a test passes.
            let _ = io::stderr().write_all(b"skipped: the real data: OVERLAY_DATASET is not set\n");
            return None;
        };
        let days = days_on_disk(&root).unwrap().days.into_iter().collect();
        let options = LoadOptions { threads: 2, strict: true, ..LoadOptions::default() };
        Some(load(&root, &days, &options, &|_| ()).unwrap().store)
    };
    STORE.get_or_init(load_all).as_ref()
}

fn selections<'a>(store: &'a Store, predicate: &Predicate) -> impl Iterator<Item = (&'a DayBatch, Vec<u32>)> {
    let bound = BoundPredicate::new(store, predicate);
    store.days().map(move |batch| {
        let mut rows = Vec::new();
        select(store, batch, &bound, 0..batch.row_count(), &mut rows);
        (batch, rows)
    })
}

#[test]
fn every_row_is_loaded_in_few_bytes() {
    let Some(store) = store() else { return };
    assert_eq!(store.file_count(), 516);
    assert_eq!(store.row_count(), 1_167_525);
    assert_eq!((store.days().len(), store.sites().len()), (43, 1417));
    let bytes_a_row = store.bytes() as f64 / store.row_count() as f64;
    assert!(bytes_a_row <= 20.0, "{bytes_a_row}");
}

#[test]
fn parameters_and_missing_values_are_those_of_the_dataset() {
    let Some(store) = store() else { return };
    let rows = |parameter: &str| -> u64 {
        let of = |batch: &DayBatch| batch.statistics.parameters.get(parameter).map_or(0, |of| of.rows);
        store.days().map(of).sum()
    };
    let counts = ["OZONE", "PM2.5", "PM10", "NO2", "SO2", "CO"].map(rows);
    assert_eq!(counts, [478_728, 334_402, 125_784, 97_613, 71_332, 59_666]);
    let all = || store.days().flat_map(|batch| (0..batch.row_count()).map(move |row| (batch, row)));
    assert_eq!(all().filter(|(batch, row)| batch.value.get(*row).is_none()).count(), 8_943);
    assert_eq!(all().filter(|(batch, row)| batch.raw_concentration.get(*row).is_none()).count(), 11_658);
    assert_eq!(all().filter(|(batch, row)| batch.aqi(*row).is_none()).count(), 69_005);
    assert_eq!(all().filter(|(batch, row)| batch.category(*row).is_none()).count(), 69_005);
}

#[test]
fn pm25_between_5_and_35_selects_what_others_counted() {
    let Some(store) = store() else { return };
    let predicate = Predicate {
        parameter: Some("PM2.5".to_owned()),
        min: Some(Decimal::parse("5").unwrap()),
        max: Some(Decimal::parse("35").unwrap()),
        ..Predicate::default()
    };
    let rows: usize = selections(store, &predicate).map(|(_, rows)| rows.len()).sum();
    assert_eq!(rows, 225_521);
}

#[test]
fn aggregates_count_every_row_with_a_value() {
    let Some(store) = store() else { return };
    let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Day] };
    let mut tally = Tally::new(store, &spec);
    for (batch, rows) in selections(store, &Predicate::default()) {
        tally.add(batch, &rows, &"green".into());
    }
    let counted: u64 = tally.into_groups(store).partials().iter().map(|partial| partial.count).sum();
    assert_eq!(counted, 1_167_525 - 8_943);
}

#[test]
fn payloads_keep_the_bound_that_each_day_states() {
    let Some(store) = store() else { return };
    for (batch, rows) in selections(store, &Predicate::default()) {
        let worst = batch.statistics.worst_row_bytes;
        for (encoding, row_bytes) in [
            (Encoding::Arrow, worst.arrow),
            (Encoding::Json, worst.json),
            (Encoding::JsonLegacy, worst.json_legacy),
        ] {
            for rows in rows.chunks(1500) {
                let payload = encode_rows(store, batch, rows, encoding);
                let overhead = frame_overhead_bytes(encoding) as usize;
                let bound = overhead + rows.len() * row_bytes as usize;
                assert!(payload.len() <= bound, "{encoding:?} of {}: {} > {bound}", batch.day, payload.len());
                let decoded = match encoding {
                    Encoding::Arrow => decode_arrow(&schema_message(), &payload).unwrap().num_rows(),
                    Encoding::Json | Encoding::JsonLegacy => {
                        json_row_count(&payload, &json_keys(None)).unwrap()
                    }
                };
                assert_eq!(decoded, rows.len());
            }
        }
    }
}
