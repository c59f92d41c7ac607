#![doc = include_str!("mutants/list.md")]

mod working_copy;

pub use working_copy::{Verdict, WorkingCopy, WorkingCopyError};

/// The list as it is written; see the [module](self).
const LIST: &str = include_str!("mutants/list.md");

/// A deliberate fault in the node: one line changed, added or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its heading in the list.
    pub name: String,
    /// The file, from the project's root.
    pub file: String,
    /// Lines as they are; those that stay say where the fault is.
    pub before: String,
    /// The same lines with the fault.
    pub after: String,
    /// The tests that kill it, by target.
    pub killers: Vec<Killer>,
}

/// Some tests of one target, each of which must fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killer {
    /// `lib` for the node's unit tests, else the name of an integration test.
    pub target: String,
    /// Their names, as the target prints them.
    pub tests: Vec<String>,
}

impl Mutant {
    /// Every mutant of the list; those that share a target follow each other, so that little is built twice.
    ///
    /// # Panics
    /// If the list is not written as its introduction says.
    pub fn all() -> Vec<Mutant> {
        let mut mutants: Vec<Mutant> = LIST.split("\n### ").skip(1).map(Mutant::read).collect();
        mutants.sort_by(|left, right| left.killers[0].target.cmp(&right.killers[0].target));
        mutants
    }

    fn read(section: &str) -> Mutant {
        let (name, text) = section.split_once('\n').expect("text follows a heading");
        let (_, rest) = text.split_once("```diff\n--- ").unwrap_or_else(|| panic!("`{name}` has no diff"));
        let (diff, rest) = rest.split_once("\n```\n").unwrap_or_else(|| panic!("the diff of `{name}` ends"));
        let (file, lines) = diff.split_once('\n').unwrap_or_else(|| panic!("the diff of `{name}` has lines"));
        let side = |sign: char| {
            let lines = lines.lines().filter_map(|line| line.strip_prefix([' ', sign]));
            lines.collect::<Vec<_>>().join("\n")
        };
        let killers: Vec<Killer> = rest.split("\nKilled by ").skip(1).map(Killer::read).collect();
        assert!(!killers.is_empty(), "nothing kills `{name}`");
        Mutant { name: name.to_owned(), file: file.to_owned(), before: side('-'), after: side('+'), killers }
    }

    /// The file's text with the fault; `None` unless the lines occur in it exactly once.
    pub fn apply(&self, text: &str) -> Option<String> {
        let (before, after) = (format!("\n{}\n", self.before), format!("\n{}\n", self.after));
        (text.matches(&before).count() == 1).then(|| text.replacen(&before, &after, 1))
    }
}

impl Killer {
    /// Reads to the end of the paragraph: it may be wrapped.
    fn read(text: &str) -> Killer {
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let mut quoted = paragraph.split('`').skip(1).step_by(2).map(str::to_owned);
        Killer { target: quoted.next().unwrap_or_default(), tests: quoted.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_tests_is_read_to_the_end_of_its_paragraph() {
        let text = "m\n\nWrong.\n\n```diff\n--- src/a.rs\n-b\n```\n\n\
                    Killed by `lib`: `x`,\n`y`.\n\nKilled by `failure`: `z`.\n\nNot `these`.\n";
        let killer = |target: &str, tests: &[&str]| Killer {
            target: target.to_owned(),
            tests: tests.iter().map(|test| (*test).to_owned()).collect(),
        };
        assert_eq!(Mutant::read(text).killers, [killer("lib", &["x", "y"]), killer("failure", &["z"])]);
    }
}
