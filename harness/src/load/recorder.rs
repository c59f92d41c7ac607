//! What a load run counts while it runs: latencies of successes alone, apart from them failures by cause.
//!
//! Bounded in memory, however long the run is: latencies go to histograms of three digits, and of each second
//! only a line is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::outcome::{Failure, Outcome, Success};

/// Kinds of failure that are told apart; the rest is counted together.
const MAX_FAILURE_KINDS: usize = 20;

/// Characters of a failure's cause that are kept.
const MAX_FAILURE_CHARS: usize = 200;

/// Counts outcomes from any task.
pub(super) struct Recorder {
    started: Instant,
    tally: Mutex<Tally>,
}

/// Everything that was counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// All transactions together.
    pub(super) all: Counts,
    /// By transaction.
    pub(super) transactions: BTreeMap<&'static str, Counts>,
    /// By RPC.
    pub(super) calls: BTreeMap<&'static str, Counts>,
    /// Nodes named in answers, summed.
    pub(super) hops: u64,
    /// `total_records` of all answers, summed.
    pub(super) records: u64,
    /// The smallest and the largest `total_records`.
    pub(super) records_range: Option<(u64, u64)>,
    /// Answers that had a `total_records`.
    pub(super) results: u64,
    /// Waits for admission, of the queries that waited.
    pub(super) waits: Latencies,
    /// Queries that waited, by what they waited for.
    pub(super) waits_by_factor: BTreeMap<String, u64>,
    /// Rejections by the limit that was reached.
    pub(super) rejections: BTreeMap<String, u64>,
    /// Failures by cause.
    pub(super) causes: BTreeMap<String, u64>,
    /// By client, successes and rows.
    pub(super) clients: BTreeMap<String, Share>,
    /// Rows of results by the team that served them.
    pub(super) teams: BTreeMap<String, u64>,
    /// Second by second.
    pub(super) seconds: Vec<Second>,
    /// When the last answer came, from the start.
    pub(super) ended: Duration,
    current: Current,
}

/// What came of requests of one kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Of successes.
    pub(super) latencies: Latencies,
    /// Right answers.
    pub(super) successful: u64,
    /// All others.
    pub(super) failed: u64,
    /// Of these, refused for overload.
    pub(super) rejected: u64,
    /// Of these, wrong.
    pub(super) wrong: u64,
    /// Rows that arrived.
    pub(super) rows: u64,
    /// Bytes of chunks that arrived.
    pub(super) bytes: u64,
}

/// What one client got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// Right answers.
    pub(super) successful: u64,
    /// Rows in them.
    pub(super) rows: u64,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Second {
    /// Whole seconds since the start.
    pub(super) second: u64,
    /// Right answers that came in it.
    pub(super) successful: u64,
    /// Everything else that ended in it.
    pub(super) failed: u64,
    /// Median, 99th percentile and largest latency of the right answers; `None` without any.
    pub(super) latency_ms: Option<[f64; 3]>,
}

/// The second that is being counted.
#[derive(Debug, Default)]
struct Current {
    second: u64,
    latencies: Latencies,
    failed: u64,
}

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Latencies(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        // No call may take a day; without a bound the histogram would grow with nonsense.
        let microseconds = latency.as_micros().min(86_400_000_000) as u64;
        self.0.record(microseconds).expect("the histogram grows");
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `percent` of all do not exceed.
    pub(crate) fn percentile_ms(&self, percent: f64) -> Option<f64> {
        self.some(self.0.value_at_percentile(percent) as f64)
    }

    pub(super) fn mean_ms(&self) -> Option<f64> {
        self.some(self.0.mean())
    }

    pub(super) fn min_ms(&self) -> Option<f64> {
        self.some(self.0.min() as f64)
    }

    pub(super) fn max_ms(&self) -> Option<f64> {
        self.some(self.0.max() as f64)
    }

    fn some(&self, microseconds: f64) -> Option<f64> {
        (!self.0.is_empty()).then_some(microseconds / 1e3)
    }
}

impl Recorder {
    /// Counts from now on.
    pub(super) fn start() -> Self {
        Recorder { started: Instant::now(), tally: Mutex::new(Tally::new()) }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts what a client's transaction came to.
    pub(super) fn record(&self, client: &str, outcome: Outcome) {
        let elapsed = self.elapsed();
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).record(elapsed, client, outcome);
    }

    /// Ends counting.
    pub(super) fn finish(&self) -> Tally {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.end_second();
        std::mem::replace(&mut tally, Tally::new())
    }
}

