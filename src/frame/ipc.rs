//! Messages of Arrow IPC, written straight into a payload: each column fills its part of a message's body.
//!
//! The Arrow library wants every column as an array first, and copies it twice. The bytes are the same.
//!
//! Source: Arrow columnar format, encapsulated message format.

use arrow_ipc::{
    Buffer, DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatchBuilder,
};
use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

/// What buffers and messages are padded to, the least that the format allows: frames are small.
pub(super) const ALIGNMENT: usize = 8;

/// One column of a batch, which is not written yet.
pub(super) struct Column<'a> {
    rows: usize,
    null_count: usize,
    buffers: Vec<Filling<'a>>,
}

/// Writes a buffer over zeros.
type Fill<'a> = Box<dyn FnOnce(&mut [u8]) + 'a>;

/// A buffer: its bytes, and what writes them.
struct Filling<'a> {
    bytes: usize,
    fill: Fill<'a>,
}

impl<'a> Filling<'a> {
    fn new(bytes: usize, fill: impl FnOnce(&mut [u8]) + 'a) -> Self {
        Filling { bytes, fill: Box::new(fill) }
    }

    fn of_numbers<const N: usize>(rows: usize, numbers: impl Iterator<Item = [u8; N]> + 'a) -> Self {
        Filling::new(rows * N, move |out| {
            out.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(place, number)| *place = number);
        })
    }
}

impl<'a> Column<'a> {
    /// `rows` little-endian numbers.
    pub(super) fn numbers<const N: usize>(rows: usize, numbers: impl Iterator<Item = [u8; N]> + 'a) -> Self {
        let no_bitmap = Filling::new(0, |_| ());
        Column { rows, null_count: 0, buffers: vec![no_bitmap, Filling::of_numbers(rows, numbers)] }
    }

    /// `rows` little-endian numbers, some of them null.
    pub(super) fn nullable<const N: usize>(
        rows: usize,
        numbers: impl Iterator<Item = Option<[u8; N]>> + Clone + 'a,
    ) -> Self {
        let mut bitmap = vec![0; rows.div_ceil(8)];
        let mut null_count = rows;
        for (number, place) in numbers.clone().zip(0..) {
            bitmap[place / 8] |= u8::from(number.is_some()) << (place % 8);
            null_count -= usize::from(number.is_some());
        }
        let mut column = Column::numbers(rows, numbers.map(|number| number.unwrap_or([0; N])));
        // A column without nulls has no bitmap.
        if null_count > 0 {
            column.null_count = null_count;
            column.buffers[0] = Filling::new(bitmap.len(), move |out| out.copy_from_slice(&bitmap));
        }
        column
    }

    /// Texts in UTF-8, one after the other behind their offsets.
    pub(super) fn texts(texts: impl ExactSizeIterator<Item = &'a [u8]> + Clone + 'a) -> Self {
        let rows = texts.len();
        let bytes = texts.clone().map(<[u8]>::len).sum();
        let ends = texts.clone().scan(0, |end, text| {
            *end += text.len() as i32;
            Some(i32::to_le_bytes(*end))
        });
        let mut column = Column::numbers(rows + 1, std::iter::once([0; 4]).chain(ends));
        column.rows = rows;
        column.buffers.push(Filling::new(bytes, move |mut out| {
            for text in texts {
                let (place, rest) = out.split_at_mut(text.len());
                place.copy_from_slice(text);
                out = rest;
            }
        }));
        column
    }
}

/// A payload in the making.
pub(super) struct Messages {
    out: Vec<u8>,
    builder: FlatBufferBuilder<'static>,
}

impl Messages {
    /// Without a message.
    ///
    /// Bounds: grows beyond `capacity` bytes by copying.
    pub(super) fn new(capacity: usize) -> Self {
        Messages { out: Vec::with_capacity(capacity), builder: FlatBufferBuilder::with_capacity(2048) }
    }

    /// The values of dictionary `id`, in place of those that it had.
    pub(super) fn dictionary(&mut self, id: i64, values: Column<'_>) {
        self.message(Some(id), values.rows, vec![values]);
    }

    /// The columns of some rows.
    pub(super) fn rows(&mut self, rows: usize, columns: Vec<Column<'_>>) {
        self.message(None, rows, columns);
    }

    /// All messages so far.
    pub(super) fn finish(self) -> Bytes {
        self.out.into()
    }

    fn message(&mut self, dictionary: Option<i64>, rows: usize, columns: Vec<Column<'_>>) {
        let mut body_bytes = 0;
        let mut place = |filling: &Filling<'_>| {
            let buffer = Buffer::new(body_bytes as i64, filling.bytes as i64);
            body_bytes += filling.bytes.next_multiple_of(ALIGNMENT);
            buffer
        };
        let buffers: Vec<Buffer> =
            columns.iter().flat_map(|column| &column.buffers).map(&mut place).collect();
        let node = |column: &Column<'_>| FieldNode::new(column.rows as i64, column.null_count as i64);
        let nodes: Vec<FieldNode> = columns.iter().map(node).collect();
        self.header(dictionary, rows, &nodes, &buffers, body_bytes);
        let body_start = self.out.len();
        self.out.resize(body_start + body_bytes, 0);
        let mut rest = &mut self.out[body_start..];
        for filling in columns.into_iter().flat_map(|column| column.buffers) {
            let (padded, next) = rest.split_at_mut(filling.bytes.next_multiple_of(ALIGNMENT));
            (filling.fill)(&mut padded[..filling.bytes]);
            rest = next;
        }
    }

    /// What precedes a body: the continuation marker, the header's length, the header.
    fn header(
        &mut self,
        dictionary: Option<i64>,
        rows: usize,
        nodes: &[FieldNode],
        buffers: &[Buffer],
        body_bytes: usize,
    ) {
        let builder = &mut self.builder;
        let buffers = builder.create_vector(buffers);
        let nodes = builder.create_vector(nodes);
        let mut batch = RecordBatchBuilder::new(builder);
        batch.add_length(rows as i64);
        batch.add_nodes(nodes);
        batch.add_buffers(buffers);
        let batch = batch.finish();
        let (header_type, header) = match dictionary {
            None => (MessageHeader::RecordBatch, batch.as_union_value()),
            Some(id) => {
                let mut dictionary = DictionaryBatchBuilder::new(builder);
                dictionary.add_id(id);
                dictionary.add_data(batch);
                dictionary.add_isDelta(false);
                (MessageHeader::DictionaryBatch, dictionary.finish().as_union_value())
            }
        };
        let mut message = MessageBuilder::new(builder);
        message.add_version(MetadataVersion::V5);
        message.add_header_type(header_type);
        message.add_bodyLength(body_bytes as i64);
        message.add_header(header);
        let message = message.finish();
        builder.finish(message, None);
        let header = builder.finished_data();
        let padded = header.len().next_multiple_of(ALIGNMENT);
        self.out.extend_from_slice(&[0xff; 4]);
        self.out.extend_from_slice(&(padded as u32).to_le_bytes());
        self.out.extend_from_slice(header);
        self.out.resize(self.out.len() + padded - header.len(), 0);
        builder.reset();
    }
}
