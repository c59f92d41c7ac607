//! Seeded data of any size in the shape of the AirNow files, and the fixtures made from it.
//!
//! Every cell (site, day, hour, parameter) is drawn from a generator of its own, seeded by its
//! coordinates. A larger set therefore holds the same cells as a smaller one of the same seed, and no
//! order of iteration can leak into the data. All arithmetic is on integers (tenths of a unit,
//! millionths of a degree), so the bytes are the same on every platform.
//!
//! It does not try to forecast air: cycles are triangles, smoke is a square that grows and fades.
//! Start reading at [`DatasetSpec`]; `site` invents places, `air` invents values, `aqi` is the EPA's table.

mod air;
mod aqi;
mod random;
mod revise;
mod site;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::calendar;

pub use self::random::datasets;
pub use self::revise::revise;

use self::air::Air;
use self::site::Site;

/// A parameter that stations measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parameter {
    /// Ozone, in PPB.
    Ozone,
    /// Particles below 2.5 micrometres, in UG/M3.
    Pm25,
    /// Particles below 10 micrometres, in UG/M3.
    Pm10,
    /// Nitrogen dioxide, in PPB.
    No2,
    /// Sulphur dioxide, in PPB.
    So2,
    /// Carbon monoxide, in PPM; it has no AQI in the real data.
    Co,
}

impl Parameter {
    /// All, most frequent first as in the real data.
    pub const ALL: [Parameter; 6] =
        [Parameter::Ozone, Parameter::Pm25, Parameter::Pm10, Parameter::No2, Parameter::So2, Parameter::Co];

    /// As field 4 writes it.
    pub fn name(self) -> &'static str {
        match self {
            Parameter::Ozone => "OZONE",
            Parameter::Pm25 => "PM2.5",
            Parameter::Pm10 => "PM10",
            Parameter::No2 => "NO2",
            Parameter::So2 => "SO2",
            Parameter::Co => "CO",
        }
    }

    /// As field 6 writes it.
    pub fn unit(self) -> &'static str {
        match self {
            Parameter::Ozone | Parameter::No2 | Parameter::So2 => "PPB",
            Parameter::Pm25 | Parameter::Pm10 => "UG/M3",
            Parameter::Co => "PPM",
        }
    }
}

/// What to generate. The default is the set in `fixtures/airnow`.
#[derive(Clone, Debug)]
pub struct DatasetSpec {
    /// Decides everything that the other fields leave open.
    pub seed: u64,
    /// First day, `YYYYMMDD`.
    pub first_day: u32,
    /// Last day, inclusive.
    pub last_day: u32,
    /// Days that get no folder.
    pub skipped_days: BTreeSet<u32>,
    /// Stations. Each measures one to six parameters, 2.4 on average.
    pub sites: u32,
    /// Hours of the day (UTC) that get a file.
    pub hours: BTreeSet<u8>,
    /// Parameters that are measured at all.
    pub parameters: BTreeSet<Parameter>,
    /// Writes `.csv.gz` instead of `.csv`.
    pub gzip: bool,
}

