//! Random datasets that shrink: to fewer sites, files and days.

use proptest::collection::btree_set;
use proptest::prelude::*;

use super::{DatasetSpec, evenly_spaced_hours};
use crate::calendar;

/// Any small dataset of days between these two, both inclusive, mostly of all; up to five of its days may have
/// no files, but never the first.
pub fn datasets(first_day: u32, last_day: u32) -> impl Strategy<Value = DatasetSpec> {
    let day = prop::sample::select(calendar::days(first_day, last_day).collect::<Vec<u32>>());
    let days = prop_oneof![2 => Just((first_day, last_day)), 1 => (day.clone(), day.clone())];
    (any::<u64>(), days, btree_set(day, 0..6), 1..9u32, 1..4u8).prop_map(
        |(seed, (one, other), mut skipped_days, sites, hours)| {
            let (first_day, last_day) = (one.min(other), one.max(other));
            // So that there is a day at all.
            skipped_days.remove(&first_day);
            let hours = evenly_spaced_hours(hours);
            DatasetSpec { seed, first_day, last_day, skipped_days, sites, hours, ..DatasetSpec::default() }
        },
    )
}
