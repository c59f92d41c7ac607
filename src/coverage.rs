//! The coverage ledger: one entry for each planned day, which says what became of it.
//!
//! The ledger is the proof that a result is whole. The node that plans checks that its entries tile
//! the plan; the client checks that again, and that the frames which arrived tile the entries.

use std::sync::Arc;

use crate::day::Day;
use crate::store::{Digest, Version};

/// What became of one planned day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The day.
    pub day: Day,
    /// The team that owns it.
    pub team: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
}

/// The ways in which a planned day can be accounted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A holder counted it.
    Served(Served),
    /// Statistics show that no row can match.
    Pruned {
        /// Which statistics, in words.
        by: String,
        /// The version that the statistics describe.
        version: Version,
    },
    /// A holder says that there are no files for the day.
    NoData {
        /// That holder.
        node: String,
    },
    /// The days before it filled the limit.
    BeyondLimit,
    /// Nobody could answer for it.
    Missing {
        /// Why not.
        why: String,
        /// The nodes that were asked, or that nobody could reach.
        nodes_tried: Vec<String>,
    },
}

/// A day that a holder counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The holder.
    pub node: String,
    /// 1 for the first holder asked.
    pub attempt: u32,
    /// The version that was counted.
    pub version: Version,
    /// Rows that match.
    pub rows_matched: u64,
    /// Rows that went into the result, or into the aggregate.
    pub rows_taken: u64,
}

/// How a ledger fails to prove its result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// The entries are not the planned days, each once, in order.
    #[error("entry {index} of the coverage ledger: found {found}, expected {expected}")]
    NotThePlan {
        /// Position in the ledger.
        index: usize,
        /// The day found there, or that there is none.
        found: String,
        /// The day planned there, or that there is none.
        expected: String,
    },
    /// An entry names another team than the one that owns its day.
    #[error("day {day} of the coverage ledger is of team `{found}`, team `{expected}` owns it")]
    NotTheOwner {
        /// The day.
        day: Day,
        /// The team in the entry.
        found: String,
        /// The team that owns the day.
        expected: String,
    },
    /// An entry takes more rows than match.
    #[error("day {day} took {taken} rows of {matched} that match")]
    TakenBeyondMatched {
        /// The day.
        day: Day,
        /// Rows taken.
        taken: u64,
        /// Rows that match.
        matched: u64,
    },
    /// The result has more rows, or groups, than were asked for.
    #[error("the result has {found} records at least, the limit is {limit}")]
    BeyondTheLimit {
        /// Records so far.
        found: u64,
        /// The query's limit.
        limit: u64,
    },
    /// The rows taken do not add up to the result's.
    #[error("the rows of the coverage ledger add up to {found}, the manifest has {expected}")]
    WrongTotal {
        /// Sum of the rows taken.
        found: u64,
        /// Rows in the manifest.
        expected: u64,
    },
    /// Rows were left out though the limit was not reached.
    #[error("of the rows of day {day} that match {left_out} were left out, though the limit does not cut it")]
    LeftOut {
        /// The day.
        day: Day,
        /// Rows that match and were not taken.
        left_out: u64,
    },
    /// A day is missing from a result that passes for whole.
    #[error("day {day} is missing ({why}) from a result that was asked to be complete")]
    Undeclared {
        /// The day.
        day: Day,
        /// Why it is missing.
        why: String,
    },
}

/// The rows that a ledger's entries took, by day and version, for the days that have any.
pub fn rows_taken(ledger: &[Entry]) -> impl Iterator<Item = (Day, &Served)> {
    ledger.iter().filter_map(|entry| match &entry.outcome {
        Outcome::Served(served) if served.rows_taken > 0 => Some((entry.day, served)),
        _ => None,
    })
}

/// The entries that are missing.
pub fn missing(ledger: &[Entry]) -> impl Iterator<Item = (&Entry, &str, &[String])> {
    ledger.iter().filter_map(|entry| match &entry.outcome {
        Outcome::Missing { why, nodes_tried } => Some((entry, why.as_str(), nodes_tried.as_slice())),
        _ => None,
    })
}

