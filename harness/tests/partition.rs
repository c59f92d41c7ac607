//! Partition: who owns a day, who holds it, and that what all nodes load together is the dataset.
//!
//! Random teams (adjacent, with gaps, of one day), members, weights, replicas and generated data, all inside
//! 20200810-20200924. What is expected is computed from the layout by counting, or read by the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use overlay::config::{NodeId, Overlay};
use overlay::day::Day;
use overlay::frame::{Encoding, encode_rows};
use overlay::load::{LoadOptions, days_on_disk, load};
use overlay::placement::{Member, Placement, holders};
use overlay::store::Store;
use overlay_harness::calendar;
use overlay_harness::cluster::{ClusterSpec, ProcessCluster, wait_until};
use overlay_harness::dataset::datasets;
use overlay_harness::for_all::for_all;
use overlay_harness::oracle::{Oracle, OracleQuery, OracleRow, TeamRange, numerically_equal};
use overlay_harness::topology::{TeamSpec, TopologyBuilder, topologies};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// For what the nodes do within a tenth of a second, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(60);

const FIRST_DAY: u32 = 20200810;
const LAST_DAY: u32 = 20200924;

/// The teams of a random topology, under names that stay when a member is added, and without its shape.
#[derive(Clone, Debug)]
struct Layout {
    teams: Vec<TeamSpec>,
    replicas: Option<u32>,
}

fn layout() -> impl Strategy<Value = Layout> {
    topologies().prop_map(|TopologyBuilder { teams, replicas, .. }| Layout { teams, replicas })
}

impl Layout {
    /// A leader over the teams' leaders, and each of these over its team.
    fn config(&self) -> Value {
        let mut processes = Map::new();
        let mut add = |id: &str, role: &str, team: &str, weight: f64, neighbours: &[String]| {
            let port = 50_000 + processes.len();
            let process = json!({
                "id": id, "role": role, "team": team, "host": "127.0.0.1", "port": port,
                "neighbors": neighbours, "weight": weight,
            });
            processes.insert(id.to_owned(), process);
        };
        let leaders: Vec<String> = (0..self.teams.len()).map(|team| member_id(team, 0)).collect();
        add("leader", "leader", &team_name(0), 1.0, &leaders);
        for (team, TeamSpec { weights, .. }) in self.teams.iter().enumerate() {
            let workers: Vec<String> = (1..weights.len()).map(|member| member_id(team, member)).collect();
            let around_leader: Vec<String> = ["leader".to_owned()].into_iter().chain(workers).collect();
            add(&member_id(team, 0), "team_leader", &team_name(team), weights[0], &around_leader);
            for (member, weight) in weights.iter().enumerate().skip(1) {
                add(&member_id(team, member), "worker", &team_name(team), *weight, &[member_id(team, 0)]);
            }
        }
        let team = |(index, range): (usize, TeamRange)| json!({"name": team_name(index), "first_day": range.first_day, "last_day": range.last_day});
        let teams: Vec<Value> = self.ranges().into_iter().enumerate().map(team).collect();
        let mut config = json!({"processes": processes, "teams": teams});
        if let Some(replicas) = self.replicas {
            config["replicas"] = json!(replicas);
        }
        config
    }

    fn overlay(&self) -> Overlay {
        Overlay::parse(&self.config().to_string(), "layout").unwrap().overlay
    }

    /// Which team owns a day, by looking at each.
    fn owner(&self, day: u32) -> Option<usize> {
        let mut owners = self.teams.iter().enumerate().filter(|(_, team)| {
            let owned: Vec<u32> = calendar::days(team.range.first_day, team.range.last_day).collect();
            owned.contains(&day)
        });
        let owner = owners.next().map(|(index, _)| index);
        assert_eq!(owners.count(), 0, "the layout has no overlap");
        owner
    }

    fn ranges(&self) -> Vec<TeamRange> {
        let range = |(index, team): (usize, &TeamSpec)| {
            TeamRange::new(&team_name(index), team.range.first_day, team.range.last_day)
        };
        self.teams.iter().enumerate().map(range).collect()
    }

    fn replicas_of(&self, team: usize) -> usize {
        self.replicas.map_or(self.teams[team].weights.len(), |replicas| replicas as usize)
    }
}

fn team_name(index: usize) -> String {
    format!("team{index}")
}

fn member_id(team: usize, member: usize) -> String {
    format!("team{team}-{member}")
}

fn day(number: u32) -> Day {
    Day::from_number(number.into()).unwrap()
}

fn all_days() -> impl Iterator<Item = Day> {
    // A few days on either side, which nobody owns.
    calendar::days(20200805, 20200930).map(day)
}

