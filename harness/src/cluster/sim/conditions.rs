//! What the faults in force mean for a connection between two nodes. Pure but for the dice.

use std::time::Duration;

use super::pipe::Direction;
use crate::fault::Fault;

/// What a segment takes one way, in milliseconds, without a fault: the timer has no finer grain. It is never
/// nothing, so that whatever arrives at an instant was sent before it.
const LATENCY_MS: std::ops::RangeInclusive<u64> = 1..=3;

/// How long a sender waits for an acknowledgement before it sends again: TCP's smallest on Linux.
const RESEND_AFTER: Duration = Duration::from_millis(200);

/// Whether no connection can be made, which takes bytes in both directions.
pub(super) fn cut(faults: &[Fault], from: &str, to: &str) -> bool {
    cut_one_way(faults, from, to) || cut_one_way(faults, to, from)
}

fn cut_one_way(faults: &[Fault], sender: &str, receiver: &str) -> bool {
    faults.iter().any(|fault| match fault {
        Fault::Partition(link) => link.joins(sender, receiver),
        Fault::PartitionOneWay { from, to } => (&**from, &**to) == (sender, receiver),
        _ => false,
    })
}

/// Whether bytes wait. A node that hangs takes connections, but neither reads nor writes.
pub(super) fn hold(faults: &[Fault], direction: &Direction) -> bool {
    let hangs = |end: &str| faults.iter().any(|fault| matches!(fault, Fault::Hang { node } if node == end));
    cut_one_way(faults, &direction.from, &direction.to) || hangs(&direction.from) || hangs(&direction.to)
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
pub(super) fn sending(faults: &[Fault], from: &str, bytes: usize) -> Duration {
    let slow = faults.iter().filter_map(|fault| match fault {
        Fault::Slow { node, bytes_per_second } if node == from => Some(*bytes_per_second),
        _ => None,
    });
    let rate = slow.min().map_or(f64::INFINITY, |rate| rate.max(1) as f64);
    Duration::from_secs_f64(bytes as f64 / rate)
}
