//! The rules of a row: thirteen fields in, a row of the day or the reason why not.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::known_sites::{BytesHasher, KnownSites};
use super::split::{self, FIELDS, Margins, Measured};
use crate::day::Day;
use crate::decimal::{Decimal, ONE};
use crate::error::shown;
use crate::store::{Measure, MeasureEntry, Row, Site, SiteEntry, StoreBuilder, TooManyMeasures};

/// Bytes that a text may have, so that one row always fits into a chunk: 4 texts of a site, each of
/// which JSON may make 6 times as long, are 24 KiB.
const TEXT_LIMIT: usize = 1024;

/// Reads the rows of a thread. Keeps the sites and measures it met, so that a row costs two look-ups.
pub(super) struct RowReader<'a> {
    tables: &'a StoreBuilder,
    sites: KnownSites,
    measures: HashMap<Box<[u8]>, MeasureEntry, BuildHasherDefault<BytesHasher>>,
    key: Vec<u8>,
}

/// Why fields make no row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRow {
    /// They say what no row may say.
    Rejected(String),
    /// They are good, and the store is full.
    TooManyMeasures(TooManyMeasures),
}

impl From<String> for NoRow {
    fn from(reason: String) -> Self {
        NoRow::Rejected(reason)
    }
}

impl<'a> RowReader<'a> {
    pub(super) fn new(tables: &'a StoreBuilder) -> Self {
        RowReader { tables, sites: KnownSites::default(), measures: HashMap::default(), key: Vec::new() }
    }

    /// The first row of `data` and its bytes with the line end, if it has a site that is easily guessed.
    ///
    /// `None` says nothing about the row: [`Self::read`] does.
    pub(super) fn read_familiar(
        &mut self,
        date: &Date,
        data: &[u8],
    ) -> Option<((SiteEntry, MeasureEntry, Row), usize)> {
        let (index, site, margins) = self.sites.guess(data)?;
        let (fields, row_bytes) = split::split_between(data, margins)?;
        let row = measured(date, &fields).ok()?;
        let measure = self.measure(&fields).ok()?;
        self.sites.met(index);
        Some(((site, measure, row), row_bytes))
    }

    /// The row that `fields` make. The measure comes last, so that only good rows take one of its codes.
    ///
    /// # Errors
    /// [`NoRow`] says why they make none.
    pub(super) fn read(
        &mut self,
        date: &Date,
        fields: &[&[u8]; FIELDS],
        margins: Margins<'_>,
    ) -> Result<(SiteEntry, MeasureEntry, Row), NoRow> {
        let &[latitude, longitude, ref middle @ .., name, agency, aqs_id, full_aqs_id] = fields;
        let row = measured(date, middle)?;
        let site = match self.sites.find(margins) {
            Some(site) => site,
            None => {
                let site = self.tables.site(Site {
                    latitude: degrees("latitude", latitude, 90.0)?,
                    longitude: degrees("longitude", longitude, 180.0)?,
                    site_name: text("site name", name)?.into(),
                    agency_name: text("agency", agency)?.into(),
                    aqs_id: text("AQS id", aqs_id)?.into(),
                    full_aqs_id: text("full AQS id", full_aqs_id)?.into(),
                });
                self.sites.insert(margins, site);
                site
            }
        };
        let measure = self.measure(middle)?;
        Ok((site, measure, row))
    }

    fn measure(&mut self, fields: &Measured<'_>) -> Result<MeasureEntry, NoRow> {
        let [_, parameter, _, unit, ..] = *fields;
        join(&mut self.key, &[parameter, unit]);
        if let Some(entry) = self.measures.get(self.key.as_slice()) {
            return Ok(*entry);
        }
        let measure =
            Measure { parameter: text("parameter", parameter)?.into(), unit: text("unit", unit)?.into() };
        for (name, text) in [("parameter", &measure.parameter), ("unit", &measure.unit)] {
            if text.trim().is_empty() {
                return Err(NoRow::Rejected(format!("{name} is empty")));
            }
        }
        let entry = self.tables.measure(measure).map_err(NoRow::TooManyMeasures)?;
        self.measures.insert(self.key.as_slice().into(), entry);
        Ok(entry)
    }
}

fn measured(date: &Date, fields: &Measured<'_>) -> Result<Row, String> {
    let [time, _, value, _, raw, aqi, category] = *fields;
    Ok(Row {
        minute: date.minute(time)?,
        value: concentration("concentration", value)?,
        raw_concentration: concentration("raw concentration", raw)?,
        aqi: whole("AQI", aqi, 0, i16::MAX)?,
        category: whole("category", category, 1, 6)?.map(|category| category as i8),
    })
}

