//! `overlay demo`: six nodes inside this process, one query, everything that comes with its answer.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::embedded::Embedded;
use super::output::counted;
use super::table::{day_list, table, thousands};
use super::{Failure, check_dataset_root, runtime};
use crate::client::{Client, QueryResult};
use crate::config::Overlay;
use crate::coverage::Outcome;
use crate::day::Day;
use crate::decimal::Decimal;
use crate::frame::Encoding;
use crate::plan::Query;
use crate::predicate::Predicate;

/// The configuration that the demonstration runs, on ports of its own.
const CONFIGURATION: &str = include_str!("../../configs/one_host_config.json");

/// The bundled data, seen from the project's root.
const BUNDLED_DATA: &str = "fixtures/airnow";

/// Rows of the result that are shown.
const ROWS_SHOWN: usize = 5;

/// Run six nodes inside this process on the bundled data and ask them a query.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay demo
  overlay demo --dataset-root DIR")]
pub(crate) struct Demo {
    /// Where the day folders are (default: the bundled data)
    #[arg(long, value_name = "DIR")]
    dataset_root: Option<PathBuf>,
}

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let root = self.dataset_root.unwrap_or_else(bundled_data);
        check_dataset_root(&root)?;
        let runtime = runtime()?;
        let result = runtime.block_on(demonstrate(root));
        runtime.shutdown_background();
        result
    }
}

/// The bundled data: below the current folder, or else where this program was built.
fn bundled_data() -> PathBuf {
    let here = PathBuf::from(BUNDLED_DATA);
    match here.is_dir() {
        true => here,
        false => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(BUNDLED_DATA),
    }
}

async fn demonstrate(root: PathBuf) -> Result<(), Failure> {
    let parsed = Overlay::parse(CONFIGURATION, "configs/one_host_config.json")?;
    let (mut nodes, overlay) = Embedded::start_on_free_ports(parsed.overlay, Some(root.clone())).await?;
    nodes.ready().await?;
    let mut out = std::io::stdout().lock();
    let processes: Vec<String> =
        overlay.processes.values().map(|process| format!("{} {}", process.id, process.role)).collect();
    writeln!(out, "Six nodes on {}: {}\n", root.display(), processes.join(", "))?;

    let query = Query {
        predicate: Predicate {
            parameter: Some("PM2.5".to_owned()),
            min: Some(Decimal::at_least("5")?),
            max: Some(Decimal::at_most("35")?),
            ..Predicate::default()
        },
        encoding: Encoding::Json,
        ..Query::default()
    };
    let client = Client::new(&overlay.leader().address(), "demo")?;
    show_plan(&mut out, &client, &query).await?;
    let started = std::time::Instant::now();
    let mut result = client.query(&query).await?;
    let answered = started.elapsed();
    let mut rows = 0;
    for index in 0..result.chunk_count() {
        let chunk = client.chunk_or_resume(&mut result, index).await?;
        rows += chunk.frames.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
        if index == 0 {
            show_rows(&mut out, &chunk.frames)?;
        }
    }
    show_proof(&mut out, &result, rows)?;
    writeln!(
        out,
        "Answered in {:.1} ms; read to the end in {:.1} ms.\n",
        answered.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    )?;
    show_metrics(&mut out, &overlay).await?;
    drop(out);
    nodes.stop();
    while let Some((_, ended)) = nodes.next_ended().await {
        ended?;
    }
    Ok(())
}

/// Who would serve which days.
async fn show_plan(out: &mut impl Write, client: &Client, query: &Query) -> Result<(), Failure> {
    let plan = client.explain(query).await?;
    writeln!(out, "Plan: {}", plan.query)?;
    let mut served: Vec<((String, String, String), Vec<Day>)> = Vec::new();
    for day in &plan.days {
        let (who, via) = match (&day.assigned, &day.pruned_by) {
            (Some(node), _) => {
                (format!("asked of {node}"), day.via.iter().map(|via| format!("through {via}")).collect())
            }
            (None, Some(pruned)) => (format!("pruned: {pruned}"), String::new()),
            (None, None) => (day.note.clone(), String::new()),
        };
        entry_of(&mut served, (day.team.clone(), who, via)).push(day.day);
    }
    let mut table = table(["team", "days", "what", "way"], &[]);
    for ((team, who, via), days) in served {
        table.add_row([team, day_list(days), who, via]);
    }
    writeln!(out, "{table}\n{} to scan\n", counted(plan.rows_to_scan, "row"))?;
    Ok(())
}

