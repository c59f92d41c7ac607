//! The oracle itself, on answers worked out by hand, on the fixtures, and on the real data.

use std::fs;
use std::path::Path;

use overlay_harness::oracle::{
    GroupKey, Measure, Oracle, OracleQuery, TeamRange, numerically_equal, random_query,
};
use overlay_harness::skip::real_dataset;
use serde_json::json;

/// Three files: two of one day, named so that only stems order them right, and one that nobody owns.
fn three_files() -> (tempfile::TempDir, Oracle) {
    let root = overlay_harness::scratch::folder().unwrap();
    let row = |time: &str, parameter: &str, value: &str, raw: &str, aqi: &str, site: &str| {
        format!(
            "\"40.5\",\"-120.25\",\"{time}\",\"{parameter}\",\"{value}\",\"UG/M3\",\"{raw}\",\"{aqi}\",\"{aqi}\",\"{site}\",\"Invented, Air\",\"060010001\",\"840060010001\"\n"
        )
    };
    let write = |path: &str, text: String| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "20200810/20200810-01.csv",
        "Latitude,Longitude,UTC\n\n".to_owned()
            + &row("2020-08-10T01:00", "PM2.5", "5.0", "4.9", "1", "Alpha")
            + &row("2020-08-10T01:00", "PM2.5", "-999.0", "7.0", "-999", "Peñasco")
            + &row("2020-08-10T01:00", "PM2.5", "", "", "", "Alpha")
            + &row("2020-08-11T01:00", "PM2.5", "9.0", "9.0", "1", "Wrong day")
            + &row("2020-08-10T01:00", "PM2.5", "many", "9.0", "1", "No number"),
    );
    write(
        "20200810/20200810-01-late.csv",
        row("2020-08-10T02:00", "PM2.5", "5.1", "5.1", "2", "Peñasco")
            + &row("2020-08-10T02:00", "SO2", "-0.3", "-0.3", "3", "Alpha"),
    );
    write("20200812/20200812-01.csv", row("2020-08-12T01:00", "PM2.5", "6.0", "6.0", "1", "Alpha"));
    write("notes.txt", "no data".to_owned());
    let oracle = Oracle::read(root.path(), &[TeamRange::new("green", 20200810, 20200811)]).unwrap();
    (root, oracle)
}

fn values(oracle: &Oracle, query: OracleQuery) -> Vec<&str> {
    oracle.rows(&query).into_iter().map(|row| row.field(4)).collect()
}

