//! Nodes that watch their files: new data are taken at once and whole, and whoever reads older ones reads them to their end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join;
use overlay::client::{Client, ClientError, QueryResult};
use overlay::coverage::{Entry, Outcome};
use overlay::frame::Encoding;
use overlay::plan::Query;
use overlay::store::Version;
use overlay_harness::answer::{self, assert_equal_rows};
use overlay_harness::cluster::{
    Cluster, ClusterSpec, Driver, InProcessCluster, ProcessCluster, fixtures, wait_until,
};
use overlay_harness::dataset::revise;
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, TeamRange, numerically_equal};
use overlay_harness::skip::{real_dataset, skipped};
use overlay_harness::topology::Topology;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

/// Two days of either team.
const DAYS: [u32; 4] = [20200814, 20200820, 20200821, 20200824];

/// Files that are replaced or added.
const CHANGES: u32 = 100;

/// For what the nodes do within a tenth of a second, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn hundred_files_replaced_and_added_under_load_change_no_answer_in_the_middle() {
    changes_under_load(&fixtures()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_data_are_replaced_under_load() {
    if let Some(root) = real_release_data() {
        changes_under_load(&root).await;
    }
}

/// Method: a hundred files are replaced and added; the memory that the replaced days took goes to those that replace them and,
/// when the time of every result set is over, back.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_real_data_that_are_replaced_comes_back() {
    let Some(root) = real_release_data() else { return };
    let data = ChangingData::new(&root);
    let ages = json!({"query_ms": 5000, "result_ttl_ms": 10_000, "result_max_age_ms": 10_000});
    let spec = watching(&data).with(json!({"limits": ages}));
    let cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    let holders = ["B", "C", "D", "E", "F"].map(|node| cluster.client(node, "operator").unwrap());
    let before = memory(&cluster);
    (0..CHANGES).for_each(|number| data.change(number));
    let mut most = 0.0;
    for holder in &holders {
        let taken = async || metric(holder, "overlay_replaced_days_total").await >= 2.0;
        wait_until(WITHIN, async || taken().await.then_some(())).await.expect("new files are taken");
        most += replaced_bytes(holder).await;
    }
    let meanwhile = memory(&cluster);
    for holder in &holders {
        let gone = wait_until(WITHIN, async || (replaced_bytes(holder).await == 0.0).then_some(()));
        gone.await.expect("the old data go");
    }
    // The memory of the last node goes back after its data.
    let back = wait_until(WITHIN, async || {
        let after = memory(&cluster);
        (meanwhile.saturating_sub(after) as f64 * 1e6 > most / 2.0).then_some(after)
    });
    let after = back.await.expect("memory comes back");
    eprintln!(
        "resident {before} MB before, {meanwhile} MB with {:.0} MB of replaced data, {after} MB when they are gone",
        most / 1e6
    );
}

/// The real data, in a release build.
fn real_release_data() -> Option<PathBuf> {
    let root = real_dataset()?;
    if cfg!(debug_assertions) {
        skipped("the real data", "the oracle takes minutes: cargo test --release --test live_data");
        return None;
    }
    Some(root)
}

