//! Ways through the six nodes by hand, through random graphs against a naive search; days tile and balance.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn six_nodes() -> Graph {
    let text = include_str!("../../configs/one_host_config.json");
    Graph::new(&Overlay::parse(text, "six").unwrap().overlay)
}

fn ids(names: &str) -> BTreeSet<NodeId> {
    names.split_whitespace().map(NodeId::from).collect()
}

fn hops(graph: &Graph, from: &str, target: &str, avoid: &str) -> String {
    let hops = graph.next_hops(&from.into(), &target.into(), &ids(avoid));
    hops.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ")
}

/// A connected overlay: node 0 leads, each later node hangs on an earlier one, and there are more edges.
fn overlay(parents: &[usize], more: &[(usize, usize)]) -> Overlay {
    let count = parents.len() + 1;
    let name = |node: usize| format!("n{node:04}");
    let mut processes = serde_json::Map::new();
    for node in 0..count {
        let role = ["leader", "team_leader"].get(node).unwrap_or(&"worker");
        let parent = node.checked_sub(1).map(|before| parents[before] % node);
        let extra = more.iter().filter(|(here, there)| here % count == node && there % count != node);
        let neighbours: BTreeSet<String> =
            parent.into_iter().chain(extra.map(|(_, there)| there % count)).map(name).collect();
        processes.insert(
            name(node),
            json!({"id": name(node), "role": role, "team": "green", "host": "127.0.0.1", "port": 1000 + node, "neighbors": neighbours}),
        );
    }
    let file: Value = json!({
        "processes": processes,
        "teams": [{"name": "green", "first_day": 20200810, "last_day": 20200820}],
        "limits": {"max_hops": 1024},
    });
    Overlay::parse(&file.to_string(), "random").unwrap().overlay
}

#[test]
fn the_leader_reaches_each_node_on_the_shortest_way_first() {
    let graph = six_nodes();
    assert_eq!(hops(&graph, "A", "B", ""), "B E");
    assert_eq!(hops(&graph, "A", "C", ""), "B E");
    assert_eq!(hops(&graph, "A", "F", ""), "E B");
    // Both ways to D are equally long; E leads D's team.
    assert_eq!(hops(&graph, "A", "D", ""), "E B");
}

#[test]
fn pink_is_reached_through_green_when_its_leader_is_lost() {
    let graph = six_nodes();
    assert_eq!(hops(&graph, "A", "D", "E"), "B");
    assert_eq!(hops(&graph, "B", "D", "A E"), "D");
    assert_eq!(hops(&graph, "A", "F", "E"), "", "E is the only neighbour of F");
    assert_eq!(hops(&graph, "A", "E", "E"), "", "a node that is avoided is no target");
}

#[test]
fn a_request_never_returns_to_where_it_was() {
    let graph = six_nodes();
    assert_eq!(hops(&graph, "B", "F", "A"), "D");
    assert_eq!(hops(&graph, "D", "F", "A B"), "E");
    assert_eq!(hops(&graph, "C", "A", ""), "B");
    assert_eq!(hops(&graph, "C", "A", "B"), "");
}

#[test]
fn nowhere_to_go_is_an_empty_list() {
    let graph = six_nodes();
    assert_eq!(hops(&graph, "A", "A", ""), "");
    assert_eq!(hops(&graph, "A", "X", ""), "");
    assert_eq!(hops(&graph, "X", "A", ""), "");
}

#[test]
fn a_sibling_relays_after_parent_and_child_at_equal_length() {
    let process = |id: &str, role: &str, port: u16, neighbours: &[&str]| json!({"id": id, "role": role, "team": "green", "host": "::1", "port": port, "neighbors": neighbours});
    // From B to T: over the sibling A2 or over the child Z, two edges each; the sibling's id comes first.
    let file = json!({
        "processes": {
            "L": process("L", "leader", 1, &["B", "A2"]),
            "B": process("B", "team_leader", 2, &["A2", "Z"]),
            "A2": process("A2", "worker", 3, &["T"]),
            "Z": process("Z", "worker", 4, &["T"]),
            "T": process("T", "worker", 5, &[]),
        },
        "teams": [{"name": "green", "first_day": 20200810, "last_day": 20200820}],
    });
    let graph = Graph::new(&Overlay::parse(&file.to_string(), "siblings").unwrap().overlay);
    assert_eq!(hops(&graph, "B", "T", ""), "Z A2 L");
    assert_eq!(hops(&graph, "B", "T", "Z"), "A2 L");
}

