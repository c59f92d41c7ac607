//! All steps beside each other.

use std::fmt;

use serde::Serialize;

use super::{Question, Step};
use crate::report::{Page, Table, Text};
use crate::scaling::{Claim, Curve, FACTOR, short, show, verdicts};

/// All steps, and how costs grew over them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Medians are over so many.
    pub rounds: usize,
    /// From the smallest to the largest.
    pub steps: Vec<Step>,
    /// The days of the smallest step with four times the rows each; `None` where there is one step.
    pub dense: Option<Step>,
    /// One for each cost.
    pub curves: Vec<Curve>,
}

impl Report {
    pub(super) fn new(rounds: usize, steps: Vec<Step>, dense: Option<Step>) -> Self {
        let all: Vec<&Step> = steps.iter().collect();
        let mut curves = vec![
            curve(&all, ["load", "seconds", "rows"], Claim::Linear, |step| Some(step.load_seconds)),
            curve(&all, ["memory of holders", "MB", "rows"], Claim::Linear, |step| mb(step.holder_bytes)),
            curve(&all, ["memory of the leader", "MB", "days"], Claim::Linear, |step| mb(step.leader_bytes)),
        ];
        for question in Question::ALL {
            let (name, against, claim) = (question.name(), question.against(), question.claim());
            curves.push(curve(&all, [name, "ms", against], claim, |step| Some(step.answers(question).ms)));
            let scanned = |step: &Step| Some(step.answers(question).rows_scanned as f64);
            // What is pruned costs its days an entry each, and none is scanned.
            let claim = if question == Question::Pruned { Claim::Flat } else { claim };
            curves.push(curve(&all, [name, "rows scanned", against], claim, scanned));
        }
        if let (Some(smallest), Some(dense)) = (steps.first(), &dense) {
            let both = [smallest, dense];
            let pruned = |step: &Step| Some(step.answers(Question::Pruned).ms);
            let against = "rows of as many days";
            curves.push(curve(&both, ["memory of the leader", "MB", against], Claim::Flat, |step| {
                mb(step.leader_bytes)
            }));
            curves.push(curve(&both, [Question::Pruned.name(), "ms", against], Claim::Flat, pruned));
        }
        Report { rounds, steps, dense, curves }
    }

    /// Whether every cost grows as is claimed, or less.
    pub fn holds(&self) -> bool {
        self.curves.iter().all(Curve::holds)
    }

    /// One HTML file with tables and plots.
    pub fn page(&self) -> Page {
        let mut page = Page::new("Scaling: cost against rows");
        page.paragraph(&format!(
            "Six processes on one machine, each day on one member of its team. Medians of {} rounds; no question is asked \
             twice. The last step has the days of the first, with four times the rows each.",
            self.rounds
        ));
        page.table(&self.table());
        show(&mut page, &self.curves);
        page
    }

    fn table(&self) -> Table {
        let mut head: Vec<String> =
            ["rows", "days", "load s", "bytes a row", "leader MB"].map(str::to_owned).into();
        for question in Question::ALL {
            head.push(format!("{} ms", question.name()));
            if question.claim() == Claim::Linear {
                head.push(format!("ns a {}", question.against().trim_end_matches('s')));
            }
        }
        Table { head, rows: self.steps.iter().chain(&self.dense).map(row).collect() }
    }
}

/// A cost by name and unit over steps, against rows or days.
fn curve(
    steps: &[&Step],
    [name, unit, against]: [&'static str; 3],
    claim: Claim,
    cost: impl Fn(&Step) -> Option<f64>,
) -> Curve {
    let size = |step: &Step| if against == "days" { f64::from(step.days) } else { step.rows as f64 };
    let point = |step: &&Step| Some([size(step), cost(step)?]);
    Curve { name: name.to_owned(), unit, against, claim, points: steps.iter().filter_map(point).collect() }
}

fn mb(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64 / 1e6)
}

fn row(step: &Step) -> Vec<String> {
    let rows = step.rows as f64;
    let known = |number: Option<f64>| number.map_or("-".to_owned(), short);
    let mut cells = vec![
        step.rows.to_string(),
        step.days.to_string(),
        short(step.load_seconds),
        known(step.holder_bytes.map(|bytes| bytes as f64 / rows)),
        known(mb(step.leader_bytes)),
    ];
    for answers in &step.answers {
        cells.push(short(answers.ms));
        if answers.question.claim() == Claim::Linear {
            let size = if answers.question.against() == "days" { f64::from(step.days) } else { rows };
            cells.push(short(answers.ms * 1e6 / size));
        }
    }
    cells
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", Text(&self.table()))?;
        writeln!(formatter, "{}", Text(&verdicts(&self.curves)))?;
        writeln!(formatter, "medians of {} rounds; factor: {FACTOR}", self.rounds)?;
        match self.dense {
            Some(_) => {
                writeln!(formatter, "the last step has the days of the first, with four times the rows each")
            }
            None => Ok(()),
        }
    }
}
