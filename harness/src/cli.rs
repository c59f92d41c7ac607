//! The command line of the harness: one file a command.

mod abandon;
mod bench;
mod failover;
mod fairness;
mod generate;
mod load;
mod mutants;
mod output;
mod policies;
mod replay;
mod scaling;
mod simulate;
mod soak;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "overlay-harness", version = overlay::VERSION, about = "Data, proofs and load for the overlay")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a seeded dataset in the shape of the AirNow files
    Generate(generate::Generate),
    /// Ask a running node many queries, check the answers and measure them
    Load(load::Load),
    /// Run random scenarios in virtual time until one fails
    Simulate(simulate::Simulate),
    /// Repeat a run that failed, step by step
    Replay(replay::Replay),
    /// Put faults into a copy of the node and see that its tests notice
    Mutants(mutants::Mutants),
    /// Kill and stop nodes, cut edges, and tell what clients see
    Failover(failover::Failover),
    /// Run processes under mixed load and random faults for a long time
    Soak(soak::Soak),
    /// Measure light clients beside one that asks for everything
    Fairness(fairness::Fairness),
    /// Let clients open queries and vanish, and see what is left of them
    Abandon(abandon::Abandon),
    /// Measure the overlay beside what is possible on this machine
    Bench(bench::Bench),
    /// Compare ways of sharing a node under one workload, in virtual time
    Policies(policies::Policies),
    /// Show how costs grow with the rows that an overlay holds, or with its nodes
    Scaling(scaling::Scaling),
}

/// Why a command ends without success.
enum Failure {
    /// It did what it was told, and that failed.
    Failed(Box<dyn Error>),
    /// The arguments, or the files that they name, cannot be understood.
    Usage(Box<dyn Error>),
}

impl Failure {
    fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Failure::Usage(error.into())
    }
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// Runs the command that the process was started with.
///
/// Exit codes: 0 done, 1 failed, 2 the arguments, or the files that they name, are not understood.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Generate(generate) => generate.run(),
        Command::Load(load) => load.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Replay(replay) => replay.run(),
        Command::Mutants(mutants) => mutants.run(),
        Command::Failover(failover) => failover.run(),
        Command::Soak(soak) => soak.run(),
        Command::Fairness(fairness) => fairness.run(),
        Command::Abandon(abandon) => abandon.run(),
        Command::Bench(bench) => bench.run(),
        Command::Policies(policies) => policies.run(),
        Command::Scaling(scaling) => scaling.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => report(error.as_ref(), 1),
        Err(Failure::Usage(error)) => report(error.as_ref(), 2),
    }
}

fn report(error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    ExitCode::from(code)
}
