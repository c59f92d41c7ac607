//! What happened between two looks at all nodes, as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::cli::metrics::Asked;
use crate::cli::table::table;

/// The widest bar.
const BAR: usize = 30;

/// One look at all nodes.
#[derive(Clone)]
pub(super) struct Moment {
    at: Instant,
    nodes: Vec<Node>,
}

#[derive(Clone)]
struct Node {
    id: String,
    team: String,
    state: &'static str,
    /// Every sample, by its name with its labels.
    samples: BTreeMap<String, f64>,
    /// Others that this one thinks are not up, and why.
    in_doubt: Vec<String>,
}

impl Moment {
    /// What nodes answered that were asked from `at` on.
    pub(super) fn new(at: Instant, asked: Vec<Asked>) -> Self {
        Moment { at, nodes: asked.iter().map(Node::new).collect() }
    }
}

impl Node {
    fn new(asked: &Asked) -> Self {
        let [id, _, team] = asked.identity();
        let answer = asked.answer.as_ref().ok();
        let exposition = answer.map_or("", |answer| &answer.exposition);
        let neighbours = answer.into_iter().flat_map(|answer| &answer.neighbours);
        let in_doubt = neighbours.filter(|neighbour| neighbour.state != "up");
        let in_doubt =
            in_doubt.map(|other| format!("{id} thinks {} {}: {}", other.node, other.state, other.last_error));
        Node { state: asked.state(), samples: samples(exposition), in_doubt: in_doubt.collect(), id, team }
    }

