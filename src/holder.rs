//! Answers the peer verbs for the days that this node holds.
//!
//! All computing goes through the compute slots: scanning and adding up in pieces of at most a quantum of rows, a frame or
//! the names of all groups in one piece, charged with what it costs. A selection is
//! kept as an evictable cache entry: scanning a day again is cheaper than remembering it for sure.

mod data;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use tokio::time::Instant;

use self::data::Data;
use self::work::{Refusal, Step, Work, pieces, rows_in};
use crate::admission::{ClientKey, ComputeSlots};
use crate::aggregate::{self, AggregateSpec, Groups, Tally};
use crate::cache::ByteCache;
use crate::config::{NodeId, Overlay};
use crate::day::Day;
use crate::frame::{self, Encoding};
use crate::inventory::{NodeInventory, NodeState};
use crate::load::{Loaded, Reloaded};
use crate::metrics::{Metrics, OTHER_CLIENTS};
use crate::outside::Compute;
use crate::scan;
use crate::store::{DayBatch, Store, Version};
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, Read, ReadItem, Selection,
};

/// What encoding rows costs, in rows to scan: 15 ns each (Arrow) or 35 ns (JSON) against 0.5 ns, as `cargo bench --bench kernels`
/// shows.
pub fn cost_of_encoding(rows: u64, encoding: Encoding) -> u64 {
    let of_one = match encoding {
        Encoding::Arrow => 30,
        Encoding::Json | Encoding::JsonLegacy => 70,
    };
    rows.saturating_mul(of_one)
}

/// Rows to scan that adding one row to its group costs as much as, 8 ns.
pub const SCANNED_ROWS_PER_ADDED_ROW: u64 = 16;

/// Likewise for putting one group in order, 25 ns.
const SCANNED_ROWS_PER_NAMED_GROUP: u64 = 50;

/// Parts of an aggregate at most: each has groups of its own, and a table of up to 1 MB.
const MOST_TALLIES: usize = 4;

/// The data of one node, and what it takes to compute over them.
pub struct Holder {
    node: NodeId,
    /// Of the process; data that follow have the next numbers.
    incarnation: u64,
    placed: BTreeSet<Day>,
    /// What there is now. A request keeps what it began with.
    data: RwLock<Option<Arc<Data>>>,
    /// How long replaced data are kept, and how many bytes of them.
    keep_replaced: (Duration, usize),
    draining: AtomicBool,
    slots: ComputeSlots,
    compute: Compute,
    quantum_rows: u32,
    /// What a request may cost to be computed by the thread that answers it.
    short_rows: u64,
    max_groups: usize,
    selections: ByteCache<(Day, Version, String), Arc<Vec<u32>>>,
    /// Names of clients whose computing is counted by name.
    clients: BTreeSet<String>,
    metrics: Arc<Metrics>,
}

impl Holder {
    /// A holder that has not loaded yet.
    pub fn new(
        node: NodeId,
        incarnation: u64,
        placed: BTreeSet<Day>,
        overlay: &Overlay,
        slots: ComputeSlots,
        compute: Compute,
        metrics: Arc<Metrics>,
    ) -> Self {
        Holder {
            node,
            incarnation,
            placed,
            data: RwLock::default(),
            keep_replaced: (overlay.limits.replaced(), overlay.limits.replaced_bytes),
            draining: AtomicBool::new(false),
            slots,
            compute,
            quantum_rows: u32::try_from(overlay.limits.quantum_rows).unwrap_or(u32::MAX),
            short_rows: overlay.limits.short_rows,
            max_groups: overlay.limits.max_groups,
            selections: ByteCache::new(overlay.cache.selection_bytes),
            clients: overlay.clients.keys().cloned().collect(),
            metrics,
        }
    }

    /// Takes the data; from then on the holder is ready.
    pub fn set_loaded(&self, loaded: Loaded, unowned_days: Vec<String>) {
        self.set_data(Data::loaded(self.incarnation, &self.placed, loaded, unowned_days));
    }

    /// Takes days that were loaded anew. Requests that name the data before still have them, for as long as a result set
    /// may be kept; others learn of the new data with the next answer.
    ///
    /// Gives the days whose data are others now.
    pub fn replace(&self, reloaded: Reloaded, unowned_days: Vec<String>, now: Instant) -> Vec<Day> {
        let Some(before) = self.data() else { return Vec::new() };
        let (data, others) = before.with(reloaded, unowned_days, now + self.keep_replaced.0);
        self.set_data(data);
        others
    }

