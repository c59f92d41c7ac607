//! A result's proof as a JSON file: what was asked, what became of each day, which bytes came.
//!
//! Hashes are 32 hexadecimal digits, days YYYYMMDD. Bounds and degrees are texts, so that they come back exact.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::output::Output;
use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::client::QueryResult;
use crate::coverage::{Entry, Outcome, Served};
use crate::day::Day;
use crate::frame::Encoding;
use crate::plan::Query;
use crate::predicate::{Place, Predicate, Words};
use crate::verb::Frame;

/// What this code writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// What a proof file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proof {
    overlay_proof: u32,
    /// Who answered.
    pub(super) node: String,
    pub(super) uid: String,
    /// The query as a sentence, for whoever reads the file.
    words: String,
    query: QueryRecord,
    encoding: String,
    /// The days that the ledger has to account for.
    planned_days: Vec<String>,
    ledger: Vec<EntryRecord>,
    pub(super) total_records: u64,
    pub(super) chunk_rows: Vec<u32>,
    pub(super) frames: Vec<FrameRecord>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryRecord {
    parameter: Option<String>,
    min_value: Option<String>,
    max_value: Option<String>,
    lat_min: Option<String>,
    lat_max: Option<String>,
    lon_min: Option<String>,
    lon_max: Option<String>,
    site: Option<String>,
    agency: Option<String>,
    text: Option<String>,
    date_start: Option<String>,
    date_end: Option<String>,
    team: Option<String>,
    limit: Option<u64>,
    aggregate: Option<AggregateRecord>,
    allow_partial: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AggregateRecord {
    of: String,
    group_by: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct EntryRecord {
    day: String,
    team: String,
    #[serde(flatten)]
    outcome: OutcomeRecord,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum OutcomeRecord {
    Served { node: String, attempt: u32, version: String, rows_matched: u64, rows_taken: u64 },
    Pruned { by: String, version: String },
    NoData { node: String },
    BeyondLimit,
    Missing { why: String, nodes_tried: Vec<String> },
}

/// One frame that came, without its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrameRecord {
    pub(super) chunk: u32,
    /// Absent in an aggregate.
    pub(super) day: Option<String>,
    pub(super) version: String,
    pub(super) first_row: u64,
    pub(super) rows: u32,
    pub(super) digest: String,
    pub(super) node: String,
}

impl FrameRecord {
    /// The record of one frame of chunk `chunk`.
    pub(crate) fn new(chunk: u32, frame: &Frame) -> Self {
        FrameRecord {
            chunk,
            day: frame.day.map(|day| day.to_string()),
            version: frame.version.to_string(),
            first_row: frame.first_row,
            rows: frame.rows,
            digest: frame.digest.to_string(),
            node: frame.node.to_string(),
        }
    }
}

impl Proof {
    /// The proof of a result whose frames are still to come.
    pub(crate) fn new(node: &str, query: &Query, result: &QueryResult) -> Self {
        Proof {
            overlay_proof: FORMAT,
            node: node.to_owned(),
            uid: result.uid.clone(),
            words: query.to_string(),
            query: QueryRecord::new(query),
            encoding: encoding_name(result.encoding()).to_owned(),
            planned_days: result.ledger.iter().map(|entry| entry.day.to_string()).collect(),
            ledger: result.ledger.iter().map(EntryRecord::new).collect(),
            total_records: result.manifest.total_records,
            chunk_rows: result.manifest.chunk_rows.clone(),
            frames: Vec::new(),
        }
    }

    /// Writes the file, whole or not at all: a line for each day and for each frame.
    pub(crate) fn write(&self, name: &Path) -> io::Result<()> {
        let mut out = Output::file(name)?;
        serde_json::to_writer_pretty(&mut out, self)?;
        out.write_all(b"\n")?;
        out.finish()
    }

    /// Reads what [`Proof::write`] wrote.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let proof: Proof = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match proof.overlay_proof {
            FORMAT => Ok(proof),
            other => Err(format!("overlay_proof {other}, this version reads {FORMAT}")),
        }
    }

    /// What was asked.
    pub(crate) fn query(&self) -> Result<Query, String> {
        let mut query = self.query.value().map_err(|error| format!("query: {error}"))?;
        query.encoding = [Encoding::Arrow, Encoding::Json, Encoding::JsonLegacy]
            .into_iter()
            .find(|encoding| encoding_name(*encoding) == self.encoding)
            .ok_or_else(|| format!("unknown encoding `{}`", self.encoding))?;
        Ok(query)
    }

    /// The planned days.
    pub(crate) fn planned_days(&self) -> Result<Vec<Day>, String> {
        self.planned_days.iter().map(|day| parsed(day)).collect()
    }

    /// The coverage ledger.
    pub(crate) fn ledger(&self) -> Result<Vec<Entry>, String> {
        self.ledger.iter().map(EntryRecord::value).collect()
    }
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Arrow => "arrow",
        Encoding::Json => "json",
        Encoding::JsonLegacy => "json_legacy",
    }
}

