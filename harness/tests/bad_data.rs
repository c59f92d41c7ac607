//! What `overlay node` says about a dataset that is not as it should be, and what `--strict` makes of it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use overlay::client::Client;
use overlay_harness::cluster::{READY_WITHIN, RunningNode, fixtures};
use overlay_harness::skip::skipped;
use overlay_harness::topology::Topology;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

/// How a node came out that was started over some data.
struct Started {
    /// Its exit code; none while it runs.
    code: Option<i32>,
    /// Its standard error.
    log: String,
    /// Rows loaded, if it became ready.
    rows: Option<u64>,
}

/// The six nodes at ports where nobody listens; the node under test is told to bind elsewhere.
fn configuration() -> String {
    let mut config = Topology::six_nodes().to_json();
    for (index, process) in config["processes"].as_object_mut().unwrap().values_mut().enumerate() {
        process["port"] = (index + 1).into();
    }
    config.to_string()
}

/// Starts B, a team leader of green, over the data in `root`.
async fn start(root: Option<&Path>, strict: bool) -> Started {
    let folder = overlay_harness::scratch::folder().unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, configuration()).unwrap();
    let mut arguments =
        vec![OsString::from("--config"), config.into(), "--bind".into(), "127.0.0.1:0".into()];
    if let Some(root) = root {
        arguments.extend(["--dataset-root".into(), root.into()]);
    }
    arguments.extend(strict.then(|| OsString::from("--strict")));
    let mut node = RunningNode::spawn(Path::new(BINARY), "B", arguments, folder.path()).unwrap();
    let line = node.next_line(READY_WITHIN).unwrap();
    let address = line.as_ref().and_then(|line| Some(line["address"].as_str()?.to_owned()));
    match node.wait_ready(READY_WITHIN) {
        Ok(()) => {
            let client = Client::new(&address.unwrap(), "looker").unwrap();
            let rows = client.metrics().await.unwrap().rows;
            Started { code: None, log: node.log(), rows: Some(rows) }
        }
        Err(_) => {
            let status = node.wait(Duration::from_secs(5)).unwrap();
            Started { code: status.code(), log: node.log(), rows: None }
        }
    }
}

/// One good day of green with a file of its own for each of `bad`.
fn dataset(bad: &[(&str, &[u8])]) -> TempDir {
    let root = overlay_harness::scratch::folder().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("20200810/20200810-01.csv", good_rows().as_bytes());
    for (path, bytes) in bad {
        write(path, bytes);
    }
    root
}

fn good_rows() -> String {
    fs::read_to_string(fixtures().join("20200810/20200810-01.csv")).unwrap()
}

fn good_row_count() -> u64 {
    good_rows().lines().count() as u64
}

/// Without a root that has days the arguments are wrong; days that cannot be loaded are a failure.
const WRONG_ROOT: i32 = 2;
const NOT_LOADED: i32 = 1;

async fn fails_with(code: i32, root: Option<&Path>, words: &[&str]) {
    let started = start(root, false).await;
    assert_eq!(started.code, Some(code), "{}", started.log);
    for word in words.iter().chain(&["error: "]) {
        assert!(started.log.contains(word), "should say `{word}`:\n{}", started.log);
    }
}

#[tokio::test]
async fn root_that_is_not_there_is_named() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let root = folder.path().join("nowhere");
    fails_with(WRONG_ROOT, Some(&root), &[&root.display().to_string(), "is not a folder that exists"]).await;
    let file = folder.path().join("a_file");
    fs::write(&file, "").unwrap();
    fails_with(WRONG_ROOT, Some(&file), &[&file.display().to_string(), "is not a folder that exists"]).await;
}

#[tokio::test]
async fn root_without_days_is_named() {
    let root = overlay_harness::scratch::folder().unwrap();
    fails_with(
        WRONG_ROOT,
        Some(root.path()),
        &[&root.path().display().to_string(), "has no day folder", "20200810"],
    )
    .await;
    fs::create_dir(root.path().join("2020-08-10")).unwrap();
    fails_with(WRONG_ROOT, Some(root.path()), &["has no day folder"]).await;
}

