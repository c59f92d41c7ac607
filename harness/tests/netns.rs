//! Two hosts in network namespaces: the two-host file as it stands, and nothing that stays behind.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use overlay::coverage::{Entry, Outcome};
use overlay::frame::Encoding;
use overlay_harness::answer::{self, ask, assert_equal_rows, read_chunks};
use overlay_harness::cluster::{Cluster, ClusterSpec, Driver, NetnsCluster, fixtures, watched};
use overlay_harness::fault::Fault;
use overlay_harness::oracle::{Oracle, OracleQuery, TeamRange};
use overlay_harness::scratch;
use overlay_harness::skip::skipped;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

/// Makes the test that it is set for start a cluster and wait to be killed.
const WAIT_TO_BE_KILLED: &str = "OVERLAY_WAIT_TO_BE_KILLED";

fn two_hosts() -> ClusterSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/two_hosts_config.json");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    ClusterSpec::new(config, &fixtures()).with(json!({"strategies": {"forwarding": "parallel"}}))
}

/// The driver, unless this machine lacks what it takes.
fn driver() -> Option<Driver> {
    let driver = Driver::Namespaces { binary: BINARY.into() };
    match driver.unavailable() {
        Some(why) => {
            skipped(format!("driver {driver}"), why);
            None
        }
        None => Some(driver),
    }
}

