//! A file's records, read byte by byte, and the rules by which one is a row.
//!
//! The rules are the dataset's: what is accepted here is what a node has to serve, and what is rejected here
//! is what a node has to report with this file and line. Nothing is mended. Nothing is fast either: the
//! loader's ways of being fast are what this is held against.

use super::number::Number;
use super::{AQI, CATEGORY, FIELD_NAMES, PARAMETER, RAW_CONCENTRATION, TIMESTAMP, UNIT, VALUE};

/// Bytes that a field may have.
const FIELD_BYTES: usize = 1024;

/// Thirteen texts in one allocation: the real dataset has a million rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    text: Box<str>,
    ends: [u32; FIELD_NAMES.len()],
}

impl Fields {
    fn new(texts: &[&str; FIELD_NAMES.len()]) -> Fields {
        let mut end = 0;
        let ends = texts.map(|text| {
            end += text.len() as u32;
            end
        });
        Fields { text: texts.concat().into(), ends }
    }

    pub(super) fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start as usize..self.ends[index] as usize]
    }
}

/// Why a record is no row.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("a quote is never closed")]
    OpenQuote,
    #[error("text stands behind a closing quote")]
    TextBehindQuote,
    #[error("the file ends behind a comma")]
    EndsAtComma,
    #[error("{0} fields, 13 expected")]
    FieldCount(usize),
    #[error("{} is not UTF-8", FIELD_NAMES[*.0])]
    Text(usize),
    #[error("{} has more than {FIELD_BYTES} bytes", FIELD_NAMES[*.0])]
    TooLong(usize),
    #[error("{} is blank", FIELD_NAMES[*.0])]
    Blank(usize),
    #[error("`{0}` is no time")]
    Time(String),
    #[error("dated `{0}`, outside its folder")]
    OtherDay(String),
    #[error("{} `{text}` is no number", FIELD_NAMES[*index])]
    Number { index: usize, text: String },
    #[error("{} `{text}` is out of range", FIELD_NAMES[*index])]
    OutOfRange { index: usize, text: String },
}

/// The rows and the rejections of a file, each with the line where it starts, counted from 1.
///
/// Blank lines are nothing, and neither is a first record that is a header. A record that is damaged costs
/// its first line only: what follows may be good.
pub(super) fn read(file: &[u8], day: u32) -> Vec<(u64, Result<Fields, Rejection>)> {
    let mut rest = file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file);
    let (mut read, mut line, mut first) = (Vec::new(), 1, true);
    while !rest.is_empty() {
        let first_line = || rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (fields, length) = match record(rest) {
            Ok((fields, length)) => (Ok(fields), length),
            Err(rejection) => (Err(rejection), first_line()),
        };
        let (bytes, behind) = rest.split_at(length);
        rest = behind;
        let is_blank = bytes.trim_ascii().is_empty();
        if !(is_blank || first && is_header(bytes)) {
            read.push((line, fields.and_then(|fields| accepted(fields, day))));
        }
        first &= is_blank;
        line += bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
    read
}

type Raw = [Vec<u8>; FIELD_NAMES.len()];

/// The fields of the record that `text` starts with, and its length with its line end.
fn record(text: &[u8]) -> Result<(Raw, usize), Rejection> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let (field, end) = if text.get(at) == Some(&b'"') { quoted(text, at + 1)? } else { plain(text, at) };
        fields.push(field);
        if text.get(end) == Some(&b',') {
            at = end + 1;
            continue;
        }
        let Some(line_end) = line_end(&text[end..]) else {
            return Err(Rejection::TextBehindQuote);
        };
        let count = fields.len();
        let fields = Raw::try_from(fields).map_err(|_| Rejection::FieldCount(count))?;
        if at == text.len() {
            return Err(Rejection::EndsAtComma);
        }
        return Ok((fields, end + line_end));
    }
}

