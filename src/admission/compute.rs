//! Compute slots: the right to scan or encode one piece of rows.
//!
//! Pieces of all queries meet here, so this is where a heavy query and a light one share the processor: by rows, over
//! teams, over addresses inside a team, over the ids of an address. Of one client's pieces that of its oldest query goes
//! first, told by its deadline: so its queries end one by one, and give their slots back. What a piece costs is known before it starts: its
//! rows, or its encoded rows times what encoding one costs. So nothing has to be trued up.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Overloaded;
use super::drain_rate::DrainRate;
use super::fair_queue::{ClientKey, FairQueue, Order, Ticket, Weights};

/// On whose account a piece is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The team whose days are read.
    pub team: Arc<str>,
    /// The client that asked, also where a neighbour asks for it.
    pub client: ClientKey,
    /// When the client stops waiting for what the piece is part of; of its pieces the one that is due first is next.
    pub due: Instant,
}

/// How many pieces run and wait, and what they are called when that is too many.
#[derive(Clone, Debug)]
pub struct ComputeLimits {
    /// Pieces at a time; at least 1.
    pub slots: usize,
    /// Pieces that wait at a time; more are refused.
    pub queue_length: usize,
    /// The rows of one turn at weight 1; pieces of scanning are not larger.
    pub quantum_rows: u64,
    /// What decides which piece is next.
    pub order: Order,
    /// What waits, one and several: `piece of work waiting`, `pieces of work waiting`.
    pub what: [&'static str; 2],
    /// What the slots are called as a limiting factor.
    pub limiting_factor: &'static str,
}

/// A handle; all clones share the same slots.
#[derive(Clone, Debug)]
pub struct ComputeSlots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: ComputeLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    queue: FairQueue<oneshot::Sender<Result<(), Overloaded>>>,
    granted: BTreeSet<Ticket>,
    drain_rate: DrainRate,
}

impl ComputeSlots {
    /// All slots are free.
    pub fn new(limits: ComputeLimits, weights: Weights) -> Self {
        let state = State {
            free: limits.slots.max(1),
            queue: FairQueue::new(limits.quantum_rows, weights).ordered(limits.order),
            granted: BTreeSet::new(),
            drain_rate: DrainRate::default(),
        };
        Self { shared: Arc::new(Shared { limits, state: Mutex::new(state) }) }
    }

    /// Waits for a slot for a piece of about `rows` rows.
    ///
    /// # Errors
    /// [`Overloaded`] if the queue is full and no other client's line is longer, or if it is the last of the
    /// longest line when another piece comes.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; a slot granted at that moment goes on to the next.
    pub async fn acquire(&self, who: &Requester, rows: u64) -> Result<ComputePermit, Overloaded> {
        let (place, outcome) = self.enqueue(who, rows)?;
        // Only a waiter takes itself out without an outcome, and this one waits.
        outcome.await.expect("whoever waits gets an outcome")?;
        Ok(ComputePermit { _place: place })
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> usize {
        self.shared.lock().free
    }

    /// Slots that somebody has.
    pub fn taken_slots(&self) -> usize {
        self.shared.lock().granted.len()
    }

    /// Pieces that wait for one.
    pub fn waiting_pieces(&self) -> usize {
        self.shared.lock().queue.len()
    }

    fn enqueue(
        &self,
        who: &Requester,
        rows: u64,
    ) -> Result<(Place, oneshot::Receiver<Result<(), Overloaded>>), Overloaded> {
        let limits = &self.shared.limits;
        let (sender, outcome) = oneshot::channel();
        let mut state = self.shared.lock();
        let ticket = state.queue.push_due(&who.team, &who.client, rows, Some(who.due), sender);
        state.grant();
        if state.queue.len() > limits.queue_length {
            let refused = state.queue.last_of_the_longest_line(ticket, |_| false);
            let overloaded = state.overloaded(limits);
            let waiter = state.queue.remove(refused);
            if refused == ticket {
                return Err(overloaded);
            }
            let _ = waiter.map(|waiter| waiter.send(Err(overloaded)));
        }
        state.note_whether_busy();
        Ok((Place { shared: self.shared.clone(), ticket }, outcome))
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the state half changed: nothing in here runs foreign code.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands the free slots to whoever is next.
    fn grant(&mut self) {
        while self.free > 0 {
            let Some(next) = self.queue.pop_next(|_| true) else {
                return;
            };
            self.free -= 1;
            self.granted.insert(next.ticket);
            // A waiter leaves the queue, under this lock, before its receiver goes: this is never refused.
            let _ = next.item.send(Ok(()));
        }
    }

    fn note_whether_busy(&mut self) {
        self.drain_rate.set_busy(self.free == 0, Instant::now());
    }

    /// The refusal of one of those that wait.
    fn overloaded(&self, limits: &ComputeLimits) -> Overloaded {
        let waiting = self.queue.len() - 1;
        Overloaded {
            what: limits.what,
            limit_name: "limits.compute_queue_length",
            limit: limits.queue_length as u64,
            found: waiting as u64,
            limiting_factor: limits.limiting_factor.into(),
            retry_after: self.drain_rate.time_for(waiting / 2 + 1, Instant::now()),
        }
    }
}

/// A place in the queue or, once granted, a slot. Dropping it gives up either.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.queue.remove(self.ticket).is_none() && state.granted.remove(&self.ticket) {
            state.free += 1;
            state.drain_rate.record(Instant::now());
            state.grant();
        }
        state.note_whether_busy();
    }
}

/// One compute slot; it goes to the next on drop.
#[must_use = "dropping the permit gives the slot back"]
#[derive(Debug)]
pub struct ComputePermit {
    _place: Place,
}
