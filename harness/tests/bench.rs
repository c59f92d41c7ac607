//! The bench over data that are checked in: whether it measures all that it says, not how fast anything is.

use std::time::Duration;

use overlay_harness::bench::{BenchError, Plan};
use overlay_harness::cluster::fixtures;
use overlay_harness::dataset::DatasetSpec;
use overlay_harness::scratch;

fn plan(dataset_root: &std::path::Path) -> Plan {
    Plan {
        binary: env!("CARGO_BIN_EXE_overlay-node").into(),
        dataset_root: dataset_root.to_owned(),
        rounds: 2,
        lasts: Duration::from_millis(200),
        python: None,
    }
}

/// Two rounds, so that the second has another order. Nothing is compared with DuckDB and Polars, which say so.
#[tokio::test(flavor = "multi_thread")]
async fn everything_but_peers_is_measured() {
    let report = plan(&fixtures()).run(|_| {}).await.unwrap();
    let is_peer = |name: &str| ["DuckDB", "Polars"].contains(&name);
    for figure in &report.figures {
        assert!(figure.ours.is_some_and(f64::is_finite), "{figure:?}");
        if let Some((name, reference)) = figure.reference {
            assert_eq!(reference.is_none(), is_peer(name), "{figure:?}");
        }
    }
    let shown = report.to_string();
    assert!(shown.contains("not measured"), "{shown}");
    assert!(shown.contains("peak of all six processes, all of this, measured once"), "{shown}");
    assert_eq!(shown.contains("DEBUG BUILD"), cfg!(debug_assertions), "{shown}");
}

/// Goal: data that would spoil a comparison are refused before anything is measured.
#[tokio::test]
async fn header_lines_are_refused_before_anything_starts() {
    let folder = scratch::folder().unwrap();
    let root = folder.path().join("data");
    let spec = DatasetSpec { first_day: 20200821, last_day: 20200821, sites: 4, ..DatasetSpec::default() };
    let rows = spec.write(&root).unwrap().rows;
    std::fs::write(root.join("20200821/20200821-24.csv"), "latitude,longitude\n").unwrap();
    let Err(BenchError::Dataset { records, rows: loaded }) = plan(&root).run(|_| {}).await else {
        panic!("a header is no row");
    };
    assert_eq!((records, loaded), (rows + 1, rows));
}
