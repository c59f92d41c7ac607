//! From plan to result set: counts the planned days, writes the ledger, cuts the chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::admission::Requester;
use crate::aggregate::{self, Groups};
use crate::chunking::{ChunkBounds, MAX_CHUNKS};
use crate::config::NodeId;
use crate::coverage::{self, Entry, Outcome, Served};
use crate::day::Day;
use crate::error::QueryError;
use crate::frame;
use crate::gather::{Counted, Unanswered, WantedDay};
use crate::plan::{Ask, Fate, InvalidQuery, PlanKey, PlannedDay, QueryPlan};
use crate::result_set::ResultSet;
use crate::verb::{Call, Cause, Count, Frame, HopStatistics};

use super::{Coordinator, RunError, unavailable, unread};

/// Rows scanned, by team.
pub(super) type Scanned = BTreeMap<Arc<str>, u64>;

impl Coordinator {
    /// Counts what the plan asks for, and fixes ledger and boundaries. Adds to `scanned` also if it fails.
    pub(super) async fn count_and_cut(
        &self,
        key: PlanKey,
        plan: QueryPlan,
        call: &Call,
        replaced_too: bool,
        scanned: &mut Scanned,
    ) -> Result<(ResultSet, Vec<HopStatistics>), RunError> {
        let turn = self.gather.next_turn();
        let mut counted = match plan.query.aggregate.is_some() {
            true => {
                let asks: Vec<_> = plan.asks().collect();
                self.count_days(&plan, &asks, turn, call, replaced_too).await
            }
            false => self.count_until_limit(&plan, turn, call, replaced_too).await,
        };
        for (planned, ask) in plan.asks() {
            if let Some(Ok(_)) = counted.days.get(&planned.day) {
                *scanned.entry(planned.team.clone()).or_default() += ask.rows_to_scan;
            }
        }
        let statistics = std::mem::take(&mut counted.statistics);
        let groups = std::mem::take(&mut counted.groups);
        let frames = std::mem::take(&mut counted.frames);
        let row_limit = if plan.query.aggregate.is_some() { None } else { plan.query.limit };
        let ledger = self.write_ledger(&plan, counted, row_limit)?;
        coverage::check_tiles_plan(&ledger, &plan.day_list()).expect("each planned day got its entry");
        // What lacks days shares no cache with the whole result that an equal plan may give later.
        let key = match coverage::missing(&ledger).next() {
            None => key,
            Some(_) => [&*key, b"partial", &self.random.bits().to_le_bytes()].concat().into(),
        };
        let result_set = match &plan.query.aggregate {
            Some(_) => self.cut_groups(key, &plan, ledger, groups),
            None => self.cut_rows(key, &plan, ledger),
        }
        .map_err(RunError::Failed)?;
        self.keep_first_chunk(&result_set, frames);
        Ok((result_set, statistics))
    }

    /// Counts days in order, wave by wave, until the limit is full.
    ///
    /// The first wave has the days that the limit needs for sure: matches cannot exceed the bounds from
    /// the statistics. Later waves go by the share of the bound that matched so far, and at most double the days:
    /// where nothing has matched yet, that says little of the days to come. After a day that nobody could answer for, no
    /// others are asked for, unless a partial result is wanted.
    async fn count_until_limit(
        &self,
        plan: &QueryPlan,
        turn: u64,
        call: &Call,
        replaced_too: bool,
    ) -> Counted {
        let asks: Vec<_> = plan.asks().collect();
        let limit = plan.query.limit.unwrap_or(u64::MAX);
        let mut counted = Counted::default();
        let (mut next, mut matched, mut bound) = (0, 0u64, 0u64);
        while next < asks.len() && matched < limit {
            let share = if next == 0 { 1.0 } else { matched as f64 / (bound as f64 + 1.0) };
            let most = if next == 0 { asks.len() } else { next };
            let end = next + wave(&asks[next..], limit - matched, share).min(most);
            let wave = self.count_days(plan, &asks[next..end], turn, call, replaced_too).await;
            let lacks_days = wave.days.values().any(Result::is_err);
            for (planned, ask) in &asks[next..end] {
                bound += ask.rows_at_most;
                if let Some(Ok(served)) = wave.days.get(&planned.day) {
                    matched = matched.saturating_add(served.rows_matched);
                }
            }
            counted.days.extend(wave.days);
            counted.frames.extend(wave.frames);
            counted.statistics.extend(wave.statistics);
            next = end;
            if lacks_days && !plan.query.allow_partial {
                break;
            }
        }
        counted
    }

