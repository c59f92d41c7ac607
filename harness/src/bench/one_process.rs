//! What one process does without a network: the kernel's own work, and reading files.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use flate2::read::MultiGzDecoder;
use overlay::aggregate::{Tally, mean};
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::load::{self, LoadOptions};
use overlay::predicate::Predicate;
use overlay::scan::{self, BoundPredicate};
use overlay::store::{DayBatch, Store};

use super::drains::{means_by_site_and_day, moderate, no_bound, particles};
use super::rates::lower_bound;
use super::{BenchError, Found, milliseconds};

/// What drains must find.
pub(super) fn matching(store: &Store) -> Found {
    let bound = BoundPredicate::new(store, &moderate(&lower_bound(0)));
    let counts = store.days().map(|batch| scan::count(store, batch, &bound, 0..batch.row_count()));
    Found::rows(counts.sum())
}

/// What means must be.
pub(super) fn means(store: &Store) -> Found {
    let bound = BoundPredicate::new(store, &particles(&no_bound(&lower_bound(0))));
    let mut tally = Tally::new(store, &means_by_site_and_day());
    let any_team = Arc::from("");
    store.days().for_each(|batch| tally.add(batch, &selected(store, batch, &bound), &any_team));
    let groups = tally.into_groups(store);
    Found { rows: groups.len() as u64, mean_sum: Some(groups.partials().iter().map(mean).sum()) }
}

fn selected(store: &Store, batch: &DayBatch, bound: &BoundPredicate) -> Vec<u32> {
    let mut selected = Vec::new();
    scan::select(store, batch, bound, 0..batch.row_count(), &mut selected);
    selected
}

/// Milliseconds of one thread that scans every day, gathers the matching rows and encodes them as these frames.
///
/// # Errors
/// [`BenchError::Frames`] if the frames do not have all rows that match, or others.
pub(super) fn scan_gather_encode(
    store: &Store,
    predicate: &Predicate,
    frames: &[(Day, u32)],
) -> Result<(f64, Found), BenchError> {
    let began = Instant::now();
    let bound = BoundPredicate::new(store, predicate);
    let mut frames = frames.iter().peekable();
    let (mut row_count, mut encoded_bytes) = (0, 0);
    for batch in store.days() {
        let selected = selected(store, batch, &bound);
        row_count += selected.len() as u64;
        let mut rest = &selected[..];
        while let Some((_, rows)) = frames.next_if(|(day, _)| *day == batch.day) {
            let (rows, behind) = rest.split_at_checked(*rows as usize).ok_or(BenchError::Frames)?;
            encoded_bytes += frame::encode_rows(store, batch, rows, Encoding::Arrow).len();
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(BenchError::Frames);
        }
    }
    if frames.next().is_some() {
        return Err(BenchError::Frames);
    }
    std::hint::black_box(encoded_bytes);
    Ok((milliseconds(began.elapsed()), Found::rows(row_count)))
}

/// Loads every day under `root` with so many threads; takes milliseconds.
pub(super) fn load(root: &Path, threads: usize) -> Result<(f64, Store), BenchError> {
    let began = Instant::now();
    let days: BTreeSet<Day> = load::days_on_disk(root)?.days.into_iter().collect();
    let options = LoadOptions { threads, ..LoadOptions::default() };
    let loaded = load::load(root, &days, &options, &|_| {})?;
    Ok((milliseconds(began.elapsed()), loaded.store))
}

/// Milliseconds of one thread in which the csv crate reads every file and splits its fields, and records that it finds.
pub(super) fn parse_only(files: &[PathBuf]) -> Result<(f64, Found), BenchError> {
    let began = Instant::now();
    let (mut records, mut record) = (0, csv::ByteRecord::new());
    for file in files {
        let unreadable = |error| BenchError::File(file.clone(), error);
        let bytes = read(file).map_err(unreadable)?;
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        while reader.read_byte_record(&mut record).map_err(|error| unreadable(error.into()))? {
            records += 1;
        }
    }
    Ok((milliseconds(began.elapsed()), Found::rows(records)))
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(file)?;
    if file.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text)?;
    Ok(text)
}

/// The files of every day folder under `root` that loading reads, in order.
pub(super) fn csv_files(root: &Path) -> Result<Vec<PathBuf>, BenchError> {
    let mut files = Vec::new();
    for day in load::days_on_disk(root)?.days {
        let folder = root.join(day.to_string());
        let unreadable = |error| BenchError::File(folder.clone(), error);
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            files.push(entry.map_err(unreadable)?.path());
        }
    }
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_csv = name.ends_with(".csv") || name.ends_with(".csv.gz");
        is_csv && !name.starts_with('.') && !file.is_dir()
    });
    files.sort();
    Ok(files)
}

/// Whether whoever only splits fields finds as many rows as who loads them.
///
/// # Errors
/// [`BenchError::Dataset`] if not.
pub(super) fn check_files(files: &[PathBuf], store: &Store) -> Result<(), BenchError> {
    let (_, Found { rows: records, .. }) = parse_only(files)?;
    match store.row_count() {
        rows if rows == records => Ok(()),
        rows => Err(BenchError::Dataset { records, rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures;
    use crate::dataset::DatasetSpec;
    use crate::scratch;

    /// Goal: files are listed as loading lists them, compressed ones too. Method: put beside them what is no data.
    #[test]
    fn files_are_those_that_loading_reads() {
        let folder = scratch::folder().unwrap();
        let (root, day) = (folder.path().join("data"), folder.path().join("data/20200821"));
        let spec =
            DatasetSpec { first_day: 20200821, last_day: 20200821, gzip: true, ..DatasetSpec::default() };
        spec.write(&root).unwrap();
        fs::write(day.join(".20200821-24.csv"), "hidden\n").unwrap();
        fs::write(day.join("notes.txt"), "notes\n").unwrap();
        fs::create_dir(day.join("folder.csv")).unwrap();
        let (_, store) = load(&root, 1).unwrap();
        check_files(&csv_files(&root).unwrap(), &store).unwrap();
    }

    #[test]
    fn file_that_cannot_be_split_is_named() {
        let folder = scratch::folder().unwrap();
        let file = folder.path().join("damaged.csv");
        fs::write(&file, "a,b\nc\n").unwrap();
        let error = parse_only(std::slice::from_ref(&file)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read `{}`", file.display()));
    }

    #[test]
    fn frames_have_the_rows_that_match_and_no_others() {
        let (_, store) = load(&fixtures(), 1).unwrap();
        let predicate = moderate("5");
        let bound = BoundPredicate::new(&store, &predicate);
        let rows = |batch| selected(&store, batch, &bound).len() as u32;
        let frames: Vec<(Day, u32)> = store.days().map(|batch| (batch.day, rows(batch))).collect();
        let found =
            |frames: &[(Day, u32)]| scan_gather_encode(&store, &predicate, frames).map(|found| found.1);
        assert_eq!(found(&frames).unwrap(), matching(&store));
        let after_all = Day::from_number(99991231).unwrap();
        for wrong in [&frames[1..], &[&frames[..], &[(after_all, 1)]].concat()] {
            assert!(matches!(found(wrong), Err(BenchError::Frames)));
        }
    }
}
