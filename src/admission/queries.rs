//! Admission of queries: waiting, permits, draining. What is free and who is next stands in `slots`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::appointments::Appointments;
use super::fair_queue::{ClientKey, Ticket};
use super::lines::Lines;
use super::slots::{Plan, QueryLimits, Slots, Waiting};
use super::{AdmissionError, Overloaded};

/// What a query wants.
#[derive(Clone, Debug)]
pub struct QueryCost {
    /// Who asks.
    pub client: ClientKey,
    /// The name under which the query's status can be asked for.
    pub request_id: Option<String>,
    /// Rows of the planned days, by team. A query without teams takes only a slot of the node.
    pub teams: BTreeMap<Arc<str>, u64>,
}

/// Where a query is.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryStatus {
    /// Neither waiting nor running here.
    Unknown,
    /// In the queue.
    Waiting {
        /// What keeps it there: `max_active`, `client` (its own client's queries), `team <name>`, `reserved`.
        limiting_factor: String,
        /// Queries that start before it, as things stand.
        position: usize,
        /// From now, at the rate at which queries of its client, or else of all, have started.
        estimated_start: Duration,
    },
    /// It has its slots.
    Running,
}

/// A handle; all clones share the same slots.
#[derive(Clone, Debug)]
pub struct QueryAdmission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Running queries, for those who wait until there are none.
    active: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    slots: Slots<Waiter>,
    running: BTreeMap<Ticket, Running>,
    lines: Lines,
    appointments: Appointments,
    draining: bool,
}

#[derive(Debug)]
struct Waiter {
    request_id: Option<String>,
    outcome: oneshot::Sender<Outcome>,
}

/// How waiting ends.
type Outcome = Result<(), AdmissionError>;

#[derive(Debug)]
struct Running {
    client: ClientKey,
    request_id: Option<String>,
    plan: Plan,
}

/// What a client calls its queries by.
#[derive(Clone, Copy)]
struct Name<'a> {
    request_id: &'a str,
    client: &'a ClientKey,
}

impl Name<'_> {
    fn is(self, client: &ClientKey, request_id: Option<&str>) -> bool {
        self.client == client && request_id == Some(self.request_id)
    }
}

impl QueryAdmission {
    /// All slots are free.
    pub fn new(limits: QueryLimits) -> Self {
        let state = State {
            appointments: Appointments::new(limits.max_active + limits.queue_length),
            slots: Slots::new(limits),
            running: BTreeMap::new(),
            lines: Lines::default(),
            draining: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), active: watch::Sender::new(0) });
        Self { shared }
    }

    /// Waits until the query may run.
    ///
    /// # Errors
    /// [`AdmissionError::Overloaded`] if the queue is full and no other client's line is longer, or if it is the last of the
    /// longest line when another query comes; [`AdmissionError::Draining`] from [`QueryAdmission::drain`] on.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; slots granted at that moment go on to the next.
    pub async fn admit(&self, query: QueryCost) -> Result<QueryPermit, AdmissionError> {
        let arrived = Instant::now();
        let (place, limiting_factor, outcome) = self.enqueue(query)?;
        // Only a waiter takes itself out without an outcome, and this one waits.
        outcome.await.expect("whoever waits gets an outcome")?;
        Ok(QueryPermit { waited: arrived.elapsed(), limiting_factor, measured: BTreeMap::new(), place })
    }

    /// Where a client's latest query with this request id is.
    pub fn status(&self, request_id: &str, client: &ClientKey) -> QueryStatus {
        let state = self.shared.lock();
        let named = Name { request_id, client };
        let mut waiting = state.slots.queue().iter().rev();
        let waiting = waiting.find(|(_, query)| named.is(&query.client, query.waiter.request_id.as_deref()));
        if let Some((ticket, _)) = waiting {
            return state.waiting_status(ticket);
        }
        let mut running = state.running.values();
        match running.any(|query| named.is(&query.client, query.request_id.as_deref())) {
            true => QueryStatus::Running,
            false => QueryStatus::Unknown,
        }
    }

    /// Queries that run.
    pub fn active(&self) -> usize {
        self.shared.lock().slots.active()
    }

    /// Queries that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().slots.queue().len()
    }

    /// Admits nobody any more; whoever waits is refused. Running queries go on.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        state.draining = true;
        let waiting = state.slots.queue().iter();
        let waiting: Vec<_> = waiting.map(|(ticket, _)| ticket).collect();
        state.refuse(&waiting, &AdmissionError::Draining);
        self.shared.publish(&state);
    }

    /// Waits until no query runs.
    pub async fn idle(&self) {
        let mut active = self.shared.active.subscribe();
        // The sender lives as long as `self`.
        let _ = active.wait_for(|active| *active == 0).await;
    }

    fn enqueue(
        &self,
        query: QueryCost,
    ) -> Result<(Place, Option<String>, oneshot::Receiver<Outcome>), AdmissionError> {
        let (sender, outcome) = oneshot::channel();
        let waiter = Waiter { request_id: query.request_id, outcome: sender };
        let mut state = self.shared.lock();
        if state.draining {
            return Err(AdmissionError::Draining);
        }
        let (client, now) = (query.client.clone(), Instant::now());
        let was_told_to_come = state.appointments.keep(&client, now);
        state.lines.join(&client, now);
        let ticket = state.slots.arrive(query.client, query.teams.clone(), waiter);
        let factor = state.slots.limiting_factor(ticket);
        let factor = factor.map(|factor| factor.to_string());
        state.grant(Some(ticket));
        if let Some(refused) = state.refused_for(ticket, was_told_to_come) {
            let overloaded = state.overloaded(refused).into();
            if refused == ticket {
                state.leave(ticket);
                return Err(overloaded);
            }
            state.refuse(&[refused], &overloaded);
            state.grant(None);
        }
        self.shared.publish(&state);
        drop(state);
        let place = Place { shared: self.shared.clone(), ticket, client, estimated: query.teams };
        Ok((place, factor, outcome))
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the state half changed: nothing in here runs foreign code.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait for no query to run what has changed.
    fn publish(&self, state: &State) {
        self.active.send_replace(state.slots.active());
    }
}

