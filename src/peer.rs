//! The typed connection to a neighbour: inventory, count, read.
//!
//! Opened lazily, kept, and watched by pings, so that a neighbour that hangs is noticed within
//! `limits.keepalive_ms` while one that is only slow is waited for. Every answer is checked against its
//! request: each item answered or failed once, versions as pinned, frames as asked, digests right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use crate::aggregate::Groups;
use crate::config::{NodeId, Overlay, Process};
use crate::day::Day;
use crate::frame;
use crate::outside::{self, Connect, ConnectAttempts, remaining};
use crate::proto::v1;
use crate::security::{Bearer, Security};
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, InventoryAnswer, InventoryItem, Read,
    ReadItem,
};
use crate::wire::{self, Malformed};

/// Bytes of an answer between nodes. A count carries up to `limits.max_groups` groups.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What the neighbour gets beyond the time that it is waited for, so that it is always this side that gives up: what it
/// would say of the time does not tell a slow neighbour from one that is out of order.
pub(crate) const BEYOND: Duration = Duration::from_millis(100);

/// When to come back to an overloaded neighbour that does not say when.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);

/// A neighbour in the overlay.
pub struct Neighbour {
    id: NodeId,
    address: String,
    client: v1::peer_client::PeerClient<InterceptedService<Channel, Bearer>>,
    attempts: ConnectAttempts,
}

/// Why a neighbour gave no usable answer at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The transport failed, or the neighbour refused the request as a whole.
    #[error("neighbour `{node}` ({address}) did not answer: {why}")]
    Transport {
        /// The neighbour.
        node: NodeId,
        /// Where it should listen.
        address: String,
        /// What the transport reported.
        why: String,
    },
    /// The neighbour did not answer in time.
    #[error("neighbour `{node}` ({address}) did not answer within {} ms", waited.as_millis())]
    TimedOut {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The neighbour has more requests in flight than it takes.
    #[error("neighbour `{node}` ({address}) is overloaded: {why}")]
    Overloaded {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// The limit, in its words.
        why: String,
        /// When to come back, it says.
        retry_after: Duration,
    },
    /// The answer has more bytes than a message between nodes may have: only groups can be so many.
    #[error("neighbour `{node}` ({address}) has more groups than {} MiB: {why}", MAX_ANSWER_BYTES >> 20)]
    TooLarge {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// What the transport reported.
        why: String,
    },
    /// The answer contradicts the request.
    #[error("neighbour `{node}` ({address}) answered nonsense: {what}")]
    BadAnswer {
        /// The neighbour.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// The contradiction.
        what: String,
    },
}

impl Neighbour {
    /// A neighbour that is connected to when it is first needed.
    ///
    /// Must be called inside a runtime.
    pub fn new(process: &Process, overlay: &Overlay, security: &Security, connect: Arc<dyn Connect>) -> Self {
        let connect = security.connect_to(connect, process);
        let address = process.address();
        let limits = &overlay.limits;
        let keepalive = limits.keepalive();
        let endpoint = Endpoint::from_static("http://neighbour")
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(8 << 20)
            .tcp_nodelay(true);
        let (channel, attempts) =
            outside::channel_with_attempts(endpoint, connect, &address, limits.connect());
        let client = v1::peer_client::PeerClient::with_interceptor(channel, security.bearer())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        Neighbour { id: process.id.clone(), address, client, attempts }
    }

