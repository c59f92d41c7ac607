//! A filter as a JSON object, the way in which people write it: the old contract's `query_params` and the commands of Arrow
//! Flight.
//!
//! Members are taken out one by one, so that those which are left over are the unknown ones. Numbers stay as they were
//! written until they are decimals, so that they are exact.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::day::Day;
use crate::decimal::Decimal;
use crate::error::shown;
use crate::plan::InvalidQuery;
use crate::predicate::{Place, Predicate, Words};

/// The members that were not read yet, each as it was written.
pub(crate) struct Params(BTreeMap<String, Box<RawValue>>);

impl Params {
    /// An empty text stands for no filter; `field` is what the text is called where it comes from.
    ///
    /// # Errors
    /// [`InvalidQuery`] if it is no JSON object.
    pub(crate) fn parse(field: &'static str, text: &str) -> Result<Self, InvalidQuery> {
        if text.trim().is_empty() {
            return Ok(Params(BTreeMap::new()));
        }
        serde_json::from_str(text).map(Params).map_err(|error| {
            let why = match error.classify() {
                serde_json::error::Category::Data => {
                    format!(
                        "{field} is {}: must be a JSON object, such as {{\"parameter\": \"PM2.5\"}}",
                        shown(text.trim())
                    )
                }
                _ => format!("{field} is not JSON: {error}"),
            };
            InvalidQuery::new(field, why)
        })
    }

    /// The keys that nobody has read, in order.
    pub(crate) fn into_unknown(self) -> impl Iterator<Item = String> {
        self.0.into_keys()
    }

    /// Which rows, with the `text` of a search.
    pub(crate) fn predicate(&mut self, text: Option<&str>) -> Result<Predicate, InvalidQuery> {
        let place = Place {
            lat_min: self.degrees("lat_min")?,
            lat_max: self.degrees("lat_max")?,
            lon_min: self.degrees("lon_min")?,
            lon_max: self.degrees("lon_max")?,
        };
        let (min, max) = (self.number("min_value")?, self.number("max_value")?);
        let (parameter, site, agency) = (self.text("parameter")?, self.text("site")?, self.text("agency")?);
        let words = Words {
            parameter: parameter.as_deref(),
            min: min.as_deref(),
            max: max.as_deref(),
            place,
            site: site.as_deref(),
            agency: agency.as_deref(),
            text,
        };
        words.resolve().map_err(|error| InvalidQuery::new(error.field, error.to_string()))
    }

    /// What is computed: `of`, by default the value, and `group_by`, a list of keys or a text with commas.
    pub(crate) fn aggregate(&mut self) -> Result<AggregateSpec, InvalidQuery> {
        let of = self.text("of")?.unwrap_or_else(|| AggregateOf::Value.name().to_owned());
        let of = AggregateOf::from_name(&of)
            .ok_or_else(|| format!("of: unknown `{}` (of: value, raw_concentration, aqi)", shown(&of)))
            .map_err(|why| InvalidQuery::new("of", why))?;
        let mut group_by = Vec::new();
        if let Some(raw) = self.take("group_by") {
            let names: Vec<String> = serde_json::from_str(raw.get())
                .or_else(|_| serde_json::from_str::<String>(raw.get()).map(|text| split(&text)))
                .map_err(|_| {
                    InvalidQuery::new("group_by", "group_by is neither a list of keys nor a text")
                })?;
            for name in names {
                let key = GroupKey::from_name(&name).ok_or_else(|| {
                    let keys = "parameter, site, agency, day, hour, team";
                    let name = shown(&name);
                    InvalidQuery::new("group_by", format!("group_by: unknown `{name}` (keys: {keys})"))
                })?;
                group_by.push(key);
            }
        }
        Ok(AggregateSpec { of, group_by })
    }

    /// Whether a member is there and not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|raw| raw.get() != "null")
    }

    /// Takes a member out; null counts as absent.
    fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        self.0.remove(key).filter(|raw| raw.get() != "null")
    }

    /// A text; a number is taken as it was written. An empty text does not restrict.
    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>, InvalidQuery> {
        let Some(raw) = self.take(key) else {
            return Ok(None);
        };
        match raw.get().as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(raw.get())
                    .map_err(|error| InvalidQuery::new(key, format!("{key} is not a text: {error}")))?;
                Ok((!text.is_empty()).then_some(text))
            }
            Some(b'-' | b'0'..=b'9') => Ok(Some(raw.get().to_owned())),
            _ => {
                let found = shown(raw.get());
                Err(InvalidQuery::new(key, format!("{key} is neither a text nor a number: {found}")))
            }
        }
    }

    /// True or false; false where it is absent.
    pub(crate) fn flag(&mut self, key: &'static str) -> Result<bool, InvalidQuery> {
        match self.take(key) {
            None => Ok(false),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|_| {
                let found = shown(raw.get());
                InvalidQuery::new(key, format!("{key} is neither true nor false: {found}"))
            }),
        }
    }

    /// A number of rows: whole, and not negative.
    pub(crate) fn count(&mut self, key: &'static str) -> Result<Option<u64>, InvalidQuery> {
        let Some(text) = self.number(key)? else {
            return Ok(None);
        };
        let invalid = |why: &str| InvalidQuery::new(key, format!("{key} {}: {why}", shown(&text)));
        let least = Decimal::at_least(&text);
        let least = least.map_err(|error| InvalidQuery::new(key, format!("{key}: {error}")))?;
        if least < Decimal(0) {
            return Err(invalid("must not be negative"));
        }
        whole(&text).map(Some).ok_or_else(|| invalid("must be a whole number"))
    }

    /// A number as it was written.
    fn number(&mut self, key: &'static str) -> Result<Option<String>, InvalidQuery> {
        Ok(self.text(key)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn degrees(&mut self, key: &'static str) -> Result<Option<f64>, InvalidQuery> {
        let Some(text) = self.number(key)? else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(degrees) if degrees.is_finite() => Ok(Some(degrees)),
            _ => Err(InvalidQuery::new(key, format!("{key}: `{}` is not a number", shown(&text)))),
        }
    }

    /// A day, as a text or a number.
    pub(crate) fn day(&mut self, key: &'static str) -> Result<Option<Day>, InvalidQuery> {
        let day = |text: String| match whole(&text) {
            Some(number) => Day::from_number(number),
            None => text.parse(),
        };
        let day = self.number(key)?.map(day).transpose();
        day.map_err(|error| InvalidQuery::new(key, format!("{key}: {error}")))
    }
}

/// A number without a fraction, however it is written: `17`, `17.0`, `1.7e1`.
fn whole(text: &str) -> Option<u64> {
    let rounded = || text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    text.parse().ok().or_else(|| rounded().map(|number| number as u64))
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}
