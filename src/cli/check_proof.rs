//! `overlay check-proof`: a saved proof against the files, without any node.
//!
//! What the overlay said is computed again from the files alone, by loading, scanning and encoding: each day's
//! version, the rows that match and were taken, and the bytes of every frame.

mod frames;

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;

use clap::Args;

use super::output::{Output, counted};
use super::proof::{FrameRecord, Proof, parsed};
use super::table::thousands;
use super::{Failure, check_dataset_root};
use crate::coverage::{self, Entry, Outcome, Served};
use crate::day::Day;
use crate::load::{self, LoadOptions};
use crate::plan::Query;
use crate::scan::{self, BoundPredicate};
use crate::store::{Digest, Store, Version};

/// Differences that are shown one by one: with the wrong dataset everything differs.
const DIFFERENCES_SHOWN: usize = 10;

/// Verify a saved proof against the files, offline.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay query PM2.5 5 35 --all --proof pm25.proof.json --output pm25.csv
  overlay check-proof pm25.proof.json --dataset-root DIR

Checked are: the ledger accounts for every planned day and adds up to the manifest; each day's data version; \
rows matched and rows taken; pruned days have no match; days called empty have no files; every frame's bytes, \
encoded again, have the digest that the client got. Whether days were planned that should have been is a \
matter of the configuration, which a proof does not hold.

Exit codes: 0 the proof holds, of a partial result for the days that it has; 3 it does not, and the first differences are \
named; 2 it cannot be read, or is no proof, or the folder holds no day.")]
pub(crate) struct CheckProof {
    /// A file that `overlay query --proof` wrote
    #[arg(value_name = "FILE")]
    proof: PathBuf,
    /// Where the day folders are
    #[arg(long, value_name = "DIR")]
    dataset_root: PathBuf,
}

impl CheckProof {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let name = self.proof.display();
        let help = "`overlay query --proof FILE` writes a proof";
        let text = std::fs::read_to_string(&self.proof)
            .map_err(|error| Failure::usage(format!("cannot read `{name}`: {error}"), help))?;
        let claim = Proof::read(&text).and_then(Claim::new);
        let claim =
            claim.map_err(|error| Failure::usage(format!("`{name}` is not a proof: {error}"), help))?;
        // A day beyond the limit, or missing, says nothing about the files.
        let says_something =
            |entry: &&Entry| !matches!(entry.outcome, Outcome::BeyondLimit | Outcome::Missing { .. });
        let days: BTreeSet<Day> = claim.ledger.iter().filter(says_something).map(|entry| entry.day).collect();
        // A wrong folder is a mistake of the caller's, not a proof that does not hold.
        check_dataset_root(&self.dataset_root)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let options = LoadOptions { threads, ..LoadOptions::default() };
        let loaded = load::load(&self.dataset_root, &days, &options, &|_| {})?;
        let report = check(&claim, &loaded.store);
        let mut out = Output::stdout();
        for line in report.lines(&claim) {
            writeln!(out, "{line}")?;
        }
        out.finish()?;
        if report.differences.is_empty() { Ok(()) } else { Err(Failure::CheckFailed) }
    }
}

/// Holds a proof's text against the days of a store; gives what was checked and what differs, in lines.
///
/// # Errors
/// What is wrong with the text, if it is no proof.
pub fn check_proof(text: &str, store: &Store) -> Result<(Vec<String>, Vec<String>), String> {
    let report = check(&Proof::read(text).and_then(Claim::new)?, store);
    Ok((report.checked, report.differences))
}

/// What a proof says, as values.
struct Claim {
    proof: Proof,
    query: Query,
    planned: Vec<Day>,
    ledger: Vec<Entry>,
    frames: Vec<Claimed>,
}

/// A frame that a proof says was received.
struct Claimed {
    day: Option<Day>,
    version: Version,
    digest: Digest,
}

impl Claim {
    fn new(proof: Proof) -> Result<Self, String> {
        let frame = |frame: &FrameRecord| {
            let day = frame.day.as_deref().map(parsed).transpose()?;
            Ok(Claimed { day, version: parsed(&frame.version)?, digest: parsed(&frame.digest)? })
        };
        Ok(Claim {
            query: proof.query()?,
            planned: proof.planned_days()?,
            ledger: proof.ledger()?,
            frames: proof.frames.iter().map(frame).collect::<Result<_, String>>()?,
            proof,
        })
    }

    /// Records of each chunk, of rows or of groups.
    fn chunk_ranges(&self) -> Vec<Range<u64>> {
        let mut end = 0u64;
        let mut range = |rows: &u32| {
            let start = end;
            end = end.saturating_add(u64::from(*rows));
            start..end
        };
        self.proof.chunk_rows.iter().map(&mut range).collect()
    }
}

/// What was checked, and what was found to differ.
#[derive(Debug, Default)]
struct Report {
    checked: Vec<String>,
    differences: Vec<String>,
    /// Days whose data version was compared, and those of them that have another one.
    versions: usize,
    other_versions: usize,
}

impl Report {
    /// All of it as it is printed, the verdict last.
    fn lines(&self, claim: &Claim) -> Vec<String> {
        let mut lines = self.checked.clone();
        lines.extend(self.differences.iter().take(DIFFERENCES_SHOWN).cloned());
        if let more @ 1.. = self.differences.len().saturating_sub(DIFFERENCES_SHOWN) {
            lines.push(format!("… and {} more", thousands(more as u64)));
        }
        if self.versions > 0 && self.other_versions == self.versions {
            lines.push(
                "no day has the data version of the proof: is this the dataset that was asked?".to_owned(),
            );
        }
        let is_missing = |entry: &&Entry| matches!(entry.outcome, Outcome::Missing { .. });
        let missing = claim.ledger.iter().filter(is_missing).count();
        lines.push(match (self.differences.len() as u64, missing) {
            (0, 0) => "the proof holds".to_owned(),
            (0, missing) => {
                let days = claim.ledger.len();
                format!("the proof holds for {} of {days} days, {missing} missing", days - missing)
            }
            (count, _) => format!("the proof does not hold: {}", counted(count, "difference")),
        });
        lines
    }

