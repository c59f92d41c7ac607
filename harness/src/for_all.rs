//! Tries a property on random inputs; what fails is shrunk, and printed with its seed and the command that repeats it.
//!
//! proptest draws and shrinks. What is added: every run has one seed, which a failure names, and no file is
//! written beside the tests. `PROPTEST_RNG_SEED` repeats a run; without it each run draws its own seed.

use std::panic::Location;
use std::path::Path;
use std::thread;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// Tries `property` on `cases` inputs.
///
/// Call it from a test's own thread, once a test: its name is part of the command that a failure prints.
///
/// # Panics
/// If the property fails or panics on an input: with the smallest such input found, the seed and the command.
#[track_caller]
pub fn for_all<S: Strategy>(cases: u32, inputs: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => fastrand::u64(..),
    };
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4_096,
        // A failure that takes long to shrink is better printed large than late.
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let because = match TestRunner::new(config).run(&inputs, property) {
        Ok(()) => return,
        Err(TestError::Abort(reason)) => format!("  because  too many inputs were rejected: {reason}"),
        Err(TestError::Fail(reason, input)) => {
            format!("  because  {reason}\n  input    (the smallest found) {input:#?}")
        }
    };
    panic!("{}", failure(seed, &because, Location::caller().file(), thread::current().name()));
}

/// What a failed property prints.
fn failure(seed: u64, because: &str, file: &str, test: Option<&str>) -> String {
    let target = Path::new(file).file_stem().unwrap_or_default().display();
    let test = test.unwrap_or("");
    format!(
        "property `{test}` failed\n  seed     {seed}\n{because}\n  replay   PROPTEST_RNG_SEED={seed} cargo test -p overlay-harness --test {target} -- --exact {test}"
    )
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use proptest::prelude::*;

    use super::*;

    fn message(property: impl Fn(u32) -> Result<(), TestCaseError> + std::panic::RefUnwindSafe) -> String {
        let failed = catch_unwind(|| for_all(200, any::<u32>(), &property)).expect_err("the property fails");
        failed.downcast_ref::<String>().expect("a message").clone()
    }

    #[test]
    fn failure_names_the_smallest_input_the_seed_and_the_command() {
        let message = message(|number| {
            prop_assert!(number < 1000, "{number} is not below 1000");
            Ok(())
        });
        let lines: Vec<&str> = message.lines().collect();
        let test = "for_all::tests::failure_names_the_smallest_input_the_seed_and_the_command";
        assert_eq!(lines[0], format!("property `{test}` failed"));
        let seed = lines[1].strip_prefix("  seed     ").expect("a seed");
        assert!(lines[2].starts_with("  because  1000 is not below 1000"), "{message}");
        assert_eq!(lines[3], "  input    (the smallest found) 1000");
        let command = format!("PROPTEST_RNG_SEED={seed} cargo test -p overlay-harness --test for_all");
        assert_eq!(lines[4], format!("  replay   {command} -- --exact {test}"));
    }

    #[test]
    fn panic_is_a_failure_too() {
        let message = message(|number| {
            assert_ne!(number, number, "odd");
            Ok(())
        });
        assert!(message.contains("input    (the smallest found) 0"), "{message}");
    }
}
