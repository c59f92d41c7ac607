//! A reply to a query and its first chunk, as a client checks them: a byte that says what was asked, one that is odd if
//! digests are made right, and the two messages.

use std::collections::BTreeSet;

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey, Tally};
use overlay::client::QueryResult;
use overlay::config::MAX_OWNED_DAYS;
use overlay::coverage::{self, Outcome};
use overlay::frame::{self, Encoding};
use overlay::plan::Query;
use overlay::proto::v1;
use overlay::wire;
use prost::Message;

use super::{Seed, pair, paired, sample, tagged};

/// Chunks whose rows are looked at here: each is found by counting from the first one.
const CHUNKS: u32 = 64;

pub(super) fn run(bytes: &[u8]) {
    let Some((asked, bytes)) = tagged(bytes) else { return };
    let Some((right_digests, bytes)) = tagged(bytes) else { return };
    let Some((reply, chunk)) = pair(bytes) else { return };
    let Ok(reply) = v1::QueryReply::decode(reply) else { return };
    let result = match QueryResult::checked("a:1", &query(asked), reply) {
        Ok(result) => result,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    adds_up(&result, &query(asked));
    let Ok(mut chunk) = v1::Chunk::decode(chunk) else { return };
    if right_digests % 2 == 1 {
        for frame in &mut chunk.frames {
            frame.digest = frame::digest(&frame.payload).0.to_vec().into();
        }
    }
    let index = chunk.chunk_index;
    if let Ok(checked) = result.checked_chunk("a:1", index, chunk) {
        let rows: u64 = checked.frames.iter().map(|frame| u64::from(frame.rows)).sum();
        assert_eq!(rows, u64::from(result.manifest.chunk_rows[index as usize]));
        for frame in checked.frames {
            assert_eq!(frame::digest(&frame.payload), frame.digest);
            let again = wire::frame_from(wire::frame_to(frame.clone()));
            assert_eq!(again.expect("a frame is a message"), frame);
        }
    }
}

/// An accepted ledger accounts for each planned day once, and its rows are those of the chunks.
fn adds_up(result: &QueryResult, query: &Query) {
    let days: BTreeSet<_> = result.ledger.iter().map(|entry| entry.day).collect();
    assert_eq!(days.len(), result.ledger.len(), "a day has two entries");
    assert!(days.len() <= MAX_OWNED_DAYS);
    assert!(days.iter().all(|day| query.date_start.is_none_or(|first| first <= *day)));
    assert!(result.ledger.iter().all(|entry| query.team.as_ref().is_none_or(|team| **team == *entry.team)));
    for entry in &result.ledger {
        let again = wire::entry_from(&wire::entry_to(entry));
        assert_eq!(again.expect("an entry is a message"), *entry);
        let missing = matches!(entry.outcome, Outcome::Missing { .. });
        assert!(!missing || query.allow_partial, "a missing day passes for whole");
    }
    let total = result.manifest.total_records;
    assert!(query.limit.is_none_or(|limit| total <= limit));
    if query.aggregate.is_some() {
        return;
    }
    let taken: u64 = coverage::rows_taken(&result.ledger).map(|(_, served)| served.rows_taken).sum();
    assert_eq!(taken, total);
    for index in 0..result.chunk_count().min(CHUNKS) {
        let days = result.chunk_days(index).expect("a chunk of the manifest");
        let rows: u64 = days.iter().map(|rows| u64::from(rows.rows)).sum();
        assert_eq!(rows, u64::from(result.manifest.chunk_rows[index as usize]), "chunk {index}");
    }
    assert!(result.chunk_days(result.chunk_count()).is_none());
}

/// What was asked.
fn query(asked: u8) -> Query {
    let ozone = Query { predicate: sample::ozone(), ..Query::default() };
    match asked % 5 {
        0 => Query { encoding: Encoding::Json, ..ozone },
        1 => ozone,
        2 => Query { encoding: Encoding::Json, aggregate: Some(spec()), limit: Some(10), ..ozone },
        3 => {
            Query { encoding: Encoding::JsonLegacy, limit: Some(2), team: Some("green".to_owned()), ..ozone }
        }
        _ => Query { allow_partial: true, date_start: Some(sample::day(20200811)), ..ozone },
    }
}

fn spec() -> AggregateSpec {
    AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Hour] }
}

