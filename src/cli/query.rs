//! `overlay query`: asks, reads chunk by chunk, writes rows as they come.
//!
//! Standard output carries rows and nothing else; what there is to say goes to standard error. The next
//! chunk is read while one is written; nothing is read beyond that.

mod notes;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::node::Signals;
use super::output::{self, Format, Output, RowWriter};
use super::proof::{FrameRecord, Proof};
use super::query_args::{QueryArgs, failure};
use super::{Failure, runtime};
use crate::client::{CheckedChunk, Client, ClientError, QueryResult};
use crate::coverage::{Entry, Outcome};
use crate::plan::Query;

/// Rows that a terminal gets when no word says how many.
const TERMINAL_ROWS: u64 = 2000;

/// Ask a query and write its rows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay query PM2.5 5 35
  overlay query PM2.5 5 35 --format csv --output pm25.csv
  overlay query OZONE 70 --from 20200815 --to 20200820 --bbox -124.5,32,-114,42 | jq .site_name
  overlay query PM2.5 17.3 17.3 --search yosemite
  overlay query --aggregate aqi --by day,parameter --format csv
  overlay query PM2.5 5 35 --all --proof pm25.proof.json > pm25.ndjson

A terminal gets the first 2,000 rows unless --limit or --all says otherwise, and is told when there are
more; a pipe and a file get all. An aggregate is never cut by itself. With --partial, days that nobody could
answer for are named on standard error, and the exit code is 0. What --output and --proof name appears when it is
whole. Every result is checked against its proof before its rows are written.")]
pub(crate) struct QueryCommand {
    #[command(flatten)]
    query: QueryArgs,
    /// How rows are written (default: by the name of --output, table on a terminal, ndjson else)
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
        let default_limit = if on_terminal { Some(TERMINAL_ROWS) } else { None };
        let mut query = self.query.query(format.encoding(), default_limit)?;
        if query.aggregate.is_some() && !self.query.has_limit() {
            query.limit = None;
        }
        runtime()?.block_on(async {
            let client = self.query.client()?;
            // Only a file has a half to take away; and a signal could not end a write that a pager blocks.
            let interrupted = async {
                match &self.output {
                    Some(_) => Signals::new()?.recv().await,
                    None => std::future::pending().await,
                }
                std::io::Result::Ok(())
            };
            tokio::select! {
                done = self.ask(&client, &query, format, on_terminal) => done,
                interrupted = interrupted => {
                    interrupted?;
                    Err(Failure::from("interrupted: no file was written"))
                }
            }
        })
    }

    fn format(&self, on_terminal: bool) -> Result<Format, Failure> {
        let extension = self.output.as_deref().and_then(Path::extension).and_then(|text| text.to_str());
        let by_name = extension.and_then(Format::of_extension);
        let by_place = if on_terminal { Format::Table } else { Format::Ndjson };
        let format = self.format.or(by_name).unwrap_or(by_place);
        if format == Format::Arrow && on_terminal {
            let help = "send it to a pipe, or to a file with --output FILE";
            return Err(Failure::usage("an Arrow stream is binary: a terminal cannot show it", help));
        }
        Ok(format)
    }

    async fn ask(
        &self,
        client: &Client,
        query: &Query,
        format: Format,
        on_terminal: bool,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let result = client.query(query).await.map_err(failure)?;
        let mut proof = self.proof.is_some().then(|| Proof::new(client.address(), query, &result));
        let ledger = result.ledger.clone();
        let (rows, chunks) = (result.manifest.total_records, result.chunk_count());
        let out = Output::new(self.output.as_deref())?;
        let width = on_terminal.then(output::terminal_width).flatten();
        let mut writer =
            RowWriter::start(format, out, output::columns(query), &result.arrow_schema(), width)?;
        let bar = progress(rows, !on_terminal);
        let mut nodes: BTreeSet<String> = served_by(&ledger).collect();
        let mut incoming = read_ahead(client.clone(), result);
        while let Some(chunk) = incoming.recv().await {
            let chunk = chunk.map_err(failure)?;
            for frame in &chunk.frames {
                writer.frame(&frame.payload).map_err(|error| self.unwritten(error))?;
                // A frame of groups is put together by the node that was asked.
                if frame.day.is_some() {
                    nodes.insert(frame.node.to_string());
                }
                bar.inc(u64::from(frame.rows));
                if let Some(proof) = &mut proof {
                    proof.frames.push(FrameRecord::new(chunk.index, frame));
                }
            }
        }
        writer.finish().and_then(Output::finish).map_err(|error| self.unwritten(error))?;
        if let (Some(proof), Some(name)) = (proof, &self.proof) {
            proof.write(name)?;
        }
        bar.finish_and_clear();
        for note in notes::notes(query, &ledger, rows, self.query.has_limit()) {
            eprintln!("{note}");
        }
        if std::io::stderr().is_terminal() {
            eprintln!("{}", notes::summary(rows, chunks, started.elapsed(), query, &nodes));
        }
        Ok(())
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

/// The chunks of a result in order: one is on its way while another one waits.
fn read_ahead(client: Client, mut result: QueryResult) -> mpsc::Receiver<Result<CheckedChunk, ClientError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for index in 0..result.chunk_count() {
            let chunk = client.chunk_or_resume(&mut result, index).await;
            let failed = chunk.is_err();
            // Nobody receives any more when the output could not be written.
            if sender.send(chunk).await.is_err() || failed {
                break;
            }
        }
    });
    receiver
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

fn served_by(ledger: &[Entry]) -> impl Iterator<Item = String> {
    ledger.iter().filter_map(|entry| match &entry.outcome {
        Outcome::Served(served) if served.rows_matched > 0 => Some(served.node.clone()),
        _ => None,
    })
}
