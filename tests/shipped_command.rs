//! The shipped binary as its users run it: `demo`, `up` and every way in which it ends, `query` and what it
//! writes, `explain`, exit codes. Signals are those of Unix.
#![cfg(unix)]

mod bundled;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use overlay::day::Day;
use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/one_host_config.json");

/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

fn overlay(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < end, "not within {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut ended = None;
    wait_until("the process ends", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// A process that dies when it is dropped, as when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `overlay up` over the bundled data on ports of its own. Dropping it ends it, and with it its nodes.
struct Up {
    process: Running,
    stdout: BufReader<ChildStdout>,
    folder: TempDir,
    ports: BTreeMap<String, u16>,
}

impl Up {
    /// Starts it and waits for its ready line. Its standard error goes to a file.
    fn start(more: &[&str]) -> Self {
        Self::start_with(more, |command, folder| {
            command.stderr(File::create(folder.join("stderr")).unwrap());
        })
    }

    fn start_with(more: &[&str], set: impl FnOnce(&mut Command, &Path)) -> Self {
        // From the choice of ports until they are bound no other test of this file may be given them.
        static STARTING: Mutex<()> = Mutex::new(());
        let starting = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut config: Value = serde_json::from_str(&fs::read_to_string(CONFIG).unwrap()).unwrap();
        let processes = config["processes"].as_object_mut().unwrap();
        let listeners: Vec<TcpListener> =
            processes.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut ports = BTreeMap::new();
        for ((id, process), listener) in processes.iter_mut().zip(&listeners) {
            let port = listener.local_addr().unwrap().port();
            process["port"] = port.into();
            ports.insert(id.clone(), port);
        }
        let path = folder.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        drop(listeners);
        let path = path.to_str().unwrap();
        let mut up = command(&["up", "--config", path, "--dataset-root", bundled::ROOT]);
        set(up.args(more).stdout(Stdio::piped()), folder.path());
        let mut child = up.spawn().unwrap();
        drop(child.stderr.take());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut up = Up { process: Running(child), stdout, folder, ports };
        let mut line = String::new();
        up.stdout.read_line(&mut line).unwrap();
        drop(starting);
        assert_eq!(line, format!("ready: A at {}\n", up.leader()), "{}", up.stderr());
        up
    }

    fn leader(&self) -> String {
        format!("127.0.0.1:{}", self.ports["A"])
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// `query` or `explain` at its leader.
    fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.args(["--leader", &self.leader()]);
        command
    }

    fn rows(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.ask(&[&["query"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
        output.stdout
    }

    /// A number from the leader's metrics.
    fn metric(&self, name: &str) -> u64 {
        let output = self.ask(&["metrics", "--format", "json"]).output().unwrap();
        let metrics: Value = serde_json::from_slice(&output.stdout).unwrap();
        metrics[0][name].as_u64().unwrap()
    }

    fn serves(&self, id: &str) -> bool {
        TcpStream::connect(("127.0.0.1", self.ports[id])).is_ok()
    }

    fn wait_until_nobody_serves(&self) {
        wait_until("no node listens", || !self.ports.keys().any(|id| self.serves(id)));
    }

    /// The processes that it started, by node.
    #[cfg(target_os = "linux")]
    fn nodes(&self) -> BTreeMap<String, u32> {
        let parent = format!(" {} ", self.process.0.id());
        let mut nodes = BTreeMap::new();
        for process in fs::read_dir("/proc").unwrap().map(Result::unwrap) {
            let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // `pid (name) state parent ...`
            let is_ours = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest[1..].starts_with(&parent));
            if is_ours {
                let words = fs::read_to_string(process.path().join("cmdline")).unwrap();
                let id = words.split('\0').skip_while(|word| *word != "--id").nth(1).unwrap();
                nodes.insert(id.to_owned(), pid);
            }
        }
        nodes
    }
}

/// Whether a process is there and has not ended; its new parent may not have asked yet how it ended.
#[cfg(target_os = "linux")]
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Days that a list such as `20200810, 20200814-20200820` spells.
fn spelled(list: &str) -> usize {
    let day = |text: &str| text.parse::<Day>().unwrap();
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let last = day(last);
        std::iter::successors(Some(day(first)), |day| Some(day.next())).take_while(|day| *day <= last).count()
    };
    list.split(", ").map(range).sum()
}

#[test]
fn demo_finds_every_row_and_spells_every_day() {
    let demo = overlay(&["demo"]);
    let shown = text(&demo);
    assert_eq!(demo.status.code(), Some(0), "{shown}");
    let ledger = shown.split_once("Coverage ledger:\n").unwrap().1.split_once("\nAnswered").unwrap().0;
    let (mut days, mut rows) = (0, 0);
    for line in ledger.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        days += spelled(cells[0]);
        rows += cells[2].replace(',', "").parse::<usize>().unwrap();
    }
    assert_eq!((days, rows), (46, bundled::pm25_from_5_to_35(&bundled::rows(bundled::ALL))), "{shown}");
}

#[test]
fn queries_are_written_whole_in_every_format() {
    let up = Up::start(&[]);
    let wanted = bundled::pm25_from_5_to_35(&bundled::rows(bundled::ALL));
    let words = ["PM2.5", "5", "35"];
    let lines = |format| {
        let rows = up.rows(&[&words[..], &["--format", format]].concat());
        String::from_utf8(rows).unwrap().lines().count()
    };
    assert_eq!((lines("ndjson"), lines("csv"), lines("table")), (wanted, wanted + 1, wanted + 1));
    let piped = String::from_utf8(up.rows(&words)).unwrap();
    let mut distinct: Vec<&str> = piped.lines().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), wanted, "ndjson into a pipe, each row once");

    let file = |name: &str| {
        let path = up.folder.path().join(name);
        up.rows(&[&words[..], &["--output", path.to_str().unwrap()]].concat());
        fs::read(path).unwrap()
    };
    let json: Vec<Value> = serde_json::from_slice(&file("rows.json")).unwrap();
    assert_eq!(json.len(), wanted);
    let arrow = file("rows.arrow");
    let batches = arrow_ipc::reader::StreamReader::try_new(&arrow[..], None).unwrap();
    assert_eq!(batches.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), wanted);
}

