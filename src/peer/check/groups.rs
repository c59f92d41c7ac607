//! Partial aggregates against the days that they are of, and against what can be asked and held.

use std::collections::{BTreeMap, BTreeSet};

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey, Groups, KeyValue, Partial};
use crate::decimal::{Decimal, MAGNITUDE_LIMIT, ONE};
use crate::predicate::Predicate;
use crate::verb::DayCount;

/// Beyond every concentration.
const MAGNITUDE: i64 = MAGNITUDE_LIMIT * ONE;

/// Checks that groups count no more rows than match, and could be of rows that do.
///
/// Rows without the aggregated column are in no group.
pub(super) fn check(
    spec: &AggregateSpec,
    predicate: &Predicate,
    groups: &Groups,
    days: &[DayCount],
) -> Result<(), String> {
    let mut matched: BTreeMap<u32, u64> = BTreeMap::new();
    let mut teams: BTreeSet<&str> = BTreeSet::new();
    for day in days {
        matched.insert(day.item.day.number(), day.rows_matched);
        teams.insert(&day.item.team);
    }
    let counts = || groups.partials().iter().map(|partial| partial.count);
    add_up(total(counts()), total(matched.values().copied()), "")?;
    let width = groups.group_by().len();
    for (key, column) in groups.group_by().iter().zip(0..) {
        let codes = || groups.codes().iter().skip(column).step_by(width).copied();
        let mut possible = vec![None; groups.texts().len()];
        let wrong = match key {
            GroupKey::Hour => None,
            GroupKey::Day => codes().position(|day| !matched.contains_key(&day)),
            _ => codes().position(|code| {
                let text = &groups.texts()[code as usize];
                let is_possible = || is_possible(*key, text, predicate, &teams);
                !*possible[code as usize].get_or_insert_with(is_possible)
            }),
        };
        if let Some(group) = wrong {
            let id = shown(groups, group);
            return Err(format!("group {id} is of no row that was asked for: its {}", key.name()));
        }
        if *key == GroupKey::Day {
            let mut grouped: BTreeMap<u32, u64> = BTreeMap::new();
            for (day, count) in codes().zip(counts()) {
                let of_day = grouped.entry(day).or_default();
                *of_day = of_day.saturating_add(count);
            }
            for (day, grouped) in grouped {
                add_up(grouped, matched[&day], &format!(" of day {day}"))?;
            }
        }
    }
    groups.partials().iter().try_for_each(|partial| check_values(spec.of, predicate, partial))
}

fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn add_up(grouped: u64, matched: u64, of: &str) -> Result<(), String> {
    match grouped <= matched {
        true => Ok(()),
        false => Err(format!("the groups{of} count {grouped} rows, the days have {matched} that match")),
    }
}

/// Smallest and largest are values that a column holds and the predicate selects, and the sum lies between them.
fn check_values(of: AggregateOf, predicate: &Predicate, partial: &Partial) -> Result<(), String> {
    let Partial { count, min, max, sum } = *partial;
    let (least, most) = match of {
        AggregateOf::Value => (predicate.min, predicate.max),
        AggregateOf::RawConcentration => (None, None),
        AggregateOf::Aqi => (Some(Decimal(0)), Some(Decimal(i64::from(i16::MAX) * ONE))),
    };
    let held = -MAGNITUDE < min.0 && max.0 < MAGNITUDE;
    let selected = least.is_none_or(|least| least <= min) && most.is_none_or(|most| max <= most);
    let whole = of != AggregateOf::Aqi || (min.0 % ONE == 0 && max.0 % ONE == 0);
    if !(held && selected && whole) {
        return Err(format!("a group of {} has values from {min} to {max}", of.name()));
    }
    let rows = i128::from(count);
    match (i128::from(min.0) * rows..=i128::from(max.0) * rows).contains(&sum) {
        true => Ok(()),
        false => Err(format!("a group of {count} values from {min} to {max} has the sum {sum}e-9")),
    }
}

/// Whether a row that the predicate selects, of a day of these teams, can have this text as its key.
fn is_possible(key: GroupKey, text: &str, predicate: &Predicate, teams: &BTreeSet<&str>) -> bool {
    let has =
        |part: &Option<String>| part.as_ref().is_none_or(|part| text.to_lowercase().contains(part.as_str()));
    match key {
        GroupKey::Team => teams.contains(text),
        GroupKey::Parameter => {
            predicate.parameter.as_ref().is_none_or(|wanted| text.to_uppercase() == *wanted)
        }
        GroupKey::Site => has(&predicate.site),
        GroupKey::Agency => has(&predicate.agency),
        GroupKey::Day | GroupKey::Hour => false,
    }
}

fn shown(groups: &Groups, group: usize) -> String {
    let value = |value| match value {
        KeyValue::Text(text) => text.chars().take(40).collect(),
        KeyValue::Number(number) => number.to_string(),
    };
    format!("({})", groups.keys(group).map(value).collect::<Vec<String>>().join(", "))
}
