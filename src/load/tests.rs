use std::io::Write;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::Version;

/// Codes have two bytes.
const MEASURES_LIMIT: usize = 1 << 16;

const GOOD: &str = r#""41.75613","-124.20347","2020-08-10T01:00","PM2.5","17.3","UG/M3","18.0","62","2","Crescent City","North Coast","0060","8400060""#;

pub(super) fn other(time: &str, parameter: &str, value: &str, site: &str) -> String {
    format!("40.1,-120.5,{time},{parameter},{value},PPB,-999,,,{site},Agency,1,8401")
}

pub(super) fn dataset(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut data = text.as_bytes().to_vec();
        if name.ends_with(".gz") {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(&data).unwrap();
            data = encoder.finish().unwrap();
        }
        std::fs::write(path, data).unwrap();
    }
    root
}

fn load_all(root: &TempDir, options: &LoadOptions) -> Result<Loaded, LoadError> {
    let days = days_on_disk(root.path())?.days.into_iter().collect();
    load(root.path(), &days, options, &|_| ())
}

fn loaded(files: &[(&str, &str)]) -> Loaded {
    load_all(&dataset(files), &LoadOptions::default()).unwrap()
}

fn version(files: &[(&str, &str)]) -> Version {
    loaded(files).store.days().next().unwrap().version
}

#[test]
fn rows_come_in_the_order_of_stems_and_lines() {
    let late = other("2020-08-10T23:15", "OZONE", "31", "B") + "\n";
    let early = format!("{GOOD}\n\n{}", other("2020-08-10T02:00", "ozone", "-2.25", "A"));
    let Loaded { store, rejected } =
        loaded(&[("20200810/20200810-23.csv", &late), ("20200810/20200810-01.csv.gz", &early)]);
    assert_eq!(rejected, []);
    let batch = store.days().next().unwrap();
    let value = |row| batch.value.get(row).map(|value| value.to_string());
    assert_eq!([value(0), value(1), value(2)].map(Option::unwrap), ["17.3", "-2.25", "31.0"]);
    assert_eq!(&*batch.minute, [60, 120, 23 * 60 + 15]);
    assert_eq!([batch.aqi(0), batch.aqi(1)], [Some(62), None]);
    assert_eq!([batch.category(0), batch.category(1)], [Some(2), None]);
    assert_eq!(batch.raw_concentration.get(1), None);
    // Codes are given by first use.
    assert_eq!((&*batch.site, &*batch.measure), (&[0, 1, 2][..], &[0, 1, 2][..]));
    assert_eq!(&*store.sites()[0].full_aqs_id, "8400060");
    assert_eq!(&*store.measures()[1].parameter, "ozone");
    let stems: Vec<_> = batch.files.iter().map(|file| (&*file.stem, file.first_row, file.rows)).collect();
    assert_eq!(stems, [("20200810-01", 0, 2), ("20200810-23", 2, 1)]);
}

#[test]
fn statistics_fold_letter_case_and_leave_out_what_is_missing() {
    let rows = [
        other("2020-08-10T02:00", "ozone", "-2.25", "A"),
        other("2020-08-10T02:00", "OZONE", "", "A"),
        other("2020-08-10T02:00", "Ozone", "7", "A"),
        GOOD.to_owned(),
    ]
    .join("\n");
    let store = loaded(&[("20200810/a.csv", &rows)]).store;
    let statistics = &store.days().next().unwrap().statistics;
    assert_eq!((statistics.rows, statistics.rejected_rows, statistics.files), (4, 0, 1));
    let ozone = &statistics.parameters["OZONE"];
    assert_eq!((ozone.rows, ozone.missing), (3, 1));
    assert_eq!((ozone.min.unwrap().0, ozone.max.unwrap().0), (-2_250_000_000, 7_000_000_000));
    let place = statistics.place.unwrap();
    assert_eq!((place.lat_min, place.lat_max), (40.1, 41.75613));
    assert_eq!((place.lon_min, place.lon_max), (-124.20347, -120.5));
}

#[test]
fn a_header_is_skipped_only_as_the_first_record() {
    let header = "Latitude,Longitude,UTC,Parameter,Concentration,Unit,Raw,AQI,Category,Site,Agency,Id,Full";
    let file = format!("{header}\n{GOOD}\n{header}\n");
    let Loaded { store, rejected } = loaded(&[("20200810/a.csv", &file)]);
    assert_eq!(store.row_count(), 1);
    let rejected: Vec<_> = rejected.iter().map(|row| (row.line, &*row.reason)).collect();
    assert_eq!(rejected, [(3, "time `UTC` is not YYYY-MM-DDTHH:MM")]);
}

