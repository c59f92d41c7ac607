//! Every answer of a neighbour is held against its request, so that a wrong one is caught at the first hop and named.
//!
//! What an answer says must be about what was asked, each item once; agree with itself, with the predicate and with what a
//! file can hold; and carry the bytes that its digests are of. What is only implausible is the planner's to judge, or
//! nobody's: the client decodes payloads, and `verify-data-loading --live` compares replicas.
//!
//! Times and waits of an answer are its sender's word, and change nothing but what is shown and when somebody comes back.

mod groups;
mod statistics;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::NodeId;
use crate::day::Day;
use crate::error;
use crate::frame;
use crate::inventory::MAX_REPLACED_TOLD;
use crate::proto::v1;
use crate::store::Version;
use crate::verb::{
    Answers, Cause, Count, CountItem, DayCount, Failure, Frame, InventoryAnswer, InventoryItem, ReadItem,
};
use crate::wire::{self, Malformed};

/// Bytes that a payload may have: those of the largest chunk that can be configured, and of what a frame has beside rows.
const MAX_PAYLOAD_BYTES: usize = (3 << 20) + (64 << 10);

/// Characters of a reason that are kept.
const MAX_WHY: usize = 1000;

/// What a neighbour says that nodes hold; `nodes` are those of the overlay.
///
/// # Errors
/// What is wrong with the answer, in words.
pub fn inventory(
    items: &[InventoryItem],
    nodes: &BTreeSet<NodeId>,
    reply: v1::InventoryReply,
) -> Result<Answers<InventoryItem, InventoryAnswer>, String> {
    let mut asked: Asked<'_, String, InventoryItem> =
        Asked::new(items.iter().map(|item| (item.node.to_string(), item)));
    let mut answers = Answers::default();
    for message in reply.nodes {
        let item = asked.take(message.node.clone())?;
        let inventory = wire::inventory_from(&message).map_err(text)?;
        if message.unchanged && inventory.incarnation != item.known_incarnation {
            return Err(format!("node `{}` is unchanged in an unknown incarnation", item.node));
        }
        if message.unchanged && !inventory.days.is_empty() {
            return Err(format!("node `{}` is unchanged, and lists days", item.node));
        }
        for (day, held) in &inventory.days {
            statistics::check(held)
                .map_err(|what| format!("the statistics of day {day} at node `{}`: {what}", item.node))?;
        }
        let replaced: usize = inventory.days.values().map(|held| held.replaced.len()).sum();
        if replaced > MAX_REPLACED_TOLD {
            let node = &item.node;
            return Err(format!("{replaced} replaced versions at node `{node}`, limit {MAX_REPLACED_TOLD}"));
        }
        let load = message.load.map(|load| wire::load_from(load, nodes));
        answers.answers.push(InventoryAnswer { inventory, unchanged: message.unchanged, load });
    }
    for failure in reply.unreachable {
        let item = asked.take(failure.node.clone())?.clone();
        let overloaded = failure.retry_after_ms.map(wire::retry_after);
        answers.failures.push(Failure {
            item,
            cause: match overloaded {
                Some(retry_after) => Cause::Overloaded { retry_after },
                None => Cause::Unreachable,
            },
            why: reason(failure.why),
            nodes_tried: known(&failure.nodes_tried, nodes)?,
            been_at: known(&failure.been_at, nodes)?,
        });
    }
    asked.none_left()?;
    Ok(answers)
}

