//! Reading chunks: from the cache, or from holders of the versions that the result set names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::admission::{ClientKey, Requester};
use crate::aggregate::{AggregateOf, Groups};
use crate::config::NodeId;
use crate::coverage;
use crate::day::Day;
use crate::error::QueryError;
use crate::frame;
use crate::gather::WantedDay;
use crate::holder::cost_of_encoding;
use crate::plan::PlanKey;
use crate::result_set::{DayRows, Owner, ResultSet, Window};
use crate::trace::{self, step};
use crate::verb::{Call, Frame, Read};

use super::{ChunkRead, Coordinator, unread};

/// How long reading ahead may take. Nobody may be left to take the chunks: work for a client that is gone has to stop within
/// a tenth of a second.
const AHEAD_WITHIN: Duration = Duration::from_millis(80);

/// Chunks that may be at hand already among which the first to be read ahead is looked for.
const LOOKED_AT: u32 = 8;

impl Coordinator {
    /// Reads a chunk, as often as wanted while the lease lasts.
    ///
    /// # Errors
    /// [`QueryError`]: unknown, expired, out of range, unavailable and lost are all different.
    pub async fn chunk(
        self: &Arc<Self>,
        uid: &str,
        index: i64,
        reader: &Owner,
        client: &ClientKey,
        deadline: Instant,
    ) -> Result<ChunkRead, QueryError> {
        let started = self.clock.now();
        let span = step!(
            "read chunk",
            overlay.chunk = index,
            overlay.cached = tracing::field::Empty,
            overlay.rows = tracing::field::Empty,
            overlay.bytes = tracing::field::Empty,
            overlay.outcome = tracing::field::Empty,
        );
        let reading = self.read_chunk(uid, index, reader, client, deadline).instrument(span.clone());
        let read = match tokio::time::timeout_at(deadline, reading).await {
            Ok(Err(QueryError::DeadlineExceeded { .. })) | Err(_) => {
                Err(QueryError::DeadlineExceeded { waited: deadline - started })
            }
            Ok(read) => read,
        };
        let bytes = read
            .as_ref()
            .map_or(0, |chunk| chunk.frames.iter().map(|frame| frame.payload.len() as u64).sum());
        let outcome = read.as_ref().map_or_else(QueryError::outcome, |_| "success");
        span.record("overlay.bytes", bytes as i64);
        span.record("overlay.outcome", outcome);
        self.metrics.chunk(outcome, bytes);
        read
    }

    async fn read_chunk(
        self: &Arc<Self>,
        uid: &str,
        index: i64,
        reader: &Owner,
        client: &ClientKey,
        deadline: Instant,
    ) -> Result<ChunkRead, QueryError> {
        let result_set = self.leases.touch(uid, reader, self.clock.now())?;
        let chunk_count = result_set.chunk_count();
        let out_of_range = || QueryError::OutOfRange { index, chunk_count };
        let index = u32::try_from(index).map_err(|_| out_of_range())?;
        let range = result_set.chunk_range(index).ok_or_else(out_of_range)?;
        let key = (result_set.key.clone(), index);
        let cached = self.chunks.get(&key);
        let call = self.call(client, deadline);
        trace::note("overlay.rows", (range.end - range.start) as i64);
        trace::note("overlay.cached", cached.is_some());
        let frames = match &result_set.plan.query.aggregate {
            Some(spec) => {
                self.metrics.cache_use("chunk", cached.is_some());
                match cached {
                    Some(frames) => frames,
                    None => self.group_frames(&result_set, spec.of, range, &call, index).await?,
                }
            }
            None => {
                let coming = self.leases.asks(uid, index);
                self.read_ahead(uid, &result_set, &call);
                let ready = match (cached, coming) {
                    (Some(frames), _) => Some(frames),
                    (None, None) => None,
                    (None, Some(coming)) => {
                        coming.await;
                        let ready = self.chunks.get(&key);
                        if ready.is_none() {
                            self.leases.stumbles(uid, index);
                        }
                        ready
                    }
                };
                // One that is on its way is as good as there.
                self.metrics.cache_use("chunk", ready.is_some());
                match ready {
                    Some(frames) => frames,
                    None => {
                        let chunks = self.read_together(&result_set, index, self.leases.together(uid));
                        let frames = self.row_frames(&result_set, chunks.clone(), &call).await?;
                        self.leases.read_along(uid, index + 1..chunks.end);
                        frames
                    }
                }
            }
        };
        Ok(ChunkRead { frames, chunk_count, is_last: index + 1 == chunk_count })
    }

