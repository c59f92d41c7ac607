//! Work that goes on although nobody waits for it any more: on its thread to its end, or until an abort reaches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts tasks and pieces of work without an owner; at rest there is none. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Orphans(Arc<Mutex<usize>>);

/// Dropped by whoever waits for some work.
#[must_use = "dropping it means that nobody waits"]
#[derive(Debug)]
pub struct Owner(Arc<Tie>);

/// Dropped by the work, at its end.
#[must_use = "dropping it means that the work is done"]
#[derive(Debug)]
pub struct Work(Arc<Tie>);

#[derive(Debug)]
struct Tie {
    orphans: Orphans,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Owned,
    Orphaned,
    Done,
}

impl Orphans {
    /// Ties work to its owner.
    pub fn tie(&self) -> (Owner, Work) {
        let tie = Arc::new(Tie { orphans: self.clone(), state: Mutex::new(State::Owned) });
        (Owner(tie.clone()), Work(tie))
    }

    /// Work that goes on without an owner.
    pub fn count(&self) -> usize {
        *lock(&self.0)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if *state == State::Owned {
            *state = State::Orphaned;
            *lock(&self.0.orphans.0) += 1;
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if *state == State::Orphaned {
            *lock(&self.0.orphans.0) -= 1;
        }
        *state = State::Done;
    }
}

/// Nothing in here panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_an_orphan_from_its_owners_end_to_its_own() {
        let orphans = Orphans::default();
        let (owner, work) = orphans.tie();
        let (other_owner, other_work) = orphans.tie();
        drop(other_work);
        drop(other_owner);
        assert_eq!(orphans.count(), 0, "it ended first");
        drop(owner);
        assert_eq!(orphans.count(), 1);
        drop(work);
        assert_eq!(orphans.count(), 0);
    }
}
