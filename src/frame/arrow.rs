//! Arrow IPC: dictionary batches and one record batch, without schema message and end of stream.
//!
//! Every frame brings all its dictionaries, which hold the frame's values only, unique in each column and
//! in order of first use. A schema message, any frames and [`END_OF_STREAM`] make a stream in which
//! dictionaries are replaced from frame to frame.
//!
//! Source: Arrow columnar format, IPC streaming.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow_ipc::MetadataVersion;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::NaiveDate;

use super::day_digits;
use super::ipc::{ALIGNMENT, Column, Messages};
use crate::aggregate::{AggregateSpec, GroupKey, Groups, Partial, mean};
use crate::day::Day;
use crate::store::{self, DayBatch, Store};

/// What ends a stream: the continuation marker and a length of zero.
pub const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Known to every Arrow reader, with or without a timezone database.
const UTC: &str = "UTC";

/// What a payload takes about: for itself, for each row, and for each site with its texts.
const OVERHEAD_BYTES: usize = 2304;
const ROW_BYTES: usize = 70;
const SITE_BYTES: usize = 128;

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
    let equal = store.equal_texts();
    let sites = Used::new(rows.iter().map(|row| batch.site[*row as usize]), &equal.sites);
    let measures = Used::new(rows.iter().map(|row| batch.measure[*row as usize].into()), &equal.measures);
    let degrees = |code: &u32| {
        let site = &store.sites()[*code as usize];
        [site.latitude, site.longitude].map(f64::to_le_bytes)
    };
    let degrees: Vec<[[u8; 8]; 2]> = sites.codes.iter().map(degrees).collect();
    let mut messages =
        Messages::new(OVERHEAD_BYTES + rows.len() * ROW_BYTES + sites.codes.len() * SITE_BYTES);
    for column in 0..2 {
        let text = |code: &u32| store.measures()[*code as usize].texts()[column].as_bytes();
        messages.dictionary(column as i64, Column::texts(measures.firsts[column].iter().map(text)));
    }
    for column in 0..4 {
        let text = |code: &u32| store.sites()[*code as usize].texts()[column].as_bytes();
        messages.dictionary(2 + column as i64, Column::texts(sites.firsts[column].iter().map(text)));
    }
    let count = rows.len();
    let midnight = seconds_at_midnight(batch.day);
    let degrees = |axis: usize| {
        let degrees = &degrees;
        Column::numbers(count, sites.of_row.iter().map(move |site| degrees[*site as usize][axis]))
    };
    let time = |row: &u32| (midnight + i64::from(batch.minute[*row as usize]) * 60).to_le_bytes();
    let aqi = rows.iter().map(|row| batch.aqi(*row).map(i16::to_le_bytes));
    let category = rows.iter().map(|row| batch.category(*row).map(i8::to_le_bytes));
    messages.rows(
        count,
        vec![
            degrees(0),
            degrees(1),
            Column::numbers(count, rows.iter().map(time)),
            measures.column(0),
            concentrations(&batch.value, rows),
            measures.column(1),
            concentrations(&batch.raw_concentration, rows),
            Column::nullable(count, aqi),
            Column::nullable(count, category),
            sites.column(0),
            sites.column(1),
            sites.column(2),
            sites.column(3),
        ],
    );
    messages.finish()
}

pub(super) fn encode_groups(groups: &Groups, range: Range<usize>) -> Bytes {
    let (group_by, count) = (groups.group_by(), range.len());
    let codes = &groups.codes()[range.start * group_by.len()..range.end * group_by.len()];
    let partials = &groups.partials()[range];
    let days: Vec<[u8; 8]> = match group_by.iter().position(|key| *key == GroupKey::Day) {
        Some(column) => {
            codes.iter().skip(column).step_by(group_by.len()).map(|day| day_digits(*day)).collect()
        }
        None => Vec::new(),
    };
    let column = |(column, key): (usize, &GroupKey)| {
        let codes = codes.iter().skip(column).step_by(group_by.len());
        match key {
            GroupKey::Hour => Column::numbers(count, codes.map(|hour| [*hour as u8])),
            GroupKey::Day => Column::texts(days.iter().map(|day| &day[..])),
            _ => Column::texts(codes.map(|code| groups.texts()[*code as usize].as_bytes())),
        }
    };
    let numbers = |number: fn(&Partial) -> f64| {
        Column::numbers(count, partials.iter().map(move |partial| number(partial).to_le_bytes()))
    };
    let mut columns: Vec<Column<'_>> = group_by.iter().enumerate().map(column).collect();
    columns.push(Column::numbers(count, partials.iter().map(|partial| partial.count.to_le_bytes())));
    columns.push(numbers(|partial| partial.min.to_f64()));
    columns.push(numbers(|partial| partial.max.to_f64()));
    columns.push(numbers(mean));
    let mut messages = Messages::new(0);
    messages.rows(count, columns);
    messages.finish()
}

fn concentrations<'a>(column: &'a store::Column, rows: &'a [u32]) -> Column<'a> {
    Column::nullable(rows.len(), rows.iter().map(|row| column.to_f64(*row).map(f64::to_le_bytes)))
}

fn seconds_at_midnight(day: Day) -> i64 {
    let number = day.number();
    let date = NaiveDate::from_ymd_opt((number / 10_000) as i32, number / 100 % 100, number % 100);
    let midnight = date.unwrap_or_default().and_time(chrono::NaiveTime::MIN);
    midnight.and_utc().timestamp()
}

/// What rows of a frame refer to, in order of first use: sites or measures, and their texts.
struct Used<const N: usize> {
    /// By row, the place in `codes`.
    of_row: Vec<u32>,
    codes: Vec<u32>,
    /// By place in `codes`: the keys of the texts.
    keys: Vec<[u32; N]>,
    /// The dictionaries: codes of sites or measures that have the texts.
    firsts: [Vec<u32>; N],
}

impl<const N: usize> Used<N> {
    /// `equal` has the smallest codes with the same texts, by code.
    fn new(codes_of_rows: impl ExactSizeIterator<Item = u32>, equal: &[[u32; N]]) -> Self {
        let mut used = Used {
            of_row: Vec::with_capacity(codes_of_rows.len()),
            codes: Vec::new(),
            keys: Vec::new(),
            firsts: std::array::from_fn(|_| Vec::new()),
        };
        // By code: one more than the place in `codes`, and than the key of each text; 0 for none.
        let mut places = vec![0; equal.len()];
        let mut keys_of_texts = vec![[0; N]; equal.len()];
        for code in codes_of_rows {
            let place = &mut places[code as usize];
            if *place == 0 {
                used.codes.push(code);
                *place = used.codes.len() as u32;
                used.keys.push(std::array::from_fn(|column| {
                    let first = equal[code as usize][column];
                    let key = &mut keys_of_texts[first as usize][column];
                    if *key == 0 {
                        used.firsts[column].push(first);
                        *key = used.firsts[column].len() as u32;
                    }
                    *key - 1
                }));
            }
            used.of_row.push(*place - 1);
        }
        used
    }

    fn column(&self, column: usize) -> Column<'_> {
        let key = move |place: &u32| self.keys[*place as usize][column].to_le_bytes();
        Column::numbers(self.of_row.len(), self.of_row.iter().map(key))
    }
}

fn message_of(schema: &Schema) -> Bytes {
    let options =
        IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).expect("8 is a legal alignment");
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut DictionaryTracker::new(false),
        &options,
    );
    let mut out = Vec::new();
    write_message(&mut out, encoded, &options).expect("a Vec takes every byte");
    out.into()
}
