//! What the right answer is: every row of every file, scanned from its text, on one thread.
//!
//! It shares no code with the node: no columns, no site table, no statistics, no decimals. Each query
//! looks at each row and compares the characters in the file with the characters in the query. It is
//! slow on purpose; the proof rests on it being obvious. It reads plain `.csv` only.
//!
//! Start reading at [`Oracle::rows`]. `record` says what a row is, `number` compares decimals, `aggregate`
//! groups, `random` draws queries.

mod aggregate;
mod number;
mod random;
mod record;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::calendar;

pub use self::aggregate::{GroupKey, Measure};
pub use self::random::random_query;

use self::number::Number;
use self::record::Fields;

/// A team and the days that it owns, both inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamRange {
    /// As in the configuration.
    pub name: String,
    /// First day, `YYYYMMDD`.
    pub first_day: u32,
    /// Last day, inclusive.
    pub last_day: u32,
}

impl TeamRange {
    /// A range; days as `YYYYMMDD`, both inclusive.
    pub fn new(name: &str, first_day: u32, last_day: u32) -> Self {
        Self { name: name.to_owned(), first_day, last_day }
    }

    /// The two teams of the seed system.
    pub fn green_and_pink() -> Vec<Self> {
        vec![Self::new("green", 20200810, 20200820), Self::new("pink", 20200821, 20200924)]
    }

    fn owns(&self, day: u32) -> bool {
        (self.first_day..=self.last_day).contains(&day)
    }
}

/// A query. An absent part does not restrict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OracleQuery {
    /// In any letter case.
    pub parameter: Option<String>,
    /// Smallest value, inclusive, as a decimal number.
    pub min: Option<String>,
    /// Largest value, inclusive, as a decimal number.
    pub max: Option<String>,
    /// First day, `YYYYMMDD`.
    pub date_start: Option<u32>,
    /// Last day, inclusive.
    pub date_end: Option<u32>,
    /// Southern bound in degrees, inclusive.
    pub lat_min: Option<f64>,
    /// Northern bound in degrees, inclusive.
    pub lat_max: Option<f64>,
    /// Western bound in degrees, inclusive.
    pub lon_min: Option<f64>,
    /// Eastern bound in degrees, inclusive.
    pub lon_max: Option<f64>,
    /// Only days that this team owns.
    pub team: Option<String>,
    /// Part of the site's name, in any letter case.
    pub site: Option<String>,
    /// Part of the agency's name, in any letter case.
    pub agency: Option<String>,
    /// Part of either name, in any letter case.
    pub text: Option<String>,
    /// Most rows (of an aggregate: groups). Absent means all; the old contract's default of 2000 is not the oracle's.
    pub limit: Option<usize>,
}

impl OracleQuery {
    /// The filter as a JSON object with the names of the wire contract; bounds of values are strings.
    pub fn to_json(&self) -> Value {
        let parts = [
            ("parameter", self.parameter.as_ref().map(|text| json!(text))),
            ("min_value", self.min.as_ref().map(|text| json!(text))),
            ("max_value", self.max.as_ref().map(|text| json!(text))),
            ("date_start", self.date_start.map(|day| json!(day.to_string()))),
            ("date_end", self.date_end.map(|day| json!(day.to_string()))),
            ("lat_min", self.lat_min.map(|bound| json!(bound))),
            ("lat_max", self.lat_max.map(|bound| json!(bound))),
            ("lon_min", self.lon_min.map(|bound| json!(bound))),
            ("lon_max", self.lon_max.map(|bound| json!(bound))),
            ("team", self.team.as_ref().map(|text| json!(text))),
            ("site", self.site.as_ref().map(|text| json!(text))),
            ("agency", self.agency.as_ref().map(|text| json!(text))),
            ("text", self.text.as_ref().map(|text| json!(text))),
            ("limit", self.limit.map(|limit| json!(limit))),
        ];
        let present = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(present.collect())
    }
}

impl fmt::Display for OracleQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.to_json())
    }
}

