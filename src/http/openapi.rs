//! The OpenAPI document, made of the tables that requests are read by.
//!
//! Source: OpenAPI Specification 3.1.

use serde_json::{Map, Value, json};

use super::parameters::PARAMETERS;
use super::query::content_type;
use super::{Answer, ROUTES, Route, schemas};
use crate::config::Limits;
use crate::rows::Format;

/// Failures by their status, and why there are such.
type Failures = &'static [(u16, &'static str)];

/// Of every path.
const FAILURES: Failures = &[
    (400, "What is asked cannot be run as it stands"),
    (405, "Another method"),
    (429, "A queue is full, or too much is on its way"),
    (500, "The node failed"),
    (503, "The node does not serve yet, or no more, or days are out of reach"),
    (505, "HTTP/1.1 or HTTP/2 is needed"),
];

/// Of those that not everybody may ask.
const FAILURES_OF_GUARDED: Failures = &[
    (401, "A token is needed, and none is known that was sent"),
    (403, "The caller may not do that"),
    (421, "Without tokens and certificates a node answers to its addresses and configured names alone"),
];

/// Of queries.
const FAILURES_OF_QUERIES: Failures = &[
    (409, "The data changed while they were read"),
    (413, "The result would exceed a limit"),
    (499, "The query was cancelled"),
    (504, "Time is up"),
];

/// What is answered to whom, where `limits` hold.
pub(super) fn document(limits: &Limits) -> Value {
    let parameters = PARAMETERS.iter().map(|parameter| {
        let mut schema = (parameter.schema)();
        if parameter.name == "limit" {
            schema["maximum"] = json!(limits.max_rows);
        }
        let mut described = json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "schema": schema,
            "example": parameter.example,
            "allowEmptyValue": true,
        });
        if schema["type"] == "array" {
            // With commas between them.
            described["explode"] = json!(false);
            described["example"] = parameter.example.split(',').map(item).collect();
        }
        (parameter.name.to_owned(), described)
    });
    let paths = ROUTES.iter().map(|route| (route.path.to_owned(), json!({"get": operation(route)})));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Air-quality observations over a distributed overlay network",
            "description": "Hourly AirNow observations. They are preliminary data, not for regulation. Every path also answers HEAD and OPTIONS.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths.collect::<Map<_, _>>(),
        "components": {
            "parameters": parameters.collect::<Map<_, _>>(),
            "schemas": schemas::named(),
            "responses": {
                "Problem": {
                    "description": "A failure, as RFC 9457 has it",
                    "headers": {
                        "Retry-After": {"description": "Seconds after which to come back", "schema": {"type": "integer", "minimum": 0}},
                    },
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of role client or admin, where the node is configured with tokens",
                },
            },
        },
    })
}

/// An item of a list as JSON has it.
fn item(text: &str) -> Value {
    text.parse::<f64>().map_or_else(|_| json!(text), |number| json!(number))
}

fn operation(route: &Route) -> Value {
    let is_query = matches!(route.answer, Answer::Rows | Answer::Groups);
    let parameters =
        route.parameters.iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")}));
    let is_open = matches!(route.answer, Answer::Live | Answer::Ready | Answer::Page);
    let described = |format| schemas::media_type(route.answer, format);
    let content: Map<String, Value> = match is_query {
        true => Format::ALL
            .into_iter()
            .map(|format| (content_type(format).to_owned(), described(format)))
            .collect(),
        false => Map::from_iter([(route.content_type.to_owned(), described(Format::Json))]),
    };
    let mut done = json!({"description": route.summary, "content": content});
    if is_query {
        done["headers"] = headers();
    } else if route.answer.is_of_query() && route.answer != Answer::Explanation {
        done["headers"] = headers_beside();
    }
    let guarded = if is_open { &[] } else { FAILURES_OF_GUARDED };
    let of_queries = if route.answer.is_of_query() { FAILURES_OF_QUERIES } else { &[] };
    let failures = FAILURES.iter().chain(guarded).chain(of_queries).map(|(status, about)| {
        (status.to_string(), json!({"$ref": "#/components/responses/Problem", "description": about}))
    });
    json!({
        "summary": route.summary,
        "operationId": match route.path.trim_matches('/') {
            "" => "page".to_owned(),
            path => path.replace(['/', '.'], "_"),
        },
        "parameters": parameters.collect::<Value>(),
        "security": if is_open { json!([]) } else { json!([{}, {"bearer": []}]) },
        "responses": std::iter::once(("200".to_owned(), done)).chain(failures).collect::<Map<_, _>>(),
    })
}

fn headers() -> Value {
    let mut headers = headers_beside();
    for (name, about, kind) in [
        ("content-disposition", "The name of a file to keep the answer in", "string"),
        ("overlay-uid", "The name of the result in the logs", "string"),
        ("overlay-total-rows", "Rows, or groups, of the whole answer", "integer"),
        ("overlay-limit-reached", "Whether there may be more than the limit has let through", "boolean"),
    ] {
        headers[name] = header(true, about, kind);
    }
    headers
}

/// Of pictures too.
fn headers_beside() -> Value {
    json!({
        "overlay-missing-days": header(false, "Days that a partial answer lacks", "string"),
        "overlay-note": header(false, "What cannot be seen from the answer, in words: why it is empty, or that other teams have more", "string"),
    })
}

fn header(required: bool, about: &str, kind: &str) -> Value {
    json!({"description": about, "required": required, "schema": {"type": kind}})
}
