//! Sites on a graticule, coloured by their air quality index.

use std::fmt::Write;
use std::ops::RangeInclusive;

use plotters::element::{PathElement, Text};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::aqi::category;
use super::canvas::{Drawn, GRID, INK, MUTED, Sheet, around, escaped, hex, picture};
use super::places::CITIES;
use super::projection::{Albers, Bounds};

const WIDTH: u32 = 960;
/// As the places ask for, within these.
const HEIGHTS: (f64, f64) = (420.0, 900.0);
/// Pixels between the outermost sites and the edge.
const MARGIN: f64 = 40.0;
/// Lines of the graticule in the longer direction at most.
const MOST_LINES: f64 = 8.0;
/// The colour of a site without an index.
const NO_VALUE: &str = "#9AA7B2";

/// A place where something is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Names it among all others.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Who runs it.
    pub agency: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// A map.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// What it shows, in a sentence.
    pub title: String,
    /// Every site, with its index if it has one.
    pub sites: Vec<(Site, Option<i16>)>,
}

impl Map {
    /// The picture. Each site is a circle with its id in `data-site`, its degrees in `data-lat` and `data-lon` with every digit
    /// of the data, so that one can ask for just this place, and in its title a line each for name, agency and index; the worse
    /// the air, the larger it is, and the later it is drawn.
    pub fn svg(&self) -> String {
        let bounds = Bounds::of(self.sites.iter().map(|(site, _)| (site.latitude, site.longitude)));
        let view = View::new(bounds.unwrap_or(Bounds {
            lat_min: 25.0,
            lat_max: 50.0,
            lon_min: -125.0,
            lon_max: -70.0,
        }));
        let draw = |sheet: &Sheet<'_>| view.draw(sheet);
        let on_top = self.circles(&view) + &view.cities();
        picture((WIDTH, view.height), &self.title, draw, &on_top)
    }

    fn circles(&self, view: &View) -> String {
        let mut sites: Vec<&(Site, Option<i16>)> = self.sites.iter().collect();
        sites.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.id.cmp(&b.0.id)));
        let mut circles =
            format!("<g id=\"sites\" stroke=\"{}\" stroke-width=\"0.7\">\n", hex((INK.0, INK.1, INK.2)));
        for (site, aqi) in sites {
            let (x, y) = view.at(site.latitude, site.longitude);
            let (radius, colour, says) = match aqi.map(|aqi| (aqi, category(aqi))) {
                Some((aqi, category)) => (
                    3 + u32::from(category.number),
                    hex(category.colour),
                    format!("AQI {aqi}, {}", category.name),
                ),
                None => (3, NO_VALUE.to_owned(), "no AQI".to_owned()),
            };
            let (id, name, agency) = (escaped(&site.id), escaped(&site.name), escaped(&site.agency));
            let (lat, lon) = (site.latitude, site.longitude);
            writeln!(
                circles,
                "<circle data-site=\"{id}\" data-lat=\"{lat}\" data-lon=\"{lon}\" cx=\"{x:.1}\" cy=\"{y:.1}\" \
                 r=\"{radius}\" fill=\"{colour}\">\
                 <title>{name}\n{agency}\n{says}</title></circle>"
            )
            .expect("writing to memory succeeds");
        }
        circles + "</g>\n"
    }
}

/// What is seen, and where.
struct View {
    albers: Albers,
    bounds: Bounds,
    height: u32,
    scale: f64,
    middle: (f64, f64),
}

impl View {
    fn new(bounds: Bounds) -> Self {
        let bounds = bounds.widened();
        let albers = Albers::fitted(&bounds);
        // The outline's extremes: along each edge, since parallels are arcs.
        let steps = (0..=32).map(|step| f64::from(step) / 32.0);
        let outline = steps.flat_map(|at| {
            let lat = bounds.lat_min + (bounds.lat_max - bounds.lat_min) * at;
            let lon = bounds.lon_min + (bounds.lon_max - bounds.lon_min) * at;
            [(lat, bounds.lon_min), (lat, bounds.lon_max), (bounds.lat_min, lon), (bounds.lat_max, lon)]
        });
        // Up stands for north, right for east.
        let extent = Bounds::of(outline.map(|(lat, lon)| albers.project(lat, lon)).map(|(x, y)| (y, x)));
        let extent = extent.expect("an outline has points");
        let (wide, high) = (extent.lon_max - extent.lon_min, extent.lat_max - extent.lat_min);
        let inner = f64::from(WIDTH) - 2.0 * MARGIN;
        let height = (inner * high / wide + 2.0 * MARGIN).clamp(HEIGHTS.0, HEIGHTS.1).round();
        let scale = (inner / wide).min((height - 2.0 * MARGIN) / high);
        let middle = ((extent.lon_min + extent.lon_max) / 2.0, (extent.lat_min + extent.lat_max) / 2.0);
        View { albers, bounds, height: height as u32, scale, middle }
    }

    /// Pixels from the left and from the top.
    fn at(&self, latitude: f64, longitude: f64) -> (f64, f64) {
        let (x, y) = self.albers.project(latitude, longitude);
        (
            f64::from(WIDTH) / 2.0 + (x - self.middle.0) * self.scale,
            f64::from(self.height) / 2.0 - (y - self.middle.1) * self.scale,
        )
    }

