//! The words that `query` and `explain` share, and the query that they stand for.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::credentials::CredentialArgs;
use super::unanswered::{AN_ADDRESS, Unanswered};
use super::{Failure, leader_or_default};
use crate::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use crate::client::{Client, ClientError};
use crate::config::Chunking;
use crate::day::Day;
use crate::decimal::Decimal;
use crate::frame::Encoding;
use crate::plan::{ChunkingChoice, Query};
use crate::predicate::{Place, Predicate, Words};

/// What to ask, and of whom.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// A parameter, such as PM2.5 or OZONE, in any letter case; `-`, or none: every parameter
    #[arg(value_name = "PARAMETER", value_parser = parse_parameter)]
    parameter: Option<Open<String>>,
    /// The smallest concentration, inclusive and exact; `-`: none. Without MAX: this much and more
    #[arg(value_name = "MIN", allow_negative_numbers = true, value_parser = parse_bound)]
    min: Option<Open<String>>,
    /// The largest concentration, inclusive and exact; `-`: none
    #[arg(value_name = "MAX", allow_negative_numbers = true, value_parser = parse_bound)]
    max: Option<Open<String>>,
    /// The node to ask; one that is not the leader answers for its own team [env: OVERLAY_LEADER] [default: 127.0.0.1:60051]
    #[arg(long, value_name = "HOST:PORT")]
    leader: Option<String>,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// First day
    #[arg(long, value_name = "YYYYMMDD")]
    from: Option<Day>,
    /// Last day, inclusive
    #[arg(long, value_name = "YYYYMMDD")]
    to: Option<Day>,
    /// Only sites inside these degrees
    #[arg(long, value_name = "MINLON,MINLAT,MAXLON,MAXLAT", allow_hyphen_values = true, value_parser = Place::from_bbox)]
    bbox: Option<Place>,
    /// Only days of this team
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
    /// Only sites with this in their name, in any letter case
    #[arg(long, value_name = "TEXT")]
    site: Option<String>,
    /// Only agencies with this in their name, in any letter case
    #[arg(long, value_name = "TEXT")]
    agency: Option<String>,
    /// Only rows with this in the name of site or agency, in any letter case
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The first N rows, or groups of an aggregate
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_limit)]
    limit: Option<u64>,
    /// All rows, also on a terminal
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Count, min, max and mean of a column instead of rows
    #[arg(long, value_name = "COLUMN", value_parser = column_parser())]
    aggregate: Option<AggregateOf>,
    /// Group the aggregate by these, in this order (default: one group)
    #[arg(long, value_name = "KEY,...", value_delimiter = ',', requires = "aggregate", value_parser = key_parser())]
    by: Vec<GroupKey>,
    /// How chunks are cut (default: as the node is configured)
    #[arg(long, value_name = "STRATEGY", value_parser = chunking_parser())]
    chunking: Option<Chunking>,
    /// Rows of a fixed chunk (default: as the node is configured)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunk_rows: Option<u32>,
    /// Take what there is when days cannot be reached: missing days are named on standard error
    #[arg(long)]
    partial: bool,
}

/// A bound or name that may be left open with `-`.
#[derive(Clone, Debug, PartialEq)]
struct Open<T>(Option<T>);

