//! What a failed run prints: enough to mend the bug without running it again.

use std::fmt;
use std::process::Command;

use crate::property::Violation;
use crate::scenario::RunOn;
use crate::scenario::shrink::Verdicts;

/// The first step of a run after which something does not hold. It knows no seed: see [`Reported`].
#[derive(Clone, Debug)]
pub struct Failure {
    /// What does not hold.
    pub violation: Violation,
    /// The step's number, from 1; 0 before the first.
    pub step: usize,
    /// How many steps the run would have had.
    pub steps: usize,
    /// The step in words.
    pub step_words: String,
    /// The overlay's drawing.
    pub topology: String,
    /// The configuration beside the topology.
    pub settings: String,
    /// How much data there was.
    pub data: String,
    /// What was wrong at the time, each with the step at which it began.
    pub faults: Vec<(String, usize)>,
    /// What each node said of itself afterwards, a line each.
    pub nodes: String,
}

/// A failure and where it comes from. Its `Display` is the report.
#[derive(Clone, Debug)]
pub struct Reported {
    /// What failed.
    pub failure: Failure,
    /// The seed of the run.
    pub seed: u64,
    /// What it was performed on.
    pub on: RunOn,
    /// What leads from the seed's run to the one that failed.
    pub shrunk: Verdicts,
}

impl Reported {
    /// The command that repeats it.
    fn replay(&self) -> String {
        let Reported { failure, seed, on, shrunk } = self;
        let mut command = format!("cargo run --bin overlay-harness -- replay --seed {seed:#x}");
        if *on != RunOn::Simulated {
            command += &format!(" --driver {on}");
        }
        if !shrunk.is_empty() {
            command += &format!(" --shrunk {shrunk}");
        }
        command + &format!(" --steps {}", failure.step)
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { violation, step, steps, step_words, topology, settings, data, faults, nodes } =
            &self.failure;
        let Violation { property, difference } = violation;
        let faults: Vec<String> =
            faults.iter().map(|(fault, since)| format!("{fault} since step {since}")).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join("; ") };
        writeln!(formatter, "property `{property}` failed at step {step} of {steps}")?;
        writeln!(formatter, "  seed       {:#x}  commit {}  driver {}", self.seed, commit(), self.on)?;
        writeln!(formatter, "  topology   {topology}")?;
        writeln!(formatter, "  settings   {settings}")?;
        writeln!(formatter, "  data       {data}")?;
        writeln!(formatter, "  fault      {faults}")?;
        writeln!(formatter, "  step       {step_words}")?;
        writeln!(formatter, "  difference {difference}")?;
        writeln!(formatter, "  nodes      {}", nodes.replace('\n', "\n             "))?;
        write!(formatter, "  replay     {}", self.replay())
    }
}

/// The commit that the working folder is at, and whether it was changed since.
fn commit() -> String {
    let described = Command::new("git").args(["describe", "--always", "--dirty", "--exclude", "*"]).output();
    let described = described.ok().filter(|described| described.status.success());
    described.map_or_else(
        || "unknown".to_owned(),
        |described| String::from_utf8_lossy(&described.stdout).trim().to_owned(),
    )
}
