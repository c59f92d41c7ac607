//! What is free, and which waiting query gets it: the pure state behind [`QueryAdmission`](super::QueryAdmission).
//!
//! Every change is a call, every grant an answer: [`Slots::arrive`], [`Slots::leave`] and [`Slots::finish`] change
//! what is waiting or free; the owner then calls [`Slots::grant_next`] until it answers `None`. After that no query waits
//! whose slots are all free and unreserved.
//!
//! **Order.** A query waits once, under the team of its plan with the least free slots; but beside an equal plan of
//! its client if one waits, so that those stay first in, first out. It may overtake an earlier query of its own client only
//! while that one's slots are not free. It is charged to its teams, each with its own rows.
//!
//! **Room for others.** An address leaves an eighth of the node's and of each team's slots to others, and a client a quarter,
//! rounded down: whoever comes beside one that asks for everything starts at once, and need not wait until the other's
//! queries end. Where a team may exceed its slots, so may a client.
//!
//! **Reservations.** A query whose turn came `max_bypass` times while its slots were not free reserves them, at most
//! [`RESERVATION_LIMIT`] (and a quarter of `max_active`) at a time, the oldest query first. What a reservation needs is kept
//! from everybody behind it: queries without one, and later reservations. So the first reservation waits for
//! nobody but queries that run, two of them cannot block each other, and each of the others moves up.
//!
//! **No starvation.** If no query runs longer than D, a waiting query starts at the latest when its turn has come
//! `max_bypass` times (see the fair queue for the time between turns), plus D for each older query with a
//! reservation or the right to one, plus D.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Fairness;

use super::fair_queue::{ClientKey, FairQueue, Order, Ticket, Weights};

/// Reservations at a time; each may keep one slot of the node idle.
pub(super) const RESERVATION_LIMIT: usize = 4;
/// Rows of one turn at weight 1: some ten days of the real dataset. A query is not divided, so this is of the order of
/// a middling one. Smaller, the debt limit, which is in quanta, would forgive too much; larger, turns grow long.
const QUANTUM_ROWS: u64 = 262_144;
/// The account of queries that touch no team.
const NO_TEAM: &str = "";

/// The limits of one node. Each is at least 1, except `queue_length` and `max_bypass`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryLimits {
    /// Queries that run at a time.
    pub max_active: usize,
    /// Running queries that touch a team.
    pub per_team_limit: usize,
    /// Queries that wait at a time; more are refused.
    pub queue_length: usize,
    /// How often a query is passed over before it reserves its slots.
    pub max_bypass: u32,
    /// What `per_team_limit` means.
    pub fairness: Fairness,
    /// Shares of teams and clients.
    pub weights: Weights,
}

/// What keeps a query from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LimitingFactor {
    MaxActive,
    Client,
    Team(Arc<str>),
    Reserved,
}

impl std::fmt::Display for LimitingFactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaxActive => f.write_str("max_active"),
            Self::Client => f.write_str("client"),
            Self::Team(team) => write!(f, "team {team}"),
            Self::Reserved => f.write_str("reserved"),
        }
    }
}

/// Rows that a query is expected to read, by team.
pub(super) type Plan = BTreeMap<Arc<str>, u64>;

/// A query that waits; `W` is how its owner reaches it.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    pub(super) client: ClientKey,
    pub(super) plan: Plan,
    pub(super) waiter: W,
    /// Under which team it waits.
    team: Arc<str>,
    bypassed: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots<W> {
    held: Held,
    queue: FairQueue<Waiting<W>>,
    max_bypass: u32,
    reservations: Vec<Reservation>,
}

/// Slots in use and slots wanted.
#[derive(Debug)]
struct Held {
    limits: QueryLimits,
    active: usize,
    /// Running queries that touch a team.
    running: BTreeMap<Arc<str>, usize>,
    /// Waiting queries that touch a team.
    waiting: BTreeMap<Arc<str>, usize>,
    /// Running queries of an address and of a client.
    clients: BTreeMap<Holding, usize>,
}

/// Whose slots: an address's or, with an id, a client's; of the node or of a team.
type Holding = (Arc<str>, Option<Arc<str>>, Option<Arc<str>>);

#[derive(Debug)]
struct Reservation {
    ticket: Ticket,
    client: ClientKey,
    plan: Plan,
}

impl<W> Slots<W> {
    pub(super) fn new(mut limits: QueryLimits) -> Self {
        limits.max_active = limits.max_active.max(1);
        limits.per_team_limit = limits.per_team_limit.max(1);
        Self {
            queue: FairQueue::new(QUANTUM_ROWS, limits.weights.clone())
                .ordered(Order::under(limits.fairness)),
            max_bypass: limits.max_bypass,
            reservations: Vec::new(),
            held: Held {
                limits,
                active: 0,
                running: BTreeMap::new(),
                waiting: BTreeMap::new(),
                clients: BTreeMap::new(),
            },
        }
    }

