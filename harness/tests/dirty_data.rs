//! Data that are not as they should be: the node's loader, scan, aggregates and frames against the oracle.
//!
//! Rows of the fixtures are edited at random, cell by cell and byte by byte. Whatever the edits make of them,
//! both must agree which rows there are, which records are none, and what queries find. Nodes and networks
//! have no part in it: it is the meaning of files that is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use overlay::aggregate::Tally;
use overlay::config::Overlay;
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::load::{LoadOptions, Loaded, days_on_disk, load};
use overlay::plan::Query;
use overlay::scan::{self, BoundPredicate};
use overlay::store::{DayBatch, Store};
use overlay_harness::answer::{self, assert_equal_rows};
use overlay_harness::cluster::fixtures;
use overlay_harness::oracle::{GroupKey, Measure, Oracle, OracleQuery, OracleRow, TeamRange, random_query};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use serde_json::Value;

const CONFIG: &str = include_str!("../../configs/one_host_config.json");

/// The last day of green and the first of pink.
const FILES: [&str; 4] = [
    "20200820/20200820-01.csv",
    "20200820/20200820-07.csv",
    "20200821/20200821-01.csv",
    "20200821/20200821-13.csv",
];

/// Rows of each file that are edited.
const ROWS: usize = 6;

/// Queries asked of each edited dataset.
const QUERIES: usize = 8;

/// Texts at the edge of what some fields may hold.
const EDGES: [(&[usize], &[&str]); 6] = [
    (&[0, 1], &["90", "-90.0", "90.1", "180", "-180.000001", "NaN", "inf", "-0", "1e1", "-999", ""]),
    (
        &[2],
        &[
            "2020-08-20T23:59",
            "2020-08-20T24:00",
            "2020-08-20T1:00",
            "2020-08-21T00:00",
            "2020-08-21 00:00",
            "2020-08-32T00:00",
        ],
    ),
    (&[3], &["", "\u{a0}", "so2", "SO2", "ſo2", "Ozone"]),
    (
        &[4, 6],
        &[
            "",
            " -999 ",
            "-9.99e2",
            "-999.1",
            "999999999.999999999",
            "-999999999.999999999",
            "1000000000",
            "17.3000000000000000000",
            "0.000000001",
            "0.0000000001",
            "1e-9",
            "1e12",
            "0e99999",
            "1e5000000000",
            "5E+1",
            ".5",
            "5.",
            "+5",
            "-0",
            "--5",
            "1,5",
            "1_000",
            "0x10",
            "many",
        ],
    ),
    (&[7, 8], &["32767", "32768", "70000", "0", "1", "6", "7", "-1", "1.5", "6.0", "1e0", "-999.0", ""]),
    (&[5, 9, 10, 11, 12], &["", " ", "straße, \"x\"", "two\nlines", "İΣ", "lat", "0"]),
];

/// Lines that are no rows.
const LINES: [&str; 9] =
    ["", "   ", "\t\r", "lat,lon", "\"Latitude\",\"Longitude\"", "1,2,3", "\"open,2", "a\"b,c", "\u{feff}"];

/// Bytes that mean something to a reader of CSV or of UTF-8.
const BYTES: [&[u8]; 10] = [b"", b"\"", b",", b"\n", b"\r", b"\r\n", b"\"\"", b"\xff", b"\0", b" "];

