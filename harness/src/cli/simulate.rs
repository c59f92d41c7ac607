//! `overlay-harness simulate`: random scenarios, as many as one has time for.

use std::time::Instant;

use clap::Args;

use super::Failure;
use super::replay::seed;
use crate::scenario::{RunOn, Tally, hold};

/// Each scenario has the seed after that of the one before.
#[derive(Args)]
pub(super) struct Simulate {
    /// Seed of the first scenario; drawn if left out
    #[arg(long, value_parser = seed)]
    seed: Option<u64>,
    /// Scenarios to run
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    scenarios: u64,
}

impl Simulate {
    /// Stops at the first scenario that fails.
    pub(super) fn run(self) -> Result<(), Failure> {
        // Short enough to be typed.
        let first = self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let began = Instant::now();
        let mut tally = Tally::default();
        for number in 0..self.scenarios {
            let seed = first.wrapping_add(number);
            let held = hold(seed, RunOn::Simulated);
            tally += held.map_err(|reported| reported.to_string())?;
            if (number + 1) % 10 == 0 {
                eprintln!("{} of {} scenarios hold, {:.0?}", number + 1, self.scenarios, began.elapsed());
            }
        }
        println!("{} scenarios hold, from seed {first:#x} on: {tally}", self.scenarios);
        Ok(())
    }
}
