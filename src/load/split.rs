//! CSV records out of a file in memory, with their lines and their bytes.
//!
//! Quoting is that of RFC 4180, line breaks inside quotes included. Unlike readers that mend what they can,
//! this one reports a quote that never closes and text behind a closing quote: they are how a cut or
//! damaged file looks. A damaged record costs its first line only; reading goes on at the next line.

use std::borrow::Cow;
use std::ops::Range;

/// Fields that a row has.
pub(super) const FIELDS: usize = 13;

/// Fields, in the middle of a row, that say what was measured: 3 to 9. Those around them say where.
const MEASURED: Range<usize> = 2..9;

/// Time, parameter, concentration, unit, raw concentration, AQI, category.
pub(super) type Measured<'a> = [&'a [u8]; MEASURED.end - MEASURED.start];

/// What stands between two line ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Index of its first byte in the file.
    start: usize,
    /// Without the line end.
    pub(super) bytes: &'a [u8],
    pub(super) fields: Result<Fields<'a>, Damaged>,
}

/// Thirteen fields, without their quotes. Doubled quotes are still doubled where `escaped` says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    raw: [&'a [u8]; FIELDS],
    /// One bit for each field.
    escaped: u16,
    pub(super) margins: Margins<'a>,
}

/// The bytes of a record around what was measured. Whatever follows them is split in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Margins<'a> {
    /// Fields 1 and 2, each with its comma.
    pub(super) head: &'a [u8],
    /// Fields 10 to 13, with the line end unless the file ends first.
    pub(super) tail: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields, if none holds a doubled quote.
    pub(super) fn plain(&self) -> Option<&[&'a [u8]; FIELDS]> {
        (self.escaped == 0).then_some(&self.raw)
    }

    /// The fields with doubled quotes made single.
    pub(super) fn unescape(&self) -> [Cow<'a, [u8]>; FIELDS] {
        std::array::from_fn(|index| {
            let field = self.raw[index];
            if self.escaped & 1 << index == 0 {
                return Cow::Borrowed(field);
            }
            let mut after_quote = false;
            let keep = |byte: &u8| {
                after_quote = *byte == b'"' && !after_quote;
                // Of each pair the first is kept.
                *byte != b'"' || after_quote
            };
            Cow::Owned(field.iter().copied().filter(keep).collect())
        })
    }
}

/// Why a record has no thirteen fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damaged {
    #[error("{0} fields, expected {FIELDS}")]
    FieldCount(usize),
    #[error("field {0} has text behind its closing quote")]
    TextBehindQuote(usize),
    #[error("field {0} has a quote that is never closed")]
    OpenQuote(usize),
    /// An empty last field is believed where a line end or quotes stand for it.
    #[error("ends behind a comma at the end of the file")]
    EndsAtComma,
}

/// The records of `data` that are not blank.
pub(super) fn records(data: &[u8]) -> Records<'_> {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    Records { data, at: 0, line: 1, line_of: 0 }
}

#[derive(Clone)]
pub(super) struct Records<'a> {
    data: &'a [u8],
    /// Where the next record starts.
    at: usize,
    /// The line of byte `line_of`, which is asked for rarely: lines are counted only then.
    line: u64,
    line_of: usize,
}

impl<'a> Records<'a> {
    /// The bytes that are not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    /// Leaves out so many bytes.
    pub(super) fn skip_bytes(&mut self, count: usize) {
        self.at += count;
    }

    /// The line that `record` starts at, counted from 1. Records must come in order.
    pub(super) fn line(&mut self, record: &Record<'_>) -> u64 {
        let passed = &self.data[self.line_of..record.start];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.line_of = record.start;
        self.line
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while self.at < self.data.len() {
            let start = self.at;
            let (fields, end) = split(self.data, start);
            // A record that spans lines and is damaged hides good rows: give up its first line only.
            let end = match fields {
                Ok(_) => end,
                Err(_) => find(self.data, start, b'\n').unwrap_or(self.data.len()),
            };
            self.at = end + 1;
            let bytes = &self.data[start..end];
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Some(Record { start, bytes, fields });
            }
        }
        None
    }
}