/// A change of one file.
#[derive(Clone, Debug)]
enum Edit {
    /// Another text, quoted or not, in a cell.
    Cell { row: Index, field: usize, text: String, quoted: bool },
    /// A line before a row.
    Line { row: Index, line: &'static str },
    /// The first cells of a row at the end of the file, which ends behind a comma.
    Cut { row: Index, cells: usize },
    /// Bytes taken out and put in, anywhere: applied when all rows are written.
    Bytes { at: Index, taken: usize, put: &'static [u8] },
}

fn edit() -> impl Strategy<Value = (usize, Edit)> {
    let fitting = select(&EDGES[..]).prop_flat_map(|(fields, texts)| (select(fields), select(texts)));
    let fitting = fitting.prop_map(|(field, text)| (field, text.to_owned()));
    // Mostly concentrations, so that sums have many different decimals.
    let value = (select(&[4usize, 6][..]), "-?[0-9]{1,9}(\\.[0-9]{1,9})?");
    let long = (0usize..13, (1020usize..1030).prop_map(|length| "x".repeat(length)));
    let any_text = (0usize..13, "\\PC{0,5}");
    let text = prop_oneof![6 => fitting, 3 => value, 1 => long, 1 => any_text];
    let cell = (any::<Index>(), text, any::<bool>()).prop_map(|(row, (field, text), quoted)| Edit::Cell {
        row,
        field,
        text,
        quoted,
    });
    let cut = (any::<Index>(), 1usize..13).prop_map(|(row, cells)| Edit::Cut { row, cells });
    let line = (any::<Index>(), select(&LINES[..])).prop_map(|(row, line)| Edit::Line { row, line });
    let put = select(&BYTES[..]);
    let bytes = (any::<Index>(), select(&[0usize, 1, 2, 30, 5000][..]), put)
        .prop_map(|(at, taken, put)| Edit::Bytes { at, taken, put });
    (0..FILES.len(), prop_oneof![20 => cell, 3 => line, 1 => cut, 3 => bytes])
}

/// Writes the files with their edits.
fn write(root: &Path, edits: &[(usize, Edit)]) {
    for (number, name) in FILES.iter().enumerate() {
        let edits = || edits.iter().filter(|(file, _)| *file == number).map(|(_, edit)| edit);
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, edited(&fs::read_to_string(fixtures().join(name)).unwrap(), edits)).unwrap();
    }
}

fn edited<'a, I: Iterator<Item = &'a Edit>>(text: &str, edits: impl Fn() -> I) -> Vec<u8> {
    // In the fixtures every cell has quotes, and none holds one.
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('"').split("\",\"").map(|cell| format!("\"{cell}\"")).collect()
    };
    let mut rows: Vec<Vec<String>> = text.lines().take(ROWS).map(cells).collect();
    for edit in edits() {
        if let Edit::Cell { row, field, text, quoted } = edit {
            let text = if *quoted { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() };
            rows[row.index(ROWS)][*field] = text;
        }
    }
    let mut lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
    for edit in edits() {
        if let Edit::Line { row, line } = edit {
            lines.insert(row.index(lines.len()), (*line).to_owned());
        }
    }
    let mut bytes = (lines.join("\n") + "\n").into_bytes();
    for edit in edits() {
        if let Edit::Cut { row, cells } = edit {
            bytes.extend((rows[row.index(ROWS)][..*cells].join(",") + ",").into_bytes());
        }
    }
    for edit in edits() {
        if let Edit::Bytes { at, taken, put } = edit {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + taken);
            bytes.splice(at..end, put.iter().copied());
        }
    }
    bytes
}

fn loaded(root: &Path) -> Loaded {
    let days: BTreeSet<Day> = days_on_disk(root).unwrap().days.into_iter().collect();
    let options = LoadOptions { rejected_kept: usize::MAX, ..LoadOptions::default() };
    load(root, &days, &options, &|_| ()).unwrap()
}

/// Rows of a day as a client reads them; no encoding may exceed what the day's statistics promise.
fn encoded(store: &Store, batch: &DayBatch, rows: &[u32], encoding: Encoding) -> Vec<Value> {
    for encoding in [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy] {
        let worst = encoding.of(&batch.statistics.worst_row_bytes) as usize;
        let most = rows.len() * worst + frame::frame_overhead_bytes(encoding) as usize;
        let found = frame::encode_rows(store, batch, rows, encoding).len();
        assert!(found <= most, "{encoding:?}: {} rows take {found} bytes, promised are {most}", rows.len());
    }
    array(&frame::encode_rows(store, batch, rows, encoding))
}

fn array(payload: &[u8]) -> Vec<Value> {
    serde_json::from_slice(&[b"[", payload, b"]"].concat()).unwrap()
}

/// What a query selects, by day.
fn selected<'a>(
    store: &'a Store,
    query: &Query,
    overlay: &'a Overlay,
) -> Vec<(&'a DayBatch, &'a str, Vec<u32>)> {
    let bound = BoundPredicate::new(store, &query.predicate);
    let select = |(day, team)| {
        let batch = &**store.day(day)?;
        let mut rows = Vec::new();
        scan::select(store, batch, &bound, 0..batch.row_count(), &mut rows);
        Some((batch, team, rows))
    };
    let teams = overlay.teams.iter().map(|team| (team.name.as_str(), team.days));
    query.planned_days(teams).into_iter().filter_map(select).collect()
}

fn check_query(store: &Store, oracle: &Oracle, overlay: &Overlay, asked: &OracleQuery) {
    let query = answer::query(asked, Encoding::Json);
    let found = selected(store, &query, overlay);
    let mut rows: Vec<Value> =
        found.iter().flat_map(|(batch, _, rows)| encoded(store, batch, rows, Encoding::Json)).collect();
    rows.truncate(asked.limit.unwrap_or(usize::MAX));
    let expected: Vec<Value> = oracle.rows(asked).into_iter().map(OracleRow::to_json).collect();
    assert_equal_rows(&format!("rows of {asked}"), &expected, &rows);
}

