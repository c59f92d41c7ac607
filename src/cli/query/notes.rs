//! What is said beside the rows: a summary, and what nobody could see from them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::output::counted;
use crate::cli::table::{day_list, thousands};
use crate::client::NodeMetrics;
use crate::config::Role;
use crate::coverage::{self, Entry, Outcome};
use crate::plan::Query;

/// `225,521 rows in 226 chunks, 1.24 s, served by B, C, E`.
pub(super) fn summary(
    rows: u64,
    chunks: u32,
    took: Duration,
    query: &Query,
    nodes: &BTreeSet<String>,
) -> String {
    let noun = if query.aggregate.is_some() { "group" } else { "row" };
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let by = if nodes.is_empty() { String::new() } else { format!(", served by {}", nodes.join(", ")) };
    let (rows, chunks) = (counted(rows, noun), counted(u64::from(chunks), "chunk"));
    format!("{rows} in {chunks}, {:.2} s{by}", took.as_secs_f64())
}

/// What a reader of the rows could not see from them.
pub(super) fn notes(query: &Query, ledger: &[Entry], rows: u64, limit_chosen: bool) -> Vec<String> {
    let mut notes: Vec<String> = ledger.chunk_by(lost_alike).filter_map(missing_days).collect();
    if ledger.is_empty() {
        notes.push("note: no team that the node answers for owns a day of this query".to_owned());
    } else if rows == 0
        && let Some(parameter) = &query.predicate.parameter
        && ledger.iter().all(|entry| is_without(parameter, &entry.outcome))
    {
        let days = counted(ledger.len() as u64, "day");
        notes.push(format!(
            "note: none of {days} has a row of parameter `{parameter}`; names are as in the files, such as PM2.5 or OZONE"
        ));
    } else if rows == 0 && notes.is_empty() {
        notes.push("note: nothing matches".to_owned());
    }
    if let Some(limit) = query.limit
        && rows == limit
        && let Some(more) = more_than(ledger, rows, query)
    {
        let said = match query.aggregate {
            Some(_) => format!("the first {}, there may be more", counted(rows, "group")),
            None => format!("{} of {more} rows", thousands(rows)),
        };
        notes.push(match limit_chosen {
            true => format!("note: {said}: --limit cut the result"),
            false => format!("note: {said}: --limit N or --all for more"),
        });
    }
    notes
}

/// What the reader of an answer from another node than the leader should know: that it is not about all teams.
pub(super) fn own_team(node: &NodeMetrics, query: &Query) -> Option<String> {
    let chose_it = query.team.as_ref() == Some(&node.team);
    (node.role != Role::Leader.name() && !chose_it).then(|| {
        format!(
            "note: node `{}` answers for its own team only, {}; the leader answers for all",
            node.node, node.team
        )
    })
}

/// Whether two days are missing for one reason.
fn lost_alike(entry: &Entry, next: &Entry) -> bool {
    let missing = matches!(entry.outcome, Outcome::Missing { .. });
    missing && (&entry.team, &entry.outcome) == (&next.team, &next.outcome)
}

/// One line for a run of days that are missing for one reason.
fn missing_days(run: &[Entry]) -> Option<String> {
    let (first, why, nodes_tried) = coverage::missing(run).next()?;
    let days = day_list(run.iter().map(|entry| entry.day));
    let are = if run.len() == 1 { "is" } else { "are" };
    let tried = match nodes_tried {
        [] => String::new(),
        nodes => format!(" (tried {})", nodes.join(", ")),
    };
    Some(format!("warning: {days} of team {} {are} missing: {why}{tried}", first.team))
}

fn is_without(parameter: &str, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Pruned { by, .. } => *by == format!("no row of parameter {parameter}"),
        Outcome::NoData { .. } => true,
        _ => false,
    }
}

/// How many rows there would be without the limit, as far as the ledger knows; `None` if it cut nothing.
fn more_than(ledger: &[Entry], rows: u64, query: &Query) -> Option<String> {
    if query.aggregate.is_some() {
        return Some(String::new());
    }
    let matched = ledger.iter().map(|entry| match &entry.outcome {
        Outcome::Served(served) => served.rows_matched,
        _ => 0,
    });
    let matched = matched.fold(0, u64::saturating_add);
    let unknown = ledger.iter().any(|entry| entry.outcome == Outcome::BeyondLimit);
    match (matched > rows, unknown) {
        (true, true) => Some(format!("at least {}", thousands(matched))),
        (true, false) => Some(thousands(matched)),
        (false, true) => Some("perhaps more".to_owned()),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests;
