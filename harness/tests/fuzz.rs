//! The fuzz targets over their corpora, over all that fuzzing found, and over mutations of both.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use overlay_harness::fuzz::{TARGETS, Target};

/// Mutations of each file.
const MUTATIONS: usize = 40;

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target.name)
}

/// The files of a folder by their names; none if there is no such folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Goal: fuzzing starts from what the code reads today. `UPDATE_CORPUS=1` writes the files anew.
#[test]
fn corpus_is_what_the_targets_make() {
    for target in &TARGETS {
        let folder = folder("corpus", target);
        let made: BTreeMap<String, Vec<u8>> =
            (target.seeds)().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            made.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
        }
        let found = files(&folder);
        let differing: Vec<&String> =
            made.keys().chain(found.keys()).filter(|name| made.get(*name) != found.get(*name)).collect();
        assert!(differing.is_empty(), "{}: {differing:?}; UPDATE_CORPUS=1 writes them", folder.display());
    }
}

/// Goal: what was found once stays mended, and what is near it holds too.
#[test]
fn targets_hold_over_their_corpus_their_regressions_and_mutations_of_both() {
    for target in &TARGETS {
        let files = [files(&folder("corpus", target)), files(&folder("regressions", target))];
        let inputs: Vec<(String, Vec<u8>)> = files.into_iter().flatten().collect();
        assert!(!inputs.is_empty(), "target {} has no corpus", target.name);
        let mut rng = fastrand::Rng::with_seed(0x51f2);
        for (name, bytes) in &inputs {
            hold(target, name, bytes);
            for number in 0..MUTATIONS {
                let (_, other) = &inputs[rng.usize(..inputs.len())];
                let mutated = mutated(bytes, other, &mut rng);
                hold(target, &format!("mutation {number} of {name}"), &mutated);
            }
        }
    }
}

/// A few bytes changed, left out, doubled or taken from another input.
fn mutated(bytes: &[u8], other: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=bytes.len());
        let to = rng.usize(at..=bytes.len().min(at + 16));
        match rng.u8(..5) {
            0 => bytes.insert(at, rng.u8(..)),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let copied = bytes[at..to].to_vec();
                bytes.splice(at..at, copied);
            }
            3 if !other.is_empty() => {
                let from = rng.usize(..other.len());
                let end = other.len().min(from + 16);
                bytes.splice(at..to, other[from..end].iter().copied());
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
    bytes
}

fn hold(target: &Target, what: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
        let shown: String = String::from_utf8_lossy(bytes).chars().take(400).collect();
        panic!("target {}, {what}: see above; {} bytes: {bytes:?}\n{shown}", target.name, bytes.len());
    }
}
