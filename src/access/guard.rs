//! Stands before every service of a node: a call that [`Access`] denies never reaches one.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::{AUTHORIZATION, HOST, ORIGIN};
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

use super::{Access, Denied};
use crate::error::{Language, Problem, QueryError};
use crate::outside::Peer;

/// Puts [`Caller`](super::Caller) into the extensions of every request that it lets through.
#[derive(Clone)]
pub struct GuardLayer {
    /// Decides.
    pub access: Arc<Access>,
    /// Why nothing is asked under a path without gRPC; `None` if something is.
    pub not_http: fn(&str) -> Option<Problem>,
}

/// A guarded service.
#[derive(Clone)]
pub struct Guard<S> {
    layer: GuardLayer,
    service: S,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, service: S) -> Guard<S> {
        Guard { layer: self.clone(), service }
    }
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Never a default: who comes from nowhere may do what this host may.
        let peer = request.extensions().get::<Peer>().cloned().expect("a connection knows its other end");
        let shown = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let (path, language) = (request.uri().path(), Language::of(request.headers()));
        let GuardLayer { access, not_http } = &self.layer;
        let checked = access.check(path, shown, &peer);
        let checked = match request.headers().contains_key(ORIGIN) {
            true => checked.and_then(|caller| access.check_page(path, caller)),
            false => checked,
        };
        // A browser speaks gRPC itself nowhere.
        let checked = match language {
            Language::Grpc => checked,
            _ => checked.and_then(|caller| check_names(access, path, &request).map(|()| caller)),
        };
        // The services look at no content type, and a page may send others anywhere without asking first.
        let not_http = if language == Language::Http { not_http(path) } else { None };
        match (checked, not_http) {
            (Err(denied), _) => Either::Right(ready(Ok(refusal(denied, language)))),
            (Ok(_), Some(problem)) => Either::Right(ready(Ok(problem.into_response()))),
            (Ok(caller), None) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.service.call(request))
            }
        }
    }
}

/// Checks whatever a request calls the node. Who calls it nothing is no browser.
fn check_names<B>(access: &Access, path: &str, request: &Request<B>) -> Result<(), Denied> {
    let by_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let by_header = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    let mut names = by_uri.into_iter().chain(by_header).map(String::from_utf8_lossy);
    names.try_for_each(|name| access.check_name(path, &name))
}

fn refusal(denied: Denied, language: Language) -> Response<Body> {
    match denied {
        Denied::NotAllowed(why) => language.answer(&QueryError::NotAllowed(why)),
        Denied::Unauthenticated(why) => {
            language.refusal(Status::unauthenticated(&why), Problem::unauthenticated(why))
        }
        Denied::Misdirected(why) => language
            .refusal(Status::permission_denied(format!("not allowed: {why}")), Problem::misdirected(why)),
    }
}
