//! Panics on this thread, also those that a runtime caught: in a simulation, all nodes are on it.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Forgets what was before, and notes what comes.
pub(super) fn forget() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            before(panic);
        }));
    });
    PANICS.with_borrow_mut(Vec::clear);
}

/// Whether there was none.
///
/// # Errors
/// The words of all of them.
pub(super) fn since() -> Result<(), String> {
    PANICS.with_borrow(|panics| if panics.is_empty() { Ok(()) } else { Err(panics.join("; ")) })
}
