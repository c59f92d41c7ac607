//! `overlay man`: the manual pages of all commands.

use std::path::PathBuf;

use clap::Args;

use super::Failure;

/// Write the manual pages of all commands into a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  overlay man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// The folder; it is made if it is not there
    folder: PathBuf,
}

impl Man {
    /// Writes the pages of `command`, which is all of `overlay`.
    pub(crate) fn run(self, command: clap::Command) -> Result<(), Failure> {
        let refused = |error: std::io::Error| format!("cannot write to `{}`: {error}", self.folder.display());
        std::fs::create_dir_all(&self.folder).map_err(refused)?;
        Ok(clap_mangen::generate_to(command, &self.folder).map_err(refused)?)
    }
}
