//! How a result is cut into chunks: the three strategies, within a bound of bytes. Pure.
//!
//! Boundaries follow from the row counts and the data of the days that rows are taken from, so that they are the same
//! on every topology, and whoever is out of reach.

use crate::config::Chunking;

/// Chunks that one result may have; each takes eight bytes of the manifest.
pub const MAX_CHUNKS: usize = 65_536;

/// Rows of the first chunk of the adaptive schedule; each chunk after it has twice as many.
const ADAPTIVE_FIRST_ROWS: u32 = 100;

/// Doublings after which the adaptive schedule stays level: 25,600 rows.
const ADAPTIVE_DOUBLINGS: u32 = 8;

/// How large chunks may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkBounds {
    /// How the number of rows is chosen.
    pub strategy: Chunking,
    /// Rows of a chunk of the fixed strategy.
    pub fixed_rows: u32,
    /// Whether fixed chunks grow where there would be too many: if the client did not choose `fixed_rows`. A
    /// client of the old contract cannot choose, and must get what its limit allows.
    pub may_grow: bool,
    /// Encoded bytes that a chunk may have.
    pub chunk_bytes: u32,
    /// Bytes that one row may take, over the days that rows are taken from.
    pub worst_row_bytes: u32,
    /// Bytes that a frame takes beside its rows.
    pub frame_overhead_bytes: u32,
}

impl Default for ChunkBounds {
    fn default() -> Self {
        ChunkBounds {
            strategy: Chunking::Fixed,
            fixed_rows: 1,
            may_grow: false,
            chunk_bytes: 0,
            worst_row_bytes: 1,
            frame_overhead_bytes: 0,
        }
    }
}

impl ChunkBounds {
    /// The rows that the strategy gives to chunk `index` when it does not depend on the result's size.
    pub fn first_chunk_rows(&self) -> Option<u32> {
        let rows = match self.strategy {
            Chunking::Fixed => self.fixed_rows,
            Chunking::Adaptive => ADAPTIVE_FIRST_ROWS,
            Chunking::QueryBased => return None,
        };
        Some(rows.min(self.rows_that_fit(1)))
    }

    /// The same bounds, with fixed chunks that have, if they may grow, so many rows that [`MAX_CHUNKS`] of them
    /// hold `total` records.
    ///
    /// Records so wide that `chunk_bytes` cuts them sooner can still make more.
    pub fn large_enough_for(self, total: u64) -> Self {
        let least = total.div_ceil(MAX_CHUNKS as u64).min(u64::from(u32::MAX)) as u32;
        match self.may_grow {
            true => ChunkBounds { fixed_rows: self.fixed_rows.max(least), ..self },
            false => self,
        }
    }

    /// Cuts days of `day_rows` rows each into chunks. The records of an aggregate are one such day.
    ///
    /// A chunk has the rows that its strategy gives it, or fewer where their encoding could exceed
    /// `chunk_bytes`; `limit` is the query's, for the strategy that goes by it. Stops, short of the result,
    /// beyond [`MAX_CHUNKS`] chunks.
    pub fn cut(&self, day_rows: &[u64], limit: Option<u64>) -> Vec<u32> {
        let total: u64 = day_rows.iter().sum();
        let mut chunks = Vec::new();
        let (mut rows, mut frames, mut bytes) = (0u32, 0u32, 0u64);
        for day_rows in day_rows {
            let mut left = *day_rows;
            let mut open_frame = false;
            while left > 0 && chunks.len() <= MAX_CHUNKS {
                let cap = self.strategy_rows(chunks.len() as u32, limit.unwrap_or(total));
                let overhead = if open_frame { 0 } else { u64::from(self.frame_overhead_bytes) };
                let free_bytes = u64::from(self.chunk_bytes).saturating_sub(bytes + overhead);
                let fit = free_bytes / u64::from(self.worst_row_bytes.max(1));
                // A chunk holds at least one row, or a row wider than `chunk_bytes` could never be read.
                let fit = if frames == 0 { fit.max(1) } else { fit };
                let take = left.min(u64::from(cap - rows)).min(fit);
                if take == 0 {
                    chunks.push(rows);
                    (rows, frames, bytes, open_frame) = (0, 0, 0, false);
                    continue;
                }
                if !open_frame {
                    frames += 1;
                    open_frame = true;
                }
                bytes += overhead + take * u64::from(self.worst_row_bytes);
                rows += take as u32;
                left -= take;
            }
        }
        if rows > 0 || chunks.is_empty() {
            chunks.push(rows);
        }
        chunks
    }

