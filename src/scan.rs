//! Which rows of a day match a predicate.
//!
//! Place and text are decided once for each site, the parameter once for each measure; a scan then only looks
//! codes up and compares integers. It never sees the clock, the network or other days.

use std::ops::Range;

use crate::decimal::Decimal;
use crate::predicate::{Place, Predicate};
use crate::store::{Column, DayBatch, Store};

/// Rows that are tested before their matches are appended: the matches of a block stay in the first-level
/// cache, and `out` grows by what matched only.
const BLOCK_ROWS: usize = 1024;

/// A predicate decided for the sites and measures of one store.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundPredicate {
    /// By site code; `None` if every site matches.
    sites: Option<Box<[bool]>>,
    /// By measure code; `None` if every measure matches.
    measures: Option<Box<[bool]>>,
    /// `None` if a missing concentration matches too.
    bounds: Option<(Decimal, Decimal)>,
}

impl BoundPredicate {
    /// Decides `predicate` for every site and measure of `store`.
    pub fn new(store: &Store, predicate: &Predicate) -> Self {
        let anywhere = predicate.place == Place::default()
            && predicate.site.is_none()
            && predicate.agency.is_none()
            && predicate.text.is_none();
        let sites = (!anywhere).then(|| {
            let matches = store.sites().iter().map(|site| {
                predicate.matches_site(site.latitude, site.longitude, &site.site_name, &site.agency_name)
            });
            matches.collect()
        });
        let measures = predicate.parameter.as_ref().map(|parameter| {
            store.measures().iter().map(|measure| measure.parameter.to_uppercase() == *parameter).collect()
        });
        let bounded = predicate.min.is_some() || predicate.max.is_some();
        let bounds = bounded.then(|| {
            let least = predicate.min.unwrap_or(Decimal(i64::MIN));
            (least, predicate.max.unwrap_or(Decimal(i64::MAX)))
        });
        BoundPredicate { sites, measures, bounds }
    }

    fn matches_nothing(&self) -> bool {
        let none = |matches: &[bool]| !matches.contains(&true);
        self.sites.as_ref().is_some_and(|sites| none(sites))
            || self.measures.as_ref().is_some_and(|measures| none(measures))
            || self.bounds.is_some_and(|(least, most)| least > most)
    }
}

/// Appends the indexes of the matching rows inside `rows`, in order.
///
/// `predicate` is bound to `store`, and `batch` is one of its days.
///
/// # Panics
/// If `rows` ends behind the day's rows.
pub fn select(
    store: &Store,
    batch: &DayBatch,
    predicate: &BoundPredicate,
    rows: Range<u32>,
    out: &mut Vec<u32>,
) {
    scan(store, batch, predicate, rows, |rows| {
        out.extend_from_slice(rows);
    });
}

/// The number of rows that [`select`] would append.
///
/// # Panics
/// If `rows` ends behind the day's rows.
pub fn count(store: &Store, batch: &DayBatch, predicate: &BoundPredicate, rows: Range<u32>) -> u64 {
    let mut count = 0;
    scan(store, batch, predicate, rows, |rows| {
        count += rows.len() as u64;
    });
    count
}

/// Calls `found` with the matching rows, block by block.
fn scan(
    store: &Store,
    batch: &DayBatch,
    predicate: &BoundPredicate,
    rows: Range<u32>,
    mut found: impl FnMut(&[u32]),
) {
    debug_assert!(predicate.sites.as_ref().is_none_or(|sites| sites.len() == store.sites().len()));
    assert!(rows.end <= batch.row_count(), "rows of the day");
    if predicate.matches_nothing() {
        return;
    }
    // The smallest and the largest mantissa that lie inside.
    let unit = batch.value.unit();
    let bounds = predicate.bounds.map(|(least, most)| {
        let least = least.0.div_euclid(unit) + i64::from(least.0.rem_euclid(unit) != 0);
        (least, most.0.div_euclid(unit))
    });
    let only_measure = predicate.measures.as_deref().and_then(only_true);
    let (mut mask, mut matching) = ([0; BLOCK_ROWS], [0; BLOCK_ROWS]);
    for start in rows.clone().step_by(BLOCK_ROWS) {
        let block = start as usize..rows.end.min(start.saturating_add(BLOCK_ROWS as u32)) as usize;
        mask[..block.len()].fill(1);
        mask[block.len()..].fill(0);
        if let Some((least, most)) = bounds {
            match &batch.value {
                // The smallest number of the column's type is left out: it means missing.
                Column::I32 { mantissas, .. } => {
                    let limit = i64::from(i32::MAX);
                    if least > limit || most < -limit {
                        return;
                    }
                    let (least, most) = (least.max(-limit) as i32, most.min(limit) as i32);
                    narrow(&mut mask, &mantissas[block.clone()], |value| (least <= value) & (value <= most));
                }
                Column::I64 { mantissas, .. } => {
                    let least = least.max(-i64::MAX);
                    narrow(&mut mask, &mantissas[block.clone()], |value| (least <= value) & (value <= most));
                }
            }
        }
        match (only_measure, &predicate.measures) {
            (Some(only), _) => narrow(&mut mask, &batch.measure[block.clone()], |measure| measure == only),
            (None, Some(by_measure)) => {
                narrow(&mut mask, &batch.measure[block.clone()], |measure| by_measure[usize::from(measure)]);
            }
            (None, None) => {}
        }
        if let Some(by_site) = &predicate.sites {
            narrow(&mut mask, &batch.site[block], |site| by_site[site as usize]);
        }
        let length = gather(&mask, start, &mut matching);
        found(&matching[..length]);
    }
}