    /// Reads chunks that a client is about to ask for. What becomes of it shows when it does.
    fn read_ahead(self: &Arc<Self>, uid: &str, result_set: &Arc<ResultSet>, call: &Call) {
        let is_ready = |index: &u32| self.chunks.contains(&(result_set.key.clone(), *index));
        while let Some((start, most)) = self.leases.begins(uid).filter(|_| self.keeps_windows()) {
            let looked_at = start..start.saturating_add(LOOKED_AT).min(result_set.chunk_count());
            let Some(start) = looked_at.into_iter().find(|index| !is_ready(index)) else { return };
            let end = start.saturating_add(most).min(result_set.chunk_count());
            let chunks = start..self.window_end(result_set, start, end);
            let within = call.deadline.min(self.clock.now() + AHEAD_WITHIN);
            let (me, result_set, call) = (self.clone(), result_set.clone(), call.clone());
            let (owner, work) = self.metrics.orphans().tie();
            let window = chunks.clone();
            let ahead = step!(
                "read ahead",
                overlay.chunk = i64::from(window.start),
                overlay.chunks = window.len() as i64
            );
            let reading = AbortOnDropHandle::new(tokio::spawn(trace::along(async move {
                let _work = work;
                let reading = me.row_frames(&result_set, window, &call).instrument(ahead);
                // What has gone wrong is met again by whoever asks for the chunk.
                tokio::time::timeout_at(within, reading).await.is_ok_and(|read| read.is_ok())
            })));
            let done = async move {
                let _owner = owner;
                reading.await.unwrap_or(false)
            };
            if !self.leases.reads_ahead(uid, Window { chunks, done: done.boxed().shared() }) {
                return;
            }
        }
    }

    /// The chunk at `index` and what is read along with it: of the `most` from there on those that need no other days, since
    /// one more day could fail, and that are no more than a window.
    fn read_together(&self, result_set: &ResultSet, index: u32, most: u32) -> Range<u32> {
        let most = if self.keeps_windows() { most } else { 1 };
        let last_day = |chunk: u32| result_set.chunk_days(chunk).and_then(|days| Some(days.last()?.day));
        let day = last_day(index);
        let end = index.saturating_add(most).min(result_set.chunk_count());
        let end = index + 1 + (index + 1..end).take_while(|chunk| last_day(*chunk) == day).count() as u32;
        index..self.window_end(result_set, index, end)
    }

    /// Whether chunks that are read before they are asked for are still there then.
    fn keeps_windows(&self) -> bool {
        self.chunks.capacity_bytes() >= self.overlay.limits.chunk_bytes
    }

    /// The end of the chunks from `start` on that have together no more bytes than one may have.
    fn window_end(&self, result_set: &ResultSet, start: u32, end: u32) -> u32 {
        let row_bytes = u64::from(result_set.plan.bounds.worst_row_bytes.max(1));
        let most = self.overlay.limits.chunk_bytes as u64 / row_bytes;
        let rows = |chunk: u32| result_set.chunk_range(chunk).map_or(0, |range| range.end - range.start);
        let mut sum = rows(start);
        let fits = |chunk: &u32| {
            sum += rows(*chunk);
            sum <= most
        };
        start + 1 + (start + 1..end).take_while(fits).count() as u32
    }

    pub(super) fn keep_chunk(&self, key: (PlanKey, u32), frames: Vec<Frame>) -> Arc<Vec<Frame>> {
        let frames = Arc::new(frames);
        let payload: usize = frames.iter().map(|frame| frame.payload.len() + size_of::<Frame>()).sum();
        self.chunks.insert(key.clone(), frames.clone(), payload + key.0.len());
        frames
    }

