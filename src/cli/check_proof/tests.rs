use super::*;
use crate::frame::{self, Encoding};
use crate::store::samples::{self, Sample};

/// Four rows of one day; the second is missing, the third is below the bound.
fn store() -> Store {
    samples::store(&[
        Sample { value: Some("7.5"), site: 1, ..Sample::default() },
        Sample { value: None, site: 2, ..Sample::default() },
        Sample { value: Some("4.9"), site: 3, ..Sample::default() },
        Sample { value: Some("5.0"), site: 4, ..Sample::default() },
    ])
}

/// The proof of `PM2.5 5`, as a node that read the same rows gives it, in two chunks.
fn proof(store: &Store) -> serde_json::Value {
    let batch = store.days().next().unwrap();
    let frame = |chunk: u32, row: u32| {
        let payload = frame::encode_rows(store, batch, &[row], Encoding::Arrow);
        serde_json::json!({
            "chunk": chunk, "day": batch.day.to_string(), "version": batch.version.to_string(),
            "first_row": chunk, "rows": 1, "digest": frame::digest(&payload).to_string(), "node": "B",
        })
    };
    serde_json::json!({
        "overlay_proof": 1, "node": "127.0.0.1:60051", "uid": "u", "words": "", "encoding": "arrow",
        "query": {"parameter": "PM2.5", "min_value": "5.0", "allow_partial": false},
        "planned_days": ["20200810", "20200811"],
        "ledger": [
            {"day": "20200810", "team": "green", "outcome": "served", "node": "B", "attempt": 1,
             "version": batch.version.to_string(), "rows_matched": 2, "rows_taken": 2},
            {"day": "20200811", "team": "green", "outcome": "no_data", "node": "B"},
        ],
        "total_records": 2, "chunk_rows": [1, 1], "frames": [frame(0, 0), frame(1, 3)],
    })
}

fn differences(store: &Store, proof: &serde_json::Value) -> Vec<String> {
    let claim = Proof::read(&proof.to_string()).and_then(Claim::new).unwrap();
    check(&claim, store).differences
}

#[test]
fn a_true_proof_holds() {
    let store = store();
    assert_eq!(differences(&store, &proof(&store)), Vec::<String>::new());
}

/// A proof is a file that people may write.
#[test]
fn a_proof_holds_in_any_letter_case() {
    let store = store();
    let mut proof = proof(&store);
    proof["query"]["parameter"] = "pm2.5".into();
    assert_eq!(differences(&store, &proof), Vec::<String>::new());
}

#[test]
fn every_false_claim_is_named() {
    let store = store();
    let other = "00000000000000000000000000000001";
    for (pointer, value, said) in [
        ("/ledger/0/version", other.into(), "day 20200810, data version: found "),
        ("/query/min_value", "4.9".into(), "day 20200810, rows that match: found 3, expected 2"),
        ("/frames/1/digest", other.into(), "day 20200810, rows 1+1, digest of the frame: found "),
        ("/frames/1/first_row", 0.into(), "frame of day 20200810: found chunk 1"),
        ("/chunk_rows/1", 2.into(), "records of all chunks: found 3, expected 2"),
        (
            "/total_records",
            3.into(),
            "ledger: the rows of the coverage ledger add up to 2, the manifest has 3",
        ),
        ("/planned_days/1", "20200812".into(), "ledger: entry 1 of the coverage ledger: found day 20200811"),
        ("/ledger/1/day", "20200809".into(), "ledger: day 20200810 stands before day 20200809"),
        ("/query/date_end", "20200810".into(), "ledger: day 20200811 of team green is outside of the query"),
        ("/ledger/0/rows_taken", u64::MAX.into(), "ledger: day 20200810 took 18446744073709551615 rows"),
    ] {
        let mut proof = proof(&store);
        let parent = pointer.rsplit_once('/').unwrap();
        match proof.pointer_mut(parent.0).unwrap() {
            serde_json::Value::Array(items) => items[parent.1.parse::<usize>().unwrap()] = value,
            object => object[parent.1] = value,
        }
        let found = differences(&store, &proof);
        assert!(found.iter().any(|line| line.starts_with(said)), "{pointer}: {found:?}");
    }
}

#[test]
fn false_prunings_and_false_emptiness_are_named() {
    let store = store();
    let version = store.days().next().unwrap().version.to_string();
    let pruned =
        serde_json::json!({"outcome": "pruned", "by": "largest concentration 4.0", "version": version});
    let empty = serde_json::json!({"outcome": "no_data", "node": "B"});
    for (entry, said) in [
        (pruned, "day 20200810, pruned (largest concentration 4.0), rows that match: found 2, expected 0"),
        (empty, "day 20200810, called empty, files: found 1, expected 0"),
    ] {
        let mut proof = proof(&store);
        proof["ledger"][0] = entry;
        proof["ledger"][0]["day"] = "20200810".into();
        proof["ledger"][0]["team"] = "green".into();
        let found = differences(&store, &proof);
        assert!(found.iter().any(|line| line == said), "{found:?}");
    }
}

#[test]
fn proof_of_a_partial_result_holds_for_the_days_that_it_has() {
    let store = store();
    let mut proof = proof(&store);
    proof["query"]["allow_partial"] = true.into();
    proof["ledger"][1] = serde_json::json!(
        {"day": "20200811", "team": "green", "outcome": "missing", "why": "not ready", "nodes_tried": ["B"]}
    );
    let claim = Proof::read(&proof.to_string()).and_then(Claim::new).unwrap();
    let lines = check(&claim, &store).lines(&claim);
    assert_eq!(lines.last().unwrap(), "the proof holds for 1 of 2 days, 1 missing");
}

/// Goal: whoever names the wrong folder is told so, and not by hundreds of lines.
#[test]
fn where_everything_differs_the_first_differences_are_shown() {
    let store = store();
    let claim = Proof::read(&proof(&store).to_string()).and_then(Claim::new).unwrap();
    let differences = (1..=12).map(|number| format!("difference {number}")).collect();
    let report = Report { differences, versions: 2, other_versions: 2, ..Report::default() };
    assert_eq!(
        report.lines(&claim)[9..],
        [
            "difference 10",
            "… and 2 more",
            "no day has the data version of the proof: is this the dataset that was asked?",
            "the proof does not hold: 12 differences",
        ]
    );
    let other = check(&claim, &Store::default());
    assert_eq!((other.versions, other.other_versions), (1, 1));
}

#[test]
fn what_is_no_proof_is_refused() {
    let store = store();
    for (pointer, value, said) in [
        ("overlay_proof", serde_json::json!(2), "overlay_proof 2, this version reads 1"),
        ("encoding", serde_json::json!("xml"), "unknown encoding `xml`"),
        ("planned_days", serde_json::json!(["x"]), "`x` is not a day"),
        ("frames", serde_json::json!(7), "invalid type"),
    ] {
        let mut proof = proof(&store);
        proof[pointer] = value;
        let error = Proof::read(&proof.to_string()).and_then(Claim::new).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
}
