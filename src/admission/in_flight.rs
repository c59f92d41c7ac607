//! Requests in flight, at most so many, without a queue: what nodes ask of each other waits where it was asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Overloaded;
use super::drain_rate::DrainRate;

/// A handle; all clones share the same places.
#[derive(Clone, Debug)]
pub struct InFlight {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    what: [&'static str; 2],
    limit_name: &'static str,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    drain_rate: DrainRate,
}

impl InFlight {
    /// `limit` places, which the configuration calls `limit_name`, for `what`, one and several.
    pub fn new(what: [&'static str; 2], limit_name: &'static str, limit: usize) -> Self {
        Self { shared: Arc::new(Shared { what, limit_name, limit, state: Mutex::default() }) }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`Overloaded`] if none is free.
    pub fn try_acquire(&self) -> Result<InFlightPermit, Overloaded> {
        let shared = &self.shared;
        let now = Instant::now();
        let mut state = shared.lock();
        if state.taken >= shared.limit {
            return Err(Overloaded {
                what: shared.what,
                limit_name: shared.limit_name,
                limit: shared.limit as u64,
                found: state.taken as u64,
                limiting_factor: shared.limit_name.to_owned(),
                retry_after: state.drain_rate.time_for(1, now),
            });
        }
        state.taken += 1;
        let full = state.taken == shared.limit;
        state.drain_rate.set_busy(full, now);
        Ok(InFlightPermit { shared: shared.clone() })
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.shared.lock().taken
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the state half changed: nothing in here runs foreign code.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place; it is free again on drop.
#[must_use = "dropping the permit gives the place back"]
#[derive(Debug)]
pub struct InFlightPermit {
    shared: Arc<Shared>,
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken -= 1;
        state.drain_rate.record(Instant::now());
        state.drain_rate.set_busy(false, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Method: two places, each free again after 300 ms and taken at once; a third request is told the measured time.
    #[tokio::test(start_paused = true)]
    async fn request_beyond_the_limit_is_told_when_a_place_becomes_free() {
        let requests =
            InFlight::new(["peer request in flight", "peer requests in flight"], "limits.peer_requests", 2);
        let mut places = vec![requests.try_acquire().unwrap(), requests.try_acquire().unwrap()];
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(places.remove(0));
            places.push(requests.try_acquire().unwrap());
        }
        let refused = requests.try_acquire().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "queue full: 2 peer requests in flight, limit 2 (limits.peer_requests); retry after 300 ms"
        );
        drop(places);
        let _places = [(); 2].map(|()| requests.try_acquire().unwrap());
    }
}
