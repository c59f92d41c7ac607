//! Plans of queries that resume a result: what its days were, not what they are.

use super::*;
use crate::inventory::{DayInventory, Directory, NodeInventory};
use crate::placement::Placement;
use crate::store::PlaceBounds;

const OLD: Version = Version([1; 16]);
const NEW: Version = Version([2; 16]);

/// Its holders are B and C, in this order.
fn day() -> Day {
    "20200810".parse().unwrap()
}

/// A day of so many rows of ozone; of no file without rows.
fn ozone(rows: u64) -> Arc<DayStatistics> {
    if rows == 0 {
        return Arc::default();
    }
    let ozone = ParameterStatistics { rows, missing: rows, ..ParameterStatistics::default() };
    let place = PlaceBounds { lat_min: 40.0, lat_max: 41.0, lon_min: -120.0, lon_max: -119.0 };
    Arc::new(DayStatistics {
        rows,
        files: 1,
        parameters: BTreeMap::from([("OZONE".to_owned(), ozone)]),
        place: Some(place),
        ..DayStatistics::default()
    })
}

/// The day at a version, with another one that is kept.
fn held((version, rows): (Version, u64), replaced: Option<(Version, u64)>) -> DayInventory {
    let replaced = replaced.map(|(version, rows)| (version, ozone(rows))).into_iter().collect();
    DayInventory { version, statistics: ozone(rows), rejected: Vec::new(), replaced }
}

/// What becomes of the day if it is to be of the version `expected`, or of whichever it is; B and C hold what they say.
fn fate_of_day(
    b: &DayInventory,
    c: &DayInventory,
    expected: Option<Version>,
    parameter: Option<&str>,
) -> Fate {
    let overlay = Overlay::parse(include_str!("../../configs/one_host_config.json"), "six").unwrap().overlay;
    let directory = Directory::default();
    for (node, held) in [("B", b), ("C", c)] {
        let inventory = NodeInventory {
            node: node.into(),
            incarnation: 1,
            ready: true,
            draining: false,
            free_compute_slots: 1,
            files: 1,
            days: BTreeMap::from([(day(), held.clone())]),
            unowned_days: Vec::new(),
        };
        directory.learn(inventory, false);
    }
    let known = Known::new(&Placement::new(&overlay), &directory.snapshot());
    let predicate = Predicate { parameter: parameter.map(str::to_owned), ..Predicate::default() };
    let expected_versions = expected.map(|version| (day(), version)).into_iter().collect();
    let query = Query { predicate, expected_versions, ..Query::default() };
    plan(query, &[(day(), "green")], &overlay, &known).days.remove(0).fate
}

/// The version, the rows and the holders that are asked; panics if nobody is.
fn asked(fate: Fate) -> (Version, u64, String) {
    let Fate::Ask(ask) = fate else { panic!("{fate:?}") };
    (ask.version, ask.rows_to_scan, ask.holders.iter().map(NodeId::as_str).collect())
}

#[test]
fn replaced_version_is_asked_of_who_keeps_it_and_who_has_it_still() {
    let (b, c) = (held((NEW, 9), Some((OLD, 5))), held((OLD, 5), None));
    assert_eq!(asked(fate_of_day(&b, &c, Some(OLD), None)), (OLD, 5, "BC".to_owned()));
    assert_eq!(asked(fate_of_day(&c, &b, Some(OLD), None)), (OLD, 5, "BC".to_owned()));
    assert_eq!(asked(fate_of_day(&b, &c, Some(NEW), None)), (NEW, 9, "B".to_owned()));
}

#[test]
fn new_query_does_not_ask_for_replaced_data() {
    let (b, c) = (held((NEW, 9), Some((OLD, 5))), held((OLD, 5), None));
    assert_eq!(asked(fate_of_day(&b, &c, None, None)), (NEW, 9, "B".to_owned()));
}

#[test]
fn version_that_nobody_keeps_is_gone() {
    let (b, c) = (held((NEW, 9), None), held((NEW, 9), Some((Version([3; 16]), 5))));
    let holders = ["B", "C"].map(NodeId::from).to_vec();
    assert_eq!(fate_of_day(&b, &c, Some(OLD), None), Fate::VersionGone { expected: OLD, holders });
}

/// Goal: the ledger of a result that is resumed is of its data. Method: the new data have the parameter, or lack it, where the old
/// ones do not.
#[test]
fn day_is_pruned_by_the_statistics_of_its_version() {
    let (with, without) = (held((NEW, 9), Some((OLD, 0))), held((NEW, 0), Some((OLD, 5))));
    let pruned = |held: &DayInventory| {
        let mut held = held.clone();
        // Files without rows.
        let of_files = |statistics: &mut Arc<DayStatistics>| Arc::make_mut(statistics).files = 1;
        of_files(&mut held.statistics);
        held.replaced.values_mut().for_each(of_files);
        matches!(fate_of_day(&held, &held, Some(OLD), Some("OZONE")), Fate::Pruned { version: OLD, .. })
    };
    assert_eq!((pruned(&with), pruned(&without)), (true, false));
}

/// Goal: rows of a day that had none do not slip into a result that is resumed, nor are those lost of one that has none now.
#[test]
fn day_that_had_no_data_has_none_and_one_that_has_none_now_is_asked_for() {
    let none = Version::of_no_data();
    let filled = held((NEW, 9), Some((none, 0)));
    assert_eq!(fate_of_day(&filled, &filled, Some(none), None), Fate::NoData("B".into()));
    let emptied = held((none, 0), Some((OLD, 5)));
    assert_eq!(asked(fate_of_day(&emptied, &emptied, Some(OLD), None)), (OLD, 5, "BC".to_owned()));
    assert_eq!(fate_of_day(&emptied, &emptied, None, None), Fate::NoData("B".into()));
}
