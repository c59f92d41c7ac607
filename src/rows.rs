//! Frames into json, ndjson, csv, an Arrow stream or Parquet: what the command line writes and HTTP answers.
//!
//! Rows are cut out of JSON frames as they are, and only csv looks inside: a number is printed with the digits that came.

mod parquet;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use self::parquet::ParquetWriter;
use crate::frame::{self, Encoding};

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object a line.
    Ndjson,
    /// A header and a line for each row; missing is empty.
    Csv,
    /// One array of objects.
    Json,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 5] = [Format::Ndjson, Format::Csv, Format::Json, Format::Arrow, Format::Parquet];

    /// What a user writes.
    pub fn name(self) -> &'static str {
        match self {
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Arrow => "arrow",
            Format::Parquet => "parquet",
        }
    }

    /// The encoding to ask for.
    pub fn encoding(self) -> Encoding {
        match self {
            Format::Arrow | Format::Parquet => Encoding::Arrow,
            _ => Encoding::Json,
        }
    }
}

/// Writes frames, in the order in which they are given.
pub struct RowWriter<W: Write> {
    out: W,
    writing: Writing,
}

/// What a format keeps from frame to frame.
enum Writing {
    Ndjson,
    Csv {
        columns: Vec<String>,
    },
    Json {
        /// Whether no row was written yet.
        empty: bool,
    },
    Arrow,
    Parquet(Box<ParquetWriter>),
}

impl<W: Write> RowWriter<W> {
    /// Starts with what precedes every row.
    ///
    /// `columns` are the members of each row; `schema` is the schema message of an Arrow result.
    ///
    /// # Errors
    /// As writing, and for Parquet if the schema is not one that frames have.
    pub fn start(format: Format, mut out: W, columns: Vec<String>, schema: &[u8]) -> io::Result<Self> {
        let writing = match format {
            Format::Json => {
                out.write_all(b"[")?;
                Writing::Json { empty: true }
            }
            Format::Ndjson => Writing::Ndjson,
            Format::Csv => {
                records(&mut out, |csv| csv.write_record(&columns).map_err(io_error))?;
                Writing::Csv { columns }
            }
            Format::Arrow => {
                out.write_all(schema)?;
                Writing::Arrow
            }
            Format::Parquet => Writing::Parquet(Box::new(ParquetWriter::new(schema)?)),
        };
        Ok(RowWriter { out, writing })
    }

    /// Writes the rows of one frame; of Parquet, those that fill a row group.
    ///
    /// # Errors
    /// As writing, and if the payload is not what the format's encoding has.
    pub fn frame(&mut self, payload: &[u8]) -> io::Result<()> {
        let RowWriter { out, writing } = self;
        match writing {
            Writing::Json { empty } => {
                // A frame is the inside of an array as it is.
                if !payload.is_empty() {
                    out.write_all(if *empty { b"\n" } else { b",\n" })?;
                    out.write_all(payload)?;
                    *empty = false;
                }
                Ok(())
            }
            Writing::Ndjson => each_row(payload, |row| {
                out.write_all(row.get().as_bytes())?;
                out.write_all(b"\n")
            }),
            Writing::Csv { columns } => records(out, |csv| {
                each_row(payload, |row| {
                    for text in texts(row, columns)? {
                        csv.write_field(&*text).map_err(io_error)?;
                    }
                    csv.write_record(None::<&[u8]>).map_err(io_error)
                })
            }),
            Writing::Arrow => out.write_all(payload),
            Writing::Parquet(parquet) => out.write_all(&parquet.frame(payload)?),
        }
    }

    /// Where the bytes went so far.
    pub fn out_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Ends with what follows every row, and gives the writer back.
    ///
    /// # Errors
    /// As writing.
    pub fn finish(mut self) -> io::Result<W> {
        match self.writing {
            Writing::Json { empty } => self.out.write_all(if empty { b"]\n" } else { b"\n]\n" })?,
            Writing::Ndjson | Writing::Csv { .. } => {}
            Writing::Arrow => self.out.write_all(&frame::END_OF_STREAM)?,
            Writing::Parquet(parquet) => self.out.write_all(&parquet.finish()?)?,
        }
        Ok(self.out)
    }
}

