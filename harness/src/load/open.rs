//! The open loop: requests arrive by a schedule that no answer can hold up.
//!
//! Arrival `n` is due `n` intervals after the start, and its latency counts from then, also if it could only be
//! sent later. So a stall of the node shows in the latency of everything that was due meanwhile, which a closed
//! loop would not even have asked. Requests in flight are bounded; what is due beyond the bound is dropped and
//! counted.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When requests are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Requests in a second, at equal intervals.
    pub rate: NonZeroU32,
    /// How long requests arrive.
    pub run_time: Duration,
    /// Requests in flight at once.
    pub max_in_flight: NonZeroU32,
}

/// What became of the arrivals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Arrivals {
    /// All that were due.
    pub due: u64,
    /// Of these, those that found `max_in_flight` others.
    pub dropped: u64,
}

impl Schedule {
    /// Arrivals in the run time.
    pub fn arrivals(&self) -> u64 {
        (u128::from(self.rate.get()) * self.run_time.as_nanos() / 1_000_000_000) as u64
    }

    /// When arrival `number` is due, from the start.
    pub(crate) fn due(&self, number: u64) -> Duration {
        let nanoseconds = u128::from(number) * 1_000_000_000 / u128::from(self.rate.get());
        Duration::from_nanos(nanoseconds as u64)
    }
}

/// Sends request `n` when it is due, and gives `done` its answer with the latency since then.
pub(crate) async fn run<A, F>(
    schedule: Schedule,
    send: impl Fn(u64) -> F,
    done: impl Fn(u64, Duration, A) + Clone + Send + 'static,
) -> Arrivals
where
    F: Future<Output = A> + Send + 'static,
    A: Send + 'static,
{
    let start = Instant::now();
    let in_flight = Arc::new(Semaphore::new(schedule.max_in_flight.get() as usize));
    let mut sent = JoinSet::new();
    let mut arrivals = Arrivals { due: schedule.arrivals(), dropped: 0 };
    for number in 0..arrivals.due {
        let due = start + schedule.due(number);
        tokio::time::sleep_until(due).await;
        while sent.try_join_next().is_some() {}
        let Ok(permit) = in_flight.clone().try_acquire_owned() else {
            arrivals.dropped += 1;
            continue;
        };
        let (request, done) = (send(number), done.clone());
        sent.spawn(async move {
            let answer = request.await;
            done(number, due.elapsed(), answer);
            drop(permit);
        });
    }
    sent.join_all().await;
    arrivals
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::recorder::Latencies;
    use super::*;

    const RUN: Duration = Duration::from_secs(10);
    const SERVICE_TIME: Duration = Duration::from_millis(1);
    const STALL: Duration = Duration::from_secs(1);

    fn schedule(rate: u32, max_in_flight: u32) -> Schedule {
        let nonzero = |number| NonZeroU32::new(number).expect("not 0");
        Schedule { rate: nonzero(rate), run_time: RUN, max_in_flight: nonzero(max_in_flight) }
    }

    /// Answers after a millisecond, but nothing at all in the sixth second.
    async fn stalling_service(start: Instant) {
        let (stalls, recovers) = (start + RUN / 2, start + RUN / 2 + STALL);
        if (stalls..recovers).contains(&Instant::now()) {
            tokio::time::sleep_until(recovers).await;
        }
        tokio::time::sleep(SERVICE_TIME).await;
    }

    async fn open_loop(schedule: Schedule) -> (Arrivals, Latencies) {
        let start = Instant::now();
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        let recorded = latencies.clone();
        let done = move |_, latency, ()| recorded.lock().expect("no test panics").record(latency);
        let arrivals = run(schedule, |_| stalling_service(start), done).await;
        let latencies = latencies.lock().expect("no test panics").clone();
        (arrivals, latencies)
    }

    async fn closed_loop() -> Latencies {
        let start = Instant::now();
        let mut latencies = Latencies::default();
        while start.elapsed() < RUN {
            let sent = Instant::now();
            stalling_service(start).await;
            latencies.record(sent.elapsed());
        }
        latencies
    }

    /// Goal: what users suffer who do not wait for each other.
    ///
    /// Of 1,000 arrivals in ten seconds, the 100 of the stalled second wait for its end: a tenth of all,
    /// evenly from 1 s down to 10 ms. So the 95th percentile is half a second. A user of the closed loop asks
    /// some nine thousand times and meets the stall once.
    #[tokio::test(start_paused = true)]
    async fn stall_shows_in_the_open_loop_and_hides_in_a_closed_one() {
        let (arrivals, open) = open_loop(schedule(100, 1000)).await;
        let closed = closed_loop().await;
        let about = |found: Option<f64>, expected: f64| {
            (found.expect("recorded") - expected).abs() <= expected / 50.0 + 1.0
        };
        assert_eq!(arrivals, Arrivals { due: 1000, dropped: 0 });
        assert!(about(open.percentile_ms(50.0), 1.0), "{:?}", open.percentile_ms(50.0));
        assert!(about(open.percentile_ms(95.0), 500.0), "{:?}", open.percentile_ms(95.0));
        assert!(about(open.percentile_ms(99.0), 900.0), "{:?}", open.percentile_ms(99.0));
        assert!(about(closed.percentile_ms(99.0), 1.0), "{:?}", closed.percentile_ms(99.0));
        assert!(about(closed.max_ms(), 1000.0), "{:?}", closed.max_ms());
    }

    /// Goal: a generator that is held up hides nothing either. The clock jumps a second, as for a process that got no
    /// processor; what was due meanwhile is sent late and answered at once.
    #[tokio::test(start_paused = true)]
    async fn latency_counts_from_when_a_request_was_due_when_it_is_sent_late() {
        let latencies = Arc::new(Mutex::new(Latencies::default()));
        let recorded = latencies.clone();
        let done = move |_, latency, ()| recorded.lock().expect("no test panics").record(latency);
        let jump = async {
            tokio::time::sleep(RUN / 2 + SERVICE_TIME / 2).await;
            tokio::time::advance(STALL).await;
        };
        let (arrivals, ()) =
            tokio::join!(run(schedule(100, 1000), |_| tokio::time::sleep(SERVICE_TIME), done), jump);
        let latencies = latencies.lock().expect("no test panics").clone();
        assert_eq!(arrivals, Arrivals { due: 1000, dropped: 0 });
        let p95 = latencies.percentile_ms(95.0).expect("recorded");
        assert!((480.0..520.0).contains(&p95), "{p95}");
    }

    /// Of the 101 arrivals from the stall's start to its end, both included, ten are sent, and the others find them
    /// still there: they need another millisecond.
    #[tokio::test(start_paused = true)]
    async fn arrivals_beyond_the_bound_are_dropped_and_counted() {
        let (arrivals, latencies) = open_loop(schedule(100, 10)).await;
        assert_eq!(arrivals, Arrivals { due: 1000, dropped: 91 });
        assert_eq!(latencies.count(), 909);
    }
}
