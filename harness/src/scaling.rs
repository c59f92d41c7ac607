//! How costs grow: with the rows that an overlay holds, and with its nodes.
//!
//! [`rows`] starts six processes over more and more days and takes times; [`nodes`] simulates larger and larger overlays
//! and counts messages and bytes, which come out the same each time. Both come to [`Curve`]s: a cost, what it is held
//! against, and what is claimed of the two.

pub mod nodes;
pub mod rows;

use serde::Serialize;

use crate::report::{Axis, LineChart, Page, Series, Table};

/// A cost may grow by this factor beyond what is claimed of it: a machine does other things too.
const TOLERATED: f64 = 2.0;

/// Costs that differ by less than this part are the same: a rise is not told from what varies by itself.
const SAME: f64 = 0.1;

/// What [`Curve::factor`] is, as reports have it.
const FACTOR: &str = "how many times as steeply a linear cost rises in the last step as before, or how many times as much a \
                      flat one is at the largest size as at the smallest";

/// How a cost is said to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// No faster than what it is held against, beside what it costs at any size.
    Linear,
    /// Not at all.
    Flat,
}

/// One cost at several sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// What it is the cost of.
    pub name: String,
    /// Of the cost.
    pub unit: &'static str,
    /// What it is held against.
    pub against: &'static str,
    /// What is said of it.
    pub claim: Claim,
    /// Size and cost, from the smallest size to the largest.
    pub points: Vec<[f64; 2]>,
}

impl Curve {
    /// How often the claim is exceeded: how many times as steeply a linear cost rises in the last step as it did before, so
    /// that what it costs at any size hides nothing, or how many times as much a flat one is at the largest size as at the
    /// smallest. Of two sizes, the smaller one's rise is from nothing. `None` where there are no two sizes.
    pub fn factor(&self) -> Option<f64> {
        let mut points = self.points.clone();
        points.sort_by(|[left, _], [right, _]| left.total_cmp(right));
        points.dedup_by_key(|[size, _]| *size);
        let [smallest, .., largest] = points[..] else { return None };
        let growth = |from: f64, to: f64| if from == to { 1.0 } else { to / from };
        if self.claim == Claim::Flat {
            return Some(growth(smallest[1], largest[1]));
        }
        let before = points[points.len() - 2];
        let earlier = match points.len() {
            2 => slope([0.0; 2], smallest),
            _ => slope(smallest, before).max(SAME * before[1] / (before[0] - smallest[0])),
        };
        Some(growth(earlier, slope(before, largest).max(0.0)))
    }

    /// Whether the cost grows as is claimed, or less; nothing contradicts a claim at one size.
    pub fn holds(&self) -> bool {
        self.factor().is_none_or(|factor| factor <= TOLERATED)
    }

    fn verdict(&self) -> &'static str {
        match (self.holds(), self.factor(), self.claim) {
            (_, None, _) => "one size only",
            (true, _, Claim::Linear) => "linear",
            (true, _, Claim::Flat) => "flat",
            (false, _, Claim::Linear) => "NOT LINEAR",
            (false, _, Claim::Flat) => "NOT FLAT",
        }
    }
}

/// Cost for each row, node or day between two sizes.
fn slope([small, low]: [f64; 2], [large, high]: [f64; 2]) -> f64 {
    (high - low) / (large - small)
}

/// What became of each claim.
fn verdicts(curves: &[Curve]) -> Table {
    let head = ["cost", "unit", "against", "smallest", "largest", "factor", "verdict"];
    let row = |curve: &Curve| {
        let cost = |point: Option<&[f64; 2]>| point.map_or("-".to_owned(), |[_, cost]| short(*cost));
        vec![
            curve.name.clone(),
            curve.unit.to_owned(),
            curve.against.to_owned(),
            cost(curve.points.first()),
            cost(curve.points.last()),
            curve.factor().map_or("-".to_owned(), |factor| format!("{factor:.2}")),
            curve.verdict().to_owned(),
        ]
    };
    Table { head: head.map(str::to_owned).into(), rows: curves.iter().map(row).collect() }
}

