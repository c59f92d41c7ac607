//! A node's start.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::uri::PathAndQuery;

use super::BenchError;
use super::raw::RawClient;

/// Whose start is measured: a node that has days to load.
const NODE: &str = "F";

/// How long a node may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The first line that a node writes.
#[derive(Deserialize)]
struct Listening {
    address: std::net::SocketAddr,
}

/// From starting a node's process to its first answer to the question how it is, be it that it still loads.
pub(super) async fn until_healthy(
    binary: &Path,
    config: &Path,
    dataset_root: &Path,
) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut node = Command::new(binary)
        .args(["node", "--id", NODE, "--bind", "127.0.0.1:0", "--config"])
        .arg(config)
        .arg("--dataset-root")
        .arg(dataset_root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let answered = async {
        let stdout = node.stdout.take().expect("it is a pipe");
        let line = BufReader::new(stdout).lines().next_line().await?.unwrap_or_default();
        let listening: Listening = serde_json::from_str(&line).map_err(std::io::Error::from)?;
        let mut client = RawClient::connect(listening.address).await?;
        // A request for the health of the whole node has no bytes.
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        client.unary(&path, Bytes::new()).await?;
        Ok(began.elapsed())
    };
    let took = timeout(ANSWERS_WITHIN, answered).await.unwrap_or(Err(BenchError::NoStart(ANSWERS_WITHIN)));
    node.kill().await?;
    took
}