/// A day, hash or number from its text.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl QueryRecord {
    fn new(query: &Query) -> Self {
        fn text(value: Option<impl ToString>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        let Predicate { parameter, min, max, place, site, agency, text: search } = query.predicate.clone();
        QueryRecord {
            parameter,
            min_value: text(min),
            max_value: text(max),
            lat_min: text(place.lat_min),
            lat_max: text(place.lat_max),
            lon_min: text(place.lon_min),
            lon_max: text(place.lon_max),
            site,
            agency,
            text: search,
            date_start: text(query.date_start),
            date_end: text(query.date_end),
            team: query.team.clone(),
            limit: query.limit,
            aggregate: query.aggregate.as_ref().map(|spec| AggregateRecord {
                of: spec.of.name().to_owned(),
                group_by: spec.group_by.iter().map(|key| key.name().to_owned()).collect(),
            }),
            allow_partial: query.allow_partial,
        }
    }

    fn value(&self) -> Result<Query, String> {
        let degrees = |text: &Option<String>| text.as_deref().map(parsed::<f64>).transpose();
        let day = |text: &Option<String>| text.as_deref().map(parsed::<Day>).transpose();
        let place = Place {
            lat_min: degrees(&self.lat_min)?,
            lat_max: degrees(&self.lat_max)?,
            lon_min: degrees(&self.lon_min)?,
            lon_max: degrees(&self.lon_max)?,
        };
        let words = Words {
            parameter: self.parameter.as_deref(),
            min: self.min_value.as_deref(),
            max: self.max_value.as_deref(),
            place,
            site: self.site.as_deref(),
            agency: self.agency.as_deref(),
            text: self.text.as_deref(),
        };
        Ok(Query {
            predicate: words.resolve().map_err(|error| error.to_string())?,
            date_start: day(&self.date_start)?,
            date_end: day(&self.date_end)?,
            team: self.team.clone(),
            limit: self.limit,
            aggregate: self.aggregate.as_ref().map(AggregateRecord::value).transpose()?,
            allow_partial: self.allow_partial,
            ..Query::default()
        })
    }
}

impl AggregateRecord {
    fn value(&self) -> Result<AggregateSpec, String> {
        let of = AggregateOf::from_name(&self.of).ok_or_else(|| format!("unknown column `{}`", self.of))?;
        let key = |name: &String| GroupKey::from_name(name).ok_or_else(|| format!("unknown key `{name}`"));
        Ok(AggregateSpec { of, group_by: self.group_by.iter().map(key).collect::<Result<_, _>>()? })
    }
}

impl EntryRecord {
    fn new(entry: &Entry) -> Self {
        let outcome = match entry.outcome.clone() {
            Outcome::Served(Served { node, attempt, version, rows_matched, rows_taken }) => {
                OutcomeRecord::Served {
                    node,
                    attempt,
                    version: version.to_string(),
                    rows_matched,
                    rows_taken,
                }
            }
            Outcome::Pruned { by, version } => OutcomeRecord::Pruned { by, version: version.to_string() },
            Outcome::NoData { node } => OutcomeRecord::NoData { node },
            Outcome::BeyondLimit => OutcomeRecord::BeyondLimit,
            Outcome::Missing { why, nodes_tried } => OutcomeRecord::Missing { why, nodes_tried },
        };
        EntryRecord { day: entry.day.to_string(), team: entry.team.to_string(), outcome }
    }

    fn value(&self) -> Result<Entry, String> {
        let outcome = match self.outcome.clone() {
            OutcomeRecord::Served { node, attempt, version, rows_matched, rows_taken } => {
                Outcome::Served(Served {
                    node,
                    attempt,
                    version: parsed(&version)?,
                    rows_matched,
                    rows_taken,
                })
            }
            OutcomeRecord::Pruned { by, version } => Outcome::Pruned { by, version: parsed(&version)? },
            OutcomeRecord::NoData { node } => Outcome::NoData { node },
            OutcomeRecord::BeyondLimit => Outcome::BeyondLimit,
            OutcomeRecord::Missing { why, nodes_tried } => Outcome::Missing { why, nodes_tried },
        };
        Ok(Entry { day: parsed(&self.day)?, team: Arc::from(self.team.as_str()), outcome })
    }
}
