use std::collections::BTreeSet;
use std::io::Cursor;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int8Type, Int16Type, Int32Type, TimestampSecondType};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_schema::DataType;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::aggregate::{Partial, Tally};
use crate::store::Site;
use crate::store::samples::{self, Sample};

const ENCODINGS: [Encoding; 3] = [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy];

/// A whole row, and one without numbers at another site.
fn two_rows() -> Store {
    samples::store(&[
        Sample { raw_concentration: Some("-0.25"), aqi: Some(62), category: Some(2), ..Sample::default() },
        Sample { value: None, site: 1, minute: 23 * 60 + 59, ..Sample::default() },
    ])
}

fn encode(store: &Store, rows: &[u32], encoding: Encoding) -> Bytes {
    encode_rows(store, store.days().next().unwrap(), rows, encoding)
}

#[test]
fn json_writes_missing_as_null_and_time_with_its_zone() {
    let payload = encode(&two_rows(), &[0, 1], Encoding::Json);
    let expected = concat!(
        r#"{"latitude":40.0,"longitude":-120.0,"timestamp":"2020-08-10T01:00Z","parameter":"PM2.5","#,
        r#""value":17.3,"unit":"UG/M3","raw_concentration":-0.25,"aqi":62,"category":2,"#,
        r#""site_name":"Site 0","agency_name":"Agency 0","aqs_id":"000000000","#,
        r#""full_aqs_id":"840000000000","date":"20200810"},"#,
        r#"{"latitude":41.0,"longitude":-119.0,"timestamp":"2020-08-10T23:59Z","parameter":"PM2.5","#,
        r#""value":null,"unit":"UG/M3","raw_concentration":null,"aqi":null,"category":null,"#,
        r#""site_name":"Site 1","agency_name":"Agency 1","aqs_id":"000000001","#,
        r#""full_aqs_id":"840000000001","date":"20200810"}"#,
    );
    assert_eq!(std::str::from_utf8(&payload).unwrap(), expected);
}

#[test]
fn legacy_json_writes_missing_as_minus_999_and_time_as_in_the_file() {
    let payload = encode(&two_rows(), &[1], Encoding::JsonLegacy);
    let payload = std::str::from_utf8(&payload).unwrap();
    let part = r#""timestamp":"2020-08-10T23:59","parameter":"PM2.5","value":-999.0,"unit":"UG/M3","raw_concentration":-999.0,"aqi":-999,"category":-999,"#;
    assert!(payload.contains(part), "{payload}");
}

#[test]
fn json_escapes_texts() {
    let odd = "a\"b\\c\n\u{1}é, \u{2028}";
    let site = |_| Site { site_name: odd.into(), ..samples::site(0) };
    let store = samples::store_of(&[Sample::default()], site);
    let row: Value = serde_json::from_slice(&encode(&store, &[0], Encoding::Json)).unwrap();
    assert_eq!(row["site_name"], json!(odd));
}

/// Text column `column` of a batch: its values, in the order of the dictionary, and its keys.
fn dictionary(batch: &RecordBatch, column: &str) -> (Vec<String>, Vec<i32>) {
    let column = batch.column_by_name(column).unwrap();
    let column = column.as_dictionary::<Int32Type>();
    let values = column.values().as_string::<i32>();
    (values.iter().map(|value| value.unwrap().to_owned()).collect(), column.keys().values().to_vec())
}

#[test]
fn schema_frames_and_end_make_a_stream() {
    let store = samples::store(&[
        Sample { site: 3, aqi: Some(7), category: Some(1), ..Sample::default() },
        Sample { site: 1, ..Sample::default() },
        Sample { site: 0, value: None, ..Sample::default() },
        Sample { site: 2, ..Sample::default() },
    ]);
    let mut stream = schema_message().to_vec();
    for rows in [&[0, 1, 2][..], &[3, 1], &[], &[2]] {
        stream.extend(encode(&store, rows, Encoding::Arrow));
    }
    stream.extend(END_OF_STREAM);
    let mut reader = StreamReader::try_new(Cursor::new(stream), None).unwrap();
    let batches: Vec<RecordBatch> = reader.by_ref().map(Result::unwrap).collect();
    assert!(reader.is_finished());
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 2, 0, 1]);
    // Sites 3 and 0 share a name, so the third row refers to the first row's entry.
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let expected = [
        (names(&["Site 0", "Site 1"]), vec![0, 1, 0]),
        (names(&["Site 2", "Site 1"]), vec![0, 1]),
        (names(&[]), vec![]),
        (names(&["Site 0"]), vec![0]),
    ];
    for (batch, expected) in batches.iter().zip(expected) {
        assert_eq!(dictionary(batch, "site_name"), expected);
    }
}