#[test]
fn rejected_rows_are_counted_and_the_first_ones_are_named() {
    let file =
        [GOOD, "1,2,3", &other("2020-08-12T02:00", "OZONE", "1", "A"), &GOOD[..GOOD.len() - 5]].join("\r\n");
    let root = dataset(&[("20200810/a.csv", &file)]);
    let options = LoadOptions { rejected_kept: 2, ..LoadOptions::default() };
    let Loaded { store, rejected } = load_all(&root, &options).unwrap();
    let statistics = &store.days().next().unwrap().statistics;
    assert_eq!((statistics.rows, statistics.rejected_rows), (1, 3));
    let path = root.path().join("20200810/a.csv");
    let row = |line, reason: &str| RejectedRow { file: path.clone(), line, reason: reason.to_owned() };
    assert_eq!(
        rejected,
        [row(2, "3 fields, expected 13"), row(3, "dated 2020-08-12, outside its folder 20200810"),]
    );
    let strict = LoadOptions { strict: true, ..options };
    let error = load_all(&root, &strict).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:2: 3 fields, expected 13", path.display()));
}

#[test]
fn a_file_cut_in_mid_row_rejects_its_last_row() {
    // Cuts the second row at every place: inside a field, inside its quotes, behind a comma.
    for end in 1..GOOD.len() {
        let file = format!("{GOOD}\n{}", &GOOD[..end]);
        let store = loaded(&[("20200810/a.csv", &file)]).store;
        let statistics = &store.days().next().unwrap().statistics;
        assert_eq!((statistics.rows, statistics.rejected_rows), (1, 1), "cut at {end}");
    }
}

/// Rows of few sites in few styles, with line ends, so that most resemble one before; some bytes are replaced.
fn resembling_rows() -> impl Strategy<Value = Vec<u8>> {
    let row = (
        0..3,
        prop::sample::select(vec!["PM2.5", "\"P\"\"M\""]),
        0..3,
        prop::sample::select(vec!["\n", "\r\n", "\n\n"]),
    )
        .prop_map(|(site, parameter, style, end)| {
            let row = other("2020-08-10T02:00", parameter, "1.5", &format!("Site {site}"));
            match style {
                0 => row + end,
                1 => format!("\"{}\"{end}", row.replace('"', "").replace(',', "\",\"")),
                _ => row.replace("Agency", "\"A \"\"and\"\"\nB, \"") + end,
            }
        });
    let replaced = prop::collection::vec(
        (any::<prop::sample::Index>(), prop::sample::select(&b"\",\r\n1- \xff"[..])),
        0..4,
    );
    (prop::collection::vec(row, 1..30), replaced).prop_map(|(rows, replaced)| {
        let mut data = rows.concat().into_bytes();
        for (index, byte) in replaced {
            let at = index.index(data.len());
            data[at] = byte;
        }
        data
    })
}

proptest! {
    /// Goal: guessing a row's site changes nothing. Method: a new reader for each record has nothing to guess from.
    #[test]
    fn a_row_reads_the_same_whatever_was_read_before(data in resembling_rows()) {
        let date = Date::new("20200810".parse().unwrap());
        let tables = StoreBuilder::default();
        let mut expected = DayBuilder::new("20200810".parse().unwrap());
        expected.file("a");
        let mut records = split::records(&data);
        while let Some(record) = records.next() {
            let row = record.fields.as_ref().ok().and_then(|fields| {
                let texts = fields.unescape();
                let texts = texts.each_ref().map(|field| field.as_ref());
                RowReader::new(&tables).read(&date, &texts, fields.margins).ok()
            });
            match row {
                Some((site, measure, row)) => expected.push(&site, &measure, row),
                None => expected.reject(records.line(&record), record.bytes),
            }
        }
        let batch = expected.finish(&tables);
        let expected = tables.finish(vec![batch]);
        let loaded = load_bytes("20200810".parse().unwrap(), "a", &data, &LoadOptions::default()).unwrap();
        prop_assert_eq!(format!("{:?}", loaded.store), format!("{expected:?}"));
    }
}

