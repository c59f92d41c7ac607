//! Mean, lowest and highest of each hour, over days.

use chrono::{Datelike, NaiveDate};
use plotters::chart::ChartBuilder;
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::series::LineSeries;
use plotters::style::Color;
use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::aqi::CATEGORIES;
use super::canvas::{ACCENT, Drawn, GRID, INK, MUTED, Sheet, around, faint, letters, picture};
use crate::day::Day;

const SIZE: (u32, u32) = (960, 340);
/// Points farther from each other are not connected: what lies between was not measured.
const GAP_DAYS: f64 = 0.5;
/// Where the index ends. Files have more, which one monitor in smoke is enough for: it would press all others flat.
const END_OF_AQI: f64 = 500.0;

/// One hour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The day.
    pub day: Day,
    /// The hour, UTC.
    pub hour: u8,
    /// The lowest value.
    pub min: f64,
    /// The highest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// A time series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it shows, in a sentence.
    pub title: String,
    /// What is written at the axis: `AQI`, or what a concentration is measured in.
    pub unit: String,
    /// Whether the values are of the index, whose categories are then shown behind them.
    pub is_aqi: bool,
    /// In the order of time.
    pub points: Vec<Point>,
}

impl Series {
    /// Points that a picture has room for: more than two years of hours, twenty for each of its columns.
    pub const MOST_POINTS: usize = 20_000;

    /// The picture.
    pub fn svg(&self) -> String {
        picture(SIZE, &self.title, |sheet| self.draw(sheet), "")
    }

    fn draw<'a>(&self, sheet: &Sheet<'a>) -> Drawn<'a> {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            let middle = (SIZE.0 as i32 / 2, SIZE.1 as i32 / 2);
            return sheet.draw(&Text::new(
                "nothing to show",
                middle,
                around(16, MUTED, HPos::Center, VPos::Center),
            ));
        };
        let start = ordinal(first.day);
        let at = |point: &Point| f64::from(ordinal(point.day) - start) + f64::from(point.hour) / 24.0;
        let (low, high) = self.extent();
        let end = at(last).max(at(first) + 0.25);
        let mut chart = ChartBuilder::on(sheet)
            .margin(12)
            .margin_right(if self.is_aqi { 110 } else { 20 })
            .x_label_area_size(30)
            .y_label_area_size(52)
            .build_cartesian_2d(at(first)..end, low..high)?;
        if self.is_aqi {
            let mut from = f64::NEG_INFINITY;
            for category in CATEGORIES {
                let to = if category.last == i16::MAX { f64::INFINITY } else { f64::from(category.last) };
                let (bottom, top) = (from.max(low), to.min(high));
                from = to;
                if bottom < top {
                    let (r, g, b) = category.colour;
                    let corners = [(at(first), bottom), (end, top)];
                    chart.draw_series([Rectangle::new(corners, faint(RGBColor(r, g, b), 0.22))])?;
                }
            }
        }
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(GRID.mix(0.0))
            .bold_line_style(GRID.stroke_width(1))
            .axis_style(MUTED.stroke_width(1))
            .label_style(letters(12, INK))
            .x_labels(8)
            .x_label_formatter(&|days| moment(start, *days))
            .y_labels(6)
            .y_label_formatter(&|value| axis_number(*value))
            .draw()?;
        for run in self.runs(&at) {
            let upper = run.iter().map(|point| (at(point), point.max.min(high)));
            let lower = run.iter().rev().map(|point| (at(point), point.min.min(high)));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series([Polygon::new(outline, faint(ACCENT, 0.25))])?;
            if let [alone] = run {
                let at = (at(alone), alone.mean.min(high));
                chart.draw_series([Circle::new(at, 3, ACCENT.filled())])?;
            }
            let means = run.iter().map(|point| (at(point), point.mean.min(high)));
            chart.draw_series(LineSeries::new(means, ACCENT.stroke_width(2)))?;
        }
        if self.is_aqi {
            self.name_categories(sheet, low, high)?;
        }
        let is_cut = self.points.iter().any(|point| point.max > high);
        self.key(sheet, if is_cut { ", cut off at 500" } else { "" })
    }

    /// The values shown, with some room.
    fn extent(&self) -> (f64, f64) {
        let lowest = self.points.iter().map(|point| point.min).fold(0.0, f64::min);
        let highest = self.points.iter().map(|point| point.max).fold(f64::MIN, f64::max);
        if self.is_aqi {
            return (0.0, (highest * 1.08).clamp(60.0, END_OF_AQI));
        }
        (lowest, highest + ((highest - lowest) * 0.08).max(1e-3))
    }

    /// Points that are connected with each other.
    fn runs(&self, at: &impl Fn(&Point) -> f64) -> Vec<&[Point]> {
        self.points.chunk_by(|a, b| at(b) - at(a) <= GAP_DAYS).collect()
    }

    /// Names of categories at the right, where each begins.
    fn name_categories<'a>(&self, sheet: &Sheet<'a>, low: f64, high: f64) -> Drawn<'a> {
        // The plotting area that the margins above leave.
        let (top, bottom) = (12.0, f64::from(SIZE.1) - 42.0);
        let pixel = |value: f64| (bottom - (value - low) / (high - low) * (bottom - top)).round() as i32;
        let mut from = low;
        for category in CATEGORIES {
            let to = f64::from(category.last).min(high);
            if to > from && pixel(from) - pixel(to) >= 14 {
                let words = if category.number == 3 { "Sensitive groups" } else { category.name };
                let at = (SIZE.0 as i32 - 104, (pixel(from) + pixel(to)) / 2);
                sheet.draw(&Text::new(words, at, around(12, INK, HPos::Left, VPos::Center)))?;
            }
            from = from.max(f64::from(category.last));
        }
        Ok(())
    }

    /// What line and area mean.
    fn key<'a>(&self, sheet: &Sheet<'a>, cut: &str) -> Drawn<'a> {
        let (x, y) = (76, 24);
        let words =
            |at: i32, text: String| Text::new(text, (x + at, y), around(12, INK, HPos::Left, VPos::Center));
        let named = format!("{}, mean", self.unit);
        let after = 44 + 7 * named.len() as i32;
        sheet.draw(&PathElement::new([(x, y), (x + 22, y)], ACCENT.stroke_width(2)))?;
        sheet.draw(&words(28, named))?;
        sheet.draw(&Rectangle::new([(x + after, y - 6), (x + after + 22, y + 6)], faint(ACCENT, 0.25)))?;
        sheet.draw(&words(after + 28, format!("lowest to highest{cut}")))
    }
}