#[test]
fn arrow_columns_hold_the_rows() {
    let payload = encode(&two_rows(), &[0, 1], Encoding::Arrow);
    let batch = decode_arrow(&schema_message(), &payload).unwrap();
    let types = |schema: &arrow_schema::Schema| -> Vec<_> {
        let fields = schema.fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone(), field.is_nullable())).collect()
    };
    assert_eq!(types(&batch.schema()), types(&arrow_schema()));
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let value = column("value").as_primitive::<Float64Type>();
    assert_eq!((value.value(0), value.is_null(1)), (17.3, true));
    let raw = column("raw_concentration").as_primitive::<Float64Type>();
    assert_eq!((raw.value(0), raw.is_null(1)), (-0.25, true));
    let aqi = column("aqi").as_primitive::<Int16Type>();
    assert_eq!((aqi.value(0), aqi.is_null(1)), (62, true));
    let category = column("category").as_primitive::<Int8Type>();
    assert_eq!((category.value(0), category.is_null(1)), (2, true));
    // `date -u -d '2020-08-10 01:00' +%s`
    let time = column("timestamp").as_primitive::<TimestampSecondType>();
    assert_eq!(time.values(), &[1_597_021_200, 1_597_021_200 + 22 * 3600 + 59 * 60]);
    assert_eq!(column("longitude").as_primitive::<Float64Type>().values(), &[-120.0, -119.0]);
    assert_eq!(dictionary(&batch, "parameter"), (vec!["PM2.5".to_owned()], vec![0, 0]));
    assert_eq!(dictionary(&batch, "full_aqs_id").0, ["840000000000", "840000000001"]);
}

/// What the Arrow library writes for a batch: its dictionaries, then its rows.
fn written_by_the_library(batch: &RecordBatch) -> Vec<u8> {
    let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5).unwrap();
    let mut tracker = DictionaryTracker::new(false);
    for field in batch.schema().fields() {
        if matches!(field.data_type(), DataType::Dictionary(..)) {
            tracker.next_dict_id();
        }
    }
    let (dictionaries, rows) = IpcDataGenerator::default()
        .encode(batch, &mut tracker, &options, &mut IpcWriteContext::default())
        .unwrap();
    let mut out = Vec::new();
    for message in dictionaries.into_iter().chain([rows]) {
        write_message(&mut out, message, &options).unwrap();
    }
    out
}

#[test]
fn arrow_frames_are_those_that_the_library_writes() {
    let rows: Vec<Sample<'_>> = (0..21)
        .map(|index| Sample {
            site: index % 5,
            value: (index % 3 > 0).then_some("17.25"),
            aqi: (index % 7 > 0).then_some(index as i16),
            category: Some(1),
            parameter: ["OZONE", "PM2.5"][index % 2],
            ..Sample::default()
        })
        .collect();
    let store = samples::store(&rows);
    let all: Vec<u32> = (0..21).collect();
    for rows in [&all[..], &all[..8], &all[1..2], &[]] {
        let payload = encode(&store, rows, Encoding::Arrow);
        let batch = decode_arrow(&schema_message(), &payload).unwrap();
        assert_eq!(payload, written_by_the_library(&batch), "{} rows", rows.len());
    }
    let (spec, groups) = some_groups(AggregateOf::Value);
    let payload = encode_all(spec.of, &groups, Encoding::Arrow);
    let batch = decode_arrow(&groups_schema_message(&spec), &payload).unwrap();
    assert_eq!(payload, written_by_the_library(&batch));
}

