//! Every parameter of every path, in one table: it reads what was asked, is named by errors, and documents itself.
//!
//! Names are those of the command line (`overlay query --help`). An empty value says as little as an absent one, since forms
//! send fields that nobody has filled in.

use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::config::{Chunking, Limits};
use crate::day::Day;
use crate::decimal::Decimal;
use crate::error::shown;
use crate::frame::Encoding;
use crate::plan::{ChunkingChoice, InvalidQuery, Query, STREAMED_CHUNK_ROWS};
use crate::predicate::{Place, Predicate, Words};
use crate::rows::Format;
use crate::service::requests;

/// Of a path that answers rows.
pub(super) const OF_ROWS: &[&str] = &[
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "limit",
    "chunking",
    "chunk-rows",
    "partial",
    "format",
    "timeout_ms",
];

/// Of one that answers groups.
pub(super) const OF_GROUPS: &[&str] = &[
    "of",
    "group_by",
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "limit",
    "partial",
    "format",
    "timeout_ms",
];

/// Of one that runs nothing.
pub(super) const OF_EXPLANATION: &[&str] = &[
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "limit",
    "timeout_ms",
];

/// Of a map.
pub(super) const OF_MAP: &[&str] = &[
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "hour",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "partial",
    "timeout_ms",
];

/// Of the hours of a day, for who colours a map himself.
pub(super) const OF_HOURS: &[&str] =
    &["parameter", "min", "max", "from", "bbox", "team", "site", "agency", "search", "partial", "timeout_ms"];

/// Of a time series.
pub(super) const OF_SERIES: &[&str] = &[
    "of",
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "partial",
    "timeout_ms",
];

/// Of a plan and what became of it.
pub(super) const OF_COVERAGE: &[&str] = &[
    "parameter",
    "min",
    "max",
    "from",
    "to",
    "bbox",
    "team",
    "site",
    "agency",
    "search",
    "limit",
    "partial",
    "timeout_ms",
];

/// What a picture shows where nothing is said: smoke.
const SHOWN_PARAMETER: &str = "PM2.5";

/// Rows of a chunk that is only drawn, as far as `limits.chunk_bytes` allows them.
const PICTURE_CHUNK_ROWS: u32 = 20_000;

/// One parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// One line for the document.
    pub(super) about: &'static str,
    /// An example that is answered.
    pub(super) example: &'static str,
    /// What it may be, as JSON Schema.
    pub(super) schema: fn() -> Value,
    /// Keeps what it says; what is wrong with it else, in words.
    read: fn(&mut Asked, &str) -> Result<(), String>,
}

/// What was asked.
#[derive(Default)]
pub(super) struct Asked {
    parameter: Option<String>,
    min: Option<String>,
    max: Option<String>,
    from: Option<Day>,
    to: Option<Day>,
    place: Place,
    team: Option<String>,
    site: Option<String>,
    agency: Option<String>,
    search: Option<String>,
    limit: Option<u64>,
    chunking: ChunkingChoice,
    partial: bool,
    of: Option<AggregateOf>,
    group_by: Vec<GroupKey>,
    format: Option<Format>,
    timeout: Option<Duration>,
    hour: Option<u8>,
    brief: bool,
}

