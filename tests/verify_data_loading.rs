//! `overlay verify-data-loading` on the bundled data and on broken copies of it.

mod bundled;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/one_host_config.json");
const BUNDLED: &str = bundled::ROOT;

fn verify(config: &Path, root: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay"));
    command.arg("verify-data-loading").arg(config).arg("--dataset-root").arg(root).args(more);
    command.output().unwrap()
}

/// The text and the exit code.
fn text(config: &Path, root: &Path) -> (String, Option<i32>) {
    let output = verify(config, root, &[]);
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn json(config: &Path, root: &Path) -> Value {
    serde_json::from_slice(&verify(config, root, &["--format", "json"]).stdout).unwrap()
}

/// The messages of one check's findings.
fn findings(report: &Value, check: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|found| found["check"] == check).unwrap();
    check["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["message"].as_str().unwrap().to_owned())
        .collect()
}

/// A copy of the bundled data that may be broken.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for day in std::fs::read_dir(BUNDLED).unwrap().map(Result::unwrap) {
            let folder = copy.path().join(day.file_name());
            std::fs::create_dir(&folder).unwrap();
            for file in std::fs::read_dir(day.path()).unwrap().map(Result::unwrap) {
                std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
            }
        }
        Copy(copy)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    /// Replaces text in one line, counted from 1.
    fn edit(&self, file: &str, line: usize, edit: impl Fn(&str) -> String) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        let edited = |(index, found)| if index + 1 == line { edit(found) } else { String::from(found) };
        let lines: Vec<String> = text.lines().enumerate().map(edited).collect();
        std::fs::write(self.path(file), lines.join("\n") + "\n").unwrap();
    }
}

#[test]
fn the_bundled_data_are_loaded_by_each_member_of_their_team() {
    let (text, code) = text(Path::new(CONFIG), Path::new(BUNDLED));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("normal: 20200811-20200813"), "{text}");
    let report = json(Path::new(CONFIG), Path::new(BUNDLED));
    assert_eq!(report["ok"], true);
    let (green, pink) = (bundled::rows(20200810..=20200820), bundled::rows(20200821..=20200924));
    for process in report["disk"]["processes"].as_array().unwrap() {
        let held = match process["process"].as_str().unwrap() {
            "A" => &[][..],
            "B" | "C" => &green,
            _ => &pink,
        };
        assert_eq!(process["rows"], held.len(), "{process}");
        assert_eq!(process["sample"]["rows"], bundled::pm25_from_5_to_35(held), "{process}");
    }
    assert_eq!(report["disk"]["rows_on_disk"], green.len() + pink.len());
    assert_eq!(report["disk"]["rows_loaded"], green.len() + pink.len());
}

#[test]
fn fewer_replicas_still_tile_the_dataset() {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(CONFIG).unwrap()).unwrap();
    config["replicas"] = 1.into();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let report = json(&path, Path::new(BUNDLED));
    assert_eq!(report["ok"], true);
    let rows = |process: &Value| process["rows"].as_u64().unwrap();
    let loaded: u64 = report["disk"]["processes"].as_array().unwrap().iter().map(rows).sum();
    assert_eq!(loaded, bundled::rows(bundled::ALL).len() as u64);
    for day in report["disk"]["days"].as_array().unwrap() {
        assert_eq!(day["loaded_by"].as_array().unwrap().len(), 1, "{day}");
    }
}

#[test]
fn a_file_cut_in_mid_row_is_named_with_its_line() {
    let copy = Copy::new();
    let file = copy.path("20200815/20200815-01.csv");
    let text_before = std::fs::read(&file).unwrap();
    // In a field, at its quote, behind a comma. The loader's own tests cut everywhere.
    let start = text_before.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [start + 3, start + 9, start + 10, start + 60, start + 99] {
        std::fs::write(&file, &text_before[..cut]).unwrap();
        let (text, code) = text(Path::new(CONFIG), copy.0.path());
        assert_eq!(code, Some(3), "cut at {cut}: {text}");
        assert!(text.contains(&format!("{}:2: ", file.display())), "cut at {cut}: {text}");
    }
}

#[test]
fn every_kind_of_bad_row_is_found_in_one_run() {
    let copy = Copy::new();
    copy.edit("20200816/20200816-01.csv", 3, |row| row.rsplit_once(',').unwrap().0.to_owned());
    copy.edit("20200817/20200817-01.csv", 4, |row| row.replace("2020-08-17", "2020-08-19"));
    copy.edit("20200822/20200822-01.csv", 1, |row| format!("\"99.5\"{}", &row[row.find(',').unwrap()..]));
    let report = json(Path::new(CONFIG), copy.0.path());
    let found = findings(&report, "rows_parse");
    let expected = [
        ("20200816-01.csv:3: ", "12 fields, expected 13"),
        ("20200817-01.csv:4: ", "dated 2020-08-19, outside its folder 20200817"),
        ("20200822-01.csv:1: ", "latitude `99.5` out of range"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (place, reason)) in found.iter().zip(expected) {
        assert!(found.contains(place) && found.contains(reason), "{found}");
    }
    let on_disk = bundled::rows(bundled::ALL).len();
    assert_eq!(report["disk"]["rows_on_disk"], on_disk);
    assert_eq!(report["disk"]["rows_loaded"], on_disk - 3);
    assert_eq!(text(Path::new(CONFIG), copy.0.path()).1, Some(3));
}

#[test]
fn a_file_that_is_there_twice_and_a_damaged_one_are_both_named() {
    let copy = Copy::new();
    std::fs::write(copy.path("20200822/20200822-01.csv.gz"), b"").unwrap();
    std::fs::write(copy.path("20200825/20200825-99.csv.gz"), b"not gzip at all").unwrap();
    let report = json(Path::new(CONFIG), copy.0.path());
    let found = findings(&report, "files_are_read");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("20200822-01.csv` and") && found[0].contains("hold the same rows"),
        "{found:#?}"
    );
    assert!(found[1].contains("20200825-99.csv.gz"), "{found:#?}");
    // Their other files are loaded by nobody then, and that is said too.
    assert_eq!(findings(&report, "rows_are_loaded").len(), 3);
}

