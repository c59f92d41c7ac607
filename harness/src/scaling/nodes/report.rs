//! All overlays beside each other.

use std::fmt;

use serde::Serialize;

use super::{Asked, Size};
use crate::report::{Page, Table, Text};
use crate::scaling::{Claim, Curve, FACTOR, show, verdicts};

/// All overlays, and how costs grew over them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order in which they were asked for.
    pub sizes: Vec<Size>,
    /// One for each cost.
    pub curves: Vec<Curve>,
}

/// What is done, and the messages that it takes.
type Verb = (&'static str, fn(&Asked) -> u64);

impl Report {
    pub(super) fn new(sizes: Vec<Size>) -> Self {
        let thin = || sizes.iter().flat_map(|size| size.thin.iter().map(move |asked| (size, asked)));
        // Each query comes with the reading of its chunks.
        let verbs: [Verb; 2] =
            [("query", |asked| asked.count_messages), ("reading", |asked| asked.read_messages)];
        let mut curves = Vec::new();
        for (teams, (verb, messages)) in [1, 4].into_iter().flat_map(|teams| verbs.map(|verb| (teams, verb)))
        {
            let of_teams = thin().filter(|(_, asked)| asked.teams == teams);
            curves.push(Curve {
                name: format!("{verb} of {teams} {}", if teams == 1 { "team" } else { "teams" }),
                unit: "messages",
                against: "nodes",
                claim: Claim::Flat,
                points: of_teams.map(|(size, asked)| [size.nodes as f64, messages(asked) as f64]).collect(),
            });
        }
        let all = || sizes.iter().filter_map(|size| Some((size, size.thin.last()?, size.dense.last()?)));
        let curve = |name: &str, unit, against, points| Curve {
            name: name.to_owned(),
            unit,
            against,
            claim: Claim::Linear,
            points,
        };
        for (verb, messages) in verbs {
            let points = all().map(|(_, asked, _)| [asked.contributing as f64, messages(asked) as f64]);
            let name = format!("{verb} of all teams");
            curves.push(curve(&name, "messages", "contributing nodes", points.collect()));
        }
        let bytes = |asked: &Asked| [asked.days as f64, asked.result_set_bytes as f64];
        curves.extend([
            curve(
                "result set of all days",
                "bytes",
                "days",
                all().map(|(_, asked, _)| bytes(asked)).collect(),
            ),
            curve(
                "the same, ten times the rows a day",
                "bytes",
                "days",
                all().map(|(_, _, asked)| bytes(asked)).collect(),
            ),
        ]);
        for (_, thin, dense) in all() {
            let by_rows = |asked: &Asked| [asked.rows as f64, asked.result_set_bytes as f64];
            curves.push(Curve {
                name: format!("result set of {} days", thin.days),
                unit: "bytes",
                against: "rows",
                claim: Claim::Flat,
                points: vec![by_rows(thin), by_rows(dense)],
            });
        }
        Report { sizes, curves }
    }

    /// Whether every cost grows as is claimed, or less.
    pub fn holds(&self) -> bool {
        self.curves.iter().all(Curve::holds)
    }

    /// One HTML file with tables and plots.
    pub fn page(&self) -> Page {
        let mut page = Page::new("Scaling: messages and memory against nodes");
        page.paragraph(
            "Simulated overlays of teams of three below one leader, three days a team. A message is a request from one \
             node to its neighbour. Equal plans come to equal figures.",
        );
        page.table(&self.table());
        show(&mut page, &self.curves);
        page
    }

    fn table(&self) -> Table {
        let head = [
            "nodes",
            "probes",
            "teams asked",
            "days",
            "contributing",
            "count messages",
            "rows",
            "chunks",
            "read messages",
            "result set bytes",
            "known days",
        ];
        let row = |size: &Size, asked: &Asked| {
            vec![
                size.nodes.to_string(),
                size.probe_messages.to_string(),
                asked.teams.to_string(),
                asked.days.to_string(),
                asked.contributing.to_string(),
                asked.count_messages.to_string(),
                asked.rows.to_string(),
                asked.chunks.to_string(),
                asked.read_messages.to_string(),
                asked.result_set_bytes.to_string(),
                asked.known_days.to_string(),
            ]
        };
        let rows = self.sizes.iter().flat_map(|size| {
            let both = size.thin.iter().chain(&size.dense);
            both.map(move |asked| row(size, asked))
        });
        Table { head: head.map(str::to_owned).into(), rows: rows.collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", Text(&self.table()))?;
        writeln!(formatter, "{}", Text(&verdicts(&self.curves)))?;
        writeln!(
            formatter,
            "factor: {FACTOR}\neach query over two sets of data, the second with ten times the rows a day; probes: messages \
             in which the leader asks once how all others are"
        )
    }
}
