//! Arrow IPC: dictionary batches and one record batch, without schema message and end of stream.
//!
//! Every frame brings all its dictionaries, which hold the frame's values only, unique in each column and
//! in order of first use. A schema message, any frames and [`END_OF_STREAM`] make a stream in which
//! dictionaries are replaced from frame to frame.
//!
//! Source: Arrow columnar format, IPC streaming.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, Int16Array, Int32Array, RecordBatch, StringArray,
    TimestampSecondArray, UInt64Array,
};
use arrow_ipc::MetadataVersion;
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::NaiveDate;

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey, Groups, Partial, mean};
use crate::day::Day;
use crate::store::{Column, DayBatch, Store};

/// What ends a stream: the continuation marker and a length of zero.
pub const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Known to every Arrow reader, with or without a timezone database.
const UTC: &str = "UTC";

/// The columns of rows.
pub fn arrow_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = || DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
        let timestamp = DataType::Timestamp(TimeUnit::Second, Some(UTC.into()));
        Arc::new(Schema::new(vec![
            Field::new("latitude", DataType::Float64, false),
            Field::new("longitude", DataType::Float64, false),
            Field::new("timestamp", timestamp, false),
            Field::new("parameter", text(), false),
            Field::new("value", DataType::Float64, true),
            Field::new("unit", text(), false),
            Field::new("raw_concentration", DataType::Float64, true),
            Field::new("aqi", DataType::Int16, true),
            Field::new("category", DataType::Int8, true),
            Field::new("site_name", text(), false),
            Field::new("agency_name", text(), false),
            Field::new("aqs_id", text(), false),
            Field::new("full_aqs_id", text(), false),
        ]))
    });
    SCHEMA.clone()
}

/// The message that precedes frames of rows.
pub fn schema_message() -> Bytes {
    static MESSAGE: LazyLock<Bytes> = LazyLock::new(|| message_of(&arrow_schema()));
    MESSAGE.clone()
}

/// The columns of an aggregate: the keys in the order asked, then count, min, max and mean.
pub fn groups_schema(spec: &AggregateSpec) -> SchemaRef {
    let keys = spec.group_by.iter().map(|key| {
        let data_type = match key {
            GroupKey::Hour => DataType::Int8,
            _ => DataType::Utf8,
        };
        Field::new(key_name(*key), data_type, false)
    });
    let numbers = [
        Field::new("count", DataType::UInt64, false),
        Field::new("min", DataType::Float64, false),
        Field::new("max", DataType::Float64, false),
        Field::new("mean", DataType::Float64, false),
    ];
    Arc::new(Schema::new(keys.chain(numbers).collect::<Vec<_>>()))
}

/// The message that precedes frames of an aggregate.
pub fn groups_schema_message(spec: &AggregateSpec) -> Bytes {
    message_of(&groups_schema(spec))
}

/// What a key's column is called in every encoding.
pub(super) fn key_name(key: GroupKey) -> &'static str {
    match key {
        GroupKey::Parameter => "parameter",
        GroupKey::Site => "site_name",
        GroupKey::Agency => "agency_name",
        GroupKey::Day => "date",
        GroupKey::Hour => "hour",
        GroupKey::Team => "team",
    }
}

pub(super) fn encode_rows(store: &Store, batch: &DayBatch, rows: &[u32]) -> Bytes {
    let midnight = seconds_at_midnight(batch.day);
    let mut site_texts = CodedTexts::new(store.sites().len());
    let mut measure_texts = CodedTexts::new(store.measures().len());
    let [mut latitude, mut longitude] = [(); 2].map(|()| Vec::with_capacity(rows.len()));
    let mut timestamp = Vec::with_capacity(rows.len());
    for row in rows {
        let row = *row as usize;
        let site = &store.sites()[batch.site[row] as usize];
        let measure = &store.measures()[usize::from(batch.measure[row])];
        latitude.push(site.latitude);
        longitude.push(site.longitude);
        timestamp.push(midnight + i64::from(batch.minute[row]) * 60);
        measure_texts.push(usize::from(batch.measure[row]), || [&*measure.parameter, &*measure.unit]);
        site_texts.push(batch.site[row] as usize, || site.texts());
    }
    let [parameters, units] = measure_texts.columns;
    let [site_names, agency_names, aqs_ids, full_aqs_ids] = site_texts.columns;
    let aqi: Int16Array = rows.iter().map(|row| batch.aqi(*row)).collect();
    let category: Int8Array = rows.iter().map(|row| batch.category(*row)).collect();
    encode(
        &arrow_schema(),
        vec![
            Arc::new(Float64Array::from(latitude)),
            Arc::new(Float64Array::from(longitude)),
            Arc::new(TimestampSecondArray::from(timestamp).with_timezone(UTC)),
            parameters.finish(),
            concentrations(&batch.value, rows),
            units.finish(),
            concentrations(&batch.raw_concentration, rows),
            Arc::new(aqi),
            Arc::new(category),
            site_names.finish(),
            agency_names.finish(),
            aqs_ids.finish(),
            full_aqs_ids.finish(),
        ],
    )
}

