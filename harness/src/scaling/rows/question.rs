//! What is asked of an overlay of any size.

use std::sync::atomic::{AtomicU64, Ordering};

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::day::Day;
use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay::predicate::{Predicate, Words};
use serde::Serialize;

use crate::rivals::never_asked_before;
use crate::scaling::Claim;

/// A question, each time another one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A concentration that no row has, between those of every day: all rows are scanned and none is returned.
    Scan,
    /// The first 100 of those: days are counted wave by wave, until all were.
    FirstOfNone,
    /// The mean of every parameter over all days.
    Mean,
    /// All rows of the first day: dates prune the others.
    OneDay,
    /// A concentration above those of every day: statistics prune all.
    Pruned,
    /// As many rows as the smallest step has, or 100,000 if those are fewer, read to the last as Arrow.
    Drain,
}

impl Question {
    /// In the order of tables.
    pub const ALL: [Question; 6] = [
        Question::Scan,
        Question::FirstOfNone,
        Question::Mean,
        Question::OneDay,
        Question::Pruned,
        Question::Drain,
    ];

    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Question::Scan => "scan all",
            Question::FirstOfNone => "first 100 of none",
            Question::Mean => "mean of all",
            Question::OneDay => "one day",
            Question::Pruned => "all pruned",
            Question::Drain => "drain",
        }
    }

    /// How its cost is said to grow with [what](Self::against) it is held against.
    pub fn claim(self) -> Claim {
        match self {
            Question::Scan | Question::FirstOfNone | Question::Mean | Question::Pruned => Claim::Linear,
            Question::OneDay | Question::Drain => Claim::Flat,
        }
    }

    /// The rows of all days, or their number: a ledger has an entry for each that is pruned, too.
    pub fn against(self) -> &'static str {
        match self {
            Question::Pruned => "days",
            _ => "rows",
        }
    }

    /// Whether the rows of the answer are read too.
    pub(super) fn reads_rows(self) -> bool {
        self == Question::Drain
    }

    pub(super) fn query(self, first_day: Day, drained_rows: u64) -> Query {
        let of_all = Query { predicate: never_asked_before(None), ..Query::default() };
        match self {
            Question::Scan => Query { predicate: between_tenths(), ..Query::default() },
            Question::FirstOfNone => {
                Query { predicate: between_tenths(), limit: Some(100), ..Query::default() }
            }
            Question::Mean => {
                let mean = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Parameter] };
                Query { aggregate: Some(mean), ..of_all }
            }
            Question::OneDay => Query { date_start: Some(first_day), date_end: Some(first_day), ..of_all },
            Question::Pruned => Query { predicate: above_all(), ..Query::default() },
            Question::Drain => Query { limit: Some(drained_rows), encoding: Encoding::Arrow, ..of_all },
        }
    }
}

/// What no row matches, since all have whole tenths, and no day's smallest and largest concentration tell.
fn between_tenths() -> Predicate {
    exactly(&format!("5.0{:08}", next()))
}

fn above_all() -> Predicate {
    exactly(&format!("900000.0{:08}", next()))
}

fn exactly(value: &str) -> Predicate {
    let words = Words { min: Some(value), max: Some(value), ..Words::default() };
    words.resolve().expect("a number with nine digits after the point")
}

/// Of eight digits at most, and not 0.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) % 100_000_000
}
