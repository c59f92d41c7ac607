//! The data of one node as they are now, and what is kept of those that newer files have replaced.
//!
//! A value: new data are another one, which shares with the one before whatever has stayed. What time it is it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use crate::day::Day;
use crate::inventory::{DayInventory, MAX_REPLACED_TOLD};
use crate::load::{Loaded, RejectedRow, Reloaded};
use crate::store::{Store, Version};

#[derive(Clone)]
pub(super) struct Data {
    /// Another number tells others to read the inventory again.
    pub(super) incarnation: u64,
    pub(super) store: Arc<Store>,
    /// What others are told of the days placed here.
    pub(super) days: BTreeMap<Day, DayInventory>,
    pub(super) unowned_days: Vec<String>,
    /// When nobody can have a result set of replaced data any more, nor of a day that had none.
    replaced_until: BTreeMap<(Day, Version), Instant>,
}

impl Data {
    /// The data that a node begins with.
    pub(super) fn loaded(
        incarnation: u64,
        placed: &BTreeSet<Day>,
        loaded: Loaded,
        unowned_days: Vec<String>,
    ) -> Self {
        let rejected = rejected_by_day(&loaded.rejected);
        let inventory = |day: &Day| (*day, day_inventory(&loaded.store, &rejected, *day));
        Data {
            incarnation,
            days: placed.iter().map(inventory).collect(),
            store: Arc::new(loaded.store),
            unowned_days,
            replaced_until: BTreeMap::new(),
        }
    }

    /// These data with days that were loaded anew, and the days whose data are others now. What is replaced is kept until
    /// `kept_until`.
    pub(super) fn with(
        &self,
        reloaded: Reloaded,
        unowned_days: Vec<String>,
        kept_until: Instant,
    ) -> (Self, Vec<Day>) {
        let mut data = Data { store: Arc::new(reloaded.store), unowned_days, ..self.clone() };
        let (mut others, is_loaded) = (Vec::new(), !reloaded.days.is_empty());
        for (day, rejected) in reloaded.days {
            let inventory = day_inventory(&data.store, &rejected_by_day(&rejected), day);
            if data.days.get(&day).is_none_or(|before| before.version != inventory.version) {
                others.push(day);
            }
            data.days.insert(day, inventory);
        }
        let no_data = Version::of_no_data();
        let had_none = |day: &&Day| self.days.get(*day).is_some_and(|before| before.version == no_data);
        let had_none = others.iter().filter(had_none).map(|day| (*day, no_data));
        for replaced in data.store.replaced().chain(had_none) {
            data.replaced_until.entry(replaced).or_insert(kept_until);
        }
        if is_loaded {
            data.tell_of_replaced();
        }
        (data.following(self), others)
    }

    /// These data without what no result set can need any more, and without the oldest of what is replaced beyond so many
    /// bytes; `None` if all of it stays.
    pub(super) fn without_old(&self, now: Instant, most_bytes: usize) -> Option<Self> {
        let first = self.replaced_until.values().min()?;
        if *first > now && self.store.replaced_bytes() <= most_bytes {
            return None;
        }
        let mut data = self.clone();
        data.forget_replaced(now, most_bytes);
        data.tell_of_replaced();
        Some(data.following(self))
    }

    /// Has others ask again if they were told something else before.
    fn following(mut self, before: &Data) -> Self {
        if self.days != before.days || self.unowned_days != before.unowned_days {
            self.incarnation += 1;
        }
        self
    }

    /// Lets go of replaced data whose time is over, and of the oldest beyond so many bytes.
    fn forget_replaced(&mut self, now: Instant, most_bytes: usize) {
        let store = Arc::make_mut(&mut self.store);
        let mut oldest: Vec<_> = self.replaced_until.iter().map(|(key, until)| (*until, *key)).collect();
        oldest.sort_unstable();
        for (until, (day, version)) in oldest {
            if until > now && store.replaced_bytes() <= most_bytes {
                break;
            }
            // That a day had no data takes no room.
            if until > now && version == Version::of_no_data() {
                continue;
            }
            store.forget_replaced(day, version);
            self.replaced_until.remove(&(day, version));
        }
    }

    /// Tells others of what is replaced and kept: of so much that an inventory stays small the latest.
    fn tell_of_replaced(&mut self) {
        let Data { store, days, replaced_until, .. } = self;
        // Data that have come back are no longer replaced.
        replaced_until.retain(|(day, version), _| is_replaced(store, *day, *version));
        days.values_mut().for_each(|day| day.replaced.clear());
        let mut latest: Vec<_> = replaced_until.iter().map(|(key, until)| (*until, *key)).collect();
        latest.sort_unstable_by(|left, right| right.cmp(left));
        for (_, (day, version)) in latest.into_iter().take(MAX_REPLACED_TOLD) {
            let statistics = store.replaced_day(day, version).map(|batch| batch.statistics.clone());
            let statistics = Arc::new(statistics.unwrap_or_default());
            days.entry(day).and_modify(|day| drop(day.replaced.insert(version, statistics)));
        }
    }
}

/// Whether a day has other data by now, and is kept as it was: of one without data there is nothing to keep.
fn is_replaced(store: &Store, day: Day, version: Version) -> bool {
    match version == Version::of_no_data() {
        true => store.day(day).is_some(),
        false => store.replaced_day(day, version).is_some(),
    }
}

fn day_inventory(store: &Store, rejected: &BTreeMap<String, Vec<String>>, day: Day) -> DayInventory {
    match store.day(day) {
        Some(batch) => DayInventory {
            version: batch.version,
            statistics: Arc::new(batch.statistics.clone()),
            rejected: rejected.get(&day.to_string()).cloned().unwrap_or_default(),
            replaced: BTreeMap::new(),
        },
        None => DayInventory {
            version: Version::of_no_data(),
            statistics: Arc::default(),
            rejected: Vec::new(),
            replaced: BTreeMap::new(),
        },
    }
}

/// Rejected rows in words, by their folder. A day's folder, wherever the dataset's root lies, has the day's name:
/// `data/20200810/20200810-01.csv`.
fn rejected_by_day(rows: &[RejectedRow]) -> BTreeMap<String, Vec<String>> {
    let mut by_day: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(folder) = row.file.parent().and_then(Path::file_name) {
            by_day.entry(folder.to_string_lossy().into_owned()).or_default().push(row.to_string());
        }
    }
    by_day
}
