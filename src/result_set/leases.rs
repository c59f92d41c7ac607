//! Which result sets can be read, by whom, and how long.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::ResultSet;
use super::reading::{Reading, Window};

/// What a lease takes beside its result set: uid, owner, places in the registers.
pub const LEASE_OVERHEAD_BYTES: usize = 512;

/// Whose result set it is: only they may read it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The name of the client's token, or else its address without the port; empty where the network has none.
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

/// A client's result sets that were touched so lately count as being read: it does not lose them to another one of its own.
const IN_USE: Duration = Duration::from_secs(1);

/// There is no room for another result set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {found}{}, limit {limit} ({}); {}",
    .of.words().0, .of.words().1, .of.limit_name(), self.advice()
)]
pub struct TooManyResultSets {
    /// Whose, and counted how.
    pub of: ResultSetLimit,
    /// What there is.
    pub found: usize,
    /// What there may be.
    pub limit: usize,
    /// When there will be room: when a lease may end, or a set is not being read any more.
    pub retry_after: Duration,
}

/// What bounds result sets under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultSetLimit {
    /// The bytes of all of them: no address has one to spare.
    Bytes,
    /// The same, and one alone has more.
    BytesOfOne,
    /// The number of one client's.
    OfClient,
    /// The bytes of one client's.
    BytesOfClient,
}

impl ResultSetLimit {
    /// The limit's key in the configuration.
    pub fn limit_name(self) -> &'static str {
        match self {
            Self::Bytes | Self::BytesOfOne => "limits.result_set_bytes",
            Self::OfClient => "limits.client_result_sets",
            Self::BytesOfClient => "limits.client_result_set_bytes",
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Bytes => ("open result sets take", " bytes"),
            Self::BytesOfOne => ("this result set would take", " bytes"),
            Self::OfClient => ("this client reads", " open result sets"),
            Self::BytesOfClient => ("this client reads open result sets of", " bytes"),
        }
    }
}

impl TooManyResultSets {
    fn advice(&self) -> String {
        let later = format!("retry after {} ms", self.retry_after.as_millis());
        match self.of {
            ResultSetLimit::Bytes => later,
            ResultSetLimit::BytesOfOne => "ask for fewer days, or for larger chunks".to_owned(),
            ResultSetLimit::OfClient | ResultSetLimit::BytesOfClient => {
                format!("cancel one that is read, or {later}")
            }
        }
    }
}

/// How long leases last, and what they may take.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// From the last touch.
    pub ttl: Duration,
    /// From the opening.
    pub max_age: Duration,
    /// Bytes of all together.
    pub bytes: usize,
    /// Result sets of one client, at least 1.
    pub client_sets: usize,
    /// Bytes of one client's.
    pub client_bytes: usize,
}

/// The result sets that a node keeps, each under a lease that every touch renews.
///
/// At its own limits a client gives up the set that it touched longest ago. If all are being read it is refused, but for a
/// client of the old contract, which can end none, and under whose name all of its address ask.
///
/// At the limit of bytes the address that holds most of them makes room, unless it has but one and is not the
/// newcomer's; there the client that holds most, with the set that it touched longest ago. So nobody can keep others
/// out by leaving results unread, under whatever ids, and an address loses its only set to nobody else.
///
/// A uid carries node, incarnation, sequence number and random bits, so that an expired uid is told
/// from an unknown one without remembering it.
pub struct Leases {
    prefix: String,
    limits: LeaseLimits,
    inner: Mutex<LeasesInner>,
}

#[derive(Default)]
struct LeasesInner {
    next_sequence: u64,
    next_touch: u64,
    /// By sequence number, so in the order of their opening.
    leases: BTreeMap<u64, Lease>,
    /// Sequence numbers of all, by last touch.
    by_touch: BTreeMap<u64, u64>,
    bytes: usize,
    addresses: BTreeMap<String, Holding>,
}

/// What the clients of one address hold.
#[derive(Default)]
struct Holding {
    bytes: usize,
    clients: BTreeMap<Option<String>, ClientHolding>,
}

