//! A holder at work: it computes in pieces of days, each charged with its rows, and refuses what it cannot answer for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, poll};
use overlay::admission::{ClientKey, ComputeLimits, ComputeSlots, Order, Requester, Weights};
use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::config::{NodeId, Overlay};
use overlay::day::Day;
use overlay::decimal::{Decimal, ONE};
use overlay::frame::Encoding;
use overlay::holder::Holder;
use overlay::inventory::{DayInventory, MAX_REPLACED_TOLD};
use overlay::load::{LoadOptions, Reloaded, load, load_over};
use overlay::outside::Compute;
use overlay::plan::Query;
use overlay::predicate::Predicate;
use overlay::store::{Store, Version};
use overlay::verb::{Call, Cause, Count, CountItem, Read, ReadItem, Selection};
use overlay_harness::answer::{self, ask, assert_equal_rows};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures};
use overlay_harness::oracle::{self, Measure, Oracle, OracleRow, TeamRange, random_query};
use overlay_harness::topology::Topology;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Goal: where a day is cut into pieces does not show. Method: random queries of nodes that take 7 rows of a day of some
/// 200 at a time.
#[tokio::test(flavor = "multi_thread")]
async fn rows_and_groups_are_the_oracles_however_small_the_pieces() {
    let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"quantum_rows": 7}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "pieces").unwrap();
    let mut rng = fastrand::Rng::with_seed(0x51f6);
    for number in 0..20 {
        let random = random_query(&mut rng, &oracle);
        let what = format!("query {number}: {random}");
        let query = answer::query(&random, Encoding::Json);
        let expected: Vec<Value> = oracle.rows(&random).into_iter().map(OracleRow::to_json).collect();
        assert_equal_rows(&what, &expected, &ask(&client, &query).await.unwrap().1);
        let keys = [oracle::GroupKey::Hour];
        let query = Query { aggregate: Some(answer::aggregate(Measure::Value, &keys)), ..query };
        let expected = oracle.aggregate(&random, Measure::Value, &keys);
        assert_equal_rows(&what, &expected, &ask(&client, &query).await.unwrap().1);
    }
}

/// Goal: who scans much waits for who reads little. Method: while the only slot is taken, one client asks for four scans
/// of a day, each a whole turn of the queue, and another for a row four times, which fit into one turn together.
#[tokio::test]
async fn piece_is_charged_with_its_rows() {
    let held = Held::new(json!({}));
    // So that the reads need no scan: what they select is kept.
    assert_eq!(held.read_first_row().await, 1);
    let nobody =
        Requester { team: "green".into(), client: ClientKey::new("nobody", ""), due: Instant::now() };
    let mut slot = Some(held.slots.acquire(&nobody, 1).await.unwrap());
    let scan = |bound| held.count(bound, None, held.version).map(|_| 's').boxed();
    let read = |_| held.read_first_row().map(|_| 'r').boxed();
    // A scan at a time of another bound, or the next one would be found in the cache.
    let mut waiting: Vec<BoxFuture<char>> = (1..=4).map(scan).chain((1..=4).map(read)).collect();
    let mut order = String::new();
    // Step by step, each in turn: who has the slot computes, and ends at the next step.
    for _ in 0..20 {
        for mut request in std::mem::take(&mut waiting) {
            match poll!(&mut request) {
                Poll::Ready(letter) => order.push(letter),
                Poll::Pending => waiting.push(request),
            }
        }
        slot.take();
    }
    assert_eq!(order, "srrrrsss");
}

/// A day has rows of some twenty sites.
#[tokio::test]
async fn groups_beyond_the_limit_are_refused_where_they_are_made() {
    let by_site = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site] };
    let held = Held::new(json!({"max_groups": 3}));
    assert_eq!(held.count(0, Some(by_site), held.version).await, Err(Cause::TooManyGroups));
}

