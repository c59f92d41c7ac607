//! How many chunks to read at once for a client that reads one after the other.

/// The most chunks that are read together.
const MOST: u32 = 64;

/// How far a client has read a result.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// The chunk after the one that it read last.
    next: u32,
    /// Chunks that were read together.
    together: u32,
    /// The chunk after the last one of these.
    ready_until: u32,
}

impl Reading {
    /// Notes that the client reads a chunk which was at hand.
    pub(super) fn takes(&mut self, index: u32) {
        self.next = index + 1;
    }

    /// How many chunks to read from `index` on, at least 1: twice as many as before while the client goes on in order. Who jumps,
    /// or lost what was read for him, begins with one again.
    pub(super) fn reads(&mut self, index: u32) -> u32 {
        let goes_on = index > 0 && index == self.next && index >= self.ready_until;
        self.together = if goes_on { (self.together * 2).clamp(2, MOST) } else { 1 };
        self.next = index + 1;
        self.ready_until = index.saturating_add(self.together);
        self.together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_read_in_order_are_read_together_and_others_alone() {
        let mut reading = Reading::default();
        reading.takes(0);
        assert_eq!(reading.reads(1), 2);
        reading.takes(2);
        assert_eq!(reading.reads(3), 4);
        reading.takes(4);
        assert_eq!(reading.reads(5), 1, "the one after it was lost before it was read");
        assert_eq!(reading.reads(6), 2);
        assert_eq!(reading.reads(60), 1, "it jumped");
        let mut random = Reading::default();
        assert_eq!([9, 3, 4, 1].map(|index| random.reads(index)), [1, 1, 2, 1]);
    }
}
