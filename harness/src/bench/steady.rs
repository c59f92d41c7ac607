//! Latency at a rate that the node can bear, in an open loop: from when each query was due.
//!
//! Timers are as fine as a millisecond, so that queries are sent up to so much after they were due. How late they were is told
//! beside the latencies that have it in them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::BenchError;
use super::rates::{Asker, CONNECTIONS, Questions, new_bound};
use crate::load::{Latencies, Schedule, at_schedule};

/// Queries in flight at once, far beyond what a node that keeps up has.
const MAX_IN_FLIGHT: NonZeroU32 = NonZeroU32::new(1000).expect("not 0");

/// How many times as long as a closed loop this goes on: the tail needs many answers.
const LASTS: u32 = 3;

/// What came of queries at a steady rate.
pub(super) struct Steady {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    /// From when a query was due until it was sent, median.
    pub(super) late_ms: f64,
    /// Queries that were refused for overload, or not even sent because too many others were in flight.
    pub(super) unanswered: u64,
}

/// What was seen so far.
struct Seen {
    latencies: Latencies,
    lateness: Latencies,
    overloaded: u64,
    failed: Result<(), BenchError>,
}

/// Asks so many times a second with a new filter each time, over connections by turns.
pub(super) async fn at_rate(
    address: SocketAddr,
    questions: Questions,
    rate: f64,
    lasts: Duration,
) -> Result<Steady, BenchError> {
    let mut askers = Vec::new();
    for connection in 0..CONNECTIONS {
        let asker = Asker::connect(address, questions, connection).await?;
        asker.ask(&new_bound()).await?;
        askers.push(asker);
    }
    let rate = NonZeroU32::new(rate as u32).unwrap_or(NonZeroU32::MIN);
    let schedule = Schedule { rate, run_time: lasts * LASTS, max_in_flight: MAX_IN_FLIGHT };
    let seen = Arc::new(Mutex::new(Seen {
        latencies: Latencies::default(),
        lateness: Latencies::default(),
        overloaded: 0,
        failed: Ok(()),
    }));
    let (began, seen_later) = (Instant::now(), seen.clone());
    let ask = |number: u64| {
        lock(&seen).lateness.record(began.elapsed().saturating_sub(schedule.due(number)));
        let asker = askers[(number % CONNECTIONS) as usize].clone();
        async move { asker.ask(&new_bound()).await }
    };
    let done = move |_, latency, answer| lock(&seen_later).note(latency, answer);
    let arrivals = at_schedule(schedule, ask, done).await;
    let mut seen = lock(&seen);
    std::mem::replace(&mut seen.failed, Ok(()))?;
    let percentile = |percent| seen.latencies.percentile_ms(percent).unwrap_or(f64::NAN);
    Ok(Steady {
        p50_ms: percentile(50.0),
        p99_ms: percentile(99.0),
        p999_ms: percentile(99.9),
        late_ms: seen.lateness.percentile_ms(50.0).unwrap_or(f64::NAN),
        unanswered: arrivals.dropped + seen.overloaded,
    })
}

impl Seen {
    fn note(&mut self, latency: Duration, answer: Result<(), BenchError>) {
        match answer {
            Ok(()) => self.latencies.record(latency),
            Err(BenchError::Status(status)) if status.code() == Code::ResourceExhausted => {
                self.overloaded += 1;
            }
            Err(error) => self.failed = Err(error),
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
