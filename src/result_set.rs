//! A result set is a value: the resolved plan, the pinned version and the row count of each day, the
//! chunk boundaries. About a kilobyte; no rows, no selections.
//!
//! The node that a client asked keeps it under a lease. A chunk maps to row ranges of days, which any
//! holder of their versions can read, as often as wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::coverage::{self, Entry};
use crate::day::Day;
use crate::plan::QueryPlan;
use crate::store::Version;

/// What a query was answered with, as long as its chunks can be read.
#[derive(Debug)]
pub struct ResultSet {
    /// Equal for equal results; see [`QueryPlan::key`].
    pub key: Arc<str>,
    /// The plan that was run.
    pub plan: Arc<QueryPlan>,
    /// One entry for each planned day.
    pub ledger: Vec<Entry>,
    /// Rows, or groups of an aggregate.
    pub total_records: u64,
    /// Whether the limit cut the result, or filled it exactly.
    pub limit_reached: bool,
    /// First record of each chunk, and the end of the last one; never fewer than two.
    boundaries: Vec<u64>,
}

/// Rows of one day's result that a chunk consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRows {
    /// The day.
    pub day: Day,
    /// Its pinned version.
    pub version: Version,
    /// The holder that counted it, which is asked first.
    pub counted_by: String,
    /// First row, in the day's result.
    pub first_row: u64,
    /// Rows.
    pub rows: u32,
}

impl ResultSet {
    /// A result whose chunks have `chunk_rows` records each.
    pub fn new(
        key: Arc<str>,
        plan: Arc<QueryPlan>,
        ledger: Vec<Entry>,
        total_records: u64,
        limit_reached: bool,
        chunk_rows: &[u32],
    ) -> Self {
        let mut boundaries = vec![0];
        let mut end = 0;
        for rows in chunk_rows {
            end += u64::from(*rows);
            boundaries.push(end);
        }
        assert_eq!(end, total_records, "chunks tile the result");
        ResultSet { key, plan, ledger, total_records, limit_reached, boundaries }
    }

    /// Chunks; an empty result has one.
    pub fn chunk_count(&self) -> u32 {
        self.boundaries.len() as u32 - 1
    }

    /// Records of each chunk.
    pub fn chunk_rows(&self) -> Vec<u32> {
        self.boundaries.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect()
    }

    /// The records `[start, end)` that chunk `index` has; `None` beyond the last chunk.
    pub fn chunk_range(&self, index: u32) -> Option<std::ops::Range<u64>> {
        let index = index as usize;
        Some(*self.boundaries.get(index)?..*self.boundaries.get(index + 1)?)
    }

    /// The row ranges of days that chunk `index` consists of, in day order.
    pub fn chunk_days(&self, index: u32) -> Option<Vec<DayRows>> {
        Some(days_of_range(&self.ledger, self.chunk_range(index)?))
    }

    /// About how many bytes this value takes.
    pub fn bytes(&self) -> usize {
        let entry_bytes: usize =
            self.ledger.iter().map(|entry| size_of::<Entry>() + entry.team.len() + 16).sum();
        size_of::<Self>() + entry_bytes + self.boundaries.len() * size_of::<u64>() + self.plan.bytes()
    }
}

/// The row ranges of days that the records `range` of a result consist of, in day order.
pub fn days_of_range(ledger: &[Entry], range: std::ops::Range<u64>) -> Vec<DayRows> {
    let mut days = Vec::new();
    let mut day_start = 0;
    for (day, served) in coverage::rows_taken(ledger) {
        let day_end = day_start + served.rows_taken;
        let (start, end) = (range.start.max(day_start), range.end.min(day_end));
        if start < end {
            days.push(DayRows {
                day,
                version: served.version,
                counted_by: served.node.clone(),
                first_row: start - day_start,
                rows: (end - start) as u32,
            });
        }
        day_start = day_end;
    }
    days
}

/// Whose result set it is: only they may read it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The client's address, without its port; empty where the network has none.
    pub address: String,
    /// The id that the client gave itself; `None` matches every id of the address, since the old
    /// contract reads chunks without one.
    pub client_id: Option<String>,
}

impl Owner {
    fn may_read(&self, reader: &Owner) -> bool {
        let same_id = match (&self.client_id, &reader.client_id) {
            (Some(own), Some(reading)) => own == reading,
            _ => true,
        };
        self.address == reader.address && same_id
    }
}

/// Why a uid gives no result set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// This node never issued it, or not to this client.
    #[error("unknown result set `{0}`: ask the query again, or the node that answered it")]
    Unknown(String),
    /// Its lease ended.
    #[error("the lease of result set `{0}` has ended: ask the query again")]
    Expired(String),
}

