//! Queries that run: equal ones share a run. Who may join which, and how many may.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use crate::admission::{ClientKey, InFlight, InFlightPermit};
use crate::plan::PlanKey;

use super::{Asking, Ran, RunError};

type Run = BoxFuture<'static, Result<Ran, RunError>>;

/// The runs of one node by what they compute.
pub(super) struct Runs {
    running: Mutex<BTreeMap<PlanKey, Running>>,
    followers: InFlight,
    next_id: AtomicU64,
}

struct Running {
    run: WeakShared<Run>,
    name: RunName,
}

/// How a run is known to admission, and when it ends at the latest.
#[derive(Clone, Debug)]
pub(super) struct RunName {
    /// Its number.
    pub(super) id: String,
    /// Whose query started it.
    pub(super) charged_to: ClientKey,
    /// When the one that started it stops waiting.
    pub(super) deadline: Instant,
}

/// Which runs a query may join.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// Any equal one: its answer is right whoever asked.
    Any,
    /// One that lasts as long and waits at the same place as its own would: one that failed for want of either has to
    /// be made good.
    AsGoodAsOwn,
}

/// A run that a query waits for. The run ends when nobody waits for it any more.
pub(super) struct Joined {
    /// To be awaited.
    pub(super) run: Shared<Run>,
    /// What is known of it.
    pub(super) name: RunName,
    _follower: Option<InFlightPermit>,
}

impl RunName {
    /// Whether a run of one's own could do better where this one failed.
    pub(super) fn is_as_good_as_own(&self, asking: &Asking) -> bool {
        self.deadline >= asking.deadline && self.charged_to == asking.client
    }
}

impl Runs {
    /// No run yet; at most `followers` queries wait for runs that others started.
    pub(super) fn new(followers: usize) -> Self {
        Runs {
            running: Mutex::default(),
            followers: InFlight::new(
                ["query following an equal one", "queries following an equal one"],
                "limits.queue_length",
                followers,
            ),
            next_id: AtomicU64::new(1),
        }
    }

    /// Joins an equal run, or starts one, which the first asker pays for.
    ///
    /// Where there are too many followers, a query takes its own place in the queue.
    pub(super) fn join_or_start(
        &self,
        key: &PlanKey,
        asking: &Asking,
        join: Join,
        start: impl FnOnce(RunName) -> Run,
    ) -> Joined {
        let mut running = self.lock();
        running.retain(|_, running| running.run.upgrade().is_some());
        if let Some(found) = running.get(key)
            && (join == Join::Any || found.name.is_as_good_as_own(asking))
            && let Some(run) = found.run.upgrade()
            && run.peek().is_none()
            && let Ok(follower) = self.followers.try_acquire()
        {
            return Joined { run, name: found.name.clone(), _follower: Some(follower) };
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let name = RunName { id, charged_to: asking.client.clone(), deadline: asking.deadline };
        let run = start(name.clone()).shared();
        if let Some(weak) = run.downgrade() {
            running.insert(key.clone(), Running { run: weak, name: name.clone() });
        }
        Joined { run, name, _follower: None }
    }

    /// Queries that wait for runs that others started.
    pub(super) fn follower_count(&self) -> usize {
        self.followers.taken()
    }

    /// A run that panicked says so to whoever looks at it, which may be under this lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PlanKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