/// Goal: nor are those of parts that have few enough each.
#[tokio::test]
async fn groups_of_all_parts_together_are_bounded() {
    let by_day_and_site =
        AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Day, GroupKey::Site] };
    let days = ["20200810", "20200814"];
    let counted = async |max_groups: usize| {
        let (holder, items) = holder_of(&days, 2, json!({"short_rows": 0, "max_groups": max_groups}));
        let aggregate = Some(by_day_and_site.clone());
        let spec = Count { selection: selection(Some(0)), aggregate, replaced_too: false };
        holder.count(&spec, items, &call("scans")).await
    };
    let groups = counted(1000).await.groups.len();
    assert_eq!(counted(groups).await.groups.len(), groups);
    let refused = counted(groups - 1).await;
    let causes: Vec<Cause> = refused.failures.iter().map(|failure| failure.cause).collect();
    assert_eq!(causes, [Cause::TooManyGroups; 2]);
}

#[tokio::test]
async fn day_is_not_counted_at_another_version() {
    let held = Held::new(json!({}));
    let other = Version(held.version.0.map(|byte| !byte));
    assert_eq!(held.count(0, None, other).await, Err(Cause::VersionDiffers));
}

/// Goal: a new query gets new data, a result set the data that it was counted from. Method: the day's data are replaced; they
/// are asked for as a new query and as a result set does.
#[tokio::test]
async fn replaced_data_are_read_and_counted_again_but_not_counted_anew() {
    let held = Held::new(json!({}));
    let incarnation = held.holder.state().incarnation;
    held.replace(Instant::now());
    assert_eq!(held.count(0, None, held.version).await, Err(Cause::VersionDiffers));
    assert_eq!(held.count_for(0, None, held.version, true).await, Ok(()));
    assert_eq!(held.read_first_row().await, 1);
    let inventory = held.holder.inventory(incarnation);
    assert_eq!(inventory.incarnation, incarnation + 1, "others are told to ask again, and of no start");
    assert_ne!(inventory.days[&held.day].version, held.version);
    assert_eq!(held.count(0, None, inventory.days[&held.day].version).await, Ok(()));
}

#[tokio::test]
async fn replaced_data_are_kept_as_long_as_a_result_set_may_be() {
    let ages = json!({"query_ms": 1000, "result_ttl_ms": 5000, "result_max_age_ms": 5000, "probe_ms": 100});
    let held = Held::new(ages);
    let start = Instant::now();
    held.replace(start);
    held.look(start + Duration::from_millis(6199));
    assert_eq!(held.read_first_row().await, 1);
    held.look(start + Duration::from_millis(6200));
    assert_eq!(held.read_first_row().await, 0);
    assert_eq!(held.holder.store().unwrap().replaced_bytes(), 0);
}

/// Goal: who plans for a client that resumes a result knows who keeps its data, and when nobody does any more.
#[tokio::test]
async fn replaced_data_are_told_with_their_statistics_while_they_are_kept() {
    let ages = json!({"query_ms": 1000, "result_ttl_ms": 5000, "result_max_age_ms": 5000, "probe_ms": 100});
    let held = Held::new(ages);
    let (start, before) = (Instant::now(), held.told());
    assert!(before.replaced.is_empty());
    held.replace(start);
    let kept = held.holder.state().incarnation;
    assert_eq!(held.told().replaced, BTreeMap::from([(before.version, before.statistics)]));
    held.look(start + Duration::from_millis(6199));
    assert_eq!((held.holder.state().incarnation, held.told().replaced.len()), (kept, 1));
    held.look(start + Duration::from_millis(6200));
    assert_ne!(held.holder.state().incarnation, kept, "others are told to ask again");
    assert!(held.told().replaced.is_empty());
}

/// Method: the day loses its data, has other ones, and has none again.
#[tokio::test]
async fn day_without_data_is_told_as_what_its_data_have_replaced() {
    let held = Held::new(json!({}));
    let none = Version::of_no_data();
    let replaced = || held.told().replaced.into_iter().map(|(version, of)| (version, of.files)).collect();
    held.take("", Instant::now());
    assert_eq!((held.told().version, replaced()), (none, BTreeMap::from([(held.version, 4)])));
    held.take(&row(1), Instant::now());
    let some = held.told().version;
    assert_eq!(replaced(), BTreeMap::from([(held.version, 4), (none, 0)]));
    held.take("", Instant::now());
    assert_eq!(replaced(), BTreeMap::from([(held.version, 4), (some, 1)]));
}

