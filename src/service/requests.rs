//! Requests as values: what they may hold, and how much of it.
//!
//! Pure: the limits are arguments, and who asks is checked elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Limits, MAX_OWNED_DAYS, Overlay};
use crate::plan::{InvalidQuery, Query};
use crate::proto::v1;
use crate::result_set::WINDOW_CHUNKS;
use crate::verb::{Count, CountItem, InventoryItem, Read, ReadItem, Selection};
use crate::wire;

/// Bytes of an id that a client chose.
const MAX_ID_BYTES: usize = 256;

/// Keys that a group can have, each once.
const MAX_GROUP_KEYS: usize = 6;

/// How much longer a predicate may be that a node passes on: folding letter case makes a letter up to three times as long.
const FOLDED: usize = 4;

/// What a client asks for.
///
/// # Errors
/// [`InvalidQuery`] that names the field, what it holds and what it may hold.
pub fn query(request: &v1::QueryRequest, limits: &Limits) -> Result<Query, InvalidQuery> {
    hops(&request.hops, limits)?;
    id("request_id", &request.request_id)?;
    id("client_id", &request.client_id)?;
    id("team", request.team.as_deref().unwrap_or_default())?;
    predicate(request.predicate.as_ref(), limits.filter_bytes)?;
    group_by(request.aggregate.as_ref())?;
    let versions = request.expected_versions.len();
    at_most("expected_versions", versions, MAX_OWNED_DAYS, "the days that teams may own")?;
    Ok(wire::query_from(request)?)
}

/// Which nodes a peer asks about.
///
/// # Errors
/// [`InvalidQuery`] as of [`query`].
pub fn inventory(
    request: &v1::InventoryRequest,
    overlay: &Overlay,
) -> Result<Vec<InventoryItem>, InvalidQuery> {
    passed_on(&request.hops, &request.avoid, overlay)?;
    id("client_address", &request.client_address)?;
    id("client_id", &request.client_id)?;
    at_most("nodes", request.nodes.len(), overlay.processes.len(), "the processes of the configuration")?;
    let item = |node: &v1::NodeRequest| {
        id("nodes", &node.node)?;
        Ok(InventoryItem { node: node.node.as_str().into(), known_incarnation: node.known_incarnation })
    };
    request.nodes.iter().map(item).collect()
}

/// What a peer wants counted, and on which holders.
///
/// # Errors
/// [`InvalidQuery`] as of [`query`].
pub fn count(request: &v1::CountRequest, overlay: &Overlay) -> Result<(Count, Vec<CountItem>), InvalidQuery> {
    passed_on(&request.hops, &request.avoid, overlay)?;
    id("client_address", &request.client_address)?;
    id("client_id", &request.client_id)?;
    days(&request.days)?;
    group_by(request.aggregate.as_ref())?;
    if request.aggregate.is_some() && request.days.iter().any(|day| day.first_rows > 0) {
        return Err(InvalidQuery::new("first_rows", "first_rows: an aggregate has no rows".to_owned()));
    }
    let spec = Count {
        selection: selection(request.predicate.as_ref(), request.encoding, overlay)?,
        aggregate: request.aggregate.as_ref().map(wire::aggregate_from).transpose()?,
        replaced_too: request.replaced_too,
    };
    let items: Result<Vec<_>, _> = request.days.iter().map(wire::count_item_from).collect();
    Ok((spec, items?))
}

/// Which row ranges a peer wants read, and from which holders.
///
/// # Errors
/// [`InvalidQuery`] as of [`query`].
pub fn read(request: &v1::ReadRequest, overlay: &Overlay) -> Result<(Read, Vec<ReadItem>), InvalidQuery> {
    passed_on(&request.hops, &request.avoid, overlay)?;
    id("client_address", &request.client_address)?;
    id("client_id", &request.client_id)?;
    days(&request.days)?;
    let spec = Read { selection: selection(request.predicate.as_ref(), request.encoding, overlay)? };
    for day in &request.days {
        at_most("frame_rows", day.frame_rows.len(), WINDOW_CHUNKS as usize, "chunks that are read together")?;
    }
    let items: Result<Vec<_>, _> = request.days.iter().map(wire::read_item_from).collect();
    Ok((spec, items?))
}

