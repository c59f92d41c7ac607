//! The dataset as it lies on the disk: every day loaded as a node would, and counted by another reader.
//!
//! Each day is loaded by itself and dropped once its facts are known, so that one broken day hides no
//! other, and the dataset need not fit into memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::day::Day;
use crate::decimal::Decimal;
use crate::load::{LoadError, LoadOptions, RejectedRow, days_on_disk, load};
use crate::predicate::Predicate;
use crate::scan::{BoundPredicate, count};
use crate::store::Version;

/// Rejected rows of each day that are named; all are counted.
const REJECTED_ROWS_NAMED: usize = 20;

/// A dataset's root, read.
pub(super) struct Disk {
    /// Every day that has a folder, in order.
    pub(super) days: Vec<DiskDay>,
    /// What stands beside the data and is no part of it.
    pub(super) ignored: Vec<String>,
    /// A CSV file for each of the ignored that is or holds one.
    pub(super) astray: Vec<PathBuf>,
}

/// One day folder.
pub(super) struct DiskDay {
    pub(super) day: Day,
    /// CSV files in the folder.
    pub(super) files: u64,
    /// Rows in them, whether they parse or not. Where the day cannot be loaded, as far as they were counted.
    pub(super) rows: u64,
    /// What a node that holds the day loads, or why it cannot.
    pub(super) loaded: Result<LoadedDay, LoadError>,
    /// Files of which the other reader counts other rows, with both counts.
    pub(super) miscounted: Vec<(PathBuf, u64, u64)>,
    /// Files in which the other reader finds no row.
    pub(super) empty_files: Vec<PathBuf>,
}

/// What a node loads of a day.
#[derive(Default)]
pub(super) struct LoadedDay {
    pub(super) files: u64,
    pub(super) rows: u64,
    pub(super) rejected_rows: u64,
    /// The first few.
    pub(super) rejected: Vec<RejectedRow>,
    /// Rows that the sample query selects.
    pub(super) sample_rows: u64,
    /// `None` if the folder has no file.
    pub(super) version: Option<Version>,
    /// Rows of each file, good and bad ones, by stem.
    by_stem: BTreeMap<String, (u64, u64)>,
}

/// Reads every day under `root`.
///
/// # Errors
/// [`LoadError`] if `root` is no readable folder or has no day; what is wrong with a day stands there.
pub(super) fn read(root: &Path) -> Result<Disk, LoadError> {
    let found = days_on_disk(root)?;
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(day) = found.days.get(next.fetch_add(1, Ordering::Relaxed)) {
            let read = read_day(root, *day);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(*day, read);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(found.days.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut disk = Disk { days: Vec::new(), ignored: found.ignored, astray: Vec::new() };
    for (day, ignored) in done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        disk.ignored.extend(ignored.into_iter().map(|name| format!("{}/{name}", day.day)));
        disk.days.push(day);
    }
    disk.astray = disk.ignored.iter().filter_map(|name| csv_below(&root.join(name))).collect();
    Ok(disk)
}

/// The first CSV file at or below a path, by name and in any letter case. What is hidden or cannot be listed
/// has none, nor have links below it.
fn csv_below(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    if name.starts_with('.') {
        return None;
    }
    if !path.is_dir() {
        return (name.ends_with(".csv") || name.ends_with(".csv.gz")).then(|| path.to_owned());
    }
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
    inside.sort();
    inside.iter().filter(|path| !path.is_symlink()).find_map(|path| csv_below(path))
}

/// Reads a day, and gives the names in its folder that are no part of the dataset.
fn read_day(root: &Path, day: Day) -> (DiskDay, Vec<String>) {
    let loaded = load_day(root, day);
    // What cannot be listed cannot be loaded either, and that is reported.
    let (listed, ignored) = list(&root.join(day.to_string())).unwrap_or_default();
    let counts: Vec<Option<u64>> = listed.iter().map(|file| records(&file.path).ok()).collect();
    let mut rows: u64 = counts.iter().flatten().sum();
    let mut miscounted = Vec::new();
    if let Ok(loaded) = &loaded {
        // Readers may differ about what is damaged, so only files without a bad row are compared.
        for (file, counted) in listed.iter().zip(&counts) {
            let (good, bad) = loaded.by_stem.get(&file.stem).copied().unwrap_or_default();
            if bad == 0 && *counted != Some(good) {
                miscounted.push((file.path.clone(), good, counted.unwrap_or(0)));
            }
        }
        if miscounted.is_empty() {
            rows = loaded.rows + loaded.rejected_rows;
        }
    }
    let empty = listed.iter().zip(&counts).filter(|(_, counted)| **counted == Some(0));
    let empty_files = empty.map(|(file, _)| file.path.clone()).collect();
    (DiskDay { day, files: listed.len() as u64, rows, loaded, miscounted, empty_files }, ignored)
}

fn load_day(root: &Path, day: Day) -> Result<LoadedDay, LoadError> {
    let options = LoadOptions { rejected_kept: REJECTED_ROWS_NAMED, ..LoadOptions::default() };
    let loaded = load(root, &BTreeSet::from([day]), &options, &|_| ())?;
    let Some(batch) = loaded.store.day(day) else {
        return Ok(LoadedDay::default());
    };
    let sample = BoundPredicate::new(&loaded.store, &sample());
    let file = |file: &crate::store::FileSummary| {
        (file.stem.to_string(), (u64::from(file.rows), u64::from(file.rejected)))
    };
    Ok(LoadedDay {
        files: batch.files.len() as u64,
        rows: u64::from(batch.row_count()),
        rejected_rows: batch.statistics.rejected_rows,
        sample_rows: count(&loaded.store, batch, &sample, 0..batch.row_count()),
        version: Some(batch.version),
        by_stem: batch.files.iter().map(file).collect(),
        rejected: loaded.rejected,
    })
}

/// The sample query: PM2.5 from 5 to 35.
fn sample() -> Predicate {
    Predicate {
        parameter: Some("PM2.5".to_owned()),
        min: Decimal::parse("5").ok(),
        max: Decimal::parse("35").ok(),
        ..Predicate::default()
    }
}

struct CsvFile {
    stem: String,
    path: PathBuf,
}

/// The CSV files in a folder in order, and the names of what else there is but hidden files.
fn list(folder: &Path) -> io::Result<(Vec<CsvFile>, Vec<String>)> {
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        names.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    let (mut files, mut ignored) = (Vec::new(), Vec::new());
    for (name, path) in names {
        if name.starts_with('.') {
            continue;
        }
        let stem = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".csv");
        match stem {
            Some(stem) if !path.is_dir() => files.push(CsvFile { stem: stem.to_owned(), path }),
            _ => ignored.push(name),
        }
    }
    Ok((files, ignored))
}

/// The records of a file but its header and blank lines, by a CSV reader that the loader does not use.
fn records(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let source: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
        true => Box::new(flate2::read::MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(source);
    let mut record = csv::ByteRecord::new();
    let (mut records, mut first) = (0, true);
    while reader.read_byte_record(&mut record).map_err(io::Error::other)? {
        let name = record.get(0).unwrap_or_default().trim_ascii();
        let is_blank = record.len() == 1 && name.is_empty();
        let name = name.strip_prefix("\u{feff}".as_bytes()).unwrap_or(name);
        let is_header = [&b"lat"[..], b"latitude"].iter().any(|header| name.eq_ignore_ascii_case(header));
        records += u64::from(!(is_blank || first && is_header));
        first &= is_blank;
    }
    Ok(records)
}
