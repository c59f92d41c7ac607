//! The policy laboratory: runs that were computed by hand, the comparison as a snapshot, and its bytes, which never change.

use std::process::Command;

use overlay_harness::for_all::for_all;
use overlay_harness::policies::{Arrival, Generated, NodeModel, Outcome, Policy, Run, Workload, compare};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

/// One slot that reads a row in a millisecond, in pieces of 100.
const TWO_CLIENTS: &str = r#"{
    "name": "two clients",
    "node": {"max_active": 4, "per_team_limit": 4, "compute_slots": 1, "quantum_rows": 100, "rows_per_ms": 1},
    "arrivals": [
        {"at_ms": 0, "client": "crawler", "rows": {"green": 1000}},
        {"at_ms": 10, "client": "analyst", "rows": {"green": 100}},
        {"at_ms": 20, "client": "crawler", "rows": {"green": 1000}},
        {"at_ms": 30, "client": "analyst", "rows": {"green": 100}}
    ]
}"#;

fn ends(run: &Run) -> Vec<u64> {
    let end = |outcome: &Outcome| match outcome {
        Outcome::Answered { ended_ms, .. } => *ended_ms,
        Outcome::Refused => panic!("nobody is refused"),
    };
    run.queries.iter().map(end).collect()
}

/// The node: from 0 the crawler's first query has a piece, then the analyst's first one (100 to 200, its end), the crawler's
/// first again (200 to 300), since it is the older one, the analyst's second (300 to 400, its end), the crawler's first (400
/// to 500). At the end of a piece the slot goes to whoever waits, and the same query's next piece does not yet: so from now
/// on the crawler's second has every other piece. The first has seven left, from 600 on, and ends at 1900; the second ends
/// when all is done, at 2200.
#[test]
fn node_serves_clients_in_turn_by_pieces_and_the_baselines_by_whole_queries() {
    let workload = Workload::parse(TWO_CLIENTS).unwrap();
    for policy in [Policy::Strict, Policy::Weighted, Policy::Hybrid] {
        assert_eq!(ends(&policy.run(&workload)), [1900, 200, 2200, 400], "{policy:?}");
    }
    for policy in [Policy::Fifo, Policy::RoundRobin] {
        assert_eq!(ends(&policy.run(&workload)), [1000, 1100, 2100, 2200], "{policy:?}");
    }
}

/// Strict keeps two of a team's three queries waiting although slots are free; weighted lets them run.
#[test]
fn strict_holds_a_team_to_its_limit_and_weighted_lets_it_use_what_is_free() {
    let arrival = |client: &str| Arrival {
        at_ms: 0,
        client: client.to_owned(),
        rows: [("green".to_owned(), 100)].into(),
    };
    let workload = Workload {
        name: "one team".to_owned(),
        node: NodeModel {
            max_active: 3,
            per_team_limit: 1,
            compute_slots: 3,
            quantum_rows: 100,
            rows_per_ms: 1,
            ..NodeModel::default()
        },
        weights: Default::default(),
        arrivals: ["a", "b", "c"].map(arrival).into(),
    };
    assert_eq!(ends(&Policy::Strict.run(&workload)), [100, 200, 300]);
    assert_eq!(ends(&Policy::Weighted.run(&workload)), [100, 100, 100]);
}

/// What to see in it. 200 queries, most rows from one client that floods the node, are 27 seconds of work for two slots.
/// First come, first served makes the others wait for the flood: p99 23 s, slowdown up to 900, Jain's index 0.35. Every policy
/// that takes clients in turn gives them what is theirs (index 1.0), and the flood waits for itself. The node does better than
/// whole queries in turn: the flood leaves slots to others, who start at once, and wait for pieces of its queries, not for
/// whole ones. Under hybrid the flood may have more of them below 80 % load.
#[test]
fn flood_under_every_policy() {
    insta::assert_snapshot!(compare(&Generated::Flood.workload(2020)));
}