/// What a neighbour counted; `nodes` are those of the overlay.
///
/// # Errors
/// What is wrong with the answer, in words.
pub fn count(
    spec: &Count,
    items: &[CountItem],
    nodes: &BTreeSet<NodeId>,
    reply: v1::CountReply,
) -> Result<Answers<CountItem, DayCount>, String> {
    let mut asked = Asked::new(items.iter().map(|item| ((item.day, item.node.clone()), item)));
    let mut answers = Answers {
        groups: wire::groups_from(spec.aggregate.as_ref(), reply.groups).map_err(text)?,
        statistics: reply.statistics.iter().map(wire::statistics_from).collect(),
        states: reply.nodes.iter().map(wire::state_from).collect(),
        ..Answers::default()
    };
    check_nodes(&answers, items.iter().map(|item| &item.node), nodes)?;
    for count in reply.days {
        let day = wire::day(count.day).map_err(text)?;
        let item = asked.take((day, NodeId::from(count.node.as_str())))?;
        if wire::version(&count.version).map_err(text)? != item.version {
            return Err(format!("day {day} was counted at another version than the pinned one"));
        }
        if count.attempt != item.attempt {
            let (found, expected) = (count.attempt, item.attempt);
            return Err(format!("day {day} was counted by attempt {found}, this is attempt {expected}"));
        }
        // The largest day that can be loaded has so many rows; their sum over all days fits into 64 bits.
        let Ok(rows_matched) = u32::try_from(count.rows_matched) else {
            return Err(format!("{} rows of day {day} match, no day has so many", count.rows_matched));
        };
        let first_frame = count.first_frame.map(wire::frame_from).transpose().map_err(text)?;
        let first_rows = item.first_rows.min(rows_matched);
        match &first_frame {
            Some(_) if first_rows == 0 => {
                return Err(format!("a first frame of day {day} came that was not asked for"));
            }
            Some(frame) => check_frame(frame, day, item.version, &item.node, 0, first_rows)?,
            None if first_rows > 0 => {
                return Err(format!("the first frame of day {day} is absent"));
            }
            None => {}
        }
        answers.answers.push(DayCount { item: item.clone(), rows_matched: rows_matched.into(), first_frame });
    }
    for failure in reply.failures {
        let day = wire::day(failure.day).map_err(text)?;
        let item = asked.take((day, NodeId::from(failure.node.as_str())))?.clone();
        answers.failures.push(day_failure(item, failure, nodes)?);
    }
    asked.none_left()?;
    if let Some(aggregate) = &spec.aggregate {
        groups::check(aggregate, &spec.selection.predicate, &answers.groups, &answers.answers)?;
    }
    Ok(answers)
}

/// The row ranges that a neighbour read; `nodes` are those of the overlay.
///
/// # Errors
/// What is wrong with the answer, in words.
pub fn read(
    items: &[ReadItem],
    nodes: &BTreeSet<NodeId>,
    reply: v1::ReadReply,
) -> Result<Answers<ReadItem, (ReadItem, Vec<Frame>)>, String> {
    let mut asked = Asked::new(items.iter().map(|item| ((item.day, item.node.clone()), item)));
    let mut answers = Answers {
        statistics: reply.statistics.iter().map(wire::statistics_from).collect(),
        states: reply.nodes.iter().map(wire::state_from).collect(),
        ..Answers::default()
    };
    check_nodes(&answers, items.iter().map(|item| &item.node), nodes)?;
    let mut frames = reply.frames.into_iter();
    while let Some(message) = frames.next() {
        let first = wire::frame_from(message).map_err(text)?;
        let day = first.day.ok_or("a frame names no day")?;
        let item = asked.take((day, first.node.clone()))?;
        let mut of_item = vec![first];
        for message in frames.by_ref().take(item.frame_rows.len() - 1) {
            of_item.push(wire::frame_from(message).map_err(text)?);
        }
        if of_item.len() < item.frame_rows.len() {
            let (found, expected) = (of_item.len(), item.frame_rows.len());
            return Err(format!("{found} frames for day {day}, asked for {expected}"));
        }
        for (frame, range) in of_item.iter().zip(item.ranges()) {
            let rows = (range.end - range.start) as u32;
            check_frame(frame, day, item.version, &item.node, range.start, rows)?;
        }
        answers.answers.push((item.clone(), of_item));
    }
    for failure in reply.failures {
        let day = wire::day(failure.day).map_err(text)?;
        let item = asked.take((day, NodeId::from(failure.node.as_str())))?.clone();
        answers.failures.push(day_failure(item, failure, nodes)?);
    }
    asked.none_left()?;
    Ok(answers)
}