/// The date that a folder's rows must have.
pub(super) struct Date {
    day: Day,
    /// `2020-08-10T`.
    prefix: String,
}

impl Date {
    pub(super) fn new(day: Day) -> Self {
        let prefix = format!("{}T", day.iso());
        Date { day, prefix }
    }

    /// The minute of the day of `YYYY-MM-DDTHH:MM`.
    fn minute(&self, time: &[u8]) -> Result<u16, String> {
        let invalid = || format!("time `{}` is not YYYY-MM-DDTHH:MM", cut(time));
        let &[
            ref date @ ..,
            b'T',
            hour_tens @ b'0'..=b'9',
            hour @ b'0'..=b'9',
            b':',
            minute_tens @ b'0'..=b'9',
            minute @ b'0'..=b'9',
        ] = time
        else {
            return Err(invalid());
        };
        let pair = |tens: u8, ones: u8| u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
        let (hour, minute) = (pair(hour_tens, hour), pair(minute_tens, minute));
        if hour > 23 || minute > 59 {
            return Err(invalid());
        }
        if date != &self.prefix.as_bytes()[..10] {
            let date = std::str::from_utf8(date).map_err(|_| invalid())?;
            let well_formed = date.len() == 10
                && date.bytes().enumerate().all(|(at, byte)| match at {
                    4 | 7 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                });
            if !well_formed || date.replace('-', "").parse::<Day>().is_err() {
                return Err(invalid());
            }
            return Err(format!("dated {date}, outside its folder {}", self.day));
        }
        Ok(hour * 60 + minute)
    }
}

/// What means missing, beside an empty field.
const MISSING: Decimal = Decimal(-999 * ONE);

fn concentration(name: &str, field: &[u8]) -> Result<Option<Decimal>, String> {
    let value = match quick_decimal(field) {
        Some(value) => value,
        None => {
            let text = text(name, field)?.trim();
            if text.is_empty() {
                return Ok(None);
            }
            Decimal::parse(text).map_err(|error| format!("{name}: {error}"))?
        }
    };
    Ok(Some(value).filter(|value| *value != MISSING))
}

/// `Decimal::parse` for the form that nearly every field has: up to 9 digits, a point, up to 9 digits.
fn quick_decimal(field: &[u8]) -> Option<Decimal> {
    let (negative, digits) = match field {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &digits[..0]),
    };
    if whole.is_empty() || whole.len() > 9 || fraction.len() > 9 {
        return None;
    }
    let mut number = 0i64;
    for byte in whole.iter().chain(fraction) {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(byte - b'0');
    }
    let billionths = number * 10i64.pow(9 - fraction.len() as u32);
    Some(Decimal(if negative { -billionths } else { billionths }))
}

fn whole(name: &str, field: &[u8], least: i16, most: i16) -> Result<Option<i16>, String> {
    let Some(number) = concentration(name, field)? else {
        return Ok(None);
    };
    let range = i64::from(least)..=i64::from(most);
    if number.0 % ONE != 0 || !range.contains(&(number.0 / ONE)) {
        let found = cut(field);
        return Err(format!("{name} `{found}` out of range: must be a whole number from {least} to {most}"));
    }
    Ok(Some((number.0 / ONE) as i16))
}

fn degrees(name: &str, field: &[u8], limit: f64) -> Result<f64, String> {
    let number = text(name, field)?
        .trim()
        .parse::<f64>()
        .map_err(|_| format!("{name} `{}` is not a number", cut(field)))?;
    if !(-limit..=limit).contains(&number) {
        let found = cut(field);
        return Err(format!("{name} `{found}` out of range: must be between -{limit} and {limit}"));
    }
    Ok(number)
}

fn text<'a>(name: &str, field: &'a [u8]) -> Result<&'a str, String> {
    if field.len() > TEXT_LIMIT {
        let length = field.len();
        return Err(format!("{name} has {length} bytes, limit {TEXT_LIMIT}"));
    }
    std::str::from_utf8(field).map_err(|_| format!("{name} `{}` is not UTF-8", cut(field)))
}

fn cut(field: &[u8]) -> String {
    shown(&String::from_utf8_lossy(field))
}

