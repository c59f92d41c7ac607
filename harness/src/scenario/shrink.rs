//! From a seed to a scenario, and from one that fails to the smallest that does.
//!
//! proptest draws and simplifies. Which of the simpler scenarios fail, in the order tried, is all that a seed leaves
//! open: these verdicts lead back to the smallest one at once, without running any other.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::{RunOn, Scenario, scenarios};

/// Simpler scenarios that are tried, at most, and how long.
const TRIES: usize = 400;
const TRY_FOR: Duration = Duration::from_secs(60);

/// What became of simpler scenarios, in the order tried: `f` failed too, `p` passed. Written with repetitions as
/// numbers: `3fp` is `fffp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(Vec<bool>);

/// The scenario of a seed.
pub fn draw(seed: u64, on: RunOn) -> Scenario {
    tree(seed, on).current()
}

/// The scenario that verdicts lead to.
pub fn follow(seed: u64, on: RunOn, verdicts: &Verdicts) -> Scenario {
    let mut verdicts = verdicts.0.iter();
    descend(seed, on, |_| verdicts.next().copied()).0
}

/// The smallest scenario found that `fails`, given that the seed's does, and the verdicts that lead to it.
pub fn smallest(seed: u64, on: RunOn, mut fails: impl FnMut(&Scenario) -> bool) -> (Scenario, Verdicts) {
    let end = Instant::now() + TRY_FOR;
    let mut tries = 0;
    descend(seed, on, |simpler| {
        tries += 1;
        (tries <= TRIES && Instant::now() < end).then(|| fails(simpler))
    })
}

/// Simplifies as long as there is something simpler and a verdict on it; gives the last one that failed.
fn descend(seed: u64, on: RunOn, mut verdict: impl FnMut(&Scenario) -> Option<bool>) -> (Scenario, Verdicts) {
    let mut tree = tree(seed, on);
    let mut smallest = tree.current();
    // What comes after the last failure leads nowhere.
    let (mut tried, mut useful) = (Vec::new(), 0);
    let mut is_simpler = tree.simplify();
    while is_simpler {
        let simpler = tree.current();
        let Some(fails) = verdict(&simpler) else { break };
        tried.push(fails);
        is_simpler = if fails {
            (smallest, useful) = (simpler, tried.len());
            tree.simplify()
        } else {
            tree.complicate()
        };
    }
    tried.truncate(useful);
    (smallest, Verdicts(tried))
}

fn tree(seed: u64, on: RunOn) -> impl ValueTree<Value = Scenario> {
    let config = Config { rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    scenarios(on).new_tree(&mut TestRunner::new(config)).expect("nothing is rejected")
}

impl Verdicts {
    /// Whether they lead to the seed's own scenario.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for equal in self.0.chunk_by(|left, right| left == right) {
            let letter = if equal[0] { 'f' } else { 'p' };
            match equal.len() {
                1 => write!(formatter, "{letter}")?,
                count => write!(formatter, "{count}{letter}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Verdicts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut verdicts = Vec::new();
        let mut count = String::new();
        for letter in text.chars() {
            match letter {
                '0'..='9' => count.push(letter),
                'f' | 'p' => {
                    let times = if count.is_empty() { Ok(1) } else { count.parse() };
                    let times = times.ok().filter(|times| *times <= TRIES);
                    let times = times.ok_or_else(|| format!("`{count}` verdicts, at most are {TRIES}"))?;
                    verdicts.extend(std::iter::repeat_n(letter == 'f', times));
                    count.clear();
                }
                other => {
                    return Err(format!("`{other}` is no verdict: expected f, p and numbers, as in `3fp`"));
                }
            }
        }
        match count.as_str() {
            "" => Ok(Verdicts(verdicts)),
            count => Err(format!("the number {count} at the end has no verdict after it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_read_as_they_are_written() {
        let verdicts = Verdicts(vec![true, true, true, false, true]);
        assert_eq!(verdicts.to_string(), "3fpf");
        assert_eq!("3fpf".parse(), Ok(verdicts));
        assert_eq!("".parse(), Ok(Verdicts::default()));
        for mistake in ["3", "x", "401f", "99999999999999999999f"] {
            assert!(mistake.parse::<Verdicts>().is_err(), "{mistake}");
        }
    }

    /// Method: the first property that comes to mind, so that the smallest scenario is known: it needs three nodes.
    #[test]
    fn verdicts_lead_to_the_smallest_scenario_again() {
        let fails = |scenario: &Scenario| scenario.topology.build().nodes.len() >= 3;
        let seed = (0..).find(|seed| fails(&draw(*seed, RunOn::Simulated))).unwrap();
        let (found, verdicts) = smallest(seed, RunOn::Simulated, fails);
        assert_eq!(found.topology.build().nodes.len(), 3, "{}", found.topology.build());
        assert_eq!(found.dataset.sites, 1);
        let again = follow(seed, RunOn::Simulated, &verdicts.to_string().parse().unwrap());
        assert_eq!(format!("{again:?}"), format!("{found:?}"));
    }
}
