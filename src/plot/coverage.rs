//! A plan and what became of it: days from left to right, nodes from top to bottom.
//!
//! An outline is a holder, a thick one the holder that was planned to answer, a filled cell the one that did. So a day that
//! another node answered than was planned, after a failure, shows as both.

use plotters::element::{PathElement, Rectangle, Text};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::canvas::{ACCENT, ALARM, Drawn, GRID, INK, MUTED, Sheet, around, faint, picture};
use super::series::short;
use crate::day::Day;

const WIDTH: i32 = 960;
const LEFT: i32 = 96;
const RIGHT: i32 = 16;
const TOP: i32 = 34;
const ROW: i32 = 26;
const BELOW: i32 = 56;

/// One day.
#[derive(Clone, Debug, PartialEq)]
pub struct CoverageDay {
    /// The day.
    pub day: Day,
    /// Who holds it.
    pub holders: Vec<String>,
    /// Who was planned to answer for it.
    pub planned: Option<String>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This node answered for it, with so many rows.
    Served {
        /// The node.
        node: String,
        /// Rows that match.
        rows: u64,
    },
    /// Statistics show that no row matches.
    Pruned,
    /// There are no files for it.
    NoData,
    /// The days before it filled the limit.
    BeyondLimit,
    /// Nobody could answer for it.
    Missing,
}

/// A plan, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// What it shows, in a sentence.
    pub title: String,
    /// In order.
    pub days: Vec<CoverageDay>,
}

impl Coverage {
    /// Days that a picture has room for.
    pub const MOST_DAYS: usize = 400;

    /// The picture.
    pub fn svg(&self) -> String {
        let height = TOP + ROW * (self.lanes().len() as i32 + 1) + BELOW;
        picture((WIDTH as u32, height as u32), &self.title, |sheet| self.draw(sheet), "")
    }

    /// The nodes that hold anything, in order.
    fn lanes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> =
            self.days.iter().flat_map(|day| &day.holders).map(String::as_str).collect();
        nodes.extend(self.days.iter().filter_map(|day| match &day.fate {
            Fate::Served { node, .. } => Some(node.as_str()),
            _ => None,
        }));
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    fn draw<'a>(&self, sheet: &Sheet<'a>) -> Drawn<'a> {
        let lanes = self.lanes();
        let count = self.days.len().max(1) as i32;
        let left = |index: usize| LEFT + (WIDTH - LEFT - RIGHT) * index as i32 / count;
        let top = |lane: usize| TOP + ROW * lane as i32;
        let most = self.days.iter().map(|day| day.rows()).max().unwrap_or(0).max(1);
        for (lane, node) in lanes.iter().copied().chain(["nobody"]).enumerate() {
            let label = if node == "nobody" { node.to_owned() } else { format!("node {node}") };
            let at = (LEFT - 10, top(lane) + ROW / 2);
            sheet.draw(&Text::new(label, at, around(13, INK, HPos::Right, VPos::Center)))?;
            let line = [(LEFT, top(lane) + ROW), (WIDTH - RIGHT, top(lane) + ROW)];
            sheet.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
        }
        let mut last_label = -WIDTH;
        for (index, day) in self.days.iter().enumerate() {
            let (x0, x1) = (left(index) + 1, (left(index + 1) - 1).max(left(index) + 2));
            if x0 - last_label >= 56 {
                last_label = x0;
                let at = (x0, TOP - 8);
                sheet.draw(&Text::new(short(day.day), at, around(12, MUTED, HPos::Left, VPos::Bottom)))?;
            }
            for (lane, node) in lanes.iter().enumerate() {
                let cell = [(x0, top(lane) + 4), (x1, top(lane) + ROW - 4)];
                day.draw(sheet, node, cell, most)?;
            }
            let middle = ((x0 + x1) / 2, top(lanes.len()) + ROW / 2);
            if let Some((sign, colour)) = day.fate.sign() {
                sheet.draw(&Text::new(sign, middle, around(14, colour, HPos::Center, VPos::Center)))?;
            }
        }
        self.key(sheet, top(lanes.len() + 1) + 20)
    }

    fn key<'a>(&self, sheet: &Sheet<'a>, y: i32) -> Drawn<'a> {
        let words = |at, text: &'static str| Text::new(text, at, around(12, INK, HPos::Left, VPos::Center));
        let x = LEFT;
        sheet.draw(&Rectangle::new([(x, y - 7), (x + 16, y + 7)], faint(ACCENT, 0.75)))?;
        sheet.draw(&words((x + 22, y), "answered (fuller: more rows)"))?;
        sheet.draw(&Rectangle::new([(x + 250, y - 7), (x + 266, y + 7)], ACCENT.stroke_width(1)))?;
        sheet.draw(&PathElement::new([(x + 250, y + 7), (x + 267, y + 7)], INK.stroke_width(3)))?;
        sheet.draw(&words((x + 272, y), "planned"))?;
        sheet.draw(&Rectangle::new([(x + 360, y - 7), (x + 376, y + 7)], GRID.stroke_width(1)))?;
        sheet.draw(&words((x + 382, y), "holds the day too"))?;
        let y = y + 22;
        let signs = [
            (Fate::NoData, "no data", 0),
            (Fate::Pruned, "no row can match", 110),
            (Fate::BeyondLimit, "beyond the limit", 280),
            (Fate::Missing, "missing", 430),
        ];
        for (fate, text, offset) in signs {
            let (sign, colour) = fate.sign().unwrap_or(("", INK));
            sheet.draw(&Text::new(
                sign,
                (x + offset + 8, y),
                around(14, colour, HPos::Center, VPos::Center),
            ))?;
            sheet.draw(&words((x + offset + 22, y), text))?;
        }
        Ok(())
    }
}

impl CoverageDay {
    fn rows(&self) -> u64 {
        match self.fate {
            Fate::Served { rows, .. } => rows,
            _ => 0,
        }
    }

    /// The cell of one node.
    fn draw<'a>(&self, sheet: &Sheet<'a>, node: &str, cell: [(i32, i32); 2], most: u64) -> Drawn<'a> {
        let answered = matches!(&self.fate, Fate::Served { node: by, .. } if by == node);
        let [(x0, _), (x1, y1)] = cell;
        if answered {
            // Of a day without rows there is still something to see.
            let alpha = 0.25 + 0.75 * self.rows() as f64 / most as f64;
            sheet.draw(&Rectangle::new(cell, faint(ACCENT, alpha)))?;
        } else if self.holders.iter().any(|holder| holder == node) {
            sheet.draw(&Rectangle::new(cell, GRID.stroke_width(1)))?;
        }
        if self.planned.as_deref() == Some(node) {
            sheet.draw(&PathElement::new([(x0, y1), (x1, y1)], INK.stroke_width(3)))?;
        }
        Ok(())
    }
}

impl Fate {
    /// What stands for it where nobody answered.
    fn sign(&self) -> Option<(&'static str, plotters::style::RGBColor)> {
        match self {
            Fate::Served { .. } => None,
            Fate::Pruned => Some(("–", MUTED)),
            Fate::NoData => Some(("∅", MUTED)),
            Fate::BeyondLimit => Some(("…", MUTED)),
            Fate::Missing => Some(("×", ALARM)),
        }
    }
}
