//! A calendar day, the unit of partitioning, and half-open ranges of days.
//!
//! Users write days as `YYYYMMDD` and ranges inclusive at both ends; inside, ranges are half-open.

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, Days, NaiveDate};

use crate::error::shown;

/// A calendar day in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

/// A text or number that names no day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a day: expected an existing date written YYYYMMDD, such as 20200810")]
pub struct InvalidDay(String);

impl Day {
    /// The day that `YYYYMMDD` digits name as a number, such as `20200810`.
    ///
    /// # Errors
    /// [`InvalidDay`] if no such date exists.
    pub fn from_number(number: u64) -> Result<Self, InvalidDay> {
        number.to_string().parse()
    }

    /// `20200810` for 10 August 2020.
    pub fn number(self) -> u32 {
        self.0.year() as u32 * 10_000 + self.0.month() * 100 + self.0.day()
    }

    /// The day after this one.
    pub fn next(self) -> Self {
        Day(self.0 + Days::new(1))
    }

    /// `2020-08-10`.
    pub fn iso(self) -> impl fmt::Display {
        self.0.format("%Y-%m-%d")
    }
}

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let invalid = || InvalidDay(shown(text));
        if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let part = |range: std::ops::Range<usize>| -> u32 { text[range].parse().unwrap_or(0) };
        // Year 0 would print with fewer digits than it was written with.
        match part(0..4) {
            0 => None,
            year => NaiveDate::from_ymd_opt(year as i32, part(4..6), part(6..8)),
        }
        .map(Day)
        .ok_or_else(invalid)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08}", self.number())
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The days from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayRange {
    /// First day.
    pub start: Day,
    /// The day after the last one.
    pub end: Day,
}

impl DayRange {
    /// The range that a user writes as its first and its last day.
    pub fn inclusive(first: Day, last: Day) -> Self {
        DayRange { start: first, end: last.next() }
    }

    /// The last day of a range that is not empty.
    pub fn last(&self) -> Option<Day> {
        (!self.is_empty()).then(|| Day(self.end.0 - Days::new(1)))
    }

    /// Whether no day lies inside.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `day` lies inside.
    pub fn contains(&self, day: Day) -> bool {
        self.start <= day && day < self.end
    }

    /// The days that lie in both.
    pub fn intersect(&self, other: &DayRange) -> DayRange {
        DayRange { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    /// Every day inside, in order.
    pub fn days(&self) -> impl Iterator<Item = Day> + use<> {
        let end = self.end;
        std::iter::successors(Some(self.start), |day| Some(day.next())).take_while(move |day| *day < end)
    }
}

/// As a user writes it: `20200821-20200924`, or `20200821` for one day.
impl fmt::Display for DayRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last() {
            None => write!(formatter, "no day"),
            Some(last) if last == self.start => write!(formatter, "{last}"),
            Some(last) => write!(formatter, "{}-{last}", self.start),
        }
    }
}

/// Days in order as ranges of those that follow each other.
pub fn runs(days: impl IntoIterator<Item = Day>) -> Vec<DayRange> {
    let mut runs: Vec<DayRange> = Vec::new();
    for day in days {
        match runs.last_mut() {
            Some(run) if run.end == day => run.end = day.next(),
            _ => runs.push(DayRange { start: day, end: day.next() }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_existing_dates_are_days() {
        assert_eq!("20200229".parse::<Day>().unwrap().number(), 20200229);
        for text in ["20200230", "2020081", "202008100", "2020-8-1", "", "00000101", "２０２０"] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
        assert!(Day::from_number(u64::MAX).is_err());
    }

    #[test]
    fn an_inclusive_range_holds_both_its_ends() {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let range = DayRange::inclusive(day("20200830"), day("20200902"));
        let days: Vec<u32> = range.days().map(Day::number).collect();
        assert_eq!(days, [20200830, 20200831, 20200901, 20200902]);
        assert_eq!(range.last(), Some(day("20200902")));
        assert!(range.intersect(&DayRange::inclusive(day("20200903"), day("20200905"))).is_empty());
    }
}