impl State {
    fn grant(&mut self, newcomer: Option<Ticket>) {
        while let Some((ticket, query)) = self.slots.grant_next() {
            self.lines.leave(&query.client, newcomer != Some(ticket), Instant::now());
            let running =
                Running { client: query.client, request_id: query.waiter.request_id, plan: query.plan };
            self.running.insert(ticket, running);
            // A waiter leaves the queue, under this lock, before its receiver goes: this is never refused.
            let _ = query.waiter.outcome.send(Ok(()));
        }
    }

    fn refuse(&mut self, waiting: &[Ticket], why: &AdmissionError) {
        for ticket in waiting {
            if let Some(query) = self.leave(*ticket) {
                let _ = query.waiter.outcome.send(Err(why.clone()));
            }
        }
    }

    /// A query leaves the queue without its slots; `None` if it does not wait (any more).
    fn leave(&mut self, ticket: Ticket) -> Option<Waiting<Waiter>> {
        let query = self.slots.leave(ticket)?;
        self.lines.leave(&query.client, false, Instant::now());
        Some(query)
    }

    /// Who has to go because a newcomer waits, if anybody: there are too many, or it takes the room of those who
    /// were told to come back.
    fn refused_for(&self, newcomer: Ticket, was_told_to_come: bool) -> Option<Ticket> {
        let (queue, limit) = (self.slots.queue(), self.slots.limits().queue_length);
        queue.get(newcomer)?;
        if queue.len() > limit {
            return Some(self.slots.last_of_the_longest_line(newcomer));
        }
        let has_room = was_told_to_come || queue.len() + self.appointments.count() <= limit;
        let expected = || self.appointments.clients();
        (!has_room && queue.is_in_the_longest_line(newcomer, expected)).then_some(newcomer)
    }

    /// The refusal of a query that waits, with an appointment for its client.
    fn overloaded(&mut self, refused: Ticket) -> Overloaded {
        let limiting_factor = self.slots.limiting_factor(refused);
        // Without the one that is refused.
        let waiting = self.slots.queue().len() - 1;
        let limit = self.slots.limits().queue_length;
        // So that there is room for it and for those who come before it, and some to spare: nobody leaves to the moment.
        let must_leave = (waiting + self.appointments.count() + 1 + limit / 4).saturating_sub(limit) + 1;
        let now = Instant::now();
        let client = &self.slots.queue().get(refused).expect("who is refused waits").client;
        let retry_after = self.lines.time_for(client, must_leave, must_leave, now);
        self.appointments.make(client, now + retry_after);
        Overloaded {
            what: ["query waiting", "queries waiting"],
            limit_name: "limits.queue_length",
            limit: limit as u64,
            found: waiting as u64,
            limiting_factor: limiting_factor.map_or_else(String::new, |factor| factor.to_string()),
            retry_after,
        }
    }

    fn waiting_status(&self, ticket: Ticket) -> QueryStatus {
        let position = self.slots.position(ticket).unwrap_or(0);
        let limiting_factor = self.slots.limiting_factor(ticket);
        let queue = self.slots.queue();
        let estimated_start = queue.get(ticket).map_or(Duration::ZERO, |Waiting { client, .. }| {
            let earlier = queue.iter().filter(|(other, query)| *other < ticket && query.client == *client);
            self.lines.time_for(client, earlier.count() + 1, position + 1, Instant::now())
        });
        QueryStatus::Waiting {
            limiting_factor: limiting_factor.map_or_else(String::new, |factor| factor.to_string()),
            position,
            estimated_start,
        }
    }
}

/// A place in the queue or, once granted, slots. Dropping it gives up either.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    ticket: Ticket,
    client: ClientKey,
    estimated: Plan,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(query) = state.running.remove(&self.ticket) {
            state.slots.finish(&query.client, &query.plan);
        } else {
            state.leave(self.ticket);
        }
        // Also when a waiter left: it may have held a reservation.
        state.grant(None);
        self.shared.publish(&state);
    }
}

/// The slots of one query; they are free again on drop.
#[must_use = "dropping the permit gives the slots back"]
#[derive(Debug)]
pub struct QueryPermit {
    waited: Duration,
    limiting_factor: Option<String>,
    measured: BTreeMap<Arc<str>, u64>,
    place: Place,
}

impl QueryPermit {
    /// How long the query has waited for its slots.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What made it wait when it came: `max_active`, `client`, `team <name>` or `reserved`; `None` if it started at once.
    pub fn limiting_factor(&self) -> Option<&str> {
        self.limiting_factor.as_deref()
    }

    /// Says how many rows were really read, by team; the difference is charged when the permit is dropped.
    pub fn measured(&mut self, rows: BTreeMap<Arc<str>, u64>) {
        self.measured = rows;
    }
}

impl Drop for QueryPermit {
    /// Charges first, so that the slots, which are given back afterwards, are granted by the true accounts.
    fn drop(&mut self) {
        let mut state = self.place.shared.lock();
        for (team, measured) in &self.measured {
            let estimated = self.place.estimated.get(team).copied().unwrap_or(0);
            let correction = super::correction(estimated, *measured);
            state.slots.charge(&self.place.client, team, correction);
        }
    }
}
