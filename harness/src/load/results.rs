//! What a load run writes: the file's keys are those of the old benchmark, and more beside them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::nodes::QueueSamples;
use super::recorder::{Counts, Latencies, Share, Tally};
use super::{Arrivals, Judged, LoadPlan, NodeUsage, Work};
use crate::report::Origin;

/// The results of a load run. Of latencies, hops and records only successes count; without any, they are null.
#[derive(Clone, Debug, Serialize)]
pub struct LoadResults {
    /// Requests that were made; a request of a mix is a whole transaction.
    pub total_requests: u64,
    /// Requests with a right answer.
    pub successful_requests: u64,
    /// All others: no answer, a status that says so, a wrong answer.
    pub failed_requests: u64,
    /// From the first request to the last answer.
    pub total_time_seconds: f64,
    /// Successes in a second.
    pub throughput_rps: f64,
    /// Of the benchmark: from sending the query to holding its first chunk (with `all_chunks`: its last). Of a
    /// mix: from a transaction's start to the end of its last call; in an open loop, from when it was due.
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
    /// Answers that contradict themselves, their proof or the first one; failures, too.
    pub wrong_answers: u64,
    /// Requests that the node refused for overload; failures, too.
    pub rejected_requests: u64,
    /// Rejections by the limit that was reached.
    pub rejections_by_limit: BTreeMap<String, u64>,
    /// Failures by cause.
    pub failures: BTreeMap<String, u64>,
    /// Percentiles of the successes, to three digits.
    pub latency_percentiles_ms: Option<LatencyPercentiles>,
    /// Rows that arrived in chunks.
    pub rows_received: u64,
    /// Rows that arrived in chunks, in a second.
    pub rows_per_second: f64,
    /// Bytes of chunks that arrived, those of wrong answers as well.
    pub bytes_received: u64,
    /// Bytes of chunks that arrived, in a second.
    pub bytes_per_second: f64,
    /// Waits for admission, as the answers tell of them.
    pub admission: AdmissionResults,
    /// By transaction.
    pub transactions: BTreeMap<&'static str, TransactionResults>,
    /// By RPC.
    pub calls: BTreeMap<&'static str, CallResults>,
    /// By client.
    pub clients: BTreeMap<String, ClientResults>,
    /// Rows of results by the team that served them; the old contract does not tell.
    pub rows_by_team: BTreeMap<String, u64>,
    /// Second by second.
    pub seconds: Vec<SecondResults>,
    /// The latency that so many percent of the successes did not exceed, from the median to the slowest.
    pub latency_curve: Vec<CurvePoint>,
    /// The nodes before and after.
    pub nodes: Vec<NodeUsage>,
    /// The rules that were to hold.
    pub thresholds: Vec<Judged>,
    /// Of an open loop, what became of what was due.
    pub arrivals: Option<Arrivals>,
    /// Looks at the node's queue.
    pub queue_samples: u64,
    /// What the figures are cited with, beside the version of the nodes.
    #[serde(flatten)]
    pub origin: Origin,
    /// When the first request was sent, UTC.
    pub started_at: String,
    /// The node.
    pub host: String,
    /// Users, each with a connection.
    pub users: u32,
    /// What was asked, and when.
    #[serde(flatten)]
    pub work: WorkDone,
}

/// What was asked, and when.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "loop", rename_all = "snake_case")]
pub enum WorkDone {
    /// All asked the same.
    Benchmark {
        /// The filter that all asked.
        query_params: String,
        /// Whether a request read every chunk, not only the first.
        all_chunks: bool,
    },
    /// A mix, in a closed loop.
    Closed {
        /// What was asked.
        mix: String,
        /// For how long.
        run_time_seconds: f64,
    },
    /// A mix, in an open loop.
    Open {
        /// What was asked.
        mix: String,
        /// How long requests arrived.
        run_time_seconds: f64,
        /// How many in a second.
        rate_per_second: u32,
        /// Requests in flight at once.
        max_in_flight: u32,
        /// What decided which transaction was due when.
        seed: u64,
    },
}

/// What came of one transaction.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as of all requests")]
pub struct TransactionResults {
    #[serde(flatten)]
    pub calls: CallResults,
    pub rejected: u64,
    pub wrong: u64,
    pub rows: u64,
    pub bytes: u64,
    pub latency_curve: Vec<CurvePoint>,
}

/// What came of one RPC.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as of all requests")]
pub struct CallResults {
    pub successful: u64,
    pub failed: u64,
    pub per_second: f64,
    pub latency_percentiles_ms: Option<LatencyPercentiles>,
    pub max_latency_ms: Option<f64>,
}

/// Waits for admission.
#[derive(Clone, Debug, Serialize)]
pub struct AdmissionResults {
    /// Queries that waited.
    pub waited_queries: u64,
    /// These by what they waited for.
    pub waited_by_factor: BTreeMap<String, u64>,
    /// How long those waited that did.
    pub wait_percentiles_ms: Option<LatencyPercentiles>,
}