/// Goal: an inventory stays small, however fast files change. Method: one more version than are told; the data are not lost.
#[tokio::test]
async fn latest_of_many_replaced_versions_are_told() {
    let held = Held::new(json!({}));
    let start = Instant::now();
    for number in 0..=MAX_REPLACED_TOLD {
        held.take(&row(number), start + Duration::from_millis(number as u64));
    }
    let replaced = held.told().replaced;
    assert_eq!((replaced.len(), replaced.contains_key(&held.version)), (MAX_REPLACED_TOLD, false));
    assert_eq!(held.read_first_row().await, 1);
}

#[tokio::test]
async fn replaced_data_that_find_no_room_go() {
    let held = Held::new(json!({"replaced_bytes": 100}));
    held.replace(Instant::now());
    assert_eq!(held.read_first_row().await, 0);
}

/// Goal: that a day had no data, which takes no room, is not forgotten to make some.
#[tokio::test]
async fn day_without_data_takes_no_room_of_what_is_replaced() {
    let held = Held::new(json!({"replaced_bytes": 0}));
    for text in ["", &row(1), &row(2)] {
        held.take(text, Instant::now());
    }
    let replaced: Vec<Version> = held.told().replaced.into_keys().collect();
    assert_eq!(replaced, [Version::of_no_data()]);
}

#[tokio::test]
async fn look_that_finds_nothing_new_tells_nobody() {
    let held = Held::new(json!({}));
    let incarnation = held.holder.state().incarnation;
    held.look(Instant::now());
    assert_eq!(held.holder.state().incarnation, incarnation);
}

// What the tests above are made of.

/// The node B with one day of the fixtures, a slot to compute in, and turns of as many rows as the day has.
#[derive(Clone)]
struct Held {
    holder: Arc<Holder>,
    slots: ComputeSlots,
    day: Day,
    version: Version,
}

impl Held {
    fn new(limits: Value) -> Self {
        let day: Day = "20200810".parse().unwrap();
        let loaded = load(&fixtures(), &[day].into(), &LoadOptions::default(), &|_| ()).unwrap();
        let batch = loaded.store.day(day).unwrap();
        let (version, rows) = (batch.version, u64::from(batch.row_count()));
        let mut config = Topology::six_nodes().to_json();
        config["limits"] = limits;
        let overlay = Overlay::parse(&config.to_string(), "six nodes").unwrap().overlay;
        let limits = ComputeLimits {
            slots: 1,
            queue_length: 100,
            quantum_rows: rows,
            order: Order::InTurn,
            what: ["piece of work waiting", "pieces of work waiting"],
            limiting_factor: "compute_slots",
        };
        let slots = ComputeSlots::new(limits, Weights::default());
        let (me, placed) = (NodeId::from("B"), [day].into());
        let holder = Holder::new(me, 1, placed, &overlay, slots.clone(), Compute::Inline, Arc::default());
        holder.set_loaded(loaded, Vec::new());
        Held { holder: Arc::new(holder), slots, day, version }
    }

    /// Counts the day's concentrations from `bound` on, for the client that scans.
    async fn count(
        &self,
        bound: i64,
        aggregate: Option<AggregateSpec>,
        version: Version,
    ) -> Result<(), Cause> {
        self.count_for(bound, aggregate, version, false).await
    }

    async fn count_for(
        &self,
        bound: i64,
        aggregate: Option<AggregateSpec>,
        version: Version,
        replaced_too: bool,
    ) -> Result<(), Cause> {
        let item = CountItem {
            day: self.day,
            version,
            node: NodeId::from("B"),
            team: "green".into(),
            attempt: 1,
            first_rows: 0,
        };
        let spec = Count { selection: selection(Some(bound)), aggregate, replaced_too };
        let answers = self.holder.count(&spec, vec![item], &call("scans")).await;
        answers.failures.first().map_or(Ok(()), |failure| Err(failure.cause))
    }

