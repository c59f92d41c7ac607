//! Invented readings: daily cycles, smoke that comes and goes, and what instruments add.

use chrono::{Datelike, NaiveDate};

use super::site::Site;
use super::{Parameter, aqi, draws};

/// What one station reports for one parameter and hour. Concentrations in tenths of the unit.
pub(super) struct Reading {
    /// Field 5, for particles and ozone the NowCast; none is written as -999.0.
    pub(super) concentration: Option<i64>,
    /// Field 7.
    pub(super) raw: Option<i64>,
    /// Field 8, and by it field 9.
    pub(super) aqi: Option<i64>,
}

/// The air of one day.
pub(super) struct Air {
    seed: u64,
    ordinal: u64,
    fires: Vec<Fire>,
}

/// Smoke over a square, thickest in its middle. Degrees in millionths.
struct Fire {
    latitude: i64,
    longitude: i64,
    radius: i64,
    /// In the middle on this day, tenths of UG/M3 of PM2.5.
    smoke: i64,
}

/// Fires that start in each week.
const FIRES_PER_WEEK: u64 = 3;

/// Longest fire, in weeks: how far back a day has to look.
const FIRE_WEEKS: u64 = 3;

impl Air {
    pub(super) fn new(seed: u64, day: NaiveDate) -> Air {
        let ordinal = ordinal(day);
        let week = ordinal / 7;
        let fires = (week - FIRE_WEEKS..=week)
            .flat_map(|week| (0..FIRES_PER_WEEK).map(move |number| (week, number)))
            .filter_map(|(week, number)| Fire::burning(seed, week, number, day))
            .collect();
        Air { seed, ordinal, fires }
    }

    /// None where the row is missing from the file altogether.
    pub(super) fn reading(&self, site: &Site, parameter: Parameter, hour: u8) -> Option<Reading> {
        let coordinates = [3, u64::from(site.index), self.ordinal, u64::from(hour), parameter as u64];
        let mut rng = draws(self.seed, &coordinates);
        if rng.u8(..80) == 0 {
            return None;
        }
        let concentration = self.concentration(site, parameter, hour, &mut rng);
        let raw = raw(parameter, concentration, &mut rng);
        let fate = rng.u8(..100);
        // No row has neither; nitrogen, sulphur and carbon are never missing.
        let averaged = matches!(parameter, Parameter::Ozone | Parameter::Pm25 | Parameter::Pm10);
        let concentration = (!averaged || fate >= 2).then_some(concentration);
        let raw = (!averaged || fate < 98).then_some(raw);
        let aqi = concentration.and_then(|concentration| aqi::index(parameter, concentration));
        let aqi = aqi.filter(|_| averaged || fate >= 2);
        Some(Reading { concentration, raw, aqi })
    }

    fn concentration(&self, site: &Site, parameter: Parameter, hour: u8, rng: &mut fastrand::Rng) -> i64 {
        // Stations differ by a habit, and all of a day by its weather: both in percent.
        let habit = draws(self.seed, &[4, u64::from(site.index)]).i64(70..140);
        let weather = draws(self.seed, &[5, self.ordinal, u64::from(site.index % 8)]).i64(75..130);
        let scaled = |value: i64| value * habit / 100 * weather / 100;
        let afternoon = cycle(hour, 22);
        let rush_hour = cycle(hour, 14).max(cycle(hour, 2));
        let smoke = self.smoke(site) * (80 + rng.i64(0..40)) / 100;
        match parameter {
            Parameter::Pm25 => scaled(35 + rush_hour / 3) + smoke + rng.i64(0..45),
            Parameter::Pm10 => whole(scaled(120 + afternoon) + smoke * 6 / 5 + rng.i64(0..120)),
            Parameter::Ozone => {
                let haze = smoke.min(800) / 4;
                whole((scaled(180 + 3 * afternoon) + haze + rng.i64(0..120) - 60).max(0))
            }
            Parameter::No2 => scaled(15 + rush_hour) + rng.i64(0..50) - 22,
            Parameter::So2 => scaled(6) + rng.i64(0..12) * rng.i64(0..3) - 8,
            Parameter::Co => scaled(3) + smoke / 250 + rng.i64(0..4) - 2,
        }
    }

    fn smoke(&self, site: &Site) -> i64 {
        self.fires.iter().map(|fire| fire.over(site)).sum()
    }
}

impl Fire {
    /// The fire if it burns on `day`: it grows for a third of its time and fades for the rest.
    fn burning(seed: u64, week: u64, number: u64, day: NaiveDate) -> Option<Fire> {
        let mut rng = draws(seed, &[6, week, number]);
        let start = week * 7 + rng.u64(..7);
        let length = rng.i64(5..7 * FIRE_WEEKS as i64);
        let latitude = rng.i64(33_000_000..45_000_000);
        let longitude = rng.i64(-123_500_000..-106_000_000);
        let radius = rng.i64(1_500_000..5_000_000);
        // Few are great: the square of a draw below 70, up to 490 UG/M3.
        let greatest = rng.i64(10..70) * rng.i64(10..70);
        let age = ordinal(day) as i64 - start as i64;
        if !(0..length).contains(&age) {
            return None;
        }
        let growing = length / 3 + 1;
        let share = if age < growing {
            100 * (age + 1) / growing
        } else {
            100 * (length - age) / (length - growing + 1)
        };
        let season = match day.month() {
            7..=10 => 100,
            6 | 11 => 40,
            _ => 4,
        };
        let smoke = greatest * share / 100 * season / 100;
        Some(Fire { latitude, longitude, radius, smoke })
    }

    fn over(&self, site: &Site) -> i64 {
        let north = (site.latitude - self.latitude).abs();
        let east = (site.longitude - self.longitude).abs();
        let away = north.max(east).min(self.radius);
        self.smoke * (self.radius - away) / self.radius
    }
}

/// Days since the first of March of year 0: the fixtures are drawn with this number.
fn ordinal(day: NaiveDate) -> u64 {
    (day.num_days_from_ce() + 305) as u64
}

/// 100 at the hour `peak` (UTC; the west lies seven hours behind), 0 twelve hours away, straight between.
fn cycle(hour: u8, peak: i64) -> i64 {
    let away = (i64::from(hour) - peak).rem_euclid(24);
    (12 - away.min(24 - away)) * 100 / 12
}

/// Particles below 10 micrometres and ozone are reported in whole units.
fn whole(tenths: i64) -> i64 {
    tenths / 10 * 10
}

/// What the instrument measured, near its average; small values may come out below zero.
fn raw(parameter: Parameter, concentration: i64, rng: &mut fastrand::Rng) -> i64 {
    let error = concentration * rng.i64(-12..=12) / 100;
    match parameter {
        Parameter::Pm25 => (concentration + error + rng.i64(-12..=12)).max(-45),
        Parameter::Pm10 | Parameter::Ozone => whole(concentration + error + rng.i64(-30..=30)),
        _ => concentration,
    }
}