/// The node holds as many result sets as it may, all of them still being read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{open} result sets open, limit {open} (limits.result_sets); retry after {} ms", retry_after.as_millis())]
pub struct TooManyResultSets {
    /// Result sets that are open.
    pub open: usize,
    /// When the first of their leases may end.
    pub retry_after: Duration,
}

/// The result sets that a node keeps, each under a lease that every touch renews.
///
/// A uid carries node, incarnation, sequence number and random bits, so that an expired uid is told
/// from an unknown one without remembering it.
pub struct Leases {
    prefix: String,
    ttl: Duration,
    max_age: Duration,
    capacity: usize,
    inner: Mutex<LeasesInner>,
}

#[derive(Default)]
struct LeasesInner {
    next_sequence: u64,
    next_touch: u64,
    leases: BTreeMap<u64, Lease>,
    /// Sequence numbers by last touch, for sets whose last chunk was read.
    read_out: BTreeMap<u64, u64>,
}

struct Lease {
    uid: String,
    owner: Owner,
    result_set: Arc<ResultSet>,
    opened: Instant,
    touched: Instant,
    read_out: Option<u64>,
}

impl Leases {
    /// No lease yet; at most `capacity` at a time.
    pub fn new(node: &str, incarnation: u64, ttl: Duration, max_age: Duration, capacity: usize) -> Self {
        Leases {
            prefix: format!("{node}-{incarnation:016x}"),
            ttl,
            max_age,
            capacity,
            inner: Mutex::default(),
        }
    }

    /// How long a lease lasts after a touch.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Puts a result set under a lease and gives its uid.
    ///
    /// At capacity, the set that was touched longest ago among those read to their last chunk makes room.
    ///
    /// # Errors
    /// [`TooManyResultSets`] if none was read out.
    pub fn open(
        &self,
        result_set: Arc<ResultSet>,
        owner: Owner,
        random: u64,
        now: Instant,
    ) -> Result<String, TooManyResultSets> {
        let mut inner = self.lock();
        if inner.leases.len() >= self.capacity {
            self.end_expired(&mut inner, now);
        }
        if inner.leases.len() >= self.capacity {
            match inner.read_out.pop_first() {
                Some((_, sequence)) => {
                    inner.leases.remove(&sequence);
                }
                None => {
                    let open = inner.leases.len();
                    let ends = inner.leases.values().map(|lease| self.ends(lease)).min();
                    let retry_after = ends.map_or(self.ttl, |end| end.saturating_duration_since(now));
                    return Err(TooManyResultSets { open, retry_after });
                }
            }
        }
        let sequence = inner.next_sequence;
        inner.next_sequence += 1;
        let uid = format!("{}-{sequence:x}-{random:016x}", self.prefix);
        let lease = Lease { uid: uid.clone(), owner, result_set, opened: now, touched: now, read_out: None };
        inner.leases.insert(sequence, lease);
        Ok(uid)
    }

    /// The result set of a uid, whose lease is thereby renewed.
    ///
    /// # Errors
    /// [`LeaseError`] if it is unknown to this client, or its lease has ended.
    pub fn touch(&self, uid: &str, reader: &Owner, now: Instant) -> Result<Arc<ResultSet>, LeaseError> {
        let unknown = || LeaseError::Unknown(uid.chars().take(100).collect());
        let sequence = self.sequence(uid).ok_or_else(unknown)?;
        let mut guard = self.lock();
        let inner = &mut *guard;
        if sequence >= inner.next_sequence {
            return Err(unknown());
        }
        let Some(lease) = inner.leases.get_mut(&sequence) else {
            return Err(LeaseError::Expired(uid.to_owned()));
        };
        if lease.uid != uid || !lease.owner.may_read(reader) {
            return Err(unknown());
        }
        if self.ends(lease) <= now {
            inner.end(sequence);
            return Err(LeaseError::Expired(uid.to_owned()));
        }
        lease.touched = now;
        let result_set = lease.result_set.clone();
        if let Some(touch) = lease.read_out {
            inner.read_out.remove(&touch);
            inner.mark_read_out(sequence);
        }
        Ok(result_set)
    }

    /// Notes that the last chunk of a set was read, so that it may make room for others.
    pub fn read_out(&self, uid: &str) {
        let mut inner = self.lock();
        if let Some(sequence) = self.sequence(uid)
            && inner.leases.get(&sequence).is_some_and(|lease| lease.read_out.is_none())
        {
            inner.mark_read_out(sequence);
        }
    }

    /// Ends a lease at once; whether there was one that `reader` owned.
    pub fn close(&self, uid: &str, reader: &Owner) -> bool {
        let mut inner = self.lock();
        let Some(sequence) = self.sequence(uid) else {
            return false;
        };
        let owned =
            inner.leases.get(&sequence).is_some_and(|lease| lease.uid == uid && lease.owner.may_read(reader));
        if owned {
            inner.end(sequence);
        }
        owned
    }

