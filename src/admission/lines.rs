//! How fast each client's waiting queries start. Others come and go beside them, so that the rate of all says little of
//! a client that has many.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::drain_rate::DrainRate;
use super::fair_queue::ClientKey;

/// The lines of clients that have queries waiting, and the line that all of them are.
#[derive(Debug, Default)]
pub(super) struct Lines {
    by_client: BTreeMap<ClientKey, Line>,
    all: Line,
}

#[derive(Debug, Default)]
struct Line {
    waiting: usize,
    drain_rate: DrainRate,
}

impl Lines {
    /// A query of this client waits.
    pub(super) fn join(&mut self, client: &ClientKey, now: Instant) {
        self.by_client.entry(client.clone()).or_default().join(now);
        self.all.join(now);
    }

    /// A query of this client waits no longer. Whether it started after it had waited.
    pub(super) fn leave(&mut self, client: &ClientKey, started: bool, now: Instant) {
        self.all.leave(started, now);
        if let Some(line) = self.by_client.get_mut(client) {
            line.leave(started, now);
            if line.waiting == 0 {
                self.by_client.remove(client);
            }
        }
    }

    /// How long it takes until so many of the client's queries have started, as far as its line is known, or else so
    /// many of all clients.
    pub(super) fn time_for(&self, client: &ClientKey, own: usize, of_all: usize, now: Instant) -> Duration {
        let line = self.by_client.get(client).map(|line| &line.drain_rate);
        match line.filter(|rate| rate.is_known(now)) {
            Some(rate) => rate.time_for(own, now),
            None => self.all.drain_rate.time_for(of_all, now),
        }
    }
}

impl Line {
    fn join(&mut self, now: Instant) {
        self.waiting += 1;
        self.drain_rate.set_busy(true, now);
    }

    fn leave(&mut self, started: bool, now: Instant) {
        if started {
            self.drain_rate.record(now);
        }
        self.waiting -= 1;
        self.drain_rate.set_busy(self.waiting > 0, now);
    }
}
