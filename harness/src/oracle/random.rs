//! Random queries that hit something: drawn from the rows themselves, bent a little.

use chrono::Days;

use crate::calendar;

use super::number::Number;
use super::{AGENCY_NAME, Oracle, OracleQuery, OracleRow, PARAMETER, SITE_NAME, VALUE};

/// A random query. Equal generators and oracles give equal queries.
///
/// Each part is present with its own chance: parameters that exist or not in mixed letter case, bounds
/// that equal a value exactly, days that nobody owns or that have no files, places around a site, parts
/// of names, limits from one row to more than there are. `min` is never above `max`, days always exist.
pub fn random_query(rng: &mut fastrand::Rng, oracle: &Oracle) -> OracleQuery {
    let mut query = OracleQuery::default();
    if chance(rng, 70) {
        query.parameter = Some(parameter(rng, oracle));
    }
    values(rng, oracle, &mut query);
    if chance(rng, 50) {
        dates(rng, oracle, &mut query);
    }
    if chance(rng, 25) {
        place(rng, oracle, &mut query);
    }
    words(rng, oracle, &mut query);
    if chance(rng, 15) {
        query.team = Some(team(rng, oracle));
    }
    if chance(rng, 50) {
        query.limit = Some([1, 7, 100, 2_000, 1_000_000][rng.usize(..5)]);
    }
    query
}

fn chance(rng: &mut fastrand::Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

fn any_row<'a>(rng: &mut fastrand::Rng, oracle: &'a Oracle) -> Option<&'a OracleRow> {
    (!oracle.rows.is_empty()).then(|| &oracle.rows[rng.usize(..oracle.rows.len())])
}

fn mixed_case(rng: &mut fastrand::Rng, text: &str) -> String {
    let mut letter = |letter: char| {
        if rng.bool() { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
    };
    text.chars().map(&mut letter).collect()
}

fn parameter(rng: &mut fastrand::Rng, oracle: &Oracle) -> String {
    let unknown = ["PM25", "PM", "O3", "OZONE2"][rng.usize(..4)];
    let known = any_row(rng, oracle).map(|row| row.field(PARAMETER));
    let name = known.filter(|_| chance(rng, 92)).unwrap_or(unknown);
    if chance(rng, 50) { mixed_case(rng, name) } else { name.to_owned() }
}

/// Bounds that stand in the data, written as there, otherwise, or a hair beside.
fn values(rng: &mut fastrand::Rng, oracle: &Oracle, query: &mut OracleQuery) {
    let mut bound = |percent| {
        let row = any_row(rng, oracle)?;
        chance(rng, percent).then(|| rewritten(rng, row.field(VALUE)))
    };
    (query.min, query.max) = (bound(50), bound(40));
    if let (Some(min), Some(max)) = (&query.min, &query.max)
        && Number::parse(min) > Number::parse(max)
    {
        std::mem::swap(&mut query.min, &mut query.max);
    }
}

fn rewritten(rng: &mut fastrand::Rng, text: &str) -> String {
    if Number::parse(text).is_none() {
        return "0".to_owned();
    }
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let rewritten = match rng.u8(..6) {
        0 => whole.to_owned(),
        1 => format!("{whole}.{fraction}00"),
        2 => format!("{whole}.{fraction}000000001"),
        3 => format!("{whole}{fraction}e-{}", fraction.len()),
        _ => text.to_owned(),
    };
    // A number that has an exponent already, or no digit before its point, stays as it is.
    if Number::parse(&rewritten).is_some() { rewritten } else { text.to_owned() }
}

fn dates(rng: &mut fastrand::Rng, oracle: &Oracle, query: &mut OracleQuery) {
    // Some days before the first and after the last owned or present one, and all between.
    let present = [oracle.rows.first(), oracle.rows.last()].into_iter().flatten().map(|row| row.day);
    let owned = oracle.teams.iter().flat_map(|team| [team.first_day, team.last_day]);
    let mut known: Vec<u32> = present.chain(owned).collect();
    known.sort_unstable();
    let [Some(&first), Some(&last)] = [known.first(), known.last()] else {
        return;
    };
    let (Some(first), Some(last)) = (calendar::date(first / 100 * 100 + 1), calendar::date(last)) else {
        return;
    };
    let days = first.iter_days().take_while(|day| *day <= last + Days::new(5));
    let days: Vec<u32> = days.map(calendar::number).collect();
    let mut bounds = [days[rng.usize(..days.len())], days[rng.usize(..days.len())]];
    bounds.sort_unstable();
    query.date_start = chance(rng, 80).then_some(bounds[0]);
    query.date_end = chance(rng, 80).then_some(bounds[1]);
}

fn place(rng: &mut fastrand::Rng, oracle: &Oracle, query: &mut OracleQuery) {
    let Some(row) = any_row(rng, oracle) else {
        return;
    };
    let (latitude, longitude) = (row.degrees(0), row.degrees(1));
    // Zero makes the site itself the corner: bounds are inclusive.
    let mut side = |center: f64, sign: f64| {
        let away = [0.0, 0.25, 1.0, 3.0][rng.usize(..4)];
        chance(rng, 80).then_some(center + sign * away)
    };
    query.lat_min = side(latitude, -1.0);
    query.lat_max = side(latitude, 1.0);
    query.lon_min = side(longitude, -1.0);
    query.lon_max = side(longitude, 1.0);
}

fn words(rng: &mut fastrand::Rng, oracle: &Oracle, query: &mut OracleQuery) {
    let mut word = |percent, index| {
        let row = any_row(rng, oracle)?;
        chance(rng, percent).then(|| part(rng, row.field(index)))
    };
    query.site = word(12, SITE_NAME);
    query.agency = word(12, AGENCY_NAME);
    query.text = word(10, SITE_NAME).or_else(|| word(5, AGENCY_NAME));
}

/// One to all letters of a name, rarely of a name that nobody has.
fn part(rng: &mut fastrand::Rng, name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.is_empty() || chance(rng, 5) {
        return "zzyzx".to_owned();
    }
    let first = rng.usize(..letters.len());
    let length = rng.usize(1..=(letters.len() - first).min(8));
    let part: String = letters[first..first + length].iter().collect();
    mixed_case(rng, &part)
}

fn team(rng: &mut fastrand::Rng, oracle: &Oracle) -> String {
    let known = oracle.teams.get(rng.usize(..oracle.teams.len() + 1));
    known.map_or_else(|| "nobody".to_owned(), |team| team.name.clone())
}