/// Joins fields into a key. 0xff is in no UTF-8 text, so keys that are remembered are unambiguous.
fn join(key: &mut Vec<u8>, fields: &[&[u8]]) {
    key.clear();
    for field in fields {
        key.extend_from_slice(field);
        key.push(0xff);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: [&str; FIELDS] = [
        "41.75613",
        "-124.20347",
        "2020-08-10T01:30",
        "PM2.5",
        "17.3",
        "UG/M3",
        "18.0",
        "62",
        "2",
        "Crescent City",
        "North Coast",
        "0060",
        "8400060",
    ];

    fn read(changes: &[(usize, &str)]) -> Result<Row, NoRow> {
        let mut fields = GOOD.map(str::as_bytes);
        for (field, text) in changes {
            fields[field - 1] = text.as_bytes();
        }
        let tables = StoreBuilder::default();
        let date = Date::new("20200810".parse().unwrap());
        let (_, _, row) = RowReader::new(&tables).read(&date, &fields, Margins::default())?;
        Ok(row)
    }

    #[test]
    fn a_row_says_what_its_fields_say() {
        let row = Row {
            minute: 90,
            value: Some(Decimal(17_300_000_000)),
            raw_concentration: Some(Decimal(18_000_000_000)),
            aqi: Some(62),
            category: Some(2),
        };
        assert_eq!(read(&[]), Ok(row));
    }

    #[test]
    fn an_empty_number_and_minus_999_are_missing() {
        for missing in ["", " ", "-999", "-999.0", "-999.000", "-9.99e2"] {
            let row = read(&[(5, missing), (7, missing), (8, missing), (9, missing)]).unwrap();
            let numbers = (row.value, row.raw_concentration, row.aqi, row.category);
            assert_eq!(numbers, (None, None, None, None), "{missing:?}");
        }
        let near = read(&[(5, "-999.1")]).unwrap();
        assert_eq!(near.value, Some(Decimal(-999_100_000_000)));
    }

    #[test]
    fn the_limits_of_a_field_are_inclusive() {
        for (field, text) in [
            (1, "-90"),
            (1, "90.0"),
            (2, "-180"),
            (2, "180"),
            (3, "2020-08-10T00:00"),
            (3, "2020-08-10T23:59"),
            (5, "-999999999.999999999"),
            (8, "0"),
            (8, "32767"),
            (9, "1"),
            (9, "6"),
            (10, ""),
        ] {
            assert!(read(&[(field, text)]).is_ok(), "field {field}: {text}");
        }
    }

    #[test]
    fn every_other_row_is_rejected_with_its_reason() {
        let long = "x".repeat(1025);
        for (field, text, reason) in [
            (1, "90.1", "latitude `90.1` out of range: must be between -90 and 90"),
            (1, "NaN", "latitude `NaN` out of range: must be between -90 and 90"),
            (1, "", "latitude `` is not a number"),
            (1, "-999", "latitude `-999` out of range: must be between -90 and 90"),
            (2, "-180.5", "longitude `-180.5` out of range: must be between -180 and 180"),
            (3, "2020-08-12T01:00", "dated 2020-08-12, outside its folder 20200810"),
            (3, "2020-08-10T24:00", "time `2020-08-10T24:00` is not YYYY-MM-DDTHH:MM"),
            (3, "2020-08-32T01:00", "time `2020-08-32T01:00` is not YYYY-MM-DDTHH:MM"),
            (3, "2020-08-10 01:00", "time `2020-08-10 01:00` is not YYYY-MM-DDTHH:MM"),
            (3, "2020-08-10T01:00Z", "time `2020-08-10T01:00Z` is not YYYY-MM-DDTHH:MM"),
            (4, "", "parameter is empty"),
            (5, "high", "concentration: `high` is not a number"),
            (5, "NaN", "concentration: `NaN` is not a number"),
            (6, " ", "unit is empty"),
            (8, "32768", "AQI `32768` out of range: must be a whole number from 0 to 32767"),
            (8, "-1", "AQI `-1` out of range: must be a whole number from 0 to 32767"),
            (8, "1.5", "AQI `1.5` out of range: must be a whole number from 0 to 32767"),
            (9, "7", "category `7` out of range: must be a whole number from 1 to 6"),
            (10, &long, "site name has 1025 bytes, limit 1024"),
        ] {
            assert_eq!(read(&[(field, text)]), Err(NoRow::Rejected(reason.to_owned())));
        }
        let Err(NoRow::Rejected(reason)) = read(&[(7, "1e12")]) else { panic!("1e12 is out of range") };
        assert!(reason.starts_with("raw concentration: `1e12` out of range"));
    }

    proptest! {
        #[test]
        fn the_quick_way_reads_what_the_exact_way_reads(text in "[-+]?[0-9]{0,10}[.]?[0-9]{0,10}e?") {
            if let Some(quick) = quick_decimal(text.as_bytes()) {
                prop_assert_eq!(Ok(quick), Decimal::parse(&text));
            }
        }
    }
}
