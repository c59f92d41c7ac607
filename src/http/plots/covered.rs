//! A plan and what became of it, as JSON and as a picture.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::parameters::Asked;
use super::super::query::missing_days;
use super::{Paying, Shown, Time};
use crate::access::Caller;
use crate::admission::ClientKey;
use crate::coordinator::{Answered, Asking, Explanation};
use crate::coverage::{Entry, Outcome};
use crate::error::QueryError;
use crate::plan::InvalidQuery;
use crate::plot::{Coverage, CoverageDay, Fate};
use crate::service;
use crate::state::NodeState;
use crate::verb::HopStatistics;

/// Each planned day with who holds it, who was planned to answer, and what became of it.
pub(in super::super) async fn coverage(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let time = Time::of(state, asked);
    let Covered { explanation, answered, elapsed_ms, .. } =
        time.allows(covered(time, state, caller, asked, usize::MAX)).await?;
    let missing = missing_days(&answered.result_set);
    let result_set = &answered.result_set;
    let days = planned(&explanation, &result_set.ledger).map(|(day, entry)| {
        json!({
            "day": entry.day.to_string(),
            "team": &*entry.team,
            "holders": day.holders,
            "planned": day.planned,
            "outcome": outcome(&entry.outcome),
        })
    });
    let hop = |hop: &HopStatistics| {
        json!({
            "node": hop.node,
            "queue_ms": hop.queue_ms,
            "scan_ms": hop.scan_ms,
            "encode_ms": hop.encode_ms,
            "rows_scanned": hop.rows_scanned,
            "bytes": hop.bytes,
            "attempts": hop.attempts,
            "elapsed_ms": hop.elapsed_ms,
        })
    };
    let covered = json!({
        "query": explanation.plan.query.to_string(),
        "total_rows": result_set.total_records,
        "limit_reached": result_set.limit_reached,
        "rows_to_scan": explanation.rows_to_scan,
        "waited_ms": answered.waited.as_secs_f64() * 1e3,
        "limiting_factor": answered.limiting_factor,
        "elapsed_ms": elapsed_ms,
        // None for a result from the cache.
        "hops": answered.statistics.iter().map(hop).collect::<Value>(),
        "missing_days": missing.iter().map(|day| day.to_string()).collect::<Value>(),
        "days": days.collect::<Value>(),
    });
    Ok(Shown { text: format!("{covered:#}\n"), result_set: answered.result_set })
}

/// The same as a picture.
pub(in super::super) async fn coverage_picture(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let time = Time::of(state, asked);
    time.allows(coverage_picture_in(time, state, caller, asked)).await
}

async fn coverage_picture_in(
    time: Time,
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let Covered { explanation, answered, client, .. } =
        covered(time, state, caller, asked, Coverage::MOST_DAYS).await?;
    let ledger = &answered.result_set.ledger;
    let days: Vec<CoverageDay> = planned(&explanation, ledger).map(|(day, _)| day).collect();
    let answering = days.iter().filter(|day| matches!(day.fate, Fate::Served { .. })).count();
    let result_set = answered.result_set;
    let title = format!(
        "Plan and coverage of {} days: {answering} answered, {} missing, {} rows",
        days.len(),
        missing_days(&result_set).len(),
        result_set.total_records
    );
    let picture = Coverage { title, days };
    let paying = Paying { client, result_set: result_set.clone() };
    let text = paying.draw(state, move || picture.svg()).await?;
    Ok(Shown { text, result_set })
}

struct Covered {
    explanation: Explanation,
    answered: Answered,
    elapsed_ms: f64,
    client: ClientKey,
}

/// Plans the query, then runs it unless its days are more than `most`. The result set is given up at once: no rows are wanted.
async fn covered(
    Time { deadline, .. }: Time,
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
    most: usize,
) -> Result<Covered, QueryError> {
    state.serving().map_err(|error| state.refused(error))?;
    let query = asked.rows().map_err(|invalid| state.refused(invalid.into()))?;
    let (owner, client) = service::asker(&caller.identity, "")?;
    let explanation = state.coordinator.explain(&query, &client).await?;
    if explanation.days.len() > most {
        let found = explanation.days.len();
        let why = format!(
            "{found} days are planned, a picture shows at most {most}: ask for fewer with from and to"
        );
        return Err(state.refused(InvalidQuery::new("from", why).into()));
    }
    let asked_at = Instant::now();
    let asking =
        Asking { query, client: client.clone(), owner: owner.clone(), request_id: String::new(), deadline };
    let answered = state.coordinator.query(asking).await?;
    let elapsed_ms = asked_at.elapsed().as_secs_f64() * 1e3;
    state.coordinator.cancel(&answered.uid, "", &owner, &client);
    Ok(Covered { explanation, answered, elapsed_ms, client })
}

/// Plan and ledger side by side, by day. Data may have changed between the two, never the days.
fn planned<'a>(
    explanation: &'a Explanation,
    ledger: &'a [Entry],
) -> impl Iterator<Item = (CoverageDay, &'a Entry)> {
    explanation.days.iter().zip(ledger).map(|(explained, entry)| {
        let fate = match &entry.outcome {
            Outcome::Served(served) => Fate::Served { node: served.node.clone(), rows: served.rows_matched },
            Outcome::Pruned { .. } => Fate::Pruned,
            Outcome::NoData { .. } => Fate::NoData,
            Outcome::BeyondLimit => Fate::BeyondLimit,
            Outcome::Missing { .. } => Fate::Missing,
        };
        let day = CoverageDay {
            day: entry.day,
            holders: explained.holders.iter().map(ToString::to_string).collect(),
            planned: match &entry.outcome {
                // The first that is asked is the one that was planned; the next query may plan another one.
                Outcome::Served(served) if served.attempt == 1 => Some(served.node.clone()),
                _ => explained.assigned.as_ref().map(ToString::to_string),
            },
            fate,
        };
        (day, entry)
    })
}

fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Served(served) => json!({
            "kind": "served",
            "node": served.node,
            "attempt": served.attempt,
            "version": served.version.to_string(),
            "rows_matched": served.rows_matched,
            "rows_taken": served.rows_taken,
        }),
        Outcome::Pruned { by, version } => {
            json!({"kind": "pruned", "by": by, "version": version.to_string()})
        }
        Outcome::NoData { node } => json!({"kind": "no_data", "node": node}),
        Outcome::BeyondLimit => json!({"kind": "beyond_limit"}),
        Outcome::Missing { why, nodes_tried } => {
            json!({"kind": "missing", "why": why, "nodes_tried": nodes_tried})
        }
    }
}
