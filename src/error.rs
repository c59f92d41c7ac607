//! One typed cause for each way in which a query can fail, and its only translation to gRPC.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admission::{AdmissionError, Overloaded};
use crate::day::Day;
use crate::plan::InvalidQuery;
use crate::result_set::{LeaseError, TooManyResultSets};

/// How long a client should wait before it asks again for days that were out of reach: two probes.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(2);

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
    Invalid(String),
    /// The request has come round to a node that passed it on.
    #[error("loop detected: node `{0}` stands in the request's hops")]
    Loop(String),
    /// A bounded queue is full.
    #[error("{message}")]
    Overloaded {
        /// Which limit, what was found, when to come back.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The result would exceed a limit, however often it is asked for.
    #[error("{0}")]
    TooLarge(String),
    /// This node is not ready yet, or not any more.
    #[error("node `{node}` is {state}: ask again, or another node")]
    NotServing {
        /// The node.
        node: String,
        /// `loading` or `shutting down`.
        state: &'static str,
    },
    /// Days that are needed are out of reach.
    #[error("unavailable: {}", list(.0))]
    Unavailable(Vec<MissingDay>),
    /// Nobody has the version any more that the result was counted at.
    #[error("data loss: {}; ask the query again", list(.0))]
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
    #[error("the deadline passed after {} ms: ask for fewer days, or allow more time (grpc-timeout, limits.query_ms)", waited.as_millis())]
    DeadlineExceeded {
        /// From request to deadline.
        waited: Duration,
    },
    /// The client cancelled the query.
    #[error("the query was cancelled")]
    Cancelled,
}

fn list(days: &[MissingDay]) -> String {
    const SHOWN: usize = 5;
    let mut words: Vec<String> = days
        .iter()
        .take(SHOWN)
        .map(|missing| match missing.nodes_tried.is_empty() {
            true => format!("day {}: {}", missing.day, missing.why),
            false => {
                format!("day {}: {} (tried {})", missing.day, missing.why, missing.nodes_tried.join(", "))
            }
        })
        .collect();
    if days.len() > SHOWN {
        words.push(format!("and {} more days up to {}", days.len() - SHOWN, days[days.len() - 1].day));
    }
    words.join("; ")
}

impl From<InvalidQuery> for QueryError {
    fn from(invalid: InvalidQuery) -> Self {
        QueryError::Invalid(invalid.0)
    }
}

impl From<Overloaded> for QueryError {
    fn from(overloaded: Overloaded) -> Self {
        QueryError::Overloaded { message: overloaded.to_string(), retry_after: overloaded.retry_after }
    }
}

impl From<TooManyResultSets> for QueryError {
    fn from(full: TooManyResultSets) -> Self {
        QueryError::Overloaded { message: full.to_string(), retry_after: full.retry_after }
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
            QueryError::Overloaded { .. } | QueryError::TooLarge(_) => Code::ResourceExhausted,
            QueryError::NotServing { .. } | QueryError::Unavailable(_) => Code::Unavailable,
            QueryError::DataLoss(_) => Code::DataLoss,
            QueryError::Lease(LeaseError::Unknown(_)) => Code::NotFound,
            QueryError::Lease(LeaseError::Expired(_)) => Code::FailedPrecondition,
            QueryError::OutOfRange { .. } => Code::OutOfRange,
            QueryError::NotAllowed(_) => Code::PermissionDenied,
            QueryError::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            QueryError::Cancelled => Code::Cancelled,
        };
        match self.retry_after() {
            Some(retry_after) => {
                let details = ErrorDetails::with_retry_info(Some(retry_after));
                Status::with_error_details(code, self.to_string(), details)
            }
            None => Status::new(code, self.to_string()),
        }
    }

    /// Whether the same query might succeed without any change of it: with more time, at another place in the queue, or
    /// when other nodes can be reached.
    pub fn is_transient(&self) -> bool {
        use QueryError::{DeadlineExceeded, Overloaded, Unavailable};
        matches!(self, Unavailable(_) | Overloaded { .. } | DeadlineExceeded { .. })
    }

    /// The short name of the outcome, for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            QueryError::Invalid(_) | QueryError::Loop(_) => "invalid",
            QueryError::Overloaded { .. } => "rejected",
            QueryError::TooLarge(_) => "too_large",
            QueryError::NotServing { .. } | QueryError::Unavailable(_) => "unavailable",
            QueryError::DataLoss(_) => "data_loss",
            QueryError::Lease(_) | QueryError::OutOfRange { .. } => "not_found",
            QueryError::NotAllowed(_) => "not_allowed",
            QueryError::DeadlineExceeded { .. } => "deadline_exceeded",
            QueryError::Cancelled => "cancelled",
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