#[test]
fn rows_come_by_day_stem_and_row_and_only_from_owned_days() {
    let (_root, oracle) = three_files();
    assert_eq!(values(&oracle, OracleQuery::default()), ["5.0", "-999.0", "", "5.1", "-0.3"]);
    assert_eq!(oracle.all_rows().len(), 6);
    let rejected: Vec<_> =
        oracle.rejected().iter().map(|record| (record.line, record.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [(6, "dated `2020-08-11T01:00`, outside its folder"), (7, "value `many` is no number")]
    );
}

#[test]
fn bounds_are_inclusive_and_never_match_missing() {
    let (_root, oracle) = three_files();
    let between = |min: Option<&str>, max: Option<&str>| {
        let [min, max] = [min, max].map(|bound| bound.map(str::to_owned));
        values(&oracle, OracleQuery { min, max, ..OracleQuery::default() })
    };
    assert_eq!(between(Some("5"), Some("5.1")), ["5.0", "5.1"]);
    assert_eq!(between(Some("5.0000000000000000000001"), None), ["5.1"]);
    assert_eq!(between(None, Some("1e9")), ["5.0", "5.1", "-0.3"]);
    assert_eq!(between(Some("-999"), Some("-0.3")), ["-0.3"]);
}

#[test]
fn other_filters_select_by_what_they_name() {
    let (_root, oracle) = three_files();
    let default = OracleQuery::default;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(values(&oracle, OracleQuery { parameter: some("so2"), ..default() }), ["-0.3"]);
    assert!(values(&oracle, OracleQuery { parameter: some("PM25"), ..default() }).is_empty());
    assert_eq!(values(&oracle, OracleQuery { site: some("PEÑAS"), ..default() }), ["-999.0", "5.1"]);
    assert_eq!(values(&oracle, OracleQuery { agency: some("ted, a"), limit: Some(1), ..default() }), ["5.0"]);
    assert_eq!(values(&oracle, OracleQuery { text: some("alph"), ..default() }), ["5.0", "", "-0.3"]);
    assert!(values(&oracle, OracleQuery { team: some("pink"), ..default() }).is_empty());
    assert!(values(&oracle, OracleQuery { date_start: Some(20200811), ..default() }).is_empty());
    assert_eq!(
        values(&oracle, OracleQuery { lat_min: Some(40.5), lon_max: Some(-120.25), ..default() }).len(),
        5
    );
    assert!(values(&oracle, OracleQuery { lat_max: Some(40.49), ..default() }).is_empty());
}

#[test]
fn json_writes_missing_as_each_contract_says() {
    let (_root, oracle) = three_files();
    let rows = oracle.rows(&OracleQuery::default());
    let expected = json!({
        "latitude": 40.5, "longitude": -120.25, "timestamp": "2020-08-10T01:00", "parameter": "PM2.5",
        "value": -999, "unit": "UG/M3", "raw_concentration": 7.0, "aqi": -999, "category": -999,
        "site_name": "Peñasco", "agency_name": "Invented, Air", "aqs_id": "060010001",
        "full_aqs_id": "840060010001", "date": "20200810",
    });
    assert!(numerically_equal(&rows[1].to_legacy_json(), &expected), "{}", rows[1].to_legacy_json());
    let ours = rows[2].to_json();
    assert_eq!(ours["timestamp"], "2020-08-10T01:00Z");
    for name in ["value", "raw_concentration", "aqi", "category"] {
        assert_eq!(ours[name], json!(null), "{name}");
        assert_eq!(rows[2].to_legacy_json()[name], -999, "{name}");
    }
    assert!(rows[0].to_legacy_json().to_string().contains("\"value\":5.0,"));
}

#[test]
fn aggregate_groups_exactly() {
    let (_root, oracle) = three_files();
    let default = OracleQuery::default;
    let by_site = oracle.aggregate(&default(), Measure::Value, &[GroupKey::Site, GroupKey::Hour]);
    assert_eq!(
        by_site,
        [
            json!({"site_name": "Alpha", "hour": 1, "count": 1, "min": 5.0, "max": 5.0, "mean": 5.0}),
            json!({"site_name": "Alpha", "hour": 2, "count": 1, "min": -0.3, "max": -0.3, "mean": -0.3}),
            json!({"site_name": "Peñasco", "hour": 2, "count": 1, "min": 5.1, "max": 5.1, "mean": 5.1}),
        ]
    );
    // (4.9 + 7.0 + 5.1 - 0.3) / 4
    let all = oracle.aggregate(&default(), Measure::RawConcentration, &[]);
    assert_eq!(all, [json!({"count": 4, "min": -0.3, "max": 7.0, "mean": 4.175})]);
    let keys = [GroupKey::Parameter, GroupKey::Team, GroupKey::Day, GroupKey::Agency];
    let first = oracle.aggregate(&OracleQuery { limit: Some(1), ..default() }, Measure::Aqi, &keys);
    let expected = json!([{
        "parameter": "PM2.5", "team": "green", "date": "20200810", "agency_name": "Invented, Air",
        "count": 2, "min": 1, "max": 2, "mean": 1.5,
    }]);
    assert!(numerically_equal(&json!(first), &expected), "{first:?}");
    let nothing = OracleQuery { parameter: Some("CO".to_owned()), ..default() };
    assert!(oracle.aggregate(&nothing, Measure::Value, &[]).is_empty());
}

fn fixtures() -> Oracle {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/airnow");
    Oracle::read(&root, &TeamRange::green_and_pink()).unwrap()
}

fn moderate_particles(team: Option<&str>) -> OracleQuery {
    let some = |text: &str| Some(text.to_owned());
    OracleQuery {
        parameter: some("PM2.5"),
        min: some("5"),
        max: some("35"),
        team: team.map(str::to_owned),
        ..OracleQuery::default()
    }
}

#[test]
fn fixtures_hold_enough_rows_of_both_teams_to_show() {
    let oracle = fixtures();
    assert_eq!(oracle.rejected(), []);
    let [green, pink] = ["green", "pink"].map(|team| oracle.count(&moderate_particles(Some(team))));
    assert!(green >= 300 && pink >= 1_000, "{green} {pink}");
    assert_eq!(oracle.count(&moderate_particles(None)), green + pink);
}

/// Goal: random queries test something. Method: most of them select rows, and no kind is missing.
#[test]
fn random_queries_are_varied_and_repeatable() {
    let oracle = fixtures();
    let draw = || {
        let mut rng = fastrand::Rng::with_seed(3);
        (0..300).map(|_| random_query(&mut rng, &oracle)).collect::<Vec<_>>()
    };
    let queries = draw();
    assert_eq!(queries, draw());
    let non_empty = queries.iter().filter(|query| oracle.count(query) > 0).count();
    assert!((100..290).contains(&non_empty), "{non_empty} of 300 select rows");
    let names = [
        "parameter",
        "min_value",
        "max_value",
        "date_start",
        "date_end",
        "lat_min",
        "lat_max",
        "lon_min",
        "lon_max",
        "team",
        "site",
        "agency",
        "text",
        "limit",
    ];
    for name in names {
        assert!(queries.iter().any(|query| query.to_json().get(name).is_some()), "{name}");
    }
}

#[test]
fn real_data_give_the_counts_that_are_known() {
    let Some(root) = real_dataset() else { return };
    let oracle = Oracle::read(&root, &TeamRange::green_and_pink()).unwrap();
    let of_team = |team: &str| OracleQuery { team: Some(team.to_owned()), ..OracleQuery::default() };
    assert_eq!(oracle.rejected(), []);
    assert_eq!(oracle.count(&moderate_particles(None)), 225_521);
    assert_eq!(oracle.count(&of_team("green")), 214_636);
    assert_eq!(oracle.count(&of_team("pink")), 952_889);
}
