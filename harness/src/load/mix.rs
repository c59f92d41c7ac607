//! What users ask for: single transactions, and the mixes that weigh them.
//!
//! To add a transaction, add it here and say in `user` what it does.

use std::fmt;

use fastrand::Rng;

/// One thing that a user does: one or more calls whose answers belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transaction {
    /// At most 100 rows, which come with the answer to the query.
    SmallQuery,
    /// The same over a range of values that nobody asked for before, so that no cache has it.
    DistinctQuery,
    /// All rows of a parameter, to the last chunk.
    Drain,
    /// Groups over all days.
    Aggregate,
    /// The node's metrics.
    Metrics,
    /// A query of the old contract, to its last chunk.
    OldQuery,
    /// A filter that is none; to be refused.
    MalformedFilter,
    /// A chunk of a result that never was; to be refused.
    UnknownResult,
    /// The chunk after the last one; to be refused.
    ChunkOutOfRange,
    /// A large result of which one chunk is read.
    AbandonedResult,
    /// A query that is cancelled while it runs.
    CancelledQuery,
}

impl Transaction {
    /// What reports and thresholds call it.
    pub fn name(self) -> &'static str {
        match self {
            Transaction::SmallQuery => "small query",
            Transaction::DistinctQuery => "distinct query",
            Transaction::Drain => "drain",
            Transaction::Aggregate => "aggregate",
            Transaction::Metrics => "metrics",
            Transaction::OldQuery => "old query",
            Transaction::MalformedFilter => "malformed filter",
            Transaction::UnknownResult => "unknown result",
            Transaction::ChunkOutOfRange => "chunk out of range",
            Transaction::AbandonedResult => "abandoned result",
            Transaction::CancelledQuery => "cancelled query",
        }
    }
}

/// A named set of weighted transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// Each transaction of well-behaved users alike
    Smoke,
    /// Mostly small queries, some of them new, now and then a large result
    Baseline,
    /// Mostly large results, aggregates and queries that no cache has
    Heavy,
    /// Mistakes and rudeness among well-behaved users
    Hostile,
}

impl Mix {
    /// Its transactions, each with its weight.
    pub fn weights(self) -> &'static [(Transaction, u32)] {
        use Transaction::*;
        match self {
            Mix::Smoke => &[
                (SmallQuery, 1),
                (DistinctQuery, 1),
                (Drain, 1),
                (Aggregate, 1),
                (Metrics, 1),
                (OldQuery, 1),
            ],
            Mix::Baseline => &[
                (SmallQuery, 8),
                (DistinctQuery, 4),
                (Drain, 1),
                (Aggregate, 2),
                (Metrics, 1),
                (OldQuery, 4),
            ],
            Mix::Heavy => &[
                (SmallQuery, 1),
                (DistinctQuery, 4),
                (Drain, 4),
                (Aggregate, 4),
                (Metrics, 1),
                (OldQuery, 2),
            ],
            Mix::Hostile => &[
                (SmallQuery, 4),
                (DistinctQuery, 2),
                (Drain, 1),
                (Aggregate, 1),
                (Metrics, 1),
                (MalformedFilter, 2),
                (UnknownResult, 2),
                (ChunkOutOfRange, 2),
                (AbandonedResult, 2),
                (CancelledQuery, 2),
            ],
        }
    }

    /// Draws a transaction by weight.
    pub fn pick(self, random: &mut Rng) -> Transaction {
        let weights = self.weights();
        let mut drawn = random.u32(0..weights.iter().map(|(_, weight)| weight).sum());
        for (transaction, weight) in weights {
            match drawn.checked_sub(*weight) {
                None => return *transaction,
                Some(rest) => drawn = rest,
            }
        }
        unreachable!("less than the sum of all weights was drawn")
    }
}

impl Mix {
    /// What a user does as its `number`th transaction: round after round, each as often as it weighs, in an order that
    /// no two users share. Were it the same, all of them would drain at once.
    pub fn turn(self, user: usize, number: usize) -> Transaction {
        let weighed = self.weights().iter();
        let mut round: Vec<Transaction> = weighed
            .flat_map(|(transaction, weight)| std::iter::repeat_n(*transaction, *weight as usize))
            .collect();
        let seed = (user as u64) << 32 | (number / round.len()) as u64;
        Rng::with_seed(seed).shuffle(&mut round);
        round[number % round.len()]
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mix::Smoke => "smoke",
            Mix::Baseline => "baseline",
            Mix::Heavy => "heavy",
            Mix::Hostile => "hostile",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Of 20 weights, 20,000 draws give each transaction about a thousand times its weight.
    #[test]
    fn transactions_are_drawn_by_weight() {
        let mut random = Rng::with_seed(1);
        let mut drawn = BTreeMap::new();
        for _ in 0..20_000 {
            *drawn.entry(Mix::Baseline.pick(&mut random)).or_insert(0_u32) += 1;
        }
        for (transaction, weight) in Mix::Baseline.weights() {
            let expected = weight * 1000;
            assert!(drawn[transaction].abs_diff(expected) < 200, "{transaction:?}: {drawn:?}");
        }
    }

    #[test]
    fn users_do_the_same_in_every_round_but_not_in_step() {
        let round = |user: usize, round: usize| -> Vec<Transaction> {
            (0..20).map(|number| Mix::Baseline.turn(user, round * 20 + number)).collect()
        };
        let mut orders: Vec<_> = (0..4).map(|number| round(number / 2, number % 2)).collect();
        for order in &orders {
            for (transaction, weight) in Mix::Baseline.weights() {
                let count = order.iter().filter(|done| *done == transaction).count();
                assert_eq!(count, *weight as usize, "{transaction:?}");
            }
        }
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 4);
    }
}
