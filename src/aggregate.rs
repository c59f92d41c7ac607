//! Counts, extremes, sums and means by group: exact, so that the answer does not depend on who added first.
//!
//! A [`Tally`] adds rows up where the data are, [`Groups`] of several nodes are merged on the way up, and only the node
//! that answers a client turns sums into means. The limit on groups is the caller's.

mod groups;
mod tally;

pub use groups::{Groups, KeyValue, NotGroups};
pub use tally::Tally;

use crate::decimal::{Decimal, ONE};

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
    /// Every column.
    pub const ALL: [AggregateOf; 3] = [AggregateOf::Value, AggregateOf::RawConcentration, AggregateOf::Aqi];

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
        Self::ALL.into_iter().find(|of| of.name() == name)
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
    /// Every key.
    pub const ALL: [GroupKey; 6] = [
        GroupKey::Parameter,
        GroupKey::Site,
        GroupKey::Agency,
        GroupKey::Day,
        GroupKey::Hour,
        GroupKey::Team,
    ];

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
        Self::ALL.into_iter().find(|key| key.name() == name)
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

    /// Adds a row. Rows are too few to overflow: a store's sums stay below 2^64 times 10^18.
    fn add(&mut self, value: Decimal) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += i128::from(value.0);
    }

    /// Adds the rows of `other`. Saturates, since peers' numbers may be anything.
    pub fn merge(&mut self, other: &Partial) {
        self.count = self.count.saturating_add(other.count);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// The mean of a group: its exact sum over its count, rounded once, to the nearest double, ties to even.
pub fn mean(partial: &Partial) -> f64 {
    let count = partial.count.max(1);
    if let (Ok(sum), Some(count)) = (i64::try_from(partial.sum), count.checked_mul(ONE as u64))
        && sum.unsigned_abs().max(count) < 1 << 53
    {
        // Both operands are exact, so the quotient is rounded once.
        return sum as f64 / count as f64;
    }
    let magnitude = quotient(partial.sum.unsigned_abs(), u128::from(count) * ONE as u128);
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
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::samples::{self, Sample};
    use crate::store::{Site, Store};

    /// The groups of rows of the first day.
    fn groups_of(store: &Store, spec: &AggregateSpec, rows: &[u32]) -> Groups {
        let mut tally = Tally::new(store, spec);
        tally.add(store.days().next().unwrap(), rows, &Arc::from("green"));
        tally.into_groups(store)
    }

    fn groups(store: &Store, of: AggregateOf, group_by: &[GroupKey]) -> Vec<(String, Partial)> {
        let spec = AggregateSpec { of, group_by: group_by.to_vec() };
        let rows: Vec<u32> = (0..store.days().next().unwrap().row_count()).collect();
        shown(&groups_of(store, &spec, &rows))
    }

    /// Each group as its keys with commas between, and what was added up.
    fn shown(groups: &Groups) -> Vec<(String, Partial)> {
        let key = |key| match key {
            KeyValue::Text(text) => text.to_owned(),
            KeyValue::Number(number) => number.to_string(),
        };
        let keys = |group| groups.keys(group).map(key).collect::<Vec<_>>().join(", ");
        (0..groups.len()).map(|group| (keys(group), groups.partials()[group])).collect()
    }

    fn expected(groups: &[(&str, Partial)]) -> Vec<(String, Partial)> {
        groups.iter().map(|(keys, partial)| ((*keys).to_owned(), *partial)).collect()
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
        let of = |of| groups(&six_rows(), of, &[]);
        assert_eq!(of(AggregateOf::Value), expected(&[("", partial(4, "-2", "7", "10.5"))]));
        assert_eq!(of(AggregateOf::Aqi), expected(&[("", partial(3, "10", "12", "33"))]));
        assert_eq!(of(AggregateOf::RawConcentration), []);
    }

    #[test]
    fn sites_that_share_a_name_are_one_group_and_groups_are_ordered_by_keys() {
        assert_eq!(
            groups(&six_rows(), AggregateOf::Value, &[GroupKey::Site, GroupKey::Hour]),
            expected(&[
                ("Site 0, 1", partial(2, "-2", "1.5", "-0.5")),
                ("Site 1, 1", partial(1, "7", "7", "7")),
                ("Site 1, 2", partial(1, "4", "4", "4")),
            ])
        );
    }

    #[test]
    fn groups_are_ordered_by_their_first_key_first() {
        let store = samples::store(&[
            Sample { value: Some("1"), site: 0, minute: 120, ..Sample::default() },
            Sample { value: Some("2"), site: 1, minute: 60, ..Sample::default() },
        ]);
        let (first, second) = (partial(1, "1", "1", "1"), partial(1, "2", "2", "2"));
        let by = |keys: &[GroupKey]| groups(&store, AggregateOf::Value, keys);
        assert_eq!(
            by(&[GroupKey::Site, GroupKey::Hour]),
            expected(&[("Site 0, 2", first), ("Site 1, 1", second)])
        );
        assert_eq!(
            by(&[GroupKey::Hour, GroupKey::Site]),
            expected(&[("1, Site 1", second), ("2, Site 0", first)])
        );
    }

    #[test]
    fn keys_come_in_the_order_asked() {
        let keys = [GroupKey::Team, GroupKey::Day, GroupKey::Agency, GroupKey::Parameter];
        assert_eq!(
            groups(&six_rows(), AggregateOf::Aqi, &keys),
            expected(&[
                ("green, 20200810, Agency 0, PM2.5", partial(2, "10", "11", "21")),
                ("green, 20200810, Agency 1, OZONE", partial(1, "12", "12", "12")),
            ])
        );
    }

    /// Goal: a block that is left for another one and opened again goes on where it was.
    #[test]
    fn rows_of_teams_may_come_in_turns() {
        let (store, [green, pink]) = (six_rows(), ["green", "pink"].map(Arc::<str>::from));
        let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Team, GroupKey::Site] };
        let batch = store.days().next().unwrap();
        let mut tally = Tally::new(&store, &spec);
        for (rows, team) in [(&[0, 3][..], &green), (&[1], &pink), (&[4, 5], &green), (&[0], &pink)] {
            tally.add(batch, rows, team);
        }
        assert_eq!(tally.len(), 3);
        assert_eq!(
            shown(&tally.into_groups(&store)),
            expected(&[
                ("green, Site 0", partial(1, "1.5", "1.5", "1.5")),
                ("green, Site 1", partial(2, "4", "7", "11")),
                ("pink, Site 0", partial(2, "-2", "1.5", "-0.5")),
            ])
        );
    }

    /// Goal: parts that were added up apart come to what one comes to, whichever teams and groups they met first.
    #[test]
    fn parts_are_merged() {
        let (store, [green, pink]) = (six_rows(), ["green", "pink"].map(Arc::<str>::from));
        let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Team, GroupKey::Site] };
        let batch = store.days().next().unwrap();
        let part = |added: &[(&[u32], &Arc<str>)]| {
            let mut tally = Tally::new(&store, &spec);
            added.iter().for_each(|(rows, team)| tally.add(batch, rows, team));
            tally
        };
        let first = [(&[0, 3][..], &pink), (&[1], &green)];
        let second = [(&[4, 5][..], &green), (&[3, 0], &pink)];
        let whole = part(&[first, second].concat());
        let mut merged = Tally::new(&store, &spec);
        [first, second].iter().for_each(|added| merged.merge(part(added)));
        assert_eq!(merged.len(), 4);
        assert_eq!(shown(&merged.into_groups(&store)), shown(&whole.into_groups(&store)));
    }

    /// Goal: what has more cells than a table may have is hashed: 1,000 sites, 11 parameters and 24 hours.
    #[test]
    fn cells_of_large_stores_are_added_up_too() {
        let parameters: Vec<String> = (0..11).map(|number| format!("P{number:02}")).collect();
        let rows: Vec<Sample<'_>> = (0..1000)
            .map(|site| Sample { site, parameter: &parameters[site % 11], ..Sample::default() })
            .collect();
        let store = samples::store_of(&rows, |number| Site {
            site_name: format!("{number:03}").into(),
            ..samples::site(number)
        });
        let spec = AggregateSpec {
            of: AggregateOf::Value,
            group_by: vec![GroupKey::Site, GroupKey::Parameter, GroupKey::Hour],
        };
        let rows: Vec<u32> = (0..1000).chain(7..8).collect();
        let groups = shown(&groups_of(&store, &spec, &rows));
        assert_eq!(groups.len(), 1000);
        assert_eq!(
            groups[7..9],
            expected(&[
                ("007, P07, 1", partial(2, "17.3", "17.3", "34.6")),
                ("008, P08, 1", partial(1, "17.3", "17.3", "17.3")),
            ])
        );
    }

    fn columns(texts: &[&str], codes: &[u32], counts: &[u64]) -> Result<Groups, NotGroups> {
        let texts = texts.iter().map(|text| Box::from(*text)).collect();
        let partials = counts.iter().map(|count| partial(*count, "1", "2", "3")).collect();
        Groups::from_columns(&[GroupKey::Site, GroupKey::Hour], texts, codes.to_vec(), partials)
    }

    #[test]
    fn columns_that_are_no_groups_are_refused() {
        let good = columns(&["a", "b"], &[0, 1, 0, 23, 1, 0], &[1, 1, 1]).unwrap();
        let keys: Vec<String> = shown(&good).into_iter().map(|(keys, _)| keys).collect();
        assert_eq!(keys, ["a, 1", "a, 23", "b, 0"]);
        let refused = |texts, codes, counts| columns(texts, codes, counts).unwrap_err().to_string();
        assert!(refused(&["a"], &[0, 1, 0], &[1]).contains("more or fewer keys"));
        assert!(refused(&["a"], &[0, 1], &[1, 1]).contains("more or fewer keys"));
        assert!(refused(&["b", "a"], &[0, 1, 1, 1], &[1, 1]).contains("texts are not in order"));
        assert!(refused(&["a", "a"], &[0, 1, 1, 1], &[1, 1]).contains("texts are not in order"));
        assert!(refused(&["a"], &[0, 1], &[0]).contains("counts nothing"));
        assert!(refused(&["a"], &[0, 24], &[1]).contains("hour does not exist"));
        assert!(refused(&["a"], &[1, 1], &[1]).contains("one of its texts"));
        let day = |number| {
            Groups::from_columns(&[GroupKey::Day], vec![], vec![number], vec![partial(1, "1", "1", "1")])
        };
        assert!(day(99_999_999).is_ok());
        assert!(day(100_000_000).unwrap_err().to_string().contains("day or hour does not exist"));
        assert!(refused(&["a", "b"], &[0, 1], &[1]).contains("a text is of no group"));
        assert!(refused(&["a"], &[0, 2, 0, 1], &[1, 1]).contains("groups are not in order"));
        assert!(refused(&["a"], &[0, 1, 0, 1], &[1, 1]).contains("one comes twice"));
    }

    #[test]
    fn groups_of_nodes_with_other_texts_are_merged_by_their_keys() {
        let mut groups = columns(&["b", "d"], &[0, 1, 0, 2, 1, 0], &[1, 2, 3]).unwrap();
        groups.merge(columns(&["a", "b", "c"], &[0, 9, 1, 2, 1, 3, 2, 5], &[10, 20, 30, 40]).unwrap());
        let counts: Vec<(String, u64)> =
            shown(&groups).into_iter().map(|(keys, partial)| (keys, partial.count)).collect();
        let of = |keys: &str, count| (keys.to_owned(), count);
        assert_eq!(
            counts,
            [of("a, 9", 10), of("b, 1", 1), of("b, 2", 22), of("b, 3", 30), of("c, 5", 40), of("d, 0", 3)]
        );
        groups.truncate(2);
        groups.merge(Groups::default());
        assert_eq!((groups.len(), groups.codes()), (2, [0, 9, 1, 1].as_slice()));
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
        // A sum that is no double: rounded first, it gives 239460.89544355715. Python's whole numbers divide exactly.
        assert_eq!(mean_of(522_503_673_857_841_753, 2182), 239460.89544355718);
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
            let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site, GroupKey::Agency] };
            let all: Vec<u32> = (0..values.len() as u32).collect();
            let (left, right) = all.split_at(cut.min(all.len()));
            let mut merged = groups_of(&store, &spec, right);
            merged.merge(groups_of(&store, &spec, left));
            prop_assert_eq!(&merged, &groups_of(&store, &spec, &all));
            let sum: i128 = merged.partials().iter().map(|partial| partial.sum).sum();
            prop_assert_eq!(sum, values.iter().map(|value| i128::from(*value) * 10_000_000).sum::<i128>());
        }
    }
}
