//! Topologies drawn as text: one line for a report, a tree for a person.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::Topology;

/// `A -> B(C, D), E(F, D)`: the leader, then its children with theirs in brackets. A node that is reached again is
/// named only, behind those that are new. The alternate form, `{:#}`, is a tree of lines with role and team.
impl fmt::Display for Topology {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = Below::of(self);
        let children: Vec<String> = below.children(self.leader()).map(|child| below.inline(child)).collect();
        match formatter.alternate() {
            false => write!(formatter, "{} -> {}", self.leader(), children.join(", ")),
            true => {
                writeln!(formatter, "{}", self.caption(self.leader()))?;
                self.draw(formatter, &below, self.leader(), "")
            }
        }
    }
}

impl Topology {
    fn caption(&self, id: &str) -> String {
        let found = self.nodes.iter().find(|node| node.id == id);
        found.map_or_else(String::new, |node| format!("{id} {} {}", node.role, node.team))
    }

    fn draw(&self, formatter: &mut fmt::Formatter<'_>, below: &Below, id: &str, indent: &str) -> fmt::Result {
        let children: Vec<(&str, bool)> = below.children(id).collect();
        for (index, &(child, is_new)) in children.iter().enumerate() {
            let (branch, rest) =
                if index + 1 < children.len() { ("├─ ", "│  ") } else { ("└─ ", "   ") };
            if is_new {
                writeln!(formatter, "{indent}{branch}{}", self.caption(child))?;
                self.draw(formatter, below, child, &format!("{indent}{rest}"))?;
            } else {
                writeln!(formatter, "{indent}{branch}{child} (see above)")?;
            }
        }
        Ok(())
    }
}

/// The nodes below each node: those that it reaches first, and those at the next distance that another did.
struct Below<'a> {
    first_reached: BTreeMap<&'a str, Vec<&'a str>>,
    again: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Below<'a> {
    /// Breadth first from the leader.
    fn of(topology: &'a Topology) -> Self {
        let mut below = Below { first_reached: BTreeMap::new(), again: BTreeMap::new() };
        let mut distances = BTreeMap::from([(topology.leader(), 0)]);
        let mut queue = VecDeque::from([topology.leader()]);
        let mut drawn_from = BTreeSet::new();
        while let Some(id) = queue.pop_front() {
            drawn_from.insert(id);
            let distance = distances[id];
            for neighbour in topology.neighbours(id) {
                match distances.get(neighbour) {
                    None => {
                        distances.insert(neighbour, distance + 1);
                        queue.push_back(neighbour);
                        below.first_reached.entry(id).or_default().push(neighbour);
                    }
                    // An edge within one distance is drawn once, from the node that came first.
                    Some(_) if drawn_from.contains(neighbour) => {}
                    Some(_) => below.again.entry(id).or_default().push(neighbour),
                }
            }
        }
        below
    }

    /// The nodes below, and whether each is reached here first.
    fn children(&self, id: &str) -> impl Iterator<Item = (&'a str, bool)> {
        let list = |lists: &BTreeMap<&'a str, Vec<&'a str>>, is_new: bool| {
            let ids = lists.get(id).cloned().unwrap_or_default();
            ids.into_iter().map(move |id| (id, is_new))
        };
        list(&self.first_reached, true).chain(list(&self.again, false))
    }

    fn inline(&self, (id, is_new): (&str, bool)) -> String {
        let children: Vec<String> = self.children(id).map(|child| self.inline(child)).collect();
        match is_new && !children.is_empty() {
            true => format!("{id}({})", children.join(", ")),
            false => id.to_owned(),
        }
    }
}
