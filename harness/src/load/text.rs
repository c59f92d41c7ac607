//! What of a run is read on a screen.

use std::fmt::{self, Formatter};

use super::results::{CallResults, LoadResults, WorkDone};
use super::{Judged, NodeUsage};

impl fmt::Display for LoadResults {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_headline(f)?;
        self.write_requests(f)?;
        self.write_latency(f)?;
        if !matches!(self.work, WorkDone::Benchmark { .. }) {
            let transactions = self.transactions.iter().map(|(name, results)| (*name, &results.calls));
            kinds(f, "transaction", transactions)?;
            kinds(f, "RPC", self.calls.iter().map(|(name, results)| (*name, results)))?;
            writeln!(f)?;
        }
        self.write_node(f)?;
        nodes(f, &self.nodes)?;
        thresholds(f, &self.thresholds)
    }
}

impl LoadResults {
    fn write_headline(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let what = match &self.work {
            WorkDone::Benchmark { all_chunks: true, .. } => {
                "a request is a query to its last chunk".to_owned()
            }
            WorkDone::Benchmark { .. } => "a request is a query to its first chunk".to_owned(),
            WorkDone::Closed { mix, .. } => format!("mix {mix}, closed loop"),
            WorkDone::Open { mix, rate_per_second, .. } => {
                format!("mix {mix}, open loop at {rate_per_second}/s, timed from when each was due")
            }
        };
        writeln!(
            f,
            "{} requests of {} users to {} in {:.2} s; {what}\n",
            self.total_requests, self.users, self.host, self.total_time_seconds
        )
    }

    fn write_requests(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "requests    {} successful, {} failed (of these {} rejected, {} wrong answers)",
            self.successful_requests, self.failed_requests, self.rejected_requests, self.wrong_answers
        )?;
        for (cause, count) in &self.failures {
            writeln!(f, "            {count} x {cause}")?;
        }
        if let Some(arrivals) = self.arrivals {
            writeln!(
                f,
                "arrivals    {} due, {} dropped at the bound in flight",
                arrivals.due, arrivals.dropped
            )?;
        }
        writeln!(
            f,
            "throughput  {:.1} requests/s, {:.0} rows/s, {:.2} MB/s",
            self.throughput_rps,
            self.rows_per_second,
            self.bytes_per_second / 1e6
        )
    }

    fn write_latency(&self, f: &mut Formatter<'_>) -> fmt::Result {
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
        )
    }

    fn write_node(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "node        {} ms for a query; {} waiting on average, {} at most, {} at the end ({} samples); {} hops",
            shown(self.avg_processing_time_ms),
            shown(self.avg_queue_size),
            count(self.max_queue_size),
            count(self.final_queue_size),
            self.queue_samples,
            shown(self.avg_hops)
        )?;
        let admission = &self.admission;
        if let Some(waits) = &admission.wait_percentiles_ms {
            let factors: Vec<_> = admission
                .waited_by_factor
                .iter()
                .map(|(factor, count)| format!("{count} for {factor}"))
                .collect();
            writeln!(
                f,
                "admission   {} queries waited, median {:.2}, p99 {:.2} ms: {}",
                admission.waited_queries,
                waits.p50,
                waits.p99,
                factors.join(", ")
            )?;
        }
        Ok(())
    }
}

fn kinds<'a>(
    f: &mut Formatter<'_>,
    title: &str,
    kinds: impl Iterator<Item = (&'static str, &'a CallResults)>,
) -> fmt::Result {
    writeln!(
        f,
        "\n{title:<20}  {:>9}  {:>6}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        "right", "failed", "per s", "p50 ms", "p95 ms", "p99 ms", "most ms"
    )?;
    for (name, results) in kinds {
        let percentiles = results.latency_percentiles_ms;
        writeln!(
            f,
            "{name:<20}  {:>9}  {:>6}  {:>9.1}  {:>9}  {:>9}  {:>9}  {:>9}",
            results.successful,
            results.failed,
            results.per_second,
            shown(percentiles.map(|percentiles| percentiles.p50)),
            shown(percentiles.map(|percentiles| percentiles.p95)),
            shown(percentiles.map(|percentiles| percentiles.p99)),
            shown(results.max_latency_ms)
        )?;
    }
    Ok(())
}

fn nodes(f: &mut Formatter<'_>, nodes: &[NodeUsage]) -> fmt::Result {
    for node in nodes {
        write!(f, "{:<10}  ", format!("node {}", node.node))?;
        match (&node.before, &node.after) {
            (Some(before), Some(after)) if before.incarnation == after.incarnation => writeln!(
                f,
                "{} queries, {} chunks of {:.1} MB, {} rejected, {} result sets open; {} rows scanned, {:.1} MB encoded",
                after.queries_total - before.queries_total,
                after.chunks_total - before.chunks_total,
                (after.chunk_bytes_total - before.chunk_bytes_total) as f64 / 1e6,
                after.rejected_total - before.rejected_total,
                after.open_result_sets,
                after.rows_scanned_total - before.rows_scanned_total,
                (after.frame_bytes_total - before.frame_bytes_total) as f64 / 1e6
            )?,
            (Some(_), Some(_)) => writeln!(f, "restarted meanwhile")?,
            (Some(_), None) => writeln!(f, "answered before the load, not after it")?,
            (None, Some(_)) => writeln!(f, "answered after the load, not before it")?,
            (None, None) => writeln!(f, "no metrics at {}", node.address)?,
        }
    }
    Ok(())
}

fn thresholds(f: &mut Formatter<'_>, thresholds: &[Judged]) -> fmt::Result {
    for judged in thresholds {
        let verdict = if judged.passed { "ok" } else { "FAILED" };
        writeln!(f, "{verdict:<10}  {}: {}", judged.rule, judged.observed)?;
    }
    Ok(())
}

fn shown(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}
