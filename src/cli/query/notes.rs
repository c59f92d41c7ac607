//! What is said beside the rows: a summary, and what nobody could see from them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cli::output::counted;
use crate::cli::table::{day_list, thousands};
use crate::client::NodeMetrics;
use crate::coverage::{self, Entry, Outcome};
use crate::notes::without_rows;
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
    notes.extend(without_rows(query, ledger, rows).map(|note| format!("note: {note}")));
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

/// What the reader of an answer from another node than the leader should know.
pub(super) fn own_team(node: &NodeMetrics, query: &Query) -> Option<String> {
    let note = crate::notes::own_team(&node.node, &node.role, &node.team, query.team.as_deref());
    note.map(|note| format!("note: {note}"))
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
