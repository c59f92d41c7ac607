//! Configuration: a file that is right loads and comes back from what it is written as; one that is wrong gives all its
//! mistakes at once, each with file and key, and nothing else; no bytes make the reader panic.
//!
//! The node's own tests try arbitrary text and JSON on the parser. Here the files are right, or wrong in known places.

use std::collections::{BTreeMap, BTreeSet};

use overlay::config::{Chunking, Fairness, Forwarding, Overlay, Profile, json_schema};
use overlay_harness::for_all::for_all;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

const FILE: &str = "planted.json";

/// Least and largest value of each key of a section, as the schema that users see has them.
fn bounds(section: &str) -> BTreeMap<String, (u64, u64)> {
    let schema = json_schema();
    let properties = schema["$defs"][section]["properties"].as_object().unwrap().clone();
    let bound = |value: &Value, end: &str| value[end].as_u64().unwrap();
    properties.iter().map(|(key, it)| (key.clone(), (bound(it, "minimum"), bound(it, "maximum")))).collect()
}

/// Some keys of a section, each with a value inside its bounds, often at their ends.
fn section(name: &'static str) -> impl Strategy<Value = Value> {
    let bounds: Vec<(String, (u64, u64))> = bounds(name).into_iter().collect();
    let place = (select(bounds), prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64]);
    vec(place, 0..6).prop_map(|places| {
        let value = |((key, (least, most)), at): ((String, (u64, u64)), f64)| {
            (key, json!(least + ((most - least) as f64 * at) as u64))
        };
        let mut section: Map<String, Value> = places.into_iter().map(value).collect();
        // What one key allows may depend on another one: those are planted mistakes' business.
        for key in ["result_ttl_ms", "result_max_age_ms", "filter_bytes", "message_bytes", "max_hops"] {
            section.remove(key);
        }
        Value::Object(section)
    })
}

fn weight() -> impl Strategy<Value = f64> {
    prop_oneof![select(vec![0.001, 1.0, 1000.0]), 0.001..1000.0f64]
}

fn strategies() -> impl Strategy<Value = Value> {
    fn word<T: Copy + std::fmt::Debug + 'static>(
        words: &'static [T],
        name: fn(T) -> &'static str,
    ) -> impl Strategy<Value = Option<&'static str>> {
        prop::option::of(select(words).prop_map(name))
    }
    let parts = (
        word(Profile::ALL, Profile::name),
        word(Forwarding::ALL, Forwarding::name),
        word(Chunking::ALL, Chunking::name),
        word(Fairness::ALL, Fairness::name),
        prop::option::of(1..=1_000_000u32),
    );
    parts.prop_map(|(profile, forwarding, chunking, fairness, chunk_size)| {
        let words = [
            ("profile", profile),
            ("forwarding", forwarding),
            ("chunking", chunking),
            ("fairness", fairness),
        ];
        let words = words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), json!(word?))));
        let chunk_size = chunk_size.map(|rows| ("chunk_size".to_owned(), json!(rows)));
        Value::Object(words.chain(chunk_size).collect())
    })
}

/// A member's weight, and whether it lists the edge to its team's leader itself.
type MemberSpec = (Option<f64>, bool);

/// The leader over the teams' leaders, each over its members; ranges with and without gaps.
fn topology() -> impl Strategy<Value = (Map<String, Value>, Vec<Value>)> {
    let team = (
        vec((prop::option::of(weight()), any::<bool>()), 1..4),
        0..3u32,
        1..4u32,
        prop::option::of(weight()),
    );
    (vec(team, 1..4), select(vec!["127.0.0.1", "::1", "[::1]", "node.example"])).prop_map(|(specs, host)| {
        let mut processes = Map::new();
        let mut teams = Vec::new();
        let mut next_day = 20200801;
        let leaders: Vec<String> = (0..specs.len()).map(|index| format!("é{index}.0")).collect();
        let mut add = |id: &str, role: &str, team: usize, neighbours: Vec<String>, weight: Option<f64>| {
            let mut process = json!({
                "id": id, "role": role, "team": format!("team{team}"), "host": host,
                "port": 1 + processes.len(), "neighbors": neighbours,
            });
            if let Some(weight) = weight {
                process["weight"] = json!(weight);
            }
            processes.insert(id.to_owned(), process);
        };
        add("leader", "leader", 0, leaders.clone(), None);
        for (index, (members, gap, days, team_weight)) in specs.into_iter().enumerate() {
            let id = |member: usize| format!("é{index}.{member}");
            let listed = |(member, _): &(usize, &MemberSpec)| id(*member);
            let rest = members.iter().enumerate().skip(1);
            let below: Vec<String> = rest.clone().map(|it| listed(&it)).collect();
            let around: Vec<String> = ["leader".to_owned()].into_iter().chain(below).collect();
            add(&id(0), "team_leader", index, around, members[0].0);
            for (member, (weight, lists)) in rest {
                let neighbours = if *lists { vec![id(0)] } else { vec![] };
                add(&id(member), "worker", index, neighbours, *weight);
            }
            let (first, last) = (next_day + gap, next_day + gap + days - 1);
            next_day = last + 1;
            let mut team =
                json!({"name": format!("team{index}"), "first_day": first, "last_day": last.to_string()});
            if let Some(weight) = team_weight {
                team["weight"] = json!(weight);
            }
            teams.push(team);
        }
        teams.reverse();
        (processes, teams)
    })
}