    /// A query comes and waits.
    pub(super) fn arrive(&mut self, client: ClientKey, plan: Plan, waiter: W) -> Ticket {
        let team = self.waiting_team(&client, &plan);
        let cost = plan.get(&team).copied().unwrap_or(1);
        self.held.wait(&plan);
        let waiting = Waiting { client: client.clone(), plan, waiter, team: team.clone(), bypassed: 0 };
        self.queue.push(&team, &client, cost, waiting)
    }

    /// A waiting query goes away; `None` if it does not wait (any more).
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waiting<W>> {
        let waiting = self.queue.remove(ticket)?;
        self.forget(ticket, &waiting.plan);
        Some(waiting)
    }

    /// A running query ends and its slots are free again.
    pub(super) fn finish(&mut self, client: &ClientKey, plan: &Plan) {
        self.held.finish(client, plan);
    }

    /// Charges what a query read beyond the estimate (negative: less).
    pub(super) fn charge(&mut self, client: &ClientKey, team: &Arc<str>, correction: i64) {
        self.queue.charge(team, client, correction);
    }

    /// Grants all slots of the next query that can have them.
    pub(super) fn grant_next(&mut self) -> Option<(Ticket, Waiting<W>)> {
        self.reserve();
        let (ticket, waiting) = match self.first_ready_reservation() {
            Some(ticket) => (ticket, self.queue.take(ticket)?),
            None => self.pop()?,
        };
        self.forget(ticket, &waiting.plan);
        self.held.start(&waiting.client, &waiting.plan);
        for (team, rows) in &waiting.plan {
            if *team != waiting.team {
                let rows = i64::try_from(*rows).unwrap_or(i64::MAX);
                self.queue.charge(team, &waiting.client, rows);
            }
        }
        Some((ticket, waiting))
    }

    /// What keeps a waiting query from starting; `None` if nothing does.
    pub(super) fn limiting_factor(&self, ticket: Ticket) -> Option<LimitingFactor> {
        let waiting = self.queue.get(ticket)?;
        let rank = self.rank(ticket).unwrap_or(self.reservations.len());
        self.held.blocks(&waiting.client, &waiting.plan, &self.reservations[..rank])
    }

    /// How many queries start before this one if none comes and slots become free in turn.
    pub(super) fn position(&self, ticket: Ticket) -> Option<usize> {
        let position = self.queue.position(ticket)?;
        let behind = position.max(self.reservations.len());
        Some(self.rank(ticket).unwrap_or(behind))
    }

    /// Whom to refuse when the queue is full. A query with a reservation is spared.
    pub(super) fn last_of_the_longest_line(&self, newcomer: Ticket) -> Ticket {
        self.queue.last_of_the_longest_line(newcomer, |ticket| self.rank(ticket).is_some())
    }

    pub(super) fn limits(&self) -> &QueryLimits {
        &self.held.limits
    }

    pub(super) fn active(&self) -> usize {
        self.held.active
    }

    pub(super) fn queue(&self) -> &FairQueue<Waiting<W>> {
        &self.queue
    }

    fn waiting_team(&self, client: &ClientKey, plan: &Plan) -> Arc<str> {
        let equal = |waiting: &Waiting<W>| waiting.client == *client && waiting.plan.keys().eq(plan.keys());
        if let Some((_, waiting)) = self.queue.iter().find(|(_, waiting)| equal(waiting)) {
            return waiting.team.clone();
        }
        let most_used = plan.keys().rev().max_by_key(|team| self.held.used(team));
        most_used.cloned().unwrap_or_else(|| NO_TEAM.into())
    }

    fn pop(&mut self) -> Option<(Ticket, Waiting<W>)> {
        let Self { held, queue, reservations, .. } = self;
        let blocks = |waiting: &Waiting<W>| held.blocks(&waiting.client, &waiting.plan, reservations);
        let popped = queue.pop_next(|waiting| blocks(waiting).is_none())?;
        for ticket in popped.passed_over {
            // Whoever waits for its own client's queries keeps nobody else waiting for it.
            let waiting = queue.get_mut(ticket);
            if let Some(waiting) =
                waiting.filter(|waiting| !held.leaves_too_little(&waiting.client, &waiting.plan))
            {
                waiting.bypassed = waiting.bypassed.saturating_add(1);
            }
        }
        Some((popped.ticket, popped.item))
    }

    /// Gives free reservations to the oldest queries that have been passed over often enough.
    fn reserve(&mut self) {
        let limit = RESERVATION_LIMIT.min(self.held.limits.max_active.div_ceil(4));
        let entitled = self
            .queue
            .iter()
            .filter(|(ticket, waiting)| waiting.bypassed >= self.max_bypass && self.rank(*ticket).is_none());
        let room = limit.saturating_sub(self.reservations.len());
        let new: Vec<_> = entitled
            .take(room)
            .map(|(ticket, waiting)| Reservation {
                ticket,
                client: waiting.client.clone(),
                plan: waiting.plan.clone(),
            })
            .collect();
        self.reservations.extend(new);
    }

    fn first_ready_reservation(&self) -> Option<Ticket> {
        let ready = |rank: &usize| {
            let before = &self.reservations[..*rank];
            let Reservation { client, plan, .. } = &self.reservations[*rank];
            self.held.blocks(client, plan, before).is_none()
        };
        let rank = (0..self.reservations.len()).find(ready)?;
        Some(self.reservations[rank].ticket)
    }

