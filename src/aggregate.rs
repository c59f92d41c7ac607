//! Counts, extremes, sums and means by group: exact, so that the answer does not depend on who added first.
//!
//! A [`Partial`] is computed where the data are and merged on the way up; only the node that answers a client
//! turns sums into means. The limit on groups is the caller's.

use std::collections::{BTreeMap, HashMap};

use crate::decimal::{Decimal, ONE};
use crate::store::{DayBatch, Store};

/// What is aggregated. Rows without it are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOf {
    /// The concentration.
    Value,
    /// What the instrument measured.
    RawConcentration,
    /// The AQI, a whole number.
    Aqi,
}

impl AggregateOf {
    /// What a user writes.
    pub fn name(self) -> &'static str {
        match self {
            AggregateOf::Value => "value",
            AggregateOf::RawConcentration => "raw_concentration",
            AggregateOf::Aqi => "aqi",
        }
    }

    /// The column that a user writes as `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [AggregateOf::Value, AggregateOf::RawConcentration, AggregateOf::Aqi]
            .into_iter()
            .find(|of| of.name() == name)
    }
}

/// What rows of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKey {
    /// As the file writes it.
    Parameter,
    /// By name: sites that share a name are one group.
    Site,
    /// By name.
    Agency,
    /// As the number `YYYYMMDD`.
    Day,
    /// 0 to 23, UTC.
    Hour,
    /// The team that owns the day.
    Team,
}

impl GroupKey {
    /// What a user writes.
    pub fn name(self) -> &'static str {
        match self {
            GroupKey::Parameter => "parameter",
            GroupKey::Site => "site",
            GroupKey::Agency => "agency",
            GroupKey::Day => "day",
            GroupKey::Hour => "hour",
            GroupKey::Team => "team",
        }
    }

    /// The key that a user writes as `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "parameter" => Some(GroupKey::Parameter),
            "site" => Some(GroupKey::Site),
            "agency" => Some(GroupKey::Agency),
            "day" => Some(GroupKey::Day),
            "hour" => Some(GroupKey::Hour),
            "team" => Some(GroupKey::Team),
            _ => None,
        }
    }
}

/// An aggregate: of what, and by which keys. Without keys all rows are one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AggregateSpec {
    /// What is aggregated.
    pub of: AggregateOf,
    /// In the order that the answer has them.
    pub group_by: Vec<GroupKey>,
}

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// A parameter, site, agency or team.
    Text(Box<str>),
    /// A day or an hour.
    Number(u32),
}

/// A group: the values of its keys in the order asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub Vec<KeyValue>);

impl GroupId {
    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let text = |value: &KeyValue| match value {
            KeyValue::Text(text) => text.len(),
            KeyValue::Number(_) => 0,
        };
        size_of::<Self>() + self.0.iter().map(|value| size_of::<KeyValue>() + text(value)).sum::<usize>()
    }
}

/// A group's rows so far. At least one: a group without rows does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Rows.
    pub count: u64,
    /// The smallest.
    pub min: Decimal,
    /// The largest.
    pub max: Decimal,
    /// In billionths. 2^64 rows below 10^18 billionths stay below 2^124.
    pub sum: i128,
}

impl Partial {
    fn of(value: Decimal) -> Self {
        Partial { count: 1, min: value, max: value, sum: i128::from(value.0) }
    }