    /// Lets go of replaced data that no result set can need any more, or that find no room; whether there were some.
    pub fn forget_replaced(&self, now: Instant) -> bool {
        let without = self.data().and_then(|data| data.without_old(now, self.keep_replaced.1));
        let are_fewer = without.is_some();
        without.into_iter().for_each(|data| self.set_data(data));
        are_fewer
    }

    fn set_data(&self, data: Data) {
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(data));
    }

    fn data(&self) -> Option<Arc<Data>> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells others, from now on, that this node is shutting down.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The data as they are now, once they are loaded.
    pub fn store(&self) -> Option<Arc<Store>> {
        self.data().map(|data| data.store.clone())
    }

    /// Where its computing runs.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Pieces of scanning and encoding that run here.
    pub fn computing_pieces(&self) -> usize {
        self.slots.taken_slots()
    }

    /// Pieces that wait for a compute slot.
    pub fn waiting_pieces(&self) -> usize {
        self.slots.waiting_pieces()
    }

    /// Bytes of the cache of selections.
    pub fn cached_bytes(&self) -> usize {
        self.selections.bytes()
    }

    /// The days placed at this node.
    pub fn placed(&self) -> &BTreeSet<Day> {
        &self.placed
    }

    /// The node and its incarnation.
    pub fn state(&self) -> NodeState {
        self.state_with(self.data().as_deref())
    }

    fn state_with(&self, data: Option<&Data>) -> NodeState {
        NodeState {
            node: self.node.clone(),
            incarnation: data.map_or(self.incarnation, |data| data.incarnation),
            free_compute_slots: self.slots.free_slots() as u32,
            draining: self.draining.load(Ordering::Relaxed),
        }
    }

    /// What this node holds; without its days for who knows them from this incarnation.
    pub fn inventory(&self, known_incarnation: u64) -> NodeInventory {
        let data = self.data();
        let data = data.as_deref();
        let state = self.state_with(data);
        let is_known = state.incarnation == known_incarnation;
        let days = data.filter(|_| !is_known).map(|data| data.days.clone());
        NodeInventory {
            node: state.node,
            incarnation: state.incarnation,
            ready: data.is_some(),
            draining: state.draining,
            free_compute_slots: state.free_compute_slots,
            files: data.map_or(0, |data| data.store.file_count()),
            days: days.unwrap_or_default(),
            unowned_days: data.map(|data| data.unowned_days.clone()).unwrap_or_default(),
        }
    }

    /// Counts the days of `items`, which are all addressed to this node.
    ///
    /// The groups of an aggregate are one whole: where rows of a day cannot be added, every day fails.
    ///
    /// # Cancel safety
    /// Dropping the future returns its compute slots.
    pub async fn count(
        &self,
        spec: &Count,
        items: Vec<CountItem>,
        call: &Call,
    ) -> Answers<CountItem, DayCount> {
        let mut answers = Answers::default();
        let asked = items.clone();
        let Some(store) = self.store() else {
            return self.all_failed(asked, self.not_ready());
        };
        let mut held = Vec::new();
        for item in items {
            match self.held(&store, item.day, item.version, spec.replaced_too) {
                Ok(batch) => held.push((item, batch)),
                Err(refusal) => answers.failures.push(self.failure(item, refusal)),
            }
        }
        let cost = |(item, batch): &(CountItem, Arc<DayBatch>)| {
            let adding = if spec.aggregate.is_some() { SCANNED_ROWS_PER_ADDED_ROW } else { 0 };
            u64::from(batch.row_count()) * (1 + adding)
                + cost_of_encoding(u64::from(item.first_rows), spec.selection.encoding)
        };
        let mut work = Work::new(self, call, &store, &spec.selection, held.iter().map(cost).sum());
        let most = if spec.aggregate.is_some() { MOST_TALLIES } else { usize::MAX };
        let parts = work.in_parts(held, most, cost);
        let counted = parts.into_iter().map(|items| self.count_part(spec, items, work.part()));
        let counted = match try_join_all(counted).await {
            Ok(counted) => counted,
            Err(refusal) => return self.all_failed(asked, refusal),
        };
        let mut tallies = Vec::new();
        for (part, tally, done) in counted {
            answers.answers.extend(part.answers);
            answers.failures.extend(part.failures);
            tallies.extend(tally);
            work.add(done);
        }
        if let Some(first) = asked.first().filter(|_| !tallies.is_empty()) {
            match self.name_groups(tallies, &first.team, &mut work).await {
                Ok(groups) => answers.groups = groups,
                Err(refusal) => return self.all_failed(asked, refusal),
            }
        }
        answers.statistics.push(work.statistics());
        answers.states.push(self.state());
        answers
    }

    /// Counts some of the days of a request, which are held, one piece after the other.
    ///
    /// # Errors
    /// If rows cannot be added to groups.
    async fn count_part<'a>(
        &self,
        spec: &Count,
        held: Vec<(CountItem, Arc<DayBatch>)>,
        mut work: Work<'a>,
    ) -> Result<(Answers<CountItem, DayCount>, Option<Tally>, Work<'a>), Refusal> {
        let mut answers = Answers::default();
        let mut tally = None;
        for held in self.together(held) {
            let (items, batches): (Vec<CountItem>, Vec<Arc<DayBatch>>) = held.into_iter().unzip();
            let selected = match self.select(&spec.selection, &batches, &items[0].team, &mut work).await {
                Ok(selected) => selected,
                Err(Refusal(cause, why)) => {
                    let refused = |item| self.failure(item, Refusal(cause, why.clone()));
                    answers.failures.extend(items.into_iter().map(refused));
                    continue;
                }
            };
            if let Some(aggregate) = &spec.aggregate {
                tally = self.add(aggregate, tally, &items[0].team, &batches, &selected, &mut work).await?;
            }
            for ((item, batch), rows) in items.into_iter().zip(&batches).zip(selected) {
                match self.first_frame(spec, &item, batch, &rows, &mut work).await {
                    Ok(first_frame) => {
                        let rows_matched = rows.len() as u64;
                        answers.answers.push(DayCount { item, rows_matched, first_frame });
                    }
                    Err(refusal) => answers.failures.push(self.failure(item, refusal)),
                }
            }
        }
        Ok((answers, tally, work))
    }

    /// Reads the row ranges of `items`, which are all addressed to this node.
    ///
    /// # Cancel safety
    /// Dropping the future returns its compute slots.
    pub async fn read(
        &self,
        spec: &Read,
        items: Vec<ReadItem>,
        call: &Call,
    ) -> Answers<ReadItem, (ReadItem, Vec<Frame>)> {
        let encoding = spec.selection.encoding;
        let Some(store) = self.store() else {
            return self.all_failed(items, self.not_ready());
        };
        let cost = |item: &ReadItem| {
            let batch = self.held(&store, item.day, item.version, true);
            batch.map_or(0, |batch| u64::from(batch.row_count())) + cost_of_encoding(item.rows(), encoding)
        };
        let mut work = Work::new(self, call, &store, &spec.selection, items.iter().map(cost).sum());
        let parts = work.in_parts(items, usize::MAX, cost);
        let reads = parts.into_iter().map(|items| self.read_part(spec, items, work.part()));
        let mut answers = Answers::default();
        for (read, done) in join_all(reads).await {
            answers.answers.extend(read.answers);
            answers.failures.extend(read.failures);
            work.add(done);
        }
        answers.statistics.push(work.statistics());
        answers.states.push(self.state());
        answers
    }

    /// Reads some of the row ranges of a request, one after the other.
    async fn read_part<'a>(
        &self,
        spec: &Read,
        items: Vec<ReadItem>,
        mut work: Work<'a>,
    ) -> (Answers<ReadItem, (ReadItem, Vec<Frame>)>, Work<'a>) {
        let mut answers = Answers::default();
        for item in items {
            let read = match self.held(&work.store, item.day, item.version, true) {
                Ok(batch) => self.read_day(spec, &item, &batch, &mut work).await,
                Err(refusal) => Err(refusal),
            };
            match read {
                Ok(frames) => answers.answers.push((item, frames)),
                Err(refusal) => answers.failures.push(self.failure(item, refusal)),
            }
        }
        (answers, work)
    }

    /// The class that a client is counted in: its id or its address where the configuration names it, as for its weight.
    fn class<'a>(&self, client: &'a ClientKey) -> &'a str {
        let named = [&client.id, &client.address].into_iter().find(|name| self.clients.contains(&***name));
        named.map_or(OTHER_CLIENTS, |name| name)
    }

    /// A day at a version: as it is now or, for who read it before, as it was.
    fn held(
        &self,
        store: &Store,
        day: Day,
        version: Version,
        replaced_too: bool,
    ) -> Result<Arc<DayBatch>, Refusal> {
        let now = store.day(day);
        let replaced = || store.replaced_day(day, version).filter(|_| replaced_too);
        if let Some(batch) = now.filter(|batch| batch.version == version).or_else(replaced) {
            return Ok(batch.clone());
        }
        Err(match now {
            Some(batch) => Refusal(
                Cause::VersionDiffers,
                format!(
                    "node `{}` has version {} of day {day}, asked for {version}",
                    self.node, batch.version
                ),
            ),
            None => Refusal(Cause::NotHeld, format!("node `{}` does not hold day {day}", self.node)),
        })
    }

    fn not_ready(&self) -> Refusal {
        Refusal(Cause::NotReady, format!("node `{}` is still loading", self.node))
    }

    async fn first_frame(
        &self,
        spec: &Count,
        item: &CountItem,
        batch: &Arc<DayBatch>,
        rows: &Arc<Vec<u32>>,
        work: &mut Work<'_>,
    ) -> Result<Option<Frame>, Refusal> {
        let first_rows = u64::from(item.first_rows).min(rows.len() as u64);
        if first_rows == 0 {
            return Ok(None);
        }
        let encoding = spec.selection.encoding;
        Ok(Some(self.encode(encoding, batch, &item.team, rows, 0..first_rows, work).await?))
    }

    /// Days of one team that are computed in one piece, since they have together no more rows than that may have; or one
    /// that has more.
    fn together(&self, held: Vec<(CountItem, Arc<DayBatch>)>) -> Vec<Vec<(CountItem, Arc<DayBatch>)>> {
        let mut pieces: Vec<Vec<(CountItem, Arc<DayBatch>)>> = Vec::new();
        let mut room = 0;
        for (item, batch) in held {
            let rows = batch.row_count();
            match pieces.last_mut() {
                Some(piece) if room > 0 && rows <= room && piece[0].0.team == item.team => {
                    piece.push((item, batch));
                    room -= rows;
                }
                _ => {
                    pieces.push(vec![(item, batch)]);
                    room = self.quantum_rows.saturating_sub(rows);
                }
            }
        }
        pieces
    }

    /// Adds the rows of days to those of the days before.
    async fn add(
        &self,
        aggregate: &AggregateSpec,
        mut tally: Option<Tally>,
        team: &Arc<str>,
        batches: &[Arc<DayBatch>],
        selected: &[Arc<Vec<u32>>],
        work: &mut Work<'_>,
    ) -> Result<Option<Tally>, Refusal> {
        let days: Vec<(Arc<DayBatch>, Arc<Vec<u32>>)> =
            batches.iter().cloned().zip(selected.iter().cloned()).collect();
        let rows: Vec<usize> = selected.iter().map(|rows| rows.len()).collect();
        for ranges in pieces(&rows, self.quantum_rows) {
            let (store, days, of_team) = (work.store.clone(), days.clone(), team.clone());
            let aggregate = aggregate.clone();
            let cost = rows_in(&ranges) * SCANNED_ROWS_PER_ADDED_ROW;
            let done = work
                .run(Step::Add, team, cost, move || {
                    let mut tally = tally.unwrap_or_else(|| Tally::new(&store, &aggregate));
                    for ((batch, rows), range) in days.iter().zip(ranges) {
                        tally.add(batch, &rows[range], &of_team);
                    }
                    tally
                })
                .await?;
            work.scanned(0, done.took);
            if done.result.len() > self.max_groups {
                return Err(Refusal(Cause::TooManyGroups, aggregate::too_many_groups(self.max_groups)));
            }
            tally = Some(done.result);
        }
        Ok(tally)
    }

    /// The groups of all parts together, with their names.
    async fn name_groups(
        &self,
        mut tallies: Vec<Tally>,
        team: &Arc<str>,
        work: &mut Work<'_>,
    ) -> Result<Groups, Refusal> {
        let (store, max_groups) = (work.store.clone(), self.max_groups);
        let groups: usize = tallies.iter().map(Tally::len).sum();
        let named = work
            .run(Step::Name, team, groups as u64 * SCANNED_ROWS_PER_NAMED_GROUP, move || {
                let mut tally = tallies.remove(0);
                tallies.into_iter().for_each(|part| tally.merge(part));
                (tally.len() <= max_groups).then(|| tally.into_groups(&store))
            })
            .await?;
        work.scanned(0, named.took);
        named.result.ok_or_else(|| Refusal(Cause::TooManyGroups, aggregate::too_many_groups(max_groups)))
    }

    async fn read_day(
        &self,
        spec: &Read,
        item: &ReadItem,
        batch: &Arc<DayBatch>,
        work: &mut Work<'_>,
    ) -> Result<Vec<Frame>, Refusal> {
        let batches = std::slice::from_ref(batch);
        let selected = self.select(&spec.selection, batches, &item.team, work).await?;
        let rows = &selected[0];
        let (start, end) = (item.first_row, item.first_row.saturating_add(item.rows()));
        if end > rows.len() as u64 {
            return Err(Refusal(
                Cause::OutOfRange,
                format!("rows {start}..{end} of day {}, whose result has {}", item.day, rows.len()),
            ));
        }
        let mut frames = Vec::with_capacity(item.frame_rows.len());
        for range in item.ranges() {
            frames.push(self.encode(spec.selection.encoding, batch, &item.team, rows, range, work).await?);
        }
        Ok(frames)
    }

    /// The rows that match of each of some days, from the cache or by a scan: of all of them in one piece, or of one in several.
    async fn select(
        &self,
        selection: &Selection,
        batches: &[Arc<DayBatch>],
        team: &Arc<str>,
        work: &mut Work<'_>,
    ) -> Result<Vec<Arc<Vec<u32>>>, Refusal> {
        let predicate = format!("{:?}", selection.predicate);
        let key = |batch: &DayBatch| (batch.day, batch.version, predicate.clone());
        let mut selected: BTreeMap<Day, Arc<Vec<u32>>> = BTreeMap::new();
        for batch in batches {
            let cached = self.selections.get(&key(batch));
            self.metrics.cache_use("selection", cached.is_some());
            selected.extend(cached.map(|rows| (batch.day, rows)));
        }
        let is_missing = |batch: &&Arc<DayBatch>| !selected.contains_key(&batch.day);
        let missing: Arc<[Arc<DayBatch>]> = batches.iter().filter(is_missing).cloned().collect();
        let rows: Vec<usize> = missing.iter().map(|batch| batch.row_count() as usize).collect();
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); missing.len()];
        for ranges in pieces(&rows, self.quantum_rows) {
            let (store, batches, selecting) = (work.store.clone(), missing.clone(), work.selecting.clone());
            let cost = rows_in(&ranges);
            let done = work
                .run(Step::Scan, team, cost, move || {
                    let bound = selecting.bound(&store);
                    for ((batch, range), found) in batches.iter().zip(ranges).zip(&mut found) {
                        scan::select(&store, batch, bound, range.start as u32..range.end as u32, found);
                    }
                    found
                })
                .await?;
            work.scanned(cost, done.took);
            self.metrics.rows_scanned(cost);
            found = done.result;
        }
        for (batch, mut rows) in missing.iter().zip(found) {
            rows.shrink_to_fit();
            let (key, rows) = (key(batch), Arc::new(rows));
            // The cache keeps a key twice.
            let bytes = rows.len() * size_of::<u32>() + 2 * (key.2.len() + size_of_val(&key));
            self.selections.insert(key, rows.clone(), bytes);
            selected.insert(batch.day, rows);
        }
        Ok(batches.iter().map(|batch| selected[&batch.day].clone()).collect())
    }

    async fn encode(
        &self,
        encoding: Encoding,
        batch: &Arc<DayBatch>,
        team: &Arc<str>,
        rows: &Arc<Vec<u32>>,
        range: Range<u64>,
        work: &mut Work<'_>,
    ) -> Result<Frame, Refusal> {
        let row_count = (range.end - range.start) as u32;
        let (day, version) = (batch.day, batch.version);
        let (store, batch, rows) = (work.store.clone(), batch.clone(), rows.clone());
        let encoded = work
            .run(Step::Encode, team, cost_of_encoding(u64::from(row_count), encoding), move || {
                let rows = &rows[range.start as usize..range.end as usize];
                let payload = frame::encode_rows(&store, &batch, rows, encoding);
                let digest = frame::digest(&payload);
                (range.start, payload, digest)
            })
            .await?;
        let (first_row, payload, digest) = encoded.result;
        work.encoded(payload.len() as u64, encoded.took);
        Ok(Frame {
            day: Some(day),
            version,
            first_row,
            rows: row_count,
            payload,
            digest,
            node: self.node.clone(),
        })
    }

    fn failure<I>(&self, item: I, Refusal(cause, why): Refusal) -> Failure<I> {
        Failure { item, cause, why, nodes_tried: vec![self.node.clone()], been_at: Vec::new() }
    }

    fn all_failed<I, A>(&self, items: Vec<I>, Refusal(cause, why): Refusal) -> Answers<I, A> {
        let refused = |item| self.failure(item, Refusal(cause, why.clone()));
        Answers {
            failures: items.into_iter().map(refused).collect(),
            states: vec![self.state()],
            ..Answers::default()
        }
    }
}
