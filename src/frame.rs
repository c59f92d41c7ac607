//! Rows of one day, or groups of an aggregate, as the bytes of a frame; and back, for clients and checks.
//!
//! A frame is encoded once, by the holder of its day, and passes through all hops as it is. Its size is
//! bounded in advance: n rows take at most n times the day's [`WorstRowBytes`] and
//! [`frame_overhead_bytes`] once. Start at [`encode_rows`].

mod arrow;
mod decode;
mod ipc;
mod json;

use std::ops::Range;

use arrow_schema::ArrowError;
use bytes::Bytes;

pub use arrow::{END_OF_STREAM, arrow_schema, groups_schema, groups_schema_message, schema_message};
pub use decode::{Message, arrow_messages, decode_arrow, decode_schema, json_row_count};

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey, Groups};
use crate::store::{DayBatch, Digest, Store, WorstRowBytes, json_text_bytes};

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encoding {
    #[default]
    /// Arrow IPC: dictionaries, then one record batch. Follows the schema message.
    Arrow,
    /// The inside of a JSON array; missing is null.
    Json,
    /// The inside of a JSON array as the `OverlayNode` contract has it; missing is -999.
    JsonLegacy,
}

impl Encoding {
    /// The bytes that a row takes in this encoding.
    pub fn of(self, bytes: &WorstRowBytes) -> u32 {
        match self {
            Encoding::Arrow => bytes.arrow,
            Encoding::Json => bytes.json,
            Encoding::JsonLegacy => bytes.json_legacy,
        }
    }
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not what the Arrow IPC format, or our use of it, allows.
    #[error("not an Arrow frame: {0}")]
    NotArrow(&'static str),
    /// What the Arrow library says about it.
    #[error("not an Arrow frame: {0}")]
    Arrow(#[from] ArrowError),
    /// Not even text.
    #[error("not a JSON frame: {0}")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// Not the inside of an array of objects.
    #[error("not a JSON frame: {}", what_json_lacks(.0))]
    Json(#[from] serde_json::Error),
}

/// What the JSON library says, which shows texts of any length whole.
fn what_json_lacks(error: &serde_json::Error) -> String {
    const MOST: usize = 300;
    let mut said = error.to_string();
    if let Some((end, _)) = said.char_indices().nth(MOST) {
        said.truncate(end);
        said.push_str(&format!("... at line {} column {}", error.line(), error.column()));
    }
    said
}

/// The payload of `rows`, in their order, from one day of `store`.
///
/// Shape: 13 columns or keys; an empty `rows` gives an empty JSON payload, or an Arrow batch without rows.
/// Bounds: `rows.len()` times the day's `worst_row_bytes`, and [`frame_overhead_bytes`].
///
/// # Panics
/// If a row is not one of the day's.
pub fn encode_rows(store: &Store, batch: &DayBatch, rows: &[u32], encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Arrow => arrow::encode_rows(store, batch, rows),
        Encoding::Json => json::encode_rows(store, batch, rows, json::Missing::Null),
        Encoding::JsonLegacy => json::encode_rows(store, batch, rows, json::Missing::Minus999),
    }
}

/// The payload of some groups, in their order. Aggregates have no legacy form: both JSON encodings give the same.
///
/// Shape: the keys in the order asked, then count, min, max and mean.
pub fn encode_groups(of: AggregateOf, groups: &Groups, range: Range<usize>, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Arrow => arrow::encode_groups(groups, range),
        Encoding::Json | Encoding::JsonLegacy => json::encode_groups(of, groups, range),
    }
}

/// What precedes the frames of a result in a stream: the schema message of Arrow, nothing in JSON.
pub fn schema_before(encoding: Encoding, aggregate: Option<&AggregateSpec>) -> Bytes {
    match (encoding, aggregate) {
        (Encoding::Arrow, None) => schema_message(),
        (Encoding::Arrow, Some(spec)) => groups_schema_message(spec),
        (Encoding::Json | Encoding::JsonLegacy, _) => Bytes::new(),
    }
}

/// The members that each row, or each group, has in JSON, in their order.
pub fn json_keys(aggregate: Option<&AggregateSpec>) -> Vec<String> {
    let schema = aggregate.map_or_else(arrow_schema, groups_schema);
    let columns = schema.fields().iter().map(|field| field.name().clone());
    // In Arrow the day of a row stands in the frame's header.
    columns.chain(aggregate.is_none().then(|| "date".to_owned())).collect()
}

/// The hash that travels with a payload.
pub fn digest(payload: &[u8]) -> Digest {
    Digest::of(payload)
}

/// The most bytes that a payload has beside those of its rows.
///
/// Arrow: seven messages, 1784 bytes without rows. Rows then fill up to 44 buffers, each padded by up to
/// 7 bytes, and 19 of them are bitmaps, each with up to a byte more than its bits: 2111 bytes.
pub fn frame_overhead_bytes(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::Arrow => 2304,
        Encoding::Json | Encoding::JsonLegacy => 0,
    }
}

/// The most bytes that any of `groups` adds to a payload, by encoding.
pub fn worst_group_bytes(groups: &Groups) -> WorstRowBytes {
    let bytes_of =
        |bytes: fn(&str) -> usize| -> Vec<usize> { groups.texts().iter().map(|text| bytes(text)).collect() };
    let group_by = groups.group_by();
    let longest = |bytes: Vec<usize>| {
        let of = |group: &[u32]| -> usize {
            let key = |(key, code): (&GroupKey, &u32)| match key {
                // A day has 8 digits and quotes in JSON; in Arrow it is a text of 8 bytes, an hour one byte.
                GroupKey::Day | GroupKey::Hour => 10,
                _ => bytes[*code as usize],
            };
            group_by.iter().zip(group).map(key).sum()
        };
        groups.codes().chunks_exact(group_by.len().max(1)).map(of).max().unwrap_or(0)
    };
    // Each key: an offset of 4 bytes, and a validity bit as each of the four numbers of 8 bytes has.
    let columns = group_by.len() + 4;
    let arrow = longest(bytes_of(str::len)) + group_by.len() * 4 + columns.div_ceil(8) + 4 * 8;
    let json = longest(bytes_of(json_text_bytes)) + json::group_skeleton_bytes(group_by);
    WorstRowBytes { arrow: arrow as u32, json: json as u32, json_legacy: json as u32 }
}

/// `20200810` for the number of 10 August 2020, with zeros before a year below 1000.
fn day_digits(day: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    for (place, unit) in digits.as_chunks_mut().0.iter_mut().zip([1_000_000, 10_000, 100, 1]) {
        *place = json::pair((day / unit % 100) as u16);
    }
    digits
}

#[cfg(test)]
mod tests;