    /// What others are told of the day.
    fn told(&self) -> DayInventory {
        self.holder.inventory(0).days[&self.day].clone()
    }

    /// Leaves the day one file of several.
    fn replace(&self, now: Instant) {
        let file = fixtures().join(format!("{0}/{0}-01.csv", self.day));
        self.take(&std::fs::read_to_string(file).unwrap(), now);
    }

    /// Leaves the day one file of this text; none if there is none.
    fn take(&self, text: &str, now: Instant) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(self.day.to_string());
        std::fs::create_dir(&folder).unwrap();
        if !text.is_empty() {
            std::fs::write(folder.join(format!("{}-01.csv", self.day)), text).unwrap();
        }
        let store = Store::clone(&self.holder.store().unwrap());
        let days = [self.day].into();
        let loaded = load_over(store, root.path(), &days, &LoadOptions::default(), &|_| ()).unwrap();
        let days = [(self.day, loaded.rejected)].into();
        self.holder.replace(Reloaded { store: loaded.store, days, ..Reloaded::default() }, Vec::new(), now);
        self.holder.forget_replaced(now);
    }

    /// As when no file has changed.
    fn look(&self, now: Instant) {
        let store = Store::clone(&self.holder.store().unwrap());
        self.holder.replace(Reloaded { store, ..Reloaded::default() }, Vec::new(), now);
        self.holder.forget_replaced(now);
    }

    /// Reads the day's first row, for the client that reads.
    async fn read_first_row(&self) -> usize {
        let item = ReadItem {
            day: self.day,
            version: self.version,
            node: NodeId::from("B"),
            team: "green".into(),
            first_row: 0,
            frame_rows: vec![1],
        };
        let spec = Read { selection: selection(None) };
        self.holder.read(&spec, vec![item], &call("reads")).await.answers.len()
    }
}

/// The node B with some days of the fixtures, and what asks for all of them.
fn holder_of(days: &[&str], slots: usize, limits: Value) -> (Holder, Vec<CountItem>) {
    let days: BTreeSet<Day> = days.iter().map(|day| day.parse().unwrap()).collect();
    let loaded = load(&fixtures(), &days, &LoadOptions::default(), &|_| ()).unwrap();
    let item = |day: &Day| CountItem {
        day: *day,
        version: loaded.store.day(*day).unwrap().version,
        node: NodeId::from("B"),
        team: "green".into(),
        attempt: 1,
        first_rows: 0,
    };
    let items = days.iter().map(item).collect();
    let mut config = Topology::six_nodes().to_json();
    config["limits"] = limits;
    let overlay = Overlay::parse(&config.to_string(), "six nodes").unwrap().overlay;
    let limits = ComputeLimits {
        slots,
        queue_length: 100,
        quantum_rows: overlay.limits.quantum_rows,
        order: Order::InTurn,
        what: ["piece of work waiting", "pieces of work waiting"],
        limiting_factor: "compute_slots",
    };
    let slots = ComputeSlots::new(limits, Weights::default());
    let holder = Holder::new(NodeId::from("B"), 1, days, &overlay, slots, Compute::Inline, Arc::default());
    holder.set_loaded(loaded, Vec::new());
    (holder, items)
}

/// A row of the day with this concentration.
fn row(value: usize) -> String {
    format!("40.1,-120.5,2020-08-10T01:00,OZONE,{value},PPB,,,,Simi Valley,Agency,1,8401\n")
}

fn selection(bound: Option<i64>) -> Selection {
    let predicate = Predicate { min: bound.map(|bound| Decimal(bound * ONE)), ..Predicate::default() };
    Selection { predicate: Arc::new(predicate), encoding: Encoding::Arrow }
}

fn call(client: &str) -> Call {
    let deadline = Instant::now() + Duration::from_secs(60);
    Call::new(ClientKey::new(client, ""), deadline)
}