    fn compare_versions(&mut self, day: Day, found: Version, expected: Version) {
        self.versions += 1;
        self.other_versions += usize::from(found != expected);
        self.compare(format_args!("day {day}, data version"), found, expected);
    }

    fn compare<T: PartialEq + std::fmt::Display>(
        &mut self,
        what: impl std::fmt::Display,
        found: T,
        expected: T,
    ) {
        if found != expected {
            self.differences.push(format!("{what}: found {found}, expected {expected}"));
        }
    }
}

fn check(claim: &Claim, store: &Store) -> Report {
    let mut report = Report::default();
    check_ledger(claim, &mut report);
    let adds_up = report.differences.is_empty();
    let matches = check_days(claim, store, &mut report);
    match &claim.query.aggregate {
        // Which rows a frame should have follows from a ledger that adds up only.
        _ if !adds_up => report.checked.push("frames  not checked: the ledger does not add up".to_owned()),
        Some(_) => frames::check_group_frames(claim, store, &matches, &mut report),
        None => frames::check_row_frames(claim, store, &matches, &mut report),
    }
    report
}

/// The ledger tiles the plan and adds up; the chunks add up to the manifest.
fn check_ledger(claim: &Claim, report: &mut Report) {
    let Claim { query, ledger, proof, .. } = claim;
    let rows = match &query.aggregate {
        Some(_) => coverage::check_aggregated(ledger, proof.total_records, query.limit, query.allow_partial),
        None => coverage::check_rows(ledger, proof.total_records, query.limit, query.allow_partial),
    };
    for gap in [coverage::check_tiles_plan(ledger, &claim.planned), rows].into_iter().filter_map(Result::err)
    {
        report.differences.push(format!("ledger: {gap}"));
    }
    for (entry, next) in ledger.iter().zip(ledger.iter().skip(1)) {
        if entry.day >= next.day {
            report.differences.push(format!("ledger: day {} stands before day {}", entry.day, next.day));
        }
    }
    for entry in ledger {
        let outside = query.date_start.is_some_and(|start| entry.day < start)
            || query.date_end.is_some_and(|end| entry.day > end)
            || query.team.as_ref().is_some_and(|team| **team != *entry.team);
        if outside {
            let Entry { day, team, .. } = entry;
            report.differences.push(format!("ledger: day {day} of team {team} is outside of the query"));
        }
    }
    let chunked = claim.chunk_ranges().last().map_or(0, |range| range.end);
    report.compare("records of all chunks", chunked, proof.total_records);
    let count = |is: fn(&Outcome) -> bool| ledger.iter().filter(|entry| is(&entry.outcome)).count();
    report.checked.push(format!("query   {query}"));
    report.checked.push(format!(
        "ledger  {}: {} served, {} pruned, {} without data, {} beyond the limit, {} missing",
        counted(ledger.len() as u64, "day"),
        count(|outcome| matches!(outcome, Outcome::Served(_))),
        count(|outcome| matches!(outcome, Outcome::Pruned { .. })),
        count(|outcome| matches!(outcome, Outcome::NoData { .. })),
        count(|outcome| matches!(outcome, Outcome::BeyondLimit)),
        count(|outcome| matches!(outcome, Outcome::Missing { .. })),
    ));
}

/// Each day's version and matches, against the files. Gives the matching rows of each day that has any.
fn check_days(claim: &Claim, store: &Store, report: &mut Report) -> Vec<(Day, Vec<u32>)> {
    let predicate = BoundPredicate::new(store, &claim.query.predicate);
    let limit = if claim.query.aggregate.is_some() { None } else { claim.query.limit };
    let mut left = limit.unwrap_or(u64::MAX);
    let (mut scanned, mut matched) = (0u64, 0u64);
    let mut matches = Vec::new();
    for entry in &claim.ledger {
        let day = entry.day;
        let batch = store.day(day);
        let mut rows = Vec::new();
        if let Some(batch) = batch {
            scan::select(store, batch, &predicate, 0..batch.row_count(), &mut rows);
            scanned += u64::from(batch.row_count());
        }
        let found_version = batch.map_or_else(Version::of_no_data, |batch| batch.version);
        let found = rows.len() as u64;
        match &entry.outcome {
            Outcome::Served(Served { version, rows_matched, rows_taken, .. }) => {
                report.compare_versions(day, found_version, *version);
                report.compare(format_args!("day {day}, rows that match"), found, *rows_matched);
                report.compare(format_args!("day {day}, rows taken"), found.min(left), *rows_taken);
                left = left.saturating_sub(found);
                matched += found;
                matches.push((day, rows));
            }
            Outcome::Pruned { by, version } => {
                report.compare_versions(day, found_version, *version);
                report.compare(format_args!("day {day}, pruned ({by}), rows that match"), found, 0);
            }
            Outcome::NoData { .. } => {
                let files = batch.map_or(0, |batch| batch.files.len());
                report.compare(format_args!("day {day}, called empty, files"), files, 0);
            }
            Outcome::BeyondLimit | Outcome::Missing { .. } => {}
        }
    }
    report.checked.push(format!(
        "files   {} scanned, {} match; versions, matches and prunings of {} compared",
        counted(scanned, "row"),
        thousands(matched),
        counted(store.days().len() as u64, "day")
    ));
    matches
}

#[cfg(test)]
mod tests;