/// Refuses a request that has passed too many nodes, or one of an overlong name.
pub(crate) fn hops(hops: &[String], limits: &Limits) -> Result<(), InvalidQuery> {
    at_most("hops", hops.len(), limits.max_hops, "limits.max_hops")?;
    hops.iter().try_for_each(|hop| id("hops", hop))
}

/// Refuses an id that somebody chose too long.
pub(crate) fn id(field: &'static str, id: &str) -> Result<(), InvalidQuery> {
    match id.len() {
        0..=MAX_ID_BYTES => Ok(()),
        found => {
            Err(InvalidQuery::new(field, format!("{field}: an id has {found} bytes, limit {MAX_ID_BYTES}")))
        }
    }
}

fn passed_on(passed: &[String], avoid: &[String], overlay: &Overlay) -> Result<(), InvalidQuery> {
    hops(passed, &overlay.limits)?;
    at_most("avoid", avoid.len(), overlay.processes.len(), "the processes of the configuration")?;
    avoid.iter().try_for_each(|node| id("avoid", node))
}

fn days(days: &[v1::DayRequest]) -> Result<(), InvalidQuery> {
    at_most("days", days.len(), MAX_OWNED_DAYS, "the days that teams may own")?;
    let mut asked = BTreeSet::new();
    days.iter().try_for_each(|day| {
        id("node", &day.node)?;
        id("team", &day.team)?;
        match asked.insert(day.day) {
            true => Ok(()),
            false => Err(InvalidQuery::new("days", format!("days: day {} comes twice", day.day))),
        }
    })
}

fn group_by(aggregate: Option<&v1::Aggregate>) -> Result<(), InvalidQuery> {
    let keys = aggregate.map_or(0, |aggregate| aggregate.group_by.len());
    at_most("group_by", keys, MAX_GROUP_KEYS, "the keys that there are")
}

fn predicate(predicate: Option<&v1::Predicate>, most: usize) -> Result<(), InvalidQuery> {
    let found = predicate.map_or(0, prost::Message::encoded_len);
    match found <= most {
        true => Ok(()),
        false => {
            let why = format!("the predicate has {found} bytes, limit {most} (limits.filter_bytes)");
            Err(InvalidQuery::new("predicate", why))
        }
    }
}

fn selection(
    found: Option<&v1::Predicate>,
    encoding: i32,
    overlay: &Overlay,
) -> Result<Selection, InvalidQuery> {
    predicate(found, overlay.limits.filter_bytes * FOLDED)?;
    Ok(Selection {
        predicate: Arc::new(wire::predicate_from(found)?),
        encoding: wire::encoding_from(encoding)?,
    })
}

