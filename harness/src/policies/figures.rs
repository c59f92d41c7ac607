//! What is said about a run: latency, slowdown, fairness of service, the longest wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Outcome, Run, Workload, served_until};
use crate::fluid::Fluid;
use crate::report::Origin;

/// One workload under several policies.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What it is cited with.
    #[serde(flatten)]
    pub origin: Origin,
    /// The workload's name.
    pub workload: String,
    /// Its arrivals.
    pub queries: usize,
    /// Rows that they read together.
    pub rows: u64,
    /// When a server that divides itself has read half of the rows: Jain's index compares service up to then.
    pub half_ms: f64,
    /// One for each policy.
    pub policies: Vec<Figures>,
}

/// One policy's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Its name.
    pub policy: &'static str,
    /// Of all queries.
    #[serde(flatten)]
    pub all: QueryFigures,
    /// Jain's index over clients of the rows read by `half_ms`, each over what the dividing server gives the client: 1 if
    /// all got the same part of it, 1/n if one of n got everything.
    pub jain: f64,
    /// Of each client's queries.
    pub clients: BTreeMap<String, QueryFigures>,
}

/// Figures over some queries; those of the answered ones are 0 if there are none.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueryFigures {
    /// Queries whose rows were all read.
    pub answered: usize,
    /// Queries that found the queue full.
    pub refused: usize,
    /// From arrival to the last row: half of the queries had no more.
    pub latency_p50_ms: u64,
    /// From arrival to the last row: 99 of 100 queries had no more.
    pub latency_p99_ms: u64,
    /// Latency over what the query takes alone: half of the queries had no more.
    pub slowdown_p50: f64,
    /// Latency over what the query takes alone: 99 of 100 queries had no more.
    pub slowdown_p99: f64,
    /// From arrival to the first row, at worst.
    pub longest_wait_ms: u64,
}

impl Comparison {
    /// Compares runs of one workload.
    pub fn new(workload: &Workload, runs: &[Run]) -> Self {
        let rows = workload.arrivals.iter().map(|arrival| arrival.total_rows()).sum();
        let (half_ms, fluid) = half_served(workload, rows);
        let figures = |run: &Run| Figures {
            policy: run.policy.name(),
            all: query_figures(workload, run, |_| true),
            jain: rounded(jain(run, half_ms, &fluid)),
            clients: clients(workload)
                .into_iter()
                .map(|client| (client.to_owned(), query_figures(workload, run, |other| other == client)))
                .collect(),
        };
        Comparison {
            origin: Origin::computed(),
            workload: workload.name.clone(),
            queries: workload.arrivals.len(),
            rows,
            half_ms: rounded(half_ms),
            policies: runs.iter().map(figures).collect(),
        }
    }
}

fn clients(workload: &Workload) -> BTreeSet<&str> {
    workload.arrivals.iter().map(|arrival| arrival.client.as_str()).collect()
}

/// Three digits after the point: the rest is noise, and would differ between platforms.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// When the dividing server has read half of all rows, to the millisecond, and the server at that moment.
fn half_served(workload: &Workload, rows: u64) -> (f64, Fluid) {
    let capacity = (workload.node.rows_per_ms * workload.node.compute_slots as u64) as f64;
    let weights = workload.weights.clone();
    let mut fluid = Fluid::new(capacity, weights.teams, weights.clients);
    let clients = clients(workload);
    let mut arrivals = workload.arrivals.iter().peekable();
    let mut now_ms = 0;
    loop {
        while let Some(arrival) = arrivals.next_if(|arrival| arrival.at_ms <= now_ms) {
            for (team, rows) in &arrival.rows {
                fluid.arrive(team, &arrival.client, *rows as f64);
            }
        }
        if clients.iter().map(|client| fluid.served(client)).sum::<f64>() * 2.0 >= rows as f64 {
            return (now_ms as f64, fluid);
        }
        fluid.advance(1.0);
        now_ms += 1;
    }
}

/// (sum of x) squared, over n times the sum of x squared.
///
/// Source: R. Jain, D. Chiu, W. Hawe, A Quantitative Measure of Fairness and Discrimination, 1984.
fn jain(run: &Run, at_ms: f64, fluid: &Fluid) -> f64 {
    let served = served_until(run, at_ms);
    let part = |(client, rows): (&&str, &f64)| {
        let fair = fluid.served(client);
        (fair > 0.0).then(|| rows / fair)
    };
    let parts: Vec<f64> = served.iter().filter_map(part).collect();
    let (sum, squares) = (parts.iter().sum::<f64>(), parts.iter().map(|part| part * part).sum::<f64>());
    if squares > 0.0 { sum * sum / (parts.len() as f64 * squares) } else { 0.0 }
}

fn query_figures(workload: &Workload, run: &Run, of: impl Fn(&str) -> bool) -> QueryFigures {
    let mut latencies = Vec::new();
    let mut slowdowns = Vec::new();
    let (mut refused, mut longest_wait_ms) = (0, 0);
    for (arrival, outcome) in workload.arrivals.iter().zip(&run.queries).filter(|(it, _)| of(&it.client)) {
        let Outcome::Answered { started_ms, ended_ms } = outcome else {
            refused += 1;
            continue;
        };
        let latency_ms = ended_ms - arrival.at_ms;
        latencies.push(latency_ms);
        slowdowns.push(latency_ms as f64 / workload.node.alone_ms(arrival) as f64);
        longest_wait_ms = longest_wait_ms.max(started_ms - arrival.at_ms);
    }
    latencies.sort_unstable();
    slowdowns.sort_by(f64::total_cmp);
    QueryFigures {
        answered: latencies.len(),
        refused,
        latency_p50_ms: percentile(&latencies, 50),
        latency_p99_ms: percentile(&latencies, 99),
        slowdown_p50: rounded(percentile(&slowdowns, 50)),
        slowdown_p99: rounded(percentile(&slowdowns, 99)),
        longest_wait_ms,
    }
}

/// The smallest value that is not below so many of a hundred (nearest rank).
fn percentile<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { workload, queries, rows, .. } = self;
        writeln!(formatter, "workload {workload}: {queries} queries, {rows} rows\n")?;
        writeln!(
            formatter,
            "             answered  refused  latency ms      slowdown         Jain's  longest"
        )?;
        writeln!(
            formatter,
            "policy                             p50     p99     p50      p99   index  wait ms"
        )?;
        for Figures { policy, all, jain, .. } in &self.policies {
            writeln!(
                formatter,
                "{policy:<12} {:>8} {:>8} {:>7} {:>7} {:>7.2} {:>8.2}  {jain:>6.3} {:>8}",
                all.answered,
                all.refused,
                all.latency_p50_ms,
                all.latency_p99_ms,
                all.slowdown_p50,
                all.slowdown_p99,
                all.longest_wait_ms,
            )?;
        }
        writeln!(formatter)?;
        write!(formatter, "{:<12}", "latency p99")?;
        for figures in &self.policies {
            write!(formatter, " {:>11}", figures.policy)?;
        }
        writeln!(formatter)?;
        for client in self.policies.iter().take(1).flat_map(|figures| figures.clients.keys()) {
            write!(formatter, "{client:<12}")?;
            for figures in &self.policies {
                write!(formatter, " {:>11}", figures.clients[client].latency_p99_ms)?;
            }
            writeln!(formatter)?;
        }
        Ok(())
    }
}
