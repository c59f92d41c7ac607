//! Result sets and caches: leases, room for new ones, the byte budget, chunks that tile their days, and that what is kept
//! is whole and of the data's present version.
//!
//! The pure parts run against naive models over random steps. Three tests need nodes: what is cached there, and when.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use overlay::cache::ByteCache;
use overlay::coverage::{Entry, Outcome, Served};
use overlay::day::Day;
use overlay::frame::Encoding;
use overlay::plan::{Query, QueryPlan};
use overlay::result_set::{LEASE_OVERHEAD_BYTES, LeaseError, LeaseLimits, Leases, Owner, ResultSet};
use overlay::store::Version;
use overlay_harness::answer::{self, ask, assert_equal_rows};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster};
use overlay_harness::dataset::DatasetSpec;
use overlay_harness::for_all::for_all;
use overlay_harness::oracle::{Oracle, OracleQuery, OracleRow, TeamRange};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

#[derive(Clone, Debug)]
enum CacheStep {
    Insert { key: u8, bytes: usize },
    Get(u8),
}

/// Method: the model is a list, least recently used first. Nothing is ever over the budget, what was used longest
/// ago goes first, and no more than has to.
#[test]
fn cache_keeps_its_budget_and_forgets_the_least_recently_used() {
    let step = prop_oneof![
        (0..8u8, 0..40usize).prop_map(|(key, bytes)| CacheStep::Insert { key, bytes }),
        (0..8u8).prop_map(CacheStep::Get),
    ];
    for_all(300, (0..100usize, vec(step, 0..60)), |(budget, steps)| {
        let cache = ByteCache::new(budget);
        let mut model: Vec<(u8, usize, usize)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                CacheStep::Insert { key, bytes } => {
                    cache.insert(key, number, bytes);
                    model.retain(|(kept, ..)| *kept != key);
                    if bytes <= budget {
                        model.push((key, number, bytes));
                    }
                    while model.iter().map(|(.., bytes)| bytes).sum::<usize>() > budget {
                        model.remove(0);
                    }
                }
                CacheStep::Get(key) => {
                    let index = model.iter().position(|(kept, ..)| *kept == key);
                    let found = index.map(|index| model.remove(index));
                    model.extend(found);
                    prop_assert_eq!(cache.get(&key), found.map(|(_, value, _)| value));
                }
            }
            prop_assert_eq!(cache.bytes(), model.iter().map(|(.., bytes)| bytes).sum::<usize>());
            prop_assert!(cache.bytes() <= budget);
        }
        Ok(())
    });
}

fn entry(index: usize, rows: u64) -> Entry {
    let served = Served {
        node: "B".to_owned(),
        attempt: 1,
        version: Version([index as u8; 16]),
        rows_matched: rows,
        rows_taken: rows,
    };
    let day = Day::from_number(20200801 + index as u64).unwrap();
    Entry { day, team: "green".into(), outcome: Outcome::Served(served) }
}

fn result_set(days: &[u64], chunk_rows: &[u32]) -> ResultSet {
    let ledger = days.iter().enumerate().map(|(index, rows)| entry(index, *rows)).collect();
    let total = days.iter().sum();
    ResultSet::new(Arc::from(*b"key"), Arc::new(QueryPlan::default()), ledger, total, false, chunk_rows)
}

/// Cuts `total` into chunks of the sizes given, in turn.
fn cut(total: u64, sizes: &[u32]) -> Vec<u32> {
    let mut rest = total as u32;
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        let rows = rest.min(*size);
        chunks.push(rows);
        rest -= rows;
        if rest == 0 {
            break;
        }
    }
    chunks
}

/// Method: list every row of every day once, as (day, row); the chunks one after the other must be that list.
#[test]
fn chunks_name_every_row_of_every_day_once_and_in_order() {
    for_all(300, (vec(0..30u64, 0..8), vec(1..40u32, 1..5)), |(days, sizes)| {
        let chunk_rows = cut(days.iter().sum(), &sizes);
        let result_set = result_set(&days, &chunk_rows);
        prop_assert_eq!(result_set.chunk_count() as usize, chunk_rows.len());
        prop_assert_eq!(result_set.chunk_rows(), chunk_rows.clone());
        let mut named = Vec::new();
        for (index, rows) in chunk_rows.iter().enumerate() {
            let before = named.len();
            for part in result_set.chunk_days(index as u32).unwrap() {
                prop_assert!(part.rows > 0, "no empty part");
                let day = part.day.number() as usize - 20200801;
                prop_assert_eq!(part.version, Version([day as u8; 16]));
                named.extend((part.first_row..part.first_row + u64::from(part.rows)).map(|row| (day, row)));
            }
            prop_assert_eq!(named.len() - before, *rows as usize);
        }
        let every: Vec<(usize, u64)> =
            days.iter().enumerate().flat_map(|(day, rows)| (0..*rows).map(move |row| (day, row))).collect();
        prop_assert_eq!(named, every);
        for beyond in [chunk_rows.len() as u32, u32::MAX] {
            prop_assert_eq!(result_set.chunk_range(beyond), None);
            prop_assert_eq!(result_set.chunk_days(beyond), None);
        }
        Ok(())
    });
}

