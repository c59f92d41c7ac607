//! What one process does without a network: the kernel's own work, and reading files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::load::{self, LoadOptions};
use overlay::predicate::Predicate;
use overlay::scan::{self, BoundPredicate};
use overlay::store::Store;

use super::drains::moderate;
use super::rates::lower_bound;
use super::{BenchError, milliseconds};

/// Rows that match what drains ask for.
pub(super) fn matching(store: &Store) -> u64 {
    let bound = BoundPredicate::new(store, &moderate(&lower_bound(0)));
    store.days().map(|batch| scan::count(store, batch, &bound, 0..batch.row_count())).sum()
}

/// Milliseconds of one thread that scans every day, gathers the matching rows and encodes them as these frames.
///
/// # Errors
/// [`BenchError::Differ`] if the frames do not have all rows that match.
pub(super) fn scan_gather_encode(
    store: &Store,
    predicate: &Predicate,
    frames: &[(Day, u32)],
) -> Result<f64, BenchError> {
    let began = Instant::now();
    let bound = BoundPredicate::new(store, predicate);
    let mut frames = frames.iter().peekable();
    let mut encoded_bytes = 0;
    for batch in store.days() {
        let mut selected = Vec::new();
        scan::select(store, batch, &bound, 0..batch.row_count(), &mut selected);
        let mut rest = &selected[..];
        while let Some((_, rows)) = frames.next_if(|(day, _)| *day == batch.day) {
            let (rows, behind) = rest.split_at_checked(*rows as usize).ok_or(BenchError::Differ)?;
            encoded_bytes += frame::encode_rows(store, batch, rows, Encoding::Arrow).len();
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(BenchError::Differ);
        }
    }
    std::hint::black_box(encoded_bytes);
    Ok(milliseconds(began.elapsed()))
}

/// Loads every day under `root` with so many threads; takes milliseconds.
pub(super) fn load(root: &Path, threads: usize) -> Result<(f64, Store), BenchError> {
    let began = Instant::now();
    let days: BTreeSet<Day> = load::days_on_disk(root)?.days.into_iter().collect();
    let options = LoadOptions { threads, ..LoadOptions::default() };
    let loaded = load::load(root, &days, &options, &|_| {})?;
    Ok((milliseconds(began.elapsed()), loaded.store))
}

/// Milliseconds of one thread in which the csv crate reads every file and splits its fields, and rows that it finds.
pub(super) fn parse_only(files: &[PathBuf]) -> Result<(f64, u64), BenchError> {
    let began = Instant::now();
    let (mut rows, mut record) = (0, csv::ByteRecord::new());
    for file in files {
        let bytes = fs::read(file)?;
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        while reader.read_byte_record(&mut record).map_err(|error| BenchError::Io(error.into()))? {
            rows += 1;
        }
    }
    Ok((milliseconds(began.elapsed()), rows))
}

/// The CSV files of every day folder under `root`, in order.
pub(super) fn csv_files(root: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let mut files = Vec::new();
    for day in load::days_on_disk(root)?.days {
        for entry in fs::read_dir(root.join(day.to_string()))? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "csv"));
    files.sort();
    Ok(files)
}
