//! The text of a saved proof, against the sample's day.

use overlay::cli::check_proof;
use overlay::frame::Encoding;
use serde_json::json;

use super::{Seed, sample};

pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (checked, differences) = match check_proof(text, sample::store()) {
        Ok(report) => report,
        Err(why) => return assert!(!why.is_empty()),
    };
    assert!(checked.iter().chain(&differences).all(|line| !line.is_empty()));
    if differences.is_empty() {
        holds(text);
    }
}

/// A proof that holds has, as often as its ledger says so, the version of the data and digests of their rows.
fn holds(text: &str) {
    let proof: serde_json::Value = serde_json::from_str(text).expect("a proof is JSON");
    let entries = proof["ledger"].as_array().into_iter().flatten();
    let served = entries.filter(|entry| entry["outcome"] == "served");
    let taken: u64 = served.clone().filter_map(|entry| entry["rows_taken"].as_u64()).sum();
    for entry in served.filter(|entry| entry["rows_matched"] != 0) {
        let version = sample::batch().version.to_string();
        let found = entry["version"].as_str().unwrap_or_default().to_lowercase();
        assert_eq!(found, version, "rows of no data");
    }
    if proof["query"]["aggregate"].is_null() {
        let frames = proof["frames"].as_array().into_iter().flatten();
        let framed: u64 = frames.filter_map(|frame| frame["rows"].as_u64()).sum();
        assert_eq!((framed, proof["total_records"].as_u64()), (taken, Some(taken)));
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    let frame = |chunk: u64, rows: &[u32], first_row: u64, encoding| {
        let frame = sample::rows_frame(rows, first_row, encoding);
        json!({
            "chunk": chunk, "day": "20200810", "version": frame.version.to_string(), "first_row": first_row,
            "rows": frame.rows, "digest": frame.digest.to_string(), "node": "B",
        })
    };
    let served = json!({
        "day": "20200810", "team": "green", "outcome": "served", "node": "B", "attempt": 1,
        "version": sample::batch().version.to_string(), "rows_matched": 3, "rows_taken": 3,
    });
    let no_data = json!({"day": "20200811", "team": "green", "outcome": "no_data", "node": "C"});
    let rows = json!({
        "overlay_proof": 1, "node": "127.0.0.1:60051", "uid": "A-1", "words": "rows of OZONE", "encoding": "arrow",
        "query": {"parameter": "OZONE", "allow_partial": false},
        "planned_days": ["20200810", "20200811"], "ledger": [served, no_data],
        "total_records": 3, "chunk_rows": [2, 1],
        "frames": [frame(0, &[0, 1], 0, Encoding::Arrow), frame(1, &[3], 2, Encoding::Arrow)],
    });
    let mut limited = rows.clone();
    limited["query"]["limit"] = json!(2);
    limited["ledger"][0]["rows_taken"] = json!(2);
    limited["ledger"][1] = json!({"day": "20200811", "team": "green", "outcome": "beyond_limit"});
    limited["total_records"] = json!(2);
    limited["chunk_rows"] = json!([2]);
    limited["encoding"] = json!("json");
    limited["frames"] = json!([frame(0, &[0, 1], 0, Encoding::Json)]);
    let mut groups = rows.clone();
    groups["query"]["aggregate"] = json!({"of": "value", "group_by": ["hour"]});
    let mut partial = rows.clone();
    partial["query"]["allow_partial"] = json!(true);
    partial["ledger"][1] = json!({
        "day": "20200811", "team": "green", "outcome": "missing", "why": "down", "nodes_tried": ["C"],
    });
    let cases = [("rows", rows), ("limited", limited), ("groups", groups), ("partial", partial)];
    cases.map(|(name, proof)| (name, proof.to_string().into_bytes())).into()
}