/// Every parameter.
pub(super) const PARAMETERS: [Parameter; 20] = [
    Parameter {
        name: "parameter",
        about: "A parameter, such as PM2.5 or OZONE, in any letter case; absent: every parameter, and PM2.5 in pictures",
        example: "PM2.5",
        schema: text,
        read: |asked, value| set(&mut asked.parameter, Ok(value.to_owned())),
    },
    Parameter {
        name: "min",
        about: "The smallest concentration, inclusive and exact",
        example: "5",
        schema: decimal,
        read: |asked, value| set(&mut asked.min, bound(value)),
    },
    Parameter {
        name: "max",
        about: "The largest concentration, inclusive and exact",
        example: "35",
        schema: decimal,
        read: |asked, value| set(&mut asked.max, bound(value)),
    },
    Parameter {
        name: "from",
        about: "First day",
        example: "20200815",
        schema: day,
        read: |asked, value| set(&mut asked.from, value.parse().map_err(in_words)),
    },
    Parameter {
        name: "to",
        about: "Last day, inclusive",
        example: "20200824",
        schema: day,
        read: |asked, value| set(&mut asked.to, value.parse().map_err(in_words)),
    },
    Parameter {
        name: "bbox",
        about: "Only sites inside these degrees: MINLON,MINLAT,MAXLON,MAXLAT",
        example: "-124.5,32,-114,42",
        schema: bbox,
        read: |asked, value| Place::from_bbox(value).map(|place| asked.place = place),
    },
    Parameter {
        name: "team",
        about: "Only days of this team",
        example: "green",
        schema: text,
        read: |asked, value| {
            let named = requests::id("team", value).map(|()| value.to_owned());
            set(&mut asked.team, named.map_err(in_words))
        },
    },
    Parameter {
        name: "site",
        about: "Only sites with this in their name, in any letter case",
        example: "yosemite",
        schema: text,
        read: |asked, value| set(&mut asked.site, Ok(value.to_owned())),
    },
    Parameter {
        name: "agency",
        about: "Only agencies with this in their name, in any letter case",
        example: "california",
        schema: text,
        read: |asked, value| set(&mut asked.agency, Ok(value.to_owned())),
    },
    Parameter {
        name: "search",
        about: "Only rows with this in the name of site or agency, in any letter case",
        example: "yosemite",
        schema: text,
        read: |asked, value| set(&mut asked.search, Ok(value.to_owned())),
    },
    Parameter {
        name: "limit",
        about: "The first N rows, or groups of an aggregate; absent: all",
        example: "1000",
        schema: count,
        read: |asked, value| set(&mut asked.limit, whole(value, "a number of rows")),
    },
    Parameter {
        name: "chunking",
        about: "How the stream is cut; absent: as the node is configured",
        example: "adaptive",
        schema: || one_of(&each(Chunking::ALL, |chunking| chunking.name())),
        read: |asked, value| {
            let named = named(value, &each(Chunking::ALL, |chunking| (chunking.name(), chunking)));
            set(&mut asked.chunking.strategy, named)
        },
    },
    Parameter {
        name: "chunk-rows",
        about: "Rows of a fixed chunk; absent: 10000",
        example: "500",
        schema: count_u32,
        read: |asked, value| set(&mut asked.chunking.chunk_rows, whole(value, "a number of rows")),
    },
    Parameter {
        name: "partial",
        about: "Take what there is when days cannot be reached; the header overlay-missing-days names them",
        example: "true",
        schema: || json!({"type": "boolean", "default": false}),
        read: |asked, value| {
            named(value, &[("true", true), ("false", false)]).map(|flag| asked.partial = flag)
        },
    },
    Parameter {
        name: "of",
        about: "The column that is aggregated",
        example: "value",
        schema: || one_of(&each(&AggregateOf::ALL, AggregateOf::name)),
        read: |asked, value| set(&mut asked.of, named(value, &each(&AggregateOf::ALL, |of| (of.name(), of)))),
    },
    Parameter {
        name: "group_by",
        about: "Group by these keys, in this order, with commas between them; absent: one group",
        example: "site,day",
        schema: || {
            let keys = one_of(&each(&GroupKey::ALL, GroupKey::name));
            json!({"type": "array", "items": keys, "minItems": 1, "uniqueItems": true})
        },
        read: |asked, value| {
            let key = |word: &str| named(word.trim(), &each(&GroupKey::ALL, |key| (key.name(), key)));
            value.split(',').map(key).collect::<Result<_, _>>().map(|keys| asked.group_by = keys)
        },
    },
    Parameter {
        name: "format",
        about: "How the answer is written",
        example: "ndjson",
        schema: || one_of(&each(&Format::ALL, Format::name)),
        read: |asked, value| {
            set(&mut asked.format, named(value, &each(&Format::ALL, |format| (format.name(), format))))
        },
    },
    Parameter {
        name: "timeout_ms",
        about: "Milliseconds that the whole answer may take; absent: limits.query_ms for the query, and for each chunk",
        example: "5000",
        schema: count_u32,
        read: |asked, value| {
            let time = whole(value, "a number of milliseconds");
            set(&mut asked.timeout, time.map(|milliseconds: u32| Duration::from_millis(milliseconds.into())))
        },
    },
    Parameter {
        name: "hour",
        about: "The hour that a map shows, UTC; absent: the highest of all",
        example: "19",
        schema: || json!({"type": "integer", "minimum": 0, "maximum": 23}),
        read: |asked, value| {
            let hour = value.parse().ok().filter(|hour| *hour < 24);
            set(
                &mut asked.hour,
                hour.ok_or_else(|| format!("`{}` is not an hour: 0 to 23 is expected", shown(value))),
            )
        },
    },
    Parameter {
        name: "brief",
        about: "Leave out the list of days of each node",
        example: "true",
        schema: || json!({"type": "boolean", "default": false}),
        read: |asked, value| named(value, &[("true", true), ("false", false)]).map(|flag| asked.brief = flag),
    },
];