    fn draw<'a>(&self, sheet: &Sheet<'a>) -> Drawn<'a> {
        let (high, wide) =
            (self.bounds.lat_max - self.bounds.lat_min, self.bounds.lon_max - self.bounds.lon_min);
        let step = step(high.max(wide));
        // Well beyond the sites, so that lines reach the edges.
        let beyond = high.max(wide);
        let lats = (self.bounds.lat_min - beyond).max(-88.0)..=(self.bounds.lat_max + beyond).min(88.0);
        let lons = (self.bounds.lon_min - beyond).max(-180.0)..=(self.bounds.lon_max + beyond).min(180.0);
        for lat in multiples(&lats, step) {
            let line = self.visible(samples(&lons).map(|lon| (lat, lon)));
            let Some((x, y)) = line.first() else { continue };
            sheet.draw(&PathElement::new(line.clone(), GRID.stroke_width(1)))?;
            // At the left edge, above what stands at the lower one.
            if *x <= 0 && *y < self.height as i32 - 30 {
                let label = Text::new(
                    degrees(lat, ['N', 'S']),
                    (6, y - 4),
                    around(12, MUTED, HPos::Left, VPos::Bottom),
                );
                sheet.draw(&label)?;
            }
        }
        for lon in multiples(&lons, step) {
            let line = self.visible(samples(&lats).map(|lat| (lat, lon)));
            let Some((x, y)) = line.first() else { continue };
            sheet.draw(&PathElement::new(line.clone(), GRID.stroke_width(1)))?;
            // At the lower edge: samples go north.
            if *y >= self.height as i32 && (24..WIDTH as i32 - 24).contains(x) {
                let at = (x + 4, self.height as i32 - 4);
                let label =
                    Text::new(degrees(lon, ['E', 'W']), at, around(12, MUTED, HPos::Left, VPos::Bottom));
                sheet.draw(&label)?;
            }
        }
        Ok(())
    }

    /// Names of cities, over the sites: where there is most smoke there are most sites.
    fn cities(&self) -> String {
        let mut named: Vec<(f64, f64, f64)> = Vec::new();
        let mut labels =
            "<g id=\"places\" font-family=\"sans-serif\" font-size=\"12\" pointer-events=\"none\">\n"
                .to_owned();
        for (name, lat, lon) in CITIES {
            let (x, y) = self.at(lat, lon);
            let end = x + 8.0 + 6.5 * name.len() as f64;
            let is_free = named.iter().all(|(from, to, at)| end < *from || x > *to || (at - y).abs() > 15.0);
            // What stands at the edges is cut off, or lies over degrees.
            let is_clear =
                x > 0.0 && end < f64::from(WIDTH) && (14.0..f64::from(self.height) - 22.0).contains(&y);
            if is_clear && is_free {
                named.push((x, end, y));
                let colour = hex((INK.0, INK.1, INK.2));
                let (text, middle) = (x + 5.0, y + 4.0);
                writeln!(
                    labels,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\" fill=\"{colour}\"/>\
                     <text x=\"{text:.1}\" y=\"{middle:.1}\" fill=\"{colour}\">{name}</text>"
                )
                .expect("writing to memory succeeds");
            }
        }
        labels + "</g>\n"
    }

    fn is_inside(&self, (x, y): (i32, i32)) -> bool {
        (0..=WIDTH as i32).contains(&x) && (0..=self.height as i32).contains(&y)
    }

    /// The points inside the picture, and one on either side of them.
    fn visible(&self, places: impl Iterator<Item = (f64, f64)>) -> Vec<(i32, i32)> {
        let points: Vec<(i32, i32)> = places.map(|(lat, lon)| whole(self.at(lat, lon))).collect();
        let (first, last) = (
            points.iter().position(|at| self.is_inside(*at)),
            points.iter().rposition(|at| self.is_inside(*at)),
        );
        match (first, last) {
            (Some(first), Some(last)) => {
                points[first.saturating_sub(1)..(last + 2).min(points.len())].to_vec()
            }
            _ => Vec::new(),
        }
    }
}

/// Degrees between two lines.
fn step(extent: f64) -> f64 {
    let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
    steps.into_iter().find(|step| extent / step <= MOST_LINES).unwrap_or(30.0)
}

fn multiples(range: &RangeInclusive<f64>, step: f64) -> impl Iterator<Item = f64> + use<> {
    let (first, last) = ((range.start() / step).ceil() as i32, (range.end() / step).floor() as i32);
    (first..=last).map(move |index| f64::from(index) * step)
}

fn samples(range: &RangeInclusive<f64>) -> impl Iterator<Item = f64> + use<> {
    let (start, end) = (*range.start(), *range.end());
    (0..=160).map(move |step| start + (end - start) * f64::from(step) / 160.0)
}

fn whole((x, y): (f64, f64)) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

/// `45°N`, with as many digits as the graticule needs.
fn degrees(value: f64, [positive, negative]: [char; 2]) -> String {
    let shown = (value.abs() * 10.0).round() / 10.0;
    match value {
        0.0 => "0°".to_owned(),
        value if value > 0.0 => format!("{shown}°{positive}"),
        _ => format!("{shown}°{negative}"),
    }
}