/// A row as its file writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OracleRow {
    /// The folder, `YYYYMMDD`.
    pub day: u32,
    /// Name of the file without its extension.
    pub file_stem: Box<str>,
    /// Line in the file, from 1.
    pub line: u64,
    fields: Fields,
}

/// Names of the 13 fields, in the file's order, as the old JSON has them.
pub const FIELD_NAMES: [&str; 13] = [
    "latitude",
    "longitude",
    "timestamp",
    "parameter",
    "value",
    "unit",
    "raw_concentration",
    "aqi",
    "category",
    "site_name",
    "agency_name",
    "aqs_id",
    "full_aqs_id",
];

const TIMESTAMP: usize = 2;
const PARAMETER: usize = 3;
const VALUE: usize = 4;
const UNIT: usize = 5;
const RAW_CONCENTRATION: usize = 6;
const AQI: usize = 7;
const CATEGORY: usize = 8;
const SITE_NAME: usize = 9;
const AGENCY_NAME: usize = 10;

impl OracleRow {
    /// A field's text, by its index in [`FIELD_NAMES`].
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index)
    }

    /// The number in a field; none if it is missing (empty or -999).
    fn number(&self, index: usize) -> Option<Number> {
        let number = Number::parse(self.field(index))?;
        (number != Number::parse("-999")?).then_some(number)
    }

    /// Latitude (0) or longitude (1).
    fn degrees(&self, index: usize) -> f64 {
        self.field(index).trim().parse().expect("an accepted row has a place")
    }

    /// The row in the old contract's JSON: missing is -999, time is as in the file.
    pub fn to_legacy_json(&self) -> Value {
        self.json_with(json!(-999), json!(self.field(TIMESTAMP)))
    }

    /// The row in our JSON: missing is null, time says that it is UTC.
    pub fn to_json(&self) -> Value {
        self.json_with(Value::Null, json!(format!("{}Z", self.field(TIMESTAMP))))
    }

    fn json_with(&self, missing: Value, timestamp: Value) -> Value {
        let value = |index| match index {
            TIMESTAMP => timestamp.clone(),
            0 | 1 => json!(self.degrees(index)),
            AQI | CATEGORY => self.number(index).map_or(missing.clone(), |number| json!(number.to_integer())),
            VALUE | RAW_CONCENTRATION => {
                self.number(index).map_or(missing.clone(), |number| json!(number.to_f64()))
            }
            _ => json!(self.field(index)),
        };
        let named = FIELD_NAMES.iter().enumerate().map(|(index, name)| (name.to_string(), value(index)));
        Value::Object(named.chain([("date".to_owned(), json!(self.day.to_string()))]).collect())
    }
}

/// A record that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// The file.
    pub file: PathBuf,
    /// The line that it starts at, from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// All rows of a dataset, in canonical order.
#[derive(Clone)]
pub struct Oracle {
    teams: Vec<TeamRange>,
    rows: Vec<OracleRow>,
    rejected: Vec<RejectedRecord>,
}

/// Why a dataset could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The file system refused, or a file has no readable name.
    #[error("read `{}`", path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The oracle does not decompress: it takes no library that the node could share.
    #[error("file `{}` is compressed: the oracle reads plain .csv only", .0.display())]
    Compressed(PathBuf),
}

impl Oracle {
    /// Reads every row below `root`, also of days that no team owns.
    ///
    /// # Errors
    /// [`OracleError`] if a file cannot be read. A row that does not parse is no error, see [`Oracle::rejected`].
    pub fn read(root: &Path, teams: &[TeamRange]) -> Result<Oracle, OracleError> {
        let mut oracle = Oracle { teams: teams.to_vec(), rows: Vec::new(), rejected: Vec::new() };
        for (name, folder) in sorted_entries(root)? {
            let Some(day) = day_of(&name).filter(|_| folder.is_dir()) else {
                continue;
            };
            for (stem, path) in csv_files(&folder)? {
                oracle.read_file(day, &stem, &path)?;
            }
        }
        Ok(oracle)
    }

