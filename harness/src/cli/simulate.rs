//! `overlay-harness simulate`: random scenarios, as many as one has time for.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write as _, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use clap::Args;

use super::Failure;
use super::replay::seed;
use crate::report::Reported;
use crate::scenario::{RunOn, Tally, hold};

/// Each scenario has the seed after that of the one before.
#[derive(Args)]
pub(super) struct Simulate {
    /// Seed of the first scenario; drawn if left out
    #[arg(long, value_parser = seed)]
    seed: Option<u64>,
    /// Scenarios to run, one a seed
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Scenarios that run at the same time, each on a thread of its own; the cores if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// What came of a seed: its number among those asked for, and whether it held.
type Outcome = (u64, Result<Tally, Box<Reported>>);

impl Simulate {
    /// Stops at the first seed that fails: first in the order of seeds, whichever was done first.
    pub(super) fn run(self) -> Result<(), Failure> {
        // Short enough to be typed.
        let first = self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.map_or_else(cores, usize::from);
        let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let tally = std::thread::scope(|scope| {
            let (done, outcomes) = channel();
            for _ in 0..jobs {
                let (done, next, failed) = (done.clone(), &next, &failed);
                scope.spawn(move || work(first, self.seeds, next, failed, &done));
            }
            drop(done);
            in_order(outcomes.into_iter(), self.seeds)
        });
        let tally = tally.map_err(|reported| reported.to_string())?;
        println!("{} seeds hold, from {first:#x} on: {tally}", self.seeds);
        Ok(())
    }
}

/// Runs one seed after the other until none is left, or one has failed.
fn work(first: u64, seeds: u64, next: &AtomicU64, failed: &AtomicBool, done: &Sender<Outcome>) {
    while !failed.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= seeds {
            return;
        }
        let held = hold(first.wrapping_add(number), RunOn::Simulated);
        if held.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        // Nobody takes it any more once an earlier seed has failed.
        let _ = done.send((number, held));
    }
}

/// Adds up what held, in the order of seeds, up to the first that did not.
fn in_order(outcomes: impl Iterator<Item = Outcome>, seeds: u64) -> Result<Tally, Box<Reported>> {
    let began = Instant::now();
    let (mut tally, mut held, mut early) = (Tally::default(), 0, BTreeMap::new());
    for (number, outcome) in outcomes {
        early.insert(number, outcome);
        while let Some(outcome) = early.remove(&held) {
            tally += outcome?;
            held += 1;
        }
        if stderr().is_terminal() {
            let end = if held == seeds { "\n" } else { "" };
            let _ = write!(stderr(), "\r{held} of {seeds} seeds hold, {:.0?}{end}", began.elapsed());
        }
    }
    Ok(tally)
}