/// What one client got.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "as of all requests")]
pub struct ClientResults {
    pub successful_requests: u64,
    pub rows_received: u64,
}

/// One second of the run, also one in which nothing ended.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "as of all requests")]
pub struct SecondResults {
    pub second: u64,
    pub successful: u64,
    pub failed: u64,
    pub p50_latency_ms: Option<f64>,
    pub p99_latency_ms: Option<f64>,
    pub max_latency_ms: Option<f64>,
    pub max_queue_size: Option<u64>,
}

/// A point of the latency curve.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "its two coordinates")]
pub struct CurvePoint {
    pub percent: f64,
    pub latency_ms: f64,
}

/// Latencies that so many percent of the successes did not exceed.
#[derive(Clone, Copy, Debug, Serialize)]
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
        tally: &Tally,
        queue: &QueueSamples,
        arrivals: Option<Arrivals>,
        nodes: Vec<NodeUsage>,
    ) -> Self {
        let all = &tally.all;
        let seconds = tally.ended.as_secs_f64().max(1e-6);
        let sampled = queue.samples > 0;
        let mean = |sum: u64, count: u64| (count > 0).then(|| sum as f64 / count as f64);
        LoadResults {
            total_requests: all.total(),
            successful_requests: all.successful,
            failed_requests: all.failed,
            total_time_seconds: seconds,
            throughput_rps: all.successful as f64 / seconds,
            avg_latency_ms: all.latencies.mean_ms(),
            median_latency_ms: all.latencies.percentile_ms(50.0),
            p95_latency_ms: all.latencies.percentile_ms(95.0),
            p99_latency_ms: all.latencies.percentile_ms(99.0),
            min_latency_ms: all.latencies.min_ms(),
            max_latency_ms: all.latencies.max_ms(),
            avg_hops: mean(tally.hops, tally.results),
            max_queue_size: sampled.then_some(queue.max),
            avg_queue_size: mean(queue.sum, queue.samples),
            final_queue_size: sampled.then_some(queue.last),
            avg_processing_time_ms: sampled.then_some(queue.avg_processing_time_ms),
            total_records_returned: tally.records,
            avg_records_per_query: mean(tally.records, tally.results),
            max_records_per_query: tally.records_range.map(|(_, most)| most),
            min_records_per_query: tally.records_range.map(|(least, _)| least),
            wrong_answers: all.wrong,
            rejected_requests: all.rejected,
            rejections_by_limit: tally.rejections.clone(),
            failures: tally.causes.clone(),
            latency_percentiles_ms: LatencyPercentiles::new(&all.latencies),
            rows_received: all.rows,
            rows_per_second: all.rows as f64 / seconds,
            bytes_received: all.bytes,
            bytes_per_second: all.bytes as f64 / seconds,
            admission: AdmissionResults {
                waited_queries: tally.waits.count(),
                waited_by_factor: tally.waits_by_factor.clone(),
                wait_percentiles_ms: LatencyPercentiles::new(&tally.waits),
            },
            transactions: by_name(&tally.transactions, |counts| TransactionResults::new(counts, seconds)),
            calls: by_name(&tally.calls, |counts| CallResults::new(counts, seconds)),
            clients: tally
                .clients
                .iter()
                .map(|(id, share)| (id.clone(), ClientResults::new(*share)))
                .collect(),
            rows_by_team: tally.teams.clone(),
            seconds: second_results(tally, queue),
            latency_curve: latency_curve(&all.latencies),
            nodes,
            thresholds: plan.thresholds.iter().map(|threshold| threshold.judge(tally, seconds)).collect(),
            arrivals,
            queue_samples: queue.samples,
            origin: Origin::measured(),
            started_at: timestamp(started_at),
            host: plan.host.clone(),
            users: plan.users,
            work: WorkDone::new(&plan.work),
        }
    }

    /// Why the run does not pass, if so: a wrong answer, a threshold; without thresholds, any request that failed.
    pub fn verdict(&self) -> Result<(), String> {
        let missed: Vec<_> = self.thresholds.iter().filter(|judged| !judged.passed).collect();
        if self.wrong_answers > 0 {
            return Err(format!("{} of {} answers are wrong", self.wrong_answers, self.total_requests));
        }
        if let Some(first) = missed.first() {
            return Err(format!(
                "{} of {} thresholds failed, first `{}`: {}",
                missed.len(),
                self.thresholds.len(),
                first.rule,
                first.observed
            ));
        }
        let dropped = self.arrivals.map_or(0, |arrivals| arrivals.dropped);
        if self.thresholds.is_empty() && self.failed_requests + dropped > 0 {
            return Err(format!(
                "{} of {} requests failed, {dropped} were dropped",
                self.failed_requests, self.total_requests
            ));
        }
        match self.successful_requests {
            0 => Err("no request succeeded".to_owned()),
            _ => Ok(()),
        }
    }
}

