//! Tries a property on random inputs; what fails is shrunk, and printed with its seed and the command that repeats it.
//!
//! proptest draws and shrinks. What is added: every run has one seed, which a failure names, and no file is
//! written beside the tests. The seed comes from the test's name, so that a commit passes or fails and does not do both.
//! `PROPTEST_RNG_SEED` is a seed for all tests of a run instead, to try other inputs or to repeat a failure:
//!
//! ```text
//! PROPTEST_RNG_SEED=$RANDOM cargo test --test partition
//! ```

use std::panic::Location;
use std::path::Path;
use std::thread;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use xxhash_rust::xxh3::xxh3_64;

/// Tries `property` on `cases` inputs.
///
/// Call it from a test's own thread, once a test: its name gives the seed, and is part of the command that a failure
/// prints.
///
/// # Panics
/// If the property fails or panics on an input: with the smallest such input found, the seed and the command.
#[track_caller]
pub fn for_all<S: Strategy>(cases: u32, inputs: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    let environment = Config::default();
    let seed = match environment.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => seed_of(test),
    };
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: environment.max_shrink_iters.min(4_096),
        // A failure that takes long to shrink is better printed large than late.
        max_shrink_time: 60_000,
        ..environment
    };
    let because = match TestRunner::new(config).run(&inputs, property) {
        Ok(()) => return,
        Err(TestError::Abort(reason)) => format!("  because  too many inputs were rejected: {reason}"),
        Err(TestError::Fail(reason, input)) => {
            format!("  because  {reason}\n  input    (the smallest found) {input:#?}")
        }
    };
    panic!("{}", failure(seed, &because, Location::caller().file(), test));
}

/// The seed of a test that is given none: the same on every run and machine, another for every test.
fn seed_of(test: &str) -> u64 {
    xxh3_64(test.as_bytes())
}

/// What a failed property prints.
fn failure(seed: u64, because: &str, file: &str, test: &str) -> String {
    let target = Path::new(file).file_stem().unwrap_or_default().display();
    format!(
        "property `{test}` failed\n  seed     {seed}\n{because}\n  replay   PROPTEST_RNG_SEED={seed} cargo test --test {target} -- --exact {test}"
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
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
        let command = format!("PROPTEST_RNG_SEED={seed} cargo test --test for_all");
        assert_eq!(lines[4], format!("  replay   {command} -- --exact {test}"));
    }

    #[test]
    fn equal_tests_draw_equal_inputs_and_others_draw_others() {
        let inputs_of = |test: &str| {
            let draw = || {
                let inputs = RefCell::new(Vec::new());
                for_all(20, any::<u64>(), |input| {
                    inputs.borrow_mut().push(input);
                    Ok(())
                });
                inputs.into_inner()
            };
            thread::Builder::new().name(test.to_owned()).spawn(draw).unwrap().join().unwrap()
        };
        assert_eq!(inputs_of("one"), inputs_of("one"));
        if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            assert_ne!(inputs_of("one"), inputs_of("other"));
        }
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
