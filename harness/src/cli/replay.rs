//! `overlay-harness replay`: one random run again, in words.

use clap::Args;

use super::Failure;
use crate::report::Reported;
use crate::scenario::shrink::{Verdicts, follow};
use crate::scenario::{RunOn, Scenario};

/// Takes the options that a failure prints. Every step is printed before it begins.
#[derive(Args)]
pub(super) struct Replay {
    /// Seed of the run, as decimal or hexadecimal number
    #[arg(long, value_parser = seed)]
    seed: u64,
    /// What leads from the seed's run to the smaller one that failed
    #[arg(long, value_name = "VERDICTS", default_value = "", hide_default_value = true)]
    shrunk: Verdicts,
    /// Stop after this step, to see the run before the one that fails; all if left out
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// What the run was drawn for: from the same seed another driver draws another run
    #[arg(long, value_enum, default_value_t = RunOn::Simulated)]
    driver: RunOn,
}

/// A number that may be written as `0x51f2`.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no seed: expected a number below 2^64, decimal or as 0x51f2"))
}

impl Replay {
    /// Prints the run, and the report if it fails again.
    pub(super) fn run(self) -> Result<(), Failure> {
        let Replay { seed, shrunk, steps, driver: on } = self;
        let scenario: Scenario = follow(seed, on, &shrunk);
        let prepared = scenario.prepare()?;
        println!("driver     {on}");
        println!("topology   {}", prepared.topology);
        println!("settings   {}", scenario.settings);
        println!("data       {}", prepared.data());
        let ran = prepared.run(&on.driver(seed), steps.unwrap_or(usize::MAX), &mut |at, number, step| {
            println!("step {number:<3} {:>9.3} s  {step}", at.as_secs_f64());
        });
        let held = ran.map_err(|failure| Reported { failure: *failure, seed, on, shrunk }.to_string())?;
        println!("{} of {} steps hold: {}", held.done_at.len(), prepared.steps.len(), held.tally);
        Ok(())
    }
}
