//! The words of the configuration: roles, strategies and profiles.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use super::Strategies;

/// A word that the parser looks up.
pub(super) trait Word: Copy + 'static {
    /// What the words name.
    const NOUN: &str;
    /// Every word.
    const WORDS: &[Self];
    /// The word as it is written.
    fn word(self) -> &'static str;
}

/// Declares an enum whose variants have one written name each.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident($noun:literal) { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every variant.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that the configuration writes.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The variant with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.name() == name)
            }
        }

        impl Word for $name {
            const NOUN: &str = $noun;
            const WORDS: &[Self] = Self::ALL;

            fn word(self) -> &'static str {
                self.name()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.name())
            }
        }
    };
}

words! {
    /// A node's place in the overlay. Nobody is elected.
    Role("role") {
        /// Plans queries over all teams, holds no data; exactly one.
        Leader = "leader",
        /// Holds days of its team; the one nearest to the leader stands for the team.
        TeamLeader = "team_leader",
        /// Holds days of its team.
        Worker = "worker",
    }
}

words! {
    /// How planned days are divided among the live holders.
    Forwarding("forwarding") {
        /// One holder for each query, in turn.
        RoundRobin = "round_robin",
        /// Over all holders, by rows.
        Parallel = "parallel",
        /// Over all holders, by rows over weight and free compute slots.
        Capacity = "capacity",
    }
}

words! {
    /// How many rows a chunk has before `limits.chunk_bytes` caps it.
    Chunking("chunking") {
        /// `chunk_size` rows.
        Fixed = "fixed",
        /// Small first chunks that grow with their position.
        Adaptive = "adaptive",
        /// A tenth of the limit, or of the total without one.
        QueryBased = "query_based",
    }
}

words! {
    /// When a team may use more slots than `limits.per_team_limit`.
    Fairness("fairness") {
        /// Never.
        Strict = "strict",
        /// While the other teams leave room.
        Weighted = "weighted",
        /// Like `weighted` below 80 % load, like `strict` above.
        Hybrid = "hybrid",
        /// Never, and nobody takes turns: queries and pieces of work in the order of their arrival, whoever asks. To
        /// compare with; one client can keep all others waiting.
        Fifo = "fifo",
    }
}

words! {
    /// Whether a second holder is asked before the first has failed.
    Hedging("hedging") {
        /// Never.
        Off = "off",
        /// After the time that 95 of 100 of the neighbour's latest answers took, for at most a twentieth more rows.
        P95 = "p95",
    }
}

words! {
    /// A named set of strategies.
    Profile("profile") {
        /// `round_robin`, `fixed`, `strict`: the default.
        Baseline = "baseline",
        /// `parallel`, `adaptive`, `strict`.
        Parallel = "parallel",
        /// `capacity`, `query_based`, `weighted`.
        Balanced = "balanced",
    }
}

impl Profile {
    /// The strategies that the profile names.
    pub fn strategies(self, chunk_size: u32) -> Strategies {
        let (forwarding, chunking, fairness) = match self {
            Profile::Baseline => (Forwarding::RoundRobin, Chunking::Fixed, Fairness::Strict),
            Profile::Parallel => (Forwarding::Parallel, Chunking::Adaptive, Fairness::Strict),
            Profile::Balanced => (Forwarding::Capacity, Chunking::QueryBased, Fairness::Weighted),
        };
        Strategies { forwarding, chunking, fairness, chunk_size, hedging: Hedging::Off }
    }
}