fn check_aggregate(
    store: &Store,
    oracle: &Oracle,
    overlay: &Overlay,
    asked: &OracleQuery,
    measure: Measure,
    keys: &[GroupKey],
) {
    let spec = answer::aggregate(measure, keys);
    let mut tally = Tally::new(store, &spec);
    for (batch, team, rows) in selected(store, &answer::query(asked, Encoding::Json), overlay) {
        tally.add(batch, &rows, &team.into());
    }
    let mut groups = tally.into_groups(store);
    groups.truncate(asked.limit.unwrap_or(usize::MAX));
    let found = array(&frame::encode_groups(spec.of, &groups, 0..groups.len(), Encoding::Json));
    let expected = oracle.aggregate(asked, measure, keys);
    assert_equal_rows(&format!("{measure:?} by {keys:?} of {asked}"), &expected, &found);
}

fn check_rows(store: &Store, oracle: &Oracle) {
    let rows = |encoding| -> Vec<Value> {
        let all = |batch: &DayBatch| (0..batch.row_count()).collect::<Vec<u32>>();
        store.days().flat_map(|batch| encoded(store, batch, &all(batch), encoding)).collect()
    };
    let expected = |row: fn(&OracleRow) -> Value| oracle.all_rows().iter().map(row).collect::<Vec<_>>();
    assert_equal_rows(&"all rows", &expected(OracleRow::to_json), &rows(Encoding::Json));
    assert_equal_rows(
        &"all rows, old form",
        &expected(OracleRow::to_legacy_json),
        &rows(Encoding::JsonLegacy),
    );
}

fn check_rejected(loaded: &Loaded, oracle: &Oracle) {
    let expected: BTreeMap<_, _> =
        oracle.rejected().iter().map(|record| ((record.file.clone(), record.line), &record.reason)).collect();
    let found: BTreeMap<_, _> =
        loaded.rejected.iter().map(|row| ((row.file.clone(), row.line), &row.reason)).collect();
    assert!(expected.keys().eq(found.keys()), "rejected\n  expected {expected:#?}\n  found {found:#?}");
    let counted: u64 = loaded.store.days().map(|batch| batch.statistics.rejected_rows).sum();
    assert_eq!(counted, expected.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loader_and_oracle_agree_about_edited_files(
        edits in prop::collection::vec(edit(), 0..16),
        seed: u64,
    ) {
        let root = overlay_harness::scratch::folder().unwrap();
        write(root.path(), &edits);
        let oracle = Oracle::read(root.path(), &TeamRange::green_and_pink()).unwrap();
        let overlay = Overlay::parse(CONFIG, "one_host_config.json").unwrap().overlay;
        let loaded = loaded(root.path());
        check_rejected(&loaded, &oracle);
        check_rows(&loaded.store, &oracle);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..QUERIES {
            let asked = random_query(&mut rng, &oracle);
            check_query(&loaded.store, &oracle, &overlay, &asked);
            let measure = Measure::ALL[rng.usize(..3)];
            let keys = GroupKey::ALL.into_iter().filter(|_| rng.bool()).collect::<Vec<_>>();
            check_aggregate(&loaded.store, &oracle, &overlay, &asked, measure, &keys);
        }
    }
}

/// Edits that make no bad row would prove little.
#[test]
fn edits_make_rows_bad_and_leave_rows_good() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..50 {
        let edits = prop::collection::vec(edit(), 8).new_tree(&mut runner).unwrap().current();
        let root = overlay_harness::scratch::folder().unwrap();
        write(root.path(), &edits);
        let loaded = loaded(root.path());
        good += loaded.store.row_count();
        bad += loaded.rejected.len();
    }
    assert!(good >= 300 && bad >= 100, "{good} good, {bad} bad");
}

#[test]
fn both_ignore_what_is_no_data() {
    let root = overlay_harness::scratch::folder().unwrap();
    write(root.path(), &[]);
    let row = fs::read_to_string(root.path().join(FILES[0])).unwrap();
    for name in
        ["20200230/a.csv", "20200820/.hidden.csv", "20200820/a.csv/b.csv", "20200820/notes.txt", "c.csv"]
    {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &row).unwrap();
    }
    let oracle = Oracle::read(root.path(), &TeamRange::green_and_pink()).unwrap();
    assert_eq!(oracle.all_rows().len(), FILES.len() * ROWS);
    assert_eq!(loaded(root.path()).store.row_count(), (FILES.len() * ROWS) as u64);
}
