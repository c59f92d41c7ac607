//! What a work comes to, which must be the same whoever does it.

use std::fmt;

use serde::Deserialize;

/// What sums of means may differ by, in parts of them: who adds doubles up is off by 1e-16 or so with each.
const MEANS_DIFFER: f64 = 1e-9;

/// Rows that came, and what tells them from others.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Found {
    /// Rows, or groups.
    pub rows: u64,
    /// The means of all groups, added up; `None` where there are no groups.
    pub mean_sum: Option<f64>,
}

impl Found {
    /// Rows that are no groups.
    pub(super) fn rows(rows: u64) -> Self {
        Found { rows, mean_sum: None }
    }

    /// Whether both are the same, but for what doubles are off by.
    pub(super) fn is_as(self, other: Found) -> bool {
        let means_agree = match (self.mean_sum, other.mean_sum) {
            (Some(left), Some(right)) => (left - right).abs() <= MEANS_DIFFER * right.abs(),
            (left, right) => left == right,
        };
        self.rows == other.rows && means_agree
    }
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} rows", self.rows)?;
        self.mean_sum.map_or(Ok(()), |sum| write!(formatter, " whose means add up to {sum}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_the_same_but_for_what_doubles_are_off_by() {
        let means = |rows, sum| Found { rows, mean_sum: Some(sum) };
        assert!(means(3, 0.1 + 0.2).is_as(means(3, 0.3)));
        for other in [means(3, 0.300_001), means(4, 0.3), means(3, f64::NAN), Found::rows(3)] {
            assert!(!other.is_as(means(3, 0.3)), "{other}");
        }
    }
}
