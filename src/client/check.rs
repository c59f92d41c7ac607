//! What the client checks: the manifest against the question, the ledger against the plan, frames against the ledger.
//!
//! This proves that nothing was lost, added or changed on the way. A node that lies about which days its teams
//! own, or about its data, is not found out here: `check-proof` and `verify-data-loading` compare with the files.

use super::QueryResult;
use crate::coverage::{self, Gap};
use crate::day::{Day, DayRange};
use crate::frame::{self, Encoding};
use crate::plan::Query;
use crate::proto::v1;
use crate::store::Version;
use crate::verb::Frame;
use crate::wire;

/// Checks that a manifest is about what was asked, and agrees with itself.
pub(super) fn check_manifest(manifest: &v1::Manifest, query: &Query) -> Result<(), String> {
    let v1::Manifest { total_records, limit_reached, .. } = *manifest;
    if manifest.encoding != i32::from(wire::encoding_to(query.encoding)) {
        return Err(format!("its encoding is {}, asked for was {:?}", manifest.encoding, query.encoding));
    }
    if manifest.arrow_schema != frame::schema_before(query.encoding, query.aggregate.as_ref()) {
        return Err("its schema message is not the one of the rows that were asked for".to_owned());
    }
    if limit_reached != query.limit.is_some_and(|limit| total_records >= limit) {
        let limit = query.limit;
        return Err(format!("limit_reached is {limit_reached} for {total_records} records of {limit:?}"));
    }
    let chunked: u64 = manifest.chunk_rows.iter().map(|rows| u64::from(*rows)).sum();
    if chunked != total_records || manifest.chunk_rows.is_empty() {
        return Err(format!("its chunks have {chunked} records, its total is {total_records}"));
    }
    Ok(())
}

/// Checks that the ledger accounts for each planned day, and adds up to the manifest.
///
/// `owned` is what the node says that it answers for; the planned days follow from that and the query.
pub(super) fn check_ledger(result: &QueryResult, owned: &[(String, DayRange)]) -> Result<(), Gap> {
    let QueryResult { query, ledger, manifest, .. } = result;
    let planned = query.planned_days(owned.iter().map(|(team, days)| (team.as_str(), *days)));
    let days: Vec<Day> = planned.iter().map(|(day, _)| *day).collect();
    coverage::check_tiles_plan(ledger, &days)?;
    coverage::check_owners(ledger, &planned)?;
    let check = match query.aggregate {
        Some(_) => coverage::check_aggregated,
        None => coverage::check_rows,
    };
    check(ledger, manifest.total_records, query.limit, query.allow_partial)
}

/// Checks that frames are exactly what chunk `index` consists of.
pub(super) fn check_frames(result: &QueryResult, index: u32, frames: &[Frame]) -> Result<(), String> {
    let header = |day: Option<Day>, version: Version, first_row: u64, rows: u32| {
        let day = day.map_or_else(|| "of groups".to_owned(), |day| day.to_string());
        format!("{day} {version} {first_row}+{rows}")
    };
    let range = result.chunk_range(index).ok_or_else(|| {
        format!("chunk {index} came, the manifest has {} chunks, counted from 0", result.chunk_count())
    })?;
    let wanted: Vec<String> = match result.query.aggregate {
        Some(_) if range.is_empty() => Vec::new(),
        Some(_) => {
            let version = coverage::aggregate_version(&result.ledger);
            vec![header(None, version, range.start, (range.end - range.start) as u32)]
        }
        None => result
            .chunk_days(index)
            .into_iter()
            .flatten()
            .map(|rows| header(Some(rows.day), rows.version, rows.first_row, rows.rows))
            .collect(),
    };
    let found: Vec<String> =
        frames.iter().map(|frame| header(frame.day, frame.version, frame.first_row, frame.rows)).collect();
    if wanted != found {
        return Err(format!("chunk {index} has the frames {found:?}, the ledger says {wanted:?}"));
    }
    frames.iter().try_for_each(|frame| check_payload(result, frame))
}

fn check_payload(result: &QueryResult, frame: &Frame) -> Result<(), String> {
    if frame::digest(&frame.payload) != frame.digest {
        return Err(format!("the payload of the frame for day {:?} does not have its digest", frame.day));
    }
    let decoded = match result.encoding() {
        Encoding::Arrow => {
            frame::decode_arrow(&result.manifest.arrow_schema, &frame.payload).map(|rows| rows.num_rows())
        }
        Encoding::Json | Encoding::JsonLegacy => {
            frame::json_row_count(&frame.payload, &frame::json_keys(result.query.aggregate.as_ref()))
        }
    };
    match decoded {
        Ok(rows) if rows == frame.rows as usize => Ok(()),
        Ok(rows) => Err(format!("a frame of {} rows decodes to {rows}", frame.rows)),
        Err(error) => Err(format!("a frame does not decode: {error}")),
    }
}
