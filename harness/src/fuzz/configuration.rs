//! The configuration's text.

use std::collections::BTreeSet;

use overlay::config::{MAX_OWNED_DAYS, Overlay, Role};
use overlay::placement::Placement;

use super::{Seed, text_seeds};

/// Days that are placed on holders here: it takes a hash for each day and member.
const PLACED_DAYS: usize = 500;

pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Overlay::parse(text, "fuzz.json") {
        Ok(parsed) => accepted(&parsed.overlay),
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused for no reason");
            for problem in &problems.0 {
                let line = problem.to_string();
                assert!(line.contains("fuzz.json") && !line.contains('\n'), "{line:?}");
            }
        }
    }
}

fn accepted(overlay: &Overlay) {
    let leaders = overlay.processes.values().filter(|process| process.role == Role::Leader).count();
    assert_eq!(leaders, 1);
    for (id, process) in &overlay.processes {
        assert!(overlay.distance_from_leader(id).is_some(), "{id} cannot be reached");
        for neighbour in &process.neighbours {
            assert!(
                overlay.processes[neighbour].neighbours.contains(id),
                "{id} - {neighbour}: one side only"
            );
            assert_ne!(neighbour, id);
        }
    }
    let places: BTreeSet<_> =
        overlay.processes.values().map(|process| (&process.host, process.port)).collect();
    assert_eq!(places.len(), overlay.processes.len(), "two nodes at one address");
    for pair in overlay.teams.windows(2) {
        assert!(pair[0].days.end <= pair[1].days.start, "teams overlap");
    }
    let owned: usize = overlay.teams.iter().map(|team| team.days.days().count()).sum();
    assert!(owned <= MAX_OWNED_DAYS, "{owned} days");
    if owned <= PLACED_DAYS {
        placed(overlay);
    }
    let text = overlay.to_json().to_string();
    let again = Overlay::parse(&text, "again.json").expect("what was accepted is accepted again");
    assert_eq!(again.overlay, *overlay);
}

/// Each day lies on exactly as many different members of its team as are asked for.
fn placed(overlay: &Overlay) {
    let placement = Placement::new(overlay);
    for team in &overlay.teams {
        let members: BTreeSet<_> = overlay.members(&team.name).map(|process| &process.id).collect();
        let replicas = overlay.replicas.map_or(members.len(), |replicas| replicas as usize);
        assert!((1..=members.len()).contains(&replicas), "{replicas} of {} members", members.len());
        for day in team.days.days() {
            let holders: BTreeSet<_> = placement.holders(day).iter().collect();
            assert_eq!(holders.len(), replicas, "day {day}");
            assert!(holders.is_subset(&members), "day {day}");
        }
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    let node = |role: &str, port: u16, neighbour: &str| {
        serde_json::json!({
            "id": if role == "leader" { "A" } else { "B" }, "role": role, "team": "t", "host": "::1", "port": port,
            "neighbors": [neighbour],
        })
    };
    let two = serde_json::json!({
        "processes": {"A": node("leader", 1, "B"), "B": node("worker", 2, "A")},
        "teams": [{"name": "t", "first_day": "20200810", "last_day": 20200811, "weight": 2.5}],
        "strategies": {"profile": "balanced", "chunk_size": 7, "hedging": "p95"},
        "limits": {"max_active": 3, "chunk_bytes": 4096}, "cache": {"result_bytes": 0},
        "replicas": 1, "clients": {"127.0.0.1": 2}, "dataset_root": "data",
    });
    let mut seeds = text_seeds(&[
        ("one_host", include_str!("../../../configs/one_host_config.json")),
        ("two_hosts", include_str!("../../../configs/two_hosts_config.json")),
        ("nothing", "{}"),
        (
            "processes_only",
            "{\"processes\":{\"A\":{\"id\":\"A\",\"role\":\"leader\",\"team\":\"green\",\"host\":\"h\",\"port\":1,\"neighbors\":[]}}}",
        ),
        (
            "unknown_keys",
            "{\"proceses\":1,\"limits\":{\"max_activ\":0},\"teams\":[{}],\"strategies\":{\"profile\":\"fast\"}}",
        ),
    ]);
    seeds.push(("two_nodes", two.to_string().into_bytes()));
    seeds
}