fn show_rows(out: &mut impl Write, frames: &[crate::verb::Frame]) -> Result<(), Failure> {
    const COLUMNS: [&str; 6] = ["timestamp", "site_name", "parameter", "value", "unit", "aqi"];
    let mut shown = table(COLUMNS, &[3, 5]);
    let mut rows = Vec::new();
    for frame in frames {
        let text = [b"[", &frame.payload[..], b"]"].concat();
        let frame: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(&text)?;
        rows.extend(frame);
    }
    for row in rows.iter().take(ROWS_SHOWN) {
        shown.add_row(COLUMNS.map(|column| match &row[column] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        }));
    }
    writeln!(out, "First rows:\n{shown}\n")?;
    Ok(())
}

fn show_proof(out: &mut impl Write, result: &QueryResult, rows: u64) -> Result<(), Failure> {
    let chunks = &result.manifest.chunk_rows;
    writeln!(
        out,
        "Result: {} in {} of at most {}; {} read, every frame as its ledger says.",
        counted(result.manifest.total_records, "row"),
        counted(chunks.len() as u64, "chunk"),
        thousands(chunks.iter().max().copied().unwrap_or_default().into()),
        thousands(rows),
    )?;
    let mut by_outcome: Vec<(String, (Vec<Day>, u64))> = Vec::new();
    for entry in &result.ledger {
        let (what, rows) = match &entry.outcome {
            Outcome::Served(served) => (format!("served by {}", served.node), served.rows_taken),
            Outcome::Pruned { .. } => ("pruned by statistics".to_owned(), 0),
            Outcome::NoData { node } => (format!("no data, says {node}"), 0),
            Outcome::BeyondLimit => ("beyond the limit".to_owned(), 0),
            Outcome::Missing { why, .. } => (format!("missing: {why}"), 0),
        };
        let (days, sum) = entry_of(&mut by_outcome, what);
        days.push(entry.day);
        *sum += rows;
    }
    let mut ledger = table(["days", "outcome", "rows"], &[2]);
    for (what, (days, rows)) in by_outcome {
        ledger.add_row([day_list(days), what, thousands(rows)]);
    }
    writeln!(out, "Coverage ledger:\n{ledger}")?;
    Ok(())
}

async fn show_metrics(out: &mut impl Write, overlay: &Overlay) -> Result<(), Failure> {
    let header = ["node", "role", "team", "files", "rows", "queries", "chunks", "rows scanned"];
    let mut shown = table(header, &[3, 4, 5, 6, 7]);
    for process in overlay.processes.values() {
        let metrics = Client::new(&process.address(), "demo")?.metrics().await?;
        let scanned = metrics
            .exposition
            .lines()
            .find_map(|line| line.strip_prefix("overlay_rows_scanned_total "))
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        shown.add_row([
            metrics.node,
            metrics.role,
            metrics.team,
            thousands(metrics.files),
            thousands(metrics.rows),
            thousands(metrics.queries_total),
            thousands(metrics.chunks_total),
            thousands(scanned),
        ]);
    }
    writeln!(out, "Metrics:\n{shown}")?;
    Ok(())
}

/// What belongs to `key`, in the order in which keys were first met.
fn entry_of<K: PartialEq, V: Default>(entries: &mut Vec<(K, V)>, key: K) -> &mut V {
    let found = entries.iter().position(|(known, _)| *known == key);
    let index = found.unwrap_or_else(|| {
        entries.push((key, V::default()));
        entries.len() - 1
    });
    &mut entries[index].1
}
