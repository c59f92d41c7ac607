//! When those who were refused were told to come back. There is room for them then, unless others left more slowly than
//! before: whoever comes meanwhile without having been told is refused for their sake.
//!
//! Without that, room is taken by whoever asks most often, and who does as told finds the queue full again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::fair_queue::ClientKey;

/// How much later than told somebody may come: the way back, and a pause of a busy client.
const GRACE: Duration = Duration::from_secs(1);

/// How much earlier: clients count in milliseconds.
const EARLY: Duration = Duration::from_millis(1);

/// At most so many, by client, each in order.
#[derive(Debug)]
pub(super) struct Appointments {
    by_client: BTreeMap<ClientKey, VecDeque<Instant>>,
    count: usize,
    limit: usize,
}

impl Appointments {
    /// None yet.
    pub(super) fn new(limit: usize) -> Self {
        Self { by_client: BTreeMap::new(), count: 0, limit }
    }

    /// Those that can still be kept.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Whose they are, one for each.
    pub(super) fn clients(&self) -> impl Iterator<Item = &ClientKey> {
        self.by_client.iter().flat_map(|(client, at)| std::iter::repeat_n(client, at.len()))
    }

    /// Makes one, while there is room; whoever gets none is told a time all the same.
    pub(super) fn make(&mut self, client: &ClientKey, at: Instant) {
        if self.count < self.limit {
            let of_client = self.by_client.entry(client.clone()).or_default();
            of_client.insert(of_client.partition_point(|other| *other <= at), at);
            self.count += 1;
        }
    }

    /// Uses up the first one of a client, if its time has come; whether it had.
    pub(super) fn keep(&mut self, client: &ClientKey, now: Instant) -> bool {
        self.forget_missed(now);
        let first = self.by_client.get(client).and_then(|of_client| of_client.front());
        let has_come = first.is_some_and(|at| *at <= now + EARLY);
        if has_come {
            self.drop_first(client);
        }
        has_come
    }

    fn forget_missed(&mut self, now: Instant) {
        let missed = |of_client: &VecDeque<Instant>| of_client.front().is_some_and(|at| *at + GRACE < now);
        let late =
            |(client, of_client): (&ClientKey, &VecDeque<Instant>)| missed(of_client).then(|| client.clone());
        while let Some(client) = self.by_client.iter().find_map(late) {
            self.drop_first(&client);
        }
    }

    fn drop_first(&mut self, client: &ClientKey) {
        if let Some(of_client) = self.by_client.get_mut(client) {
            self.count -= usize::from(of_client.pop_front().is_some());
            if of_client.is_empty() {
                self.by_client.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn appointment_is_kept_once_at_its_time_and_missed_a_second_later() {
        let (mut appointments, now) = (Appointments::new(3), Instant::now());
        let [one, other] = ["one", "other"].map(|id| ClientKey::new("10.0.0.1", id));
        let second = Duration::from_secs(1);
        appointments.make(&one, now + 2 * second);
        appointments.make(&one, now + second);
        appointments.make(&other, now + second);
        appointments.make(&other, now);
        assert_eq!((appointments.count(), appointments.clients().count()), (3, 3), "no more than the limit");
        assert!(!appointments.keep(&one, now), "too early");
        assert!(appointments.keep(&one, now + second));
        assert!(!appointments.keep(&one, now + second), "it had one then");
        assert!(appointments.keep(&one, now + 3 * second));
        assert_eq!(appointments.count(), 0, "the other one's is missed");
    }
}
