//! Reads a dataset folder into a [`Store`]: `<root>/YYYYMMDD/*.csv` or `.csv.gz`.
//!
//! Every row either becomes a row of the store or is rejected with its file, line and reason. Threads take
//! whole days, in order, and read a day's files one after the other, so that beside the store one day
//! and one file for each thread are in memory. What is loaded depends on the files alone, not on
//! the number of threads.
//!
//! Start at [`load`]. The rules of a row stand in `row`, those of CSV in `split`; `known_sites` saves
//! most rows the better part of both. `watch` loads days anew when their files change.

mod known_sites;
mod row;
mod split;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use self::row::{Date, NoRow, RowReader};
pub use self::watch::{Reloaded, Watcher};
use crate::day::Day;
use crate::store::{DayBatch, DayBuilder, Store, StoreBuilder, TooManyMeasures};

/// A dataset that can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The root is not there, or is no folder.
    #[error("dataset root `{}` is not a folder that exists", .0.display())]
    NotAFolder(PathBuf),
    /// The root has no day.
    #[error("dataset root `{}` has no day folder (named YYYYMMDD, such as 20200810)", .0.display())]
    NoDays(PathBuf),
    /// A folder or file that the system does not let us read, or a damaged gzip file.
    #[error("cannot read `{}`: {why}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// A name that could stand for another one as well, once it is text.
    #[error("name of {0:?} is not UTF-8: rename it")]
    NotUtf8(PathBuf),
    /// One hour's rows twice: nobody can tell which file counts.
    #[error("`{}` and `{}` hold the same rows: keep one of them", .0.display(), .1.display())]
    SameStem(PathBuf, PathBuf),
    /// More parameters and units than a store tells apart.
    #[error(transparent)]
    TooManyMeasures(#[from] TooManyMeasures),
    /// The first rejected row, where none is allowed.
    #[error("{0}")]
    Rejected(RejectedRow),
}

/// What a dataset's root holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetDays {
    /// In order; a folder may turn out to hold no file, or not to be readable.
    pub days: Vec<Day>,
    /// Names of everything else, in order.
    pub ignored: Vec<String>,
}

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Days read at the same time; 0 counts as 1.
    pub threads: usize,
    /// Whether the first rejected row ends the loading.
    pub strict: bool,
    /// Rejected rows of each day to keep with their reasons; all are counted.
    pub rejected_kept: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { threads: 1, strict: false, rejected_kept: 10 }
    }
}

/// How far loading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Files read.
    pub files_done: usize,
    /// Files of all days asked for.
    pub files_total: usize,
    /// Rows that parsed so far.
    pub rows: u64,
}

/// A loaded dataset.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The days asked for that have a file.
    pub store: Store,
    /// The first few of each day, in canonical order; the day's statistics have the count.
    pub rejected: Vec<RejectedRow>,
}

/// A row that did not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// The file it stands in.
    pub file: PathBuf,
    /// The line it starts at, counted from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// `20200810/20200810-01.csv:17: 12 fields, expected 13`.
impl std::fmt::Display for RejectedRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RejectedRow { file, line, reason } = self;
        write!(formatter, "{}:{line}: {reason}", file.display())
    }
}

/// The day folders under `root`, without looking into them.
///
/// # Errors
/// [`LoadError`] if `root` is no readable folder or has no day folder.
pub fn days_on_disk(root: &Path) -> Result<DatasetDays, LoadError> {
    check_root(root)?;
    let mut days = Vec::new();
    let mut ignored = Vec::new();
    for (name, path) in entries(root)? {
        match (name.parse(), is_folder(&path)) {
            // What cannot be looked at is a day too, so that loading it says why.
            (Ok(day), Ok(true) | Err(_)) => days.push(day),
            _ => ignored.push(name),
        }
    }
    if days.is_empty() {
        return Err(LoadError::NoDays(root.to_owned()));
    }
    Ok(DatasetDays { days, ignored })
}

fn check_root(root: &Path) -> Result<(), LoadError> {
    match is_folder(root)? {
        true => Ok(()),
        false => Err(LoadError::NotAFolder(root.to_owned())),
    }
}

/// Whether there is a folder at `path`. A link that leads nowhere is not nothing: it is an error.
fn is_folder(path: &Path) -> Result<bool, LoadError> {
    let nothing = || matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    match path.metadata() {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == ErrorKind::NotFound && nothing() => Ok(false),
        Err(why) => Err(LoadError::Unreadable { path: path.to_owned(), why }),
    }
}

