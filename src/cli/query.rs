//! `overlay query`: asks, reads chunk by chunk, writes rows as they come.
//!
//! Standard output carries rows and nothing else; what there is to say goes to standard error. The next
//! chunk is read while one is written; nothing is read beyond that. Writing has a thread of its own, so that
//! a pipe that nobody reads keeps no signal from ending the query.

mod notes;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::node::Signals;
use super::output::{self, Format, Output, RowWriter};
use super::proof::{FrameRecord, Proof};
use super::query_args::{QueryArgs, failure};
use super::{Failure, runtime, tell};
use crate::client::{CheckedChunk, Client, QueryResult};
use crate::coverage::{Entry, Outcome};
use crate::plan::Query;
use crate::trace;

/// Rows that a terminal gets when no word says how many.
const TERMINAL_ROWS: u64 = 2000;

/// How long the end may take when a result is given up: a word to the node, and a file to take away.
const GIVE_UP_WITHIN: Duration = Duration::from_millis(500);

/// Why nothing, or not everything, was written after a signal.
const INTERRUPTED: &str = "interrupted";

/// Ask a query and write its rows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay query PM2.5 5 35
  overlay query PM2.5 5 35 --format csv --output pm25.csv
  overlay query OZONE 70 --from 20200815 --to 20200820 --bbox -124.5,32,-114,42 | jq .site_name
  overlay query PM2.5 17.3 17.3 --search yosemite
  overlay query --aggregate aqi --by day,parameter --format csv
  overlay query OZONE --output ozone.parquet
  overlay query PM2.5 5 35 --all --proof pm25.proof.json > pm25.ndjson