    /// Adds the rows of `other`. Saturates, since peers' numbers may be anything.
    pub fn merge(&mut self, other: &Partial) {
        self.count = self.count.saturating_add(other.count);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// Groups in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(BTreeMap<GroupId, Partial>);

impl Groups {
    /// Adds `rows` of one day, which `team` owns.
    pub fn add(&mut self, spec: &AggregateSpec, store: &Store, batch: &DayBatch, rows: &[u32], team: &str) {
        let place = PlaceGroups::new(store, spec);
        let measures = measure_groups(store, spec);
        let by_hour = spec.group_by.contains(&GroupKey::Hour);
        // A group inside a day, as one number: place, measure, hour.
        let group_of = |row: usize| {
            let hour = if by_hour { batch.minute[row] / 60 } else { 0 };
            let measure = measures.get(usize::from(batch.measure[row])).copied().unwrap_or(0);
            u64::from(place.of(batch.site[row])) << 24 | u64::from(measure) << 8 | u64::from(hour)
        };
        let mut partials: HashMap<u64, Partial> = HashMap::new();
        // Rows of a site, and so of a group, often follow each other.
        let mut last: Option<(u64, Partial)> = None;
        for row in rows {
            let value = match spec.of {
                AggregateOf::Value => batch.value.get(*row),
                AggregateOf::RawConcentration => batch.raw_concentration.get(*row),
                AggregateOf::Aqi => batch.aqi(*row).map(|aqi| Decimal(i64::from(aqi) * ONE)),
            };
            let Some(value) = value else { continue };
            let group = group_of(*row as usize);
            match &mut last {
                Some((current, partial)) if *current == group => partial.merge(&Partial::of(value)),
                _ => {
                    if let Some((group, partial)) = last.replace((group, Partial::of(value))) {
                        merge_into(partials.entry(group), &partial);
                    }
                }
            }
        }
        if let Some((group, partial)) = last {
            merge_into(partials.entry(group), &partial);
        }
        for (group, partial) in partials {
            let keys = spec.group_by.iter().map(|key| match key {
                GroupKey::Parameter => {
                    let measure = &store.measures()[(group >> 8 & 0xffff) as usize];
                    KeyValue::Text(measure.parameter.clone())
                }
                GroupKey::Site => KeyValue::Text(place.names(store, group >> 24).0.into()),
                GroupKey::Agency => KeyValue::Text(place.names(store, group >> 24).1.into()),
                GroupKey::Day => KeyValue::Number(batch.day.number()),
                GroupKey::Hour => KeyValue::Number((group & 0xff) as u32),
                GroupKey::Team => KeyValue::Text(team.into()),
            });
            self.insert(GroupId(keys.collect()), partial);
        }
    }

    /// Adds a group, merging it into one with the same keys.
    pub fn insert(&mut self, id: GroupId, partial: Partial) {
        self.0.entry(id).and_modify(|sum| sum.merge(&partial)).or_insert(partial);
    }

    /// Adds all groups of `other`.
    pub fn merge(&mut self, other: Groups) {
        for (id, partial) in other.0 {
            self.insert(id, partial);
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The groups in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&GroupId, &Partial)> {
        self.0.iter()
    }

    /// The groups in the order of their keys.
    pub fn into_vec(self) -> Vec<(GroupId, Partial)> {
        self.0.into_iter().collect()
    }
}

fn merge_into(entry: std::collections::hash_map::Entry<'_, u64, Partial>, partial: &Partial) {
    entry.and_modify(|sum| sum.merge(partial)).or_insert(*partial);
}

/// Which sites are one group: those that share the names asked for.
struct PlaceGroups {
    /// By site code, the smallest code of a site in the same group; empty if places don't matter.
    groups: Vec<u32>,
}

impl PlaceGroups {
    fn new(store: &Store, spec: &AggregateSpec) -> Self {
        let by_site = spec.group_by.contains(&GroupKey::Site);
        let by_agency = spec.group_by.contains(&GroupKey::Agency);
        if !by_site && !by_agency {
            return PlaceGroups { groups: Vec::new() };
        }
        let mut firsts = HashMap::new();
        let groups = store.sites().iter().zip(0..).map(|(site, code)| {
            let site_name = by_site.then_some(&*site.site_name);
            let agency_name = by_agency.then_some(&*site.agency_name);
            *firsts.entry((site_name, agency_name)).or_insert(code)
        });
        PlaceGroups { groups: groups.collect() }
    }

    fn of(&self, site: u32) -> u32 {
        self.groups.get(site as usize).copied().unwrap_or(0)
    }

    fn names<'a>(&self, store: &'a Store, group: u64) -> (&'a str, &'a str) {
        let site = &store.sites()[group as usize];
        (&site.site_name, &site.agency_name)
    }
}

/// By measure code, the smallest code of a measure in the same group: those that share a parameter. Empty if
/// parameters don't matter.
fn measure_groups(store: &Store, spec: &AggregateSpec) -> Vec<u16> {
    if !spec.group_by.contains(&GroupKey::Parameter) {
        return Vec::new();
    }
    let mut firsts = HashMap::new();
    let measures = store.measures().iter().zip(0..=u16::MAX);
    measures.map(|(measure, code)| *firsts.entry(&*measure.parameter).or_insert(code)).collect()
}

/// The mean of a group: its exact sum over its count, rounded once, to the nearest double, ties to even.
pub fn mean(partial: &Partial) -> f64 {
    let magnitude = quotient(partial.sum.unsigned_abs(), u128::from(partial.count.max(1)) * ONE as u128);
    if partial.sum < 0 { -magnitude } else { magnitude }
}

/// `numerator / denominator` rounded once. `denominator` is below 2^127 and not zero.
fn quotient(numerator: u128, denominator: u128) -> f64 {
    if numerator == 0 {
        return 0.0;
    }
    let mut bits = numerator / denominator;
    let mut remainder = numerator % denominator;
    let mut exponent = 0u64;
    // Long division until 55 bits are known: the 53 of a double, the one that decides about rounding,
    // and one that stands for all that follow.
    while bits < 1 << 54 {
        remainder <<= 1;
        bits <<= 1;
        if remainder >= denominator {
            remainder -= denominator;
            bits |= 1;
        }
        exponent += 1;
    }
    bits |= u128::from(remainder != 0);
    // At most 55 + 127 steps, so that the power of two is a normal number and the product exact.
    bits as f64 * f64::from_bits((1023 - exponent) << 52)
}

/// What to say where an aggregate has more groups than a node may hold.
pub fn too_many_groups(limit: usize) -> String {
    format!("more than {limit} groups (limits.max_groups): group by fewer keys, or ask for fewer days")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::samples::{self, Sample};

    fn groups(store: &Store, of: AggregateOf, group_by: &[GroupKey]) -> Groups {
        let group_by = group_by.to_vec();
        let batch = store.days().next().unwrap();
        let rows: Vec<u32> = (0..batch.row_count()).collect();
        let mut groups = Groups::default();
        groups.add(&AggregateSpec { of, group_by }, store, batch, &rows, "green");
        groups
    }

    fn text(text: &str) -> KeyValue {
        KeyValue::Text(text.into())
    }

    fn partial(count: u64, min: &str, max: &str, sum: &str) -> Partial {
        let decimal = |text: &str| Decimal::parse(text).unwrap();
        let (min, max, sum) = (decimal(min), decimal(max), i128::from(decimal(sum).0));
        Partial { count, min, max, sum }
    }

    fn six_rows() -> Store {
        samples::store(&[
            Sample { value: Some("1.5"), aqi: Some(10), ..Sample::default() },
            Sample { value: Some("-2"), site: 3, minute: 119, ..Sample::default() },
            Sample { value: None, aqi: Some(11), ..Sample::default() },
            Sample { value: Some("4"), site: 1, minute: 120, ..Sample::default() },
            Sample { value: Some("7"), site: 1, parameter: "OZONE", aqi: Some(12), ..Sample::default() },
            Sample { value: None, site: 2, parameter: "CO", ..Sample::default() },
        ])
    }

    #[test]
    fn without_keys_all_rows_with_a_value_are_one_group() {
        let all = groups(&six_rows(), AggregateOf::Value, &[]).into_vec();
        assert_eq!(all, [(GroupId(vec![]), partial(4, "-2", "7", "10.5"))]);
        let aqi = groups(&six_rows(), AggregateOf::Aqi, &[]).into_vec();
        assert_eq!(aqi, [(GroupId(vec![]), partial(3, "10", "12", "33"))]);
        assert!(groups(&six_rows(), AggregateOf::RawConcentration, &[]).is_empty());
    }

    #[test]
    fn sites_that_share_a_name_are_one_group_and_groups_are_ordered_by_keys() {
        let by_site = groups(&six_rows(), AggregateOf::Value, &[GroupKey::Site, GroupKey::Hour]);
        let id = |name: &str, hour: u32| GroupId(vec![text(name), KeyValue::Number(hour)]);
        assert_eq!(
            by_site.into_vec(),
            [
                (id("Site 0", 1), partial(2, "-2", "1.5", "-0.5")),
                (id("Site 1", 1), partial(1, "7", "7", "7")),
                (id("Site 1", 2), partial(1, "4", "4", "4")),
            ]
        );
    }

    #[test]
    fn keys_come_in_the_order_asked() {
        let keys = [GroupKey::Team, GroupKey::Day, GroupKey::Agency, GroupKey::Parameter];
        let groups = groups(&six_rows(), AggregateOf::Aqi, &keys).into_vec();
        let id = |agency: &str, parameter: &str| {
            let day = KeyValue::Number(20200810);
            GroupId(vec![text("green"), day, text(agency), text(parameter)])
        };
        assert_eq!(
            groups,
            [
                (id("Agency 0", "PM2.5"), partial(2, "10", "11", "21")),
                (id("Agency 1", "OZONE"), partial(1, "12", "12", "12")),
            ]
        );
    }

    #[test]
    fn the_mean_is_rounded_once() {
        let mean_of = |sum: i128, count: u64| mean(&Partial { count, min: Decimal(0), max: Decimal(0), sum });
        let one = i128::from(ONE);
        assert_eq!(mean_of(0, 3), 0.0);
        assert_eq!(mean_of(one, 3), 1.0 / 3.0);
        assert_eq!(mean_of(-one, 3), -1.0 / 3.0);
        assert_eq!(mean_of(173 * one / 10, 1), 17.3);
        assert_eq!(mean_of(1, 1), 1e-9);
        assert_eq!(mean_of(1, u64::MAX), 1e-9 / 18446744073709551615.0);
        // 2^53 + 1 lies between two doubles: the tie goes to the even one. A billionth more goes up.
        let tie = ((1i128 << 53) + 1) * one;
        assert_eq!(mean_of(tie, 1), 9007199254740992.0);
        assert_eq!(mean_of(tie + 1, 1), 9007199254740994.0);
        assert_eq!(mean_of(tie + 2 * one, 1), 9007199254740996.0);
        // 0.1 + 0.2 in doubles is 0.30000000000000004; the exact mean of 0.1, 0.2 and 0.6 is 0.3.
        assert_eq!(mean_of(9 * one / 10, 3), 0.3);
    }

    proptest! {
        /// Rounds the quotient to an integer at the scale of the double found, by long division.
        #[test]
        fn the_mean_is_the_nearest_double(sum in 1i128..1 << 80, count in 1u64..1 << 40) {
            let found = mean(&Partial { count, min: Decimal(0), max: Decimal(0), sum });
            // found = mantissa * 2^-shift, so mantissa must be sum * 2^shift / divisor to the nearest integer.
            let divisor = u128::from(count) * ONE as u128;
            let bits = found.to_bits();
            let mantissa = u128::from(bits & ((1 << 52) - 1) | 1 << 52);
            let shift = 1075 - (bits >> 52) as i64;
            let (mut quotient, mut remainder) = (sum as u128 / divisor, sum as u128 % divisor);
            if shift >= 0 {
                for _ in 0..shift {
                    remainder <<= 1;
                    quotient = quotient << 1 | u128::from(remainder >= divisor);
                    remainder -= if remainder >= divisor { divisor } else { 0 };
                }
                let nearest = match (2 * remainder).cmp(&divisor) {
                    std::cmp::Ordering::Less => quotient,
                    std::cmp::Ordering::Greater => quotient + 1,
                    std::cmp::Ordering::Equal => quotient + (quotient & 1),
                };
                // Rounding up may carry into the next power of two, where steps are twice as wide.
                prop_assert!(nearest == mantissa || nearest == 1 << 53 && mantissa == 1 << 52);
            }
        }

        #[test]
        fn the_order_of_merging_does_not_matter(values in prop::collection::vec(-9999i64..9999, 1..60), cut in 0usize..60) {
            let texts: Vec<String> = values.iter().map(|value| Decimal(value * 10_000_000).to_string()).collect();
            let rows: Vec<Sample<'_>> = texts.iter().enumerate().map(|(index, text)| {
                Sample { value: Some(text), site: index % 5, minute: index as u16 * 20, ..Sample::default() }
            }).collect();
            let store = samples::store(&rows);
            let batch = store.days().next().unwrap();
            let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Agency] };
            let all: Vec<u32> = (0..batch.row_count()).collect();
            let (left, right) = all.split_at(cut.min(all.len()));
            let of = |rows: &[u32]| {
                let mut groups = Groups::default();
                groups.add(&spec, &store, batch, rows, "green");
                groups
            };
            let mut merged = of(right);
            merged.merge(of(left));
            prop_assert_eq!(&merged, &of(&all));
            let sum: i128 = merged.iter().map(|(_, partial)| partial.sum).sum();
            prop_assert_eq!(sum, values.iter().map(|value| i128::from(*value) * 10_000_000).sum::<i128>());
        }
    }
}
