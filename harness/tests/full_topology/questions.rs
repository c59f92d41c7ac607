//! What is asked of every node, and what the oracle says to it: a node other than the leader answers for its team.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay::proto::v1;
use overlay_harness::answer;
use overlay_harness::calendar;
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, TeamRange};
use serde_json::{Value, json};

/// The last three days of green and the first three of pink.
pub(crate) const DAYS: RangeInclusive<u32> = 20200818..=20200823;

const LAST_DAY_OF_GREEN: u32 = 20200820;

/// The team that owns a day.
pub(crate) fn team_of(day: u32) -> &'static str {
    if day <= LAST_DAY_OF_GREEN { "green" } else { "pink" }
}

/// The team that a node answers for; `None`: all.
fn team_of_node(id: &str) -> Option<&'static str> {
    match id {
        "A" => None,
        "B" | "C" => Some("green"),
        _ => Some("pink"),
    }
}

/// One query of each type, and the answers for every team.
pub(crate) struct Questions {
    by_team: BTreeMap<Option<&'static str>, [Question; 3]>,
    files_and_rows: BTreeMap<&'static str, (u64, u64)>,
}

/// One query and its answer.
pub(crate) struct Question {
    /// Its type, as the old contract names it.
    pub(crate) name: &'static str,
    asked: OracleQuery,
    groups: Option<(Measure, &'static [GroupKey])>,
    /// The rows or groups of the answer.
    pub(crate) expected: Vec<Value>,
    /// The same as the old contract writes them.
    pub(crate) old_expected: Vec<Value>,
}

impl Question {
    pub(crate) fn query(&self, encoding: Encoding) -> Query {
        let aggregate = self.groups.map(|(measure, keys)| answer::aggregate(measure, keys));
        Query { aggregate, ..answer::query(&self.asked, encoding) }
    }

    /// The filter of the old contract.
    pub(crate) fn old_params(&self) -> Value {
        let mut params = self.asked.to_json();
        if let Some((measure, keys)) = self.groups {
            params["of"] = json!(measure.name());
            params["group_by"] = keys.iter().map(|key| json!(key.name())).collect();
        }
        params
    }
}

impl Questions {
    pub(crate) fn read(root: &Path) -> Self {
        let oracle = Oracle::read(root, &TeamRange::green_and_pink()).unwrap();
        let of_team = |team| (team, questions_of(&oracle, team));
        let mut files: BTreeMap<&str, BTreeSet<(u32, &str)>> = BTreeMap::new();
        let mut rows: BTreeMap<&str, u64> = BTreeMap::new();
        for row in oracle.all_rows() {
            let team = team_of(row.day);
            files.entry(team).or_default().insert((row.day, &row.file_stem));
            *rows.entry(team).or_default() += 1;
        }
        let held = |team| (team, (files[team].len() as u64, rows[team]));
        Questions {
            by_team: [None, Some("green"), Some("pink")].map(of_team).into(),
            files_and_rows: ["green", "pink"].map(held).into(),
        }
    }

    /// What to ask a node.
    pub(crate) fn of(&self, id: &str) -> &[Question; 3] {
        &self.by_team[&team_of_node(id)]
    }

    /// The filter, which [`Questions::predicate`] spells in the typed contract.
    pub(crate) fn filter_of(&self, id: &str) -> &Question {
        &self.of(id)[0]
    }

    /// The predicate of the filter.
    pub(crate) fn predicate(&self) -> v1::Predicate {
        let OracleQuery { parameter, min, max, .. } = filter();
        v1::Predicate { parameter, min_value: min, max_value: max, ..v1::Predicate::default() }
    }

    /// The days that a node plans.
    pub(crate) fn days_of(&self, id: &str) -> Vec<u32> {
        let team = team_of_node(id);
        let days = calendar::days(*DAYS.start(), *DAYS.end());
        days.filter(|day| team.is_none_or(|team| team == team_of(*day))).collect()
    }

    /// Files and rows that a node holds.
    pub(crate) fn held_by(&self, id: &str) -> (u64, u64) {
        team_of_node(id).map_or((0, 0), |team| self.files_and_rows[team])
    }
}

fn filter() -> OracleQuery {
    OracleQuery {
        parameter: Some("SO2".to_owned()),
        min: Some("0.5".to_owned()),
        max: Some("20".to_owned()),
        ..of_days()
    }
}

fn of_days() -> OracleQuery {
    OracleQuery {
        date_start: Some(*DAYS.start()),
        date_end: Some(*DAYS.end()),
        limit: Some(100_000),
        ..OracleQuery::default()
    }
}

fn questions_of(oracle: &Oracle, team: Option<&str>) -> [Question; 3] {
    let search = OracleQuery { text: Some("river".to_owned()), ..of_days() };
    let groups = (Measure::Value, &[GroupKey::Parameter, GroupKey::Day][..]);
    let question = |(name, asked, groups): (_, OracleQuery, Option<(_, _)>)| {
        let own = OracleQuery { team: team.map(str::to_owned), ..asked.clone() };
        let rows = oracle.rows(&own);
        let (expected, old_expected) = match groups {
            None => (
                rows.iter().map(|row| row.to_json()).collect(),
                rows.iter().map(|row| row.to_legacy_json()).collect(),
            ),
            Some((measure, keys)) => {
                let groups = oracle.aggregate(&own, measure, keys);
                (groups.clone(), groups)
            }
        };
        let question = Question { name, asked, groups, expected, old_expected };
        assert!(!question.expected.is_empty(), "{name} of {team:?} finds something to compare");
        question
    };
    [("filter", filter(), None), ("search", search, None), ("aggregate", of_days(), Some(groups))]
        .map(question)
}
