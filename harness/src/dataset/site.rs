//! Invented stations: where they stand, what they are called, what they measure.

use std::collections::BTreeSet;

use super::{Parameter, draws};

/// Most sites of one dataset: an id has five digits for the station.
pub(super) const LIMIT: u32 = 90_000;

/// A station. Degrees are in millionths.
pub(super) struct Site {
    pub(super) index: u32,
    pub(super) latitude: i64,
    pub(super) longitude: i64,
    pub(super) name: String,
    pub(super) agency: &'static str,
    pub(super) aqs_id: String,
    pub(super) full_aqs_id: String,
    /// In the order of its rows in a file.
    pub(super) parameters: Vec<Parameter>,
}

/// A box of the western US, in tenths of a degree: state code, south, north, west, east, agencies.
type Region = (u32, i64, i64, i64, i64, [&'static str; 2]);

const REGIONS: [Region; 8] = [
    (6, 345, 380, -1215, -1190, ["North Valley Air District", "South Valley Air District"]),
    (6, 380, 415, -1235, -1205, ["Redwood Coast Air District", "Upper River Air Control Board"]),
    (41, 425, 450, -1235, -1210, ["Cascade Foothills Air Agency", "State Office of Clean Air, West"]),
    (32, 360, 415, -1195, -1150, ["Great Basin Air Office", "Silver County Health District"]),
    (49, 375, 415, -1135, -1100, ["Salt Flats Division of Air", "Red Mesa Air Program"]),
    (4, 315, 365, -1140, -1100, ["Dry River Air Quality Department", "Saguaro County Clean Air"]),
    (35, 320, 365, -1085, -1040, ["High Desert Air Bureau", "Rio Seco Tribal Air Program"]),
    (8, 375, 405, -1085, -1040, ["Front Range Air Division", "State Office of Clean Air, East"]),
];

/// Portable monitors belong to nobody near.
const PORTABLE_AGENCY: &str = "Portable Monitor Pool";

const FIRST: [&str; 20] = [
    "Alder", "Basalt", "Corvan", "Dunmar", "Eskel", "Fallow", "Garnet", "Hollis", "Ivory", "Juniper",
    "Kestrel", "Larkin", "Merrow", "Norvil", "Ortega", "Pellar", "Quarry", "Rosen", "Sorrel", "Tamaren",
];
const SECOND: [&str; 12] =
    ["brook", "dale", "field", "ford", "haven", "mont", "ridge", "side", "ton", "view", "water", "wood"];
const STREETS: [&str; 8] =
    ["2nd Street", "City Hall", "Fairgrounds", "High School", "Library", "Main St.", "Old Mill", "Park"];

impl Site {
    /// The site `index` of a seed; it does not depend on how many there are.
    pub(super) fn invent(seed: u64, index: u32, measured: &BTreeSet<Parameter>) -> Site {
        let mut rng = draws(seed, &[1, u64::from(index)]);
        let (state, south, north, west, east, agencies) = REGIONS[index as usize % REGIONS.len()];
        let portable = index % 10 == 9;
        let (aqs_id, full_aqs_id) = ids(&mut rng, state, index, portable);
        Site {
            index,
            latitude: degree(&mut rng, south, north),
            longitude: degree(&mut rng, west, east),
            name: name(seed, index),
            agency: if portable { PORTABLE_AGENCY } else { agencies[rng.usize(..2)] },
            aqs_id,
            full_aqs_id,
            parameters: parameters(&mut rng, index, portable, measured),
        }
    }
}

/// Between two tenths of degrees, with four to six decimals.
fn degree(rng: &mut fastrand::Rng, low: i64, high: i64) -> i64 {
    let step = [100, 10, 1][rng.usize(..3)];
    rng.i64(low * 100_000..high * 100_000) / step * step
}

/// The id as files write it (9 or 12 characters) and the full one.
fn ids(rng: &mut fastrand::Rng, state: u32, index: u32, portable: bool) -> (String, String) {
    // Four digits tell the first 9999 stations apart, the county's first digit the next ones.
    let county = 2 * rng.u32(..50) + 1 + 100 * (index / 9_999);
    let short = if portable {
        format!("MM{}{index:05}", ["CA", "FS", "GB"][rng.usize(..3)])
    } else {
        format!("{state:02}{county:03}{:04}", index % 9_999 + 1)
    };
    let full = format!("840{short}");
    if rng.u8(..4) == 0 { (full.clone(), full) } else { (short, full) }
}

/// A name. Some hold commas or letters beyond ASCII, and each thirteenth is one that exists already.
fn name(seed: u64, index: u32) -> String {
    if index % 13 == 12 {
        return name(seed, index - 10);
    }
    let mut rng = draws(seed, &[2, u64::from(index)]);
    let town = format!("{}{}", FIRST[rng.usize(..FIRST.len())], SECOND[rng.usize(..SECOND.len())]);
    let street = STREETS[rng.usize(..STREETS.len())];
    match index % 16 {
        5 => format!("Peñasco {street}"),
        14 => format!("Cañada {town}"),
        3 | 11 => format!("{town}, {street}"),
        7 => format!("{town} - {street}"),
        0 | 8 => format!("{town}-{street}"),
        _ => format!("{town} {street}"),
    }
}

/// One to six parameters. The first sites have most of them, so that a small set has all.
fn parameters(
    rng: &mut fastrand::Rng,
    index: u32,
    portable: bool,
    measured: &BTreeSet<Parameter>,
) -> Vec<Parameter> {
    use Parameter::*;
    let usual: &[Parameter] = if portable {
        &[Pm25]
    } else {
        match index % 12 {
            0 => &[Ozone, Pm25, Pm10, No2, So2, Co],
            1 => &[Pm25, Ozone, No2],
            2 => &[Pm25],
            3 => &[Ozone, Pm10, Pm25],
            4 => &[Pm25, Pm10],
            5 => &[Pm25, So2, Ozone],
            6 => &[Ozone],
            7 => &[Pm25, No2, Ozone, Co],
            8 => &[Ozone, Pm25],
            9 => &[Pm10, Ozone],
            10 => &[Ozone, Pm25],
            _ => &[Pm25, Ozone],
        }
    };
    let mut parameters: Vec<Parameter> =
        usual.iter().copied().filter(|parameter| measured.contains(parameter)).collect();
    let first = rng.usize(..parameters.len().max(1));
    parameters.rotate_left(first);
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_shaped_like_aqs_ids() {
        let all = BTreeSet::from(Parameter::ALL);
        let sites: Vec<Site> = (0..LIMIT).map(|index| Site::invent(7, index, &all)).collect();
        let distinct: BTreeSet<&str> = sites.iter().map(|site| site.full_aqs_id.as_str()).collect();
        assert_eq!(distinct.len(), sites.len());
        assert!(sites.iter().all(|site| site.full_aqs_id.len() == 12));
        assert!(sites.iter().all(|site| [9, 12].contains(&site.aqs_id.len())));
    }
}