    fn rank(&self, ticket: Ticket) -> Option<usize> {
        let mut reservations = self.reservations.iter();
        reservations.position(|reservation| reservation.ticket == ticket)
    }

    fn forget(&mut self, ticket: Ticket, plan: &Plan) {
        self.reservations.retain(|reservation| reservation.ticket != ticket);
        self.held.stop_waiting(plan);
    }
}

impl Held {
    /// What keeps a client's `plan` from starting while `before` goes first.
    fn blocks(&self, client: &ClientKey, plan: &Plan, before: &[Reservation]) -> Option<LimitingFactor> {
        if self.active >= self.limits.max_active {
            return Some(LimitingFactor::MaxActive);
        }
        if self.active + before.len() >= self.limits.max_active {
            return Some(LimitingFactor::Reserved);
        }
        let mut teams = plan.keys();
        let team_blocks = teams.find_map(|team| self.team_blocks(team, plan, before));
        team_blocks.or_else(|| self.leaves_too_little(client, plan).then_some(LimitingFactor::Client))
    }

    /// Whether a client, or its address, would have more slots than it may.
    fn leaves_too_little(&self, client: &ClientKey, plan: &Plan) -> bool {
        if self.limits.fairness == Fairness::Fifo {
            return false;
        }
        let teams = plan.keys().filter(|team| !self.may_exceed(team, plan));
        let teams = teams.map(|team| (Some(team), self.limits.per_team_limit));
        teams.chain([(None, self.limits.max_active)]).any(|(team, slots)| {
            let [address, id] = holdings(client, team);
            let has = |holding| self.clients.get(&holding).copied().unwrap_or(0);
            has(address) >= slots - slots / 8 || has(id) >= slots - slots / 4
        })
    }

    fn team_blocks(&self, team: &Arc<str>, plan: &Plan, before: &[Reservation]) -> Option<LimitingFactor> {
        let used = self.used(team);
        let claims = |reservation: &&Reservation| reservation.plan.contains_key(team);
        let claimed = before.iter().filter(claims).count();
        if used + claimed < self.limits.per_team_limit {
            return None;
        }
        // A claimed team grows no further, or its slots would never come free for the reservation.
        if claimed == 0 && self.may_exceed(team, plan) {
            return None;
        }
        Some(if used >= self.limits.per_team_limit {
            LimitingFactor::Team(team.clone())
        } else {
            LimitingFactor::Reserved
        })
    }

    fn may_exceed(&self, team: &Arc<str>, plan: &Plan) -> bool {
        let loaded = self.active * 5 >= self.limits.max_active * 4;
        match self.limits.fairness {
            Fairness::Strict | Fairness::Fifo => false,
            Fairness::Hybrid if loaded => false,
            Fairness::Weighted | Fairness::Hybrid => {
                let mut others = self.waiting.keys().filter(|other| !plan.contains_key(*other));
                self.below_share(team) || !others.any(|other| self.below_share(other))
            }
        }
    }

    /// Whether a team has less than its weight's part of `max_active`, divided among teams that run or wait.
    fn below_share(&self, team: &Arc<str>) -> bool {
        let weights = &self.limits.weights;
        let waiting_only = self.waiting.keys().filter(|team| !self.running.contains_key(*team));
        let busy = self.running.keys().chain(waiting_only);
        let total: f64 = busy.map(|team| weights.team(team)).sum();
        let share = self.limits.max_active as f64 * weights.team(team) / total;
        (self.used(team) as f64) < share
    }

    fn used(&self, team: &Arc<str>) -> usize {
        self.running.get(team).copied().unwrap_or(0)
    }

    fn wait(&mut self, plan: &Plan) {
        add_one(&mut self.waiting, plan.keys().cloned());
    }

    fn stop_waiting(&mut self, plan: &Plan) {
        take_one(&mut self.waiting, plan.keys().cloned());
    }

    fn start(&mut self, client: &ClientKey, plan: &Plan) {
        self.active += 1;
        add_one(&mut self.running, plan.keys().cloned());
        add_one(&mut self.clients, all_holdings(client, plan));
    }

    fn finish(&mut self, client: &ClientKey, plan: &Plan) {
        self.active -= 1;
        take_one(&mut self.running, plan.keys().cloned());
        take_one(&mut self.clients, all_holdings(client, plan));
    }
}

fn holdings(client: &ClientKey, team: Option<&Arc<str>>) -> [Holding; 2] {
    [None, Some(client.id.clone())].map(|id| (client.address.clone(), id, team.cloned()))
}

fn all_holdings(client: &ClientKey, plan: &Plan) -> impl Iterator<Item = Holding> {
    plan.keys().map(Some).chain([None]).flat_map(|team| holdings(client, team))
}

fn add_one<K: Ord>(counts: &mut BTreeMap<K, usize>, keys: impl Iterator<Item = K>) {
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
}

/// Entries of zero go, so that teams nobody asks for any more, and clients that are gone, leave nothing behind.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, keys: impl Iterator<Item = K>) {
    for key in keys {
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}
