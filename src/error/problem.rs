//! Failures in HTTP: one translation, beside the one to gRPC, and who gets which.
//!
//! Source: RFC 9457, problem details.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use tonic::codegen::http::{HeaderMap, HeaderValue, Response};

use super::{MissingDay, QueryError, deadline_passed};
use crate::day;
use crate::plan::InvalidQuery;
use crate::result_set::LeaseError;

/// What an answer is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Messages, with a status behind them.
    Grpc,
    /// The same for browsers, who see no trailers.
    GrpcWeb,
    /// Whatever the path says; failures are problem documents.
    Http,
}

impl Language {
    /// That of whoever sent, or will get, these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        match content_type {
            web if web.starts_with(b"application/grpc-web") => Language::GrpcWeb,
            grpc if grpc.starts_with(b"application/grpc") => Language::Grpc,
            _ => Language::Http,
        }
    }

    /// A failure that is answered instead of what was asked for.
    pub fn answer(self, error: &QueryError) -> Response<Body> {
        self.refusal(error.to_status(), Problem::of(error))
    }

    /// One failure, as gRPC says it and as HTTP does.
    ///
    /// Source: gRPC-Web, whose clients read the status from the headers where there is no message.
    pub fn refusal(self, status: Status, problem: Problem) -> Response<Body> {
        match self {
            Language::Grpc => status.into_http(),
            Language::GrpcWeb => {
                let mut response = status.into_http::<Body>();
                let web = HeaderValue::from_static("application/grpc-web+proto");
                response.headers_mut().insert(CONTENT_TYPE, web);
                response
            }
            Language::Http => problem.into_response(),
        }
    }
}

/// A failure as HTTP answers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: u16,
    kind: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// The problem that an error is.
    pub fn of(error: &QueryError) -> Self {
        let (status, kind, title) = kind(error);
        let detail = match error {
            QueryError::DeadlineExceeded { waited } => deadline_passed(*waited, "timeout_ms"),
            _ => error.to_string(),
        };
        let mut problem = Problem::new(status, kind, title, detail);
        match error {
            QueryError::Invalid(InvalidQuery { field, .. }) => problem.add("field", json!(field)),
            QueryError::Overloaded { limit: Some(limit), .. } | QueryError::TooLarge { limit, .. } => {
                problem.add("limit", json!(limit));
            }
            QueryError::Unavailable(missing) | QueryError::DataLoss(missing) => problem.lacks(missing),
            _ => {}
        }
        if let Some(retry_after) = error.retry_after() {
            problem.retry_after(retry_after);
        }
        problem
    }

    /// No credentials, or unknown ones, where some are needed.
    pub fn unauthenticated(why: String) -> Self {
        let problem = Problem::new(401, "unauthenticated", "a token is needed", why);
        Problem { header: Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))), ..problem }
    }

    /// No such path.
    pub fn not_found(why: String) -> Self {
        Problem::new(404, "not_found", "there is nothing here", why)
    }

    /// Asked by a name that is none of the node's.
    pub fn misdirected(why: String) -> Self {
        Problem::new(421, "misdirected", "the node has no such name", why)
    }

    /// Another method than those in `allowed`.
    pub fn method_not_allowed(why: String, allowed: &'static str) -> Self {
        let problem = Problem::new(405, "method_not_allowed", "this method does nothing here", why);
        Problem { header: Some((ALLOW, HeaderValue::from_static(allowed))), ..problem }
    }

    /// A gRPC request over HTTP/1.1, which has no place for the status behind an answer.
    pub fn grpc_over_http1() -> Self {
        Problem::new(
            505,
            "http_version",
            "gRPC needs HTTP/2",
            "HTTP/1.1 carries no gRPC: speak HTTP/2, or gRPC-Web, or GET /api/v1/query".to_owned(),
        )
    }

    /// A request of HTTP/1.0.
    pub fn http_1_0() -> Self {
        let why =
            "HTTP/1.0 does not tell an answer that breaks off from a whole one: speak HTTP/1.1 or HTTP/2";
        Problem::new(505, "http_version", "HTTP/1.1 is needed", why.to_owned())
    }

    /// A failure that is ours.
    pub fn internal(why: String) -> Self {
        Problem::new(500, "internal", "the node failed", why)
    }

    /// The document.
    pub fn to_json(&self) -> Value {
        let mut document = Map::from_iter([
            ("type".to_owned(), json!(format!("urn:overlay:problem:{}", self.kind))),
            ("title".to_owned(), json!(self.title)),
            ("status".to_owned(), json!(self.status)),
            ("detail".to_owned(), json!(self.detail)),
        ]);
        document.extend(self.more.clone());
        Value::Object(document)
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let text = self.to_json().to_string();
        let mut response = Response::new(Body::new(text));
        *response.status_mut() = self.status.try_into().expect("a status of three digits");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.header);
        response
    }

    fn new(status: u16, kind: &'static str, title: &'static str, detail: String) -> Self {
        Problem { status, kind, title, detail, more: Map::new(), header: None }
    }

    fn add(&mut self, name: &str, value: Value) {
        self.more.insert(name.to_owned(), value);
    }

    /// The days that are missing, each run by its first and last day, and the nodes that were tried.
    fn lacks(&mut self, missing: &[MissingDay]) {
        let days = day::runs(missing.iter().map(|missing| missing.day).collect::<BTreeSet<_>>());
        let nodes: BTreeSet<&String> = missing.iter().flat_map(|missing| &missing.nodes_tried).collect();
        self.add("days", days.iter().map(ToString::to_string).collect());
        self.add("nodes", json!(nodes));
    }

    /// Whole seconds, rounded up: nobody comes back too early.
    fn retry_after(&mut self, after: Duration) {
        let seconds = after.as_millis().div_ceil(1000) as u64;
        self.add("retry_after_ms", json!(after.as_millis() as u64));
        self.header = Some((RETRY_AFTER, seconds.into()));
    }
}

fn kind(error: &QueryError) -> (u16, &'static str, &'static str) {
    match error {
        QueryError::Invalid(_) => (400, "invalid", "the request cannot be run as it stands"),
        QueryError::Loop(_) => (400, "loop", "the request has come round"),
        QueryError::NotAllowed(_) => (403, "not_allowed", "the caller may not do that"),
        QueryError::Lease(LeaseError::Unknown(_)) => (404, "unknown_result", "no such result set"),
        QueryError::Lease(LeaseError::Expired(_)) => (410, "expired_result", "the result set is gone"),
        QueryError::DataLoss(_) => (409, "data_loss", "the data changed while they were read"),
        QueryError::TooLarge { .. } => (413, "too_large", "the result would exceed a limit"),
        QueryError::OutOfRange { .. } => (416, "out_of_range", "there is no such chunk"),
        QueryError::Overloaded { .. } => (429, "overloaded", "a queue is full"),
        QueryError::Cancelled => (499, "cancelled", "the query was cancelled"),
        QueryError::NotServing { .. } => (503, "not_serving", "the node takes no queries now"),
        QueryError::Unavailable(_) => (503, "unavailable", "days that are needed are out of reach"),
        QueryError::DeadlineExceeded { .. } => (504, "deadline_exceeded", "time is up"),
    }
}