A terminal gets the first 2,000 rows unless --limit or --all says otherwise, and is told when there are \
more; a pipe and a file get all. An aggregate is never cut by itself. With --partial, days that nobody could \
answer for are named on standard error, and the exit code is 0. What --output and --proof name appears when it is \
whole. Every result is checked against its proof before its rows are written.")]
pub(crate) struct QueryCommand {
    #[command(flatten)]
    query: QueryArgs,
    /// How rows are written (default: by the ending of --output, table on a terminal, ndjson else)
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a file, which appears when it is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the proof too, for `overlay check-proof`
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

impl QueryCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let on_terminal = self.output.is_none() && output::stdout_is_terminal();
        let format = self.format(on_terminal)?;
        for name in self.output.iter().chain(&self.proof) {
            check_folder(name)?;
        }
        let default_limit = if on_terminal { Some(TERMINAL_ROWS) } else { None };
        let mut query = self.query.query(format.encoding(), default_limit)?;
        if query.aggregate.is_some() && !self.query.has_limit() {
            query.limit = None;
        }
        let runtime = runtime()?;
        let asking = trace::command("overlay query", self.ask(&query, format, on_terminal));
        let asked = runtime.block_on(asking);
        // What a pipe blocks is not waited for.
        runtime.shutdown_background();
        asked
    }

    fn format(&self, on_terminal: bool) -> Result<Format, Failure> {
        let by_place = if on_terminal { Format::Table } else { Format::Ndjson };
        let format = match (self.format, &self.output) {
            (Some(format), _) => format,
            (None, Some(name)) => by_name(name)?.unwrap_or(by_place),
            (None, None) => by_place,
        };
        let binary = match format {
            Format::Arrow => "an Arrow stream",
            Format::Parquet => "a Parquet file",
            _ => return Ok(format),
        };
        if on_terminal {
            let help = "send it to a pipe, or to a file with --output FILE";
            return Err(Failure::usage(format!("{binary} is binary: a terminal cannot show it"), help));
        }
        Ok(format)
    }

    async fn ask(&self, query: &Query, format: Format, on_terminal: bool) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let started = Instant::now();
        let client = self.query.client()?;
        let mut result = tokio::select! {
            result = client.query(query) => result.map_err(|error| self.query.failure(error))?,
            () = signals.recv() => return Err(Failure::from(INTERRUPTED)),
        };
        let rows = Rows {
            format,
            output: self.output.clone(),
            columns: output::columns(query),
            schema: result.arrow_schema(),
            width: on_terminal.then(output::terminal_width).flatten(),
            chunks: result.chunk_count(),
        };
        let (sender, chunks) = mpsc::channel(1);
        let mut writing = tokio::task::spawn_blocking(move || rows.write(chunks));
        let bar = progress(result.manifest.total_records, !on_terminal);
        let delivered = tokio::select! {
            delivered = self.deliver(&client, query, &mut result, sender, &mut writing, &bar) => delivered,
            () = signals.recv() => Err(Failure::from(INTERRUPTED)),
        };
        bar.finish_and_clear();
        let nodes = match delivered {
            Ok(nodes) => nodes,
            Err(failure) => {
                give_up(&client, &result, writing).await;
                return Err(failure);
            }
        };
        let rows = result.manifest.total_records;
        if of_one_team(&result.ledger)
            && let Ok(node) = client.metrics().await
            && let Some(note) = notes::own_team(&node, query)
        {
            tell(note);
        }
        for note in notes::notes(query, &result.ledger, rows, self.query.has_limit()) {
            tell(note);
        }
        if std::io::stderr().is_terminal() {
            tell(notes::summary(rows, result.chunk_count(), started.elapsed(), query, &nodes));
        }
        Ok(())
    }

    /// Reads the chunks in order, hands them to whoever writes, and writes the proof behind them.
    ///
    /// Gives the nodes that rows came from.
    async fn deliver(
        &self,
        client: &Client,
        query: &Query,
        result: &mut QueryResult,
        chunks: mpsc::Sender<CheckedChunk>,
        writing: &mut JoinHandle<std::io::Result<()>>,
        bar: &ProgressBar,
    ) -> Result<BTreeSet<String>, Failure> {
        let mut proof = self.proof.as_ref().map(|name| (Proof::new(client.address(), query, result), name));
        let mut nodes: BTreeSet<String> = served_by(&result.ledger).collect();
        for index in 0..result.chunk_count() {
            let chunk = client.chunk_or_resume(result, index).await.map_err(|error| failure(error, false))?;
            for frame in &chunk.frames {
                // A frame of groups is put together by the node that was asked.
                if frame.day.is_some() {
                    nodes.insert(frame.node.to_string());
                }
                bar.inc(u64::from(frame.rows));
                if let Some((proof, _)) = &mut proof {
                    proof.frames.push(FrameRecord::new(index, frame));
                }
            }
            // Nobody receives any more when the output could not be written.
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        writing.await?.map_err(|error| self.unwritten(error))?;
        if let Some((proof, name)) = proof {
            let name = name.clone();
            tokio::task::spawn_blocking(move || proof.write(&name)).await??;
        }
        Ok(nodes)
    }

    /// A reader that has seen enough ends a query in silence, unless a proof was to be written.
    fn unwritten(&self, error: std::io::Error) -> Failure {
        match (&self.proof, error.kind()) {
            (Some(_), std::io::ErrorKind::BrokenPipe) => Failure::with_help(
                "no proof written: the reader of standard output went away before the last row",
                "write the rows to a file with --output FILE",
            ),
            _ => Failure::from(error),
        }
    }
}

/// The format that a file's name asks for; `None` if it has no ending.
///
/// Another ending than those that are known is refused: whoever writes `rows.xlsx` does not expect JSON in it.
fn by_name(name: &Path) -> Result<Option<Format>, Failure> {
    let Some(ending) = name.extension().map(|ending| ending.to_string_lossy()) else { return Ok(None) };
    let format = Format::of_ending(&ending).ok_or_else(|| {
        let endings = Format::ENDINGS.map(|(ending, _)| ending).join(", ");
        let error = format!("unknown ending `{ending}` of `{}` (endings: {endings})", name.display());
        Failure::usage(error, "name the format with --format; then any name will do")
    });
    format.map(Some)
}

/// Refuses a file in a folder that does not exist before anything is asked.
fn check_folder(name: &Path) -> Result<(), Failure> {
    match name.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let error = format!(
                "cannot write `{}`: `{}` is not a folder that exists",
                name.display(),
                folder.display()
            );
            Err(Failure::usage(error, "make the folder, or choose another file"))
        }
        _ => Ok(()),
    }
}

