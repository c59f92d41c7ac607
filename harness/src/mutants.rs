#![doc = include_str!("mutants/list.md")]

mod working_copy;

pub use working_copy::{Verdict, WorkingCopy, WorkingCopyError};

/// The list as it is written; see the [module](self).
const LIST: &str = include_str!("mutants/list.md");

/// A deliberate fault in one line of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its heading in the list.
    pub name: String,
    /// The file, from the project's root.
    pub file: String,
    /// Lines as they are, of which one is at fault afterwards; the others say which one.
    pub before: String,
    /// The same lines with the fault.
    pub after: String,
    /// The tests that kill it.
    pub killer: Killer,
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
        mutants.sort_by(|left, right| left.killer.target.cmp(&right.killer.target));
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
        let (_, killer) = rest.split_once("Killed by ").unwrap_or_else(|| panic!("nothing kills `{name}`"));
        let killer = killer.lines().next().unwrap_or_default();
        let mut quoted = killer.split('`').skip(1).step_by(2).map(str::to_owned);
        Mutant {
            name: name.to_owned(),
            file: file.to_owned(),
            before: side('-'),
            after: side('+'),
            killer: Killer { target: quoted.next().unwrap_or_default(), tests: quoted.collect() },
        }
    }

    /// The file's text with the fault; `None` unless the lines occur in it exactly once.
    pub fn apply(&self, text: &str) -> Option<String> {
        let (before, after) = (format!("\n{}\n", self.before), format!("\n{}\n", self.after));
        (text.matches(&before).count() == 1).then(|| text.replacen(&before, &after, 1))
    }
}
