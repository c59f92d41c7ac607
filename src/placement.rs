//! Which members of a team hold which of its days, and in which order: a pure function of the configuration.
//!
//! Weighted rendezvous hashing: each member draws a score for each day from a hash of team, member and day, and the
//! best `replicas` scores hold the day. A member's scores depend on nobody else, so a new member takes days over
//! and moves no day between old ones, and a member that leaves gives up only its own.
//!
//! Whether a holder is up, or really has the day, is not known here.
//!
//! Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); weights after
//! Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::Xxh3;

use crate::config::{NodeId, Overlay};
use crate::day::Day;

/// A node that may hold days of its team.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its id, unique in the team.
    pub id: NodeId,
    /// Its share of the team's days relative to the other members; positive.
    pub weight: f64,
}

/// The holders of every day that a team owns, computed once.
#[derive(Clone, Debug)]
pub struct Placement {
    days: BTreeMap<Day, Placed>,
}

#[derive(Clone, Debug)]
struct Placed {
    team: NodeId,
    holders: Vec<NodeId>,
}

impl Placement {
    /// Places every day of every team.
    ///
    /// Bounds: one entry for each owned day and holder.
    pub fn new(overlay: &Overlay) -> Self {
        let mut days = BTreeMap::new();
        for team in &overlay.teams {
            let members: Vec<Member> = overlay
                .members(&team.name)
                .map(|process| Member { id: process.id.clone(), weight: process.weight })
                .collect();
            let replicas = overlay.replicas.map_or(members.len(), |replicas| replicas as usize);
            // The name is shared by all of the team's days.
            let name = NodeId::from(team.name.as_str());
            for day in team.days.days() {
                let holders = holders(&team.name, &members, replicas, day);
                days.insert(day, Placed { team: name.clone(), holders });
            }
        }
        Placement { days }
    }

    /// The members that hold a day, the preferred one first; none for a day that no team owns.
    pub fn holders(&self, day: Day) -> &[NodeId] {
        self.days.get(&day).map_or(&[], |placed| &placed.holders)
    }

    /// Every owned day with its team and its holders, in order.
    pub fn days(&self) -> impl Iterator<Item = (Day, &NodeId, &[NodeId])> {
        self.days.iter().map(|(day, placed)| (*day, &placed.team, &*placed.holders))
    }

    /// The team that owns a day.
    pub fn team(&self, day: Day) -> Option<&str> {
        self.days.get(&day).map(|placed| placed.team.as_str())
    }

    /// Every day that a node holds.
    pub fn days_of(&self, node: &str) -> BTreeSet<Day> {
        let holds = |placed: &Placed| placed.holders.iter().any(|holder| holder.as_str() == node);
        self.days.iter().filter(|(_, placed)| holds(placed)).map(|(day, _)| *day).collect()
    }
}

/// The members that hold `day`, the preferred one first.
///
/// Shape: `min(replicas, members.len())` different members, whatever the order of `members`.
pub fn holders(team: &str, members: &[Member], replicas: usize, day: Day) -> Vec<NodeId> {
    let mut scored: Vec<(f64, &NodeId)> =
        members.iter().map(|member| (score(team, member, day), &member.id)).collect();
    scored.sort_by(|(left, left_id), (right, right_id)| {
        right.total_cmp(left).then_with(|| left_id.cmp(right_id))
    });
    scored.into_iter().take(replicas).map(|(_, id)| id.clone()).collect()
}

