//! What the commands print in a pipe: help, results, reports, errors, each with its exit code.
//!
//! Check that tables are aligned and numbers are those of the fixtures; that standard output carries results and
//! nothing else; that an error is followed by its causes and by the next step. Commands run in the project's root.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use bytes::Bytes;
use insta::assert_snapshot;
use overlay_harness::answer;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, READY_WITHIN, wait_until};
use overlay_harness::snapshot::Redactions;
use overlay_harness::topology::Topology;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const OVERLAY: &str = env!("CARGO_BIN_EXE_overlay-node");
const HARNESS: &str = env!("CARGO_BIN_EXE_overlay-harness");

/// The words of a line; none of them has a blank.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

fn command(program: &str, line: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args(words(line))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_remove("COLUMNS")
        .env_remove("OVERLAY_LOG")
        .env_remove("OVERLAY_LOG_FORMAT")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// What a command prints and how it ends, below its line.
async fn run(line: &str) -> String {
    shown("overlay", line, &command(OVERLAY, line).output().await.unwrap())
}

async fn run_harness(line: &str) -> String {
    shown("overlay-harness", line, &command(HARNESS, line).output().await.unwrap())
}

/// The command line, standard output as it is, standard error behind bars, and the exit code unless it is 0.
fn shown(program: &str, line: &str, output: &Output) -> String {
    let mut text = format!("$ {program} {line}\n{}", String::from_utf8_lossy(&output.stdout));
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        writeln!(text, "| {line}").unwrap();
    }
    match output.status.code() {
        Some(0) => {}
        Some(code) => writeln!(text, "exit code {code}").unwrap(),
        None => writeln!(text, "ended by {}", output.status).unwrap(),
    }
    text.push('\n');
    text
}

/// Six nodes over the fixtures, one holder for each day, and the file of their configuration.
struct Six {
    cluster: InProcessCluster,
    folder: TempDir,
}

impl Six {
    async fn start() -> Self {
        let spec = ClusterSpec::fixtures().with(json!({"replicas": 1}));
        let cluster = InProcessCluster::start(spec).await.unwrap();
        let folder = overlay_harness::scratch::folder().unwrap();
        std::fs::write(folder.path().join("six.json"), cluster.overlay().to_json().to_string()).unwrap();
        Six { cluster, folder }
    }