const OWNERS: [(&str, Option<&str>); 4] =
    [("10.0.0.1", Some("me")), ("10.0.0.1", Some("you")), ("10.0.0.1", None), ("10.0.0.2", Some("me"))];

fn owner(index: usize) -> Owner {
    let (address, client_id) = OWNERS[index];
    Owner { address: address.to_owned(), client_id: client_id.map(str::to_owned) }
}

/// Who may read is a table here: an id of the same address, and nobody's id is everybody's.
fn may_read(owner: usize, reader: usize) -> bool {
    owner == reader || (owner.min(reader) < 2 && owner.max(reader) == 2)
}

#[derive(Clone, Debug)]
enum LeaseStep {
    Open { owner: usize },
    Touch { lease: usize, reader: usize },
    Close { lease: usize, reader: usize },
    Sweep,
    Wait { ms: u64 },
}

fn lease_step() -> impl Strategy<Value = LeaseStep> {
    let lease = || 0..12usize;
    prop_oneof![
        3 => (0..4usize).prop_map(|owner| LeaseStep::Open { owner }),
        4 => (lease(), 0..4usize).prop_map(|(lease, reader)| LeaseStep::Touch { lease, reader }),
        1 => (lease(), 0..4usize).prop_map(|(lease, reader)| LeaseStep::Close { lease, reader }),
        1 => Just(LeaseStep::Sweep),
        3 => (0..40u64).prop_map(|ms| LeaseStep::Wait { ms }),
    ]
}

/// What the model knows of one lease; it forgets none.
struct Lease {
    uid: String,
    owner: usize,
    opened: u64,
    touched: u64,
    /// The step of its last touch.
    touched_at: usize,
    ended: bool,
}

struct LeaseModel {
    ttl: u64,
    max_age: u64,
    capacity: usize,
    now: u64,
    leases: Vec<Lease>,
}

impl LeaseModel {
    fn ends(&self, lease: &Lease) -> u64 {
        (lease.touched + self.ttl).min(lease.opened + self.max_age)
    }

    fn open_count(&self) -> usize {
        self.leases.iter().filter(|lease| !lease.ended).count()
    }

    fn end_expired(&mut self) {
        for index in 0..self.leases.len() {
            self.leases[index].ended |= self.ends(&self.leases[index]) <= self.now;
        }
    }

    /// Makes room for one more of `newcomer`; or how long it takes until there may be some.
    ///
    /// Of the addresses that have more than one, or are the newcomer's, the one with most sets gives one up: of its id with
    /// most, the one touched longest ago. Of equals the newcomer's own comes first; then the address that is last by name, and the id whose set is oldest.
    fn make_room(&mut self, newcomer: usize) -> Result<(), u64> {
        if self.open_count() >= self.capacity {
            self.end_expired();
        }
        if self.open_count() < self.capacity {
            return Ok(());
        }
        let open: Vec<(usize, &Lease)> =
            self.leases.iter().enumerate().filter(|(_, lease)| !lease.ended).collect();
        let count = |is: &dyn Fn(usize) -> bool| open.iter().filter(|(_, lease)| is(lease.owner)).count();
        let of_address = |address: &str| count(&|owner| OWNERS[owner].0 == address);
        let most = (0..OWNERS.len())
            .filter(|owner| count(&|other| other == *owner) > 0)
            .filter(|owner| of_address(OWNERS[*owner].0) > 1 || OWNERS[*owner].0 == OWNERS[newcomer].0)
            .max_by_key(|owner| {
                let (address, id) = OWNERS[*owner];
                let own_address = address == OWNERS[newcomer].0;
                let own = count(&|other| other == *owner);
                let of_owner = open.iter().filter(|(_, lease)| lease.owner == *owner);
                let oldest = of_owner.map(|(_, lease)| lease.touched_at).min().map(Reverse);
                let same_id = id == OWNERS[newcomer].1;
                (of_address(address), own_address, address, own, same_id, oldest)
            });
        let of_most = open.iter().filter(|(_, lease)| Some(lease.owner) == most);
        let oldest = of_most.min_by_key(|(_, lease)| lease.touched_at);
        match oldest.map(|(index, _)| *index) {
            Some(index) => {
                self.leases[index].ended = true;
                Ok(())
            }
            None => Err(open.iter().map(|(_, lease)| self.ends(lease) - self.now).min().unwrap()),
        }
    }
}