    /// The sum over all labels.
    fn value(&self, metric: &str) -> f64 {
        self.of(metric).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The samples of a metric, with their labels.
    fn of(&self, metric: &str) -> impl Iterator<Item = (&str, f64)> {
        let samples = self.samples.range(metric.to_owned()..);
        let of_metric = samples.map_while(move |(name, value)| Some((name.strip_prefix(metric)?, *value)));
        of_metric.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }

    /// How much more a counter is than it was; all of it if the node was started anew.
    fn more(&self, before: Option<&Node>, metric: &str) -> f64 {
        let (now, then) = (self.value(metric), before.map_or(0.0, |before| before.value(metric)));
        if now < then { now } else { now - then }
    }

    /// Within how many milliseconds this share of what was observed meanwhile ended, by the buckets' bounds; `-` if nothing was.
    fn quantile(&self, before: Option<&Node>, histogram: &str, share: f64) -> String {
        let metric = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = self
            .of(&metric)
            .filter_map(|(labels, count)| {
                let bound = labels.strip_prefix("{le=\"")?.strip_suffix("\"}")?;
                let then = before.and_then(|before| before.samples.get(&format!("{metric}{labels}")));
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((bound, count - then.filter(|then| **then <= count).unwrap_or(&0.0)))
            })
            .collect();
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let all = buckets.last().map_or(0.0, |(_, count)| *count);
        let within = buckets.iter().position(|(_, count)| all > 0.0 && *count >= share * all);
        match within.map(|place| (buckets[place].0 * 1e3, buckets[place.saturating_sub(1)].0 * 1e3)) {
            None => "-".to_owned(),
            Some((bound, last)) if bound.is_infinite() => format!("> {last:.1}"),
            Some((bound, _)) => format!("{bound:.1}"),
        }
    }
}

/// Every line of a Prometheus text that is a sample.
fn samples(exposition: &str) -> BTreeMap<String, f64> {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    exposition.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// What is shown of the time between two looks.
pub(super) fn screen(before: &Moment, now: &Moment) -> String {
    let seconds = now.at.saturating_duration_since(before.at).max(Duration::from_millis(1)).as_secs_f64();
    let earlier = |node: &Node| before.nodes.iter().find(|other| other.id == node.id);
    let scanned = |node: &Node| node.more(earlier(node), "overlay_rows_scanned_total");
    let all_scanned: f64 = now.nodes.iter().map(scanned).sum();
    let header = [
        "node", "team", "state", "active", "wait", "q/s", "p50 ms", "p99 ms", "chunk/s", "MB/s", "Mrow/s",
        "share",
    ];
    let mut nodes = table(header, &[3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let mut teams: BTreeMap<&str, f64> = BTreeMap::new();
    for node in &now.nodes {
        let rate = |metric: &str| node.more(earlier(node), metric) / seconds;
        let time = |share| node.quantile(earlier(node), "overlay_query_seconds", share);
        *teams.entry(&node.team).or_default() += scanned(node);
        nodes.add_row([
            node.id.clone(),
            node.team.clone(),
            node.state.to_owned(),
            node.value("overlay_active_queries").to_string(),
            node.value("overlay_waiting_queries").to_string(),
            format!("{:.0}", rate("overlay_queries_total")),
            time(0.5),
            time(0.99),
            format!("{:.0}", rate("overlay_chunks_total")),
            format!("{:.1}", rate("overlay_chunk_bytes_total") / 1e6),
            format!("{:.1}", rate("overlay_rows_scanned_total") / 1e6),
            percent(scanned(node), all_scanned),
        ]);
    }
    let up = now.nodes.iter().filter(|node| node.state == "ready").count();
    let mut text = format!(
        "{up} of {} nodes are ready; of the last {seconds:.1} s (q ends)\n\n{nodes}\n\n",
        now.nodes.len()
    );
    for (team, rows) in teams.iter().filter(|_| all_scanned > 0.0) {
        let bar = "#".repeat((rows / all_scanned * BAR as f64).round() as usize);
        let _ = writeln!(text, "{team:8} {bar:BAR$} {:>5} of the rows scanned", percent(*rows, all_scanned));
    }
    let in_doubt: Vec<&str> = now.nodes.iter().flat_map(|node| &node.in_doubt).map(String::as_str).collect();
    text + &in_doubt.join("\n")
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, team: &str, exposition: &str) -> Node {
        let in_doubt = Vec::new();
        Node {
            id: id.to_owned(),
            team: team.to_owned(),
            state: "ready",
            samples: samples(exposition),
            in_doubt,
        }
    }

    fn rows(text: &str) -> Vec<Vec<&str>> {
        text.lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| node"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    const BEFORE: &str = "\
# HELP overlay_queries Queries by outcome
overlay_queries_total{outcome=\"ready\"} 10
overlay_queries_total{outcome=\"rejected\"} 1
overlay_query_seconds_bucket{le=\"0.001\"} 4
overlay_query_seconds_bucket{le=\"0.002\"} 10
overlay_query_seconds_bucket{le=\"+Inf\"} 10
overlay_rows_scanned_total 1000000
overlay_active_queries 3
";
    const NOW: &str = "\
overlay_queries_total{outcome=\"ready\"} 30
overlay_queries_total{outcome=\"rejected\"} 1
overlay_query_seconds_bucket{le=\"0.001\"} 14
overlay_query_seconds_bucket{le=\"0.002\"} 29
overlay_query_seconds_bucket{le=\"+Inf\"} 30
overlay_rows_scanned_total 4000000
overlay_active_queries 2
";

    #[test]
    fn rates_are_of_what_came_since_the_last_look() {
        let began = Instant::now();
        let before = Moment { at: began, nodes: vec![node("A", "green", ""), node("B", "pink", BEFORE)] };
        let later = began + Duration::from_secs(2);
        let scans = "overlay_rows_scanned_total 1000000\n";
        let now = Moment { at: later, nodes: vec![node("A", "green", scans), node("B", "pink", NOW)] };
        let text = screen(&before, &now);
        assert_eq!(
            rows(&text),
            [
                ["A", "green", "ready", "0", "0", "0", "-", "-", "0", "0.0", "0.5", "25 %"],
                // 20 queries: 10 within 1 ms, 9 more within 2, one longer.
                ["B", "pink", "ready", "2", "0", "10", "1.0", "> 2.0", "0", "0.0", "1.5", "75 %"],
            ],
            "{text}"
        );
        assert!(text.contains("pink     #######################         75 % of the rows scanned"), "{text}");
    }

    #[test]
    fn node_that_was_started_anew_counts_from_zero() {
        let (old, new) = (node("B", "pink", NOW), node("B", "pink", BEFORE));
        assert_eq!(new.more(Some(&old), "overlay_rows_scanned_total"), 1e6);
        assert_eq!(new.quantile(Some(&old), "overlay_query_seconds", 0.5), "2.0");
    }
}
