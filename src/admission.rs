//! Who may run, and when: query slots, compute slots, and the fair queue below both.
//!
//! [`QueryAdmission`] stands where clients are answered: a query takes one slot of the node and one of each team
//! that its plan touches, all at once or none. [`ComputeSlots`] stands where rows are scanned or encoded, and grants
//! what really is scarce, in pieces. Both queue first, in a bounded queue, and then refuse with an [`Overloaded`] that
//! says which limit and when to come back. When a queue is full, the last of the longest line is refused, who need
//! not be the one that comes: nobody can keep others out by filling it.
//!
//! Invariants: each of the two has one owner, a state behind a mutex that nobody holds across an await; a permit
//! goes back on drop, also when its task panics or its client vanishes; nothing here knows the network or the
//! system's clock (time is tokio's, which a simulation drives).
//!
//! Reading order: `fair_queue` (who is next), `slots` (what is free, pure), `lines` (how fast),
//! `appointments` (who comes back when), `queries`, `compute`, `in_flight`.

mod appointments;
mod compute;
mod drain_rate;
mod fair_queue;
mod in_flight;
mod lines;
mod queries;
mod slots;

use std::time::Duration;

pub use compute::{ComputeLimits, ComputePermit, ComputeSlots, Requester};
pub use fair_queue::{ClientKey, DEBT_LIMIT_QUANTA, FairQueue, Order, Popped, Ticket, Weights};
pub use in_flight::{InFlight, InFlightPermit};
pub use queries::{QueryAdmission, QueryCost, QueryPermit, QueryStatus};
pub use slots::QueryLimits;

/// Why a query was not admitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    /// The queue is full.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The node is shutting down and admits nobody any more.
    #[error("node is draining: no new queries are admitted; ask another node")]
    Draining,
}

/// A bounded queue is full.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "queue full: {found} {}, limit {limit} ({limit_name}); retry after {} ms",
    if *.found == 1 { .what[0] } else { .what[1] },
    .retry_after.as_millis()
)]
pub struct Overloaded {
    /// What there is too much of, one and several: `query waiting`, `queries waiting`.
    pub what: [&'static str; 2],
    /// The limit's key in the configuration.
    pub limit_name: &'static str,
    /// The limit's value.
    pub limit: u64,
    /// How many there are.
    pub found: u64,
    /// What the refused one would have waited for: `max_active`, `client`, `team green`, `reserved`, `compute_slots`.
    pub limiting_factor: String,
    /// When to come back: when there will be room, at the measured drain rate.
    pub retry_after: Duration,
}

/// What an estimate was too low by, in rows; an estimate counts as at least one row, as in the queue.
fn correction(estimated: u64, measured: u64) -> i64 {
    let difference = i128::from(measured) - i128::from(estimated.max(1));
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}