/// The version of an aggregate: of all the versions that went into it.
pub fn aggregate_version(ledger: &[Entry]) -> Version {
    let versions: Vec<u8> = rows_taken(ledger)
        .flat_map(|(day, served)| [&day.number().to_be_bytes()[..], &served.version.0].concat())
        .collect();
    Version(Digest::of(&versions).0)
}

/// Checks that `ledger` has exactly one entry for each of `planned`, in order.
///
/// # Errors
/// [`Gap::NotThePlan`] at the first difference.
pub fn check_tiles_plan(ledger: &[Entry], planned: &[Day]) -> Result<(), Gap> {
    let name = |day: Option<&Day>| day.map_or_else(|| "no day".to_owned(), |day| format!("day {day}"));
    for index in 0..ledger.len().max(planned.len()) {
        let (found, expected) = (ledger.get(index).map(|entry| &entry.day), planned.get(index));
        if found != expected {
            return Err(Gap::NotThePlan { index, found: name(found), expected: name(expected) });
        }
    }
    Ok(())
}

/// Checks that each entry names the team that owns its day, by a plan that `ledger` tiles.
///
/// # Errors
/// [`Gap::NotTheOwner`] at the first difference.
pub fn check_owners(ledger: &[Entry], planned: &[(Day, &str)]) -> Result<(), Gap> {
    match ledger.iter().zip(planned).find(|(entry, (_, team))| *entry.team != **team) {
        None => Ok(()),
        Some((entry, (day, team))) => {
            Err(Gap::NotTheOwner { day: *day, found: entry.team.to_string(), expected: (*team).to_owned() })
        }
    }
}

/// Checks a ledger of rows against its manifest: sums, and that only a reached limit left rows out.
///
/// `total` counts the manifest's rows; `limit` is the query's, `partial` whether the client accepts
/// missing days.
///
/// # Errors
/// The first [`Gap`] found.
pub fn check_rows(ledger: &[Entry], total: u64, limit: Option<u64>, partial: bool) -> Result<(), Gap> {
    let mut found = 0u64;
    for entry in ledger {
        let full = limit.is_some_and(|limit| found >= limit);
        match &entry.outcome {
            Outcome::Served(served) => {
                let left_out =
                    served.rows_matched.checked_sub(served.rows_taken).ok_or(Gap::TakenBeyondMatched {
                        day: entry.day,
                        taken: served.rows_taken,
                        matched: served.rows_matched,
                    })?;
                found = found.saturating_add(served.rows_taken);
                check_limit(found, limit)?;
                if left_out > 0 && limit != Some(found) {
                    return Err(Gap::LeftOut { day: entry.day, left_out });
                }
            }
            Outcome::Missing { why, .. } if !partial => {
                return Err(Gap::Undeclared { day: entry.day, why: why.clone() });
            }
            Outcome::BeyondLimit if !full => {
                return Err(Gap::Undeclared {
                    day: entry.day,
                    why: "called beyond a limit that was not reached".to_owned(),
                });
            }
            _ => {}
        }
    }
    if found != total {
        return Err(Gap::WrongTotal { found, expected: total });
    }
    Ok(())
}

/// Checks the ledger of an aggregate: every row that matches went in, and no day is missing; and that its
/// `groups` are as many as the limit allows.
///
/// # Errors
/// The first [`Gap`] found.
pub fn check_aggregated(ledger: &[Entry], groups: u64, limit: Option<u64>, partial: bool) -> Result<(), Gap> {
    check_limit(groups, limit)?;
    let aggregated = ledger
        .iter()
        .filter_map(|entry| match &entry.outcome {
            Outcome::Served(served) => Some(served.rows_taken),
            _ => None,
        })
        .fold(0, u64::saturating_add);
    check_rows(ledger, aggregated, None, partial)
}

