//! Random runs of whole overlays: any topology, data, settings, queries and faults, each answer held against the oracle.
//!
//! The seeds are fixed, so that a commit passes or fails and does not do both; `overlay-harness simulate` draws others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use overlay_harness::cluster::Driver;
use overlay_harness::report::Reported;
use overlay_harness::scenario::shrink::{Verdicts, draw};
use overlay_harness::scenario::step::{Question, Step};
use overlay_harness::scenario::{Prepared, RunOn, Scenario, Settings, Tally, hold};
use overlay_harness::snapshot::Redactions;
use overlay_harness::topology::{Shape, TopologyBuilder};

/// A run that is broken on purpose, and repeated as it is.
const BROKEN: u64 = 0x5208;

#[test]
fn scenarios_hold_in_virtual_time() {
    let mut tally = Tally::default();
    for seed in 0x51f2..0x51f2 + 24 {
        let held = hold(seed, RunOn::Simulated);
        tally += held.unwrap_or_else(|reported| panic!("{reported}"));
    }
    assert!(tally.answers > 200 && tally.rows > 10_000, "{tally}");
    assert!(tally.answers_under_faults > 50, "{tally}");
}

/// Fewer, and only crashes: what these can show beside the others is what threads and sockets do.
#[test]
fn scenarios_hold_over_tcp() {
    for seed in 0x51f2..0x51f2 + 4 {
        hold(seed, RunOn::InProcess).unwrap_or_else(|reported| panic!("{reported}"));
    }
}

/// Goal: a seed that failed fails again. Method: the same runs twice; every answer, and the instant of every step.
#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0x51f2..0x51f2 + 4 {
        let run = || {
            let prepared = draw(seed, RunOn::Simulated).prepare().unwrap();
            prepared.run(&Driver::Simulated { seed }, usize::MAX, &mut |_, _, _| {}).unwrap()
        };
        assert_eq!(run(), run(), "seed {seed:#x}");
    }
}

/// Goal: equal data, query and chunking give the same bytes, whoever is there and whoever served.
/// Method: the questions that a run asks of its leader, asked of overlays that share with it only data, teams and
/// chunking. The bytes of each chunk are compared.
#[test]
fn bytes_do_not_depend_on_topology_replicas_or_forwarding() {
    let mut compared = 0;
    for seed in 0x51f2..0x51f2 + 8 {
        let scenario = draw(seed, RunOn::InProcess);
        let questions = questions_of_the_leader(&scenario.prepare().unwrap());
        let digests = digests_of(&scenario, &questions);
        for (topology, forwarding) in others(&scenario.topology) {
            let settings = Settings { forwarding, ..scenario.settings.clone() };
            let drawn = topology.build().to_string();
            let mut other = scenario.clone();
            (other.topology, other.settings) = (topology, settings);
            assert_eq!(digests_of(&other, &questions), digests, "seed {seed:#x}, {forwarding}, {drawn}");
        }
        compared += digests.values().flatten().count();
    }
    assert!(compared > 100, "{compared} chunks");
}

/// The same teams: one member each in a star; one more member each in a chain, each day on one of them.
fn others(topology: &TopologyBuilder) -> [(TopologyBuilder, &'static str); 2] {
    let with = |shape, members: fn(usize) -> usize, replicas| {
        let mut other =
            TopologyBuilder { shape, replicas, extra_edges: Default::default(), ..topology.clone() };
        for team in &mut other.teams {
            team.weights = vec![1.0; members(team.weights.len())];
        }
        other
    };
    [
        (with(Shape::Star, |_| 1, None), "round_robin"),
        (with(Shape::Chain, |members| members + 1, Some(1)), "parallel"),
    ]
}

fn questions_of_the_leader(prepared: &Prepared) -> Vec<Step> {
    let leader = prepared.topology.leader();
    let asked = prepared.steps.iter().filter_map(|step| match step {
        Step::Ask(questions) => Some(questions),
        _ => None,
    });
    let of_the_leader = |question: &&Question| question.node == leader;
    asked.flatten().filter(of_the_leader).map(|question| Step::Ask(vec![question.clone()])).collect()
}

fn digests_of(scenario: &Scenario, questions: &[Step]) -> BTreeMap<(usize, usize), Vec<u64>> {
    let mut prepared = scenario.prepare().unwrap();
    prepared.steps = questions.to_vec();
    let ran = prepared.run(&Driver::Simulated { seed: 7 }, usize::MAX, &mut |_, _, _| {});
    ran.unwrap_or_else(|failure| panic!("{failure:#?}\nof {scenario:#?}")).digests
}

/// Goal: a failure says all that is needed to mend it. Method: a run is broken on purpose: when the oracle has read the
/// data, the last row of each file is taken away, so that no node has it.
#[test]
fn failure_prints_where_it_comes_from_what_differs_and_how_to_repeat_it() {
    let seed = BROKEN;
    let prepared = draw(seed, RunOn::Simulated).prepare().unwrap();
    let files: BTreeSet<PathBuf> = prepared
        .oracle
        .all_rows()
        .iter()
        .map(|row| prepared.root().join(format!("{0}/{1}.csv", row.day, row.file_stem)))
        .collect();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (kept, _) = text.trim_end().rsplit_once('\n').unwrap_or_default();
        std::fs::write(&file, format!("{kept}\n")).unwrap();
    }
    let failure = prepared.run(&Driver::Simulated { seed }, usize::MAX, &mut |_, _, _| {}).unwrap_err();
    let reported = Reported { failure: *failure, seed, on: RunOn::Simulated, shrunk: Verdicts::default() };
    let _redacted = Redactions::new().bind();
    insta::assert_snapshot!(reported);
}

/// Method: the run of the test above, up to the step at which it fails, with nothing broken.
#[test]
fn replay_prints_every_step_before_it_begins() {
    let replay = ["replay", "--seed", &BROKEN.to_string(), "--steps", "2"];
    let output = Command::new(env!("CARGO_BIN_EXE_overlay-harness")).args(replay).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}
