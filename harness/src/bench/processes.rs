//! A node's start.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tonic::codegen::http::uri::PathAndQuery;

use super::BenchError;
use super::raw::RawClient;
use crate::cluster::{ClusterError, RunningNode};
use crate::scratch;

/// Whose start is measured: a node that has days to load.
const NODE: &str = "F";

/// How long a node may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// From starting a node's process to its first answer to the question how it is, be it that it still loads.
///
/// # Errors
/// [`ClusterError::Process`] with what the node wrote to standard error, if it does not answer.
pub(super) async fn until_healthy(
    binary: &Path,
    config: &Path,
    dataset_root: &Path,
) -> Result<Duration, BenchError> {
    let folder = scratch::folder()?;
    let arguments = [
        OsString::from("--bind"),
        "127.0.0.1:0".into(),
        "--config".into(),
        config.into(),
        "--dataset-root".into(),
        dataset_root.into(),
    ];
    let began = Instant::now();
    let mut node = RunningNode::spawn(binary, NODE, arguments, folder.path())?;
    let silent = |node: &RunningNode, what: String| ClusterError::Process {
        id: NODE.to_owned(),
        what: format!("did not say how it is: {what}"),
        log: node.log(),
    };
    let Some(listening) = node.next_line(ANSWERS_WITHIN)? else {
        let ended = node.wait(ANSWERS_WITHIN)?;
        return Err(silent(&node, format!("it ended with {ended}")).into());
    };
    let address = listening["address"].as_str().and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| silent(&node, format!("it listens nowhere: {listening}")))?;
    match timeout(ANSWERS_WITHIN, health(address)).await {
        Ok(Ok(())) => Ok(began.elapsed()),
        Ok(Err(error)) => Err(silent(&node, error.to_string()).into()),
        Err(_) => Err(silent(&node, format!("no answer within {ANSWERS_WITHIN:?}")).into()),
    }
}

async fn health(address: SocketAddr) -> Result<(), BenchError> {
    let mut client = RawClient::connect(address).await?;
    // A request for the health of the whole node has no bytes.
    client.unary(&PathAndQuery::from_static("/grpc.health.v1.Health/Check"), Bytes::new()).await?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn node_that_does_not_start_is_named_with_what_it_wrote() {
        let folder = scratch::folder().unwrap();
        // The interpreter takes `node` for its script, which is not there.
        let started = until_healthy(Path::new("/bin/sh"), folder.path(), folder.path()).await;
        let error = started.unwrap_err().to_string();
        assert!(error.starts_with("node `F` did not say how it is: it ended with exit status: "), "{error}");
        assert!(error.contains("node"), "{error}");
    }
}
