//! Calendar days as numbers `YYYYMMDD`, the way folders and queries write them.
//!
//! The harness's own: an oracle that took the node's calendar would share its mistakes.

/// Days in a month of the Gregorian calendar; 0 for a month that does not exist.
pub fn days_in_month(year: u32, month: u32) -> u32 {
    let leap_year = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap_year => 29,
        2 => 28,
        _ => 0,
    }
}

/// Whether a number names a day of the years 1900 to 2999.
pub fn is_day(day: u32) -> bool {
    let (year, month, day_of_month) = parts(day);
    (1900..3000).contains(&year) && (1..=days_in_month(year, month)).contains(&day_of_month)
}

/// The day after; `day` must exist.
pub fn next_day(day: u32) -> u32 {
    let (year, month, day_of_month) = parts(day);
    if day_of_month < days_in_month(year, month) {
        day + 1
    } else if month < 12 {
        year * 10_000 + (month + 1) * 100 + 1
    } else {
        (year + 1) * 10_000 + 101
    }
}

/// Every day from `first` to `last`, both inclusive; both must exist.
pub fn days(first: u32, last: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(first), |&day| Some(next_day(day))).take_while(move |&day| day <= last)
}

/// Days since the first of March of year 0, which numbers days without gaps.
pub fn ordinal(day: u32) -> u32 {
    let (year, month, day_of_month) = parts(day);
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // 153 days in each five months that begin with March or August.
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day_of_month - 1
}

/// Year, month and day of the month.
pub fn parts(day: u32) -> (u32, u32, u32) {
    (day / 10_000, day / 100 % 100, day % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_cross_months_and_leap_days() {
        let february: Vec<u32> = days(20200227, 20200302).collect();
        assert_eq!(february, [20200227, 20200228, 20200229, 20200301, 20200302]);
        assert_eq!(next_day(20211231), 20220101);
        assert_eq!(next_day(21000228), 21000301);
        assert_eq!(days(20200810, 20200924).count(), 46);
    }

    #[test]
    fn ordinal_counts_days_without_gaps() {
        for (index, day) in days(19000101, 21001231).enumerate() {
            assert_eq!(ordinal(day) as usize, ordinal(19000101) as usize + index, "{day}");
        }
    }

    #[test]
    fn day_that_does_not_exist_is_none() {
        assert!(is_day(20200229));
        for day in [20200230, 20210229, 20201301, 20200800, 0, 2020] {
            assert!(!is_day(day), "{day}");
        }
    }
}