    async fn count_days(
        &self,
        plan: &QueryPlan,
        asks: &[(&PlannedDay, &Ask)],
        turn: u64,
        call: &Call,
        replaced_too: bool,
    ) -> Counted {
        let first_day = plan.asks().next().map(|(planned, _)| planned.day);
        let first_rows = match plan.query.aggregate {
            Some(_) => None,
            None => plan.bounds.first_chunk_rows(),
        };
        let limit = plan.query.limit.unwrap_or(u64::MAX).min(u64::from(u32::MAX)) as u32;
        let first_rows = |day| first_rows.filter(|_| Some(day) == first_day).map(|rows| rows.min(limit));
        let wanted = |(planned, ask): &(&PlannedDay, &Ask)| {
            self.wanted(planned, ask, first_rows(planned.day).into_iter().collect())
        };
        let wanted: Vec<WantedDay> = asks.iter().map(wanted).collect();
        let spec =
            Count { selection: self.selection(plan), aggregate: plan.query.aggregate.clone(), replaced_too };
        self.gather.count(&spec, &wanted, turn, call).await
    }

    /// What is asked of the holders of a day.
    pub(super) fn wanted(&self, planned: &PlannedDay, ask: &Ask, frame_rows: Vec<u32>) -> WantedDay {
        WantedDay {
            day: planned.day,
            version: ask.version,
            team: planned.team.clone(),
            rows_to_scan: ask.rows_to_scan,
            holders: ask.holders.to_vec(),
            other_holders: self.other_holders(planned.day, ask).collect(),
            first_row: 0,
            frame_rows,
        }
    }

    /// One entry for each planned day; rows are taken in day order until the limit is full.
    fn write_ledger(
        &self,
        plan: &QueryPlan,
        mut counted: Counted,
        limit: Option<u64>,
    ) -> Result<Vec<Entry>, RunError> {
        let limit = limit.unwrap_or(u64::MAX);
        let mut taken = 0u64;
        let mut ledger = Vec::with_capacity(plan.days.len());
        let mut unanswered: Vec<(Day, Unanswered)> = Vec::new();
        for planned in &plan.days {
            let full = taken >= limit;
            let outcome = match &planned.fate {
                Fate::Pruned { by, version } => Outcome::Pruned { by: by.clone(), version: *version },
                Fate::NoData(node) => Outcome::NoData { node: node.to_string() },
                _ if full => Outcome::BeyondLimit,
                Fate::Ask(_) => match counted.days.remove(&planned.day) {
                    Some(Ok(served)) => {
                        let rows_taken = served.rows_matched.min(limit - taken);
                        taken += rows_taken;
                        Outcome::Served(Served { rows_taken, ..served })
                    }
                    Some(Err(failed)) => missing(planned.day, failed, &mut unanswered),
                    // It was not asked for, because the result lacks an earlier one.
                    None => continue,
                },
                Fate::OutOfReach { holders } => {
                    let why = self.why_out_of_reach(holders);
                    missing(planned.day, failure(Cause::Unreachable, false, why, holders), &mut unanswered)
                }
                Fate::NotResumed => {
                    let why = "missing from the result that is resumed".to_owned();
                    missing(planned.day, failure(Cause::Unreachable, false, why, &[]), &mut unanswered)
                }
                Fate::VersionGone { expected, holders } => {
                    let why = format!("no holder has version {expected} any more");
                    missing(planned.day, failure(Cause::VersionDiffers, true, why, holders), &mut unanswered)
                }
            };
            ledger.push(Entry { day: planned.day, team: planned.team.clone(), outcome });
        }
        let changed = |cause| matches!(cause, Cause::VersionDiffers | Cause::NotHeld);
        if unanswered.iter().any(|(_, failed)| changed(failed.cause)) {
            return Err(match plan.query.expected_versions.is_empty() {
                true => RunError::Stale(unavailable(unanswered)),
                false => RunError::Failed(unread(unanswered.into_iter().collect())),
            });
        }
        let too_large = unanswered.iter().any(|(_, failed)| failed.cause == Cause::TooManyGroups);
        if too_large || (!unanswered.is_empty() && !plan.query.allow_partial) {
            return Err(RunError::Failed(unavailable(unanswered)));
        }
        Ok(ledger)
    }

