//! A neighbour's answer to a fixed request: a byte that says to which verb, one that is odd if digests are made right, and
//! the message. What is accepted is used as the node that asked uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey, Tally};
use overlay::config::NodeId;
use overlay::frame::{self, Encoding};
use overlay::inventory::{Directory, NodeInventory};
use overlay::peer::check;
use overlay::placement::Placement;
use overlay::plan::{self, Known, Query};
use overlay::proto::v1;
use overlay::verb::{Answers, Count, CountItem, DayCount, InventoryItem, ReadItem, Selection};
use overlay::wire;
use prost::Message;

use super::{Seed, sample, tagged};

pub(super) fn run(bytes: &[u8]) {
    let Some((verb, bytes)) = tagged(bytes) else { return };
    let Some((right_digests, bytes)) = tagged(bytes) else { return };
    match verb % 4 {
        0 => count(bytes, right_digests % 2 == 1, None),
        1 => count(bytes, right_digests % 2 == 1, Some(spec())),
        2 => read(bytes, right_digests % 2 == 1),
        _ => inventory(bytes),
    }
}

fn count(bytes: &[u8], right_digests: bool, aggregate: Option<AggregateSpec>) {
    let Ok(mut reply) = v1::CountReply::decode(bytes) else { return };
    if right_digests {
        reply.days.iter_mut().filter_map(|day| day.first_frame.as_mut()).for_each(sign);
    }
    let spec = Count { selection: selection(), aggregate, replaced_too: false };
    let answers = match check::count(&spec, &count_items(), nodes(), reply.clone()) {
        Ok(answers) => answers,
        Err(what) => return assert!(!what.is_empty()),
    };
    assert_eq!(answers.answers.len() + answers.failures.len(), count_items().len());
    groups_are_of_the_days(&spec, &answers);
    for answer in &answers.answers {
        let expected = u64::from(answer.item.first_rows).min(answer.rows_matched);
        let found = answer.first_frame.as_ref().map_or(0, |frame| u64::from(frame.rows));
        assert_eq!(found, expected, "rows of the first frame of day {}", answer.item.day);
    }
    let rows: Vec<u64> = answers.answers.iter().map(|answer| answer.rows_matched).collect();
    cut(&rows);
    // The next hop merges it with what others answer.
    let mut merged = answers;
    merged.merge(check::count(&spec, &count_items(), nodes(), reply).expect("accepted before"));
}

fn groups_are_of_the_days(spec: &Count, answers: &Answers<CountItem, DayCount>) {
    let matched: u64 = answers.answers.iter().map(|answer| answer.rows_matched).sum();
    let grouped: u64 = answers.groups.partials().iter().map(|partial| partial.count).sum();
    assert!(grouped <= matched, "{grouped} rows in groups, {matched} match");
    let again = wire::groups_from(spec.aggregate.as_ref(), wire::groups_to(&answers.groups));
    assert_eq!(again.expect("groups are messages"), answers.groups);
    let Some(aggregate) = &spec.aggregate else { return };
    let groups = &answers.groups;
    for encoding in [Encoding::Arrow, Encoding::Json] {
        let payload = frame::encode_groups(aggregate.of, groups, 0..groups.len(), encoding);
        let bytes = u64::from(encoding.of(&frame::worst_group_bytes(groups)));
        let most = bytes * groups.len() as u64 + u64::from(frame::frame_overhead_bytes(encoding));
        assert!(payload.len() as u64 <= most, "{encoding:?}: {} bytes, {most} at most", payload.len());
    }
}

fn read(bytes: &[u8], right_digests: bool) {
    let Ok(mut reply) = v1::ReadReply::decode(bytes) else { return };
    if right_digests {
        reply.frames.iter_mut().for_each(sign);
    }
    let items = [read_item()];
    if let Ok(answers) = check::read(&items, nodes(), reply) {
        assert_eq!(answers.answers.len() + answers.failures.len(), items.len());
        for (item, frames) in answers.answers {
            let ranges = item.ranges().map(|range| (range.start, (range.end - range.start) as u32));
            let found = frames.iter().map(|frame| (frame.first_row, frame.rows));
            assert!(found.eq(ranges), "{frames:?}");
            for frame in frames {
                assert_eq!(frame.version, item.version);
                assert_eq!(frame::digest(&frame.payload), frame.digest);
            }
        }
    }
}

