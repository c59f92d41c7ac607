//! Reports to look at: one HTML file that needs nothing else, in dark and in light, with the numbers beside the plots.
//!
//! A [`Page`] is built from paragraphs, tables and charts in the order in which they are read. It knows nothing of
//! load or policies; who writes a report gives it names and numbers. Charts are inline SVG, drawn in `chart`: no
//! script, no font, no request. The same page gives the same bytes. [`Text`] shows a table without a page.

mod chart;
mod failure;
mod origin;

use std::fmt::{self, Display, Formatter};

use comfy_table::{CellAlignment, presets::ASCII_MARKDOWN};

pub use self::chart::{Axis, BarChart, LineChart, Scale, Series};
pub use self::failure::{Failure, Reported};
pub use self::origin::{Machine, Origin};

/// A report. Its `Display` is the HTML file.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

/// Numbers in rows. All columns but the first are aligned to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Above the columns.
    pub head: Vec<String>,
    /// Each as long as `head`.
    pub rows: Vec<Vec<String>>,
}

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        Page { title: title.to_owned(), body: String::new() }
    }

    /// Starts a section.
    pub fn heading(&mut self, text: &str) {
        self.push(format_args!("<h2>{}</h2>", escaped(text)));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>", escaped(text)));
    }

    /// Adds a table; one without rows is left out.
    pub fn table(&mut self, table: &Table) {
        if !table.rows.is_empty() {
            self.push(format_args!("<div class=\"wide\">{table}</div>"));
        }
    }

    /// Adds a chart of lines.
    pub fn lines(&mut self, chart: &LineChart) {
        self.push(format_args!("<figure>{chart}</figure>"));
    }

    /// Adds a chart of bars.
    pub fn bars(&mut self, chart: &BarChart) {
        self.push(format_args!("<figure>{chart}</figure>"));
    }

    fn push(&mut self, element: fmt::Arguments<'_>) {
        self.body.push_str(&element.to_string());
        self.body.push('\n');
    }
}

impl Display for Page {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let title = escaped(&self.title);
        write!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}</body>\n</html>\n",
            include_str!("report/page.css"),
            self.body
        )
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cells = |cells: &[String], tag: &str| -> String {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
        };
        writeln!(f, "<table>\n<thead><tr>{}</tr></thead>\n<tbody>", cells(&self.head, "th"))?;
        for row in &self.rows {
            writeln!(f, "<tr>{}</tr>", cells(row, "td"))?;
        }
        f.write_str("</tbody>\n</table>")
    }
}

/// A table as terminals show it.
pub struct Text<'a>(pub &'a Table);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(&self.0.head);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.add_rows(&self.0.rows);
        writeln!(f, "{table}")
    }
}

/// Text as HTML and SVG take it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let mut page = Page::new("Run <1>");
        page.paragraph("a & b");
        page.table(&Table { head: vec!["name".to_owned()], rows: vec![vec!["\"x\"".to_owned()]] });
        page.table(&Table::default());
        page.lines(&LineChart {
            title: "Latency".to_owned(),
            x: Axis::new("seconds"),
            y: Axis::log("ms"),
            series: vec![Series::new("p50", vec![(0.0, 1.0), (1.0, 100.0)])],
        });
        page.bars(&BarChart {
            title: "Share".to_owned(),
            unit: "%".to_owned(),
            bars: vec![("green".to_owned(), 40.0), ("pink".to_owned(), 60.0)],
        });
        page.to_string()
    }

    #[test]
    fn page_escapes_what_it_is_given() {
        let page = page();
        for escaped in ["<title>Run &lt;1&gt;</title>", "<p>a &amp; b</p>", "<td>&quot;x&quot;</td>"] {
            assert!(page.contains(escaped), "no {escaped} in {page}");
        }
    }

    /// Goal: the file can be read on a machine without a network, and by a browser that runs no script.
    #[test]
    fn page_asks_for_nothing() {
        let page = page();
        for word in ["http:", "https:", "src=", "href=", "<script", "@import", "url("] {
            assert!(!page.contains(word), "{word} in {page}");
        }
    }

    #[test]
    fn empty_table_is_left_out() {
        assert_eq!(page().matches("<table>").count(), 1);
    }

    /// Goal: whoever cannot see the plot hears what it is, and tells lines apart by more than colour.
    #[test]
    fn charts_have_titles_and_legends() {
        let page = page();
        assert!(page.contains("<svg viewBox=\"0 0 800 320\" role=\"img\" aria-label=\"Latency\">"), "{page}");
        assert!(page.contains("p50</text>"), "{page}");
    }
}