    /// Waits until a node notices that its neighbour is down.
    async fn notices(&self, id: &str, neighbour: &str) {
        let client = self.cluster.client(id, "snapshot").unwrap();
        let noticed = async || {
            let neighbours = client.metrics().await.unwrap().neighbours;
            neighbours.iter().any(|other| other.node == neighbour && other.state != "up").then_some(())
        };
        wait_until(READY_WITHIN, noticed).await.expect("it notices");
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn leader(&self) -> String {
        format!("--leader {}", self.cluster.address("A"))
    }

    fn redactions(&self) -> Redactions {
        let redactions = Redactions::new().name(self.folder.path().display(), "folder");
        let ids = self.cluster.overlay().processes.keys();
        ids.fold(redactions, |redactions, id| {
            redactions.port(id.as_str(), &self.cluster.address(id.as_str()))
        })
    }
}

#[tokio::test]
async fn help_of_every_command() {
    let _redacted = Redactions::new().bind();
    assert_snapshot!("help", run("--help").await);
    for name in [
        "demo",
        "up",
        "node",
        "query",
        "explain",
        "check-proof",
        "metrics",
        "shutdown",
        "check-config",
        "verify-data-loading",
        "system-test",
        "completions",
        "man",
        "top",
    ] {
        assert_snapshot!(format!("help_{name}"), run(&format!("{name} --help")).await);
    }
    assert_snapshot!("help_harness", run_harness("--help").await);
    for name in ["generate", "load", "simulate", "replay", "mutants", "policies"] {
        assert_snapshot!(format!("help_harness_{name}"), run_harness(&format!("{name} --help")).await);
    }
}

/// Those of the eight rows of Quarryton that have 8 to 9 UG/M3, in each format, and what is said beside rows.
#[tokio::test(flavor = "multi_thread")]
async fn query_writes_each_format() {
    let six = Six::start().await;
    let _redacted = six.redactions().bind();
    let leader = six.leader();
    let rows = format!("query PM2.5 8 9 {leader} --site quarryton --from 20200820 --to 20200821");
    for format in ["table", "json", "ndjson", "csv"] {
        assert_snapshot!(format!("query_{format}"), run(&format!("{rows} --format {format}")).await);
    }
    let arrow = command(OVERLAY, &format!("{rows} --format arrow")).output().await.unwrap();
    let reader = arrow_ipc::reader::StreamReader::try_new(&arrow.stdout[..], None).unwrap();
    let sizes: Vec<usize> = reader.map(|batch| batch.unwrap().num_rows()).collect();
    assert_eq!(sizes, [2, 3], "a batch for each day");
    let parquet = command(OVERLAY, &format!("{rows} --format parquet")).output().await.unwrap();
    let reader = ParquetRecordBatchReader::try_new(Bytes::from(parquet.stdout), 1000).unwrap();
    let rows: Vec<_> = reader.flat_map(|batch| answer::arrow_rows(&batch.unwrap(), None)).collect();
    let expected = arrow_ipc::reader::StreamReader::try_new(&arrow.stdout[..], None).unwrap();
    let expected: Vec<_> = expected.flat_map(|batch| answer::arrow_rows(&batch.unwrap(), None)).collect();
    answer::assert_equal_rows(&"parquet", &expected, &rows);

    let groups = format!(
        "query {leader} --site quarryton --from 20200820 --to 20200821 --aggregate value --by day,parameter"
    );
    assert_snapshot!("query_groups", run(&format!("{groups} --format table")).await + &run(&groups).await);

    let mut notes = String::new();
    for more in [
        "PM2.5 --limit 3 --format table",
        "PM2.5 500",
        "PM25",
        "--from 20201001",
        "--aggregate aqi --by site --limit 2 --format table",
    ] {
        notes += &run(&format!("query {more} {leader}")).await;
    }
    let worker = format!("--leader {}", six.cluster.address("C"));
    for more in ["PM2.5 100 --limit 1 --format table", "PM2.5 --team pink", "PM2.5 500 --team green"] {
        notes += &run(&format!("query {more} {worker}")).await;
    }
    assert_snapshot!("query_notes", notes);
}

/// A proof holds against the files that it came from; one that claims a row more than there is does not.
#[tokio::test(flavor = "multi_thread")]
async fn proof_is_checked() {
    let six = Six::start().await;
    let _redacted = six.redactions().bind();
    let (proof, csv, leader) = (six.file("proof.json"), six.file("rows.csv"), six.leader());
    let query = format!(
        "query PM2.5 8 9 {leader} --site quarryton --from 20200820 --to 20200821 --limit 4 --proof {proof} --output {csv}"
    );
    let mut text = run(&query).await;
    text += &run(&format!("check-proof {proof} --dataset-root fixtures/airnow")).await;
    assert_snapshot!("check_proof", text);
    assert_snapshot!("proof_file", std::fs::read_to_string(&proof).unwrap());
    let forged =
        std::fs::read_to_string(&proof).unwrap().replacen("\"rows_matched\": 3", "\"rows_matched\": 4", 1);
    std::fs::write(&proof, forged).unwrap();
    assert_snapshot!(
        "check_proof_forged",
        run(&format!("check-proof {proof} --dataset-root fixtures/airnow")).await
    );
}

/// A proof of a partial result holds for the days that it has; against other data than those that were asked, it differs
/// in everything, which is said in few lines.
#[tokio::test(flavor = "multi_thread")]
async fn proof_of_a_part_and_the_wrong_dataset_are_told() {
    let mut six = Six::start().await;
    for id in ["D", "E", "F"] {
        six.cluster.crash(id).await.unwrap();
    }
    let (proof, csv) = (six.file("proof.json"), six.file("rows.csv"));
    let query = format!("query PM2.5 5 35 {} --partial --proof {proof} --output {csv}", six.leader());
    let answered = run(&query).await;
    assert!(answered.contains("of team pink are missing"), "pink is missing: {answered}");
    let other = broken_data();
    let _redacted = six.redactions().name(other.path().display(), "other data").bind();
    let mut text = run(&format!("check-proof {proof} --dataset-root fixtures/airnow")).await;
    text += &run(&format!("check-proof {proof} --dataset-root {}", other.path().display())).await;
    assert_snapshot!("check_proof_partial", text);
}

/// Goal: no table is broken by a terminal of 80 columns, nor by the numbers of the real data, which have two digits
/// more. Method: the snapshots, which are the tables as they are printed.
#[test]
fn tables_fit_into_80_columns() {
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    for name in ["metrics_all", "verify_data_loading", "verify_data_loading_live"] {
        let text = std::fs::read_to_string(snapshots.join(format!("cli_snapshots__{name}.snap"))).unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|') && line.ends_with('|'));
        let widest = rows.map(|line| line.chars().count()).max().unwrap_or_default();
        assert!((1..=78).contains(&widest), "{name}: {widest} columns");
    }
}

/// Which days are asked for, of whom and by which way, and which are pruned and why.
#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_the_plan() {
    let six = Six::start().await;
    let _redacted = six.redactions().bind();
    let explain = format!("explain PM2.5 150 200 {} --from 20200818 --to 20200822", six.leader());
    assert_snapshot!(
        "explain",
        run(&explain).await + &run(&format!("explain {} --from 20200810 --to 20200812", six.leader())).await
    );
    assert_snapshot!(
        "explain_json",
        run(&format!("{explain} --to 20200821 --format json").replace("--to 20200822 ", "")).await
    );
}

