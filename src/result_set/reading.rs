//! How far a client has read a result, and what to have ready for it.
//!
//! Who reads one chunk after the other gets several at once, twice as many each time, and the next ones are read while it
//! takes these. Who jumps about gets what it asks for.

use std::ops::Range;

use futures::future::{BoxFuture, Shared};

/// Twice so often as this, the chunks that are read at once are doubled.
const MOST_DOUBLINGS: u32 = 6;

/// How far a client has read.
#[derive(Default)]
pub(super) struct Reading {
    /// The chunk after the one that it read last.
    next: u32,
    /// Chunks that it has read in order.
    run: u32,
    /// The chunk after those that were read for it.
    ready_until: u32,
    ahead: Option<Ahead>,
}

/// Chunks that are being read before they are asked for.
pub struct Ahead {
    /// Which.
    pub chunks: Range<u32>,
    /// Whether they could be read, once that is known. Dropping all of them ends the reading.
    pub done: Shared<BoxFuture<'static, bool>>,
}

impl Reading {
    /// The reading ahead that will bring a chunk, if there is one.
    pub(super) fn ahead(&self, index: u32) -> Option<Shared<BoxFuture<'static, bool>>> {
        let ahead = self.ahead.as_ref().filter(|ahead| ahead.chunks.contains(&index));
        ahead.map(|ahead| ahead.done.clone())
    }

    /// How many chunks to read from `index` on, which is not at hand.
    pub(super) fn reads(&mut self, index: u32) -> u32 {
        // What was read for it is gone: there is no room for as much.
        if index < self.ready_until && self.ahead(index).is_none() {
            self.run = 0;
        }
        if index != self.next {
            self.run = 0;
        }
        self.together()
    }

    /// Notes that the client has got a chunk, and that those up to `ready_until` were read for it.
    pub(super) fn takes(&mut self, index: u32, ready_until: u32) {
        self.run = if index == self.next { self.run + 1 } else { 0 };
        self.next = index + 1;
        self.ready_until = self.ready_until.max(ready_until);
    }

    /// From which chunk on to read ahead now, and how many: once half of what was ready is taken. One chunk tells nothing: it
    /// comes along with the answer to the query.
    pub(super) fn begins(&self) -> Option<(u32, u32)> {
        // One that failed is not followed by another: what takes longer is read when it is wanted.
        let may_read = self.ahead.as_ref().is_none_or(|ahead| ahead.done.peek() == Some(&true));
        let together = self.together();
        let runs_out = self.next.saturating_add(together / 2) >= self.ready_until;
        (self.run > 1 && may_read && runs_out).then(|| (self.ready_until.max(self.next), together))
    }

    /// Notes what is read ahead.
    pub(super) fn begun(&mut self, ahead: Ahead) {
        self.ready_until = ahead.chunks.end;
        self.ahead = Some(ahead);
    }

    fn together(&self) -> u32 {
        1 << self.run.min(MOST_DOUBLINGS)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn done(well: bool) -> Shared<BoxFuture<'static, bool>> {
        let done = futures::future::ready(well).boxed().shared();
        done.clone().now_or_never();
        done
    }

    fn reading() -> Shared<BoxFuture<'static, bool>> {
        futures::future::pending().boxed().shared()
    }

    #[test]
    fn chunks_read_in_order_are_read_together_and_ahead() {
        let mut reader = Reading::default();
        assert_eq!(reader.reads(0), 1);
        reader.takes(0, 1);
        assert_eq!(reader.begins(), None, "it came along with the query");
        assert_eq!(reader.reads(1), 2);
        reader.takes(1, 3);
        assert_eq!(reader.begins(), Some((3, 4)));
        reader.begun(Ahead { chunks: 3..7, done: reading() });
        assert_eq!(reader.begins(), None, "it is being read");
        assert!(reader.ahead(6).is_some() && reader.ahead(7).is_none());
        reader.ahead = Some(Ahead { chunks: 3..7, done: done(true) });
        reader.takes(2, 0);
        assert_eq!(reader.begins(), Some((7, 8)));
        reader.begun(Ahead { chunks: 7..15, done: done(false) });
        (3..9).for_each(|index| reader.takes(index, 0));
        assert_eq!(reader.begins(), None, "it could not be read in time");
    }

    #[test]
    fn who_jumps_or_loses_what_was_ready_reads_one_chunk() {
        let mut reader = Reading::default();
        for index in 0..4 {
            reader.takes(index, 64);
        }
        assert_eq!(reader.begins(), None, "sixty are ready");
        assert_eq!(reader.reads(4), 1, "they were, and are gone");
        reader.takes(4, 5);
        assert_eq!((reader.reads(9), reader.begins()), (1, None));
        reader.takes(9, 10);
        assert_eq!((reader.reads(3), reader.begins()), (1, None));
    }
}
