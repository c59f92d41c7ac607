//! Charts as SVG text: lines over an axis, and bars.
//!
//! Colours and fonts are the page's: shapes only name their classes, so that one drawing serves dark and light.
//! Lines differ in their dashes too, for those who cannot tell colours apart.

use std::fmt::{self, Display, Formatter};

use super::escaped;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 320.0;

/// Where points are drawn: between axis labels on the left and below, title above, legend on the right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 272.0;

/// The line of the title, and of what is measured from below.
const TITLE: f64 = 16.0;

/// Colours and dashes that the page has.
const COLOURS: usize = 6;
const DASHES: usize = 4;

/// Series over two axes.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// What is shown.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From below.
    pub y: Axis,
    /// Those without points are left out of the drawing and stay in the legend.
    pub series: Vec<Series>,
}

/// What an axis measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// With its unit.
    pub label: String,
    /// How values become places.
    pub scale: Scale,
}

/// How values become places on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from the smallest value on; the axis from below starts at 0.
    Linear,
    /// Each power of ten as long as the other; values that are not above 0 are left out.
    Log,
    /// Percentiles, so that 90, 99 and 99.9 are equally far apart.
    Percentile,
}

/// A named line.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// In the order of `x`.
    pub points: Vec<(f64, f64)>,
}

/// Named bars from 0 on, one below the other, each with its number.
#[derive(Clone, Debug)]
pub struct BarChart {
    /// What is shown.
    pub title: String,
    /// Follows each number.
    pub unit: String,
    /// From above.
    pub bars: Vec<(String, f64)>,
}

impl Axis {
    /// A linear axis.
    pub fn new(label: &str) -> Self {
        Axis { label: label.to_owned(), scale: Scale::Linear }
    }

    /// A logarithmic axis.
    pub fn log(label: &str) -> Self {
        Axis { label: label.to_owned(), scale: Scale::Log }
    }

    /// An axis of percentiles.
    pub fn percentile(label: &str) -> Self {
        Axis { label: label.to_owned(), scale: Scale::Percentile }
    }
}

impl Series {
    /// A line through `points`.
    pub fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Series { name: name.to_owned(), points }
    }
}

impl Scale {
    /// The place of a value, in units of the scale; `None`: it has none.
    fn place(self, value: f64) -> Option<f64> {
        match self {
            Scale::Linear => value.is_finite().then_some(value),
            Scale::Log => (value > 0.0).then(|| value.log10()),
            Scale::Percentile => (0.0..100.0).contains(&value).then(|| -(1.0 - value / 100.0).log10()),
        }
    }

    /// Values to label between two places.
    fn ticks(self, low: f64, high: f64) -> Vec<f64> {
        match self {
            Scale::Linear => linear_ticks(low, high),
            Scale::Log => (low.ceil() as i32..=high.floor() as i32).map(|power| 10_f64.powi(power)).collect(),
            Scale::Percentile => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .into_iter()
                .filter(|percent| self.place(*percent).is_some_and(|place| place <= high + 1e-9))
                .collect(),
        }
    }
}

/// Three to seven multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf((span / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| span / step <= 6.0).unwrap_or(power * 10.0);
    let (first, last) = ((low / step).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|number| number as f64 * step).collect()
}

/// An axis with its ends, and where on the drawing they are.
struct Placed<'a> {
    axis: &'a Axis,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl<'a> Placed<'a> {
    fn new(axis: &'a Axis, values: impl Iterator<Item = f64>, from: f64, to: f64, starts_at_0: bool) -> Self {
        let places: Vec<f64> = values.filter_map(|value| axis.scale.place(value)).collect();
        let mut low = places.iter().copied().fold(f64::INFINITY, f64::min);
        let mut high = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if places.is_empty() {
            (low, high) = (0.0, 1.0);
        }
        match axis.scale {
            Scale::Linear if starts_at_0 => low = low.min(0.0),
            // Whole powers of ten, so that there are two labels at least.
            Scale::Log => (low, high) = (low.floor(), high.ceil()),
            Scale::Percentile => low = 0.0,
            Scale::Linear => {}
        }
        if high <= low {
            high = low + 1.0;
        }
        Placed { axis, low, high, from, to }
    }

    fn at(&self, value: f64) -> Option<f64> {
        let place = self.axis.scale.place(value)?;
        Some(self.from + (place - self.low) / (self.high - self.low) * (self.to - self.from))
    }

    /// Values to label, each with its place on the drawing.
    fn ticks(&self) -> Vec<(f64, f64)> {
        let ticks = self.axis.scale.ticks(self.low, self.high);
        ticks.into_iter().filter_map(|value| Some((value, self.at(value)?))).collect()
    }
}