    /// The rows of one file of a day, `YYYYMMDD`, that is in memory.
    pub fn of_file(day: u32, stem: &str, file: &[u8]) -> Oracle {
        let teams = TeamRange::green_and_pink();
        let mut oracle = Oracle { teams, rows: Vec::new(), rejected: Vec::new() };
        oracle.add_file(day, stem, Path::new(stem), file);
        oracle
    }

    /// Rows that the query selects, in canonical order: day, file stem, row in file.
    pub fn rows(&self, query: &OracleQuery) -> Vec<&OracleRow> {
        let limit = query.limit.unwrap_or(usize::MAX);
        self.matches(query).take(limit).collect()
    }

    /// How many rows the query selects, at most its limit.
    pub fn count(&self, query: &OracleQuery) -> usize {
        self.matches(query).take(query.limit.unwrap_or(usize::MAX)).count()
    }

    /// The query's rows in groups: the keys in the order asked, then count, min, max and mean of `measure`.
    ///
    /// Rows whose measure is missing are left out. Groups are ordered by their keys; `limit` counts groups.
    /// The mean is the exact quotient, rounded once to the nearest `f64`.
    pub fn aggregate(&self, query: &OracleQuery, measure: Measure, keys: &[GroupKey]) -> Vec<Value> {
        aggregate::aggregate(self, query, measure, keys)
    }

    /// Every row of the dataset, whoever owns its day.
    pub fn all_rows(&self) -> &[OracleRow] {
        &self.rows
    }

    /// As if there were no row of these days.
    pub fn without(&self, days: &BTreeSet<u32>) -> Oracle {
        let rows = self.rows.iter().filter(|row| !days.contains(&row.day)).cloned().collect();
        Oracle { teams: self.teams.clone(), rows, rejected: self.rejected.clone() }
    }

    /// As if these days had the rows that they have in another one.
    pub fn with_days_of(&self, other: &Oracle, days: &BTreeSet<u32>) -> Oracle {
        let mut mixed = self.without(days);
        mixed.rows.extend(other.rows.iter().filter(|row| days.contains(&row.day)).cloned());
        // Stable: rows of a day keep their order.
        mixed.rows.sort_by_key(|row| row.day);
        mixed
    }

    /// The days whose rows are not the same in another one.
    pub fn days_that_differ(&self, other: &Oracle) -> BTreeSet<u32> {
        let days: BTreeSet<u32> = self.rows.iter().chain(&other.rows).map(|row| row.day).collect();
        let of_day = |oracle: &'_ Oracle, day: u32| -> Vec<OracleRow> {
            oracle.rows.iter().filter(|row| row.day == day).cloned().collect()
        };
        days.into_iter().filter(|day| of_day(self, *day) != of_day(other, *day)).collect()
    }

    /// What is no row of its day, in the order of files and lines.
    pub fn rejected(&self) -> &[RejectedRecord] {
        &self.rejected
    }

    /// The ranges that it was read with.
    pub fn teams(&self) -> &[TeamRange] {
        &self.teams
    }

    /// The team that owns a day.
    pub fn team_of(&self, day: u32) -> Option<&str> {
        self.teams.iter().find(|team| team.owns(day)).map(|team| team.name.as_str())
    }

    fn matches<'a>(&'a self, query: &OracleQuery) -> impl Iterator<Item = &'a OracleRow> {
        let wanted = Wanted::new(query);
        self.rows.iter().filter(move |row| {
            let team = self.team_of(row.day);
            team.is_some_and(|team| wanted.takes_team(team)) && wanted.takes(row)
        })
    }

    fn read_file(&mut self, day: u32, stem: &str, path: &Path) -> Result<(), OracleError> {
        self.add_file(day, stem, path, &fs::read(path).map_err(io_error(path))?);
        Ok(())
    }

    fn add_file(&mut self, day: u32, stem: &str, path: &Path, file: &[u8]) {
        for (line, record) in record::read(file, day) {
            match record {
                Ok(fields) => self.rows.push(OracleRow { day, file_stem: stem.into(), line, fields }),
                Err(reason) => {
                    let (file, reason) = (path.to_owned(), reason.to_string());
                    self.rejected.push(RejectedRecord { file, line, reason });
                }
            }
        }
    }
}

