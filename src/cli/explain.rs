//! `overlay explain`: what a query would do, without doing it.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::output::{self, Output, Page, counted};
use super::query_args::QueryArgs;
use super::table::thousands;
use super::{Failure, runtime};
use crate::client::{ExplainedDay, ExplainedQuery};
use crate::frame::Encoding;
use crate::notes::NO_DAY;
use crate::trace;

/// Show what a query would do, without running it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay explain PM2.5 5 35
  overlay explain SO2 500 --from 20200815 --to 20200825
  overlay explain PM2.5 --team pink --format json | jq '.days[].asked_first'

The words are those of `overlay query`. Days whose statistics show that no row can match are pruned: nobody is \
asked for them. `to scan` is what a day costs, `at most` what it may add to the result. Explaining runs \
nothing and takes no place from queries.")]
pub(crate) struct Explain {
    #[command(flatten)]
    query: QueryArgs,
    /// How the plan is written
    #[arg(long, value_enum, default_value = "table")]
    format: ExplainFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ExplainFormat {
    /// For a person
    Table,
    /// One object
    Json,
}

impl Explain {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let query = self.query.query(Encoding::Json, None)?;
        let asking = async {
            let explained = self.query.client()?.explain(&query).await;
            explained.map_err(|error| self.query.failure(error))
        };
        let explained = runtime()?.block_on(trace::command("overlay explain", asking))?;
        let mut out = Output::stdout();
        match self.format {
            ExplainFormat::Table => {
                let width = if output::stdout_is_terminal() { output::terminal_width() } else { None };
                for line in lines(&explained, width) {
                    writeln!(out, "{line}")?;
                }
            }
            ExplainFormat::Json => {
                serde_json::to_writer_pretty(&mut out, &object(&explained))?;
                writeln!(out)?;
            }
        }
        Ok(out.finish()?)
    }
}

/// What is to be done about a day, in a word or two.
fn state(day: &ExplainedDay) -> &str {
    match (&day.pruned_by, &day.assigned) {
        (Some(_), _) => "pruned",
        (None, None) if !day.note.is_empty() => &day.note,
        _ => "ask",
    }
}

fn lines(explained: &ExplainedQuery, width: Option<u16>) -> Vec<String> {
    let days = &explained.days;
    let in_state = |wanted: &str| days.iter().filter(|day| state(day) == wanted).count() as u64;
    let (asked, pruned) = (in_state("ask"), in_state("pruned"));
    let at_most: u64 = days.iter().map(|day| day.rows_at_most).sum();
    let mut lines = vec![
        format!("plan        {}", explained.query),
        format!(
            "days        {}: {} to ask for, {} pruned, {} else",
            thousands(days.len() as u64),
            thousands(asked),
            thousands(pruned),
            thousands(days.len() as u64 - asked - pruned)
        ),
        format!(
            "cost        {} to scan, at most {} match",
            counted(explained.rows_to_scan, "row"),
            thousands(at_most)
        ),
        format!(
            "strategies  forwarding {}, chunking {}, fairness {}",
            explained.forwarding, explained.chunking, explained.fairness
        ),
    ];
    if days.is_empty() {
        lines.push(format!("note: {NO_DAY}"));
        return lines;
    }
    let mut page =
        Page::new(&["day", "team", "state", "holders", "asked first", "via", "to scan", "at most"]);
    for day in days {
        let asked = state(day) == "ask";
        let number = |number: u64| if asked { thousands(number) } else { String::new() };
        // Nobody between: the node that was asked to explain answers for the day itself.
        let via = if asked { day.via.as_deref().unwrap_or("itself") } else { "" };
        page.row(vec![
            day.day.to_string(),
            day.team.clone(),
            state(day).to_owned(),
            day.holders.join(" "),
            day.assigned.clone().unwrap_or_default(),
            via.to_owned(),
            number(day.rows_to_scan),
            number(day.rows_at_most),
        ]);
    }
    lines.push(String::new());
    lines.extend(page.lines(width));
    let remarks = [prunings(days), marked(days)].concat();
    if !remarks.is_empty() {
        lines.push(String::new());
        lines.extend(remarks);
    }
    lines
}

