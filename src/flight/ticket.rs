//! Tickets: which chunks of which result set. They can be read again, in any order and in parallel, while the lease lasts.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::QueryError;
use crate::plan::InvalidQuery;

/// Endpoints of a flight: more readers than this gain nothing, and who reads them one by one opens a stream for each.
const MAX_ENDPOINTS: u64 = 16;

/// Bytes of a ticket: a uid and a client's id, each letter of which may be escaped.
const MAX_TICKET_BYTES: usize = 4096;

/// A ticket, as JSON. It names the client, since Flight's requests do not; the caller is checked beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChunkTicket {
    pub(super) uid: String,
    pub(super) client_id: String,
    pub(super) first_chunk: u32,
    pub(super) end_chunk: u32,
}

impl ChunkTicket {
    pub(super) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts and numbers are JSON").into()
    }

    /// # Errors
    /// [`InvalidQuery`] if no node of ours made it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, InvalidQuery> {
        let invalid = |why: String| InvalidQuery::new("ticket", format!("ticket: {why}"));
        if bytes.len() > MAX_TICKET_BYTES {
            return Err(invalid(format!("{} bytes, limit {MAX_TICKET_BYTES}", bytes.len())));
        }
        let ticket: ChunkTicket = serde_json::from_slice(bytes)
            .map_err(|_| invalid("none of this overlay's: take those of GetFlightInfo".to_owned()))?;
        match ticket.first_chunk < ticket.end_chunk {
            true => Ok(ticket),
            false => {
                let (first, end) = (ticket.first_chunk, ticket.end_chunk);
                Err(invalid(format!("no chunk is from {first} on and before {end}")))
            }
        }
    }

    /// Its chunks, of a result that has `chunk_count`.
    ///
    /// # Errors
    /// [`QueryError::OutOfRange`] if one of them is beyond the last.
    pub(super) fn chunks(&self, chunk_count: u32) -> Result<Range<u32>, QueryError> {
        match self.end_chunk <= chunk_count {
            true => Ok(self.first_chunk..self.end_chunk),
            false => Err(QueryError::OutOfRange { index: i64::from(self.end_chunk) - 1, chunk_count }),
        }
    }
}

/// Chunks of `chunk_rows` rows each in at most [`MAX_ENDPOINTS`] ranges that have about the same number of rows.
pub(super) fn ranges(chunk_rows: &[u32]) -> Vec<Range<u32>> {
    let total: u64 = chunk_rows.iter().map(|rows| u64::from(*rows)).sum();
    let (mut ranges, mut start, mut rows) = (Vec::new(), 0, 0);
    for (chunk, end) in chunk_rows.iter().zip(1..) {
        rows += u64::from(*chunk);
        if rows * MAX_ENDPOINTS >= total * (ranges.len() as u64 + 1) {
            ranges.push(start..end);
            start = end;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_tile_the_chunks() {
        let growing: Vec<u32> = (1..200).map(|index| index * index).collect();
        for chunk_rows in [vec![0], vec![5], vec![7; 3], vec![7; 16], vec![7; 17], vec![1; 1000], growing] {
            let ranges = ranges(&chunk_rows);
            assert!(ranges.len() <= chunk_rows.len().min(16), "{ranges:?}");
            assert_eq!(ranges[0].start, 0);
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
            assert_eq!(ranges.last().unwrap().end as usize, chunk_rows.len());
            assert!(ranges.iter().all(|range| !range.is_empty()));
        }
        assert_eq!(ranges(&[7; 16]).len(), 16);
    }

    #[test]
    fn ticket_comes_back_as_it_was() {
        let ticket = ChunkTicket {
            uid: "A-1".to_owned(),
            client_id: "\"\u{1f600}".to_owned(),
            first_chunk: 3,
            end_chunk: 5,
        };
        assert_eq!(ChunkTicket::parse(&ticket.to_bytes()).unwrap(), ticket);
        assert_eq!(ticket.chunks(5).unwrap(), 3..5);
        assert!(matches!(ticket.chunks(4), Err(QueryError::OutOfRange { index: 4, chunk_count: 4 })));
        let empty = ChunkTicket { end_chunk: 3, ..ticket };
        for bytes in [&empty.to_bytes()[..], b"", b"{}", &[b'x'; 5000]] {
            assert_eq!(ChunkTicket::parse(bytes).unwrap_err().field, "ticket");
        }
    }
}