/// Runs the command with `arguments`; what it prints.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_overlay-harness")).arg("policies").args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn command_prints_and_writes_the_same_bytes_on_each_run() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for workload in ["flood", "lopsided", "mixed"] {
        let run = |name: &str| printed(&["--workload", workload, "--seed", "7", "--output", &file(name)]);
        let (one, other) = (run("one.json"), run("other.json"));
        assert_eq!(one.replace("one.json", ""), other.replace("other.json", ""));
        let bytes = |name: &str| std::fs::read(file(name)).unwrap();
        assert_eq!(bytes("one.json"), bytes("other.json"));
    }
    std::fs::write(file("recorded.json"), TWO_CLIENTS).unwrap();
    assert!(
        printed(&["--workload", &file("recorded.json")])
            .starts_with("workload two clients: 4 queries, 2200 rows")
    );
    assert!(printed(&[]).starts_with(&compare(&Generated::Flood.workload(2020)).to_string()));
}

/// Whatever comes, under every policy: each row is read once, by a slot that reads nothing else at that time, and not before
/// it was asked for.
#[test]
fn every_row_is_read_once_and_no_faster_than_the_slots_can() {
    let rows = btree_map(select(vec!["green", "pink"]).prop_map(str::to_owned), 1..700u64, 1..3);
    let arrival = (0..60u64, 0..4usize, rows)
        .prop_map(|(after, client, rows)| (after, format!("client{client}"), rows));
    let node = (1..5usize, 1..5usize, 1..4usize, 50..200u64);
    for_all(150, (node, vec(arrival, 1..25)), |((max_active, per_team_limit, slots, quantum), arrivals)| {
        let mut at_ms = 0;
        let arrivals = arrivals.into_iter().map(|(after, client, rows)| {
            at_ms += after;
            Arrival { at_ms, client, rows }
        });
        let node = NodeModel {
            max_active,
            per_team_limit,
            compute_slots: slots,
            quantum_rows: quantum,
            rows_per_ms: 10,
            ..NodeModel::default()
        };
        let workload = Workload {
            name: "any".to_owned(),
            node,
            weights: Default::default(),
            arrivals: arrivals.collect(),
        };
        let total: u64 = workload.arrivals.iter().map(Arrival::total_rows).sum();
        for policy in Policy::ALL {
            let run = policy.run(&workload);
            prop_assert_eq!(run.served.iter().map(|served| served.rows).sum::<u64>(), total, "{:?}", policy);
            let busy = |ms: u64| {
                let at = run.served.iter().filter(|served| served.from_ms <= ms && ms < served.until_ms);
                at.count()
            };
            let last = run.served.iter().map(|served| served.until_ms).max().unwrap();
            prop_assert!((0..last).all(|ms| busy(ms) <= slots), "{:?} reads with more slots", policy);
            for (arrival, outcome) in workload.arrivals.iter().zip(&run.queries) {
                let Outcome::Answered { started_ms, ended_ms } = outcome else {
                    return Err(TestCaseError::fail("nobody is refused"));
                };
                prop_assert!(*started_ms >= arrival.at_ms);
                prop_assert!(ended_ms - started_ms >= workload.node.alone_ms(arrival));
            }
        }
        Ok(())
    });
}

/// Goal: the page shows what the table says, asks nobody for anything, and is the same on each run.
#[test]
fn page_has_every_figure_and_needs_no_network() {
    let comparison = compare(&Generated::Flood.workload(2020));
    let page = comparison.page().to_string();
    for figures in &comparison.policies {
        assert!(page.contains(&format!("{}: latency", figures.policy)), "{}", figures.policy);
        assert!(page.contains(&format!("<td>{}</td>", figures.all.latency_p99_ms)), "{}", figures.policy);
    }
    assert!(page.contains(&format!("<p>Computed with overlay-harness {}.</p>", overlay::VERSION)), "{page}");
    assert!(!["src=", "href=", "@import", "url("].iter().any(|asks| page.contains(asks)));
    assert_eq!(page, compare(&Generated::Flood.workload(2020)).page().to_string());
}