/// The code of the only measure that matches, if there is one: comparing takes less than looking up.
fn only_true(by_measure: &[bool]) -> Option<u16> {
    let mut codes = (0..).zip(by_measure).filter(|(_, matches)| **matches);
    codes.next().map(|(code, _)| code).filter(|_| codes.next().is_none())
}

/// Clears the mask where an element does not match. A loop without a branch, which the compiler turns into one over
/// vectors.
#[inline]
fn narrow<T: Copy>(mask: &mut [u8; BLOCK_ROWS], column: &[T], matches: impl Fn(T) -> bool) {
    for (mask, element) in mask.iter_mut().zip(column) {
        *mask &= u8::from(matches(*element));
    }
}

/// Writes the rows whose mask is 1, counted from `start` on; returns how many.
fn gather(mask: &[u8; BLOCK_ROWS], start: u32, rows: &mut [u32; BLOCK_ROWS]) -> usize {
    let mut length = 0;
    for (word, mask) in (0..).zip(mask.as_chunks::<64>().0) {
        let mut bits = 0;
        for (byte, mask) in mask.as_chunks::<8>().0.iter().enumerate() {
            // The product's topmost byte has the lowest bit of each of the eight.
            let packed = u64::from_le_bytes(*mask).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            bits |= packed << (8 * byte);
        }
        while bits != 0 {
            rows[length] = start + 64 * word + bits.trailing_zeros();
            length += 1;
            bits &= bits - 1;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::samples::{self, Sample};

    fn decimal(text: &str) -> Option<Decimal> {
        Some(Decimal::parse(text).unwrap())
    }

    fn selected(store: &Store, predicate: &Predicate) -> Vec<u32> {
        let batch = store.days().next().unwrap();
        let bound = BoundPredicate::new(store, predicate);
        let mut rows = Vec::new();
        select(store, batch, &bound, 0..batch.row_count(), &mut rows);
        let counted = count(store, batch, &bound, 0..batch.row_count());
        assert_eq!(counted, rows.len() as u64);
        rows
    }

    /// Rows 0 to 4; the concentrations have two decimals in the column.
    fn five_rows() -> Store {
        samples::store(&[
            Sample { value: Some("5"), ..Sample::default() },
            Sample { value: Some("35.00"), parameter: "pm2.5", ..Sample::default() },
            Sample { value: None, ..Sample::default() },
            Sample { value: Some("35.01"), site: 1, ..Sample::default() },
            Sample { value: Some("-2"), parameter: "OZONE", site: 1, ..Sample::default() },
        ])
    }

    #[test]
    fn bounds_are_inclusive_and_a_missing_value_lies_in_none() {
        let store = five_rows();
        let between = |min: Option<Decimal>, max: Option<Decimal>| {
            selected(&store, &Predicate { min, max, ..Predicate::default() })
        };
        assert_eq!(between(None, None), [0, 1, 2, 3, 4]);
        assert_eq!(between(decimal("5"), decimal("35")), [0, 1]);
        assert_eq!(between(decimal("5.000000001"), decimal("35.009999999")), [1]);
        assert_eq!(between(None, decimal("5")), [0, 4]);
        assert_eq!(between(decimal("-2"), None), [0, 1, 3, 4]);
        assert_eq!(between(Some(Decimal(i64::MIN)), Some(Decimal(i64::MAX))), [0, 1, 3, 4]);
        assert_eq!(between(decimal("6"), decimal("5")), [0u32; 0]);
        assert_eq!(between(Some(Decimal(i64::MAX)), None), [0u32; 0]);
        assert_eq!(between(None, Some(Decimal(i64::MIN))), [0u32; 0]);
    }

    #[test]
    fn parameters_compare_without_letter_case() {
        let of = |parameter: &str| {
            let parameter = Some(parameter.to_owned());
            selected(&five_rows(), &Predicate { parameter, ..Predicate::default() })
        };
        assert_eq!(of("PM2.5"), [0, 1, 2, 3]);
        assert_eq!(of("OZONE"), [4]);
        assert_eq!(of("NO SUCH"), [0u32; 0]);
    }

    #[test]
    fn a_site_is_decided_by_place_and_names() {
        let store = five_rows();
        let site = &store.sites()[1];
        let east = Place { lon_min: Some(site.longitude), ..Place::default() };
        assert_eq!(selected(&store, &Predicate { place: east, ..Predicate::default() }), [3, 4]);
        let text = Some("site 1".to_owned());
        let parameter = Some("OZONE".to_owned());
        let both = Predicate { text, parameter, ..Predicate::default() };
        assert_eq!(selected(&store, &both), [4]);
    }

    #[test]
    fn only_the_rows_asked_for_are_scanned() {
        let store = five_rows();
        let batch = store.days().next().unwrap();
        let bound = BoundPredicate::new(&store, &Predicate::default());
        let mut rows = vec![9];
        select(&store, batch, &bound, 1..3, &mut rows);
        assert_eq!(rows, [9, 1, 2]);
        assert_eq!(count(&store, batch, &bound, 5..5), 0);
    }

    proptest! {
        /// Compares with the sentence of the predicate, row by row; ranges cross blocks.
        #[test]
        fn a_scan_selects_what_the_predicate_says(
            values in prop::collection::vec((prop::option::of(-300i64..300), 0usize..3, any::<bool>()), 1..40),
            wide in any::<bool>(),
            (min, max) in (prop::option::of(-300i64..300), prop::option::of(-300i64..300)),
            site in prop::option::of(0usize..3),
            parameter in prop::option::of(any::<bool>()),
            (first, length) in (0u32..2000, 0u32..3000),
        ) {
            // A few hundred tenths; one huge value makes the column 64 bits wide.
            let text = |value: i64| Decimal(value * 100_000_000).to_string();
            let name = |ozone: bool| if ozone { "OZONE" } else { "PM2.5" };
            let values: Vec<_> = values.iter().cycle().take(5000).collect();
            let texts: Vec<_> = values.iter().map(|(value, _, _)| value.map(text)).collect();
            let mut rows: Vec<Sample<'_>> = values.iter().zip(&texts).map(|((_, site, ozone), text)| {
                Sample { value: text.as_deref(), site: *site, parameter: name(*ozone), ..Sample::default() }
            }).collect();
            if wide {
                rows[0].value = Some("999999999.9");
            }
            let store = samples::store(&rows);
            let batch = store.days().next().unwrap();
            let predicate = Predicate {
                min: min.map(|min| Decimal(min * 100_000_000)),
                max: max.map(|max| Decimal(max * 100_000_000)),
                site: site.map(|site| format!("site {site}")),
                parameter: parameter.map(|ozone| name(ozone).to_owned()),
                ..Predicate::default()
            };
            let end = (first + length).min(5000);
            let range = first.min(end)..end;
            let wanted: Vec<u32> = range.clone().filter(|row| {
                let sample = &rows[*row as usize];
                let value = sample.value.map(|value| Decimal::parse(value).unwrap());
                let inside = |least: Decimal, most: Decimal| value.is_some_and(|value| least <= value && value <= most);
                (min.is_none() && max.is_none()
                    || inside(predicate.min.unwrap_or(Decimal(i64::MIN)), predicate.max.unwrap_or(Decimal(i64::MAX))))
                    && site.is_none_or(|site| site == sample.site)
                    && parameter.is_none_or(|ozone| name(ozone) == sample.parameter)
            }).collect();
            let bound = BoundPredicate::new(&store, &predicate);
            let mut selected = Vec::new();
            select(&store, batch, &bound, range.clone(), &mut selected);
            prop_assert_eq!(count(&store, batch, &bound, range), selected.len() as u64);
            prop_assert_eq!(selected, wanted);
        }
    }
}
