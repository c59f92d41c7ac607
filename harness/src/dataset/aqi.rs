//! The EPA's air quality index: concentration to index, in integers.
//!
//! Source: EPA 454/B-18-007, tables 5 and 6, as in force in 2020. Above the table the last line goes
//! on, as in the real files (a PM2.5 of 586.2 has the index 557 there).

use super::Parameter;

/// Lowest and highest concentration, in tenths of the parameter's unit, and their indices.
type Line = (i64, i64, i64, i64);

const PM25: [Line; 7] = [
    (0, 120, 0, 50),
    (121, 354, 51, 100),
    (355, 554, 101, 150),
    (555, 1504, 151, 200),
    (1505, 2504, 201, 300),
    (2505, 3504, 301, 400),
    (3505, 5004, 401, 500),
];
const PM10: [Line; 7] = [
    (0, 540, 0, 50),
    (550, 1540, 51, 100),
    (1550, 2540, 101, 150),
    (2550, 3540, 151, 200),
    (3550, 4240, 201, 300),
    (4250, 5040, 301, 400),
    (5050, 6040, 401, 500),
];
const OZONE: [Line; 5] = [
    (0, 540, 0, 50),
    (550, 700, 51, 100),
    (710, 850, 101, 150),
    (860, 1050, 151, 200),
    (1060, 2000, 201, 300),
];
const NO2: [Line; 3] = [(0, 530, 0, 50), (540, 1000, 51, 100), (1010, 3600, 101, 150)];
const SO2: [Line; 3] = [(0, 350, 0, 50), (360, 750, 51, 100), (760, 1850, 101, 150)];

/// Index of a concentration in tenths. None for CO, which has no index in the real files.
pub(super) fn index(parameter: Parameter, concentration: i64) -> Option<i64> {
    let table: &[Line] = match parameter {
        Parameter::Pm25 => &PM25,
        Parameter::Pm10 => &PM10,
        Parameter::Ozone => &OZONE,
        Parameter::No2 => &NO2,
        Parameter::So2 => &SO2,
        Parameter::Co => return None,
    };
    // All but PM2.5 are cut to whole units first; a negative concentration counts as none.
    let concentration = match parameter {
        Parameter::Pm25 => concentration.max(0),
        _ => concentration.max(0) / 10 * 10,
    };
    let line = table.iter().find(|line| concentration <= line.1);
    let &(low, high, low_index, high_index) = line.or(table.last())?;
    let rise = (high_index - low_index) * (concentration - low);
    let run = high - low;
    Some(low_index + (2 * rise + run) / (2 * run))
}

/// Category 1 (good) to 6 (hazardous) of an index.
pub(super) fn category(index: i64) -> i64 {
    match index {
        ..=50 => 1,
        51..=100 => 2,
        101..=150 => 3,
        151..=200 => 4,
        201..=300 => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_equals_the_one_in_airnow_files() {
        use Parameter::*;
        for (parameter, concentration, expected) in [
            (Pm25, 956, 172),
            (Pm25, 5862, 557),
            (Pm25, 17, 7),
            (Pm25, 2205, 270),
            (Pm10, 2490, 148),
            (Pm10, 7200, 616),
            (Ozone, 450, 42),
            (Ozone, 650, 84),
            (Ozone, 1100, 205),
            (No2, 178, 16),
            (So2, 24, 3),
            (So2, -3, 0),
        ] {
            assert_eq!(index(parameter, concentration), Some(expected), "{parameter:?} {concentration}");
        }
        assert_eq!(index(Co, 6), None);
        assert_eq!([50, 51, 300, 301].map(category), [1, 2, 5, 6]);
    }
}
