//! What was found, as text and as JSON.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::Check;
use super::live::{Live, LiveNode};
use super::proof::{DayLoads, ProcessLoads, Proof, Sum, TeamLoads};
use crate::cli::output::counted;
use crate::cli::table::{day_list, table, thousands};
use crate::config::NodeId;
use crate::day::Day;

/// Everything that a run found out.
pub(super) struct Report<'a> {
    pub(super) config: &'a Path,
    pub(super) root: Option<&'a Path>,
    pub(super) proof: Option<Proof>,
    pub(super) live: Option<Live>,
}

impl Report<'_> {
    pub(super) fn checks(&self) -> impl Iterator<Item = &Check> {
        let proof = self.proof.iter().flat_map(|proof| &proof.checks);
        proof.chain(self.live.iter().flat_map(|live| &live.checks))
    }

    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        if let (Some(proof), Some(root)) = (&self.proof, self.root) {
            writeln!(out, "What the processes of {} load from {}\n", self.config.display(), root.display())?;
            write_processes(out, proof)?;
            write_teams(out, proof)?;
            if !proof.ignored.is_empty() {
                writeln!(out, "ignored, no part of the dataset: {}\n", proof.ignored.join(", "))?;
            }
        }
        if let Some(live) = &self.live {
            writeln!(out, "What the running nodes of {} say\n", self.config.display())?;
            write_nodes(out, live)?;
        }
        let (mut passed, mut failed, mut unchecked, mut findings) = (0, 0, 0, 0);
        for check in self.checks() {
            match &check.findings {
                None => {
                    unchecked += 1;
                    writeln!(out, "-       {}: not checked, as no node answers", check.sentence())?;
                }
                Some(found) if found.is_empty() => {
                    passed += 1;
                    writeln!(out, "ok      {}", check.claim)?;
                }
                Some(found) => {
                    failed += 1;
                    findings += found.len() as u64;
                    for finding in found {
                        writeln!(out, "FAILED  {}: {}", check.sentence(), finding.message)?;
                    }
                }
            }
        }
        let findings = counted(findings, "finding");
        match unchecked {
            0 => writeln!(out, "\n{passed} passed, {failed} failed, {findings}"),
            _ => writeln!(out, "\n{passed} passed, {failed} failed, {unchecked} not checked, {findings}"),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "config": self.config.display().to_string(),
            "dataset_root": self.root.map(|root| root.display().to_string()),
            "ok": self.checks().all(Check::holds),
            "checks": self.checks().map(Check::to_json).collect::<Value>(),
            "disk": self.proof.as_ref().map(proof_json),
            "live": self.live.as_ref().map(live_json),
        })
    }
}

fn write_processes(out: &mut impl Write, proof: &Proof) -> io::Result<()> {
    let header = ["process", "role", "team", "files", "rows", "days", "rejected", "sample"];
    let mut shown = table(header, &[3, 4, 5, 6, 7]);
    for loads in &proof.processes {
        shown.add_row([
            loads.process.id.to_string(),
            loads.process.role.to_string(),
            loads.process.team.clone(),
            thousands(loads.sum.files),
            thousands(loads.sum.rows),
            loads.days.len().to_string(),
            thousands(loads.rejected_rows),
            thousands(loads.sample_rows),
        ]);
    }
    writeln!(out, "{shown}\nsample: rows of PM2.5 from 5 to 35")?;
    if !proof.missing_days.is_empty() {
        let days = day_list(proof.missing_days.iter().copied());
        writeln!(out, "missing days, planned but not on disk, which is normal: {days}")?;
    }
    writeln!(out)
}

fn write_teams(out: &mut impl Write, proof: &Proof) -> io::Result<()> {
    let mut shown = table(["team", "loaded by", "days", "files", "rows"], &[3, 4]);
    for loads in &proof.teams {
        let members: Vec<&str> = loads.members.iter().map(NodeId::as_str).collect();
        let all = loads.holders == members.len();
        let of = if all { "each of".to_owned() } else { format!("{} of", loads.holders) };
        shown.add_row([
            loads.team.name.clone(),
            format!("{of} {}", members.join(", ")),
            day_list(loads.days.iter().copied()),
            thousands(loads.sum.files),
            thousands(loads.sum.rows),
        ]);
    }
    for (name, sum) in [("loaded", proof.loaded), ("on disk", proof.disk)] {
        let (files, rows) = (thousands(sum.files), thousands(sum.rows));
        shown.add_row([name.to_owned(), String::new(), String::new(), files, rows]);
    }
    writeln!(out, "{shown}\n")
}

