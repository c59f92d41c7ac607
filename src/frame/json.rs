//! JSON: compact objects separated by commas, without the brackets of the array.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;

use super::arrow::key_name;
use crate::aggregate::{AggregateOf, GroupKey, Groups, KeyValue, mean};
use crate::decimal::{Decimal, ONE};
use crate::store::{DayBatch, Measure, Site, Store};

/// How a missing number is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Null,
    Minus999,
}

pub(super) fn encode_rows(store: &Store, batch: &DayBatch, rows: &[u32], missing: Missing) -> Bytes {
    let (no_concentration, no_number, zone): (&[u8], &[u8], &[u8]) = match missing {
        Missing::Null => (b"null", b"null", b"Z"),
        Missing::Minus999 => (b"-999.0", b"-999", b""),
    };
    let date = format!("{}T", batch.day.iso());
    let mut sites = Fragments::new(store.sites().len());
    let mut measures = Fragments::new(store.measures().len());
    let mut out = Vec::with_capacity(rows.len() * 320);
    for row in rows {
        let index = *row as usize;
        let (site, measure) = (batch.site[index] as usize, usize::from(batch.measure[index]));
        let (head, tail) = sites.of(site, || site_fragments(&store.sites()[site], batch));
        let (parameter, unit) = measures.of(measure, || measure_fragments(&store.measures()[measure]));
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(head);
        out.extend_from_slice(date.as_bytes());
        let minute = batch.minute[index];
        write_pair(&mut out, minute / 60);
        out.push(b':');
        write_pair(&mut out, minute % 60);
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
        out.extend_from_slice(tail);
    }
    out.into()
}

/// The two pieces that every row of a site, or of a measure, has: written once for each that is used.
struct Fragments {
    /// By code: 1 + the index into `written`, 0 for none.
    slots: Vec<u32>,
    written: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Fragments {
    fn new(code_count: usize) -> Self {
        Fragments { slots: vec![0; code_count], written: Vec::new() }
    }

    fn of(&mut self, code: usize, write: impl FnOnce() -> (Vec<u8>, Vec<u8>)) -> (&[u8], &[u8]) {
        let slot = &mut self.slots[code];
        if *slot == 0 {
            self.written.push(write());
            *slot = self.written.len() as u32;
        }
        let (head, tail) = &self.written[*slot as usize - 1];
        (head, tail)
    }
}

/// What stands before a row's time and after its category.
fn site_fragments(site: &Site, batch: &DayBatch) -> (Vec<u8>, Vec<u8>) {
    let mut head = b"{\"latitude\":".to_vec();
    write_json(&mut head, &site.latitude);
    head.extend_from_slice(b",\"longitude\":");
    write_json(&mut head, &site.longitude);
    head.extend_from_slice(b",\"timestamp\":\"");
    let mut tail = Vec::new();
    let names = ["site_name", "agency_name", "aqs_id", "full_aqs_id"];
    for (name, text) in names.iter().zip(site.texts()) {
        tail.extend_from_slice(format!(",\"{name}\":").as_bytes());
        write_json(&mut tail, text);
    }
    tail.extend_from_slice(format!(",\"date\":\"{}\"}}", batch.day).as_bytes());
    (head, tail)
}

/// What stands between time and concentration, and between the two concentrations.
fn measure_fragments(measure: &Measure) -> (Vec<u8>, Vec<u8>) {
    let mut parameter = b"\",\"parameter\":".to_vec();
    write_json(&mut parameter, &*measure.parameter);
    parameter.extend_from_slice(b",\"value\":");
    let mut unit = b",\"unit\":".to_vec();
    write_json(&mut unit, &*measure.unit);
    unit.extend_from_slice(b",\"raw_concentration\":");
    (parameter, unit)
}

pub(super) fn encode_groups(of: AggregateOf, groups: &Groups, range: Range<usize>) -> Bytes {
    let names = groups.group_by().iter().map(|key| format!("\"{}\":", key_name(*key))).collect::<Vec<_>>();
    let number = |out: &mut Vec<u8>, value: Decimal| match of {
        AggregateOf::Aqi => write_whole(out, value.0 / ONE),
        AggregateOf::Value | AggregateOf::RawConcentration => write_decimal(out, value),
    };
    let mut out = Vec::new();
    for group in range {
        out.extend_from_slice(if out.is_empty() { b"{" } else { b",{" });
        for ((key, name), value) in groups.group_by().iter().zip(&names).zip(groups.keys(group)) {
            out.extend_from_slice(name.as_bytes());
            match value {
                KeyValue::Text(text) => write_json(&mut out, text),
                KeyValue::Number(day) if *key == GroupKey::Day => {
                    out.extend_from_slice(format!("\"{day:08}\"").as_bytes());
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
    let mut place = ONE as u64 / 10;
    loop {
        out.push(b'0' + (fraction / place) as u8);
        fraction %= place;
        if fraction == 0 {
            break;
        }
        place /= 10;
    }
}

fn write_whole(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[start..]);
}

fn write_pair(out: &mut Vec<u8>, value: u16) {
    out.push(b'0' + (value / 10) as u8);
    out.push(b'0' + (value % 10) as u8);
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