/// Metrics of one node and of all, one of which is down; of `prometheus` with all nodes two families are shown.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_running_nodes() {
    let mut six = Six::start().await;
    let _redacted = six.redactions().bind();
    let query = format!("query PM2.5 8 9 {} --site quarryton --from 20200820 --to 20200821", six.leader());
    run(&query).await;
    assert_snapshot!("metrics", run(&format!("metrics {}", six.leader())).await);
    assert_snapshot!("metrics_json", run(&format!("metrics {} --format json", six.leader())).await);
    six.cluster.crash("F").await.unwrap();
    six.notices("E", "F").await;
    let all = format!("metrics --all --config {}", six.file("six.json"));
    assert_snapshot!("metrics_all", run(&all).await);
    let exposition = run(&format!("{all} --format prometheus")).await;
    let shown = |line: &&str| {
        !line.contains("overlay_") || line.contains("rows_held") || line.contains("overlay_queries")
    };
    assert_snapshot!(
        "metrics_all_prometheus",
        exposition.lines().filter(shown).collect::<Vec<_>>().join("\n")
    );
}

/// The checks of a running overlay: 8,484 rows are all that the fixtures have, 46 days all that the teams own.
#[tokio::test(flavor = "multi_thread")]
async fn running_nodes_are_checked_and_stopped() {
    let mut six = Six::start().await;
    let _redacted = six.redactions().bind();
    let (host, port) = six
        .cluster
        .address("A")
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    assert_snapshot!("system_test", run(&format!("system-test {host} {port}")).await);
    let config = six.file("six.json");
    assert_snapshot!(
        "verify_data_loading_live",
        run(&format!("verify-data-loading {config} --live --dataset-root fixtures/airnow")).await
    );
    let mut text = run(&format!("shutdown --leader {}", six.cluster.address("F"))).await;
    six.cluster.finished("F").await.unwrap();
    text += &run(&format!("shutdown --all --config {config}")).await;
    assert_snapshot!("shutdown", text);
}

/// A process says where it listens and when it is ready, a JSON object a line, and ends with its standard input.
#[tokio::test]
async fn node_says_when_it_is_ready() {
    let _redacted = Redactions::new().bind();
    let node = "node --id A --bind 127.0.0.1:0 --stop-with-stdin";
    let mut command = command(OVERLAY, node);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        writeln!(said, "{line}").unwrap();
        if line.contains("ready") {
            drop(child.stdin.take());
        }
    }
    let mut output = child.wait_with_output().await.unwrap();
    output.stdout = said.into_bytes();
    assert_snapshot!("node", shown("overlay", node, &output));
}

