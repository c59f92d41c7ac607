//! DuckDB and Polars over the same files, inside a Python process that does what it is told, line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::figures::Measure;
use super::{BenchError, Found, THREADS};

/// How long a work may take, far more than any does.
const ANSWERS_WITHIN: Duration = Duration::from_secs(300);

/// The process. Dropping it ends it.
pub(super) struct Peers {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    within: Duration,
}

/// What it says when both have their data.
#[derive(Deserialize)]
struct Ready {
    duckdb: String,
    polars: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Done {
        ms: f64,
        #[serde(flatten)]
        found: Found,
    },
    Failed {
        error: String,
    },
}

/// What the process is told for a figure; `None`: it is no figure of its.
pub(super) fn command(measure: Measure) -> Option<&'static str> {
    match measure {
        Measure::DuckDbFilter => Some("filter_arrow duckdb"),
        Measure::PolarsFilter => Some("filter_arrow polars"),
        Measure::DuckDbJson => Some("filter_json duckdb"),
        Measure::PolarsJson => Some("filter_json polars"),
        Measure::DuckDbAggregate => Some("aggregate duckdb"),
        Measure::PolarsAggregate => Some("aggregate polars"),
        Measure::DuckDbLoad => Some("load duckdb"),
        Measure::PolarsLoad => Some("load polars"),
        _ => None,
    }
}

impl Peers {
    /// Starts it with a Python that has both, and waits until both have their data; gives their versions too.
    pub(super) fn start(python: &Path, dataset_root: &Path) -> Result<(Self, [String; 2]), BenchError> {
        let threads = THREADS.to_string();
        let mut command = Command::new(python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/compare_peers.py"))
            .arg("--dataset-root")
            .arg(dataset_root)
            .args(["--threads", &threads])
            .env("POLARS_MAX_THREADS", &threads);
        let peers = Self::spawn(command, ANSWERS_WITHIN)?;
        let Ready { duckdb, polars } = peers.answer()?;
        Ok((peers, [duckdb, polars]))
    }

    fn spawn(mut command: Command, within: Duration) -> Result<Self, BenchError> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(commands), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let (send, answers) = channel();
        std::thread::spawn(move || {
            // Whoever does not listen any more needs no lines.
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Ok(Peers { child, commands, answers, within })
    }

    /// Milliseconds that a work takes, and what came of it.
    pub(super) fn measure(&mut self, command: &str) -> Result<(f64, Found), BenchError> {
        writeln!(self.commands, "{command}")?;
        match self.answer()? {
            Answer::Done { ms, found } => Ok((ms, found)),
            Answer::Failed { error } => Err(BenchError::Peers(error)),
        }
    }

    fn answer<T: DeserializeOwned>(&self) -> Result<T, BenchError> {
        let failed = |what: String| Err(BenchError::Peers(what));
        match self.answers.recv_timeout(self.within) {
            Ok(line) => {
                serde_json::from_str(&line).or_else(|_| failed(format!("cannot understand `{line}`")))
            }
            Err(RecvTimeoutError::Disconnected) => {
                failed("the process ended: see what it wrote above".to_owned())
            }
            Err(RecvTimeoutError::Timeout) => failed(format!("no answer within {:?}", self.within)),
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It is gone already, or this ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn answer_of(script: &str, within: Duration) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let peers = Peers::spawn(command, within).expect("there is a shell");
        match peers.answer::<Answer>() {
            Ok(Answer::Done { ms, found }) => format!("{ms} {found}"),
            Ok(Answer::Failed { error }) => error,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn process_that_hangs_or_ends_is_an_error() {
        let hung = answer_of("exec sleep 60", Duration::from_millis(50));
        assert_eq!(hung, "DuckDB and Polars: no answer within 50ms");
        let ended = answer_of("exit 1", ANSWERS_WITHIN);
        assert_eq!(ended, "DuckDB and Polars: the process ended: see what it wrote above");
    }

    #[test]
    fn answers_are_rows_means_and_errors() {
        let answer = |line: &str| answer_of(&format!("echo '{line}'"), ANSWERS_WITHIN);
        let means = answer(r#"{"ms": 1.5, "rows": 7, "mean_sum": 2.5}"#);
        assert_eq!(means, "1.5 7 rows whose means add up to 2.5");
        assert_eq!(answer(r#"{"ms": 1.5, "rows": 7, "mean_sum": null}"#), "1.5 7 rows");
        assert_eq!(answer(r#"{"error": "no work"}"#), "no work");
    }
}
