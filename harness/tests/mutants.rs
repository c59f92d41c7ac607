//! The list of mutants: that each can still be put in, and that its tests are there. `scripts/mutants` does the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay_harness::mutants::{Killer, Mutant, WorkingCopy};

#[test]
fn every_mutant_is_one_line_of_its_file() {
    let mut names = BTreeSet::new();
    for mutant in Mutant::all() {
        let Mutant { name, file, before, after, .. } = &mutant;
        assert!(names.insert(name.clone()), "`{name}` is there twice");
        let text = read(file);
        let faulty = mutant.apply(&text);
        let faulty = faulty.unwrap_or_else(|| panic!("`{name}`: not exactly once in {file}:\n{before}"));
        assert_ne!(faulty, text, "`{name}` changes nothing");
        assert!(is_one_line(before, after), "`{name}` changes more than one line:\n{before}\n{after}");
    }
    assert!(names.len() >= 25, "{} mutants", names.len());
}

#[test]
fn tests_that_kill_mutants_exist() {
    for Mutant { name, killers, .. } in Mutant::all() {
        assert!(killers.iter().all(|killer| !killer.tests.is_empty()), "`{name}`: {killers:?}");
        for (target, test) in killers.iter().flat_map(tests_of) {
            let (module, function) = test.rsplit_once("::").unwrap_or(("", test));
            let files = files_of(target, module);
            let declaration = format!("fn {function}(");
            let is_there = files.iter().any(|file| file.exists() && read(file).contains(&declaration));
            assert!(is_there, "`{name}`: no test `{function}` in {files:?}");
        }
    }
}

#[test]
fn second_run_is_refused_while_the_first_is_at_work() {
    let project = tempfile::tempdir().unwrap();
    let git = Command::new("git").arg("init").arg("--quiet").current_dir(project.path()).status();
    assert!(git.unwrap().success());
    let first = WorkingCopy::of(project.path()).unwrap();
    let folder = project.path().join("target/mutants");
    let refused = WorkingCopy::of(project.path()).unwrap_err().to_string();
    assert_eq!(refused, format!("cannot use `{}`: another run is at work there", folder.display()));
    drop(first);
    WorkingCopy::of(project.path()).unwrap();
}

#[test]
fn one_line_is_changed_added_or_removed() {
    for (before, after, expected) in [
        ("a\nb\nc", "a\nx\nc", true),
        ("a\nb", "a\nx\nb", true),
        ("a\nb\nc", "a\nc", true),
        ("a\nb", "a\nx\ny\nb", false),
        ("a\nb\nc", "a\nx\ny\nc", false),
        ("a\nb\nc", "x\nb\ny", false),
        ("a\nb\nc\nd", "a\nd", false),
    ] {
        assert_eq!(is_one_line(before, after), expected, "{before:?} {after:?}");
    }
}

/// Whether one line at most is another, or is there on one side only.
fn is_one_line(before: &str, after: &str) -> bool {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same = before.iter().zip(&after).take_while(|(left, right)| left == right).count();
    let (before, after) = (&before[same..], &after[same..]);
    let same = before.iter().rev().zip(after.iter().rev()).take_while(|(left, right)| left == right).count();
    before.len() - same <= 1 && after.len() - same <= 1
}

fn tests_of(killer: &Killer) -> impl Iterator<Item = (&str, &str)> {
    killer.tests.iter().map(|test| (killer.target.as_str(), test.as_str()))
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