impl Default for DatasetSpec {
    fn default() -> Self {
        Self {
            seed: 2020,
            first_day: 20200810,
            last_day: 20200924,
            skipped_days: BTreeSet::from([20200811, 20200812, 20200813]),
            sites: 20,
            hours: evenly_spaced_hours(4),
            parameters: BTreeSet::from(Parameter::ALL),
            gzip: false,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Why a dataset was not written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The specification describes no dataset.
    #[error("{0}")]
    InvalidSpec(String),
    /// Files of another origin would mix with ours.
    #[error("output directory `{}` is not empty: choose a new one, or empty it first", .0.display())]
    NotEmpty(PathBuf),
    /// The file system refused.
    #[error("write `{}`", path.display())]
    Io {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// `count` hours of a day at equal distances. Twelve are the odd ones, as in the real data.
pub fn evenly_spaced_hours(count: u8) -> BTreeSet<u8> {
    let count = u16::from(count.clamp(1, 24));
    let first = u16::from(24 / count >= 2);
    (0..count).map(|index| (first + index * 24 / count) as u8).collect()
}

impl DatasetSpec {
    /// Writes `<root>/YYYYMMDD/YYYYMMDD-HH.csv` for every day and hour.
    ///
    /// Units: as in the AirNow files. Bounds: holds one file in memory.
    ///
    /// # Errors
    /// [`DatasetError`] if the specification is invalid, `root` holds anything, or writing fails.
    pub fn write(&self, root: &Path) -> Result<Summary, DatasetError> {
        let [first_day, last_day] = self.check()?;
        create_empty(root)?;
        let sites = self.sites();
        let mut summary = Summary::default();
        for date in first_day.iter_days().take_while(|date| *date <= last_day) {
            let day = calendar::number(date);
            if self.skipped_days.contains(&day) {
                continue;
            }
            let folder = root.join(day.to_string());
            fs::create_dir(&folder).map_err(io_error(&folder))?;
            let air = Air::new(self.seed, date);
            for &hour in &self.hours {
                let (text, row_count) = file_text(&air, &sites, date, hour);
                let (name, bytes) = self.encode(day, hour, text);
                let path = folder.join(name);
                fs::write(&path, &bytes).map_err(io_error(&path))?;
                summary.files += 1;
                summary.rows += row_count;
                summary.bytes += bytes.len() as u64;
            }
        }
        Ok(summary)
    }

    /// The first and the last day, if all is well.
    fn check(&self) -> Result<[NaiveDate; 2], DatasetError> {
        let invalid = |message: String| Err(DatasetError::InvalidSpec(message));
        let date = |day: u32| {
            let missing = || format!("day {day} does not exist (days are written YYYYMMDD)");
            calendar::date(day).ok_or_else(|| DatasetError::InvalidSpec(missing()))
        };
        for day in &self.skipped_days {
            date(*day)?;
        }
        let days = [date(self.first_day)?, date(self.last_day)?];
        if self.last_day < self.first_day {
            return invalid(format!("last day {} is before first day {}", self.last_day, self.first_day));
        }
        if !(1..=site::LIMIT).contains(&self.sites) {
            return invalid(format!(
                "sites {} out of range: must be between 1 and {}, both inclusive",
                self.sites,
                site::LIMIT
            ));
        }
        if self.hours.is_empty() || self.hours.iter().any(|&hour| hour > 23) {
            return invalid(format!(
                "hours {:?} out of range: must be at least one, each between 0 and 23",
                self.hours
            ));
        }
        Ok(days)
    }

    /// West to east, as the rows of a real file.
    fn sites(&self) -> Vec<Site> {
        let mut sites: Vec<Site> =
            (0..self.sites).map(|index| Site::invent(self.seed, index, &self.parameters)).collect();
        sites.sort_by_key(|site| (site.longitude, site.index));
        sites
    }

    fn encode(&self, day: u32, hour: u8, text: String) -> (String, Vec<u8>) {
        let stem = format!("{day}-{hour:02}");
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text.as_bytes()).expect("a Vec takes every byte");
            (format!("{stem}.csv.gz"), encoder.finish().expect("a Vec takes every byte"))
        } else {
            (format!("{stem}.csv"), text.into_bytes())
        }
    }
}

fn create_empty(root: &Path) -> Result<(), DatasetError> {
    fs::create_dir_all(root).map_err(io_error(root))?;
    let mut entries = fs::read_dir(root).map_err(io_error(root))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(DatasetError::NotEmpty(root.to_owned())),
    }
}

fn file_text(air: &Air, sites: &[Site], date: NaiveDate, hour: u8) -> (String, u64) {
    let mut text = String::new();
    let mut row_count = 0;
    for site in sites {
        for &parameter in &site.parameters {
            let Some(reading) = air.reading(site, parameter, hour) else {
                continue;
            };
            push_row(&mut text, site, parameter, date, hour, reading);
            row_count += 1;
        }
    }
    (text, row_count)
}

fn push_row(
    text: &mut String,
    site: &Site,
    parameter: Parameter,
    date: NaiveDate,
    hour: u8,
    reading: air::Reading,
) {
    let concentration = reading.concentration.map_or("-999.0".to_owned(), tenths);
    let raw = reading.raw.map_or("-999.0".to_owned(), tenths);
    let (aqi, category) = reading.aqi.map_or((-999, -999), |aqi| (aqi, aqi::category(aqi)));
    writeln!(
        text,
        "\"{}\",\"{}\",\"{date}T{hour:02}:00\",\"{}\",\"{concentration}\",\"{}\",\"{raw}\",\"{aqi}\",\"{category}\",\"{}\",\"{}\",\"{}\",\"{}\"",
        degrees(site.latitude),
        degrees(site.longitude),
        parameter.name(),
        parameter.unit(),
        site.name,
        site.agency,
        site.aqs_id,
        site.full_aqs_id,
    )
    .expect("a String takes any text");
}

fn tenths(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}.{}", value.abs() / 10, value.abs() % 10)
}