/// The demonstration without what differs from run to run: whose turn it is, and how long it took. 1,802 of the
/// fixtures' rows are PM2.5 from 5 to 35, as `verify_data_loading` says too (348 and 1,454).
#[tokio::test]
async fn demo_shows_rows_and_their_proof() {
    let _redacted = Redactions::new().bind();
    let text = run("demo").await;
    let (text, metrics) = text.split_once("Metrics:").unwrap();
    assert_eq!(metrics.matches("| green |").count() + metrics.matches("| pink  |").count(), 6, "{metrics}");
    let differs =
        |line: &&str| ["asked of", "served by", "no data", "Answered"].iter().any(|word| line.contains(word));
    assert_snapshot!("demo", text.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n"));
}

/// The configurations that come with the project, and one with two mistakes.
#[tokio::test]
async fn configurations_are_checked() {
    let _redacted = Redactions::new().bind();
    assert_snapshot!(
        "check_config",
        run("check-config").await + &run("check-config configs/two_hosts_config.json").await
    );
    let folder = overlay_harness::scratch::folder().unwrap();
    let config = folder.path().join("bad.json");
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/one_host_config.json"),
    )
    .unwrap();
    std::fs::write(&config, text.replace("60053", "0").replacen("\"worker\"", "\"boss\"", 1)).unwrap();
    let _redacted = Redactions::new().name(folder.path().display(), "folder").bind();
    assert_snapshot!("check_config_bad", run(&format!("check-config {}", config.display())).await);
    let mut elsewhere: Value = serde_json::from_str(&text).unwrap();
    elsewhere["dataset_root"] = json!("/no/such/folder");
    std::fs::write(&config, elsewhere.to_string()).unwrap();
    let checked = run(&format!("check-config {}", config.display())).await;
    let warned = "| warning: dataset root `/no/such/folder` is not a folder that exists: nodes started here need --dataset-root (";
    assert!(checked.contains(warned), "{checked}");
    assert!(!checked.contains("exit code"), "{checked}");
}

/// The fixtures, read as each process would: 1,579 rows of green at B and C, 6,905 of pink at D, E and F.
#[tokio::test]
async fn data_loading_is_verified() {
    let _redacted = Redactions::new().bind();
    let verify = "verify-data-loading configs/one_host_config.json --dataset-root";
    assert_snapshot!("verify_data_loading", run(&format!("{verify} fixtures/airnow")).await);
    let root = broken_data();
    let folder = overlay_harness::scratch::folder().unwrap();
    let config = few_days(folder.path());
    let _redacted =
        Redactions::new().name(root.path().display(), "data").name(folder.path().display(), "folder").bind();
    let verify = format!("verify-data-loading {} --dataset-root {}", config.display(), root.path().display());
    assert_snapshot!("verify_data_loading_broken", run(&verify).await);
    assert_snapshot!("verify_data_loading_json", run(&format!("{verify} --format json")).await);
}

/// The processes of the bundled configuration, over fewer days.
fn few_days(folder: &Path) -> PathBuf {
    let mut config = Topology::six_nodes().to_json();
    for (port, process) in (60051..).zip(config["processes"].as_object_mut().unwrap().values_mut()) {
        process["port"] = json!(port);
    }
    config["teams"] = json!([
        {"name": "green", "first_day": 20200819, "last_day": 20200820},
        {"name": "pink", "first_day": 20200821, "last_day": 20200821},
    ]);
    let path = folder.join("few_days.json");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// Three files: four rows of 20200820, the second of which has no longitude; a row of 20200821 in the folder of
/// 20201001, which no team owns; and a file that is no data.
fn broken_data() -> TempDir {
    let root = overlay_harness::scratch::folder().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/airnow");
    let lines = |file: &str, count: usize| -> Vec<String> {
        let text = std::fs::read_to_string(fixtures.join(file)).unwrap();
        text.lines().take(count).map(str::to_owned).collect()
    };
    let write = |file: &str, lines: Vec<String>| {
        let path: PathBuf = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    };
    let mut green = lines("20200820/20200820-01.csv", 4);
    green[1] = green[1].replacen("\"-122.18257\"", "\"\"", 1);
    write("20200820/20200820-01.csv", green);
    write("20201001/20201001-01.csv", lines("20200821/20200821-01.csv", 1));
    write("20200820/notes.txt", vec!["x".to_owned()]);
    root
}

#[tokio::test]
async fn completions_are_printed() {
    for (shell, opens_with) in
        [("bash", "_overlay()"), ("zsh", "#compdef overlay"), ("fish", "# Print an optspec")]
    {
        let output = command(OVERLAY, &format!("completions {shell}")).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(opens_with), "{shell}: {}", text.lines().next().unwrap_or_default());
    }
}