#[test]
fn each_day_has_exactly_its_replicas_as_holders_and_they_are_of_its_team() {
    for_all(200, layout(), |layout| {
        let overlay = layout.overlay();
        let placement = Placement::new(&overlay);
        for day in all_days() {
            let owner = layout.owner(day.number());
            let name = owner.map(team_name);
            prop_assert_eq!(placement.team(day), name.as_deref());
            prop_assert_eq!(overlay.team_of_day(day).map(|team| team.name.as_str()), name.as_deref());
            let holders = placement.holders(day);
            let different: BTreeSet<&NodeId> = holders.iter().collect();
            prop_assert_eq!(holders.len(), owner.map_or(0, |team| layout.replicas_of(team)));
            prop_assert_eq!(different.len(), holders.len(), "{}: {:?}", day, holders);
            for holder in holders {
                let process = overlay.process(holder).unwrap();
                prop_assert_eq!(Some(&process.team), name.as_ref());
                prop_assert!(placement.days_of(holder).contains(&day));
            }
        }
        prop_assert_eq!(placement.days_of("leader").len(), 0);
        Ok(())
    });
}

/// Method: one more member in one team. Read the other way round, it is a member that leaves. Where all members
/// hold each day, one holder is added to each; else it takes the place of the last one, or none.
#[test]
fn added_member_moves_days_only_to_itself_and_removed_one_only_its_own() {
    let weight = prop::sample::select(vec![1.0, 3.0, 1000.0, 0.001]);
    for_all(200, (layout(), any::<prop::sample::Index>(), weight), |(layout, team, weight)| {
        let team = team.index(layout.teams.len());
        let mut grown = layout.clone();
        grown.teams[team].weights.push(weight);
        let newcomer = member_id(team, layout.teams[team].weights.len());
        let (before, after) = (Placement::new(&layout.overlay()), Placement::new(&grown.overlay()));
        for day in all_days() {
            let (old, new) = (before.holders(day), after.holders(day));
            if !new.contains(&NodeId::from(newcomer.as_str())) {
                prop_assert_eq!(old, new, "{}", day);
                continue;
            }
            prop_assert_eq!(layout.owner(day.number()), Some(team));
            let stayed: Vec<&NodeId> = new.iter().filter(|holder| **holder != newcomer.as_str()).collect();
            let expected: Vec<&NodeId> = old.iter().take(new.len() - 1).collect();
            prop_assert_eq!(stayed, expected, "{}", day);
        }
        Ok(())
    });
}

/// Goal: a new member takes `replicas` of `members` parts of its team's days, no more and no less.
/// Method: 1,000 random memberships, each weight drawn alike, so that nobody is expected to get more than another
/// one. The seed is fixed: a mean over random memberships is near its limit with high probability only.
#[test]
fn mean_share_that_a_new_member_moves_is_within_a_tenth_of_replicas_over_members() {
    let mut rng = fastrand::Rng::with_seed(20200810);
    for weights in [&[1.0][..], &[0.5, 1.0, 2.0, 4.0]] {
        let (mut moved, mut expected) = (0.0, 0.0);
        for membership in 0..1_000 {
            let member = |index: usize, rng: &mut fastrand::Rng| Member {
                id: format!("node-{membership}-{index}").into(),
                weight: weights[rng.usize(..weights.len())],
            };
            let before: Vec<Member> = (0..rng.usize(1..12)).map(|index| member(index, &mut rng)).collect();
            let mut after = before.clone();
            after.push(member(before.len(), &mut rng));
            let replicas = rng.usize(1..=before.len());
            let name = format!("team{}", rng.u8(..));
            let days: Vec<Day> = calendar::days(FIRST_DAY, LAST_DAY).map(day).collect();
            let changed = |day: &&Day| {
                let holders = |members: &[Member]| -> BTreeSet<NodeId> {
                    holders(&name, members, replicas, **day).into_iter().collect()
                };
                holders(&before) != holders(&after)
            };
            moved += days.iter().filter(changed).count() as f64 / days.len() as f64;
            expected += replicas as f64 / after.len() as f64;
        }
        assert!((moved / expected - 1.0).abs() < 0.1, "{moved} moved, {expected} expected");
    }
}

fn json_rows(store: &Store, day: Day) -> Vec<Value> {
    let batch = store.day(day).unwrap();
    let rows: Vec<u32> = (0..batch.row_count()).collect();
    let payload = encode_rows(store, batch, &rows, Encoding::Json);
    serde_json::from_slice(&[b"[", payload.as_ref(), b"]"].concat()).unwrap()
}

/// Loads what each process is to hold; gives each day's rows once, after comparing all its copies.
fn union_of_shares(overlay: &Overlay, root: &Path) -> Result<BTreeMap<Day, Vec<Value>>, TestCaseError> {
    let placement = Placement::new(overlay);
    let mut rows: BTreeMap<Day, Vec<Value>> = BTreeMap::new();
    let mut copies: BTreeMap<Day, usize> = BTreeMap::new();
    for id in overlay.processes.keys() {
        let loaded = load(root, &placement.days_of(id), &LoadOptions::default(), &|_| {});
        let store = loaded.unwrap().store;
        for batch in store.days() {
            let copy = json_rows(&store, batch.day);
            *copies.entry(batch.day).or_default() += 1;
            prop_assert_eq!(rows.entry(batch.day).or_insert_with(|| copy.clone()), &copy);
        }
    }
    for (day, copies) in copies {
        prop_assert_eq!(copies, placement.holders(day).len(), "copies of {}", day);
    }
    Ok(rows)
}

