//! What a load run prints and writes: the file's keys are those of the old benchmark, and more beside them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::calendar;

use super::{LoadPlan, QueueSamples, Tally};

/// The results of a load run. Of latencies, hops and records only successes count; without any, they are null.
#[derive(Clone, Debug, Serialize)]
pub struct LoadResults {
    /// Requests that were made.
    pub total_requests: u64,
    /// Requests with a right answer.
    pub successful_requests: u64,
    /// All others: no answer, a status that says so, a wrong answer.
    pub failed_requests: u64,
    /// From the first request to the last answer.
    pub total_time_seconds: f64,
    /// Successes in a second.
    pub throughput_rps: f64,
    /// From sending the query to holding its first chunk (with `all_chunks`: its last).
    pub avg_latency_ms: Option<f64>,
    /// The 50th percentile.
    pub median_latency_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_latency_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_latency_ms: Option<f64>,
    /// The fastest success.
    pub min_latency_ms: Option<f64>,
    /// The slowest success.
    pub max_latency_ms: Option<f64>,
    /// Nodes named in the `hops` of an answer.
    pub avg_hops: Option<f64>,
    /// Most queries that waited at the node, of all samples.
    pub max_queue_size: Option<u64>,
    /// Queries that waited at the node, the mean of all samples.
    pub avg_queue_size: Option<f64>,
    /// Queries that waited when the load had ended.
    pub final_queue_size: Option<u64>,
    /// The node's own mean over all its queries, when the load had ended.
    pub avg_processing_time_ms: Option<f64>,
    /// `total_records` of all answers together.
    pub total_records_returned: u64,
    /// Mean of `total_records`.
    pub avg_records_per_query: Option<f64>,
    /// Largest `total_records`.
    pub max_records_per_query: Option<u64>,
    /// Smallest `total_records`.
    pub min_records_per_query: Option<u64>,
    /// Answers that contradict themselves or the first one; failures, too.
    pub wrong_answers: u64,
    /// Requests that the node refused for overload; failures, too.
    pub rejected_requests: u64,
    /// Failures by cause.
    pub failures: BTreeMap<String, u64>,
    /// Percentiles by nearest rank: each is a latency that was measured.
    pub latency_percentiles_ms: Option<LatencyPercentiles>,
    /// Rows that arrived in chunks.
    pub rows_received: u64,
    /// Rows that arrived in chunks, in a second.
    pub rows_per_second: f64,
    /// Bytes of chunks that arrived, those of wrong answers as well.
    pub bytes_received: u64,
    /// Looks at the node's queue.
    pub queue_samples: u64,
    /// When the first request was sent, UTC.
    pub started_at: String,
    /// The node.
    pub host: String,
    /// Users, each with at most one request in flight.
    pub users: u32,
    /// The filter that all asked.
    pub query_params: String,
    /// Whether a request read every chunk, not only the first.
    pub all_chunks: bool,
}

/// Latencies that so many percent of the successes did not exceed.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "each is its percentile")]
pub struct LatencyPercentiles {
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
}

impl LoadResults {
    pub(super) fn new(
        plan: &LoadPlan,
        started_at: SystemTime,
        took: Duration,
        mut tally: Tally,
        queue: &QueueSamples,
    ) -> Self {
        tally.latencies.sort_unstable();
        let latencies = &tally.latencies;
        let successes = latencies.len() as u64;
        let seconds = took.as_secs_f64();
        let per_success = |sum: f64| (successes > 0).then(|| sum / successes as f64);
        let sampled = queue.samples > 0;
        LoadResults {
            total_requests: successes + tally.failed,
            successful_requests: successes,
            failed_requests: tally.failed,
            total_time_seconds: seconds,
            throughput_rps: successes as f64 / seconds,
            avg_latency_ms: per_success(latencies.iter().copied().map(milliseconds).sum()),
            median_latency_ms: percentile(latencies, 50.0),
            p95_latency_ms: percentile(latencies, 95.0),
            p99_latency_ms: percentile(latencies, 99.0),
            min_latency_ms: latencies.first().copied().map(milliseconds),
            max_latency_ms: latencies.last().copied().map(milliseconds),
            avg_hops: per_success(tally.hops as f64),
            max_queue_size: sampled.then_some(queue.max),
            avg_queue_size: sampled.then(|| queue.sum as f64 / queue.samples as f64),
            final_queue_size: sampled.then_some(queue.last),
            avg_processing_time_ms: sampled.then_some(queue.avg_processing_time_ms),
            total_records_returned: tally.total_records,
            avg_records_per_query: per_success(tally.total_records as f64),
            max_records_per_query: tally.max_records,
            min_records_per_query: tally.min_records,
            wrong_answers: tally.wrong,
            rejected_requests: tally.rejected,
            failures: tally.causes,
            latency_percentiles_ms: LatencyPercentiles::new(latencies),
            rows_received: tally.rows_received,
            rows_per_second: tally.rows_received as f64 / seconds,
            bytes_received: tally.bytes_received,
            queue_samples: queue.samples,
            started_at: timestamp(started_at),
            host: plan.host.clone(),
            users: plan.users,
            query_params: plan.query_params.clone(),
            all_chunks: plan.all_chunks,
        }
    }
}

