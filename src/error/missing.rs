//! Days that could not be had, in words and as details of a status: all of them, within a bound.
//!
//! Clients accept 8 KiB of metadata, and a status has its message there twice: once as a part of the details.
//! So both are bounded here, and what is left out is said.

use std::collections::BTreeMap;

use tonic_types::PreconditionViolation;

use super::MissingDay;
use crate::day::{self, Day};

/// Bytes of a message after which days are named without their reasons.
const MESSAGE_BYTES: usize = 900;

/// Bytes of the details after which days are named without their reasons.
const DETAIL_BYTES: usize = 2000;

/// Bytes of one list of days; after them the last day is named.
const DAYS_BYTES: usize = 300;

/// Characters of one reason, and of one list of nodes.
const REASON_CHARS: usize = 200;

/// `days 20200821-20200924: no holder answered (tried D, E, F)`, for each reason in turn.
pub(super) fn in_words(missing: &[MissingDay]) -> String {
    let words = |group: &Group| {
        let days = if group.days.len() == 1 { "day" } else { "days" };
        match group.nodes.is_empty() {
            true => format!("{days} {}: {}", listed(&group.days), group.why),
            false => format!("{days} {}: {} (tried {})", listed(&group.days), group.why, group.nodes),
        }
    };
    let (mut parts, rest) = within(by_reason(missing), words, String::len, MESSAGE_BYTES);
    if !rest.is_empty() {
        parts.push(format!("and days {}", listed(&rest)));
    }
    parts.join("; ")
}

/// One for each reason: `subject` has the days, `description` the nodes that were tried and the reason.
pub(super) fn violations(missing: &[MissingDay]) -> Vec<PreconditionViolation> {
    let violation = |days: &[Day], description: String| {
        PreconditionViolation::new("MISSING_DAYS", listed(days), description)
    };
    let each = |group: &Group| match group.nodes.is_empty() {
        true => violation(&group.days, format!("tried nobody: {}", group.why)),
        false => violation(&group.days, format!("tried {}: {}", group.nodes, group.why)),
    };
    let bytes = |violation: &PreconditionViolation| {
        violation.r#type.len() + violation.subject.len() + violation.description.len()
    };
    let (mut violations, rest) = within(by_reason(missing), each, bytes, DETAIL_BYTES);
    if !rest.is_empty() {
        let cut = format!("nodes and reasons are left out: details are cut at {DETAIL_BYTES} bytes");
        violations.push(violation(&rest, cut));
    }
    violations
}

/// Days that are missing for one reason, with the same nodes tried.
struct Group {
    days: Vec<Day>,
    why: String,
    nodes: String,
}

/// In the order of their first days. In which order nodes were tried makes no difference.
fn by_reason(missing: &[MissingDay]) -> Vec<Group> {
    let mut groups: BTreeMap<(&str, Vec<&str>), Vec<Day>> = BTreeMap::new();
    for MissingDay { day, why, nodes_tried } in missing {
        let mut nodes: Vec<&str> = nodes_tried.iter().map(String::as_str).collect();
        nodes.sort_unstable();
        groups.entry((why, nodes)).or_default().push(*day);
    }
    let group = |((why, nodes), days): ((&str, Vec<&str>), Vec<Day>)| Group {
        days,
        why: cut(why),
        nodes: cut(&nodes.join(", ")),
    };
    let mut groups: Vec<Group> = groups.into_iter().map(group).collect();
    groups.sort_by_key(|group| group.days[0]);
    groups
}

/// What groups become, as far as it fits into `most` bytes, and the days of those that do not fit.
fn within<T>(
    groups: Vec<Group>,
    each: impl Fn(&Group) -> T,
    bytes: impl Fn(&T) -> usize,
    most: usize,
) -> (Vec<T>, Vec<Day>) {
    let (mut said, mut rest, mut total) = (Vec::new(), Vec::new(), 0);
    for group in groups {
        let part = each(&group);
        total += bytes(&part);
        match total <= most {
            true => said.push(part),
            false => rest.extend(group.days),
        }
    }
    rest.sort_unstable();
    (said, rest)
}

/// `20200821-20200824, 20200830`; where that is too long, how many more there are and which is the last.
pub fn listed(days: &[Day]) -> String {
    let (mut text, mut named) = (String::new(), 0);
    for run in day::runs(days.iter().copied()) {
        let word = run.to_string();
        if text.len() + word.len() > DAYS_BYTES {
            let (left, last) = (days.len() - named, days[days.len() - 1]);
            return format!("{text} and {left} more up to {last}");
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&word);
        named += run.days().count();
    }
    text
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(REASON_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::day::DayRange;
    use crate::error::QueryError;

    fn day(number: u64) -> Day {
        Day::from_number(number).unwrap()
    }

    fn missing(first: u64, last: u64, why: &str, nodes: &[&str]) -> Vec<MissingDay> {
        let one = |day| MissingDay {
            day,
            why: why.to_owned(),
            nodes_tried: nodes.iter().map(|node| (*node).to_owned()).collect(),
        };
        DayRange::inclusive(day(first), day(last)).days().map(one).collect()
    }

    #[test]
    fn days_that_are_missing_for_one_reason_are_named_together() {
        let days = [
            missing(20200821, 20200829, "no answer", &["D", "E", "F"]),
            missing(20200830, 20200830, "no holder has the version", &[]),
            missing(20200831, 20200924, "no answer", &["F", "D", "E"]),
        ]
        .concat();
        assert_eq!(
            in_words(&days),
            "days 20200821-20200829, 20200831-20200924: no answer (tried D, E, F); \
             day 20200830: no holder has the version"
        );
        let said: Vec<_> =
            violations(&days).into_iter().map(|each| (each.subject, each.description)).collect();
        let expected = [
            ("20200821-20200829, 20200831-20200924", "tried D, E, F: no answer"),
            ("20200830", "tried nobody: no holder has the version"),
        ];
        assert_eq!(said, expected.map(|(days, nodes)| (days.to_owned(), nodes.to_owned())));
    }

    /// Goal: no answer is lost because its metadata are too long. Method: 3,000 days, each with a long reason of its own.
    #[test]
    fn what_is_missing_is_cut_before_clients_refuse_it_and_says_so() {
        let mut days = missing(20200101, 20280318, "", &["A-node-with-a-long-name", "another"]);
        for (index, missing) in days.iter_mut().enumerate() {
            missing.why = format!("{index} `{}`", "why ".repeat(100));
        }
        // Every second day, so that there are no runs either.
        let days: Vec<MissingDay> = days.into_iter().step_by(2).collect();
        assert_eq!(days.len(), 1_500);
        let said = in_words(&days);
        assert!(said.contains("and days 2020") && said.ends_with("more up to 20280317"), "{said}");
        let last = violations(&days).pop().unwrap();
        assert!(last.description.contains("cut at 2000 bytes"), "{last:?}");
        let status = QueryError::Unavailable(days).to_status();
        assert!(status.details().len() < 4096, "{}", status.details().len());
        let response = status.into_http::<()>();
        let bytes: usize =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 8192, "{bytes}");
    }
}