/// The fields of the record of `data` that starts at `start`, and where its line end is.
fn split(data: &[u8], start: usize) -> (Result<Fields<'_>, Damaged>, usize) {
    let mut fields = Fields { raw: [&[]; FIELDS], escaped: 0, margins: Margins::default() };
    let (mut count, mut at, mut tail_start) = (0, start, start);
    loop {
        let Some(Field { bytes, escaped, end }) = field(data, at) else {
            return (Err(Damaged::OpenQuote(count + 1)), data.len());
        };
        if count < FIELDS {
            fields.raw[count] = bytes;
            fields.escaped |= u16::from(escaped) << count;
        }
        if count == MEASURED.start {
            fields.margins.head = &data[start..at];
        } else if count == MEASURED.end {
            tail_start = at;
        }
        count += 1;
        let line_end = match data.get(end) {
            Some(b',') => {
                at = end + 1;
                continue;
            }
            Some(b'\r') if matches!(data.get(end + 1), None | Some(b'\n')) => (end + 1).min(data.len()),
            Some(b'\n') | None => end,
            Some(_) => return (Err(Damaged::TextBehindQuote(count)), end),
        };
        fields.margins.tail = &data[tail_start..(line_end + 1).min(data.len())];
        let result = match count {
            FIELDS if line_end == data.len() && data.last() == Some(&b',') => Err(Damaged::EndsAtComma),
            FIELDS => Ok(fields),
            _ => Err(Damaged::FieldCount(count)),
        };
        return (result, line_end);
    }
}

/// What was measured, by the first record of `data`, which begins with the head of `margins`; and the bytes of the record
/// with its line end. `None` if it has another tail, or must be looked at closely.
pub(super) fn split_between<'a>(data: &'a [u8], margins: Margins<'_>) -> Option<(Measured<'a>, usize)> {
    let mut fields = Measured::default();
    let mut at = margins.head.len();
    for measured in &mut fields {
        let Field { bytes, escaped, end } = field(data, at)?;
        if escaped || data.get(end) != Some(&b',') {
            return None;
        }
        *measured = bytes;
        at = end + 1;
    }
    data[at..].starts_with(margins.tail).then_some((fields, at + margins.tail.len()))
}

struct Field<'a> {
    /// Without its quotes.
    bytes: &'a [u8],
    /// Whether it holds doubled quotes.
    escaped: bool,
    /// Where the byte is that must end it.
    end: usize,
}

/// The field of `data` that starts at `at`; `None` if its quote is never closed.
#[inline]
fn field(data: &[u8], at: usize) -> Option<Field<'_>> {
    if data.get(at) == Some(&b'"') {
        let (close, escaped) = closing_quote(data, at + 1)?;
        return Some(Field { bytes: &data[at + 1..close], escaped, end: close + 1 });
    }
    let length = data[at..].iter().position(|byte| matches!(byte, b',' | b'\n')).unwrap_or(data.len() - at);
    let end = at + length;
    let bytes = &data[at..end];
    let at_line_end = data.get(end) != Some(&b',');
    let bytes = match bytes.strip_suffix(b"\r") {
        Some(text) if at_line_end => text,
        _ => bytes,
    };
    Some(Field { bytes, escaped: false, end })
}

/// Where the quote is that closes the field starting at `at`, and whether it holds doubled ones.
fn closing_quote(data: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        let quote = find(data, at, b'"')?;
        if data.get(quote + 1) != Some(&b'"') {
            return Some((quote, escaped));
        }
        escaped = true;
        at = quote + 2;
    }
}