#[test]
fn explain_names_who_would_be_asked() {
    let up = Up::start(&["--embedded"]);
    let explained = up.ask(&["explain", "PM2.5", "--format", "json"]).output().unwrap();
    assert_eq!(explained.status.code(), Some(0), "{}", text(&explained));
    let plan: Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!(plan["rows_to_scan"], bundled::rows(bundled::ALL).len());
    let days = plan["days"].as_array().unwrap();
    let asked = days.iter().filter(|day| day["state"] == "ask");
    let by_team = |team: &str, day: &Value| {
        day["team"] == team && ["B", "C"].contains(&day["asked_first"].as_str().unwrap()) == (team == "green")
    };
    assert_eq!(asked.filter(|day| by_team("green", day) || by_team("pink", day)).count(), 43);
}

/// What a reader that has left, or a signal, ends early is not kept at the node.
#[test]
fn query_that_ends_early_gives_up_its_result() {
    let up = Up::start(&[]);
    for format in ["json", "ndjson", "csv", "table", "arrow"] {
        let open = up.metric("open_result_sets");
        let mut query = up.ask(&["query", "--chunk-rows", "50", "--format", format]);
        let mut query = query.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One byte shows that it writes; then its reader leaves.
        query.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let ended = query.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), text(&ended)), (Some(0), String::new()), "{format}");
        assert_eq!(up.metric("open_result_sets"), open, "{format}");
    }
}

