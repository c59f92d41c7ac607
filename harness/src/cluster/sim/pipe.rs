//! One direction of a connection: bytes leave in segments, arrive in order, and are written where they are read.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::conditions;
use super::network::Network;

/// Bytes that travel together, at most.
const SEGMENT_BYTES: usize = 16 << 10;

/// Segments under way; whoever sends more waits, as for a full window.
const SEGMENTS_UNDER_WAY: usize = 16;

/// Which way, on which connection.
#[derive(Clone)]
pub(super) struct Direction {
    pub(super) connection: u64,
    /// Whether it leads to the side that opened the connection.
    pub(super) is_back: bool,
    pub(super) from: Arc<str>,
    pub(super) to: Arc<str>,
}

/// When a segment arrives, and what goes first among those of one instant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) connection: u64,
    is_back: bool,
    /// Numbers the segments of a direction.
    number: u64,
}

/// Bytes under way. None are the end of the direction.
pub(super) struct Segment {
    pub(super) direction: Direction,
    pub(super) bytes: Vec<u8>,
    place: OwnedSemaphorePermit,
    arrived: mpsc::UnboundedSender<(Vec<u8>, OwnedSemaphorePermit)>,
}

impl Segment {
    /// Gives it to whoever writes this direction. If that side is gone, so are the bytes.
    pub(super) fn hand_over(self) {
        let _ = self.arrived.send((self.bytes, self.place));
    }
}

/// Carries bytes until their source ends and all have arrived, or whoever reads them is gone.
pub(super) async fn pump(
    network: &Network,
    direction: Direction,
    random: fastrand::Rng,
    source: impl AsyncRead + Unpin,
    sink: impl AsyncWrite + Unpin,
) {
    // Bounded by the places, which segments keep until they are written.
    let (arrived, arrivals) = mpsc::unbounded_channel();
    futures::future::join(take(network, direction, random, source, arrived), write(arrivals, sink)).await;
}

/// Takes what is sent, and decides when it is to arrive.
async fn take(
    network: &Network,
    direction: Direction,
    mut random: fastrand::Rng,
    mut source: impl AsyncRead + Unpin,
    arrived: mpsc::UnboundedSender<(Vec<u8>, OwnedSemaphorePermit)>,
) {
    let places = Arc::new(Semaphore::new(SEGMENTS_UNDER_WAY));
    let Direction { connection, is_back, from, to } = &direction;
    let mut at = Instant::now();
    for number in 0.. {
        let mut bytes = Vec::with_capacity(SEGMENT_BYTES);
        // An error is a reset, which whoever reads sees as an end.
        let read = source.read_buf(&mut bytes).await.unwrap_or(0);
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (latency, sending) = network.under(|faults| {
            (conditions::latency(&mut random, faults, from, to), conditions::sending(faults, from, read))
        });
        // Bytes of one connection never overtake each other.
        at = (Instant::now() + latency).max(at) + sending;
        let arrival = Arrival { at, connection: *connection, is_back: *is_back, number };
        let segment = Segment { direction: direction.clone(), bytes, place, arrived: arrived.clone() };
        network.send(arrival, segment);
        if read == 0 {
            return;
        }
    }
}

/// Writes what has arrived.
async fn write(
    mut arrivals: mpsc::UnboundedReceiver<(Vec<u8>, OwnedSemaphorePermit)>,
    mut sink: impl AsyncWrite + Unpin,
) {
    while let Some((bytes, _place)) = arrivals.recv().await {
        let written = match bytes.is_empty() {
            true => sink.shutdown().await,
            false => sink.write_all(&bytes).await,
        };
        if written.is_err() {
            return;
        }
    }
}
