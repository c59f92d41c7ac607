//! What the running nodes hold, compared with each other and with the disk.
//!
//! Each process is asked directly, not by way of the overlay. Frames are compared in `frames`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::disk::Disk;
use super::frames::compare_frames;
use super::{Check, Finding};
use crate::admission::ClientKey;
use crate::cli::output::counted;
use crate::cli::table::day_list;
use crate::config::{Overlay, Process};
use crate::day::Day;
use crate::inventory::{DayInventory, NodeInventory};
use crate::outside::ConnectTcp;
use crate::peer::Neighbour;
use crate::placement::Placement;
use crate::security::Security;
use crate::store::Version;
use crate::verb::{Call, InventoryItem};

/// The check that needs nobody to answer.
const ANSWER: &str = "nodes_answer";

/// What the running nodes said.
pub(super) struct Live {
    pub(super) nodes: Vec<LiveNode>,
    pub(super) frames_compared: u64,
    pub(super) rows_compared: u64,
    pub(super) checks: Vec<Check>,
}

/// One process, asked.
pub(super) struct LiveNode {
    pub(super) process: Process,
    /// Or in words why there is none.
    pub(super) inventory: Result<NodeInventory, String>,
    pub(super) neighbour: Neighbour,
}

/// The holders of one version of a day.
pub(super) struct Holders<'a> {
    pub(super) day: Day,
    pub(super) team: &'a str,
    pub(super) version: Version,
    pub(super) held: &'a DayInventory,
    pub(super) nodes: Vec<&'a LiveNode>,
}

/// Asks every process what it holds, and every holder for every row.
pub(super) async fn ask(overlay: &Overlay, disk: Option<&Disk>) -> Live {
    let nodes = join_all(overlay.processes.values().map(|process| ask_node(process, overlay))).await;
    let placement = Placement::new(overlay);
    let holders = holders(&nodes, &placement);
    let mut live = Live { nodes: Vec::new(), frames_compared: 0, rows_compared: 0, checks: Vec::new() };
    let mut checks = vec![
        nodes_answer(&nodes),
        nodes_follow_the_configuration(&nodes, &placement),
        nodes_rejected_nothing(&nodes),
        holders_agree(&holders),
    ];
    checks.extend(disk.map(|disk| holders_have_the_disk(&nodes, &placement, disk)));
    let mut findings = Vec::new();
    for holders in holders.iter().filter(|holders| holders.held.statistics.rows > 0) {
        compare_frames(holders, overlay, &mut live, &mut findings).await;
    }
    if live.rows_compared == 0 {
        findings.push(Finding { message: "not a single row is held".to_owned(), ..Finding::default() });
    }
    checks.push(Check {
        name: "frames_agree",
        claim: format!(
            "holders of one version give the same bytes: {}, {} from all holders",
            counted(live.frames_compared, "frame"),
            counted(live.rows_compared, "row")
        ),
        findings: Some(findings),
    });
    if nodes.iter().all(|node| node.inventory.is_err()) {
        for check in checks.iter_mut().filter(|check| check.name != ANSWER) {
            check.findings = None;
        }
    }
    Live { nodes, checks, ..live }
}

/// A request for ourselves.
pub(super) fn call(overlay: &Overlay) -> Call {
    Call::new(ClientKey::new("", "verify-data-loading"), Instant::now() + overlay.limits.query())
}

async fn ask_node(process: &Process, overlay: &Overlay) -> LiveNode {
    // Every node answers whoever has its own certificate, or a token of its peers.
    let files = overlay.security.as_ref().map(|files| Security::of_node(files, process)).transpose();
    let (security, unusable) = match files {
        Ok(security) => (security.unwrap_or_default(), None),
        Err(error) => (Security::default(), Some(error.to_string())),
    };
    let neighbour = Neighbour::new(process, overlay, &security, Arc::new(ConnectTcp));
    if let Some(why) = unusable {
        return LiveNode { process: process.clone(), inventory: Err(why), neighbour };
    }
    let item = InventoryItem { node: process.id.clone(), known_incarnation: 0 };
    let inventory = match neighbour.inventory(&[item], &call(overlay)).await {
        Err(error) => Err(error.to_string()),
        Ok(mut answers) => match answers.answers.pop() {
            Some(answer) => Ok(answer.inventory),
            // It passed the question on, so another node listens there.
            None => {
                let why = answers.failures.pop().map(|failure| failure.why).unwrap_or_default();
                Err(format!("node at {} is not `{}`: {why}", process.address(), process.id))
            }
        },
    };
    LiveNode { process: process.clone(), inventory, neighbour }
}

/// Who holds which version of which placed day.
fn holders<'a>(nodes: &'a [LiveNode], placement: &'a Placement) -> Vec<Holders<'a>> {
    let mut holders: BTreeMap<(Day, Version), Holders<'a>> = BTreeMap::new();
    for node in nodes {
        let days = node.inventory.iter().flat_map(|inventory| &inventory.days);
        for (day, held) in days {
            let team = placement.team(*day).unwrap_or_default();
            let version = held.version;
            let new = || Holders { day: *day, team, version, held, nodes: Vec::new() };
            holders.entry((*day, version)).or_insert_with(new).nodes.push(node);
        }
    }
    holders.into_values().collect()
}