impl LatencyPercentiles {
    fn new(sorted: &[Duration]) -> Option<Self> {
        Some(LatencyPercentiles {
            p50: percentile(sorted, 50.0)?,
            p75: percentile(sorted, 75.0)?,
            p90: percentile(sorted, 90.0)?,
            p95: percentile(sorted, 95.0)?,
            p99: percentile(sorted, 99.0)?,
            p99_9: percentile(sorted, 99.9)?,
        })
    }
}

/// The nearest-rank percentile: the least latency that `percent` of all do not exceed.
fn percentile(sorted: &[Duration], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().map(milliseconds)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// As in `2020-08-10T01:00:00Z`.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let day = calendar::days(19700101, 29991231).nth((seconds / 86_400) as usize).unwrap_or(29991231);
    let (year, month, day) = calendar::parts(day);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What is read on a screen.
impl fmt::Display for LoadResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = if self.all_chunks { "last" } else { "first" };
        writeln!(
            f,
            "{} requests of {} users to {} in {:.2} s; a request is a query to its {until} chunk\n",
            self.total_requests, self.users, self.host, self.total_time_seconds
        )?;
        writeln!(
            f,
            "requests    {} successful, {} failed (of these {} rejected, {} wrong answers)",
            self.successful_requests, self.failed_requests, self.rejected_requests, self.wrong_answers
        )?;
        for (cause, count) in &self.failures {
            writeln!(f, "            {count} x {cause}")?;
        }
        writeln!(
            f,
            "throughput  {:.1} requests/s, {:.0} rows/s, {:.2} MB/s",
            self.throughput_rps,
            self.rows_per_second,
            self.bytes_received as f64 / 1e6 / self.total_time_seconds
        )?;
        writeln!(
            f,
            "latency     median {}, p95 {}, p99 {} ms; mean {}, least {}, most {} ms",
            shown(self.median_latency_ms),
            shown(self.p95_latency_ms),
            shown(self.p99_latency_ms),
            shown(self.avg_latency_ms),
            shown(self.min_latency_ms),
            shown(self.max_latency_ms)
        )?;
        writeln!(
            f,
            "records     {} in each result on average; {} in all, {} rows ({:.1} MB) read",
            shown(self.avg_records_per_query),
            self.total_records_returned,
            self.rows_received,
            self.bytes_received as f64 / 1e6
        )?;
        writeln!(
            f,
            "node        {} ms for a query; {} waiting on average, {} at most, {} at the end ({} samples); {} hops",
            shown(self.avg_processing_time_ms),
            shown(self.avg_queue_size),
            count(self.max_queue_size),
            count(self.final_queue_size),
            self.queue_samples,
            shown(self.avg_hops)
        )
    }
}

fn shown(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let of = |latencies: &[Duration], percent| percentile(latencies, percent);
        assert_eq!(
            [50.0, 95.0, 99.0, 99.9].map(|percent| of(&hundred, percent)),
            [50.0, 95.0, 99.0, 100.0].map(Some)
        );
        assert_eq!([50.0, 99.9].map(|percent| of(&hundred[..1], percent)), [Some(1.0); 2]);
        assert_eq!(of(&[], 50.0), None);
    }

    #[test]
    fn timestamp_is_utc() {
        let time = UNIX_EPOCH + Duration::from_secs(1_597_021_261);
        assert_eq!(timestamp(time), "2020-08-10T01:01:01Z");
    }
}