/// Goal: a day that is there but cannot be looked at is a finding, not a day without data.
#[cfg(unix)]
#[test]
fn a_day_that_cannot_be_looked_at_is_named() {
    let copy = Copy::new();
    std::fs::remove_dir_all(copy.path("20200814")).unwrap();
    std::os::unix::fs::symlink(copy.path("nowhere"), copy.path("20200814")).unwrap();
    let report = json(Path::new(CONFIG), copy.0.path());
    let found = findings(&report, "files_are_read");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(&format!("cannot read `{}`", copy.path("20200814").display())), "{found:?}");
    assert_eq!(text(Path::new(CONFIG), copy.0.path()).1, Some(3));
}

#[test]
fn a_day_that_no_team_owns_is_named_with_its_files_and_rows() {
    let copy = Copy::new();
    std::fs::rename(copy.path("20200920"), copy.path("20201001")).unwrap();
    for hour in ["01", "07", "13", "19"] {
        let file = format!("20201001/20200920-{hour}.csv");
        let text = std::fs::read_to_string(copy.path(&file)).unwrap();
        std::fs::write(copy.path(&file), text.replace("2020-09-20", "2020-10-01")).unwrap();
    }
    let report = json(Path::new(CONFIG), copy.0.path());
    assert_eq!(findings(&report, "rows_parse"), Vec::<String>::new());
    let found = findings(&report, "days_are_owned");
    assert!(found[0].starts_with("day 20201001 belongs to no team"), "{found:?}");
    assert!(found[0].contains("4 files"), "{found:?}");
    assert_eq!(text(Path::new(CONFIG), copy.0.path()).1, Some(3));
}

#[test]
fn what_is_no_data_is_named_and_harmless() {
    let copy = Copy::new();
    std::fs::create_dir(copy.path("20200811")).unwrap();
    std::fs::create_dir(copy.path("notes")).unwrap();
    std::fs::write(copy.path("20200823/readme.txt"), "x").unwrap();
    let (text, code) = text(Path::new(CONFIG), copy.0.path());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ignored, no part of the dataset: notes, 20200823/readme.txt"), "{text}");
}

/// Each of these loses rows without a line that does not parse.
#[test]
fn a_file_without_a_row_and_one_outside_a_day_folder_are_named() {
    let copy = Copy::new();
    std::fs::write(copy.path("20200816/20200816-01.csv"), "").unwrap();
    std::fs::rename(copy.path("20200817"), copy.path("20200817 ")).unwrap();
    std::fs::create_dir(copy.path("20200818/more")).unwrap();
    std::fs::rename(copy.path("20200818/20200818-07.csv"), copy.path("20200818/more/07.CSV")).unwrap();
    let report = json(Path::new(CONFIG), copy.0.path());
    assert_eq!(report["ok"], false);
    let root = copy.0.path().display();
    let empty = [format!("{root}/20200816/20200816-01.csv has no row: was it cut?")];
    assert_eq!(findings(&report, "files_have_rows"), empty);
    let astray = ["20200817 /20200817-01.csv", "20200818/more/07.CSV"]
        .map(|file| format!("{root}/{file} is loaded by nobody: expected YYYYMMDD/NAME.csv or .csv.gz"));
    assert_eq!(findings(&report, "files_lie_in_day_folders"), astray);
    assert_eq!(text(Path::new(CONFIG), copy.0.path()).1, Some(3));
}

#[test]
fn a_dataset_without_a_row_is_a_finding() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::create_dir(root.path().join("20200810")).unwrap();
    let (text, code) = text(Path::new(CONFIG), root.path());
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains(
            "FAILED  every row on disk is loaded by exactly one team: not a single row is loaded\n"
        ),
        "{text}"
    );
}

#[test]
fn what_cannot_be_checked_is_no_finding() {
    let nowhere = Path::new("/no/such/folder");
    let empty = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assert_eq!(verify(Path::new(CONFIG), nowhere, &[]).status.code(), Some(2));
    assert_eq!(verify(Path::new(CONFIG), empty.path(), &[]).status.code(), Some(2));
    assert_eq!(verify(nowhere, Path::new(BUNDLED), &[]).status.code(), Some(2));
    let config = empty.path().join("config.json");
    std::fs::write(&config, r#"{"processes": {}}"#).unwrap();
    assert_eq!(verify(&config, Path::new(BUNDLED), &[]).status.code(), Some(2));
    let without_root =
        Command::new(env!("CARGO_BIN_EXE_overlay")).args(["verify-data-loading", CONFIG]).output();
    assert_eq!(without_root.unwrap().status.code(), Some(2));
}
