//! The days that a node holds, as narrow columns over one table of sites.
//!
//! A row is a site code, a minute of the day, a measure code, two concentrations, an AQI and a category:
//! 19 bytes where concentrations fit into 32 bits. Texts and places live once, in the tables. What
//! other nodes compare (a day's [`Version`] and [`DayStatistics`]) depends on that day's files only,
//! never on the codes that this node happened to give.
//!
//! Start at [`Store`], then [`DayBatch`]. How a store is filled stands in `builder`; files are read by
//! [`crate::load`].

mod bounds;
mod builder;
mod column;
mod json_pieces;
#[cfg(test)]
pub(crate) mod samples;
mod texts;
mod version;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

pub use bounds::{DayStatistics, ParameterStatistics, PlaceBounds, WorstRowBytes};
pub(crate) use bounds::{RowShape, json_text_bytes};
pub use builder::{DayBuilder, MeasureEntry, Row, SiteEntry, StoreBuilder, TooManyMeasures};
pub use column::Column;
pub use json_pieces::{JsonPieces, PairTable};
pub use texts::EqualTexts;
pub(crate) use version::DayHasher;
pub use version::{Digest, InvalidHash, Version};

use crate::day::Day;

/// An AQI that a row does not have.
pub const MISSING_AQI: i16 = i16::MIN;

/// A category that a row does not have.
pub const MISSING_CATEGORY: i8 = i8::MIN;

/// A place that reports measurements. Sites differ when any field differs, coordinates by their bits.
#[derive(Clone, Debug)]
pub struct Site {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Not unique: a site that moved keeps its name.
    pub site_name: Box<str>,
    /// Who runs it.
    pub agency_name: Box<str>,
    /// Kept as text: leading zeros count.
    pub aqs_id: Box<str>,
    /// The country code and the AQS id.
    pub full_aqs_id: Box<str>,
}

impl Site {
    /// The four texts, in the order of the file.
    pub fn texts(&self) -> [&str; 4] {
        [&self.site_name, &self.agency_name, &self.aqs_id, &self.full_aqs_id]
    }

    fn identity(&self) -> (u64, u64, [&str; 4]) {
        (self.latitude.to_bits(), self.longitude.to_bits(), self.texts())
    }
}

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Site {}

impl Hash for Site {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// What is measured, and in which unit, both as the file writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Measure {
    /// `PM2.5`, for instance.
    pub parameter: Box<str>,
    /// `UG/M3`, for instance.
    pub unit: Box<str>,
}

impl Measure {
    /// Parameter and unit.
    pub fn texts(&self) -> [&str; 2] {
        [&self.parameter, &self.unit]
    }
}

/// Where one file's rows stand in its day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSummary {
    /// The file's name without `.csv` or `.csv.gz`.
    pub stem: Box<str>,
    /// Index of its first row in the day.
    pub first_row: u32,
    /// Rows that parsed.
    pub rows: u32,
    /// Rows that did not.
    pub rejected: u32,
}

/// The rows of one day in canonical order: file stem, row in file. All columns are equally long.
#[derive(Clone, Debug)]
pub struct DayBatch {
    /// The day that every row is dated.
    pub day: Day,
    /// Index into [`Store::sites`].
    pub site: Box<[u32]>,
    /// Minutes since midnight UTC, when the measured hour began.
    pub minute: Box<[u16]>,
    /// Index into [`Store::measures`].
    pub measure: Box<[u16]>,
    /// The concentration, field 5 of a row.
    pub value: Column,
    /// What the instrument measured, field 7 of a row.
    pub raw_concentration: Column,
    /// [`MISSING_AQI`] where a row has none.
    pub aqi: Box<[i16]>,
    /// [`MISSING_CATEGORY`] where a row has none.
    pub category: Box<[i8]>,
    /// In canonical order.
    pub files: Vec<FileSummary>,
    /// Hash over the day's files; queries pin it.
    pub version: Version,
    /// What an inventory says about the day.
    pub statistics: DayStatistics,
}

impl DayBatch {
    /// Rows of the day.
    pub fn row_count(&self) -> u32 {
        self.site.len() as u32
    }

    /// The AQI of a row.
    pub fn aqi(&self, row: u32) -> Option<i16> {
        Some(self.aqi[row as usize]).filter(|aqi| *aqi != MISSING_AQI)
    }

    /// The category of a row, 1 to 6.
    pub fn category(&self, row: u32) -> Option<i8> {
        Some(self.category[row as usize]).filter(|category| *category != MISSING_CATEGORY)
    }

    /// Bytes that the columns take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.site)
            + size_of_val(&*self.minute)
            + size_of_val(&*self.measure)
            + self.value.bytes()
            + self.raw_concentration.bytes()
            + size_of_val(&*self.aqi)
            + size_of_val(&*self.category)
    }
}

/// Every day that a node holds. Never changes: other data make another store, which shares with this one what both have.
#[derive(Clone, Debug, Default)]
pub struct Store {
    days: BTreeMap<Day, Arc<DayBatch>>,
    /// What other data have replaced, for those who began to read it before.
    replaced: BTreeMap<(Day, Version), Arc<DayBatch>>,
    tables: Arc<Tables>,
}

/// What codes stand for. A store that follows another one adds to its tables, so that the rows of both can be read by them.
#[derive(Debug, Default)]
struct Tables {
    sites: Vec<Site>,
    measures: Vec<Measure>,
    equal_texts: OnceLock<EqualTexts>,
    json_pieces: OnceLock<JsonPieces>,
}