    fn why_out_of_reach(&self, holders: &[NodeId]) -> String {
        let marks = self.gather.relay().directory().marks();
        let said: Vec<String> =
            holders.iter().filter_map(|holder| Some(marks.get(holder)?.why.clone())).collect();
        match said.first() {
            Some(first) => first.clone(),
            None => "no holder has said what it holds".to_owned(),
        }
    }

    fn cut_rows(&self, key: PlanKey, plan: &QueryPlan, ledger: Vec<Entry>) -> Result<ResultSet, QueryError> {
        let day_rows: Vec<u64> = coverage::rows_taken(&ledger).map(|(_, served)| served.rows_taken).collect();
        let total = day_rows.iter().sum();
        let limits = &self.overlay.limits;
        if total > limits.max_rows {
            let message = format!(
                "the result has {total} rows, limit {} (limits.max_rows); ask for fewer days, or set a limit",
                limits.max_rows
            );
            return Err(QueryError::TooLarge { limit: "limits.max_rows", message });
        }
        let bounds = ChunkBounds { worst_row_bytes: worst_row_bytes(plan, &ledger), ..plan.bounds };
        let plan = QueryPlan { bounds: bounds.large_enough_for(total), ..plan.clone() };
        let chunk_rows = checked_chunks(&plan.bounds, &day_rows, plan.query.limit)?;
        let limit_reached = plan.query.limit.is_some_and(|limit| total >= limit);
        Ok(ResultSet::new(key, Arc::new(plan), ledger, total, limit_reached, &chunk_rows))
    }

    fn cut_groups(
        &self,
        key: PlanKey,
        plan: &QueryPlan,
        mut ledger: Vec<Entry>,
        groups: Groups,
    ) -> Result<ResultSet, QueryError> {
        for entry in &mut ledger {
            if let Outcome::Served(served) = &mut entry.outcome {
                served.rows_taken = served.rows_matched;
            }
        }
        let groups = self.keep_groups(&key, plan, groups)?;
        let total = groups.len() as u64;
        let plan = QueryPlan { bounds: plan.bounds.large_enough_for(total), ..plan.clone() };
        let bounds = ChunkBounds {
            worst_row_bytes: plan.query.encoding.of(&frame::worst_group_bytes(&groups)),
            ..plan.bounds
        };
        let chunk_rows = checked_chunks(&bounds, &[total], plan.query.limit)?;
        let limit_reached = plan.query.limit.is_some_and(|limit| total >= limit);
        Ok(ResultSet::new(key, Arc::new(plan), ledger, total, limit_reached, &chunk_rows))
    }

