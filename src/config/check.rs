//! Draft to overlay: what only the whole file can tell.
//!
//! A check that rests on a value that could not be read is left out: its problem is already noted.

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{Draft, DraftProcess, DraftTeam};
use super::reader::Reader;
use super::{MAX_OWNED_DAYS, NodeId, Overlay, Process, Role, Team, distances};
use crate::day::{Day, DayRange};
use crate::error::shown;

/// The overlay that a draft describes, unless something is missing. Whether it may be used, the reader's
/// problems say.
pub(super) fn check(draft: Draft, reader: &mut Reader) -> Option<Overlay> {
    let default_teams = draft.teams.is_none();
    let drafts = draft.teams.unwrap_or_else(default_draft_teams);
    let teams = teams(&drafts, reader);
    cross_limits(&draft.limits, reader);
    let processes = draft.processes?;
    members(&processes, &drafts, default_teams, draft.replicas, reader);
    addresses(&processes, reader);
    let leader = leader(&processes, reader);
    let edges = edges(&processes, reader);
    let processes = processes.into_iter().map(|process| finished(process, edges.as_ref()?));
    let mut overlay = Overlay {
        processes: processes.collect::<Option<_>>()?,
        teams: teams?,
        strategies: draft.strategies,
        limits: draft.limits,
        cache: draft.cache,
        replicas: draft.replicas,
        clients: draft.clients,
        dataset_root: draft.dataset_root,
        security: draft.security,
        leader: leader?,
        distances: BTreeMap::new(),
    };
    overlay.distances = distances(&overlay.processes, &overlay.leader);
    reach(&overlay, reader);
    Some(overlay)
}

/// The teams of the system that this replaces.
fn default_draft_teams() -> Vec<DraftTeam> {
    let team = |name: &str, first: u64, last: u64| DraftTeam {
        name: Some(name.to_owned()),
        days: Day::from_number(first)
            .ok()
            .zip(Day::from_number(last).ok())
            .map(|(first, last)| DayRange::inclusive(first, last)),
        weight: 1.0,
    };
    vec![team("green", 20200810, 20200820), team("pink", 20200821, 20200924)]
}

/// The teams by their first day.
fn teams(drafts: &[DraftTeam], reader: &mut Reader) -> Option<Vec<Team>> {
    let mut names = BTreeSet::new();
    let mut ranges: Vec<(DayRange, &str, usize)> = Vec::new();
    for (index, draft) in drafts.iter().enumerate() {
        let name = draft.name.as_deref();
        if let Some(name) = name
            && !names.insert(name)
        {
            reader.problem(format!("teams[{index}].name"), format!("two teams are named `{}`", shown(name)));
        }
        ranges.extend(draft.days.map(|days| (days, name.unwrap_or("?"), index)));
    }
    ranges.sort_by_key(|(days, _, index)| (days.start, *index));
    // The range that reaches farthest so far: an earlier, longer one may cover several later ones.
    let mut farthest: Option<(DayRange, &str)> = None;
    for (days, name, index) in &ranges {
        if let Some((other, other_name)) = farthest
            && days.start < other.end
        {
            reader.problem(
                format!("teams[{index}]"),
                format!(
                    "team `{}` ({}) overlaps team `{}` ({}): a day belongs to one team",
                    shown(name),
                    written(days),
                    shown(other_name),
                    written(&other)
                ),
            );
        }
        if farthest.is_none_or(|(other, _)| days.end > other.end) {
            farthest = Some((*days, name));
        }
    }
    let owned: usize = ranges.iter().map(|(days, ..)| day_count(days)).sum();
    if owned > MAX_OWNED_DAYS {
        reader.problem("teams", format!("teams own more than {MAX_OWNED_DAYS} days together"));
    }
    ranges
        .iter()
        .map(|(days, _, index)| {
            let draft = &drafts[*index];
            Some(Team { name: draft.name.clone()?, days: *days, weight: draft.weight })
        })
        .collect()
}

fn written(days: &DayRange) -> String {
    match days.last() {
        Some(last) => format!("{}-{last}", days.start),
        None => "no day".to_owned(),
    }
}

/// Days in a range, counted no further than what is too many: it may span ten thousand years.
fn day_count(days: &DayRange) -> usize {
    days.days().take(MAX_OWNED_DAYS + 1).count()
}

/// Each process has a known team, each team a member, a leader and members enough for the replicas.
fn members(
    processes: &[DraftProcess],
    teams: &[DraftTeam],
    default_teams: bool,
    replicas: Option<u32>,
    reader: &mut Reader,
) {
    let Some(names) = teams.iter().map(|team| team.name.as_deref()).collect::<Option<Vec<_>>>() else {
        return;
    };
    if names.is_empty() {
        let what = "no team owns any day: an overlay needs at least one team";
        return reader.problem("teams", what);
    }
    let without = if default_teams { "; without the key `teams` the teams are green and pink" } else { "" };
    for process in processes {
        if let Some(team) = process.team.as_deref()
            && !names.contains(&team)
        {
            let listed: Vec<String> = names.iter().map(|name| shown(name)).collect();
            reader.problem(
                format!("processes.{}.team", shown(&process.id)),
                format!("unknown team `{}` (teams: {}){without}", shown(team), listed.join(", ")),
            );
        }
    }
    if processes.iter().any(|process| process.role.is_none() || process.team.is_none()) {
        return;
    }
    for (index, name) in names.iter().enumerate() {
        let key = if default_teams { "teams".to_owned() } else { format!("teams[{index}]") };
        let roles: Vec<Option<Role>> = processes
            .iter()
            .filter(|process| process.team.as_deref() == Some(name) && process.role != Some(Role::Leader))
            .map(|process| process.role)
            .collect();
        let (name, count) = (shown(name), roles.len());
        if roles.is_empty() {
            reader.problem(key, format!("team `{name}` has no member: it needs a team_leader{without}"));
            continue;
        }
        if !roles.contains(&Some(Role::TeamLeader)) {
            reader
                .problem(key, format!("team `{name}` has no team_leader among its {count} members{without}"));
        }
        if let Some(replicas) = replicas
            && replicas as usize > count
        {
            reader.problem(
                "replicas",
                format!("{replicas} replicas exceed the {count} members of team `{name}`"),
            );
        }
    }
}

