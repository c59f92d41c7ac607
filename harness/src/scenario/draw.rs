//! What a random run consists of, as strategies of proptest, which shrink it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Scenario, Settings};
use crate::dataset::datasets;
use crate::topology::topologies;

/// Steps of a run, at most, before what it ends with.
const STEPS: usize = 40;

/// What a scenario may do to an overlay: what its driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happenings {
    /// Every fault, and time that passes: for a network and a clock that are simulated.
    All,
    /// Nodes that crash and come back: for real networks and clocks.
    Crashes,
}

/// One step before it is known what it can be about. `seed` decides the rest.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) seed: u64,
    /// The parts of a query that stay: about half, so that it finds something. It shrinks by losing more.
    pub(super) parts: [bool; 14],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One question, or several at once.
    Ask,
    /// A question whose result is kept.
    Open,
    /// Chunks of a kept result.
    Read,
    /// The end of a kept result.
    Cancel,
    /// Something goes wrong; or it ends, if enough is wrong.
    Fault,
    /// A node that is gone; or back, if one is.
    Crash,
    /// What went wrong first ends.
    Heal,
    /// Time passes.
    Wait,
}

/// Any scenario.
pub fn scenarios(happenings: Happenings) -> impl Strategy<Value = Scenario> {
    let steps = vec(drafts(happenings), 1..STEPS);
    (topologies(), datasets(20200810, 20200924), settings(), steps)
        .prop_map(|(topology, dataset, settings, drafts)| Scenario { topology, dataset, settings, drafts })
}

fn drafts(happenings: Happenings) -> impl Strategy<Value = Draft> {
    let always = [
        (Kind::Ask, 8),
        (Kind::Open, 3),
        (Kind::Read, 6),
        (Kind::Cancel, 1),
        (Kind::Crash, 2),
        (Kind::Heal, 2),
    ];
    let simulated = [(Kind::Fault, 4), (Kind::Wait, 2)];
    let kinds: Vec<Kind> = always
        .into_iter()
        .chain(simulated.into_iter().filter(|_| happenings == Happenings::All))
        .flat_map(|(kind, weight)| std::iter::repeat_n(kind, weight))
        .collect();
    let part = prop::bool::weighted(0.5);
    (select(kinds), any::<u64>().no_shrink(), proptest::array::uniform14(part))
        .prop_map(|(kind, seed, parts)| Draft { kind, seed, parts })
}

fn settings() -> impl Strategy<Value = Settings> {
    let forwarding = select(vec!["round_robin", "parallel", "capacity"]);
    let chunking = select(vec!["fixed", "adaptive", "query_based"]);
    let fairness = select(vec!["strict", "weighted", "hybrid"]);
    (forwarding, chunking, fairness, 1..300u32, any::<bool>()).prop_map(
        |(forwarding, chunking, fairness, chunk_size, caches_frames)| Settings {
            forwarding,
            chunking,
            fairness,
            chunk_size,
            caches_frames,
        },
    )
}
