//! The checked-in data are what the generator writes today.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use overlay_harness::dataset::DatasetSpec;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/airnow")
}

/// Goal: a change of the generator cannot silently part from the fixtures, on any platform.
/// Method: generate with the defaults, compare file lists and bytes.
#[test]
fn generator_writes_exactly_the_fixtures() {
    let generated = overlay_harness::scratch::folder().unwrap();
    let summary = DatasetSpec::default().write(generated.path()).unwrap();
    let (expected, found) = (files(&fixtures()), files(generated.path()));
    let missing: Vec<_> = expected.difference(&found).collect();
    let extra: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && extra.is_empty(), "not generated: {missing:?}; only generated: {extra:?}");
    assert_eq!(summary.files as usize, found.len());
    for path in &expected {
        assert_equal_bytes(path, &fixtures().join(path), &generated.path().join(path));
    }
}

#[test]
fn fixtures_stay_below_two_megabytes() {
    let sizes = files(&fixtures()).into_iter().map(|path| fs::metadata(fixtures().join(path)).unwrap().len());
    let bytes: u64 = sizes.sum();
    assert!(bytes < 2_000_000, "{bytes} bytes");
}

/// Paths below `root`, with `/` on every platform.
fn files(root: &Path) -> BTreeSet<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let in_folder = |day: String| {
        let files = names(&root.join(&day));
        files.into_iter().map(move |file| format!("{day}/{file}"))
    };
    names(root).into_iter().flat_map(in_folder).collect()
}

fn assert_equal_bytes(name: &str, expected: &Path, found: &Path) {
    let [expected, found] = [expected, found].map(|path| fs::read(path).unwrap());
    if expected == found {
        return;
    }
    let [mut expected, mut found] = [&expected, &found].map(|bytes| bytes.split(|&byte| byte == b'\n'));
    for line in 1.. {
        let (expected, found) = (expected.next(), found.next());
        if expected != found {
            let shown = |line: Option<&[u8]>| line.map(|line| String::from_utf8_lossy(line).into_owned());
            panic!("{name}, line {line}\n  fixture   {:?}\n  generated {:?}", shown(expected), shown(found));
        }
    }
}
