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

impl From<&Overlay> for Placement {
    fn from(overlay: &Overlay) -> Self {
        Placement::new(overlay)
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
