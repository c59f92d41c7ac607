//! Who is next: a queue that shares rows among teams, inside a team among addresses, and inside an address
//! among client ids, by deficit round robin. Inside a client what is due first goes first, and what is due at no time
//! before that, in the order of arrival: so a client's queries end one after the other, not all at its end.
//!
//! Pure: no clock, no lock, no task; equal calls give equal answers.
//!
//! Each account (team, address, id) has a *quantum*, `quantum_rows` times its weight, and a *deficit*, the rows
//! that it may still take. Siblings are visited in turn; a visit adds the quantum, and the account is served
//! while its deficit covers the next item. Only clients hold items: a team with a queue of its own beside those
//! of its clients would leave each of them 1/(N+1) of the team's rows.
//!
//! - **Fairness.** Two siblings that both wait all the time, and whose items are all eligible, differ in rows taken
//!   over weight by at most `quantum_rows + largest/w1 + largest/w2`, `largest` being the largest cost.
//! - **No starvation.** An item with `ahead` rows in its own client (itself included) is served within
//!   `ahead / quantum + 1` visits of its client, plus [`DEBT_LIMIT_QUANTA`] for each of those items, if charges beyond the
//!   estimates put the client into debt. Between two visits a sibling takes at most its quantum (and once, before the
//!   first, what its deficit had saved). What is charged while an account waits counts when it is next served, so that
//!   others, who may charge it too, cannot put off its turn again and again.
//! - **Idle accounts** keep no credit. They keep a debt, at most [`DEBT_LIMIT_QUANTA`] quanta, and pay one quantum
//!   of it each round; it ends when nobody waits under the same parent any more, because then nobody is wronged.
//! - **Passed over.** An item that is not eligible when its turn comes is skipped, and its account keeps the
//!   credit, up to the largest cost, so that it is served at the first visit that finds it eligible.
//!
//! Source: M. Shreedhar, G. Varghese, Efficient Fair Queueing using Deficit Round Robin, SIGCOMM 1995.

mod account;
mod longest_line;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use account::{Account, Step};

use crate::config::Fairness;

/// A debt takes at most so many rounds to pay; what is beyond it is forgiven. A measured cost can be any number, so
/// without this bound one bad estimate would lock a client out; 64 left a team that others keep charging with one turn
/// in 130.
pub const DEBT_LIMIT_QUANTA: u64 = 8;

/// Who asks: the address, or the name of a token in its place, shares the team's rows with others, the id those of its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    /// The peer's host, without the port, which is another one for each connection.
    pub address: Arc<str>,
    /// What the client calls itself; may be empty.
    pub id: Arc<str>,
}

impl ClientKey {
    /// The client `id` at `address`.
    pub fn new(address: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        Self { address: address.into(), id: id.into() }
    }

    /// On whose behalf nodes look after each other.
    pub fn nobody() -> Self {
        Self::new("", "")
    }

    /// Whether there is no client.
    pub fn is_nobody(&self) -> bool {
        self.address.is_empty() && self.id.is_empty()
    }
}

/// Shares of teams and clients; who is not named has weight 1.
///
/// A client's weight is looked up by its address, to divide a team's rows among addresses, and by its id, to divide
/// the address's rows among its ids. So an id cannot raise its address's share by the name that it chooses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// By team.
    pub teams: BTreeMap<String, f64>,
    /// By address or by client id.
    pub clients: BTreeMap<String, f64>,
}

impl Weights {
    /// The weight of a team, between 0.001 and 1000.
    pub fn team(&self, team: &str) -> f64 {
        Self::of(&self.teams, team)
    }

    fn of(weights: &BTreeMap<String, f64>, name: &str) -> f64 {
        match weights.get(name) {
            Some(weight) if weight.is_finite() => weight.clamp(0.001, 1000.0),
            _ => 1.0,
        }
    }
}

/// What decides who is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Teams, addresses and clients take turns.
    #[default]
    InTurn,
    /// Arrival alone, whoever asks.
    OfArrival,
}

impl Order {
    /// The order under a strategy.
    pub fn under(fairness: Fairness) -> Self {
        match fairness {
            Fairness::Fifo => Order::OfArrival,
            Fairness::Strict | Fairness::Weighted | Fairness::Hybrid => Order::InTurn,
        }
    }
}

/// Names an item of one queue; later pushes have larger tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What [`FairQueue::pop_next`] hands out.
#[derive(Debug, PartialEq)]
pub struct Popped<T> {
    /// As [`FairQueue::push`] gave it.
    pub ticket: Ticket,
    /// The item.
    pub item: T,
    /// Items whose turn had come earlier and which were skipped because they were not eligible.
    pub passed_over: Vec<Ticket>,
}

