//! What a test leaves out because the machine lacks something, and that it says so.
//!
//! A test that skips passes, and libtest keeps to itself what a passing test prints by `println!` or `eprintln!`. What
//! is written to standard error itself it does not keep, so this is seen in every run. What a failure prints has its
//! place in [`report`](crate::report).

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

/// Says that the test on this thread leaves something out, and why.
pub fn skipped(what: impl Display, why: impl Display) {
    let thread = thread::current();
    let line = format!("skipped: {what}, in {}: {why}\n", thread.name().unwrap_or("a thread without a name"));
    // In one piece, as other tests write too; who has closed standard error wants to know nothing.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Where the real dataset is, by `OVERLAY_DATASET`. `None` where it is not set, once that was said.
pub fn real_dataset() -> Option<PathBuf> {
    let root = std::env::var_os("OVERLAY_DATASET").map(PathBuf::from);
    if root.is_none() {
        skipped("the real data", "OVERLAY_DATASET is not set");
    }
    root
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Makes the test that it is set for skip something.
    const SKIP: &str = "OVERLAY_SKIP";

    /// Method: this test runs itself in a process of its own, where it skips something and passes.
    #[test]
    fn what_a_passing_test_skips_is_seen() {
        if std::env::var_os(SKIP).is_some() {
            return skipped("the moon", "it is new");
        }
        let test = "skip::tests::what_a_passing_test_skips_is_seen";
        let executable = std::env::current_exe().unwrap();
        let ran = Command::new(executable).args(["--exact", test]).env(SKIP, "yes").output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(said, format!("skipped: the moon, in {test}: it is new\n"));
    }
}
