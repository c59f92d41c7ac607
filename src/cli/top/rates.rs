//! What happened between two looks at all nodes, as text.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use comfy_table::{ColumnConstraint, Table};

use crate::cli::metrics::Asked;
use crate::cli::table::table;

/// The widest bar.
const BAR: usize = 30;

const HEADER: [&str; 12] = [
    "node", "team", "state", "active", "wait", "q/s", "p50 ms", "p99 ms", "chunk/s", "MB/s", "Mrow/s",
    "share",
];

/// Columns that a narrow terminal goes without, the first first: what the ones that stay tell in part.
const HIDDEN_FIRST: [&str; 8] = ["Mrow/s", "chunk/s", "p50 ms", "team", "wait", "MB/s", "active", "share"];

/// One look at all nodes.
pub(super) struct Moment {
    at: Instant,
    nodes: Vec<Node>,
}

struct Node {
    id: String,
    team: String,
    state: &'static str,
    /// Every sample, by its name with its labels, if the node answered.
    samples: Option<Samples>,
    /// Others that this one thinks are not up, and why.
    in_doubt: Vec<String>,
}

struct Samples(BTreeMap<String, f64>);

/// What a node counted between two looks that it answered.
#[derive(Clone, Copy)]
struct Since<'a> {
    then: &'a Samples,
    now: &'a Samples,
}

impl Moment {
    /// What nodes answered that were asked from `at` on.
    pub(super) fn new(at: Instant, asked: Vec<Asked>) -> Self {
        Moment { at, nodes: asked.iter().map(Node::new).collect() }
    }

    fn samples_of(&self, id: &str) -> Option<&Samples> {
        self.nodes.iter().find(|node| node.id == id)?.samples.as_ref()
    }
}

impl Node {
    fn new(asked: &Asked) -> Self {
        let [id, _, team] = asked.identity();
        let answer = asked.answer.as_ref().ok();
        let neighbours = answer.into_iter().flat_map(|answer| &answer.neighbours);
        let in_doubt = neighbours.filter(|neighbour| neighbour.state != "up");
        let in_doubt =
            in_doubt.map(|other| format!("{id} thinks {} {}: {}", other.node, other.state, other.last_error));
        let in_doubt = in_doubt.collect();
        let samples = answer.map(|answer| Samples::read(&answer.exposition));
        Node { state: asked.state(), samples, in_doubt, id, team }
    }

    /// Without a look before there is nothing to compare with: a counter alone is all since the node began.
    fn since<'a>(&'a self, before: Option<&'a Moment>) -> Option<Since<'a>> {
        Some(Since { then: before?.samples_of(&self.id)?, now: self.samples.as_ref()? })
    }
}

