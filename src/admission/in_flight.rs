//! Requests in flight, at most so many, without a queue: what nodes ask of each other waits where it was asked.

use std::collections::BTreeMap;
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
    /// Places of those who have a share, by who they are.
    taken_by: BTreeMap<Arc<str>, usize>,
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
        self.acquire(None)
    }

    /// Takes a place for somebody, who leaves an eighth of the places to others.
    ///
    /// # Errors
    /// [`Overloaded`] if none is free for him.
    pub fn try_acquire_for(&self, who: &str) -> Result<InFlightPermit, Overloaded> {
        self.acquire(Some(who.into()))
    }

    fn acquire(&self, who: Option<Arc<str>>) -> Result<InFlightPermit, Overloaded> {
        let shared = &self.shared;
        let now = Instant::now();
        let mut state = shared.lock();
        let share = shared.limit - shared.limit / 8;
        let full = [
            (state.taken, shared.limit),
            (who.as_ref().map_or(0, |who| state.taken_by.get(who).copied().unwrap_or(0)), share),
        ];
        if let Some((found, limit)) = full.into_iter().find(|(found, limit)| found >= limit) {
            return Err(Overloaded {
                what: shared.what,
                limit_name: shared.limit_name,
                limit: limit as u64,
                found: found as u64,
                limiting_factor: shared.limit_name.to_owned(),
                retry_after: state.drain_rate.time_for(1, now),
            });
        }
        state.taken += 1;
        if let Some(who) = &who {
            *state.taken_by.entry(who.clone()).or_default() += 1;
        }
        let full = state.taken == shared.limit;
        state.drain_rate.set_busy(full, now);
        Ok(InFlightPermit { shared: shared.clone(), who })
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
    who: Option<Arc<str>>,
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken -= 1;
        if let Some(taken) = self.who.as_ref().and_then(|who| state.taken_by.get_mut(who)) {
            *taken -= 1;
        }
        state.taken_by.retain(|_, taken| *taken > 0);
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

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_the_last_eighth_from_others() {
        let streams = InFlight::new(["stream open", "streams open"], "limits.streams", 16);
        let mut places: Vec<_> = (0..14).map(|_| streams.try_acquire_for("one").unwrap()).collect();
        let refused = streams.try_acquire_for("one").unwrap_err();
        assert_eq!((refused.found, refused.limit), (14, 14));
        places.extend([(); 2].map(|()| streams.try_acquire_for("another").unwrap()));
        assert_eq!(streams.try_acquire_for("third").unwrap_err().limit, 16);
        drop(places.remove(0));
        places.push(streams.try_acquire_for("one").unwrap());
        drop(places);
        assert_eq!(streams.taken(), 0);
    }
}
