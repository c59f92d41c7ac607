//! The report of a load run to look at.

use std::collections::BTreeSet;

use crate::report::{Axis, BarChart, LineChart, Page, Series, Table};

use super::NodeUsage;
use super::results::{CallResults, CurvePoint, LatencyPercentiles, LoadResults, SecondResults, WorkDone};

/// Clients shown one by one; of more, the first.
const MAX_CLIENTS: usize = 40;

impl LoadResults {
    /// One HTML file with plots and tables.
    pub fn page(&self) -> Page {
        let mut page = Page::new(&self.title());
        page.paragraph(&self.summary());
        page.paragraph(&self.cited_with());
        if let Err(why) = self.verdict() {
            page.paragraph(&format!("Failed: {why}."));
        }
        page.table(&self.failures_table());
        page.table(&self.thresholds_table());
        self.latency(&mut page);
        self.throughput(&mut page);
        self.kinds(&mut page);
        self.admission(&mut page);
        self.shares(&mut page);
        page.heading("Nodes, what the load added");
        page.table(&nodes_table(&self.nodes));
        page
    }

    fn title(&self) -> String {
        match &self.work {
            WorkDone::Benchmark { .. } => format!("Load: {} requests of the benchmark", self.total_requests),
            WorkDone::Closed { mix, .. } => format!("Load: mix {mix}, {} users in a closed loop", self.users),
            WorkDone::Open { mix, rate_per_second, .. } => {
                format!("Load: mix {mix}, {rate_per_second} arrivals a second")
            }
        }
    }

    fn summary(&self) -> String {
        let dropped = match self.arrivals {
            Some(arrivals) => format!(" Of {} arrivals, {} were dropped.", arrivals.due, arrivals.dropped),
            None => String::new(),
        };
        format!(
            "{} from {} on, for {:.1} s: {} right answers, {} failures ({} rejections, {} wrong answers).{dropped}",
            self.host,
            self.started_at,
            self.total_time_seconds,
            self.successful_requests,
            self.failed_requests,
            self.rejected_requests,
            self.wrong_answers
        )
    }

    fn cited_with(&self) -> String {
        let counters = self.nodes.iter().filter_map(|usage| usage.after.as_ref().or(usage.before.as_ref()));
        let versions: BTreeSet<&str> = counters.map(|counters| &*counters.version).collect();
        let nodes = Vec::from_iter(versions).join(" and ");
        let seed = match self.work {
            WorkDone::Open { seed, .. } => format!(", seed {seed}"),
            _ => String::new(),
        };
        format!("Measured with {}{seed}; the nodes are overlay {nodes}.", self.origin)
    }

    fn failures_table(&self) -> Table {
        let row = |(cause, count): (&String, &u64)| vec![cause.clone(), count.to_string()];
        table(["failure", "times"], self.failures.iter().map(row))
    }

    fn thresholds_table(&self) -> Table {
        let verdict = |passed| if passed { "holds" } else { "FAILED" };
        let rows = self.thresholds.iter().map(|judged| {
            vec![judged.rule.clone(), judged.observed.clone(), verdict(judged.passed).to_owned()]
        });
        table(["threshold", "observed", ""], rows)
    }

    fn latency(&self, page: &mut Page) {
        page.heading("Latency of right answers");
        let since = match self.work {
            WorkDone::Open { .. } => "Counted from when each request was due, so that a stall shows.",
            _ => "Counted from when each request was sent: a closed loop asks less while the node is slow.",
        };
        page.paragraph(since);
        let line =
            |name, latency: fn(&SecondResults) -> Option<f64>| Series::new(name, self.over_time(latency));
        page.lines(&LineChart {
            title: "Latency over time".to_owned(),
            x: Axis::new("seconds"),
            y: Axis::log("ms"),
            series: vec![
                line("median", |second| second.p50_latency_ms),
                line("p99", |second| second.p99_latency_ms),
                line("slowest", |second| second.max_latency_ms),
            ],
        });
        let single = self.transactions.iter().filter(|_| self.transactions.len() > 1);
        let single = single.map(|(name, results)| curve(name, &results.latency_curve));
        page.lines(&LineChart {
            title: "Latency by percentile".to_owned(),
            x: Axis::percentile("percent of requests that were not slower"),
            y: Axis::log("ms"),
            series: std::iter::once(curve("all requests", &self.latency_curve)).chain(single).collect(),
        });
    }

    fn throughput(&self, page: &mut Page) {
        page.heading("Throughput and queue");
        page.paragraph(&format!(
            "{:.1} right answers, {:.0} rows and {:.2} MB in a second.",
            self.throughput_rps,
            self.rows_per_second,
            self.bytes_per_second / 1e6
        ));
        page.lines(&LineChart {
            title: "Answers in each second".to_owned(),
            x: Axis::new("seconds"),
            y: Axis::new("answers"),
            series: vec![
                Series::new("right", self.over_time(|second| Some(second.successful as f64))),
                Series::new("failed", self.over_time(|second| Some(second.failed as f64))),
            ],
        });
        let queue = self.over_time(|second| second.max_queue_size.map(|size| size as f64));
        page.lines(&LineChart {
            title: "Queries waiting at the node, the most in each second".to_owned(),
            x: Axis::new("seconds"),
            y: Axis::new("queries"),
            series: vec![Series::new("waiting", queue)],
        });
    }

