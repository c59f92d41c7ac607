//! JSON: compact objects separated by commas, without the brackets of the array.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;

use super::arrow::key_name;
use super::day_digits;
use crate::aggregate::{AggregateOf, GroupKey, Groups, KeyValue, mean};
use crate::decimal::{Decimal, ONE};
use crate::store::{DayBatch, JsonPieces, Store};

/// How a missing number is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Null,
    Minus999,
}

pub(super) fn encode_rows(store: &Store, batch: &DayBatch, rows: &[u32], missing: Missing) -> Bytes {
    let (no_concentration, no_number, zone, worst_row_bytes): (&[u8], &[u8], &[u8], _) = match missing {
        Missing::Null => (b"null", b"null", b"Z", batch.statistics.worst_row_bytes.json),
        Missing::Minus999 => (b"-999.0", b"-999", b"", batch.statistics.worst_row_bytes.json_legacy),
    };
    let JsonPieces { sites, measures } = store.json_pieces();
    let mut time = [b'-'; 16];
    time[..10].copy_from_slice(batch.day.iso().to_string().as_bytes());
    let date = format!(",\"date\":\"{}\"}}", batch.day);
    let mut out = Vec::with_capacity(rows.len() * worst_row_bytes as usize);
    for row in rows {
        let index = *row as usize;
        let [head, texts] = sites.get(batch.site[index] as usize);
        let [parameter, unit] = measures.get(usize::from(batch.measure[index]));
        // The first row has no comma before it.
        out.extend_from_slice(&head[usize::from(out.is_empty())..]);
        let minute = batch.minute[index];
        let ([h, hh], [m, mm]) = (pair(minute / 60), pair(minute % 60));
        time[10..].copy_from_slice(&[b'T', h, hh, b':', m, mm]);
        out.extend_from_slice(&time);
        out.extend_from_slice(zone);
        out.extend_from_slice(parameter);
        match batch.value.get(*row) {
            Some(value) => write_decimal(&mut out, value),
            None => out.extend_from_slice(no_concentration),
        }
        out.extend_from_slice(unit);
        match batch.raw_concentration.get(*row) {
            Some(value) => write_decimal(&mut out, value),
            None => out.extend_from_slice(no_concentration),
        }
        out.extend_from_slice(b",\"aqi\":");
        match batch.aqi(*row) {
            Some(aqi) => write_whole(&mut out, aqi.into()),
            None => out.extend_from_slice(no_number),
        }
        out.extend_from_slice(b",\"category\":");
        match batch.category(*row) {
            Some(category) => write_whole(&mut out, category.into()),
            None => out.extend_from_slice(no_number),
        }
        out.extend_from_slice(texts);
        out.extend_from_slice(date.as_bytes());
    }
    out.into()
}

pub(super) fn encode_groups(of: AggregateOf, groups: &Groups, range: Range<usize>) -> Bytes {
    let names = groups.group_by().iter().map(|key| format!("\"{}\":", key_name(*key))).collect::<Vec<_>>();
    let number = |out: &mut Vec<u8>, value: Decimal| match of {
        AggregateOf::Aqi => write_whole(out, value.0 / ONE),
        AggregateOf::Value | AggregateOf::RawConcentration => write_decimal(out, value),
    };
    let mut out = Vec::with_capacity(range.len() * 128);
    for group in range {
        out.extend_from_slice(if out.is_empty() { b"{" } else { b",{" });
        for ((key, name), value) in groups.group_by().iter().zip(&names).zip(groups.keys(group)) {
            out.extend_from_slice(name.as_bytes());
            match value {
                KeyValue::Text(text) => write_json(&mut out, text),
                KeyValue::Number(day) if *key == GroupKey::Day => {
                    out.push(b'"');
                    out.extend_from_slice(&day_digits(day));
                    out.push(b'"');
                }
                KeyValue::Number(number) => write_whole(&mut out, number.into()),
            }
            out.push(b',');
        }
        let partial = &groups.partials()[group];
        out.extend_from_slice(b"\"count\":");
        write_json(&mut out, &partial.count);
        out.extend_from_slice(b",\"min\":");
        number(&mut out, partial.min);
        out.extend_from_slice(b",\"max\":");
        number(&mut out, partial.max);
        out.extend_from_slice(b",\"mean\":");
        write_json(&mut out, &mean(partial));
        out.push(b'}');
    }
    out.into()
}

/// The most bytes that a group takes beside its keys' values: names, punctuation and numbers.
pub(super) fn group_skeleton_bytes(group_by: &[GroupKey]) -> usize {
    let key = |key: &_| r#""":,"#.len() + key_name(*key).len();
    // 2^64 has 20 digits, a decimal a sign, 10 digits, a point and 9 more, a double at most 24 characters.
    group_by.iter().map(key).sum::<usize>()
        + r#"{"count":,"min":,"max":,"mean":},"#.len()
        + (20 + 21 + 21 + 24)
}

/// As `Decimal` prints itself, without allocating.
fn write_decimal(out: &mut Vec<u8>, value: Decimal) {
    let magnitude = value.0.unsigned_abs();
    if value.0 < 0 {
        out.push(b'-');
    }
    write_whole(out, (magnitude / ONE as u64) as i64);
    out.push(b'.');
    let mut fraction = magnitude % ONE as u64;
    loop {
        fraction *= 10;
        out.push(digit(fraction / ONE as u64));
        fraction %= ONE as u64;
        if fraction == 0 {
            break;
        }
    }
}

fn write_whole(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    let mut rest = value.unsigned_abs();
    // Most are short.
    match rest {
        0..10 => return out.push(digit(rest)),
        10..100 => return out.extend_from_slice(&pair(rest as u16)),
        _ => {}
    }
    let mut digits = [0; 20];
    let mut start = digits.len();
    while rest > 0 {
        start -= 1;
        digits[start] = digit(rest % 10);
        rest /= 10;
    }
    out.extend_from_slice(&digits[start..]);
}

/// The two digits of a number below 100.
pub(super) fn pair(value: u16) -> [u8; 2] {
    [digit(u64::from(value / 10)), digit(u64::from(value % 10))]
}

fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out.by_ref(), value);
    written.expect("texts and numbers are JSON, and a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decimals_are_written_as_they_print(value: i64, zeros in 0u32..19) {
            let value = Decimal(value / 10i64.pow(zeros));
            for value in [value, Decimal(value.0.saturating_mul(10i64.pow(zeros)))] {
                let mut out = Vec::new();
                write_decimal(&mut out, value);
                prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
            }
        }
    }
}
