//! Calendar days as numbers `YYYYMMDD`, the way folders and queries write them, on chrono's calendar.

use chrono::{Datelike, NaiveDate};

/// The day that a number names; none if there is no such day of the years 1000 to 9999.
pub fn date(day: u32) -> Option<NaiveDate> {
    let (year, month, day_of_month) = ((day / 10_000) as i32, day / 100 % 100, day % 100);
    NaiveDate::from_ymd_opt(year, month, day_of_month).filter(|_| (1000..10_000).contains(&year))
}

/// The number of a day.
pub fn number(date: NaiveDate) -> u32 {
    date.year() as u32 * 10_000 + date.month() * 100 + date.day()
}

/// Every day from `first` to `last`, both inclusive.
///
/// # Panics
/// If one of them does not exist.
pub fn days(first: u32, last: u32) -> impl Iterator<Item = u32> {
    let [first, last] = [first, last].map(|day| date(day).unwrap_or_else(|| panic!("no day {day}")));
    first.iter_days().take_while(move |day| *day <= last).map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_go_over_the_ends_of_months_and_include_both_ends() {
        assert_eq!(days(20200830, 20200902).collect::<Vec<_>>(), [20200830, 20200831, 20200901, 20200902]);
        assert_eq!(days(20200902, 20200901).count(), 0);
    }

    #[test]
    fn day_that_does_not_exist_is_none() {
        assert_eq!(date(20200229).map(number), Some(20200229));
        for day in [20200230, 20210229, 20201301, 20200800, 0, 2020, 99991231 * 10] {
            assert_eq!(date(day), None, "{day}");
        }
    }
}
