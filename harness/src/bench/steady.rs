//! Latency at a rate that the node can bear, in an open loop: from when each query was due.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::BenchError;
use super::rates::{Asker, CONNECTIONS, Questions, new_bound};
use crate::load::{Latencies, Schedule, at_schedule};

/// Queries in flight at once, far beyond what a node that keeps up has.
const MAX_IN_FLIGHT: NonZeroU32 = NonZeroU32::new(1000).expect("not 0");

/// How many times as long as a closed loop this goes on: the tail needs many answers.
const LASTS: u32 = 3;

/// Latencies of answers.
pub(super) struct Percentiles {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
}

/// Asks so many times a second with a new filter each time, over connections by turns.
pub(super) async fn at_rate(
    address: SocketAddr,
    questions: Questions,
    rate: f64,
    lasts: Duration,
) -> Result<Percentiles, BenchError> {
    let mut askers = Vec::new();
    for connection in 0..CONNECTIONS {
        let asker = Asker::connect(address, questions, connection).await?;
        asker.ask(&new_bound()).await?;
        askers.push(asker);
    }
    let rate = NonZeroU32::new(rate as u32).unwrap_or(NonZeroU32::MIN);
    let schedule = Schedule { rate, run_time: lasts * LASTS, max_in_flight: MAX_IN_FLIGHT };
    let seen = Arc::new(Mutex::new((Latencies::default(), Ok(()))));
    let ask = |number: u64| {
        let asker = askers[(number % CONNECTIONS) as usize].clone();
        async move { asker.ask(&new_bound()).await }
    };
    let seen_later = seen.clone();
    let arrivals = at_schedule(schedule, ask, move |_, latency, answer| {
        let mut seen = seen_later.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.record(latency);
        if let Err(error) = answer {
            seen.1 = Err(error);
        }
    })
    .await;
    if arrivals.dropped > 0 {
        return Err(BenchError::FallsBehind { rate: rate.get(), dropped: arrivals.dropped });
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut seen.1, Ok(()))?;
    let percentile = |percent| seen.0.percentile_ms(percent).unwrap_or(f64::NAN);
    Ok(Percentiles { p50_ms: percentile(50.0), p99_ms: percentile(99.0), p999_ms: percentile(99.9) })
}