/// A file that is right, with any of the optional parts.
fn right_file() -> impl Strategy<Value = Value> {
    let clients = btree_map("[a-z.]{0,8}", weight(), 0..4);
    let optional = (
        prop::option::of(strategies()),
        prop::option::of(section("Limits")),
        prop::option::of(section("CacheLimits")),
        prop::option::of(Just(1)),
        prop::option::of(clients),
        prop::option::of("[a-zé/. ]{1,12}"),
    );
    (topology(), optional).prop_map(|((processes, teams), optional)| {
        let (strategies, limits, cache, replicas, clients, dataset_root) = optional;
        let mut file = json!({"processes": processes, "teams": teams});
        let parts = [
            ("strategies", strategies),
            ("limits", limits),
            ("cache", cache),
            ("replicas", replicas.map(|count| json!(count))),
            ("clients", clients.map(|clients| json!(clients))),
            ("dataset_root", dataset_root.map(|root| json!(root))),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                file[key] = value;
            }
        }
        file
    })
}

#[test]
fn right_file_loads_and_comes_back_from_what_it_is_written_as() {
    for_all(300, right_file(), |file| {
        let overlay = Overlay::parse(&file.to_string(), FILE)
            .map_err(|problems| TestCaseError::fail(format!("a right file is refused: {problems}")))?;
        let written = overlay.overlay.to_json();
        let again = Overlay::parse(&written.to_string(), FILE).unwrap();
        prop_assert_eq!(&again.overlay, &overlay.overlay);
        prop_assert_eq!(again.warnings, vec![], "what is written is not odd");
        prop_assert_eq!(&again.overlay.to_json(), &written);
        // What the file says is what is written; defaults are added to it.
        for section in ["limits", "cache", "clients", "replicas", "dataset_root"] {
            if let Some(said) = file.get(section) {
                prop_assert!(
                    contains(&written[section], said),
                    "{}: {} in {}",
                    section,
                    said,
                    written[section]
                );
            }
        }
        Ok(())
    });
}

/// Whether every value of `part` stands at its place in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match part {
        Value::Object(part) => part.iter().all(|(key, value)| contains(&whole[key], value)),
        Value::Number(_) => whole.as_f64() == part.as_f64(),
        _ => whole == part,
    }
}

/// One place of a file, and what is wrong there.
#[derive(Clone, Debug)]
enum Mistake {
    /// A process's field has a value that it cannot have; 0 is the first value of [`wrong_fields`] for it.
    Field {
        process: Index,
        field: Index,
        value: Index,
    },
    MissingField {
        process: Index,
        field: Index,
    },
    UnknownNeighbour {
        process: Index,
    },
    OwnNeighbour {
        process: Index,
    },
    TeamField {
        team: Index,
        field: Index,
        value: Index,
    },
    UnknownKey {
        section: Index,
    },
    /// A limit one beyond an end of its bounds, or no number.
    Limit {
        key: Index,
        value: Index,
    },
    Cache {
        key: Index,
        value: Index,
    },
    Strategy {
        field: Index,
    },
    Client(Index),
    TopLevel {
        field: Index,
    },
}