/// Goal: the end of a file is the end of no field. Method: the next file's site only begins like the one before.
#[test]
fn a_row_without_its_line_end_is_no_example() {
    let first = other("2020-08-10T02:00", "CO", "1", "A");
    let second = first.clone() + "2\n";
    let store = loaded(&[("20200810/a.csv", &first), ("20200810/b.csv", &second)]).store;
    let ids: Vec<_> = store.sites().iter().map(|site| &*site.full_aqs_id).collect();
    assert_eq!(ids, ["8401", "84012"]);
}

#[test]
fn the_version_is_that_of_the_rows() {
    let base = version(&[("20200810/a.csv", GOOD)]);
    let written_otherwise = GOOD.replace('"', "").replace("17.3", "17.30") + "\r\n\r\n";
    assert_eq!(version(&[("20200810/a.csv.gz", GOOD)]), base);
    assert_eq!(version(&[("20200810/a.csv", &written_otherwise)]), base);
    let different = [
        version(&[("20200810/b.csv", GOOD)]),
        version(&[("20200810/a.csv", GOOD), ("20200810/b.csv", "")]),
        version(&[("20200810/a.csv", &format!("{GOOD}\n{GOOD}"))]),
        version(&[("20200810/a.csv", &format!("{GOOD}\nrejected"))]),
        version(&[("20200810/a.csv", &format!("{GOOD}\nrefused"))]),
        version(&[("20200810/a.csv", &format!("{GOOD}\n\nrefused"))]),
        version(&[("20200810/a.csv", &GOOD.replace("17.3", ""))]),
        version(&[("20200810/a.csv", &GOOD.replace("Crescent", "crescent"))]),
        version(&[("20200810/a.csv", &GOOD.replace("\"62\"", "\"63\""))]),
        Version::of_no_data(),
        base,
    ];
    let distinct: BTreeSet<Version> = different.into_iter().collect();
    assert_eq!(distinct.len(), different.len());
}

#[test]
fn a_day_is_the_same_whatever_else_is_loaded() {
    let first = other("2020-08-09T02:00", "CO", "0.1", "Z");
    let alone = loaded(&[("20200810/a.csv", GOOD)]);
    let beside = loaded(&[("20200810/a.csv", GOOD), ("20200809/a.csv", &first)]);
    let of = |loaded: &Loaded| {
        let day = loaded.store.day("20200810".parse().unwrap()).unwrap();
        (day.version, day.statistics.clone())
    };
    assert_eq!(of(&alone), of(&beside));
}

#[test]
fn threads_change_nothing() {
    let days: Vec<(String, String)> = (1..=9)
        .map(|day| {
            let row = |hour: usize| {
                let time = format!("2020-08-0{day}T{hour:02}:00");
                other(&time, ["CO", "NO2", "SO2"][hour % 3], "1.5", &format!("Site {}", (hour * day) % 5))
            };
            (format!("2020080{day}/a.csv"), (0..24).map(row).collect::<Vec<_>>().join("\n"))
        })
        .collect();
    let files: Vec<(&str, &str)> = days.iter().map(|(name, text)| (&**name, &**text)).collect();
    let root = dataset(&files);
    let with = |threads| {
        let options = LoadOptions { threads, ..LoadOptions::default() };
        format!("{:?}", load_all(&root, &options).unwrap().store)
    };
    let one = with(1);
    for threads in [0, 2, 5, 100] {
        assert_eq!(with(threads), one);
    }
}

#[test]
fn progress_counts_files_and_rows() {
    let root = dataset(&[("20200810/a.csv", GOOD), ("20200810/b.csv", GOOD)]);
    let seen = Mutex::new(Vec::new());
    let days = ["20200810", "20200811"].map(|day| day.parse().unwrap()).into();
    let report = |progress: LoadProgress| seen.lock().unwrap().push(progress);
    load(root.path(), &days, &LoadOptions::default(), &report).unwrap();
    let at = |files_done, rows| LoadProgress { files_done, files_total: 2, rows };
    assert_eq!(seen.into_inner().unwrap(), [at(1, 1), at(2, 2)]);
}

#[test]
fn a_day_without_files_is_left_out() {
    let root = dataset(&[("20200810/readme.txt", "no rows"), ("20200811/.a.csv", GOOD)]);
    let days = ["20200810", "20200811", "20200812"].map(|day| day.parse().unwrap()).into();
    let loaded = load(root.path(), &days, &LoadOptions::default(), &|_| ()).unwrap();
    assert_eq!(loaded.store.days().len(), 0);
}