fn need(number: u64, rows: u64, holders: &str) -> DayNeed {
    DayNeed {
        day: Day::from_number(number).unwrap(),
        rows,
        holders: holders.split_whitespace().map(NodeId::from).collect(),
    }
}

fn candidates(given: &[(&str, f64, u32)]) -> BTreeMap<NodeId, Candidate> {
    let candidate = |(node, weight, free): &(&str, f64, u32)| {
        let node = NodeId::from(*node);
        (node.clone(), Candidate { node, weight: *weight, free_compute_slots: *free })
    };
    given.iter().map(candidate).collect()
}

/// The nodes of the days in order.
fn assigned(
    forwarding: Forwarding,
    turn: u64,
    needs: &[DayNeed],
    candidates: &BTreeMap<NodeId, Candidate>,
) -> String {
    let assigned = assign(forwarding, turn, needs, candidates);
    assigned.values().map(NodeId::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn round_robin_gives_a_query_to_one_holder_in_turn() {
    // Placement orders the same holders differently for each day.
    let needs = [need(20200810, 5, "B C"), need(20200811, 5, "C B"), need(20200812, 5, "B C")];
    let in_turn = |turn| assigned(Forwarding::RoundRobin, turn, &needs, &BTreeMap::new());
    assert_eq!([in_turn(0), in_turn(1), in_turn(2)], ["B B B", "C C C", "B B B"]);
}

#[test]
fn parallel_spreads_rows_and_days_without_rows() {
    let parallel = |needs: &[DayNeed]| assigned(Forwarding::Parallel, 0, needs, &BTreeMap::new());
    assert_eq!(
        parallel(&[need(20200810, 10, "B C"), need(20200811, 4, "B C"), need(20200812, 5, "B C")]),
        "B C C"
    );
    assert_eq!(parallel(&[need(20200810, 0, "B C"), need(20200811, 0, "B C")]), "B C");
    assert_eq!(
        parallel(&[need(20200810, 1, ""), need(20200811, 1, "C B")]),
        "C",
        "a day without a holder is absent"
    );
}

#[test]
fn capacity_gives_rows_in_proportion_to_weight_and_free_slots() {
    let needs: Vec<DayNeed> = (20200810..20200818).map(|number| need(number, 100, "B C")).collect();
    let share = |given: &[(&str, f64, u32)]| {
        let assigned = assign(Forwarding::Capacity, 0, &needs, &candidates(given));
        assigned.values().filter(|node| **node == "C").count()
    };
    assert_eq!(share(&[("B", 1.0, 1), ("C", 1.0, 1)]), 4);
    assert_eq!(share(&[("B", 1.0, 1), ("C", 3.0, 1)]), 6);
    assert_eq!(share(&[("B", 1.0, 2), ("C", 1.0, 6)]), 6);
    assert_eq!(share(&[("B", 1.0, 0), ("C", 1.0, 0)]), 4, "a busy holder counts like one with a free slot");
}

fn any_needs() -> impl Strategy<Value = Vec<DayNeed>> {
    let holders = prop::sample::subsequence(vec!["B", "C", "D", "E", "F"], 0..=5).prop_shuffle();
    prop::collection::vec((prop_oneof![0..1000u64, any::<u64>()], holders), 0..20).prop_map(|days| {
        days.iter()
            .enumerate()
            .map(|(index, (rows, holders))| need(20200801 + index as u64, *rows, &holders.join(" ")))
            .collect()
    })
}

proptest! {
    /// Against following every way: a neighbour is a hop exactly if some path from it reaches the target.
    #[test]
    fn hops_are_the_neighbours_with_a_way_shortest_first(
        parents in prop::collection::vec(any::<usize>(), 1..12),
        more in prop::collection::vec((0usize..100, 0usize..100), 0..12),
        ends in any::<(prop::sample::Index, prop::sample::Index)>(),
        avoided in prop::collection::btree_set(0usize..12, 0..4),
    ) {
        let overlay = overlay(&parents, &more);
        let names: Vec<&NodeId> = overlay.processes.keys().collect();
        let (from, target) = (ends.0.get(&names).to_owned(), ends.1.get(&names).to_owned());
        let avoid: BTreeSet<NodeId> = avoided.iter().filter_map(|node| names.get(*node).map(|id| (*id).clone())).collect();
        // Shortest ways by relaxing all edges until nothing changes.
        let open = |id: &NodeId| id != from && !avoid.contains(id);
        let mut ways: BTreeMap<&NodeId, u32> = BTreeMap::new();
        if open(target) {
            ways.insert(target, 0);
        }
        for _ in 0..names.len() {
            for process in overlay.processes.values().filter(|process| open(&process.id)) {
                let best = process.neighbours.iter().filter_map(|id| ways.get(id)).min().map(|way| way + 1);
                if let Some(best) = best && ways.get(&process.id).is_none_or(|way| *way > best) {
                    ways.insert(&process.id, best);
                }
            }
        }
        let hops = Graph::new(&overlay).next_hops(from, target, &avoid);
        let expected: BTreeSet<&NodeId> = overlay.processes[from].neighbours.iter().filter(|id| ways.contains_key(id)).collect();
        prop_assert_eq!(hops.iter().collect::<BTreeSet<_>>(), expected);
        prop_assert!(hops.iter().map(|id| ways[id]).is_sorted());
    }

    #[test]
    fn every_day_with_a_holder_has_one_of_its_holders(
        needs in any_needs(),
        turn in any::<u64>(),
        weights in prop::collection::vec((0.001f64..1000.0, any::<u32>()), 5),
        seed in any::<u64>(),
    ) {
        let given: Vec<_> = ["B", "C", "D", "E", "F"].into_iter().zip(weights).map(|(id, (weight, free))| (id, weight, free)).collect();
        let candidates = candidates(&given);
        let mut shuffled = needs.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        for forwarding in Forwarding::ALL {
            let assigned = assign(*forwarding, turn, &needs, &candidates);
            for need in &needs {
                let node = assigned.get(&need.day);
                prop_assert_eq!(node.is_none(), need.holders.is_empty());
                prop_assert!(node.is_none_or(|node| need.holders.contains(node)));
            }
            prop_assert_eq!(assign(*forwarding, turn, &shuffled, &candidates), assigned);
        }
    }

    #[test]
    fn no_holder_exceeds_its_share_by_more_than_the_largest_day(
        rows in prop::collection::vec(0..100_000u64, 1..40),
        holder_count in 1usize..6,
    ) {
        let holders = ["B", "C", "D", "E", "F"][..holder_count].join(" ");
        let days = Day::from_number(20200801).unwrap();
        let days = std::iter::successors(Some(days), |day| Some(day.next()));
        let needs: Vec<DayNeed> = days.zip(&rows).map(|(day, rows)| DayNeed { day, ..need(20200801, *rows, &holders) }).collect();
        let assigned = assign(Forwarding::Parallel, 0, &needs, &BTreeMap::new());
        let mut loads: BTreeMap<&NodeId, u64> = BTreeMap::new();
        for need in &needs {
            *loads.entry(&assigned[&need.day]).or_default() += need.rows;
        }
        let heaviest = *loads.values().max().unwrap();
        let ideal = rows.iter().sum::<u64>() as f64 / holder_count as f64;
        prop_assert!(heaviest as f64 <= ideal + *rows.iter().max().unwrap() as f64);
    }
}
