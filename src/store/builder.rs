//! Rows in, columns out: the only way to make a [`Store`].
//!
//! Days may be built by several threads at once. Codes of sites and measures are then given in any order;
//! [`StoreBuilder::finish`] renumbers them by first use in canonical order, so that equal files give equal
//! stores whatever the threads did.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::bounds::TextBytes;
use super::column::MISSING;
use super::version::{measure_digest, site_digest};
use super::{
    Column, DayBatch, DayHasher, DayStatistics, Digest, FileSummary, MISSING_AQI, MISSING_CATEGORY, Measure,
    ParameterStatistics, PlaceBounds, RowShape, Site, Store, Tables,
};
use crate::day::Day;
use crate::decimal::Decimal;

/// Measures that a store can tell apart: codes have two bytes.
const MEASURES_LIMIT: usize = 1 << 16;

/// A dataset with more parameters and units than codes.
///
/// It names no row: which one finds the codes taken depends on what the threads did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MEASURES_LIMIT} different pairs of parameter and unit")]
pub struct TooManyMeasures;

/// What a row says beside its site and its measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Minutes since midnight UTC, below 1440.
    pub minute: u16,
    /// The concentration.
    pub value: Option<Decimal>,
    /// What the instrument measured.
    pub raw_concentration: Option<Decimal>,
    /// 0 to 32767.
    pub aqi: Option<i16>,
    /// 1 to 6.
    pub category: Option<i8>,
}

/// A site that has a code, with what each of its rows needs.
#[derive(Clone, Copy, Debug)]
pub struct SiteEntry {
    code: u32,
    digest: Digest,
    point: PlaceBounds,
    text_bytes: TextBytes,
}

/// A measure that has a code, with what each of its rows needs.
#[derive(Clone, Copy, Debug)]
pub struct MeasureEntry {
    code: u16,
    digest: Digest,
    text_bytes: TextBytes,
}

/// The tables that all days share while they are built.
#[derive(Debug, Default)]
pub struct StoreBuilder {
    /// Codes of its tables stay as they are.
    base: Store,
    tables: Mutex<Codes>,
}

#[derive(Debug, Default)]
struct Codes {
    sites: HashMap<Site, u32>,
    measures: HashMap<Measure, u16>,
}

impl StoreBuilder {
    /// Builds days that are to take their places in `base`.
    pub fn over(base: Store) -> Self {
        let sites = base.sites().iter().cloned().zip(0..).collect();
        let measures = base.measures().iter().cloned().zip(0..).collect();
        StoreBuilder { base, tables: Mutex::new(Codes { sites, measures }) }
    }

    /// The entry of `site`, the same for equal sites.
    pub fn site(&self, site: Site) -> SiteEntry {
        let (digest, text_bytes) = (site_digest(&site), TextBytes::of_site(&site));
        let point = PlaceBounds::of(site.latitude, site.longitude);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let next = tables.sites.len() as u32;
        let code = *tables.sites.entry(site).or_insert(next);
        SiteEntry { code, digest, point, text_bytes }
    }

    /// The entry of `measure`, the same for equal measures.
    ///
    /// # Errors
    /// [`TooManyMeasures`] if all codes are taken.
    pub fn measure(&self, measure: Measure) -> Result<MeasureEntry, TooManyMeasures> {
        let (digest, text_bytes) = (measure_digest(&measure), TextBytes::of_measure(&measure));
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let next = tables.measures.len();
        if next >= MEASURES_LIMIT && !tables.measures.contains_key(&measure) {
            return Err(TooManyMeasures);
        }
        let code = *tables.measures.entry(measure).or_insert(next as u16);
        Ok(MeasureEntry { code, digest, text_bytes })
    }

    /// The store it was built over, with `batches`, which were built with this builder's entries, in their places.
    pub fn finish(self, mut batches: Vec<DayBatch>) -> Store {
        let StoreBuilder { base, tables } = self;
        let tables = tables.into_inner().unwrap_or_else(PoisonError::into_inner);
        batches.sort_by_key(|batch| batch.day);
        let mut site_codes = FirstUse::after(base.sites().len(), tables.sites.len());
        let mut measure_codes = FirstUse::after(base.measures().len(), tables.measures.len());
        for batch in &mut batches {
            for code in &mut batch.site {
                *code = site_codes.of(*code as usize);
            }
            for code in &mut batch.measure {
                *code = measure_codes.of(usize::from(*code)) as u16;
            }
        }
        let mut store = base;
        if site_codes.adds_some() || measure_codes.adds_some() {
            let sites = tables.sites.into_iter();
            let measures = tables.measures.into_iter();
            store.tables = Arc::new(Tables {
                sites: site_codes.sort(sites.map(|(site, code)| (site, code as usize))),
                measures: measure_codes.sort(measures.map(|(measure, code)| (measure, usize::from(code)))),
                ..Tables::default()
            });
        }
        for batch in batches {
            store.replace(batch.day, Some(Arc::new(batch)));
        }
        store
    }
}

/// New codes for old ones, given in the order in which the old ones are first asked for.
struct FirstUse {
    codes: Vec<Option<u32>>,
    kept: u32,
    next: u32,
}

impl FirstUse {
    /// The first `kept` of `count` codes stay what they are.
    fn after(kept: usize, count: usize) -> Self {
        let code = |old: usize| (old < kept).then_some(old as u32);
        FirstUse { codes: (0..count).map(code).collect(), kept: kept as u32, next: kept as u32 }
    }