    /// Asks this neighbour, and through it others, what they hold.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn inventory(
        &self,
        items: &[InventoryItem],
        call: &Call,
    ) -> Result<Answers<InventoryItem, InventoryAnswer>, PeerError> {
        let node = |item: &InventoryItem| v1::NodeRequest {
            node: item.node.to_string(),
            known_incarnation: item.known_incarnation,
        };
        let request = v1::InventoryRequest {
            nodes: items.iter().map(node).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
        };
        let mut client = self.client.clone();
        let reply = self
            .within(call, |timeout| async move { client.inventory(timed(request, timeout)).await })
            .await?;
        self.read_inventory(items, reply).map_err(|malformed| self.bad_answer(malformed))
    }

    fn read_inventory(
        &self,
        items: &[InventoryItem],
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
            answers.answers.push(InventoryAnswer { inventory, unchanged: message.unchanged });
        }
        for failure in reply.unreachable {
            let item = asked.take(failure.node.clone())?.clone();
            let overloaded = failure.retry_after_ms.map(Duration::from_millis);
            answers.failures.push(Failure {
                item,
                cause: match overloaded {
                    Some(retry_after) => Cause::Overloaded { retry_after },
                    None => Cause::Unreachable,
                },
                why: failure.why,
                nodes_tried: wire::node_ids(&failure.nodes_tried),
                been_at: wire::node_ids(&failure.been_at),
            });
        }
        asked.none_left()?;
        Ok(answers)
    }

    /// Has this neighbour, and others through it, count days.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn count(
        &self,
        spec: &Count,
        items: &[CountItem],
        call: &Call,
    ) -> Result<Answers<CountItem, DayCount>, PeerError> {
        let request = v1::CountRequest {
            predicate: Some(wire::predicate_to(&spec.selection.predicate)),
            aggregate: spec.aggregate.as_ref().map(wire::aggregate_to),
            encoding: wire::encoding_to(spec.selection.encoding).into(),
            days: items.iter().map(wire::count_item_to).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
            client_address: call.client.address.to_string(),
            client_id: call.client.id.to_string(),
        };
        let mut client = self.client.clone();
        let reply =
            self.within(call, |timeout| async move { client.count(timed(request, timeout)).await }).await?;
        self.read_count(spec, items, reply).map_err(|what| self.bad_answer(what))
    }

    fn read_count(
        &self,
        spec: &Count,
        items: &[CountItem],
        reply: v1::CountReply,
    ) -> Result<Answers<CountItem, DayCount>, String> {
        let mut asked = Asked::new(items.iter().map(|item| ((item.day, item.node.clone()), item)));
        let mut answers = Answers {
            groups: wire::groups_from(spec.aggregate.as_ref(), reply.groups).map_err(text)?,
            statistics: reply.statistics.iter().map(wire::statistics_from).collect(),
            states: reply.nodes.iter().map(wire::state_from).collect(),
            ..Answers::default()
        };
        for count in reply.days {
            let day = wire::day(count.day).map_err(text)?;
            let item = asked.take((day, NodeId::from(count.node.as_str())))?;
            if wire::version(&count.version).map_err(text)? != item.version {
                return Err(format!("day {day} was counted at another version than the pinned one"));
            }
            let first_frame = count.first_frame.map(wire::frame_from).transpose().map_err(text)?;
            let first_rows = u64::from(item.first_rows).min(count.rows_matched) as u32;
            match &first_frame {
                Some(frame) => check_frame(frame, day, item.version, &item.node, 0, first_rows)?,
                None if first_rows > 0 => {
                    return Err(format!("the first frame of day {day} is absent"));
                }
                None => {}
            }
            answers.answers.push(DayCount {
                item: item.clone(),
                rows_matched: count.rows_matched,
                first_frame,
            });
        }
        for failure in reply.failures {
            let day = wire::day(failure.day).map_err(text)?;
            let item = asked.take((day, NodeId::from(failure.node.as_str())))?.clone();
            answers.failures.push(day_failure(item, failure));
        }
        asked.none_left()?;
        check_groups(&answers.groups, &answers.answers)?;
        Ok(answers)
    }

    /// Has this neighbour, and others through it, read row ranges.
    ///
    /// # Errors
    /// [`PeerError`] if nothing of the answer can be used.
    pub async fn read(
        &self,
        spec: &Read,
        items: &[ReadItem],
        call: &Call,
    ) -> Result<Answers<ReadItem, (ReadItem, Frame)>, PeerError> {
        let request = v1::ReadRequest {
            predicate: Some(wire::predicate_to(&spec.selection.predicate)),
            encoding: wire::encoding_to(spec.selection.encoding).into(),
            days: items.iter().map(wire::read_item_to).collect(),
            hops: wire::names(&call.hops),
            avoid: wire::names(&call.avoid),
            client_address: call.client.address.to_string(),
            client_id: call.client.id.to_string(),
        };
        let mut client = self.client.clone();
        let reply =
            self.within(call, |timeout| async move { client.read(timed(request, timeout)).await }).await?;
        self.read_frames(items, reply).map_err(|what| self.bad_answer(what))
    }

    fn read_frames(
        &self,
        items: &[ReadItem],
        reply: v1::ReadReply,
    ) -> Result<Answers<ReadItem, (ReadItem, Frame)>, String> {
        let mut asked = Asked::new(items.iter().map(|item| ((item.day, item.node.clone()), item)));
        let mut answers = Answers {
            statistics: reply.statistics.iter().map(wire::statistics_from).collect(),
            states: reply.nodes.iter().map(wire::state_from).collect(),
            ..Answers::default()
        };
        for message in reply.frames {
            let frame = wire::frame_from(message).map_err(text)?;
            let day = frame.day.ok_or("a frame names no day")?;
            let item = asked.take((day, frame.node.clone()))?;
            check_frame(&frame, day, item.version, &item.node, item.first_row, item.rows)?;
            answers.answers.push((item.clone(), frame));
        }
        for failure in reply.failures {
            let day = wire::day(failure.day).map_err(text)?;
            let item = asked.take((day, NodeId::from(failure.node.as_str())))?.clone();
            answers.failures.push(day_failure(item, failure));
        }
        asked.none_left()?;
        Ok(answers)
    }

    /// Waits for an answer until the call's deadline, or until the connection that it needs cannot be made.
    async fn within<T, F>(&self, call: &Call, ask: impl FnOnce(Duration) -> F) -> Result<T, PeerError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let waited = remaining(call.deadline);
        let (node, address) = (self.id.clone(), self.address.clone());
        let failure = self.attempts.failure();
        let answered = tokio::select! {
            biased;
            answered = tokio::time::timeout_at(call.deadline, ask(waited + BEYOND)) => answered,
            why = failure => return Err(PeerError::Transport { node, address, why }),
        };
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(match status.code() {
                Code::ResourceExhausted => {
                    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
                    PeerError::Overloaded {
                        node,
                        address,
                        why: status.message().to_owned(),
                        retry_after: retry_after.unwrap_or(RETRY_OVERLOADED),
                    }
                }
                Code::DeadlineExceeded => PeerError::TimedOut { node, address, waited },
                // What tonic says of a message beyond the size that the client takes.
                Code::OutOfRange => PeerError::TooLarge { node, address, why: cause_chain(&status) },
                _ => PeerError::Transport { node, address, why: cause_chain(&status) },
            }),
            Err(_) => Err(PeerError::TimedOut { node, address, waited }),
        }
    }

    fn bad_answer(&self, what: String) -> PeerError {
        PeerError::BadAnswer { node: self.id.clone(), address: self.address.clone(), what }
    }
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

