//! The peer verbs as values: what neighbours ask of each other, and what they answer.
//!
//! Every item names the node that is to answer it. What cannot be answered comes back as a failure of
//! that item; a request never fails as a whole but by its transport.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::admission::ClientKey;
use crate::aggregate::{AggregateSpec, Groups};
use crate::config::NodeId;
use crate::day::Day;
use crate::frame::Encoding;
use crate::inventory::{NodeInventory, NodeLoad, NodeState};
use crate::predicate::Predicate;
use crate::store::{Digest, Version};

/// What travels with every request, whatever the verb.
#[derive(Clone, Debug)]
pub struct Call {
    /// The nodes that passed the request on; none of them is asked again.
    pub hops: Vec<NodeId>,
    /// Nodes that had the request and found no way on: nobody brings it there again.
    pub avoid: Vec<NodeId>,
    /// The client on whose behalf, for fair queueing.
    pub client: ClientKey,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// Whether it was asked elsewhere before: then it is charged to the retries of the neighbour that it goes to.
    pub is_retry: bool,
}

impl Call {
    /// A call that begins here.
    pub fn new(client: ClientKey, deadline: Instant) -> Self {
        Call { hops: Vec::new(), avoid: Vec::new(), client, deadline, is_retry: false }
    }
}

/// Which rows, and how to encode them: the same for all items of a count or a read.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Which rows.
    pub predicate: Arc<Predicate>,
    /// How frames are encoded.
    pub encoding: Encoding,
}

/// Counts the rows of days that match, and aggregates them where asked to.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// Which rows.
    pub selection: Selection,
    /// What to compute from the rows along with counting them.
    pub aggregate: Option<AggregateSpec>,
    /// Whether data that newer files have replaced will do: for a result set that was counted from them.
    pub replaced_too: bool,
}

/// Reads row ranges of days' results.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Which rows.
    pub selection: Selection,
}

/// Asks what nodes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inventory;

/// One part of a request, addressed to one node.
pub trait Item: Clone + Send + Sync {
    /// The node that is to answer.
    fn node(&self) -> &NodeId;
}

/// A day that a holder is to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountItem {
    /// The day.
    pub day: Day,
    /// The pinned version.
    pub version: Version,
    /// The holder.
    pub node: NodeId,
    /// The team that owns the day.
    pub team: Arc<str>,
    /// 1 for the first holder asked.
    pub attempt: u32,
    /// Rows to encode along with the count, from the first on; 0: none.
    pub first_rows: u32,
}

/// A row range of a day's result that a holder is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadItem {
    /// The day.
    pub day: Day,
    /// The pinned version.
    pub version: Version,
    /// The holder.
    pub node: NodeId,
    /// The team that owns the day.
    pub team: Arc<str>,
    /// First row of the day's result.
    pub first_row: u64,
    /// Rows of each frame that is wanted, one behind the other; at least one.
    pub frame_rows: Vec<u32>,
}

impl ReadItem {
    /// Rows of all frames.
    pub fn rows(&self) -> u64 {
        self.frame_rows.iter().map(|rows| u64::from(*rows)).sum()
    }

    /// The rows of the day's result that each frame has.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let mut end = self.first_row;
        self.frame_rows.iter().map(move |rows| {
            let start = end;
            end = end.saturating_add(u64::from(*rows));
            start..end
        })
    }
}

/// A node that is to say what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryItem {
    /// The node.
    pub node: NodeId,
    /// The incarnation whose inventory is known already; 0: none.
    pub known_incarnation: u64,
}

impl Item for CountItem {
    fn node(&self) -> &NodeId {
        &self.node
    }
}

impl Item for ReadItem {
    fn node(&self) -> &NodeId {
        &self.node
    }
}

impl Item for InventoryItem {
    fn node(&self) -> &NodeId {
        &self.node
    }
}

/// A day that was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct DayCount {
    /// What was asked.
    pub item: CountItem,
    /// Rows that match.
    pub rows_matched: u64,
    /// The first rows, where they were asked for and there are any.
    pub first_frame: Option<Frame>,
}

