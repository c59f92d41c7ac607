//! Answers the peer verbs for the days that this node holds.
//!
//! All computing goes through the compute slots: scanning and adding up in pieces of at most a quantum of rows, a frame or
//! the names of all groups in one piece, charged with what it costs. A selection is
//! kept as an evictable cache entry: scanning a day again is cheaper than remembering it for sure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::admission::{ClientKey, ComputeSlots, Requester};
use crate::aggregate::{self, AggregateSpec, Groups, Tally};
use crate::cache::ByteCache;
use crate::config::{NodeId, Overlay};
use crate::day::Day;
use crate::frame::{self, Encoding};
use crate::inventory::{DayInventory, MAX_REPLACED_TOLD, NodeInventory, NodeState};
use crate::load::{Loaded, RejectedRow, Reloaded};
use crate::metrics::{Metrics, OTHER_CLIENTS};
use crate::outside::Compute;
use crate::predicate::Predicate;
use crate::scan::{self, BoundPredicate};
use crate::store::{DayBatch, Store, Version};
use crate::trace::step;
use crate::verb::{
    Answers, Call, Cause, Count, CountItem, DayCount, Failure, Frame, HopStatistics, Read, ReadItem,
    Selection,
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

#[derive(Clone)]
struct Data {
    /// Another number tells others to read the inventory again.
    incarnation: u64,
    store: Arc<Store>,
    /// What others are told of the days placed here.
    days: BTreeMap<Day, DayInventory>,
    unowned_days: Vec<String>,
    /// When nobody can have a result set of replaced data any more, nor of a day that had none.
    replaced_until: BTreeMap<(Day, Version), Instant>,
}

impl Data {
    /// Lets go of replaced data whose time is over, and of the oldest beyond so many bytes.
    fn forget_replaced(&mut self, now: Instant, most_bytes: usize) {
        let store = Arc::make_mut(&mut self.store);
        let mut oldest: Vec<_> = self.replaced_until.iter().map(|(key, until)| (*until, *key)).collect();
        oldest.sort_unstable();
        for (until, (day, version)) in oldest {
            if until > now && store.replaced_bytes() <= most_bytes {
                break;
            }
            store.forget_replaced(day, version);
            self.replaced_until.remove(&(day, version));
        }
    }

    /// Tells others of what is replaced and kept: of so much that an inventory stays small the latest.
    fn tell_of_replaced(&mut self) {
        let Data { store, days, replaced_until, .. } = self;
        // Data that have come back are no longer replaced.
        replaced_until.retain(|(day, version), _| is_replaced(store, *day, *version));
        days.values_mut().for_each(|day| day.replaced.clear());
        let mut latest: Vec<_> = replaced_until.iter().map(|(key, until)| (*until, *key)).collect();
        latest.sort_unstable_by(|left, right| right.cmp(left));
        for (_, (day, version)) in latest.into_iter().take(MAX_REPLACED_TOLD) {
            let statistics = store.replaced_day(day, version).map(|batch| batch.statistics.clone());
            let statistics = Arc::new(statistics.unwrap_or_default());
            days.entry(day).and_modify(|day| drop(day.replaced.insert(version, statistics)));
        }
    }
}

/// Whether a day has other data by now, and is kept as it was: of one without data there is nothing to keep.
fn is_replaced(store: &Store, day: Day, version: Version) -> bool {
    match version == Version::of_no_data() {
        true => store.day(day).is_some(),
        false => store.replaced_day(day, version).is_some(),
    }
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
        let rejected = rejected_by_day(&loaded.rejected);
        let inventory = |day: &Day| (*day, day_inventory(&loaded.store, &rejected, *day));
        self.set_data(Data {
            incarnation: self.incarnation,
            days: self.placed.iter().map(inventory).collect(),
            store: Arc::new(loaded.store),
            unowned_days,
            replaced_until: BTreeMap::new(),
        });
    }

    /// Takes days that were loaded anew. Requests that name the data before still have them, for as long as a result set
    /// may be kept; others learn of the new data with the next answer.
    ///
    /// Gives the days whose data are others now.
    pub fn replace(&self, reloaded: Reloaded, unowned_days: Vec<String>, now: Instant) -> Vec<Day> {
        let Some(before) = self.data() else { return Vec::new() };
        let mut data = Data { store: Arc::new(reloaded.store), ..(*before).clone() };
        let (mut others, is_loaded) = (Vec::new(), !reloaded.days.is_empty());
        for (day, rejected) in reloaded.days {
            let inventory = day_inventory(&data.store, &rejected_by_day(&rejected), day);
            if data.days.get(&day).is_none_or(|before| before.version != inventory.version) {
                others.push(day);
            }
            data.days.insert(day, inventory);
        }
        let no_data = Version::of_no_data();
        let had_none = |day: &&Day| before.days.get(*day).is_some_and(|before| before.version == no_data);
        let had_none = others.iter().filter(had_none).map(|day| (*day, no_data));
        let (keep, _) = self.keep_replaced;
        for replaced in data.store.replaced().chain(had_none) {
            data.replaced_until.entry(replaced).or_insert(now + keep);
        }
        data.unowned_days = unowned_days;
        if is_loaded {
            data.tell_of_replaced();
        }
        self.set_new_data(data, &before);
        others
    }

    /// Lets go of replaced data that no result set can need any more, or that find no room; whether there were some.
    pub fn forget_replaced(&self, now: Instant) -> bool {
        let Some(before) = self.data().filter(|data| !data.replaced_until.is_empty()) else { return false };
        let mut data = (*before).clone();
        data.forget_replaced(now, self.keep_replaced.1);
        let are_fewer = data.replaced_until.len() < before.replaced_until.len();
        if are_fewer {
            data.tell_of_replaced();
            self.set_new_data(data, &before);
        }
        are_fewer
    }

    /// Takes data that follow those `before`, and has others ask again if they were told something else.
    fn set_new_data(&self, mut data: Data, before: &Data) {
        if data.days != before.days || data.unowned_days != before.unowned_days {
            data.incarnation += 1;
        }
        self.set_data(data);
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

fn day_inventory(store: &Store, rejected: &BTreeMap<String, Vec<String>>, day: Day) -> DayInventory {
    match store.day(day) {
        Some(batch) => DayInventory {
            version: batch.version,
            statistics: Arc::new(batch.statistics.clone()),
            rejected: rejected.get(&day.to_string()).cloned().unwrap_or_default(),
            replaced: BTreeMap::new(),
        },
        None => DayInventory {
            version: Version::of_no_data(),
            statistics: Arc::default(),
            rejected: Vec::new(),
            replaced: BTreeMap::new(),
        },
    }
}

/// Rejected rows in words, by their folder. A day's folder, wherever the dataset's root lies, has the day's name:
/// `data/20200810/20200810-01.csv`.
fn rejected_by_day(rows: &[RejectedRow]) -> BTreeMap<String, Vec<String>> {
    let mut by_day: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(folder) = row.file.parent().and_then(Path::file_name) {
            by_day.entry(folder.to_string_lossy().into_owned()).or_default().push(row.to_string());
        }
    }
    by_day
}

/// The rows of each day that are computed together: all of several days, which are not too many, or one after the other of
/// the pieces of at most `quantum` rows that a day is cut into.
fn pieces(day_rows: &[usize], quantum: u32) -> Vec<Vec<Range<usize>>> {
    match day_rows {
        [] => Vec::new(),
        [rows] => {
            let starts = (0..*rows).step_by(quantum as usize);
            let piece = |start: usize| start..(start + quantum as usize).min(*rows);
            starts.map(|start| Vec::from([piece(start)])).collect()
        }
        several => vec![several.iter().map(|rows| 0..*rows).collect()],
    }
}

fn rows_in(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

/// Why a holder does not answer an item.
struct Refusal(Cause, String);

/// A predicate that is decided for the sites of a store when it is first needed, once in a request.
struct Selecting {
    predicate: Arc<Predicate>,
    bound: OnceLock<BoundPredicate>,
}

impl Selecting {
    fn bound(&self, store: &Store) -> &BoundPredicate {
        self.bound.get_or_init(|| BoundPredicate::new(store, &self.predicate))
    }
}

/// The computing of one request, or of a part of it: permits in, time out.
struct Work<'a> {
    holder: &'a Holder,
    call: &'a Call,
    /// The data that it began with.
    store: Arc<Store>,
    /// Whether all of it together takes less time than handing pieces to another thread.
    is_short: bool,
    selecting: Arc<Selecting>,
    started: Instant,
    statistics: HopStatistics,
}

/// What a piece of work does.
#[derive(Clone, Copy)]
enum Step {
    Scan,
    /// Adds rows to their groups.
    Add,
    /// Gives groups their names.
    Name,
    Encode,
}

impl Step {
    /// As metrics have it.
    fn name(self) -> &'static str {
        match self {
            Step::Scan => "scan",
            Step::Add => "add",
            Step::Name => "name",
            Step::Encode => "encode",
        }
    }

    /// Its span, which begins now. `cost` is in rows to scan.
    fn span(self, team: &str, cost: u64) -> Span {
        let cost = cost as i64;
        match self {
            Step::Scan => step!("scan", overlay.team = team, overlay.cost = cost),
            Step::Add => step!("add", overlay.team = team, overlay.cost = cost),
            Step::Name => step!("name groups", overlay.team = team, overlay.cost = cost),
            Step::Encode => step!("encode", overlay.team = team, overlay.cost = cost),
        }
    }
}

