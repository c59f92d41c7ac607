//! What was measured, beside what it is compared with and what it should come to.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::THREADS;
use crate::report::{BarChart, Origin, Page, Table, Text};

/// What is measured, in every round or once.
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
    SteadyLate,
    SteadyUnanswered,
    Drain,
    FlightDrain,
    HttpDrain,
    JsonDrain,
    HttpLines,
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
const STREAM: &str = "StreamChunks, Arrow";
const STREAM_JSON: &str = "StreamChunks, JSON";
const ONE_PROCESS: &str = "one process, one thread";
const DUCKDB: &str = "DuckDB";
const POLARS: &str = "Polars";
const LOAD: &str = "load all files, two threads (library, in process)";

/// The table, from above. Targets are those that the project has set itself.
const LINES: [Line; 30] = {
    use Measure::*;
    use Target::*;
    [
        line("query and first chunk, same filter", "1/s", SameFilter, (WIRE, WireSameFilter), AtLeast(0.6)),
        line("the same, always a new filter", "1/s", NewFilters, (WIRE, WireNewFilters), AtLeast(0.25)),
        line("p99 at half the rate of new filters", "ms", SteadyP99, ("p50", SteadyP50), AtMost(5.0)),
        line("p99.9 at half the rate of new filters", "ms", SteadyP999, ("p50", SteadyP50), Told),
        line("late sending at that rate, median", "ms", SteadyLate, ("p50", SteadyP50), Told),
        alone("not answered at that rate, worst round", "queries", SteadyUnanswered, Within(0.0)),
        alone("processor time of all nodes for one, same filter", "us", SameFilterCpu, Told),
        alone("processor time of all nodes for one, new filter", "us", NewFiltersCpu, Told),
        line("old contract, same filter", "1/s", OldSameFilter, (WIRE, WireOldSameFilter), Told),
        line("drain, Arrow", "ms", Drain, (ONE_PROCESS, OneProcessDrain), AtMost(5.0)),
        line("drain, Arrow", "ms", Drain, (DUCKDB, DuckDbFilter), AtMost(0.7)),
        line("drain, Arrow", "ms", Drain, (POLARS, PolarsFilter), Told),
        line("drain, Arrow", "ms", Drain, (WIRE, WireDrain), Told),
        line("drain, Arrow Flight", "ms", FlightDrain, (STREAM, Drain), AtMost(1.3)),
        line("drain, HTTP, Arrow", "ms", HttpDrain, (STREAM, Drain), AtMost(2.0)),
        line("drain, HTTP, NDJSON", "ms", HttpLines, (STREAM_JSON, JsonDrain), AtMost(2.0)),
        line("first row of that drain", "ms", FirstRow, (WIRE, WireFirstRow), Beyond(3.0)),
        line("drain, JSON, old contract", "ms", OldJson, (WIRE, WireOldJson), AtMost(2.0)),
        line("drain, JSON, old contract", "ms", OldJson, (DUCKDB, DuckDbJson), Told),
        line("drain, JSON, old contract", "ms", OldJson, (POLARS, PolarsJson), Told),
        line("mean by site and day", "ms", Aggregate, (DUCKDB, DuckDbAggregate), AtMost(0.25)),
        line("mean by site and day", "ms", Aggregate, (POLARS, PolarsAggregate), Told),
        line(LOAD, "ms", Load, ("csv crate, parse only", ParseOnly), AtMost(1.0)),
        line(LOAD, "ms", Load, (DUCKDB, DuckDbLoad), Told),
        line(LOAD, "ms", Load, (POLARS, PolarsLoad), Told),
        alone("start until health is answered", "ms", Start, Within(50.0)),
        alone("memory of the store (library, in process)", "bytes/row", BytesARow, Within(20.0)),
        alone("peak of all six processes, drains and means", "MB", PeakOfDrains, Told),
        alone("peak of all six processes, all of this", "MB", Peak, Within(200.0)),
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

    /// The one that was measured last.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn last(&self, measure: Measure) -> f64 {
        *self.0[&measure].last().expect("it was measured")
    }

    /// How often it was measured.
    fn count(&self, measure: Measure) -> usize {
        self.0.get(&measure).map_or(0, Vec::len)
    }

    /// The median over rounds; the most of what no round may have.
    fn over_rounds(&self, measure: Measure) -> Option<f64> {
        let mut values = self.0.get(&measure)?.clone();
        values.sort_by(f64::total_cmp);
        match measure {
            Measure::SteadyUnanswered => values.last().copied(),
            _ => values.get(values.len() / 2).copied(),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub work: &'static str,
    /// Of both figures.
    pub unit: &'static str,
    /// Over all rounds; `None`: it was not measured.
    pub ours: Option<f64>,
    /// Whether it was measured once and not in each round.
    pub is_once: bool,
    /// What it is compared with, likewise over all rounds.
    pub reference: Option<(&'static str, Option<f64>)>,
    /// Ours over the reference.
    pub ratio: Option<f64>,
    target: Target,
    /// Whether the target is met; `None` where there is none, or a figure for it.
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
    /// Whether this build, which the nodes' goes with, is not optimised.
    pub is_debug_build: bool,
    /// The table.
    pub figures: Vec<Figure>,
    /// Every round's figures.
    samples: Samples,
}

impl Figure {
    fn of(line: &Line, samples: &Samples, rounds: usize) -> Self {
        let Line { work, unit, target, .. } = *line;
        let ours = samples.over_rounds(line.ours);
        let is_once = samples.count(line.ours) == 1 && rounds > 1;
        let reference = line.reference.map(|(name, measure)| (name, samples.over_rounds(measure)));
        let both = ours.zip(reference.and_then(|(_, reference)| reference));
        let ratio = both.map(|(ours, reference)| ours / reference);
        let is_met = match target {
            Target::AtLeast(least) => both.map(|(ours, reference)| ours >= least * reference),
            Target::AtMost(most) => both.map(|(ours, reference)| ours <= most * reference),
            Target::Beyond(most) => both.map(|(ours, reference)| ours <= reference + most),
            Target::Within(most) => ours.map(|ours| ours <= most),
            Target::Told => None,
        };
        Figure { work, unit, ours, is_once, reference, ratio, target, is_met }
    }

    fn cells(&self) -> [String; 6] {
        let unit = self.unit;
        let number = |value: Option<f64>| match value {
            None => "not measured".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0} {unit}"),
            Some(value) if value >= 10.0 => format!("{value:.1} {unit}"),
            Some(value) => format!("{value:.2} {unit}"),
        };
        let work = format!("{}{}", self.work, if self.is_once { ", measured once" } else { "" });
        let (name, reference) = self
            .reference
            .map_or_else(Default::default, |(name, reference)| (name.to_owned(), number(reference)));
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
        [work, number(self.ours), name, reference, ratio, target]
    }
}

const HEADER: [&str; 6] = ["work", "overlay", "beside", "", "ratio", "target"];

impl Report {
    pub(super) fn new(samples: Samples, rounds: usize, rows: u64, peers: Option<[String; 2]>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let figures = LINES.iter().map(|line| Figure::of(line, &samples, rounds)).collect();
        Report { cores, rows, rounds, peers, is_debug_build: cfg!(debug_assertions), figures, samples }
    }

    /// The page to look at.
    pub fn page(&self) -> Page {
        let mut page = Page::new("How fast the overlay is");
        page.paragraph(&self.about());
        page.paragraph(&format!("Measured with {}.", Origin::measured()));
        page.table(&self.table());
        let ratio = |figure: &&Figure| {
            let (name, _) = figure.reference?;
            Some((format!("{} : {name}", figure.work), figure.ratio?))
        };
        let (rates, times): (Vec<&Figure>, Vec<&Figure>) =
            self.figures.iter().partition(|figure| figure.unit == "1/s");
        for (title, figures) in [("Rates, more is better", rates), ("Times, less is better", times)] {
            page.bars(&BarChart {
                title: format!("{title}: overlay over what it is compared with"),
                unit: String::new(),
                bars: figures.iter().filter_map(ratio).collect(),
            });
        }
        page
    }

    fn table(&self) -> Table {
        let rows = self.figures.iter().map(|figure| figure.cells().to_vec()).collect();
        Table { head: HEADER.map(String::from).to_vec(), rows }
    }

    fn about(&self) -> String {
        let peers = match &self.peers {
            Some([duckdb, polars]) => {
                format!("DuckDB {duckdb}, Polars {polars}, {THREADS} threads each")
            }
            None => "without DuckDB and Polars, which scripts/compare_peers brings".to_owned(),
        };
        let build = if self.is_debug_build { "; a DEBUG BUILD, whose figures mean nothing" } else { "" };
        let Report { rounds, rows, cores, .. } = self;
        format!("medians of {rounds} rounds over {rows} rows on {cores} cores; {peers}{build}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Text(&self.table()))?;
        writeln!(formatter, "{}", self.about())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of a line with this target, over three rounds of ours and of the reference.
    fn cells(target: Target, ours: &[f64], reference: &[f64]) -> [String; 6] {
        let mut samples = Samples::default();
        ours.iter().for_each(|value| samples.add(Measure::Drain, *value));
        reference.iter().for_each(|value| samples.add(Measure::WireDrain, *value));
        let line = line("drain", "ms", Measure::Drain, (WIRE, Measure::WireDrain), target);
        Figure::of(&line, &samples, 3).cells()
    }

    fn verdict(target: Target, ours: f64, reference: f64) -> String {
        let [.., verdict] = cells(target, &[ours; 3], &[reference; 3]);
        verdict
    }

    #[test]
    fn targets_are_met_up_to_their_bound_and_missed_beyond() {
        let verdicts = |target, met, missed| [verdict(target, met, 10.0), verdict(target, missed, 10.0)];
        let least = verdicts(Target::AtLeast(0.5), 5.0, 4.9);
        assert_eq!(least, ["at least 0.5: met", "at least 0.5: MISSED"]);
        let most = verdicts(Target::AtMost(2.0), 20.0, 20.1);
        assert_eq!(most, ["at most 2: met", "at most 2: MISSED"]);
        let beyond = verdicts(Target::Beyond(3.0), 13.0, 13.1);
        assert_eq!(beyond, ["at most 3 ms more: met", "at most 3 ms more: MISSED"]);
        let within = verdicts(Target::Within(50.0), 50.0, 50.1);
        assert_eq!(within, ["at most 50 ms: met", "at most 50 ms: MISSED"]);
        assert_eq!(verdicts(Target::Told, 1.0, 99.0), ["", ""]);
    }

    #[test]
    fn figures_are_medians_of_rounds_beside_their_reference() {
        let cells = cells(Target::AtMost(2.0), &[300.0, 20.0, 1.0], &[10.0, 8.0, 10.0]);
        assert_eq!(cells, ["drain", "20.0 ms", "bare server", "10.0 ms", "2.00", "at most 2: met"]);
    }

    #[test]
    fn what_was_not_measured_says_so_and_meets_nothing() {
        let without = cells(Target::AtMost(2.0), &[20.0; 3], &[]);
        assert_eq!(without, ["drain", "20.0 ms", "bare server", "not measured", "", "at most 2"]);
        assert_eq!(cells(Target::Within(2.0), &[], &[10.0; 3])[1], "not measured");
    }

    #[test]
    fn what_was_measured_once_says_so() {
        assert_eq!(cells(Target::Told, &[20.0], &[10.0; 3])[0], "drain, measured once");
    }

    /// Goal: one round in which the node falls behind is not lost among others in which it does not.
    #[test]
    fn queries_that_are_not_answered_are_those_of_the_worst_round() {
        let mut samples = Samples::default();
        [0.0, 7.0, 0.0].iter().for_each(|value| samples.add(Measure::SteadyUnanswered, *value));
        let line = LINES.iter().find(|line| line.ours == Measure::SteadyUnanswered).expect("a line");
        assert_eq!(Figure::of(line, &samples, 3).is_met, Some(false));
    }
}
