//! What answers hold, as JSON Schema, for the document.
//!
//! Rows and groups are described by the columns that frames have; the rest stands beside what writes it.
//!
//! Source: JSON Schema, draft 2020-12.

use arrow_schema::{DataType, Field, SchemaRef};
use serde_json::{Map, Value, json};

use super::Answer;
use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::frame;
use crate::rows::Format;

/// What is answered with status 200, in `format` if it is a query's, as a media type object.
pub(super) fn media_type(answer: Answer, format: Format) -> Value {
    let schema = match (answer, format) {
        (Answer::Rows, Format::Json) => list("Observations in canonical order", reference("Observation")),
        (Answer::Groups, Format::Json) => list("Groups in the order of their keys", reference("Group")),
        (Answer::Rows | Answer::Groups, Format::Ndjson) => {
            text("The objects of application/json, one a line")
        }
        (Answer::Rows | Answer::Groups, Format::Csv) => text("A header and a line for each row"),
        // Bytes have no schema.
        (Answer::Rows | Answer::Groups, Format::Arrow | Format::Parquet) => return json!({}),
        (Answer::Explanation, _) => reference("Explanation"),
        (Answer::Coverage, _) => reference("Coverage"),
        (Answer::Hours, _) => reference("Hours"),
        (Answer::Topology, _) => reference("Topology"),
        (Answer::Metrics, _) => reference("Metrics"),
        (Answer::OpenApi, _) => json!({"type": "object"}),
        (Answer::CoveragePicture | Answer::Map | Answer::Series, _) => text("A picture, as SVG"),
        (Answer::Exposition | Answer::Live | Answer::Ready | Answer::Page, _) => json!({"type": "string"}),
    };
    json!({"schema": schema})
}

/// The schemas that others refer to, by name.
pub(super) fn named() -> Value {
    json!({
        "Observation": observation(),
        "Group": group(),
        "Explanation": explanation(),
        "Coverage": coverage(),
        "Hours": hours(),
        "Topology": topology(),
        "Metrics": metrics(),
        "Problem": problem(),
    })
}

fn observation() -> Value {
    let mut row = of_columns(&frame::arrow_schema(), &[]);
    row["properties"]["date"] = day("The day of its folder");
    row["required"].as_array_mut().expect("a list of names").push(json!("date"));
    row
}

/// Keys are there as far as they were asked for.
fn group() -> Value {
    let spec = AggregateSpec { of: AggregateOf::Value, group_by: GroupKey::ALL.to_vec() };
    let schema = frame::groups_schema(&spec);
    let keys: Vec<&str> =
        schema.fields().iter().take(spec.group_by.len()).map(|field| &**field.name()).collect();
    of_columns(&schema, &keys)
}