/// Checks that groups count no more rows than match. Rows without the aggregated column are in no group.
fn check_groups(groups: &Groups, days: &[DayCount]) -> Result<(), String> {
    let matched = days.iter().fold(0, |sum: u64, day| sum.saturating_add(day.rows_matched));
    let grouped = groups.iter().fold(0, |sum: u64, (_, of)| sum.saturating_add(of.count));
    match grouped <= matched {
        true => Ok(()),
        false => Err(format!("the groups count {grouped} rows, the days have {matched} that match")),
    }
}

fn check_frame(
    frame: &Frame,
    day: Day,
    version: crate::store::Version,
    node: &NodeId,
    first_row: u64,
    rows: u32,
) -> Result<(), String> {
    let expected = (Some(day), version, node, first_row, rows);
    let found = (frame.day, frame.version, &frame.node, frame.first_row, frame.rows);
    if found != expected {
        return Err(format!("a frame's header says {found:?}, asked for {expected:?}"));
    }
    if frame::digest(&frame.payload) != frame.digest {
        return Err(format!("the payload of the frame for day {day} does not have its digest"));
    }
    Ok(())
}

fn day_failure<I>(item: I, failure: v1::DayFailure) -> Failure<I> {
    Failure {
        item,
        cause: wire::cause_from(&failure),
        why: failure.why,
        nodes_tried: wire::node_ids(&failure.nodes_tried),
        been_at: wire::node_ids(&failure.been_at),
    }
}