#[tokio::test]
async fn log_is_text_or_an_object_a_line() {
    let folder = overlay_harness::scratch::folder().unwrap();
    std::fs::create_dir(folder.path().join("20200810")).unwrap();
    std::fs::write(folder.path().join("20200810/20200810-01.csv"), "\"two\",\"fields\"\n").unwrap();
    let line = format!("node --id B --bind 127.0.0.1:0 --dataset-root {}", folder.path().display());
    let first_line = async |format: &str| {
        let mut node = command(OVERLAY, &line);
        let mut node = node
            .env("OVERLAY_LOG_FORMAT", format)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(node.stderr.take().unwrap()).lines().next_line().await.unwrap().unwrap()
    };
    let object = first_line("json").await;
    let event: Value = serde_json::from_str(&object).unwrap();
    assert_eq!((&event["level"], &event["message"]), (&json!("WARN"), &json!("row rejected")), "{object}");
    assert!(event["row"].as_str().is_some_and(|row| row.ends_with(": 2 fields, expected 13")), "{object}");
    let text = first_line("text").await;
    assert!(text.contains("WARN row rejected"), "{text}");
    let refused = first_line("xml").await;
    assert_eq!(refused, "error: OVERLAY_LOG_FORMAT: `xml` is no format");
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let pages = folder.path().join("man1");
    let output = command(OVERLAY, &format!("man {}", pages.display())).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    for (page, says) in [
        ("overlay.1", "overlay\\-verify\\-data\\-loading(1)"),
        ("overlay-query.1", "\\-\\-format"),
        ("overlay-query.1", "OVERLAY_LEADER"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(says), "{page} lacks {says}:\n{text}");
    }
}

#[tokio::test]
async fn generate_says_what_it_wrote() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let _redacted = Redactions::new().name(folder.path().display(), "folder").bind();
    let output = folder.path().join("data");
    let small = format!("generate --output {} --sites 3 --to 20200815 --hours 2", output.display());
    let mut text = run_harness(&small).await;
    text += &run_harness(&small).await;
    for more in ["--hours 25", "--skip tomorrow", "--from 20200231", "--sites 0", ""] {
        let line = match more {
            "" => "generate".to_owned(),
            more => format!("generate --output {} {more}", folder.path().join("more").display()),
        };
        text += &run_harness(&line).await;
    }
    assert_snapshot!("harness_generate", text);
}

/// Every way to use a command of the harness wrongly, or in vain: nothing listens at port 1.
#[tokio::test]
async fn errors_of_the_harness() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let _redacted = Redactions::new().name(folder.path().display(), "folder").bind();
    let workload = folder.path().join("workload.json");
    std::fs::write(&workload, "{\"name\": \"empty\", \"arrivals\": []}").unwrap();
    let mut text = String::new();
    for line in [
        "policies --workload nonsense".to_owned(),
        format!("policies --workload {}", workload.display()),
        "load --threshold p99".to_owned(),
        "load --config absent.json".to_owned(),
        "load --output /no/such/folder/load.json".to_owned(),
        "load --report /no/such/folder/load.html".to_owned(),
        "load --host http://127.0.0.1:1 --wait 0".to_owned(),
        "simulate --seed 0xfive".to_owned(),
        "simulate --seeds 0".to_owned(),
        "replay".to_owned(),
        "replay --seed 1 --shrunk 3fq".to_owned(),
        "replay --seed 1 --driver netns".to_owned(),
        "mutants nobody-is-counted".to_owned(),
    ] {
        text += &run_harness(&line).await;
    }
    assert_snapshot!("errors_of_the_harness", text);
}

