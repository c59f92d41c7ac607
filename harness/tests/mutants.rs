//! The list of mutants: that each can still be put in, and that its tests are there. `scripts/mutants` does the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use overlay_harness::mutants::{Killer, Mutant};

#[test]
fn every_mutant_changes_one_line_of_its_file() {
    let mut names = BTreeSet::new();
    for mutant in Mutant::all() {
        let Mutant { name, file, before, after, .. } = &mutant;
        assert!(names.insert(name.clone()), "`{name}` is there twice");
        let text = read(file);
        let faulty = mutant.apply(&text);
        let faulty = faulty.unwrap_or_else(|| panic!("`{name}`: not exactly once in {file}:\n{before}"));
        assert_ne!(faulty, text, "`{name}` changes nothing");
        let kept = before.lines().filter(|line| after.lines().any(|other| other == *line)).count();
        assert!(before.lines().count() - kept == 1, "`{name}` changes one line:\n{before}\n{after}");
    }
    assert!(names.len() >= 25, "{} mutants", names.len());
}

#[test]
fn tests_that_kill_mutants_exist() {
    for Mutant { name, killer: Killer { target, tests }, .. } in Mutant::all() {
        assert!(!tests.is_empty(), "nothing kills `{name}`");
        for test in tests {
            let (module, function) = test.rsplit_once("::").unwrap_or(("", &test));
            let files = files_of(&target, module);
            let declaration = format!("fn {function}(");
            let is_there = files.iter().any(|file| file.exists() && read(file).contains(&declaration));
            assert!(is_there, "`{name}`: no test `{function}` in {files:?}");
        }
    }
}

/// Where the tests of a module of a target may stand.
fn files_of(target: &str, module: &str) -> Vec<PathBuf> {
    let path = |module: &str| project().join(format!("src/{}.rs", module.replace("::", "/")));
    match target {
        "lib" => vec![path(module), path(module.trim_end_matches("::tests"))],
        name => {
            ["harness/tests", "tests"].map(|folder| project().join(folder).join(format!("{name}.rs"))).into()
        }
    }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(project().join(file)).unwrap()
}
