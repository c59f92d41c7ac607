//! Whether an overlay in which something is wrong still has a way to answer: over every edge and node that is left.

use std::collections::BTreeSet;

use super::step::Question;
use crate::fault::Fault;
use crate::topology::Topology;

/// Whether a question has to be answered all the same.
///
/// Only crashed nodes and network partitions leave that to the graph; what is slow, lossy or hanging may cost more time
/// than there is. Where days lie on some members only, all members of a team are asked for: that is enough, if not needed.
pub(super) fn must_be_answered(question: &Question, topology: &Topology, faults: &[&Fault]) -> bool {
    let is_clear_cut = |fault: &&Fault| matches!(fault, Fault::Crash { .. } | Fault::Partition(_));
    let reached = reached(&question.node, topology, faults);
    let teams = topology.teams.iter().filter(|team| {
        let query = &question.query;
        query.team.as_ref().is_none_or(|wanted| *wanted == team.name)
            && query.date_start.is_none_or(|first| first <= team.last_day)
            && query.date_end.is_none_or(|last| last >= team.first_day)
    });
    let mut teams =
        teams.map(|team| topology.members(&team.name).map(|member| reached.contains(&*member.id)));
    faults.iter().all(is_clear_cut)
        && reached.contains(&*question.node)
        && teams.all(|mut members| match topology.replicas {
            None => members.any(|is_reached| is_reached),
            Some(_) => members.all(|is_reached| is_reached),
        })
}

/// The nodes that live and that a way leads to; not even the first one, if that is gone.
fn reached<'a>(from: &'a str, topology: &'a Topology, faults: &[&Fault]) -> BTreeSet<&'a str> {
    let lives =
        |node: &str| !faults.iter().any(|fault| matches!(fault, Fault::Crash { node: gone } if gone == node));
    let passes = |left: &str, right: &str| {
        !faults.iter().any(|fault| matches!(fault, Fault::Partition(link) if link.joins(left, right)))
    };
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(node) = next.pop() {
        if lives(node) && reached.insert(node) {
            next.extend(topology.neighbours(node).into_iter().filter(|other| passes(node, other)));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(reached_with(&[Fault::partition("A", "E"), Fault::crash("D")]), ["A", "B", "C"]);
        assert_eq!(reached_with(&[Fault::crash("A")]), [""; 0]);
    }
}
