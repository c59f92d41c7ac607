//! The OpenAPI document, made of the tables that requests are read by.
//!
//! Source: OpenAPI Specification 3.1.

use serde_json::{Map, Value, json};

use super::parameters::PARAMETERS;
use super::query::content_type;
use super::{Answer, ROUTES, Route};
use crate::rows::Format;

/// What is answered to whom.
pub(super) fn document() -> Value {
    let parameters = PARAMETERS.iter().map(|parameter| {
        let described = json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "schema": (parameter.schema)(),
            "example": parameter.example,
            "allowEmptyValue": true,
        });
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
            "schemas": {"Problem": problem()},
            "responses": {
                "Problem": {
                    "description": "A failure, as RFC 9457 has it",
                    "headers": {
                        "Retry-After": {"description": "Seconds after which to come back", "schema": {"type": "integer"}},
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

fn operation(route: &Route) -> Value {
    let is_query = matches!(route.answer, Answer::Rows | Answer::Groups);
    let parameters =
        route.parameters.iter().map(|name| json!({"$ref": format!("#/components/parameters/{name}")}));
    let is_open = matches!(route.answer, Answer::Live | Answer::Ready | Answer::Page);
    let content: Map<String, Value> = match is_query {
        true => Format::ALL.iter().map(|format| (content_type(*format).to_owned(), json!({}))).collect(),
        false => Map::from_iter([(route.content_type.to_owned(), json!({}))]),
    };
    let mut done = json!({"description": route.summary, "content": content});
    if is_query {
        done["headers"] = headers();
    }
    json!({
        "summary": route.summary,
        "operationId": match route.path.trim_matches('/') {
            "" => "page".to_owned(),
            path => path.replace(['/', '.'], "_"),
        },
        "parameters": parameters.collect::<Value>(),
        "security": if is_open { json!([]) } else { json!([{}, {"bearer": []}]) },
        "responses": {"200": done, "default": {"$ref": "#/components/responses/Problem"}},
    })
}

fn headers() -> Value {
    let header = |about: &str, kind: &str| json!({"description": about, "schema": {"type": kind}});
    json!({
        "overlay-uid": header("The name of the result in the logs", "string"),
        "overlay-total-rows": header("Rows, or groups, of the whole answer", "integer"),
        "overlay-limit-reached": header("Whether there may be more than the limit has let through", "boolean"),
        "overlay-missing-days": header("Days that a partial answer lacks", "string"),
    })
}

fn problem() -> Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    let list = |about: &str| json!({"type": "array", "items": {"type": "string"}, "description": about});
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
            "days": list("Days that could not be had, runs by first and last day"),
            "nodes": list("Nodes that were asked in vain"),
            "retry_after_ms": {"type": "integer", "description": "Milliseconds after which to come back"},
        },
    })
}
