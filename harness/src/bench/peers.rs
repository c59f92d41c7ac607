//! DuckDB and Polars over the same files, inside a Python process that does what it is told, line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use super::BenchError;

/// The process. Dropping it ends it.
pub(super) struct Peers {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// DuckDB's and Polars' versions.
    pub(super) versions: [String; 2],
}

#[derive(Deserialize)]
struct Ready {
    duckdb: String,
    polars: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Done { ms: f64, rows: u64 },
    Failed { error: String },
}

impl Peers {
    /// Starts it with a Python that has both, and waits until both have their data.
    pub(super) fn start(python: &Path, dataset_root: &Path) -> Result<Self, BenchError> {
        let program: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/compare_peers.py");
        let mut child = Command::new(python)
            .arg(program)
            .arg("--dataset-root")
            .arg(dataset_root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::Io)?;
        let (Some(commands), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let versions = Default::default();
        let mut peers = Peers { child, commands, answers: BufReader::new(answers), versions };
        let ready: Ready = peers.answer()?;
        peers.versions = [ready.duckdb, ready.polars];
        Ok(peers)
    }

    /// Milliseconds that one system takes for one work, and rows that came of it.
    pub(super) fn measure(&mut self, work: &str, system: &str) -> Result<(f64, u64), BenchError> {
        writeln!(self.commands, "{work} {system}").map_err(BenchError::Io)?;
        match self.answer()? {
            Answer::Done { ms, rows } => Ok((ms, rows)),
            Answer::Failed { error } => Err(BenchError::Peers(error)),
        }
    }

    fn answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(BenchError::Io)?;
        serde_json::from_str(&line).map_err(|_| match line.is_empty() {
            true => BenchError::Peers("the process ended: see what it wrote above".to_owned()),
            false => BenchError::Peers(format!("cannot understand `{}`", line.trim_end())),
        })
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It is gone already, or this ends it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
