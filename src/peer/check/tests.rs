use std::sync::Arc;

use super::*;
use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::frame::Encoding;
use crate::inventory::NodeLoad;
use crate::predicate::Words;
use crate::verb::Selection;

const ONE: i64 = crate::decimal::ONE;

fn item(number: u64) -> CountItem {
    CountItem {
        day: Day::from_number(number).unwrap(),
        version: Version([1; 16]),
        node: NodeId::from("B"),
        team: Arc::from("green"),
        attempt: 1,
        first_rows: 0,
    }
}

fn nodes() -> BTreeSet<NodeId> {
    ["A", "B"].map(NodeId::from).into()
}

/// Ozone from 5 to 35 at sites named after valleys, by parameter, site, day and team.
fn spec() -> Count {
    let words = Words {
        parameter: Some("ozone"),
        min: Some("5"),
        max: Some("35"),
        site: Some("valley"),
        ..Words::default()
    };
    let group_by = vec![GroupKey::Parameter, GroupKey::Site, GroupKey::Day, GroupKey::Team];
    Count {
        selection: Selection { predicate: Arc::new(words.resolve().unwrap()), encoding: Encoding::Json },
        aggregate: Some(AggregateSpec { of: AggregateOf::Value, group_by }),
        replaced_too: false,
    }
}

/// One of two days counted, with one group, the other one failed.
fn honest() -> v1::CountReply {
    let groups = v1::Groups {
        texts: ["Ozone", "Simi Valley", "green"].map(str::to_owned).to_vec(),
        keys: vec![0, 1, 20200810, 2],
        counts: vec![3],
        min_e9: vec![5 * ONE],
        max_e9: vec![35 * ONE],
        sums_e9: i128::from(50 * ONE).to_be_bytes().to_vec(),
    };
    let counted = v1::DayCount {
        day: 20200810,
        node: "B".to_owned(),
        attempt: 1,
        version: vec![1; 16],
        rows_matched: 4,
        first_frame: None,
    };
    let failed = v1::DayFailure { day: 20200811, node: "B".to_owned(), ..v1::DayFailure::default() };
    v1::CountReply {
        days: vec![counted],
        failures: vec![failed],
        groups: Some(groups),
        nodes: vec![v1::NodeState { node: "B".to_owned(), ..v1::NodeState::default() }],
        ..v1::CountReply::default()
    }
}

fn groups_of(reply: &mut v1::CountReply) -> &mut v1::Groups {
    reply.groups.as_mut().unwrap()
}

fn counted(lie: impl FnOnce(&mut v1::CountReply)) -> Result<usize, String> {
    let mut reply = honest();
    lie(&mut reply);
    count(&spec(), &[item(20200810), item(20200811)], &nodes(), reply).map(|answers| answers.failures.len())
}

/// Goal: nothing that was asked is forgotten, and no row is in the groups twice. Method: a neighbour counts one of two
/// days and is silent about the other, then fails it, then has more rows in its group than it counted.
#[test]
fn answer_that_does_not_add_up_is_refused() {
    let silent = counted(|reply| reply.failures.clear());
    assert_eq!(silent.unwrap_err(), "(20200811, \"B\") is neither answered nor failed");
    assert_eq!(counted(|_| ()), Ok(1), "one row lacks the aggregated column");
    let double = counted(|reply| groups_of(reply).counts[0] = 5);
    assert_eq!(double.unwrap_err(), "the groups count 5 rows, the days have 4 that match");
}