    /// Ends the leases that nobody touched in time, and those that reached their greatest age.
    pub fn sweep(&self, now: Instant) {
        self.end_expired(&mut self.lock(), now);
    }

    /// Result sets under a lease.
    pub fn open_count(&self) -> usize {
        self.lock().leases.len()
    }

    fn ends(&self, lease: &Lease) -> Instant {
        (lease.touched + self.ttl).min(lease.opened + self.max_age)
    }

    fn end_expired(&self, inner: &mut LeasesInner, now: Instant) {
        let expired: Vec<u64> = inner
            .leases
            .iter()
            .filter(|(_, lease)| self.ends(lease) <= now)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in expired {
            inner.end(sequence);
        }
    }

    /// The sequence number of a uid that this incarnation could have issued.
    fn sequence(&self, uid: &str) -> Option<u64> {
        let rest = uid.strip_prefix(&self.prefix)?.strip_prefix('-')?;
        let (sequence, _) = rest.split_once('-')?;
        u64::from_str_radix(sequence, 16).ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LeasesInner> {
        self.inner.lock().expect("the leases' own code does not panic")
    }
}

impl LeasesInner {
    fn end(&mut self, sequence: u64) {
        if let Some(touch) = self.leases.remove(&sequence).and_then(|lease| lease.read_out) {
            self.read_out.remove(&touch);
        }
    }

    fn mark_read_out(&mut self, sequence: u64) {
        self.next_touch += 1;
        self.read_out.insert(self.next_touch, sequence);
        if let Some(lease) = self.leases.get_mut(&sequence) {
            lease.read_out = Some(self.next_touch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(address: &str, client_id: Option<&str>) -> Owner {
        Owner { address: address.to_owned(), client_id: client_id.map(str::to_owned) }
    }

    fn empty() -> Arc<ResultSet> {
        Arc::new(ResultSet::new(Arc::from(""), Arc::new(QueryPlan::default()), Vec::new(), 0, false, &[0]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_when_nobody_touches_it() {
        let (ttl, max_age) = (Duration::from_secs(10), Duration::from_secs(25));
        let leases = Leases::new("A", 7, ttl, max_age, 10);
        let me = owner("10.0.0.1", Some("me"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let uid = leases.open(empty(), me.clone(), 1, start).unwrap();
        assert!(leases.touch(&uid, &me, at(9)).is_ok());
        assert!(leases.touch(&uid, &me, at(18)).is_ok());
        assert!(leases.touch(&uid, &me, at(24)).is_ok());
        let expired = leases.touch(&uid, &me, at(25)).unwrap_err();
        assert_eq!(expired, LeaseError::Expired(uid.clone()), "the greatest age ends it");
        assert_eq!(leases.touch(&uid, &me, at(26)).unwrap_err(), LeaseError::Expired(uid));
        assert_eq!(leases.open_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_and_unknown_differ_and_a_uid_belongs_to_its_client() {
        let second = Duration::from_secs(1);
        let leases = Leases::new("A", 7, second, second, 10);
        let me = owner("10.0.0.1", Some("me"));
        let now = Instant::now();
        let uid = leases.open(empty(), me.clone(), 1, now).unwrap();
        let unknown =
            |uid: &str, who: &Owner| matches!(leases.touch(uid, who, now), Err(LeaseError::Unknown(_)));
        assert!(unknown("", &me) && unknown("A-0", &me) && unknown("nonsense", &me));
        assert!(unknown(&uid.replace("-0-", "-1-"), &me), "not issued yet");
        assert!(unknown(&uid.replace("0007-", "0008-"), &me), "another incarnation");
        assert!(unknown(&uid.replace("0001", "0002"), &me), "guessed");
        assert!(unknown(&uid, &owner("10.0.0.2", Some("me"))));
        assert!(unknown(&uid, &owner("10.0.0.1", Some("you"))));
        assert!(leases.touch(&uid, &owner("10.0.0.1", None), now).is_ok());
        assert!(!leases.close(&uid, &owner("10.0.0.2", None)));
        assert!(leases.close(&uid, &me));
        assert!(matches!(leases.touch(&uid, &me, now), Err(LeaseError::Expired(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_was_read_out_makes_room_and_others_do_not() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, minute, minute, 2);
        let me = owner("10.0.0.1", None);
        let now = Instant::now();
        let first = leases.open(empty(), me.clone(), 1, now).unwrap();
        let second = leases.open(empty(), me.clone(), 2, now).unwrap();
        let refused = leases.open(empty(), me.clone(), 3, now).unwrap_err();
        assert_eq!((refused.open, refused.retry_after), (2, minute));
        leases.read_out(&second);
        leases.open(empty(), me.clone(), 4, now).unwrap();
        assert!(leases.touch(&first, &me, now).is_ok());
        assert!(leases.touch(&second, &me, now).is_err());
    }
}
