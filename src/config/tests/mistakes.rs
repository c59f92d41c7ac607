//! Each kind of mistake and its message.

use super::*;

#[test]
fn every_mistake_is_reported_at_once() {
    let problems = problems_after(|file| {
        let processes = &mut file["processes"];
        processes["A"]["id"] = json!("Z");
        processes["B"]["role"] = json!("boss");
        processes["B"]["neighbours"] = json!([]);
        processes["C"]["port"] = json!(0);
        processes["C"]["neighbors"] = json!(["B", "X", "C"]);
        processes["D"]["port"] = json!("60054");
        processes["E"]["weight"] = json!(-1);
        processes["F"] = json!(7);
        file["limits"] = json!({"chunk_bytes": 16777216, "max_hops": 2.5, "max_actve": 1});
        file["strategies"] = json!({"forwarding": "random"});
        file["verbose"] = json!(true);
        file["replicas"] = json!(0);
        file["clients"] = json!({"x": 0, "y": "1"});
        file["security"] = json!({"tls": {"ca": "", "key": "k.pem"}, "tokens": 7, "token": "t"});
    });
    let expected = "\
unknown key `verbose`: keys are processes, teams, strategies, limits, cache, replicas, clients, dataset_root, security, $schema (six.json, verbose)
id `Z` differs from its key `A` in processes (six.json, processes.A.id)
unknown key `neighbours`: did you mean `neighbors`? (six.json, processes.B.neighbours)
unknown role `boss`: must be one of leader, team_leader, worker (six.json, processes.B.role)
port 0 out of range: must be between 1 and 65535, both inclusive (six.json, processes.C.port)
port is the text `60054`: must be a whole number between 1 and 65535, both inclusive (six.json, processes.D.port)
weight -1 out of range: must be a number between 0.001 and 1000, both inclusive (six.json, processes.E.weight)
the process is 7: must be an object (six.json, processes.F)
unknown forwarding `random`: must be one of round_robin, parallel, capacity (six.json, strategies.forwarding)
unknown key `max_actve`: did you mean `max_active`? (six.json, limits.max_actve)
chunk_bytes 16777216 out of range: must be between 4096 and 3145728, both inclusive (six.json, limits.chunk_bytes)
max_hops is 2.5: must be a whole number between 1 and 1024, both inclusive (six.json, limits.max_hops)
replicas 0 out of range: must be between 1 and 4294967295, both inclusive (six.json, replicas)
weight 0 out of range: must be a number between 0.001 and 1000, both inclusive (six.json, clients.x)
weight is the text `1`: must be a number between 0.001 and 1000, both inclusive (six.json, clients.y)
unknown key `token`: did you mean `tokens`? (six.json, security.token)
ca is empty: must be the path of a file (six.json, security.tls.ca)
key `certificate` is missing (six.json, security.tls.certificate)
tokens is 7: must be a text (six.json, security.tokens)
unknown neighbour `X`: no process has this id (six.json, processes.C.neighbors[1])
process `C` is its own neighbour (six.json, processes.C.neighbors[2])";
    assert_eq!(problems.join("\n"), expected);
}