    /// Reads some chunks and keeps them; gives the first.
    async fn row_frames(
        &self,
        result_set: &ResultSet,
        chunks: Range<u32>,
        call: &Call,
    ) -> Result<Arc<Vec<Frame>>, QueryError> {
        let plan = &result_set.plan;
        let index = chunks.start;
        let chunks: Vec<Vec<DayRows>> = chunks.filter_map(|index| result_set.chunk_days(index)).collect();
        let mut days: BTreeMap<Day, (&DayRows, Vec<u32>)> = BTreeMap::new();
        for of_day in chunks.iter().flatten() {
            days.entry(of_day.day).or_insert_with(|| (of_day, Vec::new())).1.push(of_day.rows);
        }
        let wanted = days.into_iter().filter_map(|(day, (first, frame_rows))| {
            let (planned, ask) = result_set.ask(day)?;
            let mut wanted = self.wanted(planned, ask, frame_rows);
            // Its selection may still be there.
            wanted.holders.insert(0, NodeId::from(first.counted_by.as_str()));
            Some(WantedDay { version: first.version, first_row: first.first_row, ..wanted })
        });
        let wanted: Vec<WantedDay> = wanted.collect();
        let rows = chunks.iter().flatten().map(|of_day| u64::from(of_day.rows)).sum::<u64>();
        let team = chunk_team(result_set, index);
        let requester = Requester { team, client: call.client.clone(), due: call.deadline };
        let _permit = self.reads.acquire(&requester, rows.max(1)).await?;
        let spec = Read { selection: self.selection(plan) };
        let mut frames = self.gather.read(&spec, &wanted, call).await.map_err(unread)?.into_iter();
        let shared = chunks.len() > 1;
        let mut kept = chunks.iter().zip(index..).map(|(chunk, index)| {
            let mut frames: Vec<Frame> = frames.by_ref().take(chunk.len()).collect();
            // What stays in the cache keeps no bytes but its own: not those of the chunks that came along with it, nor the room
            // that this node's own encoder had.
            for frame in frames.iter_mut().filter(|frame| shared || frame.node == self.me) {
                frame.payload = Bytes::copy_from_slice(&frame.payload);
            }
            self.keep_chunk((result_set.key.clone(), index), frames)
        });
        let first = kept.next().unwrap_or_default();
        kept.for_each(drop);
        Ok(first)
    }

    /// Does what a reader wants done with the rows of a chunk, on a thread that computes, charged to the reader.
    ///
    /// Units: `cost` is in rows to scan.
    ///
    /// # Errors
    /// [`QueryError::Overloaded`] if too much computing waits already.
    pub async fn work_for<T: Send + 'static>(
        &self,
        reader: &ClientKey,
        (result_set, index): (&ResultSet, u32),
        cost: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let due = self.clock.now() + self.overlay.limits.query();
        let requester = Requester { team: chunk_team(result_set, index), client: reader.clone(), due };
        self.run_paid(&requester, cost, work).await
    }

    /// Runs one piece of computing under a compute slot, which goes with it.
    async fn run_paid<T: Send + 'static>(
        &self,
        requester: &Requester,
        cost: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        let permit = self.computing.acquire(requester, cost).instrument(step!("queue wait")).await?;
        let (_owner, tied) = self.metrics.orphans().tie();
        let span = step!("encode");
        let work = move || {
            let done = span.in_scope(work);
            drop((permit, tied));
            done
        };
        Ok(self.compute.run(cost, work).await)
    }

    async fn groups(
        &self,
        result_set: &ResultSet,
        requester: &Requester,
        call: &Call,
    ) -> Result<Arc<Groups>, QueryError> {
        match self.aggregates.get(&result_set.key) {
            Some(groups) => Ok(groups),
            None if result_set.total_records == 0 => Ok(Arc::default()),
            None => self.aggregate_again(result_set, requester, call).await,
        }
    }

    /// The groups of a chunk, which are kept.
    async fn group_frames(
        &self,
        result_set: &ResultSet,
        of: AggregateOf,
        range: Range<u64>,
        call: &Call,
        index: u32,
    ) -> Result<Arc<Vec<Frame>>, QueryError> {
        let team = chunk_team(result_set, index);
        let requester = Requester { team, client: call.client.clone(), due: call.deadline };
        // Before the permit: whoever waits for groups keeps nobody from reading rows.
        let groups = self.groups(result_set, &requester, call).await?;
        let _permit = self.reads.acquire(&requester, (range.end - range.start).max(1)).await?;
        let key = (result_set.key.clone(), index);
        if range.is_empty() {
            return Ok(self.keep_chunk(key, Vec::new()));
        }
        let cost = cost_of_encoding(range.end - range.start, result_set.plan.query.encoding);
        let records = range.start as usize..range.end as usize;
        let encoding = result_set.plan.query.encoding;
        // Equal versions give equal groups, so the range that was cut from them is there.
        let encode = move || frame::encode_groups(of, &groups, records, encoding);
        let payload = self.run_paid(&requester, cost, encode).await?;
        let frame = Frame {
            day: None,
            version: coverage::aggregate_version(&result_set.ledger),
            first_row: range.start,
            rows: (range.end - range.start) as u32,
            digest: frame::digest(&payload),
            payload,
            node: self.me.clone(),
        };
        Ok(self.keep_chunk(key, vec![frame]))
    }
}

/// The team that pays for reading a chunk: the one of its first day.
fn chunk_team(result_set: &ResultSet, index: u32) -> Arc<str> {
    let first = result_set.chunk_days(index).and_then(|days| Some(days.first()?.day));
    let planned = match first {
        Some(day) => result_set.ask(day).map(|(planned, _)| planned),
        None => result_set.plan.days.first(),
    };
    planned.map_or_else(Arc::default, |planned| planned.team.clone())
}