fn mistake() -> impl Strategy<Value = Mistake> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), at(), at()).prop_map(|(process, field, value)| Mistake::Field { process, field, value }),
        1 => (at(), at()).prop_map(|(process, field)| Mistake::MissingField { process, field }),
        1 => at().prop_map(|process| Mistake::UnknownNeighbour { process }),
        1 => at().prop_map(|process| Mistake::OwnNeighbour { process }),
        2 => (at(), at(), at()).prop_map(|(team, field, value)| Mistake::TeamField { team, field, value }),
        2 => at().prop_map(|section| Mistake::UnknownKey { section }),
        2 => (at(), at()).prop_map(|(key, value)| Mistake::Limit { key, value }),
        1 => (at(), at()).prop_map(|(key, value)| Mistake::Cache { key, value }),
        1 => at().prop_map(|field| Mistake::Strategy { field }),
        1 => at().prop_map(Mistake::Client),
        1 => at().prop_map(|field| Mistake::TopLevel { field }),
    ]
}

/// Values that a process's field cannot have.
fn wrong_fields() -> Vec<(&'static str, Vec<Value>)> {
    let no_text = || vec![json!(7), json!(null), json!(["B"])];
    let no_name = || [no_text(), vec![json!(""), json!("a b"), json!("x".repeat(65))]].concat();
    vec![
        ("id", [no_text(), vec![json!("another")]].concat()),
        ("role", [no_text(), vec![json!("boss"), json!("Leader")]].concat()),
        ("team", no_name()),
        ("host", [no_text(), vec![json!(""), json!("my host"), json!("[::1"), json!("a/b")]].concat()),
        ("port", vec![json!(0), json!(65_536), json!("60051"), json!(1.5), json!(-1)]),
        ("neighbors", vec![json!("B"), json!(null), json!({"B": 1})]),
        ("weight", vec![json!(0), json!(-1), json!(1000.5), json!("1"), json!(1e300)]),
    ]
}

fn wrong_team_fields() -> Vec<(&'static str, Vec<Value>)> {
    let no_day = || vec![json!(20200931), json!("2020-08-10"), json!(null), json!(-20200810), json!(1.5)];
    vec![
        ("name", vec![json!(7), json!(""), json!("a b")]),
        ("first_day", [no_day(), vec![json!("99991231")]].concat()),
        ("last_day", no_day()),
        ("weight", vec![json!(0), json!("heavy"), json!(null)]),
    ]
}

fn no_whole_number((least, most): (u64, u64), value: Index) -> Value {
    let below = least.checked_sub(1).map(|value| json!(value));
    let values = [
        Some(json!(most + 1)),
        below,
        Some(json!(0.5)),
        Some(json!(-1)),
        Some(json!("7")),
        Some(json!(null)),
    ];
    let values: Vec<Value> = values.into_iter().flatten().collect();
    value.get(&values).clone()
}

/// Plants a mistake and gives the key that must be named; `None` if another mistake stands there already.
fn plant(file: &mut Value, mistake: &Mistake, planted: &BTreeSet<String>) -> Option<String> {
    let ids: Vec<String> = file["processes"].as_object()?.keys().cloned().collect();
    let teams = file["teams"].as_array()?.len();
    let free = |key: String| (!planted.contains(&key)).then_some(key);
    match mistake {
        Mistake::Field { process, field, value } => {
            let (id, fields) = (process.get(&ids), wrong_fields());
            let (field, values) = field.get(&fields);
            let key = free(format!("processes.{id}.{field}"))?;
            // The place of an edge is named by its list.
            free(format!("{key}[0]"))?;
            file["processes"][id][*field] = value.get(values).clone();
            Some(key)
        }
        Mistake::MissingField { process, field } => {
            let fields = ["id", "role", "team", "host", "port", "neighbors"];
            let (id, field) = (process.get(&ids), field.get(&fields));
            let key = free(format!("processes.{id}.{field}"))?;
            free(format!("{key}[0]"))?;
            file["processes"][id].as_object_mut()?.remove(*field);
            Some(key)
        }
        Mistake::UnknownNeighbour { process } => {
            neighbour(file, &ids[process.index(ids.len())], "nobody", planted)
        }
        Mistake::OwnNeighbour { process } => {
            let id = &ids[process.index(ids.len())];
            neighbour(file, id, id, planted)
        }
        Mistake::TeamField { team, field, value } => {
            let (index, fields) = (team.index(teams), wrong_team_fields());
            let (field, values) = field.get(&fields);
            let key = free(format!("teams[{index}].{field}"))?;
            let other = if *field == "first_day" { "last_day" } else { "first_day" };
            if field.ends_with("_day") {
                free(format!("teams[{index}].{other}"))?;
            }
            file["teams"][index][*field] = value.get(values).clone();
            Some(key)
        }
        Mistake::UnknownKey { section } => {
            let sections = ["", "limits", "cache", "strategies", "processes.leader", "teams[0]"];
            let section = section.get(&sections);
            let key = if section.is_empty() { "colour".to_owned() } else { format!("{section}.colour") };
            let key = free(key)?;
            let place = match *section {
                "" => file,
                "processes.leader" => &mut file["processes"]["leader"],
                "teams[0]" => &mut file["teams"][0],
                section => &mut file[section],
            };
            place["colour"] = json!("red");
            Some(key)
        }
        Mistake::Limit { key, value } => bounded(file, "limits", "Limits", *key, *value, planted),
        Mistake::Cache { key, value } => bounded(file, "cache", "CacheLimits", *key, *value, planted),
        Mistake::Strategy { field } => {
            let fields = ["profile", "forwarding", "chunking", "fairness", "chunk_size"];
            let field = field.get(&fields);
            let key = free(format!("strategies.{field}"))?;
            file["strategies"][*field] = json!("random");
            Some(key)
        }
        Mistake::Client(weight) => {
            let key = free("clients.zoe".to_owned())?;
            file["clients"]["zoe"] = weight.get(&[json!(0), json!("1"), json!(null)]).clone();
            Some(key)
        }
        Mistake::TopLevel { field } => {
            let fields = [("replicas", json!(0)), ("dataset_root", json!(7)), ("$schema", json!({}))];
            let (field, value) = field.get(&fields);
            let key = free((*field).to_owned())?;
            file[*field] = value.clone();
            Some(key)
        }
    }
}

