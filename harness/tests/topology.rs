//! Topologies: what the builder makes, how it is drawn, and that the node accepts it.

use std::path::Path;

use overlay::config::Overlay;
use overlay_harness::oracle::TeamRange;
use overlay_harness::topology::{Shape, Topology, TopologyBuilder};

fn every_kind() -> Vec<(Topology, &'static str)> {
    vec![
        (Topology::six_nodes(), "A -> B(C, D), E(F, D)"),
        (TopologyBuilder::star(4).build(), "A -> B, C, D, E"),
        (TopologyBuilder::chain(4).build(), "A -> B(C(D(E)))"),
        (TopologyBuilder::tree(2, 2).build(), "A -> B(C, D), E(F, G)"),
        (TopologyBuilder::tree(2, 3).build(), "A -> B(C(E, F), D(G, H)), I(J(L, M), K(N, O))"),
        (TopologyBuilder::diamond().build(), "A -> B(D), C(D)"),
        (TopologyBuilder::teams(&[1]).build(), "A -> B"),
        (TopologyBuilder::teams(&[3]).replicas(2).build(), "A -> B(C, D)"),
        (TopologyBuilder::teams(&[1, 2, 3, 1, 2]).build(), "A -> B, C(D), E(F, G), H, I(J)"),
        (TopologyBuilder::teams(&[2, 2]).edge(1, 3).build(), "A -> B(C, D), D(E)"),
        (TopologyBuilder::teams(&[5]).shape(Shape::Chain).edge(1, 5).build(), "A -> B(C(D(E)), F(E))"),
    ]
}

#[test]
fn topology_is_drawn_in_one_line() {
    let drawn: Vec<String> = every_kind().iter().map(|(topology, _)| topology.to_string()).collect();
    let expected: Vec<&str> = every_kind().iter().map(|(_, expected)| *expected).collect();
    assert_eq!(drawn, expected);
}

#[test]
fn every_topology_is_a_valid_configuration_that_gives_it_back() {
    for (topology, drawn) in every_kind() {
        let parsed = Overlay::parse(&topology.to_json().to_string(), drawn).unwrap();
        assert_eq!(parsed.warnings, [], "{drawn}");
        assert_eq!(Topology::of(&parsed.overlay), topology, "{drawn}");
    }
}

#[test]
fn files_of_the_seed_system_have_the_six_nodes() {
    for file in ["one_host_config.json", "two_hosts_config.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file);
        let topology = Topology::read(&path).unwrap();
        assert_eq!(topology, Topology::six_nodes(), "{file}");
        assert_eq!(topology.teams, TeamRange::green_and_pink(), "{file}");
    }
}

#[test]
fn teams_share_the_days_without_gap_or_overlap() {
    let topology = TopologyBuilder::teams(&[1, 1, 1, 1, 1]).build();
    let days = topology.teams.iter().flat_map(|team| {
        overlay_harness::calendar::days(team.first_day, team.last_day).map(|day| (day, &team.name))
    });
    let days: Vec<u32> = days.map(|(day, _)| day).collect();
    assert_eq!(days, overlay_harness::calendar::days(20200810, 20200924).collect::<Vec<_>>());
    let names: Vec<&str> = topology.teams.iter().map(|team| team.name.as_str()).collect();
    assert_eq!(names, ["green", "pink", "blue", "amber", "team4"]);
}

#[test]
fn topology_is_drawn_as_a_tree() {
    let drawing = format!("{:#}", Topology::six_nodes());
    let expected = "\
A leader green
├─ B team_leader green
│  ├─ C worker green
│  └─ D worker pink
└─ E team_leader pink
   ├─ F worker pink
   └─ D (see above)
";
    assert_eq!(drawing, expected, "{drawing}");
}

#[test]
fn extra_edges_of_a_larger_topology_still_make_a_graph_of_a_smaller_one() {
    let topology = TopologyBuilder::teams(&[1, 1]).edge(7, 4).edge(0, 3).build();
    // 7 and 4 are 1 of 3 both: no edge. 0 and 3 are 0 both: none either.
    assert_eq!(topology.to_string(), "A -> B, C");
    Overlay::parse(&topology.to_json().to_string(), "smaller").unwrap();
}