/// Method: every process loads its share from generated files; put together once, day after day, they are the rows
/// that the oracle reads for its teams, in its order, and no other file is left but those of unowned days.
#[test]
fn union_of_the_shares_is_the_dataset() {
    for_all(16, (layout(), datasets(FIRST_DAY, LAST_DAY)), |(layout, dataset)| {
        let root = overlay_harness::scratch::folder().unwrap();
        dataset.write(root.path()).unwrap();
        let on_disk = days_on_disk(root.path()).unwrap();
        let shares = union_of_shares(&layout.overlay(), root.path())?;
        let owned: Vec<Day> =
            on_disk.days.into_iter().filter(|day| layout.owner(day.number()).is_some()).collect();
        prop_assert_eq!(shares.keys().copied().collect::<Vec<_>>(), owned);
        let found: Vec<Value> = shares.into_values().flatten().collect();
        let oracle = Oracle::read(root.path(), &layout.ranges()).unwrap();
        let expected: Vec<Value> =
            oracle.rows(&OracleQuery::default()).into_iter().map(OracleRow::to_json).collect();
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!(numerically_equal(found, expected), "{} is not {}", found, expected);
        }
        Ok(())
    });
}

/// The findings of `verify-data-loading`, by check.
fn verify(layout: &Layout, root: &Path) -> BTreeMap<String, Vec<Value>> {
    let config = root.join("config.json");
    std::fs::write(&config, layout.config().to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-node"));
    command.arg("verify-data-loading").arg(&config).arg("--dataset-root").arg(root);
    let output = command.args(["--format", "json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let check = |check: &Value| {
        let findings = check["findings"].as_array().expect("findings").clone();
        (check["check"].as_str().expect("a name").to_owned(), findings)
    };
    report["checks"].as_array().expect("checks").iter().map(check).collect()
}

/// The days that no team owns are named, each once, and nothing else is found but the rows that are lost by them.
#[test]
fn unowned_days_are_reported() {
    for_all(12, (layout(), datasets(FIRST_DAY, LAST_DAY)), |(layout, dataset)| {
        let root = overlay_harness::scratch::folder().unwrap();
        let data = root.path().join("data");
        dataset.write(&data).unwrap();
        let on_disk = days_on_disk(&data).unwrap();
        let unowned: Vec<u64> = on_disk
            .days
            .iter()
            .map(|day| day.number())
            .filter(|day| layout.owner(*day).is_none())
            .map(u64::from)
            .collect();
        let findings = verify(&layout, &data);
        let reported: Vec<u64> =
            findings["days_are_owned"].iter().map(|it| it["day"].as_u64().unwrap()).collect();
        prop_assert_eq!(&reported, &unowned);
        // One for the rows that are lost by them, and one more if those are all there are.
        let lost = usize::from(!unowned.is_empty()) + usize::from(unowned.len() == on_disk.days.len());
        prop_assert_eq!(findings["rows_are_loaded"].len(), lost);
        for check in ["files_are_read", "rows_parse", "counts_agree"] {
            prop_assert_eq!(&findings[check], &Vec::<Value>::new(), "{}", check);
        }
        Ok(())
    });
}

/// Goal: who adds a day that no team owns learns it from the log of each holder, once. Method: a second such day comes after the
/// nodes have looked at the first.
#[tokio::test(flavor = "multi_thread")]
async fn unowned_day_that_comes_later_is_logged_once() {
    let root = overlay_harness::scratch::folder().unwrap();
    let add = |day: &str| std::fs::create_dir(root.path().join(day)).unwrap();
    ["20200820", "20201001"].into_iter().for_each(add);
    let spec = ClusterSpec::six_nodes(root.path()).with(json!({"limits": {"watch_ms": 20}})).watching();
    let mut cluster = ProcessCluster::start(env!("CARGO_BIN_EXE_overlay-node"), spec).unwrap();
    for day in ["20201002", "20201003"] {
        add(day);
        for node in ["B", "F"] {
            let logged = wait_until(WITHIN, async || cluster.node(node).log().contains(day).then_some(()));
            logged.await.unwrap_or_else(|| panic!("{node} names {day}"));
        }
    }
    let log = cluster.node("B").log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("`teams`")).collect();
    let names = |line: &&str| line.rsplit_once("days=").map(|(_, days)| days.trim_matches('"').to_owned());
    let days: Vec<String> = told.iter().filter_map(names).collect();
    assert_eq!(days, ["20201001", "20201002", "20201003"], "{log}");
}
