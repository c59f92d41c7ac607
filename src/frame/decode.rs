//! Frames back into rows. The bytes come from the network: nothing here panics or allocates by what they claim.
//!
//! The Arrow reader trusts lengths and schemas more than that, so both are checked before it sees them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{MetadataVersion, Precision, TimeUnit, Type, root_as_message};
use arrow_schema::{DataType, SchemaRef};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::FrameError;

/// The record batch of an Arrow payload under its schema message.
///
/// # Errors
/// [`FrameError`] if either is not what this module's encoders write: other types, other messages, bytes
/// left over.
pub fn decode_arrow(schema: &[u8], payload: &[u8]) -> Result<RecordBatch, FrameError> {
    let schema = decode_schema(schema)?;
    let mut dictionaries = HashMap::new();
    let mut rest = payload;
    loop {
        let Extent { metadata, body, .. } = first_message(rest)?;
        let end = body.end;
        let body = Buffer::from(&rest[body]);
        let message = root_as_message(&metadata).map_err(|_| not_arrow("damaged metadata"))?;
        let version = message.version();
        if let Some(dictionary) = message.header_as_dictionary_batch() {
            let data = dictionary.data().ok_or(not_arrow("dictionary without data"))?;
            check_batch(&data, &[&DataType::Utf8], body.len())?;
            if dictionary.isDelta() {
                return Err(not_arrow("a delta dictionary"));
            }
            read_dictionary(&body, dictionary, &schema, &mut dictionaries, &version)?;
        } else if let Some(batch) = message.header_as_record_batch() {
            let columns: Vec<_> = schema.fields().iter().map(|field| field.data_type()).collect();
            check_batch(&batch, &columns, body.len())?;
            if end != rest.len() {
                return Err(not_arrow("bytes behind the record batch"));
            }
            let decoder = RecordBatchDecoder::try_new(&body, batch, schema, &dictionaries, &version)?;
            return Ok(decoder.read_record_batch()?);
        } else {
            return Err(not_arrow("a message that is neither dictionary nor record batch"));
        }
        rest = &rest[end..];
    }
}

fn not_arrow(why: &'static str) -> FrameError {
    FrameError::NotArrow(why)
}

/// A message of Arrow IPC: its parts without the marker and the length that precede them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The metadata, a flatbuffer.
    pub header: Bytes,
    /// The buffers; empty for a schema.
    pub body: Bytes,
}

/// The messages that a schema message or an Arrow payload consists of, as parts of its bytes.
///
/// # Errors
/// [`FrameError`] if it is cut short, or a message's metadata are damaged. What bodies hold is not looked at.
pub fn arrow_messages(payload: &Bytes) -> Result<Vec<Message>, FrameError> {
    let mut messages = Vec::new();
    let mut rest = payload.clone();
    while !rest.is_empty() {
        let Extent { header, body, .. } = first_message(&rest)?;
        let next = rest.split_off(body.end);
        messages.push(Message { header: rest.slice(header), body: rest.slice(body) });
        rest = next;
    }
    Ok(messages)
}

/// Where the parts of a message lie.
struct Extent {
    /// A copy of the header: it is read in place, which needs its alignment.
    metadata: Buffer,
    header: Range<usize>,
    body: Range<usize>,
}

fn first_message(bytes: &[u8]) -> Result<Extent, FrameError> {
    let cut = || not_arrow("cut short");
    let prefix = bytes.get(..8).ok_or(cut())?;
    if prefix[..4] != [0xff; 4] {
        return Err(not_arrow("no continuation marker"));
    }
    let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
    let body_start = length.checked_add(8).filter(|end| *end <= bytes.len());
    let body_start = body_start.ok_or(cut())?;
    let metadata = Buffer::from(&bytes[8..body_start]);
    let message = root_as_message(&metadata).map_err(|_| not_arrow("damaged metadata"))?;
    if message.version() != MetadataVersion::V5 {
        return Err(not_arrow("a metadata version other than 5"));
    }
    let body_length = usize::try_from(message.bodyLength()).map_err(|_| cut())?;
    let end = body_start.checked_add(body_length);
    let end = end.filter(|end| *end <= bytes.len()).ok_or(cut())?;
    Ok(Extent { metadata, header: 8..body_start, body: body_start..end })
}