/// Says that nobody reads the result any more, and lets a half-written file be taken away.
async fn give_up(client: &Client, result: &QueryResult, writing: JoinHandle<std::io::Result<()>>) {
    let taken_away = async {
        if !writing.is_finished() {
            let _ = writing.await;
        }
    };
    let _ =
        tokio::time::timeout(GIVE_UP_WITHIN, async { tokio::join!(client.cancel(result), taken_away) }).await;
}

/// What the rows of a result become, and where.
struct Rows {
    format: Format,
    output: Option<PathBuf>,
    columns: Vec<String>,
    schema: Bytes,
    width: Option<u16>,
    chunks: u32,
}

impl Rows {
    /// Writes all chunks; a file shows up only then. Blocks where its reader does.
    fn write(self, mut chunks: mpsc::Receiver<CheckedChunk>) -> std::io::Result<()> {
        let out = Output::new(self.output.as_deref())?;
        let mut writer = RowWriter::start(self.format, out, self.columns, &self.schema, self.width)?;
        for _ in 0..self.chunks {
            let Some(chunk) = chunks.blocking_recv() else {
                return Err(std::io::ErrorKind::Interrupted.into());
            };
            for frame in &chunk.frames {
                writer.frame(&frame.payload)?;
            }
        }
        writer.finish().and_then(Output::finish)
    }
}

/// A bar on standard error, which shows itself only on a terminal.
fn progress(rows: u64, wanted: bool) -> ProgressBar {
    if !wanted {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} rows  {elapsed} (left: {eta})");
    let bar = ProgressBar::new(rows);
    bar.set_style(style.expect("the template is right"));
    bar
}

/// Whether a ledger has days of one team at most, as that of a node other than the leader.
fn of_one_team(ledger: &[Entry]) -> bool {
    ledger.windows(2).all(|pair| pair[0].team == pair[1].team)
}

fn served_by(ledger: &[Entry]) -> impl Iterator<Item = String> {
    ledger.iter().filter_map(|entry| match &entry.outcome {
        Outcome::Served(served) if served.rows_matched > 0 => Some(served.node.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        command: QueryCommand,
    }

    fn format(words: &str, on_terminal: bool) -> Result<Format, Failure> {
        let words = Words::parse_from(["query"].into_iter().chain(words.split_whitespace()));
        words.command.format(on_terminal)
    }

    #[test]
    fn what_is_binary_is_refused_on_a_terminal_alone() {
        for binary in ["--format arrow", "--format parquet"] {
            assert!(matches!(format(binary, true), Err(Failure::Usage { .. })), "{binary}");
            assert!(format(binary, false).is_ok(), "{binary}");
        }
        assert!(matches!(format("", true), Ok(Format::Table)));
    }

    #[test]
    fn readme_has_every_word_beside_those_of_others() {
        let names = crate::readme("### Names side by side");
        let command = <QueryCommand as Args>::augment_args(clap::Command::new("query"));
        for word in command.get_arguments() {
            let name = match word.get_long() {
                Some(long) => format!("`--{long}`"),
                None => format!("`{}`", word.get_value_names().unwrap()[0]),
            };
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn ending_decides_unless_the_format_is_named() {
        for (words, expected) in [
            ("--output rows.CSV", Format::Csv),
            ("--output rows.jsonl", Format::Ndjson),
            ("--output rows", Format::Ndjson),
            ("--output rows.csv --format parquet", Format::Parquet),
            ("--output rows.xlsx --format json", Format::Json),
        ] {
            assert!(format(words, false).is_ok_and(|format| format == expected), "{words}");
        }
        let Err(Failure::Usage { error, help }) = format("--output pm2.5.xlsx", false) else {
            panic!("an ending that is not known is refused");
        };
        assert_eq!(
            error.to_string(),
            "unknown ending `xlsx` of `pm2.5.xlsx` (endings: json, ndjson, jsonl, csv, arrow, arrows, parquet)"
        );
        assert!(help.is_some_and(|help| help.contains("--format")));
    }
}