pub(super) fn encode_groups(of: AggregateOf, groups: &Groups, range: Range<usize>) -> Bytes {
    let group_by = groups.group_by();
    let codes = &groups.codes()[range.start * group_by.len()..range.end * group_by.len()];
    let column = |(column, key): (usize, &GroupKey)| -> ArrayRef {
        let codes = codes.iter().skip(column).step_by(group_by.len());
        match key {
            GroupKey::Hour => Arc::new(Int8Array::from_iter_values(codes.map(|hour| *hour as i8))),
            GroupKey::Day => Arc::new(StringArray::from_iter_values(codes.map(|day| format!("{day:08}")))),
            _ => {
                let texts = codes.map(|code| &*groups.texts()[*code as usize]);
                Arc::new(StringArray::from_iter_values(texts))
            }
        }
    };
    let partials = || groups.partials()[range.clone()].iter();
    let numbers = |number: fn(&Partial) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(partials().map(number)))
    };
    let counts = partials().map(|partial| partial.count);
    let mut columns: Vec<ArrayRef> = group_by.iter().enumerate().map(column).collect();
    columns.push(Arc::new(UInt64Array::from_iter_values(counts)));
    columns.push(numbers(|partial| partial.min.to_f64()));
    columns.push(numbers(|partial| partial.max.to_f64()));
    columns.push(numbers(mean));
    let spec = AggregateSpec { of, group_by: group_by.to_vec() };
    encode(&groups_schema(&spec), columns)
}

fn concentrations(column: &Column, rows: &[u32]) -> ArrayRef {
    let values = rows.iter().map(|row| column.to_f64(*row));
    Arc::new(values.collect::<Float64Array>())
}

fn seconds_at_midnight(day: Day) -> i64 {
    let number = day.number();
    let date = NaiveDate::from_ymd_opt((number / 10_000) as i32, number / 100 % 100, number % 100);
    let midnight = date.unwrap_or_default().and_time(chrono::NaiveTime::MIN);
    midnight.and_utc().timestamp()
}

/// A dictionary column in the making.
#[derive(Default)]
struct Texts<'a> {
    codes: HashMap<&'a str, i32>,
    values: Vec<&'a str>,
    keys: Vec<i32>,
}

impl<'a> Texts<'a> {
    fn code(&mut self, text: &'a str) -> i32 {
        *self.codes.entry(text).or_insert_with(|| {
            self.values.push(text);
            self.values.len() as i32 - 1
        })
    }

    fn finish(self) -> ArrayRef {
        let values = Arc::new(StringArray::from(self.values));
        let array = DictionaryArray::<Int32Type>::try_new(Int32Array::from(self.keys), values);
        Arc::new(array.expect("each key was given with its value"))
    }
}

/// The text columns that a code stands for: texts are looked up once for each code, codes for each row.
struct CodedTexts<'a, const N: usize> {
    /// By code: 1 + the index into `keys`, 0 for none.
    slots: Vec<u32>,
    keys: Vec<[i32; N]>,
    columns: [Texts<'a>; N],
}

impl<'a, const N: usize> CodedTexts<'a, N> {
    fn new(code_count: usize) -> Self {
        CodedTexts {
            slots: vec![0; code_count],
            keys: Vec::new(),
            columns: std::array::from_fn(|_| Texts::default()),
        }
    }

    fn push(&mut self, code: usize, texts: impl FnOnce() -> [&'a str; N]) {
        let slot = &mut self.slots[code];
        if *slot == 0 {
            let mut columns = self.columns.iter_mut();
            let keys = texts().map(|text| columns.next().map_or(0, |column| column.code(text)));
            self.keys.push(keys);
            *slot = self.keys.len() as u32;
        }
        for (column, key) in self.columns.iter_mut().zip(self.keys[*slot as usize - 1]) {
            column.keys.push(key);
        }
    }
}

/// Buffers padded to 8 bytes, the least that the format allows: frames are small.
fn options() -> IpcWriteOptions {
    IpcWriteOptions::try_new(8, false, MetadataVersion::V5).expect("8 is a legal alignment")
}

fn message_of(schema: &Schema) -> Bytes {
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut DictionaryTracker::new(false),
        &options(),
    );
    let mut out = Vec::new();
    write_message(&mut out, encoded, &options()).expect("a Vec takes every byte");
    out.into()
}

fn encode(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Bytes {
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns follow the schema");
    let mut tracker = DictionaryTracker::new(false);
    // The ids that the schema message gave: one for each dictionary column, in order.
    for field in schema.fields() {
        if matches!(field.data_type(), DataType::Dictionary(..)) {
            tracker.next_dict_id();
        }
    }
    let options = options();
    let (dictionaries, rows) = IpcDataGenerator::default()
        .encode(&batch, &mut tracker, &options, &mut IpcWriteContext::default())
        .expect("every column has a type that can be written");
    let mut out = Vec::with_capacity(rows.arrow_data.len() + 4096);
    for message in dictionaries.into_iter().chain([rows]) {
        write_message(&mut out, message, &options).expect("a Vec takes every byte");
    }
    out.into()
}