/// Whether two JSON values are equal when numbers are: 5 equals 5.0, and the order of keys is free.
pub fn numerically_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| numerically_equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(name, left)| right.get(name).is_some_and(|right| numerically_equal(left, right)))
        }
        _ => left == right,
    }
}

/// A query whose numbers are parsed and whose words are folded, once.
struct Wanted {
    query: OracleQuery,
    min: Option<Number>,
    max: Option<Number>,
}

impl Wanted {
    fn new(query: &OracleQuery) -> Wanted {
        let bound = |text: &Option<String>| {
            text.as_ref()
                .map(|text| Number::parse(text).unwrap_or_else(|| panic!("bound `{text}` is no number")))
        };
        // A parameter is folded to upper case, a name to lower: beyond ASCII these are not the same.
        let folded = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
        Wanted {
            min: bound(&query.min),
            max: bound(&query.max),
            query: OracleQuery {
                parameter: query.parameter.as_ref().map(|name| name.to_uppercase()),
                site: folded(&query.site),
                agency: folded(&query.agency),
                text: folded(&query.text),
                ..query.clone()
            },
        }
    }

    fn takes_team(&self, team: &str) -> bool {
        self.query.team.as_ref().is_none_or(|wanted| wanted == team)
    }

    fn takes(&self, row: &OracleRow) -> bool {
        let query = &self.query;
        query.date_start.is_none_or(|first| row.day >= first)
            && query.date_end.is_none_or(|last| row.day <= last)
            && query.parameter.as_ref().is_none_or(|name| row.field(PARAMETER).to_uppercase() == *name)
            && self.takes_value(row)
            && within(row.degrees(0), query.lat_min, query.lat_max)
            && within(row.degrees(1), query.lon_min, query.lon_max)
            && self.takes_words(row)
    }

    fn takes_value(&self, row: &OracleRow) -> bool {
        if self.min.is_none() && self.max.is_none() {
            return true;
        }
        row.number(VALUE).is_some_and(|value| {
            self.min.as_ref().is_none_or(|min| value >= *min)
                && self.max.as_ref().is_none_or(|max| value <= *max)
        })
    }

    fn takes_words(&self, row: &OracleRow) -> bool {
        let holds = |index: usize, part: &str| row.field(index).to_lowercase().contains(part);
        let query = &self.query;
        query.site.as_ref().is_none_or(|part| holds(SITE_NAME, part))
            && query.agency.as_ref().is_none_or(|part| holds(AGENCY_NAME, part))
            && query.text.as_ref().is_none_or(|part| holds(SITE_NAME, part) || holds(AGENCY_NAME, part))
    }
}

fn within(degrees: f64, min: Option<f64>, max: Option<f64>) -> bool {
    min.is_none_or(|min| degrees >= min) && max.is_none_or(|max| degrees <= max)
}

/// Stems and paths of the data files of a folder, ordered by stem.
fn csv_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, OracleError> {
    let mut files = Vec::new();
    for (name, path) in sorted_entries(folder)? {
        if name.ends_with(".csv.gz") {
            return Err(OracleError::Compressed(path));
        }
        if let Some(stem) = name.strip_suffix(".csv").filter(|_| !name.starts_with('.') && path.is_file()) {
            files.push((stem.to_owned(), path));
        }
    }
    files.sort();
    Ok(files)
}

fn sorted_entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, OracleError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder))?;
    let mut named = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let unreadable = || io_error(&path)(io::Error::other("the name is not UTF-8"));
        named.push((name.ok_or_else(unreadable)?, path));
    }
    named.sort();
    Ok(named)
}

fn day_of(name: &str) -> Option<u32> {
    let is_number = name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten().filter(|day| calendar::date(*day).is_some())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OracleError {
    let path = path.to_owned();
    move |source| OracleError::Io { path, source }
}
