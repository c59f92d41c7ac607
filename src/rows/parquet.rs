//! Frames of Arrow into a Parquet file, row group by row group.
//!
//! The footer comes last, and readers begin with it: a file that breaks off is not taken for a shorter one.
//!
//! Source: Apache Parquet format, version 2.

use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, TimestampSecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::frame;

/// A row group is kept until it is complete: 65,536 rows of observations take about 0.6 MB.
const ROWS_OF_GROUP: usize = 65_536;

/// Keys of groups are texts of any length.
const BYTES_OF_GROUP: usize = 8 << 20;

/// Writes frames of Arrow that have the same schema.
pub(super) struct ParquetWriter {
    /// The schema message of the frames.
    message: Bytes,
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetWriter {
    /// Starts a file for frames under a schema message.
    ///
    /// # Errors
    /// If it is not one that frames have.
    pub(super) fn new(message: &[u8]) -> io::Result<Self> {
        let schema = in_milliseconds(&frame::decode_schema(message).map_err(io::Error::other)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_max_row_group_row_count(Some(ROWS_OF_GROUP))
            .set_max_row_group_bytes(Some(BYTES_OF_GROUP))
            .set_created_by(concat!("overlay ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(io_error)?;
        Ok(ParquetWriter { message: Bytes::copy_from_slice(message), schema, writer })
    }

    /// Takes the rows of one frame, and gives the bytes of the row groups that are complete.
    ///
    /// Bounds: holds one row group in memory.
    ///
    /// # Errors
    /// If the payload is no Arrow frame under the schema.
    pub(super) fn frame(&mut self, payload: &[u8]) -> io::Result<Vec<u8>> {
        let batch = frame::decode_arrow(&self.message, payload).map_err(io::Error::other)?;
        let columns = batch.columns().iter().map(milliseconds).collect::<Result<_, _>>();
        let batch = columns.and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns));
        self.writer.write(&batch.map_err(io::Error::other)?).map_err(io_error)?;
        self.writer.sync()?;
        // The writer has counted them, and looks at none again.
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    /// Gives what is left, with the footer.
    ///
    /// # Errors
    /// As the library.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.writer.into_inner().map_err(io_error)
    }
}

/// Parquet has no seconds: other readers would see numbers.
fn in_milliseconds(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
            Arc::new(Field::clone(field).with_data_type(milliseconds))
        }
        _ => field.clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn milliseconds(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let DataType::Timestamp(TimeUnit::Second, zone) = column.data_type() else {
        return Ok(column.clone());
    };
    let beyond = || ArrowError::ArithmeticOverflow("a time beyond all calendars".to_owned());
    let seconds = column.as_primitive::<TimestampSecondType>();
    let milliseconds = seconds
        .try_unary::<_, TimestampMillisecondType, _>(|second| second.checked_mul(1000).ok_or_else(beyond))?;
    Ok(Arc::new(milliseconds.with_timezone_opt(zone.clone())))
}

fn io_error(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