/// Limits of all clients together.
fn limits(ttl: Duration, max_age: Duration, bytes: usize) -> LeaseLimits {
    LeaseLimits { ttl, max_age, bytes, client_sets: usize::MAX, client_bytes: usize::MAX }
}

/// Goal: a lease lasts `ttl` from its last touch and `max_age` at most; expired and unknown differ; at capacity the
/// address with most sets gives up its oldest, and none its only one to another; a uid serves its owner alone.
#[test]
fn leases_follow_their_model() {
    let inputs = (1..50u64, 0..100u64, 1..4usize, vec(lease_step(), 0..80));
    for_all(400, inputs, |(ttl, more, capacity, steps)| {
        let ms = Duration::from_millis;
        let lease_bytes = LEASE_OVERHEAD_BYTES + result_set(&[], &[0]).bytes();
        let leases = Leases::new("A", 7, limits(ms(ttl), ms(ttl + more), capacity * lease_bytes));
        let start = Instant::now();
        let mut model = LeaseModel { ttl, max_age: ttl + more, capacity, now: 0, leases: Vec::new() };
        for (number, step) in steps.into_iter().enumerate() {
            let now = start + ms(model.now);
            match step {
                LeaseStep::Wait { ms } => model.now += ms,
                LeaseStep::Sweep => {
                    leases.sweep(now);
                    model.end_expired();
                }
                LeaseStep::Open { owner: index } => {
                    let opened = leases.open(Arc::new(result_set(&[], &[0])), owner(index), 1, now);
                    match model.make_room(index) {
                        Ok(()) => model.leases.push(Lease {
                            uid: opened.expect("there is room"),
                            owner: index,
                            opened: model.now,
                            touched: model.now,
                            touched_at: number,
                            ended: false,
                        }),
                        Err(wait) => {
                            let refused = opened.expect_err("nobody has two");
                            let found = (refused.found, refused.retry_after);
                            prop_assert_eq!(found, (capacity * lease_bytes, ms(wait)));
                        }
                    }
                }
                LeaseStep::Touch { lease, reader } => {
                    let Some(index) = (lease < model.leases.len()).then_some(lease) else { continue };
                    let ends = model.ends(&model.leases[index]);
                    let (now_ms, lease) = (model.now, &mut model.leases[index]);
                    let touched = leases.touch(&lease.uid, &owner(reader), now).map(|_| ());
                    let expired = Err(LeaseError::Expired(lease.uid.clone()));
                    if lease.ended {
                        prop_assert_eq!(touched, expired);
                    } else if !may_read(lease.owner, reader) {
                        prop_assert_eq!(touched, Err(LeaseError::Unknown(lease.uid.clone())));
                    } else if ends <= now_ms {
                        prop_assert_eq!(touched, expired);
                        lease.ended = true;
                    } else {
                        prop_assert_eq!(touched, Ok(()));
                        lease.touched = now_ms;
                        lease.touched_at = number;
                    }
                }
                LeaseStep::Close { lease, reader } => {
                    let Some(index) = (lease < model.leases.len()).then_some(lease) else { continue };
                    let lasts = model.ends(&model.leases[index]) > model.now;
                    let lease = &mut model.leases[index];
                    let is_readers = !lease.ended && may_read(lease.owner, reader);
                    prop_assert_eq!(leases.close(&lease.uid, &owner(reader), now), is_readers && lasts);
                    // One that had ended unseen is gone as well.
                    lease.ended |= is_readers;
                }
            }
            prop_assert_eq!(leases.open_count(), model.open_count());
        }
        Ok(())
    });
}

/// A uid in which any one character was changed is unknown, or expired: it never gives the result set.
#[test]
fn guessed_uid_gives_nothing() {
    for_all(300, (any::<u64>(), any::<prop::sample::Index>(), "[0-9a-fA-Z-]"), |(random, place, letter)| {
        let leases = Leases::new("A", 7, limits(Duration::from_secs(1), Duration::from_secs(1), 65_536));
        let now = Instant::now();
        let uid = leases.open(Arc::new(result_set(&[], &[0])), owner(0), random, now).unwrap();
        let place = place.index(uid.len());
        let guessed = format!("{}{letter}{}", &uid[..place], &uid[place + 1..]);
        prop_assert_eq!(leases.touch(&guessed, &owner(0), now).is_ok(), guessed == uid);
        Ok(())
    });
}

fn three_days(seed: u64) -> DatasetSpec {
    DatasetSpec {
        seed,
        first_day: 20200819,
        last_day: 20200821,
        sites: 3,
        skipped_days: Default::default(),
        ..DatasetSpec::default()
    }
}

fn oracle_rows(root: &Path) -> Vec<Value> {
    let oracle = Oracle::read(root, &TeamRange::green_and_pink()).unwrap();
    oracle.rows(&OracleQuery::default()).into_iter().map(OracleRow::to_json).collect()
}

