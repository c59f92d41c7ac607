//! What the commands that print tables share: one look, numbers and days as people read them.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use indicatif::HumanCount;

use crate::day::{self, Day, DayRange};

/// An empty table whose columns of `numbers` are aligned to the right.
pub(crate) fn table<const COLUMNS: usize>(header: [&str; COLUMNS], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for index in numbers {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `1,167,525`.
pub(crate) fn thousands(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `20200810, 20200814-20200820`: days in order, those that follow each other as one range.
pub(crate) fn day_list(days: impl IntoIterator<Item = Day>) -> String {
    day::runs(days).iter().map(DayRange::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_follow_each_other_are_one_range() {
        let days = [20200810, 20200830, 20200831, 20200901, 20200903];
        let days = days.map(|day| Day::from_number(day).unwrap());
        assert_eq!(day_list(days), "20200810, 20200830-20200901, 20200903");
        assert_eq!(day_list([]), "");
    }
}
