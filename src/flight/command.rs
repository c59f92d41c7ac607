//! Commands: a query as a JSON object. Unlike in the old contract an unknown key is an error, and without a limit all rows come.

use crate::config::Limits;
use crate::error::shown;
use crate::frame::Encoding;
use crate::params::Params;
use crate::plan::{ChunkingChoice, InvalidQuery, Query, STREAMED_CHUNK_ROWS};
use crate::service::requests;

/// What errors call the JSON text.
const COMMAND: &str = "command";

/// The keys of a command.
const KEYS: [&str; 19] = [
    "parameter",
    "min_value",
    "max_value",
    "date_start",
    "date_end",
    "lat_min",
    "lat_max",
    "lon_min",
    "lon_max",
    "team",
    "site",
    "agency",
    "text",
    "of",
    "group_by",
    "limit",
    "chunk_rows",
    "allow_partial",
    "client_id",
];

/// A query, and the name that the client gives itself.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) query: Query,
    pub(super) client_id: String,
}

impl Command {
    /// # Errors
    /// [`InvalidQuery`] that names the key, or the keys that there are.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, InvalidQuery> {
        let mut params = params(COMMAND, bytes, limits)?;
        let client_id = params.text("client_id")?.unwrap_or_default();
        requests::id("client_id", &client_id)?;
        let text = params.text("text")?;
        let is_aggregate = params.has("of") || params.has("group_by");
        let aggregate = params.aggregate()?;
        let query = Query {
            predicate: params.predicate(text.as_deref())?,
            limit: params.count("limit")?,
            aggregate: is_aggregate.then_some(aggregate),
            encoding: Encoding::Arrow,
            chunking: ChunkingChoice {
                chunk_rows: Some(chunk_rows(&mut params)?),
                ..ChunkingChoice::default()
            },
            allow_partial: params.flag("allow_partial")?,
            ..days(&mut params)?
        };
        refuse_unknown(COMMAND, params, &KEYS)?;
        Ok(Command { query, client_id })
    }
}

/// Which flights are listed: those of some days, or of one team. No criteria: all.
///
/// # Errors
/// As of [`Command::parse`].
pub(super) fn criteria(bytes: &[u8], limits: &Limits) -> Result<Query, InvalidQuery> {
    let mut params = params("criteria", bytes, limits)?;
    let query = days(&mut params)?;
    refuse_unknown("criteria", params, &["date_start", "date_end", "team"])?;
    Ok(query)
}

fn params(field: &'static str, bytes: &[u8], limits: &Limits) -> Result<Params, InvalidQuery> {
    let (found, most) = (bytes.len(), limits.filter_bytes);
    if found > most {
        let why = format!("{field} has {found} bytes, limit {most} (limits.filter_bytes)");
        return Err(InvalidQuery::new(field, why));
    }
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| InvalidQuery::new(field, format!("{field} is not text: {error}")))?;
    Params::parse(field, text)
}

fn days(params: &mut Params) -> Result<Query, InvalidQuery> {
    let (date_start, date_end) = (params.day("date_start")?, params.day("date_end")?);
    let team = params.text("team")?;
    requests::id("team", team.as_deref().unwrap_or_default())?;
    Ok(Query { date_start, date_end, team, ..Query::default() })
}

fn chunk_rows(params: &mut Params) -> Result<u32, InvalidQuery> {
    let too_many = |_| InvalidQuery::new("chunk_rows", format!("chunk_rows: must be at most {}", u32::MAX));
    params.count("chunk_rows")?.map_or(Ok(STREAMED_CHUNK_ROWS), u32::try_from).map_err(too_many)
}

fn refuse_unknown(field: &'static str, params: Params, known: &[&str]) -> Result<(), InvalidQuery> {
    match params.into_unknown().next() {
        None => Ok(()),
        Some(key) => {
            let why = format!("{field}: unknown key `{}` (keys: {})", shown(&key), known.join(", "));
            Err(InvalidQuery::new(field, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};

    fn parse(text: &str) -> Result<Command, InvalidQuery> {
        Command::parse(text.as_bytes(), &Limits::default())
    }

    fn all() -> Query {
        let chunking = ChunkingChoice { chunk_rows: Some(STREAMED_CHUNK_ROWS), ..ChunkingChoice::default() };
        Query { chunking, ..Query::default() }
    }

    #[test]
    fn command_without_a_limit_asks_for_all_rows() {
        for text in ["", "{}", r#"{"limit": null}"#] {
            assert_eq!(parse(text).unwrap().query, all(), "{text}");
        }
        assert_eq!(parse(r#"{"limit": 0}"#).unwrap().query.limit, Some(0));
    }

    #[test]
    fn column_or_keys_make_an_aggregate() {
        let by_site = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Site] };
        assert_eq!(parse(r#"{"group_by": ["site"]}"#).unwrap().query.aggregate, Some(by_site));
        let of_aqi = AggregateSpec { of: AggregateOf::Aqi, group_by: Vec::new() };
        assert_eq!(parse(r#"{"of": "aqi"}"#).unwrap().query.aggregate, Some(of_aqi));
        assert_eq!(parse(r#"{"of": null}"#).unwrap().query.aggregate, None);
    }

    #[test]
    fn every_key_that_errors_name_is_taken() {
        for key in KEYS {
            assert_eq!(parse(&format!("{{\"{key}\": null}}")).unwrap().query, all(), "{key}");
        }
    }

    #[test]
    fn readme_has_every_key_beside_those_of_others() {
        let names = crate::readme("### Names side by side");
        assert_eq!(KEYS.into_iter().find(|key| !names.contains(&format!("`{key}`"))), None);
    }

    #[test]
    fn mistakes_are_named() {
        let mistakes = [
            (r#"{"parametr": "CO"}"#, "command", "unknown key `parametr` (keys: parameter, min_value,"),
            ("[1]", "command", "must be a JSON object"),
            ("{", "command", "command is not JSON"),
            (r#"{"allow_partial": 1}"#, "allow_partial", "neither true nor false: 1"),
            (r#"{"chunk_rows": 4294967296}"#, "chunk_rows", "must be at most 4294967295"),
            (r#"{"limit": -1}"#, "limit", "limit -1: must not be negative"),
        ];
        for (text, field, why) in mistakes {
            let invalid = parse(text).unwrap_err();
            assert!(invalid.field == field && invalid.why.contains(why), "{text}: {invalid:?}");
        }
        let invalid = criteria(br#"{"parameter": "CO"}"#, &Limits::default()).unwrap_err();
        assert_eq!(invalid.why, "criteria: unknown key `parameter` (keys: date_start, date_end, team)");
        let long = format!(r#"{{"site": "{}"}}"#, "x".repeat(Limits::default().filter_bytes));
        assert!(parse(&long).unwrap_err().why.contains("limits.filter_bytes"));
    }
}
