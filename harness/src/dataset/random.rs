//! Random datasets that shrink: to fewer sites, files and days.

use proptest::collection::btree_set;
use proptest::prelude::*;

use super::{DatasetSpec, evenly_spaced_hours};
use crate::calendar;

/// Any small dataset of days between these two, both inclusive, mostly of all; up to five of its days may have no files.
pub fn datasets(first_day: u32, last_day: u32) -> impl Strategy<Value = DatasetSpec> {
    let day = prop::sample::select(calendar::days(first_day, last_day).collect::<Vec<u32>>());
    let days = prop_oneof![2 => Just((first_day, last_day)), 1 => (day.clone(), day.clone())];
    (any::<u64>(), days, btree_set(day, 0..6), 1..9u32, 1..4u8).prop_map(
        |(seed, (one, other), skipped_days, sites, hours)| DatasetSpec {
            seed,
            first_day: one.min(other),
            last_day: one.max(other),
            skipped_days,
            sites,
            hours: evenly_spaced_hours(hours),
            ..DatasetSpec::default()
        },
    )
}