/// See the module.
#[derive(Debug)]
pub struct FairQueue<T> {
    root: Account,
    items: BTreeMap<Ticket, Waiting<T>>,
    next_ticket: u64,
    quantum_rows: u64,
    weights: Weights,
    order: Order,
    /// The largest cost since the queue was last empty: no account saves more than it.
    largest_cost: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    path: [Step; 3],
    item: T,
}

impl<T> FairQueue<T> {
    /// An empty queue. Units: `quantum_rows` are the rows of one visit at weight 1, at least 1; a larger quantum
    /// means longer turns and fewer of them.
    pub fn new(quantum_rows: u64, weights: Weights) -> Self {
        Self {
            root: Account::new(0),
            items: BTreeMap::new(),
            next_ticket: 0,
            quantum_rows: quantum_rows.max(1),
            weights,
            order: Order::InTurn,
            largest_cost: 0,
        }
    }

    /// The queue with this order, before anything waits in it.
    pub fn ordered(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// Puts an item at the end of its client's line. Units: `cost` is the estimate in rows, at least 1.
    pub fn push(&mut self, team: &Arc<str>, client: &ClientKey, cost: u64, item: T) -> Ticket {
        self.push_due(team, client, cost, None, item)
    }

    /// Puts an item into its client's line before those that are due later.
    pub fn push_due(
        &mut self,
        team: &Arc<str>,
        client: &ClientKey,
        cost: u64,
        due: Option<Instant>,
        item: T,
    ) -> Ticket {
        let due = due.filter(|_| self.order == Order::InTurn);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let cost = cost.max(1);
        self.largest_cost = self.largest_cost.max(cost);
        let path = self.path(team, client);
        self.root.push(&path, ticket, cost, due);
        self.items.insert(ticket, Waiting { path, item });
        ticket
    }

    /// Takes an item out of turn, without charging anybody; `None` if it does not wait (any more).
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let waiting = self.items.remove(&ticket)?;
        self.root.remove(&waiting.path, ticket);
        self.forget_largest_when_empty();
        Some(waiting.item)
    }

    /// Serves an item out of turn and charges its accounts, which may thereby get into debt.
    pub fn take(&mut self, ticket: Ticket) -> Option<T> {
        let path = self.items.get(&ticket)?.path.clone();
        let cost = self.root.cost_of(&path, ticket)?;
        self.root.charge(&path, i128::from(cost), i128::from(self.largest_cost));
        self.remove(ticket)
    }

    /// Serves the next eligible item and charges its accounts with its cost.
    ///
    /// Of one client it serves the first that is eligible. `eligible` must not depend on the order of its calls.
    pub fn pop_next(&mut self, mut eligible: impl FnMut(&T) -> bool) -> Option<Popped<T>> {
        let items = &self.items;
        let mut passed_over = Vec::new();
        let ticket = self.root.pop(
            &mut |ticket| items.get(&ticket).is_some_and(|waiting| eligible(&waiting.item)),
            i128::from(self.largest_cost),
            &mut passed_over,
        )?;
        let item = self.items.remove(&ticket)?.item;
        self.forget_largest_when_empty();
        Some(Popped { ticket, item, passed_over })
    }

    /// Trues up what a served item was charged with: `correction` is measured minus estimated rows.
    pub fn charge(&mut self, team: &Arc<str>, client: &ClientKey, correction: i64) {
        let path = self.path(team, client);
        self.root.charge(&path, i128::from(correction), i128::from(self.largest_cost));
    }

    /// How many items would be served before this one if none came and all were eligible.
    ///
    /// Bounds: sorts what waits.
    pub fn position(&self, ticket: Ticket) -> Option<usize> {
        self.items.get(&ticket)?;
        self.root.service_order().into_iter().position(|(served, _)| served == ticket)
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An item that waits.
    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.items.get(&ticket).map(|waiting| &waiting.item)
    }

    /// An item that waits.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.items.get_mut(&ticket).map(|waiting| &mut waiting.item)
    }

    /// All items, in order of arrival.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Ticket, &T)> {
        self.items.iter().map(|(ticket, waiting)| (*ticket, &waiting.item))
    }

    fn path(&self, team: &Arc<str>, client: &ClientKey) -> [Step; 3] {
        if self.order == Order::OfArrival {
            // All are one client.
            return [(); 3].map(|()| self.step(&Arc::from(""), 1.0));
        }
        let clients = &self.weights.clients;
        [
            self.step(team, self.weights.team(team)),
            self.step(&client.address, Weights::of(clients, &client.address)),
            self.step(&client.id, Weights::of(clients, &client.id)),
        ]
    }

    fn step(&self, key: &Arc<str>, weight: f64) -> Step {
        Step { key: key.clone(), quantum: ((self.quantum_rows as f64 * weight).round() as u64).max(1) }
    }

    fn forget_largest_when_empty(&mut self) {
        if self.items.is_empty() {
            self.largest_cost = 0;
        }
    }
}