fn timed<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

fn text(malformed: Malformed) -> String {
    malformed.to_string()
}

/// What the transport met, which may stand in the status or below it: `connection refused`.
fn cause_chain(status: &tonic::Status) -> String {
    let mut words = vec![status.message().to_owned()];
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.iter().any(|word| word.contains(&said)) {
            words.push(said);
        }
        cause = error.source();
    }
    if words.len() > 1 {
        words.retain(|word| word != "transport error");
    }
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{AggregateOf, AggregateSpec, GroupId, KeyValue, Partial};
    use crate::decimal::Decimal;
    use crate::store::Version;

    fn item(number: u64) -> CountItem {
        CountItem {
            day: Day::from_number(number).unwrap(),
            version: Version([1; 16]),
            node: NodeId::from("B"),
            team: Arc::from("green"),
            attempt: 1,
            first_rows: 0,
        }
    }

    #[test]
    fn groups_count_no_more_rows_than_match() {
        let day = |number, rows_matched| DayCount { item: item(number), rows_matched, first_frame: None };
        let days = [day(20200810, 3), day(20200811, 4)];
        let mut groups = Groups::default();
        for hour in [1, 2] {
            let partial = Partial { count: 3, min: Decimal(0), max: Decimal(0), sum: 0 };
            groups.insert(GroupId(vec![KeyValue::Number(hour)]), partial);
        }
        assert_eq!(check_groups(&groups, &days), Ok(()), "one row lacks the aggregated column");
        assert!(check_groups(&groups, &days[..1]).unwrap_err().contains("count 6 rows, the days have 3"));
    }

    /// Goal: nothing that was asked is forgotten, and no row is in the groups twice. Method: a neighbour counts one of two
    /// days and is silent about the other, then fails it, then has more rows in its group than it counted.
    #[tokio::test]
    async fn answer_that_does_not_add_up_is_refused() {
        let text = include_str!("../configs/one_host_config.json");
        let overlay = Overlay::parse(text, "six").unwrap().overlay;
        let process = overlay.process("B").unwrap();
        let neighbour =
            Neighbour::new(process, &overlay, &Security::default(), Arc::new(outside::ConnectTcp));
        let predicate = Arc::default();
        let selection = crate::verb::Selection { predicate, encoding: frame::Encoding::Json };
        let aggregate = AggregateSpec { of: AggregateOf::Value, group_by: Vec::new() };
        let spec = Count { selection, aggregate: Some(aggregate) };
        let days = [item(20200810), item(20200811)];
        let counted = v1::DayCount {
            day: 20200810,
            node: "B".to_owned(),
            attempt: 1,
            version: vec![1; 16],
            rows_matched: 3,
            first_frame: None,
        };
        let failed = v1::DayFailure { day: 20200811, node: "B".to_owned(), ..v1::DayFailure::default() };
        let silent = v1::CountReply { days: vec![counted], ..v1::CountReply::default() };
        let whole = v1::CountReply { failures: vec![failed], ..silent.clone() };
        let group = v1::GroupPartial { count: 4, sum_e9: vec![0; 16], ..v1::GroupPartial::default() };
        let double = v1::CountReply { groups: vec![group], ..whole.clone() };
        let read = |reply| neighbour.read_count(&spec, &days, reply);
        assert_eq!(read(silent).unwrap_err(), "(20200811, \"B\") is neither answered nor failed");
        assert_eq!(read(whole).unwrap().failures.len(), 1);
        assert_eq!(read(double).unwrap_err(), "the groups count 4 rows, the days have 3 that match");
    }
}