    /// The first groups by key, up to the limit; kept for the chunks while there is room.
    fn keep_groups(
        &self,
        key: &PlanKey,
        plan: &QueryPlan,
        mut groups: Groups,
    ) -> Result<Arc<Groups>, QueryError> {
        let max_groups = self.overlay.limits.max_groups;
        if groups.len() > max_groups {
            let message = aggregate::too_many_groups(max_groups);
            return Err(QueryError::TooLarge { limit: "limits.max_groups", message });
        }
        let limit = plan.query.limit.unwrap_or(u64::MAX).min(usize::MAX as u64) as usize;
        groups.truncate(limit);
        let bytes = groups.bytes();
        let groups = Arc::new(groups);
        self.aggregates.insert(key.clone(), groups.clone(), bytes + key.len());
        Ok(groups)
    }

    /// Computes an aggregate again that was evicted, over the same days at the same versions.
    pub(super) async fn aggregate_again(
        &self,
        result_set: &ResultSet,
        requester: &Requester,
        call: &Call,
    ) -> Result<Arc<Groups>, QueryError> {
        let rows = result_set.plan.cost_by_team().into_values().sum();
        let _alone = self.recounts.acquire(requester, rows).await?;
        if let Some(groups) = self.aggregates.get(&result_set.key) {
            return Ok(groups);
        }
        let plan = &result_set.plan;
        let is_served = |entry: &&Entry| matches!(entry.outcome, Outcome::Served(_));
        let days: BTreeSet<Day> = result_set.ledger.iter().filter(is_served).map(|entry| entry.day).collect();
        let asks: Vec<_> = plan.asks().filter(|(planned, _)| days.contains(&planned.day)).collect();
        let counted = self.count_days(plan, &asks, self.gather.next_turn(), call, true).await;
        let mut failed = BTreeMap::new();
        let mut served = BTreeMap::new();
        for (day, result) in counted.days {
            match result {
                Ok(of_day) => drop(served.insert(day, of_day)),
                Err(unanswered) => drop(failed.insert(day, unanswered)),
            }
        }
        if !failed.is_empty() {
            return Err(unread(failed));
        }
        let contradictions = contradictions(result_set, &served, counted.groups.len() as u64);
        if !contradictions.is_empty() {
            return Err(unread(contradictions));
        }
        self.keep_groups(&result_set.key, plan, counted.groups)
    }

    /// Keeps the first chunk if the frames that came along with the counts are exactly it.
    fn keep_first_chunk(&self, result_set: &ResultSet, mut frames: BTreeMap<Day, Frame>) {
        let days = result_set.chunk_days(0).unwrap_or_default();
        if result_set.plan.query.aggregate.is_some() {
            return;
        }
        let chunk: Option<Vec<Frame>> = days
            .iter()
            .map(|rows| {
                frames
                    .remove(&rows.day)
                    .filter(|frame| (frame.first_row, frame.rows) == (rows.first_row, rows.rows))
            })
            .collect();
        if let Some(chunk) = chunk {
            self.keep_chunk((result_set.key.clone(), 0), chunk);
        }
    }
}

/// Bytes that one row may take, over the days that rows are taken from: what nobody needs must not move a boundary.
fn worst_row_bytes(plan: &QueryPlan, ledger: &[Entry]) -> u32 {
    let taken: BTreeSet<Day> = coverage::rows_taken(ledger)
        .filter(|(_, served)| served.rows_taken > 0)
        .map(|(day, _)| day)
        .collect();
    let asks = plan.asks().filter(|(planned, _)| taken.contains(&planned.day));
    asks.map(|(_, ask)| ask.worst_row_bytes).max().unwrap_or(1)
}

/// How many of `asks` to count next to find `wanted` rows, if `share` of each bound matches.
fn wave(asks: &[(&PlannedDay, &Ask)], wanted: u64, share: f64) -> usize {
    let mut expected = 0.0;
    for (index, (_, ask)) in asks.iter().enumerate() {
        expected += ask.rows_at_most as f64 * share;
        if expected >= wanted as f64 {
            return index + 1;
        }
    }
    asks.len()
}

