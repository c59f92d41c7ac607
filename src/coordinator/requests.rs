//! Requests that can be asked about and cancelled, by the id that their client chose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::admission::ClientKey;

use super::runs::RunName;

type Key = (ClientKey, String);

/// The requests of one node that have an id.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    next_serial: u64,
    requests: BTreeMap<Key, Request>,
}

struct Request {
    cancel: CancellationToken,
    serial: u64,
    run: Option<RunName>,
}

/// Where a request is.
pub(super) enum Found {
    /// Not here.
    Unknown,
    /// Its plan is being made.
    Planning,
    /// It waits for this run.
    Run(RunName),
}

impl Requests {
    /// Takes a request in until it ends, however it ends. One without an id cannot be asked about.
    pub(super) fn register(&self, client: &ClientKey, request_id: &str) -> Registered {
        let cancel = CancellationToken::new();
        let key = (!request_id.is_empty()).then(|| (client.clone(), request_id.to_owned()));
        let mut inner = self.lock();
        inner.next_serial += 1;
        let serial = inner.next_serial;
        if let Some(key) = &key {
            inner.requests.insert(key.clone(), Request { cancel: cancel.clone(), serial, run: None });
        }
        Registered { requests: self.clone(), key, serial, cancel }
    }

    /// Withdraws a request; whether there was one.
    pub(super) fn cancel(&self, client: &ClientKey, request_id: &str) -> bool {
        let key = (client.clone(), request_id.to_owned());
        self.lock().requests.get(&key).map(|request| request.cancel.cancel()).is_some()
    }

    /// Where a client's latest request of this id is.
    pub(super) fn find(&self, client: &ClientKey, request_id: &str) -> Found {
        let key = (client.clone(), request_id.to_owned());
        match self.lock().requests.get(&key).map(|request| request.run.clone()) {
            None => Found::Unknown,
            Some(None) => Found::Planning,
            Some(Some(run)) => Found::Run(run),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request off the register when it is dropped.
pub(super) struct Registered {
    requests: Requests,
    key: Option<Key>,
    serial: u64,
    /// Cancelled when the client withdraws the request.
    pub(super) cancel: CancellationToken,
}

impl Registered {
    /// Notes which run the request waits for.
    pub(super) fn waits_for(&self, run: &RunName) {
        let mut inner = self.requests.lock();
        let Some(key) = &self.key else { return };
        // A later request of the same id may have taken the place.
        if let Some(request) = inner.requests.get_mut(key).filter(|request| request.serial == self.serial) {
            request.run = Some(run.clone());
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut inner = self.requests.lock();
        let Some(key) = &self.key else { return };
        if inner.requests.get(key).is_some_and(|request| request.serial == self.serial) {
            inner.requests.remove(key);
        }
    }
}
