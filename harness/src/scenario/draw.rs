//! What a random run consists of, as strategies of proptest, which shrink it.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Scenario, Settings};
use crate::cluster::Driver;
use crate::dataset::datasets;
use crate::topology::topologies;

/// A run has fewer steps than this, and what it ends with.
const STEPS: usize = 40;

/// What random runs are performed on, which decides what can happen in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RunOn {
    /// Virtual time, a simulated network: every fault, and the same bytes on every run
    #[value(name = "sim")]
    Simulated,
    /// Tasks over TCP on loopback: nodes that crash and come back
    InProcess,
}

impl RunOn {
    /// The driver of the run of a seed.
    pub fn driver(self, seed: u64) -> Driver {
        match self {
            RunOn::Simulated => Driver::Simulated { seed },
            RunOn::InProcess => Driver::InProcess,
        }
    }
}

impl fmt::Display for RunOn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            RunOn::Simulated => "sim",
            RunOn::InProcess => "in-process",
        })
    }
}

/// One step before it is known what it can be about. `seed` decides the rest.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) seed: u64,
    /// The parts of a query that stay: about half, so that it finds something. It shrinks by losing more.
    pub(super) parts: [bool; 14],
    /// What makes a step less plain.
    pub(super) extras: Extras,
}

/// Each shrinks to `false`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extras {
    /// Several questions at once.
    pub(super) several: bool,
    /// Asked of any node, not of the leader.
    pub(super) elsewhere: bool,
    /// Groups, not rows.
    pub(super) aggregate: bool,
    /// Days may be missing.
    pub(super) partial: bool,
    /// Chunks of a size that the question names.
    pub(super) chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One question, or several at once.
    Ask,
    /// Many questions at once.
    Flood,
    /// A question whose result is kept.
    Open,
    /// Chunks of a kept result.
    Read,
    /// The end of a kept result.
    Cancel,
    /// Something goes wrong; or it ends, if enough is wrong.
    Fault,
    /// A node that takes other data while somebody asks, and a result that keeps its own; or what went wrong first ends, if enough is wrong.
    Replace,
    /// A node that is gone; or back, if one is.
    Crash,
    /// What went wrong first ends.
    Heal,
    /// Time passes.
    Wait,
    /// A client that asks and goes away.
    Vanish,
    /// A node is told to stop, and started again.
    Restart,
}

/// Any scenario.
pub fn scenarios(on: RunOn) -> impl Strategy<Value = Scenario> {
    let steps = vec(drafts(on), 1..STEPS);
    (topologies(), datasets(20200810, 20200924), any::<u64>().no_shrink(), settings(), steps).prop_map(
        |(topology, dataset, revision, settings, drafts)| Scenario {
            topology,
            dataset,
            revision,
            settings,
            drafts,
        },
    )
}

fn drafts(on: RunOn) -> impl Strategy<Value = Draft> {
    let always = [
        (Kind::Ask, 8),
        (Kind::Flood, 2),
        (Kind::Open, 3),
        (Kind::Read, 6),
        (Kind::Cancel, 1),
        (Kind::Crash, 2),
        (Kind::Heal, 2),
        (Kind::Vanish, 2),
        (Kind::Restart, 1),
    ];
    let simulated = [(Kind::Fault, 8), (Kind::Replace, 3), (Kind::Wait, 2)];
    let kinds: Vec<Kind> = always
        .into_iter()
        .chain(simulated.into_iter().filter(|_| on == RunOn::Simulated))
        .flat_map(|(kind, weight)| std::iter::repeat_n(kind, weight))
        .collect();
    let parts = proptest::array::uniform14(prop::bool::weighted(0.5));
    let extras = proptest::array::uniform5(prop::bool::weighted(0.3)).prop_map(
        |[several, elsewhere, aggregate, partial, chunked]| Extras {
            several,
            elsewhere,
            aggregate,
            partial,
            chunked,
        },
    );
    (select(kinds), any::<u64>().no_shrink(), parts, extras).prop_map(|(kind, seed, parts, extras)| Draft {
        kind,
        seed,
        parts,
        extras,
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let forwarding = select(vec!["round_robin", "parallel", "capacity"]);
    let chunking = select(vec!["fixed", "adaptive", "query_based"]);
    let fairness = select(vec!["strict", "weighted", "hybrid"]);
    let chunk_bytes = prop_oneof![Just(1u32 << 20), 4_096..10_000u32];
    let queue_length = prop_oneof![Just(1_000u32), 0..4u32];
    let short_rows = prop_oneof![Just(0u32), 1..400u32];
    let limits = (5..300u32, chunk_bytes, 1..5u32, queue_length, 1..200u32, short_rows);
    let cache_bytes = prop_oneof![Just(None), Just(Some(0)), (1_000..20_000u32).prop_map(Some)];
    let times = select(vec![(30_000, 1_000), (30_000, 3_000), (6_000, 1_000)]);
    (forwarding, chunking, fairness, limits, times, cache_bytes).prop_map(
        |(
            forwarding,
            chunking,
            fairness,
            (chunk_size, chunk_bytes, slots, queue_length, quantum_rows, short_rows),
            (query_ms, keepalive_ms),
            cache_bytes,
        )| {
            Settings {
                forwarding,
                chunking,
                fairness,
                chunk_size,
                chunk_bytes,
                slots,
                queue_length,
                quantum_rows,
                short_rows,
                query_ms,
                keepalive_ms,
                cache_bytes,
            }
        },
    )
}
