//! The second version of a scenario's data, which nodes have while their data are revised, and which one an answer is of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use overlay::coverage::{Entry, Outcome};
use overlay::day::Day;
use overlay::load::{self, LoadOptions};
use overlay::placement::Placement;
use overlay::store::Version;
use serde_json::Value;
use tempfile::TempDir;

use super::PrepareError;
use super::ask::Answer;
use super::run::expected;
use super::step::Question;
use crate::dataset::revise;
use crate::oracle::{Oracle, OracleQuery, numerically_equal};
use crate::property::Expected;

/// Other data of the same days.
pub(super) struct Revision {
    /// What it holds.
    pub(super) oracle: Oracle,
    /// The days that differ, with their version here. Only the node knows how to make one of rows.
    versions: BTreeMap<u32, Version>,
    folder: TempDir,
}

impl Revision {
    /// Writes it beside the data below `root`, which `oracle` has read.
    pub(super) fn of(oracle: &Oracle, root: &Path, seed: u64) -> Result<Self, PrepareError> {
        let folder = crate::scratch::folder()?;
        revise(root, folder.path(), seed)?;
        let revised = Oracle::read(folder.path(), oracle.teams())?;
        let day = |day: u32| Day::from_number(day.into()).expect("a day of the dataset");
        let days: BTreeSet<Day> = oracle.days_that_differ(&revised).into_iter().map(day).collect();
        let loaded = load::load(folder.path(), &days, &LoadOptions::default(), &|_| {})?;
        let versions = loaded.store.days().map(|batch| (batch.day.number(), batch.version)).collect();
        Ok(Revision { oracle: revised, versions, folder })
    }

    /// Where its files are.
    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The days that have another version.
    pub(super) fn changed(&self) -> BTreeSet<u32> {
        self.versions.keys().copied().collect()
    }

    /// The days that a ledger says are of this version.
    pub(super) fn revised_in(&self, ledger: &[Entry]) -> BTreeSet<u32> {
        let is_revised = |entry: &&Entry| {
            let version = match &entry.outcome {
                Outcome::Served(served) => served.version,
                Outcome::Pruned { version, .. } => *version,
                _ => return false,
            };
            self.versions.get(&entry.day.number()) == Some(&version)
        };
        ledger.iter().filter(is_revised).map(|entry| entry.day.number()).collect()
    }

    /// The days that a ledger does not have in the version of their first holder. `is_revised` tells whether a node has
    /// this one.
    pub(super) fn against_first_holders(
        &self,
        ledger: &[Entry],
        placement: &Placement,
        is_revised: impl Fn(&str) -> bool,
    ) -> BTreeSet<u32> {
        let revised = self.revised_in(ledger);
        let has_version =
            |entry: &&Entry| matches!(entry.outcome, Outcome::Served(_) | Outcome::Pruned { .. });
        let is_against = |entry: &&Entry| {
            let first = placement.holders(entry.day).first();
            let day = entry.day.number();
            self.versions.contains_key(&day)
                && first.is_some_and(|first| is_revised(first.as_str()) != revised.contains(&day))
        };
        ledger.iter().filter(has_version).filter(is_against).map(|entry| entry.day.number()).collect()
    }

    /// The days whose rows in an answer without a ledger are those of this version, and not the others.
    pub(super) fn revised_by_rows(
        &self,
        old: &Oracle,
        question: &Question,
        answer: &Answer,
    ) -> BTreeSet<u32> {
        let all = Question {
            query: OracleQuery { limit: Some(usize::MAX), ..question.query.clone() },
            ..question.clone()
        };
        let [found, old, revised] = [
            by_day(&answer.rows),
            by_day(&rows(expected(old, &all, &BTreeSet::new()))),
            by_day(&rows(expected(&self.oracle, &all, &BTreeSet::new()))),
        ];
        let last = found.keys().next_back().cloned();
        let fits = |day: &str, version: &BTreeMap<String, Vec<Value>>| {
            let [found, expected] = [&found, version].map(|of| of.get(day).map_or(&[][..], Vec::as_slice));
            let is_whole = last.as_deref() == Some(day) || found.len() == expected.len();
            let starts = found.iter().zip(expected).all(|(left, right)| numerically_equal(left, right));
            is_whole && starts && found.len() <= expected.len()
        };
        let is_revised = |day: &u32| {
            let day = day.to_string();
            fits(&day, &revised) && !fits(&day, &old)
        };
        self.changed().into_iter().filter(is_revised).collect()
    }
}

fn rows(expected: Vec<Expected>) -> Vec<Value> {
    expected.into_iter().map(|expected| expected.row).collect()
}

fn by_day(rows: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut days: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in rows {
        let day = row["date"].as_str().unwrap_or_default();
        days.entry(day.to_owned()).or_default().push(row.clone());
    }
    days
}