#[derive(Default)]
struct ClientHolding {
    bytes: usize,
    /// Sequence numbers, by last touch.
    by_touch: BTreeMap<u64, u64>,
}

struct Lease {
    uid: String,
    owner: Owner,
    result_set: Arc<ResultSet>,
    bytes: usize,
    opened: Instant,
    touched: Instant,
    touch: u64,
    reading: Reading,
}

impl Leases {
    /// No lease yet.
    pub fn new(node: &str, incarnation: u64, limits: LeaseLimits) -> Self {
        Leases { prefix: format!("{node}-{incarnation:016x}"), limits, inner: Mutex::default() }
    }

    /// How long a lease lasts after a touch.
    pub fn ttl(&self) -> Duration {
        self.limits.ttl
    }

    /// Puts a result set under a lease and gives its uid.
    ///
    /// # Errors
    /// [`TooManyResultSets`] if there is no room, and nobody has a set to give up.
    pub fn open(
        &self,
        result_set: Arc<ResultSet>,
        owner: Owner,
        random: u64,
        now: Instant,
    ) -> Result<String, TooManyResultSets> {
        let bytes = lease_bytes(&result_set);
        if bytes > self.limits.bytes {
            let (of, limit, retry_after) = (ResultSetLimit::BytesOfOne, self.limits.bytes, self.limits.ttl);
            return Err(TooManyResultSets { of, found: bytes, limit, retry_after });
        }
        let mut inner = self.lock();
        if self.is_full(&inner, bytes) || self.is_full_for(&inner, &owner, bytes).is_some() {
            self.end_expired(&mut inner, now);
        }
        while let Some((of, found, limit)) = self.is_full_for(&inner, &owner, bytes) {
            let too_many = |retry_after| TooManyResultSets { of, found, limit, retry_after };
            let oldest = inner.touched_longest_ago(&owner).expect("who is at a limit has a set");
            let in_use_until = inner.leases[&oldest].touched + IN_USE;
            if owner.client_id.is_some() && in_use_until > now {
                return Err(too_many(in_use_until - now));
            }
            inner.end(oldest);
        }
        while self.is_full(&inner, bytes) {
            match inner.to_give_up(&owner) {
                Some(sequence) => inner.end(sequence),
                None => return Err(self.too_many(&inner, now)),
            }
        }
        let sequence = inner.next_sequence;
        inner.next_sequence += 1;
        let uid = format!("{}-{sequence:x}-{random:016x}", self.prefix);
        let lease = Lease {
            uid: uid.clone(),
            owner,
            result_set,
            bytes,
            opened: now,
            touched: now,
            touch: 0,
            reading: Reading::default(),
        };
        inner.take_in(sequence, lease);
        Ok(uid)
    }

    /// The result set of a uid, whose lease is thereby renewed.
    ///
    /// # Errors
    /// [`LeaseError`] if it is unknown to this client, or its lease has ended.
    pub fn touch(&self, uid: &str, reader: &Owner, now: Instant) -> Result<Arc<ResultSet>, LeaseError> {
        let mut inner = self.lock();
        let sequence = self.lasting(&mut inner, uid, reader, now)?;
        let lease = inner.leases.get_mut(&sequence).expect("it lasts");
        lease.touched = now;
        let result_set = lease.result_set.clone();
        inner.note_touch(sequence);
        Ok(result_set)
    }

    /// Renews a lease, and says until when it lasts if nobody touches it again.
    ///
    /// # Errors
    /// As of [`Self::touch`].
    pub fn renew(&self, uid: &str, reader: &Owner, now: Instant) -> Result<Instant, LeaseError> {
        self.touch(uid, reader, now)?;
        let mut inner = self.lock();
        let sequence = self.lasting(&mut inner, uid, reader, now)?;
        Ok(self.ends(&inner.leases[&sequence]))
    }