/// The pipe's open blocks until somebody reads, which nobody does.
#[test]
fn query_into_a_pipe_that_nobody_reads_ends_at_a_signal() {
    let up = Up::start(&["--embedded"]);
    let pipe = up.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["INT", "TERM"] {
        let (open, chunks) = (up.metric("open_result_sets"), up.metric("chunks_total"));
        let mut query = up.ask(&["query", "--chunk-rows", "50", "--output", pipe.to_str().unwrap()]);
        let mut query = Running(query.stderr(Stdio::piped()).spawn().unwrap());
        // The first chunk comes with the answer; a second one shows that the answer has come.
        wait_until("two chunks are read", || up.metric("chunks_total") >= chunks + 2);
        signal(name, query.0.id());
        let status = wait(&mut query.0);
        let mut said = String::new();
        query.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((status.code(), &*said), (Some(1), "error: interrupted\n"), "{name}");
        assert_eq!(up.metric("open_result_sets"), open, "{name}");
    }
}

#[test]
fn up_stops_every_node_at_a_signal() {
    for (name, more) in [("INT", &[][..]), ("TERM", &[]), ("INT", &["--embedded"]), ("TERM", &["--embedded"])]
    {
        let mut up = Up::start(more);
        assert!(up.ports.keys().all(|id| up.serves(id)));
        signal(name, up.process.0.id());
        assert_eq!(wait(&mut up.process.0).code(), Some(0), "{name} {more:?}: {}", up.stderr());
        up.wait_until_nobody_serves();
    }
}

#[test]
fn up_ends_well_when_its_nodes_were_told_to_stop() {
    for more in [&[][..], &["--embedded"]] {
        let mut up = Up::start(more);
        let told = overlay(&["shutdown", "--all", "--config", up.config().to_str().unwrap()]);
        assert_eq!(told.status.code(), Some(0), "{more:?}: {}", text(&told));
        assert_eq!(text(&told).matches("  stopping\n").count(), 6, "{more:?}: {}", text(&told));
        assert_eq!(wait(&mut up.process.0).code(), Some(0), "{more:?}: {}", up.stderr());
        assert_eq!(up.stderr().matches("has ended\n").count(), 6, "{more:?}: {}", up.stderr());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_node_outlives_an_up_that_is_killed() {
    let mut up = Up::start(&[]);
    let nodes = up.nodes();
    assert_eq!(nodes.keys().collect::<Vec<_>>(), up.ports.keys().collect::<Vec<_>>());
    up.process.0.kill().unwrap();
    up.process.0.wait().unwrap();
    wait_until("every node has ended", || !nodes.values().any(|pid| runs(*pid)));
    up.wait_until_nobody_serves();
}

/// Goal: the ports of an overlay that runs are one error, which names them all.
#[test]
fn second_up_on_the_same_ports_names_them_once() {
    let up = Up::start(&[]);
    for more in [&[][..], &["--embedded"]] {
        let config = up.config();
        let second = ["up", "--config", config.to_str().unwrap(), "--dataset-root", bundled::ROOT];
        let refused = overlay(&[&second[..], more].concat());
        let addresses: Vec<String> =
            up.ports.iter().map(|(id, port)| format!("127.0.0.1:{port} ({id})")).collect();
        let told = format!("error: cannot listen on {}: ", addresses.join(", "));
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).starts_with(&told), "{}", text(&refused));
        assert_eq!(text(&refused).lines().count(), 2, "an error and its help: {}", text(&refused));
    }
}

/// With nobody to read what `up` says about C, its other nodes serve on; that C was killed shows in the end.
#[cfg(target_os = "linux")]
#[test]
fn up_outlives_a_node_and_the_reader_of_its_log() {
    let mut up = Up::start_with(&[], |command, _| {
        command.stderr(Stdio::piped());
    });
    let mut nodes = up.nodes();
    let killed = nodes.remove("C").unwrap();
    signal("KILL", killed);
    // It is, once `up` has waited for it; then `up` has a word to say.
    wait_until("C is gone", || !Path::new(&format!("/proc/{killed}")).exists());
    let rows = String::from_utf8(up.rows(&["PM2.5", "5", "35"])).unwrap();
    assert_eq!(rows.lines().count(), bundled::pm25_from_5_to_35(&bundled::rows(bundled::ALL)));
    for pid in nodes.into_values() {
        signal("KILL", pid);
    }
    assert_eq!(wait(&mut up.process.0).code(), Some(1));
}

