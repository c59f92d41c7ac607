//! Files that are right: what they load as, and that they write back.

mod any;
mod mistakes;

use serde_json::{Value, json};

use super::*;

const SIX_NODES: &str = include_str!("../../configs/one_host_config.json");

fn six_nodes() -> Value {
    serde_json::from_str(SIX_NODES).unwrap()
}

fn parse(file: &Value) -> Result<Parsed, Problems> {
    Overlay::parse(&file.to_string(), "six.json")
}

/// What the parser says about the six nodes after a change, a line for each problem.
fn problems_after(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut file = six_nodes();
    change(&mut file);
    lines(parse(&file))
}

fn lines(parsed: Result<Parsed, Problems>) -> Vec<String> {
    parsed.expect_err("a problem").to_string().lines().map(str::to_owned).collect()
}

/// The warnings about the six nodes after a change, and the overlay.
fn parsed_after(change: impl FnOnce(&mut Value)) -> (Overlay, Vec<String>) {
    let mut file = six_nodes();
    change(&mut file);
    let Parsed { overlay, warnings } = parse(&file).unwrap();
    (overlay, warnings.iter().map(Problem::to_string).collect())
}

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

#[test]
fn every_checked_in_file_loads_without_a_warning() {
    let mut files: Vec<_> =
        std::fs::read_dir("configs").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["one_host_config.json", "two_hosts_config.json"]);
    for path in files {
        let Parsed { overlay, warnings } = Overlay::read(&path).unwrap();
        assert_eq!(warnings, []);
        let edges: Vec<String> = overlay
            .processes
            .values()
            .flat_map(|process| process.neighbours.iter().map(move |id| (&process.id, id)))
            .filter(|(here, there)| here < there)
            .map(|(here, there)| format!("{here}-{there}"))
            .collect();
        assert_eq!(edges, ["A-B", "A-E", "B-C", "B-D", "D-E", "E-F"]);
        assert_eq!(overlay.strategies, Profile::Baseline.strategies(500));
    }
}

#[test]
fn the_two_host_file_has_the_documented_addresses() {
    let overlay = Overlay::read(Path::new("configs/two_hosts_config.json")).unwrap().overlay;
    let addresses: Vec<String> = overlay.processes.values().map(Process::address).collect();
    assert_eq!(
        addresses,
        [
            "192.168.1.2:60051",
            "192.168.1.2:60052",
            "192.168.1.1:60053",
            "192.168.1.2:60054",
            "192.168.1.1:60055",
            "192.168.1.1:60056",
        ]
    );
}

#[test]
fn places_follow_from_roles_and_distance() {
    let overlay = Overlay::parse(SIX_NODES, "six").unwrap().overlay;
    let members = |team| overlay.members(team).map(|member| member.id.as_str()).collect::<Vec<_>>();
    assert_eq!(overlay.leader().id, "A");
    assert_eq!((members("green"), members("pink")), (vec!["B", "C"], vec!["D", "E", "F"]));
    assert_eq!(overlay.team_leader("pink").unwrap().id, "E");
    assert_eq!(overlay.distance_from_leader("D"), Some(2));
    assert_eq!(overlay.team_of_day(day("20200820")).unwrap().name, "green");
    assert_eq!(overlay.team_of_day(day("20200821")).unwrap().name, "pink");
    assert_eq!(overlay.team_of_day(day("20200925")), None);
}

#[test]
fn the_nearest_team_leader_leads_its_team() {
    let (overlay, _) = parsed_after(|file| file["processes"]["D"]["role"] = json!("team_leader"));
    assert_eq!(overlay.team_leader("pink").unwrap().id, "E");
}

#[test]
fn an_overlay_reads_back_from_what_it_writes() {
    let (overlay, _) = parsed_after(|file| {
        file["teams"] = json!([
            {"name": "pink", "first_day": 20200821, "last_day": "20200924", "weight": 2.5},
            {"name": "green", "first_day": "20200810", "last_day": 20200820},
        ]);
        file["strategies"] = json!({"profile": "balanced", "forwarding": "parallel"});
        file["limits"] = json!({"chunk_bytes": 4096, "compute_slots": 3});
        file["cache"] = json!({"selection_bytes": 0});
        file["replicas"] = json!(2);
        file["clients"] = json!({"analyst": 3, "": 0.5});
        file["dataset_root"] = json!("data/2020");
        file["processes"]["C"]["weight"] = json!(0.25);
        file["processes"]["C"]["host"] = json!("[::1]");
    });
    assert_eq!(overlay.strategies.forwarding, Forwarding::Parallel);
    assert_eq!(overlay.strategies.chunking, Chunking::QueryBased);
    assert_eq!((overlay.limits.chunk_bytes, overlay.limits.compute_slots), (4096, Some(3)));
    assert_eq!(overlay.process("C").unwrap().address(), "[::1]:60053");
    assert_eq!(overlay.teams[0].name, "green");
    assert_eq!(parse(&overlay.to_json()).unwrap(), Parsed { overlay, warnings: vec![] });
}

