//! What a command's rows are written as: the formats of [`crate::rows`], or a table.

use std::io::{self, Write};

use super::page::TableWriter;
use crate::frame::{self, Encoding};
use crate::plan::Query;
use crate::rows::{self, each_row};

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The main columns, for a person
    Table,
    /// One array of objects
    Json,
    /// One object a line
    Ndjson,
    /// A header and a line for each row; missing is empty
    Csv,
    /// An Arrow IPC stream
    Arrow,
    /// A Parquet file
    Parquet,
}

impl Format {
    /// Endings of files, each with the format that it asks for.
    pub(crate) const ENDINGS: [(&str, Format); 7] = [
        ("json", Format::Json),
        ("ndjson", Format::Ndjson),
        ("jsonl", Format::Ndjson),
        ("csv", Format::Csv),
        ("arrow", Format::Arrow),
        ("arrows", Format::Arrow),
        ("parquet", Format::Parquet),
    ];

    /// The format that a file's ending asks for.
    pub(crate) fn of_ending(ending: &str) -> Option<Self> {
        let is_it = |(known, _): &&(&str, Format)| known.eq_ignore_ascii_case(ending);
        Self::ENDINGS.iter().find(is_it).map(|(_, format)| *format)
    }

    /// The encoding to ask for.
    pub(crate) fn encoding(self) -> Encoding {
        self.for_programs().map_or(Encoding::Json, rows::Format::encoding)
    }

    /// `None` for the table.
    fn for_programs(self) -> Option<rows::Format> {
        match self {
            Format::Table => None,
            Format::Json => Some(rows::Format::Json),
            Format::Ndjson => Some(rows::Format::Ndjson),
            Format::Csv => Some(rows::Format::Csv),
            Format::Arrow => Some(rows::Format::Arrow),
            Format::Parquet => Some(rows::Format::Parquet),
        }
    }
}

/// The columns that a query's rows have in JSON, in order.
pub(crate) fn columns(query: &Query) -> Vec<String> {
    frame::json_keys(query.aggregate.as_ref())
}

/// Writes frames, in the order in which they are given.
pub(crate) enum RowWriter<W: Write> {
    /// For programs.
    Rows(rows::RowWriter<W>),
    /// For a person.
    Table(TableWriter<W>),
}

impl<W: Write> RowWriter<W> {
    /// Starts with what precedes every row.
    ///
    /// `schema` is the schema message of an Arrow result; `width` the terminal's, if there is one.
    pub(crate) fn start(
        format: Format,
        out: W,
        columns: Vec<String>,
        schema: &[u8],
        width: Option<u16>,
    ) -> io::Result<Self> {
        match format.for_programs() {
            Some(format) => rows::RowWriter::start(format, out, columns, schema).map(RowWriter::Rows),
            None => Ok(RowWriter::Table(TableWriter::new(out, columns, width))),
        }
    }

    /// Writes the rows of one frame.
    pub(crate) fn frame(&mut self, payload: &[u8]) -> io::Result<()> {
        match self {
            RowWriter::Rows(rows) => rows.frame(payload),
            RowWriter::Table(table) => each_row(payload, |row| table.row(row)),
        }
    }

    /// Ends with what follows every row, and gives the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            RowWriter::Rows(rows) => rows.finish(),
            RowWriter::Table(table) => table.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};

    #[test]
    fn columns_are_those_of_the_rows() {
        let rows = columns(&Query::default());
        assert_eq!((rows.len(), &*rows[0], &*rows[13]), (14, "latitude", "date"));
        let spec = AggregateSpec { of: AggregateOf::Aqi, group_by: vec![GroupKey::Day, GroupKey::Site] };
        let query = Query { aggregate: Some(spec), ..Query::default() };
        assert_eq!(columns(&query), ["date", "site_name", "count", "min", "max", "mean"]);
    }
}