/// Goal: a program can read all that `up` says, and a person learns how a node that died is started again.
///
/// Method: C is killed, started by the very command that was said, and all is stopped.
#[cfg(target_os = "linux")]
#[test]
fn log_for_programs_says_how_a_node_that_died_is_started_again() {
    let mut up = Up::start_with(&[], |command, folder| {
        command.env("OVERLAY_LOG_FORMAT", "json").stderr(File::create(folder.join("stderr")).unwrap());
    });
    let events = |up: &Up| -> Vec<Value> {
        let event = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        up.stderr().lines().map(event).collect()
    };
    signal("KILL", up.nodes()["C"]);
    let mut help = None;
    wait_until("it says how", || {
        help = events(&up).iter().find_map(|event| event["help"].as_str().map(str::to_owned));
        help.is_some()
    });
    let help = help.unwrap();
    let command = help.strip_prefix("start it again with `overlay ").and_then(|help| help.strip_suffix('`'));
    let arguments: Vec<&str> = command.expect(&help).split(' ').collect();
    let mut again = Running(self::command(&arguments).stdout(Stdio::null()).spawn().unwrap());
    wait_until("C serves", || up.serves("C"));
    signal("TERM", again.0.id());
    assert_eq!(wait(&mut again.0).code(), Some(0));
    signal("TERM", up.process.0.id());
    assert_eq!(wait(&mut up.process.0).code(), Some(1));
    let events = events(&up);
    let of = |level: &str| events.iter().filter(|event| event["level"] == level).collect::<Vec<_>>();
    assert_eq!(of("INFO").len(), 5, "the others have ended: {events:?}");
    let last = of("ERROR");
    let why = "nodes that ended badly: `C` (signal: 9 (SIGKILL))";
    assert_eq!(last.iter().map(|event| &event["message"]).collect::<Vec<_>>(), [why], "{events:?}");
    assert!(events.iter().all(|event| event["timestamp"].is_string()), "{events:?}");
}

/// Goal: a file that keeps a node from starting is named, with the command that finds all such files.
#[test]
fn damaged_file_is_named_with_what_finds_all_of_them() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = folder.path().to_str().unwrap();
    let damaged = ["20200810/20200810-01.csv.gz", "20200820/20200820-01.csv.gz"];
    for file in damaged {
        fs::create_dir(folder.path().join(&file[..8])).unwrap();
        // The head of a gzip file and nothing behind it.
        fs::write(folder.path().join(file), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).unwrap();
    }
    let node = overlay(&["node", "--id", "B", "--bind", "127.0.0.1:0", "--dataset-root", root]);
    assert_eq!(node.status.code(), Some(1), "{}", text(&node));
    assert!(text(&node).contains(damaged[0]), "{}", text(&node));
    assert!(text(&node).contains("`overlay verify-data-loading`"), "{}", text(&node));
    let verified = overlay(&["verify-data-loading", CONFIG, "--dataset-root", root]);
    assert!(damaged.iter().all(|file| text(&verified).contains(file)), "{}", text(&verified));
}