    /// Notes that a client asks for a chunk. Gives what to wait for if the chunk is being read ahead, or was.
    pub fn asks(&self, uid: &str, index: u32) -> Option<Shared<BoxFuture<'static, bool>>> {
        self.reading(uid, |reading| reading.asks(index)).flatten()
    }

    /// Notes that a chunk that was read ahead is not there.
    pub fn stumbles(&self, uid: &str, index: u32) {
        self.reading(uid, |reading| reading.stumbles(index));
    }

    /// How many chunks at most to read together with one that is asked for.
    pub fn together(&self, uid: &str) -> u32 {
        self.reading(uid, |reading| reading.together()).unwrap_or(1)
    }

    /// Notes what was read along with a chunk that was asked for.
    pub fn read_along(&self, uid: &str, chunks: Range<u32>) {
        self.reading(uid, |reading| reading.read_along(chunks));
    }

    /// From which chunk on to read ahead now, and how many chunks at most.
    pub fn begins(&self, uid: &str) -> Option<(u32, u32)> {
        self.reading(uid, |reading| reading.begins()).flatten()
    }

    /// Keeps what is read ahead with the lease, which ends it when it ends; whether it does.
    pub fn reads_ahead(&self, uid: &str, window: Window) -> bool {
        self.reading(uid, |reading| reading.begun(window)).unwrap_or(false)
    }

    fn reading<T>(&self, uid: &str, with: impl FnOnce(&mut Reading) -> T) -> Option<T> {
        let sequence = self.sequence(uid)?;
        self.lock().leases.get_mut(&sequence).map(|lease| with(&mut lease.reading))
    }

    /// Ends a lease at once; whether there was one that `reader` may read under, and that still lasted.
    pub fn close(&self, uid: &str, reader: &Owner, now: Instant) -> bool {
        let mut inner = self.lock();
        let lasting = self.lasting(&mut inner, uid, reader, now);
        lasting.map(|sequence| inner.end(sequence)).is_ok()
    }

    /// The number of a lease that lasts and that `reader` may read under. One that is found to be over is ended.
    fn lasting(
        &self,
        inner: &mut LeasesInner,
        uid: &str,
        reader: &Owner,
        now: Instant,
    ) -> Result<u64, LeaseError> {
        let shown = || uid.chars().take(100).collect();
        let unknown = || LeaseError::Unknown(shown());
        let sequence = self.sequence(uid).ok_or_else(unknown)?;
        if sequence >= inner.next_sequence {
            return Err(unknown());
        }
        let Some(lease) = inner.leases.get(&sequence) else {
            return Err(LeaseError::Expired(shown()));
        };
        if lease.uid != uid || !lease.owner.may_read(reader) {
            return Err(unknown());
        }
        if self.ends(lease) <= now {
            inner.end(sequence);
            return Err(LeaseError::Expired(shown()));
        }
        Ok(sequence)
    }

    /// Ends the leases that nobody touched in time, and those that reached their greatest age.
    pub fn sweep(&self, now: Instant) {
        self.end_expired(&mut self.lock(), now);
    }

    /// Result sets under a lease.
    pub fn open_count(&self) -> usize {
        self.lock().leases.len()
    }

    /// Bytes of all result sets under a lease.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn is_full(&self, inner: &LeasesInner, more: usize) -> bool {
        inner.bytes + more > self.limits.bytes
    }

    /// Which limit one more set of so many bytes would take a client over, what it has, and the limit.
    fn is_full_for(
        &self,
        inner: &LeasesInner,
        owner: &Owner,
        more: usize,
    ) -> Option<(ResultSetLimit, usize, usize)> {
        let of_address = inner.addresses.get(&owner.address);
        let of_client = of_address.and_then(|of| of.clients.get(&owner.client_id));
        let (sets, bytes) = of_client.map_or((0, 0), |of| (of.by_touch.len(), of.bytes));
        let LeaseLimits { client_sets, client_bytes, .. } = self.limits;
        if sets >= client_sets {
            return Some((ResultSetLimit::OfClient, sets, client_sets));
        }
        // One set is always allowed, whatever its size: no waiting would help.
        (sets > 0 && bytes + more > client_bytes).then_some((
            ResultSetLimit::BytesOfClient,
            bytes,
            client_bytes,
        ))
    }

    fn ends(&self, lease: &Lease) -> Instant {
        (lease.touched + self.limits.ttl).min(lease.opened + self.limits.max_age)
    }

    fn end_expired(&self, inner: &mut LeasesInner, now: Instant) {
        while let Some((sequence, end)) = self.next_to_end(inner)
            && end <= now
        {
            inner.end(sequence);
        }
    }

    fn too_many(&self, inner: &LeasesInner, now: Instant) -> TooManyResultSets {
        let end = self.next_to_end(inner).map(|(_, end)| end);
        let retry_after = end.map_or(self.limits.ttl, |end| end.saturating_duration_since(now));
        let (of, limit) = (ResultSetLimit::Bytes, self.limits.bytes);
        TooManyResultSets { of, found: inner.bytes, limit, retry_after }
    }

    /// The lease that ends first, and when. It is the one opened first or the one touched longest ago: the greatest age and the
    /// time after a touch are the same for all.
    fn next_to_end(&self, inner: &LeasesInner) -> Option<(u64, Instant)> {
        let opened_first = inner.leases.keys().next();
        let untouched = inner.by_touch.values().next();
        let ends = opened_first.into_iter().chain(untouched);
        ends.map(|sequence| (*sequence, self.ends(&inner.leases[sequence]))).min_by_key(|(_, end)| *end)
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
    fn touched_longest_ago(&self, owner: &Owner) -> Option<u64> {
        let of_client = self.addresses.get(&owner.address)?.clients.get(&owner.client_id)?;
        of_client.by_touch.values().next().copied()
    }

    /// The set to end, so that `newcomer` can have another one: of the address that holds most among those that have
    /// more than one or are the newcomer's, the one that its client with most touched longest ago.
    fn to_give_up(&self, newcomer: &Owner) -> Option<u64> {
        let can_spare = |(address, of): &(&String, &Holding)| {
            let sets: usize = of.clients.values().map(|client| client.by_touch.len()).sum();
            sets > 1 || **address == newcomer.address
        };
        let sparing = self.addresses.iter().filter(can_spare);
        let most = sparing.max_by_key(|(address, of)| (of.bytes, **address == newcomer.address));
        let clients = &most?.1.clients;
        let oldest = |of: &ClientHolding| of.by_touch.first_key_value().map(|(touch, _)| Reverse(*touch));
        let most = clients.iter().max_by_key(|(id, of)| (of.bytes, **id == newcomer.client_id, oldest(of)));
        most?.1.by_touch.values().next().copied()
    }

    fn take_in(&mut self, sequence: u64, lease: Lease) {
        self.bytes += lease.bytes;
        let address = self.addresses.entry(lease.owner.address.clone()).or_default();
        address.bytes += lease.bytes;
        address.clients.entry(lease.owner.client_id.clone()).or_default().bytes += lease.bytes;
        self.leases.insert(sequence, lease);
        self.note_touch(sequence);
    }

    fn note_touch(&mut self, sequence: u64) {
        self.next_touch += 1;
        let touch = self.next_touch;
        if let Some(lease) = self.leases.get_mut(&sequence) {
            let of_address = self.addresses.get_mut(&lease.owner.address);
            let of_client = of_address.and_then(|of| of.clients.get_mut(&lease.owner.client_id));
            if let Some(of_client) = of_client {
                of_client.by_touch.remove(&lease.touch);
                of_client.by_touch.insert(touch, sequence);
            }
            self.by_touch.remove(&lease.touch);
            self.by_touch.insert(touch, sequence);
            lease.touch = touch;
        }
    }

    fn end(&mut self, sequence: u64) {
        let Some(lease) = self.leases.remove(&sequence) else {
            return;
        };
        self.bytes -= lease.bytes;
        self.by_touch.remove(&lease.touch);
        let Some(of_address) = self.addresses.get_mut(&lease.owner.address) else {
            return;
        };
        of_address.bytes -= lease.bytes;
        if let Some(of_client) = of_address.clients.get_mut(&lease.owner.client_id) {
            of_client.bytes -= lease.bytes;
            of_client.by_touch.remove(&lease.touch);
            if of_client.by_touch.is_empty() {
                of_address.clients.remove(&lease.owner.client_id);
            }
        }
        if of_address.clients.is_empty() {
            self.addresses.remove(&lease.owner.address);
        }
    }
}