/// A field up to its closing quote; doubled quotes stand for one.
fn quoted(text: &[u8], mut at: usize) -> Result<(Vec<u8>, usize), Rejection> {
    let mut field = Vec::new();
    loop {
        let quote = text[at..].iter().position(|&byte| byte == b'"').ok_or(Rejection::OpenQuote)?;
        field.extend_from_slice(&text[at..at + quote]);
        at += quote + 1;
        if text.get(at) != Some(&b'"') {
            return Ok((field, at));
        }
        field.push(b'"');
        at += 1;
    }
}

/// A field up to a comma or a line end.
fn plain(text: &[u8], start: usize) -> (Vec<u8>, usize) {
    let ends_at = |at: &usize| text.get(*at) == Some(&b',') || line_end(&text[*at..]).is_some();
    let end = (start..text.len()).find(ends_at).unwrap_or(text.len());
    (text[start..end].to_vec(), end)
}

/// The length of the line end that `rest` starts with; the end of the file is one of its own.
fn line_end(rest: &[u8]) -> Option<usize> {
    match rest {
        [] => Some(0),
        [b'\n', ..] | [b'\r'] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

fn is_header(record: &[u8]) -> bool {
    let name = record.split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
    let name = name.strip_prefix(b"\"").unwrap_or(name);
    let name = name.strip_suffix(b"\"").unwrap_or(name).trim_ascii();
    name.eq_ignore_ascii_case(b"latitude") || name.eq_ignore_ascii_case(b"lat")
}

fn accepted(raw: Raw, day: u32) -> Result<Fields, Rejection> {
    let mut texts = [""; FIELD_NAMES.len()];
    for (index, bytes) in raw.iter().enumerate() {
        if bytes.len() > FIELD_BYTES {
            return Err(Rejection::TooLong(index));
        }
        texts[index] = std::str::from_utf8(bytes).map_err(|_| Rejection::Text(index))?;
    }
    let time = texts[TIMESTAMP];
    let date = date_of_time(time).ok_or_else(|| Rejection::Time(time.to_owned()))?;
    if date != day.to_string() {
        return Err(Rejection::OtherDay(time.to_owned()));
    }
    for index in [PARAMETER, UNIT] {
        if texts[index].trim().is_empty() {
            return Err(Rejection::Blank(index));
        }
    }
    // A row without a place is no row: -999 is out of range, and empty is no number.
    for (index, limit) in [(0, 90.0), (1, 180.0)] {
        let text = texts[index];
        let number = text.trim().parse::<f64>();
        let degrees = number.map_err(|_| Rejection::Number { index, text: text.to_owned() })?;
        if degrees.is_nan() || degrees.abs() > limit {
            return Err(Rejection::OutOfRange { index, text: text.to_owned() });
        }
    }
    for index in [VALUE, RAW_CONCENTRATION, AQI, CATEGORY] {
        check_number(index, texts[index])?;
    }
    Ok(Fields::new(&texts))
}

/// Empty and -999 are missing. Nine digits before the point and nine behind it are what a node holds exactly.
fn check_number(index: usize, text: &str) -> Result<(), Rejection> {
    if text.trim().is_empty() {
        return Ok(());
    }
    let Some(number) = Number::parse(text) else {
        return Err(Rejection::Number { index, text: text.to_owned() });
    };
    let whole = number.fits(9, 0).then(|| number.to_integer());
    let in_range = match index {
        _ if whole == Some(-999) => true,
        AQI => whole.is_some_and(|aqi| (0..=32_767).contains(&aqi)),
        CATEGORY => whole.is_some_and(|category| (1..=6).contains(&category)),
        _ => number.fits(9, 9),
    };
    match in_range {
        true => Ok(()),
        false => Err(Rejection::OutOfRange { index, text: text.to_owned() }),
    }
}

/// `YYYYMMDD` of a time `YYYY-MM-DDTHH:MM`.
fn date_of_time(time: &str) -> Option<String> {
    let shape: String =
        time.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    let in_range = |range, limit| {
        time.get(range).and_then(|text: &str| text.parse::<u8>().ok()).is_some_and(|number| number < limit)
    };
    let is_time = shape == "0000-00-00T00:00" && in_range(11..13, 24) && in_range(14..16, 60);
    is_time.then(|| format!("{}{}{}", &time[..4], &time[5..7], &time[8..10]))
}