fn checked_chunks(
    bounds: &ChunkBounds,
    day_rows: &[u64],
    limit: Option<u64>,
) -> Result<Vec<u32>, InvalidQuery> {
    let chunk_rows = bounds.cut(day_rows, limit);
    if chunk_rows.len() <= MAX_CHUNKS {
        return Ok(chunk_rows);
    }
    let total: u64 = day_rows.iter().sum();
    let ChunkBounds { strategy, fixed_rows, chunk_bytes, .. } = bounds;
    let why = format!(
        "{total} records make more than {MAX_CHUNKS} chunks (chunking {strategy}, chunk_rows {fixed_rows}, \
         chunk_bytes {chunk_bytes}): ask for larger chunks, or for fewer days"
    );
    Err(InvalidQuery::new("chunking", why))
}

/// Days of an aggregate that were counted again, at the same versions, to something else than its result has.
fn contradictions(
    result_set: &ResultSet,
    again: &BTreeMap<Day, Served>,
    groups: u64,
) -> BTreeMap<Day, Unanswered> {
    let limit = result_set.plan.query.limit.unwrap_or(u64::MAX);
    let other_groups = groups.min(limit) != result_set.total_records;
    let contradicted = |(day, before): (Day, &Served)| {
        let now = again.get(&day)?;
        if now.rows_matched == before.rows_matched && !other_groups {
            return None;
        }
        let why = format!(
            "{} rows in {groups} groups were counted at version {}, before it were {} rows of a result with {} groups",
            now.rows_matched, now.version, before.rows_matched, result_set.total_records
        );
        Some((day, failure(Cause::BadAnswer, false, why, &[NodeId::from(now.node.as_str())])))
    };
    coverage::rows_taken(&result_set.ledger).filter_map(contradicted).collect()
}

fn failure(cause: Cause, lost: bool, why: String, nodes_tried: &[NodeId]) -> Unanswered {
    Unanswered { cause, lost, why, nodes_tried: nodes_tried.to_vec() }
}

fn missing(day: Day, failed: Unanswered, unanswered: &mut Vec<(Day, Unanswered)>) -> Outcome {
    let outcome = Outcome::Missing {
        why: failed.why.clone(),
        nodes_tried: failed.nodes_tried.iter().map(NodeId::to_string).collect(),
    };
    unanswered.push((day, failed));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    /// Goal: chunks of an aggregate that was evicted are of the groups that its manifest counts, or say who counted others.
    #[test]
    fn aggregate_that_is_counted_again_has_the_rows_and_groups_of_its_result() {
        let day = Day::from_number(20200810).unwrap();
        let served = |node: &str, rows_matched| Served {
            node: node.to_owned(),
            attempt: 1,
            version: Version([1; 16]),
            rows_matched,
            rows_taken: rows_matched,
        };
        let entry = Entry { day, team: "green".into(), outcome: Outcome::Served(served("B", 9)) };
        let result = |limit, groups| {
            let mut plan = QueryPlan::default();
            plan.query.limit = limit;
            ResultSet::new(
                Arc::from([]),
                Arc::new(plan),
                vec![entry.clone()],
                groups,
                false,
                &[groups as u32],
            )
        };
        let said = |result: &ResultSet, rows, groups| {
            let again = BTreeMap::from([(day, served("C", rows))]);
            let found = contradictions(result, &again, groups).remove(&day)?;
            Some((found.cause, found.nodes_tried))
        };
        let by_c = Some((Cause::BadAnswer, vec![NodeId::from("C")]));
        let whole = result(None, 3);
        assert_eq!(said(&whole, 9, 3), None);
        assert_eq!(
            [said(&whole, 8, 3), said(&whole, 9, 2), said(&whole, 9, 4)],
            [(); 3].map(|()| by_c.clone())
        );
        let first_three = result(Some(3), 3);
        assert_eq!((said(&first_three, 9, 7), said(&first_three, 9, 2)), (None, by_c));
    }
}