/// Millionths of a degree, without needless zeros but with one decimal.
fn degrees(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{:06}", value.abs() / 1_000_000, value.abs() % 1_000_000);
    let text = text.trim_end_matches('0');
    if text.ends_with('.') { format!("{text}0") } else { text.to_owned() }
}

/// A generator for one thing, named by its coordinates.
fn draws(seed: u64, coordinates: &[u64]) -> fastrand::Rng {
    // The finalizer of splitmix64, over each coordinate in turn.
    let mixed = coordinates.iter().fold(seed, |state, &coordinate| {
        let state = (state ^ coordinate).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ (state >> 31)
    });
    fastrand::Rng::with_seed(mixed)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> DatasetSpec {
        DatasetSpec { last_day: 20200815, sites: 6, ..DatasetSpec::default() }
    }

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn equal_specs_write_equal_bytes() {
        let [left, right] = [0, 1].map(|_| crate::scratch::folder().unwrap());
        assert_eq!(small().write(left.path()).unwrap(), small().write(right.path()).unwrap());
        for path in ["20200810/20200810-01.csv", "20200815/20200815-19.csv"] {
            assert_eq!(read(left.path(), path), read(right.path(), path));
        }
    }

    #[test]
    fn more_hours_and_sites_keep_the_cells_of_a_smaller_set() {
        let [few, many] = [0, 1].map(|_| crate::scratch::folder().unwrap());
        small().write(few.path()).unwrap();
        let larger = DatasetSpec { sites: 30, hours: evenly_spaced_hours(12), ..small() };
        larger.write(many.path()).unwrap();
        let many = read(many.path(), "20200814/20200814-07.csv");
        for line in read(few.path(), "20200814/20200814-07.csv").lines() {
            assert!(many.lines().any(|other| other == line), "{line}");
        }
    }

    #[test]
    fn directory_that_is_not_empty_is_refused() {
        let root = crate::scratch::folder().unwrap();
        fs::write(root.path().join("notes"), "mine").unwrap();
        let error = small().write(root.path()).unwrap_err();
        assert!(matches!(error, DatasetError::NotEmpty(_)), "{error}");
    }

    #[test]
    fn invalid_specs_are_refused() {
        let root = crate::scratch::folder().unwrap();
        for spec in [
            DatasetSpec { last_day: 20200809, ..small() },
            DatasetSpec { first_day: 20200230, ..small() },
            DatasetSpec { sites: 0, ..small() },
            DatasetSpec { hours: BTreeSet::from([24]), ..small() },
        ] {
            let error = spec.write(root.path()).unwrap_err();
            assert!(matches!(error, DatasetError::InvalidSpec(_)), "{error}");
        }
    }

    #[test]
    fn gzip_holds_the_same_text() {
        let [plain, packed] = [0, 1].map(|_| crate::scratch::folder().unwrap());
        small().write(plain.path()).unwrap();
        DatasetSpec { gzip: true, ..small() }.write(packed.path()).unwrap();
        let text = read(plain.path(), "20200810/20200810-01.csv");
        let file = fs::File::open(packed.path().join("20200810/20200810-01.csv.gz")).unwrap();
        assert_eq!(io::read_to_string(flate2::read::GzDecoder::new(file)).unwrap(), text);
    }

    #[test]
    fn numbers_are_written_like_airnow_does() {
        assert_eq!(["95.6", "-0.3", "0.0"], [956, -3, 0].map(tenths).as_slice());
        assert_eq!(degrees(41_756_130), "41.75613");
        assert_eq!(degrees(-124_000_000), "-124.0");
    }

    #[test]
    fn hours_are_spread_over_the_day() {
        assert_eq!(Vec::from_iter(evenly_spaced_hours(4)), [1, 7, 13, 19]);
        assert_eq!(Vec::from_iter(evenly_spaced_hours(24)), Vec::from_iter(0..24));
    }
}
