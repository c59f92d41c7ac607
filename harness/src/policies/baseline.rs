//! What one would write first: whole queries, in order of arrival or one of each client in turn.
//!
//! A query has a compute slot until it is done. There are no limits, no weights and no refusals.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::{Outcome, Policy, Run, Served, Workload};

/// Who is next, by index of the arrival.
pub trait Queue {
    /// A query comes.
    fn push(&mut self, index: usize, client: &str);
    /// The query to run next.
    fn pop(&mut self) -> Option<usize>;
}

/// In the order of arrival.
#[derive(Debug, Default)]
pub struct Fifo(VecDeque<usize>);

impl Queue for Fifo {
    fn push(&mut self, index: usize, _: &str) {
        self.0.push_back(index);
    }

    fn pop(&mut self) -> Option<usize> {
        self.0.pop_front()
    }
}

/// One query of each client in turn; a client that comes, or comes back, joins at the end.
#[derive(Debug, Default)]
pub struct RoundRobin {
    lines: BTreeMap<String, VecDeque<usize>>,
    turns: VecDeque<String>,
}

impl Queue for RoundRobin {
    fn push(&mut self, index: usize, client: &str) {
        let line = self.lines.entry(client.to_owned()).or_default();
        if line.is_empty() {
            self.turns.push_back(client.to_owned());
        }
        line.push_back(index);
    }

    fn pop(&mut self) -> Option<usize> {
        let client = self.turns.pop_front()?;
        let line = self.lines.get_mut(&client)?;
        let index = line.pop_front();
        if !line.is_empty() {
            self.turns.push_back(client);
        }
        index
    }
}

/// Runs the workload: at each moment arrivals come first, then free slots take the next queries.
pub fn run(policy: Policy, mut queue: impl Queue, workload: &Workload) -> Run {
    let mut free = workload.node.compute_slots;
    let mut ends: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let mut queries = vec![Outcome::Refused; workload.arrivals.len()];
    let mut served = Vec::new();
    let mut next = 0;
    while let Some(now) = earliest(workload.arrivals.get(next).map(|arrival| arrival.at_ms), ends.peek()) {
        while let Some(arrival) = workload.arrivals.get(next).filter(|arrival| arrival.at_ms == now) {
            queue.push(next, &arrival.client);
            next += 1;
        }
        while ends.peek() == Some(&Reverse(now)) {
            ends.pop();
            free += 1;
        }
        while free > 0
            && let Some(index) = queue.pop()
        {
            free -= 1;
            let ended_ms = serve(workload, index, now, &mut served);
            queries[index] = Outcome::Answered { started_ms: now, ended_ms };
            ends.push(Reverse(ended_ms));
        }
    }
    served.sort_by_key(|served: &Served| served.until_ms);
    Run { policy, queries, served }
}

fn earliest(arrival: Option<u64>, end: Option<&Reverse<u64>>) -> Option<u64> {
    arrival.into_iter().chain(end.map(|Reverse(end)| *end)).min()
}

/// Reads a query from `now` on; gives its end.
fn serve(workload: &Workload, index: usize, now: u64, served: &mut Vec<Served>) -> u64 {
    let arrival = &workload.arrivals[index];
    let mut from_ms = now;
    for (team, rows) in arrival.pieces(workload.node.quantum_rows) {
        let until_ms = from_ms + workload.node.piece_ms(rows);
        let (client, team) = (arrival.client.clone(), team.to_owned());
        served.push(Served { client, team, from_ms, until_ms, rows });
        from_ms = until_ms;
    }
    from_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_with_one_query_each() {
        let mut queue = RoundRobin::default();
        for (index, client) in ["a", "a", "b", "a", "c"].iter().enumerate() {
            queue.push(index, client);
        }
        let order: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [0, 2, 4, 1, 3]);
    }
}