fn at_most(field: &'static str, found: usize, most: usize, what: &str) -> Result<(), InvalidQuery> {
    match found <= most {
        true => Ok(()),
        false => Err(InvalidQuery::new(field, format!("{found} {field}, limit {most} ({what})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> Overlay {
        Overlay::parse(include_str!("../../configs/one_host_config.json"), "six").unwrap().overlay
    }

    /// Goal: every list of every request has a bound, and the error says how many there are and may be.
    #[test]
    fn every_list_of_a_request_has_a_bound() {
        let overlay = overlay();
        let ids = |count: usize| vec!["x".to_owned(); count];
        let client = |request: v1::QueryRequest| query(&request, &overlay.limits).unwrap_err().why;
        let keys = v1::Aggregate { group_by: vec![1; 7], ..v1::Aggregate::default() };
        let versions = vec![v1::DayVersion::default(); MAX_OWNED_DAYS + 1];
        let counting = |request: v1::CountRequest| count(&request, &overlay).unwrap_err().why;
        let reading = |request: v1::ReadRequest| read(&request, &overlay).unwrap_err().why;
        let asking = |request: v1::InventoryRequest| inventory(&request, &overlay).unwrap_err().why;
        let days = vec![v1::DayRequest::default(); MAX_OWNED_DAYS + 1];
        let refused = [
            client(v1::QueryRequest { hops: ids(33), ..Default::default() }),
            client(v1::QueryRequest { aggregate: Some(keys.clone()), ..Default::default() }),
            client(v1::QueryRequest { expected_versions: versions, ..Default::default() }),
            counting(v1::CountRequest { hops: ids(33), ..Default::default() }),
            counting(v1::CountRequest { avoid: ids(7), ..Default::default() }),
            counting(v1::CountRequest { days: days.clone(), ..Default::default() }),
            counting(v1::CountRequest { aggregate: Some(keys), ..Default::default() }),
            reading(v1::ReadRequest { hops: ids(33), ..Default::default() }),
            reading(v1::ReadRequest { avoid: ids(7), ..Default::default() }),
            reading(v1::ReadRequest { days, ..Default::default() }),
            asking(v1::InventoryRequest { hops: ids(33), ..Default::default() }),
            asking(v1::InventoryRequest { avoid: ids(7), ..Default::default() }),
            asking(v1::InventoryRequest { nodes: vec![Default::default(); 7], ..Default::default() }),
        ];
        let hops = "33 hops, limit 32 (limits.max_hops)";
        let avoid = "7 avoid, limit 6 (the processes of the configuration)";
        let group_by = "7 group_by, limit 6 (the keys that there are)";
        let days = "40001 days, limit 40000 (the days that teams may own)";
        let versions = "40001 expected_versions, limit 40000 (the days that teams may own)";
        let nodes = "7 nodes, limit 6 (the processes of the configuration)";
        assert_eq!(
            refused,
            [hops, group_by, versions, hops, avoid, days, group_by, hops, avoid, days, hops, avoid, nodes]
        );
    }

    /// Goal: nobody has the same rows encoded again and again by one request.
    #[test]
    fn day_is_asked_for_once_and_has_no_rows_beside_groups() {
        let overlay = overlay();
        let day = v1::DayRequest { day: 20200810, version: vec![1; 16], first_rows: 1, ..Default::default() };
        let counting = |days: Vec<v1::DayRequest>, aggregate| {
            count(&v1::CountRequest { days, aggregate, ..Default::default() }, &overlay)
                .map(|(_, items)| items.len())
        };
        let reading = |days: Vec<v1::DayRequest>| {
            read(&v1::ReadRequest { days, ..Default::default() }, &overlay).map(|(_, items)| items.len())
        };
        assert_eq!((counting(vec![day.clone()], None), reading(vec![day.clone()])), (Ok(1), Ok(1)));
        let twice = vec![day.clone(), day.clone()];
        assert_eq!(counting(twice.clone(), None).unwrap_err().why, "days: day 20200810 comes twice");
        assert_eq!(reading(twice).unwrap_err().why, "days: day 20200810 comes twice");
        let mean = v1::Aggregate { of: 1, group_by: Vec::new() };
        assert_eq!(counting(vec![day], Some(mean)).unwrap_err().field, "first_rows");
    }

    #[test]
    fn texts_of_a_request_have_a_bound() {
        let overlay = overlay();
        let long = "x".repeat(257);
        let client = |request: v1::QueryRequest| query(&request, &overlay.limits).unwrap_err().field;
        let predicate = v1::Predicate { site: Some("x".repeat(65_536)), ..Default::default() };
        let passed_on = v1::Predicate { site: Some("x".repeat(4 * 65_536)), ..Default::default() };
        let day = v1::DayRequest { node: long.clone(), ..Default::default() };
        let fields = [
            client(v1::QueryRequest { team: Some(long.clone()), ..Default::default() }),
            client(v1::QueryRequest { client_id: long.clone(), ..Default::default() }),
            client(v1::QueryRequest { request_id: long.clone(), ..Default::default() }),
            client(v1::QueryRequest { predicate: Some(predicate.clone()), ..Default::default() }),
            count(&v1::CountRequest { days: vec![day], ..Default::default() }, &overlay).unwrap_err().field,
            read(&v1::ReadRequest { predicate: Some(passed_on), ..Default::default() }, &overlay)
                .unwrap_err()
                .field,
        ];
        assert_eq!(fields, ["team", "client_id", "request_id", "predicate", "node", "predicate"]);
        let passed_on = v1::ReadRequest { predicate: Some(predicate), ..Default::default() };
        assert!(read(&passed_on, &overlay).is_ok(), "folded by the node that passes it on, it may be longer");
    }
}
