//! The sites that rows are of, each once.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int16Type, Int32Type, TimestampSecondType};
use arrow_array::{Array, RecordBatch};
use rustc_hash::FxHashMap;

use super::TakeError;
use crate::frame::FrameError;
use crate::plan::InvalidQuery;
use crate::plot::Site;
use crate::store::Digest;

/// Sites that one picture shows. Each takes about 200 bytes in it.
const MOST_SITES: usize = 10_000;

/// Digits of a site's id: two of ten thousand sites have the same one once in five million pictures.
const ID_DIGITS: usize = 12;

/// The sites so far, in the order of first use.
#[derive(Default)]
pub(super) struct Sites {
    by_id: FxHashMap<String, usize>,
    sites: Vec<Site>,
}

impl Sites {
    /// Calls `each` with every row's site (its place among all sites), hour and index.
    ///
    /// # Errors
    /// [`TakeError`] if the columns are not those of rows, or the sites too many.
    pub(super) fn take(
        &mut self,
        batch: &RecordBatch,
        mut each: impl FnMut(usize, u8, Option<i16>),
    ) -> Result<(), TakeError> {
        let columns = Columns::of(batch).ok_or(FrameError::NotArrow("other columns than those of rows"))?;
        let mut known: FxHashMap<([i32; 3], [u64; 2]), usize> = FxHashMap::default();
        for row in 0..batch.num_rows() {
            let key = columns.site_key(row);
            let site = match known.get(&key) {
                Some(site) => *site,
                None => {
                    let site = self.find(columns.site(row))?;
                    known.insert(key, site);
                    site
                }
            };
            let hour = (columns.seconds.value(row) / 3600).rem_euclid(24) as u8;
            let aqi = columns.aqi.is_valid(row).then(|| columns.aqi.value(row));
            each(site, hour, aqi);
        }
        Ok(())
    }

    /// All of them.
    pub(super) fn into_sites(self) -> Vec<Site> {
        self.sites
    }

    fn find(&mut self, site: Site) -> Result<usize, TakeError> {
        if let Some(found) = self.by_id.get(&site.id) {
            return Ok(*found);
        }
        if self.sites.len() == MOST_SITES {
            let why = format!(
                "more than {MOST_SITES} sites match, a picture shows no more: ask for fewer with bbox, site or agency"
            );
            return Err(TakeError::TooMany(InvalidQuery::new("bbox", why)));
        }
        self.by_id.insert(site.id.clone(), self.sites.len());
        self.sites.push(site);
        Ok(self.sites.len() - 1)
    }
}

/// The columns that a picture needs.
struct Columns<'a> {
    degrees: [&'a [f64]; 2],
    seconds: &'a arrow_array::PrimitiveArray<TimestampSecondType>,
    aqi: &'a arrow_array::PrimitiveArray<Int16Type>,
    /// Name, agency, full AQS id.
    texts: [&'a arrow_array::DictionaryArray<Int32Type>; 3],
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let degrees = |name| Some(batch.column_by_name(name)?.as_primitive_opt::<Float64Type>()?.values());
        let texts = |name| batch.column_by_name(name)?.as_dictionary_opt::<Int32Type>();
        Some(Columns {
            degrees: [degrees("latitude")?, degrees("longitude")?],
            seconds: batch.column_by_name("timestamp")?.as_primitive_opt()?,
            aqi: batch.column_by_name("aqi")?.as_primitive_opt()?,
            texts: [texts("site_name")?, texts("agency_name")?, texts("full_aqs_id")?],
        })
    }

    /// The same for rows of one site, in this batch.
    fn site_key(&self, row: usize) -> ([i32; 3], [u64; 2]) {
        (self.texts.map(|column| column.keys().value(row)), self.degrees.map(|column| column[row].to_bits()))
    }

    fn site(&self, row: usize) -> Site {
        let text = |column: &arrow_array::DictionaryArray<Int32Type>| {
            let values = column.values().as_string_opt::<i32>();
            let key = column.key(row).filter(|key| *key < column.values().len());
            values.zip(key).map(|(values, key)| values.value(key).to_owned()).unwrap_or_default()
        };
        let [name, agency, full_aqs_id] = self.texts.map(text);
        let [latitude, longitude] = self.degrees.map(|column| column[row]);
        let named = format!("{latitude}\0{longitude}\0{name}\0{agency}\0{full_aqs_id}");
        let id = Digest::of(named.as_bytes()).to_string().chars().take(ID_DIGITS).collect();
        Site { id, name, agency, latitude, longitude }
    }
}