fn some_groups(of: AggregateOf) -> (AggregateSpec, Groups) {
    let group_by = vec![GroupKey::Day, GroupKey::Hour, GroupKey::Site, GroupKey::Team];
    let spec = AggregateSpec { of, group_by };
    let store = samples::store(&[
        Sample { value: Some("1"), aqi: Some(3), ..Sample::default() },
        Sample { value: Some("1.5"), aqi: Some(4), ..Sample::default() },
        Sample { value: Some("-7"), aqi: Some(5), site: 1, ..Sample::default() },
    ]);
    let mut tally = Tally::new(&store, &spec);
    tally.add(store.days().next().unwrap(), &[0, 1, 2], &"green".into());
    (spec, tally.into_groups(&store))
}

fn encode_all(of: AggregateOf, groups: &Groups, encoding: Encoding) -> Bytes {
    encode_groups(of, groups, 0..groups.len(), encoding)
}

#[test]
fn groups_are_json_objects_with_their_keys_first() {
    let (spec, groups) = some_groups(AggregateOf::Value);
    let expected = concat!(
        r#"{"date":"20200810","hour":1,"site_name":"Site 0","team":"green","count":2,"min":1.0,"max":1.5,"mean":1.25},"#,
        r#"{"date":"20200810","hour":1,"site_name":"Site 1","team":"green","count":1,"min":-7.0,"max":-7.0,"mean":-7.0}"#,
    );
    assert_eq!(encode_all(spec.of, &groups, Encoding::Json), expected);
    let (spec, groups) = some_groups(AggregateOf::Aqi);
    let payload = encode_all(spec.of, &groups, Encoding::JsonLegacy);
    let payload = std::str::from_utf8(&payload).unwrap();
    assert!(payload.contains(r#""count":2,"min":3,"max":4,"mean":3.5}"#), "{payload}");
}

#[test]
fn groups_are_an_arrow_batch() {
    let (spec, groups) = some_groups(AggregateOf::Value);
    let payload = encode_all(spec.of, &groups, Encoding::Arrow);
    let batch = decode_arrow(&groups_schema_message(&spec), &payload).unwrap();
    assert_eq!(batch.schema(), groups_schema(&spec));
    assert_eq!(batch.column(0).as_string::<i32>().value(0), "20200810");
    assert_eq!(batch.column(1).as_primitive::<Int8Type>().value(0), 1);
    assert_eq!(batch.column(7).as_primitive::<Float64Type>().values(), &[1.25, -7.0]);
}

#[test]
fn no_groups_are_an_empty_frame() {
    let spec = AggregateSpec { of: AggregateOf::Value, group_by: vec![] };
    let payload = encode_all(spec.of, &Groups::default(), Encoding::Json);
    assert_eq!(json_row_count(&payload, &json_keys(Some(&spec))).unwrap(), 0);
    let payload = encode_all(spec.of, &Groups::default(), Encoding::Arrow);
    assert_eq!(decode_arrow(&groups_schema_message(&spec), &payload).unwrap().num_rows(), 0);
    assert_eq!(worst_group_bytes(&Groups::default()).arrow, 33);
}

#[test]
fn only_the_inside_of_an_array_of_objects_is_a_json_frame() {
    for (payload, rows) in [("", 0), ("{}", 1), ("{},{}", 2)] {
        assert_eq!(json_row_count(payload.as_bytes(), &[]).unwrap(), rows);
    }
    let deep = "[".repeat(100_000);
    for payload in ["{},", ",{}", "1", "{}]", "{}],[{}", "{\"a\"}", "\u{feff}", "nul", &deep] {
        assert!(json_row_count(payload.as_bytes(), &[]).is_err(), "{payload}");
    }
    assert!(json_row_count(b"{\"a\":\"\xff\"}", &["a".to_owned()]).is_err());
}

#[test]
fn rows_of_a_json_frame_have_their_members_and_no_others() {
    let keys = ["a", "b"].map(String::from);
    let count = |payload: &str| json_row_count(payload.as_bytes(), &keys);
    assert_eq!(count(r#"{"a":[1],"b":{}},{"a":null,"b":"x"}"#).unwrap(), 2);
    for payload in
        ["{}", r#"{"a":1}"#, r#"{"b":1,"a":1}"#, r#"{"a":1,"b":1,"c":1}"#, r#"{"a":1,"b":1,"b":1}"#]
    {
        assert!(count(payload).is_err(), "{payload}");
    }
    let said = count(r#"{"a":1,"c":1}"#).unwrap_err().to_string();
    assert!(said.contains("the member `b`"), "{said}");
}

#[test]
fn number_that_no_double_holds_is_no_value_of_a_row() {
    let count = |value: &str| json_row_count(format!("{{\"a\":{value}}}").as_bytes(), &["a".to_owned()]);
    for value in ["1.5", "-1e308", "null", "true", "18446744073709551615", "[1,{\"b\":\"\\u00e9\"}]"] {
        assert_eq!(count(value).unwrap(), 1, "{value}");
    }
    for value in ["1e309", "[-124.2e0347]", "{\"b\":1e999}"] {
        let said = count(value).unwrap_err().to_string();
        assert!(said.contains("number out of range"), "{value}: {said}");
    }
}

/// Goal: what somebody sends is not shown whole. A text stands where a row is expected, or a member's name.
#[test]
fn error_of_a_json_frame_is_no_longer_than_a_line() {
    let long = "é".repeat(100_000);
    for payload in [format!("{{\"{long}\":1}}"), format!("\"{long}\"")] {
        let said = json_row_count(payload.as_bytes(), &["a".to_owned()]).unwrap_err().to_string();
        assert!(said.chars().count() < 400, "{} characters", said.chars().count());
        assert!(said.contains("... at line 1 column "), "{said}");
    }
}

#[test]
fn json_keys_are_those_that_are_written() {
    let keys = |row: &str| -> Vec<String> {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        row.as_object().unwrap().keys().cloned().collect()
    };
    let row = encode(&two_rows(), &[0], Encoding::Json);
    assert_eq!(json_keys(None), keys(std::str::from_utf8(&row).unwrap()));
    let (spec, groups) = some_groups(AggregateOf::Value);
    let group = encode_groups(spec.of, &groups, 0..1, Encoding::Json);
    assert_eq!(json_keys(Some(&spec)), keys(std::str::from_utf8(&group).unwrap()));
}

#[test]
fn messages_of_an_arrow_frame_are_its_own_bytes() {
    let (schema, payload) = (schema_message(), encode(&two_rows(), &[0, 1], Encoding::Arrow));
    let of_schema = arrow_messages(&schema).unwrap();
    assert_eq!((of_schema.len(), of_schema[0].body.len(), &of_schema[0].header), (1, 0, &schema.slice(8..)));
    let messages = arrow_messages(&payload).unwrap();
    assert_eq!(messages.len(), 7, "six dictionaries and the rows");
    let mut together = Vec::new();
    for Message { header, body } in &messages {
        assert!(payload.as_ptr_range().contains(&header.as_ptr()), "not copied");
        together.extend_from_slice(&[0xff; 4]);
        together.extend_from_slice(&(header.len() as u32).to_le_bytes());
        together.extend_from_slice(header);
        together.extend_from_slice(body);
    }
    assert_eq!(payload, together);
    for end in 0..payload.len() {
        let cut = arrow_messages(&payload.slice(..end));
        assert!(cut.is_err() || cut.unwrap().len() < 7, "{end}");
    }
}

#[test]
fn a_cut_arrow_frame_is_an_error() {
    let (schema, payload) = (schema_message(), encode(&two_rows(), &[0, 1], Encoding::Arrow));
    for end in 0..payload.len() {
        assert!(decode_arrow(&schema, &payload[..end]).is_err(), "{end}");
    }
    for end in 0..schema.len() {
        assert!(decode_arrow(&schema[..end], &payload).is_err(), "{end}");
    }
    assert!(decode_arrow(&schema, &[&payload[..], &payload].concat()).is_err());
    assert!(decode_arrow(&payload, &schema).is_err());
}

/// Any text, so that escapes and long names occur.
fn a_site() -> impl Strategy<Value = Site> {
    let degrees = (-90.0f64..=90.0, -180.0f64..=180.0);
    let texts = ["\\PC{0,12}", "[\\x00-\\x1f\"\\\\]{0,30}", "[0-9]{0,12}", "é{0,5}"];
    (degrees, texts).prop_map(|((latitude, longitude), [site_name, agency_name, aqs_id, full_aqs_id])| Site {
        latitude,
        longitude,
        site_name: site_name.into(),
        agency_name: agency_name.into(),
        aqs_id: aqs_id.into(),
        full_aqs_id: full_aqs_id.into(),
    })
}

fn a_concentration() -> impl Strategy<Value = Option<String>> {
    let decimal = (-999_999_999_999_999_999i64..=999_999_999_999_999_999, 0u32..18)
        .prop_map(|(value, zeros)| crate::decimal::Decimal(value / 10i64.pow(zeros)).to_string());
    prop::option::of(decimal)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// One store, all rows, each row alone: every payload keeps the bound and decodes to as many rows.
    #[test]
    fn payloads_keep_the_bound_that_the_day_states(
        sites in prop::collection::vec(a_site(), 1..6),
        rows in prop::collection::vec((0usize..6, a_concentration(), a_concentration(), prop::option::of(0i16..), 0u16..1440), 1..20),
    ) {
        let samples: Vec<Sample<'_>> = rows.iter().map(|(site, value, raw, aqi, minute)| Sample {
            site: site % sites.len(),
            value: value.as_deref(),
            raw_concentration: raw.as_deref(),
            aqi: *aqi,
            minute: *minute,
            ..Sample::default()
        }).collect();
        let store = samples::store_of(&samples, |number| sites[number].clone());
        let batch = store.days().next().unwrap();
        let worst = batch.statistics.worst_row_bytes;
        let all: Vec<u32> = (0..batch.row_count()).collect();
        for encoding in ENCODINGS {
            let row_bytes = match encoding {
                Encoding::Arrow => worst.arrow,
                Encoding::Json => worst.json,
                Encoding::JsonLegacy => worst.json_legacy,
            };
            for rows in all.chunks(1).chain([&all[..], &[]]) {
                let payload = encode_rows(&store, batch, rows, encoding);
                let bound = frame_overhead_bytes(encoding) as usize + rows.len() * row_bytes as usize;
                prop_assert!(payload.len() <= bound, "{encoding:?}: {} > {bound}", payload.len());
                let decoded = match encoding {
                    Encoding::Arrow => decode_arrow(&schema_message(), &payload).unwrap().num_rows(),
                    _ => json_row_count(&payload, &json_keys(None)).unwrap(),
                };
                prop_assert_eq!(decoded, rows.len());
            }
        }
    }

    #[test]
    fn group_payloads_keep_their_bound(
        ids in prop::collection::btree_set(("\\PC{0,9}", 0u32..24), 0..9),
        (count, min, sum) in (1u64.., any::<i64>(), any::<i128>()),
    ) {
        let partial = Partial {
            count,
            min: crate::decimal::Decimal(min),
            max: crate::decimal::Decimal(i64::MAX),
            sum,
        };
        let texts: BTreeSet<&str> = ids.iter().map(|(site, _)| &**site).collect();
        let place = |site: &str| texts.iter().position(|text| *text == site).unwrap() as u32;
        let codes = ids.iter().flat_map(|(site, hour)| [place(site), *hour]).collect();
        let group_by = [GroupKey::Site, GroupKey::Hour];
        let partials = vec![partial; ids.len()];
        let texts = texts.iter().map(|text| Box::from(*text)).collect();
        let groups = Groups::from_columns(&group_by, texts, codes, partials).unwrap();
        let worst = worst_group_bytes(&groups);
        for (encoding, row_bytes) in [(Encoding::Arrow, worst.arrow), (Encoding::Json, worst.json)] {
            let payload = encode_all(AggregateOf::Value, &groups, encoding);
            let bound = frame_overhead_bytes(encoding) as usize + groups.len() * row_bytes as usize;
            prop_assert!(payload.len() <= bound, "{encoding:?}: {} > {bound}", payload.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Bytes from the network may be anything: flips a few of a good frame or its schema. A panic fails.
    #[test]
    fn damaged_arrow_frames_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f)]), 1..4),
        in_schema in prop::bool::weighted(0.2),
        groups in any::<bool>(),
    ) {
        let (mut schema, mut payload) = if groups {
            let (spec, groups) = some_groups(AggregateOf::Value);
            (groups_schema_message(&spec).to_vec(), encode_all(spec.of, &groups, Encoding::Arrow).to_vec())
        } else {
            (schema_message().to_vec(), encode(&two_rows(), &[0, 1], Encoding::Arrow).to_vec())
        };
        let bytes = if in_schema { &mut schema } else { &mut payload };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode_arrow(&schema, &payload);
    }
}