    fn over_time(&self, value: impl Fn(&SecondResults) -> Option<f64>) -> Vec<(f64, f64)> {
        self.seconds.iter().filter_map(|second| Some((second.second as f64, value(second)?))).collect()
    }

    fn kinds(&self, page: &mut Page) {
        page.heading("By transaction");
        let head = ["transaction"].into_iter().chain(CALL_HEAD).chain(["rejected", "rows", "MB"]);
        let rows = self.transactions.iter().map(|(name, results)| {
            let more = [
                results.rejected.to_string(),
                results.rows.to_string(),
                format!("{:.1}", results.bytes as f64 / 1e6),
            ];
            std::iter::once((*name).to_owned()).chain(call_cells(&results.calls)).chain(more).collect()
        });
        page.table(&table(head, rows));
        page.heading("By RPC");
        let row = |(name, results): (&&str, &CallResults)| {
            std::iter::once((*name).to_owned()).chain(call_cells(results)).collect()
        };
        page.table(&table(["RPC"].into_iter().chain(CALL_HEAD), self.calls.iter().map(row)));
    }

    fn admission(&self, page: &mut Page) {
        page.heading("Admission");
        let waited = &self.admission;
        page.paragraph(&match &waited.wait_percentiles_ms {
            Some(waits) => format!(
                "{} queries waited for admission: median {:.2} ms, p99 {:.2} ms.",
                waited.waited_queries, waits.p50, waits.p99
            ),
            None => "No query waited for admission.".to_owned(),
        });
        let count = |(what, count): (&String, &u64)| vec![what.clone(), count.to_string()];
        page.table(&table(["waited for", "queries"], waited.waited_by_factor.iter().map(count)));
        page.table(&table(["rejected at", "requests"], self.rejections_by_limit.iter().map(count)));
    }

    fn shares(&self, page: &mut Page) {
        page.heading("Shares");
        page.bars(&BarChart {
            title: "Rows of results by team".to_owned(),
            unit: "rows".to_owned(),
            bars: self.rows_by_team.iter().map(|(team, rows)| (team.clone(), *rows as f64)).collect(),
        });
        let mut clients: Vec<_> = self.clients.iter().collect();
        clients.sort_by_key(|(id, _)| (id.len(), *id));
        let bar = |(id, client): &(&String, &super::results::ClientResults)| {
            ((*id).clone(), client.successful_requests as f64)
        };
        page.bars(&BarChart {
            title: "Right answers by client".to_owned(),
            unit: String::new(),
            bars: clients.iter().take(MAX_CLIENTS).map(bar).collect(),
        });
        if let Some(left) = clients.len().checked_sub(MAX_CLIENTS + 1) {
            page.paragraph(&format!("{} more clients are in the JSON file only.", left + 1));
        }
    }
}

fn curve(name: &str, points: &[CurvePoint]) -> Series {
    Series::new(name, points.iter().map(|point| (point.percent, point.latency_ms)).collect())
}

fn table<'a>(head: impl IntoIterator<Item = &'a str>, rows: impl Iterator<Item = Vec<String>>) -> Table {
    Table { head: head.into_iter().map(str::to_owned).collect(), rows: rows.collect() }
}

const CALL_HEAD: [&str; 7] = ["right", "failed", "per second", "p50 ms", "p95 ms", "p99 ms", "most ms"];

fn call_cells(results: &CallResults) -> Vec<String> {
    let percentile = |of: fn(LatencyPercentiles) -> f64| shown(results.latency_percentiles_ms.map(of));
    vec![
        results.successful.to_string(),
        results.failed.to_string(),
        format!("{:.1}", results.per_second),
        percentile(|percentiles| percentiles.p50),
        percentile(|percentiles| percentiles.p95),
        percentile(|percentiles| percentiles.p99),
        shown(results.max_latency_ms),
    ]
}

fn nodes_table(nodes: &[NodeUsage]) -> Table {
    let head = [
        "node",
        "queries",
        "chunks",
        "MB",
        "rejected",
        "waited s",
        "open results",
        "rows scanned",
        "MB encoded",
        "neighbours down",
    ];
    let rows = nodes.iter().map(|usage| {
        let mut row = vec![format!("{} ({})", usage.node, usage.address)];
        match (&usage.before, &usage.after) {
            (Some(before), Some(after)) if before.incarnation == after.incarnation => row.extend([
                (after.queries_total - before.queries_total).to_string(),
                (after.chunks_total - before.chunks_total).to_string(),
                format!("{:.1}", (after.chunk_bytes_total - before.chunk_bytes_total) as f64 / 1e6),
                (after.rejected_total - before.rejected_total).to_string(),
                format!("{:.2}", after.query_wait_seconds_total - before.query_wait_seconds_total),
                format!("{} -> {}", before.open_result_sets, after.open_result_sets),
                (after.rows_scanned_total - before.rows_scanned_total).to_string(),
                format!("{:.1}", (after.frame_bytes_total - before.frame_bytes_total) as f64 / 1e6),
                after.neighbours_down.to_string(),
            ]),
            (before, after) => {
                let answered = |counters: bool| if counters { "answered" } else { "silent" };
                let what =
                    format!("{} before, {} after", answered(before.is_some()), answered(after.is_some()));
                row.push(what);
                row.extend(std::iter::repeat_n(String::new(), head.len() - 2));
            }
        }
        row
    });
    table(head, rows)
}

fn shown(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
}