fn write_nodes(out: &mut impl Write, live: &Live) -> io::Result<()> {
    let mut shown = table(["node", "address", "state", "files", "rows", "days"], &[3, 4, 5]);
    for node in &live.nodes {
        let sum = node.sum();
        shown.add_row([
            node.process.id.to_string(),
            node.process.address(),
            node.state().to_owned(),
            thousands(sum.files),
            thousands(sum.rows),
            node.day_count().to_string(),
        ]);
    }
    writeln!(out, "{shown}\n")
}

impl LiveNode {
    fn state(&self) -> &'static str {
        match &self.inventory {
            Err(_) => "down",
            Ok(inventory) if inventory.draining => "draining",
            Ok(inventory) if inventory.ready => "ready",
            Ok(_) => "loading",
        }
    }

    fn sum(&self) -> Sum {
        let Ok(inventory) = &self.inventory else { return Sum::default() };
        let rows = inventory.days.values().map(|held| held.statistics.rows).sum();
        Sum { files: inventory.files, rows }
    }

    /// Days with a file.
    fn day_count(&self) -> usize {
        let days = self.inventory.iter().flat_map(|inventory| inventory.days.values());
        days.filter(|held| held.statistics.files > 0).count()
    }
}

fn numbers(days: &[Day]) -> Vec<u32> {
    days.iter().map(|day| day.number()).collect()
}

fn names(nodes: &[NodeId]) -> Vec<&str> {
    nodes.iter().map(NodeId::as_str).collect()
}

fn proof_json(proof: &Proof) -> Value {
    let process = |loads: &ProcessLoads| {
        json!({
            "process": loads.process.id.as_str(),
            "role": loads.process.role,
            "team": loads.process.team,
            "files": loads.sum.files,
            "rows": loads.sum.rows,
            "rejected_rows": loads.rejected_rows,
            "days": numbers(&loads.days),
            "missing_days": numbers(&loads.missing_days),
            "sample": { "parameter": "PM2.5", "min_value": 5, "max_value": 35, "rows": loads.sample_rows },
        })
    };
    let team = |loads: &TeamLoads| {
        json!({
            "team": loads.team.name,
            "members": names(&loads.members),
            "holders_of_a_day": loads.holders,
            "days": numbers(&loads.days),
            "files": loads.sum.files,
            "rows": loads.sum.rows,
        })
    };
    let day = |day: &DayLoads| {
        json!({
            "day": day.day.number(),
            "team": day.team,
            "loaded_by": names(&day.loaded_by),
            "files": day.disk.files,
            "rows": day.disk.rows,
            "rejected_rows": day.rejected_rows,
            "version": day.version,
        })
    };
    json!({
        "files_on_disk": proof.disk.files,
        "rows_on_disk": proof.disk.rows,
        "files_loaded": proof.loaded.files,
        "rows_loaded": proof.loaded.rows,
        "processes": proof.processes.iter().map(process).collect::<Value>(),
        "teams": proof.teams.iter().map(team).collect::<Value>(),
        "days": proof.days.iter().map(day).collect::<Value>(),
        "ignored": proof.ignored,
    })
}

fn live_json(live: &Live) -> Value {
    let node = |node: &LiveNode| {
        let sum = node.sum();
        json!({
            "node": node.process.id.as_str(),
            "address": node.process.address(),
            "state": node.state(),
            "error": node.inventory.as_ref().err(),
            "incarnation": node.inventory.as_ref().ok().map(|inventory| inventory.incarnation),
            "files": sum.files,
            "rows": sum.rows,
            "days": node.day_count(),
        })
    };
    json!({
        "nodes": live.nodes.iter().map(node).collect::<Value>(),
        "frames_compared": live.frames_compared,
        "rows_compared": live.rows_compared,
    })
}