impl Tally {
    fn new() -> Self {
        Tally {
            all: Counts::default(),
            transactions: BTreeMap::new(),
            calls: BTreeMap::new(),
            hops: 0,
            records: 0,
            records_range: None,
            results: 0,
            waits: Latencies::default(),
            waits_by_factor: BTreeMap::new(),
            rejections: BTreeMap::new(),
            causes: BTreeMap::new(),
            clients: BTreeMap::new(),
            teams: BTreeMap::new(),
            seconds: Vec::new(),
            ended: Duration::ZERO,
            current: Current::default(),
        }
    }

    fn record(&mut self, elapsed: Duration, client: &str, outcome: Outcome) {
        self.ended = self.ended.max(elapsed);
        self.count_second(elapsed.as_secs(), &outcome);
        for call in &outcome.calls {
            self.calls.entry(call.name).or_default().count(call.took, call.good);
        }
        let transaction = self.transactions.entry(outcome.transaction).or_default();
        self.all.record(&outcome);
        transaction.record(&outcome);
        match outcome.result {
            Ok(success) => self.success(client, success),
            Err(failure) => self.failure(failure),
        }
    }

    fn success(&mut self, client: &str, success: Success) {
        self.hops += success.hops;
        if let Some(records) = success.records {
            let (least, most) = self.records_range.unwrap_or((records, records));
            self.records_range = Some((least.min(records), most.max(records)));
            self.records += records;
            self.results += 1;
        }
        if let Some((waited, factor)) = success.admission {
            self.waits.record(waited);
            *self.waits_by_factor.entry(factor).or_default() += 1;
        }
        for (team, rows) in success.team_rows {
            *self.teams.entry(team).or_default() += rows;
        }
        let share = self.clients.entry(client.to_owned()).or_default();
        share.successful += 1;
        share.rows += success.rows;
    }

    fn failure(&mut self, failure: Failure) {
        let cause = match failure {
            Failure::Rejected { limit, .. } => {
                *self.rejections.entry(limit.clone()).or_default() += 1;
                format!("rejected, limit {limit}")
            }
            Failure::Failed(cause) => cause,
            Failure::Wrong(what) => format!("wrong answer: {what}"),
        };
        let cause: String = cause.chars().take(MAX_FAILURE_CHARS).collect();
        let known = self.causes.len() < MAX_FAILURE_KINDS || self.causes.contains_key(&cause);
        *self.causes.entry(if known { cause } else { "other".to_owned() }).or_default() += 1;
    }

    fn count_second(&mut self, second: u64, outcome: &Outcome) {
        // A second in which nothing ended is kept too: that is what a stall looks like.
        while self.current.second < second {
            self.end_second();
        }
        match outcome.result {
            Ok(_) => self.current.latencies.record(outcome.latency),
            Err(_) => self.current.failed += 1,
        }
    }

    fn end_second(&mut self) {
        let Current { second, latencies, failed } = &mut self.current;
        let percentiles = [50.0, 99.0, 100.0].map(|percent| latencies.percentile_ms(percent));
        self.seconds.push(Second {
            second: *second,
            successful: latencies.count(),
            failed: std::mem::take(failed),
            latency_ms: percentiles[0].map(|_| percentiles.map(Option::unwrap_or_default)),
        });
        latencies.0.reset();
        *second += 1;
    }
}

impl Counts {
    /// Requests that ended.
    pub(super) fn total(&self) -> u64 {
        self.successful + self.failed
    }

    fn count(&mut self, latency: Duration, good: bool) {
        match good {
            true => {
                self.successful += 1;
                self.latencies.record(latency);
            }
            false => self.failed += 1,
        }
    }

    fn record(&mut self, outcome: &Outcome) {
        self.count(outcome.latency, outcome.result.is_ok());
        self.bytes += outcome.bytes;
        match &outcome.result {
            Ok(success) => self.rows += success.rows,
            Err(Failure::Rejected { .. }) => self.rejected += 1,
            Err(Failure::Wrong(_)) => self.wrong += 1,
            Err(Failure::Failed(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(latency_ms: u64) -> Outcome {
        let latency = Duration::from_millis(latency_ms);
        Outcome { transaction: "drain", calls: Vec::new(), latency, bytes: 0, result: Ok(Success::default()) }
    }

    /// Goal: a stall is seen in the plots, not drawn over. Two answers in the first second, one in the fourth.
    #[tokio::test(start_paused = true)]
    async fn seconds_without_answers_are_kept() {
        let recorder = Recorder::start();
        recorder.record("c", outcome(10));
        recorder.record("c", outcome(20));
        tokio::time::sleep(Duration::from_millis(3500)).await;
        recorder.record("c", outcome(3000));
        let seconds = recorder.finish().seconds;
        let found: Vec<_> = seconds.iter().map(|second| (second.second, second.successful)).collect();
        assert_eq!(found, [(0, 2), (1, 0), (2, 0), (3, 1)]);
        assert_eq!((seconds[1].latency_ms, seconds[0].latency_ms.is_some()), (None, true));
    }
}
