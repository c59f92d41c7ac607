//! One typed cause for each way in which a query can fail, and its only translations to gRPC and to HTTP.

mod missing;
mod problem;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use missing::listed;
pub use problem::{Language, Problem};

use crate::admission::{AdmissionError, Overloaded};
use crate::day::Day;
use crate::plan::InvalidQuery;
use crate::result_set::{LeaseError, ResultSetLimit, TooManyResultSets};

/// How long a client should wait before it asks again for days that were out of reach: two probes.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(2);

/// Characters of a text that somebody sent which are shown to him again.
const SHOWN: usize = 64;

/// A text short enough, and plain enough, for a message of one line.
pub fn shown(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    let mut shown: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A day that was needed and could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingDay {
    /// The day.
    pub day: Day,
    /// Why.
    pub why: String,
    /// Nodes that were asked in vain.
    pub nodes_tried: Vec<String>,
}

/// Why a client verb failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The request cannot be run as it stands.
    #[error("invalid query: {0}")]
    Invalid(InvalidQuery),
    /// The request has come round to a node that passed it on.
    #[error("loop detected: node `{0}` stands in the request's hops")]
    Loop(String),
    /// A bounded queue is full.
    #[error("{message}")]
    Overloaded {
        /// The limit's key in the configuration; `None` where another node met it.
        limit: Option<&'static str>,
        /// Which limit, what was found, when to come back.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The result would exceed a limit, however often it is asked for.
    #[error("{message}")]
    TooLarge {
        /// The limit's key in the configuration.
        limit: &'static str,
        /// Which limit, what was found, what to do.
        message: String,
    },
    /// This node is not ready yet, or not any more.
    #[error("node `{node}` is {state}: ask again, or another node")]
    NotServing {
        /// The node.
        node: String,
        /// `loading` or `shutting down`.
        state: &'static str,
    },
    /// Days that are needed are out of reach.
    #[error("unavailable: {}", missing::in_words(.0))]
    Unavailable(Vec<MissingDay>),
    /// Nobody has the version any more that the result was counted at.
    #[error("data loss: {}; ask the query again", missing::in_words(.0))]
    DataLoss(Vec<MissingDay>),
    /// No such result set, or its lease ended.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// There is no such chunk.
    #[error("chunk {index} out of range: must be between 0 and {}, both inclusive", chunk_count.saturating_sub(1))]
    OutOfRange {
        /// The index asked for.
        index: i64,
        /// Chunks in the result.
        chunk_count: u32,
    },
    /// The caller may not do that.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// The deadline passed.
    #[error("{}", deadline_passed(*.waited, "grpc-timeout"))]
    DeadlineExceeded {
        /// From request to deadline.
        waited: Duration,
    },
    /// The client cancelled the query.
    #[error("the query was cancelled")]
    Cancelled,
}

/// What to do about a deadline that passed, which a client sets by `timeout`.
fn deadline_passed(waited: Duration, timeout: &str) -> String {
    format!(
        "the deadline passed after {} ms: ask for fewer days, or allow more time ({timeout}, limits.query_ms)",
        waited.as_millis()
    )
}

impl From<InvalidQuery> for QueryError {
    fn from(invalid: InvalidQuery) -> Self {
        QueryError::Invalid(invalid)
    }
}

impl From<TooManyResultSets> for QueryError {
    fn from(full: TooManyResultSets) -> Self {
        if full.of == ResultSetLimit::BytesOfOne {
            return QueryError::TooLarge { limit: full.of.limit_name(), message: full.to_string() };
        }
        QueryError::Overloaded {
            limit: Some(full.of.limit_name()),
            message: full.to_string(),
            retry_after: full.retry_after,
        }
    }
}

impl From<Overloaded> for QueryError {
    fn from(overloaded: Overloaded) -> Self {
        QueryError::Overloaded {
            limit: Some(overloaded.limit_name),
            message: overloaded.to_string(),
            retry_after: overloaded.retry_after,
        }
    }
}

impl QueryError {
    /// An admission error at `node`.
    pub fn from_admission(error: AdmissionError, node: &str) -> Self {
        match error {
            AdmissionError::Overloaded(overloaded) => overloaded.into(),
            AdmissionError::Draining => {
                QueryError::NotServing { node: node.to_owned(), state: "shutting down" }
            }
        }
    }

    /// The gRPC status that says the same.
    pub fn to_status(&self) -> Status {
        let code = match self {
            QueryError::Invalid(_) => Code::InvalidArgument,
            QueryError::Loop(_) => Code::FailedPrecondition,
            QueryError::Overloaded { .. } | QueryError::TooLarge { .. } => Code::ResourceExhausted,
            QueryError::NotServing { .. } | QueryError::Unavailable(_) => Code::Unavailable,
            QueryError::DataLoss(_) => Code::DataLoss,
            QueryError::Lease(LeaseError::Unknown(_)) => Code::NotFound,
            QueryError::Lease(LeaseError::Expired(_)) => Code::FailedPrecondition,
            QueryError::OutOfRange { .. } => Code::OutOfRange,
            QueryError::NotAllowed(_) => Code::PermissionDenied,
            QueryError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            QueryError::Cancelled => Code::Cancelled,
        };
        match self.details() {
            Some(details) => Status::with_error_details(code, self.to_string(), details),
            None => Status::new(code, self.to_string()),
        }
    }

    /// Whether the same query might succeed without any change of it: with more time, at another place in the queue, or
    /// when other nodes can be reached.
    pub fn is_transient(&self) -> bool {
        use QueryError::{DeadlineExceeded, Overloaded, Unavailable};
        matches!(self, Unavailable(_) | Overloaded { .. } | DeadlineExceeded { .. })
    }

    /// What programs read: the field, the limit, or each day with the nodes tried; and when to come back.
    fn details(&self) -> Option<ErrorDetails> {
        let mut details = ErrorDetails::new();
        match self {
            QueryError::Invalid(InvalidQuery { field, why }) => {
                details.add_bad_request_violation(*field, why);
            }
            QueryError::Overloaded { limit: Some(limit), message, .. }
            | QueryError::TooLarge { limit, message } => {
                details.add_quota_failure_violation(*limit, message);
            }
            QueryError::Unavailable(days) | QueryError::DataLoss(days) => {
                details.set_precondition_failure(missing::violations(days));
            }
            QueryError::Overloaded { limit: None, .. } | QueryError::NotServing { .. } => {}
            _ => return None,
        }
        if let Some(retry_after) = self.retry_after() {
            details.set_retry_info(Some(retry_after));
        }
        Some(details)
    }

    /// The short name of the outcome, for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            QueryError::Invalid(_) | QueryError::Loop(_) => "invalid",
            QueryError::Overloaded { .. } => "rejected",
            QueryError::TooLarge { .. } => "too_large",
            QueryError::NotServing { .. } => "not_serving",
            QueryError::Unavailable(_) => "unavailable",
            QueryError::DataLoss(_) => "data_loss",
            QueryError::Lease(_) | QueryError::OutOfRange { .. } => "not_found",
            QueryError::NotAllowed(_) => "not_allowed",
            QueryError::DeadlineExceeded { .. } => "deadline_exceeded",
            QueryError::Cancelled => "cancelled",
        }
    }

    /// The key of the limit that a query met; `elsewhere` where another node met it.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            QueryError::Overloaded { limit, .. } => Some(limit.unwrap_or("elsewhere")),
            QueryError::TooLarge { limit, .. } => Some(limit),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            QueryError::Overloaded { retry_after, .. } => Some(*retry_after),
            QueryError::NotServing { .. } | QueryError::Unavailable(_) => Some(RETRY_UNAVAILABLE),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_learn_the_field_and_the_limit_without_reading_prose() {
        let invalid = QueryError::Invalid(InvalidQuery::new("lat_min", "lat_min 95 out of range"));
        let violations = invalid.to_status().get_details_bad_request().unwrap().field_violations;
        assert_eq!((violations[0].field.as_str(), violations.len()), ("lat_min", 1));
        let too_large = QueryError::TooLarge { limit: "limits.max_rows", message: "too many".to_owned() };
        let full = QueryError::Overloaded {
            limit: Some("limits.streams"),
            message: "full".to_owned(),
            retry_after: Duration::from_secs(3),
        };
        for (error, limit, retry) in
            [(too_large, "limits.max_rows", None), (full, "limits.streams", Some(Duration::from_secs(3)))]
        {
            let details = error.to_status().get_error_details();
            assert_eq!(details.quota_failure().unwrap().violations[0].subject, limit);
            assert_eq!(details.retry_info().and_then(|info| info.retry_delay), retry);
        }
    }
}