pub(super) fn seeds() -> Vec<Seed> {
    let seed = |asked: u8, reply: &v1::QueryReply, chunk: &v1::Chunk| {
        [&[asked, 1][..], &paired(&reply.encode_to_vec(), &chunk.encode_to_vec())].concat()
    };
    let json = Encoding::Json;
    let rows = |encoding| reply(encoding, 3, &[2, 1], Vec::new());
    let groups = v1::QueryReply {
        manifest: Some(v1::Manifest { total_records: 3, chunk_rows: vec![3], ..manifest(json, &[3]) }),
        ..reply(json, 3, &[3], Vec::new())
    };
    let mut limited = reply(Encoding::JsonLegacy, 2, &[2], Vec::new());
    limited.owned.truncate(1);
    limited.ledger[1] = entry(20200811, v1::coverage_entry::Outcome::BeyondLimit(v1::BeyondLimit {}));
    limited.ledger.truncate(2);
    if let Some(manifest) = &mut limited.manifest {
        manifest.limit_reached = true;
    }
    let mut partial = reply(Encoding::Arrow, 0, &[0], Vec::new());
    partial.ledger.remove(0);
    let nobody = v1::Missing { why: "down".to_owned(), nodes_tried: vec!["E".to_owned()] };
    partial.ledger[1].outcome = Some(v1::coverage_entry::Outcome::Missing(nobody));
    let whole = |encoding| vec![sample::rows_frame(&[0, 1], 0, encoding)];
    vec![
        ("json", seed(0, &rows(json), &chunk(whole(json), false))),
        ("arrow", seed(1, &rows(Encoding::Arrow), &chunk(whole(Encoding::Arrow), false))),
        ("groups", seed(2, &groups, &chunk(vec![groups_frame()], true))),
        ("limited", seed(3, &limited, &chunk(whole(Encoding::JsonLegacy), true))),
        ("partial", seed(4, &partial, &chunk(Vec::new(), true))),
    ]
}

fn entry(day: u32, outcome: v1::coverage_entry::Outcome) -> v1::CoverageEntry {
    let team = if day < 20200812 { "green" } else { "pink" };
    v1::CoverageEntry { day, team: team.to_owned(), outcome: Some(outcome) }
}

fn manifest(encoding: Encoding, chunk_rows: &[u32]) -> v1::Manifest {
    let message = match encoding {
        Encoding::Arrow => v1::Encoding::Arrow,
        Encoding::Json => v1::Encoding::Json,
        Encoding::JsonLegacy => v1::Encoding::JsonLegacy,
    };
    v1::Manifest {
        total_records: chunk_rows.iter().map(|rows| u64::from(*rows)).sum(),
        chunk_rows: chunk_rows.to_vec(),
        encoding: message.into(),
        arrow_schema: frame::schema_before(encoding, None).to_vec(),
        ..v1::Manifest::default()
    }
}

/// Of two days of green, the first of which has the sample's rows, and one of pink that was pruned.
fn reply(
    encoding: Encoding,
    taken: u64,
    chunk_rows: &[u32],
    statistics: Vec<v1::HopStatistics>,
) -> v1::QueryReply {
    use v1::coverage_entry::Outcome as Message;
    let version = sample::batch().version.0.to_vec();
    let served = v1::Served {
        node: "B".to_owned(),
        attempt: 1,
        version: version.clone(),
        rows_matched: 3,
        rows_taken: taken,
    };
    let owned =
        |team: &str, first_day, last_day| v1::OwnedDays { team: team.to_owned(), first_day, last_day };
    v1::QueryReply {
        uid: "A-1".to_owned(),
        manifest: Some(manifest(encoding, chunk_rows)),
        ledger: vec![
            entry(20200810, Message::Served(served)),
            entry(20200811, Message::NoData(v1::NoData { node: "C".to_owned() })),
            entry(20200812, Message::Pruned(v1::Pruned { by: "no OZONE".to_owned(), version })),
        ],
        statistics,
        lease_ms: 1000,
        hops: vec!["A".to_owned()],
        owned: vec![owned("green", 20200810, 20200811), owned("pink", 20200812, 20200812)],
        ..v1::QueryReply::default()
    }
}

fn chunk(frames: Vec<overlay::verb::Frame>, is_last: bool) -> v1::Chunk {
    let frames = frames.into_iter().map(wire::frame_to).collect();
    v1::Chunk { uid: "A-1".to_owned(), chunk_index: 0, is_last, frames }
}

fn groups_frame() -> overlay::verb::Frame {
    let mut tally = Tally::new(sample::store(), &spec());
    tally.add(sample::batch(), &[0, 1, 3], &"green".into());
    let groups = tally.into_groups(sample::store());
    let payload = frame::encode_groups(spec().of, &groups, 0..groups.len(), Encoding::Json);
    let ledger = vec![coverage::Entry {
        day: sample::day(sample::DAY),
        team: "green".into(),
        outcome: Outcome::Served(coverage::Served {
            node: "B".to_owned(),
            attempt: 1,
            version: sample::batch().version,
            rows_matched: 3,
            rows_taken: 3,
        }),
    }];
    overlay::verb::Frame {
        day: None,
        version: coverage::aggregate_version(&ledger),
        first_row: 0,
        rows: groups.len() as u32,
        digest: frame::digest(&payload),
        payload,
        node: "A".into(),
    }
}
