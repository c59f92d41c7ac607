//! Every decoder, with what must hold of whatever it reads, as functions of bytes.
//!
//! A target takes any bytes and panics if a property fails; that it does not panic otherwise, hang, or take memory out of
//! proportion, is watched from outside. `harness/fuzz` gives the targets to libFuzzer, which finds bytes that reach new
//! code; `scripts/fuzz` runs them. `tests/fuzz.rs` tries every file of the corpus and of the regressions, and a few hundred
//! mutations of them, in every run of the tests.
//!
//! The corpus in `harness/fuzz/corpus` is what [`Target::seeds`] makes, and a test holds it to that. A finding goes to
//! `harness/fuzz/regressions/TARGET/`, named after what it found.
//!
//! Another target is a file here with `run` and `seeds`, its line in [`TARGETS`], and its three lines in
//! `harness/fuzz/fuzz_targets`.

mod configuration;
mod csv;
mod filter;
mod frames;
mod peer_replies;
mod proof;
mod requests;
mod results;
mod sample;

/// A decoder, and what must hold of it.
pub struct Target {
    /// Its name, that of its folder and of its file in `harness/fuzz`.
    pub name: &'static str,
    /// Reads bytes; panics if a property fails.
    pub run: fn(&[u8]),
    /// Bytes to start from, each with a name.
    pub seeds: fn() -> Vec<Seed>,
}

/// The name of a file, and what it holds.
pub type Seed = (&'static str, Vec<u8>);

/// All targets, in alphabetical order.
pub const TARGETS: [Target; 8] = [
    Target { name: "configuration", run: configuration::run, seeds: configuration::seeds },
    Target { name: "csv", run: csv::run, seeds: csv::seeds },
    Target { name: "filter", run: filter::run, seeds: filter::seeds },
    Target { name: "frames", run: frames::run, seeds: frames::seeds },
    Target { name: "peer_replies", run: peer_replies::run, seeds: peer_replies::seeds },
    Target { name: "proof", run: proof::run, seeds: proof::seeds },
    Target { name: "requests", run: requests::run, seeds: requests::seeds },
    Target { name: "results", run: results::run, seeds: results::seeds },
];

/// Runs the target `name` on bytes.
///
/// # Panics
/// If there is no such target, or a property fails.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no fuzz target `{name}`")).run)(bytes);
}

/// Bytes that an error may have: it travels in a header, of which clients take 16 KiB in all.
const MAX_ERROR_BYTES: usize = 1024;

/// An error names its field, is one line, and does not repeat what it was given at any length.
fn check_error(field: &str, why: &str) {
    assert!(why.len() <= MAX_ERROR_BYTES, "an error of {} bytes: {why}", why.len());
    assert!(!why.contains('\n'), "an error of several lines: {why:?}");
    let words = field.replace('_', " ");
    assert!(why.contains(field) || why.contains(&words), "the error does not name `{field}`: {why}");
}

/// The first byte, which says what the others are, and the others.
fn tagged(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(tag, rest)| (*tag, rest))
}

/// Two byte strings: the length of the first stands before it, in two bytes.
fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(usize::from(u16::from_le_bytes([length[0], length[1]])))
}

/// What [`pair`] reads.
fn paired(first: &[u8], second: &[u8]) -> Vec<u8> {
    let length = u16::try_from(first.len()).expect("a seed is small").to_le_bytes();
    [&length, first, second].concat()
}

fn text_seeds(seeds: &[(&'static str, &str)]) -> Vec<Seed> {
    seeds.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect()
}
