//! One direction of a connection: bytes wait as long as the network takes, in order, and are held by faults.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::network::Network;
use crate::fault::Fault;

/// Bytes that travel together, at most.
const SEGMENT_BYTES: usize = 16 << 10;

/// Segments under way; whoever sends more waits, as for a full window.
const SEGMENTS_UNDER_WAY: usize = 16;

/// What a segment takes one way, in milliseconds, without a fault: the timer has no finer grain.
const LATENCY_MS: std::ops::RangeInclusive<u64> = 1..=3;

/// How long a sender waits for an acknowledgement before it sends again: TCP's smallest on Linux.
const RESEND_AFTER: Duration = Duration::from_millis(200);

/// Which way, on which connection.
pub(super) struct Direction {
    pub(super) connection: u64,
    pub(super) from: Arc<str>,
    pub(super) to: Arc<str>,
}

/// Carries bytes until their source ends, or whoever reads them is gone.
pub(super) async fn pump(
    network: &Network,
    direction: &Direction,
    random: fastrand::Rng,
    source: impl AsyncRead + Unpin,
    sink: impl AsyncWrite + Unpin,
) {
    let (sender, receiver) = mpsc::channel(SEGMENTS_UNDER_WAY);
    futures::future::join(
        take(network, direction, random, source, sender),
        deliver(network, direction, receiver, sink),
    )
    .await;
}

/// Takes what is sent, and decides when it is to arrive.
async fn take(
    network: &Network,
    direction: &Direction,
    mut random: fastrand::Rng,
    mut source: impl AsyncRead + Unpin,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
) {
    let faults = network.faults();
    let mut earliest = Instant::now();
    loop {
        let mut segment = Vec::with_capacity(SEGMENT_BYTES);
        // An error is a reset, which whoever reads sees as an end.
        let read = source.read_buf(&mut segment).await.unwrap_or(0);
        let (from, to) = (&direction.from, &direction.to);
        let latency = latency(&mut random, &faults.borrow(), from, to);
        let sending = sending(&faults.borrow(), from, read);
        // Bytes of one connection never overtake each other.
        earliest = (Instant::now() + latency).max(earliest) + sending;
        if sender.send((earliest, segment)).await.is_err() || read == 0 {
            return;
        }
    }
}

/// Hands on what has arrived, unless a fault holds it.
async fn deliver(
    network: &Network,
    direction: &Direction,
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut sink: impl AsyncWrite + Unpin,
) {
    let mut faults = network.faults();
    while let Some((arrives, segment)) = receiver.recv().await {
        tokio::time::sleep_until(arrives).await;
        let _ = faults.wait_for(|faults| !holds(faults, direction)).await;
        network.delivered(direction, &segment);
        let written = match segment.is_empty() {
            true => sink.shutdown().await,
            false => sink.write_all(&segment).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Waits until connections between two nodes can be made at all.
pub(super) async fn until_connected(faults: &mut watch::Receiver<Vec<Fault>>, from: &str, to: &str) {
    let cut = |fault: &Fault| matches!(fault, Fault::Partition(link) if link.joins(from, to));
    let _ = faults.wait_for(|faults| !faults.iter().any(cut)).await;
}

/// Whether bytes wait at their destination's door. A node that hangs takes connections, but neither reads nor writes.
fn holds(faults: &[Fault], direction: &Direction) -> bool {
    let Direction { from, to, .. } = direction;
    faults.iter().any(|fault| match fault {
        Fault::Partition(link) => link.joins(from, to),
        Fault::Hang { node } => **node == **from || **node == **to,
        _ => false,
    })
}

/// How long a segment is under way. One that is lost is sent again after a time that doubles.
pub(super) fn latency(random: &mut fastrand::Rng, faults: &[Fault], from: &str, to: &str) -> Duration {
    let mut total = Duration::from_millis(random.u64(LATENCY_MS));
    for fault in faults {
        match fault {
            Fault::Delay { link, latency } if link.joins(from, to) => total += *latency,
            Fault::Loss { link, percent } if link.joins(from, to) => {
                let mut resend = RESEND_AFTER;
                while random.u8(..100) < (*percent).min(99) {
                    total += resend;
                    resend *= 2;
                }
            }
            _ => {}
        }
    }
    total
}

/// How long a slow node takes to send a segment.
fn sending(faults: &[Fault], from: &str, bytes: usize) -> Duration {
    let slow = faults.iter().filter_map(|fault| match fault {
        Fault::Slow { node, bytes_per_second } if **node == *from => Some(*bytes_per_second),
        _ => None,
    });
    let rate = slow.min().map_or(f64::INFINITY, |rate| rate.max(1) as f64);
    Duration::from_secs_f64(bytes as f64 / rate)
}
