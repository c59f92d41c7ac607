//! What there is to ask for: each team with its rows, and each of its days.

use std::collections::BTreeMap;

use arrow_flight::{FlightDescriptor, FlightInfo};
use serde_json::{Value, json};

use crate::frame;
use crate::plan::{Fate, PlannedDay, QueryPlan};

/// The teams and then the days of a plan that restricts no rows, as flights without endpoints: their commands are to be
/// asked for.
///
/// `total_records` is -1 where a day cannot be reached. Days without files are left out.
pub(super) fn flights(plan: &QueryPlan) -> impl Iterator<Item = FlightInfo> + Send + use<> {
    let days: Vec<(u32, Option<u64>)> =
        plan.days.iter().filter_map(|planned| Some((planned.day.number(), rows(planned)?))).collect();
    let mut teams: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for planned in &plan.days {
        let Some(rows) = rows(planned) else { continue };
        let sum = teams.entry(planned.team.to_string()).or_insert(Some(0));
        *sum = sum.zip(rows).map(|(sum, rows)| sum + rows);
    }
    let teams = teams.into_iter().map(|(team, rows)| flight(&json!({"team": team}), rows));
    teams
        .chain(days.into_iter().map(|(day, rows)| flight(&json!({"date_start": day, "date_end": day}), rows)))
}

/// The rows of a day, if they are known; `None` for a day without files.
fn rows(planned: &PlannedDay) -> Option<Option<u64>> {
    match &planned.fate {
        Fate::Ask(ask) => Some(Some(ask.rows_to_scan)),
        Fate::NoData(_) | Fate::Pruned { .. } => None,
        Fate::OutOfReach { .. } | Fate::NotResumed | Fate::VersionGone { .. } => Some(None),
    }
}

fn flight(command: &Value, rows: Option<u64>) -> FlightInfo {
    FlightInfo {
        schema: frame::schema_message(),
        flight_descriptor: Some(FlightDescriptor::new_cmd(command.to_string())),
        total_records: rows.map_or(-1, |rows| rows as i64),
        total_bytes: -1,
        ordered: true,
        ..FlightInfo::default()
    }
}