/// Goal: a field of a count in which a lie would pass has none. Method: each is changed in an answer that passes.
#[test]
fn count_that_contradicts_its_request_is_refused() {
    type Lie = fn(&mut v1::CountReply);
    let group_of = |text: &'static str| {
        move |reply: &mut v1::CountReply| {
            groups_of(reply).texts[1] = text.to_owned();
        }
    };
    let lies: [(Lie, &str); 19] = [
        (|reply| reply.days[0].day = 20200812, "was not asked for"),
        (|reply| reply.days[0].node = "C".to_owned(), "was not asked for"),
        (|reply| reply.days.push(reply.days[0].clone()), "answered twice"),
        (|reply| reply.days[0].version = vec![2; 16], "another version"),
        (|reply| reply.days[0].attempt = 2, "by attempt 2, this is attempt 1"),
        (|reply| reply.days[0].rows_matched = u64::MAX, "no day has so many"),
        (|reply| reply.days[0].first_frame = Some(v1::Frame::default()), "version: 0 bytes"),
        (|reply| reply.nodes[0].node = "A".to_owned(), "how node `A` is, of which nothing was asked"),
        (
            |reply| reply.failures[0].nodes_tried.push("X".to_owned()),
            "node `X`, which the overlay does not have",
        ),
        (|reply| reply.failures[0].been_at.push("X".to_owned()), "node `X`, which the overlay does not have"),
        (|reply| reply.failures[0].day = 20200810, "was not asked for, or is answered twice"),
        (
            |reply| {
                let of_stranger = v1::HopStatistics { node: "X".to_owned(), ..v1::HopStatistics::default() };
                reply.statistics.push(of_stranger);
            },
            "node `X`, which the overlay does not have",
        ),
        (|reply| groups_of(reply).min_e9[0] = 4 * ONE, "values from 4.0 to 35.0"),
        (|reply| groups_of(reply).max_e9[0] = 36 * ONE, "values from 5.0 to 36.0"),
        (|reply| groups_of(reply).min_e9[0] = 36 * ONE, "counts nothing"),
        (
            |reply| groups_of(reply).sums_e9 = i128::from(ONE).to_be_bytes().to_vec(),
            "has the sum 1000000000e-9",
        ),
        (|reply| groups_of(reply).texts[0] = "CO".to_owned(), "its parameter"),
        (|reply| groups_of(reply).texts[2] = "pink".to_owned(), "its team"),
        (|reply| groups_of(reply).keys[2] = 20200811, "its day"),
    ];
    for (lie, said) in lies {
        let refused = counted(lie).unwrap_err();
        assert!(refused.contains(said), "should say {said}: {refused}");
    }
    assert!(counted(group_of("Simi Hill")).unwrap_err().contains("its site"));
    assert_eq!(counted(group_of("VALLEY")), Ok(1), "letter case does not count");
}

/// Goal: what a neighbour says of a failure is no longer than what can be kept, and no longer than it has to be.
#[test]
fn what_is_said_of_a_failure_is_bounded() {
    let mut reply = honest();
    reply.failures[0].why = "é".repeat(5000);
    reply.failures[0].been_at = ["B", "A", "B"].map(str::to_owned).to_vec();
    let answers = count(&spec(), &[item(20200810), item(20200811)], &nodes(), reply).unwrap();
    let failure = &answers.failures[0];
    assert_eq!((failure.why.chars().count(), failure.been_at.len()), (1000, 2));
}

#[test]
fn groups_of_a_day_count_no_more_rows_than_match_on_it() {
    let mut reply = honest();
    reply.failures.clear();
    reply.days.push(v1::DayCount { day: 20200811, rows_matched: 9, ..reply.days[0].clone() });
    groups_of(&mut reply).counts[0] = 5;
    let days = [item(20200810), item(20200811)];
    let refused = count(&spec(), &days, &nodes(), reply).unwrap_err();
    assert_eq!(refused, "the groups of day 20200810 count 5 rows, the days have 4 that match");
}

fn day_inventory() -> v1::DayInventory {
    let ozone = v1::ParameterStatistics {
        parameter: "OZONE".to_owned(),
        rows: 9,
        missing: 2,
        value_min_e9: Some(-ONE),
        value_max_e9: Some(40 * ONE),
    };
    v1::DayInventory {
        day: 20200810,
        files: 2,
        rows: 9,
        rejected_rows: 1,
        version: vec![1; 16],
        parameters: vec![ozone],
        lat_min: 30.0,
        lat_max: 40.0,
        lon_min: -120.0,
        lon_max: -110.0,
        worst_row_bytes_arrow: 100,
        worst_row_bytes_json: 300,
        worst_row_bytes_json_legacy: 300,
        rejected: vec!["a.csv:1: 3 fields".to_owned()],
        replaced: vec![no_data(20200810)],
    }
}

/// Goal: a node of a version that does not say what it does is not shown as idle.
#[test]
fn load_that_is_not_told_is_unknown() {
    let told = |load| {
        let node = v1::NodeInventory { node: "B".to_owned(), load, ..v1::NodeInventory::default() };
        let asked = [InventoryItem { node: NodeId::from("B"), known_incarnation: 0 }];
        let reply = v1::InventoryReply { nodes: vec![node], unreachable: Vec::new() };
        inventory(&asked, &nodes(), reply).unwrap().answers[0].load.clone()
    };
    assert_eq!(told(None), None);
    assert_eq!(told(Some(v1::NodeLoad::default())), Some(NodeLoad::default()));
}