#[test]
fn an_edge_of_one_side_is_taken_for_both_with_a_warning() {
    let (overlay, warnings) = parsed_after(|file| {
        file["processes"]["C"]["neighbors"] = json!([]);
        file["processes"]["A"]["neighbors"] = json!(["B", "E", "B"]);
    });
    assert_eq!(
        warnings,
        [
            "neighbour `B` is listed twice (six.json, processes.A.neighbors[2])",
            "edge between `B` and `C` is listed by `B` only: taken for both (six.json, processes.B.neighbors[1])",
        ]
    );
    assert!(overlay.process("C").unwrap().neighbours.contains("B"));
}

#[test]
fn every_limit_holds_its_default_and_both_its_bounds() {
    let defaults = serde_json::to_value((Limits::default(), CacheLimits::default())).unwrap();
    for (group, section, bounds) in [(0, "limits", Limits::BOUNDS), (1, "cache", CacheLimits::BOUNDS)] {
        for bound in bounds {
            if let Some(default) = defaults[group][bound.key].as_u64() {
                assert!((bound.least..=bound.most).contains(&default), "{}", bound.key);
            }
            for (value, allowed) in [
                (Some(bound.least), true),
                (Some(bound.most), true),
                (Some(bound.most + 1), false),
                (bound.least.checked_sub(1), false),
            ] {
                let Some(value) = value else { continue };
                let mut file = six_nodes();
                file[section] = json!({ bound.key: value });
                // Some bounds make sense only together with another limit.
                let parsed = parse(&file);
                let out_of_range = match &parsed {
                    Ok(parsed) => {
                        assert_eq!(parsed.overlay.to_json()[section][bound.key], value, "{}", bound.key);
                        false
                    }
                    Err(problems) => problems.to_string().contains("out of range"),
                };
                assert_eq!(!out_of_range, allowed, "{} {value}: {parsed:?}", bound.key);
            }
        }
    }
}

#[test]
fn the_schema_and_the_parser_know_the_same_keys() {
    let schema = json_schema();
    let keys = |properties: &Value| -> BTreeSet<String> {
        properties["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let known = |keys: &[&str]| -> BTreeSet<String> { keys.iter().map(|key| key.to_string()).collect() };
    let bounds = |bounds: &[limits::Bound]| -> BTreeSet<String> {
        bounds.iter().map(|bound| bound.key.to_owned()).collect()
    };
    let definitions = &schema["$defs"];
    assert_eq!(keys(&schema), known(parse::FILE_KEYS));
    assert_eq!(keys(&definitions["Process"]), known(parse::PROCESS_KEYS));
    assert_eq!(keys(&definitions["Team"]), known(parse::TEAM_KEYS));
    assert_eq!(keys(&definitions["Strategies"]), known(parse::STRATEGY_KEYS));
    assert_eq!(keys(&definitions["Limits"]), bounds(Limits::BOUNDS));
    assert_eq!(keys(&definitions["CacheLimits"]), bounds(CacheLimits::BOUNDS));
    assert_eq!(schema["required"], json!(["processes"]));
    assert_eq!(
        definitions["Process"]["required"],
        json!(["id", "role", "team", "host", "port", "neighbors"])
    );
    let chunk_bytes = &definitions["Limits"]["properties"]["chunk_bytes"];
    assert_eq!(
        (&chunk_bytes["default"], &chunk_bytes["minimum"], &chunk_bytes["maximum"]),
        (&json!(1048576), &json!(4096), &json!(3145728))
    );
    assert!(
        chunk_bytes["description"].as_str().unwrap().ends_with("From 4096 to 3_145_728."),
        "{chunk_bytes}"
    );
}
