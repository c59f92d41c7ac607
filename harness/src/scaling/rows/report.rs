//! All steps beside each other.

use std::fmt;

use serde::Serialize;

use super::{Question, Step};
use crate::report::{Page, Table};
use crate::scaling::{Claim, Curve, Text, short, show, verdicts};

/// All steps, and how costs grew over them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Medians are over so many.
    pub rounds: usize,
    /// From the smallest to the largest.
    pub steps: Vec<Step>,
    /// One for each cost.
    pub curves: Vec<Curve>,
}

impl Report {
    pub(super) fn new(rounds: usize, steps: Vec<Step>) -> Self {
        let curve = |name: &str, unit, claim, cost: &dyn Fn(&Step) -> Option<f64>| Curve {
            name: name.to_owned(),
            unit,
            against: "rows",
            claim,
            points: steps.iter().filter_map(|step| Some([step.rows as f64, cost(step)?])).collect(),
        };
        let mb = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / 1e6);
        let mut curves = vec![
            curve("load", "seconds", Claim::Linear, &|step| Some(step.load_seconds)),
            curve("memory of holders", "MB", Claim::Linear, &|step| mb(step.holder_bytes)),
        ];
        for (index, question) in Question::ALL.into_iter().enumerate() {
            let (name, claim) = (question.name(), question.claim());
            curves.push(curve(name, "ms", claim, &|step| Some(step.answers[index].ms)));
            let scanned = |step: &Step| Some(step.answers[index].rows_scanned as f64);
            curves.push(curve(name, "rows scanned", claim, &scanned));
        }
        Report { rounds, steps, curves }
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
             twice.",
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
                head.push("ns a row".to_owned());
            }
        }
        Table { head, rows: self.steps.iter().map(row).collect() }
    }
}

fn row(step: &Step) -> Vec<String> {
    let rows = step.rows as f64;
    let known = |number: Option<f64>| number.map_or("-".to_owned(), short);
    let mut cells = vec![
        step.rows.to_string(),
        step.days.to_string(),
        short(step.load_seconds),
        known(step.holder_bytes.map(|bytes| bytes as f64 / rows)),
        known(step.leader_bytes.map(|bytes| bytes as f64 / 1e6)),
    ];
    for answers in &step.answers {
        cells.push(short(answers.ms));
        if answers.question.claim() == Claim::Linear {
            cells.push(short(answers.ms * 1e6 / rows));
        }
    }
    cells
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", Text(&self.table()))?;
        writeln!(formatter, "{}", Text(&verdicts(&self.curves)))?;
        writeln!(
            formatter,
            "medians of {} rounds; the factor is of one row where a cost is linear, else of the cost",
            self.rounds
        )
    }
}
