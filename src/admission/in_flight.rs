//! What is in flight, at most so many requests or bytes, without a queue: whoever finds no room is refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Overloaded;
use super::drain_rate::DrainRate;

/// A handle; all clones share the same room.
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
    /// What those have who have a share, by who they are.
    taken_by: BTreeMap<Arc<str>, usize>,
    drain_rate: DrainRate,
}

impl InFlight {
    /// Room for `limit`, which the configuration calls `limit_name`, of `what`, one and several.
    pub fn new(what: [&'static str; 2], limit_name: &'static str, limit: usize) -> Self {
        Self { shared: Arc::new(Shared { what, limit_name, limit, state: Mutex::default() }) }
    }

    /// Takes room for one.
    ///
    /// # Errors
    /// [`Overloaded`] if none is left.
    pub fn try_acquire(&self) -> Result<InFlightPermit, Overloaded> {
        self.acquire(None, 1)
    }

    /// Takes room for `amount` of somebody, who leaves an eighth of it all to others.
    ///
    /// # Errors
    /// [`Overloaded`] if too little is left for him.
    pub fn try_acquire_for(
        &self,
        who: impl Into<Arc<str>>,
        amount: usize,
    ) -> Result<InFlightPermit, Overloaded> {
        self.acquire(Some(who.into()), amount)
    }

    fn acquire(&self, who: Option<Arc<str>>, amount: usize) -> Result<InFlightPermit, Overloaded> {
        let permit = InFlightPermit { shared: self.shared.clone(), who, amount: AtomicUsize::new(0) };
        permit.take(amount)?;
        Ok(permit)
    }

    /// What is taken.
    pub fn taken(&self) -> usize {
        self.shared.lock().taken
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the state half changed: nothing in here runs foreign code.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one who has a share may have.
    fn share(&self) -> usize {
        self.limit - self.limit / 8
    }
}

/// Room that is taken; it is free again on drop.
#[must_use = "dropping the permit gives the room back"]
#[derive(Debug)]
pub struct InFlightPermit {
    shared: Arc<Shared>,
    who: Option<Arc<str>>,
    /// Written under the lock of the state.
    amount: AtomicUsize,
}

impl InFlightPermit {
    /// Takes room for `amount` more.
    ///
    /// # Errors
    /// [`Overloaded`] if too little is left; what was taken before stays.
    pub fn take(&self, amount: usize) -> Result<(), Overloaded> {
        let shared = &self.shared;
        let now = Instant::now();
        let mut state = shared.lock();
        let his = self.who.as_ref().map_or(0, |who| state.taken_by.get(who).copied().unwrap_or(0));
        let full = [(state.taken, shared.limit), (his, shared.share())];
        if let Some((found, limit)) = full.into_iter().find(|(found, limit)| found + amount > *limit) {
            state.drain_rate.set_busy(true, now);
            return Err(Overloaded {
                what: shared.what,
                limit_name: shared.limit_name,
                limit: limit as u64,
                found: found as u64,
                limiting_factor: shared.limit_name.to_owned(),
                retry_after: state.drain_rate.time_for(1, now),
            });
        }
        state.taken += amount;
        if let Some(who) = &self.who {
            *state.taken_by.entry(who.clone()).or_default() += amount;
        }
        self.amount.fetch_add(amount, Ordering::Relaxed);
        let full = state.taken >= shared.share();
        state.drain_rate.set_busy(full, now);
        Ok(())
    }

    /// Gives room for `amount` back, at most what was taken.
    pub fn give_back(&self, amount: usize) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let amount = amount.min(self.amount.load(Ordering::Relaxed));
        if amount == 0 {
            return;
        }
        self.amount.fetch_sub(amount, Ordering::Relaxed);
        state.taken -= amount;
        if let Some(who) = &self.who
            && let Some(his) = state.taken_by.get_mut(who)
        {
            *his -= amount;
            if *his == 0 {
                state.taken_by.remove(who);
            }
        }
        state.drain_rate.record(now);
        let full = state.taken >= self.shared.share();
        state.drain_rate.set_busy(full, now);
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.give_back(usize::MAX);
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
        for _ in 0..100 {
            let refused = requests.try_acquire().unwrap_err();
            assert_eq!(refused.retry_after, Duration::from_millis(300), "a refusal frees no place");
        }
        drop(places);
        let _places = [(); 2].map(|()| requests.try_acquire().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_the_last_eighth_from_others() {
        let streams = InFlight::new(["stream open", "streams open"], "limits.streams", 16);
        let mut places: Vec<_> = (0..14).map(|_| streams.try_acquire_for("one", 1).unwrap()).collect();
        let refused = streams.try_acquire_for("one", 1).unwrap_err();
        assert_eq!((refused.found, refused.limit), (14, 14));
        places.extend([(); 2].map(|()| streams.try_acquire_for("another", 1).unwrap()));
        assert_eq!(streams.try_acquire_for("third", 1).unwrap_err().limit, 16);
        drop(places.remove(0));
        places.push(streams.try_acquire_for("one", 1).unwrap());
        drop(places);
        assert_eq!(streams.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn room_grows_and_shrinks_with_what_is_in_it() {
        let bytes = InFlight::new(["byte", "bytes"], "limits.transit_bytes", 800);
        let message = bytes.try_acquire_for("one", 100).unwrap();
        message.take(600).unwrap();
        let refused = message.take(1).unwrap_err();
        assert_eq!((refused.found, refused.limit, bytes.taken()), (700, 700, 700));
        let other = bytes.try_acquire_for("another", 100).unwrap();
        assert_eq!(bytes.try_acquire_for("third", 1).unwrap_err().limit, 800);
        message.give_back(600);
        assert_eq!(bytes.taken(), 200);
        drop((message, other));
        assert_eq!(bytes.taken(), 0);
        assert!(bytes.shared.lock().taken_by.is_empty());
    }
}
