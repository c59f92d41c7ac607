//! Mean, lowest and highest of each hour, over days.

use chrono::{Datelike, NaiveDate};
use plotters::chart::ChartBuilder;
use plotters::coord::combinators::BindKeyPoints;
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
const GAP_HOURS: i32 = 12;
/// Steps between labels of the time axis that this picture has room for.
const MOST_STEPS: i32 = 8;
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
        let at = |point: &Point| (ordinal(point.day) - start) * 24 + i32::from(point.hour);
        let (low, high) = self.extent();
        let (begin, end) = (at(first), at(last).max(at(first) + 6));
        let mut chart = ChartBuilder::on(sheet)
            .margin(12)
            .margin_right(if self.is_aqi { 110 } else { 46 })
            .x_label_area_size(30)
            .y_label_area_size(52)
            .build_cartesian_2d((begin..end).with_key_points(moments(begin, end)), low..high)?;
        if self.is_aqi {
            let mut from = f64::NEG_INFINITY;
            for category in CATEGORIES {
                let to = if category.last == i16::MAX { f64::INFINITY } else { f64::from(category.last) };
                let (bottom, top) = (from.max(low), to.min(high));
                from = to;
                if bottom < top {
                    let (r, g, b) = category.colour;
                    let corners = [(begin, bottom), (end, top)];
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
            .x_label_formatter(&|hours| moment(start, *hours))
            .y_labels(6)
            .y_label_formatter(&|value| axis_number(*value))
            .draw()?;
        for run in self.runs(&at) {
            let upper = run.iter().map(|point| (at(point), point.max.min(high)));
            let lower = run.iter().rev().map(|point| (at(point), point.min.min(high)));
            let outline: Vec<(i32, f64)> = upper.chain(lower).collect();
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
    fn runs(&self, at: &impl Fn(&Point) -> i32) -> Vec<&[Point]> {
        self.points.chunk_by(|a, b| at(b) - at(a) <= GAP_HOURS).collect()
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

/// Hours to label from `begin`, which is on the first day, to `end`: whole ones, as far apart as clocks and calendars have them.
fn moments(begin: i32, end: i32) -> Vec<i32> {
    let weeks = std::iter::successors(Some(7 * 24), |step| Some(step * 2));
    let mut steps = [1, 2, 3, 6, 12, 24, 2 * 24, 4 * 24].into_iter().chain(weeks);
    let step = steps.find(|step| (end - begin) / step <= MOST_STEPS).expect("weeks grow");
    (0..=end).step_by(step as usize).skip_while(|hour| *hour < begin).collect()
}

/// `Sep 10`, or with an hour what is not midnight; `hours` are counted from the first of the day `start`.
fn moment(start: i32, hours: i32) -> String {
    let date = NaiveDate::from_num_days_from_ce_opt(start + hours / 24);
    let Some(date) = date else { return String::new() };
    let day = month_and_day(date.month(), date.day());
    match hours % 24 {
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
        assert_eq!(moment(number("20201231"), 30), "Jan 1 06h");
        assert_eq!(moment(number("20200228"), 24), "Feb 29");
    }

    /// Goal: whoever reads an hour off the axis reads the right one. Method: points of every hour, whose line says where they are.
    #[test]
    fn labels_stand_at_their_hours() {
        let august = NaiveDate::from_ymd_opt(2020, 8, 10).unwrap();
        for (first, hours) in [(0, 24), (5, 25), (0, 72), (0, 46 * 24)] {
            let point = |hour: u64| Point {
                day: (august + chrono::Days::new(hour / 24)).format("%Y%m%d").to_string().parse().unwrap(),
                hour: (hour % 24) as u8,
                min: 1.0,
                max: 3.0,
                mean: 2.0,
            };
            let points = (first..first + hours).map(point).collect();
            let svg = Series { title: String::new(), unit: "AQI".to_owned(), is_aqi: true, points }.svg();
            let (left, right) = ends_of_the_line(&svg);
            let labels: Vec<(f64, i64)> = texts(&svg)
                .filter_map(|(x, text)| Some((x, hour_of(text, august)? - first as i64)))
                .collect();
            assert!((4..=9).contains(&labels.len()), "{hours} hours: {labels:?}");
            for (x, hour) in labels {
                let expected = left + (right - left) * hour as f64 / (hours - 1) as f64;
                assert!((x - expected).abs() <= 1.0, "hour {hour} of {hours}: {x}, not {expected}");
            }
        }
    }

    /// The first and the last place of the longest line.
    fn ends_of_the_line(svg: &str) -> (f64, f64) {
        let lines = svg.split("<polyline").skip(1).map(|line| attribute(line, "points").trim_end());
        let line = lines.max_by_key(|line| line.len()).unwrap();
        let x = |point: Option<&str>| point.unwrap().split(',').next().unwrap().parse().unwrap();
        (x(line.split(' ').next()), x(line.split(' ').next_back()))
    }

    /// What is written, and where.
    fn texts(svg: &str) -> impl Iterator<Item = (f64, &str)> {
        svg.split("<text").skip(1).map(|text| {
            let (tag, words) = text.split_once('>').unwrap();
            (attribute(tag, "x").parse().unwrap(), words.split('<').next().unwrap().trim())
        })
    }

    fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
        let (_, value) = element.split_once(&format!("{name}=\"")).unwrap();
        value.split('"').next().unwrap()
    }

    /// Hours since midnight of `start`, if a label is one of time.
    fn hour_of(label: &str, start: NaiveDate) -> Option<i64> {
        let (day, hour) = label.strip_suffix('h').and_then(|it| it.rsplit_once(' ')).unwrap_or((label, "0"));
        let day = NaiveDate::parse_from_str(&format!("2020 {day}"), "%Y %b %d").ok()?;
        Some((day - start).num_hours() + hour.parse::<i64>().unwrap())
    }
}