/// Only days that have files: which holder says that a day has none may change with the holders that are up, and with it
/// which results are equal.
fn days_with_files() -> Query {
    let bounds =
        OracleQuery { date_start: Some(20200819), date_end: Some(20200821), ..OracleQuery::default() };
    answer::query(&bounds, Encoding::Json)
}

fn everything() -> Query {
    answer::query(&OracleQuery::default(), Encoding::Json)
}

/// Goal: what is kept is kept for its versions only, and an answer is of one version. Method: the same query before and
/// after the files of one team changed and its members restarted. The leader, which keeps the result, goes on running
/// and hears of it within `probe_ms`; until then it answers with the old rows, then with the new ones.
#[tokio::test(flavor = "multi_thread")]
async fn equal_query_gives_the_new_rows_once_the_data_changed() {
    let root = overlay_harness::scratch::folder().unwrap();
    let data = root.path().join("data");
    three_days(1).write(&data).unwrap();
    let spec = ClusterSpec::six_nodes(&data).with(json!({"limits": {"probe_ms": 200}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "me").unwrap();
    let (first, rows) = ask(&client, &days_with_files()).await.unwrap();
    let old = oracle_rows(&data);
    assert_equal_rows(&"first", &old, &rows);
    let (kept, rows) = ask(&client, &days_with_files()).await.unwrap();
    assert_eq!(
        (first.statistics.is_empty(), kept.statistics.is_empty()),
        (false, true),
        "the second is kept"
    );
    assert_equal_rows(&"kept", &old, &rows);
    let changed = root.path().join("changed");
    three_days(2).write(&changed).unwrap();
    std::fs::remove_dir_all(data.join("20200821")).unwrap();
    std::fs::rename(changed.join("20200821"), data.join("20200821")).unwrap();
    for id in ["D", "E", "F"] {
        cluster.restart(id).await.unwrap();
    }
    let new = oracle_rows(&data);
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (again, rows) = ask(&client, &days_with_files()).await.unwrap();
        if again.ledger != first.ledger {
            break assert_equal_rows(&"after the change", &new, &rows);
        }
        assert_equal_rows(&"before the leader knows", &old, &rows);
        assert!(Instant::now() < until, "the leader never heard of the change");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Goal: what lacks days is kept for nobody else. Method: green goes down unnoticed, so that its days are planned as if it
/// were there, and the partial result is read; then green comes back, and the plan is the same again.
#[tokio::test(flavor = "multi_thread")]
async fn whole_result_has_nothing_of_a_partial_one_with_the_same_plan() {
    let root = overlay_harness::scratch::folder().unwrap();
    three_days(1).write(root.path()).unwrap();
    let spec = ClusterSpec::six_nodes(root.path()).with(json!({"limits": {"probe_ms": 600_000}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "me").unwrap();
    let pink = Query { team: Some("pink".to_owned()), ..days_with_files() };
    let (_, of_pink) = ask(&client, &pink).await.unwrap();
    let partial = Query { allow_partial: true, ..days_with_files() };
    for id in ["B", "C"] {
        cluster.crash(id).await.unwrap();
    }
    assert_equal_rows(&"without green", &of_pink, &ask(&client, &partial).await.unwrap().1);
    for id in ["B", "C"] {
        cluster.restart(id).await.unwrap();
    }
    assert_equal_rows(&"with green", &oracle_rows(root.path()), &ask(&client, &partial).await.unwrap().1);
}

/// Goal: a chunk is the same bytes whenever it is read, from a cache or not. Method: every chunk 3 times in random
/// order, from a node that keeps nothing and from one whose caches hold a few chunks.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_is_the_same_bytes_however_often_it_was_evicted() {
    let mut rng = fastrand::Rng::with_seed(0x51f5);
    let mut first_read: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
    for bytes in [0, 20_000] {
        let cache = json!({"result_bytes": bytes, "chunk_bytes": bytes, "selection_bytes": bytes});
        let spec = ClusterSpec::fixtures().with(json!({"cache": cache}));
        let cluster = InProcessCluster::start(spec).await.unwrap();
        let client = cluster.client("A", "me").unwrap();
        let result = client.query(&everything()).await.unwrap();
        let mut reads: Vec<u32> = (0..result.chunk_count()).flat_map(|index| [index; 3]).collect();
        rng.shuffle(&mut reads);
        for index in reads {
            let chunk = client.chunk(&result, index).await.unwrap();
            let payloads: Vec<Bytes> = chunk.frames.into_iter().map(|frame| frame.payload).collect();
            assert_eq!(
                first_read.entry(index).or_insert_with(|| payloads.clone()),
                &payloads,
                "chunk {index}"
            );
        }
    }
}
