//! What browsers and `curl` ask over HTTP, on the port of both contracts: queries, pictures of them, how the node is, and a page
//! that shows all of it.
//!
//! `ROUTES` and the table in `parameters` say what there is: they drive the answers, what errors name, and the OpenAPI
//! document. Failures are problem documents ([`crate::error::Problem`]). Connections, messages on their way, tokens,
//! admission and deadlines are those of every other client.
//!
//! There are no headers for scripts of other sites (CORS): a node without tokens trusts addresses, and a page that somebody
//! visits could ask it from his. Whoever wants them puts a proxy in front.

mod about;
mod openapi;
mod page;
mod parameters;
mod plots;
mod query;
mod schemas;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::service::Routes;
use tower::service_fn;

use crate::access::Caller;
use crate::error::{Language, Problem, QueryError};
use crate::state::NodeState;

use self::parameters::Asked;
use self::plots::Shown;

/// What every path answers.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// A path that is answered.
struct Route {
    path: &'static str,
    /// One line for the document.
    summary: &'static str,
    /// The names of the parameters that it takes.
    parameters: &'static [&'static str],
    /// Of its answer; a query's is that of the format.
    content_type: &'static str,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Rows,
    Groups,
    Explanation,
    Coverage,
    CoveragePicture,
    Map,
    Hours,
    Series,
    Topology,
    Metrics,
    Exposition,
    OpenApi,
    Live,
    Ready,
    Page,
}

