//! What passed over the simulated network, in a form that two runs can be compared by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pipe::Segment;

/// One piece of bytes that was delivered. Zero bytes are the end of a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceLine {
    /// Virtual time since the cluster started.
    pub at: Duration,
    /// Numbers connections in the order in which they were opened.
    pub connection: u64,
    /// Who sent them.
    pub from: Arc<str>,
    /// Who got them.
    pub to: Arc<str>,
    /// How many.
    pub bytes: usize,
    /// xxh3 over them.
    pub digest: u64,
}

impl TraceLine {
    pub(super) fn of(at: Duration, segment: &Segment) -> Self {
        let Segment { direction, bytes, .. } = segment;
        TraceLine {
            at,
            connection: direction.connection,
            from: direction.from.clone(),
            to: direction.to.clone(),
            bytes: bytes.len(),
            digest: xxhash_rust::xxh3::xxh3_64(bytes),
        }
    }
}

impl fmt::Display for TraceLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceLine { at, connection, from, to, bytes, digest } = self;
        let seconds = at.as_secs_f64();
        write!(formatter, "{seconds:10.3} {from} > {to} #{connection} {bytes} bytes {digest:016x}")
    }
}
