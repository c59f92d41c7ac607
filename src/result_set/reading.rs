//! How far a client has read a result, and what to have ready for it.
//!
//! For who asks for one chunk after the other the next ones are read before it asks, in *windows*: more chunks each time, as
//! far as the reader of the windows lets them. Who jumps about gets what it asks for.

use std::collections::VecDeque;
use std::ops::Range;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, ready};

/// The most chunks of a window.
pub const WINDOW_CHUNKS: u32 = 64;

/// Windows at once: the one that the client takes chunks of, and those that are on their way meanwhile.
const WINDOWS: usize = 3;

/// How far a client has read.
#[derive(Default)]
pub(super) struct Reading {
    /// The chunk after the last one that it asked for in order.
    next: u32,
    /// Chunks that it has asked for in order.
    run: u32,
    /// Windows in a row whose chunks were all asked for.
    used: usize,
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
        // Requests at once arrive in any order, and some are made again: a little back is no jump.
        if (self.next.saturating_sub(WINDOW_CHUNKS)..self.next).contains(&index) {
            return done;
        }
        match index == self.next || done.is_some() {
            true => self.run = self.run.saturating_add(1),
            false => self.begin_anew(),
        }
        self.next = index.saturating_add(1);
        let before = self.windows.len();
        self.windows.retain(|window| window.chunks.end > index);
        self.used += before - self.windows.len();
        done
    }

    /// Notes that a chunk of a window was not there when the client asked: it could not be read in time, or was gone again
    /// for want of room. Each time it takes twice as many chunks in order until there are windows again.
    pub(super) fn stumbles(&mut self, index: u32) {
        // Several may have waited for the same window.
        if self.windows.iter().any(|window| window.chunks.contains(&index)) {
            self.stumbles += 1;
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        (self.run, self.used) = (0, 0);
        self.windows.clear();
    }

    /// How many chunks at most to read together with one that is asked for and is in no window: one while there are windows
    /// for what follows.
    pub(super) fn together(&self) -> u32 {
        if self.windows.is_empty() { doubled(self.run).min(WINDOW_CHUNKS) } else { 1 }
    }

    /// Notes what was read along with a chunk that was asked for.
    pub(super) fn read_along(&mut self, chunks: Range<u32>) {
        if self.windows.is_empty() && !chunks.is_empty() {
            self.windows.push_back(Window { chunks, done: ready(true).boxed().shared() });
        }
    }

    /// From which chunk on to read a window now, and how many chunks at most. One chunk tells nothing: it comes along with
    /// the answer to the query.
    pub(super) fn begins(&self) -> Option<(u32, u32)> {
        let failed = |window: &Window| window.done.clone().now_or_never() == Some(false);
        let is_in_order = self.run > doubled(self.stumbles);
        let has_room = self.windows.len() < WINDOWS.min(1 + self.used);
        let may_read = is_in_order && has_room && !self.windows.iter().any(failed);
        let start = self.windows.back().map_or(self.next, |window| window.chunks.end);
        may_read.then_some((start, doubled(self.run).min(WINDOW_CHUNKS)))
    }

    /// Notes what is read ahead; nothing that another request has begun meanwhile, or that is not next any more.
    pub(super) fn begun(&mut self, window: Window) -> bool {
        let fits = |(start, _): (u32, u32)| {
            (start..=start.saturating_add(WINDOW_CHUNKS)).contains(&window.chunks.start)
        };
        let is_next = self.begins().is_some_and(fits);
        if is_next {
            self.windows.push_back(window);
        }
        is_next
    }
}

fn doubled(times: u32) -> u32 {
    1u32.checked_shl(times).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::future::pending;

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
        assert_eq!(reader.begins(), None, "one, until it is used");
        (2..6).for_each(|index| assert!(reader.asks(index).is_some()));
        assert!(reader.asks(6).is_none());
        assert_eq!((reader.begins(), reader.together()), (Some((7, 64)), 64));
        begin(&mut reader, 7..9, pending().boxed());
        begin(&mut reader, 9..11, pending().boxed());
        assert_eq!((reader.begins(), reader.together()), (None, 1), "two, after one was used");
        (7..9).for_each(|index| assert!(reader.asks(index).is_some()));
        begin(&mut reader, 11..13, pending().boxed());
        assert_eq!(reader.windows.len(), 2, "the last chunk of the first is being taken");
        assert!(reader.asks(9).is_some());
        assert_eq!(reader.begins(), Some((11, 64)));
    }

    /// Goal: reading goes on when windows are done before anybody waits for them, and not after one that failed.
    #[test]
    fn window_that_nobody_waited_for_is_followed_by_others() {
        let mut reader = Reading::default();
        (0..3).for_each(|index| assert!(reader.asks(index).is_none()));
        begin(&mut reader, 3..4, ready(true).boxed());
        assert!(reader.asks(3).is_some());
        assert!(reader.asks(4).is_none());
        assert_eq!(reader.begins(), Some((5, 32)));
        begin(&mut reader, 5..6, ready(false).boxed());
        assert_eq!(reader.begins(), None, "it could not be read in time");
    }

    #[test]
    fn who_jumps_or_loses_what_was_ready_begins_anew() {
        let mut reader = Reading::default();
        (0..3).for_each(|index| assert!(reader.asks(index).is_none()));
        begin(&mut reader, 3..5, ready(true).boxed());
        assert!(reader.asks(3).is_some());
        reader.stumbles(3);
        reader.stumbles(3);
        assert_eq!(
            (reader.stumbles, reader.begins(), reader.together()),
            (1, None, 1),
            "both waited for one"
        );
        for index in 4..6 {
            assert!(reader.asks(index).is_none());
            assert_eq!(reader.begins(), None);
        }
        assert_eq!(reader.together(), 4, "without windows what is asked for is read with others");
        assert!(reader.asks(6).is_none());
        assert_eq!(reader.begins(), Some((7, 8)));
        begin(&mut reader, 7..15, pending().boxed());
        assert!(reader.asks(9).is_some(), "it is on its way");
        assert!(reader.asks(8).is_some(), "so is this, asked for at the same time");
        assert_eq!((reader.windows.len(), reader.next), (1, 10));
        assert!(reader.asks(200).is_none());
        assert_eq!((reader.windows.len(), reader.begins()), (0, None));
    }

    /// Goal: what is read along with a chunk is missed if it is gone, as what is read ahead is.
    #[test]
    fn what_was_read_along_and_is_gone_is_not_read_along_again() {
        let mut reader = Reading::default();
        assert!(reader.asks(0).is_none());
        assert_eq!(reader.together(), 2);
        reader.read_along(1..2);
        assert!(reader.asks(1).is_some());
        reader.stumbles(1);
        assert_eq!((reader.together(), reader.stumbles), (1, 1));
    }

    /// Goal: of two requests that would read the same ahead one does, and nothing is noted for where the client was before.
    #[test]
    fn window_is_noted_once_and_only_where_the_client_is() {
        let mut reader = Reading { used: 5, ..Reading::default() };
        (0..3).for_each(|index| assert!(reader.asks(index).is_none()));
        begin(&mut reader, 3..7, pending().boxed());
        begin(&mut reader, 3..7, pending().boxed());
        assert_eq!(reader.windows.len(), 1);
        begin(&mut reader, 1001..1005, pending().boxed());
        assert_eq!(reader.windows.len(), 1);
    }
}