/// What a day has of which there is no file.
fn no_data(day: u32) -> v1::DayInventory {
    v1::DayInventory { day, version: Version::of_no_data().0.to_vec(), ..v1::DayInventory::default() }
}

fn inventory_with(lie: impl FnOnce(&mut v1::DayInventory)) -> Result<usize, String> {
    let mut day = day_inventory();
    lie(&mut day);
    let node = v1::NodeInventory { node: "B".to_owned(), days: vec![day], ..v1::NodeInventory::default() };
    let asked = [InventoryItem { node: NodeId::from("B"), known_incarnation: 0 }];
    let reply = v1::InventoryReply { nodes: vec![node], unreachable: Vec::new() };
    inventory(&asked, &nodes(), reply).map(|answers| answers.answers.len())
}

/// The day at so many other versions.
fn others(count: u16) -> Vec<v1::DayInventory> {
    let at = |number: u16| {
        let mut version = vec![2; 16];
        version[..2].copy_from_slice(&number.to_be_bytes());
        v1::DayInventory { version, replaced: Vec::new(), rejected: Vec::new(), ..day_inventory() }
    };
    (0..count).map(at).collect()
}

/// Goal: no day is pruned, and no chunk cut, by statistics that cannot be. Method: as for counts.
#[test]
fn statistics_that_contradict_each_other_are_refused() {
    assert_eq!(inventory_with(|_| ()), Ok(1));
    type Lie = fn(&mut v1::DayInventory);
    let lies: [(Lie, &str); 19] = [
        (|day| day.rows = u64::MAX, "no day has so many"),
        (|day| day.rows = 10, "9 rows by parameter, 10 in all"),
        (|day| day.files = 0, "0 files, and a version"),
        (|day| day.version = Version::of_no_data().0.to_vec(), "2 files, and a version"),
        (|day| day.rejected_rows = 0, "1 rejected rows are listed, of 0"),
        (|day| day.parameters.push(day.parameters[0].clone()), "a parameter comes twice"),
        (|day| day.parameters[0].missing = 10, "`OZONE` cannot have"),
        (|day| day.parameters[0].missing = 9, "`OZONE` cannot have"),
        (|day| day.parameters[0].value_min_e9 = None, "`OZONE` cannot have"),
        (|day| day.parameters[0].value_min_e9 = Some(41 * ONE), "`OZONE` cannot have"),
        (|day| day.parameters[0].value_max_e9 = Some(i64::MAX), "`OZONE` cannot have"),
        (|day| day.parameters[0].parameter = "ozone".to_owned(), "`ozone` cannot have"),
        (|day| day.worst_row_bytes_json = 0, "rows that take no bytes"),
        (|day| day.lat_min = f64::NAN, "sites at"),
        (|day| day.lon_min = -100.0, "sites at"),
        (|day| day.replaced[0].rows = 1, "1 rows and 0 rejected ones of no file"),
        (|day| day.replaced[0].version = vec![1; 16], "has replaced itself"),
        (|day| day.replaced.push(day.replaced[0].clone()), "a version comes twice"),
        (|day| day.replaced = others(101), "101 replaced versions at node `B`, limit 100"),
    ];
    for (lie, said) in lies {
        let refused = inventory_with(lie).unwrap_err();
        assert!(refused.contains(said), "should say {said}: {refused}");
    }
}

/// It is only shown, and kept: no more than there are nodes.
#[test]
fn traffic_with_strangers_is_left_out() {
    let traffic = |neighbour: &str| v1::Traffic { neighbour: neighbour.to_owned(), requests: 2, bytes: 3 };
    let known = nodes().iter().next().unwrap().clone();
    let load = v1::NodeLoad {
        active_queries: 1,
        traffic: vec![traffic(&known), traffic("nobody"), traffic(&known)],
        ..v1::NodeLoad::default()
    };
    let load = wire::load_from(load, &nodes());
    assert_eq!((load.active_queries, load.traffic.len(), load.traffic[&known].bytes), (1, 1, 3));
}

#[test]
fn nobody_is_put_off_for_longer_than_an_hour() {
    let cause = v1::FailureCause::Overloaded.into();
    let failure = v1::DayFailure { cause, retry_after_ms: u64::MAX, ..v1::DayFailure::default() };
    let Cause::Overloaded { retry_after } = wire::cause_from(&failure) else { panic!("overloaded") };
    assert_eq!(retry_after.as_secs(), 3600);
}
