//! Groups column by column, in the order of their keys.

use super::{GroupKey, Partial};

/// The value of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyValue<'a> {
    /// A parameter, site, agency or team.
    Text(&'a str),
    /// A day or an hour.
    Number(u32),
}

/// Groups in the order of their keys, each once.
///
/// Every text stands once, in order: codes order as texts do, so that groups are compared and merged by their codes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    group_by: Vec<GroupKey>,
    texts: Vec<Box<str>>,
    codes: Vec<u32>,
    partials: Vec<Partial>,
}

/// One key of unsorted groups.
pub(super) struct KeyColumn {
    /// By group: small numbers in the order of what they stand for.
    pub(super) numbers: Vec<u32>,
    /// By number, what [`Groups::codes`] has.
    pub(super) codes: Vec<u32>,
}

impl KeyColumn {
    /// The groups in `order`, by number; those with the same number stay as they are.
    fn sort(&self, order: &[u32]) -> Vec<u32> {
        let mut ends = vec![0; self.codes.len()];
        self.numbers.iter().for_each(|number| ends[*number as usize] += 1);
        let mut end = 0;
        for count in &mut ends {
            end += *count;
            *count = end;
        }
        let mut sorted = vec![0; order.len()];
        for group in order.iter().rev() {
            let end: &mut usize = &mut ends[self.numbers[*group as usize] as usize];
            *end -= 1;
            sorted[*end] = *group;
        }
        sorted
    }
}

/// Why columns are not groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotGroups(&'static str);

impl Groups {
    /// Groups by `group_by`, as a peer sends them.
    ///
    /// Shape: `texts` ascending; `codes` has the keys of one group after the other, in the order of `group_by`, each the
    /// place of a text or the number of a day or hour; groups ascending by key.
    ///
    /// # Errors
    /// [`NotGroups`] if a text or a group is out of order or there twice, a code has no text, a text no group, a day or hour
    /// is not one, or a group has no rows.
    pub fn from_columns(
        group_by: &[GroupKey],
        texts: Vec<Box<str>>,
        codes: Vec<u32>,
        partials: Vec<Partial>,
    ) -> Result<Self, NotGroups> {
        let width = group_by.len();
        if partials.len().checked_mul(width) != Some(codes.len()) {
            return Err(NotGroups("a group has more or fewer keys than were asked for"));
        }
        if !texts.is_sorted_by(|left, right| left < right) {
            return Err(NotGroups("texts are not in order, or one comes twice"));
        }
        if partials.iter().any(|partial| partial.count == 0 || partial.min > partial.max) {
            return Err(NotGroups("a group counts nothing"));
        }
        let groups = Groups { group_by: group_by.to_vec(), texts, codes, partials };
        let mut used = vec![false; groups.texts.len()];
        for (key, column) in group_by.iter().zip(0..) {
            let mut codes = groups.codes.iter().skip(column).step_by(width);
            let all_exist = match key {
                GroupKey::Hour => codes.all(|hour| *hour < 24),
                GroupKey::Day => codes.all(|day| *day < 100_000_000),
                _ => codes.all(|code| used.get_mut(*code as usize).map(|used| *used = true).is_some()),
            };
            if !all_exist {
                return Err(NotGroups("a group's day or hour does not exist, or one of its texts"));
            }
        }
        if used.contains(&false) {
            return Err(NotGroups("a text is of no group"));
        }
        let is_ascending = (1..groups.len()).all(|index| groups.codes_of(index - 1) < groups.codes_of(index));
        match is_ascending {
            true => Ok(groups),
            false => Err(NotGroups("groups are not in order, or one comes twice")),
        }
    }

    /// Puts groups in order, of which no two have the same keys; all else is as for [`from_columns`](Self::from_columns).
    pub(super) fn in_order(
        group_by: &[GroupKey],
        texts: Vec<Box<str>>,
        columns: &[KeyColumn],
        partials: &[Partial],
    ) -> Self {
        // From the last key to the first, since each pass keeps the order of those that it finds equal.
        let unsorted = (0..partials.len() as u32).collect();
        let order: Vec<u32> = columns.iter().rev().fold(unsorted, |order, column| column.sort(&order));
        let mut codes = Vec::with_capacity(order.len() * columns.len());
        for group in &order {
            codes.extend(columns.iter().map(|column| column.codes[column.numbers[*group as usize] as usize]));
        }
        let partials = order.iter().map(|group| partials[*group as usize]).collect();
        Groups { group_by: group_by.to_vec(), texts, codes, partials }
    }