/// What a node says of itself, if it is not what the asker knows already.
#[derive(Clone, Debug, PartialEq)]
pub struct InventoryAnswer {
    /// The inventory; without days where `unchanged`.
    pub inventory: NodeInventory,
    /// The known incarnation still runs.
    pub unchanged: bool,
    /// What the node does; `None` if it does not say.
    pub load: Option<NodeLoad>,
}

/// Rows of one day, encoded once by the node that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The day; `None` in the chunks of an aggregate.
    pub day: Option<Day>,
    /// The version of its data.
    pub version: Version,
    /// First row, in the day's result.
    pub first_row: u64,
    /// Rows.
    pub rows: u32,
    /// The rows.
    pub payload: Bytes,
    /// Of the payload.
    pub digest: Digest,
    /// The node that encoded it.
    pub node: NodeId,
}

/// Everything that came back for the items of a request: each is answered or failed, once.
#[derive(Debug)]
pub struct Answers<I, A> {
    /// What was answered.
    pub answers: Vec<A>,
    /// What was not.
    pub failures: Vec<Failure<I>>,
    /// Partial aggregates over the days counted.
    pub groups: Groups,
    /// Where the time went, by node.
    pub statistics: Vec<HopStatistics>,
    /// The nodes that answered.
    pub states: Vec<NodeState>,
}

impl<I, A> Default for Answers<I, A> {
    fn default() -> Self {
        Answers {
            answers: Vec::new(),
            failures: Vec::new(),
            groups: Groups::default(),
            statistics: Vec::new(),
            states: Vec::new(),
        }
    }
}

impl<I, A> Answers<I, A> {
    /// Takes in what another node, or another attempt, came back with.
    pub fn merge(&mut self, other: Self) {
        self.answers.extend(other.answers);
        self.failures.extend(other.failures);
        self.groups.merge(other.groups);
        self.statistics.extend(other.statistics);
        self.states.extend(other.states);
    }
}

/// An item that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<I> {
    /// What was asked.
    pub item: I,
    /// What kind of failure.
    pub cause: Cause,
    /// In words.
    pub why: String,
    /// Nodes that were asked in vain.
    pub nodes_tried: Vec<NodeId>,
    /// Of these the ones that had the item and found no way on. One that only could not be reached from somewhere is not
    /// among them: another way may lead to it.
    pub been_at: Vec<NodeId>,
}

/// Why an item was not answered; what tells more of the node comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The caller's time was over before anybody could answer.
    OutOfTime,
    /// No neighbour got an answer from the node.
    Unreachable,
    /// The node does not hold the day.
    NotHeld,
    /// The node has another version of the day.
    VersionDiffers,
    /// The node is loading or draining.
    NotReady,
    /// A bounded queue on the way is full.
    Overloaded {
        /// When to come back, says who refused.
        retry_after: Duration,
    },
    /// More groups than `limits.max_groups`.
    TooManyGroups,
    /// The answer contradicted the request.
    BadAnswer,
    /// The rows asked for are not in the day's result.
    OutOfRange,
}

/// Where the time of one request went at one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HopStatistics {
    /// The node.
    pub node: String,
    /// Waiting for compute slots.
    pub queue_ms: f64,
    /// Scanning.
    pub scan_ms: f64,
    /// Encoding.
    pub encode_ms: f64,
    /// Rows scanned.
    pub rows_scanned: u64,
    /// Bytes encoded.
    pub bytes: u64,
    /// Requests sent to neighbours.
    pub attempts: u32,
    /// The neighbour that took longest; empty without neighbours.
    pub slowest_neighbour: String,
    /// From request to answer.
    pub elapsed_ms: f64,
}

impl HopStatistics {
    /// Adds what the same node spent on another request of the same query at about the same time.
    pub fn merge(&mut self, other: HopStatistics) {
        self.queue_ms += other.queue_ms;
        self.scan_ms += other.scan_ms;
        self.encode_ms += other.encode_ms;
        // Another node's word, which may be anything.
        self.rows_scanned = self.rows_scanned.saturating_add(other.rows_scanned);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.attempts = self.attempts.saturating_add(other.attempts);
        if other.elapsed_ms > self.elapsed_ms {
            (self.elapsed_ms, self.slowest_neighbour) = (other.elapsed_ms, other.slowest_neighbour);
        }
    }
}
