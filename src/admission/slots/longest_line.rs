//! Who is refused when the queue is full: the last of the longest line, so that nobody can fill it against others.

use std::collections::BTreeMap;

use super::super::fair_queue::{ClientKey, Ticket};
use super::Slots;

impl<W> Slots<W> {
    /// The newest query of the client with the longest line, at the address with the most queries.
    ///
    /// `newcomer` itself unless another address, or another id of its address, has more than its own. A query with a
    /// reservation is spared.
    pub(in crate::admission) fn last_of_the_longest_line(&self, newcomer: Ticket) -> Ticket {
        let Some(own) = self.queue.get(newcomer).map(|query| &query.client) else {
            return newcomer;
        };
        let refusable = || {
            let all = self.queue.iter().rev();
            all.filter(|(ticket, _)| *ticket == newcomer || self.rank(*ticket).is_none())
        };
        let clients = || refusable().map(|(_, query)| &query.client);
        let address = longest(clients().map(|client| &client.address), &own.address);
        let here = clients().filter(|client| client.address == *address);
        let client: &ClientKey = longest(here, own);
        let mut newest = refusable().filter(|(_, query)| query.client == *client);
        newest.next().map_or(newcomer, |(ticket, _)| ticket)
    }
}

/// The most frequent of `names`: `own` unless another one is there more often.
fn longest<'a, K: Ord>(names: impl Iterator<Item = &'a K>, own: &'a K) -> &'a K {
    let mut counts = BTreeMap::from([(own, 0_usize)]);
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let longest = counts.iter().max_by_key(|(name, count)| (**count, **name == own));
    longest.map_or(own, |(name, _)| *name)
}
