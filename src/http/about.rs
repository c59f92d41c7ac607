//! The overlay and this node, as it knows them now.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{NodeId, Process};
use crate::inventory::{Mark, NodeInventory, NodeLoad, Traffic};
use crate::state::{NodeState, Stop};
use crate::store::Digest;

/// Nodes, edges and teams. What a node holds and does is what it has said of itself last; one that has not been asked is unknown.
pub(super) fn topology(state: &NodeState, brief: bool) -> Value {
    let (overlay, directory) = (&state.overlay, state.relay.directory());
    let (marks, mut loads, snapshot) = (directory.marks(), directory.loads(), directory.snapshot());
    loads.insert(state.process.id.clone(), state.load());
    let me = Arc::new(state.holder.inventory(0));
    let node = |process: &Process| {
        let (health, why, inventory) = match process.id == state.process.id {
            true => ("up", "", Some(&me)),
            false => {
                let inventory = snapshot.inventories.get(&process.id);
                // An inventory is forgotten when it is no longer true; that the node answered is.
                let heard_of = snapshot.free_compute_slots.contains_key(&process.id);
                let (health, why) = health(&process.id, &marks, heard_of);
                (health, why, inventory)
            }
        };
        let mut node = node(process, health, why, inventory, brief);
        node["load"] = json!(loads.get(&process.id).map(load));
        if let Some(free) = snapshot.free_compute_slots.get(&process.id) {
            node["free_compute_slots"] = json!(free);
        }
        node
    };
    let edges = overlay.processes.values().flat_map(|process| {
        let farther = process.neighbours.iter().filter(|neighbour| process.id < **neighbour);
        farther.map(|neighbour| json!([process.id.to_string(), neighbour.to_string()]))
    });
    let teams = overlay.teams.iter().map(|team| {
        json!({
            "name": &*team.name,
            "first_day": team.days.start.to_string(),
            "last_day": team.days.last().map(|day| day.to_string()),
        })
    });
    json!({
        "node": state.process.id.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "teams": teams.collect::<Value>(),
        "nodes": overlay.processes.values().map(node).collect::<Value>(),
        "edges": edges.collect::<Value>(),
        "version_conflicts": snapshot.version_conflicts().len(),
    })
}

fn load(load: &NodeLoad) -> Value {
    let traffic = |(neighbour, traffic): (&NodeId, &Traffic)| json!({"node": neighbour.to_string(), "requests": traffic.requests, "bytes": traffic.bytes});
    json!({
        "active_queries": load.active_queries,
        "waiting_queries": load.waiting_queries,
        "computing_pieces": load.computing_pieces,
        "waiting_pieces": load.waiting_pieces,
        "peer_requests_in_flight": load.peer_requests_in_flight,
        "traffic": load.traffic.iter().map(traffic).collect::<Value>(),
    })
}

/// Days with files, their rows, and a hash over their versions: nodes that hold the same have the same.
fn held(said: &NodeInventory) -> Value {
    let days = || said.days.iter().filter(|(_, held)| held.statistics.files > 0);
    let versions: Vec<u8> = days()
        .flat_map(|(day, held)| [&day.number().to_be_bytes()[..], &held.version.0[..]].concat())
        .collect();
    json!({
        "days": days().count(),
        "first_day": days().next().map(|(day, _)| day.to_string()),
        "last_day": days().next_back().map(|(day, _)| day.to_string()),
        "rows": days().map(|(_, held)| held.statistics.rows).sum::<u64>(),
        "version": (days().count() > 0).then(|| Digest::of(&versions).to_string()),
    })
}

/// `up`, `suspect`, `down`, or `unknown` before anything was heard of a node; and why.
fn health<'a>(node: &NodeId, marks: &'a BTreeMap<NodeId, Mark>, heard_of: bool) -> (&'static str, &'a str) {
    match marks.get(node) {
        Some(mark) => (mark.health.name(), &mark.why),
        None if heard_of => ("up", ""),
        None => ("unknown", ""),
    }
}

/// Without its days if it is to be brief: they are many, and pages ask twice a second.
fn node(process: &Process, health: &str, why: &str, said: Option<&Arc<NodeInventory>>, brief: bool) -> Value {
    let mut node = json!({
        "id": process.id.to_string(),
        "role": process.role.to_string(),
        "team": process.team,
        "address": process.address(),
        "health": health,
        "why": why,
        "ready": said.map(|said| said.ready),
        "draining": said.map(|said| said.draining),
        "incarnation": said.map(|said| said.incarnation.to_string()),
        "files": said.map(|said| said.files),
        "free_compute_slots": said.map(|said| said.free_compute_slots),
        "unowned_days": said.map(|said| &said.unowned_days),
        "held": said.map(|said| held(said)),
    });
    if brief {
        return node;
    }
    let days = said.into_iter().flat_map(|said| &said.days).map(|(day, held)| {
        json!({
            "day": day.to_string(),
            "version": held.version.to_string(),
            "rows": held.statistics.rows,
            "rejected_rows": held.statistics.rejected_rows,
        })
    });
    node["days"] = days.collect();
    node
}

/// What [`crate::service`] answers to GetMetrics, as JSON, with every gauge.
pub(super) fn metrics(state: &NodeState) -> Value {
    let (gauges, totals) = (state.gauges(), state.metrics.totals());
    let store = state.holder.store();
    let store = store.as_deref();
    let marks = state.relay.directory().marks();
    let neighbour = |id: &NodeId| {
        let (health, why) = health(id, &marks, true);
        json!({"node": id.to_string(), "state": health, "last_error": why})
    };
    let held_bytes = gauges.held_bytes.iter().map(|(by, bytes)| ((*by).to_owned(), json!(bytes)));
    json!({
        "node": state.process.id.to_string(),
        "role": state.process.role.to_string(),
        "team": state.process.team,
        "version": env!("CARGO_PKG_VERSION"),
        // Beyond what a double holds exactly.
        "incarnation": state.incarnation.to_string(),
        "ready": store.is_some(),
        "draining": *state.stop.borrow() != Stop::Running,
        "active_queries": gauges.active_queries,
        "waiting_queries": gauges.waiting_queries,
        "following_queries": gauges.following_queries,
        "max_active": state.overlay.limits.max_active,
        "computing_pieces": gauges.computing_pieces,
        "peer_requests_in_flight": gauges.peer_requests_in_flight,
        "open_streams": gauges.open_streams,
        "open_result_sets": gauges.open_result_sets,
        "held_bytes": held_bytes.collect::<serde_json::Map<_, _>>(),
        "transit_bytes": gauges.transit_bytes,
        "marked_nodes": gauges.marked_nodes,
        "version_conflicts": gauges.version_conflicts,
        "queries_total": totals.queries,
        "rejected_total": totals.rejected,
        "chunks_total": totals.chunks,
        "query_seconds_mean": totals.query_seconds_mean,
        "files": store.map_or(0, |store| store.file_count()),
        "days": store.map_or(0, |store| store.days().count()),
        "rows": gauges.rows_held,
        "rejected_rows": gauges.rejected_rows,
        "neighbours": state.process.neighbours.iter().map(neighbour).collect::<Value>(),
    })
}