impl Asked {
    /// Reads the query of a URL, which may have the parameters `known`.
    ///
    /// # Errors
    /// [`InvalidQuery`] that names the parameter, what it holds and what it may hold.
    pub(super) fn parse(query: &str, known: &[&'static str], limits: &Limits) -> Result<Self, InvalidQuery> {
        let (found, most) = (query.len(), limits.filter_bytes);
        if found > most {
            let why = format!("the query of the URL has {found} bytes, limit {most} (limits.filter_bytes)");
            return Err(InvalidQuery::new("query", why));
        }
        let is_text = |pair: &&str| percent_decode_str(pair).decode_utf8().is_ok();
        if let Some(pair) = query.split('&').find(|pair| !is_text(pair)) {
            let why = format!("`{}` is not text: what is percent-encoded must be UTF-8", shown(pair));
            return Err(InvalidQuery::new("query", why));
        }
        let (mut asked, mut seen) = (Asked::default(), Vec::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name);
            let Some(parameter) = parameter.filter(|parameter| known.contains(&parameter.name)) else {
                return Err(unknown(&name, known));
            };
            let invalid = |why| InvalidQuery::new(parameter.name, why);
            if seen.contains(&parameter.name) {
                return Err(invalid(format!("{name} comes twice")));
            }
            seen.push(parameter.name);
            if !value.is_empty() {
                (parameter.read)(&mut asked, &value).map_err(|why| invalid(format!("{name}: {why}")))?;
            }
        }
        Ok(asked)
    }

    /// The query for rows.
    pub(super) fn rows(&self) -> Result<Query, InvalidQuery> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from > to
        {
            return Err(InvalidQuery::new("from", format!("from {from} is after to {to}, both inclusive")));
        }
        Ok(Query {
            predicate: self.predicate()?,
            date_start: self.from,
            date_end: self.to,
            team: self.team.clone(),
            limit: self.limit,
            encoding: self.format().encoding(),
            chunking: ChunkingChoice {
                chunk_rows: self.chunking.chunk_rows.or(Some(STREAMED_CHUNK_ROWS)),
                ..self.chunking
            },
            allow_partial: self.partial,
            ..Query::default()
        })
    }

    /// The query for groups.
    pub(super) fn groups(&self) -> Result<Query, InvalidQuery> {
        let of = self.of.unwrap_or(AggregateOf::Value);
        let aggregate = Some(AggregateSpec { of, group_by: self.group_by.clone() });
        Ok(Query { aggregate, ..self.rows()? })
    }

    /// The query for a picture of rows, which is of one parameter.
    pub(super) fn picture(&self) -> Result<Query, InvalidQuery> {
        let parameter = Some(self.shown_parameter());
        let predicate = self.predicate_of(parameter)?;
        // Nobody waits for a first screen: few large chunks come sooner than many small ones.
        let chunking = ChunkingChoice {
            strategy: Some(Chunking::Fixed),
            chunk_rows: Some(PICTURE_CHUNK_ROWS),
            chunk_bytes: None,
        };
        Ok(Query { predicate, encoding: Encoding::Arrow, limit: None, chunking, ..self.rows()? })
    }

    /// The query for a picture of every hour.
    pub(super) fn series(&self) -> Result<Query, InvalidQuery> {
        let aggregate = AggregateSpec { of: self.series_of(), group_by: vec![GroupKey::Day, GroupKey::Hour] };
        Ok(Query { aggregate: Some(aggregate), ..self.picture()? })
    }

    /// What that one is of.
    pub(super) fn series_of(&self) -> AggregateOf {
        self.of.unwrap_or(AggregateOf::Aqi)
    }

    /// What a picture is of.
    pub(super) fn shown_parameter(&self) -> &str {
        self.parameter.as_deref().unwrap_or(SHOWN_PARAMETER)
    }

    /// What selects the sites of a picture, in words; empty if nothing does.
    pub(super) fn shown_sites(&self) -> String {
        let texts = [("site", &self.site), ("agency", &self.agency), ("site or agency", &self.search)];
        let said = texts
            .into_iter()
            .filter_map(|(what, text)| Some(format!("{what} with `{}`", shown(text.as_deref()?))));
        said.collect::<Vec<_>>().join(", ")
    }

    /// The hour that a map shows; `None`: the highest of all.
    pub(super) fn hour(&self) -> Option<u8> {
        self.hour
    }

    /// Whether the days of nodes are left out.
    pub(super) fn is_brief(&self) -> bool {
        self.brief
    }

    /// The team whose days alone are wanted.
    pub(super) fn team(&self) -> Option<&str> {
        self.team.as_deref()
    }

    /// How the answer is written.
    pub(super) fn format(&self) -> Format {
        self.format.unwrap_or(Format::Ndjson)
    }

    /// How long it may take.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn predicate(&self) -> Result<Predicate, InvalidQuery> {
        self.predicate_of(self.parameter.as_deref())
    }

    fn predicate_of(&self, parameter: Option<&str>) -> Result<Predicate, InvalidQuery> {
        let words = Words {
            parameter,
            min: self.min.as_deref(),
            max: self.max.as_deref(),
            place: self.place,
            site: self.site.as_deref(),
            agency: self.agency.as_deref(),
            text: self.search.as_deref(),
        };
        // Whatever is wrong with one of them alone is known already.
        words.resolve().map_err(|_| {
            InvalidQuery::new("min", format!("min {} is above max {}", given(&self.min), given(&self.max)))
        })
    }
}

