//! One level of the fair queue: an account and the accounts that share its rows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::{DEBT_LIMIT_QUANTA, Ticket};

/// Accounts without items, below one parent, that are remembered for their debts; more are forgiven.
const DEBTOR_LIMIT: usize = 1024;

/// One step on the way from the root to a client.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) key: Arc<str>,
    /// Rows of one visit.
    pub(super) quantum: u64,
}

/// A team, an address, a client, or the root above them. A client has entries, the others have children.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Rows that each visit adds.
    quantum: i128,
    /// Rows that it may still take; negative is a debt.
    deficit: i128,
    /// Charged while it waits; becomes part of the deficit when it is next served or gets idle. Others can charge it
    /// too (a query charges all teams of its plan), so charged at once it might never come out of its debt.
    owed: i128,
    /// Entries here and below.
    waiting: usize,
    /// In the order in which they are served.
    entries: VecDeque<Entry>,
    children: BTreeMap<Arc<str>, Account>,
    /// All children in the order of their turns; the first one is being visited if `visiting`.
    turns: VecDeque<Arc<str>>,
    visiting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ticket: Ticket,
    cost: i128,
    due: Option<Instant>,
}

/// The child to serve next.
#[derive(Clone, Copy)]
struct Choice {
    entry: Entry,
    /// Its place in `turns`.
    index: usize,
    /// Visits that it needs first; all that are passed on the way get theirs too.
    visits: i128,
}

impl Account {
    pub(super) fn new(quantum: u64) -> Self {
        Self {
            quantum: i128::from(quantum),
            deficit: 0,
            owed: 0,
            waiting: 0,
            entries: VecDeque::new(),
            children: BTreeMap::new(),
            turns: VecDeque::new(),
            visiting: false,
        }
    }

    pub(super) fn push(&mut self, path: &[Step], ticket: Ticket, cost: u64, due: Option<Instant>) {
        self.waiting += 1;
        match path.split_first() {
            Some((step, rest)) => self.child(step).push(rest, ticket, cost, due),
            None => {
                let index = self.entries.partition_point(|entry| entry.due <= due);
                self.entries.insert(index, Entry { ticket, cost: i128::from(cost), due });
            }
        }
    }

    /// Takes out an entry that waits at `path`.
    pub(super) fn remove(&mut self, path: &[Step], ticket: Ticket) {
        self.waiting -= 1;
        let Some((step, rest)) = path.split_first() else {
            self.entries.retain(|entry| entry.ticket != ticket);
            return;
        };
        if let Some(child) = self.children.get_mut(&step.key) {
            child.remove(rest, ticket);
        }
        self.settle(&step.key);
    }

    pub(super) fn cost_of(&self, path: &[Step], ticket: Ticket) -> Option<u64> {
        match path.split_first() {
            Some((step, rest)) => self.children.get(&step.key)?.cost_of(rest, ticket),
            None => {
                let entry = self.entries.iter().find(|entry| entry.ticket == ticket)?;
                u64::try_from(entry.cost).ok()
            }
        }
    }

    /// Takes `rows` (negative: gives them back) from the accounts along `path`, as far down as somebody waits.
    /// Nobody gets more credit than `largest`.
    pub(super) fn charge(&mut self, path: &[Step], rows: i128, largest: i128) {
        let Some((step, rest)) = path.split_first() else {
            return;
        };
        let known = self.children.contains_key(&step.key);
        let room = self.children.len() < self.waiting + DEBTOR_LIMIT;
        if self.waiting == 0 || !known && (rows <= 0 || !room) {
            return;
        }
        let child = self.child(step);
        child.owed += rows;
        if child.owed < 0 {
            child.deficit = (child.deficit - child.owed).min(child.deficit.max(largest));
            child.owed = 0;
        }
        child.charge(rest, rows, largest);
        self.settle(&step.key);
    }

    /// Serves the next eligible entry; adds to `passed_over` those whose turn had come before it.
    pub(super) fn pop(
        &mut self,
        eligible: &mut dyn FnMut(Ticket) -> bool,
        largest: i128,
        passed_over: &mut Vec<Ticket>,
    ) -> Option<Ticket> {
        if self.turns.is_empty() {
            return self.pop_entry(eligible, passed_over);
        }
        let choice = self.choose(eligible)?;
        let key = self.visit_until(choice, largest, passed_over);
        let child = self.children.get_mut(&key)?;
        child.deficit -= choice.entry.cost;
        child.pay_what_is_owed();
        let ticket = child.pop(eligible, largest, passed_over);
        self.waiting -= 1;
        self.settle(&key);
        ticket
    }

    fn pop_entry(
        &mut self,
        eligible: &mut dyn FnMut(Ticket) -> bool,
        passed_over: &mut Vec<Ticket>,
    ) -> Option<Ticket> {
        let mut entries = self.entries.iter();
        let index = entries.position(|entry| eligible(entry.ticket))?;
        passed_over.extend(self.entries.range(..index).map(|entry| entry.ticket));
        self.waiting -= 1;
        self.entries.remove(index).map(|entry| entry.ticket)
    }

    /// The entry that `pop` would serve.
    fn next(&self, eligible: &mut dyn FnMut(Ticket) -> bool) -> Option<Entry> {
        if self.turns.is_empty() {
            let mut entries = self.entries.iter();
            return entries.find(|entry| eligible(entry.ticket)).copied();
        }
        self.choose(eligible).map(|choice| choice.entry)
    }

