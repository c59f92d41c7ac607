//! A day's statistics against themselves: pruning and chunk boundaries follow from them.

use crate::decimal::{MAGNITUDE_LIMIT, ONE};
use crate::inventory::DayInventory;
use crate::store::{DayStatistics, ParameterStatistics, PlaceBounds, Version};

/// Beyond every concentration.
const MAGNITUDE: i64 = MAGNITUDE_LIMIT * ONE;

/// Checks that a day could have these statistics, and could have had those of what is replaced.
pub(super) fn check(held: &DayInventory) -> Result<(), String> {
    let of = &held.statistics;
    if held.rejected.len() as u64 > of.rejected_rows {
        return Err(format!("{} rejected rows are listed, of {}", held.rejected.len(), of.rejected_rows));
    }
    check_version(held.version, of)?;
    if held.replaced.contains_key(&held.version) {
        return Err(format!("version {} has replaced itself", held.version));
    }
    held.replaced.iter().try_for_each(|(version, of)| check_version(*version, of))
}

/// Checks that a day could have these statistics at a version.
fn check_version(version: Version, of: &DayStatistics) -> Result<(), String> {
    if u32::try_from(of.rows).is_err() {
        return Err(format!("{} rows, no day has so many", of.rows));
    }
    if (of.files == 0) != (version == Version::of_no_data()) {
        return Err(format!("{} files, and a version that contradicts it", of.files));
    }
    if of.files == 0 && (of.rows > 0 || of.rejected_rows > 0) {
        return Err(format!("{} rows and {} rejected ones of no file", of.rows, of.rejected_rows));
    }
    let by_parameter = of.parameters.values().map(|of| of.rows).fold(0, u64::saturating_add);
    if by_parameter != of.rows {
        return Err(format!("{by_parameter} rows by parameter, {} in all", of.rows));
    }
    if let Some((name, of)) = of.parameters.iter().find(|(name, of)| !is_possible(name, of)) {
        let name: String = name.chars().take(40).collect();
        return Err(format!("parameter `{name}` cannot have {of:?}"));
    }
    let worst = of.worst_row_bytes;
    if of.rows > 0 && [worst.arrow, worst.json, worst.json_legacy].contains(&0) {
        return Err("rows that take no bytes".to_owned());
    }
    match of.place {
        Some(place) if !is_on_earth(&place) => Err(format!("sites at {place:?}")),
        _ => Ok(()),
    }
}

fn is_possible(name: &str, of: &ParameterStatistics) -> bool {
    let range = match (of.min, of.max) {
        (None, None) => of.missing == of.rows,
        (Some(min), Some(max)) => {
            of.missing < of.rows && min <= max && -MAGNITUDE < min.0 && max.0 < MAGNITUDE
        }
        _ => false,
    };
    range && of.rows > 0 && name.to_uppercase() == name
}

fn is_on_earth(place: &PlaceBounds) -> bool {
    let within = |least: f64, most: f64, limit: f64| -limit <= least && least <= most && most <= limit;
    within(place.lat_min, place.lat_max, 90.0) && within(place.lon_min, place.lon_max, 180.0)
}
