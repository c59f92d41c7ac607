//! What an inventory says about a day, so that nodes without its rows can prune and size chunks.

use std::collections::BTreeMap;

use super::{Measure, Site};
use crate::decimal::Decimal;

/// A day in numbers: a function of the day's files only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DayStatistics {
    /// Rows that parsed.
    pub rows: u64,
    /// Rows that did not, which a ledger can't prove anything about.
    pub rejected_rows: u64,
    /// Files read.
    pub files: u32,
    /// By parameter in upper case, since queries ignore its letter case.
    pub parameters: BTreeMap<String, ParameterStatistics>,
    /// Around all sites that have a row; `None` without rows.
    pub place: Option<PlaceBounds>,
    /// Divides a chunk's bytes into rows.
    pub worst_row_bytes: WorstRowBytes,
}

/// The rows of one parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParameterStatistics {
    /// All of them.
    pub rows: u64,
    /// Those without a concentration, which no bound matches.
    pub missing: u64,
    /// Smallest concentration; `None` if all are missing.
    pub min: Option<Decimal>,
    /// Largest concentration; `None` if all are missing.
    pub max: Option<Decimal>,
}

impl ParameterStatistics {
    pub(super) fn add(&mut self, value: Option<Decimal>) {
        self.rows += 1;
        let Some(value) = value else {
            self.missing += 1;
            return;
        };
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }

    pub(super) fn merge(&mut self, other: &ParameterStatistics) {
        self.rows += other.rows;
        self.missing += other.missing;
        self.min = self.min.into_iter().chain(other.min).min();
        self.max = self.max.into_iter().chain(other.max).max();
    }
}

/// The smallest box, in degrees, around some sites.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlaceBounds {
    /// Southernmost.
    pub lat_min: f64,
    /// Northernmost.
    pub lat_max: f64,
    /// Westernmost.
    pub lon_min: f64,
    /// Easternmost.
    pub lon_max: f64,
}

impl PlaceBounds {
    /// The box around one point.
    pub(super) fn of(latitude: f64, longitude: f64) -> Self {
        PlaceBounds { lat_min: latitude, lat_max: latitude, lon_min: longitude, lon_max: longitude }
    }

    pub(super) fn merge(self, other: PlaceBounds) -> Self {
        PlaceBounds {
            lat_min: self.lat_min.min(other.lat_min),
            lat_max: self.lat_max.max(other.lat_max),
            lon_min: self.lon_min.min(other.lon_min),
            lon_max: self.lon_max.max(other.lon_max),
        }
    }
}

/// The most bytes that any row adds to a payload, by encoding.
///
/// A payload of n rows has at most n times this, and [`frame_overhead_bytes`] once.
///
/// [`frame_overhead_bytes`]: crate::frame::frame_overhead_bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorstRowBytes {
    /// With the dictionary entries that the row may be the first to use.
    pub arrow: u32,
    /// With the comma that separates rows.
    pub json: u32,
    /// As `json`, with -999 for missing.
    pub json_legacy: u32,
}

/// The longest of each part of a day's rows, from which [`WorstRowBytes`] follow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowShape {
    pub(crate) site: TextBytes,
    pub(crate) measure: TextBytes,
    /// The longest concentrations, as text.
    pub(crate) value: usize,
    pub(crate) raw_concentration: usize,
}

/// Bytes of some texts of a row: plain, and as JSON values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TextBytes {
    pub(crate) plain: usize,
    pub(crate) json: usize,
}

impl TextBytes {
    pub(super) fn of_site(site: &Site) -> Self {
        let texts = Self::of(&site.texts());
        let degrees = json_number_bytes(site.latitude) + json_number_bytes(site.longitude);
        TextBytes { json: texts.json + degrees, ..texts }
    }

    pub(super) fn of_measure(measure: &Measure) -> Self {
        Self::of(&[&measure.parameter, &measure.unit])
    }

    fn of(texts: &[&str]) -> Self {
        TextBytes {
            plain: texts.iter().map(|text| text.len()).sum(),
            json: texts.iter().map(|text| json_text_bytes(text)).sum(),
        }
    }

    pub(super) fn max(self, other: TextBytes) -> Self {
        TextBytes { plain: self.plain.max(other.plain), json: self.json.max(other.json) }
    }
}

/// A row without its texts and numbers, and the comma before the next row.
const JSON_SKELETON: &str = concat!(
    r#"{"latitude":,"longitude":,"timestamp":"2020-08-10T01:00Z","parameter":,"value":,"unit":,"#,
    r#""raw_concentration":,"aqi":,"category":,"site_name":,"agency_name":,"aqs_id":,"#,
    r#""full_aqs_id":,"date":"20200810"},"#,
);

/// Columns of a row: 13 validity bits, 5 of 8 bytes (latitude, longitude, timestamp, two
/// concentrations), 6 dictionary keys of 4, AQI 2, category 1.
const ARROW_COLUMNS: usize = 13usize.div_ceil(8) + 5 * 8 + 6 * 4 + 2 + 1;

/// What a dictionary entry takes beside its text: an offset of 4 bytes and a validity bit.
const ARROW_ENTRY: usize = 4 + 1;

impl RowShape {
    pub(crate) fn worst_row_bytes(&self) -> WorstRowBytes {
        let texts = self.site.json + self.measure.json;
        let concentrations =
            |missing: &str| self.value.max(missing.len()) + self.raw_concentration.max(missing.len());
        // An AQI has at most 5 digits; a missing one or a missing category is `null` or `-999`.
        let json = JSON_SKELETON.len() + texts + "32767".len() + "null".len();
        let arrow = ARROW_COLUMNS + 6 * ARROW_ENTRY + self.site.plain + self.measure.plain;
        WorstRowBytes {
            arrow: arrow as u32,
            json: (json + concentrations("null")) as u32,
            json_legacy: (json + concentrations("-999.0")) as u32,
        }
    }
}

/// Bytes of a text as JSON, with its quotes.
pub(crate) fn json_text_bytes(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |json| json.len())
}

fn json_number_bytes(number: f64) -> usize {
    serde_json::to_string(&number).map_or(usize::MAX, |json| json.len())
}