struct Done<T> {
    result: T,
    took: Duration,
}

impl<'a> Work<'a> {
    /// Work of a request that costs about as much as scanning so many rows.
    fn new(holder: &'a Holder, call: &'a Call, store: &Arc<Store>, selection: &Selection, cost: u64) -> Self {
        Work {
            holder,
            call,
            store: store.clone(),
            is_short: cost <= holder.short_rows,
            selecting: Arc::new(Selecting { predicate: selection.predicate.clone(), bound: OnceLock::new() }),
            started: Instant::now(),
            statistics: HopStatistics { node: holder.node.to_string(), ..HopStatistics::default() },
        }
    }

    /// The items in order, in as many parts as slots are free, but at most so many, which cost about the same: a request of
    /// many days that nobody competes with uses all cores. One that is short is one part.
    fn in_parts<I>(&self, items: Vec<I>, most: usize, cost: impl Fn(&I) -> u64) -> Vec<Vec<I>> {
        let most = if self.is_short { 1 } else { self.holder.slots.free_slots().clamp(1, most) };
        let share = items.iter().map(&cost).sum::<u64>().div_ceil(most as u64).max(1);
        let mut parts: Vec<Vec<I>> = std::iter::repeat_with(Vec::new).take(most).collect();
        let mut before = 0;
        for item in items {
            let cost = cost(&item);
            // Where its middle lies.
            let part = ((before + cost / 2) / share).min(most as u64 - 1);
            before += cost;
            parts[part as usize].push(item);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Work of a part of the request, to be [added](Self::add) when it is done.
    fn part(&self) -> Self {
        let (store, selecting) = (self.store.clone(), self.selecting.clone());
        Work { store, selecting, statistics: HopStatistics::default(), ..*self }
    }

    /// Counts in what a part has done.
    fn add(&mut self, part: Work<'a>) {
        self.statistics.merge(part.statistics);
    }

    /// Runs one piece under a permit of the team and the client.
    async fn run<T: Send + 'static>(
        &mut self,
        step: Step,
        team: &Arc<str>,
        cost: u64,
        piece: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Done<T>, Refusal> {
        let (client, due) = (self.call.client.clone(), self.call.deadline);
        let requester = Requester { team: team.clone(), client, due };
        let asked = Instant::now();
        let acquiring = self.holder.slots.acquire(&requester, cost.max(1));
        let permit = match acquiring.instrument(step!("queue wait")).await {
            Ok(permit) => permit,
            Err(overloaded) => {
                let retry_after = overloaded.retry_after;
                return Err(Refusal(Cause::Overloaded { retry_after }, overloaded.to_string()));
            }
        };
        let granted = Instant::now();
        self.statistics.queue_ms += milliseconds(granted - asked);
        // The slot goes with the piece: one that nobody waits for any more keeps it to its end.
        let (_owner, work) = self.holder.metrics.orphans().tie();
        let span = step.span(team, cost);
        let holding = move || {
            let result = span.in_scope(piece);
            drop((permit, work));
            result
        };
        let compute = self.holder.compute;
        let result = match self.is_short && cost <= self.holder.short_rows {
            true => compute.run_here(cost, holding).await,
            false => compute.run(cost, holding).await,
        };
        let took = granted.elapsed();
        self.holder.metrics.computed(step.name(), self.holder.class(&self.call.client), took);
        Ok(Done { result, took })
    }

    fn scanned(&mut self, rows: u64, took: Duration) {
        self.statistics.rows_scanned += rows;
        self.statistics.scan_ms += milliseconds(took);
    }

    fn encoded(&mut self, bytes: u64, took: Duration) {
        self.statistics.bytes += bytes;
        self.statistics.encode_ms += milliseconds(took);
        self.holder.metrics.frame_encoded(bytes, took);
    }

    fn statistics(mut self) -> HopStatistics {
        self.statistics.elapsed_ms = milliseconds(self.started.elapsed());
        self.statistics
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