/// `-weight / ln(u)` with `u` drawn evenly from (0, 1): a member with twice the weight wins twice as often.
///
/// `ln` may differ in the last bit between platforms. That swaps two members only where their scores are equal to
/// about 16 digits, and the price would be one refused read, as holders check what they are asked for.
fn score(team: &str, member: &Member, day: Day) -> f64 {
    let mut hasher = Xxh3::new();
    // 0xFF occurs in no UTF-8 text, so different triples never hash the same bytes.
    for part in [team.as_bytes(), member.id.as_bytes()] {
        hasher.update(part);
        hasher.update(&[0xFF]);
    }
    hasher.update(&day.number().to_le_bytes());
    // 52 bits and a half: with 53 the largest would round to 1, whose logarithm is 0.
    let evenly = ((hasher.digest() >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -member.weight / evenly.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::day::DayRange;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    /// A day for each of the first 3000 since 2000.
    fn days() -> impl Iterator<Item = Day> {
        DayRange::inclusive(day("20000101"), day("20080318")).days()
    }

    fn members(weights: &[f64]) -> Vec<Member> {
        let member = |(index, weight): (usize, &f64)| Member {
            id: NodeId::from(format!("node-{index}")),
            weight: *weight,
        };
        weights.iter().enumerate().map(member).collect()
    }

    fn shares(members: &[Member], replicas: usize) -> BTreeMap<NodeId, usize> {
        let mut shares = BTreeMap::new();
        for holder in days().flat_map(|day| holders("green", members, replicas, day)) {
            *shares.entry(holder).or_default() += 1;
        }
        shares
    }

    #[test]
    fn every_member_holds_every_day_by_default() {
        let text = include_str!("../configs/one_host_config.json");
        let overlay = Overlay::parse(text, "six").unwrap().overlay;
        let placement = Placement::new(&overlay);
        assert_eq!(placement.team(day("20200820")), Some("green"));
        assert_eq!(placement.team(day("20200821")), Some("pink"));
        assert_eq!(placement.team(day("20200925")), None);
        assert!(placement.holders(day("20200925")).is_empty());
        let held = |node| placement.days_of(node).len();
        assert_eq!(["A", "B", "C", "D", "E", "F"].map(held), [0, 11, 11, 35, 35, 35]);
    }

    /// A changed hash would move days between nodes of different releases: these orders stay.
    #[test]
    fn the_holders_of_the_six_nodes_do_not_change_between_releases() {
        let text = include_str!("../configs/one_host_config.json");
        let overlay = Overlay::parse(text, "six").unwrap().overlay;
        let placement = Placement::new(&overlay);
        let orders: Vec<String> = ["20200810", "20200811", "20200821", "20200822", "20200823"]
            .map(|text| placement.holders(day(text)).iter().map(NodeId::as_str).collect())
            .into();
        assert_eq!(orders, ["BC", "CB", "EDF", "EDF", "EFD"]);
    }

    #[test]
    fn a_member_holds_days_in_proportion_to_its_weight() {
        // 3000 days: a share of a quarter has a standard deviation of 24 days.
        for (id, days) in shares(&members(&[1.0, 1.0, 1.0, 1.0]), 1) {
            assert!((650..=850).contains(&days), "{id} holds {days} days");
        }
        let weighted = shares(&members(&[1.0, 3.0]), 1);
        let light = weighted[&NodeId::from("node-0")];
        assert!((650..=850).contains(&light), "{light} days");
    }

    #[test]
    fn a_new_member_takes_its_share_and_no_more() {
        let (before, after) = (members(&[1.0; 4]), members(&[1.0; 5]));
        let moved = days()
            .filter(|day| holders("green", &before, 1, *day) != holders("green", &after, 1, *day))
            .count();
        // A fifth of 3000 is 600, with a standard deviation of 22.
        assert!((500..=700).contains(&moved), "{moved} days moved");
    }

    #[test]
    fn names_that_join_to_the_same_text_hash_apart() {
        let score = |team, id: &str| score(team, &Member { id: id.into(), weight: 1.0 }, day("20200810"));
        assert_ne!(score("ab", "c"), score("a", "bc"));
    }

    proptest! {
        #[test]
        fn exactly_the_asked_number_of_members_holds_a_day(
            weights in prop::collection::vec(0.001f64..1000.0, 0..12),
            replicas in 0usize..14,
            offset in 0usize..3000,
            team in "[a-z]{1,8}",
            seed in any::<u64>(),
        ) {
            let mut members = members(&weights);
            let day = days().nth(offset).unwrap();
            let chosen = holders(&team, &members, replicas, day);
            prop_assert_eq!(chosen.len(), replicas.min(members.len()));
            prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
            fastrand::Rng::with_seed(seed).shuffle(&mut members);
            prop_assert_eq!(holders(&team, &members, replicas, day), chosen);
        }

        /// Without one member the order of the others stays: so it gives up only its own days when it leaves, and
        /// takes only days for itself when it comes.
        #[test]
        fn a_member_that_comes_or_leaves_moves_only_its_own_days(
            weights in prop::collection::vec(0.001f64..1000.0, 1..12),
            replicas in 1usize..6,
            offset in 0usize..3000,
            leaver in any::<prop::sample::Index>(),
        ) {
            let all = members(&weights);
            let leaver = leaver.get(&all).id.clone();
            let rest: Vec<Member> = all.iter().filter(|member| member.id != leaver).cloned().collect();
            let day = days().nth(offset).unwrap();
            let (with, without) = (holders("pink", &all, replicas, day), holders("pink", &rest, replicas, day));
            let stayed: Vec<NodeId> = with.iter().filter(|id| **id != leaver).cloned().collect();
            prop_assert_eq!(&without[..stayed.len()], &stayed[..]);
            if !with.contains(&leaver) {
                prop_assert_eq!(with, without);
            }
        }
    }
}
