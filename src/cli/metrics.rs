//! `overlay metrics`: how one node is, or every process of a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tonic::Status;

use super::credentials::CredentialArgs;
use super::table::{table, thousands};
use super::unanswered::{AN_ADDRESS, Unanswered};
use super::{Failure, leader_or_default, read_overlay, runtime};
use crate::client::{Client, ClientError, NodeMetrics};
use crate::config::{Overlay, Process};
use crate::security::Security;

/// Show the metrics of a node, or of all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay metrics
  overlay metrics --leader 192.168.1.2:60051 --format prometheus
  overlay metrics --all --config configs/two_hosts_config.json --format json

Exits 1 when a node could not be reached, or refuses to tell; with --all the others are shown all the same, and \
the CA is the configuration's.")]
pub(crate) struct MetricsCommand {
    /// The node to ask [env: OVERLAY_LEADER] [default: 127.0.0.1:60051]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "all")]
    leader: Option<String>,
    /// Ask every process of the configuration
    #[arg(long)]
    all: bool,
    /// The configuration for --all
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json", requires = "all")]
    config: PathBuf,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a person
    Table,
    /// One array with an object for each node
    Json,
    /// The OpenMetrics text of every metric; with --all labelled by node
    Prometheus,
}

/// The next step where a node does not answer.
const NOT_REACHED: &str =
    "start it with `overlay up` or `overlay node`, or give the address where it listens";

/// How long a node may take: it only reads counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A node that was asked.
pub(crate) struct Asked {
    address: String,
    /// What the configuration says of it, with --all.
    process: Option<Process>,
    pub(crate) answer: Result<NodeMetrics, ClientError>,
}

impl MetricsCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let runtime = runtime()?;
        let overlay = self.all.then(|| read_overlay(&self.config, None)).transpose()?;
        let security = match &overlay {
            Some(overlay) => self.credentials.security_in(overlay)?,
            None => self.credentials.security()?,
        };
        let asked = match &overlay {
            Some(overlay) => runtime.block_on(ask_all(overlay, &security)),
            None => {
                let leader = leader_or_default(self.leader);
                let answer = runtime.block_on(ask(&security, &leader));
                let answer = answer.map_err(|error| failure(error, &security))?;
                vec![Asked { address: leader, process: None, answer: Ok(answer) }]
            }
        };
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Table => show_tables(&mut out, &asked)?,
            Format::Json => writeln!(out, "{:#}", asked.iter().map(Asked::to_json).collect::<Value>())?,
            Format::Prometheus if self.all => write!(out, "{}", labelled_exposition(&asked))?,
            Format::Prometheus => {
                for answer in asked.iter().filter_map(|asked| asked.answer.as_ref().ok()) {
                    write!(out, "{}", answer.exposition)?;
                }
            }
        }
        all_answered(&asked, &security)
    }
}

pub(crate) async fn ask_all(overlay: &Overlay, security: &Security) -> Vec<Asked> {
    let asked = overlay.processes.values().map(async |process| {
        let address = process.address();
        Asked { answer: ask(security, &address).await, process: Some(process.clone()), address }
    });
    futures::future::join_all(asked).await
}

/// The metrics of the node at `address`, or why there are none.
pub(crate) async fn ask(security: &Security, address: &str) -> Result<NodeMetrics, ClientError> {
    let client = Client::secured(security, address, "metrics")?;
    within(ANSWER_WITHIN, address, client.metrics()).await
}

/// An answer that has to come in time.
pub(crate) async fn within<T>(
    time: Duration,
    address: &str,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(time, answer).await.unwrap_or_else(|_| {
        let status = Status::deadline_exceeded(format!("no answer within {} s", time.as_secs()));
        Err(ClientError::Status { address: address.to_owned(), status: Box::new(status) })
    })
}

/// The failure of a command that asks one node for its metrics.
pub(crate) fn failure(error: ClientError, security: &Security) -> Failure {
    match error {
        ClientError::Address { .. } => Failure::usage(error, AN_ADDRESS),
        error => {
            let help = help(&error, security);
            Failure::with_help(error, help)
        }
    }
}

/// The next step where a node does not tell its metrics.
pub(crate) fn help(error: &ClientError, security: &Security) -> &'static str {
    Unanswered::of(error).help(security.tls().is_none()).unwrap_or(NOT_REACHED)
}

