//! What an overlay in which something is wrong must still answer for: over the edges and nodes that are sure to be left.
//!
//! What is slow, lossy, hanging or lying counts as gone here. It may serve all the same; it is just not relied on.

use std::collections::BTreeSet;

use super::step::Question;
use crate::calendar;
use crate::fault::{Fault, Link};
use crate::topology::Topology;

/// What excuses an answer, of one question at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excuses {
    /// Days that may be out of reach.
    pub(crate) days: BTreeSet<u32>,
    /// Days that a result from the cache may have in a version that nobody has any more.
    pub(crate) lost: BTreeSet<u32>,
    /// Whether the node asked may say nothing at all.
    pub(crate) silence: bool,
    /// Whether others are asked at once, whom the same days keep waiting.
    pub(crate) beside_others: bool,
    /// Who lies, if nothing else is wrong.
    pub(crate) liars: BTreeSet<String>,
}

/// What is wrong, and what was.
#[derive(Default)]
pub(crate) struct Trouble<'a> {
    /// Goes on.
    pub(crate) in_force: Vec<&'a Fault>,
    /// Has ended, and may not have been noticed to.
    pub(crate) recent: Vec<&'a Fault>,
    /// The nodes that took other data while they ran, and keep those that they had.
    pub(crate) keeping: BTreeSet<&'a str>,
}

/// The data that a kept result is made of, where there are two versions.
pub(crate) struct Pinned<'a> {
    /// The days that have another version.
    pub(super) changed: &'a BTreeSet<u32>,
    /// Those that the result has in that version.
    pub(super) revised: &'a BTreeSet<u32>,
}

/// What faults excuse. Where days lie on some members only, all members of their team are relied on: that is enough, if
/// not needed.
pub(crate) fn excuses(
    question: &Question,
    pinned: Option<Pinned<'_>>,
    topology: &Topology,
    trouble: &Trouble<'_>,
) -> Excuses {
    let faults: Vec<&Fault> = trouble.in_force.iter().chain(&trouble.recent).copied().collect();
    let reached = reached(&question.node, topology, &faults);
    let serves = |member: &str, day: u32| {
        reached.contains(member) && pinned.as_ref().is_none_or(|pinned| pinned.is_held(member, day, trouble))
    };
    let lost = topology.teams.iter().flat_map(|team| {
        let is_lost = |day: &u32| {
            let mut members = topology.members(&team.name).map(|member| serves(&member.id, *day));
            match topology.replicas {
                None => !members.any(|serves| serves),
                Some(_) => !members.all(|serves| serves),
            }
        };
        calendar::days(team.first_day, team.last_day).filter(is_lost).collect::<Vec<_>>()
    });
    Excuses {
        days: lost.collect(),
        lost: BTreeSet::new(),
        beside_others: false,
        silence: !reached.contains(&*question.node),
        liars: only_liars(&faults),
    }
}

/// The days, of those that were `changed` a moment ago, of which nobody is sure to have the one or the other version. A node
/// that has not noticed it gives the result that it has made before, whose chunks cannot be read.
pub(super) fn lost(
    question: &Question,
    changed: &BTreeSet<u32>,
    topology: &Topology,
    trouble: &Trouble<'_>,
) -> BTreeSet<u32> {
    if !trouble.has_revised_lately() {
        return BTreeSet::new();
    }
    let of = |revised: &BTreeSet<u32>| {
        let days = excuses(question, Some(Pinned { changed, revised }), topology, trouble).days;
        days.intersection(changed).copied().collect::<BTreeSet<u32>>()
    };
    &of(changed) | &of(&BTreeSet::new())
}

impl Trouble<'_> {
    /// Whether a node has not kept the data that it had a moment ago: their change by a restart counts as a crash, and so does
    /// its end; what was replaced goes with a crash.
    fn has_revised_lately(&self) -> bool {
        let goes_on_or_did = |fault: &Fault| self.in_force.contains(&fault) || self.recent.contains(&fault);
        let is_revised = |fault: &&Fault| match fault {
            Fault::Crash { node } => [Fault::revise(node), Fault::replace(node)].iter().any(goes_on_or_did),
            _ => false,
        };
        self.recent.iter().chain(&self.in_force).any(is_revised)
    }
}

impl Pinned<'_> {
    /// Whether a member is sure to have a day in the version of the result.
    fn is_held(&self, member: &str, day: u32, trouble: &Trouble<'_>) -> bool {
        let others = [Fault::revise(member), Fault::replace(member)];
        let is_among = |faults: &[&Fault]| others.iter().any(|fault| faults.contains(&fault));
        let is_revised = is_among(&trouble.in_force);
        match (self.changed.contains(&day), self.revised.contains(&day)) {
            (false, _) => true,
            _ if trouble.keeping.contains(member) => true,
            (true, true) => is_revised,
            (true, false) => !is_revised && !is_among(&trouble.recent),
        }
    }
}

fn only_liars(faults: &[&Fault]) -> BTreeSet<String> {
    let liar = |fault: &&Fault| match fault {
        Fault::Lie { node, .. } => Some(node.clone()),
        _ => None,
    };
    faults.iter().map(liar).collect::<Option<_>>().unwrap_or_default()
}

