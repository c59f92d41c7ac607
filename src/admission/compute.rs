//! Compute slots: the right to scan or encode one piece of rows.
//!
//! Pieces of all queries meet here, so this is where a heavy query and a light one share the processor: by rows, over
//! teams, over addresses inside a team, over the ids of an address. A piece is charged with its estimate when it
//! starts, and trued up with the measured rows when its permit is dropped.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Overloaded;
use super::drain_rate::DrainRate;
use super::fair_queue::{ClientKey, FairQueue, Ticket, Weights};

/// On whose account a piece is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The team whose days are read.
    pub team: Arc<str>,
    /// The client that asked, also where a neighbour asks for it.
    pub client: ClientKey,
}

/// A handle; all clones share the same slots.
#[derive(Clone, Debug)]
pub struct ComputeSlots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue_length: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    queue: FairQueue<oneshot::Sender<()>>,
    /// Slots that have been granted, by ticket.
    granted: BTreeMap<Ticket, Instant>,
    drain_rate: DrainRate,
}

impl ComputeSlots {
    /// `slots` (at least 1) pieces at a time, and at most `queue_length` that wait.
    ///
    /// Units: `quantum_rows` are the rows of one turn at weight 1; pieces should not be larger.
    pub fn new(slots: usize, quantum_rows: u64, queue_length: usize, weights: Weights) -> Self {
        let state = State {
            free: slots.max(1),
            queue: FairQueue::new(quantum_rows, weights),
            granted: BTreeMap::new(),
            drain_rate: DrainRate::default(),
        };
        let shared = Arc::new(Shared { queue_length, state: Mutex::new(state) });
        Self { shared }
    }

    /// Waits for a slot for a piece of about `rows` rows.
    ///
    /// # Errors
    /// [`Overloaded`] if no slot is free and the queue is full.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; a slot granted at that moment goes on to the next.
    pub async fn acquire(&self, who: &Requester, rows: u64) -> Result<ComputePermit, Overloaded> {
        let (waiting, granted) = self.enqueue(who, rows)?;
        // The sender leaves the queue only to grant: only a waiter takes itself out.
        let _ = granted.await;
        Ok(waiting.into_permit(who, rows))
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> usize {
        self.shared.lock().free
    }

    /// Pieces that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().queue.len()
    }

    fn enqueue(&self, who: &Requester, rows: u64) -> Result<(Place, oneshot::Receiver<()>), Overloaded> {
        let (sender, granted) = oneshot::channel();
        let mut state = self.shared.lock();
        if state.free == 0 && state.queue.len() >= self.shared.queue_length {
            return Err(state.overloaded(self.shared.queue_length));
        }
        let ticket = state.queue.push(&who.team, &who.client, rows, sender);
        state.grant();
        let shared = self.shared.clone();
        Ok((Place { shared, ticket }, granted))
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
            self.granted.insert(next.ticket, Instant::now());
            // A waiter leaves the queue, under this lock, before its receiver goes: this is never refused.
            let _ = next.item.send(());
        }
    }

    fn overloaded(&self, queue_length: usize) -> Overloaded {
        let waiting = self.queue.len();
        Overloaded {
            what: "pieces of work",
            limit_name: "limits.compute_queue_length",
            limit: queue_length as u64,
            found: waiting as u64,
            limiting_factor: "compute_slots".into(),
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

impl Place {
    fn into_permit(self, who: &Requester, estimated_rows: u64) -> ComputePermit {
        ComputePermit { place: self, who: who.clone(), estimated_rows, measured_rows: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.queue.remove(self.ticket).is_none() && state.granted.remove(&self.ticket).is_some() {
            state.free += 1;
            state.drain_rate.record(Instant::now());
            state.grant();
        }
    }
}

/// One compute slot; it goes to the next on drop.
#[must_use = "dropping the permit gives the slot back"]
#[derive(Debug)]
pub struct ComputePermit {
    place: Place,
    who: Requester,
    estimated_rows: u64,
    measured_rows: Option<u64>,
}

impl ComputePermit {
    /// Says how many rows the piece really took; the difference is charged when the permit is dropped.
    pub fn measured(&mut self, rows: u64) {
        self.measured_rows = Some(rows);
    }
}

impl Drop for ComputePermit {
    /// Charges first, so that the slot, which is given back afterwards, is granted by the true accounts.
    fn drop(&mut self) {
        if let Some(measured) = self.measured_rows {
            let correction = super::correction(self.estimated_rows, measured);
            let mut state = self.place.shared.lock();
            let Requester { team, client } = &self.who;
            state.queue.charge(team, client, correction);
        }
    }
}
