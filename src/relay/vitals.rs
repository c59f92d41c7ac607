//! What a node has seen of each neighbour: how fast it answers, and how many retries it can still take.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Answers whose times are remembered.
const REMEMBERED: usize = 128;

/// Answers before anything is said of their times: of fewer, the slowest is no 95th percentile.
const TELLING: usize = 20;

/// Retries that come back each second, however little is answered: a neighbour that is asked nothing could never be
/// retried on again.
const RETRIES_PER_SECOND: f64 = 10.0;

/// Retries that come back with each answer: in the long run at most a fifth more requests than there would be without.
const RETRIES_PER_ANSWER: f64 = 0.2;

/// Of one neighbour.
#[derive(Debug)]
pub(super) struct Vitals {
    latest: VecDeque<Duration>,
    /// Whole retries left, and the part of one that has come back.
    retries: f64,
    most: f64,
    counted_at: Instant,
}

impl Vitals {
    /// Of a neighbour that nothing is known of, which takes up to `most` retries at once.
    pub(super) fn new(most: u32, now: Instant) -> Self {
        let most = f64::from(most);
        Vitals { latest: VecDeque::new(), retries: most, most, counted_at: now }
    }

    /// Notes an answer, whatever it was. One that is not whole may have waited for nodes that are gone, which tells nothing of
    /// the time that another question takes.
    pub(super) fn answered(&mut self, took: Duration, is_whole: bool) {
        if is_whole {
            if self.latest.len() == REMEMBERED {
                self.latest.pop_front();
            }
            self.latest.push_back(took);
        }
        self.retries = (self.retries + RETRIES_PER_ANSWER).min(self.most);
    }

    /// Takes one retry, or tells when there will be one.
    pub(super) fn take_retry(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.retries = (self.retries + since * RETRIES_PER_SECOND).min(self.most);
        self.counted_at = now;
        if self.retries < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.retries) / RETRIES_PER_SECOND));
        }
        self.retries -= 1.0;
        Ok(())
    }

    /// The time that `percent` of the latest whole answers took at most; `None` while there are too few.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        if self.latest.len() < TELLING {
            return None;
        }
        let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest that at least so many do not exceed.
        Some(sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_used_up_and_come_back_with_time_and_answers() {
        let start = Instant::now();
        let mut vitals = Vitals::new(2, start);
        assert_eq!([(); 2].map(|()| vitals.take_retry(start)), [Ok(()); 2]);
        assert_eq!(vitals.take_retry(start), Err(Duration::from_millis(100)), "10 a second");
        for _ in 0..5 {
            vitals.answered(Duration::ZERO, false);
        }
        assert_eq!(vitals.take_retry(start), Ok(()), "one for five answers");
        assert!(vitals.take_retry(start).is_err());
        let later = start + Duration::from_millis(100);
        assert_eq!(vitals.take_retry(later), Ok(()));
        let much_later = later + Duration::from_secs(3600);
        assert_eq!([(); 2].map(|()| vitals.take_retry(much_later)), [Ok(()); 2]);
        assert!(vitals.take_retry(much_later).is_err(), "never more than there were");
    }

    #[tokio::test(start_paused = true)]
    async fn percentile_is_of_the_latest_answers() {
        let mut vitals = Vitals::new(0, Instant::now());
        for milliseconds in 1..20 {
            vitals.answered(Duration::from_millis(milliseconds), true);
        }
        vitals.answered(Duration::from_secs(9), false);
        assert_eq!(vitals.percentile(95), None, "19 whole answers");
        vitals.answered(Duration::from_millis(20), true);
        assert_eq!(vitals.percentile(95), Some(Duration::from_millis(19)), "of 20 all but one");
        assert_eq!(vitals.percentile(50), Some(Duration::from_millis(10)));
        for _ in 0..REMEMBERED {
            vitals.answered(Duration::from_millis(7), true);
        }
        assert_eq!(vitals.percentile(95), Some(Duration::from_millis(7)));
    }
}