impl WorkDone {
    fn new(work: &Work) -> Self {
        match work {
            Work::Benchmark { query_params, all_chunks, .. } => {
                WorkDone::Benchmark { query_params: query_params.clone(), all_chunks: *all_chunks }
            }
            Work::Closed { mix, run_time } => {
                WorkDone::Closed { mix: mix.to_string(), run_time_seconds: run_time.as_secs_f64() }
            }
            Work::Open { mix, schedule, seed } => WorkDone::Open {
                mix: mix.to_string(),
                run_time_seconds: schedule.run_time.as_secs_f64(),
                rate_per_second: schedule.rate.get(),
                max_in_flight: schedule.max_in_flight.get(),
                seed: *seed,
            },
        }
    }
}

impl TransactionResults {
    fn new(counts: &Counts, seconds: f64) -> Self {
        TransactionResults {
            calls: CallResults::new(counts, seconds),
            rejected: counts.rejected,
            wrong: counts.wrong,
            rows: counts.rows,
            bytes: counts.bytes,
            latency_curve: latency_curve(&counts.latencies),
        }
    }
}

impl CallResults {
    fn new(counts: &Counts, seconds: f64) -> Self {
        CallResults {
            successful: counts.successful,
            failed: counts.failed,
            per_second: counts.successful as f64 / seconds,
            latency_percentiles_ms: LatencyPercentiles::new(&counts.latencies),
            max_latency_ms: counts.latencies.max_ms(),
        }
    }
}

impl ClientResults {
    fn new(share: Share) -> Self {
        ClientResults { successful_requests: share.successful, rows_received: share.rows }
    }
}

impl LatencyPercentiles {
    fn new(latencies: &Latencies) -> Option<Self> {
        Some(LatencyPercentiles {
            p50: latencies.percentile_ms(50.0)?,
            p75: latencies.percentile_ms(75.0)?,
            p90: latencies.percentile_ms(90.0)?,
            p95: latencies.percentile_ms(95.0)?,
            p99: latencies.percentile_ms(99.0)?,
            p99_9: latencies.percentile_ms(99.9)?,
        })
    }
}

fn by_name<R>(
    counts: &BTreeMap<&'static str, Counts>,
    results: impl Fn(&Counts) -> R,
) -> BTreeMap<&'static str, R> {
    counts.iter().map(|(name, counts)| (*name, results(counts))).collect()
}

fn second_results(tally: &Tally, queue: &QueueSamples) -> Vec<SecondResults> {
    let queues: BTreeMap<u64, u64> = queue.by_second.iter().copied().collect();
    let of_second = |second: &super::recorder::Second| SecondResults {
        second: second.second,
        successful: second.successful,
        failed: second.failed,
        p50_latency_ms: second.latency_ms.map(|[p50, _, _]| p50),
        p99_latency_ms: second.latency_ms.map(|[_, p99, _]| p99),
        max_latency_ms: second.latency_ms.map(|[_, _, max]| max),
        max_queue_size: queues.get(&second.second).copied(),
    };
    tally.seconds.iter().map(of_second).collect()
}

/// Points where the share of slower successes halves each time: that is where a tail shows.
fn latency_curve(latencies: &Latencies) -> Vec<CurvePoint> {
    let halvings = (latencies.count() as f64).log2().ceil().max(0.0) as i32;
    let percents = (1..=halvings).map(|halving| 100.0 * (1.0 - 0.5_f64.powi(halving)));
    let point = |percent| Some(CurvePoint { percent, latency_ms: latencies.percentile_ms(percent)? });
    percents.chain([100.0]).filter_map(point).collect()
}

/// As in `2020-08-10T01:00:00Z`.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time = chrono::DateTime::from_timestamp(seconds as i64, 0).unwrap_or_default();
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamp_is_utc() {
        let time = UNIX_EPOCH + Duration::from_secs(1_597_021_261);
        assert_eq!(timestamp(time), "2020-08-10T01:01:01Z");
    }

    /// Of a hundred latencies of 1 to 100 ms, the percentile is the one that so many do not exceed.
    #[test]
    fn percentiles_are_within_three_digits() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|milliseconds| latencies.record(Duration::from_millis(milliseconds)));
        for (percent, expected) in [(50.0, 50.0), (95.0, 95.0), (99.0, 99.0), (99.9, 100.0)] {
            let found = latencies.percentile_ms(percent).expect("there are some");
            assert!((found - expected).abs() <= expected * 1e-3, "p{percent}: {found}");
        }
        assert_eq!(Latencies::default().percentile_ms(50.0), None);
    }
}
