//! One direction of the wire: packets under way, in order, and what the faults in force do to them.
//!
//! A line carries one packet at a time at its rate, then each takes the latency, so none overtakes another. Faults
//! are looked at when a packet is to arrive: one that ends ends for what is under way, too.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;

/// The most that is under way. A packet that finds no room is lost, as in a full router.
const QUEUE_BYTES: usize = 1 << 20;

/// Packets under way, with the instants when they were sent.
pub(super) struct Line {
    under_way: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last_arrival: Instant,
    random: fastrand::Rng,
}

impl Line {
    /// A line with nothing under way. The seed decides which packets are lost, if some are to be.
    pub(super) fn new(seed: u64) -> Self {
        Line {
            under_way: VecDeque::new(),
            bytes: 0,
            last_arrival: Instant::now(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Puts a packet under way.
    pub(super) fn send(&mut self, packet: &[u8]) {
        if self.bytes + packet.len() <= QUEUE_BYTES {
            self.bytes += packet.len();
            self.under_way.push_back((Instant::now(), packet.to_vec()));
        }
    }

    /// When the next packet arrives, if one is under way.
    pub(super) fn next_arrival(&self, faults: &[Fault]) -> Option<Instant> {
        let (sent, packet) = self.under_way.front()?;
        Some((*sent + latency(faults)).max(self.last_arrival) + sending(faults, packet.len()))
    }

    /// Takes the next packet, which is due, off the line. `None` if it is lost.
    pub(super) fn arrive(&mut self, faults: &[Fault]) -> Option<Vec<u8>> {
        self.last_arrival = self.next_arrival(faults)?;
        let (_, packet) = self.under_way.pop_front()?;
        self.bytes -= packet.len();
        (!loses(&mut self.random, faults)).then_some(packet)
    }
}

fn latency(faults: &[Fault]) -> Duration {
    let latency = |fault: &Fault| match fault {
        Fault::Delay { latency, .. } => *latency,
        _ => Duration::ZERO,
    };
    faults.iter().map(latency).sum()
}

/// How long a packet takes to leave.
fn sending(faults: &[Fault], bytes: usize) -> Duration {
    let slow = faults.iter().filter_map(|fault| match fault {
        Fault::Slow { bytes_per_second, .. } => Some(*bytes_per_second),
        _ => None,
    });
    slow.min().map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64))
}

/// Whether a packet is lost. A wire that is cut loses all.
fn loses(random: &mut fastrand::Rng, faults: &[Fault]) -> bool {
    let mut loses = |fault: &Fault| match fault {
        Fault::Partition(_) => true,
        Fault::Loss { percent, .. } => random.u8(..100) < *percent,
        _ => false,
    };
    faults.iter().any(&mut loses)
}
