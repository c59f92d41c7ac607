//! `overlay-harness mutants`: whether the tests notice faults that were put into the node on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use super::Failure;
use crate::mutants::{Killer, Mutant, Verdict, WorkingCopy};

/// Works in a copy below `target/mutants`, which stays, so that a second run builds little.
#[derive(Args)]
#[command(after_help = "\
Examples:
  scripts/mutants
  scripts/mutants lease-is-forgotten hops-are-ignored

The tests of the list run without any fault first, and must pass. Then each fault is put in, and each of its tests \
must fail. The list stands in harness/src/mutants/list.md.

Exit codes: 0 all were killed; 1 one was not, or a test fails without a fault; 2 the arguments are not understood.")]
pub(super) struct Mutants {
    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Mutants {
    /// Tries them out one after the other and prints what became of each.
    pub(super) fn run(self) -> Result<(), Failure> {
        let mutants = self.chosen().map_err(Failure::usage)?;
        let started = Instant::now();
        let copy = WorkingCopy::of(&project())?;
        let killers = killers(&mutants);
        let mut bad = 0;
        for (killer, verdict) in killers.iter().zip(copy.check(&killers)?) {
            let is_good = verdict == Verdict::Passed;
            bad += usize::from(!is_good);
            let what = if is_good { "passes" } else { "NOT GREEN" };
            println!("{what:9} without a fault: {} ({} tests)", killer.target, killer.tests.len());
            explain(&verdict);
        }
        println!("{:9} after {} s", "", started.elapsed().as_secs());
        for mutant in &mutants {
            let asked = Instant::now();
            for (Killer { target, tests }, verdict) in mutant.killers.iter().zip(copy.try_out(mutant)?) {
                bad += usize::from(verdict != Verdict::Failed);
                println!("{:9} {}: {target} {}", word(&verdict), mutant.name, tests.join(" "));
                explain(&verdict);
            }
            println!("{:9} after {} s", "", asked.elapsed().as_secs());
        }
        let seconds = started.elapsed().as_secs();
        println!("{} mutants in {} min {} s", mutants.len(), seconds / 60, seconds % 60);
        match bad {
            0 => Ok(()),
            bad => Err(format!("{bad} of these lines are not as they should be").into()),
        }
    }

    fn chosen(&self) -> Result<Vec<Mutant>, String> {
        let all = Mutant::all();
        let is_there = |name: &&String| all.iter().any(|mutant| mutant.name == **name);
        if let Some(unknown) = self.names.iter().find(|name| !is_there(name)) {
            return Err(format!(
                "unknown mutant `{unknown}` (see the headings of harness/src/mutants/list.md)"
            ));
        }
        let is_chosen = |mutant: &Mutant| self.names.is_empty() || self.names.contains(&mutant.name);
        Ok(all.into_iter().filter(is_chosen).collect())
    }
}

/// The folder that this command was built in.
fn project() -> PathBuf {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.parent().unwrap_or(harness).to_owned()
}

/// Every test of `mutants` once, by target.
fn killers(mutants: &[Mutant]) -> Vec<Killer> {
    let mut by_target: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Killer { target, tests } in mutants.iter().flat_map(|mutant| &mutant.killers) {
        by_target.entry(target).or_default().extend(tests.iter().map(String::as_str));
    }
    let killer = |(target, tests): (&str, BTreeSet<&str>)| Killer {
        target: target.to_owned(),
        tests: tests.into_iter().map(str::to_owned).collect(),
    };
    by_target.into_iter().map(killer).collect()
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Failed => "killed",
        Verdict::Passed | Verdict::SomePassed(_) => "SURVIVED",
        Verdict::DoesNotApply => "NO PLACE",
        Verdict::DoesNotCompile(_) => "NO BUILD",
        Verdict::Unclear(_) => "UNCLEAR",
    }
}

/// What is to be known about a verdict beside its word.
fn explain(verdict: &Verdict) {
    match verdict {
        Verdict::Passed | Verdict::Failed => {}
        Verdict::SomePassed(tests) => println!("  passed nevertheless: {}", tests.join(" ")),
        Verdict::DoesNotApply => println!("  its lines are not in the file, or more than once"),
        Verdict::DoesNotCompile(said) | Verdict::Unclear(said) => {
            said.lines().for_each(|line| println!("  | {line}"));
        }
    }
}