    /// All entries in the order in which they would be served if all were eligible.
    ///
    /// Each child's entries are merged by the visit at which the child could pay for them, then by turn.
    pub(super) fn service_order(&self) -> Vec<(Ticket, i128)> {
        if self.turns.is_empty() {
            return self.entries.iter().map(|entry| (entry.ticket, entry.cost)).collect();
        }
        let mut ranked = Vec::with_capacity(self.waiting);
        for (index, key) in self.turns.iter().enumerate() {
            let Some(child) = self.children.get(key) else {
                continue;
            };
            let mut paying = child.clone_accounts();
            let mut visit = 0;
            for (place, (ticket, cost)) in child.service_order().into_iter().enumerate() {
                let fewest = i128::from(place == 0 && !self.is_visited(index));
                let visits = paying.visits_for(cost).max(fewest);
                visit += visits;
                paying.deficit += visits * paying.quantum - cost;
                paying.pay_what_is_owed();
                ranked.push((visit, self.order(index), ticket, cost));
            }
        }
        ranked.sort_by_key(|(visit, order, ..)| (*visit, *order));
        ranked.into_iter().map(|(.., ticket, cost)| (ticket, cost)).collect()
    }

    /// What this account has and owes, without what waits in it.
    fn clone_accounts(&self) -> Account {
        Account { quantum: self.quantum, deficit: self.deficit, owed: self.owed, ..Account::new(0) }
    }

    /// Visits that it needs before it can pay `cost`.
    fn visits_for(&self, cost: i128) -> i128 {
        let missing = (cost - self.deficit).max(0);
        (missing + self.quantum - 1) / self.quantum
    }

    /// Round robin, without going round: the child that needs the fewest visits, then the first in turn.
    fn choose(&self, eligible: &mut dyn FnMut(Ticket) -> bool) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        for (index, key) in self.turns.iter().enumerate() {
            let child = self.children.get(key)?;
            let Some(entry) = child.next(eligible) else {
                continue;
            };
            let fewest = i128::from(!self.is_visited(index));
            let choice = Choice { entry, index, visits: child.visits_for(entry.cost).max(fewest) };
            if choice.visits == fewest {
                return Some(choice);
            }
            let order = |choice: &Choice| (choice.visits, self.order(choice.index));
            if best.is_none_or(|best| order(&choice) < order(&best)) {
                best = Some(choice);
            }
        }
        best
    }

    /// Gives the visits that come before the chosen child's service, and makes it the one being visited.
    fn visit_until(&mut self, choice: Choice, largest: i128, passed_over: &mut Vec<Ticket>) -> Arc<str> {
        let chosen = self.turns[choice.index].clone();
        let mut paid_up = Vec::new();
        for (index, key) in self.turns.iter().enumerate() {
            let earlier = self.order(index) <= self.order(choice.index);
            let visits = (choice.visits - i128::from(!earlier)).max(0);
            let Some(child) = self.children.get_mut(key) else {
                continue;
            };
            child.deficit += visits * child.quantum;
            if index == choice.index {
                continue;
            }
            child.deficit = child.deficit.min(largest);
            let was_visited = self.visiting && index == 0;
            if child.waiting == 0 && child.deficit >= 0 {
                paid_up.push(key.clone());
            } else if visits > 0 || was_visited {
                let head = child.next(&mut |_| true);
                let head = head.filter(|head| head.cost <= child.deficit);
                passed_over.extend(head.map(|head| head.ticket));
            }
        }
        self.turns.rotate_left(choice.index);
        self.visiting = true;
        for key in paid_up {
            self.settle(&key);
        }
        chosen
    }

    /// Whether the child at `index` has had the quantum of its present visit.
    fn is_visited(&self, index: usize) -> bool {
        self.visiting && index == 0
    }

    /// Where in the coming round the child at `index` is visited: the one being visited now comes last.
    fn order(&self, index: usize) -> usize {
        if self.is_visited(index) { self.turns.len() } else { index }
    }

    fn child(&mut self, step: &Step) -> &mut Account {
        if !self.children.contains_key(&step.key) {
            self.turns.push_back(step.key.clone());
        }
        let new = || Account::new(step.quantum);
        self.children.entry(step.key.clone()).or_insert_with(new)
    }

    fn pay_what_is_owed(&mut self) {
        let debt_limit = self.quantum * i128::from(DEBT_LIMIT_QUANTA);
        let owed = std::mem::take(&mut self.owed);
        self.deficit = (self.deficit - owed).max(self.deficit.min(-debt_limit));
    }

    /// Lets go of what an idle child must not keep: its credit, and the debts of its own children.
    fn settle(&mut self, key: &Arc<str>) {
        if self.waiting == 0 {
            self.children.clear();
            self.turns.clear();
            self.visiting = false;
            return;
        }
        let Some(child) = self.children.get_mut(key) else {
            return;
        };
        if child.waiting > 0 {
            return;
        }
        child.pay_what_is_owed();
        if child.deficit >= 0 {
            self.children.remove(key);
            self.visiting &= self.turns.front() != Some(key);
            self.turns.retain(|other| other != key);
        }
    }
}