/// Where `wanted` stands first, from `at` on. Looks at eight bytes at a time, for most fields are about as long.
fn find(data: &[u8], mut at: usize, wanted: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    while let Some(word) = data[at..].first_chunk() {
        // A byte that is wanted becomes zero. Of zero bytes the lowest is the first to borrow, into its top bit.
        let word = u64::from_le_bytes(*word) ^ u64::from_ne_bytes([wanted; 8]);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    data[at..].iter().position(|byte| *byte == wanted).map(|index| at + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thirteen fields, the first of which is given.
    fn row(first: &str) -> String {
        format!("{first},2,3,4,5,6,7,8,9,10,11,12,13")
    }

    fn first_fields(data: &str) -> Vec<(u64, Result<String, String>)> {
        let mut records = records(data.as_bytes());
        let mut found = Vec::new();
        while let Some(record) = records.next() {
            let line = records.line(&record);
            let first = record.fields.map(|fields| String::from_utf8(fields.unescape()[0].to_vec()).unwrap());
            found.push((line, first.map_err(|damage| damage.to_string())));
        }
        found
    }

    #[test]
    fn quotes_commas_and_line_breaks_are_read_as_rfc_4180_says() {
        let data = [
            row(r#""a,b""#),
            row(r#""say ""hi""""#),
            row("\"two\nlines\""),
            row("plain \"quote\""),
            row("\"\""),
        ]
        .join("\r\n");
        let ok = |line: u64, text: &str| (line, Ok(text.to_owned()));
        assert_eq!(
            first_fields(&data),
            [ok(1, "a,b"), ok(2, "say \"hi\""), ok(3, "two\nlines"), ok(5, "plain \"quote\""), ok(6, "")]
        );
    }

    #[test]
    fn line_ends_belong_to_no_field() {
        for end in ["", "\n", "\r\n", "\r"] {
            let quoted = format!("{},\"13\"{end}", row("1").rsplit_once(',').unwrap().0);
            for data in [row("1") + end, quoted] {
                let records: Vec<_> = records(data.as_bytes()).collect();
                assert_eq!(records.len(), 1, "{data:?}");
                let fields = records[0].fields.as_ref().unwrap();
                assert_eq!(fields.plain().unwrap()[12], b"13", "{data:?}");
            }
        }
    }

    #[test]
    fn blank_lines_and_a_byte_order_mark_are_no_records() {
        let data = format!("\u{feff}\n  \r\n{}\n\n\n", row("1"));
        assert_eq!(first_fields(&data), [(3, Ok("1".to_owned()))]);
        assert_eq!(records(b"").count(), 0);
    }

    #[test]
    fn a_damaged_record_costs_one_line() {
        let data = format!("{}\n\"open,2\n{}\na,b\n{}\n", row("1"), row("\"3\""), row("5"));
        assert_eq!(
            first_fields(&data),
            [
                (1, Ok("1".to_owned())),
                (2, Err("field 1 has text behind its closing quote".to_owned())),
                (3, Ok("3".to_owned())),
                (4, Err("2 fields, expected 13".to_owned())),
                (5, Ok("5".to_owned())),
            ]
        );
    }

    #[test]
    fn a_quote_that_never_closes_is_damage() {
        let data = format!("{}\n\"41.7\",\"-12", row("1"));
        let cut = Err("field 2 has a quote that is never closed".to_owned());
        assert_eq!(first_fields(&data)[1], (2, cut));
    }

    #[test]
    fn an_empty_last_field_needs_an_end_to_be_believed() {
        let rest = "1,2,3,4,5,6,7,8,9,10,11,12,";
        let first = |end: &str| first_fields(&format!("{rest}{end}")).remove(0).1;
        assert_eq!(first("\n"), Ok("1".to_owned()));
        assert_eq!(first("\"\""), Ok("1".to_owned()));
        let cut = "ends behind a comma at the end of the file";
        assert_eq!(first(""), Err(cut.to_owned()));
    }

    #[test]
    fn too_many_fields_are_counted() {
        let data = row("1") + ",\"14\",15";
        let many = Err("15 fields, expected 13".to_owned());
        assert_eq!(first_fields(&data), [(1, many)]);
    }
}
