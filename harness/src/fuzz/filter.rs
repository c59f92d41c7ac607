//! `query_type` and `query_params` of the old contract: a line, and all that comes after it.

use overlay::client;
use overlay::config::Limits;
use overlay::frame::Encoding;
use overlay::legacy::Filter;
use overlay::plan::Query;
use overlay::service::requests;

use super::{Seed, check_error, text_seeds};

const MAX_ROWS: u64 = 100_000_000;

pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (query_type, params) = text.split_once('\n').unwrap_or(("", text));
    match Filter::parse(query_type, params, MAX_ROWS) {
        Ok(filter) => accepted(&filter, params),
        Err(invalid) => check_error(invalid.field, &invalid.to_string()),
    }
}

fn accepted(filter: &Filter, params: &str) {
    let query = &filter.query;
    assert!(query.limit.is_some_and(|limit| (1..=MAX_ROWS).contains(&limit)), "{:?}", query.limit);
    assert_eq!(query.encoding, Encoding::JsonLegacy);
    for key in &filter.unknown_keys {
        assert!(!["parameter", "min_value", "limit", "team"].contains(&key.as_str()), "`{key}` is known");
    }
    let folded_bytes = query.predicate.bytes();
    assert!(folded_bytes <= params.len() * 3, "{folded_bytes} bytes of words in {} bytes", params.len());
    same_on_the_new_contract(query);
}

/// The same query, asked by `overlay.v1`, is the same query.
fn same_on_the_new_contract(query: &Query) {
    let request = client::request(query, "");
    let limits = Limits { filter_bytes: 1 << 20, ..Limits::default() };
    match requests::query(&request, &limits) {
        Ok(again) => assert_eq!(again, *query),
        // Lists and names have bounds there which are the whole filter's here.
        Err(invalid) => assert!(["team", "group_by"].contains(&invalid.field), "{invalid}"),
    }
}

pub(super) fn seeds() -> Vec<Seed> {
    text_seeds(&[
        ("empty", ""),
        ("all_rows", "filter\n{}"),
        (
            "numbers",
            "filter\n{\"parameter\": \"PM2.5\", \"min_value\": 5, \"max_value\": 35.000000001, \"limit\": 1e3}",
        ),
        (
            "texts",
            "\n{\"parameter\":\"ozone\",\"min_value\":\"-0.5\",\"date_start\":\"20200810\",\"date_end\":20200924}",
        ),
        (
            "place",
            "filter\n{\"lat_min\":30.5,\"lat_max\":\"41\",\"lon_min\":-125,\"lon_max\":-1.1e2,\"site\":\"Vall\u{e9}e\"}",
        ),
        ("search", "search\n{\"text\":\"valley\",\"agency\":\"CARB\",\"team\":\"pink\",\"limit\":null}"),
        ("aggregate", "aggregate\n{\"of\":\"aqi\",\"group_by\":[\"site\",\"hour\"],\"limit\":0}"),
        (
            "aggregate_text",
            "aggregate\n{\"of\":\"raw_concentration\",\"group_by\":\"day, team\",\"unknown\":{\"a\":[1]}}",
        ),
        ("wrong_type", "delete\n{\"limit\":-1}"),
        ("no_object", "filter\n[1,2]"),
        ("cut", "filter\n{\"parameter\": \"PM"),
    ])
}