/// Lets `write` write records, all of which are in `out` afterwards.
fn records<W: Write>(
    out: &mut W,
    write: impl FnOnce(&mut csv::Writer<&mut W>) -> io::Result<()>,
) -> io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    write(&mut csv)?;
    csv.flush()
}

/// The error of the writer below. The crate's own conversion hides its kind, which tells a reader that has left.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        kind => io::Error::other(format!("{kind:?}")),
    }
}

/// Calls `write` with each object of a JSON frame, as its text.
pub(crate) fn each_row(payload: &[u8], mut write: impl FnMut(&RawValue) -> io::Result<()>) -> io::Result<()> {
    let payload = std::str::from_utf8(payload).map_err(io::Error::other)?;
    let array = ["[", payload, "]"].concat();
    let rows: Vec<&RawValue> = serde_json::from_str(&array)?;
    rows.into_iter().try_for_each(&mut write)
}

/// What a row has in `columns`: texts without quotes, numbers as they came, nothing where it is null.
pub(crate) fn texts<'a>(row: &'a RawValue, columns: &[String]) -> io::Result<Vec<Cow<'a, str>>> {
    let Fields(fields) = serde_json::from_str(row.get())?;
    let text = |(index, column): (usize, &String)| {
        // Rows have the columns in their order; one that does not is still read right.
        let at = fields.get(index).filter(|(name, _)| name == column);
        let field = at.or_else(|| fields.iter().find(|(name, _)| name == column));
        field.map_or(Ok(Cow::Borrowed("")), |(_, value)| text_of(value))
    };
    columns.iter().enumerate().map(text).collect()
}

fn text_of(value: &RawValue) -> io::Result<Cow<'_, str>> {
    let raw = value.get();
    match raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
        Some(_) => Ok(Cow::Owned(serde_json::from_str(raw)?)),
        None if raw == "null" => Ok(Cow::Borrowed("")),
        None => Ok(Cow::Borrowed(raw)),
    }
}

/// An object's fields in order, their values unread.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(Vec::with_capacity(16)))
    }
}