#[test]
fn the_root_names_its_days_and_what_it_ignores() {
    let root = dataset(&[
        ("20200811/a.csv", ""),
        ("20200810/a.csv", ""),
        ("20200230/a.csv", ""),
        ("20200812", "a file"),
        ("notes.txt", ""),
    ]);
    let found = days_on_disk(root.path()).unwrap();
    assert_eq!(found.days, ["20200810", "20200811"].map(|day| day.parse().unwrap()));
    assert_eq!(found.ignored, ["20200230", "20200812", "notes.txt"]);
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let root = dataset(&[("notes.txt", "")]);
    let path = root.path().display().to_string();
    let of = |folder: &str| days_on_disk(&root.path().join(folder)).unwrap_err().to_string();
    let no_days = "has no day folder (named YYYYMMDD, such as 20200810)";
    assert_eq!(of("."), format!("dataset root `{path}/.` {no_days}"));
    for folder in ["nowhere", "notes.txt"] {
        let expected = format!("dataset root `{path}/{folder}` is not a folder that exists");
        assert_eq!(of(folder), expected);
    }
    let twice = dataset(&[("20200810/a.csv", GOOD), ("20200810/a.csv.gz", GOOD)]);
    let error = load_all(&twice, &LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoadError::SameStem(..)), "{error}");
    for cut in [0, 9, 60] {
        let root = dataset(&[("20200810/a.csv.gz", GOOD)]);
        let path = root.path().join("20200810/a.csv.gz");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = load_all(&root, &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read `{}`", path.display())), "{error}");
    }
}

/// Goal: what cannot be looked at never passes for a day without data. Method: a link that leads nowhere.
#[cfg(unix)]
#[test]
fn a_day_that_cannot_be_looked_at_is_an_error() {
    let root = dataset(&[("20200810/a.csv", GOOD)]);
    std::os::unix::fs::symlink(root.path().join("nowhere"), root.path().join("20200811")).unwrap();
    let error = load_all(&root, &LoadOptions::default()).unwrap_err();
    let path = root.path().join("20200811").display().to_string();
    assert!(error.to_string().starts_with(&format!("cannot read `{path}`")), "{error}");
}

/// Only the root itself can say that a day has no folder.
#[test]
fn a_root_that_is_gone_is_an_error() {
    let root = dataset(&[("20200810/a.csv", GOOD)]);
    let days = BTreeSet::from(["20200810".parse().unwrap()]);
    let gone = root.path().join("gone");
    let error = load(&gone, &days, &LoadOptions::default(), &|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::NotAFolder(path) if path == gone));
}

/// Goal: no file hides another. Method: two names that look the same where bytes are replaced.
#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_is_an_error() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let root = dataset(&[("20200810/a.csv", GOOD)]);
    for name in [b"b\xff.csv", b"b\xfe.csv"] {
        std::fs::write(root.path().join("20200810").join(OsStr::from_bytes(name)), GOOD).unwrap();
    }
    let error = load_all(&root, &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains(r"20200810/b\xF") && error.contains("is not UTF-8"), "{error}");
}

fn measured(day: u32, parameter: usize) -> String {
    other(&format!("2020-08-{day}T02:00"), &format!("P{parameter}"), "1", "A")
}

#[test]
fn a_day_loads_whole_beside_days_with_other_parameters() {
    let rows = |day, parameters: std::ops::Range<usize>| -> String {
        parameters.map(|parameter| measured(day, parameter) + "\n").collect()
    };
    let (first, second) = (rows(10, 0..200), rows(11, 200..400));
    let Loaded { store, rejected } = loaded(&[("20200810/a.csv", &first), ("20200811/a.csv", &second)]);
    assert_eq!((store.row_count(), rejected), (400, Vec::new()));
    assert_eq!(&*store.measures()[399].parameter, "P399");
}

#[test]
fn a_rejected_row_takes_no_code() {
    let north = |parameter| measured(10, parameter).replacen("40.1", "north", 1) + "\n";
    let rows: String = (0..MEASURES_LIMIT).map(north).collect();
    let store = loaded(&[("20200810/a.csv", &(rows + GOOD))]).store;
    assert_eq!(store.row_count(), 1);
}

#[test]
fn more_parameters_than_codes_are_an_error_of_the_dataset() {
    let rows: String = (0..=MEASURES_LIMIT).map(|parameter| measured(10, parameter) + "\n").collect();
    let error = load_all(&dataset(&[("20200810/a.csv", &rows)]), &LoadOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "more than 65536 different pairs of parameter and unit");
}