/// Adds the verdicts, and a chart for each pair of units, over logarithmic axes: what is linear rises by one power of ten
/// with each.
fn show(page: &mut Page, curves: &[Curve]) {
    page.paragraph(&format!("The factor is {FACTOR}."));
    page.table(&verdicts(curves));
    let mut drawn: Vec<(&str, &str)> = Vec::new();
    for curve in curves {
        let axes = (curve.against, curve.unit);
        if drawn.contains(&axes) {
            continue;
        }
        drawn.push(axes);
        let alike = curves.iter().filter(|other| (other.against, other.unit) == axes);
        let series = |curve: &Curve| {
            Series::new(&curve.name, curve.points.iter().map(|[size, cost]| (*size, *cost)).collect())
        };
        page.lines(&LineChart {
            title: format!("{} against {}", curve.unit, curve.against),
            x: Axis::log(curve.against),
            y: Axis::log(curve.unit),
            series: alike.map(series).collect(),
        });
    }
}

/// Three digits of a small number, all of a large one before the point.
fn short(number: f64) -> String {
    let decimals = match number.abs() {
        _ if number.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(claim: Claim, points: &[[f64; 2]]) -> Curve {
        let (name, unit, against) = ("scan".to_owned(), "ms", "rows");
        Curve { name, unit, against, claim, points: points.to_vec() }
    }

    /// Ten times the rows cost 28 times as much: each of the first ten 0.2, each that is added 0.6.
    #[test]
    fn factor_is_of_the_rise_where_a_cost_is_linear_and_of_the_cost_where_it_is_flat() {
        let points = [[10.0, 2.0], [100.0, 56.0]];
        assert_eq!(curve(Claim::Linear, &points).factor().map(f64::round), Some(3.0));
        assert_eq!(curve(Claim::Flat, &points).factor(), Some(28.0));
        assert_eq!(curve(Claim::Linear, &points).verdict(), "NOT LINEAR");
        assert_eq!(curve(Claim::Flat, &points).verdict(), "NOT FLAT");
    }

    /// Goal: a square does not hide behind what it costs at any size, though 64 times the rows cost five times as much here.
    #[test]
    fn square_over_a_large_fixed_cost_is_not_linear() {
        let cost = |size: f64, rise: f64| [size, 1000.0 + rise];
        let square = [1.0, 4.0, 16.0, 64.0].map(|size| cost(size, size * size));
        assert_eq!(curve(Claim::Linear, &square).verdict(), "NOT LINEAR");
        let line = [1.0, 4.0, 16.0, 64.0].map(|size| cost(size, 100.0 * size));
        assert_eq!(curve(Claim::Linear, &line).verdict(), "linear");
    }

    #[test]
    fn rise_that_is_told_from_nothing_only_at_the_last_size_is_linear() {
        let memory = [[10.0, 30.2], [40.0, 29.9], [160.0, 30.4], [640.0, 43.6]];
        assert_eq!(curve(Claim::Linear, &memory).verdict(), "linear");
    }

    #[test]
    fn claims_hold_up_to_twice_their_cost() {
        assert!(curve(Claim::Linear, &[[10.0, 2.0], [100.0, 37.0]]).holds());
        assert!(curve(Claim::Flat, &[[10.0, 2.0], [100.0, 4.0]]).holds());
        assert!(!curve(Claim::Flat, &[[10.0, 0.0], [100.0, 1.0]]).holds(), "what was free is not any more");
        assert!(curve(Claim::Flat, &[[10.0, 0.0], [100.0, 0.0]]).holds());
    }

    #[test]
    fn one_size_contradicts_nothing() {
        let alone = curve(Claim::Linear, &[[10.0, 2.0]]);
        assert_eq!((alone.factor(), alone.holds(), alone.verdict()), (None, true, "one size only"));
        let twice = curve(Claim::Linear, &[[10.0, 2.0], [10.0, 3.0]]);
        assert_eq!(twice.verdict(), "one size only");
    }
}
