//! Frames encoded again from the files, against the digests that the client got.

use super::super::output::counted;
use super::{Claim, Report};
use crate::aggregate::Tally;
use crate::day::Day;
use crate::frame;
use crate::result_set::days_of_range;
use crate::store::{Store, Version};

/// The frames that the manifest and the ledger ask for, each encoded again.
pub(super) fn check_row_frames(
    claim: &Claim,
    store: &Store,
    matches: &[(Day, Vec<u32>)],
    report: &mut Report,
) {
    let wanted: Vec<_> = (0u32..)
        .zip(claim.chunk_ranges())
        .flat_map(|(chunk, range)| {
            days_of_range(&claim.ledger, range).into_iter().map(move |rows| (chunk, rows))
        })
        .collect();
    report.compare("frames", claim.frames.len(), wanted.len());
    for ((chunk, wanted), (record, claimed)) in
        wanted.iter().zip(claim.proof.frames.iter().zip(&claim.frames))
    {
        let header = |chunk: u32, day: Option<Day>, version: Version, first_row: u64, rows: u32| {
            let day = day.map_or_else(|| "none".to_owned(), |day| day.to_string());
            format!("chunk {chunk} day {day} version {version} rows {first_row}+{rows}")
        };
        let expected = header(*chunk, Some(wanted.day), wanted.version, wanted.first_row, wanted.rows);
        let found = header(record.chunk, claimed.day, claimed.version, record.first_row, record.rows);
        report.compare(format_args!("frame of day {}", wanted.day), found, expected);
        let rows = matches.iter().find(|(day, _)| *day == wanted.day).and_then(|(_, rows)| {
            let start = usize::try_from(wanted.first_row).ok()?;
            rows.get(start..start.checked_add(wanted.rows as usize)?)
        });
        let what =
            format!("day {}, rows {}+{}, digest of the frame", wanted.day, wanted.first_row, wanted.rows);
        match (store.day(wanted.day), rows) {
            (Some(batch), Some(rows)) => {
                let payload = frame::encode_rows(store, batch, rows, claim.query.encoding);
                report.compare(what, frame::digest(&payload), claimed.digest);
            }
            _ => report.differences.push(format!("{what}: found no such rows, expected {}", claimed.digest)),
        }
    }
    report.checked.push(format!("frames  {} encoded again", counted(wanted.len() as u64, "frame")));
}

/// The groups, computed and encoded again.
pub(super) fn check_group_frames(
    claim: &Claim,
    store: &Store,
    matches: &[(Day, Vec<u32>)],
    report: &mut Report,
) {
    let Some(spec) = &claim.query.aggregate else { return };
    let mut tally = Tally::new(store, spec);
    for (day, rows) in matches {
        let entry = claim.ledger.iter().find(|entry| entry.day == *day);
        if let (Some(batch), Some(entry)) = (store.day(*day), entry) {
            tally.add(batch, rows, &entry.team);
        }
    }
    let limit = claim.query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut groups = tally.into_groups(store);
    groups.truncate(limit);
    report.compare("groups", groups.len() as u64, claim.proof.total_records);
    let ranges: Vec<_> = (0u32..).zip(claim.chunk_ranges()).filter(|(_, range)| !range.is_empty()).collect();
    report.compare("frames", claim.frames.len(), ranges.len());
    for ((chunk, range), (record, claimed)) in ranges.iter().zip(claim.proof.frames.iter().zip(&claim.frames))
    {
        let header = |chunk: u32, first: u64, rows: u64| format!("chunk {chunk} groups {first}+{rows}");
        let expected = header(*chunk, range.start, range.end - range.start);
        report.compare(
            "frame",
            header(record.chunk, record.first_row, u64::from(record.rows)),
            expected.clone(),
        );
        let records = range.start as usize..range.end as usize;
        match records.end <= groups.len() {
            true => {
                let payload = frame::encode_groups(spec.of, &groups, records, claim.query.encoding);
                report.compare(format_args!("{expected}, digest"), frame::digest(&payload), claimed.digest);
            }
            false => report.differences.push(format!("{expected}: found no such groups")),
        }
    }
    report.checked.push(format!("frames  {} of groups encoded again", counted(ranges.len() as u64, "frame")));
}