fn nodes_answer(nodes: &[LiveNode]) -> Check {
    let finding = |node: &LiveNode| {
        let id = &node.process.id;
        let message = match &node.inventory {
            Err(error) => error.clone(),
            Ok(inventory) if inventory.draining => format!("node `{id}` is shutting down"),
            Ok(inventory) if !inventory.ready => format!("node `{id}` is still loading"),
            Ok(_) => return None,
        };
        Some(Finding { message, nodes: vec![id.to_string()], ..Finding::default() })
    };
    Check {
        name: ANSWER,
        claim: format!("every process runs and is ready: {}", counted(nodes.len() as u64, "node")),
        findings: Some(nodes.iter().filter_map(finding).collect()),
    }
}

/// The nodes were given the days that this configuration gives them.
fn nodes_follow_the_configuration(nodes: &[LiveNode], placement: &Placement) -> Check {
    let finding = |node: &LiveNode| {
        let inventory = node.inventory.as_ref().ok().filter(|inventory| inventory.ready)?;
        let placed = placement.days_of(&node.process.id);
        let found: BTreeSet<Day> = inventory.days.keys().copied().collect();
        if found == placed {
            return None;
        }
        let id = &node.process.id;
        let days = |days: &mut dyn Iterator<Item = &Day>| match day_list(days.copied()) {
            days if days.is_empty() => "none".to_owned(),
            days => days,
        };
        let message = format!(
            "node `{id}` runs with another configuration: it lacks {}, and has beyond its own {}",
            days(&mut placed.difference(&found)),
            days(&mut found.difference(&placed))
        );
        Some(Finding { message, nodes: vec![id.to_string()], ..Finding::default() })
    };
    Check {
        name: "nodes_follow_the_configuration",
        claim: "every node was given the days that the configuration gives it".to_owned(),
        findings: Some(nodes.iter().filter_map(finding).collect()),
    }
}

/// The nodes saw no bad row and no day that nobody owns.
fn nodes_rejected_nothing(nodes: &[LiveNode]) -> Check {
    let mut findings = Vec::new();
    for node in nodes {
        let Ok(inventory) = &node.inventory else { continue };
        let id = &node.process.id;
        let finding = |day, message| Finding { message, day, at: None, nodes: vec![id.to_string()] };
        for (day, held) in inventory.days.iter().filter(|(_, held)| held.statistics.rejected_rows > 0) {
            let rejected = counted(held.statistics.rejected_rows, "row");
            let first = held.rejected.join("; ");
            findings.push(finding(Some(*day), format!("node `{id}` rejected {rejected} of {day}: {first}")));
        }
        if !inventory.unowned_days.is_empty() {
            let days = inventory.unowned_days.join(", ");
            findings
                .push(finding(None, format!("node `{id}` has days on its disk that no team owns: {days}")));
        }
    }
    Check {
        name: "nodes_rejected_nothing",
        claim: "no node rejected a row or has a day that no team owns".to_owned(),
        findings: Some(findings),
    }
}

fn holders_agree(holders: &[Holders<'_>]) -> Check {
    let mut findings = Vec::new();
    let mut days = 0;
    for versions in holders.chunk_by(|left, right| left.day == right.day) {
        days += 1;
        if versions.len() > 1 {
            let who = |holders: &Holders<'_>| {
                format!(
                    "{} at {} with {}",
                    holders.version,
                    holders.names(),
                    counted(holders.held.statistics.rows, "row")
                )
            };
            let day = versions[0].day;
            findings.push(Finding {
                message: format!(
                    "holders of {day} differ: {}",
                    versions.iter().map(who).collect::<Vec<_>>().join("; ")
                ),
                day: Some(day),
                at: None,
                nodes: versions
                    .iter()
                    .flat_map(|holders| holders.nodes.iter().map(|node| node.process.id.to_string()))
                    .collect(),
            });
        }
    }
    Check {
        name: "holders_agree",
        claim: format!("all holders of a day have one version of it: {days} planned days"),
        findings: Some(findings),
    }
}

fn holders_have_the_disk(nodes: &[LiveNode], placement: &Placement, disk: &Disk) -> Check {
    let versions: BTreeMap<Day, Option<Version>> = disk
        .days
        .iter()
        .filter_map(|on_disk| Some((on_disk.day, on_disk.loaded.as_ref().ok()?.version)))
        .collect();
    let mut findings = Vec::new();
    for node in nodes {
        let Ok(inventory) = node.inventory.as_ref().map_err(|_| ()) else { continue };
        for day in placement.days_of(&node.process.id) {
            let held = inventory.days.get(&day).filter(|held| held.statistics.files > 0);
            let (held, wanted) = (held.map(|held| held.version), versions.get(&day).copied().flatten());
            if held != wanted {
                let id = &node.process.id;
                let name = |version: Option<Version>| {
                    version.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"))
                };
                findings.push(Finding {
                    message: format!("node `{id}` has {} of {day}, on disk is {}", name(held), name(wanted)),
                    day: Some(day),
                    at: None,
                    nodes: vec![id.to_string()],
                });
            }
        }
    }
    Check {
        name: "holders_have_the_disk",
        claim: format!("every holder has the versions on disk: {}", counted(versions.len() as u64, "day")),
        findings: Some(findings),
    }
}

impl Holders<'_> {
    /// Something about these holders.
    pub(super) fn finding(&self, message: String) -> Finding {
        let nodes = self.nodes.iter().map(|node| node.process.id.to_string()).collect();
        Finding { message, day: Some(self.day), at: None, nodes }
    }

    fn names(&self) -> String {
        self.nodes.iter().map(|node| node.process.id.as_str()).collect::<Vec<_>>().join(", ")
    }
}
