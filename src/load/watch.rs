//! Notices files that are new, changed or gone, and loads their days anew once the files are whole.
//!
//! It knows no clock: it looks when it is told to, and compares. A file that somebody writes looks different from one look
//! to the next, so one that looked the same twice is taken for whole; one that does not end with a line break, and may
//! be cut in the middle of a row, has to look the same for longer. A day that cannot be loaded keeps the data that it has,
//! and is tried again: soon when its files change, else ever more rarely.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{LoadError, LoadOptions, RejectedRow, days_on_disk, load_over, stem};
use crate::day::Day;
use crate::store::Store;

/// Looks in a row, beside the first, at which a file without a line break at its end has to be the same.
const LOOKS_WITHOUT_LINE_BREAK: u32 = 8;

/// Watches days of a dataset.
#[derive(Debug)]
pub struct Watcher {
    root: PathBuf,
    placed: BTreeSet<Day>,
    /// As they were when they were loaded.
    loaded: BTreeMap<Day, Files>,
    /// Days that are not as they were loaded.
    changed: BTreeMap<Day, Changed>,
    /// Days that the last look found replaced and kept.
    replaced: usize,
}

/// The files of a day.
type Files = BTreeMap<PathBuf, Look>;

#[derive(Debug)]
struct Changed {
    files: Files,
    /// Looks before the last one at which they were the same.
    looks: u32,
}

/// What a file looks like from outside.
#[derive(Debug)]
struct Look(Metadata);

/// What a look came to.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// All days as they are now.
    pub store: Store,
    /// Those that were loaded anew, each with its first rejected rows.
    pub days: BTreeMap<Day, Vec<RejectedRow>>,
    /// Those that could not be loaded at this look, and why.
    pub failed: Vec<(Day, LoadError)>,
    /// Days that have changed and are not loaded yet.
    pub pending: usize,
    /// Day folders that are not watched.
    pub others: Vec<Day>,
}

impl Watcher {
    /// Watches the days `placed` under `root`. To be made before they are loaded: what changes from then on is noticed.
    pub fn new(root: PathBuf, placed: BTreeSet<Day>) -> Self {
        let loaded = placed.iter().map(|day| (*day, files(&root, *day))).collect();
        Watcher { root, placed, loaded, changed: BTreeMap::new(), replaced: 0 }
    }

    /// Looks once, and loads the days of `store` that have changed since they were loaded and are whole.
    ///
    /// # Errors
    /// [`LoadError`] if the root cannot be read, or has no day any more: then nothing is taken for gone.
    pub fn look(&mut self, store: &Store, options: &LoadOptions) -> Result<Reloaded, LoadError> {
        let on_disk = days_on_disk(&self.root)?.days.into_iter();
        let others = on_disk.filter(|day| !self.placed.contains(day)).collect();
        let mut reloaded = Reloaded { store: store.clone(), others, ..Reloaded::default() };
        for day in self.due_days() {
            let before = &self.changed[&day].files;
            match load_over(reloaded.store.clone(), &self.root, &[day].into(), options, &|_| ()) {
                // What was written meanwhile may have been read in part.
                Ok(loaded) if files(&self.root, day) == *before => {
                    reloaded.store = loaded.store;
                    reloaded.days.insert(day, loaded.rejected);
                    let taken = self.changed.remove(&day);
                    self.loaded.extend(taken.map(|taken| (day, taken.files)));
                }
                Ok(_) => {}
                Err(error) => reloaded.failed.push((day, error)),
            }
        }
        // Only data that come or go leave sites behind that no row has.
        let replaced = reloaded.store.replaced().count();
        if !reloaded.days.is_empty() || replaced != self.replaced {
            self.replaced = replaced;
            reloaded.store.compact();
        }
        reloaded.pending = self.changed.len();
        Ok(reloaded)
    }

    /// Takes a look at all days; gives those that are to be loaded.
    fn due_days(&mut self) -> Vec<Day> {
        let mut due = Vec::new();
        for day in &self.placed {
            let (now, loaded) = (files(&self.root, *day), &self.loaded[day]);
            if now == *loaded {
                self.changed.remove(day);
                continue;
            }
            let before = self.changed.remove(day).filter(|before| before.files == now);
            let changed = Changed { looks: before.map_or(0, |before| before.looks + 1), files: now };
            due.extend(changed.is_due(loaded).then_some(*day));
            self.changed.insert(*day, changed);
        }
        due
    }
}

impl Changed {
    /// At the first look at which all files are whole, and then at twice as many each time.
    fn is_due(&self, loaded: &Files) -> bool {
        self.looks.is_power_of_two() && {
            let mut others = self.files.iter().filter(|(path, look)| loaded.get(*path) != Some(*look));
            self.looks >= LOOKS_WITHOUT_LINE_BREAK || others.all(|(path, _)| is_whole(path).unwrap_or(false))
        }
    }
}

/// Files that cannot be looked at are left out: loading says why.
fn files(root: &Path, day: Day) -> Files {
    let look = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        stem(path.file_name()?.to_str()?)?;
        let found = fs::metadata(&path).ok().filter(Metadata::is_file)?;
        Some((path, Look(found)))
    };
    let entries = fs::read_dir(root.join(day.to_string()));
    entries.map(|entries| entries.filter_map(look).collect()).unwrap_or_default()
}

impl PartialEq for Look {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        let written = |found: &Metadata| (found.len(), found.modified().ok());
        written(one) == written(other) && is_same_file(one, other)
    }
}

/// Whether two names stood for one file, of which nothing has changed, not even its name.
#[cfg(unix)]
fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |found: &Metadata| (found.ino(), found.ctime(), found.ctime_nsec());
    identity(one) == identity(other)
}

#[cfg(not(unix))]
fn is_same_file(_one: &Metadata, _other: &Metadata) -> bool {
    true
}

/// Whether a file's end is one. A compressed one is found out when it is read.
fn is_whole(path: &Path) -> io::Result<bool> {
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(true);
    }
    let mut file = File::open(path)?;
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests;
