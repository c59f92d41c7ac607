//! What was measured, beside what it is compared with and what it should come to.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::report::{BarChart, Page, Table, Text};

/// What is measured in every round, or once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the table below names each in words")]
pub enum Measure {
    SameFilter,
    SameFilterCpu,
    WireSameFilter,
    NewFilters,
    NewFiltersCpu,
    WireNewFilters,
    OldSameFilter,
    WireOldSameFilter,
    SteadyP50,
    SteadyP99,
    SteadyP999,
    Drain,
    OneProcessDrain,
    WireDrain,
    DuckDbFilter,
    PolarsFilter,
    FirstRow,
    WireFirstRow,
    OldJson,
    WireOldJson,
    DuckDbJson,
    PolarsJson,
    Aggregate,
    DuckDbAggregate,
    PolarsAggregate,
    Load,
    ParseOnly,
    DuckDbLoad,
    PolarsLoad,
    Start,
    BytesARow,
    PeakOfDrains,
    Peak,
    Binary,
}

/// What a figure should come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    /// This part of the reference, or more.
    AtLeast(f64),
    /// So many times the reference, or less.
    AtMost(f64),
    /// So much more than the reference, or less.
    Beyond(f64),
    /// This much, or less, whatever others do.
    Within(f64),
    /// It is told, and not judged.
    Told,
}