/// An object with a member for each column, of which those in `optional` may be absent.
fn of_columns(schema: &SchemaRef, optional: &[&str]) -> Value {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let required: Vec<&str> = names.filter(|name| !optional.contains(name)).collect();
    let properties: Map<String, Value> =
        schema.fields().iter().map(|field| (field.name().clone(), column(field))).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn column(field: &Field) -> Value {
    let kind = match field.data_type() {
        DataType::Float64 => "number",
        DataType::Int8 | DataType::Int16 | DataType::UInt64 => "integer",
        DataType::Timestamp(..) => return json!({"type": "string", "pattern": "^[0-9-]{10}T[0-9:]{5}Z$"}),
        _ => "string",
    };
    match field.is_nullable() {
        true => json!({"type": [kind, "null"]}),
        false => json!({"type": kind}),
    }
}

fn explanation() -> Value {
    let planned = object(&[
        ("day", day("A planned day")),
        ("team", text("Whose day it is")),
        ("rows_to_scan", count("What it would cost")),
        ("rows_at_most", count("More cannot match, by the statistics")),
        ("pruned_by", or_null("string", "The statistic that rules it out")),
        ("holders", list("Nodes that hold it, nearest first", node())),
        ("assigned", or_null("string", "The holder that would be asked")),
        ("via", or_null("string", "The neighbour that leads there")),
        ("note", text("What else there is to say")),
    ]);
    object(&[
        ("query", text("The query in words")),
        ("rows_to_scan", count("What all of it would cost")),
        ("forwarding", text("How holders are chosen")),
        ("chunking", text("How the result would be cut")),
        ("fairness", text("How slots are granted")),
        ("days", list("Every planned day", planned)),
    ])
}

fn coverage() -> Value {
    let kind = |name: &str| ("kind", json!({"const": name}));
    let version = || ("version", text("A hash over the day's rows"));
    let outcome = json!({"oneOf": [
        object(&[
            kind("served"),
            ("node", node()),
            ("attempt", count("1 for the first holder that was asked")),
            version(),
            ("rows_matched", count("Rows that match")),
            ("rows_taken", count("Those of them that are in the result")),
        ]),
        object(&[kind("pruned"), ("by", text("The statistic that rules it out")), version()]),
        object(&[kind("no_data"), ("node", node())]),
        object(&[kind("beyond_limit")]),
        object(&[
            kind("missing"),
            ("why", text("Why")),
            ("nodes_tried", list("Nodes that were asked in vain", node())),
        ]),
    ]});
    let planned = object(&[
        ("day", day("A planned day")),
        ("team", text("Whose day it is")),
        ("holders", list("Nodes that hold it, nearest first", node())),
        ("planned", or_null("string", "The holder that was to be asked")),
        ("outcome", outcome),
    ]);
    let milliseconds = |about| json!({"type": "number", "minimum": 0, "description": about});
    let hop = object(&[
        ("node", node()),
        ("queue_ms", milliseconds("Waiting for compute slots")),
        ("scan_ms", milliseconds("Scanning")),
        ("encode_ms", milliseconds("Encoding")),
        ("rows_scanned", count("Rows scanned")),
        ("bytes", count("Bytes encoded")),
        ("attempts", count("Requests to neighbours")),
        ("elapsed_ms", milliseconds("From request to answer")),
    ]);
    object(&[
        ("query", text("The query in words")),
        ("total_rows", count("Rows of the result")),
        ("limit_reached", flag("Whether the limit is full")),
        ("rows_to_scan", count("What it was planned to cost")),
        ("waited_ms", milliseconds("Waiting for admission")),
        ("limiting_factor", text("What made it wait; empty if nothing did")),
        ("elapsed_ms", milliseconds("From question to answer")),
        ("hops", list("Where the time went; none of a result from the cache", hop)),
        ("missing_days", list("Days that a partial result lacks", day("A day"))),
        ("days", list("Every planned day", planned)),
    ])
}

fn hours() -> Value {
    let aqi = json!({"type": "array", "items": {"type": ["integer", "null"]}, "description": "By site"});
    let hour = object(&[("hour", count("Of the day, UTC")), ("aqi", aqi)]);
    object(&[
        ("day", or_null("string", "The day")),
        ("parameter", text("What is measured")),
        ("hours", list("Those that have rows", hour)),
        ("sites", list("Ids, as the circles of a map have them", text("A site"))),
        ("missing_days", list("Days that a partial answer lacks", day("A day"))),
    ])
}

fn topology() -> Value {
    let team = object(&[
        ("name", text("Its name")),
        ("first_day", day("Its first day")),
        ("last_day", day("Its last day, inclusive")),
    ]);
    let held = object(&[
        ("day", day("A day that it holds")),
        ("version", text("A hash over its rows")),
        ("rows", count("Its rows")),
        ("rejected_rows", count("Rows that do not parse")),
    ]);
    let traffic = object(&[
        ("node", node()),
        ("requests", count("Requests sent there on behalf of clients, since it started")),
        ("bytes", count("Bytes of these and their answers")),
    ]);
    let load = json!({
        "oneOf": [{"type": "null"}, object(&[
            ("active_queries", count("Queries that run")),
            ("waiting_queries", count("Queries that wait for a slot")),
            ("computing_pieces", count("Pieces of work that run")),
            ("waiting_pieces", count("Pieces of work that wait for a slot")),
            ("peer_requests_in_flight", count("Requests of neighbours")),
            ("traffic", list("What it has asked its neighbours for", traffic)),
        ])],
        "description": "What it was doing when it was heard from last",
    });
    let held_in_all = json!({
        "oneOf": [{"type": "null"}, object(&[
            ("days", count("Days with files")),
            ("first_day", or_null("string", "The first of them")),
            ("last_day", or_null("string", "The last of them")),
            ("rows", count("Their rows")),
            ("version", or_null("string", "A hash over their versions")),
        ])],
        "description": "What it holds in all",
    });
    let mut member = object(&[
        ("id", node()),
        ("role", json!({"type": "string", "enum": ["leader", "team_leader", "worker"]})),
        ("team", text("Its team")),
        ("address", text("HOST:PORT")),
        ("health", health()),
        ("why", text("Why it is not up")),
        ("ready", or_null("boolean", "Whether its data are loaded")),
        ("draining", or_null("boolean", "Whether it is about to end")),
        ("incarnation", or_null("string", "Another one after each start, and one more with all new data")),
        ("files", or_null("integer", "Files that it has read")),
        ("free_compute_slots", or_null("integer", "Pieces of work that it could begin")),
        (
            "unowned_days",
            json!({"type": ["array", "null"], "items": {"type": "string"}, "description": "Days on its disk that no team owns"}),
        ),
        ("load", load),
        ("held", held_in_all),
    ]);
    member["properties"]["days"] = list("Days that it holds, unless the answer is to be brief", held);
    let edge = json!({"type": "array", "items": node(), "minItems": 2, "maxItems": 2});
    object(&[
        ("node", node()),
        ("version", text("Of this node's software")),
        ("teams", list("Teams and their days", team)),
        ("nodes", list("Every process of the configuration; null is what it has not said yet", member)),
        ("edges", list("Who is a neighbour of whom", edge)),
        ("version_conflicts", count("Days whose holders disagree")),
    ])
}

fn metrics() -> Value {
    let neighbour =
        object(&[("node", node()), ("state", health()), ("last_error", text("Why it is not up"))]);
    let bytes =
        json!({"type": "object", "additionalProperties": count("Bytes"), "description": "By who holds them"});
    object(&[
        ("node", node()),
        ("role", text("leader, team_leader or worker")),
        ("team", text("Its team")),
        ("version", text("Of its software")),
        ("incarnation", text("Another one after each start")),
        ("ready", flag("Whether its data are loaded")),
        ("draining", flag("Whether it is about to end")),
        ("active_queries", count("Queries that run")),
        ("waiting_queries", count("Queries that wait for a slot")),
        ("following_queries", count("Queries that wait for an equal one")),
        ("max_active", count("limits.max_active")),
        ("computing_pieces", count("Pieces of work that run")),
        ("peer_requests_in_flight", count("Requests of neighbours")),
        ("open_streams", count("Answers on their way")),
        ("open_result_sets", count("Results under a lease")),
        ("held_bytes", bytes),
        ("transit_bytes", count("Bytes of messages on their way")),
        ("marked_nodes", count("Nodes that are thought not to be up")),
        ("version_conflicts", count("Days whose holders disagree")),
        ("queries_total", count("Queries answered")),
        ("rejected_total", count("Queries refused")),
        ("chunks_total", count("Chunks answered")),
        ("query_seconds_mean", json!({"type": "number", "description": "Of the queries answered"})),
        ("files", count("Files read")),
        ("days", count("Days held")),
        ("rows", count("Rows held")),
        ("rejected_rows", count("Rows that do not parse")),
        ("neighbours", list("Its neighbours", neighbour)),
    ])
}

fn problem() -> Value {
    let texts = |about| list(about, json!({"type": "string"}));
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": text("The kind of problem, as a URN"),
            "title": text("The kind in words"),
            "status": {"type": "integer", "description": "The status of the answer"},
            "detail": text("What was found, what is allowed, what to do next"),
            "field": text("The parameter that is to blame"),
            "limit": text("The limit's key in the configuration"),
            "days": texts("Days that could not be had, runs by first and last day"),
            "nodes": texts("Nodes that were asked in vain"),
            "retry_after_ms": count("Milliseconds after which to come back"),
        },
    })
}

/// An object whose members are all there.
fn object(members: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(about: &str, items: Value) -> Value {
    json!({"type": "array", "items": items, "description": about})
}

fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

fn count(about: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": about})
}

fn or_null(kind: &str, about: &str) -> Value {
    json!({"type": [kind, "null"], "description": about})
}

fn day(about: &str) -> Value {
    json!({"type": "string", "pattern": "^[0-9]{8}$", "description": about})
}

fn node() -> Value {
    text("A node of the configuration")
}

fn health() -> Value {
    json!({"type": "string", "enum": ["up", "suspect", "down", "unknown"]})
}