/// Every way to use a command wrongly, or in vain: nothing listens at port 1.
#[tokio::test]
async fn errors_of_commands() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let _redacted = Redactions::new().name(folder.path().display(), "folder").bind();
    let proof = folder.path().join("bad.json");
    std::fs::write(&proof, "{\"overlay_proof\": 9}").unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let nowhere = "--leader 127.0.0.1:1";
    for (name, lines) in [
        (
            "errors_of_query",
            vec![
                "qery".to_owned(),
                "query PM2.5 35 5".to_owned(),
                "query 5 35".to_owned(),
                "query PM2.5 five".to_owned(),
                "query --from 20200231".to_owned(),
                "query --from 20200820 --to 20200810".to_owned(),
                "query --bbox 1,2,3".to_owned(),
                "query --bbox -200,0,0,1".to_owned(),
                "query --bbox 10,0,-10,1".to_owned(),
                "query --bbox a,b,c,d".to_owned(),
                "query --limit 0".to_owned(),
                "query --limit -1".to_owned(),
                "query --limit 5 --all".to_owned(),
                "query --by day".to_owned(),
                "query --aggregate humidity".to_owned(),
                format!("query --aggregate value --by day,planet {nowhere}"),
                "query --chunking huge".to_owned(),
                "query --chunk-rows 0".to_owned(),
                "query --format xml".to_owned(),
                "query --leader localhost".to_owned(),
                "query --output /no/such/folder/rows.csv".to_owned(),
                "query --output rows.xlsx".to_owned(),
                "query --proof /no/such/folder/proof.json".to_owned(),
                format!("query {nowhere}"),
                format!("explain {nowhere}"),
            ],
        ),
        (
            "errors_of_nodes",
            vec![
                "node".to_owned(),
                "node --id Z".to_owned(),
                "node --id B --bind 127.0.0.1:0".to_owned(),
                "node --id B --dataset-root /no/such/folder --bind 127.0.0.1:0".to_owned(),
                "up".to_owned(),
                "up --host 10.1.2.3 --dataset-root fixtures/airnow".to_owned(),
                "up --config configs/two_hosts_config.json --dataset-root fixtures/airnow".to_owned(),
                "up --profile fast".to_owned(),
                "up --config absent.json".to_owned(),
                "up --dataset-root /no/such/folder".to_owned(),
                "demo --dataset-root /no/such/folder".to_owned(),
                format!("metrics {nowhere}"),
                format!("metrics --all {nowhere}"),
                "metrics --config six.json".to_owned(),
                format!("shutdown {nowhere}"),
                "system-test 127.0.0.1 1".to_owned(),
                "system-test 127.0.0.1".to_owned(),
                "system-test 127.0.0.1 70000".to_owned(),
            ],
        ),
        (
            "errors_of_files",
            vec![
                "check-config absent.json".to_owned(),
                "verify-data-loading".to_owned(),
                "verify-data-loading absent.json".to_owned(),
                "verify-data-loading configs/one_host_config.json".to_owned(),
                "verify-data-loading configs/one_host_config.json --dataset-root /no/such/folder".to_owned(),
                format!(
                    "verify-data-loading configs/one_host_config.json --dataset-root {}",
                    empty.display()
                ),
                "check-proof absent.json --dataset-root fixtures/airnow".to_owned(),
                format!("check-proof {} --dataset-root fixtures/airnow", proof.display()),
                "check-proof README.md --dataset-root fixtures/airnow".to_owned(),
                "completions tcsh".to_owned(),
            ],
        ),
    ] {
        let mut text = String::new();
        for line in lines {
            text += &run(&line).await;
        }
        assert_snapshot!(name, text);
    }
}