    fn rows_that_fit(&self, frames: u32) -> u32 {
        let overhead = self.frame_overhead_bytes.saturating_mul(frames);
        (self.chunk_bytes.saturating_sub(overhead) / self.worst_row_bytes.max(1)).max(1)
    }

    fn strategy_rows(&self, index: u32, total: u64) -> u32 {
        match self.strategy {
            Chunking::Fixed => self.fixed_rows,
            Chunking::Adaptive => ADAPTIVE_FIRST_ROWS << index.min(ADAPTIVE_DOUBLINGS),
            Chunking::QueryBased => total.div_ceil(10).clamp(1, u64::from(u32::MAX)) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(strategy: Chunking) -> ChunkBounds {
        ChunkBounds {
            strategy,
            fixed_rows: 4,
            may_grow: true,
            chunk_bytes: 1000,
            worst_row_bytes: 10,
            frame_overhead_bytes: 50,
        }
    }

    #[test]
    fn fixed_chunks_have_their_rows_across_days() {
        let fixed = bounds(Chunking::Fixed);
        assert_eq!(fixed.cut(&[], None), [0]);
        assert_eq!(fixed.cut(&[0], None), [0]);
        assert_eq!(fixed.cut(&[4], None), [4]);
        assert_eq!(fixed.cut(&[3, 3, 3], None), [4, 4, 1]);
    }

    #[test]
    fn adaptive_chunks_double_and_query_based_ones_are_a_tenth() {
        let wide = |strategy| ChunkBounds { chunk_bytes: 1 << 30, ..bounds(strategy) };
        assert_eq!(wide(Chunking::Adaptive).cut(&[1000], None), [100, 200, 400, 300]);
        assert_eq!(wide(Chunking::QueryBased).cut(&[25], None), [3, 3, 3, 3, 3, 3, 3, 3, 1]);
        assert_eq!(wide(Chunking::QueryBased).cut(&[25], Some(100)), [10, 10, 5]);
    }

    #[test]
    fn bytes_cut_a_chunk_before_its_rows_do() {
        let tight = ChunkBounds { fixed_rows: 100, chunk_bytes: 150, ..bounds(Chunking::Fixed) };
        // One frame: 50 + 10 rows of 10. Two frames: a second overhead of 50 leaves room for fewer.
        assert_eq!(tight.cut(&[12], None), [10, 2]);
        assert_eq!(tight.cut(&[3, 12], None), [5, 10]);
        assert_eq!(tight.first_chunk_rows(), Some(10));
    }

    #[test]
    fn fixed_chunks_grow_until_their_number_is_allowed() {
        let narrow = ChunkBounds { worst_row_bytes: 1, frame_overhead_bytes: 0, ..bounds(Chunking::Fixed) };
        let most = MAX_CHUNKS as u64;
        assert_eq!(narrow.large_enough_for(4 * most), narrow, "as many as there may be");
        assert!(narrow.cut(&[4 * most + 1], None).len() > MAX_CHUNKS);
        let grown = narrow.large_enough_for(4 * most + 1);
        assert_eq!(grown.fixed_rows, 5);
        let chosen = ChunkBounds { may_grow: false, ..narrow };
        assert_eq!(chosen.large_enough_for(4 * most + 1), chosen);
        assert_eq!(grown.cut(&[4 * most, 1], None).len(), 52_429, "262,145 rows, 5 in each chunk");
    }

    #[test]
    fn a_row_wider_than_a_chunk_still_gets_one() {
        let narrow = ChunkBounds { chunk_bytes: 5, ..bounds(Chunking::Fixed) };
        assert_eq!(narrow.cut(&[1, 2], None), [1, 1, 1]);
    }
}