impl Store {
    /// One day; `None` if it has no file.
    pub fn day(&self, day: Day) -> Option<&Arc<DayBatch>> {
        self.days.get(&day)
    }

    /// The days in order.
    pub fn days(&self) -> impl ExactSizeIterator<Item = &DayBatch> {
        self.days.values().map(|batch| &**batch)
    }

    /// What other data have replaced and is kept, by day.
    pub fn replaced(&self) -> impl Iterator<Item = (Day, Version)> {
        self.replaced.keys().copied()
    }

    /// A day as it was before other data replaced it, if that is kept.
    pub fn replaced_day(&self, day: Day, version: Version) -> Option<&Arc<DayBatch>> {
        self.replaced.get(&(day, version))
    }

    /// Puts `batch` in the place of its day, or nothing if there is none any more, and keeps what was there.
    ///
    /// Equal data change nothing.
    pub(crate) fn replace(&mut self, day: Day, batch: Option<Arc<DayBatch>>) {
        let version = batch.as_ref().map(|batch| batch.version);
        if self.days.get(&day).map(|before| before.version) == version {
            return;
        }
        let before = match batch {
            Some(batch) => {
                // Data that come back are no longer replaced.
                self.replaced.remove(&(day, batch.version));
                self.days.insert(day, batch)
            }
            None => self.days.remove(&day),
        };
        self.replaced.extend(before.map(|before| ((day, before.version), before)));
    }

    /// Leaves out the sites and measures that no row has any more, if they are more than half of their table.
    ///
    /// The others get other codes: who reads by those of before keeps the store of before.
    pub(crate) fn compact(&mut self) {
        let mut sites = vec![false; self.sites().len()];
        let mut measures = vec![false; self.measures().len()];
        for batch in self.days.values().chain(self.replaced.values()) {
            batch.site.iter().for_each(|code| sites[*code as usize] = true);
            batch.measure.iter().for_each(|code| measures[usize::from(*code)] = true);
        }
        let is_sparse = |used: &[bool]| used.iter().filter(|used| **used).count() * 2 < used.len();
        if !is_sparse(&sites) && !is_sparse(&measures) {
            return;
        }
        let (site_codes, measure_codes) = (codes_of_used(&sites), codes_of_used(&measures));
        for batch in self.days.values_mut().chain(self.replaced.values_mut()) {
            let batch = Arc::make_mut(batch);
            batch.site.iter_mut().for_each(|code| *code = site_codes[*code as usize]);
            batch.measure.iter_mut().for_each(|code| *code = measure_codes[usize::from(*code)] as u16);
        }
        self.tables = Arc::new(Tables {
            sites: only_used(self.sites(), &sites),
            measures: only_used(self.measures(), &measures),
            ..Tables::default()
        });
    }

    /// Lets go of replaced data.
    pub fn forget_replaced(&mut self, day: Day, version: Version) {
        self.replaced.remove(&(day, version));
    }

    /// What site codes stand for, in order of first use.
    pub fn sites(&self) -> &[Site] {
        &self.tables.sites
    }

    /// What measure codes stand for, in order of first use; at most 65,536.
    pub fn measures(&self) -> &[Measure] {
        &self.tables.measures
    }

    /// Which of their texts are equal. Worked out when first asked for.
    pub fn equal_texts(&self) -> &EqualTexts {
        self.tables.equal_texts.get_or_init(|| EqualTexts::of(self.sites(), self.measures()))
    }

    /// What rows of a site, or of a measure, have in JSON. Written when first asked for.
    pub fn json_pieces(&self) -> &JsonPieces {
        self.tables.json_pieces.get_or_init(|| JsonPieces::of(self.sites(), self.measures()))
    }

    /// Rows of all days.
    pub fn row_count(&self) -> u64 {
        self.days().map(|batch| u64::from(batch.row_count())).sum()
    }

    /// Files of all days.
    pub fn file_count(&self) -> u64 {
        self.days().map(|batch| batch.files.len() as u64).sum()
    }

    /// Bytes that columns, sites and measures take, without what is worked out from the latter: below 1 KB for each site.
    pub fn bytes(&self) -> usize {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.len()).sum::<usize>();
        let sites = self.sites().iter().map(|site| texts(&site.texts()));
        let measures = self.measures().iter().map(|measure| texts(&measure.texts()));
        self.days().map(DayBatch::bytes).sum::<usize>()
            + size_of_val(self.sites())
            + sites.sum::<usize>()
            + size_of_val(self.measures())
            + measures.sum::<usize>()
    }

    /// Bytes of replaced data: of their columns, and of what is said of their files.
    pub fn replaced_bytes(&self) -> usize {
        let of_files = |batch: &DayBatch| -> usize {
            batch.files.iter().map(|file| size_of::<FileSummary>() + file.stem.len()).sum()
        };
        self.replaced.values().map(|batch| size_of::<DayBatch>() + batch.bytes() + of_files(batch)).sum()
    }
}

/// By old code, the new one: each used one stands behind those before it.
fn codes_of_used(used: &[bool]) -> Vec<u32> {
    let mut next = 0;
    let code = |used: &bool| {
        let code = next;
        next += u32::from(*used);
        code
    };
    used.iter().map(code).collect()
}

fn only_used<T: Clone>(items: &[T], used: &[bool]) -> Vec<T> {
    items.iter().zip(used).filter(|(_, used)| **used).map(|(item, _)| item.clone()).collect()
}