impl Samples {
    /// Every line of a Prometheus text that is a sample.
    fn read(exposition: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Samples(exposition.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum over all labels.
    fn value(&self, metric: &str) -> f64 {
        self.of(metric).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// The samples of a metric, with their labels.
    fn of(&self, metric: &str) -> impl Iterator<Item = (&str, f64)> {
        let samples = self.0.range(metric.to_owned()..);
        let of_metric = samples.map_while(move |(name, value)| Some((name.strip_prefix(metric)?, *value)));
        of_metric.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }
}

impl<'a> Since<'a> {
    /// How much more a counter is than it was; all of it if the node was started anew.
    fn more(self, metric: &str) -> f64 {
        let (then, now) = (self.then.value(metric), self.now.value(metric));
        if now < then { now } else { now - then }
    }

    /// The same of each sample of a metric, with its labels.
    fn more_of(self, metric: &str) -> impl Iterator<Item = (&'a str, f64)> {
        let then = move |labels: &str| self.then.0.get(&format!("{metric}{labels}")).copied();
        self.now.of(metric).map(move |(labels, now)| {
            (labels, now - then(labels).filter(|then| *then <= now).unwrap_or_default())
        })
    }

    /// Within how many milliseconds this share of what was observed meanwhile ended, by the buckets' bounds; `-` if nothing was.
    fn quantile(self, histogram: &str, share: f64) -> String {
        let metric = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = self
            .more_of(&metric)
            .filter_map(|(labels, count)| {
                let bound = label(labels, "le")?;
                Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, count))
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

/// What a label of a sample says.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let openings = [format!("{{{name}=\""), format!(",{name}=\"")];
    let value = |opening: &String| Some(labels.split_once(opening)?.1.split_once('"')?.0);
    openings.iter().find_map(value)
}

/// What is shown of the time between two looks, in at most `columns` where the names of the nodes allow it.
pub(super) fn screen(before: Option<&Moment>, now: &Moment, columns: usize) -> String {
    let elapsed = before.map_or(Duration::ZERO, |before| now.at.saturating_duration_since(before.at));
    let seconds = elapsed.max(Duration::from_millis(1)).as_secs_f64();
    let all_scanned: f64 = now.nodes.iter().filter_map(|node| node.since(before)).map(scanned).sum();
    let mut nodes = table(HEADER, &[3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let (mut teams, mut classes) = (BTreeMap::<&str, f64>::new(), BTreeMap::<&str, f64>::new());
    for node in &now.nodes {
        let since = node.since(before);
        nodes.add_row(cells(node, since, seconds, all_scanned));
        if let Some(since) = since {
            *teams.entry(&node.team).or_default() += scanned(since);
            for (labels, took) in since.more_of("overlay_compute_seconds_total") {
                *classes.entry(label(labels, "class").unwrap_or_default()).or_default() += took;
            }
        }
    }
    let hidden = hide_columns(&mut nodes, columns);
    let up = now.nodes.iter().filter(|node| node.state == "ready").count();
    let mut head = format!("{up} of {} nodes are ready", now.nodes.len());
    if before.is_some() {
        head += &format!("; of the last {seconds:.1} s");
    }
    head += " (q ends)";
    if !hidden.is_empty() {
        head += &format!("\na wider terminal shows {} too", hidden.join(", "));
    }
    let longest = teams.keys().chain(classes.keys()).map(|name| name.chars().count()).max().unwrap_or(0);
    let of_teams = bars(&teams, longest, "of the rows scanned");
    let of_classes = bars(&classes, longest, "of computing, by client");
    let in_doubt: Vec<&str> = now.nodes.iter().flat_map(|node| &node.in_doubt).map(String::as_str).collect();
    format!("{head}\n\n{nodes}\n{of_teams}{of_classes}\n{}", in_doubt.join("\n"))
}

/// A row of the table; `-` stands for what the node did not tell.
fn cells(node: &Node, since: Option<Since<'_>>, seconds: f64, all_scanned: f64) -> [String; 12] {
    let of_now = |metric: &str| node.samples.as_ref().map(|samples| samples.value(metric).to_string());
    let rate = |metric: &str, unit: f64, decimals: usize| {
        since.map(|since| format!("{:.decimals$}", since.more(metric) / seconds / unit))
    };
    let time = |share| since.map(|since| since.quantile("overlay_query_seconds", share));
    [
        Some(node.id.clone()),
        Some(node.team.clone()),
        Some(node.state.to_owned()),
        of_now("overlay_active_queries"),
        of_now("overlay_waiting_queries"),
        rate("overlay_queries_total", 1.0, 0),
        time(0.5),
        time(0.99),
        rate("overlay_chunks_total", 1.0, 0),
        rate("overlay_chunk_bytes_total", 1e6, 1),
        rate("overlay_rows_scanned_total", 1e6, 1),
        since.map(|since| percent(scanned(since), all_scanned)),
    ]
    .map(|cell| cell.unwrap_or_else(|| "-".to_owned()))
}

fn scanned(since: Since<'_>) -> f64 {
    since.more("overlay_rows_scanned_total")
}

/// Makes a table as narrow as it has to be; gives the columns that are gone.
fn hide_columns(nodes: &mut Table, columns: usize) -> Vec<&'static str> {
    let mut hidden = Vec::new();
    for name in HIDDEN_FIRST {
        if nodes.lines().all(|line| line.chars().count() <= columns) {
            break;
        }
        let place = HEADER.iter().position(|column| *column == name);
        if let Some(column) = place.and_then(|place| nodes.column_mut(place)) {
            column.set_constraint(ColumnConstraint::Hidden);
            hidden.push(name);
        }
    }
    hidden
}

/// The part that each has of all, behind an empty line; nothing where there is nothing.
fn bars(parts: &BTreeMap<&str, f64>, longest: usize, of: &str) -> String {
    let whole: f64 = parts.values().sum();
    let bar = |(name, part): (&&str, &f64)| {
        let bar = "#".repeat((part / whole * BAR as f64).round() as usize);
        format!("\n{name:longest$} {bar:BAR$} {:>5} {of}", percent(*part, whole))
    };
    if whole > 0.0 { parts.iter().map(bar).collect::<String>() + "\n" } else { String::new() }
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { "-".to_owned() }
}

/// Text as a terminal of this size has place for; what it has none for leaves a mark.
pub(super) fn fitted(text: &str, columns: usize, rows: usize) -> Vec<String> {
    let count = text.lines().count();
    let shown = if count > rows { rows.saturating_sub(1) } else { count };
    let left_out = (shown < count).then(|| format!("… {} lines more", count - shown));
    let lines = text.lines().take(shown).map(str::to_owned).chain(left_out).take(rows);
    let fitted = |line: String| match line.char_indices().nth(columns) {
        Some(_) => line.chars().take(columns.saturating_sub(1)).chain(['…']).collect(),
        None => line,
    };
    lines.map(fitted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, team: &str, exposition: Option<&str>) -> Node {
        Node {
            id: id.to_owned(),
            team: team.to_owned(),
            state: if exposition.is_some() { "ready" } else { "down" },
            samples: exposition.map(Samples::read),
            in_doubt: Vec::new(),
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
overlay_compute_seconds_total{step=\"scan\",class=\"dashboard\"} 5
overlay_compute_seconds_total{step=\"scan\",class=\"other\"} 7
overlay_active_queries 3
";
    const NOW: &str = "\
overlay_queries_total{outcome=\"ready\"} 30
overlay_queries_total{outcome=\"rejected\"} 1
overlay_query_seconds_bucket{le=\"0.001\"} 14
overlay_query_seconds_bucket{le=\"0.002\"} 29
overlay_query_seconds_bucket{le=\"+Inf\"} 30
overlay_rows_scanned_total 4000000
overlay_compute_seconds_total{step=\"scan\",class=\"dashboard\"} 5.5
overlay_compute_seconds_total{step=\"encode\",class=\"dashboard\"} 0.1
overlay_compute_seconds_total{step=\"scan\",class=\"other\"} 7.4
overlay_active_queries 2
";
    /// Wide enough for every column.
    const WIDE: usize = 120;

    fn looks(before: Vec<Node>, now: Vec<Node>) -> (Moment, Moment) {
        let began = Instant::now();
        (Moment { at: began, nodes: before }, Moment { at: began + Duration::from_secs(2), nodes: now })
    }

    #[test]
    fn rates_are_of_what_came_since_the_last_look() {
        let scans = Some("overlay_rows_scanned_total 1000000\n");
        let (before, now) = looks(
            vec![node("A", "green", Some("")), node("B", "pink", Some(BEFORE))],
            vec![node("A", "green", scans), node("B", "pink", Some(NOW))],
        );
        let text = screen(Some(&before), &now, WIDE);
        assert_eq!(
            rows(&text),
            [
                ["A", "green", "ready", "0", "0", "0", "-", "-", "0", "0.0", "0.5", "25 %"],
                // 20 queries: 10 within 1 ms, 9 more within 2, one longer.
                ["B", "pink", "ready", "2", "0", "10", "1.0", "> 2.0", "0", "0.0", "1.5", "75 %"],
            ],
            "{text}"
        );
        assert!(
            text.contains("pink      #######################         75 % of the rows scanned"),
            "{text}"
        );
        // 0.6 s of 1.0 s.
        assert!(
            text.contains("dashboard ##################              60 % of computing, by client"),
            "{text}"
        );
    }

    /// Goal: what a node counted in all its life is no rate.
    #[test]
    fn node_without_an_answer_to_the_last_look_has_no_rates() {
        let (before, now) = looks(
            vec![node("A", "green", None), node("B", "pink", Some(NOW))],
            vec![node("A", "green", Some(NOW)), node("B", "pink", None)],
        );
        let text = screen(Some(&before), &now, WIDE);
        assert_eq!(
            rows(&text),
            [
                ["A", "green", "ready", "2", "0", "-", "-", "-", "-", "-", "-", "-"],
                ["B", "pink", "down", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
            ],
            "{text}"
        );
        let first = screen(None, &now, WIDE);
        assert_eq!(rows(&first), rows(&text), "{first}");
        assert!(first.starts_with("1 of 2 nodes are ready (q ends)\n"), "{first}");
    }

    #[test]
    fn node_that_was_started_anew_counts_from_zero() {
        let (then, now) = (&Samples::read(NOW), &Samples::read(BEFORE));
        let since = Since { then, now };
        assert_eq!(since.more("overlay_rows_scanned_total"), 1e6);
        assert_eq!(since.quantile("overlay_query_seconds", 0.5), "2.0");
    }

    #[test]
    fn narrow_terminals_go_without_the_least_columns_and_say_so() {
        let nodes = || vec![node("A", "green", Some(NOW))];
        let (before, now) = looks(nodes(), nodes());
        for (columns, left_out) in [
            (120, None),
            (80, Some("a wider terminal shows Mrow/s, chunk/s too")),
            (40, Some("a wider terminal shows Mrow/s, chunk/s, p50 ms, team, wait, MB/s, active too")),
        ] {
            let text = screen(Some(&before), &now, columns);
            assert_eq!(text.lines().find(|line| line.starts_with("a wider")), left_out, "{text}");
            let widest = text.lines().filter(|line| line.starts_with('|')).map(str::len).max();
            assert!(widest <= Some(columns), "{text}");
        }
    }

    #[test]
    fn what_a_terminal_has_no_place_for_leaves_a_mark() {
        let text = "four\nand five\nsix";
        assert_eq!(fitted(text, 8, 3), ["four", "and five", "six"]);
        assert_eq!(fitted(text, 7, 3), ["four", "and fi…", "six"]);
        assert_eq!(fitted(text, 20, 2), ["four", "… 2 lines more"]);
        assert_eq!(fitted(text, 0, 0), Vec::<String>::new());
    }
}
