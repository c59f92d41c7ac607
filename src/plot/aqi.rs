//! The six categories of the air quality index.
//!
//! Source: US EPA, Technical Assistance Document for the Reporting of Daily Air Quality (EPA 454/B-18-007, 2018), tables 1 and 2.

/// A range of the index, with its name and its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// 1 to 6.
    pub number: u8,
    /// In the agency's words.
    pub name: &'static str,
    /// The largest index that is in it.
    pub last: i16,
    /// Red, green, blue.
    pub colour: (u8, u8, u8),
}

/// From good to hazardous.
pub const CATEGORIES: [Category; 6] = [
    Category { number: 1, name: "Good", last: 50, colour: (0, 228, 0) },
    Category { number: 2, name: "Moderate", last: 100, colour: (255, 255, 0) },
    Category { number: 3, name: "Unhealthy for sensitive groups", last: 150, colour: (255, 126, 0) },
    Category { number: 4, name: "Unhealthy", last: 200, colour: (255, 0, 0) },
    Category { number: 5, name: "Very unhealthy", last: 300, colour: (143, 63, 151) },
    Category { number: 6, name: "Hazardous", last: i16::MAX, colour: (126, 0, 35) },
];

/// The category that an index is in.
pub fn category(aqi: i16) -> Category {
    let found = CATEGORIES.iter().find(|category| aqi <= category.last);
    *found.expect("the last category has no end")
}
