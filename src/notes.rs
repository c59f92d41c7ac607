//! What nobody could see from the rows of an answer, in the same words however it was asked for.

use crate::config::Role;
use crate::coverage::{self, Entry, Outcome};
use crate::error::shown;
use crate::plan::Query;

/// Of an answer from another node than the leader: that it is not about all teams. `None` if the leader answered, or the node's
/// team is the one that was `wanted`, which equal results do not tell: they may have been asked for by others.
pub fn own_team(node: &str, role: &str, team: &str, wanted: Option<&str>) -> Option<String> {
    let chose_it = wanted == Some(team);
    (role != Role::Leader.name() && !chose_it)
        .then(|| format!("node `{node}` answers for its own team only, {team}; the leader answers for all"))
}

/// Why an answer has no rows. `None` if it has some, or if missing days say it.
pub fn without_rows(query: &Query, ledger: &[Entry], rows: u64) -> Option<String> {
    if ledger.is_empty() {
        return Some(NO_DAY.to_owned());
    }
    if rows > 0 || coverage::missing(ledger).next().is_some() {
        return None;
    }
    let parameter = query.predicate.parameter.as_deref().map(shown);
    let lacking = parameter.filter(|name| ledger.iter().all(|entry| is_without(name, &entry.outcome)));
    if ledger.iter().all(|entry| matches!(entry.outcome, Outcome::NoData { .. })) {
        return Some(format!("none of {} has data", days(ledger.len())));
    }
    Some(match lacking {
        Some(parameter) => format!(
            "none of {} has a row of parameter `{parameter}`; names are as in the files, such as PM2.5 or OZONE",
            days(ledger.len()),
        ),
        None => "nothing matches".to_owned(),
    })
}

/// Of a query that no day is planned for.
pub const NO_DAY: &str = "no team that the node answers for owns a day of this query";

fn days(count: usize) -> String {
    format!("{count} day{}", if count == 1 { "" } else { "s" })
}

fn is_without(parameter: &str, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Pruned { by, .. } => *by == format!("no row of parameter {parameter}"),
        Outcome::NoData { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::day::Day;
    use crate::predicate::Predicate;
    use crate::store::Version;

    fn entry(day: u64, outcome: Outcome) -> Entry {
        Entry { day: Day::from_number(day).unwrap(), team: "green".into(), outcome }
    }

    fn pruned(by: &str) -> Outcome {
        Outcome::Pruned { by: by.to_owned(), version: Version([0; 16]) }
    }

    #[test]
    fn a_parameter_that_no_day_has_is_said() {
        let predicate = Predicate { parameter: Some("PM25".to_owned()), ..Predicate::default() };
        let query = Query { predicate, ..Query::default() };
        let lacking = entry(20200810, pruned("no row of parameter PM25"));
        let said = without_rows(&query, std::slice::from_ref(&lacking), 0).unwrap();
        assert!(said.starts_with("none of 1 day has a row of parameter `PM25`"), "{said}");
        let empty = entry(20200811, Outcome::NoData { node: "B".to_owned() });
        let said = without_rows(&query, &[lacking.clone(), empty.clone()], 0).unwrap();
        assert!(said.starts_with("none of 2 days has a row of"), "{said}");
        assert_eq!(without_rows(&query, &[empty], 0).unwrap(), "none of 1 day has data");
        let other = entry(20200811, pruned("largest concentration 4"));
        assert_eq!(without_rows(&query, &[lacking, other], 0).unwrap(), "nothing matches");
    }

    #[test]
    fn nothing_is_said_beside_rows_and_missing_days() {
        let missing = Outcome::Missing { why: "down".to_owned(), nodes_tried: Vec::new() };
        assert_eq!(without_rows(&Query::default(), &[entry(20200810, missing)], 0), None);
        assert_eq!(without_rows(&Query::default(), &[entry(20200810, pruned("x"))], 1), None);
        assert_eq!(without_rows(&Query::default(), &[], 0).unwrap(), NO_DAY);
    }

    #[test]
    fn only_who_asks_another_node_for_all_teams_is_told_of_the_leader() {
        let said = own_team("C", "worker", "green", Some("pink")).unwrap();
        assert_eq!(said, "node `C` answers for its own team only, green; the leader answers for all");
        assert!(own_team("C", "worker", "green", None).is_some());
        assert!(own_team("C", "worker", "green", Some("green")).is_none());
        assert!(own_team("A", "leader", "green", None).is_none());
    }
}
