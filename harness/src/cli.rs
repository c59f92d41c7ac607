//! The command line of the harness: one file a command.

mod generate;
mod load;
mod mutants;
mod policies;
mod replay;
mod simulate;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "overlay-harness", about = "Data, proofs and load for the overlay")]
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
    /// Compare ways of sharing a node under one workload, in virtual time
    Policies(policies::Policies),
}

/// Runs the command that the process was started with.
///
/// Exit codes: 0 done, 1 failed, 2 the arguments are not understood.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Generate(generate) => generate.run(),
        Command::Load(load) => load.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Replay(replay) => replay.run(),
        Command::Mutants(mutants) => mutants.run(),
        Command::Policies(policies) => policies.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn report(error: &dyn Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
}