impl<'de> Visitor<'de> for Fields<'de> {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((name, value)) = map.next_entry::<&str, &RawValue>()? {
            self.0.push((Cow::Borrowed(name), value));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use bytes::Bytes;

    use super::*;
    use crate::store::samples::{self, Sample};

    fn written(format: Format, columns: &[&str], frames: &[&[u8]], schema: &[u8]) -> Vec<u8> {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        let mut writer = RowWriter::start(format, Vec::new(), columns, schema).unwrap();
        for frame in frames {
            writer.frame(frame).unwrap();
        }
        writer.finish().unwrap()
    }

    fn text(format: Format, columns: &[&str], frames: &[&str]) -> String {
        let frames: Vec<&[u8]> = frames.iter().map(|frame| frame.as_bytes()).collect();
        String::from_utf8(written(format, columns, &frames, &[])).unwrap()
    }

    const FRAMES: [&str; 2] = [
        r#"{"site_name":"Big \"B\", west","value":17.30},{"site_name":"A","value":null}"#,
        r#"{"site_name":"C\nD","value":-2.0}"#,
    ];

    #[test]
    fn json_is_one_array() {
        let all = text(Format::Json, &[], &FRAMES);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&all).unwrap();
        assert_eq!(rows.len(), 3);
        assert!(all.contains("17.30"), "numbers keep their digits: {all}");
        assert_eq!(text(Format::Json, &[], &[""]), "[]\n");
    }

    #[test]
    fn ndjson_is_one_row_a_line() {
        let lines = "{\"site_name\":\"Big \\\"B\\\", west\",\"value\":17.30}\n{\"site_name\":\"A\",\"value\":null}\n{\"site_name\":\"C\\nD\",\"value\":-2.0}\n";
        assert_eq!(text(Format::Ndjson, &[], &FRAMES), lines);
        assert_eq!(text(Format::Ndjson, &[], &[""]), "");
    }

    #[test]
    fn csv_is_quoted_where_it_must_be_and_missing_is_empty() {
        let csv = text(Format::Csv, &["site_name", "value"], &FRAMES);
        assert_eq!(csv, "site_name,value\n\"Big \"\"B\"\", west\",17.30\nA,\n\"C\nD\",-2.0\n");
        assert_eq!(text(Format::Csv, &["site_name", "value"], &[""]), "site_name,value\n");
        let reordered = [r#"{"value":1.0,"site_name":"A"}"#];
        assert_eq!(text(Format::Csv, &["site_name", "value"], &reordered), "site_name,value\nA,1.0\n");
    }

    #[test]
    fn arrow_is_a_stream_that_other_readers_take() {
        let store = samples::store(&[
            Sample { value: Some("1.5"), site: 1, ..Sample::default() },
            Sample { value: None, site: 2, ..Sample::default() },
        ]);
        let batch = store.days().next().unwrap();
        let frames = [[1], [0]].map(|rows| frame::encode_rows(&store, batch, &rows, Encoding::Arrow));
        let stream = written(Format::Arrow, &[], &[&frames[0], &frames[1]], &frame::schema_message());
        let reader = arrow_ipc::reader::StreamReader::try_new(&stream[..], None).unwrap();
        let rows: Vec<usize> = reader.map(|batch| batch.unwrap().num_rows()).collect();
        assert_eq!(rows, [1, 1]);
    }

    /// Goal: rows are those of the frames, in groups of so many rows, each of which leaves the writer when it is full.
    #[test]
    fn parquet_is_a_file_of_row_groups_that_are_written_when_they_are_full() {
        let store = samples::store(&[
            Sample { value: Some("1.5"), site: 1, ..Sample::default() },
            Sample { value: None, site: 2, ..Sample::default() },
        ]);
        let batch = store.days().next().unwrap();
        let frame = frame::encode_rows(&store, batch, &[1, 0].repeat(25_000), Encoding::Arrow);
        let schema = frame::schema_message();
        let mut writer = RowWriter::start(Format::Parquet, Vec::new(), Vec::new(), &schema).unwrap();
        writer.frame(&frame).unwrap();
        let begun = writer.out_mut().len();
        writer.frame(&frame).unwrap();
        assert!(begun == 4 && writer.out_mut().len() > 1000, "{begun} {}", writer.out_mut().len());
        let file = Bytes::from(writer.finish().unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
        let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups, [65_536, 34_464]);
        let rows: usize = reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(rows, 100_000);
        for cut in [4, 1000, file.len() - 1] {
            assert!(ParquetRecordBatchReaderBuilder::try_new(file.slice(..cut)).is_err(), "{cut} bytes");
        }
    }

    /// Refuses everything, as a pipe does whose reader has left.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_left_is_told_in_every_format() {
        // More than any writer buffers.
        let objects = vec![FRAMES[1]; 2000].join(",");
        let store = samples::store(&[Sample::default()]);
        let batch = frame::encode_rows(&store, store.days().next().unwrap(), &[0], Encoding::Arrow);
        for format in Format::ALL {
            let columns = vec!["value".to_owned()];
            let frame = if format.encoding() == Encoding::Arrow { &batch } else { objects.as_bytes() };
            let written = RowWriter::start(format, Closed, columns, &frame::schema_message())
                .and_then(|mut writer| writer.frame(frame).map(|()| writer))
                .and_then(|writer| writer.finish().map(drop));
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{format:?}");
        }
    }
}