fn addresses(processes: &[DraftProcess], reader: &mut Reader) {
    let mut seen: BTreeMap<(String, u16), &str> = BTreeMap::new();
    for process in processes {
        let (Some(host), Some(port)) = (&process.host, process.port) else {
            continue;
        };
        let host = host.to_ascii_lowercase();
        if let Some(other) = seen.insert((host.clone(), port), &process.id) {
            reader.problem(
                format!("processes.{}.port", shown(&process.id)),
                format!("host {host} and port {port} are also those of process `{}`", shown(other)),
            );
        }
    }
}

fn cross_limits(limits: &super::Limits, reader: &mut Reader) {
    let (ttl, age) = (limits.result_ttl_ms, limits.result_max_age_ms);
    if ttl > age {
        reader
            .problem("limits.result_ttl_ms", format!("result_ttl_ms {ttl} exceeds result_max_age_ms {age}"));
    }
    let (filter, message) = (limits.filter_bytes, limits.message_bytes);
    if filter > message {
        reader
            .problem("limits.filter_bytes", format!("filter_bytes {filter} exceeds message_bytes {message}"));
    }
}

/// The id of the one leader.
fn leader(processes: &[DraftProcess], reader: &mut Reader) -> Option<NodeId> {
    let all_read = processes.iter().all(|process| process.role.is_some());
    let leaders: Vec<&DraftProcess> =
        processes.iter().filter(|process| process.role == Some(Role::Leader)).collect();
    match leaders.as_slice() {
        [leader] => return Some(NodeId::from(leader.id.as_str())),
        // One whose role could not be read may be it.
        [] if !all_read => {}
        [] => reader.problem("processes", "no process has the role leader: exactly one must"),
        several => {
            let ids: Vec<String> =
                several.iter().map(|process| format!("`{}`", shown(&process.id))).collect();
            reader.problem(
                "processes",
                format!(
                    "{} processes have the role leader ({}): exactly one must",
                    several.len(),
                    ids.join(", ")
                ),
            );
        }
    }
    None
}

/// The neighbours of every process, each edge on both sides.
fn edges(processes: &[DraftProcess], reader: &mut Reader) -> Option<BTreeMap<String, BTreeSet<NodeId>>> {
    let ids: BTreeSet<&str> = processes.iter().map(|process| process.id.as_str()).collect();
    let listed: BTreeSet<(&str, &str)> = processes
        .iter()
        .flat_map(|process| {
            process.neighbours.iter().flatten().map(|(_, id)| (process.id.as_str(), id.as_str()))
        })
        .collect();
    let mut complete = true;
    let mut edges: BTreeMap<String, BTreeSet<NodeId>> = BTreeMap::new();
    for process in processes {
        complete &= process.neighbours.is_some();
        for (index, neighbour) in process.neighbours.iter().flatten() {
            let key = format!("processes.{}.neighbors[{index}]", shown(&process.id));
            let (here, there) = (shown(&process.id), shown(neighbour));
            if *neighbour == process.id {
                reader.problem(key, format!("process `{here}` is its own neighbour"));
                complete = false;
            } else if !ids.contains(neighbour.as_str()) {
                reader.problem(key, format!("unknown neighbour `{there}`: no process has this id"));
                complete = false;
            } else {
                if !listed.contains(&(neighbour, &process.id)) {
                    reader.warn(
                        key,
                        format!(
                            "edge between `{here}` and `{there}` is listed by `{here}` only: taken for both"
                        ),
                    );
                }
                edges.entry(process.id.clone()).or_default().insert(NodeId::from(neighbour.as_str()));
                edges.entry(neighbour.clone()).or_default().insert(NodeId::from(process.id.as_str()));
            }
        }
    }
    complete.then_some(edges)
}

fn finished(draft: DraftProcess, edges: &BTreeMap<String, BTreeSet<NodeId>>) -> Option<(NodeId, Process)> {
    let id = NodeId::from(draft.id.as_str());
    let process = Process {
        id: id.clone(),
        role: draft.role?,
        team: draft.team?,
        host: draft.host?,
        port: draft.port?,
        neighbours: edges.get(&draft.id).cloned().unwrap_or_default(),
        weight: draft.weight,
    };
    Some((id, process))
}

/// Every process can be reached from the leader, within the hops that a request may take.
fn reach(overlay: &Overlay, reader: &mut Reader) {
    for id in overlay.processes.keys() {
        let key = format!("processes.{}.neighbors", shown(id));
        let leader = shown(&overlay.leader);
        match overlay.distance_from_leader(id) {
            None => reader
                .problem(key, format!("no path leads from the leader `{leader}` to process `{}`", shown(id))),
            Some(distance) if distance as usize > overlay.limits.max_hops => reader.problem(
                key,
                format!(
                    "process `{}` is {distance} edges from the leader `{leader}`, limit {} (limits.max_hops)",
                    shown(id),
                    overlay.limits.max_hops
                ),
            ),
            Some(_) => {}
        }
    }
}
