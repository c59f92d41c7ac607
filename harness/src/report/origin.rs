//! What a figure is cited with.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// What repeats a figure: the commit, the seed and the machine, as far as each matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Of the harness, and so of the nodes that it starts; in a release build of a checkout with the commit.
    pub version: &'static str,
    /// What decided the run, where anything did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Where it ran; `None` in virtual time, where that does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
}

/// A machine as far as a program knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Threads that can run at once.
    pub cores: usize,
    /// Such as `x86_64`.
    pub architecture: &'static str,
    /// Such as `linux`.
    pub system: &'static str,
}

impl Origin {
    /// Of what is measured here and now.
    pub fn measured() -> Self {
        let machine = Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH,
            system: std::env::consts::OS,
        };
        Origin { version: overlay::VERSION, seed: None, machine: Some(machine) }
    }

    /// Of what is computed in virtual time, the same everywhere.
    pub fn computed() -> Self {
        Origin { version: overlay::VERSION, seed: None, machine: None }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "overlay-harness {}", self.version)?;
        if let Some(seed) = self.seed {
            write!(f, ", seed {seed}")?;
        }
        if let Some(Machine { cores, architecture, system }) = &self.machine {
            write!(f, ", {cores} cores, {architecture}, {system}")?;
        }
        Ok(())
    }
}
