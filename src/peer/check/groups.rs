//! Partial aggregates against the days that they are of, and against what can be asked and held.

use std::collections::BTreeMap;

use crate::aggregate::{AggregateOf, AggregateSpec, GroupId, GroupKey, Groups, KeyValue, Partial};
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
    add_up(groups.iter().map(|(_, of)| of), days.iter().map(|day| day.rows_matched), "")?;
    let mut by_day: BTreeMap<u32, Vec<&Partial>> = BTreeMap::new();
    for (id, partial) in groups.iter() {
        check_values(spec.of, predicate, partial)?;
        for (key, value) in spec.group_by.iter().zip(&id.0) {
            if !is_possible(*key, value, predicate, days) {
                let id = shown(id);
                return Err(format!("group {id} is of no row that was asked for: its {}", key.name()));
            }
            if let (GroupKey::Day, KeyValue::Number(day)) = (key, value) {
                by_day.entry(*day).or_default().push(partial);
            }
        }
    }
    for (number, partials) in by_day {
        let of_day = days.iter().filter(|day| day.item.day.number() == number);
        add_up(partials.into_iter(), of_day.map(|day| day.rows_matched), &format!(" of day {number}"))?;
    }
    Ok(())
}

fn add_up<'a>(
    partials: impl Iterator<Item = &'a Partial>,
    matched: impl Iterator<Item = u64>,
    of: &str,
) -> Result<(), String> {
    let matched = matched.fold(0, u64::saturating_add);
    let grouped = partials.map(|partial| partial.count).fold(0, u64::saturating_add);
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

/// Whether a row that the predicate selects, of a day that was counted, can have this key.
fn is_possible(key: GroupKey, value: &KeyValue, predicate: &Predicate, days: &[DayCount]) -> bool {
    let has = |part: &Option<String>, name: &str| {
        part.as_ref().is_none_or(|part| name.to_lowercase().contains(part.as_str()))
    };
    match (key, value) {
        (GroupKey::Day, KeyValue::Number(day)) => days.iter().any(|of| of.item.day.number() == *day),
        (GroupKey::Team, KeyValue::Text(team)) => days.iter().any(|of| *of.item.team == **team),
        (GroupKey::Parameter, KeyValue::Text(name)) => {
            predicate.parameter.as_ref().is_none_or(|wanted| name.to_uppercase() == *wanted)
        }
        (GroupKey::Site, KeyValue::Text(name)) => has(&predicate.site, name),
        (GroupKey::Agency, KeyValue::Text(name)) => has(&predicate.agency, name),
        _ => true,
    }
}

fn shown(id: &GroupId) -> String {
    let value = |value: &KeyValue| match value {
        KeyValue::Text(text) => text.chars().take(40).collect(),
        KeyValue::Number(number) => number.to_string(),
    };
    format!("({})", id.0.iter().map(value).collect::<Vec<String>>().join(", "))
}
