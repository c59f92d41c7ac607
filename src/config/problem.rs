//! What is wrong with a configuration: one problem a line, with file and key.

use std::fmt;

/// One thing that is wrong or odd, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The way to the value, such as `processes.B.neighbors[1]`; empty for the file as a whole.
    pub key: String,
    /// What, which one, found against allowed.
    pub what: String,
}

impl Problem {
    pub(super) fn new(file: &str, key: impl Into<String>, what: impl Into<String>) -> Self {
        Problem { file: file.to_owned(), key: key.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(formatter, "{} ({})", self.what, self.file),
            key => write!(formatter, "{} ({}, {key})", self.what, self.file),
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known key that an unknown one was probably meant to be.
pub(super) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown: String = unknown.chars().take(64).flat_map(char::to_lowercase).collect();
    let edits = known.iter().map(|key| (*key, strsim::levenshtein(&unknown, key)));
    let (key, edits) = edits.min_by_key(|(_, edits)| *edits)?;
    // A third of the letters wrong is another word.
    (edits <= key.len().div_ceil(3)).then_some(key)
}