/// A number that grows by one from day to day.
fn ordinal(day: Day) -> i32 {
    let number = day.number();
    let date = NaiveDate::from_ymd_opt((number / 10_000) as i32, number / 100 % 100, number % 100);
    date.map_or(0, |date| date.num_days_from_ce())
}

/// With as many digits as tell labels apart.
fn axis_number(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    format!("{rounded}")
}

/// `Sep 10`, or with an hour what is not midnight.
fn moment(start: i32, days: f64) -> String {
    let whole = days.floor();
    let date = NaiveDate::from_num_days_from_ce_opt(start + whole.max(0.0) as i32);
    let Some(date) = date else { return String::new() };
    let day = month_and_day(date.month(), date.day());
    let hour = ((days - whole) * 24.0).round() as u32;
    match hour {
        0 => day,
        hour => format!("{day} {hour:02}h"),
    }
}

/// `Sep 10`.
pub(super) fn short(day: Day) -> String {
    let number = day.number();
    month_and_day(number / 100 % 100, number % 100)
}

fn month_and_day(month: u32, day: u32) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    format!("{} {day}", MONTHS[month as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_over_the_ends_of_years() {
        let number = |text: &str| ordinal(text.parse().unwrap());
        assert_eq!(number("20200301") - number("20200228"), 2);
        assert_eq!(number("20210101") - number("20201231"), 1);
        assert_eq!(number("20300101") - number("20200101"), 3653);
        assert_eq!(moment(number("20201231"), 1.25), "Jan 1 06h");
        assert_eq!(moment(number("20200228"), 1.0), "Feb 29");
    }
}
