//! Which driver runs a test body, and whether this machine has what it takes.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use futures::FutureExt;
use tokio::runtime::Builder;

#[cfg(target_os = "linux")]
use super::NetnsCluster;
use super::{Cluster, ClusterError, ClusterSpec, InProcessCluster, ProcessCluster, SimCluster};

/// A way to run an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Tasks of this process, over TCP on loopback.
    InProcess,
    /// Processes, over TCP on loopback.
    Processes {
        /// Takes the arguments of `overlay`; tests of this package have it as `CARGO_BIN_EXE_overlay-node`.
        binary: PathBuf,
    },
    /// Processes on two hosts, which are network namespaces.
    #[cfg(target_os = "linux")]
    Namespaces {
        /// As for [`Driver::Processes`].
        binary: PathBuf,
    },
    /// One thread, virtual time, a network that a seed decides.
    Simulated {
        /// Decides latencies, losses and the nodes' random bits.
        seed: u64,
    },
}

impl Driver {
    /// Why this machine cannot run it; `None` if it can.
    pub fn unavailable(&self) -> Option<String> {
        match self {
            Driver::Processes { .. } if cfg!(not(unix)) => Some("processes are told by signals".to_owned()),
            #[cfg(target_os = "linux")]
            Driver::Namespaces { .. } => NetnsCluster::unavailable(),
            _ => None,
        }
    }

    /// Starts an overlay in a runtime of its own, runs a test body over it, and ends it.
    ///
    /// If the body panics, what every node says of itself is printed before the panic goes on.
    ///
    /// # Errors
    /// [`ClusterError`] if the overlay does not start; what the body does is the body's.
    pub fn run<T>(
        &self,
        spec: ClusterSpec,
        body: impl AsyncFnOnce(&mut dyn Cluster) -> T,
    ) -> Result<T, ClusterError> {
        let runtime = match self {
            Driver::Simulated { .. } => {
                Builder::new_current_thread().enable_time().start_paused(true).build()
            }
            _ => Builder::new_multi_thread().enable_all().build(),
        };
        let runtime = runtime.map_err(super::io_error("start a runtime"))?;
        runtime.block_on(async {
            match self {
                Driver::InProcess => {
                    let mut cluster = InProcessCluster::start(spec).await?;
                    Ok(watched(&mut cluster, async |cluster| body(cluster).await).await)
                }
                Driver::Processes { binary } => {
                    let mut cluster = ProcessCluster::start(binary, spec)?;
                    Ok(watched(&mut cluster, async |cluster| body(cluster).await).await)
                }
                #[cfg(target_os = "linux")]
                Driver::Namespaces { binary } => {
                    let mut cluster = NetnsCluster::start(binary, spec)?;
                    Ok(watched(&mut cluster, async |cluster| body(cluster).await).await)
                }
                Driver::Simulated { seed } => {
                    let mut cluster = SimCluster::start(*seed, spec).await?;
                    Ok(watched(&mut cluster, async |cluster| body(cluster).await).await)
                }
            }
        })
    }
}

/// Runs a test body over an overlay; for what only one driver's can be asked, which [`Driver::run`] hides.
///
/// If the body panics, what every node says of itself is printed before the panic goes on.
pub async fn watched<C: Cluster, T>(cluster: &mut C, body: impl AsyncFnOnce(&mut C) -> T) -> T {
    match AssertUnwindSafe(body(cluster)).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            let cluster: &dyn Cluster = cluster;
            eprintln!("  driver     {}\n  topology   {}", cluster.driver(), cluster.topology());
            eprintln!("  nodes\n{}", cluster.dump().await);
            std::panic::resume_unwind(panic)
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Driver::InProcess => write!(formatter, "in-process"),
            Driver::Processes { .. } => write!(formatter, "processes"),
            #[cfg(target_os = "linux")]
            Driver::Namespaces { .. } => write!(formatter, "namespaces"),
            Driver::Simulated { seed } => write!(formatter, "simulated, seed {seed:#x}"),
        }
    }
}