    /// Adds all groups of `other`, which are by the same keys.
    pub fn merge(&mut self, other: Groups) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if other.is_empty() {
            return;
        }
        assert_eq!(self.group_by, other.group_by, "partial results of one aggregate have the same keys");
        let mut left = std::mem::take(self);
        let mut right = other;
        let texts = merge_texts(&mut left, &mut right);
        let most = left.len() + right.len();
        let mut merged = Groups {
            group_by: left.group_by.clone(),
            texts,
            codes: Vec::with_capacity(most * right.group_by.len()),
            partials: Vec::with_capacity(most),
        };
        let (mut of_left, mut of_right) = (0, 0);
        while of_left < left.len() && of_right < right.len() {
            let order = left.codes_of(of_left).cmp(right.codes_of(of_right));
            if order.is_le() {
                merged.codes.extend_from_slice(left.codes_of(of_left));
                merged.partials.push(left.partials[of_left]);
                of_left += 1;
            }
            if order.is_gt() {
                merged.codes.extend_from_slice(right.codes_of(of_right));
                merged.partials.push(right.partials[of_right]);
            }
            if order.is_eq()
                && let Some(both) = merged.partials.last_mut()
            {
                both.merge(&right.partials[of_right]);
            }
            if order.is_ge() {
                of_right += 1;
            }
        }
        for (rest, from) in [(&left, of_left), (&right, of_right)] {
            merged.codes.extend_from_slice(&rest.codes[from * rest.group_by.len()..]);
            merged.partials.extend_from_slice(&rest.partials[from..]);
        }
        merged.shrink();
        *self = merged;
    }

    /// Keeps the first `most` groups.
    pub fn truncate(&mut self, most: usize) {
        self.partials.truncate(most);
        self.codes.truncate(self.partials.len() * self.group_by.len());
        self.shrink();
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Every text that is a key, ascending; those of groups that were cut off are there, too.
    pub fn texts(&self) -> &[Box<str>] {
        &self.texts
    }

    /// The keys of one group after the other: the places of texts, and numbers of days and hours.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// What was added up, by group.
    pub fn partials(&self) -> &[Partial] {
        &self.partials
    }

    /// What the groups are by.
    pub fn group_by(&self) -> &[GroupKey] {
        &self.group_by
    }

    /// The keys of a group, in the order of [`group_by`](Self::group_by).
    pub fn keys(&self, group: usize) -> impl Iterator<Item = KeyValue<'_>> {
        let codes = self.codes_of(group).iter();
        self.group_by.iter().zip(codes).map(|(key, code)| match key {
            GroupKey::Day | GroupKey::Hour => KeyValue::Number(*code),
            _ => KeyValue::Text(&self.texts[*code as usize]),
        })
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.texts.iter().map(|text| size_of::<Box<str>>() + text.len()).sum();
        let (codes, partials) = (self.codes.capacity(), self.partials.capacity());
        size_of::<Self>() + texts + codes * size_of::<u32>() + partials * size_of::<Partial>()
    }

    /// Gives back room that nothing needs.
    fn shrink(&mut self) {
        self.codes.shrink_to_fit();
        self.partials.shrink_to_fit();
    }

    fn codes_of(&self, group: usize) -> &[u32] {
        let width = self.group_by.len();
        &self.codes[group * width..(group + 1) * width]
    }

    /// Gives every text the code that stands for it in `code_of`.
    fn code_anew(&mut self, code_of: &[u32]) {
        let width = self.group_by.len();
        for (key, column) in self.group_by.iter().zip(0..) {
            if is_text(*key) {
                let codes = self.codes.iter_mut().skip(column).step_by(width);
                codes.for_each(|code| *code = code_of[*code as usize]);
            }
        }
    }
}

/// Whether a key's values are texts, not numbers.
pub(super) fn is_text(key: GroupKey) -> bool {
    !matches!(key, GroupKey::Day | GroupKey::Hour)
}

/// The texts of both in order, each once; groups of both have their codes afterwards.
fn merge_texts(left: &mut Groups, right: &mut Groups) -> Vec<Box<str>> {
    let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
    let mut texts = Vec::with_capacity(left.texts.len().max(right.texts.len()));
    let mut lefts = std::mem::take(&mut left.texts).into_iter().peekable();
    let mut rights = std::mem::take(&mut right.texts).into_iter().peekable();
    loop {
        let order = match (lefts.peek(), rights.peek()) {
            (Some(left), Some(right)) => left.cmp(right),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        let code = texts.len() as u32;
        let from_left = if order.is_le() { lefts.next() } else { None };
        let from_right = if order.is_ge() { rights.next() } else { None };
        if from_left.is_some() {
            of_left.push(code);
        }
        if from_right.is_some() {
            of_right.push(code);
        }
        texts.extend(from_left.or(from_right));
    }
    left.code_anew(&of_left);
    right.code_anew(&of_right);
    texts
}
