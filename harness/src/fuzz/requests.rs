//! Requests of all services: a byte that says which message, and its bytes.

use overlay::config::Limits;
use overlay::legacy::Filter;
use overlay::proto::{legacy, v1};
use overlay::service::requests;
use overlay::verb::{CountItem, ReadItem};
use overlay::{client, wire};
use prost::Message;

use super::{Seed, check_error, sample, tagged};

pub(super) fn run(bytes: &[u8]) {
    let Some((tag, bytes)) = tagged(bytes) else { return };
    match tag % 10 {
        0 => query(bytes),
        1 => count(bytes),
        2 => read(bytes),
        3 => inventory(bytes),
        4 => old_query(bytes),
        5 => drop(decoded::<v1::GetChunkRequest>(bytes)),
        6 => drop(decoded::<v1::StreamChunksRequest>(bytes)),
        7 => drop(decoded::<v1::CancelRequest>(bytes)),
        8 => drop(decoded::<v1::GetQueryStatusRequest>(bytes)),
        _ => drop(decoded::<legacy::ChunkRequest>(bytes)),
    }
}

/// The message, which is the same once it is encoded and decoded again.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    let again = M::decode(encoded.as_slice()).expect("what was encoded decodes");
    assert_eq!(again.encode_to_vec(), encoded);
    Some(message)
}

fn query(bytes: &[u8]) {
    let Some(message) = decoded::<v1::QueryRequest>(bytes) else { return };
    let overlay = sample::overlay();
    match requests::query(&message, &overlay.limits) {
        Ok(query) => {
            let limits = Limits { filter_bytes: 1 << 20, ..Limits::default() };
            let again = requests::query(&client::request(&query, ""), &limits);
            assert_eq!(again.expect("a query that was read can be asked"), query);
            match query.check(overlay) {
                Ok(()) => {
                    let owned = overlay.teams.iter().map(|team| (team.name.as_str(), team.days));
                    assert!(query.planned_days(owned).len() <= 46, "the teams own 46 days");
                }
                Err(invalid) => check_error(invalid.field, &invalid.to_string()),
            }
        }
        Err(invalid) => check_error(invalid.field, &invalid.to_string()),
    }
}

fn count(bytes: &[u8]) {
    let Some(message) = decoded::<v1::CountRequest>(bytes) else { return };
    match requests::count(&message, sample::overlay()) {
        Ok((spec, items)) => {
            let again = v1::CountRequest {
                predicate: Some(wire::predicate_to(&spec.selection.predicate)),
                aggregate: spec.aggregate.as_ref().map(wire::aggregate_to),
                days: items.iter().map(wire::count_item_to).collect(),
                ..message
            };
            let again = requests::count(&again, sample::overlay());
            assert_eq!(again.expect("what was read can be passed on"), (spec, items));
        }
        Err(invalid) => check_error(invalid.field, &invalid.to_string()),
    }
}

fn read(bytes: &[u8]) {
    let Some(message) = decoded::<v1::ReadRequest>(bytes) else { return };
    match requests::read(&message, sample::overlay()) {
        Ok((spec, items)) => {
            let again = v1::ReadRequest {
                predicate: Some(wire::predicate_to(&spec.selection.predicate)),
                days: items.iter().map(wire::read_item_to).collect(),
                ..message
            };
            let again = requests::read(&again, sample::overlay());
            assert_eq!(again.expect("what was read can be passed on"), (spec, items));
        }
        Err(invalid) => check_error(invalid.field, &invalid.to_string()),
    }
}

fn inventory(bytes: &[u8]) {
    let Some(message) = decoded::<v1::InventoryRequest>(bytes) else { return };
    match requests::inventory(&message, sample::overlay()) {
        Ok(items) => assert_eq!(items.len(), message.nodes.len()),
        Err(invalid) => check_error(invalid.field, &invalid.to_string()),
    }
}

fn old_query(bytes: &[u8]) {
    let Some(message) = decoded::<legacy::QueryRequest>(bytes) else { return };
    if let Err(invalid) = Filter::parse(&message.query_type, &message.query_params, 1000) {
        check_error(invalid.field, &invalid.to_string());
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    let tagged = |tag: u8, bytes: Vec<u8>| [vec![tag], bytes].concat();
    let predicate = wire::predicate_to(&sample::ozone());
    let rows = v1::QueryRequest {
        predicate: Some(v1::Predicate {
            lat_min: Some(30.5),
            text: Some("valley".to_owned()),
            ..predicate.clone()
        }),
        date_start: Some(20200810),
        date_end: Some(20200924),
        limit: Some(7),
        chunking: Some(v1::Chunking { strategy: 1, chunk_rows: Some(2), chunk_bytes: Some(4096) }),
        ..v1::QueryRequest::default()
    };
    let groups = v1::QueryRequest {
        aggregate: Some(v1::Aggregate { of: 3, group_by: vec![1, 4] }),
        encoding: 2,
        allow_partial: true,
        request_id: "r".to_owned(),
        client_id: "c".to_owned(),
        hops: vec!["X".to_owned()],
        expected_versions: vec![v1::DayVersion { day: 20200810, version: vec![1; 16] }],
        ..v1::QueryRequest::default()
    };
    let (day, version) = (sample::day(sample::DAY), sample::batch().version);
    let counted =
        CountItem { day, version, node: "B".into(), team: "green".into(), attempt: 1, first_rows: 2 };
    let wanted =
        ReadItem { day, version, node: "B".into(), team: "green".into(), first_row: 1, frame_rows: vec![2] };
    let count = v1::CountRequest {
        predicate: Some(predicate.clone()),
        aggregate: groups.aggregate.clone(),
        days: vec![wire::count_item_to(&counted)],
        hops: vec!["A".to_owned()],
        avoid: vec!["C".to_owned()],
        client_address: "127.0.0.1".to_owned(),
        ..v1::CountRequest::default()
    };
    let read = v1::ReadRequest {
        predicate: Some(predicate),
        encoding: 2,
        days: vec![wire::read_item_to(&wanted)],
        ..v1::ReadRequest::default()
    };
    let node = v1::NodeRequest { node: "B".to_owned(), known_incarnation: 1 };
    let inventory = v1::InventoryRequest { nodes: vec![node], ..v1::InventoryRequest::default() };
    let old = legacy::QueryRequest {
        query_type: "filter".to_owned(),
        query_params: "{\"parameter\":\"PM2.5\",\"min_value\":5}".to_owned(),
        ..legacy::QueryRequest::default()
    };
    let chunk = v1::GetChunkRequest { uid: "A-1-2-3".to_owned(), chunk_index: 1, client_id: "c".to_owned() };
    vec![
        ("all_rows", tagged(0, Vec::new())),
        ("rows", tagged(0, rows.encode_to_vec())),
        ("groups", tagged(0, groups.encode_to_vec())),
        ("count", tagged(1, count.encode_to_vec())),
        ("read", tagged(2, read.encode_to_vec())),
        ("inventory", tagged(3, inventory.encode_to_vec())),
        ("old_query", tagged(4, old.encode_to_vec())),
        ("get_chunk", tagged(5, chunk.encode_to_vec())),
    ]
}