/// Loads `days` from the dataset under `root`; a day without files is left out.
///
/// `progress` is called after each file, from any thread.
///
/// # Errors
/// [`LoadError`] if a folder or file can't be read, a stem is there twice, a row is rejected under
/// `strict`, or there are more parameters than codes. Of several, the one of the earliest day.
pub fn load(
    root: &Path,
    days: &BTreeSet<Day>,
    options: &LoadOptions,
    progress: &(dyn Fn(LoadProgress) + Sync),
) -> Result<Loaded, LoadError> {
    load_over(Store::default(), root, days, options, progress)
}

/// Loads `days` anew, each into its place in `base`; the others stay as they are. What is replaced is
/// [kept](Store::replaced).
///
/// # Errors
/// As [`load`].
pub fn load_over(
    base: Store,
    root: &Path,
    days: &BTreeSet<Day>,
    options: &LoadOptions,
    progress: &(dyn Fn(LoadProgress) + Sync),
) -> Result<Loaded, LoadError> {
    check_root(root)?;
    let days = days.iter().map(|day| Ok((*day, day_files(root, *day)?)));
    let days: Vec<(Day, Vec<DayFile>)> = days.collect::<Result<_, LoadError>>()?;
    let tables = StoreBuilder::over(base);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(BTreeMap::new());
    let progress = ProgressCount::new(&days, progress);
    let work = || {
        let mut reader = RowReader::new(&tables);
        // Days are handed out in order and finished once begun: the earliest error is always found.
        while !failed.load(Ordering::Relaxed) {
            let Some((day, files)) = days.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            if files.is_empty() {
                continue;
            }
            let result = load_day(*day, files, &tables, &mut reader, options, &progress);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(*day, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.clamp(1, days.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut batches = Vec::with_capacity(done.len());
    let mut rejected = Vec::new();
    for result in done.into_values() {
        let (batch, day_rejected) = result?;
        batches.push(batch);
        rejected.extend(day_rejected);
    }
    let mut store = tables.finish(batches);
    for (day, _) in days.iter().filter(|(_, files)| files.is_empty()) {
        store.replace(*day, None);
    }
    Ok(Loaded { store, rejected })
}

struct DayFile {
    stem: String,
    path: PathBuf,
    compressed: bool,
}

/// The files of a day's folder in order of their stems; hidden ones are no data.
fn day_files(root: &Path, day: Day) -> Result<Vec<DayFile>, LoadError> {
    let folder = root.join(day.to_string());
    if !is_folder(&folder)? {
        return Ok(Vec::new());
    }
    let mut files: BTreeMap<String, DayFile> = BTreeMap::new();
    for (name, path) in entries(&folder)? {
        let Some((stem, compressed)) = stem(&name) else { continue };
        if is_folder(&path)? {
            continue;
        }
        let stem = stem.to_owned();
        let file = DayFile { stem: stem.clone(), path, compressed };
        if let Some(other) = files.get(&stem) {
            return Err(LoadError::SameStem(other.path.clone(), file.path));
        }
        files.insert(stem, file);
    }
    Ok(files.into_values().collect())
}

/// The stem of a data file's name, and whether it is compressed; `None` of any other, such as a hidden one.
fn stem(name: &str) -> Option<(&str, bool)> {
    let plain = name.strip_suffix(".csv").map(|stem| (stem, false));
    let found = plain.or_else(|| Some((name.strip_suffix(".csv.gz")?, true)));
    found.filter(|_| !name.starts_with('.'))
}

/// Names and paths inside a folder, in order.
fn entries(folder: &Path) -> Result<BTreeMap<String, PathBuf>, LoadError> {
    let unreadable = |why| LoadError::Unreadable { path: folder.to_owned(), why };
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().into_string().map_err(|_| LoadError::NotUtf8(entry.path()))?;
        entries.insert(name, entry.path());
    }
    Ok(entries)
}

fn load_day(
    day: Day,
    files: &[DayFile],
    tables: &StoreBuilder,
    reader: &mut RowReader<'_>,
    options: &LoadOptions,
    progress: &ProgressCount<'_>,
) -> Result<(DayBatch, Vec<RejectedRow>), LoadError> {
    let mut rejected = Vec::new();
    let mut builder = DayBuilder::new(day);
    let mut data = Vec::new();
    let date = Date::new(day);
    for file in files {
        read_file(file, &mut data).map_err(|why| LoadError::Unreadable { path: file.path.clone(), why })?;
        let rows_before = builder.row_count();
        builder.file(&file.stem);
        add_rows(&data, &file.path, &date, reader, &mut builder, options, &mut rejected)?;
        progress.file_done(builder.row_count() - rows_before);
    }
    drop(data);
    Ok((builder.finish(tables), rejected))
}

/// Loads one day of one file, named `stem`, that is in memory.
///
/// # Errors
/// [`LoadError`] if a row is rejected under `strict`, or there are more parameters than codes.
pub fn load_bytes(day: Day, stem: &str, data: &[u8], options: &LoadOptions) -> Result<Loaded, LoadError> {
    let tables = StoreBuilder::default();
    let mut builder = DayBuilder::new(day);
    let mut rejected = Vec::new();
    builder.file(stem);
    let mut reader = RowReader::new(&tables);
    add_rows(data, Path::new(stem), &Date::new(day), &mut reader, &mut builder, options, &mut rejected)?;
    let batch = builder.finish(&tables);
    Ok(Loaded { store: tables.finish(vec![batch]), rejected })
}

/// Adds the rows of a file to its day.
fn add_rows(
    data: &[u8],
    path: &Path,
    date: &Date,
    reader: &mut RowReader<'_>,
    builder: &mut DayBuilder,
    options: &LoadOptions,
    rejected: &mut Vec<RejectedRow>,
) -> Result<(), LoadError> {
    let mut records = split::records(data);
    let mut ahead = records.clone();
    if ahead.next().is_some_and(|record| is_header(record.bytes)) {
        records = ahead;
    }
    loop {
        if let Some(((site, measure, row), row_bytes)) = reader.read_familiar(date, records.rest()) {
            builder.push(&site, &measure, row);
            records.skip_bytes(row_bytes);
            continue;
        }
        let Some(record) = records.next() else {
            return Ok(());
        };
        let row = match &record.fields {
            Ok(fields) => match fields.plain() {
                Some(plain) => reader.read(date, plain, fields.margins),
                None => {
                    let unescaped = fields.unescape();
                    let unescaped = unescaped.each_ref().map(|field| field.as_ref());
                    reader.read(date, &unescaped, fields.margins)
                }
            },
            Err(damage) => Err(NoRow::Rejected(damage.to_string())),
        };
        let reason = match row {
            Ok((site, measure, row)) => {
                builder.push(&site, &measure, row);
                continue;
            }
            Err(NoRow::Rejected(reason)) => reason,
            Err(NoRow::TooManyMeasures(error)) => return Err(error.into()),
        };
        let line = records.line(&record);
        builder.reject(line, record.bytes);
        let row = || RejectedRow { file: path.to_owned(), line, reason };
        if options.strict {
            return Err(LoadError::Rejected(row()));
        }
        if rejected.len() < options.rejected_kept {
            rejected.push(row());
        }
    }
}

fn read_file(file: &DayFile, data: &mut Vec<u8>) -> io::Result<()> {
    data.clear();
    let mut source = File::open(&file.path)?;
    if file.compressed {
        flate2::read::MultiGzDecoder::new(source).read_to_end(data)?;
    } else {
        source.read_to_end(data)?;
    }
    Ok(())
}

/// Whether a file's first record names its columns instead of being a row.
fn is_header(record: &[u8]) -> bool {
    let first = record.split(|byte| *byte == b',').next().unwrap_or_default();
    let first = first.trim_ascii();
    let name = first.strip_prefix(b"\"").unwrap_or(first);
    let name = name.strip_suffix(b"\"").unwrap_or(name).trim_ascii();
    name.eq_ignore_ascii_case(b"latitude") || name.eq_ignore_ascii_case(b"lat")
}

/// What all threads have done so far.
struct ProgressCount<'a> {
    files_done: AtomicUsize,
    files_total: usize,
    rows: AtomicU64,
    report: &'a (dyn Fn(LoadProgress) + Sync),
}

impl<'a> ProgressCount<'a> {
    fn new(days: &[(Day, Vec<DayFile>)], report: &'a (dyn Fn(LoadProgress) + Sync)) -> Self {
        ProgressCount {
            files_done: AtomicUsize::new(0),
            files_total: days.iter().map(|(_, files)| files.len()).sum(),
            rows: AtomicU64::new(0),
            report,
        }
    }

    fn file_done(&self, rows: u32) {
        let rows = u64::from(rows);
        (self.report)(LoadProgress {
            files_done: self.files_done.fetch_add(1, Ordering::Relaxed) + 1,
            files_total: self.files_total,
            rows: self.rows.fetch_add(rows, Ordering::Relaxed) + rows,
        });
    }
}

#[cfg(test)]
mod tests;