/// Goal: no answer mixes data of a day, or goes back to older ones; a result set keeps the data that it was counted from; in
/// the end everybody sees the newest.
///
/// Method: each file's every text goes to the oracle before it goes to the nodes. While a hundred files are replaced or added,
/// clients ask for the same rows, and for groups, again and again; each day of each answer has to be one of the states
/// that the day was in, and none older than the client saw before. One reads a result set of the beginning, chunk by
/// chunk, to its end.
async fn changes_under_load(source: &Path) {
    let data = Arc::new(ChangingData::new(source));
    // Groups are computed again for each chunk, also for result sets of older data.
    let caches = json!({"cache": {"aggregate_bytes": 0, "chunk_bytes": 0}});
    let spec = watching(&data).with(caches);
    let cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    let before = memory(&cluster);
    let client = |name: &str| cluster.client("A", name).unwrap();
    let (early, early_groups) = (client("early"), client("early groups"));
    let few = rows_query(Some(25));
    let early_result = early.query(&few).await.unwrap();
    let early_groups_result = early_groups.query(&groups_query(Some(1))).await.unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let askers: Vec<_> = (0..4)
        .map(|number| {
            let (data, done, answers) = (data.clone(), done.clone(), answers.clone());
            let client = client(&format!("asker {number}"));
            tokio::spawn(async move {
                let mut seen = BTreeMap::new();
                while !done.load(Ordering::Relaxed) {
                    match number % 2 {
                        0 => data.check_rows(&ask(&client, &rows_query(None)).await, &mut seen),
                        _ => data.check_groups(&ask(&client, &groups_query(None)).await, &mut seen),
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let chunk_count = early_result.chunk_count();
    for number in 0..CHANGES {
        data.change(number);
        let index = number % chunk_count;
        early.chunk(&early_result, index).await.unwrap();
        // Beside the askers, not in the wake of the watchers: nobody waits for anything.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let newest = data.expected_rows(|states| states.last());
    let latest = client("latest");
    let seen = wait_until(WITHIN, async || {
        let rows = ask(&latest, &rows_query(None)).await;
        let is_newest = rows.len() == newest.len()
            && rows.iter().zip(&newest).all(|(row, newest)| numerically_equal(row, newest));
        is_newest.then_some(())
    });
    seen.await.expect("the newest data are seen");
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap();
    }

    let oldest = data.expected_rows(|states| states.first());
    assert_equal_rows(&"the oldest data", &oldest, &drain(&early, &early_result).await);
    let groups = drain(&early_groups, &early_groups_result).await;
    let oldest: Vec<Value> = data.expected_groups(|states| states.first());
    assert_equal_rows(&"groups of the oldest data", &oldest, &groups);
    let answers = answers.load(Ordering::Relaxed);
    assert!(answers > 20, "{answers} answers");
    eprintln!(
        "{answers} answers while {CHANGES} files changed; resident {before} MB before, {} MB after",
        memory(&cluster)
    );
}

/// Method: data are replaced, a result set is read from the old ones, its time passes.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_data_go_when_no_result_set_can_need_them() {
    let data = ChangingData::new(&fixtures());
    let ages = json!({"query_ms": 1000, "result_ttl_ms": 1000, "result_max_age_ms": 1000});
    let spec = watching(&data).with(json!({"limits": ages}));
    let cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    let holder = cluster.client("B", "operator").unwrap();
    assert_eq!(replaced_bytes(&holder).await, 0.0);
    data.change(0);
    let taken = wait_until(WITHIN, async || {
        (metric(&holder, "overlay_replaced_days_total").await > 0.0).then_some(())
    });
    taken.await.expect("the new file is taken");
    wait_until(WITHIN, async || (replaced_bytes(&holder).await == 0.0).then_some(()))
        .await
        .expect("the old data go");
}

/// Goal: who reads the log learns of new data from each of their holders. Method: it is at the level that tells, while nodes are
/// probed all the time.
#[tokio::test(flavor = "multi_thread")]
async fn each_holder_logs_its_new_data() {
    let data = ChangingData::new(&fixtures());
    let spec = watching(&data).with_environment("OVERLAY_LOG", "info");
    let mut cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    for number in [0, 4] {
        data.change(number);
        for node in ["B", "C"] {
            let mut lines = async || cluster.node(node).log().matches("new data").count();
            let logged = wait_until(WITHIN, async || (lines().await > number as usize / 4).then_some(()));
            logged.await.unwrap_or_else(|| panic!("{node} logs change {number}"));
        }
    }
}

/// Goal: who reads a result set reads it to its end, also where the node that was asked has forgotten it meanwhile. Method: one
/// chunk is read; days have other rows, none any more, or some where there was none; the leader starts anew; the other chunks are
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn result_set_of_replaced_data_is_resumed_where_the_leader_has_restarted() {
    let data = ChangingData::new(&fixtures());
    let mut cluster = InProcessCluster::start(watching(&data)).await.unwrap();
    let oldest = data.on_disk();
    let (reader, latest) = (cluster.client("A", "reader").unwrap(), cluster.client("A", "latest").unwrap());
    let mut result = reader.query(&rows_query(Some(25))).await.unwrap();
    let mut chunks = vec![reader.chunk(&result, 0).await.unwrap()];
    (0..3).for_each(|number| data.change(number));
    fs::remove_dir_all(data.folder(DAYS[3])).unwrap();
    let (from, to) = (fixtures().join("20200815"), data.folder(20200815));
    fs::create_dir(&to).unwrap();
    fs::copy(from.join("20200815-01.csv"), to.join("20200815-01.csv")).unwrap();
    let newest = data.on_disk();
    let newest_come = async || (ask(&latest, &rows_query(None)).await.len() == newest.len()).then_some(());
    wait_until(WITHIN, newest_come).await.expect("the newest data are seen");

    cluster.restart("A").await.unwrap();
    for index in 1..result.chunk_count() {
        chunks.push(reader.chunk_or_resume(&mut result, index).await.unwrap());
    }
    assert_equal_rows(&"the oldest data", &oldest, &answer::rows(&result, &chunks));
    assert_equal_rows(&"asked anew", &newest, &ask(&latest, &rows_query(None)).await);
}

/// Goal: new data keep nobody from an answer. Method: each day lies on one node; E, which has just started, is asked for its team's
/// days and gets other data of its own while it asks the others what they hold: at each millisecond of that once.
#[test]
fn query_is_answered_whose_holder_gets_new_data_while_others_are_asked() {
    let others = overlay_harness::scratch::folder().unwrap();
    revise(&fixtures(), others.path(), 7).unwrap();
    let topology = Topology { replicas: Some(1), ..Topology::six_nodes() };
    let spec = ClusterSpec::of(&topology, &fixtures()).revised(others.path());
    let refused = (0..30).filter_map(|after| {
        let asking = async |cluster: &mut dyn Cluster| {
            let client = cluster.client("E", "reader").unwrap();
            let replacing = async {
                tokio::time::sleep(Duration::from_millis(after)).await;
                cluster.replace_data("E", true).unwrap();
            };
            let (answered, ()) = join(client.query(&Query::default()), replacing).await;
            answered.err().map(|error| format!("after {after} ms: {error}"))
        };
        Driver::Simulated { seed: 7 }.run(spec.clone(), asking).unwrap()
    });
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
}

/// Method: with no room for replaced data, a result set of them is resumed when the leader has heard that they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn result_set_of_data_that_had_to_go_is_not_resumed() {
    let data = ChangingData::new(&fixtures());
    let spec = watching(&data).with(json!({"limits": {"replaced_bytes": 0}}));
    let mut cluster = InProcessCluster::start(spec).await.unwrap();
    let client = cluster.client("A", "reader").unwrap();
    let mut result = client.query(&rows_query(Some(25))).await.unwrap();
    data.change(0);
    let newest = data.on_disk();
    let newest_come = async || (ask(&client, &rows_query(None)).await.len() == newest.len()).then_some(());
    wait_until(WITHIN, newest_come).await.expect("the newest data are seen");
    // Whoever holds the day takes the new file at a time of its own.
    for holder in ["B", "C"].map(|node| cluster.client(node, "operator").unwrap()) {
        let taken = async || metric(&holder, "overlay_replaced_days_total").await > 0.0;
        wait_until(WITHIN, async || taken().await.then_some(())).await.expect("the new file is taken");
    }
    cluster.restart("A").await.unwrap();
    let error = client.chunk_or_resume(&mut result, 1).await.unwrap_err();
    let ClientError::Status { status, .. } = &error else { panic!("{error}") };
    assert_eq!(status.code(), Code::DataLoss, "{error}");
    assert!(status.message().contains("20200814"), "{error}");
    assert!(status.message().contains("no holder has version"), "{error}");
}

/// Goal: a result that is known is not answered with where nobody is left who has its data, though others have the day. Method: all
/// but F, which keeps what is replaced, start anew; then F is gone.
#[tokio::test(flavor = "multi_thread")]
async fn result_of_replaced_data_is_refused_when_nobody_who_keeps_them_is_left() {
    let data = ChangingData::new(&fixtures());
    let no_chunks = json!({"cache": {"chunk_bytes": 0}});
    let mut cluster = InProcessCluster::start(watching(&data).with(no_chunks)).await.unwrap();
    let client = cluster.client("A", "reader").unwrap();
    let oldest = client.query(&rows_query(Some(25))).await.unwrap();
    let version = |entry: &Entry| match &entry.outcome {
        Outcome::Served(served) => (entry.day, served.version),
        Outcome::Pruned { version, .. } => (entry.day, *version),
        _ => (entry.day, Version::of_no_data()),
    };
    let expected_versions = oldest.ledger.iter().map(version).collect();
    let resumed = Query { expected_versions, ..rows_query(Some(25)) };
    data.change(2);
    for holder in ["D", "E", "F"].map(|node| cluster.client(node, "operator").unwrap()) {
        let taken = async || metric(&holder, "overlay_replaced_days_total").await > 0.0;
        wait_until(WITHIN, async || taken().await.then_some(())).await.expect("the new file is taken");
    }
    for node in ["D", "E"] {
        cluster.restart(node).await.unwrap();
    }
    let found = wait_until(WITHIN, async || client.query(&resumed).await.ok()).await;
    assert_eq!(found.expect("F keeps the data").manifest.total_records, oldest.manifest.total_records);
    cluster.crash("F").await.unwrap();
    let refused = wait_until(WITHIN, async || client.query(&resumed).await.err()).await;
    let refused = refused.expect("nobody has the data").to_string();
    assert!(refused.contains("20200821"), "{refused}");
}

/// Method: with no room for replaced data, a result set of them says that they are lost, instead of giving others.
#[tokio::test(flavor = "multi_thread")]
async fn result_set_of_data_that_had_to_go_is_lost() {
    let data = ChangingData::new(&fixtures());
    let no_room = json!({"limits": {"replaced_bytes": 0}, "cache": {"chunk_bytes": 0}});
    let spec = watching(&data).with(no_room);
    let cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    let client = cluster.client("A", "reader").unwrap();
    let result = client.query(&rows_query(Some(25))).await.unwrap();
    data.change(0);
    // Whoever holds the day takes the new file at a time of its own: the last one decides.
    let lost = wait_until(WITHIN, async || {
        let refused = client.chunk(&result, 0).await.err()?;
        matches!(&refused, ClientError::Status { status, .. } if status.code() != Code::Unavailable)
            .then_some(refused)
    });
    let error = lost.await.expect("the old data are gone");
    let ClientError::Status { status, .. } = &error else { panic!("{error}") };
    assert_eq!(status.code(), Code::DataLoss, "{error}");
    assert!(status.message().contains("20200814"), "{error}");
}

// What the tests above are made of.

/// Six nodes that look often.
fn watching(data: &ChangingData) -> ClusterSpec {
    let often = json!({"limits": {"watch_ms": 20, "probe_ms": 50}});
    ClusterSpec::six_nodes(data.root.path()).with(often).watching()
}

/// The rows that are asked for, in chunks of so many.
fn rows_query(chunk_rows: Option<u32>) -> Query {
    let mut query = answer::query(&asked(), Encoding::Arrow);
    query.chunking.chunk_rows = chunk_rows;
    query
}

/// Their groups by day and agency.
fn groups_query(chunk_rows: Option<u32>) -> Query {
    let aggregate = Some(answer::aggregate(Measure::Value, &KEYS));
    Query { aggregate, ..rows_query(chunk_rows) }
}

const KEYS: [GroupKey; 2] = [GroupKey::Day, GroupKey::Agency];

fn asked() -> OracleQuery {
    OracleQuery {
        parameter: Some("PM2.5".to_owned()),
        date_start: Some(DAYS[0]),
        date_end: Some(DAYS[3]),
        ..OracleQuery::default()
    }
}

async fn ask(client: &Client, query: &Query) -> Vec<Value> {
    answer::ask(client, query).await.unwrap().1
}

async fn drain(client: &Client, result: &QueryResult) -> Vec<Value> {
    answer::rows(result, &answer::read_chunks(client, result).await.unwrap())
}

/// The value of a metric, 0 while there is none.
async fn metric(client: &Client, name: &str) -> f64 {
    let exposition = client.metrics().await.unwrap().exposition;
    let line = exposition.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

async fn replaced_bytes(holder: &Client) -> f64 {
    metric(holder, "overlay_held_bytes{by=\"replaced\"}").await
}

/// Resident memory of all nodes in MB, where the system tells.
fn memory(cluster: &ProcessCluster) -> u64 {
    let resident = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB").to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    cluster.pids().values().map(resident).sum::<u64>() / 1024
}

/// A dataset whose files change, and what it was at each time.
struct ChangingData {
    root: TempDir,
    days: Mutex<BTreeMap<u32, Vec<Arc<State>>>>,
}

/// A day between two changes.
struct State {
    /// By stem.
    files: BTreeMap<String, Arc<File>>,
    rows: Vec<Value>,
    /// Worked out when somebody asks for them.
    groups: OnceLock<Vec<Value>>,
    day: u32,
}

/// A file's text and the rows of it that are asked for.
struct File {
    text: String,
    rows: Vec<Value>,
}

impl File {
    fn new(day: u32, stem: &str, text: String) -> Arc<Self> {
        let oracle = Oracle::of_file(day, stem, text.as_bytes());
        let rows = oracle.rows(&asked()).iter().map(|row| row.to_json()).collect();
        Arc::new(File { text, rows })
    }
}

impl State {
    fn new(day: u32, files: BTreeMap<String, Arc<File>>) -> Arc<Self> {
        let rows = files.values().flat_map(|file| file.rows.clone()).collect();
        Arc::new(State { files, rows, groups: OnceLock::new(), day })
    }

    fn groups(&self) -> &Vec<Value> {
        self.groups.get_or_init(|| {
            let whole: String = self.files.values().map(|file| file.text.as_str()).collect();
            let oracle = Oracle::of_file(self.day, "whole", whole.as_bytes());
            oracle.aggregate(&asked(), Measure::Value, &KEYS)
        })
    }
}

impl ChangingData {
    /// The days of another dataset.
    fn new(source: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut days = BTreeMap::new();
        for day in DAYS {
            let (from, to) = (source.join(day.to_string()), root.path().join(day.to_string()));
            fs::create_dir(&to).unwrap();
            let mut files = BTreeMap::new();
            for entry in fs::read_dir(from).unwrap() {
                let path = entry.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                fs::write(to.join(path.file_name().unwrap()), &text).unwrap();
                let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
                files.insert(stem.clone(), File::new(day, &stem, text));
            }
            days.insert(day, vec![State::new(day, files)]);
        }
        ChangingData { root, days: Mutex::new(days) }
    }

    fn folder(&self, day: u32) -> PathBuf {
        self.root.path().join(day.to_string())
    }

    /// The rows that are asked for, of the files as they are.
    fn on_disk(&self) -> Vec<Value> {
        let oracle = Oracle::read(self.root.path(), &TeamRange::green_and_pink()).unwrap();
        oracle.rows(&asked()).iter().map(|row| row.to_json()).collect()
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Arc<State>>>> {
        self.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one file of one day: in turn, a file is replaced by one that lacks a row, one is written over, which has a row
    /// twice, and one is added that is compressed and, for some time, half of it.
    fn change(&self, number: u32) {
        let day = DAYS[number as usize % DAYS.len()];
        let folder = self.folder(day);
        let (stem, text) = {
            let mut days = self.states();
            let states = days.get_mut(&day).unwrap();
            let mut files = states.last().unwrap().files.clone();
            let plain: Vec<String> = files.keys().filter(|stem| !stem.contains("added")).cloned().collect();
            let stem = plain[number as usize / DAYS.len() % plain.len()].clone();
            let mut lines: Vec<String> = files[&stem].text.lines().map(str::to_owned).collect();
            let pm = lines.iter().position(|line| line.contains("PM2.5")).expect("each file has a row of it");
            let stem = match number / 4 % 3 {
                0 => {
                    lines.remove(pm);
                    stem
                }
                1 => {
                    lines.extend([lines[pm].clone(), lines[pm].clone()]);
                    stem
                }
                _ => format!("{stem}-added-{number}"),
            };
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            files.insert(stem.clone(), File::new(day, &stem, text.clone()));
            states.push(State::new(day, files));
            (stem, text)
        };
        let path = |extension: &str| -> PathBuf { folder.join(format!("{stem}.{extension}")) };
        match number / 4 % 3 {
            0 => {
                fs::write(path("partial"), text).unwrap();
                fs::rename(path("partial"), path("csv")).unwrap();
            }
            1 => fs::write(path("csv"), text).unwrap(),
            _ => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text.as_bytes()).unwrap();
                let data = encoder.finish().unwrap();
                let (first, second) = data.split_at(data.len() / 2);
                let mut file = fs::File::create(path("csv.gz")).unwrap();
                file.write_all(first).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                file.write_all(second).unwrap();
            }
        }
    }

    fn expected_rows(&self, state: impl Fn(&[Arc<State>]) -> Option<&Arc<State>>) -> Vec<Value> {
        self.states().values().flat_map(|states| state(states).unwrap().rows.clone()).collect()
    }

    fn expected_groups(&self, state: impl Fn(&[Arc<State>]) -> Option<&Arc<State>>) -> Vec<Value> {
        self.states().values().flat_map(|states| state(states).unwrap().groups().clone()).collect()
    }

    fn check_rows(&self, rows: &[Value], seen: &mut BTreeMap<u32, usize>) {
        self.check(rows, |state| &state.rows, seen);
    }

    fn check_groups(&self, groups: &[Value], seen: &mut BTreeMap<u32, usize>) {
        self.check(groups, |state| state.groups(), seen);
    }

    /// Whether an answer has, of each day, a state that the day was in, and none that is older than those `seen`.
    fn check(
        &self,
        answer: &[Value],
        of_state: impl Fn(&State) -> &Vec<Value>,
        seen: &mut BTreeMap<u32, usize>,
    ) {
        let days: BTreeMap<u32, Vec<Arc<State>>> = self.states().clone();
        for (day, states) in days {
            let found: Vec<&Value> =
                answer.iter().filter(|row| row["date"] == json!(day.to_string())).collect();
            let first = seen.get(&day).copied().unwrap_or(0);
            let is_it = |state: &Arc<State>| {
                let expected = of_state(state);
                expected.len() == found.len()
                    && expected.iter().zip(&found).all(|(expected, found)| numerically_equal(expected, found))
            };
            let at = states.iter().skip(first).position(is_it);
            let at = at.unwrap_or_else(|| {
                let known = states.len();
                panic!("{} records of day {day} are none of its states {first}..{known}", found.len())
            });
            seen.insert(day, first + at);
        }
    }
}
