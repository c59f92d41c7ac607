//! Which texts of a store's tables are equal: worked out once for all frames and sums.

use std::collections::HashMap;

use super::{Measure, Site};

/// Which sites and measures have equal texts, so that nobody compares texts again.
#[derive(Clone, Debug)]
pub struct EqualTexts {
    /// By site code: for each of [`Site::texts`], the smallest code of a site that has the same.
    pub sites: Vec<[u32; 4]>,
    /// By measure code: for parameter and unit, the smallest code of a measure that has the same.
    pub measures: Vec<[u32; 2]>,
}

impl EqualTexts {
    pub(super) fn of(sites: &[Site], measures: &[Measure]) -> Self {
        EqualTexts {
            sites: first_codes(sites.iter().map(Site::texts)),
            measures: first_codes(measures.iter().map(Measure::texts)),
        }
    }
}

/// By code: for each text, the smallest code that has the same in the same place.
fn first_codes<'a, const N: usize>(texts: impl Iterator<Item = [&'a str; N]>) -> Vec<[u32; N]> {
    let mut firsts: [HashMap<&str, u32>; N] = std::array::from_fn(|_| HashMap::new());
    let of_code = |(texts, code): ([&'a str; N], u32)| {
        std::array::from_fn(|column| *firsts[column].entry(texts[column]).or_insert(code))
    };
    texts.zip(0..).map(of_code).collect()
}