/// `20200811 to 20200813 pruned: largest concentration 12.5`, a line for each run of days.
fn prunings(days: &[ExplainedDay]) -> Vec<String> {
    days.chunk_by(|day, next| day.pruned_by == next.pruned_by)
        .filter_map(|run| {
            let by = run[0].pruned_by.as_ref()?;
            Some(format!("{} pruned: {by}", span(run)))
        })
        .collect()
}

/// `20200821 to 20200824 marked down: E, F`, a line for each run of days that are asked for.
fn marked(days: &[ExplainedDay]) -> Vec<String> {
    let remark = |day: &ExplainedDay| (state(day) == "ask").then(|| day.note.clone());
    days.chunk_by(|day, next| remark(day) == remark(next))
        .filter_map(|run| {
            let note = remark(&run[0]).filter(|note| !note.is_empty())?;
            Some(format!("{} {note}", span(run)))
        })
        .collect()
}

/// `20200821 to 20200824`, or one day.
fn span(run: &[ExplainedDay]) -> String {
    match (run[0].day, run[run.len() - 1].day) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first} to {last}"),
    }
}

fn object(explained: &ExplainedQuery) -> serde_json::Value {
    let day = |day: &ExplainedDay| {
        json!({
            "day": day.day.to_string(),
            "team": day.team,
            "state": state(day),
            "pruned_by": day.pruned_by,
            "holders": day.holders,
            "note": day.note,
            "asked_first": day.assigned,
            "via": day.via,
            "rows_to_scan": day.rows_to_scan,
            "rows_at_most": day.rows_at_most,
        })
    };
    json!({
        "plan": explained.query,
        "rows_to_scan": explained.rows_to_scan,
        "forwarding": explained.forwarding,
        "chunking": explained.chunking,
        "fairness": explained.fairness,
        "days": explained.days.iter().map(day).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::day::Day;

    fn day(number: u64) -> ExplainedDay {
        ExplainedDay {
            day: Day::from_number(number).unwrap(),
            team: "green".to_owned(),
            pruned_by: None,
            holders: Vec::new(),
            assigned: None,
            via: None,
            rows_to_scan: 0,
            rows_at_most: 0,
            note: String::new(),
        }
    }

    fn explained() -> ExplainedQuery {
        let asked = ExplainedDay {
            holders: vec!["B".to_owned(), "C".to_owned()],
            assigned: Some("C".to_owned()),
            via: Some("B".to_owned()),
            rows_to_scan: 25_000,
            rows_at_most: 7_000,
            note: "marked down: B".to_owned(),
            ..day(20200810)
        };
        let pruned =
            ExplainedDay { pruned_by: Some("largest concentration 12.5".to_owned()), ..day(20200811) };
        let lost = ExplainedDay { note: "no live holder".to_owned(), ..day(20200812) };
        ExplainedQuery {
            query: "rows of PM2.5".to_owned(),
            days: vec![asked, pruned, lost],
            rows_to_scan: 25_000,
            forwarding: "round_robin".to_owned(),
            chunking: "fixed".to_owned(),
            fairness: "strict".to_owned(),
        }
    }

    #[test]
    fn a_plan_is_told_day_by_day() {
        let expected = "\
plan        rows of PM2.5
days        3: 1 to ask for, 1 pruned, 1 else
cost        25,000 rows to scan, at most 7,000 match
strategies  forwarding round_robin, chunking fixed, fairness strict

day       team   state           holders  asked first  via  to scan  at most
20200810  green  ask             B C      C            B     25,000    7,000
20200811  green  pruned
20200812  green  no live holder

20200811 pruned: largest concentration 12.5
20200810 marked down: B";
        assert_eq!(lines(&explained(), None).join("\n"), expected);
    }

    #[test]
    fn days_pruned_for_one_reason_share_a_line() {
        let pruned = |number, by: &str| ExplainedDay { pruned_by: Some(by.to_owned()), ..day(number) };
        let days = [pruned(20200831, "x"), pruned(20200901, "x"), day(20200902), pruned(20200903, "x")];
        assert_eq!(prunings(&days), ["20200831 to 20200901 pruned: x", "20200903 pruned: x"]);
    }

    #[test]
    fn json_has_the_same_days() {
        let object = object(&explained());
        assert_eq!(object["days"][0]["asked_first"], "C");
        assert_eq!(object["days"][1]["state"], "pruned");
        assert_eq!(object["days"][2]["holders"], json!([]));
    }
}
