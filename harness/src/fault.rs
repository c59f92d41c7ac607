//! What can go wrong between and inside nodes, as data.
//!
//! A fault goes on from [`Cluster::inject`](crate::cluster::Cluster::inject) until
//! [`Cluster::heal`](crate::cluster::Cluster::heal) of an equal one. It names nodes and figures, never how a driver
//! brings it about; a driver that cannot says so with
//! [`Unsupported`](crate::cluster::ClusterError::Unsupported).

use std::fmt;
use std::time::Duration;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing passes between two nodes: bytes under way are held, connections are not made. Neither is told.
    Partition(Link),
    /// Nothing passes from one node to another: bytes under way are held, what comes back passes. As connecting takes both
    /// directions, no connection is made.
    PartitionOneWay {
        /// Whose bytes are held.
        from: String,
        /// Who does not get them.
        to: String,
    },
    /// Everything between two nodes takes longer.
    Delay {
        /// Where.
        link: Link,
        /// One way, on top of what it takes anyway.
        latency: Duration,
    },
    /// Packets between two nodes are lost. The transport sends them again, so that it shows as time.
    Loss {
        /// Where.
        link: Link,
        /// Of a hundred packets.
        percent: u8,
    },
    /// A node is gone at once, as after `kill -9`. Healing starts it again.
    Crash {
        /// The node.
        node: String,
    },
    /// A node takes connections, and nothing else happens there.
    Hang {
        /// The node.
        node: String,
    },
    /// What a node sends passes slowly.
    Slow {
        /// The node.
        node: String,
        /// The most that each of its connections carries.
        bytes_per_second: u64,
    },
    /// A node was started again over other files of the same days: [`ClusterSpec::revised`]. Healing starts it again over
    /// those that it had.
    ///
    /// [`ClusterSpec::revised`]: crate::cluster::ClusterSpec::revised
    Revise {
        /// The node.
        node: String,
    },
    /// A node took other files of the same days while it ran: [`ClusterSpec::revised`]. Healing has it take back those that it
    /// had.
    ///
    /// [`ClusterSpec::revised`]: crate::cluster::ClusterSpec::revised
    Replace {
        /// The node.
        node: String,
    },
    /// A node answers its neighbours with something else than what it knows. Clients that ask it get what is right.
    Lie {
        /// The node.
        node: String,
        /// What it makes of an answer.
        lie: Lie,
    },
}

/// What is wrong with an answer between nodes. Each contradicts the question or the rest of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// The last item is left out.
    Omits,
    /// The first item is there twice.
    Repeats,
    /// It is of another version of the data.
    OtherVersion,
    /// It has other rows of the day than were asked for.
    OtherRows,
    /// A payload has a byte more.
    Payload,
    /// A digest is that of something else.
    Digest,
    /// The rows counted are not those that are there.
    Count,
    /// More rows are counted than the day has. Random runs do not draw it.
    TooMany,
    /// It is for another day.
    OtherDay,
    /// It is of another node.
    OtherNode,
}

impl Lie {
    /// All of them.
    pub const ALL: [Lie; 9] = [
        Lie::Omits,
        Lie::Repeats,
        Lie::OtherVersion,
        Lie::OtherRows,
        Lie::Payload,
        Lie::Digest,
        Lie::Count,
        Lie::OtherDay,
        Lie::OtherNode,
    ];
}

/// Two nodes and what lies between them, in no direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link(String, String);

impl Link {
    /// Between two nodes; their order does not matter.
    pub fn between(left: &str, right: &str) -> Self {
        Link(left.min(right).to_owned(), left.max(right).to_owned())
    }

    /// Both ends, the smaller id first.
    pub fn ends(&self) -> [&str; 2] {
        [&self.0, &self.1]
    }

    /// Whether it lies between these two.
    pub fn joins(&self, left: &str, right: &str) -> bool {
        self.ends() == [left, right] || self.ends() == [right, left]
    }
}

impl Fault {
    /// A [`Fault::Partition`].
    pub fn partition(left: &str, right: &str) -> Self {
        Fault::Partition(Link::between(left, right))
    }

    /// A [`Fault::PartitionOneWay`].
    pub fn partition_one_way(from: &str, to: &str) -> Self {
        Fault::PartitionOneWay { from: from.to_owned(), to: to.to_owned() }
    }

    /// A [`Fault::Delay`].
    pub fn delay(left: &str, right: &str, latency: Duration) -> Self {
        Fault::Delay { link: Link::between(left, right), latency }
    }

    /// A [`Fault::Loss`].
    pub fn loss(left: &str, right: &str, percent: u8) -> Self {
        Fault::Loss { link: Link::between(left, right), percent }
    }

    /// A [`Fault::Crash`].
    pub fn crash(node: &str) -> Self {
        Fault::Crash { node: node.to_owned() }
    }

    /// A [`Fault::Hang`].
    pub fn hang(node: &str) -> Self {
        Fault::Hang { node: node.to_owned() }
    }

    /// A [`Fault::Slow`].
    pub fn slow(node: &str, bytes_per_second: u64) -> Self {
        Fault::Slow { node: node.to_owned(), bytes_per_second }
    }

    /// A [`Fault::Revise`].
    pub fn revise(node: &str) -> Self {
        Fault::Revise { node: node.to_owned() }
    }

    /// A [`Fault::Replace`].
    pub fn replace(node: &str) -> Self {
        Fault::Replace { node: node.to_owned() }
    }

    /// A [`Fault::Lie`].
    pub fn lie(node: &str, lie: Lie) -> Self {
        Fault::Lie { node: node.to_owned(), lie }
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Lie::Omits => "leaves an item out",
            Lie::Repeats => "repeats an item",
            Lie::OtherVersion => "names another version",
            Lie::OtherRows => "sends other rows",
            Lie::Payload => "changes a payload",
            Lie::Digest => "changes a digest",
            Lie::Count => "counts wrongly",
            Lie::TooMany => "counts more rows than the day has",
            Lie::OtherDay => "answers for another day",
            Lie::OtherNode => "answers for another node",
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} | {}", self.0, self.1)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Partition(link) => write!(formatter, "network partition {link}"),
            Fault::PartitionOneWay { from, to } => write!(formatter, "network partition {from} > {to}"),
            Fault::Delay { link, latency } => write!(formatter, "delay {link} by {latency:?}"),
            Fault::Loss { link, percent } => write!(formatter, "loss {link} of {percent} %"),
            Fault::Crash { node } => write!(formatter, "crash {node}"),
            Fault::Hang { node } => write!(formatter, "hang {node}"),
            Fault::Slow { node, bytes_per_second } => {
                write!(formatter, "slow {node} to {bytes_per_second} bytes/s")
            }
            Fault::Revise { node } => write!(formatter, "revised data of {node}"),
            Fault::Replace { node } => write!(formatter, "replaced data of {node}"),
            Fault::Lie { node, lie } => write!(formatter, "lying {node} {lie}"),
        }
    }
}