/// Names each reason once, with the nodes that have it.
fn all_answered(asked: &[Asked], security: &Security) -> Result<(), Failure> {
    let (mut reasons, mut helps) = (BTreeMap::<String, Vec<String>>::new(), BTreeSet::new());
    for asked in asked {
        if let Err(error) = &asked.answer {
            let [node, ..] = asked.identity();
            reasons.entry(error.reason()).or_default().push(node);
            helps.insert(help(error, security));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let count: usize = reasons.values().map(Vec::len).sum();
    let reasons: Vec<String> =
        reasons.iter().map(|(reason, nodes)| format!("{}: {reason}", nodes.join(", "))).collect();
    let error = format!("{count} of {} nodes gave no metrics: {}", asked.len(), reasons.join("; "));
    Err(Failure::with_help(error, Vec::from_iter(helps).join("; ")))
}

impl Asked {
    pub(crate) fn state(&self) -> &'static str {
        match &self.answer {
            Err(error) => match Unanswered::of(error) {
                Unanswered::Refused => "refused",
                _ => "down",
            },
            Ok(answer) if answer.draining => "draining",
            Ok(answer) if answer.ready => "ready",
            Ok(_) => "loading",
        }
    }

    /// Node, role and team: what it says, or else what the configuration says.
    pub(crate) fn identity(&self) -> [String; 3] {
        match (&self.answer, &self.process) {
            (Ok(answer), _) => [answer.node.clone(), answer.role.clone(), answer.team.clone()],
            (_, Some(process)) => [process.id.to_string(), process.role.to_string(), process.team.clone()],
            _ => Default::default(),
        }
    }

    fn to_json(&self) -> Value {
        let [node, role, team] = self.identity();
        let mut object = json!({
            "node": node, "role": role, "team": team, "address": self.address, "state": self.state(),
        });
        let more = match &self.answer {
            Err(error) => json!({ "error": error.to_string() }),
            Ok(answer) => json!({
                "incarnation": answer.incarnation,
                "files": answer.files,
                "rows": answer.rows,
                "days": answer.days,
                "active_queries": answer.active_queries,
                "max_active": answer.max_active,
                "waiting_queries": answer.waiting_queries,
                "open_result_sets": answer.open_result_sets,
                "queries_total": answer.queries_total,
                "chunks_total": answer.chunks_total,
                "rejected_total": answer.rejected_total,
                "query_ms_mean": answer.query_seconds_mean * 1e3,
                "neighbours": answer.neighbours.iter().map(|neighbour| json!({
                    "node": neighbour.node,
                    "state": neighbour.state,
                    "last_error": neighbour.last_error,
                })).collect::<Value>(),
            }),
        };
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    }
}

/// Two tables, each of which fits into 80 columns: who is there with what, and what they do. Then what is wrong.
fn show_tables(out: &mut impl Write, asked: &[Asked]) -> std::io::Result<()> {
    let mut nodes = table(["node", "role", "team", "state", "files", "rows", "days"], &[4, 5, 6]);
    let header = ["node", "active", "waiting", "leases", "queries", "chunks", "rejected", "mean ms"];
    let mut work = table(header, &[1, 2, 3, 4, 5, 6, 7]);
    let mut down = Vec::new();
    for asked in asked {
        let holds = match &asked.answer {
            Err(_) => ["-", "-", "-"].map(str::to_owned),
            Ok(answer) => {
                work.add_row(work_of(answer));
                down.extend(neighbours_down(answer));
                [thousands(answer.files), thousands(answer.rows), answer.days.to_string()]
            }
        };
        let state = [asked.state().to_owned()];
        nodes.add_row(asked.identity().into_iter().chain(state).chain(holds));
    }
    writeln!(out, "{nodes}")?;
    if !work.is_empty() {
        writeln!(out, "\n{work}")?;
    }
    for line in down {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn work_of(answer: &NodeMetrics) -> [String; 8] {
    [
        answer.node.clone(),
        format!("{}/{}", answer.active_queries, answer.max_active),
        answer.waiting_queries.to_string(),
        answer.open_result_sets.to_string(),
        thousands(answer.queries_total),
        thousands(answer.chunks_total),
        thousands(answer.rejected_total),
        format!("{:.1}", answer.query_seconds_mean * 1e3),
    ]
}

fn neighbours_down(answer: &NodeMetrics) -> impl Iterator<Item = String> {
    let down = answer.neighbours.iter().filter(|neighbour| neighbour.state != "up");
    down.map(|neighbour| format!("{} cannot reach {}: {}", answer.node, neighbour.node, neighbour.last_error))
}

/// The metrics of several nodes as one exposition: each family once, each sample with its node.
fn labelled_exposition(asked: &[Asked]) -> String {
    let mut families: Vec<(String, Vec<String>)> = Vec::new();
    for answer in asked.iter().filter_map(|asked| asked.answer.as_ref().ok()) {
        let mut family = 0;
        for line in answer.exposition.lines().filter(|line| *line != "# EOF") {
            if let Some(comment) = line.strip_prefix("# ") {
                let name = comment.split(' ').nth(1).unwrap_or_default();
                family = families.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    families.push((name.to_owned(), Vec::new()));
                    families.len() - 1
                });
            }
            let Some((_, lines)) = families.get_mut(family) else { continue };
            let line = labelled(line, &answer.node);
            if !line.starts_with('#') || !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    let lines = families.into_iter().flat_map(|(_, lines)| lines).chain(["# EOF".to_owned()]);
    lines.map(|line| line + "\n").collect()
}

/// A sample with the label `node` in front of its others; a comment as it is.
fn labelled(line: &str, node: &str) -> String {
    let node = node.replace('\\', r"\\").replace('"', "\\\"");
    match line.find([' ', '{']) {
        Some(end) if !line.starts_with('#') => match line[end..].strip_prefix('{') {
            Some(labels) => format!("{}{{node=\"{node}\",{labels}", &line[..end]),
            None => format!("{}{{node=\"{node}\"}}{}", &line[..end], &line[end..]),
        },
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_several_nodes_differ_by_their_label() {
        assert_eq!(labelled("rows_held 5", "A"), r#"rows_held{node="A"} 5"#);
        assert_eq!(
            labelled(r#"queries_total{outcome="ok"} 5"#, "A"),
            r#"queries_total{node="A",outcome="ok"} 5"#
        );
        let asked = ["A", "B"].map(|node| Asked {
            address: String::new(),
            process: None,
            answer: Ok(NodeMetrics {
                node: node.to_owned(),
                exposition: "# HELP x X.\n# TYPE x gauge\nx 1\n# HELP y Y.\ny 2\n# EOF\n".to_owned(),
                ..NodeMetrics::default()
            }),
        });
        let expected = "# HELP x X.\n# TYPE x gauge\nx{node=\"A\"} 1\nx{node=\"B\"} 1\n\
            # HELP y Y.\ny{node=\"A\"} 2\ny{node=\"B\"} 2\n# EOF\n";
        assert_eq!(labelled_exposition(&asked), expected);
    }
}
