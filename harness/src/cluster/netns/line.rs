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
    pub(super) fn send(&mut self, packet: Vec<u8>) {
        if self.bytes + packet.len() <= QUEUE_BYTES {
            self.bytes += packet.len();
            self.under_way.push_back((Instant::now(), packet));
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
        Fault::Partition(_) | Fault::PartitionOneWay { .. } => true,
        Fault::Loss { percent, .. } => random.u8(..100) < *percent,
        _ => false,
    };
    faults.iter().any(&mut loses)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// How many milliseconds after `begun` packets arrive, and their first bytes, until the line is empty.
    fn arrivals(line: &mut Line, faults: &[Fault], begun: Instant) -> Vec<(u128, Option<u8>)> {
        let next = |line: &mut Line| {
            let at = line.next_arrival(faults)?;
            Some(((at - begun).as_millis(), line.arrive(faults).map(|packet| packet[0])))
        };
        std::iter::from_fn(|| next(line)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn packets_arrive_at_once_and_in_order_when_nothing_is_wrong() {
        let (begun, mut line) = (Instant::now(), Line::new(1));
        line.send(vec![1; 100]);
        line.send(vec![2; 100]);
        advance(milliseconds(5)).await;
        line.send(vec![3; 100]);
        assert_eq!(arrivals(&mut line, &[], begun), [(0, Some(1)), (0, Some(2)), (5, Some(3))]);
    }

    #[tokio::test(start_paused = true)]
    async fn packets_each_take_the_latencies_of_all_delays() {
        let (begun, mut line) = (Instant::now(), Line::new(1));
        line.send(vec![1; 100]);
        advance(milliseconds(10)).await;
        line.send(vec![2; 100]);
        let delays = [Fault::delay("A", "E", milliseconds(300)), Fault::delay("A", "F", milliseconds(50))];
        assert_eq!(arrivals(&mut line, &delays, begun), [(350, Some(1)), (360, Some(2))]);
    }

    #[tokio::test(start_paused = true)]
    async fn packet_does_not_overtake_one_that_was_delayed_before_it() {
        let (begun, mut line) = (Instant::now(), Line::new(1));
        line.send(vec![1; 100]);
        line.send(vec![2; 100]);
        assert_eq!(line.arrive(&[Fault::delay("A", "E", milliseconds(300))]), Some(vec![1; 100]));
        assert_eq!(arrivals(&mut line, &[], begun), [(300, Some(2))]);
    }

    /// 100 bytes at 1,000 bytes a second take 100 ms, and the second packet leaves after the first.
    #[tokio::test(start_paused = true)]
    async fn slow_line_carries_one_packet_after_the_other_at_its_slowest_rate() {
        let (begun, mut line) = (Instant::now(), Line::new(1));
        line.send(vec![1; 100]);
        line.send(vec![2; 50]);
        let slow = [Fault::slow("A", 1_000), Fault::slow("B", 5_000)];
        assert_eq!(arrivals(&mut line, &slow, begun), [(100, Some(1)), (150, Some(2))]);
    }

    /// 1,024 packets of 1 KiB are all there is room for.
    #[tokio::test(start_paused = true)]
    async fn packet_that_finds_no_room_is_lost_and_one_that_arrives_makes_room() {
        let mut line = Line::new(1);
        for _ in 0..1_025 {
            line.send(vec![1; 1_024]);
        }
        assert_eq!((line.under_way.len(), line.bytes), (1_024, QUEUE_BYTES));
        assert!(line.arrive(&[]).is_some());
        line.send(vec![2; 1_024]);
        assert_eq!((line.under_way.len(), line.bytes), (1_024, QUEUE_BYTES));
        assert_eq!(arrivals(&mut line, &[], Instant::now()).last(), Some(&(0, Some(2))));
        assert_eq!(line.bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn line_that_is_cut_loses_what_arrives_until_it_is_healed() {
        let mut line = Line::new(1);
        line.send(vec![1; 100]);
        line.send(vec![2; 100]);
        assert_eq!(line.arrive(&[Fault::partition("A", "E")]), None);
        assert_eq!(line.arrive(&[]), Some(vec![2; 100]));
    }

    /// Of 1,000 packets 400 are lost, give or take six standard deviations, which are 15 each.
    #[tokio::test(start_paused = true)]
    async fn lossy_line_loses_its_share_and_with_equal_seeds_the_same() {
        let losses = |seed| {
            let mut line = Line::new(seed);
            for _ in 0..1_000 {
                line.send(vec![1; 100]);
            }
            let arrivals = arrivals(&mut line, &[Fault::loss("A", "E", 40)], Instant::now());
            arrivals.into_iter().map(|(_, first)| first.is_none()).collect::<Vec<_>>()
        };
        let lost = losses(7).into_iter().filter(|lost| *lost).count();
        assert!((310..=490).contains(&lost), "{lost}");
        assert_eq!(losses(7), losses(7));
        assert_ne!(losses(7), losses(8));
    }
}