/// The items of a request that no part of the answer has named yet.
struct Asked<'a, K, I>(BTreeMap<K, &'a I>);

impl<'a, K: Ord + std::fmt::Debug, I> Asked<'a, K, I> {
    fn new(items: impl Iterator<Item = (K, &'a I)>) -> Self {
        Asked(items.collect())
    }

    fn take(&mut self, key: K) -> Result<&'a I, String> {
        let found = self.0.remove(&key);
        found.ok_or_else(|| format!("{key:?} was not asked for, or is answered twice"))
    }

    fn none_left(self) -> Result<(), String> {
        match self.0.first_key_value() {
            None => Ok(()),
            Some((key, _)) => Err(format!("{key:?} is neither answered nor failed")),
        }
    }
}

/// Checks that states are of nodes that were asked for something, since a state can take a node out of use, and
/// statistics of nodes that there are.
fn check_nodes<'a, I, A>(
    answers: &Answers<I, A>,
    asked: impl Iterator<Item = &'a NodeId>,
    nodes: &BTreeSet<NodeId>,
) -> Result<(), String> {
    let asked: BTreeSet<&NodeId> = asked.collect();
    if let Some(state) = answers.states.iter().find(|state| !asked.contains(&state.node)) {
        let node = error::shown(state.node.as_str());
        return Err(format!("it tells how node `{node}` is, of which nothing was asked"));
    }
    match answers.statistics.iter().find(|of| !nodes.contains(of.node.as_str())) {
        None => Ok(()),
        Some(of) => Err(stranger(&of.node)),
    }
}

fn check_frame(
    frame: &Frame,
    day: Day,
    version: Version,
    node: &NodeId,
    first_row: u64,
    rows: u32,
) -> Result<(), String> {
    let expected = (Some(day), version, node, first_row, rows);
    let found = (frame.day, frame.version, &frame.node, frame.first_row, frame.rows);
    if found != expected {
        return Err(format!("a frame's header says {found:?}, asked for {expected:?}"));
    }
    if frame.payload.len() > MAX_PAYLOAD_BYTES {
        let bytes = frame.payload.len();
        return Err(format!("the frame for day {day} has {bytes} bytes, limit {MAX_PAYLOAD_BYTES}"));
    }
    if frame::digest(&frame.payload) != frame.digest {
        return Err(format!("the payload of the frame for day {day} does not have its digest"));
    }
    Ok(())
}

fn day_failure<I>(item: I, failure: v1::DayFailure, nodes: &BTreeSet<NodeId>) -> Result<Failure<I>, String> {
    Ok(Failure {
        item,
        cause: wire::cause_from(&failure),
        why: reason(failure.why),
        nodes_tried: known(&failure.nodes_tried, nodes)?,
        been_at: known(&failure.been_at, nodes)?,
    })
}

/// Nodes that a failure names, each once.
fn known(named: &[String], nodes: &BTreeSet<NodeId>) -> Result<Vec<NodeId>, String> {
    let node = |name: &String| nodes.get(name.as_str()).ok_or_else(|| stranger(name));
    let named: BTreeSet<&NodeId> = named.iter().map(node).collect::<Result<_, _>>()?;
    Ok(named.into_iter().cloned().collect())
}

/// A reason, which goes into errors, ledgers and logs.
fn reason(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(MAX_WHY) {
        why.truncate(end);
    }
    why
}

fn stranger(name: &str) -> String {
    format!("it tells of node `{}`, which the overlay does not have", error::shown(name))
}

fn text(malformed: Malformed) -> String {
    malformed.to_string()
}

#[cfg(test)]
mod tests;