fn sign(frame: &mut v1::Frame) {
    frame.digest = frame::digest(&frame.payload).0.to_vec().into();
}

fn inventory(bytes: &[u8]) {
    let Ok(reply) = v1::InventoryReply::decode(bytes) else { return };
    let items = [InventoryItem { node: "B".into(), known_incarnation: 7 }];
    let Ok(answers) = check::inventory(&items, nodes(), reply) else { return };
    assert_eq!(answers.answers.len() + answers.failures.len(), items.len());
    for answer in answers.answers {
        let again = wire::inventory_from(&wire::inventory_to(&answer.inventory, answer.unchanged));
        assert_eq!(again.expect("an inventory is a message"), answer.inventory);
        if let Some(load) = &answer.load {
            assert_eq!(wire::load_from(wire::load_to(load), nodes()), *load);
        }
        let directory = Directory::default();
        directory.learn(answer.inventory.clone(), answer.unchanged);
        planned(&directory, &answer.inventory);
    }
}

/// Queries are planned by what was accepted, and cut into chunks as if all rows matched.
fn planned(directory: &Directory, inventory: &NodeInventory) {
    static PLACEMENT: OnceLock<Placement> = OnceLock::new();
    let overlay = sample::overlay();
    let placement = PLACEMENT.get_or_init(|| Placement::new(overlay));
    let groups = Query { aggregate: Some(spec()), encoding: Encoding::Json, ..Query::default() };
    let replaced =
        inventory.days.iter().filter_map(|(day, held)| Some((*day, *held.replaced.keys().next()?)));
    let resumed = Query { expected_versions: replaced.collect(), ..Query::default() };
    for query in [Query { predicate: sample::ozone(), limit: Some(5), ..Query::default() }, groups, resumed] {
        let owned = overlay.teams.iter().map(|team| (team.name.as_str(), team.days));
        let days = query.planned_days(owned);
        let plan = plan::plan(query, &days, overlay, &Known::new(placement, &directory.snapshot()));
        for (planned, ask) in plan.asks() {
            let held = inventory.days.get(&planned.day).expect("nobody else holds anything");
            let replaced = held.replaced.get(&ask.version);
            assert_eq!(ask.rows_to_scan, replaced.unwrap_or(&held.statistics).rows);
            assert!(ask.rows_at_most <= ask.rows_to_scan, "{ask:?}");
        }
        let rows: Vec<u64> = plan.asks().map(|(_, ask)| ask.rows_to_scan).collect();
        let total: u64 = rows.iter().sum();
        let chunks = plan.bounds.large_enough_for(total).cut(&rows, Some(5));
        assert!(chunks.len() <= overlay::chunking::MAX_CHUNKS + 2, "{} chunks", chunks.len());
    }
}

/// Chunks tile what was counted.
fn cut(rows: &[u64]) {
    let bounds = overlay::chunking::ChunkBounds {
        fixed_rows: 500,
        may_grow: true,
        chunk_bytes: 1 << 20,
        worst_row_bytes: 1,
        ..overlay::chunking::ChunkBounds::default()
    };
    let total: u64 = rows.iter().sum();
    let chunks = bounds.large_enough_for(total).cut(rows, None);
    let cut: u64 = chunks.iter().map(|rows| u64::from(*rows)).sum();
    assert!(cut == total || chunks.len() > overlay::chunking::MAX_CHUNKS, "{cut} of {total} rows");
}

fn nodes() -> &'static BTreeSet<NodeId> {
    static NODES: OnceLock<BTreeSet<NodeId>> = OnceLock::new();
    NODES.get_or_init(|| sample::overlay().processes.keys().cloned().collect())
}

fn selection() -> Selection {
    Selection { predicate: Arc::new(sample::ozone()), encoding: Encoding::Json }
}

fn spec() -> AggregateSpec {
    AggregateSpec {
        of: AggregateOf::Value,
        group_by: vec![GroupKey::Parameter, GroupKey::Hour, GroupKey::Day, GroupKey::Site],
    }
}

fn count_items() -> [CountItem; 2] {
    let item = CountItem {
        day: sample::day(sample::DAY),
        version: sample::batch().version,
        node: "B".into(),
        team: "green".into(),
        attempt: 1,
        first_rows: 2,
    };
    [item.clone(), CountItem { day: sample::day(20200811), first_rows: 0, ..item }]
}