#[test]
fn two_host_file_runs_as_it_stands_also_while_the_wire_is_cut() {
    let Some(driver) = driver() else { return };
    let ran = driver.run(two_hosts(), async |cluster| {
        let addresses = ["A", "C", "E"].map(|id| cluster.overlay().process(id).unwrap().address());
        assert_eq!(addresses, ["192.168.1.2:60051", "192.168.1.1:60053", "192.168.1.1:60055"]);
        let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
        let client = cluster.client("A", "two hosts").unwrap();
        for (parameter, is_cut) in [("CO", false), ("SO2", true)] {
            if is_cut {
                cluster.inject(&Fault::partition("A", "E")).await.unwrap();
            }
            let query = OracleQuery { parameter: Some(parameter.to_owned()), ..OracleQuery::default() };
            let (result, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
            let expected: Vec<Value> = oracle.rows(&query).into_iter().map(|row| row.to_json()).collect();
            assert_equal_rows(&parameter, &expected, &rows);
            let is_beyond_the_wire = |entry: &Entry| match &entry.outcome {
                Outcome::Served(served) => ["C", "E", "F"].contains(&served.node.as_str()),
                _ => false,
            };
            assert_eq!(result.ledger.iter().any(is_beyond_the_wire), !is_cut, "{parameter}");
        }
    });
    ran.unwrap();
}

/// Goal: a delay acts on each way between the hosts. Method: A is asked for a pink row, which is behind E.
#[test]
fn delay_is_added_to_each_way_between_the_hosts() {
    on_two_hosts(async |cluster| {
        cluster.inject(&Fault::delay("A", "E", Duration::from_millis(300))).await.unwrap();
        let asked = Instant::now();
        let pink = OracleQuery { team: Some("pink".to_owned()), limit: Some(1), ..OracleQuery::default() };
        ask(&cluster.client("A", "far away").unwrap(), &answer::query(&pink, Encoding::Json)).await.unwrap();
        let took = asked.elapsed();
        assert!(took >= Duration::from_millis(600), "{took:?}");
    });
}

/// Goal: packets are lost, and the answer is whole all the same.
/// Method: the kernel counts what each host sends and gets, while queries that differ, so that none is answered from
/// a cache, are asked until 150 packets were sent. Of those 15 in 100 are lost, 22 on average: that fewer than 5 are is a
/// matter of four standard deviations. With much more lost, TCP waits longer and longer, and a query may run out of time.
#[test]
fn lossy_wire_loses_packets_and_no_rows() {
    on_two_hosts(async |cluster| {
        let [sent, received] = [SENT_PACKETS, RECEIVED_PACKETS].map(|what| counted(cluster, what));
        cluster.inject(&Fault::loss("A", "E", 15)).await.unwrap();
        let client = cluster.client("A", "lossy").unwrap();
        let oracle = Oracle::read(&fixtures(), &TeamRange::green_and_pink()).unwrap();
        for number in 0..100 {
            let min = Some(format!("0.{number:04}"));
            let query = OracleQuery { parameter: Some("CO".to_owned()), min, ..OracleQuery::default() };
            let (_, rows) = ask(&client, &answer::query(&query, Encoding::Json)).await.unwrap();
            let expected: Vec<Value> = oracle.rows(&query).into_iter().map(|row| row.to_json()).collect();
            assert_equal_rows(&query.to_json(), &expected, &rows);
            if counted(cluster, SENT_PACKETS) - sent >= 150 {
                break;
            }
        }
        let received = counted(cluster, RECEIVED_PACKETS) - received;
        let sent = counted(cluster, SENT_PACKETS) - sent;
        assert!(sent >= 150 && received + 5 <= sent, "{received} of {sent} packets arrived");
    });
}

/// Method: the kernel counts what both hosts get, which is no more than two slow ones can have sent, and no less than
/// the frames that came from the other host than A's.
#[test]
fn slow_host_sends_at_its_rate() {
    on_two_hosts(async |cluster| {
        let bytes = counted(cluster, RECEIVED_BYTES);
        let begun = Instant::now();
        for node in ["A", "E"] {
            cluster.inject(&Fault::slow(node, 50_000)).await.unwrap();
        }
        let query = OracleQuery { team: Some("pink".to_owned()), limit: Some(500), ..OracleQuery::default() };
        let client = cluster.client("A", "slow").unwrap();
        let result = client.query(&answer::query(&query, Encoding::Json)).await.unwrap();
        let chunks = read_chunks(&client, &result).await.unwrap();
        let bytes = counted(cluster, RECEIVED_BYTES) - bytes;
        let took = begun.elapsed();
        let frames = chunks.iter().flat_map(|chunk| &chunk.frames);
        let crossed = frames.filter(|frame| ["C", "E", "F"].contains(&&*frame.node));
        let least: u64 = crossed.map(|frame| frame.payload.len() as u64).sum();
        assert!(least > 10_000, "{least} bytes of frames");
        assert!(bytes >= least, "{bytes} bytes crossed, {least} of them in frames");
        assert!(bytes as f64 <= 2.0 * 50_000.0 * took.as_secs_f64(), "{bytes} bytes in {took:?}");
    });
}

/// Method: this test runs itself in a process of its own, which starts a cluster, prints all process ids and is
/// killed with signal 9. A namespace is gone with its last process. Its files are in a folder of this test; that the
/// next process would have removed them is tested where such folders are made.
#[test]
fn hosts_and_nodes_are_gone_when_whoever_made_them_is_killed() {
    if driver().is_none() {
        return;
    }
    if std::env::var_os(WAIT_TO_BE_KILLED).is_some() {
        let cluster = NetnsCluster::start(Path::new(BINARY), two_hosts()).unwrap();
        println!("\npids {:?}", cluster.pids());
        std::io::stdin().lines().next();
        return;
    }
    let folder = scratch::folder().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hosts_and_nodes_are_gone_when_whoever_made_them_is_killed", "--nocapture"])
        .env(WAIT_TO_BE_KILLED, "yes")
        .env("TMPDIR", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pids =
        lines.filter_map(|line| serde_json::from_str::<Vec<u32>>(line.strip_prefix("pids ")?).ok()).next();
    owner.kill().unwrap();
    owner.wait().unwrap();
    let pids = pids.expect("the cluster started");
    assert_eq!(pids.len(), 8, "six nodes and two hosts");
    let end = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(
            Instant::now() < end,
            "still alive: {:?}",
            pids.iter().filter(|pid| is_alive(**pid)).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the cluster's own folder");
}

/// Runs a body that asks what only this driver's overlay can be asked. Its nodes do not give up a neighbour that is
/// slow: the days of one that is given up come from its own side of the wire, and nothing is seen of the fault.
fn on_two_hosts(body: impl AsyncFnOnce(&mut NetnsCluster)) {
    if driver().is_none() {
        return;
    }
    let patient = json!({"limits": {"keepalive_ms": 600_000, "connect_ms": 600_000, "query_ms": 60_000}});
    let mut cluster = NetnsCluster::start(Path::new(BINARY), two_hosts().with(patient)).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(watched(&mut cluster, body));
}

/// Where the kernel's table of network devices has a count.
const RECEIVED_BYTES: usize = 0;
const RECEIVED_PACKETS: usize = 1;
const SENT_PACKETS: usize = 9;

/// What the kernel counts at both ends of the wire, added up.
fn counted(cluster: &NetnsCluster, column: usize) -> u64 {
    let pids = cluster.pids();
    let of_host = |pid: &u32| {
        let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
        let wire = devices.lines().find_map(|line| line.trim().strip_prefix("wire:")).unwrap();
        wire.split_whitespace().nth(column).unwrap().parse::<u64>().unwrap()
    };
    pids[pids.len() - 2..].iter().map(of_host).sum()
}

/// Whether a process runs. One that has ended and that nobody has waited for does not.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
