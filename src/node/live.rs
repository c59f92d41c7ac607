//! Live data: a node that watches its files takes new ones beside what it serves, and lets go of what they have replaced.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::NodeError;
use crate::day::Day;
use crate::load::{LoadOptions, Reloaded, Watcher};
use crate::outside;
use crate::state::NodeState;

/// Looks at the files again and again, and takes new data when they are whole.
pub(super) async fn keep_up(
    state: &Arc<NodeState>,
    watcher: Watcher,
    options: LoadOptions,
) -> Result<(), NodeError> {
    // Beside queries, which need the cores more.
    let options = LoadOptions { threads: 1, ..options };
    let watcher = Arc::new(Mutex::new(watcher));
    let mut failed_looks = 0u32;
    // The others were named when the node started.
    let mut unowned_seen: BTreeSet<String> = state.holder.inventory(0).unowned_days.into_iter().collect();
    loop {
        tokio::time::sleep(state.overlay.limits.watch()).await;
        let Some(store) = state.holder.store() else { continue };
        let looking = watcher.clone();
        let look = move || {
            let mut watcher = looking.lock().unwrap_or_else(PoisonError::into_inner);
            watcher.look(&store, &options).map_err(|error| error.to_string())
        };
        // Data that break the loader are no reason to end: the node keeps what it has.
        let looked = tokio::task::spawn_blocking(look).await;
        let looked = looked.unwrap_or_else(|panicked| Err(panicked.to_string()));
        let is_memory_free = match looked {
            Ok(reloaded) => {
                failed_looks = 0;
                let mut new = unowned(state, &reloaded.others);
                new.retain(|day| unowned_seen.insert(day.clone()));
                warn_of_unowned(state, &new);
                take_new_data(state, reloaded)
            }
            Err(error) => {
                failed_looks += 1;
                if failed_looks.is_power_of_two() {
                    tracing::warn!(node = %state.process.id, error, "cannot look for new data");
                }
                forget_replaced(state, Instant::now())
            }
        };
        state.metrics.looked(failed_looks);
        if is_memory_free {
            // The data that this look began with are gone by now, too.
            let _ = tokio::task::spawn_blocking(outside::give_back_memory).await;
        }
    }
}

/// Has a node take days that were loaded anew, and lets go of what they have replaced before, as far as nobody can need that.
///
/// Gives whether memory was freed, or data were loaded, which leaves some of it behind.
pub fn take_new_data(state: &NodeState, reloaded: Reloaded) -> bool {
    let node = &state.process.id;
    for (day, error) in &reloaded.failed {
        tracing::warn!(%node, %day, %error, "new data of a day cannot be loaded: the node keeps what it has");
    }
    for row in reloaded.days.values().flatten() {
        tracing::warn!(%node, %row, "row rejected");
    }
    let unowned = unowned(state, &reloaded.others);
    let (now, pending, is_loaded) = (Instant::now(), reloaded.pending, !reloaded.days.is_empty());
    let days = state.holder.replace(reloaded, unowned, now);
    state.metrics.watched(days.len(), pending);
    if !days.is_empty() {
        let days: Vec<String> = days.iter().map(Day::to_string).collect();
        tracing::info!(%node, days = days.join(","), "new data");
    }
    forget_replaced(state, now) || is_loaded
}

/// Whether there was something to let go of. What this node knows of itself follows its data, as what others learn from its
/// answers.
fn forget_replaced(state: &NodeState, now: Instant) -> bool {
    let are_fewer = state.holder.forget_replaced(now);
    state.relay.directory().heard_from(&state.holder.state());
    are_fewer
}

/// Those of the days on disk that no team owns.
pub(super) fn unowned(state: &NodeState, days: &[Day]) -> Vec<String> {
    let unowned = days.iter().filter(|day| state.overlay.team_of_day(**day).is_none());
    unowned.map(Day::to_string).collect()
}

pub(super) fn warn_of_unowned(state: &NodeState, days: &[String]) {
    if !days.is_empty() {
        let (node, days) = (&state.process.id, days.join(","));
        tracing::warn!(%node, days, "days on disk that no team owns are never asked for: set ranges in `teams` of the configuration");
    }
}