impl Answer {
    /// Whether a query is planned for it.
    fn is_of_query(self) -> bool {
        use Answer::*;
        matches!(self, Rows | Groups | Explanation | Coverage | CoveragePicture | Map | Hours | Series)
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

const SVG: &str = "image/svg+xml; charset=utf-8";

const ROUTES: [Route; 15] = [
    Route {
        path: "/",
        summary: "The page for browsers: the overlay, live, and its data on a map",
        parameters: &[],
        content_type: page::HTML,
        answer: Answer::Page,
    },
    Route {
        path: "/api/v1/query",
        summary: "The rows that match, in canonical order, as a stream",
        parameters: parameters::OF_ROWS,
        content_type: "",
        answer: Answer::Rows,
    },
    Route {
        path: "/api/v1/aggregate",
        summary: "Count, min, max and mean of a column by groups, in the order of their keys",
        parameters: parameters::OF_GROUPS,
        content_type: "",
        answer: Answer::Groups,
    },
    Route {
        path: "/api/v1/explain",
        summary: "What a query would do, without doing it: days, prunings, holders, expected cost",
        parameters: parameters::OF_EXPLANATION,
        content_type: JSON,
        answer: Answer::Explanation,
    },
    Route {
        path: "/api/v1/coverage",
        summary: "What becomes of each planned day of a query: who holds it, who was planned to answer, who did",
        parameters: parameters::OF_COVERAGE,
        content_type: JSON,
        answer: Answer::Coverage,
    },
    Route {
        path: "/api/v1/coverage.svg",
        summary: "The same as a picture",
        parameters: parameters::OF_COVERAGE,
        content_type: SVG,
        answer: Answer::CoveragePicture,
    },
    Route {
        path: "/api/v1/map.svg",
        summary: "Every site as a circle, coloured by its highest AQI, or that of an hour",
        parameters: parameters::OF_MAP,
        content_type: SVG,
        answer: Answer::Map,
    },
    Route {
        path: "/api/v1/hours",
        summary: "The AQI of every site of a map, hour by hour, of one day: `from`, or the last one",
        parameters: parameters::OF_HOURS,
        content_type: JSON,
        answer: Answer::Hours,
    },
    Route {
        path: "/api/v1/series.svg",
        summary: "Mean, lowest and highest of each hour as a picture; of the AQI unless `of` says otherwise",
        parameters: parameters::OF_SERIES,
        content_type: SVG,
        answer: Answer::Series,
    },
    Route {
        path: "/api/v1/topology",
        summary: "The overlay as this node knows it: nodes, edges, health, load, traffic, days held",
        parameters: &["brief"],
        content_type: JSON,
        answer: Answer::Topology,
    },
    Route {
        path: "/api/v1/metrics",
        summary: "The state of this node",
        parameters: &[],
        content_type: JSON,
        answer: Answer::Metrics,
    },
    Route {
        path: "/api/v1/openapi.json",
        summary: "This document",
        parameters: &[],
        content_type: JSON,
        answer: Answer::OpenApi,
    },
    Route {
        path: "/metrics",
        summary: "Every metric of this node, for Prometheus",
        parameters: &[],
        content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
        answer: Answer::Exposition,
    },
    Route {
        path: "/livez",
        summary: "Whether the node runs",
        parameters: &[],
        content_type: TEXT,
        answer: Answer::Live,
    },
    Route {
        path: "/readyz",
        summary: "Whether the node takes queries",
        parameters: &[],
        content_type: TEXT,
        answer: Answer::Ready,
    },
];

/// The gRPC services of a node, and beside them what is asked over HTTP.
pub fn beside(services: Routes, state: Arc<NodeState>) -> Routes {
    let http = service_fn(move |request: Request<_>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    services.into_axum_router().fallback_service(http).into()
}

async fn answer<B>(state: &Arc<NodeState>, request: Request<B>) -> Response<Body> {
    let (request, _) = request.into_parts();
    let language = Language::of(&request.headers);
    if language != Language::Http {
        let why = "there is no such service";
        return language.refusal(Status::unimplemented(why), Problem::not_found(why.to_owned()));
    }
    let path = request.uri.path();
    let (route, part) = (ROUTES.iter().find(|route| route.path == path), page::part(path));
    match request.method {
        Method::GET | Method::HEAD => {
            let caller = request.extensions.get::<Caller>().cloned().unwrap_or_default();
            let query = request.uri.query().unwrap_or_default();
            let answered = match (route, part) {
                (Some(route), _) => route.answer(state, caller, query).await,
                (None, Some(part)) => Ok(part.response()),
                (None, None) => Ok(no_such_path(path).into_response()),
            };
            answered.unwrap_or_else(|error| Problem::of(&error).into_response())
        }
        _ if route.is_none() && part.is_none() => no_such_path(path).into_response(),
        Method::OPTIONS => {
            let mut response = with_status(StatusCode::NO_CONTENT);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
            response
        }
        other => {
            let why = format!("{other} {path}: only {METHODS} are answered");
            Problem::method_not_allowed(why, METHODS).into_response()
        }
    }
}

/// Tells browsers what they may do with an answer, whoever gives it: a path, or what refuses before any path is looked at.
pub fn for_browsers(mut response: Response<Body>) -> Response<Body> {
    if Language::of(response.headers()) == Language::Http {
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers
            .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    }
    response
}

/// Why nothing is asked under a path without gRPC; `None` if something is.
pub fn refuses(path: &str) -> Option<Problem> {
    let has = ROUTES.iter().any(|route| route.path == path) || page::part(path).is_some();
    (!has).then(|| no_such_path(path))
}

fn no_such_path(path: &str) -> Problem {
    let known = ROUTES.map(|route| route.path).join(", ");
    Problem::not_found(format!("unknown path `{}` (paths: {known})", crate::error::shown(path)))
}

impl Route {
    async fn answer(
        &self,
        state: &Arc<NodeState>,
        caller: Caller,
        query: &str,
    ) -> Result<Response<Body>, QueryError> {
        let asked = Asked::parse(query, self.parameters, &state.overlay.limits);
        let asked = asked.map_err(|invalid| match self.answer {
            answer if answer.is_of_query() && answer != Answer::Explanation => state.refused(invalid.into()),
            _ => invalid.into(),
        })?;
        Ok(match self.answer {
            Answer::Rows => query::rows(state, &caller, &asked).await?,
            Answer::Groups => query::groups(state, &caller, &asked).await?,
            Answer::Explanation => self.json(&query::explanation(state, &caller, &asked).await?),
            Answer::Coverage => self.shown(state, &asked, plots::coverage(state, &caller, &asked).await?),
            Answer::CoveragePicture => {
                self.shown(state, &asked, plots::coverage_picture(state, &caller, &asked).await?)
            }
            Answer::Map => self.shown(state, &asked, plots::map(state, &caller, &asked).await?),
            Answer::Hours => self.shown(state, &asked, plots::hours(state, &caller, &asked).await?),
            Answer::Series => self.shown(state, &asked, plots::series(state, &caller, &asked).await?),
            Answer::Topology => self.json(&about::topology(state, asked.is_brief())),
            Answer::Metrics => self.json(&about::metrics(state)),
            Answer::Exposition => self.text(state.metrics.exposition(&state.gauges())),
            Answer::OpenApi => self.json(&openapi::document(&state.overlay.limits)),
            Answer::Live => self.text("live\n"),
            Answer::Page => self.text(page::INDEX),
            Answer::Ready => {
                state.serving()?;
                self.text("ready\n")
            }
        })
    }

    fn json(&self, value: &Value) -> Response<Body> {
        self.text(format!("{value:#}\n"))
    }

    fn shown(&self, state: &NodeState, asked: &Asked, Shown { text, result_set }: Shown) -> Response<Body> {
        let mut response = self.text(text);
        query::say_beside(&mut response, state, asked, &result_set);
        response
    }

    fn text(&self, text: impl Into<Bytes>) -> Response<Body> {
        with_type(self.content_type, Body::new(http_body_util::Full::new(text.into())))
    }
}

fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn with_status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
