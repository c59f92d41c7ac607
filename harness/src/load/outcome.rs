//! What came of one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay::client::{ClientError, QueryResult};
use overlay::coverage;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The RPCs that transactions call, by the names that reports and thresholds have for them.
pub(super) const CALLS: [&str; 5] =
    ["Query", "GetChunk", "GetMetrics", "OverlayNode.Query", "OverlayNode.GetChunk"];

/// One call of a transaction.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The RPC; those of the old contract say so.
    pub(super) name: &'static str,
    /// From sending it to holding its answer.
    pub(super) took: Duration,
    /// The code that it ended with.
    pub(super) code: Code,
    /// Whether that is what should have come of it.
    pub(super) good: bool,
}

/// What a right answer brought.
#[derive(Clone, Debug, Default)]
pub(super) struct Success {
    /// Rows, or groups, of the result; `None` where nothing was queried.
    pub(super) records: Option<u64>,
    /// Rows, or groups, that arrived in chunks.
    pub(super) rows: u64,
    /// Nodes that the request went through.
    pub(super) hops: u64,
    /// How long the query waited for admission, and for what.
    pub(super) admission: Option<(Duration, String)>,
    /// Rows of the result by the team that served them.
    pub(super) team_rows: BTreeMap<String, u64>,
}

/// Why there was no answer that can be trusted.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The node was full, and said so.
    Rejected {
        /// The limit that was reached.
        limit: String,
        /// When to come back, if the node said so.
        retry_after: Option<Duration>,
    },
    /// The call failed, or its status says so.
    Failed(String),
    /// The answer contradicts itself, its proof or the first one.
    Wrong(String),
}

/// A transaction that ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// What was done.
    pub(super) transaction: &'static str,
    /// Its calls, in order.
    pub(super) calls: Vec<Call>,
    /// From its start to the end of its last call.
    pub(super) latency: Duration,
    /// Bytes of chunks that arrived, those of wrong answers as well.
    pub(super) bytes: u64,
    /// What came of it.
    pub(super) result: Result<Success, Failure>,
}

impl Success {
    /// A result of the typed client of which `rows` rows were read.
    pub(super) fn of_result(result: &QueryResult, rows: u64) -> Self {
        let admission = &result.admission;
        let waited = Duration::from_secs_f64((admission.waited_ms / 1e3).max(0.0));
        Success {
            records: Some(result.manifest.total_records),
            rows,
            hops: result.hops.len() as u64,
            admission: (!admission.limiting_factor.is_empty())
                .then(|| (waited, admission.limiting_factor.clone())),
            team_rows: team_rows(result),
        }
    }
}

fn team_rows(result: &QueryResult) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for entry in &result.ledger {
        if let coverage::Outcome::Served(served) = &entry.outcome {
            *rows.entry(entry.team.to_string()).or_default() += served.rows_taken;
        }
    }
    rows
}

impl Failure {
    /// What the typed client says: an answer that is not proved is wrong, not only failed.
    pub(super) fn of_client(call: &str, error: &ClientError) -> Self {
        match error {
            ClientError::Status { status, .. } => Self::of_status(call, status),
            ClientError::Address { .. } => Failure::Failed(error.to_string()),
            ClientError::Malformed { .. }
            | ClientError::Unproven { .. }
            | ClientError::Contradiction { .. } => Failure::Wrong(format!("{call}: {error}")),
        }
    }

    /// A status that was not asked for. Overload that says when to come back is a rejection.
    pub(super) fn of_status(call: &str, status: &Status) -> Self {
        let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match (status.code(), retry_after) {
            (Code::ResourceExhausted, Some(retry_after)) => {
                Failure::Rejected { limit: named_limit(status.message()), retry_after: Some(retry_after) }
            }
            (code, _) => Failure::Failed(format!("{call}: {code:?}: {}", status.message())),
        }
    }
}

/// The key of the configuration that a message of overload names in parentheses.
fn named_limit(message: &str) -> String {
    let named = message.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    named.map_or(message, |(limit, _)| limit).to_owned()
}

#[cfg(test)]
mod tests {
    use overlay::admission::{AdmissionError, Overloaded};
    use overlay::error::QueryError;

    use super::*;

    /// Goal: what the node says at its limits is understood as it is meant.
    #[test]
    fn rejection_names_its_limit_and_its_time() {
        let overloaded = Overloaded {
            what: ["query waiting", "queries waiting"],
            limit_name: "limits.queue_length",
            limit: 64,
            found: 64,
            limiting_factor: "team green".to_owned(),
            retry_after: Duration::from_millis(250),
        };
        let error = QueryError::from_admission(AdmissionError::Overloaded(overloaded), "A");
        match Failure::of_status("Query", &error.to_status()) {
            Failure::Rejected { limit, retry_after } => {
                assert_eq!(
                    (limit.as_str(), retry_after),
                    ("limits.queue_length", Some(Duration::from_millis(250)))
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn result_that_is_too_large_for_ever_is_no_rejection() {
        let error = QueryError::TooLarge {
            limit: "limits.max_groups",
            message: "200001 groups, limit 200000".to_owned(),
        };
        assert!(matches!(Failure::of_status("Query", &error.to_status()), Failure::Failed(_)));
    }
}