/// Goal: whoever starts a node with certificates that it may not read is told what to do about that.
#[test]
fn certificate_that_cannot_be_used_comes_with_the_next_step() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let certs = folder.path().join("certs");
    let made = overlay(&["certs", "--config", CONFIG, "--output", certs.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    // A folder cannot be read as a file, by root neither.
    fs::remove_file(certs.join("B.key")).unwrap();
    fs::create_dir(certs.join("B.key")).unwrap();
    let config = certs.join("overlay.json");
    let node = ["node", "--id", "B", "--bind", "127.0.0.1:0", "--dataset-root", bundled::ROOT];
    let node = overlay(&[&node[..], &["--config", config.to_str().unwrap()]].concat());
    assert_eq!(node.status.code(), Some(2), "{}", text(&node));
    assert!(text(&node).contains("B.key: cannot be read: "), "{}", text(&node));
    assert!(text(&node).contains("\nhelp: a node reads its certificate and key"), "{}", text(&node));
}

/// Goal: what is printed for the next step asks the leader of the configuration, and a shell may name it once for all.
#[test]
fn leader_that_is_not_the_usual_one_is_named() {
    let up = Up::start(&["--embedded"]);
    let certs = up.folder.path().join("certs");
    let made =
        overlay(&["certs", "--config", up.config().to_str().unwrap(), "--output", certs.to_str().unwrap()]);
    let next = format!("overlay query PM2.5 5 35 --leader {} --ca ", up.leader());
    assert!(text(&made).contains(&next), "{}", text(&made));
    for arguments in [&["query", "--limit", "1"][..], &["explain"], &["metrics"]] {
        let output = command(arguments).env("OVERLAY_LEADER", up.leader()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    }
    // One that is empty names nobody: the usual leader is asked, whether it runs or not.
    for arguments in [&["query", "--limit", "1"][..], &["metrics"]] {
        let output = command(arguments).env("OVERLAY_LEADER", "").output().unwrap();
        assert!(!text(&output).contains("is no address"), "{arguments:?}: {}", text(&output));
    }
    // The variable is no mistake beside --all, which has no use for it.
    let config = up.config();
    let output = command(&["metrics", "--all", "--config", config.to_str().unwrap()])
        .env("OVERLAY_LEADER", "127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn every_exit_code_is_the_documented_one() {
    let wrong = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = wrong.path().join("config.json");
    fs::write(&config, r#"{"processes": {}, "replica": 1}"#).unwrap();
    let (config, nowhere) = (config.to_str().unwrap(), "127.0.0.1:1");
    for (arguments, code, said) in [
        (&["check-config"][..], 0, "describes 6 processes"),
        (&["check-config", config], 2, "`replicas`"),
        (&["--help"], 0, "Exit codes: "),
        (&["query", "PM2.5", "35", "5"], 2, "`35` is above max_value `5`"),
        (&["query", "--leader", nowhere], 1, "help: start the overlay with `overlay up`"),
        (&["node", "--id", "X"], 2, "no process `X`"),
        (&["node", "--id", "B", "--bind", "127.0.0.1:0"], 2, "node `B` holds days but has no dataset root"),
        (&["up"], 2, "no dataset root"),
    ] {
        let output = overlay(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(said), "{arguments:?}: {}", text(&output));
    }
}

/// A word that is no level would be the name of a module, and everything else be silent.
#[test]
fn log_level_that_is_none_is_refused() {
    for (level, code) in
        [("foo", 2), ("debug,foo", 2), ("overlay=foo", 2), ("", 0), ("warn", 0), ("warn,h2=debug", 0)]
    {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_overlay"));
        let output = command.arg("check-config").env("OVERLAY_LOG", level).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{level}: {}", text(&output));
        assert_eq!(text(&output).contains("error, warn, info"), code == 2, "{level}: {}", text(&output));
    }
}

/// Whoever has a collector behind TLS learns what to name instead, in one line.
#[test]
fn collector_behind_tls_is_refused_in_one_line() {
    for (name, endpoint) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "HTTPS://collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317"),
        // Which the library takes for the same.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
    ] {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_overlay"));
        let output = command.arg("check-config").env(name, endpoint).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("warning: traces are not exported: {name} does not start with http://: ");
        assert!(output.status.success() && said.starts_with(&expected), "{said}");
        assert!(said.contains("such as http://127.0.0.1:4317") && said.lines().count() == 1, "{said}");
    }
}