fn read_item() -> ReadItem {
    let [CountItem { day, version, node, team, .. }, _] = count_items();
    ReadItem { day, version, node, team, first_row: 1, frame_rows: vec![2] }
}

pub(super) fn seeds() -> Vec<Seed> {
    let seed = |verb: u8, message: Vec<u8>| [vec![verb, 1], message].concat();
    let state = v1::NodeState { node: "B".to_owned(), incarnation: 9, ..v1::NodeState::default() };
    let hop = v1::HopStatistics { node: "B".to_owned(), rows_scanned: 4, ..v1::HopStatistics::default() };
    let first = sample::rows_frame(&[0, 1], 0, Encoding::Json);
    let day = v1::DayCount {
        day: sample::DAY,
        version: sample::batch().version.0.to_vec(),
        node: "B".to_owned(),
        attempt: 1,
        rows_matched: 3,
        first_frame: Some(wire::frame_to(first)),
    };
    let failed = |node: &str| v1::DayFailure {
        day: 20200811,
        node: node.to_owned(),
        cause: v1::FailureCause::Overloaded.into(),
        why: "full".to_owned(),
        retry_after_ms: 250,
        ..v1::DayFailure::default()
    };
    let rows = v1::CountReply {
        days: vec![day],
        failures: vec![failed("B")],
        statistics: vec![hop],
        nodes: vec![state],
        ..v1::CountReply::default()
    };
    let mut tally = Tally::new(sample::store(), &spec());
    tally.add(sample::batch(), &[0, 1, 3], &"green".into());
    let groups = tally.into_groups(sample::store());
    let groups = v1::CountReply { groups: wire::groups_to(&groups), ..rows.clone() };
    let frame = wire::frame_to(sample::rows_frame(&[1, 3], 1, Encoding::Json));
    let read = v1::ReadReply { frames: vec![frame], ..v1::ReadReply::default() };
    let lost = v1::DayFailure { day: sample::DAY, ..failed("B") };
    let not_read = v1::ReadReply { failures: vec![lost], ..v1::ReadReply::default() };
    let unreachable = v1::Unreachable {
        node: "B".to_owned(),
        why: "down".to_owned(),
        nodes_tried: vec!["B".to_owned()],
        retry_after_ms: Some(5),
        been_at: vec!["C".to_owned()],
    };
    let nobody = v1::InventoryReply { nodes: Vec::new(), unreachable: vec![unreachable] };
    let unchanged = v1::NodeInventory {
        node: "B".to_owned(),
        incarnation: 7,
        ready: true,
        unchanged: true,
        ..v1::NodeInventory::default()
    };
    let unchanged = v1::InventoryReply { nodes: vec![unchanged], unreachable: Vec::new() };
    let held = v1::InventoryReply { nodes: vec![held()], unreachable: Vec::new() };
    vec![
        ("count", seed(0, rows.encode_to_vec())),
        ("groups", seed(1, groups.encode_to_vec())),
        ("read", seed(2, read.encode_to_vec())),
        ("not_read", seed(2, not_read.encode_to_vec())),
        ("inventory", seed(3, held.encode_to_vec())),
        ("unchanged", seed(3, unchanged.encode_to_vec())),
        ("unreachable", seed(3, nobody.encode_to_vec())),
    ]
}

/// What B says of itself: the sample's day, which had no data, and a day without files, which had some.
fn held() -> v1::NodeInventory {
    use overlay::inventory::DayInventory;
    use overlay::store::Version;

    let batch = sample::batch();
    let data = (batch.version, Arc::new(batch.statistics.clone()));
    let no_data = (Version::of_no_data(), Arc::default());
    let held = |(version, statistics), replaced| DayInventory {
        version,
        statistics,
        rejected: Vec::new(),
        replaced: BTreeMap::from([replaced]),
    };
    let inventory = NodeInventory {
        node: "B".into(),
        incarnation: 9,
        ready: true,
        draining: false,
        free_compute_slots: 2,
        files: 1,
        days: [
            (sample::day(sample::DAY), held(data.clone(), no_data.clone())),
            (sample::day(20200811), held(no_data, data)),
        ]
        .into(),
        unowned_days: vec!["20190101".to_owned()],
    };
    wire::inventory_to(&inventory, false)
}
