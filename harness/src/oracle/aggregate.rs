//! Groups, counted and averaged exactly.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::number::Number;
use super::{
    AGENCY_NAME, AQI, Oracle, OracleQuery, OracleRow, PARAMETER, RAW_CONCENTRATION, SITE_NAME, TIMESTAMP,
    VALUE,
};

/// Which number is aggregated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Field 5.
    Value,
    /// Field 7.
    RawConcentration,
    /// Field 8.
    Aqi,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 3] = [Measure::Value, Measure::RawConcentration, Measure::Aqi];

    /// As a query writes it in `of`.
    pub fn name(self) -> &'static str {
        super::FIELD_NAMES[self.field()]
    }

    fn field(self) -> usize {
        match self {
            Measure::Value => VALUE,
            Measure::RawConcentration => RAW_CONCENTRATION,
            Measure::Aqi => AQI,
        }
    }
}

/// What rows of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKey {
    /// Field 4.
    Parameter,
    /// The site's name: sites of one name are one group.
    Site,
    /// The agency's name.
    Agency,
    /// The day.
    Day,
    /// Hour of the day, UTC.
    Hour,
    /// The team that owns the day.
    Team,
}

impl GroupKey {
    /// All of them.
    pub const ALL: [GroupKey; 6] = [
        GroupKey::Parameter,
        GroupKey::Site,
        GroupKey::Agency,
        GroupKey::Day,
        GroupKey::Hour,
        GroupKey::Team,
    ];

    /// As a query writes it in `group_by`.
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

    /// As the answer writes it.
    pub fn output_name(self) -> &'static str {
        match self {
            GroupKey::Parameter => "parameter",
            GroupKey::Site => "site_name",
            GroupKey::Agency => "agency_name",
            GroupKey::Day => "date",
            GroupKey::Hour => "hour",
            GroupKey::Team => "team",
        }
    }

    /// Text that orders like the key: hours have two digits.
    fn of(self, oracle: &Oracle, row: &OracleRow) -> String {
        match self {
            GroupKey::Parameter => row.field(PARAMETER).to_owned(),
            GroupKey::Site => row.field(SITE_NAME).to_owned(),
            GroupKey::Agency => row.field(AGENCY_NAME).to_owned(),
            GroupKey::Day => row.day.to_string(),
            GroupKey::Hour => row.field(TIMESTAMP)[11..13].to_owned(),
            GroupKey::Team => oracle.team_of(row.day).unwrap_or_default().to_owned(),
        }
    }

    fn to_json(self, text: &str) -> Value {
        match self {
            GroupKey::Hour => json!(text.parse::<u8>().expect("an accepted row has an hour")),
            _ => json!(text),
        }
    }
}

/// Decimals of a sum: a concentration has at most nine.
const PLACES: usize = 9;

struct Group {
    numbers: Vec<Number>,
}

pub(super) fn aggregate(
    oracle: &Oracle,
    query: &OracleQuery,
    measure: Measure,
    keys: &[GroupKey],
) -> Vec<Value> {
    let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
    for row in oracle.matches(query) {
        let Some(number) = row.number(measure.field()) else {
            continue;
        };
        let key = keys.iter().map(|key| key.of(oracle, row)).collect();
        groups.entry(key).or_insert(Group { numbers: Vec::new() }).numbers.push(number);
    }
    let limit = query.limit.unwrap_or(usize::MAX);
    groups.into_iter().take(limit).map(|(values, group)| group.to_json(keys, &values)).collect()
}

impl Group {
    fn to_json(&self, keys: &[GroupKey], values: &[String]) -> Value {
        let mut object: Map<String, Value> = keys
            .iter()
            .zip(values)
            .map(|(key, value)| (key.output_name().to_owned(), key.to_json(value)))
            .collect();
        let smallest = self.numbers.iter().min().expect("a group has a row");
        let largest = self.numbers.iter().max().expect("a group has a row");
        object.insert("count".to_owned(), json!(self.numbers.len()));
        object.insert("min".to_owned(), json!(smallest.to_f64()));
        object.insert("max".to_owned(), json!(largest.to_f64()));
        object.insert("mean".to_owned(), json!(self.mean()));
        Value::Object(object)
    }

    fn mean(&self) -> f64 {
        let scaled =
            |number: &Number| number.scaled(PLACES).expect("a measurement has at most nine decimals");
        let sum: i128 = self.numbers.iter().map(scaled).sum();
        quotient(sum, self.numbers.len() as i128 * 10_i128.pow(PLACES as u32))
    }
}

/// The `f64` nearest to `numerator / denominator`, ties to even; the denominator is below 10^36.
///
/// The quotient is written out by long division and read back, which rounds once. A last digit 1 stands
/// for any remainder. That decides right, because every midpoint between two neighbouring `f64` has at most
/// 200 decimals here: the smallest quotient, 10^-36 > 2^-120, has midpoints of 2^-120-53-1.
fn quotient(numerator: i128, denominator: i128) -> f64 {
    let sign = if numerator < 0 { "-" } else { "" };
    let mut text = format!("{sign}{}.", numerator.abs() / denominator);
    let mut remainder = numerator.abs() % denominator;
    for _ in 0..200 {
        remainder *= 10;
        text.push(char::from(b'0' + (remainder / denominator) as u8));
        remainder %= denominator;
    }
    if remainder > 0 {
        text.push('1');
    }
    text.parse().expect("only digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotient_is_rounded_once() {
        assert_eq!(quotient(1, 3), 1.0 / 3.0);
        assert_eq!(quotient(-3, 10), -0.3);
        assert_eq!(quotient(0, 7), 0.0);
        // Whole numbers below 2^53 divide correctly in hardware: IEEE 754 rounds the exact quotient once.
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let (numerator, denominator) = (rng.i64(-(1 << 53)..1 << 53), rng.i64(1..1 << 53));
            assert_eq!(quotient(numerator.into(), denominator.into()), numerator as f64 / denominator as f64);
        }
    }

    #[test]
    fn quotient_breaks_ties_to_even_and_sees_the_smallest_remainder() {
        let tie = (1_i128 << 53) + 1;
        assert_eq!(quotient(tie, 1), (1_i64 << 53) as f64);
        assert_eq!(quotient(tie * 1_000_000_000 + 1, 1_000_000_000), ((1_i64 << 53) + 2) as f64);
        assert_eq!(quotient(tie * 1_000_000_000 - 1, 1_000_000_000), (1_i64 << 53) as f64);
    }
}
