//! How far a client has read a result, and what to have ready for it.
//!
//! For who asks for one chunk after the other the next ones are read before it asks, in *windows*: more chunks each time, as
//! far as the reader of the windows lets them. Who jumps about gets what it asks for.

use std::collections::VecDeque;
use std::ops::Range;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

/// The most chunks of a window.
pub const WINDOW_CHUNKS: u32 = 64;

/// Windows at once: the one that the client takes chunks of, and those that are on their way meanwhile.
const WINDOWS: usize = 3;

/// How far a client has read.
#[derive(Default)]
pub(super) struct Reading {
    /// The chunk after the one that it asked for last.
    next: u32,
    /// Chunks that it has asked for in order.
    run: u32,
    /// How often windows were in vain.
    stumbles: u32,
    /// In order; of those whose chunks were all asked for, none.
    windows: VecDeque<Window>,
}

/// Chunks that are read together before they are asked for.
pub struct Window {
    /// Which.
    pub chunks: Range<u32>,
    /// Whether they could be read, once that is known. Dropping all of them ends the reading.
    pub done: Shared<BoxFuture<'static, bool>>,
}

impl Reading {
    /// Notes that the client asks for a chunk. Gives what to wait for if the chunk is on its way, or was.
    pub(super) fn asks(&mut self, index: u32) -> Option<Shared<BoxFuture<'static, bool>>> {
        let window = self.windows.iter().find(|window| window.chunks.contains(&index));
        let done = window.map(|window| window.done.clone());
        match index == self.next {
            true => self.run = self.run.saturating_add(1),
            false => self.begin_anew(),
        }
        self.next = index.saturating_add(1);
        self.windows.retain(|window| window.chunks.end > index);
        done
    }

    /// Notes that a chunk of a window was not there when the client asked: it could not be read in time, or was gone again
    /// for want of room. Each time it takes twice as many chunks in order until there are windows again.
    pub(super) fn stumbles(&mut self) {
        self.stumbles += 1;
        self.begin_anew();
    }

    fn begin_anew(&mut self) {
        self.run = 0;
        self.windows.clear();
    }

    /// From which chunk on to read a window now, and how many chunks at most. One chunk tells nothing: it comes along with
    /// the answer to the query.
    pub(super) fn begins(&self) -> Option<(u32, u32)> {
        let failed = |window: &Window| window.done.clone().now_or_never() == Some(false);
        let doubled = |times: u32| 1u32.checked_shl(times).unwrap_or(u32::MAX).min(WINDOW_CHUNKS);
        let is_in_order = self.run > doubled(self.stumbles);
        let may_read = is_in_order && self.windows.len() < WINDOWS && !self.windows.iter().any(failed);
        let start = self.windows.back().map_or(self.next, |window| window.chunks.end);
        may_read.then_some((start, doubled(self.run)))
    }

    /// Notes what is read ahead.
    pub(super) fn begun(&mut self, window: Window) {
        self.windows.push_back(window);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{pending, ready};

    use super::*;

    fn begin(reader: &mut Reading, chunks: Range<u32>, done: BoxFuture<'static, bool>) {
        reader.begun(Window { chunks, done: done.shared() });
    }

    #[test]
    fn chunks_asked_for_in_order_come_in_windows() {
        let mut reader = Reading::default();
        assert!(reader.asks(0).is_none());
        assert_eq!(reader.begins(), None, "it came along with the query");
        assert!(reader.asks(1).is_none());
        assert_eq!(reader.begins(), Some((2, 4)));
        begin(&mut reader, 2..6, ready(true).boxed());
        begin(&mut reader, 6..10, pending().boxed());
        assert_eq!(reader.begins(), Some((10, 4)));
        begin(&mut reader, 10..14, pending().boxed());
        assert_eq!(reader.begins(), None, "three are enough");
        (2..6).for_each(|index| assert!(reader.asks(index).is_some()));
        assert_eq!(reader.begins(), None, "the last chunk of the first is being taken");
        assert!(reader.asks(6).is_some());
        assert_eq!(reader.begins(), Some((14, 64)));
    }

    /// Goal: reading goes on when windows are done before anybody waits for them.
    #[test]
    fn window_that_nobody_waited_for_is_followed_by_others() {
        let mut reader = Reading::default();
        (0..3).for_each(|index| assert!(reader.asks(index).is_none()));
        begin(&mut reader, 3..4, ready(true).boxed());
        assert_eq!(reader.begins(), Some((4, 8)));
        begin(&mut reader, 4..5, ready(false).boxed());
        assert_eq!(reader.begins(), None, "it could not be read in time");
        assert!(reader.asks(3).is_some());
        assert!(reader.asks(4).is_some(), "whoever asks for it waits, and reads it again");
        assert!(reader.asks(5).is_none());
        assert_eq!(reader.begins(), Some((6, 64)));
    }

    #[test]
    fn who_jumps_or_loses_what_was_ready_begins_anew() {
        let mut reader = Reading::default();
        (0..3).for_each(|index| assert!(reader.asks(index).is_none()));
        begin(&mut reader, 3..4, ready(true).boxed());
        reader.stumbles();
        for index in 3..5 {
            assert!(reader.asks(index).is_none());
            assert_eq!(reader.begins(), None);
        }
        assert!(reader.asks(5).is_none());
        assert_eq!(reader.begins(), Some((6, 8)));
        begin(&mut reader, 6..14, pending().boxed());
        assert!(reader.asks(8).is_some(), "it is on its way");
        assert_eq!((reader.windows.len(), reader.begins()), (0, None), "and nothing else is any more");
    }
}