impl Display for LineChart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Placed::new(&self.x, points().map(|(x, _)| *x), LEFT, RIGHT, false);
        let y = Placed::new(&self.y, points().map(|(_, y)| *y), BOTTOM, TOP, true);
        open(f, &self.title, HEIGHT)?;
        for (value, place) in y.ticks() {
            writeln!(
                f,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>"
            )?;
            text(f, LEFT - 8.0, place + 4.0, "quiet", "end", &number(value))?;
        }
        for (value, place) in x.ticks() {
            let below = BOTTOM + 5.0;
            writeln!(
                f,
                "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{BOTTOM}\" y2=\"{below}\"/>"
            )?;
            text(f, place, BOTTOM + 20.0, "quiet", "middle", &number(value))?;
        }
        text(f, RIGHT, BOTTOM + 38.0, "quiet", "end", &self.x.label)?;
        text(f, LEFT - 8.0, TITLE, "quiet", "end", &self.y.label)?;
        for (index, series) in self.series.iter().enumerate() {
            line(f, index, &series.points, &x, &y)?;
            legend(f, index, &series.name)?;
        }
        f.write_str("</svg>")
    }
}

fn line(f: &mut Formatter<'_>, index: usize, points: &[(f64, f64)], x: &Placed, y: &Placed) -> fmt::Result {
    let drawn: Vec<(f64, f64)> =
        points.iter().filter_map(|(across, up)| Some((x.at(*across)?, y.at(*up)?))).collect();
    let class = class(index);
    if let [(x, y)] = drawn[..] {
        // A line of one point is a dot.
        return writeln!(f, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>");
    }
    let path: Vec<_> = drawn.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    writeln!(f, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(" "))
}

fn legend(f: &mut Formatter<'_>, index: usize, name: &str) -> fmt::Result {
    let (x, y) = (RIGHT + 14.0, TOP + 8.0 + 20.0 * index as f64);
    writeln!(f, "<line class=\"{}\" x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>", class(index), x + 24.0)?;
    text(f, x + 30.0, y + 4.0, "name", "start", name)
}

fn class(index: usize) -> String {
    format!("line s{} d{}", index % COLOURS, index % DASHES)
}

impl Display for BarChart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const ROW: f64 = 22.0;
        const NAMES: f64 = 150.0;
        let most = self.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        open(f, &self.title, TOP + ROW * self.bars.len() as f64 + 8.0)?;
        for (index, (name, value)) in self.bars.iter().enumerate() {
            let y = TOP + ROW * index as f64;
            let width = (value / most).max(0.0) * (RIGHT - NAMES);
            text(f, NAMES - 8.0, y + 13.0, "name", "end", name)?;
            writeln!(
                f,
                "<rect class=\"bar\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>",
                y + 2.0
            )?;
            let shown = format!("{} {}", number(*value), self.unit);
            text(f, NAMES + width + 8.0, y + 13.0, "quiet", "start", shown.trim_end())?;
        }
        f.write_str("</svg>")
    }
}

fn open(f: &mut Formatter<'_>, title: &str, height: f64) -> fmt::Result {
    writeln!(f, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escaped(title))?;
    text(f, LEFT + 8.0, TITLE, "title", "start", title)
}

fn text(f: &mut Formatter<'_>, x: f64, y: f64, class: &str, anchor: &str, text: &str) -> fmt::Result {
    let text = escaped(text);
    writeln!(f, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

/// Three digits or more, thousands apart.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1e4 {
        let digits = format!("{:.0}", value.abs());
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return if value < 0.0 { format!("-{grouped}") } else { grouped };
    }
    let decimals = match magnitude {
        _ if value.fract() == 0.0 => 0,
        100.0.. => 1,
        1.0.. => 2,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(linear_ticks(0.0, 60.0), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(linear_ticks(0.0, 7.3), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(Scale::Log.ticks(-1.0, 2.0), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(Scale::Percentile.ticks(0.0, 3.0), [0.0, 50.0, 90.0, 99.0, 99.9]);
    }

    /// A nine more is as far as the nine before it.
    #[test]
    fn percentiles_are_spread_by_their_nines() {
        let place = |percent| Scale::Percentile.place(percent).expect("below 100");
        assert!((place(90.0) - 1.0).abs() < 1e-9 && (place(99.9) - 3.0).abs() < 1e-9);
        assert_eq!(Scale::Percentile.place(100.0), None);
    }

    /// On axes from 0 to 10, the middle of both is the middle of the drawing.
    #[test]
    fn points_lie_where_their_values_say() {
        let chart = LineChart {
            title: String::new(),
            x: Axis::new("s"),
            y: Axis::new("ms"),
            series: vec![Series::new("a", vec![(0.0, 0.0), (5.0, 5.0), (10.0, 10.0)])],
        };
        let drawn = chart.to_string();
        assert!(drawn.contains("points=\"64.0,272.0 342.0,153.0 620.0,34.0\""), "{drawn}");
    }

    #[test]
    fn chart_without_points_is_drawn_all_the_same() {
        let chart =
            LineChart { title: "t".to_owned(), x: Axis::new("s"), y: Axis::log("ms"), series: vec![] };
        assert!(!chart.to_string().contains("NaN"), "{chart}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [1234567.0, 12345.6, 100.0, 0.5, 99.99, 0.0].map(number);
        assert_eq!(shown, ["1,234,567", "12,346", "100", "0.5", "99.99", "0"]);
    }
}
