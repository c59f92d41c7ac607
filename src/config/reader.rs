//! Single values of the tree: each is read or its problem is noted with its key, and reading goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::json::Json;
use super::limits::Bound;
use super::names::Word;
use super::problem::nearest;
use super::{Problem, WEIGHT_RANGE};
use crate::day::Day;
use crate::error::shown;

/// Characters of an id or a name.
const NAME_LENGTH: usize = 64;

/// Reads values of one file and collects what is wrong with them.
pub(super) struct Reader<'a> {
    file: &'a str,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// The values of an object by key.
pub(super) type Fields<'j> = BTreeMap<&'j str, &'j Json>;

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Reader { file, problems: Vec::new(), warnings: Vec::new() }
    }

    /// The file that is read.
    pub(super) fn file(&self) -> &str {
        self.file
    }

    pub(super) fn problem(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem::new(self.file, key, what));
    }

    pub(super) fn warn(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.warnings.push(Problem::new(self.file, key, what));
    }

    /// The optional key `weight` of an object.
    pub(super) fn weight(&mut self, key: &str, fields: &Fields) -> f64 {
        let weight = fields.get("weight").and_then(|json| self.weight_of(&join(key, "weight"), json));
        weight.unwrap_or(1.0)
    }

    pub(super) fn weight_of(&mut self, key: &str, json: &Json) -> Option<f64> {
        let (least, most) = WEIGHT_RANGE;
        let weight = match json {
            Json::Whole(value) => Some(*value as f64),
            Json::Negative(value) => Some(*value as f64),
            Json::Number(value) => Some(*value),
            _ => None,
        };
        let allowed = format!("must be a number between {least} and {most}, both inclusive");
        match weight {
            Some(weight) if (least..=most).contains(&weight) => return Some(weight),
            Some(_) => self.problem(key, format!("weight {json} out of range: {allowed}")),
            None => self.problem(key, format!("weight is {json}: {allowed}")),
        }
        None
    }

    pub(super) fn day(&mut self, key: &str, noun: &str, json: &Json) -> Option<Day> {
        let day = match json {
            Json::Whole(number) => Day::from_number(*number),
            Json::Text(text) => text.parse(),
            other => {
                self.problem(key, format!("{noun} is {other}: must be a day written YYYYMMDD"));
                return None;
            }
        };
        day.map_err(|invalid| self.problem(key, format!("{noun} {invalid}"))).ok()
    }

    pub(super) fn host(&mut self, key: &str, json: &Json) -> Option<String> {
        let text = self.text(key, "host", json)?;
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let is_address = bare.parse::<Ipv6Addr>().is_ok() || text.parse::<Ipv4Addr>().is_ok();
        let is_name = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if is_address || is_name {
            return Some(if is_name { text } else { bare }.to_owned());
        }
        self.problem(key, format!("host `{}` is neither an IP address nor a host name", shown(text)));
        None
    }

    pub(super) fn name(&mut self, key: &str, noun: &str, json: &Json) -> Option<String> {
        let text = self.text(key, noun, json)?;
        self.check_name(key, noun, text).then(|| text.to_owned())
    }

    /// Ids and names stand in hops, metrics and messages, where blanks would make them ambiguous.
    pub(super) fn check_name(&mut self, key: &str, noun: &str, text: &str) -> bool {
        let length = text.chars().count();
        let usable = (1..=NAME_LENGTH).contains(&length)
            && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control());
        if !usable {
            self.problem(
                key,
                format!(
                    "{noun} `{}` is unusable: must have 1 to {NAME_LENGTH} characters without blanks",
                    shown(text)
                ),
            );
        }
        usable
    }

    pub(super) fn word<T: Word>(&mut self, key: &str, json: &Json) -> Option<T> {
        let text = self.text(key, T::NOUN, json)?;
        let word = T::WORDS.iter().copied().find(|word| word.word() == text);
        if word.is_none() {
            let words: Vec<&str> = T::WORDS.iter().map(|word| word.word()).collect();
            let (noun, text, words) = (T::NOUN, shown(text), words.join(", "));
            self.problem(key, format!("unknown {noun} `{text}`: must be one of {words}"));
        }
        word
    }

    pub(super) fn whole(&mut self, key: &str, bound: &Bound, json: &Json) -> Option<u64> {
        let Bound { key: noun, least, most } = bound;
        match json {
            Json::Whole(value) if (least..=most).contains(&value) => return Some(*value),
            Json::Whole(_) | Json::Negative(_) => self.problem(
                key,
                format!("{noun} {json} out of range: must be between {least} and {most}, both inclusive"),
            ),
            other => self.problem(
                key,
                format!(
                    "{noun} is {other}: must be a whole number between {least} and {most}, both inclusive"
                ),
            ),
        }
        None
    }

    pub(super) fn text<'j>(&mut self, key: &str, noun: &str, json: &'j Json) -> Option<&'j str> {
        if let Json::Text(text) = json {
            return Some(text);
        }
        self.problem(key, format!("{noun} is {json}: must be a text"));
        None
    }

    pub(super) fn array<'j>(&mut self, key: &str, noun: &str, json: &'j Json) -> Option<&'j [Json]> {
        if let Json::Array(items) = json {
            return Some(items);
        }
        self.problem(key, format!("{noun} is {json}: must be an array"));
        None
    }

    /// An object whose keys are known beforehand.
    pub(super) fn object<'j>(
        &mut self,
        key: &str,
        noun: &str,
        json: &'j Json,
        known: &[&str],
    ) -> Option<Fields<'j>> {
        let entries = self.entries(key, noun, json)?;
        for (name, _) in &entries {
            if !known.contains(name) {
                let advice = match nearest(name, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("keys are {}", known.join(", ")),
                };
                self.problem(join(key, name), format!("unknown key `{}`: {advice}", shown(name)));
            }
        }
        Some(entries.into_iter().collect())
    }

    /// An object whose keys are names; of a key written twice the first counts.
    pub(super) fn entries<'j>(
        &mut self,
        key: &str,
        noun: &str,
        json: &'j Json,
    ) -> Option<Vec<(&'j str, &'j Json)>> {
        let Json::Object(entries) = json else {
            self.problem(key, format!("{noun} is {json}: must be an object"));
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut first = Vec::new();
        for (name, value) in entries {
            if seen.insert(name) {
                first.push((name.as_str(), value));
            } else {
                self.problem(join(key, name), format!("key `{}` is written twice", shown(name)));
            }
        }
        Some(first)
    }

    pub(super) fn required<'j>(
        &mut self,
        key: &str,
        fields: &Fields<'j>,
        name: &'static str,
    ) -> Option<&'j Json> {
        let json = fields.get(name).copied();
        if json.is_none() {
            self.problem(join(key, name), format!("key `{name}` is missing"));
        }
        json
    }
}

/// The key of `name` inside the value at `key`.
pub(super) fn join(key: &str, name: &str) -> String {
    let name = shown(name);
    if key.is_empty() { name } else { format!("{key}.{name}") }
}
