//! How fast slots become free while they are wanted, measured over the latest completions.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Completions that count, at most.
const WINDOW_COUNT: usize = 64;
/// Older completions, on the busy clock, say nothing about the present load.
const WINDOW: Duration = Duration::from_secs(60);
/// A shorter wait is not worth a round trip.
const SHORTEST: Duration = Duration::from_millis(50);
/// Told to wait longer than this, clients give up; the load may change sooner.
const LONGEST: Duration = Duration::from_secs(60);
/// The answer while nothing has been measured.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A sliding window over completions, on a clock that stands still while nobody wants a slot: two queries an hour do
/// not mean that a query takes half an hour.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    /// When they happened, by the busy clock.
    completions: VecDeque<Duration>,
    /// The busy clock up to `busy_since`.
    busy: Duration,
    /// Since when somebody wants a slot that is not free.
    busy_since: Option<Instant>,
}

impl DrainRate {
    /// Notes whether somebody wants a slot that is not free, from now on.
    pub(super) fn set_busy(&mut self, busy: bool, now: Instant) {
        if busy != self.busy_since.is_some() {
            self.busy = self.clock(now);
            self.busy_since = busy.then_some(now);
        }
    }

    /// Notes that a slot has become free.
    pub(super) fn record(&mut self, now: Instant) {
        if self.busy_since.is_none() {
            return;
        }
        self.completions.push_back(self.clock(now));
        if self.completions.len() > WINDOW_COUNT {
            self.completions.pop_front();
        }
    }

    /// How long `count` completions take, between 50 ms and 60 s; 1 s while that is unknown.
    pub(super) fn time_for(&self, count: usize, now: Instant) -> Duration {
        let Some(interval) = self.interval(now) else {
            return UNKNOWN;
        };
        let seconds = interval * count as f64;
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())).max(SHORTEST)
    }

    /// Whether enough was measured lately.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        self.interval(now).is_some()
    }

    /// Seconds between two completions.
    fn interval(&self, now: Instant) -> Option<f64> {
        let clock = self.clock(now);
        let recent = |at: &&Duration| clock - **at <= WINDOW;
        let measured = self.completions.iter().filter(recent).count();
        let oldest = self.completions.iter().find(recent).filter(|_| measured >= 2)?;
        // Up to now, not up to the last completion: a stalled node drains ever more slowly.
        let elapsed = (clock - *oldest).as_secs_f64();
        Some(elapsed / (measured - 1) as f64)
    }

    fn clock(&self, now: Instant) -> Duration {
        self.busy + self.busy_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_follows_the_measured_rate_within_bounds() {
        let mut rate = DrainRate::default();
        let start = Instant::now();
        rate.set_busy(true, start);
        assert_eq!(rate.time_for(10, start), UNKNOWN);
        for tenth in 0..=10 {
            rate.record(start + Duration::from_millis(100 * tenth));
        }
        let end = start + Duration::from_secs(1);
        assert_eq!(rate.time_for(5, end), Duration::from_millis(500));
        assert_eq!(rate.time_for(0, end), SHORTEST);
        assert_eq!(rate.time_for(1_000_000, end), LONGEST);
        // Nothing has ended since: the rate halves, and is unknown again when the window has passed.
        let stalled = end + Duration::from_secs(1);
        assert_eq!(rate.time_for(5, stalled), Duration::from_secs(1));
        assert_eq!(rate.time_for(5, end + WINDOW + WINDOW), UNKNOWN);
    }

    /// A slot a second while it is wanted, then an hour in which nobody waits: still a slot a second.
    #[tokio::test(start_paused = true)]
    async fn idle_time_is_no_drain_time() {
        let mut rate = DrainRate::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        rate.set_busy(true, start);
        for second in 0..=4 {
            rate.record(at(second));
        }
        rate.set_busy(false, at(4));
        rate.record(at(5));
        rate.set_busy(true, at(3_600));
        assert_eq!(rate.time_for(3, at(3_600)), Duration::from_secs(3));
    }
}
