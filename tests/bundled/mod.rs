//! The bundled data, counted by a CSV reader that the loader does not use.

use std::ops::RangeInclusive;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

/// The folder of the day folders.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/airnow");

/// The days of all teams.
pub(crate) const ALL: RangeInclusive<u32> = 20200810..=20200924;

/// The rows of some days, as their fields.
pub(crate) fn rows(days: RangeInclusive<u32>) -> Vec<StringRecord> {
    let mut rows = Vec::new();
    for day in days {
        let Ok(files) = Path::new(ROOT).join(day.to_string()).read_dir() else { continue };
        for file in files {
            let file = file.unwrap().path();
            let mut reader = ReaderBuilder::new().has_headers(false).from_path(&file).unwrap();
            rows.extend(reader.records().map(Result::unwrap));
        }
    }
    rows
}

/// How many of them have PM2.5 from 5 to 35.
pub(crate) fn pm25_from_5_to_35(rows: &[StringRecord]) -> usize {
    let wanted = |row: &&StringRecord| {
        &row[3] == "PM2.5" && row[4].parse().is_ok_and(|value: f64| (5.0..=35.0).contains(&value))
    };
    rows.iter().filter(wanted).count()
}
