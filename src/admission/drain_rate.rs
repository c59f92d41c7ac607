//! How fast slots become free, measured over the latest completions.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Completions that count, at most.
const WINDOW_COUNT: usize = 64;
/// Older completions say nothing about the present load.
const WINDOW: Duration = Duration::from_secs(60);
/// A shorter wait is not worth a round trip.
const SHORTEST: Duration = Duration::from_millis(50);
/// Told to wait longer than this, clients give up; the load may change sooner.
const LONGEST: Duration = Duration::from_secs(60);
/// The answer while nothing has been measured.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A sliding window over completions.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    completions: VecDeque<Instant>,
}

impl DrainRate {
    /// Notes that a slot has become free.
    pub(super) fn record(&mut self, now: Instant) {
        self.completions.push_back(now);
        if self.completions.len() > WINDOW_COUNT {
            self.completions.pop_front();
        }
    }

    /// How long `count` completions take, between 50 ms and 60 s; 1 s while that is unknown.
    pub(super) fn time_for(&self, count: usize, now: Instant) -> Duration {
        let recent = |at: &&Instant| now.duration_since(**at) <= WINDOW;
        let measured = self.completions.iter().filter(recent).count();
        let oldest = self.completions.iter().find(recent);
        let Some(oldest) = oldest.filter(|_| measured >= 2) else {
            return UNKNOWN;
        };
        // Up to now, not up to the last completion: a stalled node drains ever more slowly.
        let elapsed = now.duration_since(*oldest).as_secs_f64();
        let seconds = elapsed / (measured - 1) as f64 * count as f64;
        Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())).max(SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_follows_the_measured_rate_within_bounds() {
        let mut rate = DrainRate::default();
        let start = Instant::now();
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
}