#[test]
fn what_only_the_whole_file_can_tell_is_told() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 16] = [
        (
            |file| file["processes"]["C"]["port"] = json!(60052),
            "host 127.0.0.1 and port 60052 are also those of process `B` (six.json, processes.C.port)",
        ),
        (
            |file| file["processes"]["A"]["role"] = json!("worker"),
            "no process has the role leader: exactly one must (six.json, processes)",
        ),
        (
            |file| file["processes"]["C"]["role"] = json!("leader"),
            "2 processes have the role leader (`A`, `C`): exactly one must (six.json, processes)",
        ),
        (
            |file| file["processes"]["C"]["team"] = json!("blue"),
            "unknown team `blue` (teams: green, pink); without the key `teams` the teams are green and pink (six.json, processes.C.team)",
        ),
        (
            |file| file["processes"]["E"]["role"] = json!("worker"),
            "team `pink` has no team_leader among its 3 members; without the key `teams` the teams are green and pink (six.json, teams)",
        ),
        (
            |file| {
                file["teams"] = json!([
                    {"name": "green", "first_day": 20200810, "last_day": 20200820},
                    {"name": "pink", "first_day": 20200821, "last_day": 20200924},
                    {"name": "blue", "first_day": 20201001, "last_day": 20201001},
                ]);
            },
            "team `blue` has no member: it needs a team_leader (six.json, teams[2])",
        ),
        (
            |file| {
                file["teams"] = json!([
                    {"name": "green", "first_day": 20200810, "last_day": 20200822},
                    {"name": "pink", "first_day": 20200822, "last_day": 20200924},
                ]);
            },
            "team `pink` (20200822-20200924) overlaps team `green` (20200810-20200822): a day belongs to one team (six.json, teams[1])",
        ),
        (
            |file| {
                file["teams"] = json!([
                    {"name": "green", "first_day": 20200820, "last_day": 20200810},
                    {"name": "pink", "first_day": 20200821, "last_day": 20200924},
                ]);
            },
            "first_day 20200820 is after last_day 20200810 (six.json, teams[0].first_day)",
        ),
        (
            |file| {
                file["teams"] = json!([
                    {"name": "green", "first_day": 20200830, "last_day": 20200931},
                    {"name": "pink", "first_day": 20200821, "last_day": 20200824},
                ]);
            },
            "last_day `20200931` is not a day: expected an existing date written YYYYMMDD, such as 20200810 (six.json, teams[0].last_day)",
        ),
        (
            |file| {
                file["teams"] = json!([
                    {"name": "green", "first_day": "00010101", "last_day": "99991231"},
                    {"name": "green", "first_day": 20200821, "last_day": 20200824},
                    {"name": "pink", "first_day": 20200825, "last_day": 20200826},
                ]);
            },
            "two teams are named `green` (six.json, teams[1].name)",
        ),
        (
            |file| file["replicas"] = json!(3),
            "3 replicas exceed the 2 members of team `green` (six.json, replicas)",
        ),
        (
            |file| {
                file["processes"]["B"]["neighbors"] = json!(["A", "D"]);
                file["processes"]["C"]["neighbors"] = json!([]);
            },
            "no path leads from the leader `A` to process `C` (six.json, processes.C.neighbors)",
        ),
        (
            |file| file["limits"] = json!({"max_hops": 1}),
            "process `C` is 2 edges from the leader `A`, limit 1 (limits.max_hops) (six.json, processes.C.neighbors)",
        ),
        (
            |file| file["limits"] = json!({"result_max_age_ms": 1000}),
            "result_ttl_ms 300000 exceeds result_max_age_ms 1000 (six.json, limits.result_ttl_ms)",
        ),
        (
            |file| file["processes"]["C"]["host"] = json!("my host"),
            "host `my host` is neither an IP address nor a host name (six.json, processes.C.host)",
        ),
        (
            |file| file["teams"] = json!([]),
            "no team owns any day: an overlay needs at least one team (six.json, teams)",
        ),
    ];
    for (change, expected) in cases {
        let problems = problems_after(change);
        assert_eq!(problems.first().map(String::as_str), Some(expected), "{problems:#?}");
    }
}

#[test]
fn a_missing_value_is_reported_once() {
    assert_eq!(
        lines(Overlay::parse("{}", "empty.json")),
        ["key `processes` is missing (empty.json, processes)"]
    );
    let problems = problems_after(|file| {
        file["processes"]["E"].as_object_mut().unwrap().remove("role");
    });
    assert_eq!(problems, ["key `role` is missing (six.json, processes.E.role)"]);
}

#[test]
fn teams_own_a_bounded_number_of_days() {
    let problems = problems_after(|file| {
        file["teams"] = json!([
            {"name": "green", "first_day": "00010101", "last_day": "20200820"},
            {"name": "pink", "first_day": 20200821, "last_day": "99991231"},
        ]);
    });
    assert_eq!(problems, ["teams own more than 40000 days together (six.json, teams)"]);
}

#[test]
fn malformed_json_names_line_and_column() {
    let problems = lines(Overlay::parse("{\n  \"processes\": {,}\n}", "bad.json"));
    assert_eq!(problems, ["malformed JSON at line 2, column 17: key must be a string (bad.json)"]);
    let deep = "[".repeat(100_000);
    assert!(
        lines(Overlay::parse(&deep, "deep.json"))[0]
            .starts_with("malformed JSON at line 1, column 128: recursion")
    );
}

#[test]
fn a_key_written_twice_is_a_mistake() {
    let twice =
        SIX_NODES.replacen("\"processes\": {", "\"replicas\": 1, \"replicas\": 2, \"processes\": {", 1);
    assert_eq!(
        lines(Overlay::parse(&twice, "twice.json")),
        ["key `replicas` is written twice (twice.json, replicas)"]
    );
    let twice = SIX_NODES.replacen("\"B\": {\"id\": \"B\"", "\"A\": {\"id\": \"A\"", 1);
    assert_eq!(
        lines(Overlay::parse(&twice, "twice.json"))[0],
        "key `A` is written twice (twice.json, processes.A)"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let problems = lines(Overlay::read(Path::new("configs/absent.json")));
    assert!(problems[0].starts_with("cannot read the configuration: "), "{problems:?}");
    assert!(problems[0].ends_with("(configs/absent.json)"), "{problems:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1.json");
    std::fs::write(&path, [b'"', 0xE4, b'"']).unwrap();
    assert!(lines(Overlay::read(&path))[0].starts_with("configuration is not UTF-8: "));
}
