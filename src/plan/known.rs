//! What is known of each day's holders: the inventories of all nodes turned round, once for all queries that follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::NodeId;
use crate::day::Day;
use crate::inventory::Snapshot;
use crate::placement::Placement;
use crate::store::{DayStatistics, Version};

/// Every owned day, with who serves what of it.
#[derive(Debug, Default)]
pub struct Known {
    days: BTreeMap<Day, KnownDay>,
}

/// What is known of one day's holders.
#[derive(Debug)]
pub(super) struct KnownDay {
    /// The team that owns it.
    pub(super) team: Arc<str>,
    /// Where it is placed.
    pub(super) holders: Vec<NodeId>,
    /// What each holder that serves says of it, in placement order, those that are marked last.
    pub(super) serving: Vec<Serving>,
    /// Those of `serving` that have the version of the first.
    pub(super) of_first_version: Arc<[NodeId]>,
    /// Whether some holder does not serve, or is marked.
    pub(super) lacks_some: bool,
}

/// A holder that serves.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) node: NodeId,
    pub(super) version: Version,
    pub(super) statistics: Arc<DayStatistics>,
    /// What it keeps of the data that these have replaced.
    pub(super) replaced: BTreeMap<Version, Arc<DayStatistics>>,
}

impl Serving {
    /// What the day is at a version, if the holder has that or keeps it.
    pub(super) fn at(&self, version: Version) -> Option<&DayStatistics> {
        let now = Some(&self.statistics).filter(|_| self.version == version);
        now.or_else(|| self.replaced.get(&version)).map(|statistics| &**statistics)
    }
}

impl Known {
    /// Turns the inventories of `snapshot` round.
    pub fn new(placement: &Placement, snapshot: &Snapshot) -> Self {
        let days = placement.days().map(|(day, team, holders)| (day, known(day, team, holders, snapshot)));
        Known { days: days.collect() }
    }

    /// Whether every holder of these days serves and none is marked.
    pub fn is_whole(&self, mut days: impl Iterator<Item = Day>) -> bool {
        days.all(|day| self.days.get(&day).is_some_and(|known| !known.lacks_some))
    }

    /// A day that a team owns.
    pub(super) fn day(&self, day: Day) -> Option<&KnownDay> {
        self.days.get(&day)
    }
}

fn known(day: Day, team: &NodeId, holders: &[NodeId], snapshot: &Snapshot) -> KnownDay {
    let is_marked = |node: &NodeId| snapshot.marked.contains_key(node);
    let serving = |node: &NodeId| {
        let inventory = snapshot.inventories.get(node).filter(|_| snapshot.serves(node))?;
        let of_day = inventory.days.get(&day)?;
        let (version, statistics) = (of_day.version, of_day.statistics.clone());
        Some(Serving { node: node.clone(), version, statistics, replaced: of_day.replaced.clone() })
    };
    let mut serving: Vec<Serving> = holders.iter().filter_map(serving).collect();
    serving.sort_by_key(|one| is_marked(&one.node));
    let first = serving.first().map(|first| first.version);
    let of_first_version = serving.iter().filter(|one| Some(one.version) == first);
    KnownDay {
        team: Arc::from(team.as_str()),
        holders: holders.to_vec(),
        of_first_version: of_first_version.map(|one| one.node.clone()).collect(),
        lacks_some: holders.iter().any(|node| !snapshot.serves(node) || is_marked(node)),
        serving,
    }
}