/// Appends a neighbour that a process cannot have to its list.
fn neighbour(file: &mut Value, id: &str, neighbour: &str, planted: &BTreeSet<String>) -> Option<String> {
    let list = format!("processes.{id}.neighbors");
    if planted.iter().any(|key| key.starts_with(&list)) {
        return None;
    }
    let neighbours = file["processes"][id]["neighbors"].as_array_mut()?;
    neighbours.insert(0, json!(neighbour));
    Some(format!("{list}[0]"))
}

fn bounded(
    file: &mut Value,
    section: &str,
    name: &str,
    key: Index,
    value: Index,
    planted: &BTreeSet<String>,
) -> Option<String> {
    let bounds: Vec<_> = bounds(name).into_iter().collect();
    let (field, bound) = key.get(&bounds);
    let key = format!("{section}.{field}");
    if planted.contains(&key) {
        return None;
    }
    file[section][field] = no_whole_number(*bound, value);
    Some(key)
}

/// Method: plant one to six mistakes at different places of a file that is right. Each is reported under its key, in
/// the file's name, and nothing that is right is blamed.
#[test]
fn every_planted_mistake_is_reported_with_file_and_key() {
    for_all(500, (right_file(), vec(mistake(), 1..7)), |(mut file, mistakes)| {
        let mut planted = BTreeSet::new();
        for mistake in &mistakes {
            let key = plant(&mut file, mistake, &planted);
            planted.extend(key);
        }
        let problems = Overlay::parse(&file.to_string(), FILE).expect_err("mistakes were planted");
        let reported: BTreeSet<String> = problems.0.iter().map(|problem| problem.key.clone()).collect();
        prop_assert_eq!(&reported, &planted, "{}", problems);
        for problem in &problems.0 {
            prop_assert_eq!(&problem.file, FILE);
            let line = format!("{} ({FILE}, {})", problem.what, problem.key);
            prop_assert!(!problem.what.is_empty() && problem.to_string() == line);
        }
        prop_assert_eq!(problems.to_string().lines().count(), problems.0.len(), "a line for each");
        Ok(())
    });
}

/// Whatever bytes a file has, reading it gives an overlay or names the file.
#[test]
fn any_bytes_in_a_file_are_answered() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let path = folder.path().join("any.json");
    let edit = (any::<Index>(), 0..3u8, any::<u8>());
    for_all(300, (right_file(), vec(edit, 0..6)), |(file, edits)| {
        let mut bytes = file.to_string().into_bytes();
        for (place, edit, byte) in edits {
            let place = place.index(bytes.len());
            match edit {
                0 => bytes.truncate(place.max(1)),
                1 => bytes.insert(place, byte),
                _ => bytes[place] = byte,
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Err(problems) = Overlay::read(&path) {
            prop_assert!(!problems.0.is_empty());
            prop_assert!(problems.0.iter().all(|problem| problem.file == path.display().to_string()));
        }
        Ok(())
    });
}