/// A line of the table.
struct Line {
    work: &'static str,
    unit: &'static str,
    ours: Measure,
    reference: Option<(&'static str, Measure)>,
    target: Target,
}

const fn line(
    work: &'static str,
    unit: &'static str,
    ours: Measure,
    reference: (&'static str, Measure),
    target: Target,
) -> Line {
    Line { work, unit, ours, reference: Some(reference), target }
}

const fn alone(work: &'static str, unit: &'static str, ours: Measure, target: Target) -> Line {
    Line { work, unit, ours, reference: None, target }
}

const WIRE: &str = "bare server";
const ONE_PROCESS: &str = "one process, one thread";
const DUCKDB: &str = "DuckDB";
const POLARS: &str = "Polars";

/// The table, from above. Targets are those that the project has set itself.
const LINES: [Line; 25] = {
    use Measure::*;
    use Target::*;
    [
        line("query and first chunk, same filter", "1/s", SameFilter, (WIRE, WireSameFilter), AtLeast(0.6)),
        line("the same, always a new filter", "1/s", NewFilters, (WIRE, WireNewFilters), AtLeast(0.25)),
        alone("processor time of all nodes for one, same filter", "us", SameFilterCpu, Told),
        alone("processor time of all nodes for one, new filter", "us", NewFiltersCpu, Told),
        line("old contract, same filter", "1/s", OldSameFilter, (WIRE, WireOldSameFilter), Told),
        line("p99 at half that rate", "ms", SteadyP99, ("p50", SteadyP50), AtMost(5.0)),
        line("p99.9 at half that rate", "ms", SteadyP999, ("p50", SteadyP50), Told),
        line("drain, Arrow", "ms", Drain, (ONE_PROCESS, OneProcessDrain), AtMost(5.0)),
        line("drain, Arrow", "ms", Drain, (DUCKDB, DuckDbFilter), AtMost(0.7)),
        line("drain, Arrow", "ms", Drain, (POLARS, PolarsFilter), Told),
        line("drain, Arrow", "ms", Drain, (WIRE, WireDrain), Told),
        line("first row of that drain", "ms", FirstRow, (WIRE, WireFirstRow), Beyond(3.0)),
        line("drain, JSON, old contract", "ms", OldJson, (WIRE, WireOldJson), AtMost(2.0)),
        line("drain, JSON, old contract", "ms", OldJson, (DUCKDB, DuckDbJson), Told),
        line("drain, JSON, old contract", "ms", OldJson, (POLARS, PolarsJson), Told),
        line("mean by site and day", "ms", Aggregate, (DUCKDB, DuckDbAggregate), AtMost(0.25)),
        line("mean by site and day", "ms", Aggregate, (POLARS, PolarsAggregate), Told),
        line("load all files, two threads", "ms", Load, ("csv crate, parse only", ParseOnly), AtMost(1.0)),
        line("load all files, two threads", "ms", Load, (DUCKDB, DuckDbLoad), Told),
        line("load all files, two threads", "ms", Load, (POLARS, PolarsLoad), Told),
        alone("start until health is answered", "ms", Start, Within(50.0)),
        alone("memory of the store", "bytes/row", BytesARow, Within(20.0)),
        alone("peak of all six processes, drains and means", "MB", PeakOfDrains, Within(200.0)),
        alone("peak of all six processes, all of this", "MB", Peak, Told),
        alone("binary", "MB", Binary, Within(30.0)),
    ]
};

/// What was measured, in the order of measuring.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Samples(BTreeMap<Measure, Vec<f64>>);

impl Samples {
    pub(super) fn add(&mut self, measure: Measure, value: f64) {
        self.0.entry(measure).or_default().push(value);
    }

    /// Whether nothing was measured yet.
    pub(super) fn is_first(&self, measure: Measure) -> bool {
        !self.0.contains_key(&measure)
    }

    /// The one that was measured last.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn last(&self, measure: Measure) -> f64 {
        *self.0[&measure].last().expect("it was measured")
    }

    fn median(&self, measure: Measure) -> Option<f64> {
        let mut values = self.0.get(&measure)?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub work: &'static str,
    /// Of both figures.
    pub unit: &'static str,
    /// Median over rounds.
    pub ours: f64,
    /// What it is compared with, and its median.
    pub reference: Option<(&'static str, f64)>,
    /// Ours over the reference.
    pub ratio: Option<f64>,
    target: Target,
    /// Whether the target is met; `None` where there is none.
    pub is_met: Option<bool>,
}

/// All rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Of the machine.
    pub cores: usize,
    /// Rows that all nodes together answer for.
    pub rows: u64,
    /// How often everything was measured.
    pub rounds: usize,
    /// DuckDB's and Polars' versions, if they were there.
    pub peers: Option<[String; 2]>,
    /// The table; lines whose reference was not measured are left out.
    pub figures: Vec<Figure>,
    /// Every round's figures.
    samples: Samples,
}

impl Figure {
    fn of(line: &Line, samples: &Samples) -> Option<Self> {
        let ours = samples.median(line.ours)?;
        let reference = match line.reference {
            Some((name, measure)) => Some((name, samples.median(measure)?)),
            None => None,
        };
        let ratio = reference.map(|(_, reference)| ours / reference);
        let is_met = match (line.target, reference) {
            (Target::AtLeast(least), Some((_, reference))) => Some(ours >= least * reference),
            (Target::AtMost(most), Some((_, reference))) => Some(ours <= most * reference),
            (Target::Beyond(most), Some((_, reference))) => Some(ours <= reference + most),
            (Target::Within(most), _) => Some(ours <= most),
            (Target::Told | Target::AtLeast(_) | Target::AtMost(_) | Target::Beyond(_), _) => None,
        };
        Some(Figure { work: line.work, unit: line.unit, ours, reference, ratio, target: line.target, is_met })
    }

    fn cells(&self) -> [String; 6] {
        let number = |value: f64| match value {
            value if value >= 100.0 => format!("{value:.0}"),
            value if value >= 10.0 => format!("{value:.1}"),
            value => format!("{value:.2}"),
        };
        let unit = self.unit;
        let (name, reference) = self.reference.map_or_else(Default::default, |(name, reference)| {
            (name.to_owned(), format!("{} {unit}", number(reference)))
        });
        let target = match self.target {
            Target::AtLeast(least) => format!("at least {least}"),
            Target::AtMost(most) => format!("at most {most}"),
            Target::Beyond(most) => format!("at most {most} {unit} more"),
            Target::Within(most) => format!("at most {most} {unit}"),
            Target::Told => String::new(),
        };
        let target = match self.is_met {
            Some(true) => format!("{target}: met"),
            Some(false) => format!("{target}: MISSED"),
            None => target,
        };
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        [self.work.to_owned(), format!("{} {unit}", number(self.ours)), name, reference, ratio, target]
    }
}

const HEADER: [&str; 6] = ["work", "overlay", "beside", "", "ratio", "target"];

impl Report {
    pub(super) fn new(samples: Samples, rounds: usize, rows: u64, peers: Option<[String; 2]>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let figures = LINES.iter().filter_map(|line| Figure::of(line, &samples)).collect();
        Report { cores, rows, rounds, peers, figures, samples }
    }

    /// Whether no target is missed.
    pub fn holds(&self) -> bool {
        self.figures.iter().all(|figure| figure.is_met != Some(false))
    }

    /// The page to look at.
    pub fn page(&self) -> Page {
        let mut page = Page::new("How fast the overlay is");
        page.paragraph(&self.about());
        page.table(&self.table());
        let ratio = |figure: &Figure| {
            let (name, _) = figure.reference?;
            Some((format!("{} : {name}", figure.work), figure.ratio?))
        };
        page.bars(&BarChart {
            title: "Overlay over what it is compared with".to_owned(),
            unit: String::new(),
            bars: self.figures.iter().filter_map(ratio).collect(),
        });
        page
    }

    fn table(&self) -> Table {
        let rows = self.figures.iter().map(|figure| figure.cells().to_vec()).collect();
        Table { head: HEADER.map(String::from).to_vec(), rows }
    }

    fn about(&self) -> String {
        let peers = match &self.peers {
            Some([duckdb, polars]) => format!("DuckDB {duckdb}, Polars {polars}"),
            None => "without DuckDB and Polars, which scripts/compare_peers brings".to_owned(),
        };
        let Report { rounds, rows, cores, .. } = self;
        format!("medians of {rounds} rounds over {rows} rows on {cores} cores; {peers}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Text(&self.table()))?;
        writeln!(formatter, "{}", self.about())
    }
}