/// The nodes that are well and that a sure way leads to; not even the first one, if that is not well.
fn reached<'a>(from: &'a str, topology: &'a Topology, faults: &[&Fault]) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(node) = next.pop() {
        if is_well(node, faults) && reached.insert(node) {
            next.extend(topology.neighbours(node).into_iter().filter(|other| is_sure(node, other, faults)));
        }
    }
    reached
}

/// Whether nothing is wrong with a node.
fn is_well(node: &str, faults: &[&Fault]) -> bool {
    !faults.iter().any(|fault| match fault {
        Fault::Crash { node: other }
        | Fault::Hang { node: other }
        | Fault::Slow { node: other, .. }
        | Fault::Lie { node: other, .. } => other == node,
        Fault::Partition(_)
        | Fault::PartitionOneWay { .. }
        | Fault::Delay { .. }
        | Fault::Loss { .. }
        | Fault::Revise { .. }
        | Fault::Replace { .. } => false,
    })
}

/// Whether nothing is wrong between two nodes.
fn is_sure(left: &str, right: &str, faults: &[&Fault]) -> bool {
    !faults.iter().any(|fault| match fault {
        Fault::Partition(link) | Fault::Delay { link, .. } | Fault::Loss { link, .. } => {
            link.joins(left, right)
        }
        Fault::PartitionOneWay { from, to } => Link::between(from, to).joins(left, right),
        Fault::Crash { .. }
        | Fault::Hang { .. }
        | Fault::Slow { .. }
        | Fault::Revise { .. }
        | Fault::Replace { .. }
        | Fault::Lie { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::step::Form;
    use super::*;
    use crate::oracle::OracleQuery;

    fn reached_with(faults: &[Fault]) -> Vec<String> {
        let topology = Topology::six_nodes();
        let faults: Vec<&Fault> = faults.iter().collect();
        reached("A", &topology, &faults).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn ways_around_what_is_gone_are_found() {
        assert_eq!(reached_with(&[]), ["A", "B", "C", "D", "E", "F"]);
        assert_eq!(reached_with(&[Fault::crash("E")]), ["A", "B", "C", "D"]);
        assert_eq!(reached_with(&[Fault::partition("A", "E")]), ["A", "B", "C", "D", "E", "F"]);
        assert_eq!(reached_with(&[Fault::partition_one_way("E", "A"), Fault::crash("D")]), ["A", "B", "C"]);
        assert_eq!(reached_with(&[Fault::partition("A", "E"), Fault::crash("D")]), ["A", "B", "C"]);
        assert_eq!(reached_with(&[Fault::loss("A", "E", 1), Fault::hang("D")]), ["A", "B", "C"]);
        assert_eq!(reached_with(&[Fault::crash("A")]), [""; 0]);
    }

    fn everything() -> Question {
        Question {
            node: "A".to_owned(),
            form: Form::Json,
            query: OracleQuery::default(),
            aggregate: None,
            chunk_rows: None,
            allow_partial: false,
        }
    }

    /// Goal: a result keeps its data while a node runs that has taken others. Method: F has had other data of a day, and took back
    /// its own while it ran, or was started anew.
    #[test]
    fn node_that_took_data_while_it_ran_has_those_before_too() {
        let changed = BTreeSet::from([20200821]);
        let lost_if = |keeping: &[&'static str]| {
            let trouble = Trouble { keeping: keeping.iter().copied().collect(), ..Trouble::default() };
            let pinned = Pinned { changed: &changed, revised: &changed };
            excuses(&everything(), Some(pinned), &Topology::six_nodes(), &trouble).days
        };
        assert_eq!(lost_if(&["F"]), BTreeSet::new());
        assert_eq!(lost_if(&[]), changed);
    }

    /// Goal: only what changed a moment ago, and is gone with the change, is lost. Method: F has had other data of two days, and D
    /// has them still, or not.
    #[test]
    fn day_is_lost_in_the_version_that_nobody_has_since_a_moment() {
        let changed = BTreeSet::from([20200821, 20200822]);
        let lost_with = |in_force: &[Fault], recent: &[Fault]| {
            let (in_force, recent) = (in_force.iter().collect(), recent.iter().collect());
            let trouble = Trouble { in_force, recent, ..Trouble::default() };
            lost(&everything(), &changed, &Topology::six_nodes(), &trouble)
        };
        let [of_d, of_f] = ["D", "F"].map(Fault::revise);
        let over = [of_f.clone(), Fault::crash("F")];
        assert_eq!(lost_with(&[], &over), changed, "F alone had them");
        assert_eq!(lost_with(&[of_d], &over), BTreeSet::new(), "D has them");
        assert_eq!(lost_with(&[of_f], &[]), BTreeSet::new(), "it is known for long");
        assert_eq!(lost_with(&[], &[Fault::crash("F")]), BTreeSet::new(), "nothing changed");
        let taken_back = Fault::replace("F");
        assert_eq!(
            lost_with(&[Fault::crash("F")], std::slice::from_ref(&taken_back)),
            changed,
            "they go with F"
        );
        assert_eq!(lost_with(&[], &[taken_back]), BTreeSet::new(), "F keeps them");
    }
}