    fn of(&mut self, old: usize) -> u32 {
        *self.codes[old].get_or_insert_with(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn adds_some(&self) -> bool {
        self.next > self.kept
    }

    /// The items by their new codes, without those that no row uses.
    fn sort<T>(&self, items: impl Iterator<Item = (T, usize)>) -> Vec<T> {
        let by_code: BTreeMap<u32, T> =
            items.filter_map(|(item, old)| self.codes[old].map(|new| (new, item))).collect();
        by_code.into_values().collect()
    }
}

/// One day in the making. Files and rows must come in canonical order.
///
/// Bounds: about 32 bytes for each row of the day, freed by `finish`.
pub struct DayBuilder {
    day: Day,
    site: Vec<u32>,
    minute: Vec<u16>,
    measure: Vec<u16>,
    value: Vec<i64>,
    raw_concentration: Vec<i64>,
    aqi: Vec<i16>,
    category: Vec<i8>,
    files: Vec<FileSummary>,
    hasher: DayHasher,
    seen_sites: Vec<bool>,
    place: Option<PlaceBounds>,
    shape: RowShape,
    /// By measure code.
    measures: Vec<ParameterStatistics>,
}

impl DayBuilder {
    /// A day without rows.
    pub fn new(day: Day) -> Self {
        DayBuilder {
            day,
            site: Vec::new(),
            minute: Vec::new(),
            measure: Vec::new(),
            value: Vec::new(),
            raw_concentration: Vec::new(),
            aqi: Vec::new(),
            category: Vec::new(),
            files: Vec::new(),
            hasher: DayHasher::new(),
            seen_sites: Vec::new(),
            place: None,
            shape: RowShape::default(),
            measures: Vec::new(),
        }
    }

    /// Starts the next file.
    pub fn file(&mut self, stem: &str) {
        self.hasher.file(stem);
        self.files.push(FileSummary { stem: stem.into(), first_row: self.row_count(), rows: 0, rejected: 0 });
    }

    /// Adds a row to the file started last.
    pub fn push(&mut self, site: &SiteEntry, measure: &MeasureEntry, row: Row) {
        self.hasher.row(site.digest, measure.digest, &row);
        self.see(site, measure);
        self.measures[usize::from(measure.code)].add(row.value);
        let billionths = |value: Option<Decimal>| value.map_or(MISSING, |value| value.0);
        self.site.push(site.code);
        self.minute.push(row.minute);
        self.measure.push(measure.code);
        self.value.push(billionths(row.value));
        self.raw_concentration.push(billionths(row.raw_concentration));
        self.aqi.push(row.aqi.unwrap_or(MISSING_AQI));
        self.category.push(row.category.unwrap_or(MISSING_CATEGORY));
        if let Some(file) = self.files.last_mut() {
            file.rows += 1;
        }
    }

    /// Counts a row of the file started last that did not parse, with its bytes for the version.
    pub fn reject(&mut self, line: u64, bytes: &[u8]) {
        self.hasher.rejected(line, bytes);
        if let Some(file) = self.files.last_mut() {
            file.rejected += 1;
        }
    }

    /// Rows so far.
    pub fn row_count(&self) -> u32 {
        self.site.len() as u32
    }

    /// The day's columns, each allocated exactly.
    pub fn finish(mut self, tables: &StoreBuilder) -> DayBatch {
        let value = Column::of_billionths(&std::mem::take(&mut self.value));
        let raw_concentration = Column::of_billionths(&std::mem::take(&mut self.raw_concentration));
        self.shape.value = value.text_bytes();
        self.shape.raw_concentration = raw_concentration.text_bytes();
        DayBatch {
            statistics: self.statistics(tables),
            day: self.day,
            site: self.site.into_boxed_slice(),
            minute: self.minute.into_boxed_slice(),
            measure: self.measure.into_boxed_slice(),
            value,
            raw_concentration,
            aqi: self.aqi.into_boxed_slice(),
            category: self.category.into_boxed_slice(),
            version: self.hasher.finish(),
            files: self.files,
        }
    }

    /// Takes note of a site and a measure that the day may not have had yet.
    fn see(&mut self, site: &SiteEntry, measure: &MeasureEntry) {
        let code = site.code as usize;
        if self.seen_sites.len() <= code {
            self.seen_sites.resize(code + 1, false);
        }
        if !self.seen_sites[code] {
            self.seen_sites[code] = true;
            self.shape.site = self.shape.site.max(site.text_bytes);
            let place = self.place.map_or(site.point, |place| place.merge(site.point));
            self.place = Some(place);
        }
        let code = usize::from(measure.code);
        if self.measures.len() <= code {
            self.measures.resize(code + 1, ParameterStatistics::default());
        }
        if self.measures[code].rows == 0 {
            self.shape.measure = self.shape.measure.max(measure.text_bytes);
        }
    }

    fn statistics(&self, tables: &StoreBuilder) -> DayStatistics {
        let mut parameters: BTreeMap<String, ParameterStatistics> = BTreeMap::new();
        let tables = tables.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for (measure, code) in &tables.measures {
            let Some(statistics) = self.measures.get(usize::from(*code)) else {
                continue;
            };
            if statistics.rows > 0 {
                let parameter = measure.parameter.to_uppercase();
                parameters.entry(parameter).or_default().merge(statistics);
            }
        }
        let rejected = self.files.iter().map(|file| u64::from(file.rejected));
        DayStatistics {
            rows: u64::from(self.row_count()),
            rejected_rows: rejected.sum(),
            files: self.files.len() as u32,
            parameters,
            place: self.place,
            worst_row_bytes: self.shape.worst_row_bytes(),
        }
    }
}