fn unknown(name: &str, known: &[&str]) -> InvalidQuery {
    let name = shown(name);
    let why = match known.is_empty() {
        true => format!("unknown parameter `{name}`: none is taken here"),
        false => format!("unknown parameter `{name}` (parameters: {})", known.join(", ")),
    };
    InvalidQuery::new("query", why)
}

fn set<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *place = Some(value))
}

fn given(bound: &Option<String>) -> String {
    bound.as_deref().map(shown).unwrap_or_default()
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}

/// Kept as written, so that bounds can be compared as they are written.
fn bound(value: &str) -> Result<String, String> {
    Decimal::at_least(value).map(|_| value.to_owned()).map_err(in_words)
}

/// Not zero.
fn whole<T: FromStr + Default + PartialEq>(value: &str, what: &str) -> Result<T, String> {
    let number = value.parse().ok().filter(|number| *number != T::default());
    number.ok_or_else(|| format!("`{}` is not {what}: 1 or more is expected", shown(value)))
}

fn named<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    chosen.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("unknown `{}` (choices: {})", shown(value), names.join(", "))
    })
}

fn each<T: Copy, U>(all: &[T], of: impl Fn(T) -> U) -> Vec<U> {
    all.iter().copied().map(of).collect()
}

fn text() -> Value {
    json!({"type": "string"})
}

fn decimal() -> Value {
    json!({"type": "number"})
}

/// Exactly the dates that exist.
fn day() -> Value {
    const DAYS_31: &str = "(0[13578]|1[02])(0[1-9]|[12][0-9]|3[01])";
    const DAYS_30: &str = "(0[469]|11)(0[1-9]|[12][0-9]|30)";
    const DAYS_28: &str = "02(0[1-9]|1[0-9]|2[0-8])";
    const FOURTH: &str = "(0[48]|[2468][048]|[13579][26])";
    let in_years = format!("(?!0000)[0-9]{{4}}({DAYS_31}|{DAYS_30}|{DAYS_28})");
    let in_leap_years = format!("([0-9]{{2}}{FOURTH}|{FOURTH}00)0229");
    json!({"type": "string", "pattern": format!("^({in_years}|{in_leap_years})$")})
}

fn bbox() -> Value {
    let degrees = |most: u32| json!({"type": "number", "minimum": -f64::from(most), "maximum": most});
    let corners = [degrees(180), degrees(90), degrees(180), degrees(90)];
    json!({"type": "array", "prefixItems": corners, "items": false, "minItems": 4, "maxItems": 4})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 1})
}

fn count_u32() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})
}

fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_every_name_beside_those_of_others() {
        let names = crate::readme("### Names side by side");
        let is_there = |parameter: &Parameter| names.contains(&format!("`{}`", parameter.name));
        assert_eq!(
            PARAMETERS.iter().find(|parameter| !is_there(parameter)).map(|lacking| lacking.name),
            None
        );
    }
}
