use super::*;
use crate::coverage::Served;
use crate::store::Version;

fn entry(day: u64, outcome: Outcome) -> Entry {
    let day = crate::day::Day::from_number(day).unwrap();
    Entry { day, team: "green".into(), outcome }
}

fn served(rows_matched: u64, rows_taken: u64) -> Outcome {
    let version = Version([0; 16]);
    Outcome::Served(Served { node: "B".to_owned(), attempt: 1, version, rows_matched, rows_taken })
}

fn limited(limit: u64) -> Query {
    Query { limit: Some(limit), ..Query::default() }
}

#[test]
fn a_cut_is_said_with_what_is_known_of_the_rest() {
    let cut = [entry(20200810, served(5, 5)), entry(20200811, served(9, 2))];
    assert_eq!(notes(&limited(7), &cut, 7, false), ["note: 7 of 14 rows: --limit N or --all for more"]);
    let open = [cut.to_vec(), vec![entry(20200812, Outcome::BeyondLimit)]].concat();
    assert_eq!(notes(&limited(7), &open, 7, true), ["note: 7 of at least 14 rows: --limit cut the result"]);
    let full = [entry(20200810, served(7, 7))];
    assert!(notes(&limited(7), &full, 7, false).is_empty());
    assert!(notes(&limited(8), &full, 7, false).is_empty());
}

#[test]
fn missing_days_are_named() {
    let missing = |why: &str| Outcome::Missing {
        why: why.to_owned(),
        nodes_tried: vec!["E".to_owned(), "F".to_owned()],
    };
    let ledger = [
        entry(20200831, missing("refused")),
        entry(20200901, missing("refused")),
        entry(20200902, missing("too late")),
        entry(20200903, served(1, 1)),
    ];
    assert_eq!(
        notes(&Query::default(), &ledger, 1, false),
        [
            "warning: 20200831-20200901 of team green are missing: refused (tried E, F)",
            "warning: 20200902 of team green is missing: too late (tried E, F)",
        ]
    );
}

#[test]
fn a_summary_names_the_nodes() {
    let nodes = ["B", "E"].map(str::to_owned).into();
    let words = summary(225_521, 226, Duration::from_millis(1240), &Query::default(), &nodes);
    assert_eq!(words, "225,521 rows in 226 chunks, 1.24 s, served by B, E");
}