fn check_limit(found: u64, limit: Option<u64>) -> Result<(), Gap> {
    match limit {
        Some(limit) if found > limit => Err(Gap::BeyondTheLimit { found, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u64) -> Day {
        Day::from_number(number).unwrap()
    }

    fn served(number: u64, rows_matched: u64, rows_taken: u64) -> Entry {
        Entry {
            day: day(number),
            team: "green".into(),
            outcome: Outcome::Served(Served {
                node: "B".to_owned(),
                attempt: 1,
                version: Version([1; 16]),
                rows_matched,
                rows_taken,
            }),
        }
    }

    fn with(number: u64, outcome: Outcome) -> Entry {
        Entry { outcome, ..served(number, 0, 0) }
    }

    #[test]
    fn a_ledger_tiles_its_plan_day_by_day() {
        let planned = [day(20200810), day(20200811)];
        let ledger = [served(20200810, 5, 5), served(20200811, 1, 1)];
        assert_eq!(check_tiles_plan(&ledger, &planned), Ok(()));
        for broken in [
            vec![],
            vec![ledger[0].clone()],
            vec![ledger[1].clone(), ledger[0].clone()],
            vec![ledger[0].clone(), ledger[0].clone()],
            vec![ledger[0].clone(), ledger[1].clone(), ledger[1].clone()],
        ] {
            assert!(matches!(check_tiles_plan(&broken, &planned), Err(Gap::NotThePlan { .. })));
        }
    }

    #[test]
    fn entries_name_the_team_that_owns_their_day() {
        let ledger = [served(20200810, 5, 5), served(20200811, 1, 1)];
        let owned = |second| [(day(20200810), "green"), (day(20200811), second)];
        assert_eq!(check_owners(&ledger, &owned("green")), Ok(()));
        let wrong = check_owners(&ledger, &owned("pink"));
        assert!(matches!(wrong, Err(Gap::NotTheOwner { day, .. }) if day.number() == 20200811), "{wrong:?}");
    }

    #[test]
    fn groups_never_exceed_the_limit() {
        let ledger = [served(20200810, 50, 50)];
        assert_eq!(check_aggregated(&ledger, 2, Some(2), false), Ok(()));
        let beyond = Err(Gap::BeyondTheLimit { found: 3, limit: 2 });
        assert_eq!(check_aggregated(&ledger, 3, Some(2), false), beyond);
    }

    #[test]
    fn rows_may_be_left_out_only_where_the_limit_cuts() {
        let cut = [served(20200810, 5, 5), served(20200811, 9, 2), with(20200812, Outcome::BeyondLimit)];
        assert_eq!(check_rows(&cut, 7, Some(7), false), Ok(()));
        assert!(matches!(check_rows(&cut, 7, Some(8), false), Err(Gap::LeftOut { .. })));
        assert_eq!(
            check_rows(&cut, 7, Some(6), false),
            Err(Gap::BeyondTheLimit { found: 7, limit: 6 }),
            "a limit is never exceeded, even by rows that match"
        );
        assert!(matches!(check_rows(&cut, 7, None, false), Err(Gap::LeftOut { .. })));
        assert!(matches!(check_rows(&cut, 6, Some(7), false), Err(Gap::WrongTotal { .. })));
        let early = [served(20200810, 5, 5), with(20200811, Outcome::BeyondLimit)];
        assert!(matches!(check_rows(&early, 5, Some(6), false), Err(Gap::Undeclared { .. })));
        let over = [served(20200810, 5, 6)];
        assert!(matches!(check_rows(&over, 6, None, false), Err(Gap::TakenBeyondMatched { .. })));
    }

    #[test]
    fn a_missing_day_never_passes_for_whole() {
        let missing = Outcome::Missing { why: "down".to_owned(), nodes_tried: vec!["E".to_owned()] };
        let ledger = [served(20200810, 5, 5), with(20200811, missing)];
        assert!(matches!(check_rows(&ledger, 5, None, false), Err(Gap::Undeclared { .. })));
        assert_eq!(check_rows(&ledger, 5, None, true), Ok(()));
        assert!(matches!(check_aggregated(&ledger, 1, None, false), Err(Gap::Undeclared { .. })));
    }
}
