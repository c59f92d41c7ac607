//! Small stores for the tests of the modules that read them.

use super::{DayBuilder, Measure, Row, Site, Store, StoreBuilder};
use crate::decimal::Decimal;

/// A row of 10 August 2020.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) site: usize,
    pub(crate) minute: u16,
    pub(crate) parameter: &'a str,
    pub(crate) value: Option<&'a str>,
    pub(crate) raw_concentration: Option<&'a str>,
    pub(crate) aqi: Option<i16>,
    pub(crate) category: Option<i8>,
}

impl Default for Sample<'_> {
    fn default() -> Self {
        Sample {
            site: 0,
            minute: 60,
            parameter: "PM2.5",
            value: Some("17.3"),
            raw_concentration: None,
            aqi: None,
            category: None,
        }
    }
}

/// `Site 0` stands at 40 north, 120 west; each next one a degree farther north and east. Site 3 has the name
/// of site 0; agencies alternate.
pub(crate) fn site(number: usize) -> Site {
    Site {
        latitude: 40.0 + number as f64,
        longitude: -120.0 + number as f64,
        site_name: format!("Site {}", number % 3).into(),
        agency_name: format!("Agency {}", number % 2).into(),
        aqs_id: format!("{number:09}").into(),
        full_aqs_id: format!("840{number:09}").into(),
    }
}

/// One file of one day.
pub(crate) fn store(rows: &[Sample<'_>]) -> Store {
    store_of(rows, site)
}

/// As [`store`], with other sites.
pub(crate) fn store_of(rows: &[Sample<'_>], site: impl Fn(usize) -> Site) -> Store {
    let tables = StoreBuilder::default();
    let mut day = DayBuilder::new("20200810".parse().unwrap());
    day.file("20200810-01");
    for row in rows {
        let decimal = |text: &str| Decimal::parse(text).unwrap();
        let measure = Measure { parameter: row.parameter.into(), unit: "UG/M3".into() };
        day.push(
            &tables.site(site(row.site)),
            &tables.measure(measure).unwrap(),
            Row {
                minute: row.minute,
                value: row.value.map(decimal),
                raw_concentration: row.raw_concentration.map(decimal),
                aqi: row.aqi,
                category: row.category,
            },
        );
    }
    let batch = day.finish(&tables);
    tables.finish(vec![batch])
}
