//! Tables on a terminal: the columns that fit, one line a row, written page by page.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};
use serde_json::value::RawValue;

use crate::rows::texts;

/// Rows of a page. The first one decides how wide columns are, so that `--all` need not be kept whole.
const PAGE_ROWS: usize = 2000;

/// What a table of rows shows; the rest is for the other formats.
const MAIN_COLUMNS: [&str; 7] =
    ["timestamp", "parameter", "value", "unit", "aqi", "site_name", "agency_name"];

/// What is left out on a narrow terminal, in this order.
const LEFT_OUT: [&str; 7] = ["agency_name", "aqi", "unit", "via", "holders", "at most", "site_name"];

/// What may be cut short, in this order.
const TEXT_COLUMNS: [&str; 4] = ["agency_name", "site_name", "holders", "why"];

/// The least that a text column is cut to before another one is left out.
const LEAST_TEXT_WIDTH: usize = 12;

/// Blanks behind the content of a column.
const PADDING: usize = 2;

/// The columns of the terminal that standard output is, if it is one.
pub(crate) fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// A page of a table.
#[derive(Debug)]
pub(crate) struct Page {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Page {
    /// A page without rows.
    pub(crate) fn new(header: &[&str]) -> Self {
        Page { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row with a text for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell).into_owned()).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].chars().count()]).max().unwrap_or(0)
        };
        (0..self.header.len()).map(width).collect()
    }

    /// The lines of the page, no longer than `width` where there is one.
    pub(crate) fn lines(&self, width: Option<u16>) -> Vec<String> {
        let widths = fit(&self.header, &self.widths(), width);
        self.lines_with(&widths, true)
    }

    fn lines_with(&self, widths: &[usize], header: bool) -> Vec<String> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_truncation_indicator("…").force_no_tty();
        let shown = |cells: &[String]| {
            let cells = cells.iter().zip(widths).filter(|(_, width)| **width > 0);
            let mut row = Row::from(cells.map(|(cell, _)| Cell::new(cell)).collect::<Vec<_>>());
            row.max_height(1);
            row
        };
        if header {
            table.set_header(shown(&self.header));
        }
        table.add_rows(self.rows.iter().map(|row| shown(row)));
        let numbers = self.numbers();
        let kept = (0..widths.len()).filter(|index| widths[*index] > 0);
        for (column, index) in table.column_iter_mut().zip(kept) {
            let width = Width::Fixed((widths[index] + PADDING) as u16);
            column.set_constraint(ColumnConstraint::Absolute(width)).set_padding((0, PADDING as u16));
            if numbers[index] {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Which columns hold numbers only; days look like some.
    fn numbers(&self) -> Vec<bool> {
        let is_number = |cell: &String| cell.is_empty() || cell.replace(',', "").parse::<f64>().is_ok();
        let is_day = |column: usize| ["day", "date"].contains(&self.header[column].as_str());
        let all = |column| self.rows.iter().all(|row| is_number(&row[column]));
        (0..self.header.len()).map(|column| !is_day(column) && all(column)).collect()
    }
}

/// How wide each column is shown; 0: not at all. Columns are left out where even short names leave no room
/// for them; then names are cut.
fn fit(header: &[String], widths: &[usize], terminal: Option<u16>) -> Vec<usize> {
    // The last column's padding is not printed.
    let Some(terminal) = terminal.map(|width| usize::from(width) + PADDING) else {
        return widths.to_vec();
    };
    let place_of = |name: &&str| header.iter().position(|column| column == name);
    let texts: Vec<usize> = TEXT_COLUMNS.iter().filter_map(place_of).collect();
    let total = |shown: &[usize]| -> usize {
        shown.iter().filter(|width| **width > 0).map(|width| width + PADDING).sum()
    };
    let mut shown = widths.to_vec();
    let least = |shown: &[usize]| {
        let mut least = shown.to_vec();
        texts.iter().for_each(|text| least[*text] = least[*text].min(LEAST_TEXT_WIDTH));
        total(&least)
    };
    for dropped in LEFT_OUT.iter().filter_map(place_of) {
        if least(&shown) > terminal {
            shown[dropped] = 0;
        }
    }
    for text in texts {
        let over = total(&shown).saturating_sub(terminal);
        shown[text] = shown[text].saturating_sub(over).max(LEAST_TEXT_WIDTH.min(shown[text]));
    }
    shown
}

/// Without what would move a terminal's cursor or change its colours.
fn printable(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => Cow::Owned(text.replace(char::is_control, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

/// Writes rows as a table.
pub(crate) struct TableWriter<W: Write> {
    out: W,
    page: Page,
    /// Of the first page, and so of all.
    widths: Option<Vec<usize>>,
    terminal: Option<u16>,
}

impl<W: Write> TableWriter<W> {
    /// A table of those of `columns` that are worth showing.
    pub(super) fn new(out: W, columns: Vec<String>, terminal: Option<u16>) -> Self {
        let main = |name: &&String| MAIN_COLUMNS.contains(&name.as_str());
        let header: Vec<String> = match columns.iter().any(|name| name == "timestamp") {
            true => columns.iter().filter(main).cloned().collect(),
            false => columns,
        };
        TableWriter { out, page: Page { header, rows: Vec::new() }, widths: None, terminal }
    }

    pub(super) fn row(&mut self, row: &RawValue) -> io::Result<()> {
        let cells = texts(row, &self.page.header)?.into_iter().map(Cow::into_owned).collect();
        self.page.row(cells);
        if self.page.rows.len() == PAGE_ROWS { self.write_page() } else { Ok(()) }
    }

    fn write_page(&mut self) -> io::Result<()> {
        let first = self.widths.is_none();
        let widths =
            self.widths.get_or_insert_with(|| fit(&self.page.header, &self.page.widths(), self.terminal));
        for line in self.page.lines_with(widths, first) {
            writeln!(self.out, "{line}")?;
        }
        self.page.rows.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.widths.is_none() || !self.page.rows.is_empty() {
            self.write_page()?;
        }
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(width: Option<u16>) -> String {
        let columns = ["latitude", "timestamp", "parameter", "value", "site_name", "agency_name"];
        let mut table = TableWriter::new(Vec::new(), columns.map(str::to_owned).to_vec(), width);
        for row in [
            r#"{"latitude":1.5,"timestamp":"2020-08-10T01:00Z","parameter":"PM2.5","value":17.3,"site_name":"Yosemite Village Vault","agency_name":"Park Service"}"#,
            r#"{"latitude":1.5,"timestamp":"2020-08-10T01:00Z","parameter":"OZONE","value":null,"site_name":"A\u001b[2J","agency_name":"CARB"}"#,
        ] {
            table.row(serde_json::from_str(row).unwrap()).unwrap();
        }
        String::from_utf8(table.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_table_has_the_main_columns() {
        assert_eq!(
            written(None),
            "\
timestamp          parameter  value  site_name               agency_name
2020-08-10T01:00Z  PM2.5       17.3  Yosemite Village Vault  Park Service
2020-08-10T01:00Z  OZONE             A\u{fffd}[2J                   CARB
"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_shorter_names_and_fewer_columns() {
        assert_eq!(
            written(Some(50)),
            "\
timestamp          parameter  value  site_name
2020-08-10T01:00Z  PM2.5       17.3  Yosemite…
2020-08-10T01:00Z  OZONE             A\u{fffd}[2J
"
        );
        for line in written(Some(72)).lines() {
            assert!(line.chars().count() <= 72, "{line}");
        }
    }

    #[test]
    fn later_pages_keep_the_widths_of_the_first() {
        let mut table = TableWriter::new(Vec::new(), vec!["count".to_owned()], None);
        let row: &RawValue = serde_json::from_str(r#"{"count":7}"#).unwrap();
        for _ in 0..=PAGE_ROWS {
            table.row(row).unwrap();
        }
        let text = String::from_utf8(table.finish().unwrap()).unwrap();
        assert_eq!((text.lines().count(), text.matches("count").count()), (PAGE_ROWS + 2, 1));
        assert!(text.lines().skip(1).all(|line| line == "    7"));
    }
}
