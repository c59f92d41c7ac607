//! Who is refused when the queue is full: the last of the longest line, so that nobody can fill it against others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClientKey, FairQueue, Order, Ticket, Waiting};

impl<T> FairQueue<T> {
    /// The newest item of the client with the longest line, at the address with the most items.
    ///
    /// `newcomer` itself unless another address, or another id of its address, has more than its own. Items that
    /// are `spared` do not count, unless they are the newcomer.
    pub fn last_of_the_longest_line(&self, newcomer: Ticket, spared: impl Fn(Ticket) -> bool) -> Ticket {
        let Some(own) = self.items.get(&newcomer) else {
            return newcomer;
        };
        let refusable = || {
            let all = self.items.iter().rev();
            all.filter(|(ticket, _)| **ticket == newcomer || !spared(**ticket))
        };
        let address = longest(refusable().map(|(_, item)| item.address()), own.address());
        let here = || refusable().filter(|(_, item)| item.address() == address);
        let id = longest(here().map(|(_, item)| item.id()), own.id());
        let mut newest = here().filter(|(_, item)| item.id() == id);
        newest.next().map_or(newcomer, |(ticket, _)| *ticket)
    }

    /// Whether nobody's line is longer than the newcomer's, with those who are expected as if they waited.
    pub fn is_in_the_longest_line<'a, E>(&'a self, newcomer: Ticket, expected: impl Fn() -> E) -> bool
    where
        E: Iterator<Item = &'a ClientKey>,
    {
        let Some(own) = self.items.get(&newcomer).filter(|_| self.order == Order::InTurn) else {
            return true;
        };
        let all = || {
            let waiting = self.items.values().map(|item| (item.address(), item.id()));
            waiting.chain(expected().map(|client| (&client.address, &client.id)))
        };
        let address = longest(all().map(|(address, _)| address), own.address());
        let ids_here = all().filter(|(at, _)| *at == address).map(|(_, id)| id);
        address == own.address() && longest(ids_here, own.id()) == own.id()
    }
}

impl<T> Waiting<T> {
    fn address(&self) -> &Arc<str> {
        &self.path[1].key
    }

    fn id(&self) -> &Arc<str> {
        &self.path[2].key
    }
}

/// The most frequent of `names`: `own` unless another one is there more often.
fn longest<'a>(names: impl Iterator<Item = &'a Arc<str>>, own: &'a Arc<str>) -> &'a Arc<str> {
    let mut counts = BTreeMap::from([(own, 0_usize)]);
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let longest = counts.iter().max_by_key(|(name, count)| (**count, **name == own));
    longest.map_or(own, |(name, _)| *name)
}
