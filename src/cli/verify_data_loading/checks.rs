//! What must hold of a dataset and of what processes load from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::disk::{Disk, DiskDay};
use super::proof::{DayLoads, Proof, TeamLoads};
use super::{Check, Finding};
use crate::cli::output::counted;
use crate::cli::table::thousands;
use crate::config::NodeId;
use crate::day::Day;
use crate::load::LoadError;

/// Every check of what lies on the disk and who loads it.
pub(super) fn check(proof: &Proof, disk: &Disk) -> Vec<Check> {
    vec![
        files_are_read(proof, disk),
        files_have_rows(disk),
        files_lie_in_day_folders(disk),
        rows_parse(proof, disk),
        counts_agree(proof, disk),
        days_are_owned(proof),
        rows_are_loaded(proof),
    ]
}

fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

fn files_are_read(proof: &Proof, disk: &Disk) -> Check {
    let finding = |on_disk: &DiskDay| {
        let error = on_disk.loaded.as_ref().err()?;
        let file = match error {
            LoadError::Unreadable { path, .. } | LoadError::NotUtf8(path) | LoadError::SameStem(path, _) => {
                Some(path.clone())
            }
            _ => None,
        };
        let day = Some(on_disk.day);
        Some(Finding {
            message: error.to_string(),
            day,
            at: file.map(|file| (file, None)),
            nodes: Vec::new(),
        })
    };
    Check {
        name: "files_are_read",
        claim: format!("every file on disk can be read: {}", counted(proof.disk.files, "file")),
        findings: Some(disk.days.iter().filter_map(finding).collect()),
    }
}

fn files_have_rows(disk: &Disk) -> Check {
    let finding = |day: Day, file: &PathBuf| Finding {
        message: format!("{} has no row: was it cut?", file.display()),
        day: Some(day),
        at: Some((file.clone(), None)),
        nodes: Vec::new(),
    };
    let of_day =
        |on_disk: &DiskDay| on_disk.empty_files.iter().map(|file| finding(on_disk.day, file)).collect();
    Check {
        name: "files_have_rows",
        claim: "every file on disk has a row".to_owned(),
        findings: Some(disk.days.iter().flat_map::<Vec<Finding>, _>(of_day).collect()),
    }
}

fn files_lie_in_day_folders(disk: &Disk) -> Check {
    let finding = |file: &PathBuf| Finding {
        message: format!("{} is loaded by nobody: expected YYYYMMDD/NAME.csv or .csv.gz", file.display()),
        at: Some((file.clone(), None)),
        ..Finding::default()
    };
    Check {
        name: "files_lie_in_day_folders",
        claim: "what is ignored holds no CSV file".to_owned(),
        findings: Some(disk.astray.iter().map(finding).collect()),
    }
}

fn rows_parse(proof: &Proof, disk: &Disk) -> Check {
    let mut findings = Vec::new();
    for (on_disk, loads) in disk.days.iter().zip(&proof.days) {
        let Ok(loaded) = &on_disk.loaded else { continue };
        let finding =
            |message, at| Finding { message, at, day: Some(on_disk.day), nodes: names(&loads.loaded_by) };
        findings.extend(
            loaded
                .rejected
                .iter()
                .map(|row| finding(row.to_string(), Some((row.file.clone(), Some(row.line))))),
        );
        let named = loaded.rejected.len() as u64;
        if loaded.rejected_rows > named {
            let more = thousands(loaded.rejected_rows - named);
            findings.push(finding(format!("day {}: {more} more rejected rows", on_disk.day), None));
        }
    }
    Check {
        name: "rows_parse",
        claim: format!("every row on disk parses: {}, no bad row", counted(proof.disk.rows, "row")),
        findings: Some(findings),
    }
}

fn counts_agree(proof: &Proof, disk: &Disk) -> Check {
    let finding = |day: Day, (file, loaded, counted): &(PathBuf, u64, u64)| Finding {
        message: format!("{}: another CSV reader counts {counted} rows, loaded are {loaded}", file.display()),
        day: Some(day),
        at: Some((file.clone(), None)),
        nodes: Vec::new(),
    };
    let of_day = |on_disk: &DiskDay| {
        let day = on_disk.day;
        on_disk.miscounted.iter().map(move |miscounted| finding(day, miscounted)).collect::<Vec<_>>()
    };
    Check {
        name: "counts_agree",
        claim: format!("another CSV reader counts as many rows: {}", thousands(proof.disk.rows)),
        findings: Some(disk.days.iter().flat_map(of_day).collect()),
    }
}

fn days_are_owned(proof: &Proof) -> Check {
    let unowned = proof.days.iter().filter(|day| day.team.is_none());
    let finding = |day: &DayLoads| Finding {
        message: format!(
            "day {} belongs to no team, so nobody loads its {} with {}",
            day.day,
            counted(day.disk.files, "file"),
            counted(day.disk.rows, "row")
        ),
        day: Some(day.day),
        ..Finding::default()
    };
    Check {
        name: "days_are_owned",
        claim: format!("every day on disk belongs to one team: {}", counted(proof.days.len() as u64, "day")),
        findings: Some(unowned.map(finding).collect()),
    }
}

/// Every day with rows is loaded by as many processes as are to hold it, all of the team that owns it.
fn rows_are_loaded(proof: &Proof) -> Check {
    let teams: BTreeMap<&str, &TeamLoads> =
        proof.teams.iter().map(|loads| (loads.team.name.as_str(), loads)).collect();
    let mut findings = Vec::new();
    for day in &proof.days {
        let Some(team) = day.team.as_deref().and_then(|team| teams.get(team)) else { continue };
        let strangers = day.loaded_by.iter().any(|node| !team.members.contains(node));
        if day.disk.files > 0 && (strangers || day.loaded_by.len() != team.holders) {
            let loaded_by = match day.loaded_by.is_empty() {
                true => "nobody".to_owned(),
                false => names(&day.loaded_by).join(", "),
            };
            findings.push(Finding {
                message: format!(
                    "day {} with {} is loaded by {loaded_by}, must be by {} of {} ({})",
                    day.day,
                    counted(day.disk.rows, "row"),
                    team.holders,
                    team.team.name,
                    names(&team.members).join(", ")
                ),
                day: Some(day.day),
                at: None,
                nodes: names(&day.loaded_by),
            });
        }
    }
    if proof.loaded.rows == 0 {
        findings.push(Finding { message: "not a single row is loaded".to_owned(), ..Finding::default() });
    }
    let left = proof.disk.rows.abs_diff(proof.loaded.rows);
    if left > 0 {
        let (disk, loaded) = (counted(proof.disk.rows, "row"), thousands(proof.loaded.rows));
        let message = format!("of {disk} on disk {loaded} are loaded, {} not", thousands(left));
        findings.push(Finding { message, ..Finding::default() });
    }
    let holders: Vec<String> = proof
        .teams
        .iter()
        .map(|team| match team.holders == team.members.len() {
            true => format!("all {} members of {}", team.holders, team.team.name),
            false => format!("{} of {} members of {}", team.holders, team.members.len(), team.team.name),
        })
        .collect();
    Check {
        name: "rows_are_loaded",
        claim: format!("every row on disk is loaded by exactly one team: {}", holders.join("; ")),
        findings: Some(findings),
    }
}
