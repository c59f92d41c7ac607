//! Random topologies that shrink: to fewer teams, fewer members, shorter ranges, plain weights, no extra edges.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::builder::{FIRST_DAY, LAST_DAY, team_name};
use super::{Shape, TeamSpec, TopologyBuilder};
use crate::calendar;
use crate::oracle::TeamRange;

/// Any topology of up to five teams of up to five members, inside the days of the dataset.
///
/// Each part of the calendar is a gap of 0 to 4 days and then a team of 1 to 15, as far as the days reach.
pub fn topologies() -> impl Strategy<Value = TopologyBuilder> {
    let weight = select(vec![1.0, 1.0, 2.0, 0.5, 1000.0, 0.001]);
    let part = (
        prop_oneof![Just(0usize), 0..5usize],
        prop_oneof![1 => Just(1usize), 4 => 1..16usize],
        vec(weight, 1..6),
    );
    let shape = prop_oneof![
        (1..4usize).prop_map(|fan_out| Shape::Trees { fan_out }),
        Just(Shape::Star),
        Just(Shape::Chain)
    ];
    let edges = btree_set((0..16usize, 0..16usize), 0..4);
    (vec(part, 1..6), shape, edges, any::<Index>(), any::<bool>()).prop_map(
        |(parts, shape, extra_edges, replicas, some)| {
            let teams = teams(parts);
            let fewest = teams.iter().map(|team| team.weights.len()).min().expect("the first team has room");
            let replicas = some.then(|| replicas.index(fewest) as u32 + 1);
            TopologyBuilder { teams, shape, extra_edges, replicas }
        },
    )
}

/// Teams one after the other: a gap, a length in days, the weights of the members.
fn teams(parts: Vec<(usize, usize, Vec<f64>)>) -> Vec<TeamSpec> {
    let days: Vec<u32> = calendar::days(FIRST_DAY, LAST_DAY).collect();
    let mut teams = Vec::new();
    let mut next = 0;
    for (gap, length, weights) in parts {
        let (first, last) = (next + gap, (next + gap + length - 1).min(days.len() - 1));
        if first < days.len() {
            let range = TeamRange::new(&team_name(teams.len()), days[first], days[last]);
            teams.push(TeamSpec { range, weights });
        }
        next = last + 1;
    }
    teams
}