/// Checks what the reader takes for granted: a node and its buffers for each column, buffers inside the body,
/// lengths that the body can hold.
fn check_batch(
    batch: &arrow_ipc::RecordBatch<'_>,
    columns: &[&DataType],
    body_length: usize,
) -> Result<(), FrameError> {
    if batch.compression().is_some() {
        return Err(not_arrow("compressed buffers"));
    }
    let nodes = batch.nodes().ok_or(not_arrow("a batch without columns"))?;
    let buffers = batch.buffers().ok_or(not_arrow("a batch without buffers"))?;
    if nodes.len() != columns.len() {
        return Err(not_arrow("columns other than the schema's"));
    }
    let inside = |number: i64| usize::try_from(number).is_ok_and(|number| number <= body_length);
    let fits = |buffer: &arrow_ipc::Buffer, width: i64, count: i64| {
        let (offset, length) = (buffer.offset(), buffer.length());
        inside(offset)
            && inside(length)
            && inside(offset.saturating_add(length))
            && offset % 8 == 0
            && length % width == 0
            && count.saturating_mul(width) <= length
    };
    let mut buffers = buffers.iter();
    for (node, column) in nodes.iter().zip(columns) {
        let (rows, missing) = (node.length(), node.null_count());
        // Every column takes at least a byte for each row.
        if !inside(rows) || rows != batch.length() || !(0..=rows).contains(&missing) {
            return Err(not_arrow("more rows than bytes"));
        }
        // A validity buffer counts only where something is missing.
        let validity_bytes = if missing > 0 { (rows + 7) / 8 } else { 0 };
        let lengths: &[(i64, i64)] = match column {
            DataType::Utf8 => &[(1, validity_bytes), (4, rows + 1), (1, 0)],
            DataType::Dictionary(..) => &[(1, validity_bytes), (4, rows)],
            other => {
                let width = other.primitive_width().unwrap_or(1);
                &[(1, validity_bytes), (width as i64, rows)]
            }
        };
        for (width, count) in lengths {
            if !buffers.next().is_some_and(|buffer| fits(buffer, *width, *count)) {
                return Err(not_arrow("a buffer that does not fit"));
            }
        }
    }
    match buffers.next() {
        None => Ok(()),
        Some(_) => Err(not_arrow("more buffers than columns need")),
    }
}

/// The schema, if it has only types that frames have; the Arrow reader panics at some others.
/// The columns that a schema message names.
///
/// # Errors
/// [`FrameError`] if it is no schema message, or names columns that frames do not have.
pub fn decode_schema(bytes: &[u8]) -> Result<SchemaRef, FrameError> {
    let Extent { metadata, body, .. } = first_message(bytes)?;
    if body.end != bytes.len() {
        return Err(not_arrow("bytes behind the schema"));
    }
    let message = root_as_message(&metadata).map_err(|_| not_arrow("damaged metadata"))?;
    let schema = message.header_as_schema().ok_or(not_arrow("no schema"))?;
    let fields = schema.fields().ok_or(not_arrow("a schema without fields"))?;
    if fields.is_empty() || !fields.iter().all(|field| is_known(&field)) {
        return Err(not_arrow("a column type that frames do not have"));
    }
    Ok(Arc::new(fb_to_schema(schema)))
}

fn is_known(field: &arrow_ipc::Field<'_>) -> bool {
    let is_text = field.type_type() == Type::Utf8;
    if let Some(dictionary) = field.dictionary() {
        let by_i32 = |int: arrow_ipc::Int<'_>| int.bitWidth() == 32 && int.is_signed();
        return is_text && dictionary.indexType().is_some_and(by_i32);
    }
    let integer = |int: arrow_ipc::Int<'_>| matches!(int.bitWidth(), 8 | 16 | 32 | 64);
    is_text
        || field.type_as_int().is_some_and(integer)
        || field.type_as_floating_point().is_some_and(|float| float.precision() == Precision::DOUBLE)
        || field.type_as_timestamp().is_some_and(|timestamp| timestamp.unit() == TimeUnit::SECOND)
}

/// The number of rows in a JSON payload whose rows have the members `keys`, as [`super::json_keys`] gives them.
///
/// # Errors
/// [`FrameError`] if the payload is not the inside of an array of objects with exactly these members, in this order.
pub fn json_row_count(payload: &[u8], keys: &[String]) -> Result<usize, FrameError> {
    // The JSON reader does not look into texts that it skips.
    let payload = std::str::from_utf8(payload)?;
    let array = ["[", payload, "]"].concat();
    let mut reader = serde_json::Deserializer::from_str(&array);
    let count = Rows(keys).deserialize(&mut reader)?;
    reader.end()?;
    Ok(count)
}

/// Counts the rows of an array, keeping none.
struct Rows<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = usize;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while rows.next_element_seed(Row(self.0))?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// An object with these members, whatever their values are.
struct Row<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        for key in self.0 {
            if members.next_key_seed(Key(key))?.is_none() {
                return Err(A::Error::custom(format_args!("a row without `{key}`")));
            }
            members.next_value::<Readable>()?;
        }
        match members.next_key::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("a row with more members than rows have")),
        }
    }
}

/// This name and no other.
struct Key<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the member `{}`", self.0)
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        match name == self.0 {
            true => Ok(()),
            false => Err(E::invalid_value(Unexpected::Str(name), &self)),
        }
    }
}

/// A value that every reader reads alike: its numbers are within those of a double.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Readable)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Readable;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Readable, A::Error> {
        while values.next_element::<Readable>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Readable, A::Error> {
        while members.next_entry::<IgnoredAny, Readable>()?.is_some() {}
        Ok(self)
    }
}
