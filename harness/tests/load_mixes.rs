//! Mixes against an overlay of six nodes: every transaction is answered as it should be, in either loop, also
//! when a node dies. And the command line, which refuses what makes no sense.

use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::time::Duration;

use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster};
use overlay_harness::load::{LoadPlan, LoadResults, Mix, ObservedNode, Schedule, Work};

const RUN_TIME: Duration = Duration::from_secs(2);

fn plan(cluster: &InProcessCluster, work: Work) -> LoadPlan {
    LoadPlan { host: cluster.address("A"), work, users: 6, ..LoadPlan::default() }
}

async fn cluster() -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures()).await.expect("the fixtures load")
}

/// Every transaction of the mix came to a right answer at least once, none to any other.
fn assert_all_right(mix: Mix, results: &LoadResults) {
    assert_eq!(results.failures, [].into(), "{mix}");
    for (transaction, _) in mix.weights() {
        let counts = results.transactions.get(transaction.name());
        assert!(counts.is_some_and(|counts| counts.calls.successful > 0), "{mix}: no {transaction:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_of_every_mix_is_answered_right() {
    let cluster = cluster().await;
    for mix in [Mix::Smoke, Mix::Baseline, Mix::Heavy, Mix::Hostile] {
        let plan = plan(&cluster, Work::Closed { mix, run_time: RUN_TIME });
        assert_all_right(mix, &plan.run().await.expect("the cluster is there"));
    }
}

/// Goal: nothing is dropped in silence. Of 40 arrivals a second for two seconds, all are answered or counted.
#[tokio::test(flavor = "multi_thread")]
async fn open_loop_accounts_for_every_arrival() {
    let cluster = cluster().await;
    let nonzero = |number| NonZeroU32::new(number).expect("not 0");
    let schedule = Schedule { rate: nonzero(40), run_time: RUN_TIME, max_in_flight: nonzero(1000) };
    let plan = plan(&cluster, Work::Open { mix: Mix::Smoke, schedule, seed: 1 });
    let results = plan.run().await.expect("the cluster is there");
    let arrivals = results.arrivals.expect("it is an open loop");
    assert_eq!((arrivals.due, arrivals.dropped, results.total_requests), (80, 0, 80));
    assert_all_right(Mix::Smoke, &results);
}

/// Goal: a failure under load is survived or declared, never answered wrong. F goes in the middle of the run.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_wrong_when_a_node_dies_under_load() {
    let mut cluster = cluster().await;
    let observed = vec![ObservedNode { id: "F".to_owned(), address: cluster.address("F") }];
    let work = Work::Closed { mix: Mix::Baseline, run_time: RUN_TIME * 2 };
    let plan = LoadPlan { observed, ..plan(&cluster, work) };
    let (results, stopped) = tokio::join!(plan.run(), async {
        tokio::time::sleep(RUN_TIME).await;
        cluster.crash("F").await
    });
    stopped.expect("F ran");
    let results = results.expect("the leader is there");
    assert_eq!(results.wrong_answers, 0, "{:?}", results.failures);
    assert!(results.successful_requests > 0);
    let node = results.nodes.iter().find(|node| node.node == "F").expect("it was observed");
    assert!(node.before.is_some() && node.after.is_none(), "{node:?}");
}

/// Goal: whoever knows goose finds its report too, in both formats, with every RPC in it.
#[tokio::test(flavor = "multi_thread")]
async fn goose_writes_its_own_reports() {
    let (cluster, folder) = (cluster().await, overlay_harness::scratch::folder().expect("there is room"));
    let reports = ["goose.html", "goose.json"].map(|name| folder.path().join(name)).to_vec();
    let work = Work::Closed { mix: Mix::Smoke, run_time: RUN_TIME };
    let results = LoadPlan { goose_reports: reports.clone(), ..plan(&cluster, work) }.run().await;
    let results = results.expect("the cluster is there");
    for path in reports {
        let report = std::fs::read_to_string(path).expect("it was written");
        let missing: Vec<_> = results.calls.keys().filter(|call| !report.contains(**call)).collect();
        assert!(missing.is_empty(), "goose does not know {missing:?}");
    }
}

/// Goal: `load | head` writes its files and keeps its exit code, though nobody reads what it prints.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_when_the_output_is_closed() {
    let (cluster, folder) = (cluster().await, overlay_harness::scratch::folder().expect("there is room"));
    let files = ["load.json", "load.html"].map(|name| folder.path().join(name));
    let mut load = Command::new(env!("CARGO_BIN_EXE_overlay-harness"))
        .args(["load", "--host", &cluster.address("A"), "--run-time", "1s", "--rate", "5/s"])
        .args(["--output".as_ref(), files[0].as_os_str(), "--report".as_ref(), files[1].as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(load.stdout.take());
    let status = tokio::task::spawn_blocking(move || load.wait()).await.expect("waiting does not panic");
    assert_eq!(status.expect("it ended").code(), Some(0));
    assert!(files.iter().all(|file| file.exists()));
}

/// Runs the command; a `#` in its arguments stands for a blank inside of one.
fn harness(arguments: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_overlay-harness"))
        .arg("load")
        .args(arguments.split(' ').map(|word| word.replace('#', " ")))
        .output()
        .expect("the command starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let refused = [
        ("--users 0", "0 is not in 1..=10000"),
        ("--requests 0", "0 is not in 1..=100000000"),
        ("--run-time 0s", "at least 1s"),
        ("--run-time soon", "expected seconds or minutes"),
        ("--run-time 1441m", "at most 1440m"),
        ("--run-time 1s --mix hot", "smoke, baseline, heavy, hostile"),
        ("--run-time 1s --rate 0/s", "at a rate of 0 nothing arrives"),
        ("--run-time 1s --rate 1000000/s", "at most 100000/s"),
        ("--rate 5/s", "--run-time <TIME>"),
        ("--mix smoke", "--run-time <TIME>"),
        ("--max-in-flight 3", "--rate <N/s>"),
        ("--requests 5 --run-time 1s", "cannot be used with '--run-time <TIME>'"),
        ("--run-time 1s --all-chunks", "cannot be used with '--all-chunks'"),
        ("--threshold p99", "no `<` or `>`"),
        ("--threshold p100<5ms", "unknown metric `p100`"),
        ("--threshold error-rate<few", "an error rate is a percentage"),
        ("--run-time 1s --threshold rps>1#for#GRPC#Qery", "names: small query, distinct query, drain"),
        ("--threshold p99<1s#for#drain", "this run has no `drain` (names: benchmark, GRPC Query,"),
        ("--host http://127.0.0.1", "expected http://HOST:PORT"),
        ("--host https://127.0.0.1", "or https://HOST:PORT"),
        ("--host https://127.0.0.1:1", "give its CA with --ca FILE"),
        ("--host 127.0.0.1:port", "expected http://HOST:PORT"),
    ];
    for (arguments, why) in refused {
        let (code, stderr) = harness(arguments);
        assert!(code == Some(2) && stderr.contains(why), "{arguments}: {code:?} {stderr}");
    }
}