/// What a lease on this result set is charged with, also where leases share the set.
fn lease_bytes(result_set: &ResultSet) -> usize {
    LEASE_OVERHEAD_BYTES + result_set.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::QueryPlan;

    fn owner(address: &str, client_id: Option<&str>) -> Owner {
        Owner { address: address.to_owned(), client_id: client_id.map(str::to_owned) }
    }

    fn empty() -> Arc<ResultSet> {
        Arc::new(ResultSet::new(Arc::from([]), Arc::new(QueryPlan::default()), Vec::new(), 0, false, &[0]))
    }

    fn limits(ttl: Duration, max_age: Duration, sets: usize) -> LeaseLimits {
        LeaseLimits { ttl, max_age, bytes: room(sets), client_sets: usize::MAX, client_bytes: usize::MAX }
    }

    /// Room for so many of the sets that `empty` gives.
    fn room(sets: usize) -> usize {
        sets * lease_bytes(&empty())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_when_nobody_touches_it() {
        let (ttl, max_age) = (Duration::from_secs(10), Duration::from_secs(25));
        let leases = Leases::new("A", 7, limits(ttl, max_age, 10));
        let me = owner("10.0.0.1", Some("me"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let uid = leases.open(empty(), me.clone(), 1, start).unwrap();
        assert!(leases.touch(&uid, &me, at(9)).is_ok());
        assert!(leases.touch(&uid, &me, at(18)).is_ok());
        assert!(leases.touch(&uid, &me, at(24)).is_ok());
        let untouched = leases.open(empty(), me.clone(), 2, start).unwrap();
        assert!(!leases.close(&untouched, &me, at(10)), "it has ended, though nobody has looked since");
        let expired = leases.touch(&uid, &me, at(25)).unwrap_err();
        assert_eq!(expired, LeaseError::Expired(uid.clone()), "the greatest age ends it");
        assert_eq!(leases.touch(&uid, &me, at(26)).unwrap_err(), LeaseError::Expired(uid));
        assert_eq!(leases.open_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_and_unknown_differ_and_a_uid_belongs_to_its_client() {
        let second = Duration::from_secs(1);
        let leases = Leases::new("A", 7, limits(second, second, 10));
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
        assert!(!leases.close(&uid, &owner("10.0.0.2", None), now));
        assert!(leases.close(&uid, &me, now));
        assert!(matches!(leases.touch(&uid, &me, now), Err(LeaseError::Expired(_))));
    }

    /// Method: a client fills the node with sets that it never reads; another one's only set outlives them, and so do
    /// those of the flood that were touched last.
    #[tokio::test(start_paused = true)]
    async fn client_with_most_sets_makes_room_with_those_it_touched_longest_ago() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, limits(minute, minute, 4));
        let (light, flood) = (owner("10.0.0.1", Some("light")), owner("10.0.0.1", Some("flood")));
        let now = Instant::now();
        let lights = leases.open(empty(), light.clone(), 0, now).unwrap();
        let floods: Vec<String> =
            (1..=3).map(|bits| leases.open(empty(), flood.clone(), bits, now).unwrap()).collect();
        leases.touch(&floods[0], &flood, now).unwrap();
        let newcomer = leases.open(empty(), owner("10.0.0.2", None), 4, now).unwrap();
        assert_eq!(
            leases.touch(&floods[1], &flood, now).unwrap_err(),
            LeaseError::Expired(floods[1].clone())
        );
        let again = leases.open(empty(), flood.clone(), 5, now).unwrap();
        assert_eq!(
            leases.touch(&floods[2], &flood, now).unwrap_err(),
            LeaseError::Expired(floods[2].clone())
        );
        assert_eq!(leases.open_count(), 4);
        for (uid, reader) in [(&lights, &light), (&floods[0], &flood), (&again, &flood)] {
            assert!(leases.touch(uid, reader, now).is_ok(), "{uid}");
        }
        assert!(leases.touch(&newcomer, &owner("10.0.0.2", None), now).is_ok());
    }

    /// Nobody loses the only set that it has for the sake of somebody else.
    #[tokio::test(start_paused = true)]
    async fn newcomer_is_refused_when_nobody_has_more_than_one_set() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, limits(minute, minute, 2));
        let start = Instant::now();
        for address in ["10.0.0.1", "10.0.0.2"] {
            leases.open(empty(), owner(address, None), 1, start).unwrap();
        }
        let later = start + minute / 3;
        let refused = leases.open(empty(), owner("10.0.0.3", None), 2, later).unwrap_err();
        assert_eq!(
            (refused.found, refused.limit, refused.retry_after),
            (room(2), room(2), minute - minute / 3)
        );
        assert!(
            leases.open(empty(), owner("10.0.0.3", None), 3, start + minute).is_ok(),
            "the leases have ended"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn result_set_that_never_fits_takes_no_room_from_others() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, limits(minute, minute, 1));
        let now = Instant::now();
        let kept = leases.open(empty(), owner("10.0.0.1", None), 1, now).unwrap();
        let large = ResultSet { key: vec![0; room(1)].into(), ..Arc::into_inner(empty()).unwrap() };
        let refused = leases.open(Arc::new(large), owner("10.0.0.1", None), 2, now).unwrap_err();
        assert_eq!((refused.of, refused.limit), (ResultSetLimit::BytesOfOne, room(1)));
        assert!(leases.touch(&kept, &owner("10.0.0.1", None), now).is_ok());
    }

    /// Method: two sets for each client. One of `overlay.v1` keeps what it has just touched and is refused for a second, then
    /// it gives up the one that it touched longest ago; one of the old contract does so at once; others are not concerned.
    #[tokio::test(start_paused = true)]
    async fn client_at_its_own_limit_gives_up_what_it_does_not_read() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, LeaseLimits { client_sets: 2, ..limits(minute, minute, 10) });
        let [me, old] = [Some("me"), None].map(|id| owner("10.0.0.1", id));
        let now = Instant::now();
        let open = |who: &Owner, at| leases.open(empty(), who.clone(), 1, at);
        let first = open(&me, now).unwrap();
        let second = open(&me, now + minute / 60 / 2).unwrap();
        let refused = open(&me, now + minute / 60 / 2).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "this client reads 2 open result sets, limit 2 (limits.client_result_sets); cancel one that is read, or \
             retry after 500 ms"
        );
        assert!(open(&owner("10.0.0.1", Some("other")), now).is_ok());
        let later = now + minute / 60;
        let third = open(&me, later).unwrap();
        assert!(leases.touch(&first, &me, later).is_err());
        assert!(leases.touch(&second, &me, later).is_ok() && leases.touch(&third, &me, later).is_ok());
        assert!(open(&me, later).is_err());
        assert!(leases.close(&second, &me, later));
        assert!(open(&me, later).is_ok());
        let olds = [(); 3].map(|()| open(&old, now).unwrap());
        assert_eq!(olds.map(|uid| leases.touch(&uid, &old, now).is_ok()), [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn client_is_held_to_its_own_bytes() {
        let minute = Duration::from_secs(60);
        let leases = Leases::new("A", 7, LeaseLimits { client_bytes: room(2), ..limits(minute, minute, 10) });
        let me = owner("10.0.0.1", Some("me"));
        let now = Instant::now();
        for _ in 0..2 {
            leases.open(empty(), me.clone(), 1, now).unwrap();
        }
        let refused = leases.open(empty(), me.clone(), 1, now).unwrap_err();
        assert_eq!(
            (refused.of, refused.found, refused.limit),
            (ResultSetLimit::BytesOfClient, room(2), room(2))
        );
        leases.open(empty(), me, 1, now + IN_USE).unwrap();
        assert_eq!((leases.open_count(), leases.bytes()), (2, room(2)));
    }
}
