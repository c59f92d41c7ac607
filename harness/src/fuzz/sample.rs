//! The few rows that seeds are made of.

use std::sync::OnceLock;

use overlay::config::Overlay;
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::load::{LoadOptions, load_bytes};
use overlay::predicate::{Predicate, Words};
use overlay::store::{DayBatch, Store};
use overlay::verb::Frame;

/// The day that the rows are of.
pub(super) const DAY: u32 = 20200810;

/// Four rows: quoted and plain, missing and negative, two sites, two parameters.
pub(super) const CSV: &str = r#""41.75613","-124.20347","2020-08-10T01:00","OZONE","17.3","PPB","18.0","62","2","Crescent, City","North ""Coast""","0060","8400060"
40.1,-120.5,2020-08-10T01:00,OZONE,-2.25,PPB,-999,,,Simi Valley,Agency,1,8401
40.1,-120.5,2020-08-10T02:00,PM2.5,-999,UG/M3,,12,1,Simi Valley,Agency,1,8401
40.1,-120.5,2020-08-10T23:59,ozone,35,PPB,35.000000001,500,6,Simi Valley,Agency,1,8401
"#;

pub(super) fn day(number: u32) -> Day {
    Day::from_number(number.into()).expect("a day")
}

pub(super) fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let options = LoadOptions { strict: true, ..LoadOptions::default() };
        load_bytes(day(DAY), "20200810-01", CSV.as_bytes(), &options).expect("good rows").store
    })
}

pub(super) fn batch() -> &'static DayBatch {
    store().day(day(DAY)).expect("the day was loaded")
}

pub(super) fn overlay() -> &'static Overlay {
    static OVERLAY: OnceLock<Overlay> = OnceLock::new();
    OVERLAY.get_or_init(|| {
        let text = include_str!("../../../configs/one_host_config.json");
        Overlay::parse(text, "one_host_config.json").expect("a configuration that is shipped").overlay
    })
}

/// Ozone: rows 0, 1 and 3.
pub(super) fn ozone() -> Predicate {
    Words { parameter: Some("OZONE"), ..Words::default() }.resolve().expect("a predicate")
}

/// Rows of the day as the frame that holder B encodes; `first_row` is their place in the day's result.
pub(super) fn rows_frame(rows: &[u32], first_row: u64, encoding: Encoding) -> Frame {
    let payload = frame::encode_rows(store(), batch(), rows, encoding);
    Frame {
        day: Some(day(DAY)),
        version: batch().version,
        first_row,
        rows: rows.len() as u32,
        digest: frame::digest(&payload),
        payload,
        node: "B".into(),
    }
}