#[tokio::test]
async fn no_root_at_all_says_where_to_give_one() {
    fails_with(WRONG_ROOT, None, &["node `B` holds days but has no dataset root", "--dataset-root"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn folder_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let root = dataset(&[]);
    let day = root.path().join("20200810");
    fs::set_permissions(&day, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&day).is_ok() {
        skipped("a folder without permission", "this user (root?) may read it");
    } else {
        fails_with(NOT_LOADED, Some(root.path()), &["cannot read", "20200810"]).await;
    }
    fs::set_permissions(&day, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn file_that_is_no_gzip_and_one_cut_short_are_named() {
    let no_gzip = dataset(&[("20200814/20200814-01.csv.gz", b"plain text")]);
    fails_with(NOT_LOADED, Some(no_gzip.path()), &["cannot read", "20200814-01.csv.gz"]).await;
    let header_only = dataset(&[("20200814/20200814-01.csv.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])]);
    fails_with(NOT_LOADED, Some(header_only.path()), &["cannot read", "20200814-01.csv.gz"]).await;
}

#[tokio::test]
async fn file_that_is_there_twice_is_an_error_that_names_both() {
    let root = dataset(&[("20200810/20200810-01.csv.gz", b"")]);
    fails_with(
        NOT_LOADED,
        Some(root.path()),
        &["20200810-01.csv`", "20200810-01.csv.gz`", "keep one of them"],
    )
    .await;
}

/// Goal: a row that does not parse is reported with file, line and reason, and the rest is served; with
/// `--strict` it keeps the node from starting.
#[tokio::test]
async fn row_that_does_not_parse_is_reported_and_with_strict_refused() {
    let row = good_rows().lines().next().unwrap().to_owned();
    let twelve = row.rsplit_once(',').unwrap().0.to_owned();
    let cut_short = format!("{row}\n{}", &row[..40]);
    let another_day = row.replace("2020-08-10T", "2020-08-11T");
    let latitude = row.split(',').next().unwrap().to_owned();
    let far_north = row.replacen(&latitude, "\"97.5\"", 1);
    let huge_aqi = {
        let mut fields: Vec<&str> = row.split("\",\"").collect();
        fields[7] = "70000";
        fields.join("\",\"")
    };
    let no_number = row.replacen(&latitude, "\"north\"", 1);
    let cases = [
        ("12 fields", twelve, 0, ":1: 12 fields, expected 13"),
        ("cut in mid-row", cut_short, 1, ":2: "),
        ("another day", another_day, 0, ":1: dated 2020-08-11, outside its folder"),
        ("latitude out of range", far_north, 0, ":1: latitude `97.5` out of range"),
        ("AQI out of range", huge_aqi, 0, ":1: AQI `70000` out of range"),
        ("no number", no_number, 0, ":1: latitude `north` is not a number"),
    ];
    for (what, text, good, reason) in cases {
        let root = dataset(&[("20200810/20200810-07.csv", text.as_bytes())]);
        let reported = format!("20200810-07.csv{reason}");
        let started = start(Some(root.path()), false).await;
        assert_eq!(started.rows, Some(good_row_count() + good), "{what}\n{}", started.log);
        assert!(started.log.contains(&reported), "{what}: should say `{reported}`\n{}", started.log);
        let refused = start(Some(root.path()), true).await;
        assert_eq!(refused.code, Some(1), "{what}\n{}", refused.log);
        assert!(
            refused.log.contains("error: node `B` failed to load") && refused.log.contains(&reported),
            "{what}\n{}",
            refused.log
        );
    }
}

#[tokio::test]
async fn header_blank_lines_and_an_empty_file_are_no_mistakes() {
    let with_header =
        format!("Latitude,Longitude,UTC,Parameter\n\n{}\r\n\n", good_rows().lines().next().unwrap());
    let root = dataset(&[
        ("20200810/20200810-07.csv", with_header.as_bytes()),
        ("20200810/20200810-13.csv", b""),
        ("20200810/notes.txt", b"not data"),
    ]);
    let started = start(Some(root.path()), true).await;
    assert_eq!((started.rows, started.code), (Some(good_row_count() + 1), None), "{}", started.log);
}

#[tokio::test]
async fn days_that_no_team_owns_are_reported() {
    let root = dataset(&[("20201231/20201231-01.csv", b"")]);
    let started = start(Some(root.path()), true).await;
    assert!(started.log.contains("20201231"), "{}", started.log);
}

/// The leader holds no data and needs none.
#[tokio::test]
async fn leader_starts_without_a_dataset() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, configuration()).unwrap();
    let arguments = [OsString::from("--config"), config.into(), "--bind".into(), "127.0.0.1:0".into()];
    let mut node = RunningNode::spawn(Path::new(BINARY), "A", arguments, folder.path()).unwrap();
    node.wait_ready(READY_WITHIN).unwrap();
}