impl QueryArgs {
    /// The query in these words, without more than `default_limit` rows unless they say otherwise.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what no single word shows.
    pub(crate) fn query(&self, encoding: Encoding, default_limit: Option<u64>) -> Result<Query, Failure> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from > to
        {
            return Err(Failure::usage(
                format!("--from {from} is after --to {to}"),
                "both days are inclusive",
            ));
        }
        Ok(Query {
            predicate: self.predicate()?,
            date_start: self.from,
            date_end: self.to,
            team: self.team.clone(),
            limit: self.limit.or(if self.all { None } else { default_limit }),
            aggregate: self.aggregate.map(|of| AggregateSpec { of, group_by: self.by.clone() }),
            encoding,
            chunking: ChunkingChoice {
                strategy: self.chunking,
                chunk_rows: self.chunk_rows,
                chunk_bytes: None,
            },
            allow_partial: self.partial,
            ..Query::default()
        })
    }

    fn predicate(&self) -> Result<Predicate, Failure> {
        fn open(word: &Option<Open<String>>) -> Option<&str> {
            word.as_ref()?.0.as_deref()
        }
        let words = Words {
            parameter: open(&self.parameter),
            min: open(&self.min),
            max: open(&self.max),
            place: self.bbox.unwrap_or_default(),
            site: self.site.as_deref(),
            agency: self.agency.as_deref(),
            text: self.search.as_deref(),
        };
        words.resolve().map_err(|error| {
            let help = "MIN comes before MAX, `-` leaves either open; `overlay query --help` says what each word may be";
            Failure::usage(error, help)
        })
    }

    /// Whether these words choose how many rows come.
    pub(crate) fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    /// A client of the node that these words name.
    ///
    /// # Errors
    /// [`Failure::Usage`] if they name no address.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        // Each run is a client of its own: only it reads its result sets, and runs share the node in turn.
        let security = self.credentials.security()?;
        let id = format!("overlay-cli-{}", std::process::id());
        Client::secured(&security, &leader_or_default(self.leader.clone()), &id)
            .map_err(|error| self.failure(error))
    }

    /// What the error of a first request means to who typed the command.
    pub(crate) fn failure(&self, error: ClientError) -> Failure {
        failure(error, self.credentials.ask_plainly())
    }
}

/// What a client's error means to who typed the command; `asked_plainly` as in [`Unanswered::help`].
pub(crate) fn failure(error: ClientError, asked_plainly: bool) -> Failure {
    use tonic::Code;
    let ClientError::Status { status, .. } = &error else {
        return match error {
            ClientError::Address { .. } => Failure::usage(error, AN_ADDRESS),
            error => Failure::with_help(
                error,
                "nothing of this result can be trusted: report it with the node's log",
            ),
        };
    };
    let why = Unanswered::of(&error);
    if let Some(help) = why.help(asked_plainly) {
        return Failure::with_help(error, help);
    }
    match status.code() {
        _ if why != Unanswered::Other => Failure::with_help(
            error,
            "start the overlay with `overlay up`, or name a node that runs with --leader HOST:PORT",
        ),
        Code::Unavailable => Failure::with_help(
            error,
            "ask again in a moment; with --partial a query goes without days that nobody can answer for",
        ),
        Code::InvalidArgument => Failure::usage(error, "`overlay query --help` says what each word may be"),
        Code::ResourceExhausted => {
            Failure::with_help(error, "ask again later, or for fewer days, or with --limit")
        }
        Code::DataLoss => Failure::with_help(error, "the data changed while they were read: ask again"),
        _ => Failure::from(error),
    }
}

fn parse_parameter(text: &str) -> Result<Open<String>, String> {
    match text {
        "-" => Ok(Open(None)),
        _ if text.parse::<f64>().is_ok() => {
            Err("a number, and the parameter comes before MIN and MAX (`-`: every parameter)".to_owned())
        }
        _ => Ok(Open(Some(text.to_owned()))),
    }
}

fn parse_limit(text: &str) -> Result<u64, String> {
    let rows = text.parse().ok().filter(|rows| *rows > 0);
    rows.ok_or_else(|| format!("`{text}` is not a number of rows: 1 or more is expected"))
}

/// Kept as written, so that bounds can be compared as they are written.
fn parse_bound(text: &str) -> Result<Open<String>, crate::decimal::InvalidDecimal> {
    if text == "-" {
        return Ok(Open(None));
    }
    Decimal::at_least(text).map(|_| Open(Some(text.to_owned())))
}

fn column_parser() -> impl TypedValueParser<Value = AggregateOf> {
    PossibleValuesParser::new(AggregateOf::ALL.map(AggregateOf::name))
        .try_map(|name| AggregateOf::from_name(&name).ok_or("unknown column"))
}

fn key_parser() -> impl TypedValueParser<Value = GroupKey> {
    PossibleValuesParser::new(GroupKey::ALL.map(GroupKey::name))
        .try_map(|name| GroupKey::from_name(&name).ok_or("unknown key"))
}

fn chunking_parser() -> impl TypedValueParser<Value = Chunking> {
    PossibleValuesParser::new(Chunking::ALL.iter().map(|chunking| chunking.name()))
        .try_map(|name| Chunking::from_name(&name).ok_or("unknown strategy"))
}

#[cfg(test)]
mod tests;
